"""The jobs themselves, by their ids; the only place where one is made, changed or removed."""

from collections.abc import Collection, Iterable, Sequence

from tollgate.broker.core.events import JobCreated, JobTransitioned
from tollgate.broker.repository.creation import Creation
from tollgate.broker.repository.indexes import Lanes
from tollgate.broker.repository.job import Done, Slot, StoredJob, mock_identifier
from tollgate.broker.repository.texts import Texts
from tollgate.domain.exceptions import (
    InvalidStateTransitionError,
    JobConflictError,
    JobNotFoundError,
    Refusal,
    VersionConflictError,
)
from tollgate.domain.status import (
    AWAITING_INPUT,
    AWAITING_PAYMENT,
    TERMINAL,
    JobStatus,
    validate_transition,
)


class Jobs:
    """The jobs of a repository as they are held, for whoever has its lock.

    What begins with an id is here, with a status in `lanes`, with a place in `creation`.
    """

    __slots__ = ("_by_payment", "_store", "creation", "lanes", "texts")

    def __init__(self, store: dict[str, Slot]) -> None:
        """Keep jobs in `store`, which is empty, by their ids."""
        self._store = store
        self._by_payment: dict[str, str] = {}
        self.creation = Creation()
        self.lanes = Lanes()
        self.texts = Texts()

    def create_all(self, news: Sequence[JobCreated]) -> Done:
        """Store jobs in `awaiting_payment`, in order; return them, and why others were not stored.

        A job id or a supplied blockchain identifier that is a stored job's is a JobConflictError.
        """
        store, texts, index = self._store, self.texts, self.creation.next_index
        slots, done = list[Slot](), Done()
        jobs = done.jobs
        for new in news:
            job_id, at, payment, text = new.job_id, new.at, new.blockchain_identifier, new.input
            if job_id in store:
                done.refuse(_known(job_id))
                continue
            if payment is None:
                payment = mock_identifier(job_id)
            elif self._by_payment.setdefault(payment, job_id) == job_id:
                texts.gain(payment)
            else:
                done.refuse(_paid_for(self._by_payment[payment]))
                continue
            job = StoredJob(
                job_id, AWAITING_PAYMENT, new.input_hash, payment, at, at, None, None, 1, text,
                new.identifier_from_purchaser, new.pay_by_time, new.submit_result_time, None, None,
            )  # fmt: skip
            if text is not None:
                texts.gain(text)
            if job.identifier_from_purchaser is not None:
                texts.gain(job.identifier_from_purchaser)
            store[job_id] = slot = (index, job)
            index += 1
            slots.append(slot)
            jobs.append(job)
        self.creation.add_new(slots)
        self.lanes.enter_new(slots)
        return done

    def update_all(self, moves: Sequence[JobTransitioned]) -> Done:
        """Move jobs, in order, each from its version; return them, and why others did not move.

        That is a JobNotFoundError, VersionConflictError or InvalidStateTransitionError.
        """
        find, held, texts = self._store.get, self.lanes.held, self.texts
        done = Done()
        jobs = done.jobs
        before = after = None  # how the last job has moved, and all whose slots are in `moved`
        moved: list[Slot] = []
        for move in moves:
            job_id, target = move.job_id, move.target
            slot = find(job_id)
            if slot is None:
                done.refuse(JobNotFoundError(job_id))
                continue
            job = slot[1]
            version, current = job.version, job.status
            if version != move.version:
                done.refuse(_version_conflict(job, move.version))
                continue
            if target is not after or current is not before:
                self._change_lanes(moved, before, after)
                moved, before, after = [], current, target
                try:
                    validate_transition(current, target)
                except InvalidStateTransitionError as refusal:
                    done.refuse(refusal)
                    before = after = None
                    continue
            if move.result is not job.result or move.error is not job.error:
                texts.set_outcome(job, move)
            if target is AWAITING_INPUT or move.provided_input is not None:
                texts.set_dialogue(job, move)
            job.status, job.version = target, version + 1
            if move.at > job.updated_at:  # noqa: PLR1730 - `max` takes twice as long
                job.updated_at = move.at
            if held:
                held.discard(job_id)
            moved.append(slot)
            jobs.append(job)
        self._change_lanes(moved, before, after)
        return done

    def _change_lanes(
        self, moved: list[Slot], before: JobStatus | None, after: JobStatus | None
    ) -> None:
        if moved and before and after:
            self.lanes.move(moved, before, after)

    def remove(self, job_id: str) -> None:
        """Forget a finished job. Raises JobNotFoundError, or JobConflictError if it is not."""
        _, job = self._slot(job_id)
        if job.status not in TERMINAL:
            raise JobConflictError(f"job {job_id} is {job.status}", job_id=job_id)
        is_named = self._by_payment.get(job.blockchain_identifier) == job_id
        if is_named:
            del self._by_payment[job.blockchain_identifier]
        self.texts.drop(job, is_named=is_named)
        self.lanes.leave(job)
        del self._store[job_id]
        job.version = 0
        self.creation.sweep(len(self._store))

    def get(self, job_id: str) -> StoredJob:
        """Return the job. Raises JobNotFoundError."""
        return self._slot(job_id)[1]

    def find(self, job_id: str) -> StoredJob | None:
        """Return the job, or None."""
        slot = self._store.get(job_id)
        return None if slot is None else slot[1]

    def find_all(self, job_ids: Iterable[str | None]) -> list[StoredJob | None]:
        """Return jobs, and None for those not stored."""
        return [slot and slot[1] for slot in map(self._store.get, job_ids)]  # type: ignore[arg-type]

    def get_by_payment(self, blockchain_identifier: str) -> StoredJob:
        """Return the job whose creator supplied this identifier. Raises JobNotFoundError."""
        job_id = self._by_payment.get(blockchain_identifier)
        if job_id is None:
            raise JobNotFoundError.rebuilt("no job has this blockchain identifier", {})
        return self._store[job_id][1]

    def named(self) -> frozenset[str]:
        """Return the ids of the jobs whose blockchain identifier was supplied."""
        return frozenset(self._by_payment.values())

    def count(self, status: JobStatus | None = None) -> int:
        """Return how many jobs are stored, in all or in one status."""
        return len(self._store) if status is None else self.lanes.count(status)

    def hold(self, *job_ids: str) -> None:
        """Keep jobs from being taken until they are freed or change their status."""
        if not self._store.keys() >= {*job_ids}:
            raise JobNotFoundError(next(each for each in job_ids if each not in self._store))
        self.lanes.held.update(job_ids)

    def free(self, job_id: str) -> None:
        """Let go of a job that was held."""
        self.lanes.free(self._slot(job_id))

    def slots(self) -> Collection[Slot]:
        """Return all jobs with their places, in the order of creation."""
        return self._store.values()

    def restore(self, slots: Sequence[Slot], held: Iterable[str], named: Sequence[str]) -> None:
        """Take over jobs, by creation and later than all there are.

        Those that are `held`, and those whose blockchain identifier was supplied, are told by id.
        """
        self._store.update((slot[1].job_id, slot) for slot in slots)
        self.creation.restore(slots)
        self.lanes.restore(slots, held)
        for job_id in named:
            payment = self._store[job_id][1].blockchain_identifier
            holder = self._by_payment.setdefault(payment, job_id)
            if holder != job_id:
                raise _paid_for(holder)
        self.texts.restore([job for _, job in slots], {*named})

    def restore_entered(self, status: JobStatus, indexes: Sequence[int]) -> None:
        """Take over the order in which the jobs of a status have entered it, by their places."""
        if indexes:
            by_index = self.creation.by_index()
            self.lanes.restore_entered(status, [(index, by_index[index]) for index in indexes])

    def _slot(self, job_id: str) -> Slot:
        slot = self._store.get(job_id)
        if slot is None:
            raise JobNotFoundError(job_id)
        return slot


def _known(job_id: str) -> Refusal:
    return JobConflictError(f"there is a job {job_id} already", job_id=job_id)


def _paid_for(holder: str) -> Refusal:
    message = f"this blockchain identifier belongs to job {holder}"
    return JobConflictError(message, job_id=holder)


def _version_conflict(job: StoredJob, expected_version: int) -> VersionConflictError:
    return VersionConflictError(
        f"job {job.job_id} is at version {job.version}, not {expected_version}",
        job_id=job.job_id,
        status=job.status.value,
        version=job.version,
    )

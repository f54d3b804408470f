"""The only owner of jobs: creates, finds, moves, leases and removes them, each under one lock.

The broker works with runs: `create_all`, `update_all` and `get_all` take many jobs at once, and the
methods for one job are their case of one. `validate_transition` judges every move in `update_all`.
"""

import threading
import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from tollgate.broker.core.events import JobCreated, JobTransitioned
from tollgate.broker.repository.indexes import (
    SCAN_JOBS_MAX,
    CreationIndex,
    StatusIndex,
    TextTotals,
)
from tollgate.broker.repository.job import Changes, Slot, StoredJob, mock_identifier
from tollgate.domain.exceptions import (
    InvalidStateTransitionError,
    JobConflictError,
    JobNotFoundError,
    VersionConflictError,
)
from tollgate.domain.models import Job
from tollgate.domain.status import (
    AWAITING_INPUT,
    AWAITING_PAYMENT,
    TERMINAL,
    JobStatus,
    validate_transition,
)


def _new_id() -> str:
    return str(uuid.uuid4())


def _clock() -> datetime:
    return datetime.now(UTC)


class InMemoryJobRepository:
    """Owns every job. Thread-safe: `_lock` wraps every access to `_store`, reads and writes.

    `with repository:` holds the lock, so that many calls are one step to other threads; the broker
    does so for a batch. `create`, `get` and `update_status` return frozen `Job`s. The methods of
    the broker return the stored jobs themselves: read them only while you hold the lock.

    `new_id` and `clock` give the id and the time where a caller of `create` and `update_status`
    supplies none; the broker always supplies both.
    """

    def __init__(
        self, *, new_id: Callable[[], str] = _new_id, clock: Callable[[], datetime] = _clock
    ) -> None:
        self._lock = threading.RLock()
        self._new_id = new_id
        self._clock = clock
        self._store: dict[str, Slot] = {}
        self._by_payment: dict[str, str] = {}
        self.creation = CreationIndex()
        self.statuses = StatusIndex()
        self.texts = TextTotals()

    def __enter__(self) -> Self:
        """Hold the lock until the end of the `with` block."""
        self._lock.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release the lock."""
        self._lock.release()

    # --- one job --------------------------------------------------------------------------------

    def create(  # noqa: PLR0913 - a job has many fields
        self,
        input_hash: str,
        *,
        job_id: str | None = None,
        at: datetime | None = None,
        input: str | None = None,  # noqa: A002 - the field's name
        identifier_from_purchaser: str | None = None,
        blockchain_identifier: str | None = None,
        pay_by_time: datetime | None = None,
        submit_result_time: datetime | None = None,
    ) -> Job:
        """Store a job in `awaiting_payment`, and return it.

        Raises JobConflictError if another job has this `job_id` or `blockchain_identifier`.
        """
        new = JobCreated(
            job_id or self._new_id(), at or self._clock(), input_hash, input,
            identifier_from_purchaser, blockchain_identifier, pay_by_time, submit_result_time,
        )  # fmt: skip
        with self._lock:
            return self.create_all([new]).only().job()

    def get(self, job_id: str) -> Job:
        """Return a job. Raises JobNotFoundError."""
        with self._lock:
            return self.require(job_id).job()

    def update_status(  # noqa: PLR0913 - the seed's, and what a transition may bring
        self,
        job_id: str,
        target: JobStatus,
        result: str | None = None,
        error: str | None = None,
        *,
        at: datetime | None = None,
        expected_version: int | None = None,
        input_schema: str | None = None,
        provided_input: str | None = None,
    ) -> Job:
        """Move a job to `target`, and return it as it is then.

        Raises JobNotFoundError, VersionConflictError or InvalidStateTransitionError; then nothing
        has changed.
        """
        with self._lock:
            version = expected_version
            if version is None:
                version = self.require(job_id).version
            move = JobTransitioned(
                job_id, version, target, at or self._clock(), result, error, input_schema,
                provided_input,
            )  # fmt: skip
            return self.update_all([move]).only().job()

    def count(self, status: JobStatus | None = None) -> int:
        """Return how many jobs are stored, in all or in one status."""
        with self._lock:
            return len(self._store) if status is None else self.statuses.count(status)

    # --- runs of jobs ---------------------------------------------------------------------------

    def create_all(self, news: Sequence[JobCreated]) -> Changes:
        """Store jobs in `awaiting_payment`, in order; return them, and why others were refused.

        A job id or a supplied blockchain identifier of a stored job is a JobConflictError.
        """
        changes, slots = Changes(), list[Slot]()
        jobs = changes.jobs
        with self._lock:
            store, texts, index = self._store, self.texts, self.creation.next_index
            for new in news:
                job_id, at, payment, text = new.job_id, new.at, new.blockchain_identifier, new.input
                if job_id in store:
                    message = f"there is a job {job_id} already"
                    changes.refuse(JobConflictError(message, job_id=job_id))
                    continue
                if payment is None:
                    payment = mock_identifier(job_id)
                elif self._by_payment.setdefault(payment, job_id) == job_id:
                    texts.add(payment)
                else:
                    changes.refuse(_paid_for(self._by_payment[payment]))
                    continue
                job = StoredJob(
                    job_id, AWAITING_PAYMENT, new.input_hash, payment, at, at, None, None, 1, text,
                    new.identifier_from_purchaser, new.pay_by_time, new.submit_result_time,
                )  # fmt: skip
                if text is not None:
                    texts.add(text)
                if job.identifier_from_purchaser is not None:
                    texts.add(job.identifier_from_purchaser)
                store[job_id] = slot = (index, job)
                index += 1
                slots.append(slot)
                jobs.append(job)
            self.creation.add_new(slots)
            self.statuses.enter_new(slots)
        return changes

    def update_all(self, moves: Sequence[JobTransitioned]) -> Changes:
        """Move jobs, in order, each from its version; return them, and why others were refused.

        Refusals are JobNotFoundError, VersionConflictError and InvalidStateTransitionError.
        """
        changes = Changes()
        jobs = changes.jobs
        before = after = None  # the last legal move; `moved` has the slots of all such moves
        moved: list[Slot] = []
        with self._lock:
            find, leased, texts = self._store.get, self.statuses.leased, self.texts
            for move in moves:
                job_id, target = move.job_id, move.target
                slot = find(job_id)
                if slot is None:
                    changes.refuse(JobNotFoundError(job_id))
                    continue
                job = slot[1]
                version, current = job.version, job.status
                if version != move.version:
                    changes.refuse(_version_conflict(job, move.version))
                    continue
                if target is not after or current is not before:
                    self._move_index(moved, before, after)
                    moved, before, after = [], current, target
                    try:
                        validate_transition(current, target)
                    except InvalidStateTransitionError as refusal:
                        changes.refuse(refusal)
                        before = after = None
                        continue
                if move.result is not job.result or move.error is not job.error:
                    texts.set_outcome(job, move)
                if target is AWAITING_INPUT or move.provided_input is not None:
                    texts.set_dialogue(job, move)
                job.status, job.version = target, version + 1
                if move.at > job.updated_at:  # noqa: PLR1730 - `max` takes twice as long
                    job.updated_at = move.at
                if leased:
                    leased.discard(job_id)
                moved.append(slot)
                jobs.append(job)
            self._move_index(moved, before, after)
        return changes

    def get_all(self, job_ids: Iterable[str | None]) -> list[StoredJob | None]:
        """Return jobs, and None for each id that no job has."""
        with self._lock:
            return [slot and slot[1] for slot in map(self._store.get, job_ids)]  # type: ignore[arg-type]

    def find(self, job_id: str) -> StoredJob | None:
        """Return a job, or None."""
        with self._lock:
            slot = self._store.get(job_id)
        return None if slot is None else slot[1]

    def require(self, job_id: str) -> StoredJob:
        """Return a job. Raises JobNotFoundError."""
        return self._slot(job_id)[1]

    def find_by_payment(self, blockchain_identifier: str) -> StoredJob | None:
        """Return the job whose creator supplied this identifier, or None."""
        with self._lock:
            job_id = self._by_payment.get(blockchain_identifier)
            return None if job_id is None else self._store[job_id][1]

    def lease(self, *job_ids: str) -> None:
        """Keep jobs from being claimed until they are freed or change their status.

        Raises JobNotFoundError, with nothing changed.
        """
        with self._lock:
            for job_id in job_ids:
                self._slot(job_id)
            self.statuses.leased.update(job_ids)

    def free(self, job_id: str) -> None:
        """Let a leased job be claimed again. Raises JobNotFoundError."""
        with self._lock:
            self.statuses.free(self._slot(job_id))

    def remove(self, job_id: str) -> None:
        """Remove a finished job. Raises JobNotFoundError, or JobConflictError if it is not."""
        with self._lock:
            job = self.require(job_id)
            if job.status not in TERMINAL:
                raise JobConflictError(f"job {job_id} is {job.status}", job_id=job_id)
            is_named = self._by_payment.get(job.blockchain_identifier) == job_id
            if is_named:
                del self._by_payment[job.blockchain_identifier]
            self.texts.remove(job, is_named=is_named)
            self.statuses.remove(job)
            del self._store[job_id]
            job.version = 0  # marks its entries in the indexes as stale
            self.creation.sweep(len(self._store))

    def page(
        self, after: int, limit: int, status: JobStatus | None = None, scan_max: int = SCAN_JOBS_MAX
    ) -> tuple[list[StoredJob], list[int]]:
        """Return a page of jobs by creation: see `CreationIndex.page`."""
        with self._lock:
            return self.creation.page(after, limit, status, scan_max=scan_max)

    # --- snapshots ------------------------------------------------------------------------------

    def slots(self) -> Collection[Slot]:
        """Return all jobs with their places, in order of creation."""
        with self._lock:
            return self._store.values()

    def named(self) -> frozenset[str]:
        """Return the ids of the jobs whose blockchain identifier was supplied."""
        with self._lock:
            return frozenset(self._by_payment.values())

    def restore(self, slots: Sequence[Slot], leased: Iterable[str], named: Sequence[str]) -> None:
        """Add jobs of a snapshot, by creation and after all others.

        `leased` and `named` are ids: of the jobs under a lease, and of those whose blockchain
        identifier was supplied.
        """
        with self._lock:
            self._store.update((slot[1].job_id, slot) for slot in slots)
            self.creation.restore(slots)
            self.statuses.restore(slots, leased)
            for job_id in named:
                payment = self._store[job_id][1].blockchain_identifier
                holder = self._by_payment.setdefault(payment, job_id)
                if holder != job_id:
                    raise _paid_for(holder)
            self.texts.restore([job for _, job in slots], {*named})

    def restore_entered(self, status: JobStatus, indexes: Sequence[int]) -> None:
        """Add the order in which the jobs of a status entered it, by their places."""
        with self._lock:
            if indexes:
                by_index = self.creation.by_index()
                slots = [(index, by_index[index]) for index in indexes]
                self.statuses.restore_entered(status, slots)

    def _slot(self, job_id: str) -> Slot:
        with self._lock:
            slot = self._store.get(job_id)
        if slot is None:
            raise JobNotFoundError(job_id)
        return slot

    def _move_index(
        self, moved: list[Slot], before: JobStatus | None, after: JobStatus | None
    ) -> None:
        if moved and before and after:
            self.statuses.move(moved, before, after)


def _paid_for(holder: str) -> JobConflictError:
    message = f"this blockchain identifier belongs to job {holder}"
    return JobConflictError(message, job_id=holder)


def _version_conflict(job: StoredJob, expected_version: int) -> VersionConflictError:
    return VersionConflictError(
        f"job {job.job_id} is at version {job.version}, not {expected_version}",
        job_id=job.job_id,
        status=job.status.value,
        version=job.version,
    )

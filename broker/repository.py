"""The jobs themselves and what finds them; the only place where one is kept or changed."""

import threading
import uuid
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from heapq import heappop
from operator import itemgetter
from typing import Any, Generic, TypeVar, overload

import msgspec

from broker.events import JobCreated, JobTransitioned
from broker.lane import ONLY_ENTRY, SLACK, Lane
from broker.sizes import job_text_bytes, text_bytes
from broker.stored import Done, Slot, StoredJob, mock_identifier
from domain.exceptions import (
    InvalidStateTransitionError,
    JobConflictError,
    JobNotFoundError,
    Refusal,
    VersionConflictError,
)
from domain.models import Job
from domain.status import (
    AWAITING_INPUT,
    AWAITING_PAYMENT,
    TERMINAL,
    JobStatus,
    validate_transition,
)

SCAN_JOBS_MAX = 10_000
"""How many jobs one page may look at: a page may be short, a call may not be long."""

View = TypeVar("View")
"""What a repository gives of a job: a frozen `Job`, or to its owner the `StoredJob` itself."""


class Image(msgspec.Struct, frozen=True):
    """Everything in a repository, for reading: the jobs are those that are held."""

    slots: Sequence[Slot]
    entered: dict[JobStatus, list[int]]
    """By status, the places of its jobs in the order in which they came to it."""
    held: frozenset[str]
    named: frozenset[str]
    """The jobs whose blockchain identifier was supplied."""
    next_index: int


def _new_id() -> str:
    return str(uuid.uuid4())


def _clock() -> datetime:
    return datetime.now(UTC)


class InMemoryJobRepository(Generic[View]):
    """Owns every job. Thread-safe; every method is one step under one lock.

    `job_id` and `at` are for those who have decided them already (the broker, which writes them
    down first); without them the repository asks `new_id` and `clock`. Jobs are given out as
    frozen `Job`s, which never change. The broker takes them `as_stored`: no copy is made, since
    it encodes what a run has come to before it decides the next one.
    """

    @overload
    def __init__(
        self: "InMemoryJobRepository[Job]",
        *,
        new_id: Callable[[], str] = ...,
        clock: Callable[[], datetime] = ...,
    ) -> None: ...

    @overload
    def __init__(
        self: "InMemoryJobRepository[StoredJob]",
        *,
        new_id: Callable[[], str] = ...,
        clock: Callable[[], datetime] = ...,
        as_stored: bool,
    ) -> None: ...

    def __init__(
        self,
        *,
        new_id: Callable[[], str] = _new_id,
        clock: Callable[[], datetime] = _clock,
        as_stored: bool = False,
    ) -> None:
        self._as_stored = as_stored
        self._lock = threading.Lock()
        self._new_id = new_id
        self._clock = clock
        self._store: dict[str, Slot] = {}
        self._by_payment: dict[str, str] = {}
        self._created: list[Slot] = []  # by index; a removed job stays until it is swept
        self._next_index = 0
        self._lanes = {status: Lane(status) for status in JobStatus}
        self._last_lanes = [self._lanes[status] for status in TERMINAL]
        self._held: set[str] = set()  # somebody has a lease on them
        self.scanned = 0
        """How many jobs all pages so far have looked at."""
        self.text_bytes = 0
        """How many bytes the texts of all stored jobs have."""
        self.longest_text_bytes = 0
        """No text of any job here has more bytes, or had."""

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
    ) -> View:
        """Store a job in `awaiting_payment`, and return it.

        Raises JobConflictError if `job_id` or `blockchain_identifier` is a stored job's.
        """
        new = JobCreated(
            job_id or self._new_id(), at or self._clock(), input_hash, input,
            identifier_from_purchaser, blockchain_identifier, pay_by_time, submit_result_time,
        )  # fmt: skip
        with self._lock:
            return self._show(self._create_all([new]).only())

    def create_all(self, news: Sequence[JobCreated]) -> Done:
        """Store jobs in `awaiting_payment`, in order, as `create` does one.

        Return them as they are held, for the owner alone, and why others could not be stored.
        """
        with self._lock:
            return self._create_all(news)

    def _create_all(self, news: Sequence[JobCreated]) -> Done:
        store, slots = self._store, list[Slot]()
        done = Done()
        jobs = done.jobs
        for new in news:
            job_id, at, payment, text = new.job_id, new.at, new.blockchain_identifier, new.input
            if job_id in store:
                done.refuse(_known(job_id))
                continue
            if payment is None:
                payment = mock_identifier(job_id)
            elif self._by_payment.setdefault(payment, job_id) == job_id:
                self._gain_text(payment)
            else:
                done.refuse(_paid_for(self._by_payment[payment]))
                continue
            job = StoredJob(
                job_id, AWAITING_PAYMENT, new.input_hash, payment, at, at, None, None, 1, text,
                new.identifier_from_purchaser, new.pay_by_time, new.submit_result_time, None, None,
            )  # fmt: skip
            if text is not None:
                self._gain_text(text)
            if job.identifier_from_purchaser is not None:
                self._gain_text(job.identifier_from_purchaser)
            store[job_id] = slot = (self._next_index, job)
            self._next_index += 1
            slots.append(slot)
            jobs.append(job)
        self._created += slots
        self._lanes[AWAITING_PAYMENT].enter_new(slots)
        return done

    def get(self, job_id: str) -> View:
        """Return the job. Raises JobNotFoundError."""
        with self._lock:
            slot = self._store.get(job_id)
            if slot is None:
                raise JobNotFoundError(job_id)
            return slot[1] if self._as_stored else self._show(slot[1])  # type: ignore[return-value]

    def find(self, job_id: str) -> View | None:
        """Return the job, or None."""
        with self._lock:
            slot = self._store.get(job_id)
            return None if slot is None else self._show(slot[1])

    def find_all(self, job_ids: Iterable[str | None]) -> list[StoredJob | None]:
        """Return jobs as they are held, for the owner alone, and None for those not stored."""
        with self._lock:
            return [slot and slot[1] for slot in map(self._store.get, job_ids)]  # type: ignore[arg-type]

    def count_finished(self) -> int:
        """Return how many jobs are completed or failed."""
        with self._lock:
            return sum([lane.count for lane in self._last_lanes])

    def get_by_payment(self, blockchain_identifier: str) -> View:
        """Return the job whose creator supplied this identifier. Raises JobNotFoundError."""
        with self._lock:
            job_id = self._by_payment.get(blockchain_identifier)
            if job_id is None:
                raise JobNotFoundError.rebuilt("no job has this blockchain identifier", {})
            return self._show(self._store[job_id][1])

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
    ) -> View:
        """Move a job to `target`, and return it as it is then.

        Raises JobNotFoundError, VersionConflictError or InvalidStateTransitionError; then nothing
        has changed.
        """
        with self._lock:
            version = (
                self._find(job_id)[1].version if expected_version is None else expected_version
            )
            move = JobTransitioned(
                job_id, version, target, at or self._clock(), result, error, input_schema,
                provided_input,
            )  # fmt: skip
            return self._show(self._update_all([move]).only())

    def update_all(self, moves: Sequence[JobTransitioned]) -> Done:
        """Move jobs, in order, each from its version, as `update_status` does one.

        Return them as they are held then, for the owner alone, and why others did not move.
        """
        with self._lock:
            return self._update_all(moves)

    def _update_all(self, moves: Sequence[JobTransitioned]) -> Done:
        find, held = self._store.get, self._held
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
                self._set_outcome(job, move)
            if target is AWAITING_INPUT or move.provided_input is not None:
                self._set_dialogue(job, move)
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
            self._lanes[before].count -= len(moved)
            self._lanes[after].enter(moved, is_first=before is AWAITING_PAYMENT)

    def _set_outcome(self, job: StoredJob, move: JobTransitioned) -> None:
        if job.result is not None or job.error is not None:
            self._lose_texts(job.result, job.error)
        job.result = result = move.result
        job.error = error = move.error
        if result is not None:
            self._gain_text(result)
        if error is not None:
            self._gain_text(error)

    def _set_dialogue(self, job: StoredJob, move: JobTransitioned) -> None:
        """Note what a job asks for, or what it got."""
        self._lose_texts(job.input_schema, job.provided_input)
        if move.target is AWAITING_INPUT:
            job.input_schema = move.input_schema
        job.provided_input = move.provided_input
        self._gain_text(job.input_schema or "")
        self._gain_text(job.provided_input or "")

    def _gain_text(self, text: str) -> None:
        size = len(text) if text.isascii() else len(text.encode())
        self.text_bytes += size
        if size > self.longest_text_bytes:  # noqa: PLR1730 - `max` takes twice as long
            self.longest_text_bytes = size

    def _lose_texts(self, *texts: str | None) -> None:
        for text in texts:
            if text is not None:
                self.text_bytes -= text_bytes(text)

    def count(self, status: JobStatus | None = None) -> int:
        """Return how many jobs are stored, in all or in one status."""
        with self._lock:
            return len(self._store) if status is None else self._lanes[status].count

    def oldest(self, status: JobStatus) -> View | None:
        """Return the job that has been in `status` for longest."""
        with self._lock:
            job = self._lanes[status].first()
            return None if job is None else self._show(job)

    def page(
        self,
        after: int,
        limit: int,
        status: JobStatus | None = None,
        *,
        scan_max: int = SCAN_JOBS_MAX,
    ) -> tuple[list[View], list[int]]:
        """Return up to `limit` jobs created after place `after` (-1: all), and where to go on.

        The second list has the cursor behind each job, and one more, behind all that was looked
        at, if there is more to see. Looks at no more than `scan_max` jobs, and counts them in
        `scanned`.
        """
        with self._lock:
            start = bisect_left(self._created, after + 1, key=itemgetter(0))
            jobs: list[View] = []
            cursors: list[int] = []
            place = start
            for place in range(start, min(start + scan_max, len(self._created))):
                index, job = self._created[place]
                if job.version and (status is None or job.status is status):
                    jobs.append(self._show(job))
                    cursors.append(index)
                    if len(jobs) == limit:
                        break
            self.scanned += place + 1 - start
            if place + 1 < len(self._created):
                cursors.append(self._created[place][0])
            return jobs, cursors

    def first_free(self, status: JobStatus) -> View | None:
        """Return the job in `status` that was created first and that nobody holds."""
        with self._lock:
            lane = self._lanes[status]
            while lane.free:
                job = lane.free[0][1]
                if lane.has_job(job) and job.job_id not in self._held:
                    return self._show(job)
                heappop(lane.free)
            return None

    def take_free(self, status: JobStatus, limit: int) -> list[Slot]:
        """Return up to `limit` such jobs, oldest first; each is to be held now, or put back."""
        with self._lock:
            lane, taken = self._lanes[status], list[Slot]()
            while lane.free and len(taken) < limit:
                slot = heappop(lane.free)
                if taken and taken[-1] is slot:  # it was offered twice
                    continue
                if lane.has_job(slot[1]) and slot[1].job_id not in self._held:
                    taken.append(slot)
            return taken

    def put_back(self, slots: Iterable[Slot]) -> None:
        """Let what was taken be taken again."""
        with self._lock:
            for slot in slots:
                self._lanes[slot[1].status].offer(slot)

    def hold(self, *job_ids: str) -> None:
        """Keep jobs from being taken until they are freed or change their status."""
        with self._lock:
            if not self._store.keys() >= {*job_ids}:
                raise JobNotFoundError(next(each for each in job_ids if each not in self._store))
            self._held.update(job_ids)

    def free(self, job_id: str) -> None:
        """Let go of a job that was held."""
        with self._lock:
            slot = self._find(job_id)
            if job_id in self._held:
                self._held.remove(job_id)
                self._lanes[slot[1].status].offer(slot)

    def oldest_finished(self) -> tuple[datetime, str] | None:
        """Return when the job ended that has been completed or failed for longest, and its id."""
        with self._lock:
            heads = [lane.first() for lane in self._last_lanes]
            return min(((job.updated_at, job.job_id) for job in heads if job), default=None)

    def remove(self, job_id: str) -> None:
        """Forget a finished job. Raises JobNotFoundError, or JobConflictError if it is not."""
        with self._lock:
            _, job = self._find(job_id)
            if job.status not in TERMINAL:
                raise JobConflictError(f"job {job_id} is {job.status}", job_id=job_id)
            del self._store[job_id]
            self.text_bytes -= self._text_bytes_of(job)
            if self._is_named(job):
                del self._by_payment[job.blockchain_identifier]
            self._lanes[job.status].count -= 1
            job.version = 0
            if len(self._created) > 2 * len(self._store) + SLACK:
                self._created = [slot for slot in self._created if slot[1].version]

    def image(self) -> Image:
        """Return all there is, for reading; the slots are in the order of creation."""
        with self._lock:
            indexes = {id(job): index for index, job in self._store.values()}
            entered = {
                status: [indexes[id(entry[1])] for entry in filter(lane.has, lane.entered)]
                for status, lane in self._lanes.items()
            }
            named = frozenset(self._by_payment.values())
            slots = list(self._store.values())
            return Image(slots, entered, frozenset(self._held), named, self._next_index)

    def restore(self, slots: Sequence[Slot], held: Iterable[str], named: Iterable[str]) -> None:
        """Take over jobs, by creation and later than all there are, as an `image` showed them."""
        with self._lock:
            self._held.update(held)
            for slot in slots:
                job = slot[1]
                self._store[job.job_id] = slot
                self._created.append(slot)
                lane = self._lanes[job.status]
                lane.count += 1
                if not lane.is_last:
                    lane.free.append(slot)
            for job_id in named:
                payment = self._store[job_id][1].blockchain_identifier
                holder = self._by_payment.setdefault(payment, job_id)
                if holder != job_id:
                    raise _paid_for(holder)
            sizes = [self._text_bytes_of(job) for _, job in slots]
            self.text_bytes += sum(sizes)
            self.longest_text_bytes = max(self.longest_text_bytes, *sizes, 0)  # more than its texts

    def begin_at(self, next_index: int) -> None:
        """Take over what place the next job will have in the order of creation."""
        with self._lock:
            self._next_index = next_index

    def restore_entered(self, status: JobStatus, indexes: Sequence[int]) -> None:
        """Take over the order in which the jobs of a status have entered it."""
        if not indexes:
            return
        with self._lock:
            by_index, lane = dict(self._created), self._lanes[status]
            for index in indexes:
                job = by_index[index]
                again = not lane.is_last and job.version > ONLY_ENTRY
                lane.entered.append((-job.version if again else index, job))

    def _show(self, job: StoredJob) -> View:
        shown: Any = job if self._as_stored else job.job()
        view: View = shown
        return view

    def _find(self, job_id: str) -> Slot:
        slot = self._store.get(job_id)
        if slot is None:
            raise JobNotFoundError(job_id)
        return slot

    def _text_bytes_of(self, job: StoredJob) -> int:
        """Return how much of `text_bytes` is a job's: an identifier made of its id counts not."""
        made_up = 0 if self._is_named(job) else len(job.blockchain_identifier)
        return job_text_bytes(job) - made_up

    def _is_named(self, job: StoredJob) -> bool:
        return self._by_payment.get(job.blockchain_identifier) == job.job_id


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

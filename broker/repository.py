"""The jobs themselves and what finds them; the only place where one is kept or changed."""

import threading
import uuid
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from heapq import heapify, heappop, heappush
from operator import attrgetter
from typing import Any, Generic, TypeVar, overload

import msgspec

from broker.shown import ShownJob
from domain.exceptions import JobConflictError, JobNotFoundError, VersionConflictError
from domain.models import Job
from domain.status import TERMINAL, JobStatus, validate_transition

SLACK = 1_024
"""How many stale entries an index may hold beyond as many as there are live ones."""
SCAN_JOBS_MAX = 10_000
"""How many jobs one page may look at: a page may be short, a call may not be long."""


View = TypeVar("View")
"""What a repository gives of a job: a frozen `Job`, unless it was told otherwise."""


class StoredJob(msgspec.Struct, array_like=True, gc=False):
    """A job as it is held: half the size of a `Job`, and nothing to the garbage collector."""

    job_id: str
    status: JobStatus
    input_hash: str
    blockchain_identifier: str | None  # None for the one made from the id: not worth its bytes
    created_at: datetime
    updated_at: datetime
    result: str | None
    error: str | None
    version: int  # 0 once the job is no longer stored
    input: str | None
    identifier_from_purchaser: str | None
    pay_by_time: datetime | None
    submit_result_time: datetime | None
    input_schema: str | None
    provided_input: str | None
    index: int  # place in the order of creation, never given twice
    held: bool = False  # somebody has a lease on it

    def job(self) -> Job:
        """Return the job as it is now; it does not change any more."""
        fields: dict[str, Any] = msgspec.structs.asdict(self)
        del fields["index"], fields["held"]
        if self.blockchain_identifier is None:
            fields["blockchain_identifier"] = "mock_bc_" + self.job_id[:8]
        return Job.from_checked(fields)

    def shown(self) -> ShownJob:
        """Return the job as it is now, for the wire."""
        return ShownJob(
            self.job_id, self.status, self.input_hash,
            self.blockchain_identifier or "mock_bc_" + self.job_id[:8],
            self.created_at, self.updated_at, self.result, self.error, self.version,
            self.input, self.identifier_from_purchaser, self.pay_by_time,
            self.submit_result_time, self.input_schema, self.provided_input,
        )  # fmt: skip


class Standing(msgspec.Struct, frozen=True, gc=False):
    """Where a job stands: all that a decision about it depends on."""

    status: JobStatus
    version: int
    updated_at: datetime


def _new_id() -> str:
    return str(uuid.uuid4())


def _clock() -> datetime:
    return datetime.now(UTC)


class InMemoryJobRepository(Generic[View]):
    """Owns every job. Thread-safe; every method is one step under one lock.

    `job_id` and `at` are for those who have decided them already (the broker, which writes them
    down first); without them the repository asks `new_id` and `clock`. Jobs are given out as
    frozen `Job`s, or as `view` makes them: the broker, which only encodes them, has no use for a
    model.
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
        self,
        *,
        new_id: Callable[[], str] = ...,
        clock: Callable[[], datetime] = ...,
        view: Callable[[StoredJob], View],
    ) -> None: ...

    def __init__(
        self,
        *,
        new_id: Callable[[], str] = _new_id,
        clock: Callable[[], datetime] = _clock,
        view: Callable[[StoredJob], Any] = StoredJob.job,
    ) -> None:
        self._view: Callable[[StoredJob], View] = view
        self._lock = threading.Lock()
        self._new_id = new_id
        self._clock = clock
        self._store: dict[str, StoredJob] = {}
        self._by_payment: dict[str, str] = {}
        self._created: list[StoredJob] = []  # by index; a removed job stays until it is swept
        self._next_index = 0
        self._counts = dict.fromkeys(JobStatus, 0)
        # In order of entry, with the version then: stale once the job has another one.
        self._entered: dict[JobStatus, deque[tuple[int, StoredJob]]] = {
            status: deque() for status in JobStatus
        }
        # By index: who may be claimed; stale once held or elsewhere.
        self._free: dict[JobStatus, list[tuple[int, StoredJob]]] = {
            status: [] for status in JobStatus if status not in TERMINAL
        }

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
        job_id = job_id or self._new_id()
        at = at or self._clock()
        with self._lock:
            if job_id in self._store:
                raise JobConflictError(f"there is a job {job_id} already", job_id=job_id)
            if blockchain_identifier is not None:
                self._name_payment(blockchain_identifier, job_id)
            stored = StoredJob(
                job_id, JobStatus.AWAITING_PAYMENT, input_hash, blockchain_identifier, at, at,
                None, None, 1, input, identifier_from_purchaser, pay_by_time, submit_result_time,
                None, None, self._next_index,
            )  # fmt: skip
            self._next_index += 1
            self._store[job_id] = stored
            self._created.append(stored)
            self._enter(stored)
            return self._view(stored)

    def get(self, job_id: str) -> View:
        """Return the job. Raises JobNotFoundError."""
        with self._lock:
            return self._view(self._find(job_id))

    def find(self, job_id: str) -> View | None:
        """Return the job, or None."""
        with self._lock:
            stored = self._store.get(job_id)
            return None if stored is None else self._view(stored)

    def standing(self, job_id: str) -> Standing:
        """Return where the job stands. Raises JobNotFoundError."""
        with self._lock:
            stored = self._find(job_id)
            return Standing(stored.status, stored.version, stored.updated_at)

    def status(self, job_id: str) -> JobStatus | None:
        """Return what status the job is in, None if there is no such job."""
        with self._lock:
            stored = self._store.get(job_id)
            return None if stored is None else stored.status

    def count_finished(self) -> int:
        """Return how many jobs are completed or failed."""
        with self._lock:
            return sum(self._counts[status] for status in TERMINAL)

    def get_by_payment(self, blockchain_identifier: str) -> View:
        """Return the job whose creator supplied this identifier. Raises JobNotFoundError."""
        with self._lock:
            job_id = self._by_payment.get(blockchain_identifier)
            if job_id is None:
                raise JobNotFoundError.rebuilt("no job has this blockchain identifier", {})
            return self._view(self._store[job_id])

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
        at = at or self._clock()
        with self._lock:
            stored = self._find(job_id)
            if expected_version is not None and expected_version != stored.version:
                raise VersionConflictError(
                    f"job {job_id} is at version {stored.version}, not {expected_version}",
                    job_id=job_id,
                    status=stored.status.value,
                    version=stored.version,
                )
            validate_transition(stored.status, target)
            self._counts[stored.status] -= 1
            stored.status = target
            stored.result = result
            stored.error = error
            if target is JobStatus.AWAITING_INPUT:
                stored.input_schema = input_schema
                stored.provided_input = None
            elif provided_input is not None:
                stored.provided_input = provided_input
            stored.updated_at = max(stored.updated_at, at)
            stored.version += 1
            self._enter(stored)
            return self._view(stored)

    def count(self, status: JobStatus | None = None) -> int:
        """Return how many jobs are stored, in all or in one status."""
        with self._lock:
            return len(self._store) if status is None else self._counts[status]

    def oldest(self, status: JobStatus) -> View | None:
        """Return the job that has been in `status` for longest."""
        with self._lock:
            stored = self._first_entered(status)
            return None if stored is None else self._view(stored)

    def page(
        self, after: int, limit: int, status: JobStatus | None = None
    ) -> tuple[list[View], list[int]]:
        """Return up to `limit` jobs created after place `after` (-1: all), and where to go on.

        The second list has the cursor behind each job, and one more, behind all that was looked
        at, if there is more to see. Looks at no more than SCAN_JOBS_MAX jobs.
        """
        with self._lock:
            start = bisect_left(self._created, after + 1, key=attrgetter("index"))
            jobs: list[View] = []
            cursors: list[int] = []
            place = start
            for place in range(start, min(start + SCAN_JOBS_MAX, len(self._created))):
                stored = self._created[place]
                if stored.version and (status is None or stored.status is status):
                    jobs.append(self._view(stored))
                    cursors.append(stored.index)
                    if len(jobs) == limit:
                        break
            if place + 1 < len(self._created):
                cursors.append(self._created[place].index)
            return jobs, cursors

    def first_free(self, status: JobStatus) -> View | None:
        """Return the job in `status` that was created first and that nobody holds."""
        with self._lock:
            free = self._free[status]
            while free:
                stored = free[0][1]
                if stored.status is status and not stored.held and stored.version:
                    return self._view(stored)
                heappop(free)
            return None

    def hold(self, job_id: str) -> None:
        """Keep a job from `first_free` until it is freed or changes its status."""
        with self._lock:
            self._find(job_id).held = True

    def free(self, job_id: str) -> None:
        """Let go of a job that was held."""
        with self._lock:
            stored = self._find(job_id)
            if stored.held:
                self._offer(stored)

    def oldest_finished(self) -> tuple[datetime, str] | None:
        """Return when the job ended that has been completed or failed for longest, and its id."""
        with self._lock:
            if not any(map(self._entered.__getitem__, TERMINAL)):
                return None
            heads = [self._first_entered(status) for status in TERMINAL]
            return min(((job.updated_at, job.job_id) for job in heads if job), default=None)

    def remove(self, job_id: str) -> None:
        """Forget a finished job. Raises JobNotFoundError, or JobConflictError if it is not."""
        with self._lock:
            stored = self._find(job_id)
            if stored.status not in TERMINAL:
                raise JobConflictError(f"job {job_id} is {stored.status}", job_id=job_id)
            del self._store[job_id]
            if stored.blockchain_identifier is not None:
                del self._by_payment[stored.blockchain_identifier]
            self._counts[stored.status] -= 1
            stored.version = 0
            if len(self._created) > 2 * len(self._store) + SLACK:
                self._created = [stored for stored in self._created if stored.version]

    def image(self) -> tuple[list[StoredJob], dict[JobStatus, list[int]]]:
        """Return the jobs by creation, and for each status their indexes by entry: for reading."""
        with self._lock:
            entered = {
                status: [stored.index for version, stored in entries if stored.version == version]
                for status, entries in self._entered.items()
            }
            return list(self._store.values()), entered

    @property
    def next_index(self) -> int:
        """The place that the next job will have in the order of creation."""
        with self._lock:
            return self._next_index

    def restore(self, jobs: Sequence[StoredJob], next_index: int) -> None:
        """Take over jobs, by creation and later than all there are, as an `image` showed them."""
        with self._lock:
            for stored in jobs:
                self._store[stored.job_id] = stored
                self._created.append(stored)
                if stored.blockchain_identifier is not None:
                    self._name_payment(stored.blockchain_identifier, stored.job_id)
                self._counts[stored.status] += 1
                if stored.status not in TERMINAL and not stored.held:
                    self._free[stored.status].append((stored.index, stored))
            self._next_index = next_index

    def restore_entered(self, status: JobStatus, indexes: Sequence[int]) -> None:
        """Take over the order in which the jobs of a status have entered it."""
        with self._lock:
            by_index = {stored.index: stored for stored in self._created}
            self._entered[status] = deque(
                (by_index[index].version, by_index[index]) for index in indexes
            )

    def _find(self, job_id: str) -> StoredJob:
        stored = self._store.get(job_id)
        if stored is None:
            raise JobNotFoundError(job_id)
        return stored

    def _first_entered(self, status: JobStatus) -> StoredJob | None:
        entered = self._entered[status]
        while entered:
            version, stored = entered[0]
            if stored.version == version:
                return stored
            entered.popleft()
        return None

    def _name_payment(self, blockchain_identifier: str, job_id: str) -> None:
        holder = self._by_payment.setdefault(blockchain_identifier, job_id)
        if holder != job_id:
            raise JobConflictError(
                f"this blockchain identifier belongs to job {holder}", job_id=holder
            )

    def _enter(self, stored: StoredJob) -> None:
        status = stored.status
        self._counts[status] = live = self._counts[status] + 1
        entered = self._entered[status]
        entered.append((stored.version, stored))
        if len(entered) > 2 * live + SLACK:
            self._entered[status] = deque(
                entry for entry in entered if entry[1].version == entry[0]
            )
        if status not in TERMINAL:
            self._offer(stored)

    def _offer(self, stored: StoredJob) -> None:
        stored.held = False
        status = stored.status
        free = self._free[status]
        heappush(free, (stored.index, stored))
        if len(free) > 2 * self._counts[status] + SLACK:
            live = {
                entry[0]: entry[1]
                for entry in free
                if entry[1].status is status and not entry[1].held and entry[1].version
            }
            free[:] = live.items()
            heapify(free)

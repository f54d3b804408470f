"""The repository: a lock around the jobs, and frozen `Job`s for whoever asks."""

import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

from tollgate.broker.core.events import JobCreated, JobTransitioned
from tollgate.broker.repository.job import Slot
from tollgate.broker.repository.store import Jobs
from tollgate.domain.models import Job
from tollgate.domain.status import JobStatus


def _new_id() -> str:
    return str(uuid.uuid4())


def _clock() -> datetime:
    return datetime.now(UTC)


class InMemoryJobRepository:
    """Owns every job. Thread-safe; every method is one step under one lock.

    `job_id` and `at` are for those who have decided them already; without them the repository asks
    `new_id` and `clock`. Jobs are given out as frozen `Job`s, which never change. Who is the only
    one to use it, as the broker is, calls `own`, and has the jobs themselves from then on.
    """

    def __init__(
        self, *, new_id: Callable[[], str] = _new_id, clock: Callable[[], datetime] = _clock
    ) -> None:
        self._lock = threading.RLock()
        self._new_id = new_id
        self._clock = clock
        self._store: dict[str, Slot] = {}
        self._jobs = Jobs(self._store)

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

        Raises JobConflictError if `job_id` or `blockchain_identifier` is a stored job's.
        """
        new = JobCreated(
            job_id or self._new_id(), at or self._clock(), input_hash, input,
            identifier_from_purchaser, blockchain_identifier, pay_by_time, submit_result_time,
        )  # fmt: skip
        with self._lock:
            return self._jobs.create_all([new]).only().job()

    def get(self, job_id: str) -> Job:
        """Return the job. Raises JobNotFoundError."""
        with self._lock:
            return self._jobs.get(job_id).job()

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
            version = (
                self._jobs.get(job_id).version if expected_version is None else expected_version
            )
            move = JobTransitioned(
                job_id, version, target, at or self._clock(), result, error, input_schema,
                provided_input,
            )  # fmt: skip
            return self._jobs.update_all([move]).only().job()

    def count(self, status: JobStatus | None = None) -> int:
        """Return how many jobs are stored, in all or in one status."""
        with self._lock:
            return self._jobs.count(status)

    def own(self) -> Jobs:
        """Return the jobs as they are held, to the thread that has them for itself from now on.

        It keeps the lock for good, and so takes none for what it does with them. Another thread
        that asks this repository for something waits for ever.
        """
        self._lock.acquire()
        return self._jobs

"""The commands that producers send: all kinds, valid and invalid."""

from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random
from uuid import UUID

from tollgate.domain.commands import (
    AnyCommand,
    Cancel,
    Claim,
    Count,
    Create,
    Get,
    List,
    ProvideInput,
    Release,
    Transition,
)
from tollgate.domain.results import (
    AnyResult,
    ErrorResult,
    JobFields,
    JobResult,
    JobsResult,
    LeasesResult,
)
from tollgate.domain.status import LEGAL_TRANSITIONS, JobStatus

HASH = "0123456789abcdef" * 4
KNOWN_MAX = 300
SHARED_IDS = 2_000
"""Job ids that all producers use, so that they conflict."""


class Workload:
    """Makes random commands for the jobs that appeared in its answers."""

    def __init__(self, random: Random, input_bytes: int = 0) -> None:
        self._random = random
        self._input = '{"n":1}'.ljust(input_bytes)
        self._known: dict[str, tuple[JobStatus, int]] = {}
        self._leases: deque[tuple[str, int]] = deque(maxlen=60)
        kinds: dict[Callable[[], AnyCommand], int] = {
            self._create: 22,
            self._create_with_id: 8,
            self._create_shared: 4,
            self._legal: 26,
            self._any_transition: 6,
            self._cancel: 4,
            self._provide_input: 5,
            self._claim: 5,
            self._release: 3,
            self._with_lease: 6,
            self._get: 8,
            self._count: 1,
            self._list: 2,
        }
        self._kinds, self._weights = list(kinds), list(kinds.values())

    def commands(self, number: int) -> list[AnyCommand]:
        makers = self._random.choices(self._kinds, self._weights, k=number)
        return [make() for make in makers]

    def parking(self) -> AnyCommand:
        """Return a claim that parks for a moment."""
        status = self._random.choice([JobStatus.RUNNING, JobStatus.AWAITING_INPUT])
        return Claim(status=status, lease_ms=self._lease_ms(), wait_ms=40, limit=2)

    def observe(self, result: AnyResult) -> None:
        """Remember the state of the jobs in an answer."""
        match result:
            case JobResult():
                self._observe_job(result.job)
            case JobsResult():
                for job in result.jobs:
                    self._observe_job(job)
            case LeasesResult():
                for grant in result.leases:
                    self._leases.append((grant.job.job_id, grant.lease))
                    self._observe_job(grant.job)
            case ErrorResult(job_id=str(job_id), status=str(status), version=int(version)):
                self._observe(job_id, JobStatus(status), version)
            case _:
                pass

    def _observe_job(self, job: JobFields) -> None:
        self._observe(job.job_id, JobStatus(job.status), job.version)

    def _observe(self, job_id: str, status: JobStatus, version: int) -> None:
        if LEGAL_TRANSITIONS[status]:
            self._known[job_id] = (status, version)
        elif self._random.random() < 0.9:  # keep a few finished jobs, for illegal transitions
            self._known.pop(job_id, None)
        while len(self._known) > KNOWN_MAX:
            self._known.pop(next(iter(self._known)))

    def _uuid(self) -> str:
        return str(UUID(int=self._random.getrandbits(128), version=4))

    def _lease_ms(self) -> int:
        return self._random.choice([50, 500, 5_000, 20_000])

    def _any_job(self) -> tuple[str, JobStatus, int]:
        if not self._known:
            return self._uuid(), JobStatus.RUNNING, 1
        job_id = self._random.choice(list(self._known))
        return job_id, *self._known[job_id]

    def _create(self) -> AnyCommand:
        soon = datetime.now(UTC) + timedelta(seconds=self._random.uniform(0.5, 4))
        return Create(
            input_hash=HASH,
            input=self._input,
            pay_by_time=soon if self._random.random() < 0.05 else None,
            submit_result_time=soon if self._random.random() < 0.05 else None,
        )

    def _create_with_id(self) -> AnyCommand:
        return Create(input_hash=HASH, job_id=self._uuid())

    def _create_shared(self) -> AnyCommand:
        number = self._random.randrange(SHARED_IDS)
        return Create(
            input_hash=HASH,
            job_id=f"{number:08x}-5eed-4000-8000-000000000000",
            blockchain_identifier=f"paid {number}",
            identifier_from_purchaser=self._random.choice(["a", "b"]),
        )

    def _legal(self) -> AnyCommand:
        job_id, status, version = self._any_job()
        targets = sorted(LEGAL_TRANSITIONS[status] or LEGAL_TRANSITIONS[JobStatus.RUNNING])
        target = self._random.choice(targets)
        expected = version if self._random.random() < 0.5 else None
        return self._to(job_id, target, expected, None)

    def _to(
        self, job_id: str, target: JobStatus, version: int | None, lease: int | None
    ) -> AnyCommand:
        return Transition(
            job_id=job_id,
            target=target,
            result="done" if target is JobStatus.COMPLETED else None,
            error="broken" if target is JobStatus.FAILED else None,
            input_schema="{}" if target is JobStatus.AWAITING_INPUT else None,
            expected_version=version,
            lease=lease,
        )

    def _any_transition(self) -> AnyCommand:
        target = self._random.choice(list(JobStatus))
        version = self._random.choice([None, 1, 2, 7])
        return self._to(self._any_job()[0], target, version, None)

    def _cancel(self) -> AnyCommand:
        return Cancel(job_id=self._any_job()[0])

    def _provide_input(self) -> AnyCommand:
        asking = [
            (job_id, version)
            for job_id, (status, version) in self._known.items()
            if status is JobStatus.AWAITING_INPUT
        ]
        job_id, version = self._random.choice(asking) if asking else (self._any_job()[0], 1)
        return ProvideInput(job_id=job_id, input="yes", expected_version=version)

    def _claim(self) -> AnyCommand:
        status = self._random.choice([JobStatus.RUNNING, JobStatus.AWAITING_PAYMENT])
        limit = self._random.randint(1, 4)
        return Claim(status=status, lease_ms=self._lease_ms(), wait_ms=0, limit=limit)

    def _any_lease(self) -> tuple[str, int]:
        if not self._leases or self._random.random() < 0.05:
            return self._any_job()[0], 1
        return self._random.choice(self._leases)

    def _release(self) -> AnyCommand:
        job_id, lease = self._any_lease()
        return Release(job_id=job_id, lease=lease)

    def _with_lease(self) -> AnyCommand:
        job_id, lease = self._any_lease()
        status = self._known.get(job_id, (JobStatus.RUNNING, 1))[0]
        target = self._random.choice(sorted(LEGAL_TRANSITIONS[status]) or [JobStatus.FAILED])
        return self._to(job_id, target, None, lease)

    def _get(self) -> AnyCommand:
        return Get(job_id=self._any_job()[0])

    def _count(self) -> AnyCommand:
        return Count()

    def _list(self) -> AnyCommand:
        return List(limit=self._random.randint(1, 5))

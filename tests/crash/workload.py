"""The commands that producers send: all kinds, valid and invalid."""

from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from random import Random
from uuid import UUID

from tollgate.domain.commands import (
    Annotate,
    AnyCommand,
    Cancel,
    Claim,
    Count,
    Create,
    Get,
    History,
    Hold,
    List,
    PauseQueue,
    ProvideInput,
    Release,
    RequestStop,
    Resume,
    ResumeQueue,
    Settle,
    StopWaiting,
    Touch,
    Transition,
)
from tollgate.domain.results import (
    AnyResult,
    ErrorResult,
    JobFields,
    JobResult,
    JobsResult,
    LeasesResult,
    Progress,
)
from tollgate.domain.settlement import CLAIMABLE, LEGAL_SETTLEMENTS, SettlementState
from tollgate.domain.status import LEGAL_TRANSITIONS, JobStatus

HASH = "0123456789abcdef" * 4
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
QUEUES = ("a", "b", "c")
"""Beside the queue `default`."""
DAY_MS = 86_400_000
KNOWN_MAX = 300
_STATUSES = {status.value for status in JobStatus}
SHARED_IDS = 2_000
"""Job ids that all producers use, so that they conflict."""


class Workload:
    """Makes random commands for the jobs that appeared in its answers."""

    def __init__(self, random: Random, input_bytes: int = 0) -> None:
        self._random = random
        self._input = '{"n":1}'.ljust(input_bytes)
        self._known: dict[str, tuple[JobStatus, int]] = {}
        self._leases: deque[tuple[str, int]] = deque(maxlen=60)
        self._to_settle: deque[tuple[str, int, str]] = deque(maxlen=60)
        """Job, token and state of the settlements that were claimed."""
        self._seq = 0
        """The number of the request that is being made."""
        self._texts = count(random.getrandbits(40))
        kinds: dict[Callable[[], AnyCommand], float] = {
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
            self._get: 6,
            self._history: 3,
            self._count: 1,
            self._list: 2,
            self._hold: 3,
            self._resume: 4,
            self._request_stop: 2,
            self._annotate: 4,
            self._claim_settlement: 3,
            self._settle: 6,
            self._claim_named: 2,
            self._ask_under_lease: 4,
            self._touch: 4,
            self._force: 2,
            self._pause: 0.3,
            self._unpause: 1,
            self._stop_waiting: 0.5,
        }
        self._kinds, self._weights = list(kinds), list(kinds.values())

    def commands(self, number: int, seq: int = 0) -> list[AnyCommand]:
        self._seq = seq
        makers = self._random.choices(self._kinds, self._weights, k=number)
        return [make() for make in makers]

    def parking(self) -> AnyCommand:
        """Return a claim that parks for a moment."""
        status = self._random.choice([JobStatus.RUNNING, JobStatus.AWAITING_INPUT])
        return Claim(
            status=status, lease_ms=self._lease_ms(), wait_ms=40, limit=2, queues=self._queues()
        )

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
                    job_id, settlement = grant.job.job_id, grant.job.settlement
                    if LEGAL_TRANSITIONS[JobStatus(grant.job.status)] or settlement is None:
                        self._leases.append((job_id, grant.lease))
                    else:
                        self._to_settle.append((job_id, grant.lease, str(settlement.state)))
                    self._observe_job(grant.job)
            case ErrorResult(job_id=str(job_id), status=str(status), version=int(version)):
                if status in _STATUSES:  # not the state of a settlement
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
            queue=self._random.choice([None, None, *QUEUES]),
            priority=self._random.choice([0, 0, 0, 1, 9]),
            not_before=self._soon() if self._random.random() < 0.1 else None,
            meta=self._text() if self._random.random() < 0.1 else None,
            traceparent=TRACE if self._random.random() < 0.05 else None,
            settle=self._random.random() < 0.4,
        )

    def _soon(self) -> datetime:
        return datetime.now(UTC) + timedelta(milliseconds=self._random.uniform(-50, 450))

    def _text(self) -> str:
        """Return a text that no other command has: what it changes can be told from the rest."""
        return f"{next(self._texts):x}"

    def _queues(self) -> list[str] | None:
        """Return queues of a claim; as it is mostly, all of them."""
        return self._random.choice([None, ["*"], ["*"], [*QUEUES], [self._random.choice(QUEUES)]])

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
        return ProvideInput(
            job_id=job_id, input="yes", expected_version=version,
            input_hash=HASH if self._random.random() < 0.5 else None,
        )  # fmt: skip

    def _claim(self) -> AnyCommand:
        status = self._random.choice([JobStatus.RUNNING, JobStatus.AWAITING_PAYMENT])
        limit = self._random.randint(1, 4)
        return Claim(
            status=status, lease_ms=self._lease_ms(), wait_ms=0, limit=limit, queues=self._queues()
        )

    def _claim_settlement(self) -> AnyCommand:
        state = self._random.choice(sorted(CLAIMABLE))
        return Claim(
            settlement=state, lease_ms=self._lease_ms(), wait_ms=0, limit=4, queues=self._queues()
        )

    def _claim_named(self) -> AnyCommand:
        jobs = [self._any_job()[0] for _ in range(3)]
        status = self._known.get(jobs[0], (JobStatus.RUNNING, 1))[0]
        if not LEGAL_TRANSITIONS[status]:
            status = JobStatus.RUNNING
        return Claim(status=status, lease_ms=self._lease_ms(), wait_ms=0, limit=2, job_ids=jobs)

    def _any_lease(self) -> tuple[str, int]:
        if not self._leases or self._random.random() < 0.05:
            return self._any_job()[0], 1
        return self._random.choice(self._leases)

    def _release(self) -> AnyCommand:
        job_id, lease = self._any_lease()
        chance = self._random.random()
        if chance < 0.5:
            return Release(job_id=job_id, lease=lease)
        return Release(
            job_id=job_id,
            lease=lease,
            delay_ms=self._random.choice([None, 0, 50, 400, DAY_MS]),
            reason=self._text() if chance < 0.8 else None,
            hold=chance > 0.9,
        )

    def _touch(self) -> AnyCommand:
        job_id, lease = self._any_lease()
        text = self._text() if self._random.random() < 0.7 else None
        progress = None if text is None else Progress(text, self._random.choice([None, 0.5]))
        return Touch(job_id=job_id, lease=lease, lease_ms=self._lease_ms(), progress=progress)

    def _ask_under_lease(self) -> AnyCommand:
        """Ask for input, and keep the lease; go on with `_provide_input`."""
        job_id, lease = self._any_lease()
        return Transition(
            job_id=job_id,
            target=JobStatus.AWAITING_INPUT,
            input_schema=self._text(),
            lease=lease,
            keep_lease=True,
        )

    def _force(self) -> AnyCommand:
        job_id, status, version = self._any_job()
        if self._leases and self._random.random() < 0.7:
            job_id = self._random.choice(self._leases)[0]
            status, version = self._known.get(job_id, (status, version))
        targets = sorted(LEGAL_TRANSITIONS[status] or LEGAL_TRANSITIONS[JobStatus.RUNNING])
        target = self._random.choice(targets)
        return Transition(job_id=job_id, target=target, expected_version=version, force=True)

    def _maybe(self, version: int) -> int | None:
        return version if self._random.random() < 0.3 else None

    def _hold(self) -> AnyCommand:
        job_id, _, version = self._any_job()
        return Hold(job_id=job_id, reason=self._text(), expected_version=self._maybe(version))

    def _resume(self) -> AnyCommand:
        job_id, _, version = self._any_job()
        return Resume(job_id=job_id, expected_version=self._maybe(version))

    def _request_stop(self) -> AnyCommand:
        job_id, _, version = self._any_job()
        return RequestStop(job_id=job_id, expected_version=self._maybe(version))

    def _annotate(self) -> AnyCommand:
        job_id, _, version = self._any_job()
        meta = self._text() if self._random.random() < 0.9 else None
        return Annotate(job_id=job_id, meta=meta, expected_version=self._maybe(version))

    def _settle(self) -> AnyCommand:
        random = self._random
        if not self._to_settle or random.random() < 0.2:  # without a lease: mostly a note
            to = random.choice([None, None, *SettlementState])
            job_id = random.choice(self._to_settle)[0] if self._to_settle else self._any_job()[0]
            return Settle(job_id=job_id, to=to, on_chain_state=self._text())
        job_id, lease, state = random.choice(self._to_settle)
        to = random.choice([None, *sorted(LEGAL_SETTLEMENTS[SettlementState(state)])])
        retries = to is None or to in CLAIMABLE
        return Settle(
            job_id=job_id,
            lease=lease,
            to=to,
            result_hash=HASH if to is SettlementState.SUBMITTED else None,
            on_chain_state=self._text() if random.random() < 0.5 else None,
            reason=self._text() if random.random() < 0.3 else None,
            retry_after_ms=random.choice([0, 50, 400]) if retries else None,
        )

    def _pause(self) -> AnyCommand:
        return PauseQueue(queue=self._random.choice(QUEUES))

    def _unpause(self) -> AnyCommand:
        return ResumeQueue(queue=self._random.choice(QUEUES))

    def _stop_waiting(self) -> AnyCommand:
        return StopWaiting(seqs=[max(0, self._seq - back) for back in range(1, 6)])

    def _history(self) -> AnyCommand:
        return History(job_id=self._any_job()[0])

    def _with_lease(self) -> AnyCommand:
        job_id, lease = self._any_lease()
        status = self._known.get(job_id, (JobStatus.RUNNING, 1))[0]
        target = self._random.choice(sorted(LEGAL_TRANSITIONS[status]) or [JobStatus.FAILED])
        return self._to(job_id, target, None, lease)

    def _get(self) -> AnyCommand:
        return Get(job_id=self._any_job()[0], lease=self._random.random() < 0.5)

    def _count(self) -> AnyCommand:
        return Count(queue=self._random.choice([None, *QUEUES]))

    def _list(self) -> AnyCommand:
        state = self._random.choice([None, None, *SettlementState])
        return List(
            limit=self._random.randint(1, 5),
            queue=self._random.choice([None, *QUEUES]),
            settlement=state,
            newest=self._random.random() < 0.5,
            lease=self._random.random() < 0.5,
        )

"""Builds the broker's core for tests: the one place that knows its constructors."""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, Final

from tollgate.broker.core.batch import Arrival, Output
from tollgate.broker.core.engine import Engine
from tollgate.broker.core.limits import Limits
from tollgate.broker.core.pipeline import Pipeline
from tollgate.broker.core.records import Record
from tollgate.broker.core.roles import Principal, Role
from tollgate.broker.core.state import State
from tollgate.broker.core.timers import Instant
from tollgate.domain.commands import AnyCommand, Claim, Create, Transition, Wait
from tollgate.domain.messages import Refused, Reply, Request, decode_answer, encode_request
from tollgate.domain.results import (
    AnyResult,
    ErrorResult,
    Grant,
    JobFields,
    JobResult,
    LeasesResult,
)
from tollgate.domain.status import JobStatus

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
BATCH_REPLY_BYTES = 8 * 1024 * 1024
HASH = "0123456789abcdef" * 4
PEER = b"\x00peer"
OTHER = b"\x00other"
ADMIN = Principal("uid:1000", frozenset({Role.ADMIN}))


def job_ids() -> Callable[[], str]:
    """Return a source of ids in order: `job_id(1)`, `job_id(2)` and so on."""
    numbers = count(1)
    return lambda: job_id(next(numbers))


def job_id(number: int) -> str:
    """Return the id that the broker under test gives to its `number`th job."""
    return f"{number:08x}-0000-4000-8000-000000000000"


def make_engine(state: State | None = None, **limits: int) -> Engine:
    return Engine(
        Limits(**limits), new_id=job_ids(), server="tollgate test", boot_id="boot", state=state
    )


def pipeline_of(engine: Engine) -> Pipeline:
    return Pipeline(engine, Counter(), BATCH_REPLY_BYTES)


def make_pipeline(**limits: int) -> Pipeline:
    return pipeline_of(make_engine(None, **limits))


class Driver:
    """A pipeline with a clock that moves when told to, and peers that send and collect."""

    def __init__(self, **limits: int) -> None:
        self.pipeline = make_pipeline(**limits)
        self.wall = EPOCH
        self.mono_ms = 0
        self.pipeline.deadlines.start(self.now)
        self.seq = 0
        self.writable = True
        self.principal = ADMIN
        self.records: list[Record] = []
        self.inbox: list[tuple[bytes, Reply | Refused]] = []
        self.grants: list[Sequence[tuple[str, int]]] = []
        """What each reply granted, in the order of `inbox`."""

    @property
    def now(self) -> Instant:
        return Instant(self.wall, self.mono_ms)

    @property
    def engine(self) -> Engine:
        return self.pipeline._engine

    def pass_ms(self, span_ms: int) -> None:
        """Advance both clocks, and have due items decided."""
        self.mono_ms += span_ms
        self.set_wall(self.wall + timedelta(milliseconds=span_ms))

    def set_wall(self, wall: datetime) -> None:
        """Set the wall clock alone, and have due items decided."""
        self.wall = wall
        self.run()

    def run(
        self, *arrivals: Arrival, undelivered: Sequence[tuple[str, int]] = ()
    ) -> list[tuple[bytes, Reply | Refused]]:
        """Run one batch, and return the peers and their answers.

        If it ends in the middle of a message, go on with that message until it is decided.
        """
        output = self.pipeline.run(arrivals, self.now, undelivered, writable=self.writable)
        answers = self.take(output)
        while self.pipeline.is_deciding:
            arrivals = arrivals[output.taken :]
            output = self.pipeline.run(arrivals, self.now, writable=self.writable)
            answers += self.take(output)
        return answers

    def drain(self) -> list[tuple[bytes, Reply | Refused]]:
        """Have the broker leave; return all answers, as far as no message is in the middle."""
        answers = self.take(self.pipeline.drain())
        while self.pipeline.is_behind() and not self.pipeline.is_deciding:
            answers += self.run()
        return answers

    def take(self, outcome: Output) -> list[tuple[bytes, Reply | Refused]]:
        self.records += outcome.records
        answers = [(reply.peer, decode_answer(reply.frame)) for reply in outcome.replies]
        self.inbox += answers
        self.grants += [reply.grants for reply in outcome.replies]
        return answers

    def request(self, *commands: AnyCommand, session: int = 0, acked: int = 0) -> Request:
        self.seq += 1
        return Request(1, session, self.seq, acked, list(commands))

    def post(self, *commands: AnyCommand, peer: bytes = PEER) -> int:
        """Send commands in one message, and return its `seq`; the answers are in `inbox`."""
        self.run(Arrival(peer, [encode_request(self.request(*commands))], self.principal))
        return self.seq

    def ask(self, *commands: AnyCommand, peer: bytes = PEER) -> list[AnyResult]:
        """Send commands in one message, and return their results."""
        seq = self.post(*commands, peer=peer)
        answer = self.answer_to(seq, peer)
        assert isinstance(answer, Reply), answer
        return answer.results

    def refused(self, *commands: AnyCommand, peer: bytes = PEER) -> ErrorResult:
        """Send commands in one message, and return the refusal of the whole message."""
        seq = self.post(*commands, peer=peer)
        answer = self.answer_to(seq, peer)
        assert isinstance(answer, Refused), answer
        return answer.error

    def answer_to(self, seq: int, peer: bytes = PEER) -> Reply | Refused | None:
        """Return the last answer to a request, or None if there is none yet."""
        for to, answer in reversed(self.inbox):
            if (to, answer.seq) == (peer, seq):
                return answer
        return None

    def result_of(self, seq: int, peer: bytes = PEER) -> AnyResult | None:
        """Return the result of a request of one command, or None if there is no answer yet."""
        answer = self.answer_to(seq, peer)
        if answer is None:
            return None
        assert isinstance(answer, Reply), answer
        (result,) = answer.results
        return result

    def job(self, *commands: AnyCommand) -> JobFields:
        """Send one command that shows a job, and return that job."""
        return job_of(self.ask(*commands)[-1])

    def grants_of(self, command: AnyCommand, peer: bytes = PEER) -> list[Grant]:
        """Send one claim, and return the leases granted at once."""
        return leases_of(self.ask(command, peer=peer)[0])

    def error(self, command: AnyCommand, peer: bytes = PEER) -> ErrorResult:
        """Send one command, and return its refusal."""
        return error_of_result(self.ask(command, peer=peer)[0])


def job_of(result: AnyResult | None) -> JobFields:
    assert isinstance(result, JobResult), result
    return result.job


def leases_of(result: AnyResult | None) -> list[Grant]:
    assert isinstance(result, LeasesResult), result
    return result.leases


def error_of_result(result: AnyResult | None) -> ErrorResult:
    assert isinstance(result, ErrorResult), result
    return result


# --- commands, and jobs in a status ------------------------------------------------------------

AWAITING_PAYMENT: Final = JobStatus.AWAITING_PAYMENT
AWAITING_INPUT: Final = JobStatus.AWAITING_INPUT
RUNNING: Final = JobStatus.RUNNING
COMPLETED: Final = JobStatus.COMPLETED
FAILED: Final = JobStatus.FAILED
DAY_MS = 86_400_000
GRACE_MS = 300_000
"""The default of `payment_grace_ms`."""
HOUR = timedelta(hours=1)


def create(**fields: Any) -> Create:
    return Create(input_hash=HASH, **fields)


def move(job: JobFields | str, target: JobStatus, **fields: Any) -> Transition:
    return Transition(job_id=job if isinstance(job, str) else job.job_id, target=target, **fields)


def claim(
    status: JobStatus = RUNNING, lease_ms: int = 1_000, wait_ms: int = 0, limit: int = 1
) -> Claim:
    return Claim(status=status, lease_ms=lease_ms, wait_ms=wait_ms, limit=limit)


def wait(*job_ids: str, timeout_ms: int = 1_000, statuses: list[JobStatus] | None = None) -> Wait:
    return Wait(job_ids=list(job_ids), timeout_ms=timeout_ms, statuses=statuses)


def running(driver: Driver, **fields: Any) -> JobFields:
    return driver.job(move(driver.job(create(**fields)), RUNNING))


def at(driver: Driver, status: JobStatus) -> JobFields:
    """Return a new job in `status`."""
    job = driver.job(create())
    if status is AWAITING_PAYMENT:
        return job
    if status is FAILED:
        return driver.job(move(job, FAILED))
    job = driver.job(move(job, RUNNING))
    return job if status is RUNNING else driver.job(move(job, status))


def status_of(driver: Driver, job: JobFields) -> JobStatus:
    return driver.engine.context.state.jobs.get(job.job_id).status

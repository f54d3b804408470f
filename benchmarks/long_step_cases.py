"""The cases of `benchmarks.long_steps`: what clients, or time, can make the broker's loop do.

Each gets its jobs ready first, and then lets the steps be measured.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from datetime import timedelta
from typing import Any, Final

from benchmarks.long_steps import START, Acts, Bench, Case, case, settings_of
from tollgate.broker.core.roles import Principal, Role
from tollgate.broker.core.waiters import Parked
from tollgate.domain.commands import (
    Annotate,
    AnyCommand,
    Cancel,
    Claim,
    Count,
    Create,
    Events,
    Explain,
    Get,
    Hello,
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
    Stats,
    StopWaiting,
    Touch,
    Transition,
    Wait,
)
from tollgate.domain.results import Progress
from tollgate.domain.settlement import SettlementState
from tollgate.domain.status import (
    AWAITING_INPUT,
    COMPLETED,
    RUNNING,
    JobStatus,
)

HASH: Final = "0123456789abcdef" * 4
HOUR: Final = 3_600_000
PARKED: Final = {"parked": 20_000, "parked_share": 20_000}
NAMES: Final = [f"q{number:03}" for number in range(64)]
FILLED: Final = 1_000
"""Commands of a message."""


def with_settings(**settings: Any) -> Callable[[Case], Case]:  # noqa: ANN401 - of any kind
    """Set settings of a case's broker."""

    def add(acts: Case) -> Case:
        settings_of[acts] = settings
        return acts

    return add


def an_id(number: int) -> str:
    return f"{number:08x}-1111-4000-8000-000000000000"


def new(bench: Bench, jobs: int, *, first: int = 0, size: int = 800, **fields: Any) -> Acts:  # noqa: ANN401 - of `Create`
    """Create jobs with ids in a row."""
    for start in range(first, first + jobs, 100_000):
        some = range(start, min(first + jobs, start + 100_000))
        yield from bench.ask_all(
            [Create(input_hash=HASH, job_id=an_id(number), **fields) for number in some], size
        )


def move(bench: Bench, jobs: int, target: JobStatus = RUNNING, *, first: int = 0) -> Acts:
    for start in range(first, first + jobs, 100_000):
        some = range(start, min(first + jobs, start + 100_000))
        yield from bench.ask_all(
            [Transition(job_id=an_id(number), target=target) for number in some]
        )


def claim(limit: int = 1, wait_ms: int = 0, **fields: Any) -> Claim:  # noqa: ANN401 - of `Claim`
    if "settlement" not in fields:
        fields.setdefault("status", RUNNING)
    fields.setdefault("lease_ms", HOUR)
    return Claim(wait_ms=wait_ms, limit=limit, **fields)


def grants(bench: Bench, jobs: int, **fields: Any) -> Generator[None, None, list[Any]]:  # noqa: ANN401 - of `Claim`
    """Claim jobs, a thousand at a time; return the grants."""
    got: list[Any] = []
    while len(got) < jobs:
        (result,) = yield from bench.ask(claim(min(1_000, jobs - len(got)), **fields))
        got += result.leases
    return got


# --- parked commands ------------------------------------------------------------------------------


@case("7,000 waits for one job end together")
@with_settings(**PARKED)
def waits(bench: Bench) -> Acts:
    yield from new(bench, 2)
    wait = Wait(job_ids=[an_id(0)], timeout_ms=HOUR)
    yield from bench.park(lambda _: wait, 7_000)
    bench.measure()
    yield from bench.ask(Cancel(job_id=an_id(0)))
    yield from bench.until(lambda: not bench.core.waiters.parked and not bench.core.answers)


@case("7,000 waits for one job, another has ended")
@with_settings(**PARKED)
def others_wait(bench: Bench) -> Acts:
    yield from new(bench, 2)
    ends = Wait(job_ids=[an_id(0)], timeout_ms=HOUR)
    yield from bench.park(lambda _: ends, 7_000)
    bench.measure()
    yield from bench.ask(Transition(job_id=an_id(0), target=RUNNING))


@case("7,000 waits time out together")
@with_settings(**PARKED)
def waits_end(bench: Bench) -> Acts:
    yield from new(bench, 2)
    wait = Wait(job_ids=[an_id(0)], timeout_ms=HOUR)
    yield from bench.park(lambda _: wait, 7_000)
    bench.measure()
    bench.pass_ms(HOUR)
    yield from bench.until(lambda: not bench.core.waiters.parked and not bench.core.answers)


@case("900 waits for 1,000 jobs each end together")
@with_settings(**PARKED)
def wide_waits(bench: Bench) -> Acts:
    yield from new(bench, 1_000)
    wait = Wait(job_ids=[an_id(number) for number in range(1_000)], timeout_ms=HOUR)
    yield from bench.park(lambda _: wait, 700)
    bench.measure()
    yield from bench.ask(Cancel(job_id=an_id(0)))
    yield from bench.until(lambda: not bench.core.waiters.parked and not bench.core.answers)


def parked_claims(bench: Bench, many: int) -> Acts:
    yield from bench.park(lambda _: claim(wait_ms=HOUR, queues=NAMES), many)


def own(bench: Bench) -> Principal:
    parked: Parked = next(iter(bench.core.waiters.parked.values()))
    return parked.ticket.principal


@case("2,000 claims of 64 queues are parked")
@with_settings(**PARKED)
def park(bench: Bench) -> Acts:
    bench.measure()
    yield from parked_claims(bench, 2_000)


@case("expel: the key of 2,000 parked claims of 64 queues goes")
@with_settings(**PARKED)
def expel_claims(bench: Bench) -> Acts:
    yield from parked_claims(bench, 2_000)
    bench.measure()
    yield from bench.expel(own(bench))
    yield from bench.until(lambda: not bench.core.waiters.parked and not bench.core.answers)


@case("expel: a key goes; 10,000 claims of others are parked")
@with_settings(**PARKED)
def expel_unknown(bench: Bench) -> Acts:
    yield from bench.park(lambda _: claim(wait_ms=HOUR), 10_000)
    bench.measure()
    yield from bench.expel(Principal("nobody", frozenset({Role.WORKER}), key="none"))
    yield from bench.idle()


@case("drain: the broker leaves, with 10,000 parked claims")
@with_settings(**PARKED)
def drain(bench: Bench) -> Acts:
    yield from bench.park(lambda _: claim(wait_ms=HOUR), 10_000)
    bench.measure()
    bench.measures_leaving = True


@case("stop_waiting of 10,000 numbers, 10,000 claims parked")
@with_settings(**PARKED)
def stop_waiting(bench: Bench) -> Acts:
    (_,) = yield from bench.ask(Count())
    first = bench.last_seq + 1
    yield from bench.park(lambda _: claim(wait_ms=HOUR), 10_000, peers=1)
    bench.measure()
    for start in (0, 5_000):
        numbers = range(first + start, first + start + 5_000)
        yield from bench.ask(
            *[
                StopWaiting(seqs=[*numbers[begin : begin + 1_000]])
                for begin in range(0, 5_000, 1_000)
            ],
            peer=1,
        )
    yield from bench.until(lambda: not bench.core.waiters.parked and not bench.core.answers)


@case("stop_waiting of 2,000 claims of 64 queues")
@with_settings(**PARKED)
def stop_wide(bench: Bench) -> Acts:
    (_,) = yield from bench.ask(Count())
    first = bench.last_seq + 1
    yield from bench.park(lambda _: claim(wait_ms=HOUR, queues=NAMES), 2_000, peers=1)
    bench.measure()
    numbers = range(first, first + 2_000)
    yield from bench.ask(
        StopWaiting(seqs=[*numbers[:1_000]]), StopWaiting(seqs=[*numbers[1_000:]]), peer=1
    )
    yield from bench.until(lambda: not bench.core.waiters.parked and not bench.core.answers)


@case("7,000 parked claims, when their queue is resumed")
@with_settings(**PARKED)
def resumed_claims(bench: Bench) -> Acts:
    yield from new(bench, 8_000)
    yield from move(bench, 8_000)
    yield from bench.ask(PauseQueue(queue="default"))
    yield from bench.park(lambda _: claim(wait_ms=HOUR), 7_000)
    bench.measure()
    yield from bench.ask(ResumeQueue(queue="default"))
    yield from bench.until(lambda: not bench.core.waiters.parked)


@case("2,000 parked claims of 64 queues get a job each")
@with_settings(**PARKED)
def wide_claims(bench: Bench) -> Acts:
    yield from new(bench, 2_000, queue=NAMES[63])
    yield from parked_claims(bench, 2_000)
    bench.measure()
    yield from move(bench, 2_000)
    yield from bench.until(lambda: not bench.core.waiters.parked)


@case("10,000 readers of events follow, one job moves")
@with_settings(**PARKED)
def readers(bench: Bench) -> Acts:
    yield from new(bench, 2)
    yield from bench.park(lambda _: Events(wait_ms=HOUR), 10_000)
    bench.measure()
    yield from bench.ask(Transition(job_id=an_id(0), target=RUNNING))
    while bench.core.waiters.parked:
        bench.pass_ms(20)
        yield


@case("2,000 readers of 1,000 jobs each, none of them moves")
@with_settings(**PARKED)
def choosy_readers(bench: Bench) -> Acts:
    yield from new(bench, 2_100)
    ids = [an_id(number) for number in range(1_100)]
    yield from bench.park(
        lambda number: Events(wait_ms=HOUR, job_ids=ids[number % 100 :][:1_000]), 2_000
    )
    bench.measure()
    yield from move(bench, 1_000, first=1_100)
    for _ in range(200):
        bench.pass_ms(20)
        yield


# --- messages as large as they may be -------------------------------------------------------------


@case("a message of 650 claims of 64 queues")
def claims_of_queues(bench: Bench) -> Acts:
    yield from new(bench, 1)
    bench.measure()
    for _ in range(5):
        yield from bench.ask(*[claim(queues=NAMES)] * 650)


@case("a message of 650 claims of 64 queues that exist")
def claims_of_real_queues(bench: Bench) -> Acts:
    yield from bench.ask_all([Create(input_hash=HASH, queue=name) for name in NAMES])
    bench.measure()
    for _ in range(5):
        yield from bench.ask(*[claim(queues=NAMES)] * 650)


@case("a message of 650 reads of events of 64 queues")
def reads_of_queues(bench: Bench) -> Acts:
    yield from new(bench, 1)
    bench.measure()
    for _ in range(5):
        yield from bench.ask(*[Events(queues=NAMES)] * 650)


@case("a message of 6 claims and 6 waits of 1,000 jobs each")
def claims_of_jobs(bench: Bench) -> Acts:
    yield from new(bench, 1_000)
    yield from move(bench, 1_000)
    ids = [an_id(number) for number in range(1_000)]
    bench.measure()
    yield from bench.ask(*[claim(1_000, job_ids=ids)] * 6)
    yield from bench.ask(Wait(job_ids=ids, timeout_ms=0))


@case("a message of 1 MiB, refused")
def refused(bench: Bench) -> Acts:
    yield from new(bench, 1)
    bench.measure()
    for text in ("x" * 200, None):
        command = Create(input_hash=HASH, input=text)
        bench.send(*[command] * (1_048_000 // (300 if text else 90)))
        yield from bench.idle(20)


@case("a message that is no request, 1 MiB")
def no_request(bench: Bench) -> Acts:
    yield from new(bench, 1)
    bench.measure()
    for byte in (b"\x91", b"\x81", b"\xc1", b"\xff", b"\x00"):
        bench.send_frame(byte * 1_000_000)
        yield from bench.idle(10)


def largest(name: str) -> Iterator[Sequence[AnyCommand]]:  # noqa: C901, PLR0912 - one branch a kind
    """Yield the largest messages of each kind; jobs 0 to 999 run, 1,000 to 1,999 await payment."""
    running = [an_id(number) for number in range(FILLED)]
    unpaid = [an_id(number) for number in range(FILLED, 2 * FILLED)]
    text, reason = "x" * 150, "r" * 180
    later = START + timedelta(days=30)
    if name == "create":
        rest: dict[str, Any] = {
            "queue": "q", "priority": 3, "not_before": later, "settle": True, "meta": "m",
        }  # fmt: skip
        for first in (10_000, 11_000):
            yield [
                Create(input_hash=HASH, input="i", job_id=an_id(first + n), **rest)
                for n in range(FILLED)
            ]
    elif name == "cancel":
        yield [Cancel(job_id=job_id) for job_id in unpaid]
    elif name == "hold and resume":
        for _ in range(3):
            yield [Hold(job_id=job_id, reason=reason) for job_id in running]
            yield [Resume(job_id=job_id) for job_id in running]
    elif name == "request_stop":
        yield [RequestStop(job_id=job_id, reason=reason) for job_id in running]
    elif name == "annotate":
        yield [Annotate(job_id=job_id, meta=text) for job_id in running]
    elif name == "question and answer":
        for version in (2, 4, 6):
            yield [
                Transition(job_id=job_id, target=AWAITING_INPUT, input_schema=text)
                for job_id in running
            ]
            yield [
                ProvideInput(job_id=job_id, input=text, expected_version=version + 1)
                for job_id in running
            ]
    elif name == "complete":
        yield [Transition(job_id=job_id, target=COMPLETED, result=text) for job_id in running]
    elif name == "get":
        yield [Get(job_id=job_id, lease=True) for job_id in running]
    elif name == "history":
        yield [History(job_id=job_id) for job_id in running]
    elif name == "explain":
        yield [Explain(job_id=job_id) for job_id in reversed(running)]
    elif name == "count":
        yield [Count()] * FILLED
        yield [Count(queue=f"q{number}") for number in range(FILLED)]
    elif name == "list":
        yield [List(limit=1_000)] * FILLED
        yield [List(limit=17)] * FILLED
        yield [List(limit=1_000, status=COMPLETED)] * FILLED
        yield [List(limit=1_000, newest=True, lease=True)] * FILLED
    elif name == "stats":
        yield [Stats()] * FILLED
        yield [Stats(queue=f"q{number}") for number in range(FILLED)]
    elif name == "events":
        yield [Events()] * FILLED
        yield [Events(job_ids=running[:1_000])] * 6
    elif name == "hello":
        yield [Hello(open_session=True, client="c" * 64)] * FILLED
    elif name == "pause and resume":
        queues = [f"queue-{number}" for number in range(FILLED)]
        yield [PauseQueue(queue=queue) for queue in queues]
        yield [ResumeQueue(queue=queue) for queue in queues]


def add_largest(name: str) -> None:
    @case(f"1,000 commands of a kind: {name}")
    def acts(bench: Bench) -> Acts:
        yield from new(bench, 2_000, size=200, input="x" * 1_000)
        yield from move(bench, 1_000)
        bench.measure()
        for commands in largest(name):
            yield from bench.ask(*commands)


for _name in (
    "create", "cancel", "hold and resume", "request_stop", "annotate", "question and answer",
    "complete", "get", "history", "explain", "count", "list", "stats", "events", "hello",
    "pause and resume",
):  # fmt: skip
    add_largest(_name)


@case("1,000 leases touched with progress, then released")
def touched(bench: Bench) -> Acts:
    yield from new(bench, 1_000)
    yield from move(bench, 1_000)
    got = yield from grants(bench, 1_000)
    progress = Progress("p" * 120, 0.5)
    bench.measure()
    yield from bench.ask(
        *[
            Touch(job_id=each.job.job_id, lease=each.lease, lease_ms=HOUR, progress=progress)
            for each in got
        ]
    )
    yield from bench.ask(
        *[Touch(job_id=each.job.job_id, lease=each.lease, lease_ms=60_000) for each in got]
    )
    yield from bench.ask(
        *[
            Release(job_id=each.job.job_id, lease=each.lease, delay_ms=1_000, reason="r" * 100)
            for each in got
        ]
    )


@case("1,000 settlements claimed one by one, and settled")
def settlements(bench: Bench) -> Acts:
    yield from new(bench, 3_000, settle=True)
    yield from move(bench, 3_000)
    yield from move(bench, 3_000, COMPLETED)
    wanted = claim(settlement=SettlementState.WANTED)
    bench.measure()
    got = yield from bench.ask(*[wanted] * 1_000)
    leases = [result.leases[0] for result in got if getattr(result, "leases", None)]
    yield from bench.ask(
        *[
            Settle(
                job_id=each.job.job_id, lease=each.lease, to=SettlementState.SUBMITTED,
                result_hash=HASH, reason="r" * 40, on_chain_state="FundsLocked",
            )
            for each in leases
        ]
    )  # fmt: skip
    yield from bench.ask(claim(1_000, settlement=SettlementState.WANTED))


@case("repeat of 1,000 creations")
def repeat_creations(bench: Bench) -> Acts:
    (hello,) = yield from bench.ask(Hello(open_session=True))
    commands = [Create(input_hash=HASH, input="x" * 140) for _ in range(1_000)]
    how = {"session": hello.session, "seq": 1}
    yield from bench.ask(*commands, **how)
    bench.measure()
    for _ in range(5):
        yield from bench.ask(*commands, **how)


@case("repeat of 1,000 moves of jobs with long texts")
def repeat_moves(bench: Bench) -> Acts:
    (hello,) = yield from bench.ask(Hello(open_session=True))
    yield from bench.ask_all(
        [Create(input_hash=HASH, job_id=an_id(n), input="x" * 3_000) for n in range(1_000)], 50
    )
    commands = [Transition(job_id=an_id(n), target=RUNNING) for n in range(1_000)]
    how = {"session": hello.session, "seq": 1}
    yield from bench.ask(*commands, **how)
    yield from move(bench, 1_000, COMPLETED)
    bench.measure()
    for _ in range(5):
        yield from bench.ask(*commands, **how)


@case("repeat of 1,000 claims, and of a claim of 1,000 jobs")
def repeat_claims(bench: Bench) -> Acts:
    (hello,) = yield from bench.ask(Hello(open_session=True))
    yield from new(bench, 3_000, size=300, input="x" * 500)
    yield from move(bench, 3_000)
    one, many = {"session": hello.session, "seq": 1}, {"session": hello.session, "seq": 2}
    yield from bench.ask(*[claim()] * 1_000, **one)
    yield from bench.ask(claim(1_000), **many)
    bench.measure()
    for _ in range(5):
        yield from bench.ask(*[claim()] * 1_000, **one)
        yield from bench.ask(claim(1_000), **many)


@case("repeat of 1,000 refusals")
def repeat_refusals(bench: Bench) -> Acts:
    (hello,) = yield from bench.ask(Hello(open_session=True))
    how = {"session": hello.session, "seq": 1}
    commands: list[AnyCommand] = [
        Create(input_hash=HASH),
        *[Cancel(job_id=an_id(number)) for number in range(999)],
    ]
    yield from bench.ask(*commands, **how)
    bench.measure()
    for _ in range(5):
        yield from bench.ask(*commands, **how)

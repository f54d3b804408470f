"""More cases of `benchmarks.long_steps`: many jobs that are due together, and many jobs at all."""

from datetime import timedelta

from benchmarks.long_step_cases import (
    HASH,
    HOUR,
    an_id,
    claim,
    grants,
    move,
    new,
    with_settings,
)
from benchmarks.long_steps import START, Acts, Bench, case
from tollgate.domain.commands import (
    Annotate,
    Cancel,
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
    Resume,
    ResumeQueue,
    Stats,
    Transition,
)
from tollgate.domain.settlement import SettlementState
from tollgate.domain.status import (
    AWAITING_INPUT,
    AWAITING_PAYMENT,
    COMPLETED,
    RUNNING,
    JobStatus,
)

# --- time ---------------------------------------------------------------------------------------


@case("all jobs are due in one millisecond: not paid")
def unpaid(bench: Bench) -> Acts:
    yield from new(bench, bench.jobs, pay_by_time=START + timedelta(hours=1))
    bench.measure()
    bench.pass_ms(2 * HOUR)
    yield from bench.until(lambda: not bench.core.state.jobs.count(AWAITING_PAYMENT))
    yield from bench.idle()


@case("all jobs are due in one millisecond: not finished")
def unfinished(bench: Bench) -> Acts:
    yield from new(bench, bench.jobs, submit_result_time=START + timedelta(hours=1))
    yield from move(bench, bench.jobs)
    bench.measure()
    bench.pass_ms(2 * HOUR)
    yield from bench.until(lambda: not bench.core.state.jobs.count(RUNNING))


@case("all were due, but had finished before")
def settled_deadlines(bench: Bench) -> Acts:
    yield from new(bench, bench.jobs, submit_result_time=START + timedelta(hours=1))
    yield from move(bench, bench.jobs)
    yield from move(bench, bench.jobs, COMPLETED)
    bench.measure()
    bench.pass_ms(2 * HOUR)
    yield from bench.idle(200)


@case("half as many leases lapse together")
def lapses(bench: Bench) -> Acts:
    half = bench.jobs // 2
    yield from new(bench, half)
    yield from move(bench, half)
    yield from grants(bench, half, lease_ms=60_000)
    bench.measure()
    bench.pass_ms(61_000)
    yield from bench.until(lambda: not bench.core.state.jobs.leased)
    yield from bench.ask(claim(1_000))


@case("all jobs are delayed, and due together; then claimed")
def delays(bench: Bench) -> Acts:
    yield from new(bench, bench.jobs, not_before=START + timedelta(hours=1))
    yield from move(bench, bench.jobs)
    yield from bench.park(lambda _: claim(100, wait_ms=10 * HOUR // 10), 200)
    bench.measure()
    bench.pass_ms(HOUR - 1_000)
    yield from bench.idle()
    bench.pass_ms(1_000)
    yield from bench.idle(50)
    for _ in range(50):
        yield from bench.ask(claim(1_000))
    yield from new(bench, 1_000, first=bench.jobs)
    yield from move(bench, 1_000, first=bench.jobs)


@case("all finished jobs are removed, 200 a step")
def prune(bench: Bench) -> Acts:
    yield from new(bench, bench.jobs, input="x" * 40)
    yield from bench.ask_all([Cancel(job_id=an_id(number)) for number in range(bench.jobs)])
    bench.measure()
    bench.pass_ms(7 * 24 * HOUR)
    bench.pass_ms(10_000)
    yield from bench.until(lambda: not bench.core.state.jobs.stored)


@case("the first claim behind jobs that ended without claims")
def stale(bench: Bench) -> Acts:
    yield from new(bench, bench.jobs)
    yield from move(bench, bench.jobs)
    yield from bench.ask(Count(), claim())
    yield from bench.ask_all(
        [Transition(job_id=an_id(n), target=COMPLETED) for n in range(bench.jobs - 10, 0, -1)]
    )
    bench.measure()
    yield from bench.ask(claim())
    yield from bench.ask(Count())
    yield from bench.ask(claim(1_000))


# --- many jobs, queues and sessions ---------------------------------------------------------------


@case("create, move, claim, complete: single and 100 a message")
def life(bench: Bench) -> Acts:
    bench.measure()
    for first in range(0, bench.jobs, 10_000):
        ids = [an_id(number) for number in range(first, first + 10_000)]
        yield from bench.ask_all([Create(input_hash=HASH, job_id=each) for each in ids], 100)
        yield from bench.ask_all([Transition(job_id=each, target=RUNNING) for each in ids], 100)
        for _ in range(25):
            (granted,) = yield from bench.ask(claim(200))
            yield from bench.ask(
                *[
                    Transition(job_id=each.job.job_id, target=COMPLETED, lease=each.lease)
                    for each in granted.leases
                ]
            )


@case("the same with a journal, synced, and snapshots going on")
@with_settings(fsync="always", segment_bytes=4 * 2**20)
def kept_life(bench: Bench) -> Acts:
    yield from life(bench)


@case("pausing and resuming a queue of all jobs")
def pauses(bench: Bench) -> Acts:
    yield from new(bench, bench.jobs)
    yield from move(bench, bench.jobs)
    yield from bench.park(lambda _: claim(1_000, wait_ms=HOUR, queues=["other"]), 100)
    bench.measure()
    for _ in range(50):
        yield from bench.ask(PauseQueue(queue="default"))
        yield from bench.ask(ResumeQueue(queue="default"))
        yield from bench.ask(claim())


@case("1,000 queues are made and emptied")
def queues(bench: Bench) -> Acts:
    yield from new(bench, 10)
    names = [f"queue-{number}" for number in range(990)]
    bench.measure()
    for turn in range(3):
        ids = [an_id(10_000 * (turn + 1) + number) for number in range(990)]
        yield from bench.ask(
            *[
                Create(input_hash=HASH, job_id=job_id, queue=name)
                for job_id, name in zip(ids, names, strict=True)
            ]
        )
        yield from bench.ask(*[Transition(job_id=job_id, target=RUNNING) for job_id in ids])
        yield from bench.ask(*[claim(queues=["*"])] * 990)
        yield from bench.ask(Stats())
        yield from bench.ask(Count(), List(limit=1_000), List(limit=1_000, newest=True))
        yield from bench.ask(
            *[
                Transition(job_id=job_id, target=COMPLETED, force=True, expected_version=2)
                for job_id in ids
            ]
        )
        bench.pass_ms(8 * 24 * HOUR)
        yield from bench.until(lambda: len(bench.core.state.jobs.queues.by_name) < 2)


@case("one claim and one count of 990 queues with stale lines")
def wide(bench: Bench) -> Acts:
    names = [f"queue-{number}" for number in range(990)]
    for turn in range(20):
        yield from bench.ask_all(
            [
                Create(input_hash=HASH, job_id=an_id(1_000 * turn + n), queue=name)
                for n, name in enumerate(names)
            ]
        )
    ids = [an_id(1_000 * turn + n) for turn in range(20) for n in range(990)]
    yield from bench.ask_all([Transition(job_id=job_id, target=RUNNING) for job_id in ids])
    yield from bench.ask_all(
        [Transition(job_id=job_id, target=COMPLETED) for job_id in reversed(ids)]
    )
    bench.measure()
    yield from bench.ask(claim(queues=["*"]))
    yield from bench.ask(Count())
    yield from bench.ask(claim(queues=["*"], wait_ms=1_000), peer=1)


@case("count and list, with each filter")
def lists(bench: Bench) -> Acts:
    yield from new(bench, bench.jobs)
    yield from move(bench, bench.jobs // 2)
    yield from bench.ask_all([Cancel(job_id=an_id(bench.jobs - n)) for n in range(1, 5_000)])
    bench.measure()
    for newest in (False, True):
        for fields in (
            {}, {"status": AWAITING_PAYMENT}, {"status": RUNNING}, {"status": COMPLETED},
            {"status": JobStatus.FAILED}, {"settlement": SettlementState.WANTED},
            {"queue": "default"}, {"queue": "none"}, {"lease": True},
        ):  # fmt: skip
            after: str | None = None
            for _ in range(5):
                (page,) = yield from bench.ask(
                    List(limit=1_000, newest=newest, after=after, **fields)
                )
                after = page.next
                if after is None:
                    break
    for status in (None, *JobStatus):
        yield from bench.ask(Count(status=status), Count(status=status, queue="default"))


@case("stats, with half of the jobs leased, some on hold and delayed")
def stats(bench: Bench) -> Acts:
    half = bench.jobs // 2
    yield from new(bench, half)
    yield from new(bench, half, first=half, not_before=START + timedelta(days=1))
    yield from move(bench, bench.jobs)
    yield from grants(bench, half - 10_000)
    yield from bench.ask_all([Hold(job_id=an_id(half - n)) for n in range(1, 8_000)])
    bench.measure()
    for _ in range(5):
        yield from bench.ask(Stats())
    yield from bench.ask(Explain(job_id=an_id(bench.jobs - 1)))
    yield from bench.ask(Explain(job_id=an_id(half - 1)))


@case("100,000 events read, and explain of the last job")
def reading(bench: Bench) -> Acts:
    yield from new(bench, bench.jobs, input="x" * 40)
    yield from move(bench, bench.jobs)
    yield from bench.idle(300)
    bench.measure()
    feed = bench.core.state.feed
    after = bench.core.position(feed.oldest)
    while True:
        (read,) = yield from bench.ask(Events(after=after, texts=True))
        if not read.events:
            break
        after = read.next
    after = bench.core.position(feed.oldest)
    for _ in range(20):  # nothing fits
        (read,) = yield from bench.ask(Events(after=after, job_ids=[an_id(0)], wait_ms=0))
        after = read.next
    yield from bench.ask(Explain(job_id=an_id(bench.jobs - 1)))


@case("100,000 sessions are opened, and evicted")
@with_settings(outcomes=64_000, sessions=200_000)
def sessions(bench: Bench) -> Acts:
    numbers: list[int] = []
    while len(numbers) < 60_000:
        opened = yield from bench.ask(*[Hello(open_session=True)] * 1_000)
        numbers += [each.session for each in opened]
    for number in numbers[:-1]:
        bench.send(Create(input_hash=HASH), session=number, seq=1)
        if number % 50 == 0:
            yield
    yield from bench.until(lambda: bench.core.state.jobs.stored >= len(numbers) - 1)
    bench.measure()
    yield from bench.ask(*[Create(input_hash=HASH)] * 900, session=numbers[-1], seq=1)
    for seq in range(2, 8):
        yield from bench.ask(*[claim(1)] * 4, session=numbers[-1], seq=seq, acked=seq - 1)


@case("500 jobs with 64 long entries and 30 rounds: get, list, move")
def long_jobs(bench: Bench) -> Acts:
    yield from new(bench, 500)
    yield from move(bench, 500)
    version = 2
    for _ in range(30):
        yield from bench.ask_all(
            [Transition(job_id=an_id(n), target=AWAITING_INPUT, input_schema="q" * 100)
             for n in range(500)]
        )  # fmt: skip
        yield from bench.ask_all(
            [ProvideInput(job_id=an_id(n), input="a" * 100, expected_version=version + 1)
             for n in range(500)], 100
        )  # fmt: skip
        version += 2
    bench.measure()
    yield from bench.ask(*[Get(job_id=an_id(n)) for n in range(500)])
    yield from bench.ask(*[List(limit=1_000)] * 4)
    yield from bench.ask(*[History(job_id=an_id(n)) for n in range(500)])
    yield from bench.ask(*[Hold(job_id=an_id(n), reason="r" * 100) for n in range(500)])
    yield from bench.ask(*[Resume(job_id=an_id(n)) for n in range(500)])
    yield from bench.ask(*[Annotate(job_id=an_id(n), meta="m" * 200) for n in range(500)])
    yield from bench.ask(*[Transition(job_id=an_id(n), target=COMPLETED) for n in range(500)])

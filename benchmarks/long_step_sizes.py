"""More cases of `benchmarks.long_steps`: what may be large besides the number of jobs.

Sessions with many outcomes, texts, files of the journal, dicts that grow, many keys, and much that
comes at the same moment.
"""

import random
import time
from base64 import b85encode
from collections.abc import Callable, Generator
from datetime import timedelta
from typing import Final

from benchmarks.long_step_cases import (
    HASH,
    HOUR,
    PARKED,
    an_id,
    claim,
    grants,
    move,
    new,
    own,
    with_settings,
)
from benchmarks.long_steps import START, Acts, Bench, case
from tollgate.broker.core.request_log import FREED_MAX
from tollgate.broker.core.roles import Principal, Role
from tollgate.broker.repository.listing import GATHER_COST, SCAN_JOBS_MAX
from tollgate.domain.commands import (
    AnyCommand,
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
    Resume,
    Stats,
    Transition,
    Wait,
)
from tollgate.domain.messages import WINDOW
from tollgate.domain.status import AWAITING_INPUT, COMPLETED, RUNNING

DAY: Final = 24 * HOUR
A_MESSAGE: Final = 1_000
"""Commands of a message."""


# --- sessions -------------------------------------------------------------------------------------


def fill_session(bench: Bench, number: int) -> Acts:
    """Send as many commands in a session as it may have outcomes of: none is acknowledged."""
    refused = [Cancel(job_id=an_id(each)) for each in range(A_MESSAGE)]
    for seq in range(1, WINDOW + 1):
        yield from bench.ask(*refused, session=number, seq=seq)


def open_sessions(bench: Bench, many: int) -> Generator[None, None, list[int]]:
    opened = yield from bench.ask(*[Hello(open_session=True)] * many)
    return [each.session for each in opened]


@case("64,000 outcomes are acknowledged at once")
def acknowledged(bench: Bench) -> Acts:
    numbers = yield from open_sessions(bench, 3)
    for number in numbers:
        yield from fill_session(bench, number)
    bench.measure()
    for number in numbers:
        yield from bench.ask(Count(), session=number, seq=WINDOW + 1, acked=WINDOW)
        yield from bench.ask(Cancel(job_id=an_id(0)), session=number, seq=WINDOW + 2, acked=WINDOW)


@case("as many grants as there are jobs are acknowledged at once")
def acknowledged_grants(bench: Bench) -> Acts:
    (number,) = yield from open_sessions(bench, 1)
    jobs = min(bench.jobs, 900_000)
    yield from new(bench, jobs)
    yield from move(bench, jobs)
    share = jobs // WINDOW
    for seq in range(1, WINDOW + 1):
        sizes = [A_MESSAGE] * (share // A_MESSAGE) + [share % A_MESSAGE or 1]
        yield from bench.ask(*map(claim, sizes), session=number, seq=seq)
    bench.measure()
    yield from bench.ask(Cancel(job_id=an_id(0)), session=number, seq=WINDOW + 1, acked=WINDOW)
    for _ in range(jobs // FREED_MAX + 1):
        yield from bench.ask(Count())


@case("15 sessions of 64,000 outcomes each are evicted")
def evicted(bench: Bench) -> Acts:
    numbers = yield from open_sessions(bench, 16)
    for number in numbers[1:]:
        yield from fill_session(bench, number)
    bench.measure()
    yield from bench.ask(*[claim(A_MESSAGE)] * A_MESSAGE, session=numbers[0], seq=1)


@case("960 sessions of 1,000 outcomes each are evicted")
def many_evicted(bench: Bench) -> Acts:
    numbers = yield from open_sessions(bench, 961)
    refused = [Cancel(job_id=an_id(each)) for each in range(A_MESSAGE)]
    for number in numbers[1:]:
        yield from bench.ask(*refused, session=number, seq=1)
    bench.measure()
    yield from bench.ask(*[claim(A_MESSAGE)] * A_MESSAGE, session=numbers[0], seq=1)


@case("15 sessions of 64,000 outcomes each are evicted, by hellos")
@with_settings(sessions=16)
def evicted_by_hello(bench: Bench) -> Acts:
    numbers = yield from open_sessions(bench, 15)
    for number in numbers:
        yield from fill_session(bench, number)
    bench.measure()
    yield from bench.ask(*[Hello(open_session=True)] * 20)
    for _ in range(20):
        yield from bench.ask(Hello(open_session=True))


# --- claims of many jobs --------------------------------------------------------------------------


@case("messages of 20 claims of 1,000 jobs each")
def wide_messages(bench: Bench) -> Acts:
    jobs = min(bench.jobs, 200_000)
    yield from new(bench, jobs)
    yield from move(bench, jobs)
    bench.measure()
    for _ in range(0, jobs, 20 * A_MESSAGE):
        yield from bench.ask(*[claim(A_MESSAGE)] * 20)
    yield from bench.idle(50)  # the events are put into columns


@case("short messages that claim 1,000 jobs, and then rest")
def many_grants(bench: Bench) -> Acts:
    jobs = min(bench.jobs, 200_000)
    yield from new(bench, jobs)
    yield from move(bench, jobs)
    bench.measure()
    yield from bench.ask_all([claim(A_MESSAGE)] * (jobs // A_MESSAGE), 1)
    yield from bench.ask_all([Cancel(job_id=an_id(n)) for n in range(3_000)], 1_000)
    yield from new(bench, 1_000, first=jobs)
    yield from bench.idle(200)


# --- dicts that grow ------------------------------------------------------------------------------


@case("all jobs are put on hold, and resumed")
def held(bench: Bench) -> Acts:
    yield from new(bench, bench.jobs)
    bench.measure()
    yield from bench.ask_all([Hold(job_id=an_id(n)) for n in range(bench.jobs)])
    yield from bench.ask_all([Resume(job_id=an_id(n)) for n in range(bench.jobs)])


@case("all jobs are leased, and all leases lapse")
def lapsed(bench: Bench) -> Acts:
    yield from new(bench, bench.jobs)
    yield from move(bench, bench.jobs)
    yield from grants(bench, bench.jobs, lease_ms=HOUR)
    bench.measure()
    bench.pass_ms(HOUR)
    yield from bench.until(lambda: len(bench.core.state.leases.lapses) == bench.jobs)


@case("1,000 jobs a wait, until all jobs are waited for")
@with_settings(**PARKED)
def watched(bench: Bench) -> Acts:
    jobs = min(bench.jobs, 750_000)
    yield from new(bench, jobs)
    bench.measure()
    yield from bench.park(
        lambda number: Wait(
            job_ids=[an_id(number * A_MESSAGE + n) for n in range(A_MESSAGE)], timeout_ms=HOUR
        ),
        jobs // A_MESSAGE,
    )
    bench.pass_ms(HOUR)
    yield from bench.until(lambda: not bench.core.waiters.parked and not bench.core.answers)


# --- much at the same moment ----------------------------------------------------------------------


@case("all at one moment: leases, deadlines, delays, waits, removals")
@with_settings(**PARKED)
def moment(bench: Bench) -> Acts:
    some = 3_000
    yield from new(bench, some)
    yield from bench.ask_all([Cancel(job_id=an_id(n)) for n in range(some)])
    bench.pass_ms(7 * DAY - HOUR)
    at = START + timedelta(days=7)
    yield from new(bench, some, first=some, pay_by_time=at - timedelta(minutes=5))
    yield from new(bench, some, first=2 * some, submit_result_time=at, settle=True)
    yield from new(bench, some, first=3 * some, submit_result_time=at + timedelta(days=1))
    yield from move(bench, 2 * some, first=2 * some)
    yield from grants(bench, 2 * some, lease_ms=HOUR)
    yield from new(bench, some, first=4 * some, not_before=at)
    yield from move(bench, some, first=4 * some)
    yield from bench.park(lambda _: Wait(job_ids=[an_id(some)], timeout_ms=HOUR), 3_000)
    bench.pass_ms(2_000)
    yield from bench.park(lambda _: claim(10, wait_ms=HOUR), 300)
    bench.measure()
    bench.pass_ms(HOUR - 1_000)
    yield from bench.idle(500)


@case("9,900 lines of 990 queues have a delayed job due together")
@with_settings(**PARKED)
def delayed_lines(bench: Bench) -> Acts:
    at = START + timedelta(hours=1)
    rows = [(f"queue-{n // 10}", n % 10) for n in range(9_900)]
    yield from bench.ask_all(
        [
            Create(input_hash=HASH, job_id=an_id(n), queue=name, priority=level, not_before=at)
            for n, (name, level) in enumerate(rows)
        ],
        500,
    )
    yield from move(bench, len(rows))
    bench.pass_ms(2_000)
    yield from bench.park(lambda _: claim(10, wait_ms=HOUR, queues=["*"]), 300)
    bench.measure()
    bench.pass_ms(HOUR - 1_000)
    yield from bench.idle(50)
    for _ in range(5):
        yield from bench.ask(claim(1_000, queues=["*"]))


@case("1,000 keys go at once, with 10,000 parked claims")
@with_settings(**PARKED)
def keys(bench: Bench) -> Acts:
    yield from bench.park(lambda _: claim(wait_ms=HOUR), 10_000)
    strangers = [
        Principal(f"key-{number}", frozenset({Role.WORKER}), key=f"{number}")
        for number in range(1_000)
    ]
    bench.measure()
    yield from bench.expel(*strangers, own(bench))
    yield from bench.until(lambda: not bench.core.waiters.parked and not bench.core.answers)


@case("replies of one command each, behind a slow sync")
@with_settings(fsync="always")
def slow_sync(bench: Bench) -> Acts:
    commit = bench.server._commit  # noqa: SLF001 - what waits is there
    sync = commit._journal.sync  # noqa: SLF001

    def late() -> None:
        time.sleep(0.05)
        sync()

    commit._journal.sync = late  # type: ignore[method-assign]  # noqa: SLF001
    bench.measure()
    for _ in range(3):
        keys = [bench.send(Create(input_hash=HASH), peer=n % 16) for n in range(3_000)]
        while not all(key in bench.answers for key in keys):
            yield
        bench.answers.clear()


# --- small messages, as many as a batch takes -----------------------------------------------------

SMALL: Final[dict[str, Callable[[int], AnyCommand]]] = {
    "get": lambda n: Get(job_id=an_id(n)),
    "history": lambda n: History(job_id=an_id(n)),
    "explain": lambda n: Explain(job_id=an_id(n)),
    "stats": lambda _: Stats(),
    "count": lambda _: Count(),
    "list": lambda _: List(limit=1_000),
    "events": lambda _: Events(),
    "hello": lambda _: Hello(open_session=True),
    "claim": lambda _: claim(queues=["*"]),
    "wait": lambda n: Wait(job_ids=[an_id(n)], timeout_ms=0),
}


def add_small(name: str, command: Callable[[int], AnyCommand]) -> None:
    @case(f"a batch of messages of one command: {name}")
    def acts(bench: Bench) -> Acts:
        jobs, ids = 400, range(400)
        names = [f"queue-{number}" for number in range(jobs)]
        yield from bench.ask_all(
            [Create(input_hash=HASH, job_id=an_id(n), queue=names[n]) for n in ids]
        )
        yield from move(bench, jobs)
        for _ in range(31):  # long histories
            yield from bench.ask_all([Hold(job_id=an_id(n), reason="r" * 100) for n in ids], 100)
            yield from bench.ask_all([Resume(job_id=an_id(n)) for n in ids], 100)
        for peer in range(8):
            yield from bench.ask(Count(), peer=peer)
        bench.measure()
        for _ in range(3):
            keys = [bench.send(command(n), peer=n % 8) for n in ids]
            while not all(key in bench.answers for key in keys):
                yield
            bench.answers.clear()


for _name, _command in SMALL.items():
    add_small(_name, _command)


# --- reads that look at much ----------------------------------------------------------------------


@case("pages of a status that 10,000 jobs entered in no order")
def mixed_pages(bench: Bench) -> Acts:
    jobs = GATHER_COST * SCAN_JOBS_MAX - 100
    yield from new(bench, jobs)
    yield from move(bench, jobs)
    places = random.Random(1).sample(range(jobs), jobs)
    yield from bench.ask_all([Transition(job_id=an_id(n), target=COMPLETED) for n in places])
    bench.measure()
    for newest in (False, True):
        after: str | None = None
        for _ in range(5):
            (page,) = yield from bench.ask(
                List(limit=1_000, status=COMPLETED, newest=newest, after=after)
            )
            after = page.next
    yield from bench.ask(*[List(limit=1, status=COMPLETED)] * A_MESSAGE)


@case("explain, with 5,000 leases and 5,000 parked claims")
@with_settings(**PARKED)
def explained(bench: Bench) -> Acts:
    yield from new(bench, 20_000)
    yield from move(bench, 20_000)
    yield from grants(bench, 10_000)
    yield from bench.ask_all([Hold(job_id=an_id(n)) for n in range(10_000, 20_000)])
    yield from bench.park(lambda _: claim(wait_ms=HOUR), 6_000)
    yield from bench.park(lambda _: claim(wait_ms=HOUR, status=AWAITING_INPUT), 1_000)
    bench.measure()
    for job in (0, 9_999, 10_000, 19_999):
        yield from bench.ask(Explain(job_id=an_id(job)))
        yield from bench.ask(*[Explain(job_id=an_id(job))] * 20)


@case("200 readers of a queue where nothing happens, 50,000 events behind")
@with_settings(**PARKED)
def readers_behind(bench: Bench) -> Acts:
    yield from new(bench, 50_000)
    yield from bench.park(lambda number: Events(wait_ms=HOUR, queues=[f"queue-{number}"]), 200)
    bench.measure()
    yield from move(bench, 50_000)
    for _ in range(500):
        bench.pass_ms(20)
        yield


# --- texts and files ------------------------------------------------------------------------------


@case("4,000 jobs with texts of 60,000 bytes are removed")
def large_texts(bench: Bench) -> Acts:
    jobs, text = 4_000, "x" * 60_000
    yield from new(bench, jobs, size=3, input=text)
    for moved in (
        [Transition(job_id=an_id(n), target=RUNNING) for n in range(jobs)],
        [Transition(job_id=an_id(n), target=COMPLETED, result=text) for n in range(jobs)],
    ):
        yield from bench.ask_all(moved, 3)  # a reply has room for a few such jobs
    bench.measure()
    bench.pass_ms(7 * DAY + 10_000)
    yield from bench.until(lambda: not bench.core.state.jobs.stored)


@case("compaction deletes 1,000 MB of segments, and such a snapshot")
@with_settings(fsync="always", text_bytes=250_000)
def compaction(bench: Bench) -> Acts:
    data = random.Random(1)
    texts = [b85encode(data.randbytes(160_000)).decode() for _ in range(50)]
    directory = bench.server._compactor._directory  # noqa: SLF001 - the files are there

    def snapshots() -> list[str]:
        return sorted(path.name for path in directory.glob("snapshot-*") if not path.suffix)

    def is_compacted() -> bool:
        bench.pass_ms(1_000)
        time.sleep(0.05)
        compactor = bench.server._compactor  # noqa: SLF001
        return compactor._child is None is compactor._deletion and bool(snapshots())  # noqa: SLF001

    bench.measure()
    for jobs in (range(5_000), range(5_000, 5_500)):
        before = snapshots()
        yield from bench.ask_all(
            [Create(input_hash=HASH, job_id=an_id(n), input=texts[n % 50]) for n in jobs], 1
        )
        while not is_compacted() or snapshots() == before:
            yield
    yield from bench.idle(50)

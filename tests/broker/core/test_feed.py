"""The feed of events: a replica made from it is what the broker lists, step by step."""

import tracemalloc
from typing import Any

import pytest

from tests.broker.core.pair import Pair, Script, Step
from tests.broker.core.restarts import entries, live_state, replayed, restart
from tests.broker.core.scripts import written
from tests.core import (
    ADMIN,
    AWAITING_INPUT,
    COMPLETED,
    FAILED,
    OTHER,
    PEER,
    RUNNING,
    Driver,
    claim,
    create,
    error_of_result,
    job_of,
    leases_of,
    move,
    running,
)
from tests.feed.replica import Jobs, Replica, differences, shown
from tests.sizes import sample
from tollgate.broker.core import event_commands
from tollgate.broker.core import feed as feed_module
from tollgate.broker.core.batch import Arrival
from tollgate.broker.core.event_columns import Column
from tollgate.broker.core.event_rows import HIDDEN, row_of
from tollgate.broker.core.feed import Feed
from tollgate.broker.core.replay import replay
from tollgate.broker.core.snapshot import snapshot_chunks
from tollgate.broker.core.state import State
from tollgate.broker.journal import SNAPSHOT_CHUNK, Entry
from tollgate.domain.commands import (
    Annotate,
    AnyCommand,
    Count,
    Events,
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
    StopWaiting,
    Touch,
)
from tollgate.domain.messages import Reply, Request, decode_answer, encode_request
from tollgate.domain.results import (
    AnyResult,
    ErrorResult,
    EventsResult,
    HelloResult,
    JobEvent,
    JobsResult,
    Progress,
    Result,
)

SEEDS = range(30_000, 30_000 + sample(12, 200))
EYE = b"\x00eye"


def look(driver: Driver, command: AnyCommand) -> AnyResult:
    """Ask beside the script: nothing changes, and no number of the script is used up."""
    frame = encode_request(Request(1, 0, 1, 0, [command]))
    arrivals = [Arrival(EYE, [frame], ADMIN)]
    output = driver.pipeline.run(arrivals, driver.now, writable=driver.writable)
    driver.records += output.records
    (answer,) = [decode_answer(reply.frame) for reply in output.replies if reply.peer == EYE]
    assert isinstance(answer, Reply)
    return answer.results[0]


def listed(driver: Driver) -> JobsResult:
    page = look(driver, List(limit=1_000))
    assert isinstance(page, JobsResult)
    return page


def jobs_of(page: JobsResult) -> Jobs:
    return {job.job_id: shown(job) for job in page.jobs}


def read(driver: Driver, **fields: Any) -> EventsResult:
    result = look(driver, Events(**fields))
    assert isinstance(result, EventsResult), result
    return result


def read_all(driver: Driver, after: str, **fields: Any) -> tuple[list[JobEvent], str]:
    """Read on until everything is read; return the events, and the position after them."""
    events: list[JobEvent] = []
    while True:
        result = read(driver, after=after, **fields)
        events += result.events
        after = result.next
        if after == result.as_of:
            return events, after


class Followed(Pair):
    """Holds, after each step, a replica made from events against the jobs that there are."""

    def __init__(self, limit: int = 3) -> None:
        self.limit = limit
        self.replica: Replica | None = None
        self.kinds: set[str] = set()
        super().__init__()

    def do(self, step: Step) -> None:
        super().do(step)
        if step["do"] == "drain":
            return
        if self.driver.writable:
            self.do_pass({"ms": 0})  # nothing is due while it reads
        page = listed(self.driver)
        if self.replica is None or step["do"] == "restore" or self.has_lost(step):
            self.replica, self.after = Replica(page.jobs), page.as_of or ""
            return
        events, self.after = read_all(self.driver, self.after, limit=self.limit)
        self.kinds |= {event.what for event in events}
        self.replica.apply_all(events)
        assert differences(self.replica.jobs, jobs_of(page)) == []

    def has_lost(self, step: Step) -> bool:
        """Return whether a restart's snapshot is of later records than those that were read."""
        oldest, _ = self.driver.engine.context.state.feed.oldest
        if step["do"] != "restart" or int(self.after.rsplit("-", 2)[1]) >= oldest:
            return False
        assert oldest <= 1 + round(step["middle"] * len(self.driver.records))
        gone(look(self.driver, Events(after=self.after)))
        return True


def test_a_replica_is_what_is_listed_after_every_step() -> None:
    kinds: set[str] = set()
    for seed in SEEDS:
        pair = Followed(limit=1 + seed % 5)
        written(seed, pair, 100, Script())
        kinds |= pair.kinds
    assert kinds == {
        "created", "moved", "input_provided", "claimed", "released", "lapsed", "held", "resumed",
        "stop_requested", "annotated", "progress", "settled", "removed", "queue_paused",
        "queue_resumed",
    }  # fmt: skip


def rows(state: State, *, texts: bool) -> list[bytes]:
    """Return all events of a feed, as they stand in results."""
    return [
        row_of(
            stretch.events[at], stretch.known[at], stretch.origin, f"{stretch.place}", texts=texts
        )
        for stretch in state.feed.after(state.feed.oldest)
        for at in range(stretch.begin, stretch.end)
        if type(stretch.events[at]) not in HIDDEN
    ]


@pytest.mark.parametrize("texts", [False, True])
def test_a_replay_refills_the_feed_with_the_same_events(*, texts: bool) -> None:
    compared = 0
    for seed in SEEDS:
        pair, script = Pair(), Script()
        written(seed, pair, 80, script)
        if any(step["do"] in ("restart", "restore") for step in script):
            continue  # it has not been filled while it lived
        live = rows(pair.driver.engine.context.state, texts=texts)
        assert rows(replayed(pair.driver.records), texts=texts) == live, seed
        compared += len(live)
    assert compared > 100


def pack(feed: Feed) -> None:
    """Do what the loop does while nothing else is to be done."""
    feed.settle()
    while feed.loose:
        feed.pack()


class Packed(Pair):
    """Puts events into columns after each step, as soon as a chunk is full."""

    def do(self, step: Step) -> None:
        super().do(step)
        pack(live_state(self.driver).feed)


@pytest.mark.parametrize("texts", [False, True])
def test_columns_show_the_same_events(monkeypatch: pytest.MonkeyPatch, *, texts: bool) -> None:
    """Held against the same records in a feed that has none; jobs move on and go meanwhile."""
    monkeypatch.setattr(feed_module, "CHUNK_EVENTS", 5)
    compared = 0
    for seed in SEEDS:
        pair, script = Packed(), Script()
        written(seed, pair, 80, script)
        if any(step["do"] in ("restart", "restore") for step in script):
            continue  # the feed has not all of its records
        live = rows(live_state(pair.driver), texts=texts)
        assert live == rows(replayed(pair.driver.records), texts=texts), seed
        compared += len(live)
    assert compared > 100


def test_a_replica_follows_events_in_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "CHUNK_EVENTS", 2)

    class Both(Packed, Followed):
        pass

    for seed in SEEDS:
        written(seed, Both(limit=1 + seed % 5), 60, Script())


@pytest.mark.parametrize("is_there", [True, False])
def test_columns_show_the_texts_of_jobs_that_are_gone(
    monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    """The creation lies in columns while its job is there, or only after that."""
    monkeypatch.setattr(feed_module, "CHUNK_EVENTS", 2)
    driver = Driver(max_finished=0)
    start = listed(driver).as_of or ""
    feed = live_state(driver).feed
    texts = {"input": "in", "identifier_from_purchaser": "p", "blockchain_identifier": "b"}
    job = driver.job(create(queue="mail", **texts))
    feed.settle()
    driver.ask(create(), create())
    if is_there:
        pack(feed)
    driver.job(move(job, FAILED, error="why"))
    driver.pass_ms(1)
    driver.ask(create(), create())
    pack(feed)
    assert error_of_result(driver.ask(History(job_id=job.job_id))[0]).code == "job_not_found"
    events, _ = read_all(driver, start, texts=True)
    created, moved = [event for event in events if event.job_id == job.job_id][:2]
    assert (created.what, moved.what, created.queue, moved.queue) == (
        "created", "moved", "mail", "mail",
    )  # fmt: skip
    assert {name: created.fields[name] for name in texts} == texts
    assert moved.fields["error"] == "why"


def test_different_numbers_in_a_column_lie_in_an_array() -> None:
    numbers = [*range(2**40, 2**40 + 1_000)]
    tracemalloc.start()
    try:
        column = Column([int(str(number)) for number in numbers])
        assert tracemalloc.get_traced_memory()[0] < 12 * len(numbers)
    finally:
        tracemalloc.stop()
    assert [*column] == numbers


@pytest.mark.parametrize(("a_message", "bytes_max"), [(500, 30), (1, 60)])
def test_events_in_columns_take_little(a_message: int, bytes_max: int) -> None:
    driver, number = Driver(), 5_000
    feed = live_state(driver).feed
    tracemalloc.start()
    try:
        for _ in range(number // a_message):
            made = driver.ask(*[create(input="x" * 200) for _ in range(a_message)])
            driver.ask(*[move(result.job, RUNNING) for result in made])  # type: ignore[union-attr]
            driver.records.clear()
            driver.inbox.clear()
        del made
        pack(feed)
        with_events = tracemalloc.get_traced_memory()[0]
        feed.begin(feed.next_number)
        taken = with_events - tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert taken < 2 * number * bytes_max


def test_reading_columns_takes_from_the_budget() -> None:
    """A message that reads a little of many chunks would have all of them made anew."""
    driver = Driver()
    start = listed(driver).as_of or ""
    for _ in range(20):
        driver.ask(*[create() for _ in range(1_000)])
    starts = [start]
    while len(starts) < 20:
        starts.append(read(driver, after=starts[-1], limit=1_000).next)
    few = [Events(after=after, limit=1) for after in starts]
    assert {type(result) for result in driver.ask(*few)} == {EventsResult}
    pack(live_state(driver).feed)
    results = driver.ask(*few)
    assert [type(result) for result in results[:9]] == [EventsResult] * 9
    assert error_of_result(results[-1]).code == "reply_full"
    assert len(read_all(driver, start, limit=1_000)[0]) == 20_000


def test_events_have_the_status_that_the_history_tells() -> None:
    driver = Driver()
    page = listed(driver)
    job = running(driver)
    for number in range(3):
        driver.job(move(job, AWAITING_INPUT, input_schema=f"{number}?"))
        version = 3 + 2 * number
        driver.job(ProvideInput(job_id=job.job_id, input="yes", expected_version=version))
    driver.job(move(job, COMPLETED, result="done"))
    events, _ = read_all(driver, page.as_of or "")
    (told,) = driver.ask(History(job_id=job.job_id))
    assert [(each.what, each.from_, each.status) for each in events[1:]] == [
        (each.what, each.from_, each.to)
        for each in told.entries[1:]  # type: ignore[union-attr]  # a history
    ]


# --- positions ------------------------------------------------------------------------------------


def gone(result: Result) -> ErrorResult:
    error = error_of_result(result)  # type: ignore[arg-type]  # any result
    assert error.code == "events_gone"
    assert error.oldest
    assert error.newest
    return error


def test_a_position_in_the_middle_of_a_message_counts() -> None:
    driver = Driver()
    result = driver.ask(create(), List(limit=9), create(), Count())
    assert isinstance(result[1], JobsResult)
    events, after = read_all(driver, result[1].as_of or "")
    assert [event.job_id for event in events] == [result[2].job.job_id]  # type: ignore[union-attr]
    assert read(driver, after=events[0].position).next == after


def test_an_answer_has_at_most_so_many_events() -> None:
    driver = Driver()
    start = listed(driver).as_of or ""
    driver.ask(*[create() for _ in range(5)])
    first = read(driver, after=start, limit=2)
    assert len(first.events) == 2
    assert first.next == first.events[-1].position
    rest, _ = read_all(driver, first.next, limit=2)
    assert len({event.job_id for event in [*first.events, *rest]}) == 5


def test_events_in_a_message_are_those_of_earlier_ones() -> None:
    driver = Driver()
    first = driver.job(create())
    start = driver.engine.context.position(driver.engine.context.state.feed.oldest)
    _, seen = driver.ask(create(), Events(after=start))
    assert isinstance(seen, EventsResult)
    assert [event.job_id for event in seen.events] == [first.job_id]
    assert seen.next != seen.as_of  # the message itself has done more
    assert len(read_all(driver, seen.next)[0]) == 1


@pytest.mark.parametrize(
    "position",
    ["x", "--", "other-1-0", "{log}-99-0", "{log}-3-1", "{log}-2-3", "{log}-0-0", "{log}-1",
     "{log}--1-0", "{log}-²-0", "{log}-1-99999999999999999999", "-1-0", "{log}-+1-0"],
)  # fmt: skip
def test_a_position_that_was_never_given_is_gone(position: str) -> None:
    driver = Driver()
    driver.pipeline.begin_log(driver.now)  # a record that is not kept: the core has no journal
    driver.ask(create(), create())
    log = driver.engine.context.state.log_id
    error = gone(look(driver, Events(after=position.format(log=log))))
    assert read_all(driver, error.oldest or "")[0]
    assert read_all(driver, error.newest or "")[0] == []


def test_a_position_of_another_log_is_gone_after_a_restore() -> None:
    pair = Followed()
    pair.say({"type": "count"})
    (count,) = pair.driver.ask(Count())
    pair.do_restore({"middle": 0})
    gone(look(pair.driver, Events(after=count.as_of)))  # type: ignore[union-attr]


def test_a_restart_through_a_snapshot_keeps_what_came_after_it() -> None:
    driver = Driver()
    positions = []
    for _ in range(4):
        driver.ask(create())
        positions.append(listed(driver).as_of or "")
    restart(driver, 2)
    gone(look(driver, Events(after=positions[0])))
    assert len(read_all(driver, positions[1])[0]) == 2
    assert len(read_all(driver, positions[3])[0]) == 0


# --- limits ---------------------------------------------------------------------------------------


def with_feed(driver: Driver, **limits: int) -> Feed:
    """Give a new broker a feed with other limits."""
    state = driver.engine.context.state
    state.feed = Feed(**limits)
    state.known = state.feed.known
    return state.feed


def held(feed: Feed) -> int:
    """Return how many events a feed holds, those in no chunk included."""
    return len(feed) + sum(len(record.events) for record in feed.fresh)


def test_the_feed_keeps_so_many_events() -> None:
    driver = Driver()
    feed = with_feed(driver, events_max=5_000)
    start = listed(driver).as_of or ""
    counts = []
    for _ in range(200):
        driver.ask(*[create() for _ in range(100)])
        counts.append(held(feed))
    assert 3_000 <= counts[-1] <= max(counts) <= 5_000 + feed_module.CHUNK_EVENTS
    gone(look(driver, Events(after=start)))
    oldest = driver.engine.context.position(feed.oldest)
    assert len(read_all(driver, oldest)[0]) == held(feed) >= 3_000


def test_the_feed_keeps_so_many_grants_of_short_claims() -> None:
    driver = Driver()
    feed = with_feed(driver, events_max=2_000)
    for _ in range(8):
        for result in driver.ask(*[create() for _ in range(1_000)]):
            driver.ask(move(job_of(result), RUNNING))
    for _ in range(16):
        assert len(driver.grants_of(claim(limit=500, lease_ms=60_000))) == 500
        assert held(feed) <= 2_000 + feed_module.CHUNK_EVENTS
    assert held(feed) >= 1_000


def test_the_feed_keeps_so_many_bytes() -> None:
    driver = Driver()
    feed = with_feed(driver, bytes_max=500_000)
    for _ in range(400):
        driver.ask(create(input="x" * 3_000))
        assert held(feed) <= 500_000 // 3_000 + 1
    assert held(feed) >= 250_000 // 3_000
    state = State()
    state.feed = Feed(bytes_max=500_000)
    state.known = state.feed.known
    for record in driver.records:
        state.apply(record, 0, 3_000)
    assert 250_000 // 3_000 <= held(state.feed) <= 500_000 // 3_000


def test_a_message_larger_than_the_feed_stays() -> None:
    driver = Driver()
    feed = with_feed(driver, bytes_max=200_000)
    start = listed(driver).as_of or ""
    driver.ask(*[create(input="x" * 60_000)] * 4)
    assert (held(feed), feed.loose) == (4, 0)
    assert len(read_all(driver, start)[0]) == 4
    driver.ask(create())
    gone(look(driver, Events(after=start)))


def test_what_the_broker_does_by_itself_is_settled_too() -> None:
    driver = Driver(lapses=10_000)
    feed = driver.engine.context.state.feed
    running(driver)
    for _ in range(3_000):
        driver.post(claim(lease_ms=1, wait_ms=10))
        driver.pass_ms(1)
        assert len(feed.fresh) <= feed_module.CHUNK_BYTES // feed_module.RECORD_BYTES + 2
    assert len(feed) > 2_000


def test_a_result_has_at_most_256_kib() -> None:
    driver = Driver()
    start = listed(driver).as_of or ""
    for _ in range(12):
        driver.ask(create(input="x" * 60_000))
    result = read(driver, after=start, texts=True)
    assert len(result.events) == 4
    assert len(read(driver, after=start).events) == 12
    assert len(read_all(driver, start, texts=True)[0]) == 12


def test_an_event_that_is_longer_than_that_comes_alone() -> None:
    driver = Driver(text_bytes=600_000, request_bytes=1_000_000)
    start = listed(driver).as_of or ""
    driver.ask(create(input="x" * 500_000))
    driver.ask(create())
    events = read(driver, after=start, texts=True).events
    assert [len(event.fields.get("input", "")) for event in events] == [500_000]
    assert len(read(driver, after=start).events) == 2


def test_events_share_the_scan_budget_of_a_batch() -> None:
    driver = Driver()
    start = listed(driver).as_of or ""
    for _ in range(30):
        driver.ask(*[create() for _ in range(1_000)])
    job_id = f"{1:08x}-0000-4000-8000-000000000000"
    result = read(driver, after=start, job_ids=[job_id, "x"])
    assert len(result.events) == 1
    assert result.next != result.as_of  # it goes on over what it has looked at
    assert read_all(driver, result.next, job_ids=["x"])[0] == []
    many = driver.ask(*[Events(after=start)] * 9)
    assert [type(each) for each in many[:2]] == [EventsResult, EventsResult]
    assert error_of_result(many[-1]).code == "reply_full"


# --- what is shown --------------------------------------------------------------------------------


def test_texts_are_there_only_when_asked_for() -> None:
    driver = Driver()
    start = listed(driver).as_of or ""
    job = driver.job(create(input="in", meta="meta", identifier_from_purchaser="p"))
    driver.job(move(job, RUNNING))
    driver.job(move(job, AWAITING_INPUT, input_schema="?"))
    driver.job(ProvideInput(job_id=job.job_id, input="answer", expected_version=3))
    driver.job(move(job, COMPLETED, result="out"))
    failed = driver.job(move(driver.job(create()), FAILED, error="why"))
    with_texts, _ = read_all(driver, start, texts=True)
    texts: dict[str, Any] = {}
    for event in with_texts:
        if event.job_id == job.job_id:
            texts |= event.fields
    assert (texts["input"], texts["result"]) == ("in", "out")
    assert (texts["input_schema"], texts["provided_input"]) == ("?", "answer")
    assert with_texts[-1].fields["error"] == failed.error
    without, _ = read_all(driver, start)
    shown_texts = {name for event in without for name in event.fields} & {*texts, "error"}
    assert shown_texts.isdisjoint({"input", "result", "error", "input_schema", "provided_input"})
    assert without[0].fields["meta"] == "meta"


def test_events_say_who_did_what_and_why() -> None:
    driver = Driver(lapses=1)
    (hello,) = driver.ask(Hello(open_session=True, client="shop"))
    assert isinstance(hello, HelloResult)
    start = listed(driver).as_of or ""
    frame = encode_request(driver.request(create(queue="mail"), session=hello.session or 0))
    driver.run(Arrival(PEER, [frame], ADMIN))
    job = listed(driver).jobs[0]
    driver.job(move(job, RUNNING))
    driver.job(Hold(job_id=job.job_id, reason="a bug"))
    running(driver)
    (grant,) = driver.grants_of(claim())
    release = Release(job_id=grant.job.job_id, lease=grant.lease, delay_ms=0, reason="no net")
    driver.ask(release)
    driver.grants_of(claim())
    driver.pass_ms(2_000)
    driver.ask(PauseQueue(queue="mail"), ResumeQueue(queue="mail"))
    events, _ = read_all(driver, start)
    first = events[0]
    assert (first.what, first.by, first.client) == ("created", "uid:1000", "shop")
    assert (first.queue, first.status, first.version) == ("mail", "awaiting_payment", 1)
    by_kind = {event.what: event for event in events}
    assert by_kind["held"].reason == "a bug"
    released = by_kind["released"]
    assert (released.reason, released.attempt, released.fields["attempts"]) == ("no net", 1, 1)
    lapsed, failed = events[-4:-2]
    assert (lapsed.what, lapsed.by, lapsed.attempt) == ("lapsed", None, 2)
    assert (failed.what, failed.from_, failed.status) == ("moved", "running", "failed")
    assert failed.reason == "the lease lapsed 1 times"
    assert [(each.what, each.queue) for each in events[-2:]] == [
        ("queue_paused", "mail"),
        ("queue_resumed", "mail"),
    ]


def test_filters_choose_by_queue_status_and_job() -> None:
    driver = Driver()
    start = listed(driver).as_of or ""
    mail = running(driver, queue="mail")
    other = running(driver)
    driver.job(move(mail, COMPLETED))
    driver.ask(PauseQueue(queue="mail"))

    def told(**fields: Any) -> list[tuple[str, str | None]]:
        return [(each.what, each.job_id) for each in read_all(driver, start, **fields)[0]]

    of_mail = [("created", mail.job_id), ("moved", mail.job_id), ("moved", mail.job_id)]
    assert told(queues=["mail"]) == [*of_mail, ("queue_paused", None)]
    assert told(job_ids=[mail.job_id]) == of_mail
    assert told(queues=["mail"], job_ids=[other.job_id]) == []
    assert told(statuses=[COMPLETED]) == [("moved", mail.job_id)]
    moved = [("moved", mail.job_id), ("moved", other.job_id), ("moved", mail.job_id)]
    assert told(statuses=[RUNNING]) == moved  # the last one has left it
    assert told(queues=["none"]) == []


# --- readers that wait ----------------------------------------------------------------------------


def follow(driver: Driver, peer: bytes = OTHER, **fields: Any) -> int:
    seq = driver.post(Events(wait_ms=60_000, **fields), peer=peer)
    assert driver.answer_to(seq, peer) is None
    return seq


def told(driver: Driver, seq: int, peer: bytes = OTHER) -> list[str]:
    result = driver.result_of(seq, peer)
    assert isinstance(result, EventsResult), result
    return [event.what for event in result.events]


def test_a_reader_waits_until_something_happens() -> None:
    driver = Driver()
    seq = follow(driver)
    driver.pass_ms(20)
    assert driver.answer_to(seq, OTHER) is None
    driver.ask(create())
    assert told(driver, seq) == ["created"]


def test_a_read_behind_a_change_keeps_it_from_no_reader() -> None:
    driver = Driver()
    after = listed(driver).as_of or ""
    seq = follow(driver, after=after)
    driver.pass_ms(event_commands.SERVE_EVERY_MS)
    messages = [encode_request(driver.request(each)) for each in (create(), Events(after=after))]
    driver.run(*[Arrival(PEER, [each], ADMIN) for each in messages])
    assert told(driver, seq) == ["created"]


def test_a_reader_without_a_position_begins_now() -> None:
    driver = Driver()
    driver.ask(create())
    seq = follow(driver)
    driver.pass_ms(20)
    running(driver)
    driver.pass_ms(20)
    assert told(driver, seq) == ["created"]  # the first batch with an event


def test_readers_are_served_at_most_every_20_ms() -> None:
    driver = Driver()
    seq = follow(driver)
    driver.ask(create())
    result = driver.result_of(seq, OTHER)
    assert isinstance(result, EventsResult)
    seq = follow(driver, after=result.next)
    driver.ask(create())
    driver.ask(create())
    assert driver.answer_to(seq, OTHER) is None
    assert driver.pipeline.deadlines.due_in_ms(driver.now) <= event_commands.SERVE_EVERY_MS
    driver.pass_ms(20)
    assert told(driver, seq) == ["created", "created"]


def test_a_filter_leaves_a_reader_waiting() -> None:
    driver = Driver()
    seq = follow(driver, queues=["mail"])
    running(driver)
    driver.pass_ms(20)
    assert driver.answer_to(seq, OTHER) is None
    driver.ask(create(queue="mail"))
    driver.pass_ms(20)
    assert told(driver, seq) == ["created"]


def test_a_wait_for_events_ends_with_where_to_go_on() -> None:
    driver = Driver()
    seq = follow(driver, queues=["mail"])
    driver.ask(create())
    driver.pass_ms(60_000)
    result = driver.result_of(seq, OTHER)
    assert isinstance(result, EventsResult)
    assert (result.events, result.next) == ([], result.as_of)


def test_stop_waiting_ends_a_reader() -> None:
    driver = Driver()
    seq = follow(driver)
    driver.ask(StopWaiting(seqs=[seq]), peer=OTHER)
    assert told(driver, seq) == []
    assert not driver.engine.context.waiters.readers


def test_a_repeat_of_a_reader_is_not_a_second_one() -> None:
    driver = Driver()
    frame = encode_request(Request(1, 0, 7, 0, [Events(wait_ms=60_000)]))
    driver.run(Arrival(OTHER, [frame], ADMIN))
    driver.ask(create())
    driver.ask(create())
    assert told(driver, 7) == ["created"]
    driver.run(Arrival(OTHER, [frame], ADMIN))
    driver.run(Arrival(OTHER, [frame], ADMIN))
    assert len(driver.engine.context.waiters.readers) == 1


def test_a_repeat_that_is_answered_leaves_no_reader() -> None:
    driver = Driver()
    follow(driver, peer=PEER)  # so that the next one is served 20 ms later
    driver.ask(create())
    after = driver.engine.context.position()
    frame = encode_request(Request(1, 0, 7, 0, [Events(after=after, wait_ms=60_000)]))
    driver.run(Arrival(OTHER, [frame], ADMIN))
    driver.ask(create())
    driver.run(Arrival(OTHER, [frame], ADMIN))
    assert told(driver, 7) == ["created"]
    answers = len(driver.inbox)
    driver.pass_ms(100)
    assert len(driver.inbox) == answers


def test_a_reader_whose_events_go_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "CHUNK_EVENTS", 10)
    driver = Driver()
    with_feed(driver, events_max=50)
    seq = follow(driver, queues=["mail"])
    driver.ask(*[create() for _ in range(9)])
    for _ in range(30):  # within the 20 ms
        driver.ask(*[create() for _ in range(9)])
    driver.pass_ms(20)
    gone(driver.result_of(seq, OTHER))  # type: ignore[arg-type]  # there is one


def test_a_thousand_readers_are_all_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a budget that is enough for a tenth of them at a time, and each with its own filter."""
    monkeypatch.setattr("tollgate.broker.core.pipeline.SCANS_KEPT", 1_000)
    driver = Driver()
    peers = [b"\x00reader%d" % number for number in range(1_000)]
    seqs = {
        peer: follow(driver, peer, job_ids=["x", f"{number}"], statuses=[RUNNING])
        for number, peer in enumerate(peers)
    }
    job = driver.job(create())
    late = [follow(driver, b"\x00late", statuses=[RUNNING]) for _ in range(3)]
    driver.job(move(job, RUNNING))
    turns = 0
    while driver.engine.context.waiters.unserved:
        assert (turns := turns + 1) < 100
        driver.pass_ms(20)
    assert turns > 5
    assert [told(driver, seq, b"\x00late") for seq in late] == [["moved"]] * 3
    assert all(driver.answer_to(seq, peer) is None for peer, seq in seqs.items())
    driver.drain()
    assert all(driver.answer_to(seq, peer) is not None for peer, seq in seqs.items())


def test_readers_do_not_keep_claims_from_jobs() -> None:
    driver = Driver()
    follow(driver, b"\x00reader")
    seq = driver.post(claim(wait_ms=60_000), peer=OTHER)
    job = running(driver)
    assert leases_of(driver.result_of(seq, OTHER))[0].job.job_id == job.job_id


# --- what a replay and a busy loop must not lose --------------------------------------------------


def test_a_replay_tells_moves_of_one_message_apart() -> None:
    """Each shows the rounds of input that there were then, and not those of the last one."""
    driver = Driver()
    job = running(driver)
    driver.ask(
        move(job, AWAITING_INPUT, input_schema="first?"),
        ProvideInput(job_id=job.job_id, input="yes", expected_version=3),
        move(job, AWAITING_INPUT, input_schema="second?"),
    )
    live = rows(driver.engine.context.state, texts=True)
    assert rows(replayed(driver.records), texts=True) == live


def test_a_feed_goes_on_with_the_numbers_of_the_journal() -> None:
    driver = Driver()
    running(driver)
    chunks = [Entry(40, SNAPSHOT_CHUNK, chunk) for chunk in snapshot_chunks(State())]
    state = State()
    replay(chunks, state)
    assert state.records == 40
    state = State()
    replay(entries(driver.records, first=11), state)
    assert (state.records, state.feed.oldest) == (12, (11, 0))


def test_a_repeat_of_a_reader_that_begins_now_misses_nothing() -> None:
    driver = Driver()
    frame = encode_request(Request(1, 0, 7, 0, [Events(wait_ms=60_000)]))
    driver.run(Arrival(OTHER, [frame], ADMIN))
    follow(driver, b"\x00another")
    driver.ask(create())
    assert told(driver, 7) == ["created"]
    driver.run(Arrival(OTHER, [frame], ADMIN))
    answers = len(driver.inbox)
    driver.ask(create())  # within the 20 ms: no reader has been told
    assert len(driver.inbox) == answers + 1
    driver.run(Arrival(OTHER, [frame], ADMIN))
    assert told(driver, 7) == ["created"]
    assert len(driver.inbox) == answers + 2


def test_deadlines_do_not_let_readers_oversleep() -> None:
    driver = Driver(lapses=1)
    follow(driver)
    running(driver)
    driver.grants_of(claim(lease_ms=2))
    after = driver.engine.context.position()
    seq = follow(driver, after=after)
    driver.pass_ms(2)  # the lease lapses, and the first job has ended: that is to be removed later
    assert driver.answer_to(seq, OTHER) is None
    assert driver.pipeline.deadlines.due_in_ms(driver.now) <= event_commands.SERVE_EVERY_MS
    driver.pass_ms(event_commands.SERVE_EVERY_MS)
    assert told(driver, seq) == ["lapsed", "moved"]


def test_records_without_events_take_from_the_budget_too() -> None:
    driver = Driver()
    (hello,) = driver.ask(Hello(open_session=True))
    assert isinstance(hello, HelloResult)
    start = listed(driver).as_of or ""
    for number in range(1, 15_001):  # each is refused, which is remembered
        command = move("not there", RUNNING)
        frame = encode_request(Request(1, hello.session or 0, number, number - 1, [command]))
        driver.pipeline.run([Arrival(PEER, [frame], ADMIN)], driver.now)
    result = read(driver, after=start)
    assert (result.events, result.next != result.as_of) == ([], True)
    assert read_all(driver, result.next)[0] == []


def test_one_batch_looks_for_so_many_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tollgate.broker.core.pipeline.SCANS_KEPT", 100)
    looked: list[Events] = []
    real = event_commands._key

    def counted(command: Events, place: tuple[int, int]) -> bytes:
        looked.append(command)
        return real(command, place)

    monkeypatch.setattr(event_commands, "_key", counted)
    driver = Driver()
    for number in range(100):
        follow(driver, b"\x00reader%d" % number, queues=["none"])
    driver.ask(create())
    assert 1 <= len(looked) <= 100 // event_commands.READER_SCANS


def test_readers_that_name_many_jobs_take_more_of_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tollgate.broker.core.pipeline.SCANS_KEPT", 200)
    driver = Driver()
    named = [f"{number}" for number in range(999)]
    for number in range(3):
        follow(driver, b"\x00reader%d" % number, job_ids=[*named, f"own {number}"])
    driver.ask(create())
    assert len(driver.engine.context.waiters.unserved) == 2


def test_events_keep_no_other_copy_of_a_job_id() -> None:
    driver = Driver()
    job = running(driver, settle=True)
    job_id = job.job_id
    (grant,) = leases_of(driver.ask(claim(lease_ms=60_000))[0])
    driver.ask(
        Touch(job_id=job_id, lease=grant.lease, lease_ms=60_000, progress=Progress("half", 0.5)),
        Release(job_id=job_id, lease=grant.lease, reason="r"),
        Hold(job_id=job_id),
        Resume(job_id=job_id),
        RequestStop(job_id=job_id),
        Annotate(job_id=job_id, meta="m"),
        move(job_id, AWAITING_INPUT, input_schema="?"),
        ProvideInput(job_id=job_id, input="y", expected_version=3),
        move(job_id, COMPLETED),
        Settle(job_id=job_id, on_chain_state="s"),
    )
    state = driver.engine.context.state
    events: list[Any] = [event for some in state.feed.after((1, 0)) for event in some.events]
    kept = [event for event in events if getattr(event, "job_id", None) == job_id]
    assert len({type(event) for event in kept}) == 10
    assert {id(event.job_id) for event in kept} == {id(state.jobs.require(job_id).job.job_id)}

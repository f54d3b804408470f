"""The loop around the core: a full disk, roles taken away, undelivered grants, a stop."""

import os
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from math import inf
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.core import (
    ADMIN,
    EPOCH,
    HASH,
    OTHER,
    PEER,
    RUNNING,
    Driver,
    claim,
    create,
    job_id,
    make_pipeline,
    move,
    running,
)
from tollgate.broker.core import engine
from tollgate.broker.core.batch import Arrival, Output
from tollgate.broker.core.limits import DUE_MAX
from tollgate.broker.core.pipeline import Pipeline
from tollgate.broker.core.records import Record
from tollgate.broker.core.roles import Principal, Role
from tollgate.broker.core.timers import Instant
from tollgate.broker.figures import NOTED_MANY
from tollgate.broker.journal import NoJournal
from tollgate.broker.server import FEW, IDLE_MS, KEYS_MS, REST_MS, Server
from tollgate.broker.settings import load
from tollgate.broker.telemetry import Counters
from tollgate.broker.transport.endpoints import IpcEndpoint
from tollgate.broker.transport.router import Router, RouterLimits
from tollgate.domain.commands import (
    AnyCommand,
    Claim,
    Count,
    Create,
    Get,
    Hello,
    Hold,
)
from tollgate.domain.messages import Request, decode_answer, encode_request
from tollgate.domain.results import ErrorResult
from tollgate.domain.status import JobStatus

CLOSED = os.open(os.devnull, os.O_RDONLY)
"""A descriptor whose other end is closed: read, it tells a server to stop."""
WORKER = Principal("uid:2000", frozenset({Role.WORKER}))


class Ring:
    """Keys, one of which has just been revoked."""

    def __init__(self, principal: Principal) -> None:
        self._ended = [principal]

    def refresh(self) -> list[Principal]:
        ended, self._ended = self._ended, []
        return ended


class Tight(NoJournal):
    """A journal with room for a number of records at a time."""

    is_kept = True

    def __init__(self, records: int) -> None:
        super().__init__()
        self._records = records
        list(self.replay())

    def room(self, worst_bytes: int, records: int = 1) -> bool:
        return records <= self._records


class Nothing:
    """A compactor and a notifier that have nothing to do."""

    watchdog_ms = None
    look_at_ms = inf

    def stopping(self) -> None: ...

    def vouch(self, disk_since_s: Callable[[], float | None]) -> None: ...


def server_of(
    pipeline: Pipeline,
    journal: NoJournal,
    keys: Ring | None = None,
    doors: Sequence[Router] = (),
) -> Server:
    nothing = Nothing()
    return Server(
        pipeline, journal, nothing, doors, load({"in_memory": True}), CLOSED,  # type: ignore[arg-type]
        counters=Counter(), notifier=nothing, keys=keys,  # type: ignore[arg-type]
    )  # fmt: skip


def test_a_taken_message_loses_a_role_taken_away() -> None:
    alice = Principal("key:alice", frozenset({Role.WORKER}), "ended")
    rotated = Principal(alice.name, alice.roles, "new")
    server = server_of(make_pipeline(), Tight(99), Ring(alice))
    server._left = [Arrival(PEER, [b""], each) for each in (alice, rotated, WORKER)]
    server._do_housekeeping(0)
    left = [arrival.principal for arrival in server._left]
    assert left == [Principal(alice.name, key="ended"), rotated, WORKER]


def test_changed_keys_are_noticed_within_a_second() -> None:
    server = server_of(make_pipeline(), Tight(99), Ring(WORKER))
    assert server._idle_ms + KEYS_MS <= 1_000  # a broker that has nothing to do sleeps so long
    assert server_of(make_pipeline(), Tight(99))._idle_ms == IDLE_MS


def test_times_of_syncs_are_added_up_in_time() -> None:
    server = server_of(make_pipeline(), Tight(99))
    noted = server._figures.noted = deque([0.001] * (NOTED_MANY - 1))
    server._do_housekeeping(0)
    assert len(noted) == NOTED_MANY - 1
    noted.append(0.001)
    server._do_housekeeping(1)
    assert not noted
    assert server._figures()["loop"].sync_s.count == NOTED_MANY


def test_the_clock_goes_on_once_all_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    server = server_of(make_pipeline(), Tight(99))
    server._clock.is_behind = True
    monkeypatch.setattr(server, "_has_more", lambda: True)
    server._take([])
    assert server._clock.is_behind
    monkeypatch.setattr(server, "_has_more", lambda: False)
    server._take([])
    assert not server._clock.is_behind


@pytest.mark.parametrize("has_room", [True, False])
def test_a_full_disk_refuses_changes_and_answers_reads(has_room: bool) -> None:
    pipeline = make_pipeline()
    server = server_of(pipeline, Tight(10_000 if has_room else 1))
    sent: list[ErrorResult | object] = []
    server._commit._send = lambda reply: sent.extend(
        decode_answer(reply.frame).results  # type: ignore[union-attr]
    )
    admin = Principal("uid:0", frozenset({Role.ADMIN}))
    commands: list[AnyCommand] = [Create(input_hash=HASH), Count(), Create(input_hash=HASH)]
    frames = [encode_request(Request(1, 0, seq, 0, [each])) for seq, each in enumerate(commands)]
    server._serve([Arrival(PEER, [frame], admin) for frame in frames], Instant(EPOCH, 0))
    assert not server._left
    codes = [getattr(result, "code", None) for result in sent]
    assert codes == ([None] * 3 if has_room else ["storage_full", None, "storage_full"])


def in_memory() -> NoJournal:
    journal = NoJournal()
    list(journal.replay())
    return journal


def single(seq: int, *commands: AnyCommand) -> Arrival:
    return Arrival(PEER, [encode_request(Request(1, 0, seq, 0, [*commands]))], ADMIN)


@pytest.mark.parametrize(
    ("is_kept", "messages", "batches"), [(False, FEW, FEW), (False, FEW + 1, 1), (True, FEW, 1)]
)
def test_a_few_messages_in_memory_are_answered_singly(
    is_kept: bool, messages: int, batches: int
) -> None:
    pipeline, happened = make_pipeline(), list[str]()
    server = server_of(pipeline, Tight(10_000) if is_kept else in_memory())
    run = pipeline.run

    def watched(*arguments: Any, **options: Any) -> Output:
        happened.append("decided")
        return run(*arguments, **options)

    pipeline.run = watched  # type: ignore[method-assign]
    server._commit._send = lambda reply: happened.append("sent")
    server._serve_taken([single(seq, Count()) for seq in range(messages)], Instant(EPOCH, 0))
    assert happened == (["decided"] + ["sent"] * (messages // batches)) * batches
    assert not server._left


def test_messages_behind_a_long_one_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "RUNS_MAX", 1)
    server, answered = server_of(make_pipeline(), in_memory()), list[int | None]()
    server._commit._send = lambda reply: answered.append(decode_answer(reply.frame).seq)
    first, last = single(1, Count()), single(3, Count())
    long = single(2, Count(), Get(job_id=job_id(1)))
    server._serve_taken([first, long, last], Instant(EPOCH, 0))
    assert (answered, server._left) == ([1], [long, last])
    server._serve_taken(server._left, Instant(EPOCH, 0))
    assert (answered, server._left) == ([1, 2, 3], [])


def test_undelivered_grants_are_released_a_thousand_at_a_time() -> None:
    pipeline, told = make_pipeline(), list[int]()
    server, run = server_of(pipeline, Tight(10_000)), pipeline.run

    def watched(*arguments: Any, **options: Any) -> Output:
        told.append(len(arguments[2]))
        return run(*arguments, **options)

    pipeline.run = watched  # type: ignore[method-assign]
    server._undelivered = [(job_id(number), number) for number in range(2 * DUE_MAX + 5)]
    server._serve([], Instant(EPOCH, 0))
    server._journal = Tight(1)
    server._serve([], Instant(EPOCH, 0))  # no room: they wait
    server._journal = Tight(10_000)
    server._serve([], Instant(EPOCH, 0))
    server._serve([], Instant(EPOCH, 0))
    assert told == [DUE_MAX, 0, DUE_MAX, 5]


def test_undelivered_grants_wait_for_the_end_of_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "RUNS_MAX", 1)
    driver = Driver()
    running(driver)
    (grant,) = driver.grants_of(claim())
    server = server_of(driver.pipeline, Tight(10_000))
    server._commit._send = lambda reply: None
    commands: list[AnyCommand] = [Count(), Create(input_hash=HASH), Count()]
    long = Arrival(PEER, [encode_request(Request(1, 0, 99, 0, commands))], ADMIN)
    server._serve([long], driver.now)
    server._undelivered = [(grant.job.job_id, grant.lease)]
    for _ in commands[1:]:
        assert server._left == [long]
        server._serve(server._left, driver.now)
    assert driver.engine.context.state.jobs.leased == 1
    server._serve([], driver.now)
    assert driver.engine.context.state.jobs.leased == 0


def on_a_full_disk(server: Server, long: Arrival, batches: int) -> None:
    """Serve a message; from its second batch on there is no room on the disk for so many."""
    server._serve([long], Instant(EPOCH, 0))
    server._journal = Tight(1)
    for _ in range(batches):
        assert server._left == [long]
        server._serve(server._left, Instant(EPOCH, 0))
    server._journal = Tight(10_000)
    server._serve(server._left, Instant(EPOCH, 0))
    assert not server._left


def test_a_long_message_stays_one_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "RUNS_MAX", 2)
    driver = Driver()
    driver.ask(Hello(open_session=True))
    (session,) = dict(driver.engine.context.state.requests.sessions())
    server = server_of(driver.pipeline, Tight(10_000))
    server._commit._send = lambda _: None
    put, records = server._commit.put, list[Record]()

    def watched(output: Output, *, more: Callable[[], bool]) -> None:
        records.extend(output.records)
        put(output, more=more)

    server._commit.put = watched  # type: ignore[method-assign]
    server._begin_log(driver.now)
    records.clear()
    commands: list[AnyCommand] = []
    for number in range(1_000, 1_003):
        commands += [create(job_id=job_id(number)), Hold(job_id=job_id(number))]
    frame = encode_request(Request(1, session, 1, 0, commands))
    on_a_full_disk(server, Arrival(PEER, [frame], ADMIN), batches=1)
    (record,) = records
    assert (record.session, len(record.events), len(record.outcomes)) == (session, 6, 6)
    record.check()


def test_claims_are_served_behind_a_long_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "RUNS_MAX", 2)
    driver = Driver()
    driver.post(claim(wait_ms=60_000), peer=OTHER)
    server, grants = server_of(driver.pipeline, Tight(10_000)), list[tuple[str, int]]()
    server._commit._send = lambda reply: grants.extend(reply.grants)
    made = job_id(1_000)
    commands: list[AnyCommand] = [create(job_id=made), move(made, RUNNING), Count(), Count()]
    frame = encode_request(Request(1, 0, 99, 0, commands))
    on_a_full_disk(server, Arrival(PEER, [frame], ADMIN), batches=1)
    assert [job for job, _ in grants] == [made]


def test_a_stop_answers_messages_that_were_taken() -> None:
    pipeline = make_pipeline()
    pipeline._batch_reply_bytes = 1  # each batch ends with its first reply
    server = server_of(pipeline, Tight(10_000))
    sent: list[int | None] = []
    server._commit._send = lambda reply: sent.append(decode_answer(reply.frame).seq)
    admin = Principal("uid:0", frozenset({Role.ADMIN}))
    claim = Claim(status=JobStatus.RUNNING, lease_ms=9, wait_ms=1_000, limit=1)
    for seq in (1, 2, 3):
        frame = encode_request(Request(1, 0, seq, 0, [claim]))
        server._serve([Arrival(PEER, [frame], admin)], Instant(EPOCH, 0))
    server._left = [Arrival(PEER, [encode_request(Request(1, 0, 4, 0, [Count()]))], admin)]
    server._poller.wait = lambda timeout_ms: []
    server._leave()
    assert sent == [1, 2, 3, 4]


def test_a_busy_socket_does_not_starve_another(short_dir: Path) -> None:
    limits = RouterLimits(1_000, 100, 1_000_000, 0, batch_messages=1)
    with zmq.Context() as context, ExitStack() as stack:
        doors = []
        for mark in (b"\x01", b"\x02"):
            door = Router(context, mark, lambda _: WORKER, limits, Counters())
            stack.callback(door.socket.close, 0)
            stack.callback(door.close)
            url = f"ipc://{short_dir}/{mark.hex()}"
            door.bind([stack.enter_context(IpcEndpoint(url))])
            peer = context.socket(zmq.DEALER)
            stack.callback(peer.close, 0)
            peer.connect(url)
            for _ in range(9):
                peer.send(b"")
            doors.append(door)
        server = server_of(make_pipeline(), Tight(99), doors=doors)
        ready: dict[object, int] = {door.socket: zmq.POLLIN for door in doors}
        heard = []
        for _ in range(8):
            assert all(door.socket.poll(10_000) for door in doors)
            heard.append(server._take(ready)[0].peer[:1])
        assert sorted(heard) == [b"\x01"] * 4 + [b"\x02"] * 4


@pytest.mark.parametrize("has_room", [True, False])
def test_the_feed_is_packed_after_a_rest(has_room: bool) -> None:
    pipeline = make_pipeline()
    server = server_of(pipeline, Tight(10_000))
    server._commit._send = lambda _: None
    admin = Principal("uid:0", frozenset({Role.ADMIN}))
    creations: list[AnyCommand] = [Create(input_hash=HASH)] * 1_000
    for seq in range(8):
        frame = encode_request(Request(1, 0, seq, 0, creations))
        server._serve([Arrival(PEER, [frame], admin)], server._clock.read())
    assert pipeline.feed.loose == 3  # the newest one goes on
    if not has_room:
        server._journal = Tight(1)
        server._serve([], server._clock.read())
        server._undelivered = [(job_id(1), 1)]  # this waits for room, too
    waits: list[int] = []

    def wait(timeout_ms: int) -> list[tuple[int, int]]:
        waits.append(timeout_ms)
        assert len(waits) < 9, "it never sleeps longer"
        return [(server._stop_fd, zmq.POLLIN)] if timeout_ms > REST_MS else []

    server._poller.wait = wait
    server._serve_until_told()
    assert pipeline.feed.loose == 0
    assert waits[:-1] == [REST_MS] * 3

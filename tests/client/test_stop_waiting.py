"""Commands that wait at the broker are ended there when their callers leave."""

import asyncio
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tollgate.client.aio import AsyncClient
from tollgate.client.errors import ClientClosedError
from tollgate.client.sending import CLAIMS_FIRST_SEQ
from tollgate.client.sync import Client
from tollgate.domain.commands import (
    AnyCommand,
    Claim,
    Count,
    Get,
    Hello,
    Release,
    StopWaiting,
    Wait,
)
from tollgate.domain.exceptions import SessionEvictedError
from tollgate.domain.messages import WINDOW, Request
from tollgate.domain.results import Grant, LeasesResult, OkResult
from tollgate.domain.status import JobStatus

from .peers import (
    HASH,
    PATIENCE_S,
    BrokerProcess,
    ScriptedRouter,
    greeting,
    job_fields,
    job_id,
    refused,
    reply,
)
from .talk import Talk

WAIT = Wait(job_ids=["a"], timeout_ms=15_000)
CLAIM = Claim(status=JobStatus.RUNNING, lease_ms=1_000, wait_ms=60_000, limit=1)
AT_ONCE = Claim(status=JobStatus.RUNNING, lease_ms=1_000, wait_ms=0, limit=1)


@pytest.fixture
def talk() -> Talk:
    talk = Talk()
    talk.greet(greeting())
    return talk


@pytest.fixture
def remembering() -> Talk:
    """Return a talk that has a session of its own for claims."""
    talk = Talk(remembers=True)
    talk.greet(greeting(remembers=True))
    first = talk.ask(CLAIM)
    (hello,) = talk.requests()
    talk.hear(reply(hello.seq, greeting(8)))
    (claim,) = talk.requests()
    talk.hear(reply(claim.seq, LeasesResult([])))
    assert first.done
    return talk


def test_an_abandoned_wait_is_stopped(talk: Talk) -> None:
    call = talk.ask(WAIT)
    (wait,) = talk.requests()
    talk.session.abandon(call)
    (stop,) = talk.requests()
    assert stop.commands == [StopWaiting(seqs=[wait.seq])]
    assert stop.session == wait.session == 0
    talk.hear(reply(stop.seq, OkResult()))
    assert talk.session.idle


def test_an_abandoned_claim_is_stopped_in_its_session(remembering: Talk) -> None:
    talk = remembering
    call = talk.ask(CLAIM)
    (claim,) = talk.requests()
    talk.session.abandon(call)
    (stop,) = talk.requests()
    assert stop.commands == [StopWaiting(seqs=[claim.seq])]
    assert (stop.session, claim.session) == (8, 8)
    assert stop.seq == claim.seq + 1 > CLAIMS_FIRST_SEQ
    assert stop.acked == claim.seq
    talk.hear(reply(claim.seq, LeasesResult([Grant(job_fields(4), 40)])))  # just before the stop
    talk.hear(reply(stop.seq, OkResult()))
    (hello,) = talk.requests()
    talk.hear(reply(hello.seq, greeting(9)))
    (release,) = talk.requests()
    assert release.commands == [Release(job_id=job_id(4), lease=40)]


@pytest.mark.parametrize("command", [Get(job_id="a"), AT_ONCE])
def test_what_does_not_wait_is_not_stopped(talk: Talk, command: AnyCommand) -> None:
    call = talk.ask(command)
    assert len(talk.requests()) == 1
    talk.session.abandon(call)
    assert talk.requests() == []


def test_a_full_window_does_not_hold_a_stop_back(remembering: Talk) -> None:
    talk = remembering
    calls = [talk.ask(CLAIM) for _ in range(WINDOW + 2)]
    claims = talk.requests()
    assert len(claims) == WINDOW
    for call, claim in zip(calls[1:4], claims[1:4], strict=True):  # the oldest one stays
        talk.session.abandon(call)
        (stop,) = talk.requests()
        assert stop.commands == [StopWaiting(seqs=[claim.seq])]
        assert (stop.acked, stop.session) == (claims[0].seq - 1, 8)
        talk.hear(reply(stop.seq, OkResult()))
    talk.hear(reply(claims[0].seq, LeasesResult([])))
    late = talk.requests()
    assert [each.commands for each in late] == [[CLAIM], [CLAIM]]
    assert late[0].acked == claims[3].seq


def test_what_was_not_sent_is_not_stopped(talk: Talk) -> None:
    talk.session.abandon(talk.ask(WAIT))
    assert talk.requests() == []
    assert talk.session.idle


def test_waits_that_leave_together_are_stopped_together(talk: Talk) -> None:
    calls = [talk.ask(WAIT) for _ in range(1_500)]
    waits = [request.seq for request in talk.requests()]
    for call in calls:
        talk.session.abandon(call)
    stops = talk.requests()
    assert [each.commands for each in stops] == [
        [StopWaiting(seqs=waits[:1_000])],
        [StopWaiting(seqs=waits[1_000:])],
    ]
    late = talk.ask(WAIT)
    (wait,) = talk.requests()
    talk.session.abandon(late)
    (stop,) = talk.requests()
    assert stop.commands == [StopWaiting(seqs=[wait.seq])]


def test_a_stop_is_sent_again_and_given_up(talk: Talk) -> None:
    call = talk.ask(WAIT)
    talk.requests()
    talk.session.abandon(call)
    (stop,) = talk.requests()
    assert [each.commands for each in talk.wake()] == [stop.commands]
    while talk.session.next_wakeup() is not None:
        talk.wake()
    assert talk.now == pytest.approx(110)
    assert talk.session.idle


def test_an_expired_wait_is_stopped(talk: Talk) -> None:
    call = talk.ask(WAIT, timeout_s=0.2)
    (wait,) = talk.requests()
    (stop,) = talk.wake()
    assert call.done
    assert stop.commands == [StopWaiting(seqs=[wait.seq])]


def test_closing_stops_all_that_waits(remembering: Talk) -> None:
    talk = remembering
    calls = [talk.ask(WAIT), talk.ask(CLAIM), talk.ask(Count()), talk.ask(CLAIM)]
    wait, claim, _, other = talk.requests()
    talk.session.fail(ClientClosedError("closed"))
    assert all(call.done for call in calls)
    stops = talk.requests()
    assert [(each.session, each.commands) for each in stops] == [
        (0, [StopWaiting(seqs=[wait.seq])]),
        (8, [StopWaiting(seqs=[claim.seq, other.seq])]),
    ]


def test_an_older_broker_is_not_told(talk: Talk) -> None:
    talk.greet(greeting(revision=1))
    call = talk.ask(WAIT)
    talk.requests()
    talk.session.abandon(call)
    assert talk.requests() == []


def test_a_claim_of_an_evicted_session_is_not_stopped(remembering: Talk) -> None:
    talk = remembering
    first, second = talk.ask(CLAIM), talk.ask(CLAIM)
    one, _ = talk.requests()
    talk.hear(refused(one.seq, SessionEvictedError("gone")))
    talk.session.abandon(second)
    assert [type(each.commands[0]) for each in talk.requests()] == [Hello]
    assert not first.done


def test_a_stop_in_an_evicted_session_is_done(remembering: Talk) -> None:
    talk = remembering
    call = talk.ask(CLAIM)
    talk.requests()
    talk.session.abandon(call)
    (stop,) = talk.requests()
    talk.hear(refused(stop.seq, SessionEvictedError("gone")))
    assert talk.requests() == []


class Parking:
    """A broker that answers no wait and no claim before it is told to stop."""

    def __init__(self) -> None:
        self.asked, self.stopped = threading.Event(), threading.Event()
        self.parked: list[int] = []
        self.sessions = count(1)

    def __call__(self, request: Request) -> list[bytes]:
        command = request.commands[0]
        match command:
            case Hello():
                session = next(self.sessions) if command.open_session else None
                return [reply(request.seq, greeting(session, remembers=True))]
            case StopWaiting():
                self.parked = [seq for seq in self.parked if seq not in command.seqs]
                if not self.parked:
                    self.stopped.set()
                return [reply(request.seq, OkResult())]
        self.parked.append(request.seq)
        self.asked.set()
        return []


CALLS: list[Callable[[Any], Any]] = [
    lambda client: client.wait("a"),
    lambda client: client.claim("running", wait_ms=60_000),
    lambda client: client.send_many([WAIT]),
]


@pytest.mark.parametrize("call", CALLS)
def test_an_interrupted_call_is_stopped(endpoint: str, call: Callable[[Client], Any]) -> None:
    parking, client = Parking(), Client(endpoint, timeout_s=PATIENCE_S)

    def interrupt() -> None:
        parking.asked.wait(PATIENCE_S)
        while not any(each.sends for each in [*client._session._requests.values()]):
            pass  # the client has not noted yet that it has sent it
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    with ScriptedRouter(endpoint, parking), client, ThreadPoolExecutor() as pool:
        pool.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            call(client)
        assert parking.stopped.wait(PATIENCE_S)


@pytest.mark.parametrize("call", CALLS)
def test_closing_in_another_thread_stops_a_call(
    endpoint: str, call: Callable[[Client], Any]
) -> None:
    parking = Parking()
    with ScriptedRouter(endpoint, parking), ThreadPoolExecutor() as pool:
        client = Client(endpoint, timeout_s=PATIENCE_S)
        made = pool.submit(call, client)
        assert parking.asked.wait(PATIENCE_S)
        client.close()
        made.exception(PATIENCE_S)
        assert parking.stopped.wait(PATIENCE_S)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("leave", ["cancel", "close"])
async def test_tasks_that_leave_are_stopped(
    endpoint: str, call: Callable[[AsyncClient], Any], leave: str
) -> None:
    parking = Parking()
    with ScriptedRouter(endpoint, parking):
        async with AsyncClient(endpoint, timeout_s=PATIENCE_S) as client:
            task = asyncio.ensure_future(call(client))
            assert await asyncio.to_thread(parking.asked.wait, PATIENCE_S)
            if leave == "cancel":
                task.cancel()
            else:
                await client.close()
            await asyncio.gather(task, return_exceptions=True)
            assert await asyncio.to_thread(parking.stopped.wait, PATIENCE_S)


def test_the_end_of_a_loop_stops_its_calls(endpoint: str) -> None:
    parking = Parking()

    async def leave() -> None:
        client = AsyncClient(endpoint, timeout_s=PATIENCE_S)
        waiting = asyncio.create_task(client.wait("a"))
        assert await asyncio.to_thread(parking.asked.wait, PATIENCE_S)
        kept.extend([client, waiting])

    kept: list[Any] = []
    with ScriptedRouter(endpoint, parking):
        asyncio.run(leave())  # which cancels the task
        assert parking.stopped.wait(PATIENCE_S)
        asyncio.run(kept[0].close())


async def test_many_cancelled_tasks_make_few_requests(endpoint: str) -> None:
    parking = Parking()
    with ScriptedRouter(endpoint, parking) as router:
        async with AsyncClient(endpoint, timeout_s=PATIENCE_S) as client:
            await client.ping()
            tasks = [asyncio.create_task(client.wait("a")) for _ in range(300)]
            await asyncio.sleep(0)  # all have asked
            await client.ping()  # it is answered after they have come
            assert len(parking.parked) == len(tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert await asyncio.to_thread(parking.stopped.wait, PATIENCE_S)
    assert [type(each) for each in router.commands()].count(StopWaiting) < 10


async def test_a_real_broker_forgets_cancelled_calls(broker: BrokerProcess) -> None:
    """More waits come and go than the broker parks of one connection."""
    async with AsyncClient(broker.endpoint, timeout_s=PATIENCE_S) as client:
        share = (await client.ping()).limits["parked_share"]
        job = await client.create(HASH)
        for _ in range(3):
            waiting = [client.wait(job.job_id) for _ in range(share // 2)]
            calls: list[asyncio.Task[Any]] = [*map(asyncio.create_task, waiting)]
            calls += [asyncio.create_task(client.claim("running", wait_ms=60_000))]
            await asyncio.sleep(0)  # all have asked
            await client.ping()  # it is answered after they are parked
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            while client._session._requests:  # a full connection drops some: they are sent again
                await client.ping()
        assert await client.claim("running", wait_ms=10) == []
        await client.transition(job.job_id, "running")
        (lease,) = await client.claim("running", wait_ms=20_000)
        history = await client.history(job.job_id)
        assert [each.what for each in history.entries] == ["created", "moved", "claimed"]
        assert lease.job.job_id == job.job_id  # and none of those that left has had it


async def test_a_real_broker_ends_claims_of_a_full_window(endpoint: str, tmp_path: Path) -> None:
    broker = BrokerProcess(endpoint, "--data-dir", str(tmp_path / "data"), in_memory=False).start()
    try:
        async with AsyncClient(endpoint, timeout_s=PATIENCE_S) as client:
            waiting = [client.claim("running", wait_ms=60_000) for _ in range(WINDOW)]
            claims = [*map(asyncio.create_task, waiting)]
            requests = client._session._requests
            while len(requests) != WINDOW or not all(each.sends for each in requests.values()):
                await client.ping()
            for claim in claims[1:]:  # the oldest one keeps the window closed
                claim.cancel()
            await asyncio.gather(*claims[1:], return_exceptions=True)
            while len(requests) > 1:
                await client.ping()
            job = await client.create(HASH)
            await client.transition(job.job_id, "running")
            (lease,) = await claims[0]
            assert lease.job.job_id == job.job_id
    finally:
        broker.kill()

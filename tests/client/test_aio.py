"""What only the asyncio client can do: many tasks, cancellation, closing during calls."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from tollgate.client.aio import AsyncClient
from tollgate.client.errors import BatchError, ClientClosedError, ClosedOutcomeUnknown
from tollgate.domain.commands import Claim, Hello, Release, Wait
from tollgate.domain.exceptions import ArgumentError
from tollgate.domain.messages import Request
from tollgate.domain.models import Job, JobStatus
from tollgate.domain.results import Grant, LeasesResult, OkResult

from .peers import (
    HASH,
    PATIENCE_S,
    BrokerProcess,
    ScriptedRouter,
    hello_result,
    job_fields,
    job_result,
    reply,
)


@pytest.fixture
async def client(broker: BrokerProcess) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(broker.endpoint, timeout_s=PATIENCE_S) as client:
        yield client


async def test_a_hundred_tasks_share_a_client(client: AsyncClient) -> None:
    async def life(number: int) -> JobStatus:
        job = await client.create(input=str(number))
        waiting = asyncio.create_task(client.wait(job.job_id))
        assert job == await client.get(job.job_id)
        await client.transition(job.job_id, "running")
        await client.transition(job.job_id, "completed", result=str(number))
        done = await waiting
        assert done.result == str(number)
        return done.status

    statuses = await asyncio.gather(*map(life, range(100)))

    assert set(statuses) == {JobStatus.COMPLETED}


async def test_parked_calls_do_not_delay_others(client: AsyncClient) -> None:
    before = (await client.count()).total
    jobs = await client.create_many([HASH] * 100)
    waits = [asyncio.create_task(client.wait(job.job_id)) for job in jobs]
    claim = asyncio.create_task(client.claim("running", wait_ms=60_000))

    assert (await client.count()).total == before + 100  # answered while all of them are parked
    assert not any(task.done() for task in [*waits, claim])

    batch = client.batch()
    for job in jobs[1:]:
        batch.cancel(job.job_id)
    await batch.send()
    await client.transition(jobs[0].job_id, "running")
    (lease,) = await claim
    await client.transition(jobs[0].job_id, "failed", error="no", lease=lease.token)
    assert {job.status for job in await asyncio.gather(*waits)} == {JobStatus.FAILED}


async def test_bulk_calls_of_many_tasks_do_not_mix(client: AsyncClient) -> None:
    async def some(name: str) -> list[str | None]:
        jobs = await client.create_many({"input": f"{name}{number}"} for number in range(1_500))
        return [job.input for job in jobs]

    for name, inputs in zip("abc", await asyncio.gather(*map(some, "abc")), strict=True):
        assert inputs == [f"{name}{number}" for number in range(1_500)]


async def test_an_error_reaches_only_its_own_task(client: AsyncClient) -> None:
    outcomes = await asyncio.gather(
        client.create("short"), client.create(HASH), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [ArgumentError, Job]
    with pytest.raises(BatchError):
        await client.create_many([HASH, "short"])


async def test_a_cancelled_call_leaves_the_others_alone(client: AsyncClient) -> None:
    job = await client.create(HASH)
    waits = [asyncio.create_task(client.wait(job.job_id)) for _ in range(3)]
    await client.ping()
    waits[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waits[1]
    await client.cancel(job.job_id)
    assert (await waits[0]).status is (await waits[2]).status is JobStatus.FAILED


async def test_a_timeout_around_a_call(client: AsyncClient) -> None:
    job = await client.create(HASH)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await client.wait(job.job_id)
    assert await client.get(job.job_id) == job


async def test_leases_of_a_cancelled_claim_are_released(endpoint: str) -> None:
    claimed, granted, released = asyncio.Event(), asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    parked: list[Request] = []

    def answer(request: Request) -> list[bytes]:
        match request.commands[0]:
            case Hello():
                return [reply(request.seq, hello_result())]
            case Claim():
                parked.append(request)
                loop.call_soon_threadsafe(claimed.set)
                return []
            case Release():
                loop.call_soon_threadsafe(released.set)
                return [reply(request.seq, OkResult())]
            case _:  # a sign to grant what was claimed
                grant = LeasesResult([Grant(job_fields(1), 11)])
                loop.call_soon_threadsafe(granted.set)
                return [reply(parked[0].seq, grant), reply(request.seq, job_result(1))]

    with ScriptedRouter(endpoint, answer) as router:
        async with AsyncClient(endpoint, timeout_s=PATIENCE_S) as client:
            claim = asyncio.create_task(client.claim("running", wait_ms=60_000))
            await claimed.wait()
            claim.cancel()
            with suppress(asyncio.CancelledError):
                await claim
            await client.get("a")
            await granted.wait()
            await released.wait()
    assert router.commands()[-1] == Release(job_id=job_fields(1).job_id, lease=11)


async def test_closing_ends_the_calls_in_flight(endpoint: str) -> None:
    seen = asyncio.Event()
    loop = asyncio.get_running_loop()

    def answer(request: Request) -> list[bytes]:
        if isinstance(request.commands[0], Hello):
            return [reply(request.seq, hello_result())]
        if isinstance(request.commands[0], Wait):
            loop.call_soon_threadsafe(seen.set)
        return []

    with ScriptedRouter(endpoint, answer):
        client = AsyncClient(endpoint, timeout_s=PATIENCE_S)
        await client.ping()
        calls = [
            asyncio.create_task(client.transition("a", "running")),
            asyncio.create_task(client.create_many([HASH])),
            asyncio.create_task(client.wait("a")),
        ]
        await seen.wait()
        await client.close()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        await client.close()

    kinds = [ClosedOutcomeUnknown, BatchError, ClientClosedError]
    assert [type(outcome) for outcome in outcomes] == kinds
    with pytest.raises(ClientClosedError):
        await client.ping()


async def test_a_client_that_was_never_used_can_be_closed(endpoint: str) -> None:
    async with AsyncClient(endpoint):
        pass


@pytest.mark.parametrize("turns", [1, 10], ids=["gathered", "under way"])
def test_a_client_can_be_closed_after_its_loop(endpoint: str, turns: int) -> None:
    client = AsyncClient(endpoint)

    async def leave_a_call() -> asyncio.Task[Job]:
        await client.ping()
        call = asyncio.create_task(client.get("a"))
        for _ in range(turns):
            await asyncio.sleep(0)
        return call

    def only_hello(request: Request) -> list[bytes]:
        greets = isinstance(request.commands[0], Hello)
        return [reply(request.seq, hello_result())] if greets else []

    loop = asyncio.new_event_loop()
    with ScriptedRouter(endpoint, only_hello):
        call = loop.run_until_complete(leave_a_call())
        call._log_destroy_pending = False  # type: ignore[attr-defined] # it is meant to be left
        loop.close()
        asyncio.run(client.close())
    assert client._connection._socket is None
    assert not call.done()


async def test_progress_and_pages(client: AsyncClient) -> None:
    progress: list[int] = []
    jobs = await client.create_many([HASH] * 1_500, on_progress=progress.append)
    assert progress[-1] == 1_500
    listed = [job.job_id async for job in client.list(page=400)]
    assert listed[-1_500:] == [job.job_id for job in jobs]
    assert len(set(listed)) == len(listed)


def test_a_client_belongs_to_one_loop(broker: BrokerProcess) -> None:
    client = AsyncClient(broker.endpoint, timeout_s=PATIENCE_S)
    asyncio.run(_ping(client))
    with pytest.raises(RuntimeError, match="one event loop"):
        asyncio.run(_ping(client))
    asyncio.run(client.close())


async def _ping(client: AsyncClient) -> None:
    await client.ping()


async def test_a_call_ends_if_answers_come_while_closing(client: AsyncClient) -> None:
    await client.ping()
    session, receive = client._session, client._session.receive
    closing: list[asyncio.Task[None]] = []

    def receive_all_and_close(frame: bytes, now: float) -> None:
        # Not where the caller itself takes the answers: it would ask for more before its turn ends.
        in_a_turn_of_its_own = asyncio.current_task() is None
        if not closing and len(session._requests) == 4 and in_a_turn_of_its_own:
            time.sleep(0.3)  # the other three answers come: all of the window in one go
            closing.append(asyncio.create_task(client.close()))  # its turn is before the caller's
        receive(frame, now)

    batch = client.batch(message_commands=1)
    for _ in range(1_000):
        batch.count()
    session.receive = receive_all_and_close  # type: ignore[method-assign]
    with pytest.raises(ClientClosedError):
        await asyncio.wait_for(batch.send(), PATIENCE_S)
    assert closing


def test_closing_in_another_thread_ends_the_calls(broker: BrokerProcess) -> None:
    client = AsyncClient(broker.endpoint, timeout_s=PATIENCE_S)
    asked = threading.Event()

    async def wait() -> None:
        job = await client.create(HASH)
        waiting = asyncio.create_task(client.wait(job.job_id))
        await client.ping()  # the wait is sent before it
        asked.set()
        await waiting

    with ThreadPoolExecutor() as pool:
        waited = pool.submit(asyncio.run, wait())
        assert asked.wait(PATIENCE_S)
        asyncio.run(client.close())
        assert isinstance(waited.exception(PATIENCE_S), ClientClosedError)
    assert client._connection._opened == []


async def test_calls_cancelled_at_any_moment_leave_nothing(client: AsyncClient) -> None:
    job = (await client.create(HASH)).job_id
    for turns in range(12):
        calls = [
            asyncio.create_task(client.get(job)),
            asyncio.create_task(client.create_many([HASH] * 3)),
            asyncio.create_task(client.claim("running", wait_ms=60_000)),
            asyncio.create_task(client.wait(job)),
        ]
        for _ in range(turns):
            await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert (await client.get(job)).job_id == job
    assert not client._session._requests

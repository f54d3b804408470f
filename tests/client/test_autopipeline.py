"""Commands of many tasks in one request: each has its own value and can be cancelled alone."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest

from tollgate.client.aio import AsyncClient
from tollgate.client.autopipeline import Autopipeline, CommandGroup, PipelinedCommand
from tollgate.client.errors import (
    BrokerUnreachableError,
    ClientClosedError,
    ClosedOutcomeUnknown,
    OutcomeUnknown,
)
from tollgate.client.inflight import Call
from tollgate.client.session import OPENING, Session
from tollgate.domain.commands import AnyCommand, Claim, Get, Hello, List, Wait
from tollgate.domain.exceptions import (
    JobNotFoundError,
    OverloadedError,
    StorageFullError,
    TollgateError,
    TooLargeError,
)
from tollgate.domain.messages import Request
from tollgate.domain.models import Job, JobStatus
from tollgate.domain.results import AnyResult, error_of
from tollgate.testing import Broker

from .peers import (
    A_WHILE_S,
    HASH,
    PATIENCE_S,
    SOON_S,
    BrokerProcess,
    ScriptedRouter,
    hello_result,
    job_id,
    job_result,
    refused,
    reply,
)

NOBODY = "nobody"
UNANSWERED = "unanswered"
NEW = job_id(1)
Talk = tuple[AsyncClient, ScriptedRouter]


@pytest.fixture
async def client(broker: BrokerProcess) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(broker.endpoint, timeout_s=PATIENCE_S) as client:
        yield client


@pytest.fixture
async def talk(endpoint: str) -> AsyncIterator[Talk]:
    """Yield a client that knows the broker's limits, and its router."""
    with ScriptedRouter(endpoint, answer) as router:
        async with AsyncClient(endpoint, timeout_s=PATIENCE_S) as client:
            await client.ping()
            yield client, router


def answer(request: Request) -> list[bytes]:
    """Answer any command with the job that it names, or job_not_found."""
    results: list[AnyResult] = []
    for command in request.commands:
        if isinstance(command, Hello):
            results.append(hello_result())
            continue
        name = name_of(command)
        if name == UNANSWERED:
            return []
        gone = error_of(JobNotFoundError(name))
        results.append(gone if name == NOBODY else job_result(1, job_id=name))
    return [reply(request.seq, *results)]


def name_of(command: Any) -> str:
    return str(command.job_ids[0] if isinstance(command, Wait) else command.job_id)


def names(router: ScriptedRouter) -> list[list[str]]:
    """Return the ids of the requested jobs, one list for each request."""
    return [
        [*map(name_of, request.commands)]
        for request in router.requests
        if not isinstance(request.commands[0], Hello)
    ]


def is_idle(client: AsyncClient) -> bool:
    return client._session.idle


async def outcomes(*calls: Any) -> Sequence[Any]:
    return await asyncio.gather(*calls, return_exceptions=True)


async def test_commands_of_one_turn_are_one_request(talk: Talk) -> None:
    client, router = talk
    jobs = await outcomes(*map(client.get, "12345"))
    await client.get("6")
    assert [job.job_id for job in jobs] == [*"12345"]
    assert names(router) == [[*"12345"], ["6"]]


async def test_each_command_has_its_own_value(talk: Talk) -> None:
    client, router = talk
    asked = ["1", NOBODY, "2", NOBODY, "3"]
    first, none, second, nothing, third = await outcomes(*map(client.get, asked))
    assert names(router) == [asked]
    assert [first.job_id, second.job_id, third.job_id] == ["1", "2", "3"]
    assert type(none) is type(nothing) is JobNotFoundError
    assert none is not nothing


async def test_many_tasks_at_a_broker(client: AsyncClient) -> None:
    async def life(number: int) -> Job:
        job = await client.create(input=str(number))
        await client.transition(job.job_id, "running")
        with pytest.raises(TollgateError):
            await client.transition(job.job_id, "running")
        await client.transition(job.job_id, "completed", result=str(number))
        return await client.get(job.job_id)

    jobs = await asyncio.gather(*map(life, range(300)))
    assert [job.result for job in jobs] == [*map(str, range(300))]
    assert {job.version for job in jobs} == {3}


async def test_a_command_sent_alone_keeps_its_place(talk: Talk) -> None:
    client, router = talk
    await outcomes(
        client.get("1"),
        client.get("2"),
        client.wait("3"),  # alone in its message
        client.get("4"),
        client.get("5", timeout_s=PATIENCE_S),  # has a deadline of its own
        client.get("6"),
        client.send_many([Get(job_id="7"), Get(job_id="8")]),
        client.get("9"),
    )
    assert names(router) == [["1", "2"], ["3"], ["4"], ["5"], ["6"], ["7", "8"], ["9"]]


@pytest.mark.parametrize(
    ("command", "taken"),
    [
        (Get(job_id="1"), True),
        (Hello(), False),
        (List(limit=1), False),
        (Wait(job_ids=["1"], timeout_ms=1), False),
        (Claim(status=JobStatus.RUNNING, lease_ms=1, wait_ms=0, limit=1), False),
    ],
)
def test_hello_list_wait_and_claim_are_sent_alone(command: AnyCommand, *, taken: bool) -> None:
    session = Session("nowhere", jitter=lambda: 0.5)
    session._changes.opened(1)
    pipeline = Autopipeline(session)
    assert not pipeline.takes(command)  # the broker's limits are not known yet
    session.greeting = hello_result()
    assert pipeline.takes(command) is taken


async def test_reads_do_not_wait_for_a_session(endpoint: str) -> None:
    full = error_of(StorageFullError("the disk has no room for another session"))

    def answer_reads(request: Request) -> list[bytes]:
        if request.commands == [OPENING]:
            return [reply(request.seq, full)]
        if isinstance(request.commands[0], Hello):
            return [reply(request.seq, msgspec.structs.replace(hello_result(), remembers=True))]
        return answer(request)

    with ScriptedRouter(endpoint, answer_reads) as router:
        async with AsyncClient(endpoint, timeout_s=SOON_S) as client:
            await client.ping()
            made = await outcomes(client.get("1"), client.cancel("2"), client.get("3"))
    assert [type(each) for each in made] == [Job, StorageFullError, Job]
    assert ["2"] not in names(router)


async def test_a_too_large_command_fails_alone(client: AsyncClient) -> None:
    before = (await client.count()).total
    made = await outcomes(
        client.create(HASH), client.create(HASH), client.create(HASH, input="x" * 300_000)
    )
    assert [type(each) for each in made] == [Job, Job, TooLargeError]
    assert (await client.count()).total == before + 2


async def test_more_than_fits_in_a_request_goes_in_several(client: AsyncClient) -> None:
    await client.ping()
    made = await asyncio.gather(*(client.create(HASH, input="x" * 60_000) for _ in range(40)))
    assert len({job.job_id for job in made}) == 40


async def test_a_page_has_a_reply_of_its_own(tollgate_broker: Broker) -> None:
    async with AsyncClient(tollgate_broker.endpoint, timeout_s=PATIENCE_S) as client:
        await client.create_many([{"input": "x" * 60_000} for _ in range(60)])
        pages = await asyncio.gather(*(client.list_page() for _ in range(2)))
        assert [len(page.jobs) for page in pages] == [60, 60]


async def test_a_command_cancelled_before_sending_is_left_out(talk: Talk) -> None:
    client, router = talk
    tasks = [asyncio.create_task(client.get(name)) for name in "1234"]
    await asyncio.sleep(0)  # all have asked, and none is sent
    tasks[2].cancel()
    await outcomes(*tasks)
    assert names(router) == [["1", "2", "4"]]


async def test_a_command_cancelled_without_a_broker_is_not_sent(endpoint: str) -> None:
    with ScriptedRouter(endpoint, answer):
        client = AsyncClient(endpoint, timeout_s=PATIENCE_S)
        await client.ping()
    await asyncio.sleep(SOON_S)  # it notices that there is no broker
    tasks = [asyncio.create_task(client.get(name)) for name in "1234"]
    await asyncio.sleep(SOON_S)
    tasks[2].cancel()
    await asyncio.sleep(0)
    with ScriptedRouter(endpoint, answer) as router:
        made = await outcomes(*tasks)
    await client.close()
    assert [type(each) for each in made] == [Job, Job, asyncio.CancelledError, Job]
    assert names(router) == [["1", "2", "4"]]


@pytest.fixture
async def small(endpoint: str) -> AsyncIterator[tuple[AsyncClient, ScriptedRouter, list[str]]]:
    """Yield a client with two commands a request, which the broker refuses once."""
    put_off: list[str] = []

    def answer_later(request: Request) -> list[bytes]:
        if isinstance(request.commands[0], Hello):
            return [reply(request.seq, hello_result(commands=2))]
        name = name_of(request.commands[0])
        if name not in put_off:
            return answer(request)
        put_off.remove(name)
        return [refused(request.seq, OverloadedError("later"))]

    with ScriptedRouter(endpoint, answer_later) as router:
        async with AsyncClient(endpoint, timeout_s=PATIENCE_S) as client:
            await client.ping()
            yield client, router, put_off


async def test_a_cancellation_repeats_no_finished_command(
    small: tuple[AsyncClient, ScriptedRouter, list[str]],
) -> None:
    client, router, put_off = small
    put_off += ["3"]
    tasks = [asyncio.create_task(client.cancel(name)) for name in "1234"]
    await asyncio.sleep(SOON_S)
    assert [task.done() for task in tasks] == [True, True, False, False]
    tasks[3].cancel()
    made = await outcomes(*tasks)
    assert [type(each) for each in made] == [Job, Job, Job, asyncio.CancelledError]
    assert names(router) == [["1", "2"], ["3", "4"], ["3"]]


async def test_only_unsent_cancelled_commands_are_left_out(
    small: tuple[AsyncClient, ScriptedRouter, list[str]],
) -> None:
    client, router, put_off = small
    put_off += ["3"]
    tasks = [asyncio.create_task(client.cancel(name)) for name in ("1", UNANSWERED, *"3456")]
    await asyncio.sleep(SOON_S)
    assert [task.done() for task in tasks] == [False] * 4 + [True] * 2
    tasks[2].cancel()
    await outcomes(tasks[2], tasks[3])
    assert names(router) == [["1", UNANSWERED], ["3", "4"], ["5", "6"], ["4"]]
    for task in tasks:
        task.cancel()
    await outcomes(*tasks)
    assert is_idle(client)


async def test_a_cancellation_keeps_the_order_of_requests(endpoint: str) -> None:
    with ScriptedRouter(endpoint, answer):
        client = AsyncClient(endpoint, timeout_s=PATIENCE_S)
        await client.ping()
    await asyncio.sleep(SOON_S)  # it notices that there is no broker
    tasks = [asyncio.create_task(client.get(name)) for name in "12"]
    await asyncio.sleep(SOON_S)
    tasks += [asyncio.create_task(client.get(name)) for name in "34"]
    await asyncio.sleep(SOON_S)
    tasks[0].cancel()
    with ScriptedRouter(endpoint, answer) as router:
        await outcomes(*tasks)
    await client.close()
    assert names(router) == [["2"], ["3", "4"]]


async def test_a_cancelled_command_is_in_no_later_request(
    small: tuple[AsyncClient, ScriptedRouter, list[str]],
) -> None:
    client, router, _ = small
    asked = [*map(str, range(120))]  # the first 100 are taken at once, the others as needed
    asked[::2] = [UNANSWERED] * 4 + asked[8::2]
    tasks = [asyncio.create_task(client.get(name)) for name in asked]
    await asyncio.sleep(SOON_S)
    for task in (*tasks[:8], tasks[90], tasks[110]):
        task.cancel()
    await outcomes(*tasks)
    got = [name for message in names(router)[4:] for name in message]
    assert got == [name for name in asked[8:] if name not in {"90", "110"}]


async def test_finished_commands_are_freed_at_once(talk: Talk) -> None:
    client, _ = talk
    gc.collect()
    gc.disable()
    try:
        await outcomes(*map(client.get, "123"))
        left = [
            each
            for each in gc.get_objects()
            if isinstance(each, PipelinedCommand | CommandGroup | Call)
        ]
    finally:
        gc.enable()
    assert left == []


async def test_when_all_are_cancelled_nothing_is_repeated(talk: Talk) -> None:
    client, router = talk
    # The second has no answer, and so the message has none.
    tasks = [asyncio.create_task(client.get(name)) for name in ("1", UNANSWERED, "2")]
    await asyncio.sleep(SOON_S)
    assert not is_idle(client)
    for task in tasks:
        task.cancel()
    await outcomes(*tasks)
    assert is_idle(client)
    await asyncio.sleep(4 * SOON_S)  # a repeat would come after half a second
    assert names(router) == [["1", UNANSWERED, "2"]]


async def test_commands_cancelled_together_are_handled_once(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _ = talk
    looked: list[int] = []

    def withdraw(call: Call, places: set[int]) -> None:
        looked.append(len(places))
        Session.withdraw(client._session, call, places)

    monkeypatch.setattr(client._session, "withdraw", withdraw)
    tasks = [asyncio.create_task(client.get(UNANSWERED)) for _ in range(100)]
    await asyncio.sleep(SOON_S)
    for task in tasks[1:]:
        task.cancel()
    await outcomes(*tasks[1:])
    assert looked == [99]
    tasks[0].cancel()
    await outcomes(tasks[0])
    assert is_idle(client)


async def test_each_command_gets_its_own_timeout_error(endpoint: str) -> None:
    with ScriptedRouter(endpoint, answer) as router:
        async with AsyncClient(endpoint, timeout_s=SOON_S) as client:
            await client.ping()
            alone = client.get(UNANSWERED, timeout_s=SOON_S)
            got, read, made, cancelled, moved = await outcomes(
                alone,
                client.get(UNANSWERED),
                client.create(HASH, job_id=NEW),
                client.cancel("2"),
                client.transition("3", "running"),
            )
    assert [*map(name_of, router.requests[-1].commands)] == [UNANSWERED, NEW, "2", "3"]
    assert type(got) is type(read) is BrokerUnreachableError  # as each would alone
    assert type(made) is type(cancelled) is type(moved) is OutcomeUnknown
    assert cancelled is not moved


async def test_a_slow_turn_of_the_loop_is_no_timeout(
    endpoint: str,
) -> None:
    with ScriptedRouter(endpoint, answer):
        async with AsyncClient(endpoint, timeout_s=A_WHILE_S) as client:
            await client.ping()
            first = asyncio.create_task(client.get("1"))
            asyncio.get_running_loop().call_soon(time.sleep, A_WHILE_S + SOON_S)
            assert (await first).job_id == "1"


async def test_unsent_commands_fail_when_the_broker_is_silent(endpoint: str) -> None:
    def silent(request: Request) -> list[bytes]:
        greets = isinstance(request.commands[0], Hello)
        return [reply(request.seq, hello_result(commands=1))] if greets else []

    with ScriptedRouter(endpoint, silent) as router:
        async with AsyncClient(endpoint, timeout_s=2 * SOON_S) as client:
            await client.ping()
            made = await outcomes(*(client.cancel(name) for name in "123456"))
    assert [type(each) for each in made] == [OutcomeUnknown] * 4 + [BrokerUnreachableError] * 2
    assert names(router) == [["1"], ["2"], ["3"], ["4"]]


async def test_closing_gives_every_command_an_error(talk: Talk) -> None:
    client, router = talk
    left = [asyncio.create_task(client.cancel(name)) for name in ("1", UNANSWERED, "2")]
    await asyncio.sleep(SOON_S)
    assert names(router) == [["1", UNANSWERED, "2"]]
    gathered = [asyncio.create_task(client.cancel(name)) for name in "45"]
    await asyncio.sleep(0)
    await client.close()
    made = await outcomes(*left, *gathered)
    assert [type(each) for each in made] == [ClosedOutcomeUnknown] * 3 + [ClientClosedError] * 2
    assert len({*map(id, made)}) == 5
    assert len(names(router)) == 1

"""The worker's connection to a real broker: answers by callback, and claims that are withdrawn."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
import zmq

from tests.brokers import BrokerProcess
from tests.worker.script import PATIENCE_S, turns, until
from tollgate import Worker
from tollgate.client.connection import Connection
from tollgate.client.errors import ClientClosedError
from tollgate.client.sync import Client
from tollgate.domain.commands import Claim, Get, Release, Transition
from tollgate.domain.exceptions import (
    LeaseLostError,
    TollgateError,
    TooLargeError,
    VersionConflictError,
)
from tollgate.domain.models import Job
from tollgate.domain.status import COMPLETED, RUNNING
from tollgate.worker.link import Link


@pytest.fixture(scope="module")
def client(shared_broker: BrokerProcess) -> Iterator[Client]:
    with Client(shared_broker.endpoint, timeout_s=PATIENCE_S) as client:
        yield client


@pytest.fixture
async def link(shared_broker: BrokerProcess) -> AsyncIterator[Link]:
    async with Link(shared_broker.endpoint, timeout_s=PATIENCE_S) as link:
        await link.ping()
        yield link


@pytest.fixture
def queue() -> str:
    """A queue of this test alone."""
    return uuid4().hex


@pytest.fixture
def running(client: Client, queue: str) -> Callable[[], Job]:
    def create() -> Job:
        job = client.create("0" * 64, queue=queue)
        return client.transition(job.job_id, RUNNING)

    return create


@pytest.fixture
def claim(queue: str) -> Callable[..., Claim]:
    def make(wait_ms: int = 0) -> Claim:
        return Claim(status=RUNNING, lease_ms=30_000, wait_ms=wait_ms, limit=1, queues=[queue])

    return make


async def posted(link: Link, *commands: Any, timeout_s: float = PATIENCE_S) -> list[Any]:
    answers: list[list[Any]] = []
    link.post([*commands], answers.append, timeout_s)
    link.push()
    assert not answers  # never in `post` or `push` themselves
    await until(lambda: answers)
    assert len(answers) == 1
    return answers[0]


async def test_one_message_settles_and_claims(
    link: Link, client: Client, running: Any, claim: Any
) -> None:
    first, second = running(), running()
    ((lease,),) = await posted(link, claim())
    assert lease.job.job_id == first.job_id
    done = Transition(
        job_id=first.job_id, target=COMPLETED, result="42", expected_version=2, lease=lease.token
    )
    job, leases = await posted(link, done, claim())
    assert (job.status, job.result, job.version) == (COMPLETED, "42", 3)
    assert [each.job.job_id for each in leases] == [second.job_id]
    answer = await posted(link, Release(job_id=second.job_id, lease=leases[0].token), claim())
    assert answer[0] is None
    await posted(link, Release(job_id=second.job_id, lease=answer[1][0].token))


async def test_refusals_are_values(link: Link, client: Client, running: Any, claim: Any) -> None:
    job = running()
    stale = Transition(job_id=job.job_id, target=COMPLETED, result="", expected_version=1)
    unheld = Release(job_id=job.job_id, lease=5)
    large = Transition(job_id=job.job_id, target=COMPLETED, result="x" * 70_000)
    larger = Transition(job_id=job.job_id, target=COMPLETED, result="x" * 20_000_000)
    answers = await posted(link, stale, unheld, large, larger)
    assert [type(each) for each in answers] == [
        VersionConflictError, LeaseLostError, TooLargeError, TooLargeError,
    ]  # fmt: skip
    assert [type(each) for each in await posted(link, larger)] == [TooLargeError]
    with pytest.raises(LeaseLostError):
        await link.send(unheld)


async def test_messages_leave_together_with_push(link: Link, running: Any) -> None:
    job, answers = running(), list[list[Any]]()
    show = Get(job_id=job.job_id)
    link.post([show], answers.append, PATIENCE_S)
    link.post([show, show], answers.append, PATIENCE_S)
    link.push()
    link.push()  # and nothing is sent twice
    await until(lambda: len(answers) == 2)
    assert [[each.job_id for each in some] for some in answers] == [[job.job_id], [job.job_id] * 2]


async def test_a_parked_claim_does_not_delay_others(
    link: Link, client: Client, queue: str, claim: Any
) -> None:
    leases: list[Any] = []
    link.post([claim(wait_ms=60_000)], leases.extend, 62.0)
    link.push()
    other = client.create("0" * 64, queue=queue)
    move = Transition(job_id=other.job_id, target=RUNNING, expected_version=1)
    (job,) = await posted(link, move)
    assert job.status is RUNNING
    await until(lambda: leases)
    assert [each.job.job_id for each in leases[0]] == [other.job_id]


async def test_a_withdrawn_claim_gives_back_what_it_gets(
    link: Link, client: Client, running: Any, claim: Any
) -> None:
    answers: list[Any] = []
    await posted(link, claim(wait_ms=1))  # opens the session: the next one is sent by `push`
    call = link.post([claim(wait_ms=60_000)], answers.append, 62.0)
    link.push()
    job = running()
    link.withdraw(call)
    await link.until_quiet(PATIENCE_S)
    assert not answers
    (lease,) = client.claim(RUNNING, job_ids=[job.job_id])  # nobody has it
    client.release(job.job_id, lease.token)


async def test_a_withdrawn_claim_is_parked_no_longer(
    link: Link, client: Client, running: Any, claim: Any
) -> None:
    """Nothing else makes the link send: it tells the broker at once."""
    await posted(link, claim(wait_ms=1))
    call = link.post([claim(wait_ms=60_000)], lambda _: None, 62.0)
    link.push()
    link.withdraw(call)
    await asyncio.wait_for(link.until_quiet(3_600), PATIENCE_S)
    job = running()
    (lease,) = client.claim(RUNNING, job_ids=[job.job_id], wait_ms=0)  # no worker got it
    client.release(job.job_id, lease.token)


async def test_a_link_is_quiet_when_it_has_released_all(
    link: Link, client: Client, running: Any, claim: Any
) -> None:
    await posted(link, claim())
    job = running()
    call = link.post([claim()], lambda _: None, PATIENCE_S)
    link._connection.flush(link._session)  # `push` may also receive the answer
    link.withdraw(call)
    await asyncio.wait_for(link.until_quiet(3_600), PATIENCE_S)
    (lease,) = client.claim(RUNNING, job_ids=[job.job_id], wait_ms=0)
    client.release(job.job_id, lease.token)


async def test_what_cannot_be_sent_is_answered_without_any_traffic(
    link: Link, running: Any
) -> None:
    job = running()
    size = link.limit("request_bytes", 0)
    large = Transition(job_id=job.job_id, target=COMPLETED, result="x" * size)
    answers: list[list[Any]] = []
    for _ in range(2):
        link.post([large], answers.append, PATIENCE_S)
    link.push()
    await turns()
    assert [type(each) for some in answers for each in some] == [TooLargeError] * 2


async def test_a_silent_broker_is_an_answer(link: Link, claim: Any) -> None:
    (answer,) = await posted(link, claim(wait_ms=60_000), timeout_s=0.05)
    assert isinstance(answer, TollgateError)


async def test_a_closed_link_takes_nothing(shared_broker: BrokerProcess, claim: Any) -> None:
    answers: list[list[Any]] = []
    async with Link(shared_broker.endpoint, timeout_s=PATIENCE_S) as link:
        await link.ping()
        link.post([claim(wait_ms=60_000)], answers.append, 62.0)
        link.push()
    with pytest.raises(ClientClosedError):
        link.post([claim()], answers.append, 1.0)
    await asyncio.sleep(0)


async def test_the_broker_tells_its_limits(link: Link, shared_broker: BrokerProcess) -> None:
    assert link.limit("text_bytes", 5) == 65_536
    assert link.limit("nothing of the kind", 5) == 5
    assert Link(shared_broker.endpoint).limit("text_bytes", 5) == 5  # it has not answered yet


@pytest.mark.parametrize(("lease_ms", "pause_ms"), [(900, 300), (100, 33), (3_600, 1_000)])
async def test_a_worker_connects_again_within_its_lease(  # noqa: PLR0917 - fixtures
    shared_broker: BrokerProcess,
    running: Callable[[], Job],
    queue: str,
    monkeypatch: pytest.MonkeyPatch,
    lease_ms: int,
    pause_ms: int,
) -> None:
    """Else the lease lapses after a restart of the broker, and another worker has the job."""
    pauses: list[tuple[object, object]] = []
    open_socket = Connection._open

    def note(connection: Connection) -> "zmq.Socket[bytes]":
        socket = open_socket(connection)
        options = (zmq.RECONNECT_IVL, zmq.RECONNECT_IVL_MAX)
        pauses.append((socket.getsockopt(options[0]), socket.getsockopt(options[1])))
        return socket

    async def until_touched(_: Job) -> str:
        await until(lambda: len(pauses) == 2)  # the loop's connection, and the lease thread's
        return "done"

    running()
    monkeypatch.setattr(Connection, "_open", note)
    worker = Worker(
        until_touched, shared_broker.endpoint, queues=[queue], lease_ms=lease_ms, jobs=1
    )
    assert await worker.serve() == 0
    assert pauses == [(min(50, pause_ms), pause_ms)] * 2

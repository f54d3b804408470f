"""Brokers that are absent, silent, broken or restarted, over real sockets, for both clients."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tollgate.client.errors import (
    BatchError,
    BrokerUnreachableError,
    InvalidEndpointError,
    OutcomeUnknown,
    ProtocolError,
)
from tollgate.client.sync import connect
from tollgate.domain.commands import AnyCommand, Create, Get, Hello, Transition
from tollgate.domain.exceptions import ArgumentError, JobNotFoundError, OverloadedError
from tollgate.domain.messages import Request
from tollgate.domain.models import Job
from tollgate.domain.results import AnyResult, OkResult

from .peers import (
    A_WHILE_S,
    AT_ONCE_S,
    HASH,
    PATIENCE_S,
    SOON_S,
    BrokerProcess,
    ScriptedRouter,
    hello_result,
    job_id,
    job_result,
    obliging,
    refused,
    reply,
)

Make = Callable[..., Any]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as executor:
        yield executor


def only_hello(request: Request) -> list[bytes]:
    """Answer hello only."""
    commands = request.commands
    return [reply(request.seq, hello_result())] if isinstance(commands[0], Hello) else []


CALLS: list[Callable[[Any], object]] = [
    lambda client: client.ping(),
    lambda client: client.create(HASH),
    lambda client: client.get("a"),
    lambda client: client.transition("a", "running"),
    lambda client: client.count(),
    lambda client: client.list_page(),
    lambda client: [*client.list()],
    lambda client: client.claim("running"),
    lambda client: client.touch("a", 1),
    lambda client: client.release("a", 1),
    lambda client: client.create_many([HASH]),
]


@pytest.mark.parametrize("call", CALLS)
def test_no_broker(make_client: Make, call: Callable[[Any], object]) -> None:
    client = make_client(timeout_s=AT_ONCE_S)
    with pytest.raises(BrokerUnreachableError, match="no broker at ipc://"):
        call(client)


def test_connect_without_a_broker(endpoint: str) -> None:
    with pytest.raises(BrokerUnreachableError):
        connect(endpoint, timeout_s=AT_ONCE_S)


@pytest.mark.parametrize(
    "endpoint",
    [
        "here",
        "localhost:5555",
        "udp://nowhere:1",
        "inproc://a",
        "ipc://",
        "ipc:///",
        "ipc://run/b.sock",
        "tcp://localhost",
        "tcp://:5555",
        "tcp://*:5555",
        "tcp://a b:5555",
        " tcp://127.0.0.1:5555",
    ],
)
def test_invalid_endpoints(make_client: Make, endpoint: str) -> None:
    client = make_client(endpoint)
    for _ in range(2):
        with pytest.raises(InvalidEndpointError, match=r"say (ipc|tcp)://") as refused:
            client.ping()
        assert isinstance(refused.value, ArgumentError)


def test_a_broker_may_start_after_the_call(
    make_client: Make, endpoint: str, pool: ThreadPoolExecutor
) -> None:
    client = make_client(timeout_s=PATIENCE_S)
    created = pool.submit(client.create, HASH)
    broker = BrokerProcess(endpoint).start()
    try:
        assert isinstance(created.result(PATIENCE_S), Job)
    finally:
        broker.kill()


def test_a_call_without_a_broker_is_not_done_later(make_client: Make, endpoint: str) -> None:
    client = make_client()
    with pytest.raises(BrokerUnreachableError):
        client.create(HASH, timeout_s=SOON_S)
    broker = BrokerProcess(endpoint).start()
    try:
        assert client.count(timeout_s=PATIENCE_S).total == 0
    finally:
        broker.kill()


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.transition("a", "running", timeout_s=AT_ONCE_S),
        lambda client: client.provide_input("a", "here", expected_version=1, timeout_s=AT_ONCE_S),
        lambda client: client.cancel("a", timeout_s=AT_ONCE_S),
        lambda client: client.claim("running", timeout_s=AT_ONCE_S),
        lambda client: client.claim("running", wait_ms=10, timeout_s=AT_ONCE_S),
        lambda client: client.release("a", 1, timeout_s=AT_ONCE_S),
    ],
)
def test_an_unanswered_change_is_sent_once(
    make_client: Make, endpoint: str, call: Callable[[Any], object]
) -> None:
    with ScriptedRouter(endpoint, only_hello) as router:
        client = make_client(timeout_s=PATIENCE_S)
        client.ping()
        with pytest.raises(OutcomeUnknown):
            call(client)
        client.ping()
        changes = [command for command in router.commands() if not isinstance(command, Hello)]
        assert len(changes) == 1


def test_an_unanswered_read_is_sent_again(make_client: Make, endpoint: str) -> None:
    asked: list[int] = []

    def answer(request: Request) -> list[bytes]:
        if isinstance(request.commands[0], Hello):
            return [reply(request.seq, hello_result())]
        asked.append(request.seq)
        return [reply(request.seq, job_result(1))] if len(asked) == 3 else []

    with ScriptedRouter(endpoint, answer):
        assert make_client(timeout_s=PATIENCE_S).get("a").job_id == job_id(1)
    assert asked == [2, 2, 2]


def test_a_read_without_an_answer_fails(make_client: Make, endpoint: str) -> None:
    with ScriptedRouter(endpoint, only_hello):
        client = make_client(timeout_s=PATIENCE_S)
        client.ping()
        with pytest.raises(BrokerUnreachableError, match="did not answer in time"):
            client.get("a", timeout_s=AT_ONCE_S)


def test_an_overloaded_broker_is_asked_again(make_client: Make, endpoint: str) -> None:
    seqs: list[int] = []

    def answer(request: Request) -> list[bytes]:
        if isinstance(request.commands[0], Hello):
            return [reply(request.seq, hello_result())]
        seqs.append(request.seq)
        if len(seqs) == 1:
            return [refused(request.seq, OverloadedError("busy"))]
        return [reply(request.seq, job_result(1))]

    with ScriptedRouter(endpoint, answer):
        assert make_client(timeout_s=PATIENCE_S).transition("a", "running").job_id == job_id(1)
    assert seqs == [2, 3]


def test_a_broken_broker(make_client: Make, endpoint: str) -> None:
    def answer(command: AnyCommand) -> AnyResult:
        return OkResult() if isinstance(command, Get) else job_result(1)

    with ScriptedRouter(endpoint, obliging(answer)):
        client = make_client(timeout_s=PATIENCE_S)
        with pytest.raises(ProtocolError, match="a get was answered with a ok"):
            client.get("a")
        with pytest.raises(ProtocolError):
            client.count()
        assert client.transition("a", "running").job_id == job_id(1)


def test_another_service_at_the_endpoint(make_client: Make, endpoint: str) -> None:
    def answer(_: Request) -> list[bytes]:
        return [b"220 mail ready"]

    with (
        ScriptedRouter(endpoint, answer),
        pytest.raises(BrokerUnreachableError, match="not a TG/1 reply"),
    ):
        make_client().ping(timeout_s=A_WHILE_S)


def test_a_call_survives_a_restart_of_the_broker(
    make_client: Make, endpoint: str, pool: ThreadPoolExecutor
) -> None:
    broker = BrokerProcess(endpoint).start()
    client = make_client(timeout_s=PATIENCE_S)
    client.ping()
    broker.freeze()  # requests reach its buffers, and are lost with it
    created = pool.submit(client.create, HASH, job_id=job_id(7))
    with pytest.raises(TimeoutError):
        created.result(SOON_S)
    broker.kill()
    broker.start()
    try:
        assert created.result(PATIENCE_S).job_id == job_id(7)
        assert client.get(job_id(7)).version == 1
    finally:
        broker.kill()


@pytest.mark.parametrize("end", [BrokerProcess.kill, BrokerProcess.terminate])
def test_a_parked_wait_survives_a_restart(
    make_client: Make,
    endpoint: str,
    pool: ThreadPoolExecutor,
    end: Callable[[BrokerProcess], object],
) -> None:
    broker = BrokerProcess(endpoint).start()
    waiting, acting = make_client(timeout_s=PATIENCE_S), make_client(timeout_s=PATIENCE_S)
    acting.create(HASH, job_id=job_id(7))
    waited = pool.submit(waiting.wait, job_id(7))
    with pytest.raises(TimeoutError):
        waited.result(SOON_S)
    end(broker)
    broker.start()
    try:
        with pytest.raises(JobNotFoundError):  # the new broker has no such job
            waited.result(PATIENCE_S)
    finally:
        broker.kill()


def test_a_change_in_flight_at_a_crash_is_unknown(
    make_client: Make, endpoint: str, pool: ThreadPoolExecutor
) -> None:
    broker = BrokerProcess(endpoint).start()
    client = make_client(timeout_s=PATIENCE_S)
    client.create(HASH, job_id=job_id(7))
    broker.freeze()
    moved = pool.submit(client.transition, job_id(7), "running", timeout_s=1)
    with pytest.raises(TimeoutError):
        moved.result(SOON_S)
    broker.kill()
    with pytest.raises(OutcomeUnknown):
        moved.result(PATIENCE_S)


def test_a_broker_lost_in_a_bulk_call_ends_it(make_client: Make, endpoint: str) -> None:
    pulled: list[int] = []

    def rows() -> Iterator[str]:
        for number in range(1_000_000):
            pulled.append(number)
            yield HASH

    def answer(request: Request) -> list[bytes]:
        if isinstance(request.commands[0], Hello):
            return [reply(request.seq, hello_result(commands=10))]
        if request.seq > 4:
            return []
        return [reply(request.seq, *map(job_result, range(len(request.commands))))]

    with ScriptedRouter(endpoint, answer) as router:
        client = make_client(timeout_s=PATIENCE_S)
        client.ping()
        with pytest.raises(BatchError) as caught:
            client.create_many(rows(), timeout_s=SOON_S)

    results = caught.value.results
    jobs = [result for result in results if isinstance(result, Job)]
    assert {type(result) for result in results[len(jobs) :]} == {OutcomeUnknown}
    assert len(results) == len(pulled) < 1_000
    assert all(isinstance(command, Create) for command in router.commands()[1:])


def test_a_batch_has_a_value_for_every_command(make_client: Make, endpoint: str) -> None:
    def answer(request: Request) -> list[bytes]:
        if isinstance(request.commands[0], Hello):
            return [reply(request.seq, hello_result(commands=2))]
        return []

    with ScriptedRouter(endpoint, answer) as router:
        client = make_client(timeout_s=PATIENCE_S)
        client.ping()
        batch = client.batch(timeout_s=SOON_S)
        for _ in range(20):
            batch.transition("a", "running")
        values = batch.send()

    kinds = [OutcomeUnknown] * 8 + [BrokerUnreachableError] * 12
    assert [type(value) for value in values] == kinds
    assert sum(isinstance(command, Transition) for command in router.commands()) == 8

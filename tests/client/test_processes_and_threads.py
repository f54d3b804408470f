"""A client belongs to one process, and to one thread at a time."""

import asyncio
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import copy, deepcopy
from typing import Any

import pytest

from tollgate.client.aio import AsyncClient
from tollgate.client.errors import BatchError, ClientClosedError, ClosedOutcomeUnknown
from tollgate.client.sync import Client
from tollgate.domain.commands import Hello
from tollgate.domain.exceptions import TollgateError
from tollgate.domain.messages import Request

from .peers import (
    HASH,
    PATIENCE_S,
    BrokerProcess,
    ScriptedRouter,
    hello_result,
    printed,
    reply,
)

FORK = """
import asyncio, gc, os, sys, traceback
from tollgate.client.aio import AsyncClient
from tollgate.client.errors import ForkedClientError
from tollgate.client.sync import Client

async def in_the_parent(client):
    await client.ping()
    return [await client.create(input=str(number)) for number in range(3)]

async def in_the_child(client):
    try:
        await client.ping()
    except ForkedClientError:
        await client.close()
        return
    raise AssertionError("the child used its parent's client")

def child(client, other):
    global kept
    try:
        client.ping()
    except ForkedClientError as error:
        print(error)
    client.close()
    asyncio.run(in_the_child(other))
    with Client(client.endpoint, timeout_s=30) as own:
        own.ping()
    client = other = kept = None
    gc.collect()

client, other = Client(sys.argv[1], timeout_s=30), AsyncClient(sys.argv[1], timeout_s=30)
unused = Client(sys.argv[1], timeout_s=30)
loop = asyncio.new_event_loop()
client.ping()
loop.run_until_complete(in_the_parent(other))
pid = os.fork()
if pid == 0:
    code = 1
    try:
        unused.ping()  # opened here, so it is the child's
        unused.close()
        child(client, other)
        code = 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(code)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
client.ping()
loop.run_until_complete(in_the_parent(other))
print(client.count().total)
loop.run_until_complete(other.close())
client.close()
"""


def test_a_forked_child_cannot_break_its_parents_client(broker: BrokerProcess) -> None:
    said, total = printed(FORK, broker.endpoint)
    assert "opened this client" in said
    assert total == "6"


def test_a_second_thread_in_a_client_raises(broker: BrokerProcess) -> None:
    inside, leave = threading.Event(), threading.Event()

    def rows() -> Iterator[str]:
        inside.set()
        leave.wait(PATIENCE_S)
        yield HASH

    with Client(broker.endpoint, timeout_s=PATIENCE_S) as client, ThreadPoolExecutor() as pool:
        created = pool.submit(client.create_many, rows())
        inside.wait(PATIENCE_S)
        with pytest.raises(RuntimeError, match="one thread at a time"):
            client.ping()
        leave.set()
        assert len(created.result(PATIENCE_S)) == 1
        client.ping()  # one after the other is fine


def test_an_unclosed_client_is_cleaned_up(broker: BrokerProcess) -> None:
    program = (
        "import sys; from tollgate.client.sync import connect; connect(sys.argv[1], timeout_s=30)"
    )
    assert printed(program, broker.endpoint) == []


PRELOAD = """
import multiprocessing, sys, threading
from tollgate.client.sync import Client
client = Client(sys.argv[1], timeout_s=30)  # at import, as an application has it

def serve(number):
    return client.create(input=str(number)).job_id

other = Client(sys.argv[1], timeout_s=30)  # in use while the children are forked
other.ping()
with multiprocessing.get_context("fork").Pool(3) as pool:
    print(len(set(pool.map(serve, range(30), chunksize=1))))
print(other.count().total)
"""
FORK_IN_A_CALL = """
import os, sys, threading
from tollgate.client.errors import ForkedClientError
from tollgate.client.sync import Client
client = Client(sys.argv[1], timeout_s=30)
job = client.create(input="a")
taken = threading.Event()

def rows():
    taken.set()
    done.wait(30)
    yield "0" * 64

done = threading.Event()
thread = threading.Thread(target=client.create_many, args=(rows(),))
thread.start()
taken.wait(30)
pid = os.fork()
if pid == 0:
    try:
        client.ping()
    except ForkedClientError as error:
        print(error)
    client.close()
    with Client(sys.argv[1], timeout_s=30) as own:
        print(own.count().total)
    sys.stdout.flush()
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
done.set()
thread.join()
print(client.count().total)
"""
FORK_IN_A_LOOP = """
import asyncio, os, sys
from tollgate.client.aio import AsyncClient

async def main():
    async with AsyncClient(sys.argv[1], timeout_s=30) as client:
        await client.ping()
        pid = os.fork()
        if pid == 0:
            asyncio._set_running_loop(None)  # as multiprocessing's children have it
            asyncio.run(client.close())
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        print((await client.ping()).protocol)

asyncio.run(main())
"""
AT_EXIT = """
import sys, threading
from tollgate.client.sync import Client
clients = [Client(sys.argv[1], timeout_s=30) for _ in range(3)]
job = clients[0].create(input="a")
for client in clients[1:]:
    client.ping()
    threading.Thread(target=client.wait, args=(job.job_id,), daemon=True).start()
while True:
    if clients[0].ping().limits and all(client._thread for client in clients[1:]):
        break
print("the end")
"""


def test_a_client_made_before_a_fork_serves_children(empty_broker: BrokerProcess) -> None:
    assert printed(PRELOAD, empty_broker.endpoint) == ["30", "30"]


def test_a_fork_during_a_call_is_told_as_such(empty_broker: BrokerProcess) -> None:
    error, in_child, code, in_parent = printed(FORK_IN_A_CALL, empty_broker.endpoint)
    assert "does not survive a fork" in error
    assert "has to make its own client" in error
    assert (in_child, code, in_parent) == ("1", "0", "2")


def test_a_child_may_close_the_client_of_a_loop(broker: BrokerProcess) -> None:
    assert printed(FORK_IN_A_LOOP, broker.endpoint) == ["0", "1"]


def test_threads_in_calls_do_not_stop_the_exit(broker: BrokerProcess) -> None:
    assert printed(AT_EXIT, broker.endpoint) == ["the end"]


class Closing:
    """A broker that answers a greeting, and says when another request has come."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    def __call__(self, request: Request) -> list[bytes]:
        if isinstance(request.commands[0], Hello):
            return [reply(request.seq, hello_result())]
        self.asked.set()
        return []


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda client: client.wait("a"), ClientClosedError),
        (lambda client: client.get("a"), ClientClosedError),
        (lambda client: client.claim("running", wait_ms=60_000), ClosedOutcomeUnknown),
        (lambda client: client.transition("a", "running"), ClosedOutcomeUnknown),
        (lambda client: client.create_many([HASH]), BatchError),
    ],
)
def test_closing_ends_a_call_in_another_thread(
    endpoint: str, call: Callable[[Client], object], kind: type
) -> None:
    closing = Closing()
    with ScriptedRouter(endpoint, closing), ThreadPoolExecutor() as pool:
        client = Client(endpoint, timeout_s=PATIENCE_S)
        made = pool.submit(call, client)
        assert closing.asked.wait(PATIENCE_S)
        client.close()
        client.close()
        error = made.exception(PATIENCE_S)
        assert type(error) is kind
        inner = error.failed[0][1] if isinstance(error, BatchError) else error
        assert isinstance(inner, ClientClosedError)
        assert client._connection._opened == []


def test_a_signal_handler_may_close_a_client(endpoint: str) -> None:
    closing = Closing()
    client = Client(endpoint, timeout_s=PATIENCE_S)

    def ask_for_the_signal() -> None:
        closing.asked.wait(PATIENCE_S)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, lambda *_: client.close())
    try:
        with ScriptedRouter(endpoint, closing), ThreadPoolExecutor() as pool:
            pool.submit(ask_for_the_signal)
            with pytest.raises(ClientClosedError):
                client.wait("a")
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_an_iterable_may_close_its_client(broker: BrokerProcess) -> None:
    client = Client(broker.endpoint, timeout_s=PATIENCE_S)

    def rows() -> Iterator[str]:
        yield HASH
        client.close()
        yield HASH

    with pytest.raises(BatchError) as caught:
        client.create_many(rows(), message_commands=1)
    assert isinstance(caught.value.failed[-1][1], ClientClosedError)
    assert client._connection._opened == []


def test_clients_may_be_closed_at_any_moment(broker: BrokerProcess) -> None:
    """Each thread calls until its client is closed: while it opens, sleeps, sends or leaves."""

    def call(client: Client) -> TollgateError:
        try:
            while True:
                client.ping()
        except TollgateError as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        for turn in range(40):
            clients = [Client(broker.endpoint, timeout_s=PATIENCE_S) for _ in range(8)]
            calls = [pool.submit(call, client) for client in clients]
            for _ in range(turn % 4):
                with Client(broker.endpoint, timeout_s=PATIENCE_S) as other:
                    other.ping()
            for client in clients:
                client.close()
            errors = [made.result(PATIENCE_S) for made in calls]
            assert {type(error) for error in errors} == {ClientClosedError}
            assert all(client._connection._opened == [] for client in clients)


def _pickled(client: Any) -> Any:
    return pickle.loads(pickle.dumps(client))  # noqa: S301 - our own


@pytest.mark.parametrize("copied", [copy, deepcopy, _pickled])
@pytest.mark.parametrize("is_used", [False, True])
def test_a_copy_is_another_client(
    empty_broker: BrokerProcess, copied: Callable[[Client], Client], is_used: bool
) -> None:
    """Two clients must share neither a socket nor the numbers of a session."""
    with Client(empty_broker.endpoint, timeout_s=PATIENCE_S, name="me") as client:
        if is_used:
            client.create(input="first")
        with copied(client) as another:
            assert another.endpoint == client.endpoint
            for number in range(3):
                client.create(input=f"{number}")
                job = another.create(input=f"{number} of another")
                another.transition(job.job_id, "running")
        assert client.count().total == 6 + is_used
        assert client.history(job.job_id).entries[-1].client == "me"


@pytest.mark.parametrize("copied", [copy, deepcopy, _pickled])
def test_a_copy_of_an_async_client_is_another(
    empty_broker: BrokerProcess, copied: Callable[[AsyncClient], AsyncClient]
) -> None:
    async def main() -> None:
        async with AsyncClient(empty_broker.endpoint, timeout_s=PATIENCE_S) as client:
            await client.create(input="first")
            async with copied(client) as another:
                await asyncio.gather(client.create(input="a"), another.create(input="b"))
            assert (await client.count()).total == 3

    asyncio.run(main())

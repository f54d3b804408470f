"""A client belongs to one process, and to one thread at a time."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tollgate.client.sync import Client

from .peers import HASH, PATIENCE_S, ROOT, BrokerProcess

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
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK, broker.endpoint],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.stderr == ""
    said, total = done.stdout.splitlines()
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
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, broker.endpoint],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=PATIENCE_S,
    )
    assert done.stderr == b""

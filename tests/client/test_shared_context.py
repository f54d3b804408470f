"""All clients of a process share one ZeroMQ context, which has its limits and its end."""

import gc
from pathlib import Path

import pytest

from tollgate.client import connection
from tollgate.client.aio import AsyncClient
from tollgate.client.errors import ClientClosedError
from tollgate.client.sync import Client

from .peers import PATIENCE_S, BrokerProcess, printed

THREADS = """
import os, sys
from tollgate.client.sync import connect
clients = [connect(sys.argv[1], timeout_s=30) for _ in range(20)]
print(len(os.listdir("/proc/self/task")))
for client in clients:
    client.close()
print(len(os.listdir("/proc/self/task")))
"""
MANY = """
import resource, sys
from tollgate.client.connection import Connection
resource.setrlimit(resource.RLIMIT_NOFILE, (8_192, 8_192))
sockets = [Connection(f"{sys.argv[1]}-none") for _ in range(1_100)]
print(len({id(each.socket) for each in sockets}))
"""
FILES = """
import resource, sys
from tollgate.client.errors import BrokerUnreachableError
from tollgate.client.sync import Client
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]), int(sys.argv[2])))
clients = []
try:
    while True:
        clients.append(Client(sys.argv[1], timeout_s=30))
        clients[-1].ping()
except BrokerUnreachableError as error:
    print(error)
for client in clients[:-1]:
    client.ping()
"""


def test_all_clients_share_two_threads(broker: BrokerProcess) -> None:
    assert printed(THREADS, broker.endpoint) == ["3", "1"]


def test_a_process_may_have_over_1023_clients(endpoint: str) -> None:
    assert printed(MANY, endpoint) == ["1100"]


@pytest.mark.parametrize("files", [14, 22, 23, 24, 30, 31, 32, 64])
def test_too_few_files_are_an_error(broker: BrokerProcess, files: int) -> None:
    (error,) = printed(FILES, broker.endpoint, files)
    assert "Too many open files" in error
    assert f"may have {files} files open (ulimit -n)" in error


def test_a_forgotten_client_leaves_no_file_open(broker: BrokerProcess) -> None:
    def opened() -> int:
        gc.collect()
        return len([*Path("/proc/self/fd").iterdir()])

    with Client(broker.endpoint, timeout_s=PATIENCE_S) as client:
        client.ping()
        before = opened()
        for _ in range(5):
            Client(broker.endpoint, timeout_s=PATIENCE_S).ping()
        client.ping()  # libzmq closes the files of a socket later, in another thread
        sockets = connection._shared._sockets
        assert sockets == 1
        assert opened() <= before + 5 * 2  # the events are closed at once


@pytest.mark.parametrize("make", [Client, AsyncClient])
def test_a_closed_connection_is_not_opened_again(make: type, endpoint: str) -> None:
    client = make(endpoint)
    client._connection.close(client._session)
    with pytest.raises(ClientClosedError):
        client._connection.socket  # noqa: B018 - it opens what is not open

"""The server in this process, where its times are short."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from tests.serving import PATIENCE_S
from tollgate.client.sync import Client
from tollgate.metrics import server as module
from tollgate.metrics.server import Figures, Handler, Server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with (
        Client(f"ipc://{tmp_path}/b.sock") as client,
        Server(("127.0.0.1", 0), Figures(client), None) as server,
    ):
        loop = Thread(target=server.serve_forever)
        loop.start()
        yield server
        server.shutdown()
        loop.join(PATIENCE_S)


def test_a_slow_request_is_cut_off(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECTION_S", 0.1)
    with socket.create_connection(server.socket.getsockname()) as slow:
        assert is_cut_off(slow)


def test_a_silent_connection_keeps_no_server(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Handler, "timeout", None)
    with socket.create_connection(server.socket.getsockname()) as silent:
        silent.sendall(b"GET /healthz HTTP/1.1\r\n")
        deadline = time.monotonic() + PATIENCE_S
        while not server._open:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        server.shutdown()
        closing = Thread(target=server.server_close)
        closing.start()
        closing.join(PATIENCE_S / 3)
        assert not closing.is_alive()


def is_cut_off(slow: socket.socket) -> bool:
    """Send a byte now and then, so that no read waits for long; return whether that ends."""
    slow.settimeout(0.05)
    deadline = time.monotonic() + module.READ_S / 2
    while time.monotonic() < deadline:
        try:
            slow.sendall(b"G")
            if slow.recv(1) == b"":
                return True
        except TimeoutError:
            continue
        except ConnectionError:
            return True
    return False

"""An ipc endpoint whose files are removed, moved or replaced under a running broker."""

import errno
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from tollgate.broker.transport import endpoints as module
from tollgate.broker.transport.endpoints import EndpointError, IpcEndpoint

PATIENCE_MS = 10_000


class Bound:
    """A ROUTER socket bound to an endpoint in a directory of its own, and a peer that asked."""

    def __init__(self, directory: Path, context: "zmq.Context[Any]") -> None:
        self.endpoint = IpcEndpoint(f"ipc://{directory}/run/b.sock")
        self.path = self.endpoint.path
        self.lock = self.path.with_name("b.sock.lock")
        self._context = context
        self.router: zmq.Socket[Any] = context.socket(zmq.ROUTER)
        self.sockets = [self.router]
        self.endpoint.__enter__()
        self.endpoint.bind(self.router)
        self.peer = self.join()
        assert self.is_heard(self.peer)

    def join(self) -> "zmq.Socket[Any]":
        peer: zmq.Socket[Any] = self._context.socket(zmq.DEALER)
        self.sockets.append(peer)
        peer.connect(self.endpoint.url)
        return peer

    def is_heard(self, peer: "zmq.Socket[Any]") -> bool:
        peer.send(b"?")
        return bool(self.router.poll(PATIENCE_MS)) and self.router.recv_multipart()[1] == b"?"

    def look(self) -> str | None:
        return self.endpoint.look(self.router)


@pytest.fixture
def bound(short_dir: Path) -> Iterator[Bound]:
    context: zmq.Context[Any] = zmq.Context()
    bound = Bound(short_dir, context)
    yield bound
    bound.endpoint.__exit__()
    for each in bound.sockets:
        each.close(0)
    context.term()


def test_an_untouched_endpoint_is_left_alone(bound: Bound) -> None:
    before = bound.path.stat()
    assert bound.look() is None
    assert os.path.samestat(before, bound.path.stat())


@pytest.mark.parametrize("swept", ["socket", "socket and lock", "directory", "moved"])
def test_a_swept_socket_is_bound_anew(bound: Bound, swept: str) -> None:
    if swept == "directory":
        shutil.rmtree(bound.path.parent)
    elif swept == "moved":
        bound.path.rename(bound.path.with_name("old.sock"))
    else:
        bound.path.unlink()
        if swept == "socket and lock":
            bound.lock.unlink()
    assert bound.look() == "the socket file was gone: bound anew"
    assert bound.look() is None
    assert bound.is_heard(bound.join())
    assert bound.is_heard(bound.peer)
    assert bound.path.stat().st_mode & 0o777 == 0o600


def test_a_lost_lock_is_taken_again(bound: Bound) -> None:
    bound.lock.unlink()
    assert bound.look() is not None
    with pytest.raises(EndpointError, match="another broker"), IpcEndpoint(bound.endpoint.url):
        pass
    assert bound.is_heard(bound.join())


def test_a_socket_that_a_dead_process_left_is_replaced(bound: Bound) -> None:
    bound.path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(bound.path))
    assert bound.look() is not None
    assert bound.is_heard(bound.join())


def test_an_endpoint_that_another_broker_took_is_lost(bound: Bound) -> None:
    bound.path.unlink()
    bound.lock.unlink()
    with zmq.Context() as context, IpcEndpoint(bound.endpoint.url) as other:
        router = context.socket(zmq.ROUTER)
        other.bind(router)
        with pytest.raises(EndpointError, match="another broker is listening there"):
            bound.look()
        with pytest.raises(FileNotFoundError):
            bound.endpoint.pause()
        bound.endpoint.__exit__()
        assert other.path.is_socket()
        assert other.look(router) is None
        router.close(0)


def test_a_file_that_is_no_socket_is_not_removed(bound: Bound) -> None:
    bound.path.unlink()
    bound.path.write_text("dear diary")
    with pytest.raises(EndpointError, match="no socket"):
        bound.look()
    bound.endpoint.__exit__()
    assert bound.path.read_text() == "dear diary"


def test_a_directory_that_others_can_write_to_is_refused(bound: Bound) -> None:
    shutil.rmtree(bound.path.parent)
    bound.path.parent.mkdir()
    bound.path.parent.chmod(0o777)
    with pytest.raises(EndpointError, match="others can write"):
        bound.look()


def test_a_paused_endpoint_stays_paused_when_bound_anew(bound: Bound) -> None:
    bound.endpoint.pause()
    shutil.rmtree(bound.path.parent)
    assert bound.look() is not None
    assert not bound.path.exists()
    bound.endpoint.resume()
    assert bound.look() is None
    assert bound.is_heard(bound.join())


def test_a_pause_without_a_file_is_mended_by_a_look(bound: Bound) -> None:
    bound.path.unlink()
    with pytest.raises(FileNotFoundError):
        bound.endpoint.pause()
    with pytest.raises(FileNotFoundError):
        bound.endpoint.resume()
    assert bound.look() is not None
    assert bound.is_heard(bound.join())


def test_a_full_system_is_tried_again(bound: Bound, monkeypatch: pytest.MonkeyPatch) -> None:
    bound.path.unlink()
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        patch.setattr(module, "make_private", full)
        assert "cannot be bound now" in str(bound.look())
        patch.undo()
        patch.setattr(bound.router, "bind", full)
        assert "cannot be bound now" in str(bound.look())
    assert bound.look() == "the socket file was gone: bound anew"
    assert bound.is_heard(bound.join())


def test_a_file_that_is_removed_for_ever_ends_it(
    bound: Bound, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BINDS_MAX", 3)
    for _ in range(2):
        bound.path.unlink()
        assert bound.look() is not None
    bound.path.unlink()
    with pytest.raises(EndpointError, match="removed 3 times"):
        bound.look()

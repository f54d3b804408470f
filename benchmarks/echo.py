"""Echo servers and clients: the shortest round trip, over ZeroMQ or a bare socket."""

import multiprocessing
import os
import socket as sockets
import time
from collections.abc import Callable, Sequence
from itertools import cycle
from types import TracebackType
from typing import Any, Final, Self

import msgspec
import zmq

_fork = multiprocessing.get_context("fork")
JOIN_S_MAX: Final = 5.0
START_S_MAX: Final = 10.0

Answer = Callable[[bytes], bytes]
"""Returns what an echo sends for a request."""


class _Seq(msgspec.Struct):
    seq: int


def in_turn(replies: Sequence[bytes]) -> Answer:
    """Answer with each of the replies in turn."""
    them = cycle(replies)
    return lambda _: next(them)


def busily(reply: bytes, work_us: float) -> Answer:
    """Answer after as much work as the broker might have."""

    def answer(_: bytes) -> bytes:
        work(work_us)
        return reply

    return answer


def by_number(*replies: Any) -> Answer:  # noqa: ANN401 - anything with a `seq`
    """Answer each request under its own number: with each reply in turn, then with the last one."""
    decode, encode = msgspec.msgpack.Decoder(_Seq).decode, msgspec.msgpack.Encoder().encode
    them = iter(replies[:-1])

    def answer(request: bytes) -> bytes:
        reply = next(them, replies[-1])
        reply.seq = decode(request).seq
        return encode(reply)

    return answer


def work(work_us: float) -> None:
    """Keep the core busy for this many microseconds."""
    until = time.perf_counter() + work_us / 1e6
    while time.perf_counter() < until:
        pass


def _serve(endpoint: str, answer: Answer) -> None:
    """Answer each message: poll, then receive all messages that are there, as the broker does."""
    socket = zmq.Context().socket(zmq.ROUTER)
    socket.bind(endpoint)
    poller = zmq.Poller()
    poller.register(socket, zmq.POLLIN)
    while True:
        poller.poll()
        while True:
            try:
                peer, request = socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                break
            socket.send_multipart((peer, answer(request)), zmq.DONTWAIT)


def _serve_bare(path: str, answer: Answer) -> None:
    """Answer over a stream socket: one receive and one send a message, with no other thread."""
    with sockets.socket(sockets.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        connection, _ = listener.accept()
        with connection:
            while request := connection.recv(65_536):
                connection.sendall(answer(request))


class EchoServer:
    """An echo in a separate process: over ZeroMQ, or over a bare unix socket if given a path."""

    def __init__(self, endpoint: str, answer: Answer) -> None:
        serve = _serve if "://" in endpoint else _serve_bare
        self._process = _fork.Process(target=serve, args=(endpoint, answer), daemon=True)

    @property
    def pid(self) -> int:
        pid = self._process.pid
        if pid is None:
            raise RuntimeError("the echo is not running")
        return pid

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.join(JOIN_S_MAX)


class EchoClient:
    """Sends the same request again and again, and waits as tollgate's client does.

    It works for `work_us` before each request, and polls for `spin_us` before it sleeps.
    """

    def __init__(
        self, endpoint: str, request: bytes, *, work_us: float = 0, spin_us: float = 0
    ) -> None:
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.connect(endpoint)
        self._request = request
        self._work_us = work_us
        self._spin_s = spin_us / 1e6

    def ask(self) -> bytes:
        if self._work_us:
            work(self._work_us)
        self.socket.send(self._request)
        if not self._spin_s or not self._spin():
            zmq.zmq_poll([(self.socket, zmq.POLLIN)], 10_000)
        return self.socket.recv(zmq.DONTWAIT)

    def _spin(self) -> bool:
        until = time.perf_counter() + self._spin_s
        while not self.socket.getsockopt(zmq.EVENTS) & zmq.POLLIN:  # type: ignore[arg-type, operator]
            if time.perf_counter() > until:
                return False
            os.sched_yield()
        return True

    def close(self) -> None:
        self._context.destroy(linger=0)


class BareClient:
    """The same over a stream socket, with a thread on either side."""

    def __init__(self, path: str, request: bytes) -> None:
        self._socket = sockets.socket(sockets.AF_UNIX)
        until = time.monotonic() + START_S_MAX
        while self._socket.connect_ex(path):
            if time.monotonic() > until:
                raise RuntimeError(f"no echo at {path}")
            time.sleep(0.01)
        self._request = request

    def ask(self) -> bytes:
        self._socket.sendall(self._request)
        return self._socket.recv(65_536)

    def close(self) -> None:
        self._socket.close()

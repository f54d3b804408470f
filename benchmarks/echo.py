"""A bare ROUTER/DEALER echo: the least that a round trip over ZeroMQ can take here."""

import multiprocessing
from types import TracebackType
from typing import Final, Self

import zmq

_fork = multiprocessing.get_context("fork")
JOIN_S_MAX: Final = 5.0


def _serve(endpoint: str, reply: bytes) -> None:
    """Answer each message with `reply`; poll, then take all that is there, as the broker does."""
    socket = zmq.Context().socket(zmq.ROUTER)
    socket.bind(endpoint)
    poller = zmq.Poller()
    poller.register(socket, zmq.POLLIN)
    while True:
        poller.poll()
        while True:
            try:
                peer, _ = socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                break
            socket.send_multipart((peer, reply), zmq.DONTWAIT)


class EchoServer:
    """The echo in a process of its own."""

    def __init__(self, endpoint: str, reply: bytes) -> None:
        self._process = _fork.Process(target=_serve, args=(endpoint, reply), daemon=True)

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
    """Sends the same request again and again, and waits as tollgate's client does."""

    def __init__(self, endpoint: str, request: bytes) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.connect(endpoint)
        self._request = request

    def ask(self) -> bytes:
        self._socket.send(self._request)
        zmq.zmq_poll([(self._socket, zmq.POLLIN)], 10_000)
        return self._socket.recv(zmq.DONTWAIT)

    def close(self) -> None:
        self._context.destroy(linger=0)

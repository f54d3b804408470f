"""A minimal client: one DEALER socket, one request at a time."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import zmq

from tests.core import HASH, job_id
from tollgate.domain.commands import AnyCommand, Create, Hello
from tollgate.domain.messages import Refused, Reply, Request, decode_answer, encode_request
from tollgate.domain.results import AnyResult, HelloResult

PATIENCE_S: Final = 20.0


class Client:
    """Sends requests on a session, and waits for the answer or the end of the broker."""

    def __init__(self, url: str) -> None:
        self.session = 0
        self.seq = 0
        self._url = url
        self._context = zmq.Context()
        self._socket = self._connected()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._context.destroy(linger=0)

    def reconnect(self) -> None:
        self._socket.close()
        self._socket = self._connected()

    def open_session(self) -> None:
        answer = self.ask(Hello(open_session=True))
        if answer and isinstance(answer[0], HelloResult):
            self.session = answer[0].session or 0

    def ask(self, *commands: AnyCommand, seq: int | None = None) -> list[AnyResult] | None:
        """Return the results, or None if no answer arrives in time."""
        frame = self._frame(commands, seq)
        end = time.monotonic() + PATIENCE_S
        self._socket.send(frame)
        while time.monotonic() < end:
            if self._socket.poll(100):
                return _results(decode_answer(self._socket.recv()))
        return None

    def ask_until_it_ends(
        self, *commands: AnyCommand, is_over: Callable[[], bool]
    ) -> list[AnyResult] | None:
        """Return the results, or None if the broker ends without an answer."""
        self._socket.send(self._frame(commands, None))
        over = False
        while not self._socket.poll(50):
            if over:
                return None
            over = is_over()
        return _results(decode_answer(self._socket.recv()))

    def _frame(self, commands: tuple[AnyCommand, ...], seq: int | None) -> bytes:
        if seq is None:
            self.seq = seq = self.seq + 1
        acked = max(0, self.seq - 60) if self.session else 0
        return encode_request(Request(1, self.session, seq, acked, list(commands)))

    def _connected(self) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, 10)
        socket.connect(self._url)
        return socket


def _results(answer: Reply | Refused) -> list[AnyResult]:
    if isinstance(answer, Reply):
        return answer.results
    raise AssertionError(f"refused: {answer.error}")


def create(number: int, input_bytes: int = 0) -> Create:
    return Create(input_hash=HASH, job_id=job_id(number), input="x" * input_bytes or None)

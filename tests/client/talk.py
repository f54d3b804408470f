"""Drives a session over a network that takes every frame, with a clock set by the test."""

from collections.abc import Iterator

from tollgate.client.inflight import Call
from tollgate.client.session import Session
from tollgate.domain.commands import AnyCommand
from tollgate.domain.exceptions import TollgateError
from tollgate.domain.messages import Request, decode_request
from tollgate.domain.results import HelloResult

from .peers import WALL_S, reply


class Talk:
    def __init__(self, *, remembers: bool = False) -> None:
        self.warnings: list[str] = []
        self.session = Session("nowhere", jitter=lambda: 0.5, warn=self.warnings.append)
        self.now = 100.0
        if not remembers:
            self.session._changes.opened(None)
            self.session._claims.opened(None)

    def ask(
        self,
        *commands: AnyCommand | TollgateError,
        timeout_s: float = 10.0,
        each_s: float | None = None,
    ) -> Call:
        call = self.session.submit(commands, deadline=self.now + timeout_s, each_s=each_s)
        self.session.pull(call)
        return call

    def requests(self) -> list[Request]:
        """Return the requests that the session sends now."""
        return [decode_request(frame) for frame in self.frames()]

    def frames(self) -> Iterator[bytes]:
        while (frame := self.session.next_frame(self.now, WALL_S)) is not None:
            yield frame
            self.session.sent(self.now)

    def greet(self, hello: HelloResult, later_s: float = 0.0) -> None:
        """Ask for a greeting, and hear it `later_s` seconds after that."""
        self.session.submit_one(self.session.hello(), deadline=self.now + 10)
        (request,) = self.requests()
        self.now += later_s
        self.hear(reply(request.seq, hello))

    def hear(self, frame: bytes) -> None:
        self.session.receive(frame, self.now)

    def wake(self) -> list[Request]:
        """Advance the clock to the next wake-up, and return the requests sent then."""
        wakeup = self.session.next_wakeup()
        assert wakeup is not None
        assert wakeup >= self.now
        self.now = wakeup
        return self.requests()

    def times_of_requests(self, until: float) -> list[float]:
        times = []
        while (wakeup := self.session.next_wakeup()) is not None and wakeup <= until:
            times += [self.now for _ in self.wake()]
        return times

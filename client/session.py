"""Numbers requests, matches replies, and decides what is asked again and when; does no I/O.

A driver hands in what it received and when it is, and gets the frames to send:

    exchange = session.submit(commands, deadline=now + 10)
    while not exchange.done:
        session.pull(exchange)                        # may run the caller's iterator
        while frame := session.next_frame(now, wall): # give it to the socket, then say so:
            session.sent(now)
        ...                                           # until session.next_wakeup() at the latest:
        session.receive(frame, now)
    exchange.values

`now` is monotonic, in seconds; `wall` is the time of day, for `valid_until`. A driver hands in all
that has arrived before it asks for frames, since only that call lets time pass.
"""

from collections import deque
from collections.abc import Callable, Iterable
from datetime import datetime
from itertools import count
from typing import Any, Final

from client.errors import OutcomeUnknown, ProtocolError
from client.exchange import Exchange
from client.forsaken import ForsakenClaims
from client.message import MAYBE, Message
from client.packing import Packer, Parcel
from client.timetable import Timetable
from client.values import values_of
from domain.commands import AnyCommand, Wait
from domain.exceptions import (
    DrainingError,
    MalformedError,
    Refusal,
    ReplyFullError,
    TollgateError,
)
from domain.messages import PROTOCOL_VERSION, Refused, Reply, decode_answer, read_envelope
from domain.results import AnyResult, HelloResult, refusal_of

WINDOW: Final = 4
"""How many messages of one call are under way at most."""
COMMANDS_MAX: Final = 1_000
REQUEST_BYTES_MAX: Final = 256 * 1_024
"""What a request holds, until `hello` tells."""
RELEASE_S: Final = 10.0
"""How long to try to give back what a claim got too late."""

_UNDONE: Final = frozenset({ReplyFullError, DrainingError})


class Session:
    """One client's requests on one connection after the other.

    `broker` is what to call the other side in messages of errors; `jitter` gives numbers from 0 to
    1, by which repeats of many clients are spread.
    """

    def __init__(self, broker: str, jitter: Callable[[], float], *, window: int = WINDOW) -> None:
        """Begin without knowing the broker; `greeting` is None until some hello is answered."""
        self.greeting: HelloResult | None = None
        self.strays = 0
        """How many frames came that answer nothing which is still asked."""
        self._broker = broker
        self._jitter = jitter
        self._window = window
        self._seqs = count(1)
        self._messages: dict[int, Message] = {}
        self._unstamped: list[Message] = []
        self._outbox: deque[Message] = deque()
        self._timetable = Timetable()
        self._forsaken = ForsakenClaims()
        self._complaint = ""  # what came that is no answer to anything

    # --- what the caller does ---------------------------------------------------------------------

    def submit(
        self,
        commands: Iterable[AnyCommand | TollgateError],
        *,
        deadline: float,
        each_s: float | None = None,
        notify: Callable[[], None] = lambda: None,
    ) -> Exchange:
        """Begin a call; `pull` takes its commands off the iterable.

        Each message of it must be answered by `deadline`, or `each_s` seconds after it was made.
        `notify` is called whenever values have come. An exception among the commands becomes its
        own value.
        """
        limits = self.greeting.limits if self.greeting else {}
        packer = Packer(
            iter(commands),
            commands_max=limits.get("commands", COMMANDS_MAX),
            bytes_max=limits.get("request_bytes", REQUEST_BYTES_MAX),
        )
        return Exchange(packer, deadline, each_s, notify)

    def pull(self, exchange: Exchange) -> None:
        """Make messages of the call's next commands, as many as its window has room for."""
        while not exchange.broken and len(exchange.messages) < self._window:
            parcel = exchange.packer.next()
            if parcel is None:
                return
            self._post(exchange, parcel)

    def drop(self, exchange: Exchange) -> None:
        """Forget a call whose caller has left: what of it is not sent yet never will be."""
        exchange.broken = True
        for message in [*exchange.messages]:
            self._remove(message)
            self._forsaken.add(message)

    def fail(self, reason: TollgateError) -> None:
        """Give every call under way `reason`, or OutcomeUnknown where something may be done."""
        for message in [*self._messages.values()]:
            unknown = message.sent and not message.repeatable
            message.exchange.broken = True
            self._finish(message, OutcomeUnknown(f"{reason}{MAYBE}") if unknown else reason)

    # --- what the driver does ---------------------------------------------------------------------

    def next_frame(self, now: float, wall: datetime) -> bytes | None:
        """Let time pass, and return the frame to send next, or None; it stays until `sent`."""
        for message in self._unstamped:
            self._stamp(message, now)
        self._unstamped.clear()
        while (due := self._timetable.pop_due(now)) is not None:
            self._wake(due, now)
        outbox = self._outbox
        while outbox and not outbox[0].queued:
            outbox.popleft()
        return outbox[0].frame(now, wall) if outbox else None

    def sent(self, now: float) -> None:
        """Note that the socket took the frame which `next_frame` returned last."""
        message = self._outbox.popleft()
        message.queued = False
        message.sent = True
        message.attempts += 1
        if message.repeatable:
            self._wake_at(message, now + message.backoff_s(self._jitter()))

    def receive(self, frame: bytes, now: float) -> None:
        """Take a frame that came; whatever it holds, nothing is raised."""
        try:
            answer = decode_answer(frame)
        except MalformedError as fault:
            self._unreadable(read_envelope(frame)[1], fault)
            return
        message = self._messages.get(answer.seq or 0)
        if message is None or not message.sent:
            self._stray(answer, now)
            return
        self._complaint = ""
        if isinstance(answer, Refused):
            self._refused(message, refusal_of(answer.error), now)
        elif answer.v != PROTOCOL_VERSION:
            self._finish(message, ProtocolError(f"an answer of version {answer.v} came"))
        else:
            self._answered(message, answer.results, now)

    def next_wakeup(self) -> float | None:
        """Return when `next_frame` must be called at the latest, or None: nothing is under way."""
        return self._timetable.next()

    # --- the life of a message --------------------------------------------------------------------

    def _post(self, exchange: Exchange, parcel: Parcel) -> None:
        message = Message(next(self._seqs), exchange, parcel)
        self._messages[message.seq] = message
        exchange.messages.add(message)
        self._outbox.append(message)
        self._unstamped.append(message)

    def _stamp(self, message: Message, now: float) -> None:
        if message.exchange.each_s is not None:
            message.deadline = now + message.exchange.each_s
        if message.seq in self._messages:  # it may be dropped already
            self._wake_at(message, message.deadline)

    def _wake_at(self, message: Message, at: float) -> None:
        self._timetable.set(message, min(at, message.deadline), len(self._messages))

    def _wake(self, message: Message, now: float) -> None:
        if now >= message.deadline:
            self._expire(message)
            return
        message.queued = True
        self._outbox.append(message)
        self._wake_at(message, message.deadline)

    def _retry(self, message: Message, now: float, refusal: Refusal) -> None:
        """Ask again, later, under a new number: the broker executed nothing of it."""
        message.refusal = refusal
        del self._messages[message.seq]
        message.renumber(next(self._seqs))
        self._messages[message.seq] = message
        self._wake_at(message, now + message.backoff_s(self._jitter()))

    def _expire(self, message: Message) -> None:
        message.exchange.broken = True
        self._finish(message, message.silence(self._broker, self._complaint))
        self._forsaken.add(message)

    # --- answers ----------------------------------------------------------------------------------

    def _answered(self, message: Message, results: list[AnyResult], now: float) -> None:
        parcel = message.parcel
        if len(results) != len(parcel.commands):
            counts = f"{len(parcel.commands)} commands were answered with {len(results)} results"
            self._finish(message, ProtocolError(counts))
            return
        values = values_of(parcel.commands, results)
        if not _UNDONE.isdisjoint(map(type, values)):
            self._partly_done(message, values, now)
            return
        if isinstance(values[0], HelloResult):
            self.greeting = values[0]
        self._remove(message)
        message.exchange.put(parcel, values)
        message.exchange.notify()

    def _partly_done(self, message: Message, values: list[Any], now: float) -> None:
        """Ask anew for what the reply had no room for, or a wait that a leaving broker ended."""
        parcel = message.parcel
        if isinstance(values[0], DrainingError) and isinstance(parcel.commands[0], Wait):
            self._retry(message, now, values[0])
            return
        again = [
            position  # never the first: a reply that has no room for it never will
            for position, value in enumerate(values)
            if position and isinstance(value, ReplyFullError)
        ]
        kept = sorted({*range(len(values))}.difference(again))
        self._remove(message)
        if again:
            self._post(message.exchange, parcel.only(again))
        message.exchange.put(parcel.only(kept), [values[position] for position in kept])
        message.exchange.notify()

    def _refused(self, message: Message, refusal: Refusal, now: float) -> None:
        if refusal.retryable:
            self._retry(message, now, refusal)
        else:
            self._finish(message, refusal)

    def _unreadable(self, seq: int | None, fault: MalformedError) -> None:
        message = self._messages.get(seq or 0)
        if message is None or not message.sent:
            self.strays += 1
            self._complaint = str(fault)
        else:
            self._finish(message, ProtocolError(f"what the broker answered is {fault}"))

    def _stray(self, answer: Reply | Refused, now: float) -> None:
        self.strays += 1
        if isinstance(answer, Refused) and answer.seq is None:
            self._complaint = answer.error.message
        releases = self._forsaken.releases(answer)
        if releases:
            self.pull(self.submit(releases, deadline=now + RELEASE_S))

    def _finish(self, message: Message, reason: TollgateError) -> None:
        self._remove(message)
        message.exchange.put(message.parcel, [reason] * len(message.parcel.slots))
        message.exchange.notify()

    def _remove(self, message: Message) -> None:
        del self._messages[message.seq]
        message.exchange.messages.discard(message)
        message.queued = False
        message.wake_at = None

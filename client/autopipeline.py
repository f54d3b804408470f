"""Sends calls that many tasks make at the same time as one message.

Most of what a command costs that is alone in its message is the message. So what is asked in one
turn of the loop is gathered, and leaves together at its end.
"""

import asyncio
from copy import copy
from itertools import chain, repeat
from typing import Any, Final

from tollgate.client.errors import BrokerUnreachableError, OutcomeUnknown
from tollgate.client.exchange import Exchange
from tollgate.client.framing import PENDING
from tollgate.client.parcel import is_repeatable
from tollgate.client.session import Session
from tollgate.domain.commands import AnyCommand, Claim, Hello, List, Wait
from tollgate.domain.exceptions import TollgateError

_ALONE: Final = frozenset[type]({Hello, List, Wait, Claim})
"""What opens all, fills a reply, may be answered late, or is given back if nobody takes it."""
_SILENT: Final = BrokerUnreachableError("the broker had fallen silent before")
_GIVEN_UP: Final = BrokerUnreachableError("nobody waits for it")


class Seat:
    """One command of a crowd, and the future that its caller waits for."""

    __slots__ = ("command", "future", "ride")

    def __init__(self, command: AnyCommand, future: "asyncio.Future[Any]") -> None:
        self.command = command
        self.future = future
        self.ride: Ride | None = None
        """What it left with, as long as that may have to do without it."""


class Ride:
    """Those who left together."""

    def __init__(self, seats: list[Seat], session: Session, deadline: float) -> None:
        """Have the session send their commands; its driver has a turn then."""
        self._seats = seats
        self._session = session
        for seat in seats:
            seat.ride = self
        if len(seats) == 1:
            command = seats[0].command
            exchange = session.submit_one(command, deadline=deadline, notify=self._go_on)
        else:
            commands = (_GIVEN_UP if seat.future.done() else seat.command for seat in seats)
            exchange = session.submit(commands, deadline=deadline, notify=self._go_on)
        self._exchange: Exchange = exchange
        session.pull(self._exchange)
        if self._exchange.done:  # none of it could be sent
            self._arrive()

    def go_without(self) -> None:
        """Leave out those whose callers have given up, of all that has not left yet."""
        gone = set()
        for place, seat in enumerate(self._seats):
            if seat.future.done():
                seat.ride = None  # those who give up at the same time are looked for once
                gone.add(place)
        self._session.withdraw(self._exchange, gone)
        self._go_on()

    def _go_on(self) -> None:
        self._session.pull(self._exchange)
        self._arrive()

    def _arrive(self) -> None:
        """Give what has come to those who wait for it: the others may take longer."""
        exchange = self._exchange
        is_over = exchange.done
        silent = repeat(_SILENT)  # it did not come to all of them
        values = chain(exchange.values, silent) if is_over else exchange.given
        for seat, value in zip(self._seats, values, strict=False):
            if value is not PENDING and not seat.future.done():
                seat.future.set_result(_own(seat.command, value))
        if is_over:  # they all know each other, and nobody else need know them
            self._seats = []
            exchange.notify = None


def _own(command: AnyCommand, value: Any) -> Any:  # noqa: ANN401 - as the command has it
    """Return a value for one caller alone: what became of a message is told to all in it."""
    if not isinstance(value, TollgateError):
        return value
    if isinstance(value, OutcomeUnknown) and is_repeatable(command):
        return BrokerUnreachableError(str(value))  # others in its message may be done
    return copy(value)  # whoever raises it adds its traceback


class Crowd:
    """Gathers the calls of one turn of the loop."""

    def __init__(self, session: Session) -> None:
        """Begin with none."""
        self._session = session
        self._seats: list[Seat] = []

    def takes(self, command: AnyCommand) -> bool:
        """Return whether a call may leave with others: not if they would have to wait for it."""
        session = self._session
        return (
            session.greeting is not None
            and type(command) not in _ALONE
            and (not command.changes or session.takes_changes)
        )

    def join(self, command: AnyCommand, loop: asyncio.AbstractEventLoop) -> tuple[Seat, bool]:
        """Take a call in; return whether it is the first."""
        seat = Seat(command, loop.create_future())
        is_first = not self._seats
        self._seats.append(seat)
        return seat, is_first

    def depart(self, deadline: float) -> None:
        """Have the session send what was gathered, to be answered by `deadline`.

        The time that the loop takes until then is none of the broker's.
        """
        gathered, self._seats = self._seats, []
        seats = [seat for seat in gathered if not seat.future.done()]
        if seats:
            Ride(seats, self._session, deadline)

    def leave(self, seat: Seat) -> None:
        """Note that a caller has given up: what has not left is not to be executed for it."""
        if seat.ride is not None:
            seat.ride.go_without()

    def fail(self, reason: TollgateError) -> None:
        """Give all who have not left a reason."""
        gathered, self._seats = self._seats, []
        for seat in gathered:
            if not seat.future.done():
                seat.future.set_result(copy(reason))

"""Sends the calls that many tasks make in one turn of the event loop as one request.

Most of the cost of a command that is alone in its request is the request. So the commands of one
turn are gathered and sent together at its end.
"""

import asyncio
from copy import copy
from itertools import chain, repeat
from typing import Any, Final

from tollgate.client.errors import (
    NOT_SENT,
    BrokerUnreachableError,
    ClientClosedError,
    ClosedOutcomeUnknown,
    OutcomeUnknown,
)
from tollgate.client.framing import PENDING
from tollgate.client.session import Session
from tollgate.domain.commands import AnyCommand, Claim, Events, Hello, List, Wait
from tollgate.domain.exceptions import TollgateError

_ALONE: Final = frozenset[type]({Events, Hello, List, Wait, Claim})
"""Sent alone: these come first, fill a reply, are answered late, or must be given back."""
_SILENT: Final = BrokerUnreachableError(NOT_SENT)
_CANCELLED: Final = BrokerUnreachableError("the caller was cancelled")


class PipelinedCommand:
    """A command, and the future that its caller awaits."""

    __slots__ = ("command", "future", "group")

    def __init__(self, command: AnyCommand, future: "asyncio.Future[Any]") -> None:
        self.command = command
        self.future = future
        self.group: CommandGroup | None = None
        """What it was sent with; None before that, and once it was withdrawn."""


class CommandGroup:
    """Commands that are sent together."""

    def __init__(self, members: list[PipelinedCommand], session: Session, deadline: float) -> None:
        """Pass the commands to the session; its driver sends them."""
        self._members = members
        self._session = session
        for member in members:
            member.group = self
        if len(members) == 1:
            command = members[0].command
            self._call = session.submit_one(command, deadline=deadline, notify=self._deliver)
        else:
            commands = (_CANCELLED if each.future.done() else each.command for each in members)
            self._call = session.submit(commands, deadline=deadline, notify=self._go_on)
            session.pull(self._call)
        if self._call.done:  # none of it could be sent
            self._deliver()

    def withdraw_cancelled(self) -> None:
        """Withdraw the commands of cancelled callers, except those that were sent."""
        slots = set()
        for slot, member in enumerate(self._members):
            if member.future.done():
                member.group = None  # callers that are cancelled together are handled once
                slots.add(slot)
        self._session.withdraw(self._call, slots)
        self._go_on()

    def _go_on(self) -> None:
        self._session.pull(self._call)
        self._deliver()

    def _deliver(self) -> None:
        """Give the callers the values that have come; the other values may take longer."""
        call = self._call
        is_done = call.done
        values = chain(call.values, repeat(_SILENT)) if is_done else call.slot_values
        for member, value in zip(self._members, values, strict=False):
            if value is not PENDING and not member.future.done():
                member.future.set_result(_own(member.command, value))
        if is_done:  # break the reference cycle
            self._members = []
            call.notify = None


def _own(command: AnyCommand, value: Any) -> Any:  # noqa: ANN401 - one type a command
    """Return a value for one caller; all commands of a failed request share one exception."""
    if not isinstance(value, TollgateError):
        return value
    if isinstance(value, ClosedOutcomeUnknown) and not command.changes:
        return ClientClosedError(str(value))
    if isinstance(value, OutcomeUnknown) and not command.changes:
        return BrokerUnreachableError(str(value))  # only other commands of the request may be done
    return copy(value)  # raising an exception adds a traceback to it


class Autopipeline:
    """Gathers the commands of one turn of the event loop."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._gathered: list[PipelinedCommand] = []

    def takes(self, command: AnyCommand) -> bool:
        """Return whether a command may be sent with others: not if it would delay them."""
        session = self._session
        return (
            session.greeting is not None
            and type(command) not in _ALONE
            and (not command.changes or session.ready_for_changes)
        )

    def gather(
        self, command: AnyCommand, loop: asyncio.AbstractEventLoop
    ) -> tuple[PipelinedCommand, bool]:
        """Add a command; return it with whether it is the first of this turn."""
        member = PipelinedCommand(command, loop.create_future())
        self._gathered.append(member)
        return member, len(self._gathered) == 1

    def send_alone(
        self, command: AnyCommand, loop: asyncio.AbstractEventLoop, deadline: float
    ) -> PipelinedCommand:
        """Pass one command to the session at once, to be answered by `deadline`."""
        member = PipelinedCommand(command, loop.create_future())
        CommandGroup([member], self._session, deadline)
        return member

    def send_gathered(self, deadline: float) -> None:
        """Pass what was gathered to the session, to be answered by `deadline`.

        The deadline is set now: the time that the loop took until now is not the broker's.
        """
        gathered, self._gathered = self._gathered, []
        members = [member for member in gathered if not member.future.done()]
        if members:
            CommandGroup(members, self._session, deadline)

    def fail(self, reason: ClientClosedError) -> None:
        """End the commands that were not sent with `reason`."""
        gathered, self._gathered = self._gathered, []
        for member in gathered:
            if not member.future.done():
                member.future.set_result(copy(reason))

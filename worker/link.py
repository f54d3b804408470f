"""The worker's connection to the broker: requests that are answered by a callback, not a task."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, Final

from tollgate.client.aio import AsyncClient
from tollgate.client.connection import RECONNECT_MS_MAX, Connection
from tollgate.client.inflight import Call
from tollgate.client.sync import Client
from tollgate.domain.commands import AnyCommand

ATTEMPTS: Final = 3
"""Attempts to connect per lease time, at least."""
OnAnswer = Callable[[list[Any]], None]
"""Gets the value of each command in order; errors are values, too."""


class Link(AsyncClient):
    """An `AsyncClient` that also sends requests without a task for each.

    Most of what a worker says is sent this way: the results of jobs and the next claim, in one
    message. A task, a future and their turns of the loop would take longer than a short handler.
    """

    def __init__(self, *args: Any, lease_ms: int | None = None, **options: Any) -> None:  # noqa: ANN401 - as `AsyncClient` has them
        """Make a client with the arguments of `AsyncClient`; `lease_ms`: see `LeaseClient`."""
        super().__init__(*args, **options)
        _be_back_in_time(self._connection, lease_ms)
        self._answered: deque[tuple[Call, OnAnswer]] = deque()
        self._turned = asyncio.Event()
        self._has_posted = False

    def post(self, commands: Sequence[AnyCommand], on_answer: OnAnswer, timeout_s: float) -> Call:
        """Make a message of commands, which `push` sends with others that are ready.

        `on_answer` is called in the loop, once, and never in here. The broker must have answered a
        `ping` before. Raises ClientClosedError.
        """
        self._begin()
        self._has_posted = True
        session = self._session
        deadline = monotonic() + timeout_s

        def notify() -> None:
            session.pull(call)
            if call.done and call.notify is not None:
                call.notify = None
                self._answered.append((call, on_answer))

        if len(commands) == 1:
            call = session.submit_one(commands[0], deadline=deadline, notify=notify)
        else:
            call = session.submit(commands, deadline=deadline, notify=notify)
            session.pull(call)
        if call.done:  # none of it can be sent: `push` has it said in the next turn
            call.notify = None
            self._answered.append((call, on_answer))
        return call

    def push(self) -> None:
        """Send what was posted. Several messages cost the socket little more than one."""
        if not self._has_posted:
            return
        self._has_posted = False
        super()._turn()
        if self._answered:
            self._turn_soon()

    async def send(self, command: AnyCommand) -> Any:  # noqa: ANN401 - one type a command
        """Send one command and return its value. Raises what the calls of `AsyncClient` raise."""
        return await self._ask(command, None)

    def withdraw(self, call: Call) -> None:
        """Give up a request: its callback is not called, and leases that it gets are released.

        If its answer has come already, the callback gets it all the same.
        """
        call.notify = None
        self._session.abandon(call)
        self._turn_soon()

    async def until_quiet(self, timeout_s: float) -> None:
        """Wait until nothing is under way, not even leases of withdrawn claims to release."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not self._session.idle:
                    self._turned.clear()
                    await self._turned.wait()

    def limit(self, name: str, default: int) -> int:
        """Return a limit that the broker told, in the unit of its name."""
        greeting = self._session.greeting
        return default if greeting is None else greeting.limits.get(name, default)

    def _turn(self) -> None:
        """Receive and send what is possible; then call the callbacks of what was answered."""
        super()._turn()
        self._turned.set()
        answered = self._answered
        while answered:
            call, on_answer = answered.popleft()
            on_answer(call.values)


class LeaseClient(Client):
    """A `Client` that connects again in time to touch leases of `lease_ms`."""

    def __init__(self, *args: Any, lease_ms: int | None = None, **options: Any) -> None:  # noqa: ANN401 - as `Client` has them
        """Make a client with the arguments of `Client`."""
        super().__init__(*args, **options)
        _be_back_in_time(self._connection, lease_ms)


def _be_back_in_time(connection: Connection, lease_ms: int | None) -> None:
    """Let no pause between attempts to connect be longer than a third of a lease.

    A broker that starts again gives each lease its full time. No other worker must get the job
    before its worker has found the broker.
    """
    if lease_ms is not None:
        connection.reconnect_ms_max = min(RECONNECT_MS_MAX, lease_ms // ATTEMPTS)

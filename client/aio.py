"""The asyncio client: the calls of `client.sync` with `await`, for many tasks at once."""

import asyncio
import builtins
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from os import PathLike
from random import random
from time import monotonic
from typing import TYPE_CHECKING, Any, Self

from tollgate.client.aio_calls import AsyncCalls
from tollgate.client.arguments import seconds
from tollgate.client.autopipeline import Autopipeline, PipelinedCommand
from tollgate.client.batch import AsyncBatch
from tollgate.client.connection import Connection, log_warning
from tollgate.client.errors import ClientClosedError, raise_failures
from tollgate.client.identity import naming
from tollgate.client.inflight import Call
from tollgate.client.results import Lease, Page, value
from tollgate.client.rows import Row, check_bulk, creates
from tollgate.client.session import Session
from tollgate.domain.commands import AnyCommand, Hello
from tollgate.domain.exceptions import TollgateError
from tollgate.domain.results import HelloResult

if TYPE_CHECKING:
    from tollgate.domain.models import Job

__all__ = ["AsyncBatch", "AsyncClient", "Lease", "Page"]


class AsyncClient(AsyncCalls):
    """Sends commands to one broker from one event loop; many tasks may use it at once.

    It is `Client` with `await`: the same calls, arguments and exceptions. Commands of several tasks
    in one turn of the loop are sent as one request, except calls with their own `timeout_s`. A
    `wait` or `claim` that waits does not delay the others. A call may be cancelled; leases that a
    cancelled claim still gets are released.
    """

    def __init__(
        self,
        endpoint: str | PathLike[str] | None = None,
        *,
        key: str | PathLike[str] | None = None,
        timeout_s: float = 10.0,
        name: str | None = None,
    ) -> None:
        """Make a client; it connects at its first call, and is bound to the loop of that call."""
        self._timeout_s = seconds(timeout_s)
        self._connection = Connection(endpoint, key)
        self.endpoint = self._connection.endpoint
        self._another = partial(type(self), self.endpoint, key=key, timeout_s=timeout_s, name=name)
        self._session = Session(self._connection.broker, random, log_warning, naming(name))
        self._autopipeline = Autopipeline(self._session)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._turn_is_due = False
        self._closed = False

    def __reduce__(self) -> tuple[Callable[[], Any], tuple[()]]:
        """Let a copy, also one that is pickled, be another client with the same settings."""
        return self._another, ()

    async def close(self) -> None:
        """Close the connection; further calls of `close` do nothing.

        Calls in progress end with ClientClosedError; it is an OutcomeUnknown as well where a change
        may have been made.
        """
        if self._closed:
            return
        loop = self._loop
        of_another_thread = loop is not asyncio.get_running_loop() and not self._connection.foreign
        if loop is not None and loop.is_running() and of_another_thread:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.close(), loop))
            return
        self._closed = True
        reason = ClientClosedError(f"the client of {self.endpoint} was closed")
        if self._loop is not None and not self._loop.is_closed():  # else no task is left to be told
            self._autopipeline.fail(reason)
            self._session.fail(reason)
        self._forget_loop()
        self._connection.close(self._session)

    async def __aenter__(self) -> Self:
        """Return the client itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connection."""
        await self.close()

    async def ping(self, timeout_s: float | None = None) -> HelloResult:
        """Return the broker's identity, its time and limits, and your roles."""
        hello: HelloResult = await self._ask(self._session.hello(), timeout_s)
        return hello

    # --- many commands ----------------------------------------------------------------------------

    async def create_many(
        self,
        jobs: Iterable[Row],
        *,
        on_progress: Callable[[int], None] | None = None,
        message_commands: int | None = None,
        timeout_s: float | None = None,
    ) -> builtins.list["Job"]:
        """Store many jobs, and return them in the order given.

        Each is a `Create`, an input hash, or a mapping of `create`'s arguments. They are taken from
        the iterable as they are sent. A message has `message_commands` jobs, or as many as the
        broker takes; up to four messages are in flight at a time, and `timeout_s` is for each.
        `on_progress` is called with the number of jobs that have their value or error so far. An
        exception of the iterable passes through; the jobs before it may be stored then.

        Raises:
            BatchError: some jobs could not be stored; the others are. If the broker does not answer
                in time, nothing further is taken from the iterable, and `results` ends there.

        """
        values = await self._run(
            creates(jobs, self._known_time_in), timeout_s, on_progress, message_commands
        )
        raise_failures(values)
        return values

    async def send_many(
        self,
        commands: Iterable[AnyCommand],
        *,
        on_progress: Callable[[int], None] | None = None,
        message_commands: int | None = None,
        timeout_s: float | None = None,
    ) -> builtins.list[Any]:
        """Send commands as they come from an iterable, and return the value of each, in order.

        Make them with the functions of `tollgate.commands`, which take the arguments of the methods
        here. While some are in flight, the next are taken: a generator needs no extra time and less
        memory than a batch. As in a batch, refusals are values, and commands are executed in order.
        An exception of the iterable passes through; the commands before it may be executed then.
        The other arguments are those of `create_many`.
        """
        return await self._run(commands, timeout_s, on_progress, message_commands)

    def batch(
        self, *, message_commands: int | None = None, timeout_s: float | None = None
    ) -> AsyncBatch:
        """Return an empty batch of commands.

        A message has `message_commands` commands, or as many as the broker takes; up to four
        messages are in flight at a time, and `timeout_s` is for each. Raises ArgumentError
        for less than 1 command.
        """
        check_bulk(message_commands)
        return AsyncBatch(
            lambda commands: self._run(commands, timeout_s, None, message_commands),
            self._known_time_in,
            self.wait,
        )

    # --- the driver -------------------------------------------------------------------------------

    async def _ask(self, command: AnyCommand, timeout_s: float | None) -> Any:  # noqa: ANN401
        if timeout_s is not None or not self._autopipeline.takes(command):
            return await self._ask_until(command, monotonic() + self._seconds(timeout_s))
        loop = self._join_loop()
        member, is_first = self._autopipeline.gather(command, loop)
        if is_first:
            loop.call_soon(self._send_gathered)
        return await self._value_of(member)

    def _send_gathered(self) -> None:
        self._autopipeline.send_gathered(monotonic() + self._timeout_s)
        self._turn()

    async def _ask_until(self, command: AnyCommand, deadline: float) -> Any:  # noqa: ANN401
        if self._session.greeting is None and not isinstance(command, Hello):
            await self._call(self._session.hello(), deadline)
        return await self._call(command, deadline)

    async def _call(self, command: AnyCommand, deadline: float) -> Any:  # noqa: ANN401
        """Send one command alone; return its value or raise it."""
        member = self._autopipeline.send_alone(command, self._begin(), deadline)
        self._turn()
        return await self._value_of(member)

    async def _value_of(self, member: PipelinedCommand) -> Any:  # noqa: ANN401
        try:
            return value([await member.future])
        except asyncio.CancelledError:
            if member.group is not None:
                member.group.withdraw_cancelled()
            self._turn_soon()
            raise

    async def _time_in(self, delay_ms: int, timeout_s: float | None) -> datetime:
        if self._session.greeting is None:
            await self.ping(timeout_s)
        return self._known_time_in(delay_ms)

    def _known_time_in(self, delay_ms: int) -> datetime:
        return self._connection.broker_time_in(self._session, delay_ms)

    async def _run(
        self,
        commands: Iterable[AnyCommand | TollgateError],
        timeout_s: float | None,
        on_progress: Callable[[int], None] | None,
        message_commands: int | None,
    ) -> builtins.list[Any]:
        check_bulk(message_commands, on_progress)
        each_s = self._seconds(timeout_s)
        deadline = monotonic() + each_s
        if self._session.greeting is None:
            await self._call(self._session.hello(), deadline)
        self._begin()
        progress = asyncio.Event()
        call = self._session.submit(
            commands,
            deadline=deadline,
            each_s=each_s,
            message_commands=message_commands,
            notify=progress.set,
        )
        return await self._drive(call, progress, on_progress)

    async def _drive(
        self, call: Call, progress: asyncio.Event, on_progress: Callable[[int], None] | None
    ) -> builtins.list[Any]:
        session, reported = self._session, 0
        try:
            while True:
                session.pull(call)
                if not call.done:  # else the caller of `notify` has had a turn
                    self._turn()
                if on_progress is not None and call.answered > reported:
                    reported = call.answered
                    on_progress(reported)
                if call.done:
                    return call.values
                self._check_open()
                await progress.wait()
                progress.clear()
        except BaseException:
            session.abandon(call)
            self._turn_soon()
            raise

    def _turn_soon(self) -> None:
        """Take a turn after all callers that are cancelled in this turn of the loop have left."""
        loop = self._loop
        if loop is not None and not self._turn_is_due and not loop.is_closed():
            self._turn_is_due = True
            loop.call_soon(self._late_turn)

    def _late_turn(self) -> None:
        self._turn_is_due = False
        self._turn()

    def _turn(self) -> None:
        """Receive and send what is possible, and set the timer for the session's next wake-up."""
        if self._closed:
            return
        self._connection.turn(self._session)
        wakeup = self._session.next_wakeup()
        if wakeup is None or (self._timer is not None and self._timer_at <= wakeup):
            return  # an early timer does no harm, and setting a new one takes time
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer_at = wakeup
        self._timer = loop.call_later(wakeup - monotonic(), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._turn()

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosedError(f"the client of {self.endpoint} is closed")

    def _begin(self) -> asyncio.AbstractEventLoop:
        """Begin a call that is sent alone, after everything that was gathered before it."""
        loop = self._join_loop()
        self._autopipeline.send_gathered(monotonic() + self._timeout_s)
        return loop

    def _join_loop(self) -> asyncio.AbstractEventLoop:
        """Return the running loop, which must be the one of all earlier calls; listen on it."""
        self._check_open()
        socket, loop = self._connection.socket, asyncio.get_running_loop()
        if self._loop is loop:
            return loop
        if self._loop is not None:
            raise RuntimeError("an AsyncClient is for one event loop; make one for each")
        loop.add_reader(socket.fileno(), self._turn)
        self._loop = loop
        return loop

    def _forget_loop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # A forked child shares the parent's epoll instance: a removal there affects the parent.
        if self._loop is not None and not self._loop.is_closed() and not self._connection.foreign:
            self._loop.remove_reader(self._connection.socket.fileno())

"""The asyncio client: the calls of `client.sync` with `await`, for many tasks at once."""

import asyncio
import builtins
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from os import PathLike
from random import random
from time import monotonic
from typing import TYPE_CHECKING, Any, Self, cast

from tollgate.client import commands as build
from tollgate.client.arguments import seconds
from tollgate.client.autopipeline import Autopipeline, PipelinedCommand
from tollgate.client.batch import AsyncBatch
from tollgate.client.commands import AnyStatus, JobId, Row, SlicedWait, Time
from tollgate.client.connection import Connection, log_warning
from tollgate.client.errors import ClientClosedError, raise_failures
from tollgate.client.inflight import Call
from tollgate.client.results import Lease, Page, value
from tollgate.client.session import Session
from tollgate.domain.commands import AnyCommand, Hello
from tollgate.domain.exceptions import TollgateError, WaitTimeoutError
from tollgate.domain.results import CountResult, HelloResult

if TYPE_CHECKING:
    from tollgate.domain.models import Job

__all__ = ["AsyncBatch", "AsyncClient", "Lease", "Page"]


class AsyncClient:
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
    ) -> None:
        """Make a client; it connects at its first call, and is bound to the loop of that call."""
        self._timeout_s = seconds(timeout_s)
        self._connection = Connection(endpoint, key)
        self.endpoint = self._connection.endpoint
        self._session = Session(self._connection.broker, random, log_warning)
        self._autopipeline = Autopipeline(self._session)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._closed = False

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
        self._connection.close()

    async def __aenter__(self) -> Self:
        """Return the client itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connection."""
        await self.close()

    # --- one command ------------------------------------------------------------------------------

    async def ping(self, timeout_s: float | None = None) -> HelloResult:
        """Return the broker's identity, your role and its limits."""
        return cast("HelloResult", await self._ask(Hello(), timeout_s))

    async def create(  # noqa: PLR0913 - one argument a field
        self,
        input_hash: str | None = None,
        *,
        input: str | None = None,  # noqa: A002 - the field's name
        as_text: bool = False,
        identifier_from_purchaser: str | None = None,
        job_id: JobId | None = None,
        blockchain_identifier: str | None = None,
        pay_by_time: Time | None = None,
        submit_result_time: Time | None = None,
        timeout_s: float | None = None,
    ) -> "Job":
        """Store a job in `awaiting_payment`, and return it.

        Without an `input_hash`, the hash of `input` is computed by MIP-004: JSON text is parsed
        first, plain text is hashed as a JSON string. What seems to be a mistake is refused: empty
        text, plain text within white space, broken JSON. With `as_text`, any text is plain text. A
        byte order mark is dropped. Without a `job_id`, a UUID4 is made. If the broker has a job
        with this id and equal fields, that job is returned as it is now.

        Raises:
            ArgumentError: the input seems to be a mistake, or JSON that no hash is defined for; the
                hash is not 64 lowercase hexadecimal digits, the id is not a UUID, a time has no
                time zone, or both hash and input are missing.
            JobConflictError: the id or the blockchain identifier belongs to a different job.
            RepositoryFullError: the broker stores as many jobs as it may.

        """
        command = build.create(
            input_hash,
            input=input,
            as_text=as_text,
            identifier_from_purchaser=identifier_from_purchaser,
            job_id=job_id,
            blockchain_identifier=blockchain_identifier,
            pay_by_time=pay_by_time,
            submit_result_time=submit_result_time,
        )
        return cast("Job", await self._ask(command, timeout_s))

    async def get(
        self,
        job_id: JobId | None = None,
        *,
        blockchain_identifier: str | None = None,
        timeout_s: float | None = None,
    ) -> "Job":
        """Return a job as it is now, by its id or by the identifier of its payment on chain.

        Raises:
            JobNotFoundError: there is no such job.

        """
        return cast("Job", await self._ask(build.get(job_id, blockchain_identifier), timeout_s))

    async def transition(  # noqa: PLR0913 - one argument a field
        self,
        job_id: JobId,
        target: AnyStatus,
        *,
        result: str | None = None,
        error: str | None = None,
        input_schema: str | None = None,
        expected_version: int | None = None,
        lease: int | None = None,
        timeout_s: float | None = None,
    ) -> "Job":
        """Move a job to the status `target`, and return the job after that.

        `result` requires the target `completed`, `error` `failed`, `input_schema` `awaiting_input`.
        With `expected_version`, the job moves only if it is at that version. `lease` is the token
        of your lease on the job, if you hold one.

        Raises:
            InvalidStateTransitionError: the state machine has no such transition.
            VersionConflictError: the job is not at `expected_version`.
            LeaseHeldError: another client holds a lease on the job.
            LeaseLostError: your lease has lapsed or ended, or was granted to another client.
            JobNotFoundError: there is no such job.

        """
        command = build.transition(
            job_id,
            target,
            result=result,
            error=error,
            input_schema=input_schema,
            expected_version=expected_version,
            lease=lease,
        )
        return cast("Job", await self._ask(command, timeout_s))

    async def provide_input(
        self,
        job_id: JobId,
        input: str,  # noqa: A002 - the field's name
        *,
        expected_version: int,
        timeout_s: float | None = None,
    ) -> "Job":
        """Give a job in `awaiting_input` its input, and return it, in `running` again.

        `expected_version` is the job's version when it asked, so that the input matches the
        question. Raises the errors of `transition`.
        """
        command = build.provide_input(job_id, input, expected_version)
        return cast("Job", await self._ask(command, timeout_s))

    async def cancel(
        self, job_id: JobId, *, expected_version: int | None = None, timeout_s: float | None = None
    ) -> "Job":
        """Fail a job in `awaiting_payment`, and return it. Raises the errors of `transition`."""
        return cast("Job", await self._ask(build.cancel(job_id, expected_version), timeout_s))

    async def count(
        self, status: AnyStatus | None = None, *, timeout_s: float | None = None
    ) -> CountResult:
        """Return the number of jobs by status, and since when the oldest of each has been in it."""
        return cast("CountResult", await self._ask(build.count(status), timeout_s))

    async def list_page(
        self,
        status: AnyStatus | None = None,
        *,
        after: str | None = None,
        limit: int = 100,
        timeout_s: float | None = None,
    ) -> Page:
        """Return up to `limit` jobs (at most 1,000) in order of creation.

        `after` is the `next` of the page before; None is the first page.
        """
        return cast("Page", await self._ask(build.list_page(status, after, limit), timeout_s))

    async def list(
        self, status: AnyStatus | None = None, *, page: int = 100, timeout_s: float | None = None
    ) -> AsyncIterator["Job"]:
        """Yield all jobs in order of creation; `page` is how many to ask for at a time.

        A job that stays in `status` all the time is yielded once, whatever happens to other jobs.
        `timeout_s` is for each page.
        """
        after: str | None = None
        while True:
            part = await self.list_page(status, after=after, limit=page, timeout_s=timeout_s)
            for job in part.jobs:
                yield job
            after = part.next
            if after is None:
                return

    # --- waits and leases -------------------------------------------------------------------------

    async def wait(
        self,
        job_ids: JobId | Sequence[JobId],
        *,
        statuses: AnyStatus | Sequence[AnyStatus] | None = None,
        timeout_s: float | None = None,
    ) -> "Job":
        """Wait for one of up to 1,000 jobs to reach one of `statuses`, and return it.

        `completed` and `failed` always end the wait. With `timeout_s` None it has no end. The
        client sends waits of at most 15 s one after the other, so the broker may restart in
        between; each must be answered within the client's own `timeout_s` after its end.

        Raises:
            WaitTimeoutError: none of the jobs reached such a status within `timeout_s` seconds.
            JobNotFoundError: one of the jobs does not exist.
            BrokerUnreachableError: a wait was not answered in time.

        """
        until = None if timeout_s is None else monotonic() + seconds(timeout_s)
        wait = SlicedWait(job_ids, statuses, until, self._timeout_s)
        while True:
            command, deadline = wait.slice(monotonic())
            try:
                return cast("Job", await self._ask_until(command, deadline))
            except WaitTimeoutError:
                if wait.over(monotonic()):
                    raise

    async def claim(
        self,
        status: AnyStatus,
        *,
        lease_ms: int = 30_000,
        wait_ms: int = 0,
        limit: int = 1,
        timeout_s: float | None = None,
    ) -> builtins.list[Lease]:
        """Claim up to `limit` free jobs in `status`, oldest first, each with a lease.

        If there is none, wait for one for up to `wait_ms` (at most an hour); the list is empty if
        none came. `timeout_s` is added to `wait_ms`. If the call has ended before the answer comes,
        the client releases the leases in it.
        """
        command = build.claim(status, lease_ms=lease_ms, wait_ms=wait_ms, limit=limit)
        timeout_s = self._seconds(timeout_s) + wait_ms / 1_000
        return cast("builtins.list[Lease]", await self._ask(command, timeout_s))

    async def touch(
        self, job_id: JobId, lease: int, *, lease_ms: int = 30_000, timeout_s: float | None = None
    ) -> None:
        """Extend a lease: it ends `lease_ms` from now.

        Raises:
            LeaseLostError: it has lapsed or ended, or was granted to another client: stop working.

        """
        await self._ask(build.touch(job_id, lease, lease_ms), timeout_s)

    async def release(self, job_id: JobId, lease: int, *, timeout_s: float | None = None) -> None:
        """Give a lease back, so that the job can be claimed again. Raises the errors of `touch`."""
        await self._ask(build.release(job_id, lease), timeout_s)

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
        values = await self._run(build.creates(jobs), timeout_s, on_progress, message_commands)
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
        build.check_bulk(message_commands)
        return AsyncBatch(lambda commands: self._run(commands, timeout_s, None, message_commands))

    # --- the driver -------------------------------------------------------------------------------

    def _seconds(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else seconds(timeout_s)

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
            await self._call(Hello(), deadline)
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
            self._turn()
            raise

    async def _run(
        self,
        commands: Iterable[AnyCommand | TollgateError],
        timeout_s: float | None,
        on_progress: Callable[[int], None] | None,
        message_commands: int | None,
    ) -> builtins.list[Any]:
        build.check_bulk(message_commands, on_progress)
        each_s = self._seconds(timeout_s)
        deadline = monotonic() + each_s
        if self._session.greeting is None:
            await self._call(Hello(), deadline)
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
            raise

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

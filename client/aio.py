"""The asyncio client: `client.sync` with `await`, for many tasks at once."""

import asyncio
import builtins
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import datetime
from functools import partial
from os import PathLike
from random import random
from time import monotonic
from typing import TYPE_CHECKING, Any, Self, cast

from tollgate.client import commands as calls
from tollgate.client.autopipeline import Crowd
from tollgate.client.batch import AsyncBatch
from tollgate.client.commands import AnyStatus, Row, Waiting
from tollgate.client.connection import Link, resolve_endpoint
from tollgate.client.errors import BatchError, ClientClosedError
from tollgate.client.exchange import Exchange
from tollgate.client.keyfile import resolve_key
from tollgate.client.results import Lease, Page, value
from tollgate.client.session import Session
from tollgate.domain.commands import AnyCommand, Hello
from tollgate.domain.exceptions import TollgateError, WaitTimeoutError
from tollgate.domain.results import CountResult, HelloResult

if TYPE_CHECKING:
    from tollgate.domain.models import Job

__all__ = ["AsyncBatch", "AsyncClient", "Lease", "Page"]


class AsyncClient:
    """Talks to one broker from one event loop; many tasks may use it at once.

    It is `client.sync.Client` with `await`: the same calls, arguments and exceptions. What several
    tasks ask at the same time goes in one message, but for calls with a `timeout_s` of their own. A
    parked `wait` or `claim` holds nobody up. A call may be cancelled; what a cancelled claim still
    gets is given back. `close` ends the calls under way with ClientClosedError, or with
    OutcomeUnknown where something may be done.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        key: str | PathLike[str] | None = None,
        timeout_s: float = 10.0,
    ) -> None:
        """Make a client; it connects at its first call, and belongs to the loop of that call."""
        self.endpoint = resolve_endpoint(endpoint)
        self._timeout_s = timeout_s
        self._link = Link(self.endpoint, resolve_key(key))
        self._session = Session(self._link.broker, random)
        self._crowd = Crowd(self._session)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._closed = False

    async def close(self) -> None:
        """Close the connection; do it as often as you like. Calls under way fail."""
        if self._closed:
            return
        self._closed = True
        reason = ClientClosedError(f"the client of {self.endpoint} was closed")
        if self._loop is not None and not self._loop.is_closed():  # else nobody can be told
            self._crowd.fail(reason)
            self._session.fail(reason)
        self._forget_loop()
        self._link.close()

    async def __aenter__(self) -> Self:
        """Return the client itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connection."""
        await self.close()

    # --- one command ------------------------------------------------------------------------------

    async def ping(self, timeout_s: float | None = None) -> HelloResult:
        """Return who the broker is, and what its limits are."""
        return cast("HelloResult", await self._ask(Hello(), timeout_s))

    async def create(  # noqa: PLR0913 - one argument a field
        self,
        input_hash: str | None = None,
        *,
        input: str | None = None,  # noqa: A002 - the field's name
        identifier_from_purchaser: str | None = None,
        job_id: str | None = None,
        blockchain_identifier: str | None = None,
        pay_by_time: datetime | None = None,
        submit_result_time: datetime | None = None,
        timeout_s: float | None = None,
    ) -> "Job":
        """Store a job that awaits payment, and return it.

        Without an `input_hash`, it is made from `input` by MIP-004: JSON text is parsed first, any
        other text is hashed as a JSON string. Without a `job_id`, one is made here. If the id is
        known and all fields are equal, the job is returned as it is now.

        Raises:
            MalformedError: the hash is not 64 lowercase hex digits, the id no UUID, a time has no
                zone, or there is neither hash nor input.
            JobConflictError: the id or the blockchain identifier belongs to another job.
            RepositoryFullError: as many jobs are stored as the broker holds.

        """
        command = calls.create(
            input_hash,
            input=input,
            identifier_from_purchaser=identifier_from_purchaser,
            job_id=job_id,
            blockchain_identifier=blockchain_identifier,
            pay_by_time=pay_by_time,
            submit_result_time=submit_result_time,
        )
        return cast("Job", await self._ask(command, timeout_s))

    async def get(
        self,
        job_id: str | None = None,
        *,
        blockchain_identifier: str | None = None,
        timeout_s: float | None = None,
    ) -> "Job":
        """Return a job as it is now, by its id or by what its payment is known by on chain.

        Raises:
            JobNotFoundError: there is none.

        """
        return cast("Job", await self._ask(calls.get(job_id, blockchain_identifier), timeout_s))

    async def transition(  # noqa: PLR0913 - one argument a field
        self,
        job_id: str,
        target: AnyStatus,
        *,
        result: str | None = None,
        error: str | None = None,
        input_schema: str | None = None,
        expected_version: int | None = None,
        lease: int | None = None,
        timeout_s: float | None = None,
    ) -> "Job":
        """Move a job to `target`, and return it as it is then.

        `result` goes with `completed`, `error` with `failed`, `input_schema` with `awaiting_input`;
        `expected_version` makes it conditional on the job's version; `lease` is the token of your
        lease, if you hold one.

        Raises:
            InvalidStateTransitionError: the state machine has no such transition.
            VersionConflictError: the job is not at `expected_version`.
            LeaseHeldError: somebody else holds the job's lease.
            LeaseLostError: the lease lapsed, ended or was granted anew.
            JobNotFoundError: there is no such job.

        """
        command = calls.transition(
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
        job_id: str,
        input: str,  # noqa: A002 - the field's name
        *,
        expected_version: int,
        timeout_s: float | None = None,
    ) -> "Job":
        """Answer a job in `awaiting_input`, and return it, running again.

        `expected_version` is the version that asked, so that an answer fits its question. Raises as
        `transition` does.
        """
        command = calls.provide_input(job_id, input, expected_version)
        return cast("Job", await self._ask(command, timeout_s))

    async def cancel(
        self, job_id: str, *, expected_version: int | None = None, timeout_s: float | None = None
    ) -> "Job":
        """Fail a job that nobody has paid for yet, and return it. Raises as `transition` does."""
        return cast("Job", await self._ask(calls.cancel(job_id, expected_version), timeout_s))

    async def count(
        self, status: AnyStatus | None = None, *, timeout_s: float | None = None
    ) -> CountResult:
        """Return how many jobs there are, by status, and since when the oldest has been in it."""
        return cast("CountResult", await self._ask(calls.count(status), timeout_s))

    async def list_page(
        self,
        status: AnyStatus | None = None,
        *,
        after: str | None = None,
        limit: int = 100,
        timeout_s: float | None = None,
    ) -> Page:
        """Return up to `limit` jobs (1,000 at most) by creation, from behind the page `after`."""
        return cast("Page", await self._ask(calls.list_page(status, after, limit), timeout_s))

    async def list(
        self, status: AnyStatus | None = None, *, page: int = 100, timeout_s: float | None = None
    ) -> AsyncIterator["Job"]:
        """Yield all jobs by creation, asking for `page` of them at a time as they are needed.

        A job that is in `status` throughout comes once, whatever happens in between. `timeout_s`
        is for each page.
        """
        after: str | None = None
        while True:
            part = await self.list_page(status, after=after, limit=page, timeout_s=timeout_s)
            for job in part.jobs:
                yield job
            after = part.next
            if after is None:
                return

    # --- waiting and working ----------------------------------------------------------------------

    async def wait(
        self,
        job_ids: str | Sequence[str],
        *,
        statuses: Sequence[AnyStatus] | None = None,
        timeout_s: float | None = None,
    ) -> "Job":
        """Return the first of up to 1,000 jobs that is in one of `statuses`, or done for good.

        Without `statuses`, that is the first to be completed or failed. `timeout_s` None waits for
        ever. Either way the wait is made of parts of 15 s, and BrokerUnreachableError comes when
        one of them is not answered within the client's own `timeout_s` after its end. A broker that
        restarts in between does not matter.

        Raises:
            WaitTimeoutError: none of them got there in `timeout_s` seconds.
            JobNotFoundError: there is no such job.

        """
        until = None if timeout_s is None else monotonic() + timeout_s
        waiting = Waiting(job_ids, statuses, until, self._timeout_s)
        while True:
            command, deadline = waiting.slice(monotonic())
            try:
                return cast("Job", await self._ask_until(command, deadline))
            except WaitTimeoutError:
                if waiting.over(monotonic()):
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
        """Take up to `limit` free jobs in `status`, oldest first, each under a lease.

        If there is none, wait for one for `wait_ms` (an hour at most); the list is empty if none
        came. `timeout_s` counts beyond `wait_ms`. Leases of a claim whose
        answer comes after its caller has left are given back.
        """
        command = calls.claim(status, lease_ms=lease_ms, wait_ms=wait_ms, limit=limit)
        timeout_s = self._seconds(timeout_s) + wait_ms / 1_000
        return cast("builtins.list[Lease]", await self._ask(command, timeout_s))

    async def touch(
        self, job_id: str, lease: int, *, lease_ms: int = 30_000, timeout_s: float | None = None
    ) -> None:
        """Keep a lease for another `lease_ms` from now.

        Raises:
            LeaseLostError: it lapsed, ended or was granted anew: stop working on the job.

        """
        await self._ask(calls.touch(job_id, lease, lease_ms), timeout_s)

    async def release(self, job_id: str, lease: int, *, timeout_s: float | None = None) -> None:
        """Give a lease back, so that somebody else may claim the job. Raises as `touch` does."""
        await self._ask(calls.release(job_id, lease), timeout_s)

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

        Each is a `Create`, an input hash, or a mapping of `create`'s arguments; they are taken off
        the iterable as they are sent, so it may be endless. `on_progress` is told how many have
        their outcome. `timeout_s` is for each message. What the iterable raises passes through; the
        jobs before it may be stored then. A message has `message_commands` jobs, or as many as the
        broker takes; up to four are under way at a time.

        Raises:
            BatchError: some could not be stored; the others are. Once the broker is silent for too
                long, nothing more is taken off the iterable, and `results` ends there.

        """
        values = await self._run(calls.creates(jobs), timeout_s, on_progress, message_commands)
        if any(issubclass(kind, TollgateError) for kind in set(map(type, values))):
            raise BatchError(values)
        return values

    async def send_many(
        self,
        commands: Iterable[AnyCommand],
        *,
        on_progress: Callable[[int], None] | None = None,
        message_commands: int | None = None,
        timeout_s: float | None = None,
    ) -> builtins.list[Any]:
        """Send commands as they come off an iterable, and return what came of each, in order.

        They are made by the functions of `tollgate.commands`, which take what the methods here
        take. While some are under way, the next are taken and made: a generator costs no time of
        its own, and less memory than a batch. As there, refusals are values, and commands run in
        the order given. What the iterable raises passes through; the commands before it may be
        done then. The other arguments are those of `create_many`.
        """
        return await self._run(commands, timeout_s, on_progress, message_commands)

    def batch(
        self, *, message_commands: int | None = None, timeout_s: float | None = None
    ) -> AsyncBatch:
        """Return an empty batch of commands; `timeout_s` is for each message.

        A message has `message_commands` commands, or as many as the broker takes; up to four are
        under way at a time. Raises ValueError for fewer than 1.
        """
        calls.check_message_commands(message_commands)
        return AsyncBatch(lambda commands: self._run(commands, timeout_s, None, message_commands))

    # --- the driver -------------------------------------------------------------------------------

    def _seconds(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else timeout_s

    async def _ask(self, command: AnyCommand, timeout_s: float | None) -> Any:  # noqa: ANN401
        if timeout_s is None and self._crowd.takes(command):  # all of it has the same deadline
            return await self._ask_together(command)
        return await self._ask_until(command, monotonic() + self._seconds(timeout_s))

    async def _ask_together(self, command: AnyCommand) -> Any:  # noqa: ANN401
        """Ask in one message with all that is asked in this turn of the loop."""
        loop = self._join_loop()
        seat, is_first = self._crowd.join(command, loop)
        if is_first:
            loop.call_soon(self._depart)
        try:
            return value([await seat.future])
        except asyncio.CancelledError:
            self._crowd.leave(seat)
            self._turn()
            raise

    def _depart(self) -> None:
        self._crowd.depart(monotonic() + self._timeout_s)
        self._turn()

    async def _ask_until(self, command: AnyCommand, deadline: float) -> Any:  # noqa: ANN401
        if self._session.greeting is None and not isinstance(command, Hello):
            await self._call(Hello(), deadline)
        return await self._call(command, deadline)

    async def _run(
        self,
        commands: Iterable[AnyCommand | TollgateError],
        timeout_s: float | None,
        on_progress: Callable[[int], None] | None,
        message_commands: int | None,
    ) -> builtins.list[Any]:
        calls.check_message_commands(message_commands)
        each_s = self._seconds(timeout_s)
        deadline = monotonic() + each_s
        if self._session.greeting is None:
            await self._call(Hello(), deadline)
        self._begin()
        news = asyncio.Event()
        exchange = self._session.submit(
            commands,
            deadline=deadline,
            each_s=each_s,
            message_commands=message_commands,
            notify=news.set,
        )
        return await self._drive(exchange, news, on_progress)

    async def _call(self, command: AnyCommand, deadline: float) -> Any:  # noqa: ANN401
        """Have one command sent and answered; return its value or raise it."""
        answer = self._begin().create_future()
        tell = partial(_tell, answer)
        exchange = self._session.submit_one(command, deadline=deadline, notify=tell)
        try:
            self._turn()
            if exchange.messages:
                self._check_open()
                await answer
        except BaseException:
            self._session.drop(exchange)
            raise
        return value(exchange.values)

    async def _drive(
        self, exchange: Exchange, news: asyncio.Event, on_progress: Callable[[int], None] | None
    ) -> builtins.list[Any]:
        session, told = self._session, 0
        try:
            while True:
                session.pull(exchange)
                if not exchange.done:  # else whoever brought the last values has had a turn
                    self._turn()
                if on_progress is not None and exchange.answered > told:
                    told = exchange.answered
                    on_progress(told)
                if exchange.done:
                    return exchange.values
                self._check_open()
                await news.wait()
                news.clear()
        except BaseException:
            session.drop(exchange)
            raise

    def _turn(self) -> None:
        """Move what can be moved, and see to it that this is called when there is more to do."""
        if self._closed:
            return
        self._link.turn(self._session)
        wakeup = self._session.next_wakeup()
        if wakeup is None or (self._timer is not None and self._timer_at <= wakeup):
            return  # a timer that is early does no harm, and setting one anew takes time
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
        """Begin a call that leaves alone: what was asked before is to be executed before."""
        loop = self._join_loop()
        self._crowd.depart(monotonic() + self._timeout_s)
        return loop

    def _join_loop(self) -> asyncio.AbstractEventLoop:
        """Listen on the running loop, which must be the one of all calls before; return it."""
        self._check_open()
        socket, loop = self._link.socket, asyncio.get_running_loop()
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
        # A forked child shares the parent's epoll instance: what it takes out is out there too.
        if self._loop is not None and not self._loop.is_closed() and not self._link.foreign:
            self._loop.remove_reader(self._link.socket.fileno())


def _tell(answer: asyncio.Future[None]) -> None:
    if not answer.done():  # its caller may have been cancelled, and not yet have had its turn
        answer.set_result(None)

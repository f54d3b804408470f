"""The blocking client: its calls, and the loop that moves frames until they are answered."""

import builtins
from collections.abc import Callable, Iterable, Iterator, Sequence
from os import PathLike
from random import random
from threading import get_ident
from time import monotonic
from typing import TYPE_CHECKING, Any, Self, cast

from tollgate.client import commands as build
from tollgate.client.arguments import seconds
from tollgate.client.batch import Batch
from tollgate.client.commands import AnyStatus, JobId, Row, SlicedWait, Time
from tollgate.client.connection import Connection, log_warning
from tollgate.client.errors import ClientClosedError, raise_failures
from tollgate.client.inflight import Call
from tollgate.client.results import Lease, Page, value
from tollgate.client.session import OPENING, Session
from tollgate.domain.commands import AnyCommand, Hello
from tollgate.domain.exceptions import TollgateError, WaitTimeoutError
from tollgate.domain.results import CountResult, HelloResult

if TYPE_CHECKING:
    from tollgate.domain.models import Job

__all__ = ["Batch", "Client", "Lease", "Page", "connect"]


def connect(
    endpoint: str | PathLike[str] | None = None,
    *,
    key: str | PathLike[str] | None = None,
    timeout_s: float = 10.0,
    spin_us: int = 0,
) -> "Client":
    """Return a `Client` whose broker has answered a ping; for the arguments see `Client`.

    This opens a socket, so the client is of this process alone. In code that runs before a fork,
    make a `Client` instead, which connects at its first call.

    Raises:
        BrokerUnreachableError: no broker answered within `timeout_s` seconds.

    """
    client = Client(endpoint, key=key, timeout_s=timeout_s, spin_us=spin_us)
    try:
        client.ping()
    except BaseException:
        client.close()
        raise
    return client


class Client:
    """Sends commands to one broker, and blocks until it has answered.

    A client is for one thread at a time: give each thread and each process its own. Only `close`
    may be called in any thread, and in a signal handler: it ends a call. `endpoint` is
    the broker's address, by default the value of TOLLGATE_ENDPOINT, else the socket in the user's
    runtime directory. For tcp, `key` is the file that `tollgate keys new` made, by default the
    value of TOLLGATE_KEY. `timeout_s` is how many seconds a call may take, unless the call has its
    own `timeout_s`. The client connects at its first call. So one that is made before a fork
    (`gunicorn --preload`, `multiprocessing`) may be used after it, in each child by itself.

    With `spin_us`, a call looks for its answer for up to that many microseconds before it sleeps.
    This saves the time to wake up, a large part of a round trip, and uses one core meanwhile. Try
    300 if one call follows the other and a core is free.

    Besides its own errors, every call can raise:
        ArgumentError: an argument has a wrong type or value; nothing was sent. docs/client.md has
            the table of what each argument may be.
        Refusal: the broker refused; there is a class for each code, see `domain.exceptions`.
        BrokerUnreachableError: no broker answered in time, and nothing was changed.
        InvalidEndpointError: the endpoint is malformed.
        KeyFileError: the key cannot be used, or is missing and the endpoint is tcp.
        OutcomeUnknown: the request was sent and not answered in time; it may be executed or not.
        ProtocolError: the other side is not a TG/1 broker.
        ForkedClientError: another process opened this client; it has to make its own.
        ClientClosedError: the client was closed.
        RuntimeError: another thread is in a call.

    A request without an answer is sent again until the time is over, so the broker may restart in
    between. It remembers what it executed, so nothing happens twice. OutcomeUnknown remains for a
    broker that does not come back, or has forgotten.
    """

    def __init__(
        self,
        endpoint: str | PathLike[str] | None = None,
        *,
        key: str | PathLike[str] | None = None,
        timeout_s: float = 10.0,
        spin_us: int = 0,
    ) -> None:
        """Make a client; it connects at its first call."""
        self._timeout_s = seconds(timeout_s)
        self._connection = Connection(endpoint, key, spin_us)
        self.endpoint = self._connection.endpoint
        self._session = Session(self._connection.broker, random, log_warning)
        self._thread: int | None = None
        self._closed = False

    def close(self) -> None:
        """Close the connection; further calls of `close` do nothing.

        Calls in progress end with ClientClosedError; it is an OutcomeUnknown as well where a change
        may have been made.
        """
        self._closed = True
        self._connection.interrupt()
        if self._thread is None:  # else the call closes the socket when it ends
            self._connection.close()

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self.close()

    # --- one command ------------------------------------------------------------------------------

    def ping(self, timeout_s: float | None = None) -> HelloResult:
        """Return the broker's identity, your role and its limits."""
        return cast("HelloResult", self._ask(Hello(), timeout_s))

    def create(  # noqa: PLR0913 - one argument a field
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
        return cast("Job", self._ask(command, timeout_s))

    def get(
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
        return cast("Job", self._ask(build.get(job_id, blockchain_identifier), timeout_s))

    def transition(  # noqa: PLR0913 - one argument a field
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
        return cast("Job", self._ask(command, timeout_s))

    def provide_input(
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
        return cast("Job", self._ask(command, timeout_s))

    def cancel(
        self, job_id: JobId, *, expected_version: int | None = None, timeout_s: float | None = None
    ) -> "Job":
        """Fail a job in `awaiting_payment`, and return it. Raises the errors of `transition`."""
        return cast("Job", self._ask(build.cancel(job_id, expected_version), timeout_s))

    def count(
        self, status: AnyStatus | None = None, *, timeout_s: float | None = None
    ) -> CountResult:
        """Return the number of jobs by status, and since when the oldest of each has been in it."""
        return cast("CountResult", self._ask(build.count(status), timeout_s))

    def list_page(
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
        return cast("Page", self._ask(build.list_page(status, after, limit), timeout_s))

    def list(
        self, status: AnyStatus | None = None, *, page: int = 100, timeout_s: float | None = None
    ) -> Iterator["Job"]:
        """Yield all jobs in order of creation; `page` is how many to ask for at a time.

        A job that stays in `status` all the time is yielded once, whatever happens to other jobs.
        `timeout_s` is for each page.
        """
        after: str | None = None
        while True:
            part = self.list_page(status, after=after, limit=page, timeout_s=timeout_s)
            yield from part.jobs
            after = part.next
            if after is None:
                return

    # --- waits and leases -------------------------------------------------------------------------

    def wait(
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
                return cast("Job", self._ask_until(command, deadline))
            except WaitTimeoutError:
                if wait.over(monotonic()):
                    raise

    def claim(
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
        return cast("builtins.list[Lease]", self._ask(command, timeout_s))

    def touch(
        self, job_id: JobId, lease: int, *, lease_ms: int = 30_000, timeout_s: float | None = None
    ) -> None:
        """Extend a lease: it ends `lease_ms` from now.

        Raises:
            LeaseLostError: it has lapsed or ended, or was granted to another client: stop working.

        """
        self._ask(build.touch(job_id, lease, lease_ms), timeout_s)

    def release(self, job_id: JobId, lease: int, *, timeout_s: float | None = None) -> None:
        """Give a lease back, so that the job can be claimed again. Raises the errors of `touch`."""
        self._ask(build.release(job_id, lease), timeout_s)

    # --- many commands ----------------------------------------------------------------------------

    def create_many(
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
        values = self._run(build.creates(jobs), timeout_s, on_progress, message_commands)
        raise_failures(values)
        return values

    def send_many(
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
        return self._run(commands, timeout_s, on_progress, message_commands)

    def batch(
        self, *, message_commands: int | None = None, timeout_s: float | None = None
    ) -> Batch:
        """Return an empty batch of commands.

        A message has `message_commands` commands, or as many as the broker takes; up to four
        messages are in flight at a time, and `timeout_s` is for each. Raises ArgumentError
        for less than 1 command.
        """
        build.check_bulk(message_commands)
        return Batch(lambda commands: self._run(commands, timeout_s, None, message_commands))

    # --- the driver -------------------------------------------------------------------------------

    def _seconds(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else seconds(timeout_s)

    def _ask(self, command: AnyCommand, timeout_s: float | None) -> Any:  # noqa: ANN401
        return self._ask_until(command, monotonic() + self._seconds(timeout_s))

    def _ask_until(self, command: AnyCommand, deadline: float) -> Any:  # noqa: ANN401
        outer = self._take()
        try:
            if self._session.greeting is None and not isinstance(command, Hello):
                self._greet(deadline, opening=command.changes)
            return self._call(command, deadline)
        finally:
            self._thread = outer
            if self._closed:
                self._close_after(outer)

    def _run(
        self,
        commands: Iterable[AnyCommand | TollgateError],
        timeout_s: float | None,
        on_progress: Callable[[int], None] | None,
        message_commands: int | None,
    ) -> builtins.list[Any]:
        build.check_bulk(message_commands, on_progress)
        each_s = self._seconds(timeout_s)
        outer = self._take()
        try:
            deadline = monotonic() + each_s
            if self._session.greeting is None:
                self._greet(deadline, opening=True)
            call = self._session.submit(
                commands, deadline=deadline, each_s=each_s, message_commands=message_commands
            )
            return self._drive(call, on_progress)
        finally:
            self._thread = outer
            if self._closed:
                self._close_after(outer)

    def _greet(self, deadline: float, *, opening: bool) -> None:
        """Ask for the broker's limits; with `opening`, open a session in the same request."""
        self._call(OPENING if opening else Hello(), deadline)

    def _call(self, command: AnyCommand, deadline: float) -> Any:  # noqa: ANN401
        """Send one command; return its value or raise it."""
        session, connection = self._session, self._connection
        if not session.idle:
            connection.drain(session)
        call = session.submit_one(command, deadline=deadline)
        try:
            while call.requests:
                blocked = connection.flush(session)
                connection.listen(session, call, blocked=blocked)
        except BaseException as fault:
            if not self._ended_by_close(call, fault):
                raise
        return value(call.values)

    def _drive(self, call: Call, on_progress: Callable[[int], None] | None) -> builtins.list[Any]:
        session, connection = self._session, self._connection
        reported = requests = 0
        try:
            if not session.idle:
                connection.drain(session)
            while True:
                made = session.pull_one(call)
                if made:
                    requests += 1
                    if requests > 1:  # the iterable may have taken long: first the answers
                        connection.drain(session)
                blocked = connection.flush(session)
                if on_progress is not None and call.answered > reported:
                    reported = call.answered
                    on_progress(reported)
                if made and call.framer is not None:
                    continue
                if call.done:
                    return call.values
                connection.listen(session, call, blocked=blocked)
        except BaseException as fault:
            if not self._ended_by_close(call, fault):
                raise
            return call.values

    def _ended_by_close(self, call: Call, fault: BaseException) -> bool:
        """End a call that raised; return whether `close` ended it, and the values tell how."""
        if self._closed and isinstance(fault, ClientClosedError) and call.requests:
            self._session.fail(fault)
            return True
        self._session.abandon(call)
        return False

    def _close_after(self, outer: int | None) -> None:
        """Close the socket of a client that was closed during a call, unless in an outer call."""
        if outer is None:
            self._connection.close()

    def _take(self) -> int | None:
        """Mark the client as used by this thread; the caller puts the returned value back.

        A callback of a call may use the client in turn.
        """
        if self._closed:
            raise ClientClosedError(f"the client of {self.endpoint} is closed")
        outer, me = self._thread, get_ident()
        if outer not in (None, me):
            if self._connection.foreign:  # the fork came while another thread was in a call
                raise self._connection.forked()
            raise RuntimeError("a client is for one thread at a time; give each thread its own")
        self._thread = me
        return outer

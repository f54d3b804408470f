"""The blocking client: its calls, and the loop that moves frames until they are answered."""

import builtins
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from os import PathLike
from random import random
from threading import get_ident
from time import monotonic
from typing import TYPE_CHECKING, Any, Self

from tollgate.client.arguments import seconds
from tollgate.client.batch import Batch
from tollgate.client.calls import Calls
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

__all__ = ["Batch", "Client", "Lease", "Page", "connect"]


def connect(
    endpoint: str | PathLike[str] | None = None,
    *,
    key: str | PathLike[str] | None = None,
    timeout_s: float = 10.0,
    spin_us: int = 0,
    name: str | None = None,
) -> "Client":
    """Return a `Client` whose broker has answered a ping; for the arguments see `Client`.

    This opens a socket, so the client is of this process alone. In code that runs before a fork,
    make a `Client` instead, which connects at its first call.

    Raises:
        BrokerUnreachableError: no broker answered within `timeout_s` seconds.

    """
    client = Client(endpoint, key=key, timeout_s=timeout_s, spin_us=spin_us, name=name)
    try:
        client.ping()
    except BaseException:
        client.close()
        raise
    return client


class Client(Calls):
    """Sends commands to one broker, and blocks until it has answered.

    A client is for one thread at a time: give each thread and each process its own. Only `close`
    may be called in any thread, and in a signal handler: it ends a call. `endpoint` is
    the broker's address, by default the value of TOLLGATE_ENDPOINT, else the socket in the user's
    runtime directory. For tcp, `key` is the file that `tollgate keys new` made, by default the
    value of TOLLGATE_KEY. `timeout_s` is how many seconds a call may take, unless the call has its
    own `timeout_s`. `name` is what histories show for the client, by default
    `program@host:pid`. The client connects at its first call. So one that is made before a fork
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
        name: str | None = None,
    ) -> None:
        """Make a client; it connects at its first call."""
        self._timeout_s = seconds(timeout_s)
        self._connection = Connection(endpoint, key, spin_us)
        self.endpoint = self._connection.endpoint
        self._another = partial(
            type(self), self.endpoint, key=key, timeout_s=timeout_s, spin_us=spin_us, name=name
        )
        self._session = Session(self._connection.broker, random, log_warning, naming(name))
        self._thread: int | None = None
        self._closed = False

    def __reduce__(self) -> tuple[Callable[[], Any], tuple[()]]:
        """Let a copy, also one that is pickled, be another client with the same settings."""
        return self._another, ()

    def close(self) -> None:
        """Close the connection; further calls of `close` do nothing.

        Calls in progress end with ClientClosedError; it is an OutcomeUnknown as well where a change
        may have been made.
        """
        self._closed = True
        self._connection.interrupt()
        if self._thread is None:  # else the call closes the socket when it ends
            self._connection.close(self._session)

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self.close()

    def ping(self, timeout_s: float | None = None) -> HelloResult:
        """Return the broker's identity, its time and limits, and your roles."""
        hello: HelloResult = self._ask(self._session.hello(), timeout_s)
        return hello

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
        values = self._run(
            creates(jobs, self._known_time_in), timeout_s, on_progress, message_commands
        )
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
        check_bulk(message_commands)
        return Batch(
            lambda commands: self._run(commands, timeout_s, None, message_commands),
            self._known_time_in,
            self.wait,
        )

    # --- the driver -------------------------------------------------------------------------------

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

    def _time_in(self, delay_ms: int, timeout_s: float | None) -> datetime:
        if self._session.greeting is None:
            self.ping(timeout_s)
        return self._known_time_in(delay_ms)

    def _known_time_in(self, delay_ms: int) -> datetime:
        return self._connection.broker_time_in(self._session, delay_ms)

    def _run(
        self,
        commands: Iterable[AnyCommand | TollgateError],
        timeout_s: float | None,
        on_progress: Callable[[int], None] | None,
        message_commands: int | None,
    ) -> builtins.list[Any]:
        check_bulk(message_commands, on_progress)
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
        self._call(self._session.hello(open_session=opening), deadline)

    def _call(self, command: AnyCommand, deadline: float) -> Any:  # noqa: ANN401
        """Send one command; return its value or raise it."""
        session, connection = self._session, self._connection
        if not session.idle:
            connection.drain(session)
        call = session.submit_one(command, deadline=deadline)
        try:
            while call.requests:
                connection.exchange(session, call)
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
        self._connection.last_turn(self._session)
        return False

    def _close_after(self, outer: int | None) -> None:
        """Close the socket of a client that was closed during a call, unless in an outer call."""
        if outer is None:
            self._connection.close(self._session)

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

"""The blocking client."""

import builtins
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from os import PathLike
from random import random
from threading import get_ident
from time import monotonic
from typing import TYPE_CHECKING, Any, Self, cast

from tollgate.client import commands as calls
from tollgate.client.batch import Batch
from tollgate.client.commands import AnyStatus, Row, Waiting
from tollgate.client.connection import Link, resolve_endpoint
from tollgate.client.errors import BatchError, ClientClosedError
from tollgate.client.exchange import Exchange
from tollgate.client.keyfile import resolve_key
from tollgate.client.results import Lease, Page, value
from tollgate.client.session import OPENING, Session
from tollgate.domain.commands import AnyCommand, Hello
from tollgate.domain.exceptions import TollgateError, WaitTimeoutError
from tollgate.domain.results import CountResult, HelloResult

if TYPE_CHECKING:
    from tollgate.domain.models import Job

__all__ = ["Batch", "Client", "Lease", "Page", "connect"]


def connect(
    endpoint: str | None = None,
    *,
    key: str | PathLike[str] | None = None,
    timeout_s: float = 10.0,
    spin_us: int = 0,
) -> "Client":
    """Return a `Client` that has heard from its broker; see there for the arguments.

    Raises:
        BrokerUnreachableError: nobody answered within `timeout_s` seconds.

    """
    client = Client(endpoint, key=key, timeout_s=timeout_s, spin_us=spin_us)
    try:
        client.ping()
    except BaseException:
        client.close()
        raise
    return client


class Client:
    """Talks to one broker, and blocks until it has answered.

    A client is for one thread at a time: give each thread its own, as also each process. `endpoint`
    is the broker's, by default what TOLLGATE_ENDPOINT says, else the one in the user's runtime
    directory. By tcp a broker lets in key holders alone: `key` is the file that `tollgate keys new`
    has made, by default what TOLLGATE_KEY says. `timeout_s` is how many seconds a call may take
    that does not say otherwise. The connection is made at the first call.

    With `spin_us`, a call looks for its answer for up to so many microseconds before it sleeps:
    that spares it waking up, which is a good part of a round trip, and costs a core meanwhile. Try
    300 where one call follows the other and a core is free.

    Every call raises, beyond what its own description says:
        Refusal: the broker said no; a class for each code, see `domain.exceptions`.
        BrokerUnreachableError: no broker answered in time, and nothing has been changed.
        KeyFileError: the key cannot be used, or the endpoint is of tcp and there is no key.
        OutcomeUnknown: the request left and no answer came in time, so it may be done or not.
        ProtocolError: what answered is no TG/1 broker.
        ForkedClientError: another process opened this client.
        ClientClosedError: it was closed.
        RuntimeError: another thread is in a call.

    What is not answered is asked again until the time is over, so that a broker may restart in
    between; it remembers what it did, so that nothing happens twice. OutcomeUnknown is left for
    when it never comes back, or has forgotten.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        key: str | PathLike[str] | None = None,
        timeout_s: float = 10.0,
        spin_us: int = 0,
    ) -> None:
        """Make a client; nothing is connected yet."""
        self.endpoint = resolve_endpoint(endpoint)
        self._timeout_s = timeout_s
        self._link = Link(self.endpoint, resolve_key(key), spin_us)
        self._session = Session(self._link.broker, random)
        self._thread: int | None = None
        self._closed = False

    def close(self) -> None:
        """Close the connection; do it as often as you like."""
        self._closed = True
        self._link.close()

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self.close()

    # --- one command ------------------------------------------------------------------------------

    def ping(self, timeout_s: float | None = None) -> HelloResult:
        """Return who the broker is, and what its limits are."""
        return cast("HelloResult", self._ask(Hello(), timeout_s))

    def create(  # noqa: PLR0913 - one argument a field
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
        return cast("Job", self._ask(command, timeout_s))

    def get(
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
        return cast("Job", self._ask(calls.get(job_id, blockchain_identifier), timeout_s))

    def transition(  # noqa: PLR0913 - one argument a field
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
        return cast("Job", self._ask(command, timeout_s))

    def provide_input(
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
        return cast("Job", self._ask(command, timeout_s))

    def cancel(
        self, job_id: str, *, expected_version: int | None = None, timeout_s: float | None = None
    ) -> "Job":
        """Fail a job that nobody has paid for yet, and return it. Raises as `transition` does."""
        return cast("Job", self._ask(calls.cancel(job_id, expected_version), timeout_s))

    def count(
        self, status: AnyStatus | None = None, *, timeout_s: float | None = None
    ) -> CountResult:
        """Return how many jobs there are, by status, and since when the oldest has been in it."""
        return cast("CountResult", self._ask(calls.count(status), timeout_s))

    def list_page(
        self,
        status: AnyStatus | None = None,
        *,
        after: str | None = None,
        limit: int = 100,
        timeout_s: float | None = None,
    ) -> Page:
        """Return up to `limit` jobs (1,000 at most) by creation, from behind the page `after`."""
        return cast("Page", self._ask(calls.list_page(status, after, limit), timeout_s))

    def list(
        self, status: AnyStatus | None = None, *, page: int = 100, timeout_s: float | None = None
    ) -> Iterator["Job"]:
        """Yield all jobs by creation, asking for `page` of them at a time as they are needed.

        A job that is in `status` throughout comes once, whatever happens in between. `timeout_s`
        is for each page.
        """
        after: str | None = None
        while True:
            part = self.list_page(status, after=after, limit=page, timeout_s=timeout_s)
            yield from part.jobs
            after = part.next
            if after is None:
                return

    # --- waiting and working ----------------------------------------------------------------------

    def wait(
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
                return cast("Job", self._ask_until(command, deadline))
            except WaitTimeoutError:
                if waiting.over(monotonic()):
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
        """Take up to `limit` free jobs in `status`, oldest first, each under a lease.

        If there is none, wait for one for `wait_ms` (an hour at most); the list is empty if none
        came. `timeout_s` counts beyond `wait_ms`. Leases of a claim whose
        answer comes after its caller has left are given back.
        """
        command = calls.claim(status, lease_ms=lease_ms, wait_ms=wait_ms, limit=limit)
        timeout_s = self._seconds(timeout_s) + wait_ms / 1_000
        return cast("builtins.list[Lease]", self._ask(command, timeout_s))

    def touch(
        self, job_id: str, lease: int, *, lease_ms: int = 30_000, timeout_s: float | None = None
    ) -> None:
        """Keep a lease for another `lease_ms` from now.

        Raises:
            LeaseLostError: it lapsed, ended or was granted anew: stop working on the job.

        """
        self._ask(calls.touch(job_id, lease, lease_ms), timeout_s)

    def release(self, job_id: str, lease: int, *, timeout_s: float | None = None) -> None:
        """Give a lease back, so that somebody else may claim the job. Raises as `touch` does."""
        self._ask(calls.release(job_id, lease), timeout_s)

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

        Each is a `Create`, an input hash, or a mapping of `create`'s arguments; they are taken off
        the iterable as they are sent, so it may be endless. `on_progress` is told how many have
        their outcome. `timeout_s` is for each message. What the iterable raises passes through; the
        jobs before it may be stored then. A message has `message_commands` jobs, or as many as the
        broker takes; up to four are under way at a time.

        Raises:
            BatchError: some could not be stored; the others are. Once the broker is silent for too
                long, nothing more is taken off the iterable, and `results` ends there.

        """
        values = self._run(calls.creates(jobs), timeout_s, on_progress, message_commands)
        if any(issubclass(kind, TollgateError) for kind in set(map(type, values))):
            raise BatchError(values)
        return values

    def send_many(
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
        return self._run(commands, timeout_s, on_progress, message_commands)

    def batch(
        self, *, message_commands: int | None = None, timeout_s: float | None = None
    ) -> Batch:
        """Return an empty batch of commands; `timeout_s` is for each message.

        A message has `message_commands` commands, or as many as the broker takes; up to four are
        under way at a time. Raises ValueError for fewer than 1.
        """
        calls.check_message_commands(message_commands)
        return Batch(lambda commands: self._run(commands, timeout_s, None, message_commands))

    # --- the driver -------------------------------------------------------------------------------

    def _seconds(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else timeout_s

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

    def _run(
        self,
        commands: Iterable[AnyCommand | TollgateError],
        timeout_s: float | None,
        on_progress: Callable[[int], None] | None,
        message_commands: int | None,
    ) -> builtins.list[Any]:
        calls.check_message_commands(message_commands)
        each_s = self._seconds(timeout_s)
        outer = self._take()
        try:
            deadline = monotonic() + each_s
            if self._session.greeting is None:
                self._greet(deadline, opening=True)
            exchange = self._session.submit(
                commands, deadline=deadline, each_s=each_s, message_commands=message_commands
            )
            return self._drive(exchange, on_progress)
        finally:
            self._thread = outer

    def _greet(self, deadline: float, *, opening: bool) -> None:
        """Learn the broker's limits; `opening`, begin a session with that."""
        self._call(OPENING if opening else Hello(), deadline)

    def _call(self, command: AnyCommand, deadline: float) -> Any:  # noqa: ANN401
        """Have one command sent and answered; return its value or raise it."""
        session, link = self._session, self._link
        if not session.awaits_nothing:
            link.drain(session)
        exchange = session.submit_one(command, deadline=deadline)
        try:
            while exchange.messages:
                blocked = link.flush(session)
                link.listen(session, exchange, blocked=blocked)
        except BaseException:
            session.drop(exchange)
            raise
        return value(exchange.values)

    def _drive(
        self, exchange: Exchange, on_progress: Callable[[int], None] | None
    ) -> builtins.list[Any]:
        session, link = self._session, self._link
        told = messages = 0
        try:
            if not session.awaits_nothing:
                link.drain(session)
            while True:
                made = session.pull_one(exchange)
                if made:
                    messages += 1
                    if messages > 1:  # the iterable took its time: first what came meanwhile
                        link.drain(session)
                blocked = link.flush(session)
                if on_progress is not None and exchange.answered > told:
                    told = exchange.answered
                    on_progress(told)
                if made and exchange.packer is not None:
                    continue
                if exchange.done:
                    return exchange.values
                link.listen(session, exchange, blocked=blocked)
        except BaseException:
            session.drop(exchange)
            raise

    def _take(self) -> int | None:
        """Keep other threads out, until what this returns is put back; the same may come again."""
        if self._closed:
            raise ClientClosedError(f"the client of {self.endpoint} is closed")
        outer, me = self._thread, get_ident()
        if outer not in (None, me):
            raise RuntimeError("a client is for one thread at a time; give each thread its own")
        self._thread = me
        return outer

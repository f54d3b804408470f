"""Lists of commands of several kinds, sent together and answered in order."""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from datetime import datetime
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

from tollgate.client import commands as build
from tollgate.client.arguments import seconds
from tollgate.client.commands import AnySettlement, AnyStatus, Delay, JobId, Time
from tollgate.client.errors import NOT_SENT, BrokerUnreachableError
from tollgate.client.rows import postponed
from tollgate.client.waits import SlicedWait
from tollgate.domain.commands import AnyCommand, Create
from tollgate.domain.exceptions import (
    ArgumentError,
    JobNotFoundError,
    TollgateError,
    WaitTimeoutError,
)

if TYPE_CHECKING:
    from tollgate.domain.models import Job

JobIds = JobId | Sequence[JobId]
Statuses = AnyStatus | Sequence[AnyStatus] | None


class FinalWait:
    """The wait that ends a batch. Its first part is sent right behind the other commands."""

    def __init__(self, job_ids: JobIds, statuses: Statuses, timeout_s: float | None) -> None:
        """Raises ArgumentError."""
        self.job_ids = job_ids
        self.statuses = statuses
        self._timeout_s = None if timeout_s is None else seconds(timeout_s)
        self._until: float | None = None
        self.command = SlicedWait(job_ids, statuses, None, 0.0).slice(0.0)[0]

    def begin(self) -> AnyCommand:
        """Let the time run; return the first part."""
        now = monotonic()
        if self._timeout_s is not None:
            self._until = now + self._timeout_s
        return SlicedWait(self.job_ids, self.statuses, self._until, 0.0).slice(now)[0]

    def left_s(self) -> float | None:
        """Return how much of the time is left; None for all time."""
        return None if self._until is None else max(0.0, self._until - monotonic())

    def goes_on(self, value: Any) -> bool:  # noqa: ANN401 - a job, or an error
        """Return whether the wait is not over, now that its first part had this value."""
        if isinstance(value, WaitTimeoutError):
            return self.left_s() != 0.0
        # The broker may have put off the commands before it, and with them the job.
        return isinstance(value, JobNotFoundError)


class _Ended(list[AnyCommand]):
    """The commands of a batch that a wait has ended."""

    def append(self, _: AnyCommand) -> None:
        """Raises ArgumentError."""
        raise ArgumentError("a wait ends a batch: nothing can be appended after it")


class CommandList:
    """A list of commands; each method appends one and returns its position among the results.

    Every method takes the arguments of the client's method with that name, and raises
    ArgumentError for what no broker could decode.
    """

    def __init__(self, time_in: Callable[[int], datetime]) -> None:
        """Start empty. `time_in` returns the broker's time in so many milliseconds."""
        self._commands: list[AnyCommand] = []
        self._delays_ms: dict[int, int] = {}
        self._time_in = time_in
        self._sent = False
        self._wait: FinalWait | None = None
        self._new_id = build.new_job_ids().__next__

    def __len__(self) -> int:
        """Return how many commands there are."""
        return len(self._commands)

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
        queue: str | None = None,
        priority: int = 0,
        not_before: Time | None = None,
        delay_s: Delay | None = None,
        meta: str | None = None,
        traceparent: str | None = None,
        settle: bool = False,
    ) -> int:
        """Append a `create`; its value is the `Job`. `delay_s` begins when the batch is sent."""
        commands = self._commands
        if delay_s is not None:
            self._delays_ms[len(commands)] = build.delay_of(delay_s, not_before)
        commands.append(
            build.create(
                input_hash,
                input=input,
                as_text=as_text,
                identifier_from_purchaser=identifier_from_purchaser,
                job_id=self._new_id() if job_id is None else job_id,
                blockchain_identifier=blockchain_identifier,
                pay_by_time=pay_by_time,
                submit_result_time=submit_result_time,
                queue=queue,
                priority=priority,
                not_before=not_before,
                meta=meta,
                traceparent=traceparent,
                settle=settle,
            )
        )
        return len(commands) - 1

    def get(
        self,
        job_id: JobId | None = None,
        *,
        blockchain_identifier: str | None = None,
        lease: bool = False,
    ) -> int:
        """Append a `get`; its value is the `Job`."""
        commands = self._commands
        commands.append(build.get(job_id, blockchain_identifier, lease=lease))
        return len(commands) - 1

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
        keep_lease: bool = False,
        force: bool = False,
    ) -> int:
        """Append a `transition`; its value is the `Job`."""
        commands = self._commands
        commands.append(
            build.transition(
                job_id,
                target,
                result=result,
                error=error,
                input_schema=input_schema,
                expected_version=expected_version,
                lease=lease,
                keep_lease=keep_lease,
                force=force,
            )
        )
        return len(commands) - 1

    def provide_input(
        self,
        job_id: JobId,
        input: str,  # noqa: A002 - the field's name
        *,
        expected_version: int,
        input_hash: str | None = None,
    ) -> int:
        """Append a `provide_input`; its value is the `Job`."""
        return self._append(
            build.provide_input(job_id, input, expected_version, input_hash=input_hash)
        )

    def cancel(self, job_id: JobId, *, expected_version: int | None = None) -> int:
        """Append a `cancel`; its value is the `Job`."""
        return self._append(build.cancel(job_id, expected_version))

    def hold(
        self, job_id: JobId, *, reason: str | None = None, expected_version: int | None = None
    ) -> int:
        """Append a `hold`; its value is the `Job`."""
        return self._append(build.hold(job_id, reason=reason, expected_version=expected_version))

    def resume(self, job_id: JobId, *, expected_version: int | None = None) -> int:
        """Append a `resume`; its value is the `Job`."""
        return self._append(build.resume(job_id, expected_version=expected_version))

    def request_stop(
        self, job_id: JobId, *, reason: str | None = None, expected_version: int | None = None
    ) -> int:
        """Append a `request_stop`; its value is the `Job`."""
        command = build.request_stop(job_id, reason=reason, expected_version=expected_version)
        return self._append(command)

    def annotate(
        self, job_id: JobId, meta: str | None, *, expected_version: int | None = None
    ) -> int:
        """Append an `annotate`; its value is the `Job`."""
        return self._append(build.annotate(job_id, meta, expected_version=expected_version))

    def settle(  # noqa: PLR0913 - one argument a field
        self,
        job_id: JobId,
        *,
        lease: int | None = None,
        to: AnySettlement | None = None,
        result_hash: str | None = None,
        on_chain_state: str | None = None,
        reason: str | None = None,
        retry_after_s: Delay | None = None,
    ) -> int:
        """Append a `settle`; its value is the `Job`."""
        return self._append(
            build.settle(
                job_id,
                lease=lease,
                to=to,
                result_hash=result_hash,
                on_chain_state=on_chain_state,
                reason=reason,
                retry_after_s=retry_after_s,
            )
        )

    def pause_queue(self, queue: str) -> int:
        """Append a `pause_queue`; its value is None."""
        return self._append(build.pause_queue(queue))

    def resume_queue(self, queue: str) -> int:
        """Append a `resume_queue`; its value is None."""
        return self._append(build.resume_queue(queue))

    def count(
        self,
        status: AnyStatus | None = None,
        *,
        queue: str | None = None,
        settlement: AnySettlement | None = None,
    ) -> int:
        """Append a `count`; its value is the `CountResult`."""
        return self._append(build.count(status, queue=queue, settlement=settlement))

    def list_page(  # noqa: PLR0913 - one argument a field
        self,
        status: AnyStatus | None = None,
        *,
        queue: str | None = None,
        settlement: AnySettlement | None = None,
        newest: bool = False,
        lease: bool = False,
        after: str | None = None,
        limit: int = 100,
    ) -> int:
        """Append a `list`; its value is the `Page`."""
        return self._append(
            build.list_page(
                status,
                after,
                limit,
                queue=queue,
                settlement=settlement,
                newest=newest,
                lease=lease,
            )
        )

    def history(self, job_id: JobId) -> int:
        """Append a `history`; its value is the `History`."""
        return self._append(build.history(job_id))

    def events_page(  # noqa: PLR0913 - one argument a field
        self,
        after: str | None = None,
        *,
        limit: int = 1_000,
        queues: str | Sequence[str] | None = None,
        statuses: AnyStatus | Sequence[AnyStatus] | None = None,
        job_ids: JobId | Sequence[JobId] | None = None,
        texts: bool = False,
    ) -> int:
        """Append an `events` that does not wait; its value is the `EventsResult`."""
        return self._append(
            build.events_page(
                after,
                limit=limit,
                queues=queues,
                statuses=statuses,
                job_ids=job_ids,
                texts=texts,
            )
        )

    def explain(self, job_id: JobId) -> int:
        """Append an `explain`; its value is the `Explanation`."""
        return self._append(build.explain(job_id))

    def stats(self, *, queue: str | None = None) -> int:
        """Append a `stats`; its value is the `StatsResult`."""
        return self._append(build.stats(queue))

    def claim(  # noqa: PLR0913 - one argument a field
        self,
        status: AnyStatus | None = None,
        *,
        settlement: AnySettlement | None = None,
        queue: str | None = None,
        queues: str | Sequence[str] | None = None,
        job_ids: JobId | Sequence[JobId] | None = None,
        lease_ms: int = 30_000,
        limit: int | None = None,
    ) -> int:
        """Append a `claim` that does not wait; its value is the list of `Lease`."""
        return self._append(
            build.claim(
                status,
                settlement=settlement,
                queue=queue,
                queues=queues,
                job_ids=job_ids,
                lease_ms=lease_ms,
                limit=limit,
            )
        )

    def touch(
        self,
        job_id: JobId,
        lease: int,
        *,
        lease_ms: int = 30_000,
        progress: str | None = None,
        fraction: float | None = None,
    ) -> int:
        """Append a `touch`; its value is `Touched`."""
        command = build.touch(job_id, lease, lease_ms, progress=progress, fraction=fraction)
        return self._append(command)

    def release(
        self,
        job_id: JobId,
        lease: int,
        *,
        delay_s: Delay | None = None,
        reason: str | None = None,
        hold: bool = False,
    ) -> int:
        """Append a `release`; its value is None."""
        command = build.release(job_id, lease, delay_s=delay_s, reason=reason, hold=hold)
        return self._append(command)

    def wait(
        self, job_ids: JobIds, *, statuses: Statuses = None, timeout_s: float | None = None
    ) -> int:
        """Append a `wait`, which ends the batch; its value is the job that came to such a status.

        It is sent along with the other commands, and begins behind them: so one call creates a job,
        lets it run, and returns it when it has ended. `send` returns when the wait is over. Raises
        ArgumentError also for every command that is appended after it.
        """
        final = FinalWait(job_ids, statuses, timeout_s)
        position = self._append(final.command)
        self._wait = final
        self._commands = _Ended(self._commands)
        return position

    def _append(self, command: AnyCommand) -> int:
        self._commands.append(command)
        return len(self._commands) - 1

    def _take(self) -> Iterable[AnyCommand | TollgateError]:
        if self._sent:
            raise RuntimeError("a batch is sent once; make another one")
        self._sent = True
        if self._wait is not None:
            self._commands[-1] = self._wait.begin()
        return self._postponed() if self._delays_ms else self._commands

    def _postponed(self) -> Iterator[AnyCommand | TollgateError]:
        """Yield the commands; by now the broker's time is known."""
        for position, command in enumerate(self._commands):
            delay_ms = self._delays_ms.get(position)
            if delay_ms is None:
                yield command
            else:
                yield postponed(cast("Create", command), self._time_in(delay_ms))

    def _complete(self, values: list[Any]) -> list[Any]:
        """Add an error for each command that was not sent because the broker did not answer."""
        missing = len(self._commands) - len(values)
        return values + [BrokerUnreachableError(NOT_SENT)] * missing


class Batch(CommandList):
    """Commands for a `Client`."""

    def __init__(
        self,
        run: Callable[[Iterable[AnyCommand | TollgateError]], list[Any]],
        time_in: Callable[[int], datetime],
        wait: Callable[..., "Job"],
    ) -> None:
        """Take the functions that send them, and that go on waiting; `Client.batch` calls this."""
        super().__init__(time_in)
        self._run = run
        self._go_on = wait

    def send(self) -> list[Any]:
        """Send the commands, and return the value of each, in order.

        Refusals and other errors of a command are values and are not raised; the other commands are
        executed all the same. Commands are executed in order, with one exception: if the broker
        refuses a request of up to 1,000 of them for a while (overloaded, draining), it is sent
        again after the later ones. Where the order matters, use `expected_version`, or a batch of
        its own.

        Raises:
            RuntimeError: it was sent before.

        """
        values = self._complete(self._run(self._take()))
        wait = self._wait
        if wait is not None and wait.goes_on(values[-1]):
            try:
                values[-1] = self._go_on(
                    wait.job_ids, statuses=wait.statuses, timeout_s=wait.left_s()
                )
            except TollgateError as error:
                values[-1] = error
        return values


class AsyncBatch(CommandList):
    """Commands for an `AsyncClient`."""

    def __init__(
        self,
        run: Callable[[Iterable[AnyCommand | TollgateError]], Awaitable[list[Any]]],
        time_in: Callable[[int], datetime],
        wait: Callable[..., Awaitable["Job"]],
    ) -> None:
        """Take the functions that send them, and that go on waiting; `AsyncClient.batch` does."""
        super().__init__(time_in)
        self._run = run
        self._go_on = wait

    async def send(self) -> list[Any]:
        """Send the commands, and return the value of each, in order.

        Refusals and other errors of a command are values and are not raised; the other commands are
        executed all the same. Commands are executed in order, with one exception: if the broker
        refuses a request of up to 1,000 of them for a while (overloaded, draining), it is sent
        again after the later ones. Where the order matters, use `expected_version`, or a batch of
        its own.

        Raises:
            RuntimeError: it was sent before.

        """
        values = self._complete(await self._run(self._take()))
        wait = self._wait
        if wait is not None and wait.goes_on(values[-1]):
            try:
                values[-1] = await self._go_on(
                    wait.job_ids, statuses=wait.statuses, timeout_s=wait.left_s()
                )
            except TollgateError as error:
                values[-1] = error
        return values

"""Lists of commands of several kinds, sent together and answered in order."""

from collections.abc import Awaitable, Callable
from typing import Any

from tollgate.client import commands as build
from tollgate.client.commands import AnyStatus, JobId, Time
from tollgate.client.errors import NOT_SENT, BrokerUnreachableError
from tollgate.domain.commands import AnyCommand


class CommandList:
    """A list of commands; each method appends one and returns its position among the results.

    Every method takes the arguments of the client's method with that name, and raises
    ArgumentError for what no broker could decode.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._commands: list[AnyCommand] = []
        self._sent = False
        self._job_ids = build.new_job_ids()

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
    ) -> int:
        """Append a `create`; its value is the `Job`."""
        return self._append(
            build.create(
                input_hash,
                input=input,
                as_text=as_text,
                identifier_from_purchaser=identifier_from_purchaser,
                job_id=next(self._job_ids) if job_id is None else job_id,
                blockchain_identifier=blockchain_identifier,
                pay_by_time=pay_by_time,
                submit_result_time=submit_result_time,
            )
        )

    def get(self, job_id: JobId | None = None, *, blockchain_identifier: str | None = None) -> int:
        """Append a `get`; its value is the `Job`."""
        return self._append(build.get(job_id, blockchain_identifier))

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
    ) -> int:
        """Append a `transition`; its value is the `Job`."""
        return self._append(
            build.transition(
                job_id,
                target,
                result=result,
                error=error,
                input_schema=input_schema,
                expected_version=expected_version,
                lease=lease,
            )
        )

    def provide_input(
        self,
        job_id: JobId,
        input: str,  # noqa: A002 - the field's name
        *,
        expected_version: int,
    ) -> int:
        """Append a `provide_input`; its value is the `Job`."""
        return self._append(build.provide_input(job_id, input, expected_version))

    def cancel(self, job_id: JobId, *, expected_version: int | None = None) -> int:
        """Append a `cancel`; its value is the `Job`."""
        return self._append(build.cancel(job_id, expected_version))

    def count(self, status: AnyStatus | None = None) -> int:
        """Append a `count`; its value is the `CountResult`."""
        return self._append(build.count(status))

    def list_page(
        self, status: AnyStatus | None = None, *, after: str | None = None, limit: int = 100
    ) -> int:
        """Append a `list`; its value is the `Page`."""
        return self._append(build.list_page(status, after, limit))

    def claim(self, status: AnyStatus, *, lease_ms: int = 30_000, limit: int = 1) -> int:
        """Append a `claim` that does not wait; its value is the list of `Lease`."""
        return self._append(build.claim(status, lease_ms=lease_ms, wait_ms=0, limit=limit))

    def touch(self, job_id: JobId, lease: int, *, lease_ms: int = 30_000) -> int:
        """Append a `touch`; its value is None."""
        return self._append(build.touch(job_id, lease, lease_ms))

    def release(self, job_id: JobId, lease: int) -> int:
        """Append a `release`; its value is None."""
        return self._append(build.release(job_id, lease))

    def _append(self, command: AnyCommand) -> int:
        self._commands.append(command)
        return len(self._commands) - 1

    def _take(self) -> list[AnyCommand]:
        if self._sent:
            raise RuntimeError("a batch is sent once; make another one")
        self._sent = True
        return self._commands

    def _complete(self, values: list[Any]) -> list[Any]:
        """Add an error for each command that was not sent because the broker did not answer."""
        missing = len(self._commands) - len(values)
        return values + [BrokerUnreachableError(NOT_SENT)] * missing


class Batch(CommandList):
    """Commands for a `Client`."""

    def __init__(self, run: Callable[[list[AnyCommand]], list[Any]]) -> None:
        """Take the function that sends them; `Client.batch` calls this."""
        super().__init__()
        self._run = run

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
        return self._complete(self._run(self._take()))


class AsyncBatch(CommandList):
    """Commands for an `AsyncClient`."""

    def __init__(self, run: Callable[[list[AnyCommand]], Awaitable[list[Any]]]) -> None:
        """Take the function that sends them; `AsyncClient.batch` calls this."""
        super().__init__()
        self._run = run

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
        return self._complete(await self._run(self._take()))

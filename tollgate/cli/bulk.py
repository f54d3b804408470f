"""`tollgate create -`: creates a job for each line of a stream, as the lines arrive."""

import os
import stat
from collections.abc import Iterator, Mapping
from operator import itemgetter
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Final, Self

import click

from tollgate.cli.errors import NotAllDoneError, refusal_line
from tollgate.cli.options import Caller
from tollgate.client.errors import BatchError, BrokerUnreachableError, OutcomeUnknown
from tollgate.client.sync import Client
from tollgate.domain.exceptions import Refusal, TollgateError
from tollgate.domain.models import Job
from tollgate.terminal.output import (
    document,
    say,
    stderr_is_terminal,
    stdout_is_terminal,
    write_line,
)
from tollgate.terminal.text import counted, one_line

if TYPE_CHECKING:
    from rich.progress import Progress

READ_BYTES: Final = 1024 * 1024
"""Most bytes of the stream that are read at once; a line may be longer."""

_UTF_16: Final = (b"\xff\xfe", b"\xfe\xff")
_LOST: Final = (BrokerUnreachableError, OutcomeUnknown)

Line = tuple[int, bytes]
"""A line's number, from 1, and its bytes without the end of the line."""
Result = tuple[int, Job | Exception]
"""A line's number, and the job made of it or the error."""


def create_from(stream: IO[bytes], caller: Caller, fields: Mapping[str, Any]) -> None:
    """Create a job for each line of `stream`, with these further fields, and print their ids.

    Lines without text are skipped. A line that cannot become a job is reported, and the others go
    on. White space around a line is as given, but for a carriage return at its end.

    Raises:
        UsageError: the stream is UTF-16.
        NotAllDoneError: at the end, if a line became no job; at once, if standard output is closed.

    """
    with caller.client() as client, _Output(stream, as_json=caller.as_json) as output:
        try:
            for lines, size_bytes in arriving(stream):
                output.add(_create(client, lines, fields), size_bytes)
        except BrokenPipeError:
            raise NotAllDoneError(f"standard output was closed; {output.summary}") from None
        except (TollgateError, KeyboardInterrupt):
            output.say(f"{output.summary}, then:")
            raise
    if output.failed:
        raise NotAllDoneError(f"{output.summary}, {counted(output.failed, 'line')} not")


def arriving(stream: IO[bytes]) -> Iterator[tuple[list[Line], int]]:
    """Yield the lines that have arrived, numbered, and how many bytes they took in the stream.

    A slow producer gets its jobs at once, a fast one gets many in a message.
    """
    number = 0
    rest = b""
    while chunk := stream.read1(READ_BYTES):  # type: ignore[attr-defined] # binary and buffered
        if number == 0 and not rest and chunk.startswith(_UTF_16):
            raise click.UsageError("the input is UTF-16; convert it: iconv -f UTF-16 -t UTF-8")
        *complete, rest = (rest + chunk).split(b"\n")
        yield list(enumerate(complete, number + 1)), len(chunk)
        number += len(complete)
    if rest:
        yield [(number + 1, rest)], 0


class _Output:
    """Prints ids and errors; a terminal also shows a progress bar on standard error."""

    def __init__(self, stream: IO[bytes], *, as_json: bool) -> None:
        self.created = self.failed = 0
        self._as_json = as_json
        self._bar: Progress | None = None
        if stderr_is_terminal():
            from tollgate.terminal.style import progress_bar  # noqa: PLC0415 - needs rich

            size_bytes = _size_bytes(stream)
            self._bar = progress_bar(has_total=size_bytes is not None)
            self._task = self._bar.add_task("", total=size_bytes, jobs=0)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    @property
    def summary(self) -> str:
        return f"{counted(self.created, 'job')} created"

    def add(self, results: list[Result], size_bytes: int) -> None:
        """Print the results of so many bytes. Raises the error that ended the connection."""
        jobs = [result for _, result in results if isinstance(result, Job)]
        self.created += len(jobs)
        if jobs:
            lines = (document(dict(job)).decode() if self._as_json else job.job_id for job in jobs)
            if self._bar is not None and stdout_is_terminal():
                self._bar.console.print("\n".join(lines), soft_wrap=True)  # above the bar
            else:
                write_line("\n".join(lines))
        for number, result in results:
            if isinstance(result, _LOST):
                raise result
            if not isinstance(result, Job):
                self.failed += 1
                reason = refusal_line(result) if isinstance(result, Refusal) else str(result)
                self.say(f"line {number}: {one_line(reason)}")
        if self._bar is not None:
            self._bar.update(self._task, advance=size_bytes, jobs=self.created)

    def say(self, line: str) -> None:
        """Write a line to standard error."""
        if self._bar is not None:
            self._bar.console.print(line, soft_wrap=True)
        else:
            say(line)


def _size_bytes(stream: IO[bytes]) -> int | None:
    try:
        status = os.fstat(stream.fileno())
    except OSError:  # a stand-in without a file
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _create(client: Client, lines: list[Line], fields: Mapping[str, Any]) -> list[Result]:
    """Return the result of each line that is not empty, up to where the broker was lost."""
    rows: list[tuple[int, dict[str, Any]]] = []
    results: list[Result] = []
    for number, line in lines:
        try:
            text = line.decode().removesuffix("\r").removeprefix("\ufeff")
        except UnicodeDecodeError:
            results.append((number, ValueError("not valid UTF-8")))
            continue
        if text.strip():
            rows.append((number, {**fields, "input": text}))
    try:
        values: list[Any] = [*client.create_many(row for _, row in rows)]
    except BatchError as error:
        values = error.results
    results += zip((number for number, _ in rows), values, strict=False)  # fewer, if it was lost
    return sorted(results, key=itemgetter(0))

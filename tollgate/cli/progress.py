"""Shows on standard error how far a bulk command has come, if a person is looking there."""

import os
import stat
import sys
from types import TracebackType
from typing import IO, TYPE_CHECKING, Self

import click

from tollgate.cli.errors import is_watched

if TYPE_CHECKING:
    from rich.progress import Progress as Bar


class Progress:
    """A line that says how many jobs were created, and how much of the input is left.

    On a terminal it stays below whatever is written through it. Elsewhere there is no such line.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        """Measure against the size of `stream`, if it is a file."""
        self._size_bytes = _size_bytes(stream)
        self._bar: Bar | None = None

    def __enter__(self) -> Self:
        """Begin to show."""
        if is_watched():
            from tollgate.terminal.style import progress_bar  # noqa: PLC0415 - for terminals alone

            self._bar = progress_bar(has_total=self._size_bytes is not None)
            self._task = self._bar.add_task("", total=self._size_bytes, jobs=0)
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()

    def advance(self, size_bytes: int, jobs: int) -> None:
        """Note that `size_bytes` more of the input are done, and `jobs` jobs created in all."""
        if self._bar is not None:
            self._bar.update(self._task, advance=size_bytes, jobs=jobs)

    def write(self, lines: list[str]) -> None:
        """Write lines to standard output."""
        if lines and self._bar is not None and sys.stdout.isatty():
            self._bar.console.print("\n".join(lines), soft_wrap=True)  # above the bar
        elif lines:
            click.echo("\n".join(lines))

    def say(self, line: str) -> None:
        """Write a line to standard error."""
        if self._bar is not None:
            self._bar.console.print(line, soft_wrap=True)
        else:
            click.echo(line, err=True)


def _size_bytes(stream: IO[bytes]) -> int | None:
    try:
        status = os.fstat(stream.fileno())
    except OSError:  # no file at all: a stand-in
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None

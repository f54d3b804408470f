"""Shows jobs and counts in the form that was asked for and that fits where the output goes."""

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tollgate.cli.options import Caller, write_document, write_line
from tollgate.domain.results import CountResult
from tollgate.terminal import plain

if TYPE_CHECKING:
    from tollgate.domain.models import Job


def is_terminal() -> bool:
    """Whether a person reads standard output."""
    return sys.stdout is not None and sys.stdout.isatty()


def show_job(caller: Caller, job: "Job") -> None:
    """Show all there is to say about a job."""
    now = datetime.now(UTC)
    if caller.as_json:
        write_document(dict(job))
    elif is_terminal():
        from tollgate.terminal import style as render  # noqa: PLC0415 - rich is for terminals alone

        console = render.terminal()
        console.print(render.job_panel(job, now, console.width))
    else:
        for line in plain.job_lines(job, now):
            write_line(line)


def show_count(caller: Caller, count: CountResult) -> None:
    """Show how many jobs there are."""
    if caller.as_json:
        write_document(count)
    elif is_terminal():
        from tollgate.terminal import style as render  # noqa: PLC0415 - rich is for terminals alone

        console = render.terminal()
        console.print(render.count_table(count, datetime.now(UTC), console.width))
    else:
        for line in plain.count_lines(count):
            write_line(line)


class JobList:
    """Shows jobs one a line, as they come."""

    def __init__(self, caller: Caller) -> None:
        """Show them in the form that `caller` asked for."""
        self._as_json = caller.as_json
        self._begun = False

    def add(self, job: "Job") -> None:
        """Show the next job."""
        if self._as_json:
            write_document(dict(job))
        elif is_terminal():
            self._add_to_terminal(job)
        else:
            write_line(plain.row(job))

    def _add_to_terminal(self, job: "Job") -> None:
        from tollgate.terminal import style as render  # noqa: PLC0415 - rich is for terminals alone

        console = render.terminal()
        if not self._begun:
            console.print(render.heading(), no_wrap=True, overflow="ellipsis")
            self._begun = True
        row = render.job_row(job, datetime.now(UTC))
        console.print(row, no_wrap=True, overflow="ellipsis")

"""Shows what commands got: as JSON if asked, in colour on a terminal, else as plain text."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from tollgate.domain.results import CountResult, HistoryResult, JobEvent
from tollgate.terminal.output import stdout_is_terminal, write_document, write_line

if TYPE_CHECKING:
    from tollgate.client.results import History
    from tollgate.domain.models import Job


def job_document(job: "Job", *, lease: bool = False) -> dict[str, Any]:
    """Return a job for a JSON document; with its lease only if the broker was asked for it."""
    document = dict(job)
    if not lease:
        document.pop("lease", None)
    return document


def show_job(job: "Job", *, as_json: bool, lease: bool = False) -> None:
    """Show all of a job."""
    now = datetime.now(UTC)
    if as_json:
        write_document(job_document(job, lease=lease))
    elif stdout_is_terminal():
        from tollgate.terminal import style  # noqa: PLC0415 - only a terminal needs rich

        console = style.terminal()
        console.print(style.job_panel(job, now, console.width))
    else:
        from tollgate.terminal import plain  # noqa: PLC0415 - `ping` needs none of it

        for line in plain.job_lines(job, now):
            write_line(line)


def show_history(history: "History", *, as_json: bool) -> None:
    """Show what happened to a job."""
    found = HistoryResult(**msgspec.structs.asdict(history))
    if as_json:
        write_document(found)
    elif stdout_is_terminal():
        from tollgate.terminal import style  # noqa: PLC0415 - only a terminal needs rich

        console = style.terminal()
        for line in style.history_lines(found, console.width):
            console.print(line)
    else:
        from tollgate.terminal import plain  # noqa: PLC0415 - `ping` needs none of it

        for line in plain.history_lines(found):
            write_line(line)


def show_event(event: JobEvent, *, as_json: bool) -> None:
    """Show one event in a line."""
    if as_json:
        write_document(msgspec.to_builtins(event))
    else:
        from tollgate.terminal import plain  # noqa: PLC0415 - `ping` needs none of it

        write_line(plain.event_line(event))


def show_count(count: CountResult, *, as_json: bool) -> None:
    """Show how many jobs there are."""
    if as_json:
        write_document(count)
    elif stdout_is_terminal():
        from tollgate.terminal import style  # noqa: PLC0415 - only a terminal needs rich

        console = style.terminal()
        console.print(style.count_table(count, datetime.now(UTC), console.width))
    else:
        from tollgate.terminal import plain  # noqa: PLC0415 - `ping` needs none of it

        for line in plain.count_lines(count):
            write_line(line)


def show_row(job: "Job", *, as_json: bool, is_first: bool, lease: bool) -> None:
    """Show a job as a line of a list; on a terminal, a heading comes before the first."""
    if as_json:
        write_document(job_document(job, lease=lease))
    elif stdout_is_terminal():
        from tollgate.terminal import style  # noqa: PLC0415 - only a terminal needs rich

        console = style.terminal()
        lines = [style.heading(console.width, lease=lease)] if is_first else []
        for line in (*lines, style.job_row(job, datetime.now(UTC), console.width, lease=lease)):
            console.print(line, no_wrap=True, overflow="ellipsis")
    else:
        from tollgate.terminal import plain  # noqa: PLC0415 - `ping` needs none of it

        write_line(plain.row(job))

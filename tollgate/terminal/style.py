"""Shows jobs, histories and counts in colour, for a terminal."""

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Final

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from tollgate.domain.results import CountResult, HistoryEntry, HistoryResult, LeaseInfo
from tollgate.terminal.plain import (
    STATUS_WIDTH,
    entries_and_gap,
    fields,
    held_by,
    marks,
    snippet,
    what,
    who,
    why,
    widths,
)
from tollgate.terminal.text import ago, counted, cut, duration, local, printable

if TYPE_CHECKING:
    from tollgate.domain.models import Job

STYLES: Final = {
    "awaiting_payment": "yellow",
    "awaiting_input": "magenta",
    "running": "cyan",
    "completed": "green",
    "failed": "red",
}
GLYPHS: Final = {
    "awaiting_payment": "○",
    "awaiting_input": "?",
    "running": "●",
    "completed": "✓",
    "failed": "✗",
}
_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"
WIDTH: Final = 80
"""Columns of a terminal that does not say how many it has."""
_BAR_WIDTH_MAX: Final = 40
_PANEL_WIDTH_MAX: Final = 120
_AGE_WIDTH: Final = 10
_HOLDER_WIDTH: Final = 24
"""With the id and the status, a line of 80 columns."""
_LEASES_WIDTH: Final = 100
"""Up to this width a list with leases has no further columns."""
_TIME_WIDTH: Final = 19


def terminal(*, stderr: bool = False) -> Console:
    """Return the terminal to write to; it adds styles to a text and changes nothing else."""
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if console.width < 1:  # COLUMNS=0, with which nothing at all would be shown
        console.width = WIDTH
    return console


def bar(value: float, total: float, width: int) -> str:
    """Return a bar of up to `width` cells, exact to an eighth of a cell, filled up with spaces."""
    if total <= 0:
        return " " * width
    eighths = round(min(value / total, 1) * width * 8)
    if value > 0:
        eighths = max(eighths, 1)  # a few among many are still visible
    full, part = divmod(eighths, 8)
    return ("█" * full + (_EIGHTHS[part] if part else "")).ljust(width)


def status_text(status: str) -> Text:
    """Return a status with its symbol, in its colour."""
    return Text(f"{GLYPHS[status]} {status.replace('_', ' ')}", style=STYLES[status])


def job_panel(job: "Job", now: datetime, width: int) -> Panel:
    """Return all of a job in a frame."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, value in fields(job, now):
        style = {"result": "bold", "error": "red"}.get(label, "")
        grid.add_row(label, Text(value, style=style))
    title = Text.assemble(" ", (job.job_id, "bold"), "  ", status_text(job.status), " ")
    return Panel(
        grid,
        title=title,
        title_align="left",
        border_style="dim",
        width=min(width, _PANEL_WIDTH_MAX),
    )


def count_table(count: CountResult, now: datetime, width: int) -> Table:
    """Return the counts by status, with a bar for each."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", style="bold")
    table.add_column(no_wrap=True)
    table.add_column(style="dim", no_wrap=True)
    bar_width = max(8, min(_BAR_WIDTH_MAX, width - 52))
    for status, number in count.by_status.items():
        since = count.oldest.get(status)
        table.add_row(
            status_text(status),
            f"{number:,}",
            Text(bar(number, count.total, bar_width), style=STYLES[status]),
            f"oldest {ago(since, now)}" if since else "",
        )
    if len(count.by_status) > 1:
        table.add_row(Text("  total", style="dim"), f"{count.total:,}", "", "")
    for state, number in count.by_settlement.items():
        cells = Text(bar(number, count.total, bar_width), style="dim")
        table.add_row(Text(f"  settle {state}", style="dim"), f"{number:,}", cells, "")
    return table


def heading(width: int, *, lease: bool = False) -> Text:
    """Return the line over a list of jobs."""
    line = f"{'JOB':36}  {'STATUS':{STATUS_WIDTH}}  "
    if lease:
        line += f"{'LEFT, HOLDER':{_HOLDER_WIDTH}}"
    if not lease or width > _LEASES_WIDTH:
        line += f"{'  ' if lease else ''}{'CREATED':{_AGE_WIDTH}}  RESULT, ERROR OR INPUT"
    return Text(line.rstrip(), style="dim")


def job_row(job: "Job", now: datetime, width: int, *, lease: bool = False) -> Text:
    """Return a job as a line of a list; the terminal cuts it off at its width.

    With `lease`, it tells the holder, and the rest only on a terminal that has room for it.
    """
    row = Text()
    row.append(f"{job.job_id}  ")
    row.append(f"{job.status:{STATUS_WIDTH}}  ", style=STYLES[job.status])
    if lease:
        row.append(f"{_holder(job.lease):{_HOLDER_WIDTH}}")
        if width <= _LEASES_WIDTH:
            return row
        row.append("  ")
    row.append(f"{ago(job.created_at, now):{_AGE_WIDTH}}  ", style="dim")
    row.append(marks(job), style="dim")
    row.append(snippet(job))
    return row


def _holder(lease: LeaseInfo | None) -> str:
    """Return who holds a job in the width of a column, the time that is left first."""
    if lease is None:
        return "-"
    left = duration(lease.left_ms / 1_000)
    return cut(printable(f"{left:6} {lease.by} {lease.client}"), _HOLDER_WIDTH)


def history_lines(history: HistoryResult, width: int) -> Iterator[RenderableType]:
    """Yield what happened to a job: a line for each entry, and one below it for the reason."""
    what_width, _ = widths(history)
    yield Text(history.job_id, style="bold")
    yield Text(f"{'TIME':{_TIME_WIDTH}}  {'WHAT':{what_width}}  WHO", style="dim")
    for entry in entries_and_gap(history):
        if isinstance(entry, str):
            yield Text(entry, style="dim")
            continue
        line = Text(f"{local(entry.at):{_TIME_WIDTH}}  ", style="dim")
        line.append(f"{_arrow(what(entry)):{what_width}}  ", style=_colour(entry))
        line.append(who(entry), style="not dim")
        line.truncate(width, overflow="ellipsis")
        yield line
        if reason := why(entry):
            yield Padding(Text(reason, overflow="fold"), (0, 0, 0, _TIME_WIDTH + 2))
    if history.lease:
        yield Text(f"held by {held_by(history.lease)}", overflow="ellipsis", no_wrap=True)


def _arrow(text: str) -> str:
    return text.replace("->", "→")


def _colour(entry: HistoryEntry) -> str:
    """Return the colour of the status that an entry leads to."""
    return f"not dim {STYLES.get(entry.to or '', 'default')}"


class _Rate(ProgressColumn):
    """Jobs created, and how many per second."""

    def render(self, task: Task) -> Text:
        jobs = task.fields["jobs"]
        rate = jobs / task.elapsed if task.elapsed else 0
        return Text(f"{counted(jobs, 'job')} created, {rate:,.0f} a second")


def bytes_bar() -> Progress:
    """Return the progress of reading files, on standard error."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(24),
        DownloadColumn(binary_units=True),
        TimeElapsedColumn(),
        console=terminal(stderr=True),
        redirect_stdout=False,
        redirect_stderr=False,
    )


def progress_bar(*, has_total: bool) -> Progress:
    """Return the progress of a bulk command, on standard error; its task has a field `jobs`."""
    # Standard output must not be redirected: it may go to a file, and the bar to a terminal.
    columns: list[ProgressColumn] = [BarColumn(24)] if has_total else [SpinnerColumn()]
    return Progress(
        *columns,
        _Rate(),
        TimeElapsedColumn(),
        console=terminal(stderr=True),
        redirect_stdout=False,
        redirect_stderr=False,
    )

"""Shows a demonstration while it runs: a picture on a terminal, elsewhere a line now and then.

The picture is the gate, the running jobs, and the two ways out, with a bar in each box.
"""

from types import TracebackType
from typing import Final, Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from tollgate.demo.progress import RECENT, Ended, Progress, percentile
from tollgate.terminal.output import say
from tollgate.terminal.style import GLYPHS, STYLES, bar
from tollgate.terminal.text import milliseconds

LINE_EVERY_S: Final = 2.0
WIDTH_MIN: Final = 72
WIDTH_MAX: Final = 104
HEIGHT: Final = 17 + RECENT
"""In lines. A terminal with fewer shows plain lines instead."""
MARGIN: Final = "  "
_ARROW: Final = " ━━▶ "
_FRAME: Final = "bright_black"
_HOLD, _RELEASE = "\x1b[?2026h", "\x1b[?2026l"
"""Between these, a terminal that knows them updates at once; others ignore them."""


class Screen:
    """Shows progress on standard error, so that standard output has the summary alone."""

    def __init__(self, console: Console) -> None:
        """Draw on `console`, if it is a terminal with room for the picture."""
        self._console = console
        self._live: Live | None = None
        self._next_line_s = 0.0

    def __enter__(self) -> Self:
        """Begin to show."""
        console = self._console
        has_room = console.width >= WIDTH_MIN and console.height > HEIGHT
        if console.is_terminal and not console.is_dumb_terminal and has_room:
            # This thread draws, when there is news: one write a frame, so nothing flickers.
            self._live = Live(console=console, auto_refresh=False, redirect_stdout=False)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the last picture where it is, and the cursor below it."""
        if self._live is not None:
            self._live.stop()
            self._console.print()

    def show(self, progress: Progress) -> None:
        """Show the current state."""
        if self._live is not None:
            file = self._console.file
            file.write(_HOLD)
            self._live.update(picture(progress, self._console.width), refresh=True)
            file.write(_RELEASE)
            file.flush()
        elif progress.elapsed_s >= self._next_line_s or progress.phase == "done":
            self._next_line_s = progress.elapsed_s + LINE_EVERY_S
            say(line(progress))


def line(progress: Progress) -> str:
    """Return the current state in one line."""
    if progress.phase == "starting":
        return f"starting a broker and {progress.workers} workers; payments are simulated"
    counts = "  ".join(f"{status} {number}" for status, number in progress.by_status.items())
    return f"{progress.elapsed_s:5.1f} s  created {progress.created}/{progress.jobs}  {counts}"


def picture(progress: Progress, width: int) -> Group:
    """Return the whole picture, `width` cells wide at most and always of the same height."""
    box = (min(width, WIDTH_MAX) - 2 * len(MARGIN) - 2 * len(_ARROW)) // 3
    inner = 3 * box + 2 * len(_ARROW)
    lines = [
        Text(),
        _title(progress, inner),
        _created(progress, inner),
        Text(),
        *_pipeline(progress, box),
        Text(),
        _pace(progress, inner),
        Text(),
        *_recent(progress),
    ]
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
        line.truncate(inner, overflow="ellipsis")
        line.pad_left(len(MARGIN))
    return Group(*lines)


def _title(progress: Progress, inner: int) -> Text:
    left = Text.assemble(("tollgate", "bold"), "  live, payments are simulated")
    right = f"{progress.workers} workers, seed {progress.seed}   {progress.elapsed_s:4.1f} s"
    return _spread(left, Text(right, style="dim"), inner)


def _created(progress: Progress, inner: int) -> Text:
    label = f"{progress.created:,} of {progress.jobs:,} jobs created"
    if progress.phase == "starting":
        label = "starting a broker and its workers"
    width = inner - len(label) - 2
    done = round(width * progress.created / progress.jobs)
    return Text.assemble(("━" * done, "blue"), ("━" * (width - done), _FRAME), "  ", (label, "dim"))


def _spread(left: Text, right: Text, inner: int) -> Text:
    left.append(" " * max(1, inner - left.cell_len - right.cell_len))
    return left.append_text(right)


def _pipeline(progress: Progress, box: int) -> list[Text]:
    """Return gate, running and completed side by side, and below them the path to failed."""
    gate = _box("at the gate", "awaiting_payment", progress, box, opens_down=True)
    running = _box("running", "running", progress, box, opens_down=True)
    completed = _box("completed", "completed", progress, box)
    arrow, gap = Text(_ARROW, style=_FRAME), Text(" " * len(_ARROW))
    between = (gap, arrow, gap, gap)
    rows = [
        Text.assemble(one, space, two, space, three)
        for one, space, two, three in zip(gate, between, running, completed, strict=True)
    ]
    return rows + _path_to_failed(progress, box)


def _path_to_failed(progress: Progress, box: int) -> list[Text]:
    half = box // 2
    left = 2 * (box + len(_ARROW))  # cells up to the box at the right
    between = box + len(_ARROW) - 1
    down = " " * half + "│" + " " * between + "│"
    across = " " * half + "╰" + "─" * between + "┴"
    across += "─" * (left - len(across) - 2) + "▶ "
    reasons = ", ".join(f"{number} {reason}" for reason, number in progress.failures.most_common())
    lines = (
        Text(down, style=_FRAME),
        Text(across, style=_FRAME),
        Text(" " * half + reasons, style="dim"),
        Text(),
    )
    for line in lines:
        line.truncate(left, overflow="ellipsis", pad=True)
    failed = _box("failed", "failed", progress, box)
    return [line.append_text(part) for line, part in zip(lines, failed, strict=True)]


def _box(
    title: str, status: str, progress: Progress, width: int, *, opens_down: bool = False
) -> list[Text]:
    number = progress.by_status.get(status, 0)
    style = STYLES[status]
    inside = width - 4
    top = Text.assemble(
        ("╭─ ", _FRAME), (title, style), (" " + "─" * (width - len(title) - 5) + "╮", _FRAME)
    )
    bottom = "╰" + "─" * (width - 2) + "╯"
    if opens_down:
        half = width // 2
        bottom = bottom[:half] + "┬" + bottom[half + 1 :]
    return [
        top,
        Text.assemble(("│ ", _FRAME), (f"{number:>{inside},}", f"bold {style}"), (" │", _FRAME)),
        Text.assemble(("│ ", _FRAME), (bar(number, progress.jobs, inside), style), (" │", _FRAME)),
        Text(bottom, style=_FRAME),
    ]


def _pace(progress: Progress, inner: int) -> Text:
    right = Text(style="dim")
    if answers_ms := progress.round_trips_ms:
        typical, rare = (milliseconds(percentile(answers_ms, percent)) for percent in (50, 99))
        right.append(f"the broker answers in {typical}, p99 {rare}")
    left = Text(f"{progress.rate():.0f} jobs end in a second" if progress.ended else "")
    return _spread(left, right, inner)


def _recent(progress: Progress) -> list[Text]:
    lines = [_ended(ended) for ended in progress.recent]
    return lines + [Text() for _ in range(RECENT - len(lines))]


def _ended(ended: Ended) -> Text:
    status = "completed" if ended.is_completed else "failed"
    return Text.assemble(
        (f"{GLYPHS[status]} ", STYLES[status]),
        (f"{ended.job_id[:8]}  {ended.took_s:4.1f} s  ", "dim"),
        (ended.gist, "" if ended.is_completed else STYLES[status]),
    )

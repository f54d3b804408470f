"""Draws a demonstration: the gate, what runs, and the two ways out, with a bar in each box."""

from typing import Final

from rich.console import Group
from rich.text import Text

from tollgate.demo.progress import RECENT, Ended, Progress, percentile
from tollgate.terminal.style import GLYPHS, STYLES, bar
from tollgate.terminal.text import milliseconds

WIDTH_MIN: Final = 72
WIDTH_MAX: Final = 104
HEIGHT: Final = 17 + RECENT
"""In lines; a terminal with fewer shows plain lines instead."""
MARGIN: Final = "  "
_ARROW: Final = " ━━▶ "
_FRAME: Final = "bright_black"


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
    left = Text.assemble(("tollgate", "bold"), "  a payment gate for jobs, live")
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
    """Return gate, running and completed side by side, and below them the way to failed."""
    gate = _box("at the gate", "awaiting_payment", progress, box, opens_down=True)
    running = _box("running", "running", progress, box, opens_down=True)
    completed = _box("completed", "completed", progress, box)
    arrow, gap = Text(_ARROW, style=_FRAME), Text(" " * len(_ARROW))
    between = (gap, arrow, gap, gap)
    way = [
        Text.assemble(one, space, two, space, three)
        for one, space, two, three in zip(gate, between, running, completed, strict=True)
    ]
    return way + _way_to_failed(progress, box)


def _way_to_failed(progress: Progress, box: int) -> list[Text]:
    half = box // 2
    left = 2 * (box + len(_ARROW))  # how far all this is from the box at the right
    apart = box + len(_ARROW) - 1
    down = " " * half + "│" + " " * apart + "│"
    across = " " * half + "╰" + "─" * apart + "┴"
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
    while len(lines) < RECENT:
        lines.append(Text())
    return lines


def _ended(ended: Ended) -> Text:
    status = "completed" if ended.is_completed else "failed"
    return Text.assemble(
        (f"{GLYPHS[status]} ", STYLES[status]),
        (f"{ended.job_id[:8]}  {ended.took_s:4.1f} s  ", "dim"),
        (ended.gist, "" if ended.is_completed else STYLES[status]),
    )

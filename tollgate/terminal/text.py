"""Formats times, numbers and untrusted texts for a terminal."""

from datetime import UTC, datetime
from typing import Final

_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
_BIDI: Final = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
_UNPRINTABLE: Final = {
    code: "\N{REPLACEMENT CHARACTER}"
    for code in (*range(0x20), *range(0x7F, 0xA0), *_BIDI)
    if chr(code) not in "\n\t"
}


def ago(moment: datetime, now: datetime) -> str:
    """Return `moment` relative to `now`: "3 s ago", "in 24 h", "now"."""
    seconds = (now - moment).total_seconds()
    if abs(seconds) < 1:
        return "now"
    if seconds > 0:
        return f"{duration(seconds)} ago"
    return f"in {duration(1 - seconds)}"  # so that a day from now is "in 24 h", not "in 23 h"


def duration(seconds: float) -> str:
    """Return a span of time in its largest unit, rounded down: "3 s", "24 h"."""
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return "0 s"


def iso(moment: datetime) -> str:
    """Return a time in UTC in ISO 8601, to the millisecond."""
    text = moment.astimezone(UTC).isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00") + "Z"


def local(moment: datetime) -> str:
    """Return a time in the local time zone, to the second."""
    return _in_local_zone(moment).strftime("%Y-%m-%d %H:%M:%S")


def local_iso(moment: datetime) -> str:
    """Return a time in the local time zone in ISO 8601, to the millisecond, with its offset."""
    return _in_local_zone(moment).isoformat(timespec="milliseconds")


def _in_local_zone(moment: datetime) -> datetime:
    """Return a time in the local time zone; as it is where that would be no date, in year 9999."""
    try:
        return moment.astimezone()
    except (OverflowError, ValueError):
        return moment


def counted(number: int, thing: str) -> str:
    """Return a number of things: "1 job", "1,200 jobs"."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def milliseconds(value_ms: float) -> str:
    """Return a latency with the digits that matter: "0.31 ms", "12 ms", "1.21 s"."""
    if value_ms >= 1_000:  # noqa: PLR2004 - a second
        return f"{value_ms / 1_000:.2f} s"
    return f"{value_ms:.2f} ms" if value_ms < 10 else f"{value_ms:.0f} ms"  # noqa: PLR2004


def printable(text: str) -> str:
    """Return `text` without what controls the terminal: escapes, control characters, bidi marks."""
    return text.translate(_UNPRINTABLE)


def one_line(text: str) -> str:
    """Return `text` on one line, safe for a terminal."""
    return printable(" ".join(text.split()))


def cut(text: str, width: int) -> str:
    """Return `text` with at most `width` characters; what is cut off ends with "…"."""
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"

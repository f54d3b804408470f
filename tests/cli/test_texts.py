"""Times, numbers and untrusted texts, as a terminal shows them."""

import time
from datetime import UTC, datetime, timedelta, timezone

import pytest

from tollgate.terminal.style import bar
from tollgate.terminal.text import (
    ago,
    counted,
    cut,
    duration,
    iso,
    local,
    local_iso,
    milliseconds,
    one_line,
    printable,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "now"),
        (0.9, "now"),
        (-0.9, "now"),
        (3, "3 s ago"),
        (61, "1 min ago"),
        (3_600 * 5, "5 h ago"),
        (86_400 * 400, "400 d ago"),
        (-59.9, "in 1 min"),
        (-86_399.5, "in 1 d"),
        (-7.5, "in 8 s"),
    ],
)
def test_ago(seconds: float, words: str) -> None:
    assert ago(NOW - timedelta(seconds=seconds), NOW) == words


def test_duration_is_rounded_down() -> None:
    assert [duration(seconds) for seconds in (0.5, 59.9, 7_199)] == ["0 s", "59 s", "1 h"]


def test_iso_is_in_utc() -> None:
    assert iso(NOW.astimezone(timezone(timedelta(hours=2)))) == "2026-01-02T03:04:05.678Z"


def test_the_last_date_has_no_time_east_of_greenwich(monkeypatch: pytest.MonkeyPatch) -> None:
    last = datetime.max.replace(tzinfo=UTC)
    try:
        for zone in ("Asia/Tokyo", "America/New_York"):
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            assert local(last).startswith("9999-12-31 ")
            assert local_iso(last).startswith("9999-12-31T")
    finally:
        monkeypatch.undo()
        time.tzset()


def test_numbers() -> None:
    assert [counted(number, "job") for number in (0, 1, 1_200)] == ["0 jobs", "1 job", "1,200 jobs"]
    assert [milliseconds(value) for value in (0.314, 12.4, 1_250)] == ["0.31 ms", "12 ms", "1.25 s"]


def test_control_characters_are_replaced() -> None:
    assert printable("a\x1b[31m\x9b\x07\u202e\x7f") == "a�[31m����"
    assert printable("a\n\tb é 日本") == "a\n\tb é 日本"
    assert one_line(" a\r\n\tb  c ") == "a b c"


def test_a_long_text_is_cut() -> None:
    assert [cut("abcde", width) for width in (6, 5, 4, 1)] == ["abcde", "abcde", "abc…", "…"]


@pytest.mark.parametrize(
    ("value", "total", "cells"),
    [
        (0, 10, "    "),
        (10, 10, "████"),
        (5, 10, "██  "),
        (1, 10, "▍   "),
        (1, 10_000, "▏   "),
        (20, 10, "████"),
        (1, 0, "    "),
    ],
)
def test_bar(value: int, total: int, cells: str) -> None:
    assert bar(value, total, 4) == cells

"""How a history looks, on a terminal and in a pipe."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from tests.brokers import PATIENCE_S, ROOT, running_broker
from tollgate.client.sync import Client
from tollgate.domain.results import HistoryEntry, HistoryResult, LeaseInfo
from tollgate.terminal import plain, style
from tollgate.terminal.text import local, local_iso

AT = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
WORKER = {"by": "key:a-long-name-of-a-worker", "client": "tollgate-worker@a-long-host-name:12345"}


@pytest.fixture(autouse=True)
def in_another_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "IST-5:30")
        time.tzset()
        yield
    time.tzset()


def history(*entries: HistoryEntry, left_out: int = 0, held: bool = False) -> HistoryResult:
    lease = LeaseInfo(by="uid:1000", client="shop@host:7", left_ms=23_900) if held else None
    return HistoryResult("the-job", list(entries), left_out, lease, "")


def entry(number: int, what: str, **fields: str | int) -> HistoryEntry:
    given = {f"{name}_" if name == "from" else name: value for name, value in fields.items()}
    return HistoryEntry(AT + timedelta(seconds=number), what, **given)  # type: ignore[arg-type]


ENTRIES = (
    entry(0, "created", by="key:shop"),
    entry(
        1, "moved", **{"from": "awaiting_payment", "to": "running"}, by="uid:1000", client="pay@h:1"
    ),
    entry(2, "claimed", **WORKER),
    entry(3, "lapsed", attempt=1, reason="shop@host:7"),
    entry(4, "released", attempt=2, reason="a \x1b[31mreason\n" + "that is long " * 10, **WORKER),
    entry(5, "settled", **{"from": "submitted", "to": "confirmed"}, by="key:pay"),
    entry(6, "settled", by="key:pay"),
    entry(7, "something_new"),
    entry(8, "input_provided", **{"from": "awaiting_input", "to": "running"}),
)


def shown(found: HistoryResult, width: int) -> list[str]:
    console = Console(width=width, record=True, file=None, force_terminal=False)
    with console.capture() as capture:
        for line in style.history_lines(found, width):
            console.print(line)
    return capture.get().splitlines()


def test_times_are_local() -> None:
    assert local(AT) == "2026-01-02 08:34:05"
    assert local_iso(AT) == "2026-01-02T08:34:05.678+05:30"


def test_a_history_is_aligned_in_a_pipe() -> None:
    lines = list(plain.history_lines(history(*ENTRIES, held=True)))
    assert lines[0].split("  ")[:2] == ["2026-01-02T08:34:05.678+05:30", "created"]
    words = ("key:shop", "uid:", "key:a", "broker")
    assert len({line.find(word) for line, word in zip(lines[:4], words, strict=True)}) == 1
    assert "  awaiting_payment -> running  " in lines[1]
    assert "  lease lapsed, attempt 1  " in lines[3]
    assert lines[3].endswith("  held by shop@host:7")
    assert "a \N{REPLACEMENT CHARACTER}[31mreason that is long" in lines[4]
    assert "  settlement -> confirmed  " in lines[5]
    assert "  settlement noted  " in lines[6]
    assert "  something new  " in lines[7]
    assert "  answered  " in lines[8]
    assert lines[9] == "held by uid:1000 shop@host:7, 23 s left"
    assert not any(line != line.rstrip() for line in lines)


@pytest.mark.parametrize("width", [80, 60, 200])
def test_a_history_fits_the_terminal(width: int) -> None:
    lines = shown(history(*ENTRIES, held=True), width)
    assert max(map(len, lines)) <= width
    assert lines[0] == "the-job"
    assert lines[1].split() == ["TIME", "WHAT", "WHO"]
    assert lines[3].startswith("2026-01-02 08:34:06  awaiting_payment → running  ")
    starts = [line for line in lines[2:] if line.startswith("2026-")]
    assert len(starts) == len(ENTRIES)  # the others are the reason, indented, and the holder
    assert all(line.startswith(" " * 21) for line in lines[2:-1] if line not in starts)
    assert lines[-1].startswith("held by uid:1000")


def test_what_was_left_out_stands_in_the_middle() -> None:
    entries = [entry(number, "annotated", by="key:a") for number in range(64)]
    lines = list(plain.history_lines(history(*entries, left_out=1_200)))
    assert len(lines) == 65
    assert lines[16] == "... 1,200 changes in between: not kept"
    assert lines[16] in shown(history(*entries, left_out=1_200), 80)


def test_a_history_outlives_the_compaction(short_dir: Path) -> None:
    def tollgate(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "tollgate", *arguments], cwd=ROOT, capture_output=True,
            env={**os.environ, "TOLLGATE_ENDPOINT": broker.endpoint}, check=True, text=True,
            timeout=PATIENCE_S,
        )  # fmt: skip
        return done.stdout

    data = short_dir / "data"
    with running_broker(short_dir, data_dir=data) as broker:
        with Client(broker.endpoint, name="by-hand@here") as client:
            job_id = client.create(input="x").job_id
            client.transition(job_id, "failed", error="no")
        before = tollgate("history", job_id)
        broker.stop()
        tollgate("journal", "compact", "--data-dir", str(data))
        broker.restart()
        assert tollgate("history", job_id) == before
        assert f"  awaiting_payment -> failed  uid:{os.getuid()} by-hand@here\n" in before
        broker.stop()

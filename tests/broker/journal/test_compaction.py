"""Snapshots replace closed segments, and nothing is deleted that is still needed."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import threading
import time
from itertools import count
from typing import TYPE_CHECKING

import pytest

from tollgate.broker import compaction
from tollgate.broker.compaction import (
    LOOK_MS,
    Compactor,
    compact,
    compact_directory,
    delete,
    plan,
    replaced,
)
from tollgate.broker.journal import (
    RECORD,
    SNAPSHOT_CHUNK,
    JournalDamagedError,
    JournalError,
    snapshot,
)
from tollgate.broker.journal.file import FileJournal
from tollgate.broker.journal.recovery import Observer, Replay
from tollgate.broker.journal.snapshot import read_snapshot, verify_snapshot, write_snapshot

from .helpers import numbered, opened, restarted, segments, stored, written
from .power_loss import unchanged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from tollgate.broker.journal import Entry

RECORDS = numbered(80)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[FileJournal]:
    journal = opened(tmp_path, segment_bytes=1024)
    for payload in RECORDS:
        journal.append([payload])
    journal.sync()
    assert len(journal.closed_segments()) >= 4
    yield journal
    journal.close()


def snapshots(directory: Path) -> list[Path]:
    return sorted(directory.glob("snapshot-*"))


def compacted(journal: FileJournal, directory: Path, closed: int = -1) -> list[str]:
    names = compact(directory, journal.closed_segments()[closed], unchanged)
    delete(directory, names)
    return names


class Noting(Observer):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def skipped(self, file: Path, reason: str) -> None:
        self.notes.append(file.name)


# Snapshots.


def test_a_snapshot_gives_its_chunks_back(tmp_path: Path) -> None:
    chunks = [b"one", b"", bytes(100_000), b"\xff" * 70]
    path = write_snapshot(tmp_path, 41, 7, iter(chunks))
    assert list(read_snapshot(path)) == chunks
    assert verify_snapshot(path)[:3] == (0, 41, 7)
    assert path.name == "snapshot-00000000000000000041"
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_empty_snapshot_is_valid(tmp_path: Path) -> None:
    assert list(read_snapshot(write_snapshot(tmp_path, 41, 7, []))) == []


def test_a_snapshot_under_another_name_is_refused(tmp_path: Path) -> None:
    path = write_snapshot(tmp_path, 41, 7, [b"x"])
    other = path.rename(tmp_path / "snapshot-00000000000000000042")
    with pytest.raises(JournalDamagedError, match="it is the snapshot of record 41"):
        verify_snapshot(other)


def test_a_snapshot_with_wrong_totals_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(snapshot._Totals, "encoded", lambda _: struct.pack("<QQI", 1, 2, 0))
        path = write_snapshot(tmp_path, 41, 7, [b"x", b"y"])
    with pytest.raises(JournalDamagedError, match="not those it was written with"):
        verify_snapshot(path)


def test_a_failed_snapshot_replaces_nothing(tmp_path: Path) -> None:
    path = write_snapshot(tmp_path, 41, 7, [b"x"])

    def chunks() -> Iterator[bytes]:
        yield b"y"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_snapshot(tmp_path, 41, 7, chunks())
    assert list(read_snapshot(path)) == [b"x"]


# Compaction beside a journal that is in use.


def test_a_snapshot_and_the_segments_after_it_are_the_journal(
    tmp_path: Path, journal: FileJournal
) -> None:
    closed = journal.closed_segments()[-1]
    names = compacted(journal, tmp_path)
    assert names == [f"segment-{n:010d}" for n in range(1, closed.number + 1)]
    assert [path.name for path in segments(tmp_path)] == [f"segment-{closed.number + 1:010d}"]
    journal.append([b"after"])
    journal.close()

    again = FileJournal(tmp_path, segment_bytes=1024)
    entries = list(again.replay())
    assert [entry.payload for entry in entries] == [*RECORDS, b"after"]
    of_snapshot, after = entries[: closed.sequence], entries[closed.sequence :]
    assert {entry.kind for entry in of_snapshot} == {SNAPSHOT_CHUNK}
    assert {entry.sequence for entry in of_snapshot} == {closed.sequence}
    assert {entry.kind for entry in after} == {RECORD}
    assert [entry.sequence for entry in after] == list(range(closed.sequence + 1, 82))
    again.close()


def test_a_second_snapshot_replaces_the_first(tmp_path: Path, journal: FileJournal) -> None:
    compacted(journal, tmp_path, closed=1)
    journal.append([b"x" * 900])
    first, *_ = snapshots(tmp_path)
    assert compacted(journal, tmp_path)[0] == first.name
    assert len(snapshots(tmp_path)) == 1
    assert stored(tmp_path) == [*RECORDS, b"x" * 900]


COMPACT = """
import sys
from pathlib import Path
from tollgate.broker.compaction import compact
from tollgate.broker.journal.segment import ClosedSegment
closed = ClosedSegment(*map(int, sys.argv[2:]))
chunks_of = lambda entries: [entry.payload for entry in entries]
for name in compact(Path(sys.argv[1]), closed, chunks_of):
    print(name)
"""


def test_another_process_compacts_while_this_one_appends(
    tmp_path: Path, journal: FileJournal
) -> None:
    closed = journal.closed_segments()[-1]
    command = [sys.executable, "-c", COMPACT, str(tmp_path), *map(str, closed)]
    payloads = list(RECORDS)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        while child.poll() is None:
            payloads.append(b"beside it %d" % len(payloads))
            journal.append(payloads[-1:])
        assert child.returncode == 0
        assert child.stdout is not None
        delete(tmp_path, child.stdout.read().split())
    assert len(payloads) > len(RECORDS)
    journal.close()
    assert len(snapshots(tmp_path)) == 1
    assert restarted(tmp_path) == payloads


def test_a_reader_of_closed_segments_stops_where_it_should(
    tmp_path: Path, journal: FileJournal
) -> None:
    for closed in journal.closed_segments():
        reader = Replay(tmp_path, through=closed.number)
        assert [entry.payload for entry in reader] == RECORDS[: closed.sequence]
        assert (reader.sequence, reader.chain) == (closed.sequence, closed.chain)


def test_unread_records_prevent_the_snapshot(tmp_path: Path, journal: FileJournal) -> None:
    def forgetful(entries: Iterable[Entry]) -> Iterator[bytes]:
        yield next(iter(entries)).payload

    with pytest.raises(JournalError, match="compaction ended at record"):
        compact(tmp_path, journal.closed_segments()[-1], forgetful)
    assert not list(tmp_path.glob("snapshot-????????????????????"))


def test_disk_use_stays_within_two_snapshots_and_three_segments(tmp_path: Path) -> None:
    """A state of one record at most: the snapshot is the last record only."""

    def last_only(entries: Iterable[Entry]) -> Iterator[bytes]:
        *_, last = entries
        yield last.payload

    segment_bytes = 4096
    journal = opened(tmp_path, fsync="never", segment_bytes=segment_bytes)
    largest = snapshot_bytes = 0
    for number in range(2000):
        journal.room(500)
        journal.append([b"%d" % number * 20])
        if journal.closed_segments():
            names = compact(tmp_path, journal.closed_segments()[-1], last_only)
            snapshot_bytes = max(path.stat().st_size for path in snapshots(tmp_path))
            largest = max(largest, sum(path.stat().st_size for path in tmp_path.iterdir()))
            delete(tmp_path, names)
    journal.close()
    assert 2 * segment_bytes < largest <= 2 * snapshot_bytes + 3 * segment_bytes + 10


# What may be deleted.


def test_plan() -> None:
    segments = [(3, 1), (4, 11), (5, 11), (6, 21), (7, 31)]
    covered = {
        0: [],
        9: [],
        10: [3, 4],
        15: [3, 4],
        20: [3, 4, 5],
        30: [3, 4, 5, 6],
        99: [3, 4, 5, 6],
    }
    for sequence, numbers in covered.items():
        names = plan(segments, [10, 20, 30], sequence)
        older = [each for each in (10, 20, 30) if each < sequence]
        assert names == [f"snapshot-{each:020d}" for each in older] + [
            f"segment-{number:010d}" for number in numbers
        ]
    assert plan([], [], 5) == []
    assert plan([(1, 1)], [5], 5) == []


def test_nothing_is_replaced_by_an_unreadable_snapshot(
    tmp_path: Path, journal: FileJournal
) -> None:
    closed = journal.closed_segments()[-1]
    compact(tmp_path, closed, unchanged)
    damage(snapshots(tmp_path)[0])
    with pytest.raises(JournalDamagedError):
        replaced(tmp_path, closed.sequence)


def test_delete_keeps_what_is_still_needed_and_other_files(
    tmp_path: Path, journal: FileJournal
) -> None:
    compact(tmp_path, journal.closed_segments()[-1], unchanged)
    (tmp_path / "notes").write_text("mine")
    kept = {segments(tmp_path)[-1], *snapshots(tmp_path), tmp_path / "notes", tmp_path / "lock"}
    delete(tmp_path, [path.name for path in tmp_path.iterdir()] + ["segment-0000000099"])
    assert set(tmp_path.iterdir()) == kept
    assert stored(tmp_path) == RECORDS


# A damaged snapshot.


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_damaged_snapshot_is_skipped_if_all_segments_exist(
    tmp_path: Path, journal: FileJournal
) -> None:
    compact(tmp_path, journal.closed_segments()[-1], unchanged)
    damage(snapshots(tmp_path)[0])
    journal.close()
    observer = Noting()
    opened(tmp_path, observer=observer).close()
    assert observer.notes == [snapshots(tmp_path)[0].name]
    assert restarted(tmp_path) == RECORDS


def test_an_older_snapshot_is_used_if_its_segments_exist(
    tmp_path: Path, journal: FileJournal
) -> None:
    compacted(journal, tmp_path, closed=1)
    compact(tmp_path, journal.closed_segments()[-1], unchanged)
    damage(snapshots(tmp_path)[1])
    journal.close()
    assert restarted(tmp_path) == RECORDS


def test_a_damaged_snapshot_whose_segments_are_gone_is_refused(
    tmp_path: Path, journal: FileJournal
) -> None:
    compacted(journal, tmp_path)
    damage(snapshots(tmp_path)[0])
    journal.close()
    with pytest.raises(
        JournalDamagedError, match="without this snapshot no segment begins"
    ) as caught:
        restarted(tmp_path)
    assert caught.value.file == snapshots(tmp_path)[0]


def test_a_damaged_snapshot_with_some_segments_gone_is_refused(
    tmp_path: Path, journal: FileJournal
) -> None:
    """The rest ends before the end of the snapshot."""
    compact(tmp_path, journal.closed_segments()[-1], unchanged)
    damage(snapshots(tmp_path)[0])
    journal.close()
    for path in segments(tmp_path)[2:]:
        path.unlink()
    with pytest.raises(JournalDamagedError, match="records at its end are missing") as caught:
        restarted(tmp_path)
    assert caught.value.file == snapshots(tmp_path)[0]


def test_a_snapshot_without_the_segment_after_it_is_refused(
    tmp_path: Path, journal: FileJournal
) -> None:
    compacted(journal, tmp_path)
    journal.close()
    segments(tmp_path)[0].unlink()
    with pytest.raises(JournalDamagedError, match=r"that begins with record \d+ is missing"):
        restarted(tmp_path)


def test_covered_segments_do_not_replace_a_missing_next_one(
    tmp_path: Path, journal: FileJournal
) -> None:
    compact(tmp_path, journal.closed_segments()[-1], unchanged)
    journal.close()
    segments(tmp_path)[-1].unlink()
    with pytest.raises(JournalDamagedError, match=r"that begins with record \d+ is missing"):
        restarted(tmp_path)


def test_a_snapshot_of_another_journal_is_refused(tmp_path: Path, journal: FileJournal) -> None:
    """Its sequence fits, its chain does not."""
    closed = journal.closed_segments()[-1]
    write_snapshot(tmp_path, closed.sequence, closed.chain ^ 1, RECORDS[: closed.sequence])
    journal.close()
    with pytest.raises(JournalDamagedError, match="does not follow record"):
        restarted(tmp_path)


def test_covered_segments_back_after_a_power_loss_are_harmless(
    tmp_path: Path, journal: FileJournal
) -> None:
    names = compact(tmp_path, journal.closed_segments()[-1], unchanged)
    delete(tmp_path, names[1::2])
    assert len(segments(tmp_path)) > 1
    journal.close()
    assert restarted(tmp_path) == RECORDS
    written(tmp_path, [[b"after"]])
    assert restarted(tmp_path) == [*RECORDS, b"after"]


# --- deleting beside the loop ---------------------------------------------------------------------


def stepped(compactor: Compactor, until: Callable[[], bool]) -> None:
    """Let a compactor look again and again, as the loop does, until something is so."""
    give_up_s = time.monotonic() + 60
    for turn in count():
        compactor.step(turn * LOOK_MS)
        if until():
            return
        assert time.monotonic() < give_up_s
        time.sleep(0.01)


def test_the_loop_does_not_wait_for_a_deletion(
    journal: FileJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To delete a file of a gigabyte takes longer than a step may."""
    go_on, replaced_names = threading.Event(), [path.name for path in segments(tmp_path)[:-1]]

    def delete_late(directory: Path, names: Iterable[str]) -> None:
        assert go_on.wait(60)
        delete(directory, names)

    monkeypatch.setattr(compaction, "delete", delete_late)
    monkeypatch.setattr(compaction, "state_chunks", unchanged)
    compactor = Compactor(journal, tmp_path)
    monkeypatch.setattr(compactor, "_child", ended(compact_directory(tmp_path)))
    stepped(compactor, lambda: compactor._deletion is not None)
    compactor.step(10**9)
    assert compactor._deletion is not None, "it goes on, and nothing else begins"
    assert {path.name for path in segments(tmp_path)} >= {*replaced_names}
    go_on.set()
    compactor.close()
    assert not {path.name for path in segments(tmp_path)} & {*replaced_names}


@pytest.mark.parametrize("has_thread", [True, False])
def test_a_deletion_that_fails_is_told(
    journal: FileJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_thread: bool
) -> None:
    def fail(directory: Path, names: Iterable[str]) -> None:
        raise JournalError(f"{directory.name}: {names}")

    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(compaction, "delete", fail)
    if not has_thread:
        monkeypatch.setattr(threading.Thread, "start", no_thread)
    compactor = Compactor(journal, tmp_path)
    monkeypatch.setattr(compactor, "_child", ended(["snapshot"]))
    with pytest.raises(JournalError):
        stepped(compactor, lambda: False)
    assert compactor._deletion is None
    compactor.close()


def ended(names: list[str]) -> subprocess.Popen[bytes]:
    """Return a process that tells these names, as that of a compaction does."""
    code = f"print({json.dumps(names)!r})"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    child.wait(30)
    return child

"""The file journal on a real disk: segments, the lock, fsync policies, and a disk that fails."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from threading import Event, Thread
from typing import TYPE_CHECKING

import pytest

from tollgate.broker.journal import JournalFailedError, JournalLockedError, parse_fsync
from tollgate.broker.journal.file import SEGMENT_BYTES, FileJournal
from tollgate.broker.journal.files import Files
from tollgate.broker.journal.recovery import Observer

from .helpers import FaultyFiles, opened, restarted, segments, written

if TYPE_CHECKING:
    from pathlib import Path

ROOM = 2048 - 36 - 41


# Segments.


def test_segments_are_preallocated_and_private(tmp_path: Path) -> None:
    directory = tmp_path / "state" / "data"
    written(directory, [[b"x"]], segment_bytes=SEGMENT_BYTES)
    (path,) = segments(directory)
    assert path.stat().st_size == 64 * 1024 * 1024 <= path.stat().st_blocks * 512
    assert [each.stat().st_mode & 0o777 for each in (path, directory)] == [0o600, 0o700]


def test_a_batch_that_does_not_fit_moves_whole_to_the_next(tmp_path: Path) -> None:
    batches = [[b"a" * 900], [b"b" * 700, b"c" * 700], [b"d"]]
    written(tmp_path, batches)
    first, second = segments(tmp_path)
    assert b"a" * 900 in first.read_bytes()
    assert all(letter * 700 in second.read_bytes() for letter in (b"b", b"c"))
    assert restarted(tmp_path) == [payload for batch in batches for payload in batch]


@pytest.mark.parametrize(("size", "count"), [(ROOM, 1), (ROOM + 1, 2)])
def test_a_segment_is_filled_to_its_last_byte(tmp_path: Path, size: int, count: int) -> None:
    written(tmp_path, [[b"x" * (size - 141)], [b"y" * 100]])
    assert len(segments(tmp_path)) == count
    written(tmp_path, [[b"z"]])
    assert restarted(tmp_path) == [b"x" * (size - 141), b"y" * 100, b"z"]


def test_a_batch_larger_than_a_segment_gets_a_larger_one(tmp_path: Path) -> None:
    batches = [[b"a"], [bytes(10_000)], [b"b"]]
    written(tmp_path, batches)
    sizes = [path.stat().st_size for path in segments(tmp_path)]
    assert sizes == [2048, 36 + 41 + 10_000 + 625, 2048]
    assert restarted(tmp_path) == [b"a", bytes(10_000), b"b"]


def test_a_batch_is_one_write_and_a_sync_one_fdatasync(tmp_path: Path) -> None:
    files = FaultyFiles()
    journal = opened(tmp_path, files=files)
    journal.append([b"first, which makes the segment"])
    journal.sync()
    files.calls.clear()
    journal.append([b"a"] * 20)
    journal.sync()
    journal.sync()
    assert files.calls == {"write_some": 1, "sync_data": 1}
    journal.close()


def test_short_writes_are_finished(tmp_path: Path) -> None:
    files = FaultyFiles(most_bytes=7)
    written(tmp_path, [[b"a" * 100, b"b" * 100], [b"c"]], files=files)
    assert files.calls["write_some"] > 40
    assert restarted(tmp_path) == [b"a" * 100, b"b" * 100, b"c"]


def test_leftovers_of_a_process_that_was_killed_are_removed(tmp_path: Path) -> None:
    written(tmp_path, [[b"x"]])
    for name in ("next.tmp", "snapshot-00000000000000000009.tmp"):
        (tmp_path / name).write_bytes(b"half")
    assert restarted(tmp_path) == [b"x"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", "segment-0000000001"]


def test_a_copy_that_lost_its_preallocation_is_taken_up(tmp_path: Path) -> None:
    written(tmp_path, [[b"x"]], segment_bytes=1 << 20)
    (path,) = segments(tmp_path)
    content = path.read_bytes()
    path.unlink()
    with path.open("wb") as file:
        file.write(content.rstrip(b"\0"))
        file.truncate(len(content))
    assert path.stat().st_blocks * 512 < len(content)
    assert restarted(tmp_path) == [b"x"]
    assert path.stat().st_blocks * 512 >= len(content)


def test_closed_segments_and_close_segment(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    assert journal.closed_segments() == []
    journal.append([b"a" * 900])
    journal.append([b"b" * 1500])
    journal.append([b"c" * 1500])
    closed = journal.closed_segments()
    assert [(each.number, each.sequence) for each in closed] == [(1, 1), (2, 2)]
    journal.close_segment()
    assert [each.sequence for each in journal.closed_segments()] == [1, 2, 3]
    journal.close_segment()
    assert [each.sequence for each in journal.closed_segments()] == [1, 2, 3, 3]
    assert (journal.sequence, journal.durable) == (3, 3)
    journal.append([b"d"])
    journal.close()
    assert restarted(tmp_path) == [b"a" * 900, b"b" * 1500, b"c" * 1500, b"d"]


def test_a_long_replay_reports_progress(tmp_path: Path) -> None:
    class Noting(Observer):
        def __init__(self) -> None:
            self.notes: list[tuple[int, int]] = []

        def progress(self, done_bytes: int, total_bytes: int) -> None:
            self.notes.append((done_bytes, total_bytes))

    written(tmp_path, [[b"x" * 1000]] * 5000, fsync="never", segment_bytes=2 << 20)
    observer = Noting()
    opened(tmp_path, observer=observer).close()
    done = [done for done, _ in observer.notes]
    total = sum(path.stat().st_size for path in segments(tmp_path))
    assert {total for _, total in observer.notes} == {total}
    assert done == sorted(done)
    assert len(done) >= 5
    assert done[-1] == total


# The lock.

HOLD = """
import sys
from threading import Event, Thread
from pathlib import Path
from tollgate.broker.journal.file import FileJournal
journal = FileJournal(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        message = f"{tmp_path} is in use by process {holder.pid}"
        with pytest.raises(JournalLockedError, match=message):
            FileJournal(tmp_path)
        holder.send_signal(signal.SIGKILL)
    FileJournal(tmp_path).close()


def test_a_closed_journal_releases_its_lock(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path)
    with pytest.raises(JournalLockedError):
        FileJournal(tmp_path)
    journal.close()
    FileJournal(tmp_path).close()


# Fsync policies.


@pytest.mark.parametrize(
    ("text", "policy"),
    [("always", 0), ("interval:1", 1), ("interval:250", 250), ("never", None)],
)
def test_policies(text: str, policy: int | None) -> None:
    assert parse_fsync(text) == policy


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sometimes",
        "interval",
        "interval:",
        "interval:0",
        "interval:-1",
        "interval:1s",
        "interval:²",
        "always:1",
        "Always",
    ],
)
def test_an_unknown_policy_names_the_accepted_forms(text: str) -> None:
    with pytest.raises(ValueError, match=r"'always', 'interval:MILLISECONDS' .* or 'never'"):
        parse_fsync(text)


def test_with_an_interval_a_sync_waits_until_it_is_due(tmp_path: Path) -> None:
    clock = iter([1000.0, 1000.1, 1000.19, 1000.2, 1000.25, 1000.3, 1000.31])
    files = FaultyFiles()
    journal = opened(tmp_path, fsync="interval:200", files=files, clock=lambda: next(clock))
    journal.append([b"a"])
    files.calls.clear()
    for durable in (0, 0, 1, 1):
        journal.sync()
        assert journal.durable == durable
    journal.append([b"b"])
    journal.sync()
    assert (journal.durable, files.calls["sync_data"]) == (1, 1)
    assert [*journal.sync_times_s] == [pytest.approx(0.05)]  # the others were not due
    journal.close()
    assert files.calls["sync_data"] == 2


def test_with_never_only_a_full_segment_is_synced(tmp_path: Path) -> None:
    files = FaultyFiles()
    journal = opened(tmp_path, fsync="never", files=files)
    journal.append([b"a" * 1500])
    journal.sync()
    assert (journal.durable, files.calls["sync_data"]) == (0, 0)
    journal.append([b"b" * 1500])
    journal.close()
    assert (journal.durable, files.calls["sync_data"]) == (1, 1)


# A disk that fails.


def test_a_failed_write_is_final_and_nothing_is_synced(tmp_path: Path) -> None:
    for nth in range(1, 12):
        directory = tmp_path / str(nth)
        files = FaultyFiles()
        journal = opened(directory, files=files)
        files.fail("write_some", nth, errno.EIO)
        done = append_until_failure(journal, files)
        assert restarted(directory)[: len(done)] == done


@pytest.mark.parametrize("name", ["sync_data", "sync_file", "sync_directory", "rename"])
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_failed_sync_is_final_and_not_tried_again(tmp_path: Path, name: str, nth: int) -> None:
    files = FaultyFiles()
    journal = opened(tmp_path, files=files)
    files.fail(name, nth, errno.EIO)
    done = append_until_failure(journal, files)
    assert restarted(tmp_path)[: len(done)] == done


def append_until_failure(journal: FileJournal, files: FaultyFiles) -> list[bytes]:
    """Return what was synced; check that the failed journal touches nothing any more."""
    done: list[bytes] = []

    def append_for_ever() -> None:
        while True:
            payload = b"%d" % len(done) * 700
            journal.append([payload])
            journal.sync()
            done.append(payload)

    with pytest.raises(JournalFailedError, match=r"Input/output error.*must stop"):
        append_for_ever()
    calls = files.calls.copy()
    for call in (
        lambda: journal.append([b"x"]),
        journal.sync,
        lambda: journal.room(1),
        journal.close_segment,
        journal.closed_segments,
    ):
        with pytest.raises(JournalFailedError, match="Input/output error"):
            call()
    journal.close()
    journal.close()
    assert files.calls == calls
    return done


def test_a_failed_sync_at_close_is_raised_and_unlocks(tmp_path: Path) -> None:
    files = FaultyFiles()
    journal = opened(tmp_path, files=files)
    journal.append([b"x"])
    files.fail("sync_data", 1, errno.EIO)
    with pytest.raises(JournalFailedError):
        journal.close()
    journal.close()
    assert restarted(tmp_path) == [b"x"]


def test_a_sync_that_fails_at_start_stops_the_start(tmp_path: Path) -> None:
    written(tmp_path, [[b"x"]])
    files = FaultyFiles()
    files.fail("sync_data", 1, errno.EIO)
    journal = FileJournal(tmp_path, files=files)
    with pytest.raises(JournalFailedError):
        list(journal.replay())
    with pytest.raises(JournalFailedError):
        journal.append([b"y"])
    journal.close()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_without_room_nothing_is_written_until_there_is_room(tmp_path: Path, error: int) -> None:
    files = FaultyFiles()
    journal = opened(tmp_path, files=files)
    journal.append([b"a" * 1000])
    journal.sync()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for nth in (1, 2):
        files.fail("allocate", nth, error)
    assert journal.room(500)
    assert not journal.room(1500)
    assert not journal.room(1500)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    journal.append([b"b" * 500])
    assert journal.room(1500)
    journal.append([b"c" * 1500])
    journal.close()
    assert restarted(tmp_path) == [b"a" * 1000, b"b" * 500, b"c" * 1500]


def test_room_that_was_granted_is_enough_for_the_worst_case(tmp_path: Path) -> None:
    files = FaultyFiles()
    journal = opened(tmp_path, files=files)
    for worst in (100, 1900, 1000, 5000, 800):
        payloads = [bytes(worst // 2), bytes(worst // 2)]
        assert journal.room(worst, records=2)
        allocations = files.calls["allocate"]
        journal.append(payloads)
        assert files.calls["allocate"] == allocations
    journal.close()


def test_unused_disk_space_is_freed_at_close(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.append([b"x"])
    assert journal.room(5000)
    assert (tmp_path / "next.tmp").stat().st_size > 5000
    assert journal.room(1900)
    journal.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", "segment-0000000001"]


def test_an_append_without_room_is_a_failure(tmp_path: Path) -> None:
    files = FaultyFiles()
    journal = opened(tmp_path, files=files)
    files.fail("allocate", 1, errno.ENOSPC)
    with pytest.raises(JournalFailedError, match="No space left"):
        journal.append([b"x"])
    journal.close()
    assert restarted(tmp_path) == []


def test_any_other_error_in_room_is_a_failure(tmp_path: Path) -> None:
    files = FaultyFiles()
    journal = opened(tmp_path, files=files)
    files.fail("allocate", 1, errno.EIO)
    with pytest.raises(JournalFailedError):
        journal.room(1)
    journal.close()


def test_a_disk_full_at_start_has_no_room_but_can_be_read(tmp_path: Path) -> None:
    files = FaultyFiles()
    files.fail("allocate", 1, errno.ENOSPC)
    journal = opened(tmp_path, files=files)
    assert not journal.room(10)
    assert journal.room(10)
    journal.append([b"x"])
    journal.close()

    path = segments(tmp_path)[0]
    files.fail("allocate", 1, errno.ENOSPC)
    files.fail("allocate", 2, errno.ENOSPC)
    journal = opened(tmp_path, files=files)
    assert not journal.room(10)
    assert journal.room(10)
    journal.append([b"y"])
    journal.close()
    assert len(segments(tmp_path)) == 2
    assert path.exists()
    assert restarted(tmp_path) == [b"x", b"y"]


LIMITED = """
import resource, sys
from pathlib import Path
from tollgate.broker.journal.file import FileJournal
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, unlimited[1]))
journal = FileJournal(Path(sys.argv[1]), segment_bytes=80_000)
list(journal.replay())
assert journal.room(1000)
journal.append([b"a" * 1000])
journal.sync()
assert not journal.room(150_000)
journal.append([b"b" * 1000])
resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
assert journal.room(150_000)
journal.append([b"c" * 150_000])
journal.close()
"""


def test_a_real_limit_on_the_size_of_files(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], check=True)
    assert restarted(tmp_path) == [b"a" * 1000, b"b" * 1000, b"c" * 150_000]


def test_each_sync_reaches_the_operating_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda _, name=name: calls.append(name))
    files = Files()
    descriptor = files.open(tmp_path / "file", create=True)
    files.sync_data(descriptor)
    files.sync_file(descriptor)
    files.sync_directory(tmp_path)
    files.close(descriptor)
    assert calls == ["fdatasync", "fsync", "fsync"]


def test_a_sync_that_waited_for_a_failed_one_fails_too(tmp_path: Path) -> None:
    """A thread that waits for the lock must not sync again: the kernel may report success."""
    files = FaultyFiles()
    journal = opened(tmp_path, files=files)
    journal.append([b"x"])
    files.fail("sync_data", 1, errno.EIO)
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output error"):
            journal._writer.sync()
    with pytest.raises(JournalFailedError):
        journal.close()
    assert files.calls["sync_data"] == 1


def test_a_segment_is_not_closed_while_it_is_synced(tmp_path: Path) -> None:
    class SlowFiles(FaultyFiles):
        began, may_end = Event(), Event()

        def sync_data(self, descriptor: int) -> None:
            super().sync_data(descriptor)
            self.began.set()
            assert self.may_end.wait(30)

    files = SlowFiles()
    journal = opened(tmp_path, files=files)
    journal.append([b"x"])
    threads = [Thread(target=journal.sync), Thread(target=journal.close_segment)]
    threads[0].start()
    assert files.began.wait(30)
    threads[1].start()
    threads[1].join(0.1)
    assert files.calls["sync_data"] == 1  # the second thread waits for the first
    files.may_end.set()
    for thread in threads:
        thread.join()
    assert [each.sequence for each in journal.closed_segments()] == [1]
    journal.close()

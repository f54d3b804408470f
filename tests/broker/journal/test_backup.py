"""Backups of a journal that is written to, and the places that are refused for one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.broker.journal.helpers import numbered, opened, restarted, segments, stored
from tests.core import DAY_MS, HASH, Driver
from tollgate.broker.compaction import compact, delete, state_chunks
from tollgate.broker.core.records import encode_records
from tollgate.broker.core.replay import replay
from tollgate.broker.core.snapshot import snapshot_chunks
from tollgate.broker.core.state import State
from tollgate.broker.journal import JournalDamagedError, JournalError
from tollgate.broker.journal.backup import backup
from tollgate.broker.journal.file import FileJournal
from tollgate.broker.journal.files import Files
from tollgate.broker.journal.recovery import Replay
from tollgate.domain.commands import Create

CYCLES = 7


def copied(data: Path, target: Path, files: Files | None = None) -> list[bytes]:
    """Back up, and return what the copy was verified to hold."""
    return backup(data, target, stored, files or Files())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a data directory with ten records in three segments."""
    journal = opened(tmp_path / "data")
    for number, payload in enumerate(numbered(10)):
        journal.append([payload])
        journal.sync()
        if number in {3, 6}:
            journal.close_segment()
    journal.close()
    return tmp_path / "data"


def shortened(directory: Path) -> None:
    """Replace closed segments by a snapshot, as the compactor of a broker does."""
    journal = opened(directory)
    closed = journal.closed_segments()[-1]
    names = compact(directory, closed, lambda entries: [entry.payload for entry in entries])
    delete(directory, names)
    journal.close()


def test_a_copy_holds_all_and_nothing_else(data: Path, tmp_path: Path) -> None:
    (data / "notes").write_text("mine")
    (data / "next.tmp").touch()
    before = {path.name: path.read_bytes() for path in data.iterdir()}
    assert copied(data, tmp_path / "copy") == numbered(10)
    assert {path.name: path.read_bytes() for path in data.iterdir()} == before
    names = sorted(path.name for path in (tmp_path / "copy").iterdir())
    assert names == [path.name for path in segments(data)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "data"]
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "copy").iterdir()} == {0o600}


def test_a_copy_can_be_written_to_like_the_original(data: Path, tmp_path: Path) -> None:
    copied(data, tmp_path / "copy")
    journal = opened(tmp_path / "copy")
    journal.append([b"more"])
    journal.close()
    assert restarted(tmp_path / "copy") == [*numbered(10), b"more"]


def test_a_snapshot_is_copied_without_what_it_replaces(data: Path, tmp_path: Path) -> None:
    old = {path: path.read_bytes() for path in segments(data)[:-1]}
    shortened(data)
    for path, content in old.items():  # as if the broker had not come to delete them
        path.write_bytes(content)
    assert copied(data, tmp_path / "copy") == numbered(10)
    names = sorted(path.name.split("-")[0] for path in (tmp_path / "copy").iterdir())
    assert names == ["segment", "snapshot"]


def test_a_torn_write_is_not_copied(data: Path, tmp_path: Path) -> None:
    last = segments(data)[-1]
    content = last.read_bytes()
    used = len(content.rstrip(b"\0"))
    last.write_bytes(content[: used - 20].ljust(len(content), b"\0"))
    assert copied(data, tmp_path / "copy") == numbered(9)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_damage_is_reported_and_nothing_is_left(data: Path, tmp_path: Path, number: int) -> None:
    path = segments(data)[number]
    content = bytearray(path.read_bytes())
    content[90] ^= 1
    path.write_bytes(content)
    with pytest.raises(JournalDamagedError, match=str(path)):
        copied(data, tmp_path / "copy")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("number", [0, 1])
def test_a_missing_segment_is_no_backup(data: Path, tmp_path: Path, number: int) -> None:
    segments(data)[number].unlink()
    with pytest.raises(JournalDamagedError) as refusal:
        copied(data, tmp_path / "copy")
    assert refusal.value.file in {data, *segments(data)}
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_copy_that_does_not_verify_is_removed(data: Path, tmp_path: Path) -> None:
    def verify(_: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backup(data, tmp_path / "copy", verify)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_place_that_is_taken_or_nested_is_refused(data: Path, tmp_path: Path) -> None:
    copied(data, tmp_path / "copy")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "to-data").symlink_to(data)
    before = sorted(tmp_path.rglob("*"))
    for place, why in {
        "data": "exists already",
        "copy": "exists already, and a backup overwrites nothing$",
        "empty": "exists already.*name a new directory in it",
        "file": "exists already",
        "link": "exists already",
        "data/copy": "inside a data directory",
        "to-data/copy": "inside a data directory",
        "copy/second": "inside a data directory",
        "missing/copy": "no directory",
        "file/copy": "no directory",
    }.items():
        with pytest.raises(JournalError, match=why):
            copied(data, tmp_path / place)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_journal_is_no_backup(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(JournalError, match="there is no journal in"):
        copied(tmp_path / "data", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


class Interrupted(Files):
    """Files where something happens when the first file is opened to read, or each time."""

    def __init__(self, happens: Callable[[], None], times: int = 1) -> None:
        self.happens = happens
        self.left = times

    def open_to_read(self, path: Path) -> int:
        if self.left:
            self.left -= 1
            self.happens()
        return super().open_to_read(path)


def test_a_compaction_meanwhile_begins_it_anew(data: Path, tmp_path: Path) -> None:
    files = Interrupted(lambda: shortened(data))
    assert copied(data, tmp_path / "copy", files) == numbered(10)
    assert list((tmp_path / "copy").glob("snapshot-*"))


def test_files_that_always_vanish_end_it(data: Path, tmp_path: Path) -> None:
    def vanish() -> None:
        raise FileNotFoundError

    files = Interrupted(vanish, times=100)
    with pytest.raises(JournalError, match="vanish from"):
        copied(data, tmp_path / "copy", files)
    assert not (tmp_path / "copy").exists()


def test_opened_files_are_copied_though_deleted(data: Path, tmp_path: Path) -> None:
    class Deleting(Files):
        def read_at(self, descriptor: int, length: int, offset: int) -> bytes:
            for path in segments(data)[:-1]:
                path.unlink()
            return super().read_at(descriptor, length, offset)

    assert copied(data, tmp_path / "copy", Deleting()) == numbered(10)


def test_a_batch_that_is_read_with_a_hole_is_read_again(data: Path, tmp_path: Path) -> None:
    class Holed(Files):
        """The second record before the end is not there yet when the segment is first read."""

        times = 0

        def read_at(self, descriptor: int, length: int, offset: int) -> bytes:
            content = super().read_at(descriptor, length, offset)
            if b"payload 9" in content and self.times == 0:
                self.times += 1
                return content.replace(b"payload 9", bytes(9))
            return content

    files = Holed()
    assert copied(data, tmp_path / "copy", files) == numbered(10)
    assert files.times == 1


def test_seven_days_of_backups_hold_what_there_was(tmp_path: Path) -> None:
    # The clock is the driver's: jobs expire and are pruned on the way, and segments are compacted.
    driver, data = Driver(keep_finished_ms=2 * DAY_MS), tmp_path / "data"
    journal = FileJournal(data, segment_bytes=4_096)
    replay(journal.replay(), State())
    written, expected = 0, {}
    for day in range(CYCLES):
        for _ in range(20):
            driver.ask(Create(input_hash=HASH))
        driver.pass_ms(DAY_MS)
        journal.append(encode_records(driver.records[written:]))
        journal.sync()
        written = len(driver.records)
        if day % 3 == 1:
            delete(data, compact(data, journal.closed_segments()[-1], state_chunks))
        target = tmp_path / f"day-{day}"
        assert backup(data, target, lambda copy: replay(Replay(copy), State())) > 0
        expected[target] = _without_time(driver.engine.context.state)
    journal.close()
    for target, chunks in expected.items():
        entries, restored = Replay(target), State()
        replay(entries, restored)
        assert _without_time(restored) == chunks
    assert entries.sequence == written
    assert driver.engine.context.state.jobs.count() < CYCLES * 20


def _without_time(state: State) -> list[bytes]:
    """Return the state without the first chunk: its time goes on where nothing is recorded."""
    return list(snapshot_chunks(state))[1:]

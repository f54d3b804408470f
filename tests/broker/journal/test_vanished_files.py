"""Files of a journal that are removed, moved or replaced under a running broker."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.broker.journal.helpers import numbered, opened, restarted, segments, stored
from tollgate.broker.compaction import compact, delete, replaced
from tollgate.broker.journal import JournalFailedError, JournalLockedError
from tollgate.broker.journal.file import FileJournal


def append(journal: FileJournal, *payloads: bytes) -> None:
    journal.append(payloads)
    journal.sync()


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("vanish", [Path.unlink, empty])
@pytest.mark.parametrize("fsync", ["always", "interval:60000", "never"])
def test_nothing_is_synced_into_a_lost_segment(
    tmp_path: Path, fsync: str, vanish: Callable[[Path], None]
) -> None:
    journal = opened(tmp_path, fsync=fsync)
    append(journal, b"kept")
    vanish(segments(tmp_path)[-1])
    journal.append([b"lost"])
    with pytest.raises(JournalFailedError, match="removed, moved, replaced or cut"):
        journal.sync()
    with pytest.raises(JournalFailedError):
        journal.sync()
    journal.close()


def remove_lock(directory: Path) -> None:
    (directory / "lock").unlink()


def replace_lock(directory: Path) -> None:
    remove_lock(directory)
    (directory / "lock").touch()


def move_directory(directory: Path) -> None:
    directory.rename(directory.with_name("moved"))


def replace_directory(directory: Path) -> None:
    move_directory(directory)
    shutil.copytree(directory.with_name("moved"), directory)


def move_segment(directory: Path) -> None:
    segments(directory)[-1].rename(directory.parent / "segment")


def replace_segment(directory: Path) -> None:
    path = segments(directory)[-1]
    data = path.read_bytes()
    move_segment(directory)
    path.write_bytes(data)


def make_it_a_file(directory: Path) -> None:
    move_directory(directory)
    directory.touch()


def empty_segment(directory: Path) -> None:
    empty(segments(directory)[-1])


VANISHED = [
    remove_lock, replace_lock, move_directory, replace_directory, make_it_a_file,
    move_segment, replace_segment, empty_segment,
]  # fmt: skip


@pytest.mark.parametrize("vanish", VANISHED, ids=lambda each: str(each.__name__))
def test_a_look_finds_what_vanished(tmp_path: Path, vanish: Callable[[Path], None]) -> None:
    data = tmp_path / "data"
    journal = opened(data)
    append(journal, b"one")
    assert journal.look() is None
    vanish(data)
    with pytest.raises(JournalFailedError, match=r"could not find the journal.*must stop"):
        journal.look()
    with pytest.raises(JournalFailedError):
        journal.append([b"two"])
    journal.close()


def test_a_look_before_the_first_record_finds_nothing(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    assert journal.look() is None
    journal.close()


def test_a_removed_lock_file_lets_no_second_writer_in(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    remove_lock(tmp_path)
    with pytest.raises(JournalLockedError):
        FileJournal(tmp_path)
    journal.close()
    FileJournal(tmp_path).close()


def test_a_removed_spare_is_made_again(tmp_path: Path) -> None:
    journal = opened(tmp_path, segment_bytes=512)
    payloads = numbered(20)
    for payload in payloads:
        assert journal.room(200)
        (tmp_path / "next.tmp").unlink(missing_ok=True)
        append(journal, payload)
    assert journal.room(300)
    (tmp_path / "next.tmp").unlink(missing_ok=True)
    journal.close()
    assert len(segments(tmp_path)) > 2
    assert restarted(tmp_path) == payloads


def test_a_spare_of_another_directory_is_not_taken(tmp_path: Path) -> None:
    journal = opened(tmp_path, segment_bytes=512)
    append(journal, b"one")
    assert journal.room(600)
    (tmp_path / "next.tmp").unlink()
    (tmp_path / "next.tmp").write_bytes(b"of another")
    append(journal, bytes(600))
    journal.close()
    assert restarted(tmp_path) == [b"one", bytes(600)]


def test_no_change_is_taken_while_a_closed_segment_is_gone(tmp_path: Path) -> None:
    data = tmp_path / "data"
    journal = opened(data)
    for payload in numbered(3):
        append(journal, payload)
        journal.close_segment()
    second = segments(data)[1]
    second.rename(tmp_path / "aside")
    assert journal.look() == "records 1 to 2"
    assert not journal.room(100)
    (tmp_path / "aside").rename(second)
    assert journal.look() is None
    assert journal.room(100)
    journal.close()
    assert stored(data) == numbered(3)


def test_no_change_is_taken_while_the_snapshot_is_gone(tmp_path: Path) -> None:
    data = tmp_path / "data"
    journal = opened(data)
    append(journal, b"one")
    journal.close_segment()
    closed = journal.closed_segments()[-1]
    names = compact(data, closed, lambda entries: [entry.payload for entry in entries])
    delete(data, names)
    assert journal.look() is None
    (snapshot,) = data.glob("snapshot-*")
    snapshot.rename(tmp_path / "aside")
    assert journal.look() == "records 1 to 1"
    assert not journal.room(100)
    segments(data)[-1].unlink()
    with pytest.raises(JournalFailedError):
        journal.look()
    journal.close()


def test_nothing_is_deleted_for_a_snapshot_that_is_gone(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    for payload in numbered(2):
        append(journal, payload)
        journal.close_segment()
    closed = journal.closed_segments()[-1]
    compact(tmp_path, closed, lambda entries: [entry.payload for entry in entries])
    names = replaced(tmp_path, closed.sequence)
    assert names
    (snapshot,) = tmp_path.glob("snapshot-*")
    snapshot.unlink()
    delete(tmp_path, names)
    journal.close()
    assert stored(tmp_path) == numbered(2)

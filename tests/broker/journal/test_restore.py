"""Restores: the copy that is verified gets into its place, complete or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tollgate.broker.journal import (
    JournalDamagedError,
    JournalError,
    JournalLockedError,
    JournalVersionError,
)
from tollgate.broker.journal.backup import RESTORING, backup, restore
from tollgate.broker.journal.file import FileJournal
from tollgate.broker.journal.files import Files
from tollgate.broker.journal.format import listing

from .helpers import FaultyFiles, knowing_format, numbered, opened, restarted, segments, stored
from .test_old_formats import compacted, contents, versions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RECORDS = numbered(10)


@pytest.fixture(params=["segments", "snapshot", "format 1"])
def copy(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a backup with ten records in three segments, or in a snapshot and a segment."""
    data = tmp_path / "data"
    with knowing_format(1 if request.param == "format 1" else 2):
        journal = opened(data)
        for number, payload in enumerate(RECORDS):
            journal.append([payload])
            journal.sync()
            if number in {3, 6}:
                journal.close_segment()
        journal.close()
        if request.param == "snapshot":
            compacted(data)
        backup(data, tmp_path / "copy", stored)
    return tmp_path / "copy"


def begin(copy: Path) -> list[bytes]:
    """Replay the copy, and add a record, as `tollgate journal restore` does."""
    with closing(FileJournal(copy, segment_bytes=1)) as journal:
        found = [entry.payload for entry in journal.replay()]
        if not journal.room(5):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        journal.append([b"begun"])
        journal.sync()
    return found


def restored(copy: Path, target: Path, files: Files | None = None) -> list[bytes]:
    return restore(copy, target, begin, files or Files())


@pytest.mark.parametrize("place", ["missing", "deep/missing", "empty", "locked once"])
def test_a_restore_holds_the_backup_and_one_record(copy: Path, tmp_path: Path, place: str) -> None:
    target = tmp_path / place
    if place in {"empty", "locked once"}:
        target.mkdir(0o700)
    if place == "locked once":
        (target / "lock").touch(0o600)
    before = contents(copy)
    assert restored(copy, target) == RECORDS
    assert contents(copy) == before
    assert restarted(target) == [*RECORDS, b"begun"]
    assert versions(target)[-1] == 2
    found = listing(Files().names(target))
    assert len(found.segments) + len(found.snapshots) + 1 == len(list(target.iterdir()))
    assert target.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in target.iterdir())


def test_a_restore_can_be_restored_again(copy: Path, tmp_path: Path) -> None:
    restored(copy, tmp_path / "first")
    backup(tmp_path / "first", tmp_path / "second copy", stored)
    assert restored(tmp_path / "second copy", tmp_path / "second") == [*RECORDS, b"begun"]
    assert restarted(tmp_path / "second") == [*RECORDS, b"begun", b"begun"]


def test_a_copied_data_directory_is_a_backup_too(copy: Path, tmp_path: Path) -> None:
    """Of a broker that does not run: with its lock, its preallocation and a torn write."""
    data = tmp_path / "data"
    last = segments(data)[-1]
    with last.open("r+b") as file:
        file.seek(len(last.read_bytes().rstrip(b"\0")))
        file.write(b"\xf5\xfa")
    shutil.copytree(data, tmp_path / "cp")
    assert restored(tmp_path / "cp", tmp_path / "new") == RECORDS
    assert restarted(tmp_path / "new") == [*RECORDS, b"begun"]


# --- refusals -------------------------------------------------------------------------------------


def refused(
    copy: Path, target: Path, matches: str, kind: type[JournalError] = JournalError
) -> None:
    """Check that a restore says so, and leaves everything as it was."""
    before = sorted(target.parent.rglob("*"))
    with pytest.raises(kind, match=matches) as fault:
        restored(copy, target)
    assert len(str(fault.value).splitlines()) == 1
    assert RESTORING not in str(fault.value)
    assert sorted(target.parent.rglob("*")) == before


@pytest.mark.parametrize("name", ["segment-0000000001", "notes"])
def test_a_directory_that_is_not_empty_is_refused(copy: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / name).touch()
    refused(copy, tmp_path / "new", rf"not empty \({name}\).*overwrites nothing")


def test_what_is_no_backup_is_refused(tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "notes").touch()
    refused(tmp_path / "copy", tmp_path / "new", "is no backup")


def test_a_place_in_the_backup_is_refused(copy: Path) -> None:
    refused(copy, copy / "new", "inside the backup")
    refused(copy, copy, "is the backup itself")


def test_a_directory_in_use_is_no_backup(copy: Path, tmp_path: Path) -> None:
    with closing(FileJournal(tmp_path / "data")):
        refused(tmp_path / "data", tmp_path / "new", "in use by a broker.*journal backup")


def test_a_broker_on_the_new_directory_is_in_the_way(copy: Path, tmp_path: Path) -> None:
    with closing(FileJournal(tmp_path / "new")):
        refused(copy, tmp_path / "new", "in use by process", JournalLockedError)


def test_a_damaged_backup_is_refused(copy: Path, tmp_path: Path) -> None:
    for path in copy.iterdir():
        whole = path.read_bytes()
        path.write_bytes(whole[:45] + bytes([whole[45] ^ 1]) + whole[46:])
        refused(copy, tmp_path / "new", f"damaged: {path.name} at byte .*another backup")
        path.write_bytes(whole)


def test_a_backup_without_one_file_is_refused(copy: Path, tmp_path: Path) -> None:
    """But for the last one: what is left is a backup of an earlier time."""
    for path in sorted(copy.iterdir())[:-1]:
        if len(list(copy.iterdir())) > 2 or path.name.startswith("snapshot"):
            whole = path.read_bytes()
            path.unlink()
            refused(copy, tmp_path / "new", f"{copy} is damaged: .*Nothing was restored")
            path.write_bytes(whole)


def test_a_newer_backup_is_refused(copy: Path, tmp_path: Path) -> None:
    restored(copy, tmp_path / "newer")
    with knowing_format(1):
        path = segments(tmp_path / "newer")[-1]
        if versions(tmp_path / "newer")[0] == 2:
            path = min(path.parent.glob("s*-*"), key=lambda each: (each.name[:2] != "sn", each))
        refused(tmp_path / "newer", tmp_path / "new", "has journal format 2", JournalVersionError)
        assert path.exists()


# --- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        ("write_some", errno.ENOSPC),
        ("write_some", errno.EIO),
        ("sync_file", errno.EIO),
        ("sync_directory", errno.EIO),
        ("rename", errno.EIO),
    ],
)
def test_a_fault_at_any_call_leaves_nothing(
    copy: Path, tmp_path: Path, call: str, fault: int
) -> None:
    said = "no room for the backup" if fault == errno.ENOSPC else os.strerror(fault)
    complaints: list[str] = []
    while True:
        files = FaultyFiles()
        files.fail(call, len(complaints) + 1, fault)
        try:
            restored(copy, tmp_path / "new", files)
        except (JournalError, OSError) as error:
            complaints.append(str(error))
        else:
            break
        assert said in complaints[-1]
        assert not [*(tmp_path / "new").glob("*")]
    assert len(complaints) > 1


def test_no_room_for_the_first_record_leaves_nothing(copy: Path, tmp_path: Path) -> None:
    def begin_without_room(copy: Path) -> list[bytes]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    size = sum(path.stat().st_size for path in copy.iterdir())
    with pytest.raises(JournalError, match=f"no room for the backup in .*{size} bytes"):
        restore(copy, tmp_path / "new", begin_without_room)
    assert not (tmp_path / "new").exists()


class Killed(Files):
    """Keeps what a kill before each rename, and before each sync after it, would leave."""

    def __init__(self, target: Path, keep: Callable[[], None]) -> None:
        self._target = target
        self._keep = keep

    def rename(self, source: Path, target: Path) -> None:
        if target.parent == self._target:
            self._keep()
        super().rename(source, target)


def test_a_killed_restore_is_seen_by_a_start(copy: Path, tmp_path: Path) -> None:
    """With no file in its place the directory is as new; then a start refuses until all are."""
    target = tmp_path / "new"
    left: list[Path] = []

    def keep() -> None:
        left.append(tmp_path / f"left {len(left)}")
        shutil.copytree(target, left[-1])

    restored(copy, target, Killed(target, keep))
    assert len(left) == len(list(copy.iterdir())) + (len(segments(target)) > len(segments(copy)))
    first, *rest = left
    assert stored(first) == []
    assert restored(copy, first) == RECORDS
    assert not (first / RESTORING).exists()
    assert rest
    for partial in rest:
        with pytest.raises(JournalDamagedError):
            stored(partial)
        with pytest.raises(JournalError, match="not empty"):
            restored(copy, partial)

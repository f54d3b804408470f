"""A backup: a consistent copy of a data directory, made beside a running broker, and its way back.

The broker appends to the last segment and deletes files that a snapshot replaces. So all files are
opened before any is copied: what is deleted after that can still be read. The last segment is
copied up to its last sound record, as a replay beside a broker reads it.

A restore copies into a directory inside the new data directory, which may be a mount point, and
moves the files into place when all of them are verified: the last segment first, so that a start
on a part of them finds that the first record is missing.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, TypeVar

from tollgate.broker.journal import JournalDamagedError, JournalError, JournalVersionError
from tollgate.broker.journal.files import FILES, LOCK, NO_ROOM, Files
from tollgate.broker.journal.format import listing, segment_name, snapshot_name
from tollgate.broker.journal.segment import SegmentReader, read_header

TRIES_MAX: Final = 10
"""How often to begin anew when a file was deleted before it was opened."""
PART_BYTES: Final = 1 << 24
RESTORING: Final = "restoring"
"""The directory that a restore copies into; one that was killed leaves it behind."""

Found = TypeVar("Found")


def backup(
    directory: Path, target: Path, verify: Callable[[Path], Found], files: Files = FILES
) -> Found:
    """Copy what a start needs into `target`, a new directory that exists complete or not at all.

    `verify` gets the copy before it has its name, raises if it is not sound, and returns what this
    returns. Raises JournalError if there is something at `target`, or it lies in a data directory,
    or the journal is empty or damaged; and OSError.
    """
    _check_target(directory, target)
    partial = Path(
        tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)
    )
    try:
        _copy(directory, partial, files)
        found = verify(partial)
        partial.rename(target)
        files.sync_directory(target.parent)
    except BaseException as fault:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(fault, JournalDamagedError):  # the copy is gone; its bytes are the journal's
            file = directory if fault.file == partial else directory / fault.file.name
            raise JournalDamagedError(file, fault.offset, fault.reason) from None
        raise
    return found


def restore(
    backup: Path, directory: Path, begin: Callable[[Path], Found], files: Files = FILES
) -> Found:
    """Copy a backup into `directory`, which is empty or missing, complete or not at all.

    `begin` gets the copy before it is in its place. It replays it, may add records, raises if it is
    not sound, and returns what this returns. Raises JournalError if something is in `directory`, if
    `backup` is none, is damaged or in use, or if there is no room; JournalVersionError and OSError.
    """
    _check_backup(backup, directory, files)
    is_new, was_locked_once = not directory.exists(), (directory / LOCK).exists()
    lock = files.lock(directory)
    try:
        _check_empty(directory, files)
        return _restore(backup, directory, begin, files)
    except BaseException:
        if not was_locked_once:
            (directory / LOCK).unlink(missing_ok=True)
        if is_new:
            with suppress(OSError):
                directory.rmdir()
        raise
    finally:
        files.unlock(lock)


def _check_backup(backup: Path, directory: Path, files: Files) -> None:
    found = listing(files.names(backup))
    if not (found.segments or found.snapshots):
        raise JournalError(f"{backup} is no backup: it has no segment and no snapshot")
    if _real(backup) in _real(directory).parents:
        raise JournalError(f"{directory} is inside the backup: restore it elsewhere")
    if directory.exists() and directory.samefile(backup):
        raise JournalError(f"{directory} is the backup itself: restore it elsewhere")
    if files.is_locked(backup):
        raise JournalError(
            f"{backup} is in use by a broker: make a backup of it first (`tollgate journal backup`)"
        )


def _check_empty(directory: Path, files: Files) -> None:
    names = sorted({*files.names(directory)} - {LOCK, RESTORING})
    if names:
        some = ", ".join(names[:3]) + (", ..." if names[3:] else "")
        raise JournalError(
            f"{directory} is not empty ({some}), and a restore overwrites nothing: move it aside,"
            " or restore into another directory"
        )


def _restore(backup: Path, directory: Path, begin: Callable[[Path], Found], files: Files) -> Found:
    partial = directory / RESTORING
    moved: list[Path] = []
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a restore that was killed
        files.make_directory(partial)
        _copy(backup, partial, files)
        found = begin(partial)
        names = listing(files.names(partial))
        for name in [
            *map(segment_name, reversed(names.segments)), *map(snapshot_name, names.snapshots)
        ]:  # fmt: skip
            moved.append(directory / name)
            files.rename(partial / name, directory / name)
            files.sync_directory(directory)
    except BaseException as fault:
        for path in moved:
            path.unlink(missing_ok=True)
        explained = _explained(fault, backup, directory, files)
        if explained is fault:
            raise
        raise explained from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return found


def _explained(fault: BaseException, backup: Path, directory: Path, files: Files) -> BaseException:
    """Return the error to raise for one that happened to the copy, which is gone."""
    if isinstance(fault, JournalDamagedError):
        name = "" if fault.file.name == RESTORING else f"{fault.file.name} at byte {fault.offset}: "
        return JournalError(
            f"the backup {backup} is damaged: {name}{fault.reason}. Nothing was restored. Take"
            " another backup, or repair a copy of this one with `tollgate journal repair`"
        )
    if isinstance(fault, JournalVersionError):
        return JournalVersionError(backup / fault.file.name, fault.found, fault.known)
    if isinstance(fault, OSError) and fault.errno in NO_ROOM:
        size = sum(files.size(backup / name) for name in _needed(backup, files))
        return JournalError(
            f"there is no room for the backup in {directory}: it takes {size} bytes."
            " Nothing was restored"
        )
    return fault


def _check_target(directory: Path, target: Path) -> None:
    place = _real(target)
    if os.path.lexists(target):
        hint = f"; name a new directory in it, such as {target / 'backup'}"
        is_place = target.is_dir() and not target.is_symlink() and not any(target.iterdir())
        told = f"{target} exists already, and a backup overwrites nothing"
        raise JournalError(told + hint if is_place else told)
    if not place.parent.is_dir():
        raise JournalError(f"there is no directory {target.parent} to put the backup in")
    holds = listing(FILES.names(place.parent))
    if _real(directory) in place.parents or holds.segments or holds.snapshots:
        raise JournalError(f"{target} is inside a data directory: put the backup elsewhere")


def _copy(directory: Path, target: Path, files: Files) -> None:
    with ExitStack() as stack:
        opened = _open_all(directory, files, stack)
        last_segment = [path for path in opened if listing([path.name]).segments][-1:]
        for path, descriptor in opened.items():
            copy = files.open(target / path.name, create=True)
            stack.callback(files.close, copy)
            if path in last_segment:
                files.write(copy, _sound_part(path, descriptor, files), 0)
            else:
                _copy_bytes(descriptor, copy, files)
            files.sync_file(copy)
    files.sync_directory(target)


def _open_all(directory: Path, files: Files, stack: ExitStack) -> dict[Path, int]:
    """Open the newest snapshot and the segments after it, at one moment; `stack` closes them."""
    for _ in range(TRIES_MAX):
        with ExitStack() as opening, suppress(FileNotFoundError):
            opened = {}
            for name in _needed(directory, files):
                opened[directory / name] = files.open_to_read(directory / name)
                opening.callback(files.close, opened[directory / name])
            stack.push(opening.pop_all())
            return opened
    raise JournalError(f"files vanish from {directory} while they are opened; try again")


def _needed(directory: Path, files: Files) -> list[str]:
    """Return the names of the files that a start would read. Raises OSError and JournalError."""
    found = listing(files.names(directory))
    if not (found.segments or found.snapshots):
        raise JournalError(f"there is no journal in {directory}: no segment and no snapshot")
    covered = found.snapshots[-1] if found.snapshots else 0
    needed: list[str] = []
    for number in reversed(found.segments):
        needed.insert(0, segment_name(number))
        if read_header(files, directory / segment_name(number)).sequence <= covered + 1:
            break
    return [*map(snapshot_name, found.snapshots[-1:]), *needed]


def _sound_part(path: Path, descriptor: int, files: Files) -> bytes:
    """Return the segment up to its last sound record. Raises JournalDamagedError.

    A batch that is written meanwhile may be read with a hole, which looks like damage. It is whole
    when it is read again; damage stays where it is.
    """
    end = -1
    while True:
        reader = SegmentReader(path, files.read_at(descriptor, sys.maxsize, 0))
        for _ in reader:
            pass
        reason = reader.why_damaged(is_last=True) if reader.end < reader.used else None
        if reason is None:
            return reader.data[: reader.end]
        if reader.end == end:
            raise JournalDamagedError(path, end, reason)
        end = reader.end


def _copy_bytes(source: int, target: int, files: Files) -> None:
    offset = 0
    while part := files.read_at(source, PART_BYTES, offset):
        files.write(target, part, offset)
        offset += len(part)


def _real(path: Path) -> Path:
    """Return a path without links. `Path.resolve` raises no OSError if they go round in circles."""
    return Path(os.path.realpath(path))

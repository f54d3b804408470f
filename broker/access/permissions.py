"""Permissions of the directories and files of sockets, keys and journals: for their owner only."""

import os
import stat
from pathlib import Path
from typing import Final

STICKY: Final = stat.S_ISVTX
OTHERS_READ_OR_WRITE: Final = 0o077
OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
PRIVATE: Final = 0o700


class UnsafeError(Exception):
    """Another user could change what is there; the message is one line that says what to do."""


def make_private(directory: Path) -> list[Path]:
    """Make a directory, and those above it, with mode 0700 where they are missing.

    Return those that were made. Raises UnsafeError if another user owns one of them, or could
    write to it or replace it, and OSError. Nothing is made under such a directory.
    """
    made = []
    missing = [each for each in (directory, *directory.parents) if not each.is_dir()]
    for level in reversed(missing):
        check_above(_real(level))
        try:
            level.mkdir(PRIVATE)
        except FileExistsError:
            if not level.is_dir():
                raise
            continue  # another broker was faster
        level.chmod(PRIVATE)  # whatever the umask
        made.append(level)
    check_private(directory)
    return made


def use_private_umask() -> None:
    """Let all files that this process makes be for its user, and let that user read and write them.

    With a umask as 0o777 no process could open them again, the broker at its next start neither.
    """
    os.umask(OTHERS_READ_OR_WRITE)


def check_private(directory: Path) -> None:
    """Raise UnsafeError if another user owns a directory, or could write to it or replace it."""
    directory = _real(directory)
    state = directory.stat()
    _check_owner(directory, state)
    if state.st_mode & OTHERS_WRITE:
        raise UnsafeError(
            f"others can write to {directory} (mode {_mode(state)});"
            f" say: chmod go-w {directory}, or use another directory"
        )
    check_above(directory)


def check_above(directory: Path) -> None:
    """Raise UnsafeError if another user could replace one of the directories above this one."""
    for above in directory.parents:
        state = above.stat()
        _check_owner(above, state)
        if state.st_mode & OTHERS_WRITE and not state.st_mode & STICKY:
            raise UnsafeError(
                f"others can replace what is in {above} (mode {_mode(state)}),"
                f" which {directory} is under; say: chmod go-w {above}, or use another directory"
            )


def _real(path: Path) -> Path:
    """Return a path without links. `Path.resolve` raises no OSError if they go round in circles."""
    return Path(os.path.realpath(path))


def is_reached_by(group: int, directory: Path) -> bool:
    """Return whether members of a group can use the files in a directory, itself alone judged."""
    state = directory.stat()
    return bool(state.st_mode & (stat.S_IXGRP if state.st_gid == group else stat.S_IXOTH))


def check_secret(path: Path, opened: int) -> None:
    """Raise UnsafeError if another user owns an open file or can read it."""
    state = os.fstat(opened)
    _check_owner(path, state)
    if state.st_mode & OTHERS_READ_OR_WRITE:
        raise UnsafeError(
            f"others can read {path} (mode {_mode(state)});"
            f" say: chmod 600 {path}, and if they may have read it, make new keys"
        )


def check_unchanged(path: Path, opened: int) -> None:
    """Raise UnsafeError if another user owns an open file or can write to it."""
    state = os.fstat(opened)
    _check_owner(path, state)
    if not stat.S_ISREG(state.st_mode):
        raise UnsafeError(f"{path} is no file")
    if state.st_mode & OTHERS_WRITE:
        raise UnsafeError(
            f"others can write to {path} (mode {_mode(state)});"
            f" see what it says, then say: chmod 600 {path}"
        )


def _check_owner(path: Path, state: os.stat_result) -> None:
    if state.st_uid not in {os.geteuid(), 0}:
        raise UnsafeError(
            f"{path} belongs to uid {state.st_uid}, not to uid {os.geteuid()} that this runs as"
        )


def _mode(state: os.stat_result) -> str:
    return f"{stat.S_IMODE(state.st_mode):04o}"

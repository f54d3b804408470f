"""Who may be in a directory where sockets, keys and journals lie: its owner, and nobody else."""

import os
import stat
from pathlib import Path
from typing import Final

STICKY: Final = stat.S_ISVTX
OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
PRIVATE: Final = 0o700


class UnsafeError(Exception):
    """Somebody else could change what is there; the message is one line that says what to do."""


def make_private(directory: Path) -> list[Path]:
    """Make a directory, and those above it, with mode 0700 where they are missing.

    Return those that were made. Raises UnsafeError for one that somebody else owns, or could
    write to or replace, and OSError; nothing is made under such a one.
    """
    made = []
    missing = [each for each in (directory, *directory.parents) if not each.is_dir()]
    for level in reversed(missing):
        _check_above(level.resolve())
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


def check_private(directory: Path) -> None:
    """Raise UnsafeError for a directory that somebody else owns, or could write to or replace."""
    directory = directory.resolve()
    state = directory.stat()
    _check_owner(directory, state)
    if state.st_mode & OTHERS_WRITE:
        raise UnsafeError(
            f"others can write to {directory} (mode {stat.S_IMODE(state.st_mode):04o});"
            f" say: chmod go-w {directory}, or use another directory"
        )
    _check_above(directory)


def _check_above(directory: Path) -> None:
    for above in directory.parents:
        state = above.stat()
        _check_owner(above, state)
        if state.st_mode & OTHERS_WRITE and not state.st_mode & STICKY:
            raise UnsafeError(
                f"others can replace what is in {above} (mode {stat.S_IMODE(state.st_mode):04o}),"
                f" which {directory} is under; say: chmod go-w {above}, or use another directory"
            )


def is_reached_by(group: int, directory: Path) -> bool:
    """Return whether a group's members can use what is in a directory; those above, aside."""
    state = directory.stat()
    return bool(state.st_mode & (stat.S_IXGRP if state.st_gid == group else stat.S_IXOTH))


def check_secret(path: Path, opened: int) -> None:
    """Raise UnsafeError for an open file that somebody else owns or can read."""
    state = os.fstat(opened)
    _check_owner(path, state)
    if state.st_mode & 0o077:
        raise UnsafeError(
            f"others can read {path} (mode {stat.S_IMODE(state.st_mode):04o});"
            f" say: chmod 600 {path}, and if they may have read it, make new keys"
        )


def check_unchanged(path: Path, opened: int) -> None:
    """Raise UnsafeError for an open file that somebody else owns or can write to."""
    state = os.fstat(opened)
    _check_owner(path, state)
    if not stat.S_ISREG(state.st_mode):
        raise UnsafeError(f"{path} is no file")
    if state.st_mode & OTHERS_WRITE:
        raise UnsafeError(
            f"others can write to {path} (mode {stat.S_IMODE(state.st_mode):04o});"
            f" see what it says, then say: chmod 600 {path}"
        )


def _check_owner(path: Path, state: os.stat_result) -> None:
    if state.st_uid not in {os.geteuid(), 0}:
        raise UnsafeError(
            f"{path} belongs to uid {state.st_uid}, not to uid {os.geteuid()} that this runs as"
        )

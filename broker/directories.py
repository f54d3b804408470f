"""Who may be in a directory where sockets, keys and journals lie: its owner, and nobody else."""

import os
import stat
from pathlib import Path
from typing import Final

STICKY: Final = stat.S_ISVTX
OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


class UnsafeError(Exception):
    """Somebody else could change what is there; the message is one line that says what to do."""


def make_private(directory: Path) -> None:
    """Make a directory with mode 0700, and those above it, where they are missing.

    Raises UnsafeError for one that somebody else owns, or could write to or replace.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory = directory.resolve()
    state = directory.stat()
    _check_owner(directory, state)
    if state.st_mode & OTHERS_WRITE:
        raise UnsafeError(
            f"others can write to {directory} (mode {stat.S_IMODE(state.st_mode):04o});"
            f" say: chmod go-w {directory}, or use another directory"
        )
    for above in directory.parents:
        state = above.stat()
        _check_owner(above, state)
        if state.st_mode & stat.S_IWOTH and not state.st_mode & STICKY:
            raise UnsafeError(
                f"anybody can replace what is in {above}, which {directory} is under;"
                f" say: chmod o-w {above}, or use another directory"
            )


def check_secret(path: Path, opened: int) -> None:
    """Raise UnsafeError for an open file that somebody else owns or can read."""
    state = os.fstat(opened)
    _check_owner(path, state)
    if state.st_mode & 0o077:
        raise UnsafeError(
            f"others can read {path} (mode {stat.S_IMODE(state.st_mode):04o});"
            f" say: chmod 600 {path}, and if they may have read it, make new keys"
        )


def _check_owner(path: Path, state: os.stat_result) -> None:
    if state.st_uid not in {os.geteuid(), 0}:
        raise UnsafeError(
            f"{path} belongs to uid {state.st_uid}, not to uid {os.geteuid()} that this runs as"
        )

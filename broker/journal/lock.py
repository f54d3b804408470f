"""The lock on a data directory: one process at a time writes there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tollgate.broker.journal.errors import JournalLockedError
from tollgate.broker.journal.layout import LOCK

if TYPE_CHECKING:
    from pathlib import Path

    from tollgate.broker.journal.files import Files


def take_lock(files: Files, directory: Path) -> int:
    """Lock the directory, made if missing, until the descriptor returned is closed.

    Raises JournalLockedError if another process has it.
    """
    files.make_directory(directory)
    try:
        return files.lock(directory / LOCK)
    except BlockingIOError:
        holder = files.read(directory / LOCK).decode(errors="replace").strip()
        raise JournalLockedError(directory, holder) from None

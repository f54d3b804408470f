"""Why a journal could not do what was asked of it, one class for each way to react."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class JournalError(Exception):
    """Whatever a journal raises; by itself it means that the caller broke the port's contract."""


class JournalDamagedError(JournalError):
    """Stored bytes are not what was written, and no power loss explains it: do not start.

    Attributes: `file` (its path), `offset` (bytes from its start), `reason` (one clause).
    """

    def __init__(self, file: Path, offset: int, reason: str) -> None:
        """Name the place, the reason, and what the operator can do about it."""
        self.file = file
        self.offset = offset
        self.reason = reason
        super().__init__(
            f"{file} is damaged at byte {offset}: {reason}. Nothing was changed. Restore it from a"
            " backup, or stop the broker and run `tollgate journal repair`, which cuts the journal"
            " at the damage and keeps a copy of everything that it cuts"
        )


class JournalVersionError(JournalError):
    """The file was written by a newer tollgate, in a format that this one does not know."""

    def __init__(self, file: Path, found: int, known: int) -> None:
        """Name the file and both format versions."""
        super().__init__(
            f"{file} has journal format {found}, and this tollgate reads formats up to {known}:"
            " start the version that wrote it, or a newer one"
        )


class JournalLockedError(JournalError):
    """Another process holds the data directory."""

    def __init__(self, directory: Path, holder: str) -> None:
        """Name the directory and the process that holds it (`holder`: its id, as text)."""
        super().__init__(
            f"the data directory {directory} is in use by process {holder or 'unknown'}: stop that"
            " broker first, or choose another directory"
        )


class JournalFailedError(JournalError):
    """An append or a sync failed: the process must stop and acknowledge nothing more.

    Every later call raises it again. A sync is never tried a second time, because the kernel may
    report success for it although the data is gone.
    """


class JournalFencedError(JournalFailedError):
    """A replicated log: another writer has taken over, so this process must stop."""

"""The port to the event log: what the broker needs of a journal, whichever backend stores it.

A journal stores opaque records in the order given and returns them in that order after a restart.
The order of calls: construct it, consume `replay()` to its end, then for each batch `room`,
`append`, `sync`, and only after `sync` has returned may anything be answered; `close` at the end.

`append` and `room` belong to one thread. `sync` may run on another thread at the same time; it
then covers what was appended before it was called.

A replicated log fits the same port: its `append` or `sync` raises `JournalFencedError` when
another writer has taken over, and the process stops as it does for any `JournalFailedError`.
`tests/broker/journal/test_contract.py` runs against every backend; a new one is added there.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Protocol

RECORD: Final = 1
SNAPSHOT_CHUNK: Final = 2

NOT_REPLAYED: Final = "replay the journal to its end first"
REPLAYED_TWICE: Final = "a journal is replayed once, before anything else"
CLOSED: Final = "the journal is closed"


class Entry(NamedTuple):
    """One item of a replay.

    `sequence` counts records from 1 without gaps; a snapshot chunk carries the sequence of the last
    record that the snapshot covers. `kind` is `RECORD` or `SNAPSHOT_CHUNK`.
    """

    sequence: int
    kind: int
    payload: bytes


class Journal(Protocol):
    """Where the broker keeps what must survive it."""

    is_kept: bool
    """Whether appended records are stored; if not, there is always room, and nothing to encode."""

    def replay(self) -> Iterator[Entry]:
        """Yield all that is stored: the newest snapshot's chunks, then every later record in order.

        Call it once, and consume it before any other call. Raises `JournalDamagedError` or
        `JournalVersionError` if what is stored cannot be trusted, possibly after some entries.
        """
        ...

    def room(self, worst_bytes: int, records: int = 1) -> bool:
        """Reserve room for a batch before it is decided; return whether there is any.

        `worst_bytes` is the most that the payloads of the batch can add up to, `records` the most
        records it can have. False means that nothing was written, because the disk is full or
        `look` has found that a file is missing; a later call may succeed. After True, an append
        within these bounds does not run out of room. Raises
        `JournalFailedError`.
        """
        ...

    def append(self, payloads: Sequence[bytes]) -> None:
        """Write a batch, one record for each payload, in order; durable only after `sync`.

        Raises `JournalFailedError`: none, some or all of the batch may be stored, so stop.
        """
        ...

    def sync(self) -> None:
        """Make everything appended so far durable, as far as the fsync policy asks for it.

        Costs nothing when there is nothing to do. Raises `JournalFailedError`.
        """
        ...

    def look(self) -> str | None:
        """Check that everything stored is still in its place; call it every few seconds.

        Return what is missing, None if nothing is. Until it is back there is no `room`. Raises
        `JournalFailedError` if what is appended could not be found again.
        """
        ...

    def close(self) -> None:
        """Sync once more, as the policy says, and release all resources. May be repeated.

        Raises `JournalFailedError` if that last sync fails.
        """
        ...


class NoJournal:
    """The backend of a broker that stores nothing. It enforces the order of calls all the same."""

    is_kept = False

    def __init__(self) -> None:
        """Wait for the replay."""
        self._replay_began = False
        self._refusal: str | None = NOT_REPLAYED

    def replay(self) -> Iterator[Entry]:
        """Yield nothing."""
        if self._replay_began or self._refusal == CLOSED:
            raise JournalError(REPLAYED_TWICE)
        self._replay_began = True
        yield from ()
        self._refusal = None

    def room(self, worst_bytes: int, records: int = 1) -> bool:  # noqa: ARG002 (the port's)
        """Return True: nothing is stored, so there is always room."""
        self.sync()
        return True

    def append(self, payloads: Sequence[bytes]) -> None:  # noqa: ARG002 (the port's)
        """Drop the payloads."""
        self.sync()

    def sync(self) -> None:
        """Check the order of calls; there is nothing to sync."""
        if self._refusal is not None:
            raise JournalError(self._refusal)

    def look(self) -> None:
        """Check the order of calls; there is nothing that could be missing."""
        self.sync()

    def close(self) -> None:
        """Refuse every later call."""
        self._refusal = CLOSED


def parse_fsync(text: str) -> int | None:
    """Return how long, in ms, an fsync policy lets records stay unsynced; None is without end.

    always (0): a power loss loses nothing acknowledged. interval:MS: a power loss loses at most
    what was acknowledged in the last MS milliseconds, provided that `sync` is called that often.
    never (None): a power loss loses what the kernel had not yet written on its own, half a minute
    or more. A crash of the broker alone loses nothing under any policy. ValueError names the forms.
    """
    if text == "always":
        return 0
    if text == "never":
        return None
    form, _, number = text.partition(":")
    if form != "interval" or not (number.isascii() and number.isdecimal()) or int(number) == 0:
        raise ValueError(
            f"{text!r} is no fsync policy: use 'always', 'interval:MILLISECONDS' (such as"
            " interval:250) or 'never'"
        )
    return int(number)


# --- errors: one class for each way to react ------------------------------------------------------


class JournalError(Exception):
    """The base of all errors of a journal; by itself: the caller broke the port's contract."""


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
    """The file was written by a newer tollgate, in a format that this one does not know.

    Attributes: `file` (its path), `found` (its format), `known` (the newest format read here).
    """

    def __init__(self, file: Path, found: int, known: int) -> None:
        """Name the file and both format versions."""
        self.file = file
        self.found = found
        self.known = known
        super().__init__(
            f"{file} has journal format {found}, and this tollgate reads formats up to {known}:"
            " start the version that wrote it, or a newer one"
        )


class JournalLockedError(JournalError):
    """Another process has locked the data directory."""

    def __init__(self, directory: Path, holder: str) -> None:
        """Name the directory and the process that has locked it (`holder`: its id, as text)."""
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

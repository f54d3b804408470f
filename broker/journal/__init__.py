"""The port to the event log: what the broker needs of a journal, whichever backend keeps it.

A journal stores opaque records in the order given and hands them back in that order after a
restart. Life of one: construct it, consume `replay()` to its end, then for each batch `room`,
`append`, `sync`, and only after `sync` has returned may anything be answered; `close` at the end.

`append` and `room` belong to one thread. `sync` may run on another thread at the same time; it
then covers what was appended before it was called.

A replicated log fits the same port: its `append` or `sync` raises `JournalFencedError` when
another writer has taken over, and the process stops as it does for any `JournalFailedError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from tollgate.broker.journal.errors import (
    JournalDamagedError,
    JournalError,
    JournalFailedError,
    JournalFencedError,
    JournalLockedError,
    JournalVersionError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = [
    "RECORD",
    "SNAPSHOT_CHUNK",
    "Entry",
    "Journal",
    "JournalDamagedError",
    "JournalError",
    "JournalFailedError",
    "JournalFencedError",
    "JournalLockedError",
    "JournalVersionError",
]

RECORD: Final = 1
SNAPSHOT_CHUNK: Final = 2


class Entry(NamedTuple):
    """One thing that a replay hands back.

    `sequence` counts records from 1 without gaps; a snapshot chunk carries the sequence of the last
    record that the snapshot covers. `kind` is `RECORD` or `SNAPSHOT_CHUNK`.
    """

    sequence: int
    kind: int
    payload: bytes


class Journal(Protocol):
    """Where the broker keeps what must survive it."""

    is_kept: bool
    """Whether what is appended is kept; if not, there is always room, and nothing to encode."""

    def replay(self) -> Iterator[Entry]:
        """Yield all that is stored: the newest snapshot's chunks, then every later record in order.

        To be called once, and to be consumed before anything else. Raises `JournalDamagedError` or
        `JournalVersionError` if what is stored cannot be trusted, possibly after some entries.
        """
        ...

    def room(self, worst_bytes: int, records: int = 1) -> bool:
        """Reserve room for a batch before it is decided; say whether there is any.

        `worst_bytes` is the most that the payloads of the batch can add up to, `records` the most
        records it can have. False means that the disk is full and nothing was written; a later call
        may succeed. After True, an append within these bounds does not run out of room. Raises
        `JournalFailedError`.
        """
        ...

    def append(self, payloads: Sequence[bytes]) -> None:
        """Write a batch, one record for each payload, in order; durable only after `sync`.

        Raises `JournalFailedError`: none, some or all of the batch may be stored, so stop.
        """
        ...

    def sync(self) -> None:
        """Make all that was appended durable, as far as the fsync policy says so.

        Costs nothing when there is nothing to do. Raises `JournalFailedError`.
        """
        ...

    def close(self) -> None:
        """Sync once more, as the policy says, and let go of everything. Harmless when repeated.

        Raises `JournalFailedError` if that last sync fails.
        """
        ...

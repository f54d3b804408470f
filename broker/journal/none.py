"""The journal of a broker that keeps nothing: the same contract, no storage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tollgate.broker.journal.errors import JournalError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tollgate.broker.journal import Entry


class NoJournal:
    """Forgets every record at once, and minds the order of calls as every backend does."""

    is_kept = False

    def __init__(self) -> None:
        """Begin unreplayed."""
        self._is_replayed = False
        self._is_closed = False
        self._replay_began = False

    def replay(self) -> Iterator[Entry]:
        """Yield nothing."""
        if self._replay_began or self._is_closed:
            msg = "a journal is replayed once, before anything else"
            raise JournalError(msg)
        self._replay_began = True
        yield from ()
        self._is_replayed = True

    def room(self, worst_bytes: int, records: int = 1) -> bool:  # noqa: ARG002 (the port's)
        """Nothing is stored, so there is always room."""
        self._check()
        return True

    def append(self, payloads: Sequence[bytes]) -> None:  # noqa: ARG002 (the port's)
        """Forget the payloads."""
        self._check()

    def sync(self) -> None:
        """Do nothing: there is nothing to lose."""
        self._check()

    def close(self) -> None:
        """Refuse everything from now on."""
        self._is_closed = True

    def _check(self) -> None:
        if self._is_closed or not self._is_replayed:
            msg = (
                "the journal is closed"
                if self._is_closed
                else "replay the journal to its end first"
            )
            raise JournalError(msg)

"""The memory of requests: what each session was answered, so that a repeat happens once."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec

from broker.outcomes import AnyOutcome, Digest, weight
from broker.principal import Principal
from domain.exceptions import (
    OverloadedError,
    RequestConflictError,
    SessionEvictedError,
    StaleRequestError,
)
from domain.roles import Role

WINDOW: Final = 64
"""How many requests of a session may be under way: none of their outcomes is forgotten."""


class Session(msgspec.Struct):
    """What is remembered of a session: `acked`, and each request since by its `seq`.

    A request is the digest of its commands, and the outcomes of those that change things; before
    0.2 the digest was a number. `owner` is the name of the principal that opened it.
    """

    acked: int = 0
    outcomes: dict[int, tuple[Digest, list[AnyOutcome]]] = msgspec.field(default_factory=dict)
    owner: str = ""

    @property
    def size(self) -> int:
        """How much there is to remember: see `weight`."""
        return sum(weight(outcomes) for _, outcomes in self.outcomes.values())


class Holding(msgspec.Struct):
    """What one owner takes up: its sessions, least recently used first, and its outcomes."""

    sessions: OrderedDict[int, None] = msgspec.field(default_factory=OrderedDict)
    outcomes: int = 0


class Ledger:
    """The sessions, least recently used first, in the order of the log.

    A number is given once. Forgetting is told to the ledger (`evict`), never decided by it, so
    that a replay under other limits forgets the same.
    """

    def __init__(self) -> None:
        self._sessions: OrderedDict[int, Session] = OrderedDict()
        self._holdings: dict[str, Holding] = {}
        self.last_session = 0
        self.outcomes = 0
        """How much is remembered in all: see `weight`."""

    def __len__(self) -> int:
        """Return how many sessions there are."""
        return len(self._sessions)

    def open(self, number: int, owner: str) -> None:
        """Let a session begin. Raises SessionEvictedError for a number that is not new."""
        if number <= self.last_session:
            raise SessionEvictedError(f"session {number} was given before")
        self.last_session = number
        self._add(number, Session(owner=owner))

    def check(self, number: int, seq: int, acked: int, principal: Principal) -> None:
        """Return if a request of `principal` may be decided, or answered again.

        Raises SessionEvictedError, of another's session as of one never given;
        StaleRequestError or OverloadedError.
        """
        session = self._find(number)
        if session.owner != principal.name and (session.owner or principal.role is not Role.ADMIN):
            raise _unknown(number)
        acked = max(acked, session.acked)
        if seq <= acked:
            raise StaleRequestError(f"request {seq} was acknowledged: all up to {acked} were")
        if seq > acked + WINDOW:
            raise OverloadedError(
                f"request {seq} is more than {WINDOW} beyond {acked}, the last acknowledged",
                limit=WINDOW,
            )

    def recall(self, number: int, seq: int, digest: bytes) -> list[AnyOutcome] | None:
        """Return the outcomes of a request's commands that change things; None if it is new.

        Raises RequestConflictError if its commands are not those of the first time.
        """
        remembered = self._find(number).outcomes.get(seq)
        if remembered is None:
            return None
        if isinstance(remembered[0], bytes) and remembered[0] != digest:
            raise RequestConflictError(f"request {seq} of this session was another one before")
        return remembered[1]

    def knows(self, number: int) -> bool:
        """Return whether anything is known of a session."""
        return number in self._sessions

    def forgets(self, number: int, acked: int) -> bool:
        """Return whether acknowledging all up to `acked` lets something be forgotten."""
        session = self._find(number)
        return acked > session.acked and bool(session.outcomes)

    def remember(
        self, number: int, seq: int, acked: int, digest: Digest, outcomes: Sequence[AnyOutcome]
    ) -> None:
        """Keep a request's outcomes, and forget those acknowledged.

        Raises SessionEvictedError, or RequestConflictError if some are kept already.
        """
        session = self._find(number)
        if outcomes and seq in session.outcomes:
            raise RequestConflictError(f"request {seq} of session {number} was executed before")
        self._sessions.move_to_end(number)
        holding = self._holdings[session.owner]
        holding.sessions.move_to_end(number)
        before = self.outcomes
        if acked > session.acked:
            session.acked = acked
            for old in [old for old in session.outcomes if old <= acked]:
                self.outcomes -= weight(session.outcomes.pop(old)[1])
        if outcomes and seq > session.acked:
            session.outcomes[seq] = (digest, list(outcomes))
            self.outcomes += weight(outcomes)
        holding.outcomes += self.outcomes - before

    def evict(self, number: int) -> None:
        """Forget a session for ever. Raises SessionEvictedError if it is gone already."""
        session = self._find(number)
        size = session.size
        self.outcomes -= size
        del self._sessions[number]
        holding = self._holdings[session.owner]
        holding.outcomes -= size
        del holding.sessions[number]
        if not holding.sessions:
            del self._holdings[session.owner]

    def most_sessions(self, but: int = 0) -> int | None:
        """Return the session, but for one, to forget when there are too many sessions."""
        return self._first_to_go(but, lambda holding: len(holding.sessions))

    def most_outcomes(self, but: int = 0) -> int | None:
        """Return the session, but for one, to forget when there are too many outcomes."""
        return self._first_to_go(but, lambda holding: holding.outcomes)

    def _first_to_go(self, but: int, size: Callable[[Holding], int]) -> int | None:
        """Return what has gone unused for longest of who takes up most: nobody else pays."""
        for holding in sorted(self._holdings.values(), key=size, reverse=True):
            for number in holding.sessions:
                if number != but:
                    return number
        return None

    def sessions(self) -> Iterator[tuple[int, Session]]:
        """Yield what is remembered, least recently used first."""
        yield from self._sessions.items()

    def restore(self, number: int, session: Session) -> None:
        """Put a session back as the most recently used."""
        self._add(number, session)

    def _add(self, number: int, session: Session) -> None:
        self._sessions[number] = session
        self.outcomes += session.size
        holding = self._holdings.setdefault(session.owner, Holding())
        holding.sessions[number] = None
        holding.outcomes += session.size

    def _find(self, number: int) -> Session:
        session = self._sessions.get(number)
        if session is None:
            raise _unknown(number)
        return session


def _unknown(number: int) -> SessionEvictedError:
    return SessionEvictedError(f"nothing is known of session {number} (any more)")

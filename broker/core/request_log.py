"""The memory of requests: what each session was answered, so that a repeat happens once."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

import msgspec

from tollgate.broker.core.outcomes import AnyOutcome, Digest, weight
from tollgate.broker.core.principal import Principal
from tollgate.broker.core.roles import Role
from tollgate.domain.exceptions import (
    OverloadedError,
    RequestConflictError,
    SessionEvictedError,
    StaleRequestError,
)

WINDOW: Final = 64
"""How many requests of a session may be under way: none of their outcomes is forgotten."""


FRESH_MAX: Final = 64
"""How many requests are kept as they were written: texts in them may be stored nowhere else."""


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


class Written(Protocol):
    """What was written down of a request; its outcomes in full are made when they are needed."""

    @property
    def digest(self) -> Digest:
        """What tells its commands from others."""

    @property
    def outcomes(self) -> Sequence[int | AnyOutcome]:
        """The outcomes in short, as many as in full."""

    def full_outcomes(self) -> list[AnyOutcome]:
        """Return the outcomes in full."""


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
        self._fresh: OrderedDict[tuple[int, int], Written] = OrderedDict()
        """The latest requests as they were written: most are acknowledged before they are asked."""

    def __len__(self) -> int:
        """Return how many sessions there are."""
        return len(self._sessions)

    def open(self, number: int, owner: str) -> None:
        """Let a session begin. Raises SessionEvictedError for a number that is not new."""
        if number <= self.last_session:
            raise SessionEvictedError(f"session {number} was given before")
        self.last_session = number
        self._add(number, Session(owner=owner))

    def recall(
        self, number: int, seq: int, acked: int, digest: bytes, principal: Principal
    ) -> list[AnyOutcome] | None:
        """Return the outcomes of a request's commands that change things; None if it is new.

        Raises SessionEvictedError, of another's session as of one never given; StaleRequestError or
        OverloadedError; RequestConflictError if its commands are not those of the first time.
        """
        session = self._sessions.get(number)
        if session is None or (
            session.owner != principal.name and (session.owner or principal.role is not Role.ADMIN)
        ):
            raise _unknown(number)
        acked = max(acked, session.acked)
        if seq <= acked:
            raise StaleRequestError(f"request {seq} was acknowledged: all up to {acked} were")
        if seq > acked + WINDOW:
            raise OverloadedError(
                f"request {seq} is more than {WINDOW} beyond {acked}, the last acknowledged",
                limit=WINDOW,
            )
        if seq not in session.outcomes:
            return None
        self._write_out(number, seq)
        then, outcomes = session.outcomes[seq]
        if isinstance(then, bytes) and then != digest:
            raise RequestConflictError(f"request {seq} of this session was another one before")
        return outcomes

    def knows(self, number: int) -> bool:
        """Return whether anything is known of a session."""
        return number in self._sessions

    def forgets(self, number: int, acked: int) -> bool:
        """Return whether acknowledging all up to `acked` lets something be forgotten."""
        session = self._find(number)
        return acked > session.acked and bool(session.outcomes)

    def remember(self, number: int, seq: int, acked: int, written: Written) -> None:
        """Keep a request's outcomes, and forget those acknowledged.

        Raises SessionEvictedError, or RequestConflictError if some are kept already.
        """
        session, outcomes = self._find(number), written.outcomes
        if outcomes and seq in session.outcomes:
            raise RequestConflictError(f"request {seq} of session {number} was executed before")
        self._sessions.move_to_end(number)
        holding = self._holdings[session.owner]
        holding.sessions.move_to_end(number)
        before = self.outcomes
        if acked > session.acked:
            session.acked = acked
            for old in [old for old in session.outcomes if old <= acked]:
                _, forgotten = session.outcomes.pop(old)
                fresh = self._fresh.pop((number, old), None)
                self.outcomes -= weight(fresh.outcomes if fresh else forgotten)
        if outcomes and seq > session.acked:
            session.outcomes[seq] = (written.digest, [])
            self._fresh[number, seq] = written
            self.outcomes += weight(outcomes)
            if len(self._fresh) > FRESH_MAX:
                self._write_out(*next(iter(self._fresh)))
        holding.outcomes += self.outcomes - before

    def _write_out(self, number: int, seq: int) -> None:
        """Keep of a request its outcomes alone, and not the events that they are made of."""
        written = self._fresh.pop((number, seq), None)
        if written is not None:
            self._sessions[number].outcomes[seq] = (written.digest, written.full_outcomes())

    def evict(self, number: int) -> None:
        """Forget a session for ever. Raises SessionEvictedError if it is gone already."""
        session = self._find(number)
        for seq in session.outcomes:
            self._write_out(number, seq)
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
        for request in [*self._fresh]:
            self._write_out(*request)
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

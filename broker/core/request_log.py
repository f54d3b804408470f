"""The request log: what each session was answered, so that a repeated request happens once."""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

import msgspec

from tollgate.broker.core.records import AnyOutcome, Record, weight
from tollgate.broker.core.roles import Principal
from tollgate.domain.exceptions import (
    OverloadedError,
    RequestConflictError,
    SessionEvictedError,
    StaleRequestError,
)
from tollgate.domain.messages import WINDOW

RECENT_MAX: Final = 64
"""How many requests are kept as records: texts of their events may be stored nowhere else."""
HEAVY: Final = 64
"""Outcomes that weigh more are not freed at once when they are forgotten: see `free_some`."""
FREED_MAX: Final = 16_384
"""The weight that one call of `free_some` frees, and one request more: a millisecond."""


Kept = dict[int, tuple[bytes, list[AnyOutcome]]]
"""Digest and outcomes of requests, by `seq`."""


class SessionLog(msgspec.Struct):
    """What is remembered of a session: `acked`, and each request since then by its `seq`.

    A request is the digest of its commands, and the outcomes of those that change something.
    `owner` is the name of the principal that opened the session, and `client` of its program.
    """

    acked: int = 0
    outcomes: Kept = msgspec.field(default_factory=dict)
    owner: str = ""
    client: str = ""

    @property
    def size(self) -> int:
        """How much there is to remember: see `weight`."""
        return sum(weight(outcomes) for _, outcomes in self.outcomes.values())


class Holding(msgspec.Struct):
    """What one owner takes up: its sessions, least recently used first, and its outcomes."""

    sessions: OrderedDict[int, None] = msgspec.field(default_factory=OrderedDict)
    outcomes: int = 0


class RequestLog:
    """The sessions, least recently used first, in the order of the journal.

    A session number is given once. The log never decides what to forget: `evict` tells it, so that
    a replay under other limits forgets the same.
    """

    def __init__(self) -> None:
        self._sessions: OrderedDict[int, SessionLog] = OrderedDict()
        self._holdings: dict[str, Holding] = {}
        self.last_session = 0
        self.outcomes = 0
        """How much is remembered in all: see `weight`."""
        self._recent: OrderedDict[tuple[int, int], tuple[Record, int]] = OrderedDict()
        """The records of the latest requests, with the weight of each. Most are acknowledged before
        anything needs their outcomes written out."""
        self.forgotten: deque[tuple[object, int]] = deque()
        """What is forgotten and not freed yet, with its weight."""

    def __len__(self) -> int:
        """Return how many sessions there are."""
        return len(self._sessions)

    @property
    def owners(self) -> int:
        """How many principals have sessions."""
        return len(self._holdings)

    def open(self, number: int, owner: str, client: str = "") -> None:
        """Open a session. Raises SessionEvictedError for a number that is not new."""
        if number <= self.last_session:
            raise SessionEvictedError(f"session {number} was given before")
        self.last_session = number
        self.restore(number, SessionLog(owner=owner, client=client))

    def recall(
        self, number: int, seq: int, acked: int, digest: bytes, principal: Principal
    ) -> list[AnyOutcome] | None:
        """Return the outcomes of a request's commands that change something; None for a new one.

        Raises SessionEvictedError, also for a session of another principal; StaleRequestError or
        OverloadedError; RequestConflictError if its commands differ from those of the first time.
        """
        session = self._sessions.get(number)
        if session is None or session.owner != principal.name:
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
        if then != digest:
            raise RequestConflictError(f"request {seq} of this session was another one before")
        return outcomes

    def knows(self, number: int) -> bool:
        """Return whether a session is open."""
        return number in self._sessions

    def client_of(self, number: int) -> str:
        """Return the name of the program that opened a session, "" if it gave none."""
        session = self._sessions.get(number)
        return "" if session is None else session.client

    def latest(self, most: int) -> Iterator[SessionLog]:
        """Yield sessions, the most recently used first."""
        return islice(reversed(self._sessions.values()), most)

    def evict_all(self) -> None:
        """Forget all sessions."""
        for number in [*self._sessions]:
            self.evict(number)

    def forgets(self, number: int, acked: int) -> bool:
        """Return whether acknowledging all requests up to `acked` frees an outcome."""
        session = self._find(number)
        return acked > session.acked and bool(session.outcomes)

    def remember(self, record: Record) -> None:
        """Keep the outcomes of a request of a session, and forget the acknowledged ones.

        Raises SessionEvictedError, or RequestConflictError if the request was remembered already.
        """
        number, seq, acked, outcomes = record.session, record.seq, record.acked, record.outcomes
        if not number:
            return
        session = self._sessions.get(number)
        if session is None:
            raise _unknown(number)
        kept = session.outcomes
        if outcomes and seq in kept:
            raise RequestConflictError(f"request {seq} of session {number} was executed before")
        self._sessions.move_to_end(number)
        holding = self._holdings[session.owner]
        holding.sessions.move_to_end(number)
        added = 0
        if acked > session.acked:
            session.acked = acked
            added -= self._forget(number, kept, acked)
        if outcomes and seq > session.acked:
            size = weight(outcomes)
            kept[seq], recent = (record.digest, []), self._recent
            recent[number, seq] = record, size
            added += size
            if len(recent) > RECENT_MAX:
                self._write_out(*next(iter(recent)))
        self.outcomes += added
        holding.outcomes += added

    def _write_out(self, number: int, seq: int) -> None:
        """Keep only the outcomes of a request, and not the events that some of them refer to."""
        recent = self._recent.pop((number, seq), None)
        if recent is not None:
            record, _ = recent
            self._sessions[number].outcomes[seq] = (record.digest, record.full_outcomes())

    def evict(self, number: int) -> None:
        """Forget a session. Raises SessionEvictedError if it is not open."""
        session = self._find(number)
        size = self._forget(number, session.outcomes, max(session.outcomes, default=0))
        self.outcomes -= size
        del self._sessions[number]
        holding = self._holdings[session.owner]
        holding.outcomes -= size
        del holding.sessions[number]
        if not holding.sessions:
            del self._holdings[session.owner]

    def _forget(self, number: int, kept: Kept, acked: int) -> int:
        """Let the outcomes of a session's requests up to `acked` go; return their weight."""
        weighed = 0
        for seq in [*kept]:
            if seq > acked:
                continue
            _, outcomes = kept.pop(seq)
            recent = self._recent.pop((number, seq), None)  # those are never written out
            size = weight(outcomes) if recent is None else recent[1]
            if size > HEAVY:
                self.forgotten.append((recent or outcomes, size))
            weighed += size
        return weighed

    def free_some(self, most: int = FREED_MAX) -> None:
        """Free some of what is forgotten: all the grants of a session take longer than one step."""
        while self.forgotten and most > 0:
            most -= self.forgotten.popleft()[1]

    def most_sessions(self, but: int = 0) -> int | None:
        """Return the session to evict when there are too many sessions; never the session `but`."""
        return self._to_evict(but, lambda holding: len(holding.sessions))

    def most_outcomes(self, but: int = 0) -> int | None:
        """Return the session to evict when there are too many outcomes; never the session `but`."""
        return self._to_evict(but, lambda holding: holding.outcomes)

    def _to_evict(self, but: int, size: Callable[[Holding], int]) -> int | None:
        """Return the least recently used session of the owner that takes up the most."""
        most = max(self._holdings.values(), key=size, default=Holding())
        for number in islice(most.sessions, 2):  # the common case, without sorting them
            if number != but:
                return number
        for holding in sorted(self._holdings.values(), key=size, reverse=True):
            for number in holding.sessions:
                if number != but:
                    return number
        return None

    def sessions(self) -> Iterator[tuple[int, SessionLog]]:
        """Yield the sessions, least recently used first."""
        for request in [*self._recent]:
            self._write_out(*request)
        yield from self._sessions.items()

    def restore(self, number: int, session: SessionLog) -> None:
        """Add a session as the most recently used one."""
        self._sessions[number] = session
        self.outcomes += session.size
        holding = self._holdings.setdefault(session.owner, Holding())
        holding.sessions[number] = None
        holding.outcomes += session.size

    def _find(self, number: int) -> SessionLog:
        session = self._sessions.get(number)
        if session is None:
            raise _unknown(number)
        return session


def _unknown(number: int) -> SessionEvictedError:
    return SessionEvictedError(f"session {number} is not known, or no longer")

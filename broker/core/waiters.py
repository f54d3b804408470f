"""Parked commands: waits by job, claims by status and queue, each until its time is over."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import count
from operator import itemgetter
from typing import Final, TypeVar

import msgspec

from tollgate.broker.core.feed import Place
from tollgate.broker.core.roles import Principal
from tollgate.broker.core.timers import NEVER_MS, Timeline, Timers
from tollgate.broker.repository.lines import Claimed
from tollgate.domain.commands import ALL_QUEUES, Claim, Events, Wait
from tollgate.domain.exceptions import OverloadedError
from tollgate.domain.results import DEFAULT_QUEUE
from tollgate.domain.status import AWAITING_INPUT, RUNNING, JobStatus

Key = tuple[int, bytes, int]
"""Session, or connection without one, and number of the request. Such tuples have an order."""

Counted = TypeVar("Counted", bytes, str)


class Ticket(msgspec.Struct, frozen=True):
    """Where an answer goes: the connection, its principal, and the request."""

    peer: bytes
    principal: Principal
    session: int
    seq: int
    digest: bytes = b""

    @property
    def key(self) -> Key:
        """The key of the request and of its repeats, also those on another connection."""
        return (self.session, b"" if self.session else self.peer, self.seq)


_DEFAULT_QUEUES: Final = (DEFAULT_QUEUE,)
_ALL_QUEUES: Final = (ALL_QUEUES,)


def state_of(claim: Claim) -> Claimed:
    """Return what a claim is for: a status, or the state of a settlement."""
    return claim.settlement if claim.status is None else claim.status  # type: ignore[return-value]  # one of them is set


def names_of(claim: Claim) -> Sequence[str]:
    """Return the queues of a claim; work is claimed from the default queue if it names none."""
    if claim.queues is not None:
        return claim.queues
    return _DEFAULT_QUEUES if claim.status in (RUNNING, AWAITING_INPUT) else _ALL_QUEUES


class Parked(msgspec.Struct, eq=False):
    """A command that waits, until `due_ms` (monotonic) at the latest."""

    ticket: Ticket
    command: Wait | Claim | Events
    due_ms: int
    job_ids: frozenset[str]
    """The jobs of a wait; empty for others."""
    number: int = 0
    """A command that was parked later has a greater one."""
    place: Place | None = None
    """Up to where a reader of events has seen everything."""


Due = tuple[int, Key]
"""When a parked command's time is over. Of an answered command nothing else is kept."""


class Waiters:
    """All parked commands, by the job, or the status and the queue, that they wait for.

    `parked_max` bounds the commands, `share_max` those of one connection, `watched_max` the jobs
    that all waits together name. One principal has at most three quarters of the commands and of
    the jobs, on any number of connections: the rest is for others.
    """

    def __init__(
        self,
        parked_max: int,
        share_max: int,
        watched_max: int,
        timeline: Timeline[int] | None = None,
    ) -> None:
        """Start empty. The ends are added to `timeline`, of the monotonic clock."""
        self._parked_max = parked_max
        self._share_max = share_max
        self._watched_max = watched_max
        # Plain dicts: the methods of a Counter that drop a key or miss one are Python.
        self._by_peer: dict[bytes, int] = {}
        self._by_name: dict[str, int] = {}
        self._watched_by_name: dict[str, int] = {}
        self.watched = 0
        """How many jobs all waits together name."""
        self.parked: dict[Key, Parked] = {}
        """By key."""
        self._waits: dict[str, dict[int, Parked]] = {}
        self.claims: dict[tuple[Claimed, str], OrderedDict[int, Parked]] = {}
        """By status or settlement state, and by queue; in order of parking."""
        self.readers: dict[int, Parked] = {}
        """The readers of events, in order of parking."""
        self.unserved: dict[int, None] = {}
        """Those for which there may be events, the first to be served first."""
        self.served_to: Place = (0, 0)
        """The end of the feed when the readers were last looked at."""
        self.serve_at_ms = 0
        """When they are served again, at the earliest."""
        self._numbers = count(1)
        self.timers: Timers[int, Due] = Timers(
            timeline or Timeline(NEVER_MS), itemgetter(0), self._is_parked, self.parked.__len__
        )

    def park(self, ticket: Ticket, command: Wait | Claim | Events, due_ms: int) -> None:
        """Park a command; a repeat takes the place of the command that it repeats.

        Raises OverloadedError when there is no room.
        """
        key = ticket.key
        parked = self.parked.get(key)
        if parked is not None and parked.command == command:
            self._count(parked, -1)
            parked.ticket = ticket  # and its time goes on: a repeat is not a new wait
            self._count(parked, 1)
            return
        if parked is not None:
            self.remove(parked)
        job_ids = frozenset(command.job_ids if isinstance(command, Wait) else ())
        self._add(Parked(ticket, command, due_ms, job_ids, next(self._numbers)), key)
        self.timers.add((due_ms, key))

    def has_other(self, session: int, seq: int, digest: bytes) -> bool:
        """Return whether another command than that of `digest` is parked under the number."""
        parked = self.parked.get((session, b"", seq))
        return parked is not None and parked.ticket.digest != digest

    def find(self, ticket: Ticket, seq: int) -> Parked | None:
        """Return the parked command with this number, of the same session or connection."""
        return self.parked.get((*ticket.key[:2], seq))

    def remove(self, parked: Parked) -> None:
        """Remove a parked command: it is answered."""
        del self.parked[parked.ticket.key]
        self._count(parked, -1)
        if isinstance(parked.command, Claim):
            for key in _keys_of(parked.command):
                claims = self.claims[key]
                del claims[parked.number]
                if not claims:
                    del self.claims[key]
            return
        if isinstance(parked.command, Events):
            del self.readers[parked.number]
            return
        for job_id in parked.job_ids:
            waits = self._waits[job_id]
            del waits[id(parked)]
            if not waits:
                del self._waits[job_id]

    def awaiting(self, job_id: str, status: JobStatus) -> list[Parked]:
        """Return the waits that end when the job enters `status`."""
        waits = self._waits.get(job_id)
        if waits is None:
            return []
        return [
            parked
            for parked in waits.values()
            if isinstance(parked.command, Wait) and status in parked.command.awaited
        ]

    def first_claim(self, state: Claimed, queue: str) -> Parked | None:
        """Return the claim that would take a job of a queue and has been parked longest."""
        first: Parked | None = None
        for name in (queue, ALL_QUEUES):
            claims = self.claims.get((state, name))
            if claims:
                parked = next(iter(claims.values()))
                if first is None or parked.number < first.number:
                    first = parked
        return first

    def due(self, now_ms: int) -> Iterator[Parked]:
        """Yield each parked command whose time is over."""
        for _, key in self.timers.due(now_ms):
            yield self.parked[key]

    def all_parked(self) -> list[Parked]:
        """Return all parked commands."""
        return list(self.parked.values())

    def next_due_ms(self) -> int | None:
        """Return when the time of a parked command may be over (monotonic)."""
        return self.timers.first_due()

    def _add(self, parked: Parked, key: Key) -> None:
        self._check_room(parked)
        command = parked.command
        if isinstance(command, Claim):
            for of_claim in _keys_of(command):
                self.claims.setdefault(of_claim, OrderedDict())[parked.number] = parked
        elif isinstance(command, Events):
            self.readers[parked.number] = parked
        for job_id in parked.job_ids:
            self._waits.setdefault(job_id, {})[id(parked)] = parked
        self.parked[key] = parked
        self._count(parked, 1)

    def _check_room(self, parked: Parked) -> None:
        """Raise OverloadedError if the command, or its jobs, would be more than a limit."""
        peer, name = parked.ticket.peer, parked.ticket.principal.name
        jobs = len(parked.job_ids)
        of_peer, of_name = self._by_peer.get(peer, 0), self._by_name.get(name, 0)
        if len(self.parked) >= self._parked_max:
            raise _too_many(len(self.parked), "commands are parked", self._parked_max)
        if of_peer >= self._share_max:
            raise _too_many(of_peer, "commands of this connection are parked", self._share_max)
        if of_name >= _most(self._parked_max):
            raise _too_many(of_name, f"commands of {name} are parked", _most(self._parked_max))
        if not jobs:
            return
        watched = self._watched_by_name.get(name, 0)
        if self.watched + jobs > self._watched_max:
            raise _too_many(self.watched, "jobs are waited for", self._watched_max)
        if watched + jobs > _most(self._watched_max):
            raise _too_many(watched, f"jobs are waited for by {name}", _most(self._watched_max))

    def _count(self, parked: Parked, by: int) -> None:
        name = parked.ticket.principal.name
        _add_to(self._by_peer, parked.ticket.peer, by)
        _add_to(self._by_name, name, by)
        if parked.job_ids:
            self.watched += by * len(parked.job_ids)
            _add_to(self._watched_by_name, name, by * len(parked.job_ids))

    def _is_parked(self, due: Due) -> bool:
        parked = self.parked.get(due[1])
        return parked is not None and parked.due_ms == due[0]


def _keys_of(claim: Claim) -> list[tuple[Claimed, str]]:
    state = state_of(claim)
    return [(state, name) for name in dict.fromkeys(names_of(claim))]


def _most(limit: int) -> int:
    """Return the share of a limit that one principal may take."""
    return limit - limit // 4


def _add_to(counts: dict[Counted, int], key: Counted, by: int) -> None:
    """Count, and drop a key whose count is zero."""
    count = counts.get(key, 0) + by
    if count:
        counts[key] = count
    else:
        counts.pop(key, None)


def _too_many(there: int, what: str, limit: int) -> OverloadedError:
    return OverloadedError(f"{there} {what} already", limit=limit)

"""Parked commands, until their time is over: waits by job, claims by queue, readers of events."""

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from operator import itemgetter
from typing import Final, TypeVar

import msgspec

from tollgate.broker.core.feed import Place
from tollgate.broker.core.roles import Principal
from tollgate.broker.core.timers import NEVER_MS, Timeline, Timers
from tollgate.broker.repository.job import Claimed
from tollgate.broker.repository.table import ShardedTable
from tollgate.domain.commands import ALL_QUEUES, Claim, Events, Wait
from tollgate.domain.exceptions import OverloadedError
from tollgate.domain.results import DEFAULT_QUEUE, Result
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


END_COST: Final = 24
"""Cost of the answer to a parked command; each queue that it is found under costs 1,"""
JOB_COST: Final = 2
"""and each job 2."""
ENDS_MAX: Final = 4_096
"""Cost of the parked commands that one batch ends, at most: 2 ms, and messages need time, too."""
LOOK_COST: Final = 3
"""Cost of looking at one that does not end."""
SERVED_MAX: Final = 3_072
"""The same of the parked claims that one batch grants leases: these take longer."""
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
    awaited: frozenset[JobStatus] = frozenset()
    """The statuses that end a wait."""

    @property
    def cost(self) -> int:
        """The cost of its end, see `ENDS_MAX`."""
        if isinstance(self.command, Claim):
            return END_COST + len(names_of(self.command))
        return END_COST + JOB_COST * len(self.job_ids)


Group = dict[int, Parked]
"""Parked commands by number, in order of parking."""


class Ending:
    """Parked commands that end together, with the same result; they are answered one by one.

    These are all in `groups`, which nothing else knows any more; or else all parked ones up to the
    number `last`, or those of some principals and keys, `of`. Each is let go as soon as it is
    looked at: to free all of them in the end would take long.
    """

    __slots__ = ("groups", "is_over", "last", "members", "of", "result")

    def __init__(
        self,
        members: Iterable[Parked],
        result: Result,
        groups: Sequence[Group] = (),
        last: int = 0,
        of: frozenset[Principal] | None = None,
    ) -> None:
        self.members = deque(members)
        """Those that were not looked at yet; some were answered otherwise, or are not meant."""
        self.result = result
        self.groups = groups
        self.last = last
        self.of = of
        self.is_over = False
        """Whether all of them are answered."""

    def has(self, parked: Parked) -> bool:
        """Return whether a command that is still parked ends by this."""
        if self.groups:
            return any(parked.number in group for group in self.groups)
        return parked.number <= self.last and (
            self.of is None or parked.ticket.principal in self.of
        )


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
        self._waits: ShardedTable[dict[frozenset[JobStatus], Group]] = ShardedTable()
        """By job, and by the statuses that are awaited: the waits that end together."""
        self.endings: deque[Ending] = deque()
        """Those of which not all are answered yet; each of them is among the answers, too."""
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
        self._last_number = 0
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
        new = Parked(ticket, command, due_ms, frozenset(), self._last_number + 1)
        if isinstance(command, Wait):
            new.job_ids, new.awaited = frozenset(command.job_ids), command.awaited
        self._add(new, key)
        self._last_number += 1
        self.timers.add((due_ms, key))

    def has_other(self, session: int, seq: int, digest: bytes) -> bool:
        """Return whether another command than that of `digest` is parked under the number."""
        parked = self.parked.get((session, b"", seq))
        return parked is not None and parked.ticket.digest != digest

    def find_all(self, ticket: Ticket, seqs: Sequence[int]) -> list[Parked]:
        """Return the parked commands with these numbers, of the same session or connection."""
        session, peer, _ = ticket.key
        found = [self.parked.get((session, peer, seq)) for seq in dict.fromkeys(seqs)]
        return [parked for parked in found if parked is not None]

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
        number, awaited = parked.number, parked.awaited
        for job_id in parked.job_ids:
            groups = self._waits.get(job_id)
            group = None if groups is None else groups.get(awaited)
            if groups is None or group is None or number not in group:
                continue  # an ending has the group that it was in
            del group[number]
            if not group:
                del groups[awaited]
                if not groups:
                    del self._waits[job_id]

    def awaiting(self, job_id: str, status: JobStatus) -> list[Parked]:
        """Return the waits that end when the job enters `status`."""
        groups = self._waits.get(job_id) or {}
        ended = [group for awaited, group in groups.items() if status in awaited]
        return [*chain.from_iterable(map(dict.values, ended))]

    def take_groups(self, job_id: str, status: JobStatus) -> list[Group]:
        """Take out the waits that end when the job enters `status`; the caller ends all of them.

        This takes no longer if there are many of them.
        """
        groups = self._waits.get(job_id)
        if groups is None:
            return []
        ended = [groups.pop(awaited) for awaited in [*groups] if status in awaited]
        if not groups:
            del self._waits[job_id]
        return ended

    def end_groups(self, groups: list[Group], result: Result) -> Ending:
        """Let waits that were taken out end."""
        members = chain.from_iterable(map(dict.values, groups))
        self.endings.append(ending := Ending(members, result, groups))
        return ending

    def end_all(self, result: Result, of: frozenset[Principal] | None = None) -> Ending:
        """Let all commands end that are parked now, or those of some principals and keys."""
        ending = Ending(self.parked.values(), result, last=self._last_number, of=of)
        self.endings.append(ending)
        return ending

    def take_ended(self, ending: Ending, left: int) -> tuple[Parked | None, int]:
        """Take out the next command of the first ending, and take its cost off `left`.

        Return it, and what is left. Without one, nothing is left, or the ending `is_over`.
        """
        while ending.members:
            if left <= 0:
                return None, left
            parked = ending.members.popleft()
            left -= LOOK_COST
            is_parked = self.parked.get(parked.ticket.key) is parked
            is_meant = is_parked and ending.has(parked)
            for group in ending.groups:
                group.pop(parked.number, None)
            if is_meant:
                left -= parked.cost
                self.remove(parked)
                return parked, left
        ending.is_over = True
        self.endings.remove(ending)
        return None, left

    def ending_of(self, parked: Parked) -> Ending | None:
        """Return what ends a command that is still parked: its answer is certain then."""
        return next((ending for ending in self.endings if ending.has(parked)), None)

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
            groups = self._waits.setdefault(job_id, {})
            groups.setdefault(parked.awaited, {})[parked.number] = parked
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

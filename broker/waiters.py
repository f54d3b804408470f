"""Commands that wait for their answer, and who is next when something happens."""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from operator import itemgetter

import msgspec

from broker.principal import Principal
from broker.timers import Timers
from domain.commands import Claim, Wait
from domain.exceptions import OverloadedError
from domain.status import JobStatus

Key = tuple[int, bytes, int]
"""Session, or connection where there is none, and request; such tuples have an order."""


class Ticket(msgspec.Struct, frozen=True):
    """Whom to answer: the connection and who is behind it, and the request on it."""

    peer: bytes
    principal: Principal
    session: int
    seq: int
    digest: int = 0

    @property
    def key(self) -> Key:
        """What a repeat of the request has in common with it, on another connection too."""
        return (self.session, b"" if self.session else self.peer, self.seq)


class Parked(msgspec.Struct, eq=False):
    """A command that waits, until `due_ms` (monotonic) at the latest."""

    ticket: Ticket
    command: Wait | Claim
    due_ms: int


Due = tuple[int, Key]
"""When a parked command's time is over: all that is kept of one which has its answer already."""


class Waiters:
    """All parked commands, by the job or the status that they wait for.

    `parked_max` bounds the commands, `share_max` those of one connection, `watched_max` the jobs
    that all waits together name.
    """

    def __init__(self, parked_max: int, share_max: int, watched_max: int) -> None:
        self._parked_max = parked_max
        self._share_max = share_max
        self._shares: Counter[bytes] = Counter()
        self._watched_max = watched_max
        self.watched = 0
        """How many jobs all waits together name."""
        self._parked: dict[Key, Parked] = {}
        self._waits: dict[str, dict[int, Parked]] = {}
        self._claims: dict[JobStatus, OrderedDict[int, Parked]] = {}
        self._timers: Timers[int, Due] = Timers(
            itemgetter(0), self._is_parked, self._parked.__len__
        )

    def __len__(self) -> int:
        """Return how many commands are parked."""
        return len(self._parked)

    def park(self, ticket: Ticket, command: Wait | Claim, due_ms: int) -> None:
        """Keep a command; a repeat takes the place of the one it repeats.

        Raises OverloadedError when there is no room.
        """
        parked = self._parked.get(ticket.key)
        if parked is not None and parked.command == command:
            self._give_back(parked.ticket.peer)
            self._shares[ticket.peer] += 1
            parked.ticket = ticket  # its time goes on: a repeat is no new wait
            return
        if parked is not None:
            self.remove(parked)
        self._add(Parked(ticket, command, due_ms))
        self._timers.add((due_ms, ticket.key))

    def has_other(self, session: int, seq: int, digest: int) -> bool:
        """Return whether another command than that of `digest` is parked under the number."""
        parked = self._parked.get((session, b"", seq))
        return parked is not None and parked.ticket.digest != digest

    def remove(self, parked: Parked) -> None:
        """Let a parked command go: it has its answer."""
        del self._parked[parked.ticket.key]
        self._give_back(parked.ticket.peer)
        if isinstance(parked.command, Claim):
            del self._claims[parked.command.status][id(parked)]
            return
        for job_id in set(parked.command.job_ids):
            waits = self._waits[job_id]
            del waits[id(parked)]
            if not waits:
                del self._waits[job_id]
        self.watched -= len(parked.command.job_ids)

    def awaiting(self, job_id: str, status: JobStatus) -> list[Parked]:
        """Return the waits that end with the job in `status`."""
        waits = self._waits.get(job_id)
        if waits is None:
            return []
        return [
            parked
            for parked in waits.values()
            if isinstance(parked.command, Wait) and status in parked.command.awaited
        ]

    def claims(self) -> Iterable[JobStatus]:
        """Return the statuses in which somebody waits for a job."""
        return [status for status, queue in self._claims.items() if queue]

    def first_claim(self, status: JobStatus) -> Parked | None:
        """Return the claim that has waited for longest for a job in `status`."""
        return next(iter(self._claims.get(status, {}).values()), None)

    def due(self, now_ms: int) -> Iterator[Parked]:
        """Yield each command whose time is over."""
        for _, key in self._timers.due(now_ms):
            yield self._parked[key]

    def everybody(self) -> list[Parked]:
        """Return all parked commands."""
        return list(self._parked.values())

    def next_due_ms(self) -> int | None:
        """Return when some command's time may be over (monotonic)."""
        return self._timers.next()

    def _add(self, parked: Parked) -> None:
        command = parked.command
        if len(self._parked) >= self._parked_max:
            raise OverloadedError(
                f"{self._parked_max} commands are parked already", limit=self._parked_max
            )
        if self._shares[parked.ticket.peer] >= self._share_max:
            raise OverloadedError(
                f"{self._share_max} commands of this connection are parked already",
                limit=self._share_max,
            )
        if isinstance(command, Claim):
            self._claims.setdefault(command.status, OrderedDict())[id(parked)] = parked
        else:
            if self.watched + len(command.job_ids) > self._watched_max:
                raise OverloadedError(
                    f"{self.watched} jobs are waited for already", limit=self._watched_max
                )
            self.watched += len(command.job_ids)
            for job_id in command.job_ids:
                self._waits.setdefault(job_id, {})[id(parked)] = parked
        self._parked[parked.ticket.key] = parked
        self._shares[parked.ticket.peer] += 1

    def _give_back(self, peer: bytes) -> None:
        self._shares[peer] -= 1
        if not self._shares[peer]:
            del self._shares[peer]

    def _is_parked(self, due: Due) -> bool:
        parked = self._parked.get(due[1])
        return parked is not None and parked.due_ms == due[0]

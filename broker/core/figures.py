"""What the core counts while it decides, and the clients that it has heard of.

All of it is of this run: nothing here is in the journal, and a replay counts nothing. The hot path
pays a counter for each run of commands and a note for each request. Times are measured for the
first SAMPLES_MAX jobs between two calls of `refill`: for all jobs while there is little to do, for
a sample of them under load.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from tollgate.broker.core.events import JobTransitioned, LeaseGranted, Origin
from tollgate.broker.core.roles import Role
from tollgate.broker.core.waiters import Ticket, names_of, state_of
from tollgate.broker.repository.history import is_claimed_since_moved
from tollgate.broker.repository.job import Claimed, Slot, claimed_for
from tollgate.domain.commands import Claim, Command
from tollgate.domain.figures import ClientFigures, Denied, Histogram, LastClaim
from tollgate.domain.settlement import SettlementState
from tollgate.domain.status import LEGAL_TRANSITIONS, JobStatus

SAMPLES_MAX: Final = 8
"""How many times are measured between two calls of `refill`."""
CLIENTS_MAX: Final = 1_000
"""How many clients are remembered, by principal and name; the oldest go at a `refill`."""
TIMES_S: Final = (
    0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3_600, 6 * 3_600,
    86_400, 7 * 86_400,
)  # fmt: skip
"""The bounds of the histograms of times of jobs, in seconds: from a millisecond to a week."""

CLAIMED_QUEUES_SHOWN: Final = 8
"""How many queues of a client's last claim are shown."""
NEVER_SEEN: Final = datetime.min.replace(tzinfo=UTC)
Who = tuple[str, str]
"""The name of a principal, and that of its program."""


class Times:
    """A histogram of times in seconds that is counted into."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(TIMES_S) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Count a time; one below zero is a zero: the wall clock may be set back."""
        seconds = max(0.0, seconds)
        self.counts[bisect_left(TIMES_S, seconds)] += 1
        self.total += seconds

    def histogram(self) -> Histogram:
        """Return a copy of what was counted."""
        return Histogram(list(TIMES_S), self.counts.copy(), self.total)


class Heard:
    """A client that sent something: its last request, and its last claim."""

    __slots__ = ("at", "claim", "ticket")

    def __init__(self, ticket: Ticket, at: datetime, claim: LastClaim | None = None) -> None:
        self.ticket = ticket
        self.at = at
        self.claim = claim


def _nothing() -> Mapping[str, Any]:
    return {}


class Figures:
    """Counters of one run of the broker, and its clients."""

    def __init__(self) -> None:
        self.decided: Counter[type[Command]] = Counter()
        """How many commands of each kind were decided."""
        self.refused: defaultdict[type[Command], Counter[str]] = defaultdict(Counter)
        """How many of them were refused, by kind and code."""
        self.attempts = self.lapses = self.repeats = 0
        self.in_status: defaultdict[JobStatus, Times] = defaultdict(Times)
        self.to_claim: defaultdict[Claimed, Times] = defaultdict(Times)
        self.samples_left = SAMPLES_MAX
        self.seen: dict[Who, tuple[Ticket, Origin]] = {}
        """The last request of each client, and when it was decided."""
        self.claims: dict[Who, tuple[Claim, Origin]] = {}
        """The last claim of each client that has claimed."""
        self.last_denied: Denied | None = None
        """The last command that was refused because its sender lacks the role for it."""
        self.outside: Callable[[], Mapping[str, Any]] = _nothing
        """Returns what only the server knows: fields of `StatsResult`, by name."""

    def refill(self) -> None:
        """Let more times be measured, and forget the clients that were seen longest ago.

        The server calls this at most every few milliseconds. Between two calls a
        message adds one client at most.
        """
        self.samples_left = SAMPLES_MAX
        if len(self.seen) > CLIENTS_MAX:
            by_age = sorted(self.seen, key=lambda who: self.seen[who][1].at)
            for who in by_age[: len(self.seen) - CLIENTS_MAX]:
                del self.seen[who]
                self.claims.pop(who, None)

    def put_off(self, commands: Sequence[Command], *, were_counted: bool) -> None:
        """Count the commands of a message not yet: it is decided in the next batch.

        With `were_counted` all of them are counted, decided or not: they are taken off again.
        """
        for command in commands:
            self.decided[type(command)] -= were_counted

    def measure(self, events: Sequence[Any], found: Sequence[Slot | None], origin: Origin) -> None:
        """Measure the jobs of a run of moves or of grants, which is not applied yet."""
        for event, slot in zip(events, found, strict=False):
            if not self.samples_left:
                return
            if slot is None:
                continue
            job = slot.job
            if type(event) is JobTransitioned:
                if job.version == event.version and event.target in LEGAL_TRANSITIONS[job.status]:
                    self.samples_left -= 1
                    self.in_status[job.status].add((event.at - job.updated_at).total_seconds())
            elif type(event) is LeaseGranted and not is_claimed_since_moved(slot.history):
                self.samples_left -= 1
                state, began = claimed_for(job), job.updated_at
                if isinstance(state, SettlementState) and job.settlement is not None:
                    began = job.settlement.updated_at
                self.to_claim[state].add((origin.at - began).total_seconds())

    def heard(self, who: Who) -> Heard | None:
        """Return what a client has sent last, None if it has sent nothing."""
        seen, last = self.seen.get(who), self.claims.get(who)
        if seen is None:
            return None
        claim = None
        if last is not None:
            command, origin = last
            claim = LastClaim(state_of(command).value, [*names_of(command)], origin.at)
        return Heard(seen[0], seen[1].at, claim)

    def by_time(self, some: Iterable[Who]) -> list[Who]:
        """Return clients in the order in which they were seen, the last one first; then by name."""
        seen = self.seen

        def seen_at(who: Who) -> datetime:
            last = seen.get(who)
            return NEVER_SEEN if last is None else last[1].at

        return sorted(sorted(some), key=seen_at, reverse=True)


def client_figures(
    who: Who, heard: Heard | None, leases: int = 0, claims: int = 0, waits: int = 0
) -> ClientFigures:
    """Return the figures of one client."""
    if heard is None:  # it holds leases from before the broker's start
        return ClientFigures(*who, leases=leases, parked_claims=claims, parked_waits=waits)
    last = heard.claim
    if last is not None and len(last.queues) > CLAIMED_QUEUES_SHOWN:
        last = msgspec.structs.replace(last, queues=last.queues[:CLAIMED_QUEUES_SHOWN])
    return ClientFigures(
        *who, _roles_of(heard.ticket), heard.at, leases, claims, waits, last,
    )  # fmt: skip


def _roles_of(ticket: Ticket) -> list[str]:
    return [role.value for role in Role if role in ticket.principal.roles]


def tag_of(kind: type[Command]) -> str:
    """Return how a command is named on the wire."""
    return str(kind.__struct_config__.tag)

"""Figures of a broker, and facts about one job, as `stats` and `explain` show them."""

from datetime import datetime
from typing import Final

import msgspec

SESSIONS_LOOKED: Final = 1_000
"""How many of the latest sessions `stats` looks at to tell whose they are."""


class Facts(msgspec.Struct, omit_defaults=True, gc=False):
    """The base of all figures. On the wire a field that has its default is left out."""


class Histogram(Facts):
    """How often values fell into each range.

    `counts` has one entry for each of `bounds`, which is an upper bound (inclusive), and one more
    for the values above the last. `total` is the sum of all values.
    """

    bounds: list[float]
    counts: list[int]
    total: float = 0.0

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)

    def at(self, share: float) -> float:
        """Return the bound below which this share (0 to 1) of the values lies.

        It is infinite above the last bound, and 0 if there are no values.
        """
        left = share * self.count
        if not left:
            return 0.0
        for bound, count in zip(self.bounds, self.counts, strict=False):
            left -= count
            if left <= 0:
                return bound
        return float("inf")


class StateFigures(Facts):
    """The jobs in one status, or with a settlement in one state.

    Each job in a state that can be claimed is counted once below `count`: as leased, on hold,
    delayed, paused (its queue is), or ready.
    """

    count: int = 0
    oldest: datetime | None = None
    """Since when the job that entered it first has been in it."""
    ready: int = 0
    leased: int = 0
    on_hold: int = 0
    delayed: int = 0
    paused: int = 0


class QueueFigures(Facts):
    """One queue. Statuses and states without jobs are left out."""

    name: str
    statuses: dict[str, StateFigures] = {}
    settlements: dict[str, StateFigures] = {}
    paused: bool = False
    parked_claims: int = 0
    """How many claims wait for a running job of this queue; claims of all queues count too."""


class CommandFigures(Facts):
    """How often a kind of command was decided, and refused by code, since the broker started."""

    decided: int = 0
    refused: dict[str, int] = {}


class LastClaim(Facts):
    """The last claim of a client: of which status or settlement state, of which queues."""

    of: str
    queues: list[str]
    at: datetime


class ClientFigures(Facts):
    """A principal with the name of its program, and what it holds."""

    by: str
    client: str = ""
    roles: list[str] = []
    seen: datetime | None = None
    """When it sent its last request; nil if it has sent none since the broker started."""
    leases: int = 0
    parked_claims: int = 0
    parked_waits: int = 0
    last_claim: LastClaim | None = None
    sessions: int = 0
    """How many of the latest sessions it opened: a client that is made anew for each call has
    many. Only the latest SESSIONS_LOOKED of all clients are looked at."""


class Denied(Facts):
    """A command that was refused because its sender lacks the role for it."""

    by: str
    command: str
    at: datetime
    client: str = ""


class JournalFigures(Facts):
    """The files of the journal."""

    bytes: int
    """Of all segments and snapshots, as the file system has them."""
    segments: int
    snapshots: int
    snapshot_at: datetime | None = None
    """When the newest snapshot was written; nil if there is none."""
    free_bytes: int | None = None
    """What the file system has left."""
    fsync: str = "always"


class LoopFigures(Facts):
    """What the loop of the broker has done since the start."""

    step_s: Histogram
    """The time of each turn that served messages, without the sleep between two turns."""
    batch_messages: Histogram
    """How many messages were decided together."""
    sync_s: Histogram
    """The time of each sync of the journal."""
    pauses: int = 0
    """How often the loop stood still for more than half a second."""


class Coming(Facts):
    """What happens by itself at a time: `what` names it, `then` says in words what it does."""

    what: str
    at: datetime
    then: str


class Legal(Facts):
    """A command that is legal for a job now, and the roles that may send it.

    `to` is the status or state that it leads to, if it leads to one.
    """

    command: str
    roles: list[str]
    to: str | None = None

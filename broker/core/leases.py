"""Leases: which job is held under which token, by whom, and until when."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from operator import attrgetter

import msgspec

from tollgate.broker.core.events import Origin
from tollgate.broker.core.timers import NEVER_MS, Timeline, Timers
from tollgate.broker.repository.job import Slot, StandingLease
from tollgate.broker.repository.job_repo import InMemoryJobRepository
from tollgate.broker.repository.table import ShardedTable
from tollgate.domain.exceptions import LeaseHeldError, LeaseLostError
from tollgate.domain.results import LeaseInfo


class Leases:
    """Grants, extends and ends leases, and counts how often those of each job have lapsed.

    A token is greater than all tokens before it, whatever the job: it is a fencing token. A lease
    stands while it is the one in the slot of its job.
    """

    def __init__(self, jobs: InMemoryJobRepository, timeline: Timeline[int] | None = None) -> None:
        """Start without leases. The ends are added to `timeline`, of the monotonic clock."""
        self._jobs = jobs
        self.lapses: ShardedTable[int] = ShardedTable()
        """How many leases of a job have lapsed since it entered its status; most have no entry."""
        self.last_token = 0
        """The newest token of all."""
        self.timers: Timers[int, StandingLease] = Timers(
            timeline or Timeline(NEVER_MS), attrgetter("ends_ms"), stands, lambda: jobs.leased
        )

    @property
    def next_token(self) -> int:
        """The token for the next grant."""
        return self.last_token + 1

    def check(self, slot: Slot, token: int | None) -> StandingLease | None:
        """Return the lease if a command that shows `token` (None: no token) may act on the job.

        Raises LeaseHeldError or LeaseLostError.
        """
        lease, job_id = slot.lease, slot.job.job_id
        if token is None:
            if lease is not None:
                raise LeaseHeldError(f"somebody holds a lease on job {job_id}", job_id=job_id)
        elif lease is None or lease.token != token:
            fate = "is over" if token <= self.last_token else "was never granted"
            raise LeaseLostError(f"lease {token} on job {job_id} {fate}", job_id=job_id)
        return lease

    def begin(self, slots: Sequence[Slot], leases: Sequence[StandingLease], origin: Origin) -> None:
        """Start leases on jobs that have none, with tokens that are new, in ascending order."""
        self._jobs.lease(slots, leases, origin)
        if leases:
            self.last_token = leases[-1].token
            self.timers.add_all(leases, [lease.ends_ms for lease in leases])

    def touch(self, slot: Slot, token: int, lease_ms: int, now_ms: int) -> None:
        """Let a lease end `lease_ms` from now instead. Raises LeaseLostError."""
        lease = self.check(slot, token)
        if lease is not None:
            self._start(msgspec.structs.replace(lease, ends_ms=now_ms + lease_ms))

    def lapse(self, slot: Slot) -> None:
        """Count a lease whose time is over."""
        job_id = slot.job.job_id
        self.lapses[job_id] = (self.lapses.get(job_id) or 0) + 1

    def lapsed(self, now_ms: int) -> Iterator[StandingLease]:
        """Yield each lease whose time is over, earliest first, once."""
        return self.timers.due(now_ms)

    def standing(self, looked_max: int) -> list[StandingLease]:
        """Return the leases that stand; of more than `looked_max`, those looked at first."""
        return [each for each in islice(self.timers, looked_max) if stands(each)]

    def restart(self, now_ms: int) -> None:
        """Let each standing lease run its time anew from `now_ms` on."""
        for slot in self._jobs.slots():
            if slot.lease is not None:
                lease = slot.lease
                self._start(msgspec.structs.replace(lease, ends_ms=now_ms + lease.lease_ms))

    def restore(self, lapses: Iterable[tuple[str, int]]) -> None:
        """Add the lapses of a snapshot."""
        for job_id, count in lapses:
            self.lapses[job_id] = count

    def _start(self, lease: StandingLease) -> None:
        lease.slot.lease = lease
        self.timers.add(lease)


def stands(lease: StandingLease) -> bool:
    """Return whether a lease still stands."""
    return lease.slot.lease is lease


def info(slot: Slot, now_ms: int) -> LeaseInfo | None:
    """Return the holder of a job, None if it is free."""
    lease = slot.lease
    if lease is None:
        return None
    return LeaseInfo(lease.by, lease.client, max(0, lease.ends_ms - now_ms))

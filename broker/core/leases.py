"""Leases: which job is held under which token, and until when."""

from collections.abc import Iterator
from operator import attrgetter

import msgspec

from tollgate.broker.core.timers import NEVER_MS, Timeline, Timers
from tollgate.domain.exceptions import LeaseHeldError, LeaseLostError


class StandingLease(msgspec.Struct, gc=False):
    """A lease that stands: its token, the time granted, and its end on the monotonic clock."""

    job_id: str
    token: int
    lease_ms: int
    ends_ms: int


class Leases:
    """The standing leases by job, and how often those of each job have lapsed.

    A token is greater than all tokens before it, whatever the job: it is a fencing token.
    """

    def __init__(self, timeline: Timeline[int] | None = None) -> None:
        """Start without leases. The ends are added to `timeline`, of the monotonic clock."""
        self.standing: dict[str, StandingLease] = {}
        """By job id."""
        self.lapses: dict[str, int] = {}
        """How many leases of a job have lapsed since it entered its status; most have no entry."""
        self.last_token = 0
        """The newest token of all."""
        self.timers: Timers[int, StandingLease] = Timers(
            timeline or Timeline(NEVER_MS),
            attrgetter("ends_ms"), self._is_standing, self.standing.__len__,
        )  # fmt: skip

    @property
    def next_token(self) -> int:
        """The token for the next grant."""
        return self.last_token + 1

    def check(self, job_id: str, token: int | None) -> None:
        """Return if a command that shows `token` (None: no token) may act on the job.

        Raises LeaseHeldError or LeaseLostError.
        """
        lease = self.standing.get(job_id)
        if token is None:
            if lease is not None:
                raise LeaseHeldError(f"somebody holds a lease on job {job_id}", job_id=job_id)
        elif lease is None or lease.token != token:
            fate = "is over" if token <= self.last_token else "was never granted"
            raise LeaseLostError(f"lease {token} on job {job_id} {fate}", job_id=job_id)

    def stands(self, job_id: str, token: int) -> bool:
        """Return whether this lease still stands."""
        lease = self.standing.get(job_id)
        return lease is not None and lease.token == token

    def grant(self, job_id: str, token: int, lease_ms: int, now_ms: int) -> None:
        """Start a lease. Raises LeaseHeldError if one stands or the token is an old one."""
        if job_id in self.standing or token <= self.last_token:
            raise LeaseHeldError(f"lease {token} on job {job_id} cannot be granted", job_id=job_id)
        self.last_token = token
        self._start(StandingLease(job_id, token, lease_ms, now_ms + lease_ms))

    def touch(self, job_id: str, token: int, lease_ms: int, now_ms: int) -> None:
        """Let a lease end `lease_ms` from now instead. Raises LeaseLostError."""
        self.check(job_id, token)
        granted_ms = self.standing[job_id].lease_ms  # after a restart the lease runs that long
        self._start(StandingLease(job_id, token, granted_ms, now_ms + lease_ms))

    def end(self, job_id: str, token: int) -> None:
        """End a lease. Raises LeaseLostError."""
        self.check(job_id, token)
        del self.standing[job_id]

    def lapse(self, job_id: str, token: int) -> None:
        """End a lease whose time is over, and count that. Raises LeaseLostError."""
        self.end(job_id, token)
        self.lapses[job_id] = self.lapses.get(job_id, 0) + 1

    def forget(self, job_id: str) -> None:
        """End the lease on a job, and forget its lapses: the job has changed its status."""
        self.standing.pop(job_id, None)
        self.lapses.pop(job_id, None)

    def lapsed(self, now_ms: int) -> Iterator[tuple[str, int]]:
        """Yield job and token of each lease whose time is over, earliest first, once."""
        for lease in self.timers.due(now_ms):
            yield lease.job_id, lease.token

    def restart(self, now_ms: int) -> None:
        """Let each standing lease run its time anew from `now_ms` on."""
        for lease in [*self.standing.values()]:
            self._start(msgspec.structs.replace(lease, ends_ms=now_ms + lease.lease_ms))

    def snapshot(self) -> tuple[list[tuple[str, int, int]], list[tuple[str, int]]]:
        """Return the standing leases (job, token, milliseconds granted), and the lapses by job."""
        standing = [
            (job_id, lease.token, lease.lease_ms) for job_id, lease in self.standing.items()
        ]
        return standing, list(self.lapses.items())

    def restore(self, standing: list[tuple[str, int, int]], lapses: list[tuple[str, int]]) -> None:
        """Add what `snapshot` returned; `restart` starts the leases."""
        for job_id, token, lease_ms in standing:
            self.standing[job_id] = StandingLease(job_id, token, lease_ms, lease_ms)
        self.lapses.update(lapses)

    def _start(self, lease: StandingLease) -> None:
        self.standing[lease.job_id] = lease
        self.timers.add(lease)

    def _is_standing(self, lease: StandingLease) -> bool:
        return self.standing.get(lease.job_id) is lease

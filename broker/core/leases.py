"""Who works on which job: tokens that only grow, and the time for which each of them stands."""

from collections.abc import Iterator
from operator import attrgetter

import msgspec

from tollgate.broker.core.timers import Timers
from tollgate.domain.exceptions import LeaseHeldError, LeaseLostError


class Lease(msgspec.Struct, gc=False):
    """A standing lease: its token, the time granted, and when that is over (monotonic)."""

    job_id: str
    token: int
    lease_ms: int
    ends_ms: int


class Leases:
    """The standing leases by job, and how often those of each job have lapsed.

    A token is greater than all before it, whatever the job, so it never stands for two grants.
    """

    def __init__(self) -> None:
        self.standing: dict[str, Lease] = {}
        """By job."""
        self.lapses: dict[str, int] = {}
        """How many leases have lapsed since each job entered its status; of most, none."""
        self._timers = self._new_timers()
        self.last_token = 0
        """The newest token of all."""

    @property
    def next_token(self) -> int:
        """The token for the next grant."""
        return self.last_token + 1

    def check(self, job_id: str, token: int | None) -> None:
        """Return if whoever shows `token` (None: nothing) may act on the job.

        Raises LeaseHeldError or LeaseLostError.
        """
        lease = self.standing.get(job_id)
        if token is None:
            if lease is not None:
                raise LeaseHeldError(f"somebody holds a lease on job {job_id}", job_id=job_id)
        elif lease is None or lease.token != token:
            raise LeaseLostError(f"lease {token} on job {job_id} is over", job_id=job_id)

    def stands(self, job_id: str, token: int) -> bool:
        """Return whether this lease is not over."""
        lease = self.standing.get(job_id)
        return lease is not None and lease.token == token

    def grant(self, job_id: str, token: int, lease_ms: int, now_ms: int) -> None:
        """Let a lease begin. Raises LeaseHeldError if one stands or the token is an old one."""
        if job_id in self.standing or token <= self.last_token:
            raise LeaseHeldError(f"lease {token} on job {job_id} cannot be granted", job_id=job_id)
        self.last_token = token
        self._stand(Lease(job_id, token, lease_ms, now_ms + lease_ms))

    def touch(self, job_id: str, token: int, lease_ms: int, now_ms: int) -> None:
        """Let a lease end `lease_ms` from now instead. Raises LeaseLostError."""
        self.check(job_id, token)
        granted_ms = self.standing[job_id].lease_ms  # that is what it runs after a restart
        self._stand(Lease(job_id, token, granted_ms, now_ms + lease_ms))

    def end(self, job_id: str, token: int) -> None:
        """Let a lease end unused. Raises LeaseLostError."""
        self.check(job_id, token)
        del self.standing[job_id]

    def lapse(self, job_id: str, token: int) -> None:
        """Let a lease end by its time, and remember that. Raises LeaseLostError."""
        self.end(job_id, token)
        self.lapses[job_id] = self.lapses.get(job_id, 0) + 1

    def forget(self, job_id: str) -> None:
        """Let whatever is known of a job go: it has changed its status."""
        self.standing.pop(job_id, None)
        self.lapses.pop(job_id, None)

    def lapsed(self, now_ms: int) -> Iterator[tuple[str, int]]:
        """Yield job and token of each lease whose time is over, earliest first, once."""
        for lease in self._timers.due(now_ms):
            yield lease.job_id, lease.token

    def restart(self, now_ms: int) -> None:
        """Let each standing lease run the time granted anew, from `now_ms` on."""
        self._timers = self._new_timers()
        for lease in [*self.standing.values()]:
            self._stand(msgspec.structs.replace(lease, ends_ms=now_ms + lease.lease_ms))

    def image(self) -> tuple[list[tuple[str, int, int]], list[tuple[str, int]]]:
        """Return the standing leases (job, token, milliseconds granted), and the lapses by job."""
        standing = [
            (job_id, lease.token, lease.lease_ms) for job_id, lease in self.standing.items()
        ]
        return standing, list(self.lapses.items())

    def restore(self, standing: list[tuple[str, int, int]], lapses: list[tuple[str, int]]) -> None:
        """Take over what an `image` showed; `restart` sets the leases going."""
        for job_id, token, lease_ms in standing:
            self.standing[job_id] = Lease(job_id, token, lease_ms, lease_ms)
        self.lapses.update(lapses)

    def next_end_ms(self) -> int | None:
        """Return when there may be something to lapse (monotonic)."""
        return self._timers.next()

    def _stand(self, lease: Lease) -> None:
        self.standing[lease.job_id] = lease
        self._timers.add(lease)

    def _new_timers(self) -> Timers[int, Lease]:
        return Timers(attrgetter("ends_ms"), self._is_standing, self.standing.__len__)

    def _is_standing(self, lease: Lease) -> bool:
        return self.standing.get(lease.job_id) is lease

"""The leases that a worker holds: touched while there is work, and ended in one of three ways."""

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from client.aio import AsyncClient
from client.values import Lease
from domain.exceptions import JobNotFoundError, LeaseLostError, TollgateError
from domain.models import Job
from worker.link import is_passing, one_line

log = logging.getLogger("tollgate.worker")

TOUCHES: Final = 3
"""Touches in the time of a lease, so that two may fail before it lapses."""


class Held:
    """A job under a lease of this worker, and the task that sees it through."""

    def __init__(self, lease: Lease) -> None:
        self.job: Job = lease.job
        self.token = lease.token
        self.task: asyncio.Task[None] | None = None
        self.is_lost = False
        """The broker said that the lease is over: the job is somebody else's, or nobody's."""
        self.is_settling = False
        """The outcome is on its way. From here on only the answer to it tells how it went."""

    def lose(self, reason: TollgateError) -> None:
        """Stop working on the job: whatever came of it would be refused."""
        if not self.is_settling and not self.is_lost:
            log.warning("job %s: lease lost, giving up (%s)", self.job.job_id, one_line(reason))
            self.is_lost = True
            if self.task is not None:
                self.task.cancel()


class LeaseKeeper:
    """Touches all held leases, a third of `lease_ms` apart, and gives back those not needed."""

    def __init__(self, client: AsyncClient, lease_ms: int) -> None:
        self._client = client
        self._lease_ms = lease_ms
        self._held: dict[int, Held] = {}
        self._touching: dict[int, asyncio.Task[None]] = {}

    def hold(self, held: Held) -> None:
        """Begin to touch a lease."""
        self._held[held.token] = held

    def drop(self, held: Held) -> None:
        """Touch a lease no more."""
        self._held.pop(held.token, None)

    async def run(self) -> None:
        """Touch the leases until cancelled."""
        try:
            while True:
                await asyncio.sleep(self._lease_ms / 1_000 / TOUCHES)
                for held in self._held.values():
                    # One that is still unanswered says enough; a second would only queue behind it.
                    if held.token not in self._touching:
                        self._touching[held.token] = asyncio.create_task(self._touch(held))
        finally:
            for task in self._touching.values():
                task.cancel()

    async def release(self, leases: Iterable[tuple[str, int]]) -> None:
        """Give leases back, as pairs of job id and token; what fails lapses by itself."""

        async def release(job_id: str, token: int) -> None:
            with suppress(TollgateError):
                await self._client.release(job_id, token)

        await asyncio.gather(*(release(job_id, token) for job_id, token in leases))

    async def _touch(self, held: Held) -> None:
        try:
            await self._client.touch(held.job.job_id, held.token, lease_ms=self._lease_ms)
        except (LeaseLostError, JobNotFoundError) as refusal:
            held.lose(refusal)
        except TollgateError as fault:
            level = logging.DEBUG if is_passing(fault) else logging.WARNING
            log.log(level, "job %s: touch failed (%s)", held.job.job_id, one_line(fault))
        finally:
            del self._touching[held.token]

"""The leases that a worker holds: touched while there is work, and ended in one of three ways."""

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from tollgate.client.aio import AsyncClient
from tollgate.client.results import Lease
from tollgate.domain.exceptions import JobNotFoundError, LeaseLostError, TollgateError
from tollgate.domain.models import Job
from tollgate.worker.retry import is_passing, one_line

log = logging.getLogger("tollgate.worker")

TOUCHES: Final = 3
"""Touches in the time of a lease, so that two may fail before it lapses."""


class Held:
    """A job under a lease of this worker, and the task that works on it."""

    __slots__ = ("is_lost", "is_settling", "is_touched", "job", "task", "token")

    def __init__(self, lease: Lease) -> None:
        self.job: Job = lease.job
        self.token = lease.token
        self.task: asyncio.Task[None] | None = None
        """Set while it is worked on; the task may work on other jobs before and after."""
        self.is_lost = False
        """The broker said that the lease is over: the job is somebody else's, or nobody's."""
        self.is_settling = False
        """The outcome is on its way. From here on only the answer to it tells how it went."""
        self.is_touched = False
        """A touch is on its way."""

    def lose(self, reason: TollgateError) -> None:
        """Stop working on the job: whatever came of it would be refused."""
        if not self.is_settling and not self.is_lost:
            log.warning("job %s: lease lost, giving up (%s)", self.job.job_id, one_line(reason))
            self.is_lost = True
            if self.task is not None:
                self.task.cancel()

    def leave_alone(self, fault: Exception) -> None:
        """Say that a fault of the worker itself ends what it does for the job.

        It is not given back, since it would come again at once; the broker counts leases that
        lapse.
        """
        log.error("job %s: left alone after %r", self.job.job_id, fault)
        log.debug("the fault", exc_info=fault)


class LeaseKeeper:
    """Touches all held leases, a third of `lease_ms` apart, and gives back those not needed."""

    def __init__(self, client: AsyncClient, lease_ms: int) -> None:
        self._client = client
        self._lease_ms = lease_ms
        self._held: set[Held] = set()
        self._touching: set[asyncio.Task[None]] = set()

    def hold(self, held: Held) -> None:
        """Begin to touch a lease."""
        self._held.add(held)

    def drop(self, held: Held) -> None:
        """Touch a lease no more."""
        self._held.discard(held)

    async def run(self) -> None:
        """Touch the leases until cancelled."""
        try:
            while True:
                await asyncio.sleep(self._lease_ms / 1_000 / TOUCHES)
                # One that is still unanswered says enough; a second would only queue behind it.
                due = [held for held in self._held if not held.is_touched]
                if due:
                    touching = asyncio.create_task(self._touch(due))
                    self._touching.add(touching)
                    touching.add_done_callback(self._touching.discard)
        finally:
            for touching in self._touching:
                touching.cancel()

    async def release(self, leases: Iterable[tuple[str, int]]) -> None:
        """Give leases back, as pairs of job id and token; what fails lapses by itself."""
        batch = self._client.batch()
        for job_id, token in leases:
            batch.release(job_id, token)
        if batch:
            with suppress(TollgateError):
                await batch.send()

    async def _touch(self, due: list[Held]) -> None:
        """Touch leases in one message; what is said of one concerns no other."""
        batch = self._client.batch()
        for held in due:
            held.is_touched = True
            batch.touch(held.job.job_id, held.token, lease_ms=self._lease_ms)
        try:
            answers = await batch.send()
        except TollgateError as fault:
            answers = [fault] * len(due)
        finally:
            for held in due:
                held.is_touched = False
        for held, answer in zip(due, answers, strict=True):
            if isinstance(answer, LeaseLostError | JobNotFoundError):
                held.lose(answer)
            elif isinstance(answer, TollgateError):
                level = logging.DEBUG if is_passing(answer) else logging.WARNING
                log.log(level, "job %s: touch failed (%s)", held.job.job_id, one_line(answer))

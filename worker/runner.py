"""The worker's loop: claims jobs, has them worked on, and stops without losing any."""

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress
from time import monotonic
from typing import Final

from tollgate.client.aio import AsyncClient
from tollgate.client.results import Lease
from tollgate.domain.exceptions import InternalError, TollgateError
from tollgate.domain.status import TERMINAL, JobStatus
from tollgate.worker.handlers import HandlerResult
from tollgate.worker.lease import HeldJob, LeaseKeeper, UnpaidLeases
from tollgate.worker.retry import Backoff, BrokerStatus, may_pass, one_line
from tollgate.worker.settings import CLAIM_WAIT_MS, SILENCE_S_MAX, Settings
from tollgate.worker.slots import Slots, Stage

log = logging.getLogger("tollgate.worker")

SLACK_S: Final = 1.0
"""At a stop, how much longer to wait for something than its own time limit."""
RELEASE_S: Final = 2.0
"""At a stop, longest time for releasing leases."""


class Runner:
    """Runs the `stages` over one client, until told to stop."""

    def __init__(self, client: AsyncClient, stages: Iterable[Stage], settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._broker = BrokerStatus(settings.endpoint)
        self._keeper = LeaseKeeper(client, settings.lease_ms)
        self._unpaid = UnpaidLeases(settings.unpaid_max)
        self._slots = [Slots(stage, self, client, self._broker, self._keeper) for stage in stages]
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()
        self.finished = 0
        """How many jobs this worker ended, or payments if it does nothing else."""

    @property
    def is_idle(self) -> bool:
        """Whether no job is in work or unsettled."""
        return all(slots.is_idle for slots in self._slots)

    def stop(self) -> None:
        """Stop claiming, finish or release the held jobs, and let `run` return."""
        self._stopping.set()
        self._changed.set()

    def check_again(self) -> None:
        """Check again whether there is room for more jobs, and whether all work is done."""
        self._changed.set()

    def leave_out(self, status: JobStatus) -> None:
        """Take no jobs in a status. Call it before `run`."""
        self._slots = [slots for slots in self._slots if slots.stage.status is not status]

    async def run(self) -> None:
        """Advance jobs until `stop` is called.

        Raises:
            Refusal: the broker refuses this worker's claims for a reason that does not pass.

        """
        loops = [asyncio.create_task(self._claim_for(slots)) for slots in self._slots]
        keeping = asyncio.create_task(self._keeper.run())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({*loops, keeping, stopping}, return_when=asyncio.FIRST_COMPLETED)
            self.stop()
            await asyncio.gather(self._end_claims(loops), self._end_jobs())
            await self._release(self._unpaid.leases())
        finally:
            for task in (keeping, stopping, *loops):
                task.cancel()
        for task in (keeping, *loops):  # raise the exception that ended one of them
            if task.done() and not task.cancelled():
                task.result()

    async def _claim_for(self, slots: Slots) -> None:
        backoff = Backoff()
        until_settled = self._settings.jobs is not None  # else one job too many would be claimed
        while not self._stopping.is_set():
            room = slots.room(until_settled=until_settled)
            if room < 1:
                self._changed.clear()
                await self._changed.wait()
                continue
            asked_at = monotonic()
            try:
                leases = await self._client.claim(
                    slots.stage.status,
                    lease_ms=self._settings.lease_ms,
                    wait_ms=CLAIM_WAIT_MS,
                    limit=room,
                    timeout_s=SILENCE_S_MAX,
                )
            except TollgateError as fault:
                if not (may_pass(fault) or isinstance(fault, InternalError)):
                    raise
                self._broker.lost(fault, asked_at)
                await backoff.wait(self._stopping)
                continue
            backoff = Backoff()
            self._broker.back()
            await self._take(slots, leases)

    async def _take(self, slots: Slots, leases: list[Lease]) -> None:
        if self._stopping.is_set():
            await self._release((lease.job.job_id, lease.token) for lease in leases)
            return
        for lease in leases:
            if slots.stage.ignores(lease):
                self._unpaid.add(lease)
            else:
                slots.take(HeldJob(lease))

    def settled(self, held: HeldJob, result: HandlerResult) -> None:
        """Count a job whose result the broker took."""
        if log.isEnabledFor(logging.DEBUG):
            error = one_line(result.error) if result.error else ""
            log.debug("job %s: %s %s", held.job.job_id, result.target, error)
        if result.target in TERMINAL or self._settings.only == "payments":
            self.finished += 1
        if self._settings.jobs is not None and self.finished >= self._settings.jobs:
            self.stop()

    async def release_unfinished(self, jobs: Iterable[HeldJob]) -> None:
        """Release the leases on jobs, so that other workers may have them."""
        unfinished = [(held.job.job_id, held.token) for held in jobs]
        for job_id, _ in unfinished:
            log.info("job %s: released unfinished", job_id)
        await self._release(unfinished)

    async def _end_claims(self, loops: list[asyncio.Task[None]]) -> None:
        """Wait for parked claims, because the leases that they bring must be released."""
        _, late = await asyncio.wait(loops, timeout=CLAIM_WAIT_MS / 1_000 + SLACK_S)
        for loop in late:
            loop.cancel()

    async def _end_jobs(self) -> None:
        """Let jobs finish in the grace time if their stage allows it, and release the others."""
        for slots in self._slots:
            if not slots.stage.finishes_at_stop:
                slots.cancel()
        await self._until_idle(self._settings.stop_grace_s)
        for slots in self._slots:
            slots.cancel()
        await self.release_unfinished(held for slots in self._slots for held in slots.give_up())
        await self._until_idle(RELEASE_S + SLACK_S)
        # Handlers that ignore their cancellation: let other workers have the jobs.
        left = [held for slots in self._slots for held in slots.abandon()]
        await self._release((held.job.job_id, held.token) for held in left)

    async def _until_idle(self, timeout_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not self.is_idle:
                    self._changed.clear()
                    await self._changed.wait()

    async def _release(self, leases: Iterable[tuple[str, int]]) -> None:
        try:
            async with asyncio.timeout(RELEASE_S):
                await self._keeper.release(leases)
        except TimeoutError:
            log.warning("the broker does not answer: leases are left to lapse")

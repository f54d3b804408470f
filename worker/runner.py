"""The worker's loop: claim jobs, see each of them through, and stop without dropping any."""

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from tollgate.client.aio import AsyncClient
from tollgate.client.results import Lease
from tollgate.domain.exceptions import InternalError, TollgateError
from tollgate.domain.status import TERMINAL
from tollgate.worker.lease import Held, LeaseKeeper
from tollgate.worker.outcome import Outcome
from tollgate.worker.retry import Link, Pauses, is_passing, one_line
from tollgate.worker.roles import Role
from tollgate.worker.settings import CLAIM_WAIT_MS, SILENCE_S_MAX, Settings
from tollgate.worker.slots import Shift
from tollgate.worker.unpaid import Unpaid

log = logging.getLogger("tollgate.worker")

SLACK_S: Final = 1.0
"""At a stop, how much longer than it may take by itself something is waited for."""
RELEASE_S: Final = 2.0
"""At a stop, how long giving leases back may take."""


class Runner:
    """Does what `roles` say, over one client, until told to stop."""

    def __init__(self, client: AsyncClient, roles: Iterable[Role], settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._link = Link(settings.endpoint)
        self._keeper = LeaseKeeper(client, settings.lease_ms)
        self._unpaid = Unpaid(settings.unpaid_max)
        self._shifts = [Shift(role, self, client, self._link, self._keeper) for role in roles]
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()
        self._finished = 0

    @property
    def finished(self) -> int:
        """How many jobs this worker brought to their end, or payments, if it does nothing else."""
        return self._finished

    @property
    def is_idle(self) -> bool:
        """Whether nothing of what was begun still goes on."""
        return all(shift.is_idle for shift in self._shifts)

    def stop(self) -> None:
        """Claim nothing more, finish or give back what is held, and let `run` return."""
        self._stopping.set()
        self._changed.set()

    def look_again(self) -> None:
        """Look again whether there is room for more jobs, and whether all is done."""
        self._changed.set()

    async def run(self) -> None:
        """Advance jobs until `stop` is called.

        Raises:
            Refusal: the broker refuses this worker's claims for a reason that will not pass.

        """
        loops = [asyncio.create_task(self._claim_for(shift)) for shift in self._shifts]
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
        for task in (keeping, *loops):  # what made one of them end by itself is not to be hidden
            if task.done() and not task.cancelled():
                task.result()

    async def _claim_for(self, shift: Shift) -> None:
        pauses = Pauses()
        counts = self._settings.jobs is not None  # then a job too many is claimed for nothing
        while not self._stopping.is_set():
            room = shift.room(until_settled=counts)
            if room < 1:
                self._changed.clear()
                await self._changed.wait()
                continue
            try:
                leases = await self._client.claim(
                    shift.role.status,
                    lease_ms=self._settings.lease_ms,
                    wait_ms=CLAIM_WAIT_MS,
                    limit=room,
                    timeout_s=SILENCE_S_MAX,
                )
            except TollgateError as fault:
                if not (is_passing(fault) or isinstance(fault, InternalError)):
                    raise
                self._link.lost(fault)
                await pauses.wait(self._stopping)
                continue
            pauses = Pauses()
            self._link.back()
            await self._take(shift, leases)

    async def _take(self, shift: Shift, leases: list[Lease]) -> None:
        if self._stopping.is_set():
            await self._release((lease.job.job_id, lease.token) for lease in leases)
            return
        for lease in leases:
            if shift.role.puts_aside(lease):
                self._unpaid.put_aside(lease)
            else:
                shift.take(Held(lease))

    def settled(self, held: Held, outcome: Outcome) -> None:
        """Count a job whose outcome the broker took."""
        if log.isEnabledFor(logging.DEBUG):
            said = one_line(outcome.error) if outcome.error else ""
            log.debug("job %s: %s %s", held.job.job_id, outcome.target, said)
        if outcome.target in TERMINAL or self._settings.only == "payments":
            self._finished += 1
        if self._settings.jobs is not None and self._finished >= self._settings.jobs:
            self.stop()

    async def give_back(self, jobs: Iterable[Held]) -> None:
        """Give back the leases on jobs that were begun."""
        unfinished = [(held.job.job_id, held.token) for held in jobs]
        for job_id, _ in unfinished:
            log.info("job %s: given back unfinished", job_id)
        await self._release(unfinished)

    async def _end_claims(self, loops: list[asyncio.Task[None]]) -> None:
        """Wait for parked claims, since what they bring has to be given back."""
        _, late = await asyncio.wait(loops, timeout=CLAIM_WAIT_MS / 1_000 + SLACK_S)
        for loop in late:
            loop.cancel()

    async def _end_jobs(self) -> None:
        """Let what is worth it finish in the time of grace, and give the rest back."""
        for shift in self._shifts:
            if not shift.role.finishes_at_stop:
                shift.cancel()
        await self._until_idle(self._settings.stop_grace_s)
        for shift in self._shifts:
            shift.cancel()
        await self.give_back(held for shift in self._shifts for held in shift.give_up())
        await self._until_idle(RELEASE_S + SLACK_S)
        # A handler that will not be cancelled: let others have the job.
        left = [held for shift in self._shifts for held in shift.abandon()]
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
            log.warning("the broker does not answer: leases left to lapse by themselves")

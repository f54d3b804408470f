"""The worker's loop: claim jobs, see each of them through, and stop without dropping any."""

import asyncio
import logging
from collections.abc import Iterable
from typing import Final

from client.aio import AsyncClient
from client.values import Lease
from domain.exceptions import InternalError, TollgateError
from domain.status import TERMINAL
from worker.lease import Held, LeaseKeeper
from worker.link import Link, Pauses, is_passing, one_line
from worker.outcome import Outcome
from worker.roles import Role
from worker.settings import CLAIM_WAIT_MS, SILENCE_S_MAX, Settings
from worker.settle import settle
from worker.unpaid import Unpaid

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
        self._held: dict[Role, set[Held]] = {role: set() for role in roles}
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
        return not any(self._held.values())

    def stop(self) -> None:
        """Claim nothing more, finish or give back what is held, and let `run` return."""
        self._stopping.set()
        self._changed.set()

    def look_again(self) -> None:
        """Look again whether there is room for more jobs."""
        self._changed.set()

    async def run(self) -> None:
        """Advance jobs until `stop` is called.

        Raises:
            Refusal: the broker refuses this worker's claims for a reason that will not pass.

        """
        loops = [asyncio.create_task(self._claim_for(role)) for role in self._held]
        keeping = asyncio.create_task(self._keeper.run())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({*loops, keeping, stopping}, return_when=asyncio.FIRST_COMPLETED)
            self.stop()
            await asyncio.gather(self._end_claims(loops), self._end_jobs())
            await self._give_back(self._unpaid.leases())
        finally:
            for task in (keeping, stopping, *loops):
                task.cancel()
        for task in (keeping, *loops):  # what made one of them end by itself is not to be hidden
            if task.done() and not task.cancelled():
                task.result()

    async def _claim_for(self, role: Role) -> None:
        pauses = Pauses()
        while not self._stopping.is_set():
            room = role.room(len(self._held[role]))
            if room < 1:
                self._changed.clear()
                await self._changed.wait()
                continue
            try:
                leases = await self._client.claim(
                    role.status,
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
            await self._take(role, leases)

    async def _take(self, role: Role, leases: list[Lease]) -> None:
        if self._stopping.is_set():
            await self._give_back((lease.job.job_id, lease.token) for lease in leases)
            return
        for lease in leases:
            if role.puts_aside(lease):
                self._unpaid.put_aside(lease)
                continue
            held = Held(lease)
            self._held[role].add(held)
            self._keeper.hold(held)
            held.task = asyncio.create_task(self._see_through(role, held))

    async def _see_through(self, role: Role, held: Held) -> None:
        try:
            outcome = await role.outcome(held.job)
            if not held.is_lost and await settle(self._client, held, outcome, self._link):
                self._count(held, outcome)
        except asyncio.CancelledError:
            if not held.is_lost:
                log.info("job %s: given back unfinished", held.job.job_id)
                await self._give_back([(held.job.job_id, held.token)])
        except Exception as fault:
            # One job must not take the others with it. It is not given back, since it would come
            # again at once; the broker counts leases that lapse.
            log.error("job %s: left alone after %r", held.job.job_id, fault)  # noqa: TRY400
            log.debug("the fault", exc_info=fault)
        finally:
            self._keeper.drop(held)
            self._held[role].discard(held)
            self._changed.set()

    def _count(self, held: Held, outcome: Outcome) -> None:
        said = one_line(outcome.error) if outcome.error else ""
        log.debug("job %s: %s %s", held.job.job_id, outcome.target, said)
        if outcome.target in TERMINAL or self._settings.only == "payments":
            self._finished += 1
        if self._settings.jobs is not None and self._finished >= self._settings.jobs:
            self.stop()

    async def _end_claims(self, loops: list[asyncio.Task[None]]) -> None:
        """Wait for parked claims, since what they bring has to be given back."""
        _, late = await asyncio.wait(loops, timeout=CLAIM_WAIT_MS / 1_000 + SLACK_S)
        for loop in late:
            loop.cancel()

    async def _end_jobs(self) -> None:
        """Let what is worth it finish in the time of grace, and give the rest back."""
        for role, holds in self._held.items():
            _cancel(held for held in holds if not (role.finishes_at_stop or held.is_settling))
        await self._until_done(self._settings.stop_grace_s)
        _cancel(held for holds in self._held.values() for held in holds)
        await self._until_done(RELEASE_S + SLACK_S)
        left = [held for holds in self._held.values() for held in holds]
        for held in left:  # a handler that will not be cancelled: let others have the job
            held.is_lost = True
            self._keeper.drop(held)
        await self._give_back((held.job.job_id, held.token) for held in left)

    async def _until_done(self, timeout_s: float) -> None:
        tasks = {held.task for holds in self._held.values() for held in holds if held.task}
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)

    async def _give_back(self, leases: Iterable[tuple[str, int]]) -> None:
        try:
            async with asyncio.timeout(RELEASE_S):
                await self._keeper.release(leases)
        except TimeoutError:
            log.warning("the broker does not answer: leases left to lapse by themselves")


def _cancel(holds: Iterable[Held]) -> None:
    for held in holds:
        if held.task is not None:
            held.task.cancel()

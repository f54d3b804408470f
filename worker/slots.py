"""The jobs of one stage, from the claim to the settlement, and how many of them fit at once."""

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from tollgate.client.aio import AsyncClient
from tollgate.client.results import Lease
from tollgate.domain.models import Job
from tollgate.domain.status import JobStatus
from tollgate.worker.handlers import HandlerResult
from tollgate.worker.lease import HeldJob, LeaseKeeper
from tollgate.worker.pool import Pool
from tollgate.worker.retry import BrokerStatus
from tollgate.worker.settle import Settler

if TYPE_CHECKING:
    from tollgate.worker.runner import Runner


class Stage(Protocol):
    """What a worker does for jobs in one status: decide their payments, or do their work."""

    name: str
    status: JobStatus
    """The status of the jobs that it takes."""
    finishes_at_stop: bool
    """Whether a stop lets a job that has begun finish, or releases its lease."""

    def room(self, jobs: int) -> int:
        """Return how many more jobs it can take while it has `jobs`."""
        ...

    def ignores(self, lease: Lease) -> bool:
        """Return whether the job needs nothing until its lease lapses."""
        ...

    async def run(self, job: Job) -> HandlerResult:
        """Do the work of this stage for a job."""
        ...


class Slots:
    """Works on the jobs of one stage, and has their results sent."""

    def __init__(
        self,
        stage: Stage,
        runner: "Runner",
        client: AsyncClient,
        broker: BrokerStatus,
        keeper: LeaseKeeper,
    ) -> None:
        self.stage = stage
        self._runner = runner
        self._keeper = keeper
        self._pool = Pool(self._work_on)
        self._working: set[HeldJob] = set()
        self._is_cancelled = False
        self._settler = Settler(client, broker, self._settled)

    @property
    def is_idle(self) -> bool:
        """Whether no job is worked on, and every result is settled."""
        return not (self._working or self._settler)

    def room(self, *, until_settled: bool) -> int:
        """Return how many more jobs have a slot.

        A finished job leaves its slot while its result is being sent, so that others are claimed
        meanwhile: as many as there are slots. With `until_settled` a job keeps its slot until then.
        """
        working, settling = len(self._working), len(self._settler)
        with_settling = self.stage.room(working + settling)
        if until_settled:
            return with_settling
        return min(self.stage.room(working), self.stage.room(0) + with_settling)

    def take(self, held: HeldJob) -> None:
        """Begin to work on a job."""
        self._working.add(held)
        self._keeper.hold(held)
        self._pool.add(held)

    def cancel(self) -> None:
        """Stop the jobs that are worked on or not begun; finished ones keep their results."""
        self._is_cancelled = True
        for held in self._working:
            if held.task is not None:
                held.task.cancel()

    def give_up(self) -> list[HeldJob]:
        """Send no more results, and return the jobs whose result has no answer yet."""
        left = self._settler.give_up()
        for held in left:
            self._keeper.drop(held)
        return left

    def abandon(self) -> list[HeldJob]:
        """Return the jobs that still run; their results will not be sent."""
        for held in self._working:
            held.is_lost = True
            self._keeper.drop(held)
        return [*self._working, *self.give_up()]

    async def _work_on(self, held: HeldJob) -> None:
        try:
            result = await self._run(held)
        except asyncio.CancelledError:
            if not held.is_lost:
                await self._runner.release_unfinished([held])
        except Exception as fault:  # noqa: BLE001 - one job must not take the others with it
            held.leave_alone(fault)
        else:
            if not held.is_lost:
                self._settler.put(held, result)
        finally:
            self._working.discard(held)
            if not held.is_settling:
                self._keeper.drop(held)
            self._runner.check_again()

    def _run(self, held: HeldJob) -> Coroutine[Any, Any, HandlerResult]:
        if self._is_cancelled or held.is_lost:  # while it waited for a task
            raise asyncio.CancelledError
        return self.stage.run(held.job)

    def _settled(self, held: HeldJob, result: HandlerResult | None) -> None:
        self._keeper.drop(held)
        if result is not None:
            self._runner.settled(held, result)
        self._runner.check_again()

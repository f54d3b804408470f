"""What a worker can do for a job in one status: decide its payment, or do its work."""

import asyncio
import time
from collections.abc import Callable
from typing import Final, Protocol

from tollgate.client.results import Lease
from tollgate.domain.models import Job
from tollgate.domain.status import JobStatus
from tollgate.worker.handlers import HandlerCalls
from tollgate.worker.outcome import Outcome
from tollgate.worker.payments import Kind, PaymentSimulator

CLAIM_LIMIT: Final = 1_000
"""A claim asks for at most so many jobs (docs/protocol.md)."""


class Role(Protocol):
    """One kind of work."""

    name: str
    status: JobStatus
    """The status of the jobs that it takes."""
    finishes_at_stop: bool
    """Whether a job that has been begun is worth finishing at a stop, or is as well given back."""

    def room(self, jobs: int) -> int:
        """Return how many more jobs it can take while it has `jobs`."""
        ...

    def puts_aside(self, lease: Lease) -> bool:
        """Return whether the job needs no attention until its lease is over."""
        ...

    async def outcome(self, job: Job) -> Outcome:
        """Do what there is to do for a job."""
        ...


class Payments:
    """Lets the simulator decide payments, up to `limit` at once.

    A payment is known `delay_ms` after its job was created, whoever waits for it, so a worker that
    takes over does not start the waiting anew. One that never comes is put aside: its lease is left
    to lapse, which costs nothing in `awaiting_payment`, and the broker's deadline ends the job.
    """

    name = "payments"
    status = JobStatus.AWAITING_PAYMENT
    finishes_at_stop = False

    def __init__(
        self, simulator: PaymentSimulator, limit: int, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._simulator = simulator
        self._limit = limit
        self._clock = clock

    def room(self, jobs: int) -> int:
        """See `Role`."""
        return min(self._limit - jobs, CLAIM_LIMIT)

    def puts_aside(self, lease: Lease) -> bool:
        """See `Role`."""
        return self._simulator.draw(lease.job.job_id).kind is Kind.NEVER

    async def outcome(self, job: Job) -> Outcome:
        """Wait until the payment is known, and say what became of it."""
        verdict = self._simulator.draw(job.job_id)
        delay_s = verdict.delay_ms / 1_000
        waited_s = self._clock() - job.created_at.timestamp()
        if waited_s < delay_s:
            await asyncio.sleep(min(delay_s - waited_s, delay_s))  # the clock may have gone back
        if verdict.kind is Kind.CONFIRMED:
            return Outcome.paid()
        return Outcome.failed("payment refused")


class Work:
    """Calls the handler, up to `concurrency` times at once, each call after a pause."""

    name = "work"
    status = JobStatus.RUNNING
    finishes_at_stop = True

    def __init__(self, calls: HandlerCalls, concurrency: int, *, pause_ms: int = 0) -> None:
        self._calls = calls
        self._concurrency = concurrency
        self._pause_s = pause_ms / 1_000

    def room(self, jobs: int) -> int:
        """See `Role`; a thread that still runs a lost job's handler takes up its place."""
        return min(self._concurrency - jobs - self._calls.given_up, CLAIM_LIMIT)

    def puts_aside(self, lease: Lease) -> bool:  # noqa: ARG002 - all work is done at once
        """See `Role`."""
        return False

    async def outcome(self, job: Job) -> Outcome:
        """See `Role`."""
        if self._pause_s:
            await asyncio.sleep(self._pause_s)
        return await self._calls.outcome(job)

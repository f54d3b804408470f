"""Opens the gate for jobs that are paid, and ends those whose payment is void.

A round reads the payments that have changed, and asks for the payment of each job that is new. A
job whose payment was locked before the job was stored is found by the second; everything that
happens later, by the first.
"""

import asyncio
import logging
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Final

from tollgate.client.aio import AsyncClient
from tollgate.domain.exceptions import (
    InvalidStateTransitionError,
    JobNotFoundError,
    LeaseHeldError,
    VersionConflictError,
)
from tollgate.domain.models import Job
from tollgate.domain.settlement import OPEN as OPEN_SETTLEMENTS
from tollgate.domain.status import AWAITING_PAYMENT, FAILED, RUNNING
from tollgate.masumi.api import PaymentService, ServiceRefusedError
from tollgate.masumi.feed import Feed
from tollgate.masumi.gate import Act, Decision, decide
from tollgate.masumi.payment import Payment

log = logging.getLogger("tollgate.payments")

LOOK_BACK: Final = timedelta(hours=1)
"""How far before the oldest open job a watcher begins to read: a payment is older than its job."""
MOCK_PREFIX: Final = "mock_bc_"
"""Identifiers that the broker made up: the payment service does not know them."""
LISTED: Final = 500
"""Jobs in one page of the broker's list."""
RESOLVED_AT_ONCE: Final = 8
RESOLVED_MAX: Final = 200
"""The most jobs that one round asks the service about."""
UNKNOWN_AGAIN_S: Final = 60.0
"""How long before the service is asked again for a payment that it did not know."""
LOOKED_AT_MAX: Final = 200_000
FOREVER: Final = float("inf")


class Openings:
    """Brings what happens to payments to the jobs that wait for them.

    Any number of these may run: each move names the version of the job that it is for.
    """

    def __init__(
        self, client: AsyncClient, service: PaymentService, source_types: Iterable[str]
    ) -> None:
        self._client = client
        self._service = service
        self._source_types = tuple(source_types)
        self._feeds: list[Feed] = []
        self._looked_at: dict[str, float] = {}
        """When the payment of an unpaid job is asked for again (monotonic), by the job's id."""

    async def round(self) -> bool:
        """Handle all that is new; return whether more is left. Raises what the calls raise."""
        if not self._feeds:
            since = await self._begin_at()
            self._feeds = [Feed(self._service, each, since) for each in self._source_types]
        for feed in self._feeds:
            async for payments in feed.pages():
                await self._handle(payments)
                feed.done(payments)
        return await self._look_at_new_jobs()

    async def _begin_at(self) -> datetime:
        """Return the time from which payments can matter to a job."""
        calls = [self._client.list_page(AWAITING_PAYMENT, limit=1)]
        calls += [self._client.list_page(settlement=each, limit=1) for each in OPEN_SETTLEMENTS]
        times = [job.created_at for page in await asyncio.gather(*calls) for job in page.jobs]
        # Both clocks may be minutes off: an hour is more than that.
        return min([*times, datetime.now(UTC)]) - LOOK_BACK

    async def _handle(self, payments: list[Payment]) -> None:
        """Act on the jobs of these payments; most payments may be those of other brokers."""
        jobs = await asyncio.gather(*map(self._job_of, payments))
        for job, payment in zip(jobs, payments, strict=True):
            if job is not None:
                await self._act(job, payment)

    async def _job_of(self, payment: Payment) -> Job | None:
        try:
            return await self._client.get(blockchain_identifier=payment.blockchain_identifier)
        except JobNotFoundError:
            return None

    # --- new jobs -------------------------------------------------------------------------------

    async def _look_at_new_jobs(self) -> bool:
        """Ask for the payments of unpaid jobs that were not looked at; return whether some remain.

        The newest come first in the list, and all new ones are at its head.
        """
        wanted: list[Job] = []
        after: str | None = None
        while True:
            page = await self._client.list_page(
                AWAITING_PAYMENT, newest=True, limit=LISTED, after=after
            )
            after, now = page.next, monotonic()
            new = [job for job in page.jobs if self._looked_at.get(job.job_id, 0.0) <= now]
            wanted += [job for job in new if not job.blockchain_identifier.startswith(MOCK_PREFIX)]
            if not new or after is None or len(wanted) >= RESOLVED_MAX:
                break
        chunk = wanted[:RESOLVED_MAX]
        for start in range(0, len(chunk), RESOLVED_AT_ONCE):
            await asyncio.gather(*map(self._look_at, chunk[start : start + RESOLVED_AT_ONCE]))
        return len(wanted) > len(chunk)

    async def _look_at(self, job: Job) -> None:
        try:
            payment = await self._service.resolve(job.blockchain_identifier)
        except ServiceRefusedError as refusal:
            if refusal.is_ours:
                raise
            log.warning("the payment of job %s: %s", job.job_id, refusal)
            payment = None
        else:
            if payment is None:
                log.debug("the service has no payment for job %s", job.job_id)
        self._looked(job, UNKNOWN_AGAIN_S if payment is None else FOREVER)
        if payment is not None:
            await self._act(job, payment)

    def _looked(self, job: Job, again_in_s: float) -> None:
        self._looked_at[job.job_id] = monotonic() + again_in_s
        while len(self._looked_at) > LOOKED_AT_MAX:
            del self._looked_at[next(iter(self._looked_at))]

    # --- acts -----------------------------------------------------------------------------------

    async def _act(self, job: Job, payment: Payment) -> None:
        decision = decide(job, payment, self._service.now())
        try:
            await self._do(job, decision)
        except (VersionConflictError, InvalidStateTransitionError, JobNotFoundError) as moved:
            log.info("job %s has moved on: %s", job.job_id, moved)
            self._looked_at.pop(job.job_id, None)
        except LeaseHeldError as held:
            log.warning("job %s is decided by another program: %s", job.job_id, held)
            self._looked_at[job.job_id] = 0.0
        await self._note(job, payment)

    async def _do(self, job: Job, decision: Decision) -> None:
        client, version, reason = self._client, job.version, decision.reason
        match decision.act:
            case Act.NOTHING:
                return
            case Act.OPEN:
                await client.transition(job.job_id, RUNNING, expected_version=version)
                log.info("job %s is paid", job.job_id)
            case Act.END:
                await client.transition(job.job_id, FAILED, error=reason, expected_version=version)
                log.warning("job %s has failed: %s", job.job_id, reason)
            case Act.ASK_TO_STOP:
                await client.request_stop(job.job_id, reason=reason)
                log.warning("the holder of job %s is asked to stop: %s", job.job_id, reason)
            case Act.REPORT:
                log.warning("job %s: %s", job.job_id, reason)
        self._looked_at.pop(job.job_id, None)

    async def _note(self, job: Job, payment: Payment) -> None:
        """Show the state of the payment on a job that has a settlement."""
        state, settlement = payment.on_chain_state, job.settlement
        if settlement is None or state is None or settlement.on_chain_state == state:
            return
        try:
            await self._client.settle(job.job_id, on_chain_state=state)
        except JobNotFoundError:
            log.debug("job %s is gone", job.job_id)

"""Brings what happens to payments to their jobs: opens the gate, ends jobs, asks holders to stop.

A round reads the payments that have changed, and asks for the payment of each job that is new. The
latter finds payments that were locked before their job was stored; the former all that comes later.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final

from tollgate.client.aio import AsyncClient
from tollgate.domain.exceptions import (
    InvalidStateTransitionError,
    JobNotFoundError,
    LeaseHeldError,
    VersionConflictError,
)
from tollgate.domain.models import Job
from tollgate.domain.results import MOCK_PREFIX
from tollgate.domain.settlement import OPEN as OPEN_SETTLEMENTS
from tollgate.domain.status import AWAITING_PAYMENT, FAILED, RUNNING
from tollgate.masumi.api import PaymentService, ServiceRefusedError
from tollgate.masumi.feed import Feed
from tollgate.masumi.gate import Act, Decision, decide
from tollgate.masumi.payment import Payment

log = logging.getLogger("tollgate.payments")

LOOK_BACK: Final = timedelta(hours=1)
"""How far before the oldest open job a watcher begins to read: a payment is older than its job."""
LISTED: Final = 500
"""Jobs in one page of the broker's list."""
RESOLVED_AT_ONCE: Final = 8
RESOLVED_MAX: Final = 200
"""The most jobs that one round asks the service about."""


class PaymentSync:
    """Reads the payments of a service, and acts on the jobs of a broker.

    Any number of these may run: each move names the version of the job that it is for.
    """

    def __init__(
        self, client: AsyncClient, service: PaymentService, source_types: Iterable[str]
    ) -> None:
        self._client = client
        self._service = service
        self._source_types = tuple(source_types)
        self._feeds: list[Feed] = []
        self._newest_at: datetime | None = None
        """When the newest job was created that a round has listed."""
        self._newest: set[str] = set()
        """The ids of the jobs created just then."""
        self._to_look_at: deque[str] = deque()
        """The ids of jobs whose payment is to be asked for: at most all that are unpaid."""
        self._held: set[str] = set()
        """The ids of jobs that another program held when they were to be moved."""

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
        """Ask for the payments of unpaid jobs that are new; return whether some remain."""
        await self._list_new_jobs()
        self._to_look_at.extend(self._held)
        self._held.clear()
        for _ in range(0, RESOLVED_MAX, RESOLVED_AT_ONCE):
            some = list(islice(self._to_look_at, RESOLVED_AT_ONCE))
            if not some:
                break
            await asyncio.gather(*map(self._look_at, some))
            for _ in some:  # not before: if a call fails, they are looked at again
                self._to_look_at.popleft()
        return bool(self._to_look_at)

    async def _list_new_jobs(self) -> None:
        """Queue the unpaid jobs that were stored since the last round, oldest first."""
        found: list[tuple[datetime, str]] = []
        after: str | None = None
        while True:
            page = await self._client.list_page(
                AWAITING_PAYMENT, newest=True, limit=LISTED, after=after
            )
            new = [job for job in page.jobs if self._is_new(job)]
            found += [(job.created_at, job.job_id) for job in new]
            after = page.next
            if after is None or len(new) < len(page.jobs):
                break
        if not found:
            return
        newest_at = found[0][0]
        if newest_at != self._newest_at:
            self._newest_at, self._newest = newest_at, set()
        self._newest |= {job_id for created_at, job_id in found if created_at == newest_at}
        self._to_look_at.extend(job_id for _, job_id in reversed(found))

    def _is_new(self, job: Job) -> bool:
        if self._newest_at is None or job.created_at > self._newest_at:
            return True
        return job.created_at == self._newest_at and job.job_id not in self._newest

    async def _look_at(self, job_id: str) -> None:
        try:
            job = await self._client.get(job_id)
        except JobNotFoundError:
            return
        if job.status != AWAITING_PAYMENT or job.blockchain_identifier.startswith(MOCK_PREFIX):
            return
        try:
            payment = await self._service.resolve(job.blockchain_identifier)
        except ServiceRefusedError as refusal:
            if refusal.is_ours:
                raise
            log.warning("the payment of job %s: %s", job.job_id, refusal)
        else:
            if payment is not None:  # else it may come: then the feed has it
                await self._act(job, payment)

    # --- acts -----------------------------------------------------------------------------------

    async def _act(self, job: Job, payment: Payment) -> None:
        try:
            await self._do(job, decide(job, payment, self._service.now()))
        except (VersionConflictError, InvalidStateTransitionError, JobNotFoundError) as moved:
            log.info("job %s has moved on: %s", job.job_id, moved)
        except LeaseHeldError as held:
            log.warning("job %s is held by another program: %s", job.job_id, held)
            self._held.add(job.job_id)
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

    async def _note(self, job: Job, payment: Payment) -> None:
        """Show the state of the payment on a job that has a settlement."""
        state, settlement = payment.on_chain_state, job.settlement
        if settlement is None or state is None or settlement.on_chain_state == state:
            return
        try:
            await self._client.settle(job.job_id, on_chain_state=state)
        except JobNotFoundError:
            log.debug("job %s is gone", job.job_id)

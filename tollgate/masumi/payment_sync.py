"""Brings what happens to payments to their jobs: opens the gate, ends jobs, asks holders to stop.

A round asks for the payment of each job that is new, and reads the payments that have changed. The
former finds payments that were locked before their job was stored; the latter all that comes later.
Besides, all unpaid jobs are looked at again, slowly, so that nothing is missed for good.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from time import monotonic
from typing import Final

from tollgate.client.aio import AsyncClient
from tollgate.domain.exceptions import (
    InvalidStateTransitionError,
    JobNotFoundError,
    LeaseHeldError,
    MalformedError,
    TooLargeError,
    VersionConflictError,
)
from tollgate.domain.models import Job
from tollgate.domain.results import MOCK_PREFIX
from tollgate.domain.status import AWAITING_INPUT, AWAITING_PAYMENT, FAILED, RUNNING
from tollgate.job_log import log_fields
from tollgate.masumi.api import (
    PaymentService,
    ServiceFailedError,
    ServiceRefusedError,
    UnreadableError,
)
from tollgate.masumi.feed import Feed
from tollgate.masumi.gate import Act, Decision, decide
from tollgate.masumi.payment import Payment

log = logging.getLogger("tollgate.payments")

LOOK_BACK: Final = timedelta(hours=1)
"""How far before the oldest open job a watcher begins to read: a payment is older than its job."""
OPEN_STATUSES: Final = (AWAITING_PAYMENT, AWAITING_INPUT, RUNNING)
"""The statuses of jobs to which a payment matters."""
LISTED: Final = 500
"""Jobs in one page of the broker's list."""
PAGES_MAX: Final = 10
"""The most pages of changes that one round reads of a source."""
RESOLVED_AT_ONCE: Final = 8
RESOLVED_MAX: Final = 200
"""The most jobs that one round asks the service about, of new ones and of those to ask again."""
SWEEP_S: Final = 600.0
"""How often all unpaid jobs are looked at again, a few in each round."""


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
        self._refused: set[str] = set()
        """The types of sources that the service refuses to read."""
        self._newest_at: datetime | None = None
        """When the newest job was created that a round has listed."""
        self._newest: set[str] = set()
        """The ids of the jobs created just then."""
        self._new: deque[str] = deque()
        """The ids of jobs whose payment was not asked for yet: at most all that are unpaid."""
        self._again: dict[str, str] = {}
        """Jobs that could not be decided, by id, and why; those asked about last are at the end."""
        self._swept_to: str | None = None
        self._sweep_at = monotonic() + SWEEP_S

    async def round(self) -> bool:
        """Handle what is new; return whether more of it is left. Raises what the calls raise.

        A call that the service fails does not keep the other parts from their turn.
        """
        if not self._feeds:
            since = await self._begin_at()
            self._feeds = [Feed(self._service, each, since) for each in self._source_types]
        has_more = False
        faults: list[ServiceFailedError] = []
        parts: list[Callable[[], Awaitable[bool]]] = [self._look_at_new_jobs]
        parts += [partial(self._read, each) for each in self._feeds]
        parts += [self._look_again]
        for part in parts:
            try:
                has_more |= await part()
            except ServiceFailedError as fault:
                faults.append(fault)
        if faults:
            raise max(faults, key=lambda fault: fault.retry_after_s or 0.0)
        return has_more

    async def _begin_at(self) -> datetime:
        """Return the time from which payments can matter to a job."""
        # An answer tells the service's time, also that there is no such payment.
        await self._service.resolve("-")
        pages = await asyncio.gather(
            *[self._client.list_page(status, limit=1) for status in OPEN_STATUSES]
        )
        times = [job.created_at for page in pages for job in page.jobs]
        # The broker's clock may be minutes off: an hour is more than that.
        return min([*times, self._service.now()]) - LOOK_BACK

    # --- changes --------------------------------------------------------------------------------

    async def _read(self, feed: Feed) -> bool:
        """Read what has changed at one source; return whether more is left."""
        for _ in range(PAGES_MAX):
            try:
                page = await feed.page()
            except ServiceRefusedError as refusal:
                if refusal.is_ours:
                    raise
                # Such as an older service, which knows one type: the others go on.
                if feed.source_type not in self._refused:
                    log.warning("%s is not read: %s", feed.source_type, refusal)
                self._refused.add(feed.source_type)
                return False
            self._refused.discard(feed.source_type)
            if page is None:
                return False
            # Most payments may be those of other brokers.
            jobs = await asyncio.gather(*map(self._job_of, page.payments))
            for job, payment in zip(jobs, page.payments, strict=True):
                if job is not None:
                    await self._act(job, payment)
            feed.done(page)
        return True

    async def _job_of(self, payment: Payment) -> Job | None:
        try:
            return await self._client.get(blockchain_identifier=payment.blockchain_identifier)
        except (JobNotFoundError, MalformedError, TooLargeError):
            return None

    # --- new jobs -------------------------------------------------------------------------------

    async def _look_at_new_jobs(self) -> bool:
        """Ask for the payments of unpaid jobs that are new; return whether some remain."""
        await self._list_new_jobs()
        for _ in range(0, RESOLVED_MAX, RESOLVED_AT_ONCE):
            some = list(islice(self._new, RESOLVED_AT_ONCE))
            faults = await self._look_at_all(some)
            for _ in some:  # not before: if the broker is away, they are looked at again
                self._new.popleft()
            if faults and len(faults) == len(some):
                raise ServiceFailedError(f"job {some[0]}: {faults[0]}", faults[0].retry_after_s)
        return bool(self._new)

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
        self._new.extend(job_id for _, job_id in reversed(found))

    def _is_new(self, job: Job) -> bool:
        if self._newest_at is None or job.created_at > self._newest_at:
            return True
        return job.created_at == self._newest_at and job.job_id not in self._newest

    # --- jobs that are looked at again ----------------------------------------------------------

    async def _look_again(self) -> bool:
        """Ask again about jobs that could not be decided, and about a few of all the others.

        These can wait, so it returns False: that some are left begins no round at once.
        """
        waiting = [*self._again][:RESOLVED_MAX]
        for first in range(0, len(waiting), RESOLVED_AT_ONCE):
            some = waiting[first : first + RESOLVED_AT_ONCE]
            if len(await self._look_at_all(some)) == len(some):
                break  # the service may be away
        if self._swept_to is None and monotonic() < self._sweep_at:
            return False
        if self._swept_to is None:
            self._sweep_at = monotonic() + SWEEP_S
        page = await self._client.list_page(
            AWAITING_PAYMENT, limit=RESOLVED_AT_ONCE, after=self._swept_to
        )
        self._swept_to = page.next
        await self._look_at_all([job.job_id for job in page.jobs])
        return False

    async def _look_at_all(self, job_ids: Sequence[str]) -> list[ServiceFailedError]:
        """Look at some jobs at once; return the errors of the service."""
        ends = await asyncio.gather(*map(self._look_at, job_ids))
        failed = [end for end in ends if end is not None]
        # If all fail, it is the service: that is one line, and not one a job.
        level = logging.DEBUG if len(failed) == len(job_ids) else logging.WARNING
        for job, fault in failed:
            self._postpone(job, str(fault), level)
        return [fault for _, fault in failed]

    async def _look_at(self, job_id: str) -> tuple[Job, ServiceFailedError] | None:
        """Act on an unpaid job; return it with the error if the service tells nothing about it."""
        try:
            job = await self._client.get(job_id)
        except JobNotFoundError:
            job = None
        payment = None
        if (
            job is not None
            and job.status == AWAITING_PAYMENT
            and not job.blockchain_identifier.startswith(MOCK_PREFIX)
        ):
            try:
                payment = await self._service.resolve(job.blockchain_identifier)
            except UnreadableError as fault:
                self._postpone(job, str(fault))
                return None
            except ServiceFailedError as fault:
                return job, fault
            except ServiceRefusedError as refusal:
                if refusal.is_ours:
                    raise
                self._postpone(job, str(refusal))
                return None
        if job is None or payment is None or await self._act(job, payment):
            self._again.pop(job_id, None)
        return None

    def _postpone(self, job: Job, why: str, level: int = logging.WARNING) -> None:
        if self._again.pop(job.job_id, None) != why:
            told = "job %s is looked at again: %s"
            log.log(level, told, job.job_id, why, extra=log_fields(job))
        self._again[job.job_id] = why

    # --- acts -----------------------------------------------------------------------------------

    async def _act(self, job: Job, payment: Payment) -> bool:
        """Do what a payment asks for; return whether that is decided.

        A refusal of the broker that is due to this job keeps no other job from its turn.
        """
        try:
            try:
                await self._do(job, decide(job, payment, self._service.now()))
            except (VersionConflictError, InvalidStateTransitionError) as moved:
                # Another one moved it: the payment may mean something else now.
                log.info("job %s has moved on: %s", job.job_id, moved, extra=log_fields(job))
                job = await self._client.get(job.job_id)
                await self._do(job, decide(job, payment, self._service.now()))
            await self._note(job, payment)
        except LeaseHeldError as held:
            self._postpone(job, f"it is held by another program: {held}")
            return False
        except (VersionConflictError, InvalidStateTransitionError, JobNotFoundError) as moved:
            log.info("job %s has moved on: %s", job.job_id, moved, extra=log_fields(job))
        except (MalformedError, TooLargeError) as refusal:
            log.warning("job %s is left as it is: %s", job.job_id, refusal, extra=log_fields(job))
        return True

    async def _do(self, job: Job, decision: Decision) -> None:
        client, version, reason = self._client, job.version, decision.reason
        fields = log_fields(job)
        match decision.act:
            case Act.NOTHING:
                return
            case Act.OPEN:
                await client.transition(job.job_id, RUNNING, expected_version=version)
                log.info("job %s is paid", job.job_id, extra=fields)
            case Act.END:
                await client.transition(job.job_id, FAILED, error=reason, expected_version=version)
                log.warning("job %s has failed: %s", job.job_id, reason, extra=fields)
            case Act.ASK_TO_STOP:
                await client.request_stop(job.job_id, reason=reason)
                log.warning(
                    "the holder of job %s is asked to stop: %s", job.job_id, reason, extra=fields
                )
            case Act.REPORT:
                log.warning("job %s: %s", job.job_id, reason, extra=fields)

    async def _note(self, job: Job, payment: Payment) -> None:
        """Show the state of the payment on a job that has a settlement."""
        state, settlement = payment.on_chain_state, job.settlement
        if settlement is None or state is None or settlement.on_chain_state == state:
            return
        await self._client.settle(job.job_id, on_chain_state=state)

"""Brings the hashes of results on chain: one lease a job, one step at a time."""

import asyncio
import logging
import random
from typing import Any, Final

import httpx

from tollgate.client.aio import AsyncClient
from tollgate.client.results import Lease
from tollgate.domain.exceptions import ArgumentError, JobNotFoundError, LeaseLostError
from tollgate.domain.hashing import output_hash, output_hash_as_deployed
from tollgate.domain.models import Job
from tollgate.domain.settlement import SettlementState
from tollgate.job_log import log_fields
from tollgate.masumi.api import (
    PaymentService,
    ServiceFailedError,
    ServiceRefusedError,
    UnreadableError,
)
from tollgate.masumi.payment import Payment
from tollgate.masumi.proof import Next, Step, decide, next_recovery
from tollgate.masumi.rounds import BACKOFF_S_MAX

log = logging.getLogger("tollgate.payments")

SPARE_S: Final = 10.0
"""What a lease is longer than a call of the service: it is renewed before each that changes."""
CLAIMED: Final = 8
"""Settlements of each state looked at at once: neither state makes the other one wait."""
REASON_CHARACTERS: Final = 250
"""The broker takes 1,024 bytes, and a character has up to four."""
LASTING: Final = 3
"""Failures in a row after which a job is named in the log, once."""
IN_VAIN_MAX: Final = 10
"""Answers in a row that may be of no use before a person is asked."""
COUNTED_MAX: Final = 100_000
"""Jobs whose failures are counted, in memory."""
CHANGED: Final = frozenset({httpx.codes.NOT_FOUND, httpx.codes.CONFLICT})
"""The payment is not as it was shown before: a repeat, or another caller at the same time."""
HASHES: Final = {"escaped": output_hash_as_deployed, "raw": output_hash}
"""The forms of a result that are hashed; see `domain.hashing`."""
STATES: Final = {
    Step.SUBMITTED: SettlementState.SUBMITTED,
    Step.CONFIRMED: SettlementState.CONFIRMED,
    Step.REFUSED: SettlementState.REFUSED,
    Step.MANUAL: SettlementState.MANUAL,
}


class Submissions:
    """Submits the hash of every completed job's result once, and watches it until it is on chain.

    Any number of these may run: a lease on the settlement keeps them apart. A second one that
    holds the job after a lapse submits the same hash, and looks first.
    """

    def __init__(  # noqa: PLR0913 - one argument a setting
        self,
        client: AsyncClient,
        service: PaymentService,
        *,
        form: str,
        recoveries_max: int,
        poll_s: float,
        call_s: float,
        queue: str | None = None,
    ) -> None:
        """Take the settlements of one `queue`, or by default of all."""
        self._client = client
        self._queue = queue
        self._service = service
        self._hash = HASHES[form]
        self._recoveries_max = recoveries_max
        self._poll_s = poll_s
        self._lease_ms = int(1_000 * (call_s + SPARE_S))
        self._failures = _Counts()
        """How often in a row the service failed when a job was looked at."""
        self._in_vain = _Counts()
        """How often in a row an answer of the service was of no use for a job."""

    async def round(self) -> bool:
        """Take one step with each settlement that is due; return whether there were any.

        Raises what the broker's calls raise; then leases lapse, and another watcher looks. Raises
        ServiceRefusedError if the service refuses the token.
        """
        leases = await self._claim()
        told = []
        for end in await asyncio.gather(*map(self._settle, leases), return_exceptions=True):
            if isinstance(end, BaseException):
                raise end
            told += [end] if end else []
        if told:  # one line for all of them: the service may be away
            job, fault = told[0]
            log.warning(
                "job %s waits for the service: %s (such jobs in this round: %d)",
                job.job_id, fault, len(told), extra=log_fields(job),
            )  # fmt: skip
        return bool(leases)

    async def _claim(self) -> list[Lease]:
        """Return settlements with something to do."""
        leases: list[Lease] = []
        for state in (SettlementState.WANTED, SettlementState.SUBMITTED):
            leases += await self._client.claim(
                settlement=state, queue=self._queue, lease_ms=self._lease_ms, limit=CLAIMED
            )
        return leases

    async def _settle(self, lease: Lease) -> tuple[Job, ServiceFailedError] | None:
        """Take one step with a job, and give its lease back; return a failure to be logged."""
        job = lease.job
        try:
            result_hash = self._hash_of(job)
        except ArgumentError as fault:
            await self._end(lease, Next(Step.MANUAL, f"the result has no hash: {fault}"))
            return None
        try:
            payment, step = await self._step(lease, result_hash)
        except (LeaseLostError, JobNotFoundError) as lost:
            log.info("job %s is another watcher's: %s", job.job_id, lost, extra=log_fields(job))
        except UnreadableError as fault:
            await self._answered_in_vain(lease, fault)
        except ServiceFailedError as fault:
            return await self._failed(lease, fault)
        except ServiceRefusedError as refusal:
            if refusal.is_ours:
                await self._later(lease, self._pause_s())
                raise
            if refusal.status in CHANGED:
                await self._answered_in_vain(lease, refusal)
            else:
                await self._end(lease, Next(Step.MANUAL, str(refusal)))
        else:
            self._failures.clear(job)
            self._in_vain.clear(job)
            await self._end(lease, step, payment, result_hash)
        return None

    async def _failed(
        self, lease: Lease, fault: ServiceFailedError
    ) -> tuple[Job, ServiceFailedError] | None:
        """Wait, longer each time; return a failure that lasts, once."""
        job = lease.job
        count = self._failures.more(job)
        log.debug("job %s is looked at again later: %s", job.job_id, fault, extra=log_fields(job))
        await self._later(lease, max(self._pause_s(count - 1), fault.retry_after_s or 0.0))
        return (job, fault) if count == LASTING else None

    async def _answered_in_vain(self, lease: Lease, why: Exception) -> None:
        """Look again, since what is shown may change; in the end ask a person."""
        job = lease.job
        if self._in_vain.more(job) < IN_VAIN_MAX:
            await self._later(lease, self._pause_s())
        else:
            self._in_vain.clear(job)
            await self._end(lease, Next(Step.MANUAL, str(why)))

    def _hash_of(self, job: Job) -> str:
        if job.identifier_from_purchaser is None:
            raise ArgumentError("the job has no identifier_from_purchaser")
        if job.result is None:
            raise ArgumentError("the job has no result")
        return self._hash(job.identifier_from_purchaser, job.result)

    async def _step(self, lease: Lease, result_hash: str) -> tuple[Payment, Next]:
        payment = await self._service.resolve(lease.job.blockchain_identifier)
        if payment is None:
            message = "the payment service does not know this payment"
            raise ServiceRefusedError(message, httpx.codes.NOT_FOUND)
        step = decide(payment, result_hash, self._service.now())
        if step.step is Step.SUBMIT:
            step = await self._submit(lease, result_hash)
        elif step.step is Step.RECOVER:
            step = await self._recover(lease, payment, step.reason or "")
        return payment, step

    async def _submit(self, lease: Lease, result_hash: str) -> Next:
        """Have the hash put on chain. What came of it is seen when the payment is looked at next.

        A refusal may mean that it was taken before, an error that it was taken now.
        """
        job = lease.job
        await self._hold(lease)
        await self._service.submit(job.blockchain_identifier, result_hash)
        log.info(
            "the hash of job %s is submitted: %s", job.job_id, result_hash, extra=log_fields(job)
        )
        return Next(Step.WAIT)

    async def _recover(self, lease: Lease, payment: Payment, why: str) -> Next:
        """Have an error cleared: the next look finds that the hash is to be submitted anew."""
        job = lease.job
        noted = job.settlement.reason if job.settlement else None
        reason = next_recovery(payment, noted, self._recoveries_max, why)
        if reason is None:
            return Next(Step.MANUAL, f"{self._recoveries_max} recoveries did not help: {why}")
        reason = reason[:REASON_CHARACTERS]
        await self._hold(lease)
        if reason != noted:  # counted before it is done, so that it is counted whatever dies
            await self._client.settle(job.job_id, lease=lease.token, reason=reason)
            log.warning("job %s: %s", job.job_id, reason, extra=log_fields(job))
        await self._service.recover(payment)
        return Next(Step.WAIT)

    # --- the lease ------------------------------------------------------------------------------

    async def _hold(self, lease: Lease) -> None:
        """Renew a lease for one call. Raises LeaseLostError if another watcher may have acted.

        A process that was frozen after its look must not act on what it has seen.
        """
        await self._client.touch(lease.job.job_id, lease.token, lease_ms=self._lease_ms)

    async def _end(
        self,
        lease: Lease,
        step: Next,
        payment: Payment | None = None,
        result_hash: str | None = None,
    ) -> None:
        """Tell the broker what came of a step; its lease ends."""
        job, to = lease.job, STATES.get(step.step)
        state = job.settlement.state if job.settlement else None
        if to is SettlementState.CONFIRMED and state is SettlementState.WANTED:
            to = SettlementState.SUBMITTED  # one after the other, as the state machine has it
        if to is state:
            to = None
        if to in {SettlementState.MANUAL, SettlementState.REFUSED}:
            log.warning(
                "the settlement of job %s is %s: %s",
                job.job_id, to, step.reason, extra=log_fields(job),
            )  # fmt: skip
        elif to is SettlementState.CONFIRMED:
            log.info("the hash of job %s is on chain", job.job_id, extra=log_fields(job))
        is_over = to is not None and to is not SettlementState.SUBMITTED
        await self._give_back(
            lease,
            to=to,
            result_hash=None if step.step in {Step.REFUSED, Step.MANUAL} else result_hash,
            on_chain_state=_news(job, payment),
            # Else the reason stays, which counts recoveries.
            reason=step.reason[:REASON_CHARACTERS] if is_over and step.reason else None,
            retry_after_s=None if is_over else self._pause_s(),
        )

    async def _later(self, lease: Lease, pause_s: float) -> None:
        await self._give_back(lease, retry_after_s=pause_s)

    async def _give_back(self, lease: Lease, **outcome: Any) -> None:  # noqa: ANN401 - of `settle`
        try:
            await self._client.settle(lease.job.job_id, lease=lease.token, **outcome)
        except (LeaseLostError, JobNotFoundError) as lost:
            job = lease.job
            log.info("job %s is another watcher's: %s", job.job_id, lost, extra=log_fields(job))

    def _pause_s(self, failures: int = 0) -> float:
        """Return when to look again; jobs do not all come back at once."""
        grown_s = min(self._poll_s * 2.0 ** min(failures, 10), BACKOFF_S_MAX)
        return max(grown_s, self._poll_s) * random.uniform(0.75, 1.25)  # noqa: S311 - no secret


class _Counts:
    """Counts something of jobs: of the `COUNTED_MAX` that it happened to last."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def more(self, job: Job) -> int:
        """Return how often it has happened to a job, with this time."""
        count = self._counts.pop(job.job_id, 0) + 1
        self._counts[job.job_id] = count
        if len(self._counts) > COUNTED_MAX:
            del self._counts[next(iter(self._counts))]
        return count

    def clear(self, job: Job) -> None:
        self._counts.pop(job.job_id, None)


def _news(job: Job, payment: Payment | None) -> str | None:
    state = None if payment is None else payment.on_chain_state
    known = None if job.settlement is None else job.settlement.on_chain_state
    return None if state == known else state

"""Starts jobs: makes the payment, then the job; a repeat is answered from the job that is there."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from tollgate.client.aio import AsyncClient
from tollgate.domain.exceptions import (
    JobConflictError,
    JobNotFoundError,
    TollgateError,
    VersionConflictError,
)
from tollgate.domain.models import Job, JobStatus
from tollgate.domain.results import HelloResult
from tollgate.gateway.agent import FOR_SERVICE, Agent, Deadlines
from tollgate.gateway.request import Hire, HttpError
from tollgate.masumi.api import PaymentService, ServiceFailedError, ServiceRefusedError
from tollgate.masumi.payment import NewPayment, Times

log = logging.getLogger("tollgate.gateway")

FREE_PREFIX: Final = "FREE-"
"""How the blockchain identifier of a free job begins, as in the masumi SDK."""
UNPAID_END: Final = 2
"""The version of a job that ended while it waited for its payment."""
TRIES: Final = 3
PAUSE_S: Final = 0.3
PATIENCE_S: Final = 5.0
"""No try begins later: the caller waits."""
CONFLICT: Final = 409
"""The service asks to try again."""
RETRY_S: Final = 5
"""When a caller should try again after the payment service gave no answer."""


class Terms(msgspec.Struct, frozen=True):
    """What was agreed at a hire and has no field in the job. It is the job's `meta`, as JSON."""

    payByTime: int  # noqa: N815 - MIP-003's names; times are Unix milliseconds
    submitResultTime: int  # noqa: N815
    unlockTime: int  # noqa: N815
    externalDisputeUnlockTime: int  # noqa: N815
    agentIdentifier: str  # noqa: N815
    sellerVKey: str  # noqa: N815


class Started(msgspec.Struct, frozen=True):
    """The answer to `/start_job`, in both spellings where callers differ."""

    id: str
    job_id: str
    blockchainIdentifier: str  # noqa: N815
    payByTime: int  # noqa: N815
    submitResultTime: int  # noqa: N815
    unlockTime: int  # noqa: N815
    externalDisputeUnlockTime: int  # noqa: N815
    agentIdentifier: str  # noqa: N815
    sellerVKey: str  # noqa: N815
    identifierFromPurchaser: str  # noqa: N815
    input_hash: str
    inputHash: str  # noqa: N815
    status: str = "success"
    """Of this request: callers of an earlier MIP-003 look for it."""


class Hiring:
    """Starts the jobs of one agent. `payments` is None for a free agent."""

    def __init__(self, agent: Agent, client: AsyncClient, payments: PaymentService | None) -> None:
        self._agent = agent
        self._client = client
        self._payments = payments
        self._locks: dict[str, tuple[asyncio.Lock, list[None]]] = {}

    async def start(self, hire: Hire, traceparent: str | None = None) -> Job:
        """Start a job, or return the one that this hire has started before.

        The job is looked for first, and made last: a payment without a job is never told to a
        buyer, so it is never paid. Of two processes that are hired at the same time one makes the
        job, and both tell its payment.

        Raises:
            HttpError: the payment service makes no payment, the input is too large, or the job is
                another agent's, or was cancelled or not paid in time.
            TollgateError: the broker refuses, or is away.

        """
        async with self._alone(hire.job_id):
            try:
                job = await self._client.get(hire.job_id)
            except JobNotFoundError:
                job = await self._make(hire, traceparent)
            if job.queue != self._agent.queue:  # `/status` would not find it
                raise HttpError(
                    409, "job_conflict", "another agent of this name has the job of this hire"
                )
            if job.status is JobStatus.FAILED and job.version == UNPAID_END:
                raise HttpError(
                    409, "job_conflict",
                    "the job of this hire has ended without a payment: do not pay for it, and hire "
                    "again with another identifier_from_purchaser",
                )  # fmt: skip
            if self._payments is None and job.status is JobStatus.AWAITING_PAYMENT:
                job = await self._run(job)  # its first message came in half
        return job

    async def _run(self, job: Job) -> Job:
        try:
            return await self._client.transition(job.job_id, "running", expected_version=1)
        except VersionConflictError:
            return await self._client.get(job.job_id)

    @asynccontextmanager
    async def _alone(self, job_id: str) -> AsyncIterator[None]:
        """Let equal hires of this process in one after the other: they make one payment."""
        lock, waiting = self._locks.setdefault(job_id, (asyncio.Lock(), []))
        waiting.append(None)
        try:
            async with lock:
                yield
        finally:
            waiting.pop()
            if not waiting:
                del self._locks[job_id]

    async def _make(self, hire: Hire, traceparent: str | None) -> Job:
        agent = self._agent
        broker = await self._client.ping()
        self._check(hire, broker)
        if self._payments is None:
            now = time.time() if broker.time is None else broker.time.timestamp()
            times = _times(agent.deadlines, now)
            identifier, seller = FREE_PREFIX + hire.job_id, agent.seller_vkey
        else:
            payment = await self._pay(self._payments, hire)
            times, identifier = payment.times, payment.blockchain_identifier
            seller = agent.seller_vkey or payment.seller_vkey
            if seller is None:  # callers take no empty one
                log.error("the payment service names no seller: set seller_vkey of the agent")
                raise _no_payment(10 * RETRY_S)
        terms = Terms(
            payByTime=times.pay_by,
            submitResultTime=times.submit_result,
            unlockTime=times.unlock,
            externalDisputeUnlockTime=times.external_dispute_unlock,
            agentIdentifier=agent.listed_as,
            sellerVKey=seller or "",
        )
        is_free = self._payments is None
        fields: dict[str, Any] = {
            "input": hire.input_text,
            "identifier_from_purchaser": hire.identifier,
            "job_id": hire.job_id,
            "blockchain_identifier": identifier,
            "pay_by_time": _moment(times.pay_by),
            "submit_result_time": _moment(times.submit_result) - FOR_SERVICE,
            "queue": agent.queue,
            "meta": msgspec.json.encode(terms).decode(),
            "traceparent": traceparent,
            "settle": not is_free,
        }
        try:
            if is_free:
                return await self._run_at_once(hire, fields)
            return await self._client.create(hire.input_hash, **fields)
        except JobConflictError:  # another process was faster, with a payment of its own
            return await self._client.get(hire.job_id)

    def _check(self, hire: Hire, broker: HelloResult) -> None:
        """Refuse what the broker would refuse or fail: once there is a payment, it is too late."""
        size, most = len(hire.input_text.encode()), broker.limits["text_bytes"]
        if size > most:
            why = f"has {size:,} bytes as canonical JSON, more than {most:,}"
            raise HttpError(413, "too_large", f"input_data {why}", field_errors={"input_data": why})
        if self._payments is not None and broker.time is not None:
            ahead = broker.time - self._payments.now()
            if ahead >= self._agent.deadlines.pay_by:
                log.error("the broker's clock is %s ahead of the payment service's", ahead)
                raise _no_payment(10 * RETRY_S)

    async def _run_at_once(self, hire: Hire, fields: dict[str, Any]) -> Job:
        """Create a job and let it run, in one message: it never waits for a payment."""
        batch = self._client.batch()
        batch.create(hire.input_hash, **fields)
        batch.transition(hire.job_id, "running", expected_version=1)
        created, running = await batch.send()
        if isinstance(created, TollgateError):
            raise created
        if isinstance(running, VersionConflictError):
            return await self._client.get(hire.job_id)  # an earlier try has done both
        if isinstance(running, TollgateError):
            raise running
        job: Job = running
        return job

    async def _pay(self, payments: PaymentService, hire: Hire) -> NewPayment:
        """Make a payment. A try without an answer may have made one, which is never told."""
        agent = self._agent
        until = time.monotonic() + PATIENCE_S
        for tries_left in reversed(range(TRIES)):
            times = _times(agent.deadlines, payments.now().timestamp())
            try:
                return await payments.create(
                    agent.listed_as,
                    hire.identifier,
                    hire.input_hash,
                    times,
                    amounts=agent.amounts,
                    source_index=agent.source_index,
                )
            except ServiceFailedError as fault:
                log.warning("no payment was told: %s", fault)  # the service may have made one
                retry_s = fault.retry_after_s
                if not tries_left or retry_s is not None or time.monotonic() > until:
                    raise _no_payment(RETRY_S if retry_s is None else int(retry_s) + 1) from None
            except ServiceRefusedError as refusal:
                if refusal.status != CONFLICT or not tries_left:
                    # The purchaser's part was checked: what is wrong is ours, or the service's.
                    log.error("the payment service makes no payment: %s", refusal)  # noqa: TRY400
                    raise _no_payment(10 * RETRY_S) from None
            await asyncio.sleep(PAUSE_S)
        raise AssertionError  # the last try has returned or raised


def _no_payment(retry_after_s: int) -> HttpError:
    return HttpError(
        503,
        "payment_service",
        "the payment service told no payment; nothing was started",
        retry_after_s=retry_after_s,
    )


def _times(deadlines: Deadlines, now: float) -> Times:
    def at(name: str) -> int:
        return int((now + getattr(deadlines, name).total_seconds()) * 1_000)

    return Times(at("pay_by"), at("submit_result"), at("unlock"), at("external_dispute_unlock"))


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1_000, UTC)


def started(job: Job, hire: Hire) -> Started:
    """Return the answer to `/start_job`. Raises HttpError if the terms of the job are gone."""
    try:
        terms = msgspec.json.decode(job.meta or "", type=Terms)
    except msgspec.MsgspecError:
        raise HttpError(
            409,
            "job_conflict",
            f"the job of this hire is {job.job_id}, but its terms are gone: `meta` was replaced",
        ) from None
    return Started(
        id=job.job_id,
        job_id=job.job_id,
        blockchainIdentifier=job.blockchain_identifier,
        **msgspec.structs.asdict(terms),
        identifierFromPurchaser=job.identifier_from_purchaser or hire.identifier,
        input_hash=job.input_hash,
        inputHash=job.input_hash,
    )

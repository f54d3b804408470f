"""Sends results to the broker: all that are ready in one message, and each takes effect once."""

import asyncio
import logging
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from tollgate.client.aio import AsyncBatch, AsyncClient
from tollgate.domain.exceptions import Refusal, TollgateError, TooLargeError
from tollgate.domain.models import Job
from tollgate.worker.handlers import HandlerResult
from tollgate.worker.lease import HeldJob
from tollgate.worker.retry import Backoff, BrokerStatus, may_pass, one_line

log = logging.getLogger("tollgate.worker")

BATCHES_MAX: Final = 4
"""Messages under way at once, as many as a call of the client has. Results that become ready
meanwhile wait for an answer and share the next message: the more results, the cheaper each is."""

OnSettled = Callable[[HeldJob, HandlerResult | None], None]
"""Called once for each job, when no more is sent for it: with the result that the broker took, or
with None if the job belongs to another worker or its state is not known."""


class Settler:
    """Settles jobs in batches. A job that its batch did not settle is settled alone."""

    def __init__(self, client: AsyncClient, broker: BrokerStatus, on_settled: OnSettled) -> None:
        self._client = client
        self._broker = broker
        self._on_settled = on_settled
        self._ready: list[tuple[HeldJob, HandlerResult]] = []
        self._unsettled: set[HeldJob] = set()
        self._batches: set[asyncio.Task[None]] = set()
        self._alone: set[asyncio.Task[None]] = set()
        self._is_due = False

    def __len__(self) -> int:
        """Return how many jobs are not settled yet."""
        return len(self._unsettled)

    def put(self, held: HeldJob, result: HandlerResult) -> None:
        """Send a result, together with all that become ready in this turn of the loop."""
        held.is_settling = True
        self._unsettled.add(held)
        self._ready.append((held, result))
        self._start_batch()

    def give_up(self) -> list[HeldJob]:
        """Send nothing more, and return the jobs that are not settled."""
        for task in self._batches | self._alone:
            task.cancel()
        left = [*self._unsettled]
        self._unsettled.clear()
        self._ready.clear()
        self._is_due = False
        return left

    def _start_batch(self) -> None:
        if self._ready and not self._is_due and len(self._batches) < BATCHES_MAX:
            self._is_due = True
            batch = asyncio.create_task(self._settle_batch())
            self._batches.add(batch)
            batch.add_done_callback(self._end_batch)

    def _end_batch(self, batch: asyncio.Task[None]) -> None:
        self._batches.discard(batch)
        self._start_batch()

    async def _settle_batch(self) -> None:
        self._is_due = False
        ready, self._ready = self._ready, []
        asked_at = monotonic()
        answers = await self._send(ready)
        for (held, result), answer in zip(ready, answers, strict=True):
            if isinstance(answer, TollgateError):
                alone = asyncio.create_task(self._settle_alone(held, result, answer, asked_at))
                self._alone.add(alone)
                alone.add_done_callback(self._alone.discard)
            elif isinstance(answer, Exception):
                held.leave_alone(answer)
                self._end(held, None)
            else:
                self._end(held, result)

    async def _send(self, ready: list[tuple[HeldJob, HandlerResult]]) -> list[Any]:
        """Return the answer to each result, or the exception that kept it from being sent."""
        batch = self._client.batch()
        sent: list[int | Exception] = []
        for held, result in ready:
            try:
                sent.append(_transition(batch, held, result))
            except Exception as fault:  # noqa: BLE001 - one job must not take the others with it
                sent.append(fault)
        try:
            answers = await batch.send()
        except Exception as fault:  # noqa: BLE001 - every job of the batch has this answer
            answers = [fault] * len(batch)
        return [answers[place] if isinstance(place, int) else place for place in sent]

    async def _settle_alone(
        self, held: HeldJob, result: HandlerResult, answer: TollgateError, asked_at: float
    ) -> None:
        try:
            job = await settle(self._client, held, result, self._broker, (answer, asked_at))
        except Exception as fault:  # noqa: BLE001 - no caller awaits this task
            held.leave_alone(fault)
            job = None
        self._end(held, result if job else None)

    def _end(self, held: HeldJob, result: HandlerResult | None) -> None:
        self._unsettled.remove(held)
        self._on_settled(held, result)


async def settle(
    client: AsyncClient,
    held: HeldJob,
    result: HandlerResult,
    broker: BrokerStatus,
    failed: tuple[TollgateError, float] | None = None,
) -> Job | None:
    """Move a held job to its result; return the job after that, or None if another worker has it.

    While the broker does not answer, this tries again: with the version and the lease in the
    transition, the broker refuses a second one. A missing answer does not mean no: the job itself
    shows whether it has moved. If the result was sent before, `failed` holds the answer to that and
    when it was sent.
    """
    backoff = Backoff()
    is_in_doubt = False
    while True:
        asked_at = monotonic()
        try:
            if failed is not None:
                (answer, asked_at), failed = failed, None
                raise answer
            if is_in_doubt:
                job = await client.get(held.job.job_id)
                if job.version != held.job.version:
                    return _if_ours(job, held, result)
            settled: Job = await _transition(client, held, result)
        except TooLargeError as refusal:
            result = result.shortened(refusal)
            continue
        except TollgateError as fault:
            if not may_pass(fault):
                log.warning(
                    "job %s: %s refused (%s)", held.job.job_id, result.target, one_line(fault)
                )
                return None
            is_in_doubt = is_in_doubt or not isinstance(fault, Refusal)
            broker.lost(fault, asked_at)
        else:
            return settled
        await backoff.wait()


def _transition(to: AsyncClient | AsyncBatch, held: HeldJob, result: HandlerResult) -> Any:  # noqa: ANN401
    """Return what `to` makes of the transition of a held job to its result."""
    return to.transition(
        held.job.job_id,
        result.target,
        result=result.result,
        error=result.error,
        expected_version=held.job.version,
        lease=held.token,
    )


def _if_ours(job: Job, held: HeldJob, result: HandlerResult) -> Job | None:
    """Return the job if it moved as this worker wanted, else None."""
    sent = (result.target, result.result, result.error)
    if job.version == held.job.version + 1 and (job.status, job.result, job.error) == sent:
        return job
    log.warning(
        "job %s: moved on to %s (version %d) while the answer to %s was missing",
        job.job_id, job.status, job.version, result.target,
    )  # fmt: skip
    return None

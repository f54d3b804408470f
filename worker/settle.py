"""Sends outcomes to the broker: all that are ready in one message, and each takes effect once."""

import asyncio
import logging
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from tollgate.client import commands
from tollgate.client.errors import may_pass
from tollgate.client.results import Lease
from tollgate.domain.commands import AnyCommand
from tollgate.domain.exceptions import (
    InternalError,
    LeaseLostError,
    Refusal,
    TollgateError,
    TooLargeError,
    VersionConflictError,
)
from tollgate.domain.models import Job
from tollgate.domain.status import COMPLETED
from tollgate.job_log import log_fields
from tollgate.worker.broker_status import Backoff, BrokerStatus, one_line, refusal_line
from tollgate.worker.held import HeldJob
from tollgate.worker.link import Link
from tollgate.worker.outcome import GiveBack, Move, Outcome, cut, shortened
from tollgate.worker.own_tasks import own_task
from tollgate.worker.policy import RetryPolicy
from tollgate.worker.roles import Roles

log = logging.getLogger("tollgate.worker")

MESSAGES_MAX: Final = 4
"""Messages under way at once. Outcomes that become ready meanwhile wait for an answer and share the
next message: the more outcomes, the cheaper each is."""

Delivered = tuple[Job | None, Outcome | None]
"""The job after its outcome, and the outcome; both None if the job does not take it."""

CUTS_MAX: Final = 4
"""How often an outcome is made smaller that the broker calls too large."""

OnSettled = Callable[[HeldJob, Outcome | None], None]
"""Called once for each job, when no more is sent for it: with the outcome that the broker took, or
with None if the job is no longer this worker's."""


class Settler:
    """Settles jobs together. One that its message did not settle is settled alone."""

    def __init__(  # noqa: PLR0913, PLR0917 - its parts
        self,
        link: Link,
        broker: BrokerStatus,
        policy: RetryPolicy,
        lease_ms: int,
        on_settled: OnSettled,
        roles: Roles,
    ) -> None:
        self._link = link
        self._broker = broker
        self._policy = policy
        self._lease_ms = lease_ms
        self._on_settled = on_settled
        self._roles = roles
        self._ready: list[tuple[HeldJob, Outcome]] = []
        self._unsettled: dict[HeldJob, Outcome] = {}
        self._messages = 0
        self._alone: dict[asyncio.Task[None], HeldJob] = {}

    def __len__(self) -> int:
        """Return how many jobs are not settled yet."""
        return len(self._unsettled)

    @property
    def outcomes(self) -> dict[HeldJob, Outcome]:
        """The outcomes of the jobs that are not settled yet; may be used in any thread."""
        return self._unsettled.copy()

    def gives_back(self, held: HeldJob) -> bool:
        """Whether a lease is being given back: the job may come to this worker again."""
        return isinstance(self._unsettled.get(held), GiveBack)

    def keeps(self, lease: Lease) -> HeldJob | None:
        """Return the job whose outcome waits for this lease, if it can take it."""
        for held in self._alone.values():
            if (held.job_id, held.version) == (lease.job.job_id, lease.job.version):
                return None if self.gives_back(held) else held
        return None

    @property
    def under_way(self) -> int:
        """How many of them are not settled alone."""
        return len(self._unsettled) - len(self._alone)

    def put(self, held: HeldJob, outcome: Outcome) -> None:
        """Send an outcome with the next message, or alone if its lease is lost: see `keeps`."""
        self._unsettled[held] = outcome
        if held.is_lost:
            self._settle_alone(held, outcome)
        else:
            self._ready.append((held, outcome))

    def take(self) -> tuple[list[AnyCommand], Callable[[list[Any]], None]] | None:
        """Return the commands of the next message, and what to call with its answers."""
        if not self._ready or self._messages >= MESSAGES_MAX:
            return None
        ready, self._ready = self._ready, []
        self._messages += 1
        asked_at = monotonic()
        made = self._last_touches(ready)  # what was reported last comes before what was returned
        touches = len(made)
        made += [outcome.command(held.job_id, held.version, held.token) for held, outcome in ready]

        def answered(answers: list[Any]) -> None:
            self._messages -= 1
            for (held, outcome), answer in zip(ready, answers[touches:], strict=True):
                if held not in self._unsettled:
                    continue  # given up
                if isinstance(answer, Exception):
                    self._settle_alone(held, outcome, (answer, asked_at))
                else:
                    self._end(held, outcome)

        return made, answered

    def _last_touches(self, ready: list[tuple[HeldJob, Outcome]]) -> list[AnyCommand]:
        made: list[AnyCommand] = []
        for held, _ in ready:
            if progress := held.take_progress():
                text, fraction = progress
                made.append(
                    commands.touch(
                        held.job_id, held.token, self._lease_ms, progress=text, fraction=fraction
                    )
                )
        return made

    def give_up(self) -> dict[HeldJob, Outcome]:
        """Send nothing more, and return the jobs that are not settled, with their outcomes."""
        for task in self._alone:
            task.cancel()
        left = dict(self._unsettled)
        self._unsettled.clear()
        self._ready.clear()
        return left

    def _settle_alone(
        self, held: HeldJob, outcome: Outcome, failed: tuple[Exception, float] | None = None
    ) -> None:
        async def settle() -> None:
            took: Outcome | None = None
            try:
                _, took = await self.deliver(held, outcome, failed)
            except Exception:
                # The lease is not released: the job would come back at once. It lapses instead.
                log.exception(
                    "job %s: left alone after a fault of the worker",
                    held.job_id, extra=log_fields(held.job),
                )  # fmt: skip
            self._end(held, took)

        task = own_task(settle())
        self._alone[task] = held
        task.add_done_callback(self._alone.pop)

    def _end(self, held: HeldJob, outcome: Outcome | None) -> None:
        if self._unsettled.pop(held, None) is not None:
            self._on_settled(held, outcome)

    async def deliver(
        self,
        held: HeldJob,
        outcome: Outcome,
        failed: tuple[Exception, float] | None = None,
    ) -> Delivered:
        """Send an outcome until the broker has taken it; return the job after it, and the outcome.

        Both are None if the job is no longer this worker's. The job is None for a lease that was
        given back. While the broker does not answer, this tries again. A missing answer does not
        mean no: the job itself shows whether it has moved. If the lease is over, the job is claimed
        again by its id: while it can still take the outcome, the outcome is not thrown away.

        `failed` is the answer to an earlier message with it, and when that was sent.
        """
        delivery = _Delivery(outcome)
        backoff = Backoff()
        while True:
            fault, asked_at = failed or (None, monotonic())
            failed = None
            try:
                if fault is not None:
                    raise fault
                if delivery.is_in_doubt and (end := await self._end_of(held, delivery)):
                    return end
                command = delivery.outcome.command(held.job_id, held.version, held.token)
                job: Job | None = await self._link.send(command)
            except TollgateError as refusal:
                if end := await self._after(refusal, held, delivery, asked_at):
                    return end
            else:
                held.version = held.version if job is None else job.version
                return job, delivery.outcome
            if delivery.has_to_wait:
                await backoff.wait()

    async def _after(
        self, fault: TollgateError, held: HeldJob, delivery: "_Delivery", asked_at: float
    ) -> Delivered | None:
        """Return how the delivery has ended, or None to send it again."""
        delivery.has_to_wait = True
        if isinstance(fault, TooLargeError):
            delivery.cuts += 1
            if delivery.cuts > CUTS_MAX:
                return _dropped(held, delivery.outcome, one_line(fault))
            delivery.outcome = self._fitting(held, delivery.outcome, fault)
            delivery.has_to_wait = False
        elif isinstance(fault, LeaseLostError | VersionConflictError):
            return await self._regain(fault, held, delivery)
        elif await self._roles.may_come_back(fault):
            pass  # sent again after the pause
        elif not may_pass(fault) and not isinstance(fault, InternalError):
            return _dropped(held, delivery.outcome, refusal_line(fault))
        else:
            delivery.is_in_doubt = delivery.is_in_doubt or not isinstance(fault, Refusal)
            self._broker.lost(fault, asked_at)
        return None

    async def _regain(
        self, fault: TollgateError, held: HeldJob, delivery: "_Delivery"
    ) -> Delivered | None:
        """Try to get a lapsed lease back; return the end if the job takes no outcome any more."""
        outcome = delivery.outcome
        if isinstance(outcome, GiveBack) and (not outcome.hold or delivery.is_in_doubt):
            return None, None  # it is given back already, and may have been resumed since
        try:
            if await self._claim_again(held):
                delivery.has_to_wait = False
                return None
            if end := await self._end_of(held, delivery):
                return end
        except TollgateError as refusal:
            if not may_pass(refusal):
                return _dropped(held, outcome, one_line(refusal))
        if not delivery.is_told:
            delivery.is_told = True
            log.warning(
                "job %s: another worker has the lease, or its queue is paused; this one keeps its"
                " result (%s)",
                held.job_id, one_line(fault), extra=log_fields(held.job),
            )  # fmt: skip
        return None

    async def _end_of(self, held: HeldJob, delivery: "_Delivery") -> Delivered | None:
        """Return the end if the job has moved on, by this worker's outcome or by another one's."""
        outcome = delivery.outcome
        job = await self._link.get(held.job_id)
        if job.version == held.version:
            return None
        if isinstance(outcome, Move) and outcome.made(job, held.version + 1):
            held.version = job.version
            return job, outcome
        why = f"it is {job.status} (version {job.version})"
        return _dropped(held, outcome, f"{why}: {one_line(job.error)}" if job.error else why)

    async def has_lease(self, held: HeldJob) -> bool:
        """Return whether this worker has the job; claim it again if its lease has lapsed."""
        backoff = Backoff()
        while True:
            try:
                token = held.token
                try:
                    await self._link.touch(held.job_id, token, lease_ms=self._lease_ms)
                except LeaseLostError:
                    if await self._claim_again(held):
                        return True
                    if held.token == token:
                        return False
                    # else a claim of this worker has got it meanwhile: look again
                else:
                    return True
            except TollgateError as fault:
                if not may_pass(fault):
                    return False
                await backoff.wait()

    async def _claim_again(self, held: HeldJob) -> bool:
        leases = await self._link.claim(
            held.job.status, job_ids=[held.job_id], lease_ms=self._lease_ms
        )
        for lease in leases:
            if lease.job.version == held.version:
                held.regain(lease)
                log.warning(
                    "job %s: the lease had lapsed, and was granted again",
                    held.job_id, extra=log_fields(held.job),
                )  # fmt: skip
                return True
            await self._link.release(lease.job.job_id, lease.token)
        return False

    def _fitting(self, held: HeldJob, outcome: Outcome, refusal: TooLargeError) -> Outcome:
        """Return what to send instead of an outcome that is too large for the broker."""
        limit = refusal.limit or 0
        if isinstance(outcome, GiveBack) and outcome.delay_ms is None:
            return GiveBack(reason=cut(outcome.reason or "", limit), hold=outcome.hold)
        if isinstance(outcome, GiveBack):
            error = f"{outcome.reason}; the job ends before another try" if outcome.reason else ""
            return self._policy.exhausted(error or "the job ends before another try")
        if outcome.error is not None:
            return shortened(outcome, limit)
        if outcome.result is None:
            log.error(
                "job %s: its question is not taken: %s",
                held.job_id, one_line(refusal), extra=log_fields(held.job),
            )  # fmt: skip
            return Move.failed(str(refusal))
        size = len(outcome.result.encode())
        setting, text_limit = "--request-bytes", self._link.limit("text_bytes", limit)
        if size > text_limit:
            setting, limit = "--text-bytes", text_limit
        error = (
            f"the handler's result has {size} bytes, and the broker takes {limit}:"
            f" raise its setting {setting}"
        )
        log.error("job %s: %s", held.job_id, error, extra=log_fields(held.job))
        return self._policy.exhausted(error)


class _Delivery:
    """An outcome on its way, and what is known of it."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.is_in_doubt = False
        """Whether it was sent without an answer: the job may have moved."""
        self.is_told = False
        """Whether the log says that another worker has the job."""
        self.has_to_wait = False
        self.cuts = 0
        """How often it was made smaller."""


def _dropped(held: HeldJob, outcome: Outcome, why: str) -> Delivered:
    """Log that the job does not take an outcome any more."""
    target = outcome.target if isinstance(outcome, Move) else "released"
    level = logging.ERROR if target is COMPLETED else logging.WARNING
    log.log(
        level, "job %s: cannot be %s any more: %s", held.job_id, target, why,
        extra=log_fields(held.job),
    )  # fmt: skip
    return None, None

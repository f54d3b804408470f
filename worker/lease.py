"""The leases that a worker holds: touched while their jobs need them, then dropped or released."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from tollgate.client.aio import AsyncClient
from tollgate.client.results import Lease
from tollgate.domain.exceptions import JobNotFoundError, LeaseLostError, TollgateError
from tollgate.domain.models import Job
from tollgate.worker.retry import may_pass, one_line

log = logging.getLogger("tollgate.worker")

TOUCHES: Final = 3
"""Touches per lease time, so that two may fail before the lease lapses."""


class HeldJob:
    """A job under a lease of this worker, and the task that works on it."""

    __slots__ = ("is_lost", "is_settling", "is_touched", "job", "task", "token")

    def __init__(self, lease: Lease) -> None:
        self.job: Job = lease.job
        self.token = lease.token
        self.task: asyncio.Task[None] | None = None
        """Set while the job is worked on; the task may work on other jobs before and after."""
        self.is_lost = False
        """The broker said that the lease is over: another worker may have the job."""
        self.is_settling = False
        """The result is being sent. From now on only the answer to it tells what happened."""
        self.is_touched = False
        """A touch has no answer yet."""

    def lose(self, reason: TollgateError) -> None:
        """Stop working on the job: the broker would refuse the result."""
        if not self.is_settling and not self.is_lost:
            log.warning("job %s: lease lost, giving up (%s)", self.job.job_id, one_line(reason))
            self.is_lost = True
            if self.task is not None:
                self.task.cancel()

    def leave_alone(self, fault: Exception) -> None:
        """Log that a bug in the worker itself ends the work on this job.

        The lease is not released, because the job would come back at once. The broker counts leases
        that lapse.
        """
        log.error("job %s: left alone after %r", self.job.job_id, fault)
        log.debug("the fault", exc_info=fault)


class LeaseKeeper:
    """Touches all held leases three times per `lease_ms`, and releases leases."""

    def __init__(self, client: AsyncClient, lease_ms: int) -> None:
        self._client = client
        self._lease_ms = lease_ms
        self._held: set[HeldJob] = set()
        self._touching: set[asyncio.Task[None]] = set()

    def hold(self, held: HeldJob) -> None:
        """Begin to touch a lease."""
        self._held.add(held)

    def drop(self, held: HeldJob) -> None:
        """Stop touching a lease."""
        self._held.discard(held)

    async def run(self) -> None:
        """Touch the leases until cancelled."""
        try:
            while True:
                await asyncio.sleep(self._lease_ms / 1_000 / TOUCHES)
                # A second touch would only queue behind one that has no answer yet.
                due = [held for held in self._held if not held.is_touched]
                if due:
                    touching = asyncio.create_task(self._touch(due))
                    self._touching.add(touching)
                    touching.add_done_callback(self._touching.discard)
        finally:
            for touching in self._touching:
                touching.cancel()

    async def release(self, leases: Iterable[tuple[str, int]]) -> None:
        """Release leases, given as pairs of job id and token; one that fails lapses by itself."""
        batch = self._client.batch()
        for job_id, token in leases:
            batch.release(job_id, token)
        if batch:
            with suppress(TollgateError):
                await batch.send()

    async def _touch(self, due: list[HeldJob]) -> None:
        """Touch leases in one message; each has its own answer."""
        batch = self._client.batch()
        for held in due:
            held.is_touched = True
            batch.touch(held.job.job_id, held.token, lease_ms=self._lease_ms)
        try:
            answers = await batch.send()
        except TollgateError as fault:
            answers = [fault] * len(due)
        finally:
            for held in due:
                held.is_touched = False
        for held, answer in zip(due, answers, strict=True):
            if isinstance(answer, LeaseLostError | JobNotFoundError):
                held.lose(answer)
            elif isinstance(answer, TollgateError):
                level = logging.DEBUG if may_pass(answer) else logging.WARNING
                log.log(level, "job %s: touch failed (%s)", held.job.job_id, one_line(answer))


class UnpaidLeases:
    """The latest `limit` leases on jobs that are never paid, kept to be released at a stop.

    They are not touched. The leases that are forgotten lapse by themselves.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tokens: OrderedDict[str, int] = OrderedDict()

    def add(self, lease: Lease) -> None:
        """Remember a lease; an earlier one on the same job has lapsed."""
        self._tokens[lease.job.job_id] = lease.token
        self._tokens.move_to_end(lease.job.job_id)
        if len(self._tokens) > self._limit:
            self._tokens.popitem(last=False)

    def leases(self) -> list[tuple[str, int]]:
        """Return job id and token of each remembered lease."""
        return list(self._tokens.items())

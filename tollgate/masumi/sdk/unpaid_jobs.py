"""Jobs that wait for their payment: the process that holds the lease of one watches its payment."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from importlib import import_module
from typing import Any, Final

from tollgate.client.results import Lease
from tollgate.domain.exceptions import TollgateError
from tollgate.domain.models import Job
from tollgate.domain.status import AWAITING_PAYMENT, RUNNING
from tollgate.job_log import log_fields
from tollgate.masumi.sdk.fields import read
from tollgate.masumi.sdk.web_process import WebProcess

log = logging.getLogger("tollgate.masumi")

WATCHED: Final = 50
"""Jobs without a payment that are taken over at once."""


class UnpaidJobs:
    """The payments that this process watches, with the SDK's own monitors.

    Args:
        process: whose leases are held.
        start: called before a job is created: the app's startup may not have run.
        hint: called when a job has been paid, and waits for a claim.

    """

    def __init__(
        self, process: WebProcess, start: Callable[[], Awaitable[None]], hint: Callable[[], None]
    ) -> None:
        self._process = process
        self._manager, self._storage = process.manager, process.storage
        self._start = start
        self._hint = hint
        self._create_job = process.manager.create_job
        self._payment_class = import_module("masumi.payment").Payment
        self._creations: set[asyncio.Future[None]] = set()

    async def created(self, *args: Any, **fields: Any) -> str:  # noqa: ANN401 - the SDK's
        """Create a job, and take the lease with which this process watches its payment."""
        await self._start()
        creation = asyncio.get_running_loop().create_future()
        self._creations.add(creation)
        try:
            job_id: str = await self._create_job(*args, **fields)
            granted: list[Lease] = []
            with suppress(TollgateError):  # else a later claim finds the job
                granted = await self._storage.client().claim(
                    AWAITING_PAYMENT, job_ids=job_id, lease_ms=self._process.settings.lease_ms
                )
            for lease in granted:
                self._process.leases().hold(lease, works=False)
            if self._process.leases().holder(job_id) is None:  # another process watches, or will
                payment = self._manager._payment_instances.pop(job_id, None)  # noqa: SLF001
                if payment is not None:
                    payment.start_status_monitoring = _do_nothing
            return job_id
        finally:
            self._creations.discard(creation)
            creation.set_result(None)

    async def claim(self) -> bool:
        """Watch the payments that a dead process watched; return whether there may be more."""
        granted = await self._storage.client().claim(
            AWAITING_PAYMENT,
            queue=self._storage.queue,
            lease_ms=self._process.settings.lease_ms,
            limit=WATCHED,
        )
        for lease in granted:
            self._process.leases().hold(lease, works=False)
        if granted and self._creations:  # perhaps of these jobs: then the SDK watches
            await asyncio.wait(set(self._creations))
        for lease in granted:
            if self._manager.get_payment_instance(lease.job.job_id) is None:
                await self._watch(lease.job)
        return len(granted) == WATCHED

    async def _watch(self, job: Job) -> None:
        payment = self.payment_of(job)
        if payment is None:
            log.warning(
                "job %s has no payment: nothing opens its gate", job.job_id, extra=log_fields(job)
            )
            return
        identifier = job.blockchain_identifier

        async def confirmed(_: object) -> None:
            await self.paid(job.job_id, identifier)

        log.info(
            "job %s: its payment is watched here from now on", job.job_id, extra=log_fields(job)
        )
        await payment.start_status_monitoring(
            callback=confirmed, interval_seconds=self._process.settings.payment_poll_s
        )

    def payment_of(self, job: Job) -> Any:  # noqa: ANN401 - a `Payment`
        """Return the SDK's payment of a job, made anew if another process had it."""
        found = self._manager.get_payment_instance(job.job_id)
        fields = read(job)
        if found is not None or not fields["payment_id"]:
            return found
        payment = self._payment_class(
            agent_identifier=fields["agent_identifier"] or self._process.server.agent_identifier,
            config=self._process.server.config,
            network=self._process.server.network,
            identifier_from_purchaser=fields["identifier_from_purchaser"] or "",
        )
        payment.input_hash = fields["input_hash"]
        payment.payment_ids.add(fields["payment_id"])
        self._manager._payment_instances[job.job_id] = payment  # noqa: SLF001
        return payment

    async def paid(self, job_id: str, payment_id: str) -> None:
        """Open the gate of a job whose funds are locked, if this process watches it."""
        held = self._process.leases().holder(job_id)
        if held is None or held.works:
            return
        self.stop_watching(job_id)
        log.info("job %s is paid (%.8s...)", job_id, payment_id, extra=held.log_fields)
        try:
            await self._process.persist(held, {"status": RUNNING.value})
        except (ValueError, TollgateError) as fault:
            log.warning(
                "job %s is paid, and does not run: %s", job_id, fault, extra=held.log_fields
            )
        self._process.leases().drop(held)
        self._hint()

    def stop_watching(self, job_id: str) -> None:
        """End the SDK's monitor of a payment, but not its callback, which may be the caller."""
        payment = self._manager._payment_instances.pop(job_id, None)  # noqa: SLF001
        monitor = getattr(payment, "_status_check_task", None)
        if monitor is not None:
            monitor.cancel()
            payment._status_check_task = None  # noqa: SLF001

    def stop(self) -> None:
        """End all monitors. After another start, a claim finds the jobs."""
        for payment in self._manager._payment_instances.values():  # noqa: SLF001
            payment.stop_status_monitoring()
        self._manager._payment_instances.clear()  # noqa: SLF001


async def _do_nothing(*_: object, **__: object) -> None:
    """Stand in for a monitor."""

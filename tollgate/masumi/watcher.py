"""The watcher of a payment service: it opens gates and brings results on chain until it stops."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Final

import msgspec

from tollgate.client.aio import AsyncClient
from tollgate.client.errors import BrokerUnreachableError, OutcomeUnknown
from tollgate.domain.exceptions import (
    ExpiredError,
    Refusal,
    SessionEvictedError,
    TollgateError,
)
from tollgate.masumi.api import PaymentService, ServiceFailedError, ServiceRefusedError
from tollgate.masumi.openings import Openings
from tollgate.masumi.submissions import Submissions, all_of

log = logging.getLogger("tollgate.payments")

CLAIMED: Final = 16
"""Settlements looked at at once."""
BACKOFF_S_MAX: Final = 60.0
SETTLEMENT_WAIT_S: Final = 1.0
"""How long to wait for a settlement with something to do before asking again."""


class WatcherSettings(msgspec.Struct, frozen=True):
    """How a watcher works, beside the two that it connects."""

    source_types: tuple[str, ...] = ("Web3CardanoV1", "Web3CardanoV2")
    """The kinds of payment sources whose payments are read."""
    poll_s: float = 5.0
    """How often the service is asked, when nothing goes wrong."""
    hash_form: str = "escaped"
    """`escaped`, as services and buyers hash results, or `raw`, as the text of MIP-004 says."""
    recoveries_max: int = 3
    """How often what failed at the service is tried again before a person is asked."""
    call_s: float = 15.0
    """The longest time of one call of the service."""


class Watcher:
    """Watches one payment service for one broker, with the role `payments`.

    It keeps nothing: any number may run, and one that is killed is replaced by any other.
    """

    def __init__(
        self,
        client: AsyncClient,
        service: PaymentService,
        settings: WatcherSettings | None = None,
    ) -> None:
        settings = settings or WatcherSettings()
        self._poll_s = settings.poll_s
        self._openings = Openings(client, service, settings.source_types)
        self._submissions = Submissions(
            client,
            service,
            form=settings.hash_form,
            recoveries_max=settings.recoveries_max,
            poll_s=settings.poll_s,
            call_s=settings.call_s,
        )
        self._hint = asyncio.Event()
        self._stopping = asyncio.Event()

    def hint(self) -> None:
        """Look at once: something has changed at the service."""
        self._hint.set()

    def stop(self) -> None:
        """Finish the step that is going on, and return from `run`."""
        self._stopping.set()
        self._hint.set()

    async def run(self) -> None:
        """Watch until `stop`.

        Raises:
            Refusal: the broker refuses this client, which has not the role.
            ServiceRefusedError: the service refuses the token.

        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._repeat("payments", self.open_gates))
            tasks.create_task(self._repeat("results", self.submit_results))

    async def open_gates(self) -> bool:
        """Do one round for the jobs that wait for payments; return whether more is left."""
        self._hint.clear()
        return await self._openings.round()

    async def submit_results(self) -> bool:
        """Take one step with each settlement that is due; return whether there were any."""
        leases = await self._submissions.claim(CLAIMED)
        await all_of(self._submissions, leases)
        return bool(leases)

    async def _repeat(self, what: str, round_: Callable[[], Awaitable[bool]]) -> None:
        trouble = _Trouble(what)
        while not self._stopping.is_set():
            asked_at = monotonic()
            try:
                has_more = await round_()
            except ServiceFailedError as fault:
                await self._pause(trouble.after(fault, fault.retry_after_s))
            except ServiceRefusedError as refusal:
                if refusal.is_ours:
                    raise
                await self._pause(trouble.after(refusal))
            except TollgateError as fault:
                if not _may_pass(fault):
                    raise
                await self._pause(trouble.after(fault))
            else:
                trouble.over()
                if not has_more:
                    wait_s = self._poll_s if what == "payments" else SETTLEMENT_WAIT_S
                    await self._pause(wait_s - (monotonic() - asked_at), may_hint=True)

    async def _pause(self, seconds: float, *, may_hint: bool = False) -> None:
        """Wait, but not longer than until `stop`; a hint ends the wait if nothing is wrong."""
        waited_for = self._hint if may_hint else self._stopping
        try:
            async with asyncio.timeout(max(seconds, 0.0)):
                await waited_for.wait()
        except TimeoutError:
            return


class _Trouble:
    """Pauses that grow while something goes wrong, and one log line for it."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._pause_s = 0.0

    def after(self, fault: Exception, at_least_s: float | None = None) -> float:
        """Return how long to wait after an error; each time longer, and never all at once."""
        if not self._pause_s:
            log.warning("%s: trying again: %s", self._what, fault)
        self._pause_s = min(max(1.0, 2 * self._pause_s), BACKOFF_S_MAX)
        jitter_s = self._pause_s * random.uniform(0.5, 1.0)  # noqa: S311 - not a secret
        return max(jitter_s, at_least_s or 0.0)

    def over(self) -> None:
        """Note that all went well."""
        if self._pause_s:
            log.info("%s: all is well again", self._what)
            self._pause_s = 0.0


def _may_pass(fault: TollgateError) -> bool:
    """Return whether the same may succeed later."""
    if isinstance(fault, Refusal):
        return fault.retryable or isinstance(fault, SessionEvictedError | ExpiredError)
    return isinstance(fault, OutcomeUnknown | BrokerUnreachableError)

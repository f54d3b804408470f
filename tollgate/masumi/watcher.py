"""The watcher of a payment service: it opens gates and brings results on chain until it stops."""

import asyncio
from typing import Final

import msgspec

from tollgate.client.aio import AsyncClient
from tollgate.masumi.api import PaymentService
from tollgate.masumi.payment import SOURCE_TYPES
from tollgate.masumi.payment_sync import PaymentSync
from tollgate.masumi.rounds import Rounds
from tollgate.masumi.submissions import Submissions

SETTLEMENT_WAIT_S: Final = 1.0
"""How long to wait before settlements are claimed again, if there was none."""


class WatcherSettings(msgspec.Struct, frozen=True):
    """How a watcher works, beside the two that it connects."""

    source_types: tuple[str, ...] = SOURCE_TYPES
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
        payments = PaymentSync(client, service, settings.source_types)
        results = Submissions(
            client,
            service,
            form=settings.hash_form,
            recoveries_max=settings.recoveries_max,
            poll_s=settings.poll_s,
            call_s=settings.call_s,
        )
        self.open_gates = payments.round
        """One round for the jobs that wait for payments; returns whether more is left."""
        self.submit_results = results.round
        """One step with each settlement that is due; returns whether there were any."""
        self._rounds = (
            Rounds("payments", payments.round, settings.poll_s),
            Rounds("settlements", results.round, SETTLEMENT_WAIT_S),
        )

    def hint(self) -> None:
        """Look at once: something has changed at the service."""
        for each in self._rounds:
            each.hint()

    def stop(self) -> None:
        """Finish the step that is going on, and return from `run`."""
        for each in self._rounds:
            each.stop()

    async def run(self) -> None:
        """Watch until `stop`.

        Raises:
            Refusal: the broker refuses this client, which has not the role.
            ServiceRefusedError: the service refuses the token.

        """
        async with asyncio.TaskGroup() as tasks:
            for each in self._rounds:
                tasks.create_task(each.run())

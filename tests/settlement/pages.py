"""Pages of payments that change while they are read, by watchers that are restarted meanwhile.

    python -m tests.settlement.pages --pages 1000 --restarts 20

Whenever a page is asked for, some payments are locked, in random order. Now and then the service
fails, and another watcher begins anew. At the end each paid job must run.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from tests.payment_service.server import Server
from tests.payment_service.service import Key, PaymentService, ServiceError
from tollgate import AsyncClient, commands
from tollgate.masumi import api
from tollgate.masumi.watcher import Watcher, WatcherSettings
from tollgate.testing import Broker

INPUT_HASH: Final = "ab" * 32
PAGE: Final = 100
JOBS_SHARE: Final = 10
"""One payment in so many has a job here; the others are those of other brokers."""
PATIENCE: Final = 100
"""The most rounds after the last change."""


class BusyService(PaymentService):
    """A service whose payments are paid while they are read, and which fails now and then."""

    def __init__(self, pages: int, restarts: int, seed: int) -> None:
        super().__init__(seed)
        for _ in range(PAGE * pages):
            self.create(inputHash=INPUT_HASH)
        self.identifiers = list(self.payments)
        self._unpaid = self.identifiers[:]
        self._order = Random(seed)
        self._order.shuffle(self._unpaid)
        self._fails_every = max(2, pages // (restarts + 1)) if restarts else 0
        self.pages_read = 0

    @property
    def is_paid(self) -> bool:
        """Whether nothing changes any more."""
        return not self._unpaid

    def diff(self, query: Mapping[str, Any], key: Key, **others: Any) -> dict[str, Any]:
        """Pay for a page of payments, and return one, or fail."""
        self.pages_read += 1
        for _ in range(min(PAGE, len(self._unpaid))):
            self.lock_funds(self._unpaid.pop())
        if self._fails_every and self.pages_read % self._fails_every == 0 and self._unpaid:
            raise ServiceError(503, "the service restarts")
        return super().diff(query, key, **others)


@dataclass
class Outcome:
    """What came of a run."""

    jobs: int
    running: int = 0
    pages: int = 0
    restarts: int = 0
    rounds: int = 0


async def run(pages: int, restarts: int, seed: int) -> Outcome:
    """Read all, and return what came of it."""
    service = BusyService(pages, restarts, seed)
    hired = service.identifiers[::JOBS_SHARE]
    outcome = Outcome(len(hired))
    with Server(service) as server, Broker() as broker:
        async with broker.connect_async(timeout_s=60) as client:
            await client.send_many(
                commands.create(INPUT_HASH, blockchain_identifier=each) for each in hired
            )
            await _watch(client, server, outcome)
            outcome.running = (await client.count("running")).total
    outcome.pages = service.pages_read
    return outcome


async def _watch(client: AsyncClient, server: Server, outcome: Outcome) -> None:
    service = server.service
    assert isinstance(service, BusyService)
    left = PATIENCE
    while left:
        async with api.PaymentService(server.url, server.token, "Preprod", timeout_s=60) as calls:
            watcher = Watcher(client, calls, WatcherSettings(source_types=("Web3CardanoV1",)))
            try:
                while left:
                    outcome.rounds += 1
                    was_paid = service.is_paid
                    has_more = await watcher.open_gates()
                    if was_paid and not has_more:
                        return
                    left -= was_paid
            except api.ServiceFailedError:
                outcome.restarts += 1


def main() -> int:
    """Run, and print what came of it; the exit code is 1 if a payment was missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--pages", type=int, default=1_000)
    parser.add_argument("--restarts", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    begun_at = time.monotonic()
    outcome = asyncio.run(run(options.pages, options.restarts, options.seed))
    sys.stdout.write(f"{outcome} in {time.monotonic() - begun_at:.0f} s\n")
    return 0 if outcome.running == outcome.jobs else 1


if __name__ == "__main__":
    sys.exit(main())

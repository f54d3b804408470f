"""A real broker, a stand-in for the payment service, and a watcher between them."""

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import pytest

from tests.payment_service.faults import Fault
from tests.payment_service.payment import V1, V2, Payment
from tests.payment_service.server import Server
from tests.payment_service.service import PaymentService as StandIn
from tollgate import AsyncClient, Job
from tollgate.domain.hashing import output_hash_as_deployed
from tollgate.masumi.api import PaymentService, ServiceFailedError, ServiceRefusedError
from tollgate.masumi.watcher import Watcher, WatcherSettings
from tollgate.testing import Broker

PURCHASER = "aabbccddeeff0011"
INPUT_HASH = "59e08c108addc5e1667e34f85c90bb4ff98c410701bfb6088a4deb86b3273ca9"
POLL_S = 1.0
CALL_S = 10.0
"""How long a watcher waits for an answer: also on a busy machine longer than one takes."""
SLOW_CALL_S, SLOW_S = 0.5, 2.0
"""The same where an answer is to come too late, and how late it comes."""


class Town:
    """A seller's broker and watcher, and the payment service with its chain and its buyers."""

    def __init__(self, broker: Broker, server: Server, client: AsyncClient) -> None:
        self.broker = broker
        self.server = server
        self.client = client
        self.ahead_s = 0.0
        self.call_s = CALL_S
        self._services: list[PaymentService] = []
        self.watcher = self.new_watcher()

    @property
    def service(self) -> StandIn:
        return self.server.service

    @property
    def newest(self) -> PaymentService:
        """The calls of the service that the newest watcher makes."""
        return self._services[-1]

    def new_watcher(self, client: AsyncClient | None = None, **settings: Any) -> Watcher:
        """Return another watcher, as after a restart."""
        given = WatcherSettings(**{"poll_s": POLL_S, "call_s": self.call_s} | settings)
        return Watcher(client or self.client, self.new_service(), given)

    def new_service(self, **settings: Any) -> PaymentService:
        service = PaymentService(
            self.server.url, self.server.token, "Preprod", timeout_s=self.call_s, **settings
        )
        self._services.append(service)
        return service

    def expect(self, fault: Fault) -> None:
        """Let a slow answer come too late: begin with another watcher, which waits less long."""
        if fault is Fault.SLOW:
            self.service.faults.slow_s, self.call_s = SLOW_S, SLOW_CALL_S
            self.watcher = self.new_watcher()

    async def hire(self, source_type: str = V1, **fields: Any) -> Job:
        """Create a payment, and then its job."""
        payment = self.service.create(
            inputHash=INPUT_HASH,
            identifierFromPurchaser=PURCHASER,
            agentIdentifier=self.service.agent_of(source_type=source_type),
            supportedPaymentSourceIndex=0 if source_type == V2 else None,
        )
        given: dict[str, Any] = {
            "blockchain_identifier": payment["blockchainIdentifier"],
            "identifier_from_purchaser": PURCHASER,
            "settle": True,
        }
        return await self.client.create(INPUT_HASH, **given | fields)

    async def hire_paid_before(self) -> Job:
        """Create a job whose payment was locked, and passed by the feed, before it was stored."""
        payment = self.service.create(inputHash=INPUT_HASH, identifierFromPurchaser=PURCHASER)
        self.service.lock_funds(payment["blockchainIdentifier"])
        await self.rounds(1)
        return await self.hire(blockchain_identifier=payment["blockchainIdentifier"])

    async def rounds(self, count: int) -> None:
        """Open gates so often, whatever the service says."""
        for _ in range(count):
            with suppress(ServiceFailedError, ServiceRefusedError):
                await self.watcher.open_gates()

    def change(self, call: str, identifier: str | None = None, /, **fields: Any) -> None:
        """Let each payment, or that one, have these fields in the answers of a call."""

        def of_one(shown: dict[str, Any]) -> dict[str, Any]:
            is_meant = identifier in {None, shown["blockchainIdentifier"]}
            return shown | fields if is_meant else shown

        def changed(data: dict[str, Any]) -> dict[str, Any]:
            if "Payments" in data:
                return {"Payments": [*map(of_one, data["Payments"])]}
            return of_one(data)

        self.server.proxy.changes[call] = changed

    async def completed(self, result: str = "The\nresult", source_type: str = V1) -> Job:
        """Return a job that was hired, paid and worked on."""
        job = await self.hire(source_type)
        self.service.lock_funds(job.blockchain_identifier)
        await self.watcher.open_gates()
        return await self.client.transition(job.job_id, "completed", result=result)

    async def step(self, watcher: Watcher | None = None) -> None:
        """Let the chain move, and the watcher look when its pause is over."""
        self.service.tick()
        self.broker.advance(2 * POLL_S)
        await (watcher or self.watcher).submit_results()

    def payment(self, job: Job) -> Payment:
        """Return the payment of a job, as the service keeps it."""
        return self.service.payments[job.blockchain_identifier]

    def submit(self, job: Job, result_hash: str) -> None:
        """Submit a hash as another program does, which has the same key."""
        body = self._body(job) | {"submitResultHash": result_hash}
        self.service.submit_result(body, self.service.key)

    def grant_refund(self, job: Job) -> None:
        """Let a person have the money sent back to the buyer, as far as the service goes."""
        self.service.authorize_refund(self._body(job), self.service.key)

    @staticmethod
    def _body(job: Job) -> dict[str, str]:
        return {"blockchainIdentifier": job.blockchain_identifier, "network": "Preprod"}

    async def settled(self, job: Job, steps: int = 12) -> str:
        """Return the state in which the settlement of a job ends."""
        state = ""
        for _ in range(steps):
            await self.step()
            state = await self.state(job)
            if state not in {"wanted", "submitted"}:
                break
        return state

    async def state(self, job: Job) -> str:
        settlement = (await self.client.get(job.job_id)).settlement
        assert settlement is not None
        return settlement.state.value

    async def status(self, job: Job) -> str:
        return (await self.client.get(job.job_id)).status.value

    async def close(self) -> None:
        for service in self._services:
            await service.close()


def hash_of(job: Job) -> str:
    assert job.result is not None
    return output_hash_as_deployed(PURCHASER, job.result)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(StandIn(clock=time.time)) as server:
        yield server


@pytest.fixture
async def town(server: Server) -> AsyncIterator[Town]:
    with Broker() as broker:
        async with broker.connect_async() as client:
            town = Town(broker, server, client)
            yield town
            await town.close()

"""The buyers of the demonstration: each hires, and then does what its kind does."""

import asyncio
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from random import Random
from typing import Final

from tests.payment_service.service import PaymentService
from tollgate import AsyncClient, Job, TollgateError
from tollgate.domain.hashing import JsonValue, input_hash, output_hash_as_deployed

PURCHASER: Final = "aabbccddeeff0011"
TOPICS: Final = ("lighthouses", "toll roads", "ledgers", "rivers", "bridges", "sealed letters")
UNPAID_S: Final = 4
"""How long a job waits for a buyer who never pays."""
LOOK_S: Final = 0.2
PATIENCE_S: Final = 90.0
ENDED: Final = frozenset({"confirmed", "refused", "closed", "manual"})


class Kind(StrEnum):
    """What a buyer does."""

    PAYS = "pays"
    ANSWERS = "answers a question"
    LEAVES = "never pays"
    INVALID = "pays wrongly"
    REFUND = "wants a refund"
    DISPUTES = "disputes"


MIX: Final = (
    Kind.PAYS, Kind.ANSWERS, Kind.PAYS, Kind.DISPUTES, Kind.PAYS, Kind.REFUND, Kind.ANSWERS,
    Kind.INVALID, Kind.PAYS, Kind.LEAVES, Kind.PAYS, Kind.PAYS,
)  # fmt: skip


@dataclass
class Deal:
    """What became of one job, as its buyer sees it."""

    number: int
    kind: Kind
    job: Job | None = None
    on_chain: str = ""
    is_verified: bool = False
    wrong: list[str] = field(default_factory=list)
    is_over: bool = False

    @property
    def settlement(self) -> str:
        """The state of the settlement, or nothing."""
        return self.job.settlement.state.value if self.job and self.job.settlement else ""

    @property
    def status(self) -> str:
        """The job's status, or nothing."""
        return self.job.status.value if self.job else ""


class Buyer:
    """Hires one job, and follows it to its end."""

    def __init__(
        self, deal: Deal, client: AsyncClient, service: PaymentService, random: Random
    ) -> None:
        self._deal = deal
        self._client = client
        self._service = service
        self._steps = random.randint(2, 6)
        self._topic = random.choice(TOPICS)
        self._identifier = ""
        self._has_objected = False

    async def run(self) -> None:
        """Hire, pay or not, and look until nothing more happens."""
        deal = self._deal
        await self._hire()
        await asyncio.sleep(0.4)
        if deal.kind is not Kind.LEAVES:
            self._service.lock_funds(self._identifier, valid=deal.kind is not Kind.INVALID)
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not await self._look():  # noqa: ASYNC110 - as a buyer's page asks
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            deal.wrong.append(f"nothing happens: {deal.status}, {deal.settlement}")
        deal.wrong += self._judge()
        deal.is_over = True

    async def _hire(self) -> None:
        steps = 40 if self._deal.kind is Kind.REFUND else self._steps
        asks = self._deal.kind is Kind.ANSWERS
        data: JsonValue = {"topic": self._topic, "steps": steps, "asks": asks}
        hash_ = input_hash(PURCHASER, data)
        made = self._service.create(inputHash=hash_, identifierFromPurchaser=PURCHASER)
        self._identifier = made["blockchainIdentifier"]
        leaves = self._deal.kind is Kind.LEAVES
        self._deal.job = await self._client.create(
            hash_,
            input=json.dumps(data),
            identifier_from_purchaser=PURCHASER,
            blockchain_identifier=self._identifier,
            pay_by_time=datetime.now(UTC) + timedelta(seconds=UNPAID_S) if leaves else None,
            settle=True,
        )

    async def _look(self) -> bool:
        """Look at the job, act on it, and return whether it is over."""
        deal = self._deal
        assert deal.job is not None
        deal.job = job = await self._client.get(deal.job.job_id)
        payment = self._service.payments[self._identifier]
        deal.on_chain = str(payment.on_chain_state or "")
        if job.status.value == "awaiting_input":
            try:
                await self._client.provide_input(job.job_id, "short", expected_version=job.version)
            except TollgateError:
                return False
        if deal.kind is Kind.REFUND and job.status.value == "running" and not self._has_objected:
            self._has_objected = True
            self._service.request_refund(self._identifier)
        if deal.kind is Kind.DISPUTES and deal.settlement == "confirmed":
            if not self._has_objected:
                self._has_objected = True
                self._service.dispute(self._identifier)
            settlement = job.settlement
            return settlement is not None and settlement.on_chain_state == "Disputed"
        return deal.settlement in ENDED

    def _judge(self) -> list[str]:
        """Return what is not as this buyer may expect."""
        deal, found = self._deal, []
        assert deal.job is not None
        if deal.kind in {Kind.LEAVES, Kind.INVALID, Kind.REFUND}:
            if deal.status != "failed" or deal.settlement != "closed":
                found.append(f"{deal.kind}, and the job is {deal.status}, {deal.settlement}")
            return found
        if deal.job.result is None:
            return [f"paid, and there is no result: {deal.job.error}"]
        payment = self._service.payments[self._identifier]
        deal.is_verified = payment.result_hash == output_hash_as_deployed(
            PURCHASER, deal.job.result
        )
        if not deal.is_verified:
            found.append(f"on chain is {payment.result_hash}, which is not the result's hash")
        return found

"""The buyers of the demonstration: each hires, and then does what its kind does."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from random import Random
from typing import Final

from tests.payment_service.service import PaymentService
from tests.payment_service.states import OnChainState
from tollgate import AsyncClient, Job, TollgateError
from tollgate.domain.hashing import JsonValue, input_hash, output_hash_as_deployed

PURCHASER: Final = "aabbccddeeff0011"
TOPICS: Final = ("lighthouses", "toll roads", "ledgers", "rivers", "bridges", "sealed letters")
UNPAID_S: Final = 4
"""How long a job waits for a buyer who pays late, or never."""
LOOK_S: Final = 0.2
PATIENCE_S: Final = 90.0
ENDED: Final = frozenset({"confirmed", "refused", "closed", "manual"})


class Kind(StrEnum):
    """What a buyer does."""

    PAYS = "pays"
    ANSWERS = "answers"
    LEAVES = "never pays"
    LATE = "pays late"
    INVALID = "pays wrongly"
    REFUND = "wants a refund"
    DISPUTES = "disputes"


MIX: Final = (
    Kind.PAYS, Kind.ANSWERS, Kind.PAYS, Kind.DISPUTES, Kind.PAYS, Kind.REFUND, Kind.ANSWERS,
    Kind.INVALID, Kind.LATE, Kind.LEAVES, Kind.DISPUTES, Kind.PAYS,
)  # fmt: skip
WITHOUT_RESULT: Final = {
    Kind.LEAVES: "", Kind.LATE: "FundsOrDatumInvalid", Kind.INVALID: "FundsOrDatumInvalid",
    Kind.REFUND: "RefundWithdrawn",
}  # fmt: skip
"""Buyers who get no result, and what the chain shows of their payment at the end."""


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
    def name(self) -> str:
        """The first digits of the job's id, or nothing before there is a job."""
        return self.job.job_id[:8] if self.job else ""

    @property
    def settlement(self) -> str:
        """The state of the settlement, or nothing."""
        return self.job.settlement.state.value if self.job and self.job.settlement else ""

    @property
    def status(self) -> str:
        """The job's status, or nothing."""
        return self.job.status.value if self.job else ""


@dataclass(frozen=True)
class Market:
    """What all buyers use; `tell` gets a line for each thing that happens."""

    client: AsyncClient
    service: PaymentService
    random: Random
    tell: Callable[[str], None]


class Buyer:
    """Hires one job, and follows it to its end.

    The chain does at once what it would do after a deadline: a demonstration is short.
    """

    def __init__(self, deal: Deal, market: Market) -> None:
        self._deal = deal
        self._client = market.client
        self._service = market.service
        self._tell = market.tell
        self._steps = market.random.randint(2, 6)
        self._topic = market.random.choice(TOPICS)
        self._identifier = ""
        self._objections = _objections(deal)

    async def run(self) -> None:
        """Hire, pay or not, and look until nothing more happens."""
        deal = self._deal
        await self._hire()
        await asyncio.sleep(UNPAID_S + 1 if deal.kind is Kind.LATE else 0.4)
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
        seen = "the hash on chain is right" if deal.is_verified else "no result"
        self._say("; ".join(deal.wrong) or seen)

    async def _hire(self) -> None:
        kind = self._deal.kind
        steps = 40 if kind is Kind.REFUND else self._steps
        data: JsonValue = {"topic": self._topic, "steps": steps, "asks": kind is Kind.ANSWERS}
        hash_ = input_hash(PURCHASER, data)
        pay_by = None
        times: dict[str, int] = {}
        if kind in {Kind.LEAVES, Kind.LATE}:
            pay_by = datetime.now(UTC) + timedelta(seconds=UNPAID_S)
            times["payByTime"] = int(pay_by.timestamp() * 1_000)
        made = self._service.create(inputHash=hash_, identifierFromPurchaser=PURCHASER, **times)
        self._identifier = made["blockchainIdentifier"]
        self._deal.job = await self._client.create(
            hash_,
            input=json.dumps(data),
            identifier_from_purchaser=PURCHASER,
            blockchain_identifier=self._identifier,
            pay_by_time=pay_by,
            settle=True,
        )
        self._say("hired")

    async def _look(self) -> bool:
        """Look at the job, act on it, and return whether it is over."""
        deal = self._deal
        assert deal.job is not None
        before = deal.status, deal.settlement, deal.on_chain
        deal.job = job = await self._client.get(deal.job.job_id)
        deal.on_chain = str(self._service.payments[self._identifier].on_chain_state or "")
        if before != (deal.status, deal.settlement, deal.on_chain):
            self._say(f"{deal.status}, {deal.settlement or '-'}, {deal.on_chain or 'not paid'}")
        if job.status.value == "awaiting_input":
            try:
                await self._client.provide_input(job.job_id, "short", expected_version=job.version)
            except TollgateError:
                return False
        shown = (job.settlement.on_chain_state if job.settlement else None) or ""
        if self._objections:
            self._object({deal.status, deal.settlement, shown})
            return False
        return deal.settlement in ENDED and shown == deal.on_chain

    def _object(self, words: set[str]) -> None:
        """Take the next step of a refund or a dispute, if the job shows the word it waits for."""
        word, state = self._objections[0]
        if word not in words:
            return
        del self._objections[0]
        self._service.move(self._identifier, state)

    def _judge(self) -> list[str]:
        """Return what is not as this buyer may expect."""
        deal, found = self._deal, []
        assert deal.job is not None
        payment = self._service.payments[self._identifier]
        sent = {hash_ for each, hash_ in self._service.accepted if each == self._identifier}
        if deal.kind in WITHOUT_RESULT:
            if (deal.status, deal.settlement) != ("failed", "closed"):
                found.append(f"{deal.kind}, and the job is {deal.status}, {deal.settlement}")
            if deal.on_chain != WITHOUT_RESULT[deal.kind]:
                found.append(f"{deal.kind}, and the payment is {deal.on_chain or 'not there'}")
            return found
        if deal.job.result is None:
            return [f"paid, and there is no result: {deal.job.error}"]
        expected = output_hash_as_deployed(PURCHASER, deal.job.result)
        deal.is_verified = payment.result_hash == expected
        if not deal.is_verified:
            found.append(f"on chain is {payment.result_hash}, which is not the result's hash")
        if sent - {expected}:
            found.append(f"other hashes were submitted: {sorted(sent - {expected})}")
        return found

    def _say(self, what: str) -> None:
        self._tell(f"{self._deal.name}  {self._deal.kind.value}: {what}")


def _objections(deal: Deal) -> list[tuple[str, OnChainState]]:
    """Return what the chain shows next, each with the word of the job that it waits for."""
    if deal.kind is Kind.REFUND:
        return [
            ("running", OnChainState.REFUND_REQUESTED),
            ("closed", OnChainState.REFUND_WITHDRAWN),
        ]
    if deal.kind is Kind.DISPUTES:
        gives_up = deal.number % 2 == 0
        end = OnChainState.RESULT_SUBMITTED if gives_up else OnChainState.DISPUTED_WITHDRAWN
        return [("confirmed", OnChainState.DISPUTED), ("Disputed", end)]
    return []

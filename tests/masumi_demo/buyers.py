"""The buyers of the demonstration: each hires, and then does what its kind does.

A buyer knows two things: what the gateway answers, and what the chain shows. By these it acts, and
by these it judges.
"""

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import Any, Final

import httpx

from tests.gateway.buying import NAMES, GatewayClient, RefusedError
from tests.payment_service.service import PaymentService
from tests.payment_service.states import OnChainState
from tollgate.domain.hashing import input_hash, output_hash_as_deployed

TOPICS: Final = ("lighthouses", "toll roads", "ledgers", "rivers", "bridges", "sealed letters")
LOOK_S: Final = 0.2
PAYS_AFTER_S: Final = 0.4
LATE_S: Final = 1.0
"""How long after its time a late buyer pays."""
OBJECTS_AFTER_S: Final = 2.0
"""How long a buyer waits before the next step of a refund or a dispute."""
PATIENCE_S: Final = 90.0


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
HASTY: Final = frozenset({Kind.LEAVES, Kind.LATE})
"""Buyers who hire where there is little time to pay: a demonstration is short."""
WITHOUT_RESULT: Final = {
    Kind.LEAVES: "", Kind.LATE: "FundsOrDatumInvalid", Kind.INVALID: "FundsOrDatumInvalid",
    Kind.REFUND: "RefundWithdrawn",
}  # fmt: skip
"""Buyers who get no result, and what the chain shows of their payment at the end."""


@dataclass
class Deal:
    """What became of one hire, as its buyer sees it, beside `settlement`."""

    number: int
    kind: Kind
    job_id: str = ""
    status: str = ""
    """Of the job, as the gateway shows it."""
    on_chain: str = ""
    settlement: str = ""
    """As the seller sees it, in the broker."""
    is_settled: bool = False
    """Whether the settlement has ended, and the seller has seen what is on chain."""
    is_verified: bool = False
    wrong: list[str] = field(default_factory=list)
    is_over: bool = False

    @property
    def name(self) -> str:
        """The first digits of the job's id, or nothing before there is a job."""
        return self.job_id[:8]


@dataclass(frozen=True)
class Market:
    """What all buyers use; `tell` gets a line for each thing that happens."""

    url: str
    hasty_url: str
    """A gateway of the same agent, with little time to pay."""
    http: httpx.AsyncClient
    service: PaymentService
    random: Random
    tell: Callable[[str], None]


class Buyer:
    """Hires one job, and follows it to its end.

    The chain does at once what it would do after a deadline: a demonstration is short.
    """

    def __init__(self, deal: Deal, market: Market) -> None:
        self._deal = deal
        self._chain = market.service
        self._tell = market.tell
        self._purchaser = market.random.randbytes(8).hex()
        kind, steps = deal.kind, market.random.randint(2, 6)
        self._input = {
            "topic": market.random.choice(TOPICS),
            "steps": 40 if kind is Kind.REFUND else steps,
            "asks": kind is Kind.ANSWERS,
        }
        url = market.hasty_url if kind in HASTY else market.url
        self._gateway = GatewayClient(
            url, market.http, retrying=lambda why: self._say(f"{why}; tries again")
        )
        self._payment = ""
        self._pays_at = math.inf
        """A time of the wall clock, in s."""
        self._style = "plain"
        self._result = ""
        self._objections = _objections(deal)
        self._objects_at = 0.0

    async def run(self) -> None:
        """Hire, pay or not, and look until nothing more happens."""
        deal = self._deal
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._hire()
                while not await self._look():  # noqa: ASYNC110 - as a buyer's page asks
                    await asyncio.sleep(LOOK_S)
            deal.wrong += self._judge()
        except TimeoutError:
            deal.wrong.append(f"nothing happens: {deal.status}, {deal.on_chain or 'not paid'}")
        except RefusedError as refusal:
            deal.wrong.append(str(refusal))
        seen = "the hash on chain is right" if deal.is_verified else "ends without a result"
        self._say("; ".join(deal.wrong) or seen)
        deal.is_over = True

    async def _hire(self) -> None:
        told = await self._gateway.start_job(self._purchaser, self._input)
        self._deal.job_id, self._payment = told["job_id"], told["blockchainIdentifier"]
        if told["input_hash"] != input_hash(self._purchaser, self._input):
            self._deal.wrong.append(f"hired for another input: {told['input_hash']}")
        if self._deal.kind is Kind.LATE:
            self._pays_at = told["payByTime"] / 1_000 + LATE_S
        elif self._deal.kind is not Kind.LEAVES:
            self._pays_at = time.time() + PAYS_AFTER_S
        self._say("POST /start_job: hired")

    def _pay_if_due(self) -> None:
        """Lock funds on chain, when the time of this kind of buyer has come."""
        if time.time() >= self._pays_at:
            self._pays_at = math.inf
            self._chain.lock_funds(self._payment, valid=self._deal.kind is not Kind.INVALID)

    async def _look(self) -> bool:
        """Look at the job and the chain, act, and return whether it is over."""
        self._pay_if_due()
        deal = self._deal
        before = deal.status, deal.on_chain
        shown = await self._gateway.status(deal.job_id)
        deal.status = shown["status"]
        deal.on_chain = str(self._chain.payments[self._payment].on_chain_state or "")
        self._result = shown.get("result", "")
        if before != (deal.status, deal.on_chain):
            why = f" ({shown['error']})" if "error" in shown else ""
            self._say(f"GET /status: {deal.status}{why}; on chain {deal.on_chain or 'nothing'}")
        if deal.status == "awaiting_input":
            await self._answer(shown)
            return False
        if self._objections:
            self._object()
            return False
        return self._is_at_end()

    async def _answer(self, shown: dict[str, Any]) -> None:
        """Answer the question that is shown: with the first choice, named in one of two ways."""
        (asked,) = shown["input_schema"]["input_data"]
        self._style = asked["data"]["values"][0]
        name, naming = list(NAMES.items())[self._deal.number % len(NAMES)]
        answer = {asked["id"]: [self._style]}
        try:
            await self._gateway.provide_input(shown["job_id"], naming(shown), answer)
        except RefusedError as refusal:
            if refusal.code != "stale_answer":  # else the job has moved on: look again
                raise
        self._say(f"POST /provide_input, by {name}: {asked['id']} {self._style}")

    def _object(self) -> None:
        """Take the next step of a refund or a dispute, if what it waits for has come."""
        word, state = self._objections[0]
        if word not in {self._deal.status, self._deal.on_chain}:
            return
        if time.monotonic() < self._objects_at:
            return
        del self._objections[0]
        self._objects_at = time.monotonic() + OBJECTS_AFTER_S
        self._chain.move(self._payment, state)

    def _is_at_end(self) -> bool:
        deal = self._deal
        if deal.status == "failed":
            return deal.on_chain == WITHOUT_RESULT.get(deal.kind, deal.on_chain)
        is_proved = bool(self._chain.payments[self._payment].result_hash)
        return deal.status == "completed" and (is_proved or deal.kind in WITHOUT_RESULT)

    def _judge(self) -> list[str]:
        """Return what is not as this buyer may expect."""
        deal = self._deal
        if deal.kind in WITHOUT_RESULT:
            return [] if deal.status == "failed" else [f"{deal.kind}, and the job is {deal.status}"]
        if not self._result:
            return ["paid, and there is no result"]
        wanted = f'A {self._style} text about "{self._input["topic"]}".'
        found = [] if self._result.startswith(wanted) else [f"another result: {self._result}"]
        expected = output_hash_as_deployed(self._purchaser, self._result)
        on_chain = self._chain.payments[self._payment].result_hash
        deal.is_verified = on_chain == expected
        if not deal.is_verified:
            found.append(f"on chain is {on_chain}, which is not the result's hash")
        sent = {hash_ for each, hash_ in self._chain.accepted if each == self._payment}
        if sent - {expected}:
            found.append(f"other hashes were submitted: {sorted(sent - {expected})}")
        return found

    def _say(self, what: str) -> None:
        self._tell(f"{self._deal.name:8}  {self._deal.kind.value}: {what}")


def _objections(deal: Deal) -> list[tuple[str, OnChainState]]:
    """Return what the chain shows next, each with the word of job or chain that it waits for."""
    if deal.kind is Kind.REFUND:
        return [
            ("running", OnChainState.REFUND_REQUESTED),
            ("failed", OnChainState.REFUND_WITHDRAWN),
        ]
    if deal.kind is Kind.DISPUTES:
        gives_up = deal.number % 2 == 0
        end = OnChainState.RESULT_SUBMITTED if gives_up else OnChainState.DISPUTED_WITHDRAWN
        return [("ResultSubmitted", OnChainState.DISPUTED), ("Disputed", end)]
    return []

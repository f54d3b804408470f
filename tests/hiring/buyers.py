"""Buyers who hire over HTTP while all that answers them is killed, and write down what they see."""

import asyncio
from random import Random
from typing import Any, Final

from tests.gateway.buying import NAMES, GatewayClient, RefusedError
from tests.hiring.audit import Deal
from tests.hiring.handler import COLOURS
from tests.payment_service.service import PaymentService
from tollgate.domain.hashing import output_hash_as_deployed

PATIENCE_S: Final = 150.0
LOOK_S: Final = 0.3
NAMINGS: Final = tuple(NAMES.values())


def deal(number: int, random: Random) -> Deal:
    """Return what buyer `number` asks for."""
    colours = random.choices(COLOURS, k=random.choice((0, 0, 1, 2)))
    data = {"number": number, "questions": len(colours)}
    return Deal(random.randbytes(8).hex(), data, colours)


class Buyer:
    """Hires, pays, answers, and reads the result until its hash is on chain."""

    def __init__(
        self,
        number: int,
        deal: Deal,
        gateway: GatewayClient,
        chain: PaymentService,
        begins_s: float,
    ) -> None:
        self._number = number
        self._deal = deal
        self._gateway = gateway
        self._chain = chain
        self._begins_s = begins_s

    async def run(self) -> None:
        """Do all of it; what goes wrong is written down."""
        deal = self._deal
        await asyncio.sleep(self._begins_s)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._hire(at_once=2 if self._number % 3 == 0 else 1)
                payment = deal.told[0]["blockchainIdentifier"]
                self._chain.lock_funds(payment)
                while not await self._look(payment):  # noqa: ASYNC110 - as a buyer's page asks
                    await asyncio.sleep(LOOK_S)
                if self._number % 4 == 0:
                    await self._hire(at_once=1)  # once more, after its end
        except TimeoutError:
            deal.wrong.append(f"stuck: {deal.statuses}")
        except RefusedError as refusal:
            deal.wrong.append(f"refused: {refusal}")

    async def _hire(self, at_once: int) -> None:
        deal = self._deal
        hires = [self._gateway.start_job(deal.purchaser, deal.data) for _ in range(at_once)]
        deal.told += await asyncio.gather(*hires)

    async def _look(self, payment: str) -> bool:
        """Look at the job, answer what it asks, and return whether its hash is on chain."""
        deal = self._deal
        shown = await self._gateway.status(deal.told[0]["job_id"])
        _note(deal.statuses, shown["status"])
        if "result" in shown:
            _note(deal.results, shown["result"])
        if shown["status"] == "awaiting_input":
            await self._answer(shown)
        on_chain = self._chain.payments[payment].result_hash
        if shown["status"] != "completed" or not on_chain:
            return bool(shown["status"] == "failed")
        if on_chain != output_hash_as_deployed(deal.purchaser, shown["result"]):
            deal.wrong.append(f"on chain: {on_chain}, which is not the hash of what was seen")
        return True

    async def _answer(self, shown: dict[str, Any]) -> None:
        deal = self._deal
        (asked,) = shown["input_schema"]["input_data"]
        number = int(asked["name"].split()[-1]) - 1
        naming = NAMINGS[(self._number + number) % len(NAMINGS)]
        answer = {"colour": [deal.colours[number]]}
        at_once = 2 if self._number % 5 == 0 else 1
        calls = [
            self._gateway.provide_input(shown["job_id"], naming(shown), answer)
            for _ in range(at_once)
        ]
        told = {each["input_hash"] for each in await asyncio.gather(*calls)}
        deal.acknowledged += sorted(told)


def _note(seen: list[str], what: str) -> None:
    if seen[-1:] != [what]:
        seen.append(what)

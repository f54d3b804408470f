"""The seller of the demonstration: its processes, and what it sees of its settlements."""

import asyncio
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Final

from tests.masumi_demo.buyers import WITHOUT_RESULT, Deal
from tests.payment_service.server import Server
from tollgate import AsyncClient
from tollgate.demo.processes import ProcessError, Processes

HERE: Final = Path(__file__).parent
WORKERS: Final = 2
START_S: Final = 30.0
LOOK_S: Final = 0.3
SETTLED_S: Final = 60.0
"""How long after the last buyer's end all settlements must have ended."""
ENDED: Final = frozenset({"confirmed", "refused", "closed", "manual"})
DEADLINES: Final = {
    "gateway": {"pay_by": "30m", "submit_result": "2h"},
    "hasty gateway": {"pay_by": "4s", "submit_result": "20m"},
}
"""The gateways by name. The second is for buyers who do not pay in time: it is the same agent."""


def start(processes: Processes, server: Server) -> list[str]:
    """Start broker, workers, watcher and gateways; return where the gateways are.

    Raises ProcessError if one of them ends, or does not start in time.
    """
    processes.start_broker(("--in-memory", "--payment-grace-ms", "0"))
    directory, endpoint = processes.directory, processes.endpoint
    (directory / "token").write_text(server.token)
    agent = Template((HERE / "agent.toml").read_text())
    for name, times in DEADLINES.items():
        file = directory / f"{name.replace(' ', '-')}.toml"
        file.write_text(agent.substitute(times, agent=server.service.agent, url=server.url))
        processes.start_program(
            name, "tollgate.gateway", file.name, "--endpoint", endpoint, "--port", "0",
            "--log-format", "json",
        )  # fmt: skip
    processes.start_program(
        "watcher", "tollgate.masumi", "--endpoint", endpoint, "--service-url", server.url,
        "--service-token-file", "token", "--network", "Preprod", "--poll-s", "0.5",
    )  # fmt: skip
    shutil.copy(HERE / "handler.py", directory / "writer.py")
    for number in range(1, WORKERS + 1):
        processes.start_program(
            f"worker {number}", "tollgate.worker", "--endpoint", endpoint, "--queue", "writer",
            "--handler", "writer:answer", "--concurrency", "4",
        )  # fmt: skip
    return [_url(processes, name) for name in DEADLINES]


def _url(processes: Processes, name: str) -> str:
    """Return where a gateway listens, as its log tells it."""
    log = processes.directory / f"{name.replace(' ', '-')}.log"
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        processes.check()
        for line in log.read_text().splitlines(keepends=True):
            told = json.loads(line) if line.endswith("\n") else {}
            if told.get("event") == "listening":
                return str(told["url"])
        time.sleep(0.02)
    raise ProcessError(f"the {name} does not listen after {START_S:.0f} s")


async def look(client: AsyncClient, deals: Sequence[Deal]) -> None:
    """Show in each deal how far its settlement is, until all have ended.

    The seller's own judgement: what is proved is confirmed, all else is closed.
    """
    until: float | None = None
    while waiting := [deal for deal in deals if not (deal.is_settled or _has_no_job(deal))]:
        if all(deal.is_over for deal in deals):
            until = until or time.monotonic() + SETTLED_S
            if time.monotonic() > until:
                break
        for deal in waiting:
            if deal.job_id:
                await _look(client, deal)
        await asyncio.sleep(LOOK_S)
    for deal in deals:
        expected = "closed" if deal.kind in WITHOUT_RESULT else "confirmed"
        if deal.settlement != expected or not deal.is_settled:
            deal.wrong.append(f"{deal.kind}, and the settlement is {deal.settlement or 'nothing'}")


def _has_no_job(deal: Deal) -> bool:
    return deal.is_over and not deal.job_id


async def _look(client: AsyncClient, deal: Deal) -> None:
    settlement = (await client.get(deal.job_id)).settlement
    if settlement is not None:
        deal.settlement = settlement.state.value
        knows = (settlement.on_chain_state or "") == deal.on_chain
        deal.is_settled = deal.is_over and knows and deal.settlement in ENDED

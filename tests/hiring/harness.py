"""Kills gateways, watchers, workers and the broker while buyers hire, pay, answer and verify."""

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from string import Template
from threading import Event
from typing import Final

import httpx

from tests.gateway.buying import GatewayClient
from tests.hiring.audit import faults_of, lost_results
from tests.hiring.buyers import Buyer, deal
from tests.hiring.handler import NOTES, noted
from tests.payment_service.server import Server
from tests.settlement.fleet import BROKER
from tests.settlement.harness import Outcome, Progress, Run, Scenario
from tollgate import Client

HERE: Final = Path(__file__).parent
LEASE_MS: Final = "3000"
"""A restart of the broker begins it anew, so it lapses only with its worker."""
SPREAD_S: Final = 1.2
"""Within this time after a kill the next buyers begin: so the next kill comes amid their hires."""
HTTP_S: Final = 5.0
PAUSE_S_MAX: Final = 1.0
"""Buyers try again after this time, even if they are asked to wait longer."""
START_S: Final = 30.0
END_S: Final = 30.0
"""How long the buyers may still take when all is settled."""


@dataclass
class HiringOutcome(Outcome):
    """What came of a run, as its buyers see it too."""

    told: int = 0
    """Answers to hires, repeats included."""
    tries: Counter[str] = field(default_factory=Counter)
    """Calls of buyers that had to be tried again, by reason."""
    payments: int = 0
    """Made at the service. Those without a job are never told to a buyer."""

    def details(self) -> list[str]:
        """Return what the buyers met."""
        tries = ", ".join(f"{count} {why}" for why, count in self.tries.most_common())
        return [
            f"answers to hires: {self.told}; payments made: {self.payments}",
            f"calls tried again: {tries or 'none'}",
        ]


class HiringRun(Run):
    """One run of a scenario. All is hired over HTTP, at gateways that share a port."""

    kinds = ("gateway", "gateway", "watcher", "worker", BROKER)
    pause_s = (0.3, 1.5)
    counts: Mapping[str, int] = {"gateway": 3, "watcher": 3, "worker": 3}
    """How many processes of each kind there are, beside the broker."""

    def __init__(self, scenario: Scenario, progress: Progress = lambda *_: None) -> None:
        super().__init__(scenario, progress)
        self.outcome: HiringOutcome = HiringOutcome()
        self._buyers_random = Random(scenario.seed)
        self.deals = [deal(number, self._buyers_random) for number in range(scenario.jobs)]
        self._gateways = ""
        self._notes = scenario.home / "notes"
        self._have_ended = Event()

    def run(self) -> HiringOutcome:
        """See `Run.run`."""
        with free_port() as port:
            self._gateways = f"http://127.0.0.1:{port}"
            super().run()
        return self.outcome

    def _start(self, server: Server) -> None:
        counts, endpoint = self.counts, self._fleet.url
        self._start_watchers(server, counts["watcher"])
        agent = Template((HERE / "agent.toml").read_text())
        file = self._scenario.home / "agent.toml"
        file.write_text(agent.substitute(agent=server.service.agent, url=server.url))
        port = self._gateways.rpartition(":")[2]
        self._fleet.start(
            "gateway", counts["gateway"], "tollgate.gateway", str(file),
            "--endpoint", endpoint, "--port", port, "--reuse-port",
        )  # fmt: skip
        self._fleet.start(
            "worker", counts["worker"], "tollgate.worker", "--endpoint", endpoint,
            "--handler", f"tests.hiring.handler:{self._scenario.handler}", "--queue", "counter",
            "--lease-ms", LEASE_MS, "--max-attempts", "1000", "--backoff-s", "0.1",
            environment={NOTES: str(self._notes)},
        )  # fmt: skip
        self._wait_for_gateway()

    def _wait_for_gateway(self) -> None:
        """Return when one answers. Raises AssertionError if none does."""
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            with suppress(httpx.TransportError):
                if httpx.get(f"{self._gateways}/availability").is_success:
                    return
            time.sleep(0.05)
        raise AssertionError(f"no gateway answers after {START_S:.0f} s")

    def _is_settled(self) -> bool:
        # A buyer that was never told of a job has none that could be settled.
        hired = sum(bool(each.told) for each in self.deals)
        return self._have_ended.is_set() and self.outcome.confirmed >= hired

    # --- the buyers -----------------------------------------------------------------------------

    def _hire(self) -> None:
        try:
            asyncio.run(self._buy())
        finally:
            self._have_ended.set()

    async def _buy(self) -> None:
        """Let the buyers hire in step with the kills, and return when all have ended."""
        buyers: set[asyncio.Task[None]] = set()
        async with httpx.AsyncClient(timeout=HTTP_S) as http:
            gateway = GatewayClient(
                self._gateways, http, pause_s_max=PAUSE_S_MAX, retrying=self._tries_again
            )
            while not self._over.is_set():
                for number in range(len(buyers), min(self._allowed, len(self.deals))):
                    begins_s = self._buyers_random.uniform(0.0, SPREAD_S)
                    buyer = Buyer(number, self.deals[number], gateway, self._service, begins_s)
                    buyers.add(asyncio.create_task(buyer.run()))
                if len(buyers) == len(self.deals) and all(each.done() for each in buyers):
                    break
                await asyncio.sleep(0.02)
            for each in buyers:
                each.cancel()
            for end in await asyncio.gather(*buyers, return_exceptions=True):
                if isinstance(end, Exception):
                    self.outcome.wrong.append(f"a buyer ended with {end!r}")

    def _tries_again(self, why: str) -> None:
        self.outcome.tries[why.rpartition(": ")[2]] += 1

    # --- the audit ------------------------------------------------------------------------------

    def _audit(self) -> None:
        if not self._have_ended.wait(END_S):
            self.outcome.wrong.append("some buyers have not ended")
        super()._audit()
        with Client(self._fleet.url) as client:
            jobs = [client.get(job.job_id) for job in client.list()]
        payments = [*self._service.payments.values()]
        self.outcome.payments = len(payments)
        self.outcome.told = sum(len(each.told) for each in self.deals)
        wrong = self.outcome.wrong
        for each in self.deals:
            own = [job for job in jobs if job.identifier_from_purchaser == each.purchaser]
            paid = [
                payment.identifier
                for payment in payments
                if payment.purchaser == each.purchaser and payment.on_chain_state is not None
            ]
            wrong += faults_of(each, own, paid)
        killed = {
            process: at
            for worker in self._fleet.programs["worker"]
            for process, at in worker.killed.items()
        }
        wrong += lost_results(jobs, noted(self._notes), killed)


@contextmanager
def free_port() -> Iterator[int]:
    """Keep a port of 127.0.0.1 for sockets that share it; nothing is taken there meanwhile."""
    with socket.socket() as kept:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        kept.bind(("127.0.0.1", 0))
        yield kept.getsockname()[1]

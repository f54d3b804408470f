"""Kills watchers, workers and brokers while jobs are hired, paid, worked on and proved."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from threading import Event, Thread
from typing import Final

from tests.payment_service.faults import Faults
from tests.payment_service.server import Server
from tests.payment_service.service import PaymentService
from tests.settlement.audit import PURCHASER, failures_of, faults_of
from tests.settlement.fleet import BROKER, Fleet
from tests.settlement.handler import SERVICE_TOKEN, SERVICE_URL
from tollgate import Client, TollgateError
from tollgate.domain.hashing import input_hash

WATCHERS, WORKERS = 2, 3
TICK_S: Final = 0.05
POLL_S: Final = "0.3"
CALL_S: Final = "0.5"
SLOW_S: Final = 0.8
"""Later than a call may be."""


@dataclass
class Scenario:
    """The settings of a run."""

    home: Path
    """An empty directory with a short path, because a socket is created in it."""
    jobs: int = 200
    kills: int = 60
    seed: int = 1
    fault_share: float = 0.2
    chain_failures: float = 0.05
    handler: str = "answer"
    """Of `tests.settlement.handler`."""
    seconds: float = 300.0
    """Longest time until all settlements are confirmed."""


@dataclass
class Outcome:
    """What came of a run."""

    confirmed: int = 0
    wrong: list[str] = field(default_factory=list)
    kills: dict[str, int] = field(default_factory=dict)
    faults: int = 0
    failures: int = 0
    """How often a hash that was accepted did not get on chain."""
    seconds: float = 0.0

    def details(self) -> list[str]:
        """Return lines about what this kind of run has more."""
        return []


Progress = Callable[[int, int], None]
"""Told how many settlements are confirmed, and how many kills there were."""


class Run:
    """One run of a scenario, from the first broker to the audit."""

    kinds: tuple[str, ...] = ("watcher", "watcher", "worker", BROKER)
    """What is killed, each as often as it stands here."""
    pause_s: tuple[float, float] = (0.1, 0.8)
    """The shortest and the longest pause between two kills."""

    def __init__(self, scenario: Scenario, progress: Progress = lambda *_: None) -> None:
        self._scenario = scenario
        self._progress = progress
        self._random = Random(scenario.seed)
        self._faults = Faults.all(scenario.seed, scenario.fault_share, slow_s=SLOW_S)
        self._service = PaymentService(
            scenario.seed,
            self._faults,
            chain_failures=scenario.chain_failures,
            cooldown_ms=0,
        )
        self._over = Event()
        self._allowed = 0
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Hire, kill, and look at the end. Raises AssertionError if a process does not start."""
        begun_at = time.monotonic()
        threads = [Thread(target=self._tick), Thread(target=self._hire)]
        with Server(self._service) as server:
            self._fleet = Fleet(self._scenario.home)
            try:
                self._start(server)
                for thread in threads:
                    thread.start()
                self._kill_until_settled()
                self._audit()
            finally:
                self._over.set()
                for thread in threads:
                    if thread.ident is not None:
                        thread.join()
                self._fleet.end()
        self.outcome.kills = dict(self._fleet.kills)
        self.outcome.faults = sum(self._faults.counts.values())
        self.outcome.seconds = time.monotonic() - begun_at
        return self.outcome

    def _start(self, server: Server) -> None:
        """Start all but the broker."""
        self._start_watchers(server, WATCHERS)
        self._fleet.start(
            "worker", WORKERS, "tollgate.worker", "--endpoint", self._fleet.url,
            "--handler", f"tests.settlement.handler:{self._scenario.handler}",
            "--isolation", "process", "--lease-ms", "1000",
            "--max-attempts", "1000", "--backoff-s", "0.1",
            environment={SERVICE_URL: server.url, SERVICE_TOKEN: server.token},
        )  # fmt: skip

    def _start_watchers(self, server: Server, count: int) -> None:
        token = self._scenario.home / "token"
        token.write_text(server.token)
        self._fleet.start(
            "watcher", count, "tollgate.masumi", "--endpoint", self._fleet.url,
            "--service-url", server.url, "--service-token-file", str(token),
            "--network", "Preprod", "--poll-s", POLL_S, "--call-s", CALL_S, "--recoveries", "50",
        )  # fmt: skip

    # --- the kills ------------------------------------------------------------------------------

    def _kill_until_settled(self) -> None:
        """Kill as often as asked for, while jobs are hired in step with the kills."""
        jobs, wanted = self._scenario.jobs, self._scenario.kills
        deadline = time.monotonic() + self._scenario.seconds
        kills = 0
        with Client(self._fleet.url, timeout_s=5) as client:
            while time.monotonic() < deadline:
                self._fleet.look()
                if kills < wanted:
                    kills += 1
                    self._allowed = -(-jobs * kills // wanted)
                    self._fleet.kill(self._random.choice(self.kinds), self._random)
                else:
                    self._allowed = jobs
                with suppress(TollgateError):
                    self.outcome.confirmed = client.count(settlement="confirmed").total
                    if self._is_settled() or client.count(settlement="manual").total:
                        break
                self._progress(self.outcome.confirmed, kills)
                time.sleep(self._random.uniform(*self.pause_s))

    def _is_settled(self) -> bool:
        """Return whether nothing more is to come."""
        return self.outcome.confirmed == self._scenario.jobs

    # --- the buyers and the chain ---------------------------------------------------------------

    def _tick(self) -> None:
        while not self._over.wait(TICK_S):
            self._service.tick()

    def _hire(self) -> None:
        with Client(self._fleet.url, timeout_s=2) as client:
            for number in range(self._scenario.jobs):
                while number >= self._allowed:
                    if self._over.wait(0.02):
                        return
                text = f'{{"number":{number}}}'
                hash_ = input_hash(PURCHASER, {"number": number})
                made = self._service.create(inputHash=hash_, identifierFromPurchaser=PURCHASER)
                identifier = made["blockchainIdentifier"]
                self._create(client, number, text, hash_, identifier)
                self._service.lock_funds(identifier)

    def _create(self, client: Client, number: int, text: str, hash_: str, identifier: str) -> None:
        while not self._over.is_set():
            with suppress(TollgateError):
                client.create(
                    hash_,
                    input=text,
                    job_id=f"00000000-0000-4000-8000-{number:012d}",
                    identifier_from_purchaser=PURCHASER,
                    blockchain_identifier=identifier,
                    settle=True,
                )
                return

    # --- the audit ------------------------------------------------------------------------------

    def _audit(self) -> None:
        """Add what is wrong to the outcome."""
        with Client(self._fleet.url) as client:
            jobs = list(client.list())
            histories = [client.history(job.job_id) for job in jobs]
        wrong = self.outcome.wrong
        if len(jobs) != self._scenario.jobs:
            wrong.append(f"{len(jobs)} jobs of {self._scenario.jobs} are stored")
        accepted: dict[str, list[str]] = {}
        for identifier, hash_ in self._service.accepted:
            accepted.setdefault(identifier, []).append(hash_)
        for job, history in zip(jobs, histories, strict=True):
            payment = self._service.payments[job.blockchain_identifier]
            self.outcome.failures += failures_of(payment)
            hashes = accepted.pop(job.blockchain_identifier, [])
            wrong += faults_of(job, history, payment, hashes)
        wrong += [f"a hash was accepted for a payment without a job: {each}" for each in accepted]
        killed = sum(self._fleet.kills.values())
        if killed != self._scenario.kills:
            wrong.append(f"{killed} kills of {self._scenario.kills} were done")
        wrong += self._fleet.left()

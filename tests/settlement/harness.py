"""Kills watchers, workers and brokers while jobs are hired, paid, worked on and proved."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from threading import Event, Thread
from typing import Final

from tests.crash.process import Broker
from tests.payment_service.faults import Faults
from tests.payment_service.server import Server
from tests.payment_service.service import PaymentService
from tests.settlement.audit import PURCHASER, failures_of, faults_of
from tests.settlement.handler import SERVICE_TOKEN, SERVICE_URL
from tollgate import Client, TollgateError
from tollgate.domain.hashing import input_hash

ROOT: Final = Path(__file__).parents[2]
WATCHERS, WORKERS = 2, 3
TICK_S: Final = 0.05
KILL_PAUSE_S: Final = (0.1, 0.8)
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


Progress = Callable[[int, int], None]
"""Told how many settlements are confirmed, and how many kills there were."""


class Program:
    """A process that is started again when it is killed."""

    def __init__(
        self, name: str, log: Path, *command: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self._log = log
        self._command = [sys.executable, "-P", "-m", *command]
        self._environment = {**os.environ, **(environment or {})}
        self.left: list[int] = []
        """Exit codes of those that were not killed."""
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, cwd=ROOT, env=self._environment, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log,
            )  # fmt: skip

    def kill(self) -> None:
        self.end()
        self.start()

    def end(self) -> None:
        self._look()
        self.process.kill()
        self.process.wait()

    def look(self) -> None:
        """Start it again if it has left by itself."""
        if self._look():
            self.start()

    def _look(self) -> bool:
        code = self.process.poll()
        if code is not None:
            self.left.append(code)
        return code is not None


class Run:
    """One run of a scenario, from the first broker to the audit."""

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
        self._brokers = 0
        self._allowed = 0
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Hire, kill, and look at the end. Raises AssertionError if a process does not start."""
        begun_at = time.monotonic()
        with Server(self._service) as server:
            self._start(server)
            threads = [Thread(target=self._tick), Thread(target=self._hire)]
            for thread in threads:
                thread.start()
            try:
                self._kill_until_settled()
                self._audit()
            finally:
                self._over.set()
                for thread in threads:
                    thread.join()
                for program in (*self._watchers, *self._workers):
                    program.end()
                self._broker.kill()
        self.outcome.faults = sum(self._faults.counts.values())
        self.outcome.seconds = time.monotonic() - begun_at
        return self.outcome

    # --- processes ------------------------------------------------------------------------------

    def _start(self, server: Server) -> None:
        home = self._scenario.home
        self._start_broker()
        url = self._broker.url
        token = home / "token"
        token.write_text(server.token)
        self._watchers = [
            Program(
                "watcher", home / f"watcher{number}.log", "tollgate.masumi", "--endpoint", url,
                "--service-url", server.url, "--service-token-file", str(token),
                "--network", "Preprod", "--poll-s", POLL_S, "--call-s", CALL_S,
                "--recoveries", "50",
            )
            for number in range(WATCHERS)
        ]  # fmt: skip
        self._workers = [
            Program(
                "worker", home / f"worker{number}.log", "tollgate.worker", "--endpoint", url,
                "--handler", f"tests.settlement.handler:{self._scenario.handler}",
                "--isolation", "process", "--lease-ms", "1000",
                "--max-attempts", "1000", "--backoff-s", "0.1",
                environment={SERVICE_URL: server.url, SERVICE_TOKEN: server.token},
            )
            for number in range(WORKERS)
        ]  # fmt: skip

    def _start_broker(self) -> None:
        self._brokers += 1
        self._broker = Broker(self._scenario.home, f"broker{self._brokers}", ("--drain-ms", "0"))
        self._broker.wait_until_ready()

    def _kill_until_settled(self) -> None:
        """Kill as often as asked for, while jobs are hired in step with the kills."""
        deadline = time.monotonic() + self._scenario.seconds
        kills = 0
        with Client(self._broker.url, timeout_s=5) as client:
            while time.monotonic() < deadline:
                for program in (*self._watchers, *self._workers):
                    program.look()
                if kills < self._scenario.kills:
                    kills += 1
                    self._allowed = -(-self._scenario.jobs * kills // self._scenario.kills)
                    self._kill()
                else:
                    self._allowed = self._scenario.jobs
                with suppress(TollgateError):
                    self.outcome.confirmed = client.count(settlement="confirmed").total
                    if self.outcome.confirmed == self._scenario.jobs:
                        break
                    if client.count(settlement="manual").total:
                        break
                self._progress(self.outcome.confirmed, kills)
                time.sleep(self._random.uniform(*KILL_PAUSE_S))

    def _kill(self) -> None:
        kind = self._random.choice(["watcher", "watcher", "worker", "broker"])
        if kind == "broker":
            self._broker.kill()
            self._start_broker()
        else:
            self._random.choice(self._watchers if kind == "watcher" else self._workers).kill()
        self.outcome.kills[kind] = self.outcome.kills.get(kind, 0) + 1

    # --- the buyers and the chain ---------------------------------------------------------------

    def _tick(self) -> None:
        while not self._over.wait(TICK_S):
            self._service.tick()

    def _hire(self) -> None:
        with Client(self._broker.url, timeout_s=2) as client:
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
        with Client(self._broker.url) as client:
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
        killed = sum(self.outcome.kills.values())
        if killed != self._scenario.kills:
            wrong.append(f"{killed} kills of {self._scenario.kills} were done")
        for program in (*self._watchers, *self._workers):
            wrong += [f"a {program.name} left by itself: exit code {code}" for code in program.left]

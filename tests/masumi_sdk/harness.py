"""Kills web workers and brokers while buyers hire an agent of the real SDK."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from threading import Event, Thread
from typing import Any, Final

import httpx

from tests.crash.process import Broker
from tests.masumi_sdk.audit import overlaps, spans_of, wrong_polls
from tests.payment_service.faults import Faults
from tests.payment_service.server import Server
from tests.payment_service.service import PaymentService
from tests.settlement.audit import PURCHASER, faults_of
from tollgate import AsyncClient, JobStatus, TollgateError

ROOT: Final = Path(__file__).parents[2]
TICK_S: Final = 0.1
POLL_S: Final = 0.15
KILL_PAUSE_S: Final = (0.5, 2.0)
BLOCKING: Final = 10
"""Of so many jobs, one blocks its event loop for longer than a lease."""
KINDS: Final = ("web workers", "broker", "web worker", "web server")


@dataclass
class Scenario:
    """The settings of a run."""

    home: Path
    """An empty directory with a short path, because a socket is created in it."""
    jobs: int = 40
    asking: int = 12
    """How many of the jobs ask a human, twice."""
    kills: int = 0
    seed: int = 1
    workers: int = 3
    fault_share: float = 0.0
    """The share of calls of the payment service that go wrong."""
    seconds: float = 180.0
    """Longest time until all results are on chain."""


@dataclass
class Outcome:
    """What came of a run."""

    completed: int = 0
    asked: int = 0
    polls: int = 0
    unavailable: int = 0
    """Answers that were errors of the server or of the connection: a killed one gives these."""
    runs: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0


def environment_of_agent(log: Path, server: Server, broker: str) -> dict[str, str]:
    """Return what `tests.masumi_sdk.agent` reads from its environment, and the SDK too."""
    return {
        "AGENT_LOG": str(log),
        "PAYMENT_SERVICE_URL": server.url,
        "PAYMENT_API_KEY": server.token,
        "AGENT_IDENTIFIER": server.service.agent,
        "SELLER_VKEY": "0" * 56,
        "NETWORK": "Preprod",
        "TOLLGATE_ENDPOINT": broker,
    }


class Web:
    """`uvicorn` with worker processes; it starts those again that are killed.

    Without workers, it is one process that the agent starts by itself, with `tollgate.masumi.run`.
    """

    def __init__(self, home: Path, workers: int, environment: dict[str, str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._log = home / "web.log"
        self._workers = workers
        self._environment = {**os.environ, **environment, "PORT": str(self._port)}
        self.start()

    def start(self) -> None:
        """Start it, on the same port."""
        command = ["tests.masumi_sdk.agent"]
        if self._workers:
            command = [
                "uvicorn", "tests.masumi_sdk.agent:app", "--port", str(self._port),
                "--workers", str(self._workers), "--no-access-log",
            ]  # fmt: skip
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=ROOT, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def workers(self) -> list[int]:
        """Return the process ids of the workers."""
        parent = self._process.pid
        with suppress(FileNotFoundError):
            text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
            commands = [(int(pid), Path(f"/proc/{pid}/cmdline")) for pid in text.split()]
            return [pid for pid, path in commands if b"spawn_main" in path.read_bytes()]
        return []

    def kill(self, count: int | None = None) -> int:
        """Kill some workers with SIGKILL, or all; return how many."""
        found = self.workers()[:count]
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(found)

    def end(self) -> None:
        """Kill all of it."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> int:
        """Stop it with SIGTERM, and return its exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(60)

    def log(self) -> str:
        """Return what it wrote."""
        return self._log.read_text(errors="replace")


class Buyer:
    """Hires once, pays, answers, and looks until there is a result."""

    def __init__(self, number: int, run: "SdkRun", questions: int) -> None:
        self.number = number
        self.questions = questions
        self.turn = asyncio.Event()
        self.job_id: str | None = None
        self.polls: list[tuple[int, str | None, str | None]] = []
        self.unavailable = 0
        self._run = run

    async def buy(self, http: httpx.AsyncClient) -> None:
        """Do all of it."""
        blocks = self.number % BLOCKING == BLOCKING - 1
        seconds = 3.0 if blocks else self._run.random.uniform(0.3, 1.5)
        body = {
            "identifier_from_purchaser": PURCHASER,
            "input_data": {
                "number": self.number, "seconds": seconds, "questions": self.questions,
                "blocks": blocks,
            },
        }  # fmt: skip
        await self.turn.wait()
        while self.job_id is None:
            answer = await self._call(http, "POST", "/start_job", json=body)
            if answer is not None and answer.status_code == 200:
                self.job_id = answer.json()["id"]
                self._run.service.lock_funds(answer.json()["blockchainIdentifier"])
        while not self._is_over():
            answer = await self._call(http, "GET", "/status", params={"job_id": self.job_id})
            if answer is None:
                continue
            told = answer.json() if answer.status_code == 200 else {}
            self.polls.append((answer.status_code, told.get("status"), told.get("result")))
            if told.get("status") == "awaiting_input":
                await self._call(
                    http, "POST", "/provide_input",
                    json={"job_id": self.job_id, "input_data": {"approve": True}},
                )  # fmt: skip
            await asyncio.sleep(POLL_S)

    def _is_over(self) -> bool:
        ends = [poll for poll in self.polls if poll[1] in {"completed", "failed"}]
        return len(ends) >= 3

    async def _call(
        self, http: httpx.AsyncClient, method: str, path: str, **values: Any
    ) -> httpx.Response | None:
        try:
            answer = await http.request(method, self._run.web.url + path, **values)
        except httpx.HTTPError:
            answer = None
        if answer is None or answer.status_code >= 500:
            self.unavailable += 1
            await asyncio.sleep(POLL_S)
            return None
        return answer


Progress = Callable[[int, int], None]
"""Told how many results are on chain, and how many kills there were."""


class SdkRun:
    """One run of a scenario, from the first broker to the audit."""

    def __init__(self, scenario: Scenario, progress: Progress = lambda *_: None) -> None:
        self._scenario = scenario
        self._progress = progress
        self.random = Random(scenario.seed)
        faults = Faults.all(scenario.seed, scenario.fault_share, slow_s=0.5)
        self.service = PaymentService(scenario.seed, faults, cooldown_ms=0)
        self.outcome = Outcome()
        self._over = Event()
        self._brokers = 0

    def run(self) -> Outcome:
        """Hire, kill, and look at the end."""
        begun_at = time.monotonic()
        home = self._scenario.home
        log = home / "handlers.log"
        log.touch()
        with Server(self.service) as server:
            self._start_broker()
            environment = environment_of_agent(log, server, self._broker.url)
            self.web = Web(home, self._scenario.workers, environment)
            chain = Thread(target=self._tick)
            chain.start()
            try:
                asyncio.run(self._buy_and_kill())
                self._audit([json.loads(line) for line in log.read_text().splitlines()])
            finally:
                self._over.set()
                chain.join()
                self.web.end()
                self._broker.kill()
        self.outcome.seconds = time.monotonic() - begun_at
        return self.outcome

    def _allow(self, count: int) -> None:
        """Let so many buyers hire: jobs are to be under way at each kill."""
        for buyer in self._buyers[:count]:
            buyer.turn.set()

    def _start_broker(self) -> None:
        self._brokers += 1
        self._broker = Broker(
            self._scenario.home, f"broker{self._brokers}", ("--drain-ms", "0", "--lapses", "50")
        )
        self._broker.wait_until_ready()

    def _tick(self) -> None:
        while not self._over.wait(TICK_S):
            self.service.tick()

    # --- buyers and kills -----------------------------------------------------------------------

    async def _buy_and_kill(self) -> None:
        scenario = self._scenario
        every = max(1, scenario.jobs // max(1, scenario.asking))
        asking = set(range(0, scenario.jobs, every)[: scenario.asking])
        self._buyers = [
            Buyer(number, self, 2 if number in asking else 0) for number in range(scenario.jobs)
        ]
        limits = httpx.Limits(max_keepalive_connections=0)  # so that any worker may answer
        try:
            async with (
                asyncio.timeout(scenario.seconds),
                httpx.AsyncClient(timeout=40, limits=limits) as http,
                AsyncClient(self._broker.url) as client,
            ):
                await self._until_available(http)
                killing = asyncio.create_task(self._kill(http))
                await asyncio.gather(*(buyer.buy(http) for buyer in self._buyers), killing)
                await self._until_proved(client)
                code = await asyncio.to_thread(self.web.stop)
                if code not in {0, -signal.SIGTERM}:
                    self.outcome.wrong.append(f"the web server ended with {code}")
        except TimeoutError:
            self.outcome.wrong.append(f"not done in {scenario.seconds:g} s")

    async def _until_available(self, http: httpx.AsyncClient) -> None:
        while True:
            with suppress(httpx.HTTPError):
                if (await http.get(self.web.url + "/availability")).status_code == 200:
                    return
            await asyncio.sleep(0.1)

    async def _kill(self, http: httpx.AsyncClient) -> None:
        """Kill as often as asked for; with each kill, some more buyers may hire."""
        for number in range(self._scenario.kills):
            await self._until_available(http)
            self._allow(-(-self._scenario.jobs * (number + 1) // self._scenario.kills))
            await asyncio.sleep(self.random.uniform(*KILL_PAUSE_S))
            kind = KINDS[number % len(KINDS)]
            if kind == "broker":
                self._broker.kill()
                await asyncio.to_thread(self._start_broker)
            elif kind == "web server":
                self.web.end()
                self.web.start()
            else:
                await self._until_killed(1 if kind == "web worker" else None)
            self.outcome.kills[kind] += 1
            self._progress(self._ended(), number + 1)
        self._allow(self._scenario.jobs)

    async def _until_killed(self, count: int | None) -> None:
        for _ in range(100):
            if self.web.kill(count):
                return
            await asyncio.sleep(0.1)  # the server is just starting its workers
        raise AssertionError(f"there is no web worker: {self.web.log()}")

    async def _until_proved(self, client: AsyncClient) -> None:
        while True:
            with suppress(TollgateError):
                settled = (await client.count(settlement="confirmed")).total
                failed = (await client.count("failed")).total
                manual = (await client.count(settlement="manual")).total
                self._progress(settled, self.outcome.kills.total())
                if settled + failed + manual >= self._scenario.jobs:
                    return
            await asyncio.sleep(0.2)

    def _ended(self) -> int:
        return sum(buyer._is_over() for buyer in self._buyers)

    # --- the audit ------------------------------------------------------------------------------

    def _audit(self, lines: list[dict[str, Any]]) -> None:
        outcome = self.outcome
        accepted: dict[str, list[str]] = {}
        for identifier, hash_ in self.service.accepted:
            accepted.setdefault(identifier, []).append(hash_)
        for buyer in self._buyers:
            outcome.polls += len(buyer.polls)
            outcome.unavailable += buyer.unavailable
            outcome.wrong += [
                f"buyer {buyer.number}: {fault}" for fault in wrong_polls(buyer.polls)
            ]
        asyncio.run(self._audit_jobs(accepted))
        outcome.runs = sum(map(len, spans_of(lines).values()))
        outcome.wrong += overlaps(lines)

    async def _audit_jobs(self, accepted: dict[str, list[str]]) -> None:
        outcome = self.outcome
        async with AsyncClient(self._broker.url) as client:
            for buyer in self._buyers:
                if buyer.job_id is None:
                    outcome.wrong.append(f"buyer {buyer.number} could not hire")
                    continue
                job = await client.get(buyer.job_id)
                history = await client.history(buyer.job_id)
                payment = self.service.payments[job.blockchain_identifier]
                hashes = accepted.pop(job.blockchain_identifier, [])
                found = faults_of(job, history, payment, hashes)
                rounds = len(job.inputs or ())
                if rounds != buyer.questions:
                    found.append(f"{job.job_id}: {rounds} questions, not {buyer.questions}")
                if buyer.polls and buyer.polls[-1][2] != job.result:
                    found.append(f"{job.job_id}: the buyer saw {buyer.polls[-1]}")
                outcome.completed += job.status is JobStatus.COMPLETED
                outcome.asked += bool(rounds)
                outcome.wrong += [f"buyer {buyer.number}: {fault}" for fault in found]
        outcome.wrong += [f"a hash for a payment without a job: {each}" for each in accepted]

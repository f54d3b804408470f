"""Kills and freezes workers, brokers and children while they work, and audits what came of it."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

from tests.chaos.audit import Audit
from tests.chaos.producer import Producer, outcomes
from tests.chaos.scripts import Deck, Script, Scripts
from tests.chaos.workers import Workers
from tests.crash.process import Broker
from tollgate.worker.lease import TOUCHES

BROKER_OPTIONS: Final = ("--payment-grace-ms", "0", "--drain-ms", "0")
ACTS: Final = {
    "kill a worker": 4, "stop a worker": 4, "freeze a worker": 2, "freeze a worker for long": 3,
    "kill a broker": 3, "stop a broker": 2, "freeze a broker": 2, "freeze a broker for long": 1,
    "kill a child": 4, "freeze a child": 1,
}  # fmt: skip
"""What is done, and how often in 26 times. Every kind comes before one comes again too often."""
PAUSE_S: Final = (0.2, 1.2)
"""How long nothing is done after that."""
SHORT, LONG = (0.2, 0.7), (1.3, 2.0)
"""How long something is frozen, in lease times."""


STEP_S, SYNC_EVERY_S, LATE_S = 0.02, 0.1, 0.15
"""How often to look whether the machine runs, how often whether its disk does, and what is late."""


@dataclass
class Scenario:
    """The settings of a run."""

    home: Path
    """An empty directory with a short path, because a socket is created in it."""
    jobs: int = 200
    kills: int = 30
    seed: int = 1
    lease_ms: int = 1_500
    concurrency: int = 3
    seconds: float = 300
    """Longest time until all jobs have ended."""


@dataclass
class Figures:
    """What happened in a run."""

    acts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0
    broker_away: list[tuple[float, float]] = field(default_factory=list)
    """From when to when no broker answered, as Unix times."""
    standstills: list[tuple[float, float]] = field(default_factory=list)
    """From when to when nothing of this process ran, or the disk did not answer: the machine stood
    still, or was too busy."""
    children_killed: dict[int, tuple[str, float]] = field(default_factory=dict)
    """Whose child it was, and when it was killed, by the number of its process."""


class Standstills:
    """Two threads that note when the machine is late.

    One sleeps for a moment, again and again: then no process runs in time. The other one syncs a
    file: then no process gets a page of its program, a broker no sync, and a handler no note.
    """

    def __init__(self, noted: list[tuple[float, float]], file: Path, sync_s: float) -> None:
        """Take a file to sync, and how long that may take."""
        self._noted = noted
        self._file = file
        self._sync_s = sync_s
        self._leaving = threading.Event()
        looks = (self._look_at_processor, self._look_at_disk)
        self._threads = [threading.Thread(target=look) for look in looks]

    def __enter__(self) -> None:
        for each in self._threads:
            each.start()

    def __exit__(self, *_: object) -> None:
        self._leaving.set()
        for each in self._threads:
            each.join()

    def _look_at_processor(self) -> None:
        woke_at = time.time()
        while not self._leaving.wait(STEP_S):
            before, woke_at = woke_at, time.time()
            self._note(before, woke_at, LATE_S)

    def _look_at_disk(self) -> None:
        with self._file.open("wb", buffering=0) as file:
            while not self._leaving.wait(SYNC_EVERY_S):
                before = time.time()
                file.write(b"x")
                os.fdatasync(file.fileno())
                self._note(before, time.time(), self._sync_s)

    def _note(self, since: float, until: float, longest_s: float) -> None:
        if until - since > longest_s:
            self._noted.append((since, until))


Progress = Callable[[int, int], None]
"""Told how many jobs have ended, and how many kills there were."""


class Run:
    """One run of a scenario, from the first broker to the audit."""

    def __init__(self, scenario: Scenario, progress: Progress = lambda *_: None) -> None:
        self._scenario = scenario
        self._progress = progress
        self._random = Random(scenario.seed)
        source = Scripts(Random(scenario.seed + 1), scenario.lease_ms)
        self.scripts: list[Script] = [source.draw() for _ in range(scenario.jobs)]
        self._acts = Deck(self._random, ACTS)
        self._brokers = 0
        self._broker = self._start_broker()
        self._broker.wait_until_ready()
        url = self._broker.url
        self.workers = Workers(scenario.home, url, scenario.lease_ms, scenario.concurrency)
        self._producer = Producer(url, self.scripts)
        self._kills = 0
        self.figures = Figures()

    def run(self) -> Audit:
        """Let all jobs end while things are killed, and return what is wrong."""
        begun = time.monotonic()
        audit = Audit(self.workers, self.figures)
        try:
            self._play(audit, begun)
        finally:
            self._producer.leave()
            self.workers.kill()
            self._broker.kill()
        self.figures.seconds = time.monotonic() - begun
        return audit

    def _play(self, audit: Audit, begun: float) -> None:
        touch_s = self._scenario.lease_ms / 1_000 / TOUCHES
        with Standstills(self.figures.standstills, self._scenario.home / "synced", touch_s):
            self.workers.start()
            self._producer.start()
            for number in range(self._scenario.kills):
                self._producer.allowed = -(-self._scenario.jobs * (number + 1)) // max(
                    1, self._scenario.kills
                )
                self._act(self._acts.draw())
                self._look_for(self._random.uniform(*PAUSE_S))
            self._producer.allowed = self._scenario.jobs
            while not self._producer.is_done:
                self._look_for(0.1)
                if time.monotonic() > begun + self._scenario.seconds:
                    break
        self._finish(audit)

    def _start_broker(self) -> Broker:
        self._brokers += 1
        return Broker(self._scenario.home, f"broker-{self._brokers}", BROKER_OPTIONS)

    def _look_for(self, seconds: float) -> None:
        """Let time pass, and replace workers that have left."""
        end = time.monotonic() + seconds
        while True:
            self.workers.look()
            if self._broker.is_over():
                raise AssertionError(f"the broker ended by itself: {self._broker.log()[-3_000:]}")
            self._progress(self._producer.ended, self._kills)
            if time.monotonic() >= end:
                return
            time.sleep(0.02)

    def _finish(self, audit: Audit) -> None:
        """Stop everything, and look at all that was left."""
        found = outcomes(self._broker.url, self.scripts)
        self.workers.stop()
        self._producer.leave()
        if code := self._broker.terminate():
            audit.report("exit code", ("broker", code))
        audit.producer(self._producer.faults)
        audit.processes()
        audit.jobs(self.scripts, found)

    # --- what is done -----------------------------------------------------------------------------

    def _act(self, name: str) -> None:
        about, _, what = name.partition(" a ")
        what, _, is_long = what.partition(" ")
        span = LONG if is_long else SHORT
        frozen_s = self._random.uniform(*span) * self._scenario.lease_ms / 1_000
        self._kills += 1
        match what:
            case "broker":
                self._act_on_broker(about, frozen_s)
            case "worker":
                self._act_on_worker(about, frozen_s)
            case _ if not self._act_on_child(about, frozen_s):
                name = "kill a worker"  # there is no child at the moment
                self._act_on_worker("kill", frozen_s)
        self.figures.acts[name] = self.figures.acts.get(name, 0) + 1

    def _act_on_broker(self, about: str, frozen_s: float) -> None:
        with self._away():
            match about:
                case "kill":
                    self._broker.kill()
                case "stop":
                    if code := self._broker.terminate():
                        raise AssertionError(f"the broker left with {code}: {self._broker.log()}")
                case _:
                    self._freeze(self._broker.process.pid, frozen_s)
                    return
            self._look_at_workers_for(self._random.uniform(0, 0.5))
            self._broker = self._start_broker()
            self._broker.wait_until_ready()

    @contextmanager
    def _away(self) -> Iterator[None]:
        begun = time.time()
        yield
        self.figures.broker_away.append((begun, time.time()))

    def _act_on_worker(self, about: str, frozen_s: float) -> None:
        life = self._random.choice([*self.workers.now.values()])
        match about:
            case "kill":
                life.signal(signal.SIGKILL)
            case "stop":
                life.signal(signal.SIGTERM)
            case _:
                begun = time.time()
                self._freeze(life.process.pid, frozen_s)
                life.stopped.append((begun, time.time()))

    def _act_on_child(self, about: str, frozen_s: float) -> bool:
        """Do something to a process that works for a worker. Return whether there is one."""
        children = [
            (child, life.name)
            for life in self.workers.now.values()
            if life.place.isolation == "process" and not life.is_over()
            for child in life.children()
        ]
        if not children:
            return False
        child, worker = self._random.choice(children)
        if about == "kill":
            self.figures.children_killed[child] = worker, time.time()
            _signal(child, signal.SIGKILL)
        else:
            self._freeze(child, frozen_s)
        return True

    def _freeze(self, pid: int, seconds: float) -> None:
        _signal(pid, signal.SIGSTOP)
        self._look_at_workers_for(seconds)
        _signal(pid, signal.SIGCONT)

    def _look_at_workers_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.workers.look()
            time.sleep(0.02)


def _signal(pid: int, sign: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it has ended by itself
        os.kill(pid, sign)

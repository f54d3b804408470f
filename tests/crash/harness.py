"""Kills or stops brokers under the load of producers, and audits the journal afterwards."""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Final

import msgspec

from tests.crash.audit import Audit
from tests.crash.counters import Counters
from tests.crash.probe import probe
from tests.crash.process import Archive, Broker
from tests.crash.producers import Plan
from tollgate.broker.journal.inspect import dump

PRODUCERS: Final = 8
OPTIONS: Final = ("--payment-grace-ms", "0", "--log-level", "info")
ENDLESS: Final = 2**50
STUCK_S: Final = 60.0
LIFE_S: Final = 0.7
"""Longest life of a broker under load, when no number of commands is given."""


class Scenario(msgspec.Struct):
    """The settings of a run."""

    home: Path
    """An empty directory with a short path, because a socket is created in it."""
    ends: int
    """How often the broker is killed or stopped."""
    seconds: float = 0
    """Shortest duration of the run."""
    commands: int = 0
    """How many commands to send at least, without repeats."""
    term: bool = False
    """Whether to stop the broker with SIGTERM instead of SIGKILL."""
    batch: int = 4
    seed: int = 1
    options: tuple[str, ...] = ()
    producers: int = PRODUCERS
    input_bytes: int = 0
    deleted: int = 0
    """How many segments compaction must delete before the run may end."""
    in_snapshot: bool = False
    """Whether to kill the broker while it writes a snapshot."""


class Run:
    """One run of a scenario, from the first broker to the audit."""

    def __init__(self, scenario: Scenario, say: Callable[[str], None] = lambda _: None) -> None:
        self._scenario = scenario
        self._say = say
        self._random = Random(scenario.seed)
        self._options = (*OPTIONS, *scenario.options)
        self._data = scenario.home / "data"
        self.counters = Counters(scenario.home / "counters", scenario.producers)
        self.ends = 0
        self.exit_codes: list[int] = []
        self.last_of_life: list[int] = []
        self.duration_s = 0.0
        self.claimed = 0
        """How many jobs the last broker granted in order, when all others had ended."""
        self._probed_since = 0
        self._claimed_since = datetime.min.replace(tzinfo=UTC)
        self.archive = Archive(self._data, scenario.home / "archive")
        self.counters.life = 1
        self._broker = self._begin()

    def run(self) -> Audit:
        began = time.monotonic()
        with self.archive as archive:
            producers = self._producers()
            try:
                self._end_lives(began)
                self._finish(producers)
            finally:
                for producer in producers:
                    producer.kill()
                    producer.wait()
                self._broker.kill()
        self.duration_s = time.monotonic() - began
        return self._audited(archive.directory)

    def _begin(self) -> Broker:
        return Broker(self._scenario.home, f"broker-{self.counters.life}", self._options)

    def _producers(self) -> list[subprocess.Popen[bytes]]:
        scenario = self._scenario
        share = -(-scenario.commands // scenario.producers) or ENDLESS
        plans = [
            Plan(
                url=self._broker.url,
                counters=str(scenario.home / "counters"),
                log=str(self._log(number)),
                number=number,
                producers=scenario.producers,
                seed=1_000 * scenario.seed + number,
                commands=share,
                batch=scenario.batch,
                moves=not scenario.term,
                input_bytes=scenario.input_bytes,
            )
            for number in range(scenario.producers)
        ]
        command = [sys.executable, "-m", "tests.crash.producers"]
        return [subprocess.Popen([*command, msgspec.json.encode(plan)]) for plan in plans]

    def _log(self, number: int) -> Path:
        return self._scenario.home / f"producer-{number}.log"

    def _end_lives(self, began: float) -> None:
        """Kill or stop brokers until all minimums of the scenario are reached."""
        scenario = self._scenario
        while self.ends < scenario.ends:
            self._wait_for_load()
            self._wait_before_the_end()
            self._end()
            self._say(
                f"{self.ends} of {scenario.ends} lives ended,"
                f" {self.counters.commands()} commands, {self.counters.repeats()} repeated"
            )
        while (
            time.monotonic() < began + scenario.seconds
            or self.counters.commands() < scenario.commands
            or self.archive.deleted() < scenario.deleted
        ):
            self._check_running()
            time.sleep(0.1)
        self.counters.stop()

    def _wait_for_load(self) -> None:
        """Wait for load on the broker. One time in ten, wait only for its start."""
        if not self._scenario.term and self._random.random() < 0.1:
            time.sleep(self._random.uniform(0, 0.6))
            return
        answers, patient_until = self.counters.answers(), time.monotonic() + STUCK_S
        while self.counters.answers() < answers + 50:
            self._check_running()
            if time.monotonic() > patient_until:
                raise AssertionError("no producer gets answers any more")
            time.sleep(0.005)

    def _wait_before_the_end(self) -> None:
        """Wait a random time, or spread the ends evenly over the commands."""
        scenario, left = self._scenario, self._scenario.ends - self.ends
        if scenario.in_snapshot:
            self._wait_for_snapshot()
        elif not scenario.commands:
            time.sleep(self._random.uniform(0, LIFE_S))
        else:
            share = (scenario.commands - self.counters.commands()) / (left + 1)
            goal = self.counters.commands() + self._random.uniform(0, 1.9) * share
            while self.counters.commands() < min(goal, scenario.commands * 0.98):
                self._check_running()
                time.sleep(0.002)

    def _wait_for_snapshot(self) -> None:
        patient_until = time.monotonic() + STUCK_S
        while not any(self._data.glob("snapshot-*.tmp")):
            self._check_running()
            if time.monotonic() > patient_until:
                raise AssertionError("no snapshot is written")
            time.sleep(0.001)

    def _check_running(self) -> None:
        if self._broker.process.poll() is not None:
            raise AssertionError(f"the broker ended by itself: {self._broker.log()[-3_000:]}")

    def _end(self) -> None:
        self.ends += 1
        self._end_broker()
        if self._scenario.term:
            self._wait_until_left()
            self.last_of_life.append(self._last_sequence())
        self._broker = self._begin()

    def _end_broker(self) -> None:
        if self._scenario.term:
            self.exit_codes.append(self._broker.terminate())
        else:
            self._broker.kill()
        self.counters.life += 1

    def _wait_until_left(self) -> None:
        """Let the producers read the last replies of a broker before the next one begins."""
        patient_until = time.monotonic() + STUCK_S
        while not self.counters.have_all_left():
            if time.monotonic() > patient_until:
                raise AssertionError("a producer does not notice that its broker has ended")
            time.sleep(0.005)

    def _last_sequence(self) -> int:
        return max((entry.sequence for entry in dump(self._data)), default=0)

    def _finish(self, producers: Sequence[subprocess.Popen[bytes]]) -> None:
        for producer in producers:
            if producer.wait(120):
                raise AssertionError(f"a producer failed with exit code {producer.returncode}")
        self._broker.wait_until_ready()
        self._probe()
        self.exit_codes.append(self._broker.terminate())

    def _probe(self) -> None:
        """Start a broker of its own, and look at what it knows."""
        self._end_broker()
        self._probed_since = self._last_sequence()
        self._broker = self._begin()
        self._broker.wait_until_ready()
        seen = self._scenario.home / "probe.seen"
        self.claimed, self._claimed_since = probe(self._broker.url, seen)

    def _audited(self, archive: Path) -> Audit:
        audit = Audit()
        logs = [self._log(number) for number in range(self._scenario.producers)]
        audit.journal(archive, self._data, logs)
        audit.logs(logs)
        audit.seen(self._scenario.home / "probe.seen", self._probed_since)
        if ready := audit.model.ready(self._claimed_since):
            audit.report("ready, and not claimed", ready)
        if self._scenario.term:
            audit.figures["replies not delivered"] = audit.undelivered(logs, self.last_of_life)
        for code in self.exit_codes:
            if code:
                audit.report("exit code", code)
        return audit


def summary(run: Run, audit: Audit) -> list[tuple[str, int | float]]:
    """Return the figures of a run, in the order in which they are printed."""
    return [
        ("brokers ended", run.ends),
        ("commands", run.counters.commands()),
        ("commands repeated", run.counters.repeats()),
        ("messages answered", run.counters.answers()),
        *audit.figures.items(),
        ("jobs claimed in order", run.claimed),
        ("segments deleted", run.archive.deleted()),
        ("snapshots", run.archive.snapshots),
        ("disk over its bound, at most", run.archive.excess_bytes_max),
        ("requests with an effect", len(audit.effects)),
        ("jobs", len(audit.history)),
        ("two effects", audit.wrong["two effects"]),
        ("lost", audit.wrong["lost"] + audit.wrong["never answered"]),
        ("illegal states", audit.wrong["illegal state"]),
        ("repeats answered otherwise", audit.wrong["another answer"]),
        ("wrong in all", audit.wrong.total()),
        ("seconds", round(run.duration_s, 1)),
    ]

"""Brokers that are killed or told to leave under producers that never let up, and the reckoning."""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Final

import msgspec

from tests.crash.audit import Audit
from tests.crash.board import Board
from tests.crash.lives import Archive, Broker
from tests.crash.producers import Plan
from tollgate.broker.journal.inspect import dump

PRODUCERS: Final = 8
OPTIONS: Final = ("--payment-grace-ms", "0", "--log-level", "info")
ENDLESS: Final = 2**50
STUCK_S: Final = 60.0
LIFE_S: Final = 0.7
"""How long a broker lives at most once it is under load, where only time counts."""


class Ordeal(msgspec.Struct):
    """What a run is to be."""

    home: Path
    """An empty directory with a short name: a socket will be in it."""
    ends: int
    """How often the broker's life ends early."""
    seconds: float = 0
    """How long to go on, at least."""
    commands: int = 0
    """How many commands to send, at least, repeats not counted."""
    term: bool = False
    """Whether to ask the broker to leave, instead of killing it."""
    batch: int = 4
    seed: int = 1
    options: tuple[str, ...] = ()
    producers: int = PRODUCERS
    input_bytes: int = 0
    deleted: int = 0
    """How many segments compaction has to have deleted before the end, at least."""
    in_fold: bool = False
    """Whether to end the broker's life when it is about to write a snapshot."""


class Run:
    """One ordeal, from the first broker to the last."""

    def __init__(self, ordeal: Ordeal, say: Callable[[str], None] = lambda _: None) -> None:
        self._ordeal = ordeal
        self._say = say
        self._random = Random(ordeal.seed)
        self._options = (*OPTIONS, *ordeal.options)
        self._data = ordeal.home / "data"
        self.board = Board(ordeal.home / "board", ordeal.producers)
        self.ends = 0
        self.exit_codes: list[int] = []
        self.last_of_life: list[int] = []
        self.duration_s = 0.0
        self.archive = Archive(self._data, ordeal.home / "archive")
        self._broker = self._begin()

    def run(self) -> Audit:
        began = time.monotonic()
        with self.archive as archive:
            producers = self._producers()
            try:
                self._lives(began)
                self._leave(producers)
            finally:
                for producer in producers:
                    producer.kill()
                    producer.wait()
                self._broker.kill()
        self.duration_s = time.monotonic() - began
        return self._reckoned(archive.directory)

    def _begin(self) -> Broker:
        self.board.life += 1
        return Broker(self._ordeal.home, f"broker-{self.board.life}", self._options)

    def _producers(self) -> list[subprocess.Popen[bytes]]:
        ordeal = self._ordeal
        share = -(-ordeal.commands // ordeal.producers) or ENDLESS
        plans = [
            Plan(
                url=self._broker.url,
                board=str(ordeal.home / "board"),
                log=str(self._log(number)),
                number=number,
                producers=ordeal.producers,
                seed=1_000 * ordeal.seed + number,
                commands=share,
                batch=ordeal.batch,
                moves=not ordeal.term,
                input_bytes=ordeal.input_bytes,
            )
            for number in range(ordeal.producers)
        ]
        command = [sys.executable, "-m", "tests.crash.producers"]
        return [subprocess.Popen([*command, msgspec.json.encode(plan)]) for plan in plans]

    def _log(self, number: int) -> Path:
        return self._ordeal.home / f"producer-{number}.log"

    def _lives(self, began: float) -> None:
        """End one life after the other, until there was enough of everything."""
        ordeal = self._ordeal
        while self.ends < ordeal.ends:
            self._wait_for_load()
            self._linger()
            self._end()
            self._say(
                f"{self.ends} of {ordeal.ends} lives ended,"
                f" {self.board.commands()} commands, {self.board.repeats()} repeated"
            )
        while (
            time.monotonic() < began + ordeal.seconds
            or self.board.commands() < ordeal.commands
            or self.archive.deleted() < ordeal.deleted
        ):
            self._check_lives()
            time.sleep(0.1)
        self.board.stop()

    def _wait_for_load(self) -> None:
        """Most lives end under load; one in ten while the broker has barely begun."""
        if not self._ordeal.term and self._random.random() < 0.1:
            time.sleep(self._random.uniform(0, 0.6))
            return
        answers, patient_until = self.board.answers(), time.monotonic() + STUCK_S
        while self.board.answers() < answers + 50:
            self._check_lives()
            if time.monotonic() > patient_until:
                raise AssertionError("nobody is answered any more")
            time.sleep(0.005)

    def _linger(self) -> None:
        """Wait for a while, or for as long as spreads the ends over so many commands."""
        ordeal, left = self._ordeal, self._ordeal.ends - self.ends
        if ordeal.in_fold:
            self._wait_for_fold()
        elif not ordeal.commands:
            time.sleep(self._random.uniform(0, LIFE_S))
        else:
            share = (ordeal.commands - self.board.commands()) / (left + 1)
            goal = self.board.commands() + self._random.uniform(0, 1.9) * share
            while self.board.commands() < min(goal, ordeal.commands * 0.98):
                self._check_lives()
                time.sleep(0.002)

    def _wait_for_fold(self) -> None:
        patient_until = time.monotonic() + STUCK_S
        while not any(self._data.glob("snapshot-*.tmp")):
            self._check_lives()
            if time.monotonic() > patient_until:
                raise AssertionError("no snapshot is written")
            time.sleep(0.001)

    def _check_lives(self) -> None:
        if self._broker.process.poll() is not None:
            raise AssertionError(f"the broker ended by itself: {self._broker.said()[-3_000:]}")

    def _end(self) -> None:
        self.ends += 1
        if self._ordeal.term:
            self.exit_codes.append(self._broker.terminate())
            time.sleep(0.3)  # those who read have read by now
            self.last_of_life.append(self._last_sequence())
        else:
            self._broker.kill()
        self._broker = self._begin()

    def _last_sequence(self) -> int:
        return max((entry.sequence for entry in dump(self._data)), default=0)

    def _leave(self, producers: Sequence[subprocess.Popen[bytes]]) -> None:
        for producer in producers:
            if producer.wait(120):
                raise AssertionError(f"a producer failed with exit code {producer.returncode}")
        self._broker.wait_until_ready()
        self.exit_codes.append(self._broker.terminate())

    def _reckoned(self, archive: Path) -> Audit:
        audit = Audit()
        audit.journal(archive, self._data)
        logs = [self._log(number) for number in range(self._ordeal.producers)]
        audit.logs(logs)
        if self._ordeal.term:
            audit.figures["replies not delivered"] = audit.unheard(logs, self.last_of_life)
        for code in self.exit_codes:
            if code:
                audit.blame("exit code", code)
        return audit


def summary(run: Run, audit: Audit) -> list[tuple[str, int | float]]:
    """The figures of a run, as they are reported."""
    return [
        ("lives ended", run.ends),
        ("commands", run.board.commands()),
        ("commands repeated", run.board.repeats()),
        ("messages answered", run.board.answers()),
        *audit.figures.items(),
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

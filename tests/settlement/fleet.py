"""A broker with its journal and the programs around it: any can be killed at any moment."""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Final

from tests.crash.process import Broker

ROOT: Final = Path(__file__).parents[2]
BROKER: Final = "broker"


class Program:
    """A process that is started again when it is killed, or has left."""

    def __init__(
        self, name: str, log: Path, *command: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self._log = log
        self._command = [sys.executable, "-P", "-m", *command]
        self._environment = {**os.environ, **(environment or {})}
        self.left: list[int] = []
        """Exit codes of those that were not killed."""
        self.killed: dict[int, float] = {}
        """When each of those that were killed died, by process id, in s of the wall clock."""
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
        if not self._look():
            self.process.kill()
            self.process.wait()
            self.killed[self.process.pid] = time.time()

    def look(self) -> None:
        """Start it again if it has left by itself."""
        if self._look():
            self.start()

    def _look(self) -> bool:
        code = self.process.poll()
        if code is not None:
            self.left.append(code)
        return code is not None


class Fleet:
    """All processes of a run. `home` is an empty directory with a short path, for a socket."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.kills: Counter[str] = Counter()
        self.programs: dict[str, list[Program]] = {}
        self._left: list[int | None] = []
        self._brokers = 0
        self._start_broker()

    @property
    def url(self) -> str:
        """The endpoint of the broker."""
        return self._broker.url

    def start(
        self, kind: str, count: int, *command: str, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start as many programs of a kind, `python -m` with this command."""
        self.programs[kind] = [
            Program(kind, self.home / f"{kind}{number}.log", *command, environment=environment)
            for number in range(count)
        ]

    def kill(self, kind: str, random: Random) -> None:
        """Kill one of a kind with SIGKILL, and start it again."""
        self._look_at_broker()
        if kind == BROKER:
            self._broker.kill()
            self._start_broker()
        else:
            random.choice(self.programs[kind]).kill()
        self.kills[kind] += 1

    def look(self) -> None:
        """Start again what has left by itself."""
        self._look_at_broker()
        for program in self._all():
            program.look()

    def left(self) -> list[str]:
        """Return a line for each process that has left by itself."""
        told = [(each.name, code) for each in self._all() for code in each.left]
        told += [(BROKER, code) for code in self._left if code is not None]
        return [f"a {name} left by itself: exit code {code}" for name, code in told]

    def end(self) -> None:
        """Kill all."""
        for program in self._all():
            program.end()
        self._broker.kill()

    def _start_broker(self) -> None:
        self._brokers += 1
        self._broker = Broker(self.home, f"broker{self._brokers}", ("--drain-ms", "0"))
        self._broker.wait_until_ready()

    def _look_at_broker(self) -> None:
        if self._broker.is_over():
            self._left.append(self._broker.process.returncode)
            self._start_broker()

    def _all(self) -> list[Program]:
        return [program for programs in self.programs.values() for program in programs]

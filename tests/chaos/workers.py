"""Worker processes under a supervisor, and what became of each: for the audit."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.chaos.notes import HOME, WORKER
from tests.chaos.scripts import LEASES_A_CALL, MAX_ATTEMPTS

ROOT: Final = Path(__file__).parents[2]
GRACE_S: Final = 4.0
LEAVE_S: Final = 30.0
"""How long a worker may take to leave after SIGTERM. No limit on performance: to find one that
never leaves."""
NO_SLOT: Final = 4
"""Exit code of a worker whose handlers all hang: a supervisor starts it again."""


@dataclass(frozen=True)
class Place:
    """A place that always has a worker."""

    name: str
    handler: str
    isolation: str
    queues: tuple[str, ...]
    on_exhausted: str = "fail"


PLACES: Final = (
    Place("plain", "plain", "thread", ("alpha", "beta")),
    Place("loop", "later", "thread", ("beta", "alpha")),
    Place("child", "plain", "process", ("gamma", "alpha")),
    Place("childloop", "later", "process", ("delta",), "hold"),
)


@dataclass
class Life:
    """One process: from its start to its end, and what was done to it. Times are Unix times."""

    name: str
    place: Place
    process: "subprocess.Popen[bytes]"
    log: Path
    stopped: list[tuple[float, float]] = field(default_factory=list)
    """From when to when it was frozen."""
    told_at: float | None = None
    """When it got SIGTERM."""
    killed_at: float | None = None
    ended_at: float | None = None
    exit_code: int | None = None

    def children(self) -> list[int]:
        """Return the processes that it has started, and theirs."""
        return descendants(self.process.pid)

    def signal(self, sign: signal.Signals) -> None:
        if sign is signal.SIGKILL:
            self.killed_at = time.time()
        elif sign is signal.SIGTERM:
            self.told_at = time.time()
        self.process.send_signal(sign)

    def is_over(self) -> bool:
        if self.ended_at is None and self.process.poll() is not None:
            self.ended_at = time.time()
            self.exit_code = self.process.returncode
        return self.ended_at is not None

    def text(self) -> str:
        return self.log.read_text(errors="replace")


class Workers:
    """Keeps a worker in each place, and starts another one when it has left."""

    def __init__(self, home: Path, endpoint: str, lease_ms: int, concurrency: int) -> None:
        self._home = home
        self._endpoint = endpoint
        self.lease_ms = lease_ms
        self._concurrency = concurrency
        self.lives: list[Life] = []
        self.now: dict[str, Life] = {}
        """The worker of each place."""
        self.notes = home / "notes"
        self.temporary = home / "tmp"
        self.notes.mkdir()
        self.temporary.mkdir()

    def start(self) -> None:
        for place in PLACES:
            self._start(place)

    def look(self) -> None:
        """Start a worker in each place whose worker has ended."""
        for place in PLACES:
            if self.now[place.name].is_over():
                self._start(place)

    def stop(self) -> None:
        """Stop all workers with SIGTERM; kill those that do not leave."""
        for life in self.now.values():
            if not life.is_over():
                life.signal(signal.SIGTERM)
        end = time.monotonic() + LEAVE_S
        while time.monotonic() < end and not all(life.is_over() for life in self.now.values()):
            time.sleep(0.02)

    def kill(self) -> None:
        """End all that is left, whatever happened before."""
        for life in self.lives:
            if not life.is_over():
                for pid in (*life.children(), life.process.pid):
                    _kill(pid)
                life.process.wait()
                life.is_over()
        for pid in self.leftovers():
            _kill(pid)

    def leftovers(self) -> dict[int, str]:
        """Return the processes that run in this home though their worker has ended."""
        mark = f"{HOME}={self.notes}\0".encode()
        mine = {life.process.pid for life in self.lives if not life.is_over()}
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) in mine | {os.getpid()}:
                continue
            try:
                if mark in (entry / "environ").read_bytes():
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                    found[int(entry.name)] = command.decode(errors="replace")
            except OSError:
                continue
        return found

    def _start(self, place: Place) -> None:
        name = f"{place.name}-{len(self.lives)}"
        log = self._home / f"{name}.log"
        command = [
            sys.executable, "-m", "tollgate.worker", "--endpoint", self._endpoint,
            "--name", name, "--handler", f"tests.chaos.handler:{place.handler}",
            "--isolation", place.isolation, "--concurrency", self._concurrency,
            "--lease-ms", self.lease_ms, "--timeout-s", self.lease_ms * LEASES_A_CALL / 1_000,
            "--max-attempts", MAX_ATTEMPTS, "--backoff-s", "0.05,0.1,0.2",
            "--on-exhausted", place.on_exhausted, "--stop-grace-s", GRACE_S,
            "--log-format", "json",
        ]  # fmt: skip
        for queue in place.queues:
            command += ["--queue", queue]
        if place.isolation == "process":
            command += ["--recycle-jobs", "20"]
        environment = {
            **os.environ, HOME: str(self.notes), WORKER: name, "TMPDIR": str(self.temporary),
        }  # fmt: skip
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                [*map(str, command)], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=stderr,
            )  # fmt: skip
        life = Life(name, place, process, log)
        self.lives.append(life)
        self.now[place.name] = life


def descendants(pid: int) -> list[int]:
    """Return all processes below one, nearest first."""
    found, below = [], [pid]
    while below:
        above = below.pop(0)
        try:
            tasks = [*Path(f"/proc/{above}/task").iterdir()]
            children = [int(child) for task in tasks for child in _children(task)]
        except OSError:
            continue
        found += children
        below += children
    return found


def _children(task: Path) -> list[str]:
    return (task / "children").read_text().split()


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)

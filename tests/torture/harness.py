"""Runs a broker, workers and producers under faults, then in calm, then ends and audits them."""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from heapq import heappop, heappush
from itertools import count
from pathlib import Path
from random import Random
from typing import Final

import msgspec

from tests.crash.process import Archive
from tests.torture import faults as kinds
from tests.torture.audit import Account, audited
from tests.torture.disk import Disk, disk
from tests.torture.faults import BROKER, PRODUCERS, WORKERS, Fault, faults
from tests.torture.handlers import answer_to
from tests.torture.operations import Outcome, read
from tests.torture.processes import Ending, Process
from tollgate.client.sync import Client
from tollgate.domain.exceptions import TollgateError

CALM_S: Final = 60.0
"""How long each process may take to serve again when the faults are over."""
TICK_S: Final = 0.01
RESTART_S: Final = 0.2
BROKER_OPTIONS: Final = (
    "--log-level", "debug", "--log-format", "json", "--segment-bytes", "262144", "--lapses", "100",
)  # fmt: skip
WORKER_OPTIONS: Final = (
    "--handler", "tests.torture.handlers:answer", "--max-attempts", "1", "--concurrency", "4",
    "--lease-ms", "3000", "--log-level", "debug", "--log-format", "json",
)  # fmt: skip
LOCK_GONE: Final = Ending(1, "removed, moved or replaced")


class Plan(msgspec.Struct):
    """The settings of a run."""

    home: Path
    """An empty directory with a short path, because a socket is created in it."""
    seconds: float
    seed: int
    every_s: float = 0.6
    """Average time between two faults."""
    keep: Path | None = None
    """Where to copy all files at the end. The disk of the run is gone when it is unmounted."""


class Run:
    """One run, from the first process to the audit."""

    def __init__(
        self,
        plan: Plan,
        say: Callable[[str], None] = lambda _: None,
        progress: Callable[[float], None] = lambda _: None,
    ) -> None:
        """`say` is told each fault as it happens, and `progress` the seconds that have passed."""
        self._plan = plan
        self._say = say
        self._progress = progress
        self._endpoint = f"ipc://{plan.home}/b.sock"
        self._seeds = Random(plan.seed)
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._processes = {process.name: process for process in self._made()}
        self._broker = self._processes[BROKER]
        self.faults: list[Fault] = []
        self.disk_kind = ""

    def run(self) -> Account:
        plan = self._plan
        place = plan.home / "disk"
        with ExitStack() as stack:
            there = stack.enter_context(disk(place, lambda: self._broker.pid))
            self.disk_kind = there.kind
            stack.callback(self._keep)
            stack.callback(self._end_all)
            with Archive(place / "data", place / "archive") as archive:
                try:
                    self._start()
                    self._torture(there)
                    problems = self._calm(there)
                    problems += self._end_in_order()
                finally:
                    self._end_all()
            logs = [self._operations(name) for name in PRODUCERS]
            account = audited(archive.directory, place / "data", logs)
        account.problems = [*problems, *(each for one in self._all() for each in one.wrong)]
        return account

    def _keep(self) -> None:
        if self._plan.keep is not None:
            ignored = shutil.ignore_patterns("*.sock")
            shutil.copytree(self._plan.home, self._plan.keep, ignore=ignored)

    @property
    def ends(self) -> int:
        """How often a process has ended."""
        return sum(process.ends for process in self._all())

    # --- processes --------------------------------------------------------------------------------

    def _made(self) -> Iterator[Process]:
        plan = self._plan
        bind = ("--bind", self._endpoint, "--data-dir", str(plan.home / "disk" / "data"))
        yield Process(
            BROKER, plan.home, lambda _: ["tollgate.broker", *bind, *BROKER_OPTIONS], stops="left"
        )
        worker = ["tollgate.worker", "--endpoint", self._endpoint, *WORKER_OPTIONS]
        for name in WORKERS:
            yield Process(name, plan.home, lambda _: worker, stops="stopped")
        for name in PRODUCERS:
            yield Process(name, plan.home, self._producer, stops="")

    def _producer(self, process: Process) -> list[str]:
        log, seed = self._operations(process.name), self._seeds.getrandbits(32)
        arguments = (process.name, process.life, self._endpoint, log, seed)
        return ["tests.torture.producer", *map(str, arguments)]

    def _operations(self, name: str) -> Path:
        return self._plan.home / f"{name}.operations"

    def _all(self) -> Sequence[Process]:
        return [*self._processes.values()]

    def _start(self) -> None:
        for process in self._all():
            process.start()
        with Client(self._endpoint, timeout_s=CALM_S) as client:
            client.ping()

    def _supervise(self) -> None:
        """Start again what has ended, after a moment."""
        for process in self._all():
            if process.is_up and process.has_ended():
                self._later(RESTART_S, process.start)

    def _end_all(self) -> None:
        for process in self._all():
            process.end()

    # --- faults -----------------------------------------------------------------------------------

    def _torture(self, there: Disk) -> None:
        plan, began = self._plan, time.monotonic()
        coming = faults(plan.seed, plan.seconds, plan.every_s)
        fault = next(coming, None)
        while (passed_s := time.monotonic() - began) < plan.seconds:
            while fault is not None and fault.at_s <= passed_s:
                self._say(str(fault))
                self.faults.append(fault)
                self._apply(fault, there)
                fault = next(coming, None)
            self._tick()
            self._progress(passed_s)

    def _tick(self) -> None:
        while self._due and self._due[0][0] <= time.monotonic():
            heappop(self._due)[2]()
        self._supervise()
        time.sleep(TICK_S)

    def _later(self, in_s: float, do: Callable[[], None]) -> None:
        heappush(self._due, (time.monotonic() + in_s, next(self._order), do))

    def _apply(self, fault: Fault, there: Disk) -> None:  # noqa: C901 - one case a kind
        process = self._processes[fault.target]
        match fault.kind:
            case kinds.PAUSE:
                process.pause()
                self._later(fault.for_s, process.go_on)
            case kinds.KILL:
                process.kill()
            case kinds.TERM:
                process.terminate()
            case kinds.LOG_STUCK:
                process.log.stop_reading()
                self._later(fault.for_s, process.log.read_again)
            case kinds.LOG_CLOSED:
                process.log.close()
            case kinds.SOCKET_REMOVED:
                (self._plan.home / "b.sock").unlink(missing_ok=True)
            case kinds.LOCK_REMOVED:
                process.allow(LOCK_GONE)
                (self._plan.home / "disk" / "data" / "lock").unlink(missing_ok=True)
            case kinds.CLOCK_SET:
                process.clock.offset_s = fault.offset_s
            case kinds.DISK_FULL:
                there.fill()
                self._later(fault.for_s, there.free)
            case kinds.FEW_FILES:
                process.limit_files()
                self._later(fault.for_s, process.lift_limit)

    # --- afterwards -------------------------------------------------------------------------------

    def _calm(self, there: Disk) -> list[str]:
        """End all faults, and return who does not serve in time."""
        there.free()
        while self._due:  # what ends faults, and starts processes
            self._tick()
        began = time.monotonic()
        silent = {*WORKERS, *PRODUCERS}
        while silent and time.monotonic() < began + CALM_S:
            for _ in range(50):
                self._tick()
            silent -= self._served(began)
        return [f"{name}: not served in {CALM_S:.0f} s without faults" for name in sorted(silent)]

    def _served(self, since: float) -> set[str]:
        """Return the names of the processes that have done something since that time."""
        served = {
            name
            for name in PRODUCERS
            for each in read(self._operations(name))
            if each.at_s > since and each.outcome is Outcome.ACKNOWLEDGED
        }
        with suppress(TollgateError), Client(self._endpoint, timeout_s=10) as client:
            jobs = client.create_many({"input": f"probe {number}"} for number in range(12))
            for job in jobs:
                client.transition(job.job_id, "running")
            for job in jobs:
                ended = client.wait(job.job_id, timeout_s=10)
                worker, _, answer = (ended.result or "").partition(" ")
                if answer == answer_to(job.input or ""):
                    served.add(worker)
        return served

    def _end_in_order(self) -> list[str]:
        """Stop producers, workers and the broker with SIGTERM; return what was left to do."""
        self._stop(PRODUCERS)
        left, until = 1, time.monotonic() + CALM_S
        with Client(self._endpoint, timeout_s=CALM_S) as client:
            while left and time.monotonic() < until:
                self._tick()
                left = client.count(queue="default").by_status["running"]
        self._stop(WORKERS)
        self._stop((BROKER,))
        return [f"{left} paid jobs were never worked on"] if left else []

    def _stop(self, names: Sequence[str]) -> None:
        for name in names:
            self._processes[name].terminate()
        for name in names:
            self._processes[name].wait()

"""A broker under attack, and an honest client beside it that measures the effect."""

import multiprocessing
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import msgspec

from tests.brokers import PATIENCE_S, ROOT
from tests.core import HASH

processes = multiprocessing.get_context("fork")
PAUSE_S: Final = 0.002
"""Between two calls of the honest client: it always watches, and adds no load."""
MIB: Final = 1024 * 1024


class Broker:
    """A durable broker process. After a restart it has the same endpoint and data."""

    def __init__(self, home: Path, *options: str, files: int | None = None) -> None:
        self.path = home / "b.sock"
        self.endpoint = f"ipc://{self.path}"
        self._home = home
        self._options = options
        self._files = files
        self.starts = 0
        self.start()

    def start(self) -> None:
        self.starts += 1
        self._log = self._home / f"broker.{self.starts}.log"
        data = [] if "--in-memory" in self._options else ["--data-dir", str(self._home / "data")]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "tollgate.broker", "--bind", self.endpoint,
                    "--drain-ms", "0", *data, *self._options,
                ],
                cwd=ROOT, stderr=log, stdin=subprocess.DEVNULL,
                preexec_fn=self._limit_files,  # noqa: PLW1509 - this process has no threads
            )  # fmt: skip
        deadline = time.monotonic() + PATIENCE_S
        while '"ready"' not in self.log:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the broker did not start: {self.log}")
            time.sleep(0.01)

    def _limit_files(self) -> None:
        if self._files is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (self._files, self._files))

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def lives(self) -> bool:
        return self.process.poll() is None

    def memory(self, kind: str = "VmRSS") -> int:
        """Return its resident bytes: now (VmRSS), or the highest so far (VmHWM)."""
        if not self.lives:
            return 0
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(kind):
                return int(line.split()[1]) * 1024
        return 0

    def open_files(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def leave(self) -> dict[str, int]:
        """Stop it with SIGTERM, and return how many messages it dropped, by cause."""
        self.process.send_signal(signal.SIGTERM)
        if self.process.wait(PATIENCE_S):
            raise RuntimeError(f"the broker left with an error: {self.log[-2_000:]}")
        last = msgspec.json.decode(self.log.splitlines()[-1])
        dropped: dict[str, int] = last["dropped"]
        return dropped

    def end(self) -> None:
        if self.lives:
            self.process.kill()
        self.process.wait()


@contextmanager
def broker(home: Path, *options: str, files: int | None = None) -> Iterator[Broker]:
    target = Broker(home, *options, files=files)
    try:
        yield target
    finally:
        target.end()


@dataclass
class Observation:
    """What the honest client saw: the times of its calls, and the jobs it got answers for."""

    times_ms: list[float] = field(default_factory=list)
    jobs: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def percentile(self, share: float) -> float:
        times = sorted(self.times_ms)
        return times[min(len(times) - 1, int(len(times) * share))] if times else float("inf")


def observe(endpoint: str, for_s: float) -> Callable[[], Observation]:
    """Create and read jobs in another process for a while. Return a function that waits for it."""
    return in_process(_observe, endpoint, for_s)[0]


def in_process(program: Callable[..., Any], *arguments: object) -> tuple[Callable[[], Any], Any]:
    """Run a function in another process. Return a function that waits for its result, and it."""
    here, there = processes.Pipe(duplex=False)
    process = processes.Process(target=_run, args=(there, program, arguments), daemon=True)
    process.start()
    there.close()

    def result() -> Any:
        value = here.recv()
        process.join(PATIENCE_S)
        return value

    return result, process


def _run(there: Connection, program: Callable[..., Any], arguments: tuple[object, ...]) -> None:
    there.send(program(*arguments))


def _observe(endpoint: str, for_s: float) -> Observation:
    import tollgate  # noqa: PLC0415 - its sockets belong to the process that made them

    seen = Observation()
    with tollgate.Client(endpoint, timeout_s=PATIENCE_S) as client:
        client.ping()
        end = time.monotonic() + for_s
        while time.monotonic() < end:
            begun = time.perf_counter()
            try:
                job = client.create(HASH)
                middle = time.perf_counter()
                client.get(job.job_id)
            except tollgate.TollgateError as fault:
                seen.failures.append(repr(fault))
                continue
            seen.jobs.append(job.job_id)
            seen.times_ms += [(middle - begun) * 1e3, (time.perf_counter() - middle) * 1e3]
            time.sleep(PAUSE_S)
    return seen


def missing(endpoint: str, jobs: list[str]) -> int:
    """Return how many of these acknowledged jobs the broker does not have."""
    import tollgate  # noqa: PLC0415

    with tollgate.Client(endpoint, timeout_s=PATIENCE_S) as client:
        batch = client.batch()
        for job in jobs:
            batch.get(job)
        return sum(isinstance(value, Exception) for value in batch.send())

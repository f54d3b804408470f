"""Starts the servers to measure, reads their CPU and memory, and stops them by their pid."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Self

START_S_MAX: Final = 120.0
STOP_S_MAX: Final = 15.0
POLL_S: Final = 0.002
TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
ROOT: Final = Path(__file__).resolve().parent.parent


class Missing(RuntimeError):  # noqa: N818 - it is not an error
    """A program or a library is not installed; the message says which."""


def program(name: str) -> str:
    """Return where a program is. Raises Missing."""
    found = shutil.which(name)
    if found is None:
        raise Missing(f"{name} is not installed")
    return found


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_A_SECOND


def rss_bytes(pid: int) -> int:
    """Return how much memory a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES


def available_bytes() -> int:
    """Return how much memory is available on the machine."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


class Server:
    """A process that listens on a unix socket, in a directory for itself."""

    name = "server"

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket_path = directory / "socket"
        self.process: subprocess.Popen[bytes] | None = None
        self.started_at = 0.0
        """Start time by `time.perf_counter`, which is the same clock in all processes."""

    def command(self) -> Sequence[str]:
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        return os.environ

    @property
    def pid(self) -> int:
        if self.process is None:
            raise RuntimeError(f"{self.name} is not running")
        return self.process.pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> float:
        """Start it, and return how many seconds it took until it accepted a connection."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.socket_path.unlink(missing_ok=True)
        with (self.directory / "log").open("ab") as log:
            begun = self.started_at = time.perf_counter()
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT,
                env=self.environment(),
            )  # fmt: skip
        try:
            self._await_answer(self.process, begun + START_S_MAX)
        except BaseException:
            self.stop()
            raise
        return time.perf_counter() - begun

    def _await_answer(self, process: subprocess.Popen[bytes], deadline: float) -> None:
        while not self.answers():
            if process.poll() is not None:
                raise RuntimeError(f"{self.name} ended at once: {self.last_words()}")
            if time.perf_counter() > deadline:
                raise RuntimeError(f"{self.name} did not start: {self.last_words()}")
            time.sleep(POLL_S)

    def answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
            probe.connect(str(self.socket_path))
            return True
        return False

    def stop(self, sign: int = signal.SIGTERM) -> None:
        """Stop it with the signal `sign`, or with SIGKILL if it does not stop."""
        process, self.process = self.process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.send_signal(sign)
        try:
            process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def last_words(self) -> str:
        with suppress(OSError):
            lines = (self.directory / "log").read_text(errors="replace").splitlines()
            return " / ".join(lines[-3:])
        return ""


class Broker(Server):
    """A tollgate broker; `options` are those of its command line."""

    name = "broker"

    def __init__(self, directory: Path, *options: str, durable: bool = False) -> None:
        super().__init__(directory)
        self.options = options
        self.durable = durable

    @property
    def endpoint(self) -> str:
        return f"ipc://{self.socket_path}"

    def command(self) -> Sequence[str]:
        return [
            sys.executable, "-m", "tollgate.broker", "--bind", self.endpoint,
            "--log-level", "warning",
            *(self.journal() if self.durable else ["--in-memory"]), *self.options,
        ]  # fmt: skip

    def journal(self) -> list[str]:
        chosen = [] if "--fsync" in self.options else ["--fsync", "always"]
        return ["--data-dir", str(self.directory / "data"), *chosen]

    def environment(self) -> Mapping[str, str]:
        """Leave out the variables that would configure the broker."""
        return {
            name: value
            for name, value in os.environ.items()
            if not name.upper().startswith("TOLLGATE_")
        }


class Redis(Server):
    """A redis-server on a unix socket, without snapshots; `options` are lines of its file."""

    name = "redis-server"

    def __init__(self, directory: Path, *options: str, durable: bool = False) -> None:
        super().__init__(directory)
        self.options = options
        self.durable = durable

    def command(self) -> Sequence[str]:
        appendfsync = ["--appendonly", "yes", "--appendfsync", "always"]
        return [
            program("redis-server"), "--port", "0", "--unixsocket", str(self.socket_path),
            "--unixsocketperm", "700", "--dir", str(self.directory), "--save", "",
            "--daemonize", "no", "--loglevel", "warning", "--auto-aof-rewrite-percentage", "0",
            *(appendfsync if self.durable else []), *self.options,
        ]  # fmt: skip


class Beanstalkd(Server):
    """A beanstalkd on a unix socket, without a log on disk."""

    name = "beanstalkd"

    def command(self) -> Sequence[str]:
        return [program("beanstalkd"), "-l", f"unix:{self.socket_path}"]


class Worker(Server):
    """A worker process: it listens on no socket, and counts as started when it runs."""

    name = "worker"

    def __init__(
        self, directory: Path, command: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        super().__init__(directory)
        self._command = command
        self._environment = environment

    def command(self) -> Sequence[str]:
        return self._command

    def environment(self) -> Mapping[str, str]:
        return {**os.environ, **self._environment}

    def answers(self) -> bool:
        return self.process is not None and self.process.poll() is None


@contextmanager
def workplace(parent: Path | None) -> Iterator[Path]:
    """Yield a directory for sockets and data, and remove it at the end."""
    with tempfile.TemporaryDirectory(prefix="tgb-", dir=parent, ignore_cleanup_errors=True) as path:
        yield Path(path)

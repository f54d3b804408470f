"""One process of a run: it is started again whenever it has ended, and its ends are judged."""

import fcntl
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from tests.brokers import ROOT
from tests.torture.clocks import MODULE, Clock
from tests.torture.handlers import NAME

START_S: Final = 10.0
"""How long a process may take to reach the point from which on it obeys SIGTERM by itself."""
OBEYS_S: Final = 30.0
"""How long a process may take to obey SIGTERM, pauses not counted."""
PIPE_BYTES: Final = 4_096
KILLED: Final = -signal.SIGKILL
LAST_BYTES: Final = 1_500
"""How much of a log to show of a process that ended wrongly."""


class Ending(msgspec.Struct, frozen=True):
    """A way in which a process may end: its exit code, and what its log says then."""

    code: int
    words: str = ""
    is_silent: bool = False
    """Whether it has logged nothing: the interpreter was still starting."""

    def fits(self, code: int, log: str, *, is_whole: bool) -> bool:
        """Return whether a process that ended with a code and a log, as far as read, ended so."""
        if code != self.code or (self.is_silent and log):
            return False
        return self.words in log or not is_whole


class LogPipe:
    """The pipe that a process writes its log to, and its reader, which may stop or go away."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_whole = True
        """Whether the reader has always read: then every line of the process is in the file."""
        self._out, self.write_end = os.pipe()
        fcntl.fcntl(self.write_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._reads = threading.Event()
        self._reads.set()
        self._closing = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop_reading(self) -> None:
        self.is_whole = False
        self._reads.clear()

    def read_again(self) -> None:
        self._reads.set()

    def close(self) -> None:
        """Let the reader go away."""
        self.is_whole = False
        self._closing = True
        self._reads.set()
        self._thread.join()

    def finish(self) -> str:
        """Wait until all that was written is read, and return the log."""
        self._reads.set()
        self._thread.join(10)  # a child of the process may still have the pipe
        return self.path.read_text(errors="replace") if self.path.exists() else ""

    def _run(self) -> None:
        try:
            with self.path.open("ab", buffering=0) as file:
                while self._reads.wait() and not self._closing:
                    if not select.select([self._out], [], [], 0.05)[0]:
                        continue
                    if not self._reads.is_set():
                        continue
                    data = os.read(self._out, 1 << 16)
                    if not data:
                        return
                    file.write(data)
        finally:
            os.close(self._out)


class Process:
    """A process with a name, its lives one after the other."""

    def __init__(
        self,
        name: str,
        home: Path,
        command: Callable[["Process"], list[str]],
        *,
        stops: str,
        path: Path = ROOT,
    ) -> None:
        """`command` returns the module to run and its arguments, `stops` is its last word.

        The module is found in the directory `path`, if not among the installed ones.
        """
        self.name = name
        self.home = home
        self.clock = Clock(home / f"{name}.clock")
        self.life = 0
        self.ends = 0
        self.wrong: list[str] = []
        """Ends that no fault explains."""
        self._command = command
        self._stops = stops
        self._path = f"{ROOT}{os.pathsep}{path}"
        self._allowed: set[Ending] = set()
        self._process: subprocess.Popen[bytes] | None = None
        self._log: LogPipe | None = None
        self._started_at = 0.0
        self._stopped_at: float | None = None
        self._told_at: float | None = None

    @property
    def is_up(self) -> bool:
        """Whether it was started, and its end is not judged yet."""
        return self._process is not None

    @property
    def pid(self) -> int | None:
        """Its process id, None if it does not run."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process is not None else None

    @property
    def log(self) -> LogPipe:
        assert self._log is not None
        return self._log

    def start(self) -> None:
        self.life += 1
        self._allowed = set()
        self._told_at = self._stopped_at = None
        self._started_at = time.monotonic()
        self._log = LogPipe(self.home / f"{self.name}.{self.life}.log")
        command = [sys.executable, "-m", MODULE, str(self.home / f"{self.name}.clock")]
        environment = {**os.environ, "PYTHONPATH": self._path, NAME: self.name}
        self._process = subprocess.Popen(
            [*command, *self._command(self)],
            cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=self._log.write_end,
        )  # fmt: skip
        os.close(self._log.write_end)

    def allow(self, *endings: Ending) -> None:
        """Let this life end so."""
        self._allowed.update(endings)

    # --- what may happen to it --------------------------------------------------------------------

    def send(self, number: signal.Signals) -> None:
        if self.pid is not None:
            os.kill(self.pid, number)

    def pause(self) -> None:
        self._stopped_at = time.monotonic()
        self.send(signal.SIGSTOP)

    def go_on(self) -> None:
        if self._told_at is not None and self._stopped_at is not None:
            self._told_at += time.monotonic() - self._stopped_at
        self._stopped_at = None
        self.send(signal.SIGCONT)

    def kill(self) -> None:
        self.allow(Ending(KILLED))
        self.send(signal.SIGKILL)

    def terminate(self) -> None:
        self.allow(Ending(0, self._stops), Ending(-signal.SIGTERM, is_silent=True))
        if time.monotonic() - self._started_at < START_S:
            self.allow(Ending(-signal.SIGTERM))  # the interpreter, and imports
        if self._told_at is None:
            self._told_at = time.monotonic()
            self.send(signal.SIGTERM)

    def limit_files(self) -> None:
        """Let it open no file more than it has open."""
        if self.pid is not None:
            self.allow(*(Ending(code, "Too many open files") for code in (1, -signal.SIGABRT)))
            number = len([*Path(f"/proc/{self.pid}/fd").iterdir()])
            _, most = resource.prlimit(self.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (number, most))

    def lift_limit(self) -> None:
        if self.pid is not None:
            _, most = resource.prlimit(self.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (most, most))

    # --- how it ends ------------------------------------------------------------------------------

    def has_ended(self) -> bool:
        """Return whether it has ended since the last start; then its end is judged, once."""
        process = self._process
        if process is None:
            return True
        if process.poll() is None:
            self._check_obedience()
            return False
        self._process = None
        self.ends += 1
        whole, text = self.log.is_whole, self.log.finish()
        if any(one.fits(process.returncode, text, is_whole=whole) for one in self._allowed):
            return True
        name = f"{self.name}, life {self.life}"
        self.wrong.append(
            f"{name} ended with {process.returncode}, and not as one of {self._allowed}:"
            f" {text[-LAST_BYTES:]}"
        )
        return True

    def wait(self) -> None:
        """Wait until it has ended."""
        while not self.has_ended():
            time.sleep(0.02)

    def end(self) -> None:
        """End it at once, however it is."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self.log.finish()
            self._process = None

    def _check_obedience(self) -> None:
        if self._told_at is None or self._stopped_at is not None:
            return
        if time.monotonic() - self._told_at > OBEYS_S:
            self.wrong.append(f"{self.name}, life {self.life}, did not obey SIGTERM")
            self.kill()
            self._told_at = None

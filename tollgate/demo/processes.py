"""Starts the processes of a demonstration, watches over them, and leaves nothing of them behind."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tollgate.demo.plan import BROKER_OPTIONS, WORKER_OPTIONS, WORKERS
from tollgate.demo.signals import Signals
from tollgate.domain.exceptions import TollgateError

START_TIMEOUT_S: Final = 10.0
STOP_TIMEOUT_S: Final = 4.0
PATH_BYTES_MAX: Final = 100
"""The path of an ipc socket holds 107 bytes on Linux, and 103 elsewhere."""
_POLL_S: Final = 0.01
_ROOT: Final = Path(__file__).parents[2]
"""Where the packages `broker` and `worker` stand, in a checkout as in an installation."""


class ProcessError(TollgateError):
    """A process of the demonstration ended before its time, or did not start in time."""


class Child:
    """One process, and the file that its log goes to."""

    def __init__(self, name: str, arguments: Sequence[str], directory: Path) -> None:
        """Start `python -m` with these arguments."""
        self.name = name
        self._log = directory / f"{name.replace(' ', '-')}.log"
        # Settings in the environment are meant for the user's own broker.
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("TOLLGATE_")
        }
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own modules
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=_ROOT,
                env=environment,
                process_group=0,  # Ctrl-C is for the demonstration, which ends them in order
            )

    def check(self) -> None:
        """Raise ProcessError if it has ended."""
        code = self.process.poll()
        if code is not None:
            how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            raise ProcessError(f"the {self.name} ended {how}; its last words: {self.last_line()}")

    def last_line(self) -> str:
        """Return the last line of its log."""
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "(none)"


class Processes:
    """A broker and its workers, in a directory of their own that goes with them."""

    def __init__(self, signals: Signals) -> None:
        """Make the directory; nothing runs yet."""
        self._signals = signals
        self._children: list[Child] = []

    def __enter__(self) -> Self:
        """Make the directory."""
        with self._signals.held():
            self.directory = _directory()
        self.endpoint = f"ipc://{self.directory / 'broker.sock'}"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End all processes and remove the directory; another signal makes it quick."""
        with self._signals.held():
            self._end()
            shutil.rmtree(self.directory, ignore_errors=True)

    def start(self, seed: int) -> None:
        """Start the broker and, once it listens, the workers.

        Raises:
            ProcessError: one of them ended at once, or the broker does not listen in time.

        """
        self._start("broker", "tollgate.broker", "--bind", self.endpoint, *BROKER_OPTIONS)
        socket = self.directory / "broker.sock"
        if not self._in_time(socket.exists, START_TIMEOUT_S):
            raise ProcessError(
                f"the broker did not listen within {START_TIMEOUT_S:.0f} s; "
                f"its last words: {self._children[0].last_line()}"
            )
        for number in range(1, WORKERS + 1):
            self._start(
                f"worker {number}",
                *(
                    "tollgate.worker",
                    "--endpoint",
                    self.endpoint,
                    "--seed",
                    str(seed),
                    *WORKER_OPTIONS,
                ),
            )

    def check(self) -> None:
        """Raise ProcessError if one of them has ended."""
        for child in self._children:
            child.check()

    def _start(self, name: str, *arguments: str) -> None:
        with self._signals.held():
            self._children.append(Child(name, arguments, self.directory))

    def _in_time(self, is_so: Callable[[], bool], timeout_s: float) -> bool:
        until = time.monotonic() + timeout_s
        while not is_so():
            self.check()
            if time.monotonic() > until:
                return False
            time.sleep(_POLL_S)
        return True

    def _end(self) -> None:
        # All at once: a broker that leaves wakes the workers that wait for jobs. What a worker
        # still holds is of no use to anybody, so it is told twice, which makes it exit at once.
        for timeout_s in (STOP_TIMEOUT_S / 8, STOP_TIMEOUT_S):
            for child in self._children:
                with suppress(ProcessLookupError):
                    child.process.terminate()
            self._wait(timeout_s)
        for child in self._children:
            child.process.kill()  # does nothing to one that has ended
            child.process.wait()

    def _wait(self, timeout_s: float) -> None:
        """Wait until all have ended, time is up, or a signal comes."""
        until = time.monotonic() + timeout_s
        while any(child.process.poll() is None for child in self._children):
            if time.monotonic() > until or self._signals.came is not None:
                return
            time.sleep(_POLL_S)


def _directory() -> Path:
    """Make a directory that only this user can enter, with a path short enough for a socket."""
    directory = Path(tempfile.mkdtemp(prefix="tollgate-demo-")).resolve()
    if len(os.fsencode(directory / "broker.sock")) <= PATH_BYTES_MAX:
        return directory
    directory.rmdir()
    return Path(tempfile.mkdtemp(prefix="tollgate-demo-", dir="/tmp"))

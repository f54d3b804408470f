"""Starts the broker and the workers of a demonstration, and ends them whatever happens."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final, Self

from tollgate.demo.plan import BROKER_OPTIONS, WORKER_OPTIONS, WORKERS
from tollgate.domain.exceptions import TollgateError

START_TIMEOUT_S: Final = 10.0
STOP_TIMEOUT_S: Final = 4.0
PATH_BYTES_MAX: Final = 100
"""The path of an ipc socket holds 107 bytes on Linux, and 103 elsewhere."""
_POLL_S: Final = 0.01
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class ProcessError(TollgateError):
    """A process of the demonstration ended too early, or did not start in time."""


class Signals:
    """While this is entered, SIGINT raises KeyboardInterrupt, SIGTERM and SIGHUP SystemExit.

    Where an exception would leave a process or a directory behind, `held` delays it.
    """

    def __init__(self) -> None:
        """Begin with no signal delayed."""
        self.came: int | None = None
        """The last signal that came while signals were held."""
        self._held = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        """Install the handlers, except for ignored signals: nohup keeps its effect."""
        for number in _SIGNALS:
            before = signal.getsignal(number)
            if before is not signal.SIG_IGN:
                self._before[number] = before
                signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Restore the handlers."""
        for number, before in self._before.items():
            signal.signal(number, before)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Delay signals; one that came is raised at the end, unless an exception is raised already.

        Code that waits in here reads `came`, and hurries.
        """
        self._held, self.came = True, None
        try:
            yield
        finally:
            self._held = False
        came: int | None = self.came  # set by the handler meanwhile
        if came is not None:
            self._handle(came, None)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._held:
            self.came = number
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            raise SystemExit(128 + number)  # as in shells


class Child:
    """One process, and the file with its log."""

    def __init__(self, name: str, arguments: Sequence[str], directory: Path, group: int) -> None:
        """Start `python -m` with these arguments, in this directory, which holds no module.

        It joins that process group: Ctrl-C reaches the demonstration alone, which ends its
        children.
        """
        self.name = name
        self._log = directory / f"{name.replace(' ', '-')}.log"
        # Settings in the environment are meant for the user's own broker.
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("TOLLGATE_")
        }
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own modules
                [sys.executable, "-P", "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=directory,
                env=environment,
                process_group=group,
            )

    def check(self) -> None:
        """Raise ProcessError if it has ended."""
        code = self.process.poll()
        if code is not None:
            how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            raise ProcessError(f"the {self.name} ended {how}; its last line: {self.last_line()}")

    def last_line(self) -> str:
        """Return the last line of its log."""
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "(none)"


class Processes:
    """A broker and its workers, in a directory of their own that is removed at the end."""

    def __init__(self, signals: Signals) -> None:
        """Start nothing yet."""
        self._signals = signals
        self._children: list[Child] = []

    def __enter__(self) -> Self:
        """Make the directory, open to this user only."""
        with self._signals.held():
            self.directory = Path(tempfile.mkdtemp(prefix="tollgate-demo-")).resolve()
            if len(os.fsencode(self.directory / "broker.sock")) > PATH_BYTES_MAX:
                self.directory.rmdir()
                self.directory = Path(tempfile.mkdtemp(prefix="tollgate-demo-", dir="/tmp"))
            self._guard = _start_guard(self.directory)
        self._socket = self.directory / "broker.sock"
        self.endpoint = f"ipc://{self._socket}"
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
            with suppress(subprocess.TimeoutExpired):
                self._guard.communicate(timeout=STOP_TIMEOUT_S)  # closes its standard input
            self._guard.kill()
            self._guard.wait()
            shutil.rmtree(self.directory, ignore_errors=True)

    def start(self, seed: int) -> None:
        """Start the broker and, once it listens, the workers.

        Raises:
            ProcessError: one of them ended at once, or the broker does not listen in time.

        """
        self.start_broker(BROKER_OPTIONS)
        options = ("--endpoint", self.endpoint, "--seed", str(seed), *WORKER_OPTIONS)
        for number in range(1, WORKERS + 1):
            self.start_program(f"worker {number}", "tollgate.worker", *options)

    def start_broker(self, options: Sequence[str]) -> None:
        """Start the broker, and return when it listens. Raises ProcessError."""
        self.start_program("broker", "tollgate.broker", "--bind", self.endpoint, *options)
        until = time.monotonic() + START_TIMEOUT_S
        while not self._socket.exists():
            self.check()
            if time.monotonic() > until:
                raise ProcessError(
                    f"the broker did not listen within {START_TIMEOUT_S:.0f} s; "
                    f"its last line: {self._children[0].last_line()}"
                )
            time.sleep(_POLL_S)

    def start_program(self, name: str, *arguments: str) -> None:
        """Start `python -m` with these arguments."""
        with self._signals.held():
            self._children.append(Child(name, arguments, self.directory, self._guard.pid))

    def check(self) -> None:
        """Raise ProcessError if one of them has ended."""
        for child in self._children:
            child.check()

    def _end(self) -> None:
        # All at once: a broker that stops wakes the workers that wait for jobs. What a worker still
        # holds is not needed, so it gets the signal twice, which makes it exit at once.
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


def _start_guard(directory: Path) -> "subprocess.Popen[bytes]":
    """Start the process that ends the others if this one is killed; return when it is ready."""
    guard = subprocess.Popen(
        [sys.executable, "-P", "-m", "tollgate.demo.guard"],
        stdin=subprocess.PIPE,  # nothing is ever written: its end tells the guard of ours
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=directory,
        process_group=0,
    )
    if guard.stdout is not None:
        guard.stdout.read(1)
    return guard

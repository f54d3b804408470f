"""A real broker for the command line, and three ways to call it: inside, as a process, in a pty."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tollgate.cli.main import cli
from tollgate.client.sync import Client

ROOT = Path(__file__).parents[2]
TOLLGATE = [sys.executable, "-m", "tollgate"]
PATIENCE_S = 30.0
_ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07)")

Invoke = Callable[..., Result]
Start = Callable[..., "subprocess.Popen[bytes]"]


def wait_until(is_so: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < until, "not in time"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    """The endpoint of a broker that all tests share: none may kill it or count all its jobs."""
    with tempfile.TemporaryDirectory(prefix="tollgate-test-") as directory:
        socket = Path(directory, "broker.sock")
        command = [
            sys.executable,
            "-m",
            "tollgate.broker",
            "--in-memory",
            "--bind",
            f"ipc://{socket}",
        ]
        broker = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: socket.exists() or broker.poll() is not None)
            yield f"ipc://{socket}"
        finally:
            broker.terminate()
            assert broker.wait(PATIENCE_S) == 0


@pytest.fixture
def client(endpoint: str) -> Iterator[Client]:
    """A client of that broker, to prepare what a command finds, and to look at what it did."""
    with Client(endpoint) as client:
        yield client


@pytest.fixture
def environment(endpoint: str) -> dict[str, str]:
    """What a user's shell would hold."""
    odd = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TOLLGATE_ENDPOINT")
    kept = {name: value for name, value in os.environ.items() if name not in odd}
    return {**kept, "TOLLGATE_ENDPOINT": endpoint, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}


@pytest.fixture
def invoke(endpoint: str) -> Invoke:
    """Calls a command in this process: quick, and without a terminal."""

    def call(*arguments: str, **options: Any) -> Result:
        environment = {"TOLLGATE_ENDPOINT": endpoint, **options.pop("env", {})}
        return CliRunner().invoke(cli, arguments, env=environment, **options)

    return call


@pytest.fixture
def start(environment: dict[str, str]) -> Iterator[Start]:
    """Starts a command as a process, with pipes; ends it if it is left running."""
    started: list[subprocess.Popen[bytes]] = []

    def call(*arguments: str, **options: Any) -> "subprocess.Popen[bytes]":
        given = {**environment, **options.pop("env", {})}
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        pipes.update(options)
        process = subprocess.Popen([*TOLLGATE, *arguments], env=given, cwd=ROOT, **pipes)
        started.append(process)
        return process

    yield call
    for process in started:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with suppress(OSError):
                    stream.close()


@dataclass
class Shown:
    """What a person in a terminal saw, with and without the escapes in it."""

    raw: str
    code: int

    @property
    def text(self) -> str:
        return _ESCAPES.sub("", self.raw).replace("\r", "")


@pytest.fixture
def in_terminal(start: Start) -> Callable[..., Shown]:
    """Calls a command in a terminal of its own, and returns when it has ended.

    `press` is a text, and the signal to send once it was seen.
    """

    def call(
        *arguments: str,
        size: tuple[int, int] = (80, 24),
        press: tuple[str, signal.Signals] | None = None,
        **options: Any,
    ) -> Shown:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
        streams = {"stdout": theirs, "stderr": theirs, "stdin": theirs}
        process = start(*arguments, **streams | options)
        os.close(theirs)
        seen = b""
        with suppress(OSError):  # how a pty says that nobody writes any more
            while chunk := os.read(ours, 65_536):
                seen += chunk
                if press is not None and press[0].encode() in seen:
                    process.send_signal(press[1])
                    press = None
        os.close(ours)
        return Shown(seen.decode(), process.wait(PATIENCE_S))

    return call


@pytest.fixture
def directory() -> Iterator[Path]:
    """Return a folder with a short path: an ipc path holds 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="tollgate-") as found:
        yield Path(found)

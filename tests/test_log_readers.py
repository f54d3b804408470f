"""Readers of log and output that leave, never read, or never were: no process ends or waits."""

import fcntl
import os
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.brokers import PATIENCE_S, ROOT
from tollgate.client.sync import Client
from tollgate.domain.status import JobStatus

READERS = ("missing", "gone", "not reading", "disk full")
HANDLER = """
import sys

def answer(job):
    print("a line", "x" * 99_000)
    print("a line", "x" * 99_000, file=sys.stderr, flush=True)
    sys.stdout.flush()
    return "printed"
"""

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(short_dir: Path) -> Iterator[Start]:
    """Start `tollgate`, with a reader of that kind at each of these descriptors."""
    with ExitStack() as stack:

        def call(
            *arguments: str, reader: str = "", fds: tuple[int, ...] = (2,), **options: Any
        ) -> "subprocess.Popen[bytes]":
            command = [sys.executable, "-m", "tollgate", *arguments]
            options = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, **options}
            if reader == "missing":
                closings = " ".join(f"{fd}>&-" for fd in fds)
                command = ["/bin/sh", "-c", f'exec "$@" {closings}', "sh", *command]
            elif reader:
                there = stream(stack, reader)
                options |= {("stdout", "stderr")[fd - 1]: there for fd in fds}
            process = subprocess.Popen(
                command, cwd=short_dir, env=environment(short_dir), **options
            )
            stack.callback(end, process)
            return process

        yield call


def environment(directory: Path) -> dict[str, str]:
    names = {"TOLLGATE_ENDPOINT": f"ipc://{directory}/b", "PYTHONPATH": str(ROOT)}
    return {**os.environ, **names}


def stream(stack: ExitStack, reader: str) -> int:
    """Return a descriptor to write to, whose reader is of that kind."""
    if reader == "disk full":
        return _closing(stack, os.open("/dev/full", os.O_WRONLY))
    ours, theirs = os.pipe()
    _closing(stack, theirs)
    if reader == "gone":
        os.close(ours)
        return theirs
    _closing(stack, ours)
    fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, 4_096)
    os.write(theirs, b"x" * 4_096)
    return theirs


def _closing(stack: ExitStack, fd: int) -> int:
    stack.callback(os.close, fd)
    return fd


@contextmanager
def a_full_pipe() -> Iterator[tuple[int, Callable[[], None]]]:
    """Yield a small pipe to write to, and a function that waits until it is full."""

    def until_full() -> None:
        until_s = time.monotonic() + PATIENCE_S
        while int.from_bytes(fcntl.ioctl(ours, termios.FIONREAD, bytes(4)), sys.byteorder) < 4_096:
            assert time.monotonic() < until_s
            time.sleep(0.01)

    ours, theirs = os.pipe()
    fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, 4_096)
    try:
        yield theirs, until_full
    finally:
        os.close(ours)
        os.close(theirs)


def end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.communicate()


def broker(start: Start, short_dir: Path, **options: Any) -> "subprocess.Popen[bytes]":
    process = start("broker", "--in-memory", "--bind", f"ipc://{short_dir}/b", **options)
    with Client(f"ipc://{short_dir}/b", timeout_s=PATIENCE_S) as client:
        client.ping()
    return process


@pytest.mark.parametrize("reader", READERS)
def test_broker_serves_and_obeys(start: Start, short_dir: Path, reader: str) -> None:
    process = broker(start, short_dir, reader=reader, fds=(1, 2))
    with Client(f"ipc://{short_dir}/b", timeout_s=PATIENCE_S) as client:
        client.create(input="x")
        assert client.count().total == 1
    if reader == "missing":  # no socket and no file of the broker's has these numbers
        files = [Path(f"/proc/{process.pid}/fd/{fd}").readlink() for fd in (1, 2)]
        assert files == [Path(os.devnull)] * 2
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("reader", READERS)
def test_worker_serves_and_obeys(start: Start, short_dir: Path, reader: str) -> None:
    (short_dir / "handlers.py").write_text(HANDLER)
    broker(start, short_dir)
    delays = ("--simulate-payments", "--pay-delay-ms-min", "0", "--pay-delay-ms-max", "0")
    options = ("--handler", "handlers:answer", *delays)
    process = start("worker", *options, reader=reader, fds=(1, 2))
    with Client(f"ipc://{short_dir}/b", timeout_s=PATIENCE_S) as client:
        jobs = [client.create(input="x") for _ in range(20)]
        for job in jobs:
            ended = client.wait(job.job_id, timeout_s=PATIENCE_S)
            assert (ended.status, ended.result) == (JobStatus.COMPLETED, "printed")
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("reader", READERS)
def test_exit_codes_without_a_reader(start: Start, reader: str) -> None:
    processes = {
        start("get", "nope", "--answer-timeout", "0.1", reader=reader): 3,
        start("get", reader=reader): 2,
        start("broker", "--nosuch", reader=reader): 2,
        start("worker", "--wait-for-broker-s", "0.1", reader=reader): 3,
        start("journal", "--nosuch", reader=reader): 2,
    }
    for process, code in processes.items():
        assert process.wait(PATIENCE_S) == code


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -15)])
def test_command_stops_while_its_reader_is_stuck(
    start: Start, short_dir: Path, sign: signal.Signals, code: int
) -> None:
    broker(start, short_dir)
    with Client(f"ipc://{short_dir}/b", timeout_s=PATIENCE_S) as client:
        client.create(input="x" * 9_000)
    with a_full_pipe() as (pipe, until_full):
        process = start("list", "--json", stdout=pipe, stderr=pipe)
        until_full()
        process.send_signal(sign)
        assert process.wait(PATIENCE_S) == code


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_command_stops_while_the_broker_is_frozen(
    start: Start, short_dir: Path, sign: signal.Signals
) -> None:
    frozen = broker(start, short_dir)
    with Client(f"ipc://{short_dir}/b", timeout_s=PATIENCE_S) as client:
        client.create(input="x")
        process = start("list", "--follow")
        assert process.stdout is not None
        assert process.stdout.readline()
        frozen.send_signal(signal.SIGSTOP)
        process.send_signal(sign)
        assert process.wait(PATIENCE_S) == (130 if sign == signal.SIGINT else -sign)
        frozen.send_signal(signal.SIGCONT)


def test_broker_stops_beside_frozen_peers(start: Start, short_dir: Path) -> None:
    process = broker(start, short_dir)
    with Client(f"ipc://{short_dir}/b", timeout_s=PATIENCE_S) as client:
        jobs = client.create_many({"input": "x" * 60_000} for _ in range(20))
    with a_full_pipe() as (pipe, until_full):
        frozen = start("wait", jobs[0].job_id)
        lister = start("list", "--json", stdout=pipe)
        until_full()
        for each in (frozen, lister):
            each.send_signal(signal.SIGSTOP)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0

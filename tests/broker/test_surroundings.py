"""A broker in odd surroundings: no terminal, few files, a clock that is centuries ahead."""

import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.brokers import PATIENCE_S, ROOT, BrokerProcess
from tests.torture.clocks import MODULE, Clock
from tollgate.client.sync import Client

Brokers = Callable[..., BrokerProcess]
CENTURY_S = 100 * 366 * 86_400


def test_a_terminal_that_is_closed_stops_the_broker(broker: Brokers) -> None:
    assert broker().stop(by=signal.SIGHUP)["event"] == "left"


def test_nohup_keeps_a_broker_running(broker: Brokers) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the broker inherits it
    try:
        running = broker()
    finally:
        signal.signal(signal.SIGHUP, before)
    running.process.send_signal(signal.SIGHUP)
    with Client(running.endpoint, timeout_s=PATIENCE_S) as client:
        assert client.count().total == 0


@pytest.mark.parametrize("files", [12, 20, 63])
def test_too_few_files_are_told_at_the_start(short_dir: Path, files: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tollgate.broker", "--in-memory", "--bind", f"ipc://{short_dir}/b"],
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files)),
    )  # fmt: skip
    assert done.returncode == 2
    last = f"this process may have {files} files open, and the broker takes 64 at least"
    assert done.stderr.splitlines()[-1].startswith(f"tollgate broker: {last}")


NO_THREADS = 2**49
"""A stack so large that no thread can have it: as good as a limit on threads, for root too."""


def limit_threads() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_STACK)
    resource.setrlimit(resource.RLIMIT_STACK, (NO_THREADS, most))


@pytest.mark.parametrize(
    ("module", "code"),
    [("tollgate.broker", 1), ("tollgate.worker", 3), ("tollgate", 3)],
)
def test_a_process_that_may_start_no_thread_says_so(
    short_dir: Path, module: str, code: int
) -> None:
    arguments = {
        "tollgate.broker": ["--in-memory", "--bind", f"ipc://{short_dir}/b"],
        "tollgate.worker": ["--endpoint", f"ipc://{short_dir}/b", "--wait-for-broker-s", "1"],
        "tollgate": ["count", "--endpoint", f"ipc://{short_dir}/b"],
    }[module]
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        preexec_fn=limit_threads,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "can't start new thread; see ulimit -u" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("umask", ["000", "777"])
def test_files_are_for_the_user_whatever_the_umask(short_dir: Path, umask: str) -> None:
    """With 777 a broker that is not root could not open its own files again."""
    for program in ("broker", "broker.admin.keys", "broker.admin.journal"):
        arguments = {
            "broker": ["--data-dir", "data", "--bind", f"ipc://{short_dir}/run/b"],
            "broker.admin.keys": ["new", "a", "--role", "admin", "--keys", "keys", "--out", "a"],
            "broker.admin.journal": ["backup", "copy", "--data-dir", "data"],
        }[program]
        started = subprocess.Popen(
            ["/bin/sh", "-c", f'umask {umask}; exec "$@"', "sh", sys.executable, "-m",
             f"tollgate.{program}", *arguments],
            cwd=short_dir, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert started.stderr is not None
        if program == "broker":
            for line in started.stderr:
                if '"ready"' in line:
                    break
            started.terminate()
        _, told = started.communicate(timeout=PATIENCE_S)
        assert started.returncode == 0, told
    made = [path for path in short_dir.rglob("*") if path.is_file()]
    assert len(made) >= 7
    assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o600}


def test_links_in_a_circle_are_one_line(short_dir: Path) -> None:
    (short_dir / "a").symlink_to("b")
    (short_dir / "b").symlink_to("a")
    for module, arguments in {
        "broker": ["--data-dir", "a", "--bind", f"ipc://{short_dir}/s"],
        "broker.admin.keys": ["new", "me", "--role", "admin", "--keys", "a", "--out", "key"],
        "broker.admin.doctor": ["--data-dir", "a", "--endpoint", f"ipc://{short_dir}/s"],
    }.items():
        done = subprocess.run(
            [sys.executable, "-m", f"tollgate.{module}", *arguments], cwd=short_dir,
            capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert "Traceback" not in done.stderr + done.stdout


@contextmanager
def broker_by(clock: Clock, place: Path) -> Iterator[Client]:
    """Run a broker by a clock that can be set; its log is `place`/log."""
    with (place / "log").open("wb") as log:
        started = subprocess.Popen(
            [
                sys.executable, "-m", MODULE, str(place / "clock"), "tollgate.broker",
                "--data-dir", str(place / "data"), "--bind", f"ipc://{place}/b",
            ],
            cwd=ROOT, stderr=log,
        )  # fmt: skip
    try:
        with Client(f"ipc://{place}/b", timeout_s=PATIENCE_S) as client:
            yield client
    finally:
        started.terminate()
        started.wait(PATIENCE_S)


def test_a_clock_centuries_ahead_uses_up_no_numbers(short_dir: Path) -> None:
    """Numbers of sessions begin at the time of the start, and a message holds 53 bits of them."""
    clock = Clock(short_dir / "clock")
    for offset_s in (3 * CENTURY_S, 0):
        clock.offset_s = offset_s
        with broker_by(clock, short_dir) as client:
            client.create(input="a job")
            assert client.count().total == 1 + (offset_s == 0)


def test_a_clock_that_is_set_is_in_the_log(short_dir: Path) -> None:
    clock = Clock(short_dir / "clock")
    clock.offset_s = CENTURY_S
    with broker_by(clock, short_dir) as client:
        client.create(input="a job")
        clock.offset_s = 0
        until = time.monotonic() + PATIENCE_S
        while "the wall clock was set" not in (short_dir / "log").read_text():
            assert time.monotonic() < until
            time.sleep(0.05)
    with broker_by(clock, short_dir) as client:
        client.create(input="a job")
    assert "the wall clock is behind the last record" in (short_dir / "log").read_text()

"""Signals that log rotation, terminals and operators send by habit, at programs that serve."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.brokers import PATIENCE_S, ROOT, BrokerProcess
from tollgate import signals
from tollgate.client.sync import Client

Brokers = Callable[..., BrokerProcess]
BY_HABIT = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGTTIN, signal.SIGTTOU)
IGNORED = (*BY_HABIT[2:], signal.SIGPIPE, signal.SIGXFSZ, signal.SIGURG, signal.SIGCONT)
MEANS_NOTHING = "a signal that means nothing here"
SERVING = {
    "worker": (["tollgate.worker"], "worker: work on"),
    "simulation": (["tollgate.worker.simulation"], "worker: payments on"),
    "metrics": (["tollgate.metrics", "--port", "0"], "listening"),
}


def wait_for(path: Path, text: str, times: int = 1) -> None:
    until = time.monotonic() + PATIENCE_S
    while path.read_text().count(text) < times:
        assert time.monotonic() < until, path.read_text()
        time.sleep(0.01)


def test_signals_by_habit_do_not_stop_a_broker(broker: Brokers) -> None:
    running = broker()
    with Client(running.endpoint, timeout_s=PATIENCE_S) as client:
        for number in (*BY_HABIT, *IGNORED):
            running.process.send_signal(number)
            assert client.count().total == 0
        wait_for(running._stderr, MEANS_NOTHING, len(signals.LOGGED))
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(PATIENCE_S) == 0
    running.checked = True
    told = [event["signal"] for event in running.events if MEANS_NOTHING in event["event"]]
    assert {*told} == {*signals.LOGGED.values()}
    assert [event["event"] for event in running.events[-2:]] == ["stopping", "left"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_log_names_the_signal_that_stops(broker: Brokers, number: signal.Signals) -> None:
    running = broker()
    running.stop(by=number)
    assert running.events[-2]["signal"] == number.name


@pytest.mark.parametrize("program", SERVING)
def test_signals_by_habit_do_not_stop_others(short_dir: Path, program: str) -> None:
    arguments, ready = SERVING[program]
    log = short_dir / "log"
    with log.open("wb") as stderr:
        running = subprocess.Popen(
            [sys.executable, "-m", *arguments, "--endpoint", f"ipc://{short_dir}/b"],
            cwd=ROOT, stdin=subprocess.DEVNULL, stderr=stderr,
        )  # fmt: skip
    try:
        wait_for(log, ready)
        for number in (*BY_HABIT, *IGNORED):
            running.send_signal(number)
        wait_for(log, MEANS_NOTHING, len(signals.LOGGED))
        assert running.poll() is None
        running.terminate()
        assert running.wait(PATIENCE_S) == 0
    finally:
        running.kill()
        running.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_that_is_repeated_does_not_kill(broker: Brokers, number: signal.Signals) -> None:
    """As supervisors and impatient people do it. Python ends with default signal handlers."""
    running = broker()
    while running.process.poll() is None:
        running.process.send_signal(number)
        time.sleep(0.002)
    running.check_left()
    assert [event["event"] for event in running.events].count("stopping") == 1


def test_only_the_first_signal_to_stop_is_logged() -> None:
    raised = """
import signal
from tollgate.broker import __main__ as program
from tollgate.log import configure
writer = configure("info", "json")
program._stop_fd()
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
    signal.raise_signal(number)
"""
    done = subprocess.run(
        [sys.executable, "-c", raised], capture_output=True, check=True, timeout=PATIENCE_S
    )
    assert done.stderr.count(b'"stopping"') == 1

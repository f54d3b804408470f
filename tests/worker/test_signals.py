"""Stop signals are counted whatever the main thread does, and children of handlers are free."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.worker.script import is_readable
from tollgate.worker.signals import STOP_SIGNALS, StopSignals

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = {each: signal.getsignal(each) for each in STOP_SIGNALS}
    yield
    signal.set_wakeup_fd(-1)
    for each, handler in before.items():
        signal.signal(each, handler)


@pytest.fixture
def signals() -> Iterator[StopSignals]:
    signals = StopSignals()
    signals.install()
    yield signals
    signals.restore()


def test_each_signal_counts_once(signals: StopSignals) -> None:
    assert signals.count() == 0
    assert not is_readable(signals)
    signal.raise_signal(signal.SIGTERM)
    assert is_readable(signals)
    assert signals.count() == 1  # though the interpreter and our handler have both seen it
    assert (signals.last and signals.last.name) == "SIGTERM"
    assert not is_readable(signals)
    signal.raise_signal(signal.SIGINT)
    assert signals.count() == 2
    assert (signals.last and signals.last.name) == "SIGINT"


def test_two_of_a_kind_are_two(signals: StopSignals) -> None:
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    assert signals.count() == 2


def test_a_closed_terminal_counts_once(signals: StopSignals) -> None:
    signal.raise_signal(signal.SIGHUP)
    signal.raise_signal(signal.SIGHUP)
    assert signals.count() == 1
    signal.raise_signal(signal.SIGTERM)  # as systemd does, with SendSIGHUP
    assert signals.count() == 1
    signal.raise_signal(signal.SIGTERM)
    assert signals.count() == 2


def test_nohup_is_respected() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signals = StopSignals()
    signals.install()
    try:
        signals.keep()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signals.restore()


def test_the_interpreter_writes_before_the_handler_runs(signals: StopSignals) -> None:
    """So a signal is seen while the main thread is in C code, and runs no handler."""
    signal.raise_signal(signal.SIGTERM)
    assert signals._reader.recv(99)[0] == signal.SIGTERM


def test_other_signals_do_not_count(signals: StopSignals) -> None:
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.raise_signal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)
    assert is_readable(signals)
    assert signals.count() == 0


def test_many_signals_fill_nothing_up(signals: StopSignals) -> None:
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    for _ in range(2_000):
        signal.raise_signal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)
    signals.count()
    signal.raise_signal(signal.SIGTERM)
    while is_readable(signals):
        signals.count()
    assert signals.count() == 1


def test_a_signal_that_finds_the_buffer_full_is_no_fault(signals: StopSignals) -> None:
    """Else it would be raised wherever the main thread is."""
    for _ in range(2_000):
        signal.raise_signal(signal.SIGTERM)
    assert signals.count() > 1


def test_a_parent_may_have_blocked_them() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    signals = StopSignals()
    signals.install()
    try:
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & {*STOP_SIGNALS}
    finally:
        signals.restore()


def test_everything_is_put_back() -> None:
    def mine(number: int, frame: Any) -> None:
        pass

    signal.signal(signal.SIGTERM, mine)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    signals = StopSignals()
    signals.install()
    assert signal.getsignal(signal.SIGTERM) is not mine
    signals.restore()
    signals.restore()
    assert signal.getsignal(signal.SIGTERM) is mine
    assert signal.set_wakeup_fd(-1) == writer
    os.close(reader)
    os.close(writer)


def test_what_a_handler_has_taken_stays_its_own() -> None:
    def its(number: int, frame: Any) -> None:
        pass

    signals = StopSignals()
    signals.install()
    signal.signal(signal.SIGINT, its)
    signals.restore()
    assert signal.getsignal(signal.SIGINT) is its


def test_a_handler_may_take_the_wakeup_descriptor(signals: StopSignals) -> None:
    signal.set_wakeup_fd(-1)
    signal.raise_signal(signal.SIGTERM)
    assert signals.count() == 1
    signals.keep()
    signal.raise_signal(signal.SIGTERM)
    assert signals.count() == 2
    assert signals._by_interpreter[signal.SIGTERM] == 1


@pytest.mark.parametrize("taken", [signal.SIG_IGN, signal.SIG_DFL, signal.default_int_handler])
def test_a_signal_that_a_handler_turned_off_is_kept(signals: StopSignals, taken: Any) -> None:
    signal.signal(signal.SIGTERM, taken)
    signals.keep()
    signal.raise_signal(signal.SIGTERM)
    assert signals.count() == 1


def test_a_handlers_own_function_goes_on(signals: StopSignals) -> None:
    seen: list[int] = []

    def its(number: int, frame: Any) -> None:
        seen.append(number)

    signal.signal(signal.SIGTERM, its)
    signals.keep()
    signal.raise_signal(signal.SIGTERM)
    assert seen == [signal.SIGTERM]
    assert signals.count() == 1  # by the interpreter


def test_a_loops_descriptor_stays_and_the_signal_is_ours(signals: StopSignals) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signals.keep()
    signal.raise_signal(signal.SIGTERM)
    assert os.read(reader, 99) == bytes([signal.SIGTERM])
    assert signals.count() == 1
    signal.set_wakeup_fd(-1)
    os.close(reader)
    os.close(writer)


def test_only_the_main_thread_installs() -> None:
    faults: list[BaseException] = []

    def install() -> None:
        signals = StopSignals()
        try:
            signals.install()
        except ValueError as fault:
            faults.append(fault)
        signals._reader.close()
        signals._writer.close()

    thread = threading.Thread(target=install)
    thread.start()
    thread.join()
    assert len(faults) == 1


CHILDREN = """
import json, multiprocessing, os, signal, subprocess, sys, threading
from tollgate.worker.signals import StopSignals

def mine(number, frame):
    os._exit(7)

def handlers_own(number, frame):
    pass

def look():
    taken = [(signal.SIGTERM, mine), (signal.SIGHUP, handlers_own)]
    return [*(signal.getsignal(sign) is what for sign, what in taken), signal.set_wakeup_fd(-1)]

def forked(act):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, json.dumps(look()).encode())
        act()
        os._exit(0)
    os.close(writer)
    told = json.loads(os.read(reader, 999))
    return told, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

signal.signal(signal.SIGTERM, mine)
signals = StopSignals()
signals.install()
signal.signal(signal.SIGHUP, handlers_own)
told = {"fork": forked(lambda: os.kill(os.getpid(), signal.SIGTERM))}
thread = threading.Thread(
    target=lambda: told.update(thread=forked(lambda: os.kill(os.getpid(), signal.SIGTERM)))
)
thread.start()
thread.join()
with multiprocessing.get_context("fork").Pool(2) as pool:
    told["pool"] = pool.apply(look)
command = [sys.executable, "-c", "import signal; signal.raise_signal(signal.SIGTERM)"]
told["subprocess"] = subprocess.run(command).returncode
told["here"] = [signals.count(), signal.getsignal(signal.SIGTERM) == signals._on_signal]
print(json.dumps(told))
"""


def test_children_of_handlers_are_as_after_a_plain_fork() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-c", CHILDREN]
    ran = subprocess.run(command, env=environment, capture_output=True, check=True, timeout=60)
    assert json.loads(ran.stdout) == {
        "fork": [[True, True, -1], 7],  # what the process did before, not our handler
        "thread": [[True, True, -1], 7],
        "pool": [True, True, -1],
        "subprocess": -signal.SIGTERM,
        "here": [0, True],  # none of it counted as a stop of the worker
    }

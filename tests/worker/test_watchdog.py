"""The watchdog says who blocks the loop, sees signals meanwhile, and ends what does not end."""

import asyncio
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.worker.script import PATIENCE_S, is_readable, until, until_true
from tollgate.worker import watchdog as watchdog_module
from tollgate.worker.signals import StopSignals
from tollgate.worker.watchdog import Watchdog


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog_module, "LOOK_S", 0.01)
    monkeypatch.setattr(watchdog_module, "BLOCKED_S", 0.05)
    monkeypatch.setattr(watchdog_module, "OVERRUN_S", 0.05)


class Watched:
    """A watchdog over the running loop, and what it tells."""

    def __init__(self, signals: StopSignals | None = None) -> None:
        self.signals: list[tuple[int, str]] = []
        self.overruns: list[str] = []
        self.beats: list[str] = []
        self.at_work: dict[object, tuple[str, float | None]] = {}
        self.watchdog = Watchdog(
            asyncio.get_running_loop(),
            signals,
            on_signal=lambda count: self.signals.append((count, threading.current_thread().name)),
            at_work=self.at_work.get,
            on_overrun=self.overruns.append,
            on_beat=lambda: self.beats.append(threading.current_thread().name),
        )
        self.watchdog.start()

    def works(self, job_id: str, limit_at: float | None = None) -> None:
        self.at_work[asyncio.current_task()] = (job_id, limit_at)


def block(for_s: float) -> None:
    time.sleep(for_s)


@pytest.fixture
async def watched() -> Any:
    watched = Watched()
    yield watched
    watched.watchdog.close()


@pytest.fixture
def signals() -> Iterator[StopSignals]:
    signals = StopSignals()
    signals.install()
    yield signals
    signals.restore()


async def test_a_loop_that_turns_is_not_told_of(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    await until(lambda: len(watched.beats) > 10)
    assert set(watched.beats) == {"MainThread"}
    assert not caplog.records


async def test_a_handler_that_blocks_is_named_once(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    watched.works("7")
    until_true(lambda: caplog.records)
    block(0.1)
    (record,) = caplog.records
    message = record.getMessage()
    assert message.startswith("job 7: its handler blocks the event loop")
    assert "script.py:" in message
    assert "(until_true: " in message  # where it is
    assert vars(record)["job_id"] == "7"
    await until(lambda: len(caplog.records) == 2)
    assert "the event loop was blocked for" in caplog.records[1].getMessage()
    assert not watched.overruns  # it has no limit


async def test_what_blocks_beside_the_handlers_is_told(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    until_true(lambda: caplog.records)
    assert caplog.records[0].getMessage().startswith("something blocks the event loop")
    await until(lambda: len(caplog.records) == 2)


async def test_the_loop_may_block_again(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    for number in (1, 3):
        until_true(lambda number=number: len(caplog.records) == number)  # type: ignore[misc]
        await until(lambda number=number: len(caplog.records) == number + 1)  # type: ignore[misc]


async def test_a_blocking_handler_beyond_its_limit_is_ended(watched: Watched) -> None:
    watched.works("7", time.monotonic())
    until_true(lambda: watched.overruns)
    assert set(watched.overruns) == {"7"}


async def test_a_blocking_handler_within_its_limit_is_not(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    watched.works("7", time.monotonic() + 3_600)
    until_true(lambda: caplog.records)
    block(0.1)
    assert not watched.overruns


async def test_a_handler_just_beyond_its_limit_may_still_return(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The loop ends it in order, if it gets its turn: the others keep their work."""
    monkeypatch.setattr(watchdog_module, "OVERRUN_S", 3_600.0)
    watched.works("7", time.monotonic())
    until_true(lambda: caplog.records)
    block(0.1)
    assert not watched.overruns


async def test_other_signals_of_handlers_are_no_stop(signals: StopSignals) -> None:
    """They are written to the same descriptor, SIGCHLD for example."""
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    watched = Watched(signals)
    try:
        signal.raise_signal(signal.SIGUSR1)
        until_true(lambda: not is_readable(signals))  # it was read
        signal.raise_signal(signal.SIGTERM)
        until_true(lambda: watched.signals)
        signal.raise_signal(signal.SIGUSR1)
        until_true(lambda: not is_readable(signals))
        block(0.05)
    finally:
        watched.watchdog.close()
        signal.signal(signal.SIGUSR1, before)
    assert [count for count, _ in watched.signals] == [1]


@pytest.fixture
def many_open_files() -> Iterator[None]:
    """Open more files than `select` can watch."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4_096:
        pytest.skip("this machine allows few open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (4_096, hard))
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(1_100)]
    yield
    for each in opened:
        os.close(each)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def far_signals(many_open_files: None) -> Iterator[StopSignals]:
    signals = StopSignals()
    signals.install()
    yield signals
    signals.restore()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """See that the watchdog pauses between its looks."""
    looks: list[float] = []
    look = Watchdog._look

    def counted(watchdog: Watchdog, now: float) -> None:
        looks.append(now)
        look(watchdog, now)

    monkeypatch.setattr(Watchdog, "_look", counted)
    yield
    pauses_max = (looks[-1] - looks[0]) / watchdog_module.LOOK_S
    assert len(looks) < pauses_max + 10, "it looked without a pause"


@pytest.mark.usefixtures("pauses")
async def test_signals_are_seen_with_many_open_files(far_signals: StopSignals) -> None:
    assert far_signals.fileno() >= 1_024
    watched = Watched(far_signals)
    try:
        block(0.3)
        signal.raise_signal(signal.SIGTERM)
        until_true(lambda: watched.signals)
    finally:
        watched.watchdog.close()


@pytest.mark.usefixtures("pauses")
async def test_it_goes_on_when_the_signals_are_closed() -> None:
    signals = StopSignals()
    watched, acted = Watched(signals), threading.Event()
    try:
        for each in (signals._reader, signals._writer):
            each.close()
        watched.watchdog.end_by(time.monotonic() + 0.3, acted.set)
        assert acted.wait(PATIENCE_S)
    finally:
        watched.watchdog.close()


async def test_it_runs_without_signals_that_are_closed_already() -> None:
    signals = StopSignals()
    for each in (signals._reader, signals._writer):
        each.close()
    watched, acted = Watched(signals), threading.Event()
    try:
        watched.watchdog.end_by(time.monotonic() + 0.05, acted.set)
        assert acted.wait(PATIENCE_S)
    finally:
        watched.watchdog.close()


async def test_signals_are_seen_while_the_loop_is_blocked(signals: StopSignals) -> None:
    watched = Watched(signals)
    try:
        signal.raise_signal(signal.SIGTERM)
        until_true(lambda: watched.signals)
        signal.raise_signal(signal.SIGTERM)
        until_true(lambda: len(watched.signals) == 2)
    finally:
        watched.watchdog.close()
    assert watched.signals == [(1, "tollgate watchdog"), (2, "tollgate watchdog")]


async def test_a_deadline_acts_while_the_loop_is_blocked(watched: Watched) -> None:
    acted: list[str] = []
    begun = time.monotonic()
    watched.watchdog.end_by(begun + 0.05, lambda: acted.append(threading.current_thread().name))
    until_true(lambda: acted)
    assert time.monotonic() - begun >= 0.05
    assert acted == ["tollgate watchdog"]


async def test_a_closed_watchdog_does_nothing() -> None:
    watched, acted = Watched(), []
    watched.watchdog.close()
    watched.watchdog.close()
    watched.watchdog.end_by(0, lambda: acted.append("acted"))
    beats = len(watched.beats)
    await asyncio.sleep(0.05)
    assert not acted
    assert len(watched.beats) == beats
    assert not watched.watchdog._thread.is_alive()


def test_it_outlives_its_loop(caplog: pytest.LogCaptureFixture) -> None:
    async def watch() -> Watched:
        return Watched()

    watched = asyncio.run(watch())
    looked: list[bool] = []

    def look() -> None:
        looked.append(True)
        watched.watchdog.end_by(0, look)

    look()
    until_true(lambda: len(looked) > 3)
    assert watched.watchdog._thread.is_alive()
    watched.watchdog.close()
    watched.watchdog._thread.join(PATIENCE_S)
    assert not watched.watchdog._thread.is_alive()


class FrozenLoop:
    """A loop that gives no sign of life."""

    def call_soon_threadsafe(self, function: Any) -> None:
        pass


def run_by(times: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a watchdog that looks at the clock at these times."""
    loop: Any = FrozenLoop()

    def nothing(*_: object) -> None:
        return None

    watchdog = Watchdog(
        loop, None, on_signal=nothing, at_work=nothing, on_overrun=nothing, on_beat=nothing
    )
    clock = iter(times)

    class Poller:
        def register(self, *_: object) -> None:
            pass

        def poll(self, _: float) -> list[tuple[int, int]]:
            watchdog._is_closed = len(looks) == len(times) - 2
            looks.append(1)
            return []

    looks: list[int] = []
    monkeypatch.setattr(watchdog_module, "monotonic", lambda: next(clock))
    monkeypatch.setattr("select.poll", Poller)
    monkeypatch.setattr("asyncio.current_task", nothing)
    watchdog._run()


@pytest.mark.parametrize(
    ("times", "is_told"), [([0, 0.1, 50, 50.01], False), ([0, 0.1, 0.5, 1], True)]
)
def test_a_stopped_process_names_no_handler(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    times: list[float],
    *,
    is_told: bool,
) -> None:
    """It was stopped, or the machine slept: the watchdog did not run either."""
    run_by(times, monkeypatch)
    assert bool(caplog.records) is is_told


@pytest.mark.parametrize(
    ("for_s", "worked_s", "told"),
    [
        (60.0, 59.0, ["the interpreter was held for 60.0 s"]),
        (60.0, 0.1, ["nothing of this worker ran for 60.0 s"]),
        (4.0, 4.0, []),
    ],
)
def test_a_standstill_is_told(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    for_s: float,
    worked_s: float,
    told: list[str],
) -> None:
    """C code that computes is known by its work. What waits looks like a process that stood."""
    caplog.set_level("INFO")
    work = iter([0.0, 0.0, worked_s, worked_s, worked_s])
    monkeypatch.setattr(watchdog_module, "process_time", lambda: next(work))
    run_by([0, 0.1, 0.1 + for_s, 0.11 + for_s], monkeypatch)
    assert [record.getMessage().split(":")[0].split(",")[0] for record in caplog.records] == told

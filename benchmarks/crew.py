"""Runs producers in separate processes: it starts each run and collects what it cost."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Protocol, Self

# Forked, because that starts sixteen processes fast. No client is opened before the fork.
_fork = multiprocessing.get_context("fork")
ANSWER_S_MAX = 180.0
JOIN_S_MAX = 5.0


class Producer(Protocol):
    """Work that keeps a server busy."""

    def lot(self) -> int:
        """Do a bounded amount of work; return how many commands it was."""
        ...

    def close(self) -> None: ...


class Tally(NamedTuple):
    """The result of one run of one producer or of all."""

    commands: int
    per_second: float
    client_cpu_s: float


class Crew:
    """Several processes, each with a producer that `make` creates in it."""

    def __init__(self, make: Callable[[], Producer], size: int = 1) -> None:
        self._members = [_member(make) for _ in range(size)]
        try:
            for _, pipe in self._members:
                _answer(pipe)  # it has connected and warmed up
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, run_s: float) -> Tally:
        """Let all producers work for `run_s` seconds, and add up their results."""
        for _, pipe in self._members:
            pipe.send(run_s)
        tallies: list[Tally] = [_answer(pipe) for _, pipe in self._members]
        return Tally(*(sum(column) for column in zip(*tallies, strict=True)))

    def close(self) -> None:
        for _, pipe in self._members:
            with suppress(OSError):
                pipe.send(None)
        for process, _ in self._members:
            process.join(JOIN_S_MAX)
            if process.is_alive():
                process.kill()
                process.join()


def aside(function: Callable[[], Any]) -> Any:  # noqa: ANN401 - whatever it returns
    """Run a function in a separate process, and return its result."""
    mine, theirs = _fork.Pipe()
    process = _fork.Process(target=_call, args=(theirs, function), daemon=True)
    process.start()
    theirs.close()
    try:
        return _answer(mine, timeout_s=None)
    finally:
        process.join(JOIN_S_MAX)
        if process.is_alive():
            process.kill()


def _call(pipe: Connection, function: Callable[[], Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        pipe.send(function())
    except Exception as fault:  # noqa: BLE001 - the other side raises it
        pipe.send(RuntimeError(f"{type(fault).__name__}: {fault}"))


def _member(make: Callable[[], Producer]) -> tuple[Any, Connection]:
    mine, theirs = _fork.Pipe()
    process = _fork.Process(target=_work, args=(mine, theirs, make), daemon=True)
    process.start()
    theirs.close()
    return process, mine


def _answer(pipe: Connection, timeout_s: float | None = ANSWER_S_MAX) -> Any:  # noqa: ANN401
    if not pipe.poll(timeout_s):
        raise RuntimeError("a producer did not answer in time")
    answer = pipe.recv()
    if isinstance(answer, Exception):
        raise answer
    return answer


def _work(other_end: Connection, pipe: Connection, make: Callable[[], Producer]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    other_end.close()
    with ExitStack() as stack:
        try:
            producer = make()
            stack.callback(producer.close)
            producer.lot()
            pipe.send("ready")
            while (run_s := _asked(pipe)) is not None:
                pipe.send(_run(producer, run_s))
        except Exception as fault:  # noqa: BLE001 - the other side raises it
            pipe.send(RuntimeError(f"{type(fault).__name__}: {fault}"))


def _asked(pipe: Connection) -> float | None:
    """Return how long to run next, or None to end; None also if the benchmark has ended."""
    parent = os.getppid()
    while not pipe.poll(1.0):
        if os.getppid() != parent:
            return None
    run_s: float | None = pipe.recv()
    return run_s


def _run(producer: Producer, run_s: float) -> Tally:
    commands = 0
    cpu_s = time.process_time()
    begun = now = time.perf_counter()
    while now < begun + run_s:
        commands += producer.lot()
        now = time.perf_counter()
    return Tally(commands, commands / (now - begun), time.process_time() - cpu_s)

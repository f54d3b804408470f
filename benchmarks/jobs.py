"""Measures enqueue, empty handler, result: jobs a second and latency, with one worker."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks import drivers
from benchmarks.crew import aside
from benchmarks.measure import Effort, Findings, Goal, at_least, at_most, in_turns, percentile
from benchmarks.processes import Beanstalkd, Broker, Missing, Redis, Server, Worker, program

MILLISECONDS: Final = 1e3


@dataclass(frozen=True)
class Peer:
    """One system, the jobs of a run, and the goal for tollgate's jobs a second over its own."""

    driver: type[drivers.Driver]
    jobs_quick: int
    jobs: int
    goal: Goal | None = None


OURS: Final = Peer(drivers.Tollgate, 2_000, 20_000)
FEW: Final = tuple(
    Peer(driver, 300, 3_000)
    for driver in (
        drivers.Tollgate1, drivers.TollgateTogether1, drivers.Tollgate8, drivers.TollgateTogether8
    )
)  # fmt: skip
"""Workers with few slots, and both ways of driving them: the life of one job."""
PEERS: Final = (
    Peer(drivers.Celery, 200, 1_000, at_least(30)),
    Peer(drivers.Dramatiq, 400, 3_000, at_least(10)),
    Peer(drivers.Huey, 400, 3_000, at_least(10)),
    Peer(drivers.Huey8, 400, 3_000),
    Peer(drivers.Rq, 30, 200, at_least(100)),
    Peer(drivers.RqSimple, 100, 1_000),
    Peer(drivers.Beanstalkd, 2_000, 15_000, at_least(3)),
)


LIVES: Final = (
    (drivers.Tollgate1, drivers.Huey), (drivers.TollgateTogether1, drivers.Huey),
    (drivers.Tollgate8, drivers.Huey8), (drivers.TollgateTogether8, drivers.Huey8),
)  # fmt: skip
"""What is compared for the life of one job, with the goal that it takes no longer."""
LIFE_GOAL: Final = at_most(1.0)


class Run(NamedTuple):
    """One run of one system: jobs a second of a burst, and latencies of single jobs."""

    per_second: float
    p50_ms: float
    p99_ms: float


def measure(effort: Effort, directory: Path) -> Findings:
    findings = Findings("jobs")
    with ExitStack() as stack:
        sides: dict[str, Callable[[], Run]] = {}
        for peer in (OURS, *FEW, *PEERS):
            name = peer.driver.name
            try:
                sides[name] = _side(peer, effort, directory / name.replace(" ", "-"), stack)
            except (Missing, RuntimeError) as reason:
                findings.skip(f"{name}: {reason}")
                continue
            findings.settings[name] = peer.driver.settings
        if OURS.driver.name in sides:
            _compare(findings, in_turns(sides, effort.rounds))
    return findings


def _side(peer: Peer, effort: Effort, place: Path, stack: ExitStack) -> Callable[[], Run]:
    """Start a system and its worker; return a function that runs it once."""
    if find_spec(peer.driver.library) is None:
        raise Missing(f"{peer.driver.library} is not installed")
    server = stack.enter_context(_server(peer.driver, place))
    socket = str(server.socket_path)
    driver = peer.driver(socket)
    stack.enter_context(Worker(place / "worker", driver.worker(), drivers.environment(socket)))
    jobs = effort.pick(quick=peer.jobs_quick, full=peer.jobs)
    singles = effort.pick(quick=30, full=200)
    aside(partial(_run, driver, 1, 1))  # now the worker is connected and warm
    return partial(aside, partial(_run, driver, jobs, singles))


def _server(driver: type[drivers.Driver], place: Path) -> Server:
    if driver.in_redis:
        program("redis-server")
        return Redis(place)
    if driver is drivers.Beanstalkd:
        program("beanstalkd")
        return Beanstalkd(place)
    return Broker(place)


def _run(driver: drivers.Driver, jobs: int, singles: int) -> Run:
    drivers.prepare(driver)
    begun = time.perf_counter()
    driver.burst(jobs)
    per_second = jobs / (time.perf_counter() - begun)
    times_ms = []
    for _ in range(singles):
        begun = time.perf_counter()
        driver.single()
        times_ms.append((time.perf_counter() - begun) * MILLISECONDS)
    return Run(per_second, percentile(times_ms, 50), percentile(times_ms, 99))


def _compare(findings: Findings, runs: dict[str, list[Run]]) -> None:
    ours = runs[OURS.driver.name]
    columns: tuple[tuple[int, str, str], ...] = (
        (0, "jobs/s", "throughput"), (1, "ms", "latency p50"), (2, "ms", "latency p99"),
    )  # fmt: skip
    for peer in PEERS:
        if theirs := runs.get(peer.driver.name):
            for column, unit, what in columns:
                findings.compare(
                    f"empty handler: {what}", unit, [run[column] for run in ours],
                    peer.driver.name, [run[column] for run in theirs],
                    peer.goal if column == 0 else None,
                )  # fmt: skip
    for mine, other in LIVES:
        if theirs := runs.get(other.name):
            findings.compare(
                f"life of one job: {mine.name.partition(', ')[2]}", "ms",
                [run.p50_ms for run in runs[mine.name]], other.name,
                [run.p50_ms for run in theirs], LIFE_GOAL,
            )  # fmt: skip
    for peer in FEW:
        name = peer.driver.name
        findings.figure(f"{name}: jobs/s", "jobs/s", [run.per_second for run in runs[name]])

"""Measures create, running, completed, get: commands a second, and CPU a command."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks import tollgate_side
from benchmarks.crew import Crew
from benchmarks.measure import Effort, Findings, Goal, at_least, at_most, in_turns
from benchmarks.processes import Broker, Redis, Server, cpu_s
from benchmarks.work import Shape, input_of

MICROSECONDS: Final = 1e6
TRIAL_S: Final = 0.25
SPIN_US: Final = 300
GOALS: Final = {100: (2.5, 0.40), 1_000: (4.5, 0.35)}
"""By the commands of a message: how many times the throughput of Redis in memory, and what part of
the CPU that a command takes there."""
DURABLE_GOAL: Final = 4.0
"""How many times its throughput if everything is synced."""


@dataclass(frozen=True)
class Cell:
    """One row of the table."""

    shape: Shape
    producers: int = 1
    durable: bool = False
    spin_us: int = 0
    """How long our client polls for an answer before it sleeps; the others cannot poll."""
    tasks: bool = False
    """Whether asyncio tasks make one call after the other, through one client."""

    @property
    def name(self) -> str:
        where = "durable" if self.durable else "memory"
        how = "lock step" if self.shape.in_flight == 1 else f"{self.shape.in_flight} in flight"
        who = "1 producer" if self.producers == 1 else f"{self.producers} producers"
        what = ", 200-byte input" if self.shape.input else ""
        waking = ", client spinning" if self.spin_us else ""
        if self.tasks:
            return f"{where}, {self.shape.in_flight} asyncio tasks, plain calls"
        return f"{where}, {who}, batch {self.shape.batch}, {how}{what}{waking}"

    @property
    def counts(self) -> bool:
        """Whether this row has goals."""
        return (
            self.producers == 1
            and self.shape.batch in GOALS
            and self.shape.in_flight > 1
            and self.shape.input is None
            and not self.spin_us
        )


class Run(NamedTuple):
    """One run of one side."""

    per_second: float
    server_us: float
    client_us: float


def cells(effort: Effort) -> list[Cell]:
    if effort.is_quick:
        return [
            Cell(Shape(batch, in_flight), durable=durable)
            for durable in (False, True)
            for batch, in_flight in ((100, 1), (100, 4), (1_000, 4))
        ]
    single = [
        Cell(Shape(batch, in_flight), durable=durable)
        for durable in (False, True)
        for in_flight in (1, 4)
        for batch in (1, 10, 100, 1_000)
    ]
    many = [
        Cell(Shape(batch, in_flight), producers=producers, durable=durable)
        for durable in (False, True)
        for producers in (4, 16)
        for batch, in_flight in ((1, 1), (100, 1), (100, 4))
    ]
    return [
        *single,
        *many,
        Cell(Shape(100, 4, input_of(200))),
        Cell(Shape(100, 4), spin_us=SPIN_US),
        *(
            Cell(Shape(1, tasks), tasks=True, durable=durable)
            for durable in (False, True)
            for tasks in (4, 64)
        ),
    ]


def measure(effort: Effort, directory: Path) -> Findings:
    findings = Findings("lifecycle")
    redis_ways = _redis_ways()
    for number, cell in enumerate(cells(effort)):
        place = directory / f"lifecycle-{number}"
        _measure_cell(cell, effort, place, findings, redis_ways)
    findings.settings |= {
        "broker": "--in-memory, or --fsync always",
        "redis-server": "no snapshots; in memory, or appendonly yes with appendfsync always",
        "run": f"{effort.run_s} s, {effort.rounds} rounds, fresh servers for each row",
    }
    return findings


def _redis_ways() -> Callable[..., dict[str, Any]]:
    from benchmarks import redis_side  # noqa: PLC0415 - may raise Missing

    return redis_side.ways


def _measure_cell(
    cell: Cell,
    effort: Effort,
    place: Path,
    findings: Findings,
    redis_ways: Callable[..., dict[str, Any]],
) -> None:
    shape = cell.shape
    with ExitStack() as stack:
        broker = stack.enter_context(Broker(place / "a", durable=cell.durable))
        redis = stack.enter_context(Redis(place / "b", durable=cell.durable))
        our_ways = tollgate_side.ways(shape, cell.spin_us, tasks=cell.tasks)
        ours, our_way = _fastest(our_ways, broker.endpoint, cell)
        theirs, their_way = _fastest(
            redis_ways(shape, tasks=cell.tasks), str(redis.socket_path), cell
        )
        our_crew = stack.enter_context(Crew(ours, cell.producers))
        their_crew = stack.enter_context(Crew(theirs, cell.producers))
        runs = in_turns(
            {
                "ours": partial(run_once, our_crew, broker, effort.run_s),
                "theirs": partial(run_once, their_crew, redis, effort.run_s),
            },
            effort.rounds,
        )
    _compare(findings, cell, runs, f"{our_way}; {their_way}")


def _fastest(ways: dict[str, Any], address: str, cell: Cell) -> tuple[Callable[[], Any], str]:
    """Return the fastest way in a short trial, and its name."""
    makers = {name: partial(kind, address, cell.shape) for name, kind in ways.items()}
    if len(makers) == 1:
        name, maker = next(iter(makers.items()))
        return maker, name
    speeds = {}
    for name, maker in makers.items():
        with Crew(maker, cell.producers) as crew:
            speeds[name] = max(crew.run(TRIAL_S).per_second for _ in range(2))
    best = max(speeds, key=lambda name: speeds[name])
    return makers[best], best


def run_once(crew: Crew, server: Server, run_s: float) -> Run:
    before_s = cpu_s(server.pid)
    tally = crew.run(run_s)
    server_s = cpu_s(server.pid) - before_s
    return Run(
        tally.per_second,
        server_s / tally.commands * MICROSECONDS,
        tally.client_cpu_s / tally.commands * MICROSECONDS,
    )


def _compare(findings: Findings, cell: Cell, runs: dict[str, list[Run]], note: str) -> None:
    throughput: Goal | None = None
    server: Goal | None = None
    if cell.counts:
        in_memory, of_cpu = GOALS[cell.shape.batch]
        throughput = at_least(DURABLE_GOAL if cell.durable else in_memory)
        server = None if cell.durable else at_most(of_cpu)
    ours, theirs = runs["ours"], runs["theirs"]
    for column, unit, what, goal in (
        (0, "commands/s", "throughput", throughput),
        (1, "us", "server CPU a command", server),
        (2, "us", "client CPU a command", None),
    ):
        findings.compare(
            f"{cell.name}: {what}", unit, [run[column] for run in ours],
            "Redis", [run[column] for run in theirs], goal, note,
        )  # fmt: skip

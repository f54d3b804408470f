"""Measures the start: events replayed a second, beside Redis loading the AOF of the same jobs."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks import tollgate_side
from benchmarks.crew import aside
from benchmarks.measure import Effort, Findings, at_least, in_turns
from benchmarks.processes import ROOT, Broker, Redis, Server
from benchmarks.work import Shape

EVENTS_A_JOB: Final = 3
"""Created, running, completed; a read makes no event."""
SHAPE: Final = Shape(1_000, 1)
SEGMENT_BYTES_A_JOB: Final = 400
"""A bit more than the events of a job take: a segment is read to its end."""
NO_SYNC: Final = ("--appendfsync", "no", "--appendonly", "yes")


def measure(effort: Effort, directory: Path) -> Findings:
    findings = Findings("recovery")
    jobs = effort.pick(quick=20_000, full=200_000)
    events = jobs * EVENTS_A_JOB
    place = directory / "recovery"
    log = _one_segment(jobs)
    broker = Broker(place / "a", *log, durable=True)
    redis = Redis(place / "b", *NO_SYNC)
    _write_history(broker, redis, jobs)
    empty = (
        Broker(place / "c", *log, durable=True),
        Redis(place / "d", *NO_SYNC),
    )
    starts = _starts({"broker": broker, "redis": redis}, effort)
    bare = _starts({"broker": empty[0], "redis": empty[1]}, effort)
    ours = [_rate(events, run, bare["broker"]) for run in starts["broker"]]
    theirs = [_rate(events, run, bare["redis"]) for run in starts["redis"]]
    findings.compare(
        f"{events:,} events replayed", "events/s", ours, "Redis AOF", theirs, at_least(1.0)
    )
    findings.figure("start without any history, broker", "s", bare["broker"])
    findings.figure("start without any history, Redis", "s", bare["redis"])
    _measure_snapshots(findings, broker, redis, jobs, bare, effort)
    findings.settings |= {
        "history": f"{jobs:,} jobs through create, running, completed, get; one log each",
        "time": "from the start of the process to its first answer, less a start without history",
    }
    return findings


def _one_segment(jobs: int) -> tuple[str, ...]:
    """Return the options that keep the history of all jobs in one log, without compaction."""
    return ("--segment-bytes", str(jobs * SEGMENT_BYTES_A_JOB), "--fsync", "never")


def _write_history(broker: Broker, redis: Redis, jobs: int) -> None:
    from benchmarks import redis_side  # noqa: PLC0415 - may raise Missing

    with broker:
        aside(partial(_fill, tollgate_side.LockStep, broker.endpoint, jobs))
    with redis:
        aside(partial(_fill, redis_side.Pipelines, str(redis.socket_path), jobs))


def _fill(kind: Callable[[str, Shape], Any], address: str, jobs: int) -> None:
    producer = kind(address, SHAPE)
    for _ in range(jobs // SHAPE.batch):
        producer.lot()
    producer.close()


def _starts(servers: dict[str, Server], effort: Effort) -> dict[str, list[float]]:
    """Return the time of each from its start to its first answer, in turns."""
    return in_turns(
        {name: partial(_start_s, server) for name, server in servers.items()}, effort.rounds
    )


def _start_s(server: Server) -> float:
    took_s = server.start()
    if isinstance(server, Redis):  # it accepts connections while it is loading
        took_s = _loaded_s(server)
    server.stop(signal.SIGKILL)
    return took_s


def _loaded_s(server: Redis) -> float:
    return float(aside(partial(_until_loaded, str(server.socket_path), server.started_at)))


def _until_loaded(path: str, started_at: float) -> float:
    from redis.exceptions import BusyLoadingError  # noqa: PLC0415 - redis_side has been loaded

    from benchmarks import redis_side  # noqa: PLC0415

    while True:
        try:
            connection = redis_side.connect(path)
            redis_side.ask(connection, "PING")
        except BusyLoadingError:
            time.sleep(0.002)
        else:
            return time.perf_counter() - started_at


def _rate(events: int, took_s: float, bare_s: list[float]) -> float:
    """Return events a second, without the time of an empty start."""
    return events / max(0.001, took_s - min(bare_s))


def _measure_snapshots(  # noqa: PLR0913, PLR0917
    findings: Findings,
    broker: Broker,
    redis: Redis,
    jobs: int,
    bare: dict[str, list[float]],
    effort: Effort,
) -> None:
    """Compact each history into a snapshot, and load it."""
    subprocess.run(
        [
            sys.executable, "-m", "tollgate.broker.admin.journal", "compact",
            "--data-dir", str(broker.directory / "data"),
        ],
        cwd=ROOT, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    with ExitStack() as stack:
        stack.enter_context(redis)
        _loaded_s(redis)
        aside(partial(_rewrite, str(redis.socket_path)))
    starts = _starts({"broker": broker, "redis": redis}, effort)
    findings.compare(
        f"snapshot of {jobs:,} jobs loaded", "jobs/s",
        [_rate(jobs, run, bare["broker"]) for run in starts["broker"]],
        "Redis, rewritten AOF (RDB preamble)",
        [_rate(jobs, run, bare["redis"]) for run in starts["redis"]],
    )  # fmt: skip


def _rewrite(path: str) -> None:
    from benchmarks import redis_side  # noqa: PLC0415

    redis = redis_side.client(path)
    redis.bgrewriteaof()
    while redis.info("persistence")["aof_rewrite_in_progress"]:
        time.sleep(0.02)
    redis.close()

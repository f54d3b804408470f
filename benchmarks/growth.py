"""Measures the cost of many stored jobs and many clients: CPU a command, tails, and memory."""

import asyncio
import resource
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import tollgate
from benchmarks import lifecycle, redis_side, tollgate_side
from benchmarks.crew import Crew, aside
from benchmarks.measure import Effort, Findings, at_most, in_turns, percentile
from benchmarks.processes import Broker, Redis, Server, available_bytes, cpu_s, rss_bytes
from benchmarks.work import INPUT_HASH, Shape, input_of, job_ids

INPUT: Final = input_of(200)
SHAPE: Final = Shape(100, 1)
FILL: Final = Shape(1_000, 1, INPUT)
BYTES_A_JOB_MAX: Final = 4_096
"""More than a job takes on both sides together: the free memory needed to store a million."""
ROOM: Final = ("--jobs", "4000000", "--max-finished", "4000000")
MICROSECONDS: Final = 1e6
MILLISECONDS: Final = 1e3
CALLERS: Final = 4
"""Number of processes that hold the clients."""
IDLE_S: Final = 2.0
SAMPLE: Final = 200
WARM_UP: Final = 100


def measure(effort: Effort, directory: Path) -> Findings:
    findings = Findings("growth")
    _measure_stored(effort, directory / "growth", findings)
    for clients in effort.pick(quick=(100,), full=(1, 100, 1_000)):
        _measure_clients(clients, effort, directory / f"clients-{clients}", findings)
    findings.settings |= {
        "stored jobs": "awaiting payment, with an input of 200 bytes; lifecycles of new jobs "
        f"without one, batches of {SHAPE.batch} in lock step, then single creates",
        "clients": f"AsyncClient and redis.asyncio, spread over {CALLERS} processes",
    }
    return findings


# --- stored jobs ----------------------------------------------------------------------------------


def _measure_stored(effort: Effort, place: Path, findings: Findings) -> None:
    sizes = effort.pick(quick=(1_000, 30_000), full=(1_000, 100_000, 1_000_000))
    if max(sizes) * BYTES_A_JOB_MAX > available_bytes():
        findings.skip(f"{max(sizes):,} stored jobs: this machine has too little memory free")
        sizes = sizes[:-1]
    with ExitStack() as stack:
        brokers = {size: stack.enter_context(Broker(place / f"a{size}", *ROOM)) for size in sizes}
        redis = {
            size: stack.enter_context(Redis(place / f"b{size}")) for size in (sizes[0], sizes[-1])
        }
        _fill(sizes, brokers, redis, findings)
        sides: dict[str, Callable[[], tuple[float, ...]]] = {}
        for size, broker in brokers.items():
            crew = stack.enter_context(
                Crew(partial(tollgate_side.LockStep, broker.endpoint, SHAPE))
            )
            single = partial(_create_times, broker.endpoint, effort.pick(quick=500, full=4_000))
            sides[f"broker {size}"] = partial(_run, crew, broker, single, effort.run_s)
        for size, server in redis.items():
            path = str(server.socket_path)
            crew = stack.enter_context(Crew(partial(redis_side.Pipelines, path, SHAPE)))
            single = partial(_redis_times, path, effort.pick(quick=500, full=4_000))
            sides[f"redis {size}"] = partial(_run, crew, server, single, effort.run_s)
        runs = in_turns(sides, effort.rounds)
    _compare_stored(findings, sizes, runs)


def _fill(
    sizes: tuple[int, ...],
    brokers: dict[int, Broker],
    redis: dict[int, Redis],
    findings: Findings,
) -> None:
    """Store the jobs, and note the memory a job of the largest stores."""
    ours: list[float] = []
    theirs: list[float] = []
    for size in sizes:
        ours.append(_bytes_a_job(brokers[size], size, _fill_broker))
        if size in redis:
            theirs.append(_bytes_a_job(redis[size], size, _fill_redis))
    most = sizes[-1]
    path = str(redis[most].socket_path)
    usage = aside(partial(_memory_usage, path))
    name = f"bytes a job, {most:,} stored, 200-byte input"
    findings.compare(name, "bytes", [ours[-1]], "Redis hash, RSS", [theirs[-1]], at_most(0.8))
    findings.compare(
        name, "bytes", [ours[-1]], "Redis hash, MEMORY USAGE", [usage], at_most(0.8),
        "ours by RSS",
    )  # fmt: skip


def _bytes_a_job(server: Server, size: int, fill: Callable[[str, int], None]) -> float:
    before = rss_bytes(server.pid)
    aside(partial(fill, str(server.socket_path), size))
    return (rss_bytes(server.pid) - before) / size


def _fill_broker(path: str, size: int) -> None:
    row = {"input_hash": INPUT_HASH, "input": INPUT}
    with tollgate.connect(f"ipc://{path}", timeout_s=60) as client:
        for _ in range(size // FILL.batch):
            client.create_many([row] * FILL.batch)


def _fill_redis(path: str, size: int) -> None:
    connection = redis_side.connect(path)
    commands = redis_side.Commands(connection, FILL)
    for _ in range(size // FILL.batch):
        redis_side.send(connection, commands.create(job_ids(FILL.batch)))
        redis_side.receive(connection, FILL.batch)
    connection.disconnect()


def _memory_usage(path: str) -> float:
    redis = redis_side.client(path)
    keys = [key for _, key in zip(range(SAMPLE), redis.scan_iter(match="job:*"), strict=False)]
    sizes: list[int] = [redis.memory_usage(key, samples=0) for key in keys]
    return sum(sizes) / len(sizes)


def _run(
    crew: Crew, server: Server, single: Callable[[], list[float]], run_s: float
) -> tuple[float, ...]:
    """Return CPU a command in microseconds, then p99.9 and the maximum of single calls."""
    run = lifecycle.run_once(crew, server, run_s)
    times = aside(single)
    tail_us = percentile(times, 99.9) * MICROSECONDS
    return run.server_us, tail_us, max(times) * MILLISECONDS


def _create_times(endpoint: str, calls: int) -> list[float]:
    with tollgate.connect(endpoint) as client:
        return _times(partial(client.create, INPUT_HASH), calls)


def _redis_times(path: str, calls: int) -> list[float]:
    redis = redis_side.client(path)
    connection = redis_side.connect(path)
    commands = redis_side.Commands(connection, SHAPE)
    connection.disconnect()

    def create() -> None:
        redis_side.job_of(redis.evalsha(*commands.create(job_ids(1))[0][1:]))

    return _times(create, calls)


def _times(ask: Callable[[], Any], calls: int) -> list[float]:
    for _ in range(WARM_UP):  # connecting and loading are not measured
        ask()
    times = []
    for _ in range(calls):
        begun = time.perf_counter()
        ask()
        times.append(time.perf_counter() - begun)
    return times


def _compare_stored(
    findings: Findings, sizes: tuple[int, ...], runs: dict[str, list[tuple[float, ...]]]
) -> None:
    least, most = sizes[0], sizes[-1]
    base = [run[0] for run in runs[f"broker {least}"]]
    for size in sizes[1:]:
        findings.compare(
            f"server CPU a command, {size:,} stored", "us",
            [run[0] for run in runs[f"broker {size}"]], f"itself with {least:,}", base,
            at_most(1.1) if size == 1_000_000 else None,
        )  # fmt: skip
    findings.compare(
        f"server CPU a command, {most:,} stored", "us",
        [run[0] for run in runs[f"broker {most}"]], "Redis",
        [run[0] for run in runs[f"redis {most}"]],
    )  # fmt: skip
    findings.compare(
        f"single create p99.9, {most:,} stored", "us",
        [run[1] for run in runs[f"broker {most}"]], "Redis",
        [run[1] for run in runs[f"redis {most}"]],
    )  # fmt: skip
    for side, values in runs.items():
        findings.figure(f"single create p99.9, {side} stored", "us", [run[1] for run in values])
        findings.figure(
            f"longest single create, {side} stored", "ms", [run[2] for run in values],
            "no pause above 20 ms may come from garbage collection",
        )  # fmt: skip


# --- connected clients ----------------------------------------------------------------------------


def _measure_clients(clients: int, effort: Effort, place: Path, findings: Findings) -> None:
    with ExitStack() as stack:
        broker = stack.enter_context(Broker(place / "a"))
        redis = stack.enter_context(Redis(place / "b", "--maxclients", "4096"))
        processes = min(CALLERS, clients)
        each = clients // processes
        address = broker.endpoint
        path = str(redis.socket_path)
        ours = stack.enter_context(Crew(partial(Callers, address, each), processes))
        theirs = stack.enter_context(Crew(partial(RedisCallers, path, each), processes))
        _measure_idle(clients, broker, redis, effort, findings)
        runs = in_turns(
            {
                "ours": partial(lifecycle.run_once, ours, broker, effort.run_s),
                "theirs": partial(lifecycle.run_once, theirs, redis, effort.run_s),
            },
            effort.rounds,
        )
    for column, unit, what in ((0, "commands/s", "throughput"), (1, "us", "server CPU a command")):
        findings.compare(
            f"{clients:,} busy clients, single gets: {what}", unit,
            [run[column] for run in runs["ours"]], "Redis",
            [run[column] for run in runs["theirs"]],
        )  # fmt: skip


def _measure_idle(
    clients: int, broker: Broker, redis: Redis, effort: Effort, findings: Findings
) -> None:
    """Measure what idle clients cost, and what another client notices of them."""
    idle_s = effort.pick(quick=0.5, full=IDLE_S)
    for server in (broker, redis):
        before_s = cpu_s(server.pid)
        time.sleep(idle_s)
        share = (cpu_s(server.pid) - before_s) / idle_s
        findings.figure(
            f"{clients:,} idle clients: memory of the {server.name}", "MiB",
            [rss_bytes(server.pid) / 2**20],
        )  # fmt: skip
        findings.figure(
            f"{clients:,} idle clients: CPU of the {server.name}", "ms a second",
            [share * MILLISECONDS],
        )  # fmt: skip
    calls = effort.pick(quick=500, full=4_000)
    runs = in_turns(
        {
            "ours": partial(aside, partial(_create_times, broker.endpoint, calls)),
            "theirs": partial(aside, partial(_redis_times, str(redis.socket_path), calls)),
        },
        effort.rounds,
    )
    for name, at in (("p50", 50), ("p99.9", 99.9)):
        findings.compare(
            f"{clients:,} idle clients, single create {name}", "us",
            [percentile(run, at) * MICROSECONDS for run in runs["ours"]], "Redis",
            [percentile(run, at) * MICROSECONDS for run in runs["theirs"]],
        )  # fmt: skip


def _allow_many_files() -> None:
    with suppress(ValueError, OSError):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Callers:
    """Many AsyncClients on one loop, each of which reads its job repeatedly."""

    def __init__(self, endpoint: str, clients: int) -> None:
        _allow_many_files()
        self._loop = asyncio.new_event_loop()
        self._clients = [tollgate.AsyncClient(endpoint, timeout_s=60) for _ in range(clients)]
        self._job_ids = self._loop.run_until_complete(self._create())

    async def _create(self) -> list[str]:
        return [(await client.create(INPUT_HASH)).job_id for client in self._clients]

    def lot(self) -> int:
        self._loop.run_until_complete(self._lot())
        return len(self._clients)

    async def _lot(self) -> None:
        await asyncio.gather(*map(_get, self._clients, self._job_ids))

    def close(self) -> None:
        for client in self._clients:
            self._loop.run_until_complete(client.close())
        self._loop.close()


async def _get(client: tollgate.AsyncClient, job_id: str) -> None:
    await client.get(job_id)


class RedisCallers:
    """Many clients of redis.asyncio on one loop, each of which reads its hash repeatedly."""

    def __init__(self, path: str, clients: int) -> None:
        from redis import asyncio as redis_asyncio  # noqa: PLC0415 - beside redis_side

        _allow_many_files()
        self._loop = asyncio.new_event_loop()
        self._clients: list[Any] = [
            redis_asyncio.Redis(
                unix_socket_path=path, decode_responses=True, protocol=2,
                single_connection_client=True,
            )
            for _ in range(clients)
        ]  # fmt: skip
        connection = redis_side.connect(path)
        commands = redis_side.Commands(connection, SHAPE)
        ids = job_ids(clients)
        redis_side.send(connection, commands.create(ids))
        redis_side.receive(connection, clients)
        connection.disconnect()
        self._keys = ["job:" + job_id for job_id in ids]

    def lot(self) -> int:
        self._loop.run_until_complete(self._lot())
        return len(self._clients)

    async def _lot(self) -> None:
        await asyncio.gather(*(client.hgetall(key) for client, key in self._pairs()))

    def _pairs(self) -> Any:  # noqa: ANN401 - a zip
        return zip(self._clients, self._keys, strict=True)

    def close(self) -> None:
        for client in self._clients:
            self._loop.run_until_complete(client.aclose())
        self._loop.close()

"""One command at a time: how long a `get` takes, beside redis-py and beside a bare echo."""

import inspect
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

import tollgate
from benchmarks import redis_side
from benchmarks.crew import aside
from benchmarks.echo import EchoClient, EchoServer
from benchmarks.measure import Effort, Findings, Goal, at_most, in_turns, percentile
from benchmarks.processes import Broker, Redis
from benchmarks.work import INPUT_HASH, Shape, job_ids
from domain.commands import Get
from domain.messages import PROTOCOL_VERSION, Reply, Request, encode_request
from domain.results import JobFields, JobResult

PERCENTILES: Final = (("p50", 50.0), ("p99", 99.0), ("p99.9", 99.9))
WITH_GOALS: Final = ("p50", "p99")
MICROSECONDS: Final = 1e6
WARM_UP: Final = 300
VALUE_BYTES: Final = 400
"""About as much as a job without an input takes on the wire."""
SPIN: Final = {"spin_us": 300, "spin_ms": 0.3, "spin_s": 0.0003}
"""The client's setting for a brief spin, by the names that it may have."""

Times = dict[str, list[list[float]]]


def measure(effort: Effort, directory: Path) -> Findings:
    findings = Findings("roundtrip")
    calls = effort.pick(quick=1_000, full=5_000)
    with ExitStack() as stack:
        broker = stack.enter_context(Broker(directory / "roundtrip-a"))
        awake = stack.enter_context(Broker(directory / "roundtrip-c", "--spin-us", "300"))
        redis = stack.enter_context(Redis(directory / "roundtrip-b"))
        echo_url = f"ipc://{directory}/echo"
        job_id, request, reply = aside(partial(_prepare, broker.endpoint))
        stack.enter_context(EchoServer(echo_url, reply))
        times: Times = aside(
            partial(
                _times,
                broker.endpoint,
                awake.endpoint,
                str(redis.socket_path),
                echo_url,
                job_id,
                request,
                calls,
                effort.rounds,
            )
        )
    _compare(findings, times)
    if "tollgate, spinning" not in times:
        findings.skip("the client has no setting for a brief spin")
    findings.settings |= {
        "calls": f"{calls} a run, {effort.rounds} runs, all sides in turns from one process",
        "echo": f"request {len(request)} bytes, reply {len(reply)} bytes, poll then recv",
    }
    return findings


def spin_setting() -> dict[str, Any]:
    """Return the client's argument for a brief spin, or nothing if it has none."""
    known = inspect.signature(tollgate.Client).parameters
    return {name: value for name, value in SPIN.items() if name in known}


def _prepare(endpoint: str) -> tuple[str, bytes, bytes]:
    """Store a job; return its id, and the frames of asking for it and of the answer."""
    with tollgate.connect(endpoint) as client:
        job = client.create(INPUT_HASH)
    request = encode_request(
        Request(PROTOCOL_VERSION, 0, 2, 0, [Get(job_id=job.job_id)], job.pay_by_time)
    )
    reply = msgspec.msgpack.encode(
        Reply(PROTOCOL_VERSION, 2, [JobResult(JobFields(**job.model_dump()))])
    )
    return job.job_id, request, reply


def _times(  # noqa: PLR0913, PLR0917 - one argument a side
    endpoint: str,
    awake_endpoint: str,
    redis_path: str,
    echo_url: str,
    job_id: str,
    request: bytes,
    calls: int,
    rounds: int,
) -> Times:
    with ExitStack() as stack:
        client = stack.enter_context(tollgate.connect(endpoint))
        redis = redis_side.client(redis_path)
        stack.callback(redis.close)
        redis_id = _redis_job(redis_path)
        redis.set("value", "x" * VALUE_BYTES)
        echo = EchoClient(echo_url, request)
        stack.callback(echo.close)
        sides: dict[str, Callable[[], Any]] = {
            "tollgate": partial(client.get, job_id),
            "echo": echo.ask,
            "redis-py HGETALL": partial(redis.hgetall, "job:" + redis_id),
            "redis-py GET": partial(redis.get, "value"),
        }
        if spin_setting():
            spinning = tollgate.Client(endpoint, **spin_setting())
            stack.callback(spinning.close)
            sides["tollgate, spinning"] = partial(spinning.get, job_id)
        awake = stack.enter_context(tollgate.connect(awake_endpoint))
        awake_id = awake.create(INPUT_HASH).job_id
        sides["tollgate, broker spinning"] = partial(awake.get, awake_id)
        for ask in sides.values():
            _time(ask, WARM_UP)
        return in_turns({name: partial(_time, ask, calls) for name, ask in sides.items()}, rounds)


def _redis_job(path: str) -> str:
    connection = redis_side.connect(path)
    commands = redis_side.Commands(connection, Shape(1, 1))
    ids = job_ids(1)
    redis_side.send(connection, commands.create(ids))
    redis_side.receive(connection, 1)
    connection.disconnect()
    return ids[0]


def _time(ask: Callable[[], Any], calls: int) -> list[float]:
    clock = time.perf_counter
    times = []
    for _ in range(calls):
        begun = clock()
        ask()
        times.append(clock() - begun)
    return times


def _compare(findings: Findings, times: Times) -> None:
    tails = {
        side: {
            name: [percentile(run, at) * MICROSECONDS for run in runs] for name, at in PERCENTILES
        }
        for side, runs in times.items()
    }
    for ours in ("tollgate", "tollgate, spinning", "tollgate, broker spinning"):
        if ours not in tails:
            continue
        for peer in ("echo", "redis-py HGETALL", "redis-py GET"):
            for name, _ in PERCENTILES:
                goal = _goal(ours, peer) if name in WITH_GOALS else None
                findings.compare(
                    f"get, {ours}, {name}", "us", tails[ours][name], peer, tails[peer][name], goal
                )


def _goal(ours: str, peer: str) -> Goal | None:
    if peer == "echo" and ours == "tollgate":
        return at_most(1.15)
    if peer == "redis-py HGETALL" and ours == "tollgate, spinning":
        return at_most(0.8)
    return None

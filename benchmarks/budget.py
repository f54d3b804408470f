"""Shows the time budget of a command on two cores at a goal, and what each part takes of it alone.

A goal of N times the throughput of Redis is a budget: the time of two cores for as many commands.
The core, the client, and ZeroMQ with the same bytes are measured alone, without disturbance. Their
sum is the least that these parts can take. Both processes together take more, because they disturb
each other.
"""

import time
from collections import Counter
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, Final, NamedTuple

import zmq

from benchmarks import tollgate_side
from benchmarks.crew import Crew, aside
from benchmarks.echo import EchoServer, in_turn
from benchmarks.lifecycle import GOALS, Run, run_once
from benchmarks.measure import Effort, Findings, in_turns
from benchmarks.processes import Broker, Redis, cpu_s
from benchmarks.work import STEPS, Shape, job_ids
from tollgate.broker.core.batch import Arrival
from tollgate.broker.core.engine import Engine
from tollgate.broker.core.limits import Limits
from tollgate.broker.core.pipeline import Pipeline
from tollgate.broker.core.roles import Principal, Role
from tollgate.broker.core.timers import Instant
from tollgate.client.commands import new_job_id
from tollgate.client.session import OPENING, Session

IN_FLIGHT: Final = 4
CORES: Final = 2
REPLY_BYTES: Final = 8 * 1024 * 1024
MICROSECONDS: Final = 1e6
PEER: Final = b"\x01peer"
PATIENCE_S: Final = 3_600.0


class Alone(NamedTuple):
    """Core and client in one process, with no socket: microseconds a command, and the frames."""

    core_us: float
    client_us: float
    requests: list[bytes]
    replies: list[bytes]


class Carried(NamedTuple):
    """The time of ZeroMQ for sending the frames, in microseconds a command."""

    server_us: float
    client_us: float


def measure(effort: Effort, directory: Path) -> Findings:
    findings = Findings("budget")
    for batch in effort.pick(quick=(100,), full=(100, 1_000)):
        _measure_batch(Shape(batch, IN_FLIGHT), effort, directory / f"budget-{batch}", findings)
    findings.settings |= {
        "two cores leave": f"{CORES} s a second, for "
        + ", ".join(
            f"{goal} times what Redis did at {batch}" for batch, (goal, _) in GOALS.items()
        ),
        "alone": "process time of core and client in one process; an echo of the same frames",
    }
    return findings


def _measure_batch(shape: Shape, effort: Effort, place: Path, findings: Findings) -> None:
    from benchmarks import redis_side  # noqa: PLC0415 - may raise Missing

    alone = partial(aside, partial(_alone, shape, effort.pick(quick=10_000, full=30_000)))
    frames: Alone = alone()
    with ExitStack() as stack:
        broker = stack.enter_context(Broker(place / "a"))
        redis = stack.enter_context(Redis(place / "b"))
        endpoint = f"ipc://{place}/echo"
        echo = stack.enter_context(EchoServer(endpoint, in_turn(frames.replies)))
        ours = stack.enter_context(Crew(partial(tollgate_side.OneStream, broker.endpoint, shape)))
        theirs = stack.enter_context(
            Crew(partial(redis_side.SendAhead, str(redis.socket_path), shape))
        )
        runs: dict[str, list[Any]] = in_turns(
            {
                "redis": partial(run_once, theirs, redis, effort.run_s),
                "alone": alone,
                "carried": partial(
                    aside, partial(_carry, endpoint, echo.pid, frames.requests, shape, effort.run_s)
                ),
                "ours": partial(run_once, ours, broker, effort.run_s),
            },
            effort.rounds,
        )
    _compare(findings, shape.batch, runs["redis"], runs["alone"], runs["carried"], runs["ours"])


def _compare(  # noqa: PLR0913, PLR0917 - one argument a side
    findings: Findings,
    batch: int,
    redis: list[Run],
    alone: list[Alone],
    carried: list[Carried],
    ours: list[Run],
) -> None:
    goal, cpu_goal = GOALS[batch]
    left = [CORES / (goal * run.per_second) * MICROSECONDS for run in redis]
    allowed = [cpu_goal * run.server_us for run in redis]
    core = [run.core_us for run in alone]
    client = [run.client_us for run in alone]
    at_broker = [run.server_us for run in carried]
    carrying = [run.server_us + run.client_us for run in carried]

    def compare(what: str, taken: list[float], peer: str, bounds: list[float]) -> None:
        name = f"{batch} a message, {IN_FLIGHT} in flight: {what}"
        findings.compare(name, "us a command", taken, peer, bounds)

    peer = "what two cores leave"
    compare("core alone", core, peer, left)
    compare("client alone", client, peer, left)
    compare("ZeroMQ alone, both ends", carrying, peer, left)
    compare("these three", [*map(sum, zip(core, client, carrying, strict=True))], peer, left)
    both = [run.server_us + run.client_us for run in ours]
    compare("measured, both processes", both, peer, left)
    peer = f"{cpu_goal} of redis-server"
    compare("core alone", core, peer, allowed)
    compare(
        "core, ZeroMQ at its end", [*map(sum, zip(core, at_broker, strict=True))], peer, allowed
    )
    compare("measured, the broker", [run.server_us for run in ours], peer, allowed)


def _alone(shape: Shape, jobs: int) -> Alone:
    """Run lifecycles of `jobs` jobs with the client's session and the core in one process."""
    engine = Engine(Limits(), new_id=new_job_id, server="benchmark", boot_id="benchmark")
    pipeline = Pipeline(engine, Counter(), REPLY_BYTES)
    session = Session("benchmark", lambda: 0.5)
    owner = Principal("uid:0", frozenset({Role.ADMIN}))
    requests: list[bytes] = []
    replies: list[bytes] = []
    core_s = 0.0

    def answered() -> None:
        """Send all frames that the session has, and give it the answers."""
        nonlocal core_s
        while (frame := session.next_frame(time.monotonic(), time.time())) is not None:
            session.sent(time.monotonic())
            begun = time.process_time()
            (reply,) = pipeline.run([Arrival(PEER, [frame], owner)], _now()).replies
            core_s += time.process_time() - begun
            if len(requests) < STEPS * shape.groups:
                requests.append(frame)
                replies.append(reply.frame)
            session.receive(reply.frame, time.monotonic())

    def call(commands: Any) -> list[Any]:  # noqa: ANN401 - as `submit` has it
        exchange = session.submit(
            commands, deadline=time.monotonic() + PATIENCE_S, message_commands=shape.batch
        )
        while not exchange.done:
            session.pull_one(exchange)
            answered()
        return exchange.values

    call([OPENING])
    for _ in range(2):  # once to warm up
        requests.clear()
        replies.clear()
        core_s, begun = 0.0, time.process_time()
        done = 0
        while done < jobs * STEPS:
            ids = job_ids(shape.batch * shape.groups)
            tollgate_side.expect_completed(call(tollgate_side.commands(ids, None))[-1])
            done += STEPS * len(ids)
        taken_s = time.process_time() - begun
    each = MICROSECONDS / done
    one_a_step = slice(0, STEPS * shape.groups, shape.groups)
    return Alone(
        core_s * each, (taken_s - core_s) * each, requests[one_a_step], replies[one_a_step]
    )


def _carry(
    endpoint: str, server: int, requests: list[bytes], shape: Shape, run_s: float
) -> Carried:
    """Exchange the frames with an echo, several in flight, without any other work."""
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.connect(endpoint)
    them = cycle(requests)
    for _ in requests:
        socket.send(next(them))
        socket.recv()
    messages, server_s, client_s = 0, cpu_s(server), time.process_time()
    until = time.perf_counter() + run_s
    for _ in range(shape.in_flight):
        socket.send(next(them))
    while time.perf_counter() < until or messages % STEPS:  # the echo stays in step
        if not socket.getsockopt(zmq.EVENTS) & zmq.POLLIN:  # type: ignore[arg-type, operator]
            zmq.zmq_poll([(socket, zmq.POLLIN)], 10_000)
        socket.recv(zmq.DONTWAIT)
        socket.send(next(them))
        messages += 1
    server_s, client_s = cpu_s(server) - server_s, time.process_time() - client_s
    for _ in range(shape.in_flight):
        socket.recv()
    context.destroy(linger=0)
    each = MICROSECONDS / (messages * shape.batch)
    return Carried(server_s * each, client_s * each)


def _now() -> Instant:
    return Instant(datetime.now(UTC), time.monotonic_ns() // 1_000_000)

"""Measures one `get` at a time, beside redis-py and beside a bare echo.

Some rows show parts of a round trip: the echo with a little work on either side, our broker with a
bare client, our client with an echo, and an echo over a bare socket.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import tollgate
from benchmarks import redis_side
from benchmarks.crew import aside
from benchmarks.echo import BareClient, EchoClient, EchoServer, busily, by_number, in_turn
from benchmarks.measure import Effort, Findings, Goal, at_most, in_turns, percentile
from benchmarks.processes import Broker, Redis
from benchmarks.work import INPUT_HASH, Shape, job_ids
from tollgate.domain.commands import Get
from tollgate.domain.messages import PROTOCOL_VERSION, Reply, Request, encode_reply, encode_request
from tollgate.domain.results import HelloResult, JobFields, JobResult

PERCENTILES: Final = (("p50", 50.0), ("p99", 99.0), ("p99.9", 99.9))
WITH_GOALS: Final = ("p50", "p99")
MICROSECONDS: Final = 1e6
WARM_UP: Final = 300
VALUE_BYTES: Final = 400
"""About the size of a job with a short input on the wire."""
SPIN_US: Final = 300
WORK_US: Final = 10
"""The work of the busy echo on either side."""
OURS: Final = ("tollgate", "tollgate, spinning", "tollgate, broker spinning")
PARTS: Final = (
    f"echo, {WORK_US} us of work on either side",
    "our broker, a bare client",
    "an echo, our client",
    "an echo over a bare socket",
)

Times = dict[str, list[list[float]]]


class Asked(NamedTuple):
    """A stored job, and the frames of a `get` of it and of the reply."""

    job: dict[str, Any]
    hello: HelloResult
    request: bytes
    reply: bytes


class Places(NamedTuple):
    """Where the servers listen."""

    broker: str
    awake_broker: str
    redis: str
    echo: str
    busy_echo: str
    fitting_echo: str
    bare_echo: str


def measure(effort: Effort, directory: Path) -> Findings:
    findings = Findings("roundtrip")
    calls = effort.pick(quick=1_000, full=5_000)
    with ExitStack() as stack:
        broker = stack.enter_context(Broker(directory / "roundtrip-a"))
        awake = stack.enter_context(Broker(directory / "roundtrip-c", "--spin-us", str(SPIN_US)))
        redis = stack.enter_context(Redis(directory / "roundtrip-b"))
        places = Places(
            broker.endpoint, awake.endpoint, str(redis.socket_path), f"ipc://{directory}/echo",
            f"ipc://{directory}/busy", f"ipc://{directory}/fits", f"{directory}/bare",
        )  # fmt: skip
        asked: Asked = aside(partial(_prepare, broker.endpoint))
        shown = Reply(PROTOCOL_VERSION, 0, [JobResult(JobFields(**asked.job))])
        for endpoint, answer in (
            (places.echo, in_turn([asked.reply])),
            (places.busy_echo, busily(asked.reply, WORK_US)),
            (places.fitting_echo, by_number(Reply(PROTOCOL_VERSION, 0, [asked.hello]), shown)),
            (places.bare_echo, in_turn([asked.reply])),
        ):
            stack.enter_context(EchoServer(endpoint, answer))
        times: Times = aside(partial(_times, places, asked, calls, effort.rounds))
    _compare(findings, times)
    findings.settings |= {
        "calls": f"{calls} a run, {effort.rounds} runs, all sides in turns from one process",
        "echo": f"request {len(asked.request)}, reply {len(asked.reply)} bytes, poll then recv",
    }
    return findings


def _prepare(endpoint: str) -> Asked:
    """Store a job; return it, and the frames of a `get` of it and of the reply."""
    with tollgate.connect(endpoint) as client:
        job, hello = client.create(INPUT_HASH), client.ping()
    fields = job.model_dump()
    request = Request(PROTOCOL_VERSION, 0, 2, 0, [Get(job_id=job.job_id)], job.pay_by_time)
    reply = encode_reply(2, [JobResult(JobFields(**fields))])
    return Asked(fields, hello, encode_request(request), reply)


def _times(places: Places, asked: Asked, calls: int, rounds: int) -> Times:
    with ExitStack() as stack:

        def closed(client: Any) -> Any:  # noqa: ANN401 - anything that can be closed
            stack.callback(client.close)
            return client

        job_id, request = asked.job["job_id"], asked.request
        awake = closed(tollgate.connect(places.awake_broker))
        redis = closed(redis_side.client(places.redis))
        redis.set("value", "x" * VALUE_BYTES)
        busy, bare_us, fits, bare = PARTS
        sides: dict[str, Callable[[], Any]] = {
            "tollgate": partial(closed(tollgate.connect(places.broker)).get, job_id),
            "echo": closed(EchoClient(places.echo, request)).ask,
            "redis-py HGETALL": partial(redis.hgetall, "job:" + _redis_job(places.redis)),
            "redis-py GET": partial(redis.get, "value"),
            "tollgate, spinning": partial(
                closed(tollgate.connect(places.broker, spin_us=SPIN_US)).get, job_id
            ),
            "tollgate, broker spinning": partial(awake.get, awake.create(INPUT_HASH).job_id),
            "echo, spinning": closed(EchoClient(places.echo, request, spin_us=SPIN_US)).ask,
            busy: closed(EchoClient(places.busy_echo, request, work_us=WORK_US)).ask,
            bare_us: closed(EchoClient(places.broker, request)).ask,
            fits: partial(closed(tollgate.connect(places.fitting_echo)).get, job_id),
            bare: closed(BareClient(places.bare_echo, request)).ask,
        }
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

    def compare(side: str, peer: str, name: str, goal: Goal | None = None) -> None:
        findings.compare(
            f"get, {side}, {name}", "us", tails[side][name], peer, tails[peer][name], goal
        )

    for ours in OURS:
        for peer in ("echo", "redis-py HGETALL", "redis-py GET"):
            for name, _ in PERCENTILES:
                compare(ours, peer, name, _goal(ours, peer) if name in WITH_GOALS else None)
    for part in PARTS:
        for name in WITH_GOALS:
            compare(part, "echo", name)
    for name in WITH_GOALS:
        compare("echo, spinning", "redis-py HGETALL", name)


def _goal(ours: str, peer: str) -> Goal | None:
    if peer == "echo" and ours == "tollgate":
        return at_most(1.15)
    if peer == "redis-py HGETALL" and ours == "tollgate, spinning":
        return at_most(0.8)
    return None

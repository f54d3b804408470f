"""The Redis side of the lifecycle: the same four steps, two of them Lua scripts.

The client is redis-py with hiredis over RESP 2, which is the faster protocol here. In lock step it
uses the calls of users. redis-py has no call for several pipelines in flight: there the benchmark
writes and reads the connections directly, without the bookkeeping of redis-py's pipelines. This
side leaves out what only tollgate does: times come from the client, nothing is counted, listed or
made unique, no deadline passes, and a job stays a dict of strings.
"""

import asyncio
from collections import deque
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from benchmarks.processes import Missing
from benchmarks.work import INPUT_HASH, RESULT, STEPS, Shape, job_ids

try:
    import hiredis  # noqa: F401 - redis-py uses it if it is installed
    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis
    from redis.connection import UnixDomainSocketConnection
except ImportError as fault:
    raise Missing(f"redis-py with hiredis is not installed ({fault.name})") from None

Command = tuple[Any, ...]
Job = dict[str, str]

CREATE: Final = """
if redis.call('EXISTS', KEYS[1]) == 1 then return redis.error_reply('JOB_CONFLICT') end
if #ARGV == 4 then
  redis.call('HSET', KEYS[1], 'job_id', ARGV[1], 'status', 'awaiting_payment',
    'input_hash', ARGV[2], 'blockchain_identifier', 'mock_bc_' .. string.sub(ARGV[1], 1, 8),
    'created_at', ARGV[3], 'updated_at', ARGV[3], 'version', 1, 'pay_by_time', ARGV[4])
else
  redis.call('HSET', KEYS[1], 'job_id', ARGV[1], 'status', 'awaiting_payment',
    'input_hash', ARGV[2], 'blockchain_identifier', 'mock_bc_' .. string.sub(ARGV[1], 1, 8),
    'created_at', ARGV[3], 'updated_at', ARGV[3], 'version', 1, 'pay_by_time', ARGV[4],
    'input', ARGV[5])
end
return redis.call('HGETALL', KEYS[1])
"""
TRANSITION: Final = """
local job = redis.call('HMGET', KEYS[1], 'status', 'version')
local from, to = job[1], ARGV[1]
if not from then return redis.error_reply('JOB_NOT_FOUND') end
local legal
if from == 'awaiting_payment' then
  legal = to == 'running' or to == 'failed'
elseif from == 'running' then
  legal = to == 'completed' or to == 'failed' or to == 'awaiting_input'
elseif from == 'awaiting_input' then
  legal = to == 'running' or to == 'failed'
end
if not legal then return redis.error_reply('ILLEGAL_TRANSITION') end
if ARGV[3] then
  redis.call('HSET', KEYS[1], 'status', to, 'updated_at', ARGV[2], 'version', job[2] + 1,
    'result', ARGV[3])
else
  redis.call('HSET', KEYS[1], 'status', to, 'updated_at', ARGV[2], 'version', job[2] + 1)
end
return redis.call('HGETALL', KEYS[1])
"""


def connect(path: str) -> UnixDomainSocketConnection:
    """Return a connection whose replies are text."""
    connection = UnixDomainSocketConnection(path=path, decode_responses=True, protocol=2)
    connection.connect()
    return connection


def client(path: str) -> Any:  # noqa: ANN401 - its replies are of many types
    """Return redis-py's client, which connects at its first call."""
    return Redis(unix_socket_path=path, decode_responses=True, protocol=2)


def ask(connection: UnixDomainSocketConnection, *command: Any) -> Any:  # noqa: ANN401
    """Send one command and return its reply, or raise it."""
    connection.send_command(*command)
    return connection.read_response()


def job_of(reply: list[str]) -> Job:
    """Return the job in a reply of HGETALL."""
    items = iter(reply)
    return dict(zip(items, items, strict=True))


class Commands:
    """Makes the commands of each step for a batch of ids."""

    def __init__(self, connection: UnixDomainSocketConnection, shape: Shape) -> None:
        self._create = ask(connection, "SCRIPT", "LOAD", CREATE)
        self._transition = ask(connection, "SCRIPT", "LOAD", TRANSITION)
        self._input = () if shape.input is None else (shape.input,)
        self.steps = (self.create, self.running, self.completed, self.get)

    def create(self, ids: list[str]) -> list[Command]:
        time = datetime.now(UTC)
        now, later, sha = time.isoformat(), (time + timedelta(days=1)).isoformat(), self._create
        more = self._input
        return [
            ("EVALSHA", sha, 1, "job:" + job_id, job_id, INPUT_HASH, now, later, *more)
            for job_id in ids
        ]

    def running(self, ids: list[str]) -> list[Command]:
        now, sha = datetime.now(UTC).isoformat(), self._transition
        return [("EVALSHA", sha, 1, "job:" + job_id, "running", now) for job_id in ids]

    def completed(self, ids: list[str]) -> list[Command]:
        now, sha = datetime.now(UTC).isoformat(), self._transition
        return [("EVALSHA", sha, 1, "job:" + job_id, "completed", now, RESULT) for job_id in ids]

    def get(self, ids: list[str]) -> list[Command]:
        return [("HGETALL", "job:" + job_id) for job_id in ids]


def send(connection: UnixDomainSocketConnection, commands: list[Command]) -> None:
    connection.send_packed_command(connection.pack_commands(commands))


def receive(connection: UnixDomainSocketConnection, count: int) -> list[Job]:
    read = connection.read_response  # raises the error of the script
    return [job_of(read()) for _ in range(count)]


def expect_completed(job: Job) -> None:
    if job["status"] != "completed":
        raise RuntimeError(f"a lifecycle ended with {job!r}")


class Calls:
    """One command, its reply, the next one."""

    def __init__(self, path: str, shape: Shape) -> None:
        self._redis = client(path)
        with_scripts = connect(path)
        self._commands = Commands(with_scripts, shape)
        with_scripts.disconnect()

    def lot(self) -> int:
        ids = job_ids(1)
        *scripts, read = self._commands.steps
        for step in scripts:
            job_of(self._redis.evalsha(*step(ids)[0][1:]))
        expect_completed(self._redis.hgetall(*read(ids)[0][1:]))
        return STEPS

    def close(self) -> None:
        self._redis.close()


class Pipelines(Calls):
    """One pipeline, its replies, the next one."""

    def __init__(self, path: str, shape: Shape) -> None:
        super().__init__(path, shape)
        self._batch = shape.batch

    def lot(self) -> int:
        ids = job_ids(self._batch)
        *scripts, read = self._commands.steps
        for step in scripts:
            pipeline = self._redis.pipeline(transaction=False)
            for command in step(ids):
                pipeline.evalsha(*command[1:])
            for reply in pipeline.execute():
                job_of(reply)
        pipeline = self._redis.pipeline(transaction=False)
        for command in read(ids):
            pipeline.hgetall(*command[1:])
        expect_completed(pipeline.execute()[-1])
        return STEPS * len(ids)


class Tasks:
    """As many asyncio tasks as commands in flight, over as many connections of redis-py's pool."""

    def __init__(self, path: str, shape: Shape) -> None:
        self._loop = asyncio.new_event_loop()
        self._redis: Any = AsyncRedis(unix_socket_path=path, decode_responses=True, protocol=2)
        with_scripts = connect(path)
        self._commands = Commands(with_scripts, shape)
        with_scripts.disconnect()
        self._shape = shape

    def lot(self) -> int:
        return self._loop.run_until_complete(self._lot())

    async def _lot(self) -> int:
        shape = self._shape
        tasks = [self._life(shape.groups // shape.in_flight) for _ in range(shape.in_flight)]
        return sum(await asyncio.gather(*tasks))

    async def _life(self, rounds: int) -> int:
        redis = self._redis
        for ids in (job_ids(1) for _ in range(rounds)):
            *scripts, read = self._commands.steps
            for step in scripts:
                job_of(await redis.evalsha(*step(ids)[0][1:]))
            expect_completed(await redis.hgetall(*read(ids)[0][1:]))
        return rounds * STEPS

    def close(self) -> None:
        self._loop.run_until_complete(self._redis.aclose())
        self._loop.close()


class SendAhead:
    """Writes the next pipelines before it reads the oldest one, over one connection or several."""

    def __init__(self, path: str, shape: Shape, *, connections: int = 1) -> None:
        self._connections = [connect(path) for _ in range(connections)]
        self._commands = Commands(self._connections[0], shape)
        self._shape = shape

    def lot(self) -> int:
        shape = self._shape
        ids = [job_ids(shape.batch) for _ in range(shape.groups)]
        under_way: deque[UnixDomainSocketConnection] = deque()
        jobs: list[Job] = []
        for step in self._commands.steps:
            for group, some in enumerate(ids):
                if len(under_way) == shape.in_flight:
                    jobs = receive(under_way.popleft(), shape.batch)
                # A job stays on its connection, so that its steps stay in order.
                connection = self._connections[group % len(self._connections)]
                send(connection, step(some))
                under_way.append(connection)
        while under_way:
            jobs = receive(under_way.popleft(), shape.batch)
        expect_completed(jobs[-1])
        return STEPS * shape.batch * shape.groups

    def close(self) -> None:
        for connection in self._connections:
            connection.disconnect()


class SendAheadOnMany(SendAhead):
    """As many connections as pipelines in flight."""

    def __init__(self, path: str, shape: Shape) -> None:
        super().__init__(path, shape, connections=shape.in_flight)


IN_FLIGHT: Final = {
    "send-ahead on one connection": SendAhead,
    "send-ahead on a connection each": SendAheadOnMany,
}


def ways(shape: Shape, *, tasks: bool = False) -> dict[str, Any]:
    """Return the producers for this shape, by the name of their way."""
    if tasks:
        return {"redis.asyncio": Tasks}
    if shape.in_flight > 1:
        return IN_FLIGHT
    return {"plain calls": Calls} if shape.batch == 1 else {"pipeline()": Pipelines}

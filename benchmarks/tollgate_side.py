"""The tollgate side of the lifecycle: the client that users call, in all ways to call it."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any, Final

import tollgate
from benchmarks.work import INPUT_HASH, RESULT, STEPS, Shape, job_ids

RUNNING: Final = tollgate.JobStatus.RUNNING
COMPLETED: Final = tollgate.JobStatus.COMPLETED


def expect_completed(job: Any) -> None:  # noqa: ANN401 - it may be a refusal
    """Raise RuntimeError unless the lifecycle is complete."""
    if not isinstance(job, tollgate.Job) or job.status != COMPLETED:
        raise RuntimeError(f"a lifecycle ended with {job!r}")


def rows(shape: Shape) -> list[Any]:
    """Return the arguments of `create_many` for one batch."""
    if shape.input is None:
        return [INPUT_HASH] * shape.batch
    return [{"input_hash": INPUT_HASH, "input": shape.input}] * shape.batch


def commands(ids: list[str], text: str | None) -> Iterator[Any]:
    """Make the commands of the lifecycles of these jobs, all of a step before the next."""
    make = tollgate.commands
    for job_id in ids:
        yield make.create(INPUT_HASH, job_id=job_id, input=text)
    for job_id in ids:
        yield make.transition(job_id, RUNNING)
    for job_id in ids:
        yield make.transition(job_id, COMPLETED, result=RESULT)
    for job_id in ids:
        yield make.get(job_id)


class OneByOne:
    """The plain calls, one command a message."""

    def __init__(self, endpoint: str, shape: Shape) -> None:
        self._client = tollgate.connect(endpoint)
        self._fields = {"input": shape.input} if shape.input else {}

    def lot(self) -> int:
        client = self._client
        job_id = client.create(INPUT_HASH, **self._fields).job_id  # type: ignore[arg-type]
        client.transition(job_id, RUNNING)
        client.transition(job_id, COMPLETED, result=RESULT)
        expect_completed(client.get(job_id))
        return STEPS

    def close(self) -> None:
        self._client.close()


class LockStep:
    """`create_many` and `batch()`: one message, its answer, the next one."""

    def __init__(self, endpoint: str, shape: Shape) -> None:
        self._client = tollgate.connect(endpoint, timeout_s=60)
        self._rows = rows(shape)

    def lot(self) -> int:
        client = self._client
        ids = [job.job_id for job in client.create_many(self._rows)]
        batch = client.batch()
        for job_id in ids:
            batch.transition(job_id, RUNNING)
        batch.send()
        batch = client.batch()
        for job_id in ids:
            batch.transition(job_id, COMPLETED, result=RESULT)
        batch.send()
        batch = client.batch()
        for job_id in ids:
            batch.get(job_id)
        expect_completed(batch.send()[-1])
        return STEPS * len(ids)

    def close(self) -> None:
        self._client.close()


class OneLargeBatch:
    """One `batch()` that the client cuts into messages, as many at once as its window holds."""

    def __init__(self, endpoint: str, shape: Shape, *, spin_us: int = 0) -> None:
        self._client = tollgate.connect(endpoint, timeout_s=60, spin_us=spin_us)
        self._shape = shape

    def lot(self) -> int:
        shape = self._shape
        ids = job_ids(shape.batch * shape.groups)
        batch = self._client.batch(message_commands=shape.batch)
        for job_id in ids:
            batch.create(INPUT_HASH, job_id=job_id, input=shape.input)
        for job_id in ids:
            batch.transition(job_id, RUNNING)
        for job_id in ids:
            batch.transition(job_id, COMPLETED, result=RESULT)
        for job_id in ids:
            batch.get(job_id)
        expect_completed(batch.send()[-1])
        return STEPS * len(ids)

    def close(self) -> None:
        self._client.close()


class OneStream(OneLargeBatch):
    """One `send_many()` of a generator: commands are made while others are in flight."""

    def lot(self) -> int:
        shape = self._shape
        ids = job_ids(shape.batch * shape.groups)
        values = self._client.send_many(commands(ids, shape.input), message_commands=shape.batch)
        expect_completed(values[-1])
        return STEPS * len(ids)


class Tasks:
    """As many asyncio tasks as messages in flight, each in lock step with its own batches."""

    def __init__(self, endpoint: str, shape: Shape) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = tollgate.AsyncClient(endpoint, timeout_s=60)
        self._shape = shape
        self._rows = rows(shape)

    def lot(self) -> int:
        return self._loop.run_until_complete(self._lot())

    async def _lot(self) -> int:
        shape = self._shape
        cycle = self._single if shape.batch == 1 else self._batch
        rounds = shape.groups // shape.in_flight
        tasks = [_repeat(cycle, rounds) for _ in range(shape.in_flight)]
        return sum(await asyncio.gather(*tasks))

    async def _single(self) -> int:
        client = self._client
        job_id = (await client.create(INPUT_HASH, input=self._shape.input)).job_id
        await client.transition(job_id, RUNNING)
        await client.transition(job_id, COMPLETED, result=RESULT)
        expect_completed(await client.get(job_id))
        return STEPS

    async def _batch(self) -> int:
        client = self._client
        ids = [job.job_id for job in await client.create_many(self._rows)]
        batch = client.batch()
        for job_id in ids:
            batch.transition(job_id, RUNNING)
        await batch.send()
        batch = client.batch()
        for job_id in ids:
            batch.transition(job_id, COMPLETED, result=RESULT)
        await batch.send()
        batch = client.batch()
        for job_id in ids:
            batch.get(job_id)
        expect_completed((await batch.send())[-1])
        return STEPS * len(ids)

    def close(self) -> None:
        self._loop.run_until_complete(self._client.close())
        self._loop.close()


async def _repeat(cycle: Callable[[], Coroutine[Any, Any, int]], rounds: int) -> int:
    return sum([await cycle() for _ in range(rounds)])


IN_FLIGHT: Final = {
    "one send_many()": OneStream,
    "one large batch()": OneLargeBatch,
    "asyncio tasks": Tasks,
}
"""Ways to have several messages in flight; the fastest is measured."""


def ways(shape: Shape, spin_us: int = 0, *, tasks: bool = False) -> dict[str, Any]:
    """Return the producers for this shape, by the name of their way."""
    if tasks:
        return {"AsyncClient": Tasks}
    if spin_us:
        return {"one send_many(), spinning": partial(OneStream, spin_us=spin_us)}
    if shape.in_flight > 1:
        return IN_FLIGHT
    return {"plain calls": OneByOne} if shape.batch == 1 else {"create_many, batch()": LockStep}

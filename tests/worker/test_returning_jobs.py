"""Jobs that leave a worker and come back to it, at a real broker whose time the test advances.

Leases lapse by the broker's time, and the worker touches them by its own: so a lease that has
lapsed stays so until the worker hears of it.
"""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import tollgate
from tests.worker.house import PATIENCE_S
from tests.worker.script import until_true
from tollgate import AsyncContext, Client, Context, Job
from tollgate.testing import Broker

LEASE_MS = 60_000
SCHEMA = '{"input_data":[{"id":"city","type":"string"}]}'


@pytest.fixture
def broker(tollgate_broker: Broker) -> Broker:
    return tollgate_broker


@pytest.fixture
def client(tollgate_client: Client) -> Client:
    return tollgate_client


class Running:
    """A worker that runs in a thread."""

    def __init__(self, broker: Broker, handler: Any, **options: Any) -> None:
        self.worker = tollgate.Worker(handler, broker.endpoint, lease_ms=LEASE_MS, **options)
        self._thread = threading.Thread(target=self.worker.run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self.worker.stop()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()


@pytest.fixture
def run(broker: Broker) -> Iterator[Any]:
    started: list[Running] = []

    def start(handler: Any, **options: Any) -> Running:
        started.append(Running(broker, handler, **options))
        return started[-1]

    yield start
    for each in started:
        each.stop()


def test_a_job_that_moved_meanwhile_is_called_again(
    broker: Broker, client: Client, run: Any
) -> None:
    """Another worker asked a question in the meantime: the call that goes on is of before."""
    calls: list[str | None] = []
    go_on = {"first": threading.Event(), "second": threading.Event()}

    def handler(job: Job, ctx: Context) -> str:
        calls.append(job.input)
        if calls.count(job.input) == 1:
            go_on[job.input or ""].wait(PATIENCE_S)
            return "old"
        return f"sunny in {ctx.ask(SCHEMA)}"

    first, second = (broker.pay(client.create(input=name)) for name in go_on)
    run(handler, concurrency=2)
    until_true(lambda: len(calls) == 2)
    broker.advance(LEASE_MS / 1_000 + 1)
    leases = client.claim("running", job_ids=[first.job_id, second.job_id], wait_ms=0)
    tokens = {each.job.job_id: each.token for each in leases}
    asked = client.transition(
        first.job_id, "awaiting_input", input_schema=SCHEMA, lease=tokens[first.job_id]
    )
    client.provide_input(first.job_id, "Riga", expected_version=asked.version)
    client.transition(second.job_id, "failed", error="no", lease=tokens[second.job_id])
    go_on["second"].set()  # its slot is free: the worker claims the first job
    until_true(lambda: calls.count("first") == 2)
    go_on["first"].set()
    assert client.wait(first.job_id, timeout_s=PATIENCE_S).result == "sunny in Riga"
    assert client.get(second.job_id).error == "no"


def test_a_lapse_counts_as_a_try_of_the_call_that_goes_on(
    broker: Broker, client: Client, run: Any
) -> None:
    job = broker.pay(client.create(input="a"))
    seen: list[int] = []

    async def handler(job: Job, ctx: AsyncContext) -> str:
        seen.append(ctx.attempt)
        while ctx.attempt == 1:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        raise LookupError("no such city")

    run(handler, max_attempts=2)
    until_true(lambda: seen)
    broker.advance(LEASE_MS / 1_000 + 1)  # the worker has free slots, and claims it again
    ended = client.wait(job.job_id, timeout_s=PATIENCE_S)
    assert (ended.error, seen) == ("LookupError: no such city", [1])

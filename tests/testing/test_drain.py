"""Draining: a real worker does all that is ready, between two advances of the time."""

import asyncio
import threading
import time
from typing import Any

import pytest

import tollgate
from tollgate import ArgumentError, AsyncContext, Client, Context, Fail, Job, Retry
from tollgate.testing import Broker, BrokerFailedError

from .inside import fail


@pytest.fixture
def broker(tollgate_broker: Broker) -> Broker:
    return tollgate_broker


@pytest.fixture
def client(tollgate_client: Client) -> Client:
    return tollgate_client


def shout(job: Job) -> str:
    return (job.input or "").upper()


async def shout_later(job: Job) -> str:
    await asyncio.sleep(0)
    return shout(job)


@pytest.mark.parametrize("handler", [shout, shout_later])
def test_all_that_is_ready_is_done(broker: Broker, client: Client, handler: Any) -> None:
    jobs = [broker.pay(client.create(input=name)) for name in ("a", "b", "c")]
    unpaid = client.create(input="d")
    assert broker.drain(handler) == 3
    assert [client.get(job.job_id).result for job in jobs] == ["A", "B", "C"]
    assert client.get(unpaid.job_id).status == "awaiting_payment"
    assert broker.drain(handler) == 0


def test_delays_are_drained_when_they_end(broker: Broker, client: Client) -> None:
    for delay_s in (0, 10, 20, 20):
        broker.pay(client.create(input="a", delay_s=delay_s))
    assert broker.drain(shout) == 1
    broker.advance(10)
    assert broker.drain(shout) == 1
    broker.advance(10)
    assert broker.drain(shout) == 2


def test_retries_are_drained_one_by_one(broker: Broker, client: Client) -> None:
    attempts: list[int] = []

    def flaky(job: Job, ctx: Context) -> str:
        attempts.append(ctx.attempt)
        if ctx.attempt == 1:
            raise ConnectionError("busy")
        if ctx.attempt == 2:
            raise Retry("later", after_s=3_600)
        return "done"

    job = broker.pay(client.create(input="a"))
    assert broker.drain(flaky, backoff_s=[30]) == 0
    assert broker.drain(flaky, backoff_s=[30]) == 0
    assert attempts == [1]
    broker.advance(60)  # with its jitter
    assert broker.drain(flaky, backoff_s=[30]) == 0
    broker.advance(2 * 3_600)
    assert broker.drain(flaky, backoff_s=[30]) == 1
    assert attempts == [1, 2, 3]
    assert client.get(job.job_id).result == "done"


def test_a_job_fails_after_its_last_try(broker: Broker, client: Client) -> None:
    def broken(job: Job) -> str:
        raise ValueError("no good") if job.input == "a" else Fail("never")

    first, second = (broker.pay(client.create(input=name)) for name in ("a", "b"))
    done = 0
    for _ in range(4):
        done += broker.drain(broken, max_attempts=3, backoff_s=1)
        broker.advance(3_600)
    assert done == 2
    assert client.get(first.job_id).error == "ValueError: no good"
    assert client.get(second.job_id).error == "never"


def test_a_question_is_answered_between_drains(broker: Broker, client: Client) -> None:
    async def ask(job: Job, ctx: AsyncContext) -> str:
        return f"{job.input} {await ctx.ask({'input_data': [{'id': 'name', 'type': 'string'}]})}"

    job = broker.pay(client.create(input="hello"))
    assert broker.drain(ask) == 0
    asked = client.get(job.job_id)
    assert asked.status == "awaiting_input"
    client.provide_input(job.job_id, "world", expected_version=asked.version)
    assert broker.drain(ask) == 1
    assert client.get(job.job_id).result == "hello world"


async def test_a_coroutine_drains_in_its_own_loop(broker: Broker) -> None:
    here = asyncio.get_running_loop()

    async def in_loop(job: Job) -> str:
        assert asyncio.get_running_loop() is here
        return "done"

    async with broker.connect_async() as client:
        job = broker.pay(await client.create(input="a"))
        assert await broker.drain_async(in_loop) == 1
        broker.pay(await client.create(input="b"))
        assert await broker.drain_async(shout) == 1
        assert (await client.get(job.job_id)).result == "done"


def test_options_are_those_of_a_worker(broker: Broker, client: Client) -> None:
    broker.pay(client.create(input="a", queue="slow"))
    assert broker.drain(shout) == 0
    assert broker.drain(shout, queues=["slow"]) == 1
    with pytest.raises(ArgumentError):
        broker.drain(shout, max_attempts=0)
    with pytest.raises(TypeError, match="tries"):
        broker.drain(shout, tries=1)


def test_a_fault_of_the_broker_ends_a_drain(
    broker: Broker, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[tollgate.Worker] = []
    stop = tollgate.Worker.stop

    def watched(worker: tollgate.Worker) -> None:
        stopped.append(worker)
        stop(worker)

    monkeypatch.setattr(tollgate.Worker, "stop", watched)
    broker.pay(client.create(input="a"))

    def handler(job: Job, ctx: Context) -> str:
        fail(broker, ZeroDivisionError())
        while not ctx.worker_stopping:
            time.sleep(0.001)
        return "a"

    with pytest.raises(BrokerFailedError):
        broker.drain(handler, stop_grace_s=0.1)
    assert len(stopped) == 1  # without it, the worker would wait for the broker
    with pytest.raises(BrokerFailedError):
        broker.close()


def test_a_lease_lapses_while_a_handler_works(broker: Broker, client: Client) -> None:
    job = broker.pay(client.create(input="a"))

    def slow(job: Job) -> str:
        broker.advance(31)  # as if this worker had been away for longer than its lease
        return "late"

    broker.drain(slow, lease_ms=30_000, jobs=1)
    assert client.get(job.job_id).attempts == 1


def test_time_is_advanced_while_a_worker_drains(broker: Broker, client: Client) -> None:
    jobs = 50
    for _ in range(jobs):
        broker.pay(client.create(input="a"))
    stop = threading.Event()

    def years() -> None:
        while not stop.is_set():
            broker.advance(0.01)
            time.sleep(0.001)

    thread = threading.Thread(target=years)
    thread.start()
    try:
        assert broker.drain(shout) == jobs
    finally:
        stop.set()
        thread.join()

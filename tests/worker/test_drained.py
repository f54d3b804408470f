"""What becomes of outcomes at a real broker: a worker drains it, in the process of the test."""

import asyncio

import pytest

from tollgate import AsyncContext, Client, Context, Fail, Job
from tollgate.testing import Broker

SCHEMA = '{"input_data":[{"id":"city","type":"string"}]}'


@pytest.fixture
def broker(tollgate_broker: Broker) -> Broker:
    return tollgate_broker


@pytest.fixture
def client(tollgate_client: Client) -> Client:
    return tollgate_client


def test_a_job_can_fail_while_its_question_is_open(broker: Broker, client: Client) -> None:
    first, _ = (broker.pay(client.create(input=name)) for name in ("asks", "next"))
    has_slot = asyncio.Event()

    async def handler(job: Job, ctx: AsyncContext) -> str:
        if job.input == "next":  # the question is open: the first job has left its slot
            has_slot.set()
            return "done"
        asking = asyncio.create_task(ctx.ask(SCHEMA))
        asking.add_done_callback(asyncio.Task.exception)
        await has_slot.wait()
        raise Fail("no longer wanted")

    assert broker.drain(handler, concurrency=1) == 2
    ended = client.get(first.job_id)
    assert (ended.status, ended.error) == ("failed", "no longer wanted")


def test_a_refused_result_is_seen_behind_its_progress(client: Client, broker: Broker) -> None:
    """Progress and result go in one message, and have answers of their own."""
    limit = client.ping().limits["text_bytes"]
    jobs = [broker.pay(client.create(input=name)) for name in ("a", "b")]

    def handler(job: Job, ctx: Context) -> str:
        ctx.progress("almost there")
        return "x" * (limit + 1)

    assert broker.drain(handler, concurrency=1) == 2
    for job in jobs:
        assert "--text-bytes" in (client.get(job.job_id).error or "")


def test_a_confirmed_payment_is_no_finished_job(broker: Broker, client: Client) -> None:
    jobs = [client.create(input=name) for name in ("a", "b")]
    assert broker.drain(lambda job: job.input, simulate_payments=True) == 2
    assert [client.get(job.job_id).result for job in jobs] == ["a", "b"]


@pytest.mark.parametrize("shares", [{}, {"never_share": 1.0}])
def test_a_real_payment_is_not_simulated(
    broker: Broker, client: Client, caplog: pytest.LogCaptureFixture, shares: dict[str, float]
) -> None:
    """Its proof is another program's. The job is free for that at once."""
    job = client.create(input="a", settle=True, blockchain_identifier="chain-1")
    assert broker.drain(lambda job: job.input, simulate_payments=True, **shares) == 0
    reason = "has a payment that has to be settled: not simulated"
    assert f"the worker ends: job {job.job_id} {reason}" in caplog.text  # not: the broker refuses
    (lease,) = client.claim("awaiting_payment", wait_ms=0)
    assert (lease.job.job_id, lease.job.version) == (job.job_id, 1)


def test_a_made_up_payment_of_a_settled_job_is_simulated(broker: Broker, client: Client) -> None:
    job = client.create(input="a", settle=True)
    assert broker.drain(lambda job: job.input, simulate_payments=True) == 1
    assert client.get(job.job_id).result == "a"


def test_an_error_may_be_as_long_as_the_broker_says() -> None:
    with Broker(text_bytes=100_000) as broker, broker.connect() as client:
        job = broker.pay(client.create(input="a"))

        def handler(job: Job) -> str:
            raise Fail("x" * 100_000)

        assert broker.drain(handler) == 1
        assert len(client.get(job.job_id).error or "") == 100_000


def test_a_call_that_another_cancels_before_it_begins_is_a_try(
    broker: Broker, client: Client
) -> None:
    """Its task never runs a line, so nothing in it could tell that it has ended."""
    for name in ("a", "b"):
        broker.pay(client.create(input=name))
    called: list[Job] = []

    async def handler(job: Job) -> str:
        called.append(job)
        if len(called) == 1:
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
        return "done"

    assert broker.drain(handler, concurrency=2) == 1
    (job,) = client.list("running")
    assert (job.attempts, job.job_id != called[0].job_id) == (1, True)
    broker.advance(60)
    assert broker.drain(handler) == 1

"""A batch that ends with a wait: sent along with the other commands, and as long as it takes."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest

from tollgate.client import waits
from tollgate.client.aio import AsyncClient
from tollgate.client.sync import Client
from tollgate.domain.commands import AnyCommand, Create, Hello, Wait
from tollgate.domain.exceptions import ArgumentError, JobNotFoundError, WaitTimeoutError
from tollgate.domain.messages import Request
from tollgate.domain.results import AnyResult, error_of
from tollgate.domain.status import JobStatus
from tollgate.testing import Broker

from .peers import (
    HASH,
    PATIENCE_S,
    BrokerProcess,
    ScriptedRouter,
    hello_result,
    job_id,
    job_result,
    reply,
)
from .talk import Talk

Make = Callable[..., Any]


def when_it_is_there(
    broker: BrokerProcess, new_id: str, act: Callable[[Client], Any]
) -> Future[Any]:
    """Do something with a job, in another thread, once a batch has created it."""

    def run() -> Any:
        with Client(broker.endpoint, timeout_s=PATIENCE_S) as client:
            while True:
                try:
                    client.get(new_id)
                except JobNotFoundError:
                    time.sleep(0.005)
                else:
                    return act(client)

    return ThreadPoolExecutor(1).submit(run)


def test_one_call_returns_the_job_that_has_ended(client: Any, broker: BrokerProcess) -> None:
    batch, new_id = client.batch(), str(uuid4())
    batch.create(HASH, job_id=new_id)
    batch.transition(new_id, "running")
    assert batch.wait(new_id) == 2

    def complete(other: Client) -> None:
        other.wait(new_id, statuses="running", timeout_s=PATIENCE_S)
        other.transition(new_id, "completed", result="here")

    acting = when_it_is_there(broker, new_id, complete)
    created, running, completed = batch.send()
    acting.result(PATIENCE_S)
    assert (created.status, running.status) == ("awaiting_payment", "running")
    assert (completed.status, completed.result) == ("completed", "here")


@pytest.mark.parametrize("append", [
    lambda batch: batch.create(HASH),
    lambda batch: batch.get("a"),
    lambda batch: batch.transition("a", "running"),
    lambda batch: batch.count(),
    lambda batch: batch.wait("a"),
])  # fmt: skip
def test_nothing_follows_a_wait(client: Any, append: Callable[[Any], int]) -> None:
    batch = client.batch()
    batch.wait("a")
    with pytest.raises(ArgumentError, match="a wait ends a batch"):
        append(batch)
    assert len(batch) == 1


def test_a_wait_refuses_invalid_arguments_at_once(client: Any) -> None:
    batch = client.batch()
    invalids: list[dict[str, Any]] = [
        {"job_ids": []},
        {"job_ids": "a", "timeout_s": "soon"},
        {"job_ids": "a", "statuses": "paid"},
    ]
    for invalid in invalids:
        with pytest.raises(ArgumentError):
            batch.wait(**invalid)
    batch.count()
    assert len(batch.send()) == 1


def test_a_wait_may_take_longer_than_an_answer(make_client: Make, broker: BrokerProcess) -> None:
    batch, new_id = make_client(broker.endpoint, timeout_s=0.3).batch(), str(uuid4())
    batch.create(HASH, job_id=new_id)
    batch.wait(new_id, timeout_s=1.0)
    created, error = batch.send()
    assert created.job_id == new_id
    assert isinstance(error, WaitTimeoutError)


def test_the_time_of_a_wait_comes_on_top_of_that_of_an_answer(talk: Talk) -> None:
    call = talk.ask(Wait(job_ids=["a"], timeout_ms=15_000), timeout_s=1.0, each_s=1.0)
    talk.requests()
    (request,) = call.requests
    assert request.deadline == talk.now + 16.0


def test_a_long_wait_goes_on(
    client: Any, broker: BrokerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waits, "SLICE_MS", 50)
    batch, new_id = client.batch(), str(uuid4())
    batch.create(HASH, job_id=new_id)
    batch.wait(new_id, timeout_s=PATIENCE_S)

    def cancel(other: Client) -> None:
        time.sleep(0.3)  # several parts of the wait
        other.cancel(new_id)

    acting = when_it_is_there(broker, new_id, cancel)
    assert batch.send()[1].status == "failed"
    acting.result(PATIENCE_S)


def test_a_wait_that_overtook_its_job_is_asked_again(make_client: Make, endpoint: str) -> None:
    asked: list[type[AnyCommand]] = []

    def answer(request: Request) -> list[bytes]:
        asked.extend(map(type, request.commands))
        return [reply(request.seq, *map(result_of, request.commands))]

    def result_of(command: AnyCommand) -> AnyResult:
        if isinstance(command, Hello):
            return hello_result()
        if isinstance(command, Wait) and asked.count(Wait) == 1:
            return error_of(JobNotFoundError(job_id(1)))
        return job_result(1, status=JobStatus.COMPLETED)

    with ScriptedRouter(endpoint, answer):
        client = make_client(timeout_s=PATIENCE_S)
        batch = client.batch()
        batch.create(HASH, job_id=job_id(1))
        batch.wait(job_id(1))
        assert [each.status for each in batch.send()] == ["completed", "completed"]
    assert (asked.count(Create), asked.count(Wait)) == (1, 2)


def test_a_wait_is_sent_before_the_other_commands_are_answered(talk: Talk) -> None:
    talk.ask(Create(input_hash=HASH, job_id=job_id(1)), Wait(job_ids=[job_id(1)], timeout_ms=1_000))
    kinds = [[type(command) for command in request.commands] for request in talk.requests()]
    assert kinds == [[Create], [Wait]]


async def test_a_cancelled_batch_ends_its_wait(tollgate_broker: Broker) -> None:
    async with AsyncClient(tollgate_broker.endpoint) as client:

        async def until_parked(number: int) -> None:
            while (await client.stats()).parked_waits != number:  # noqa: ASYNC110 - of a broker
                await asyncio.sleep(0.005)

        batch = client.batch()
        batch.create(HASH, job_id=job_id(4))
        batch.wait(job_id(4))
        sending = asyncio.create_task(batch.send())
        await until_parked(1)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await until_parked(0)

"""What is ready together is said together, and each job has its own answer to that.

The broker is a script here: a real one cannot be made to answer just when a test wants it to.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from tollgate.client.errors import BrokerUnreachableError, OutcomeUnknown
from tollgate.client.results import Lease
from tollgate.domain.exceptions import (
    DrainingError,
    LeaseHeldError,
    LeaseLostError,
    TollgateError,
    TooLargeError,
)
from tollgate.domain.models import Job
from tollgate.domain.status import JobStatus
from tollgate.worker.handlers import HandlerResult
from tollgate.worker.lease import HeldJob
from tollgate.worker.retry import BrokerStatus
from tollgate.worker.settle import BATCHES_MAX, Settler

PATIENCE_S = 30.0
DONE = HandlerResult(JobStatus.COMPLETED, result="42")
UNKNOWN = OutcomeUnknown("no answer")


class Desk:
    """A settler, and what it says of each job in the end."""

    def __init__(self, client: Any, make_lease: Callable[..., Lease]) -> None:
        self._make_lease = make_lease
        self.settler = Settler(client, BrokerStatus("ipc:///somewhere"), self._ended)
        self.ends: dict[int, HandlerResult | None] = {}
        self._ended_one = asyncio.Event()

    def put(self, *numbers: int) -> list[HeldJob]:
        held = [HeldJob(self._make_lease(number)) for number in numbers]
        for each in held:
            self.settler.put(each, DONE)
        return held

    async def until_ended(self, jobs: int) -> dict[int, HandlerResult | None]:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.ends) < jobs:
                self._ended_one.clear()
                await self._ended_one.wait()
        return self.ends

    def _ended(self, held: HeldJob, outcome: HandlerResult | None) -> None:
        assert held.token - 100 not in self.ends
        self.ends[held.token - 100] = outcome
        self._ended_one.set()


@pytest.fixture
async def desk(client: Any, make_lease: Callable[..., Lease]) -> Desk:
    return Desk(client, make_lease)


@pytest.fixture
def gate(client: Any) -> Iterator[asyncio.Event]:
    """Messages go through when it is set."""
    gate = asyncio.Event()
    client.script["send"] = [gate.wait] * 100
    yield gate
    gate.set()


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_what_is_ready_at_once_goes_in_one_message(client: Any, desk: Desk) -> None:
    desk.put(1, 2, 3)
    assert await desk.until_ended(3) == {1: DONE, 2: DONE, 3: DONE}
    assert client.messages == [["transition"] * 3]
    assert client.saying("transition")[2][1:] == (JobStatus.COMPLETED, "42", 2, 103)
    assert not desk.settler


async def test_results_wait_for_a_message_and_share_the_next(
    client: Any, desk: Desk, gate: asyncio.Event
) -> None:
    for number in range(1, BATCHES_MAX + 4):
        desk.put(number)
        await turns()
    assert client.messages == [["transition"]] * BATCHES_MAX
    assert len(desk.settler) == BATCHES_MAX + 3
    gate.set()
    await desk.until_ended(BATCHES_MAX + 3)
    assert client.messages[BATCHES_MAX:] == [["transition"] * 3]


@pytest.mark.parametrize(
    ("refusal", "line"),
    [
        (LeaseLostError("lease 102 is over"), "completed refused (lease 102 is over)"),
        (LeaseHeldError("somebody has it"), "completed refused (somebody has it)"),
    ],
)
async def test_a_refusal_is_that_jobs_alone(
    client: Any, desk: Desk, caplog: pytest.LogCaptureFixture, refusal: TollgateError, line: str
) -> None:
    client.script["transition"] = [object(), refusal, object()]
    desk.put(1, 2, 3)
    assert await desk.until_ended(3) == {1: DONE, 2: None, 3: DONE}
    assert len(client.saying("transition")) == 3
    assert [record.getMessage() for record in caplog.records] == [
        f"job 00000000-0000-0000-0000-000000000002: {line}"
    ]


async def test_a_refusal_that_passes_is_said_again_for_that_job_alone(
    client: Any, desk: Desk
) -> None:
    client.script["transition"] = [object(), DrainingError("leaving"), object()]
    desk.put(1, 2, 3)
    assert await desk.until_ended(3) == {1: DONE, 2: DONE, 3: DONE}
    assert [token for *_, token in client.saying("transition")] == [101, 102, 103, 102]
    assert not client.saying("get")


@pytest.mark.parametrize(
    ("fields", "end", "times"),
    [
        ({}, DONE, 2),
        ({"status": JobStatus.COMPLETED, "result": "42", "version": 3}, DONE, 1),
        ({"status": JobStatus.FAILED, "error": "too late", "version": 3}, None, 1),
    ],
)
async def test_a_batch_without_answer_is_not_applied_twice(
    *,
    client: Any,
    desk: Desk,
    make_job: Callable[..., Job],
    fields: dict[str, Any],
    end: HandlerResult | None,
    times: int,
) -> None:
    client.script["send"] = [UNKNOWN]
    client.script["get"] = [make_job(**fields)] * 2
    desk.put(1, 2)
    assert await desk.until_ended(2) == {1: end, 2: end}
    assert set(Counter(client.saying("transition")).values()) == {times}


async def test_a_lot_that_never_left_is_said_again(
    client: Any, desk: Desk, make_job: Callable[..., Job]
) -> None:
    client.script["send"] = [BrokerUnreachableError("nobody there")]
    client.script["get"] = [make_job(1), make_job(2)]
    desk.put(1, 2)
    assert await desk.until_ended(2) == {1: DONE, 2: DONE}


async def test_a_result_too_large_fails_its_job_alone(client: Any, desk: Desk) -> None:
    client.script["transition"] = [object(), TooLargeError("too much", limit=1)]
    desk.put(1, 2)
    await desk.until_ended(2)
    assert [said[1] for said in client.saying("transition")] == [
        JobStatus.COMPLETED,
        JobStatus.COMPLETED,
        JobStatus.FAILED,
    ]


async def a_bug() -> None:
    raise RuntimeError("a bug")


@pytest.mark.parametrize(
    ("script", "ends"),
    [
        ({"transition": [RuntimeError("a bug")]}, {1: None, 2: DONE}),
        ({"send": [a_bug]}, {1: None, 2: None}),
        ({"transition": [UNKNOWN], "get": [a_bug]}, {1: None, 2: DONE}),
    ],
)
async def test_a_fault_of_the_worker_leaves_alone_what_it_concerns(
    client: Any,
    desk: Desk,
    caplog: pytest.LogCaptureFixture,
    script: dict[str, list[Callable[[], Awaitable[None]] | Exception]],
    ends: dict[int, HandlerResult | None],
) -> None:
    client.script |= script
    desk.put(1, 2)
    assert await desk.until_ended(2) == ends
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == list(ends.values()).count(None)
    assert "left alone after RuntimeError('a bug')" in caplog.text
    assert not desk.settler


async def test_what_is_abandoned_is_said_no_more(
    client: Any, desk: Desk, gate: asyncio.Event
) -> None:
    under_way = desk.put(1)
    await turns()
    ready = desk.put(2)
    assert {*desk.settler.give_up()} == {*under_way, *ready}
    gate.set()
    await turns()
    assert not desk.settler
    assert len(client.messages) == 1
    desk.put(3)
    assert await desk.until_ended(1) == {3: DONE}


async def test_what_is_abandoned_is_not_tried_again(client: Any, desk: Desk) -> None:
    client.script["transition"] = [DrainingError("leaving")] * 1_000
    held = desk.put(1)
    await client.until_said("transition", 4)
    assert desk.settler.give_up() == held
    said = len(client.saying("transition"))
    await asyncio.sleep(0.05)
    assert len(client.saying("transition")) == said
    assert not desk.ends

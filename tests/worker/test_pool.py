"""Jobs that end at once share a task, and notice nothing of it."""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest

from tollgate.client.results import Lease
from tollgate.domain.exceptions import LeaseLostError
from tollgate.domain.models import Job
from tollgate.worker import pool as pool_module
from tollgate.worker.handlers import Handler, HandlerCalls, HandlerResult, WorkStage
from tollgate.worker.lease import HeldJob, LeaseKeeper
from tollgate.worker.retry import BrokerStatus
from tollgate.worker.slots import Slots

PATIENCE_S = 30.0
WHOSE: ContextVar[str] = ContextVar("WHOSE", default="nobody's")


class Crew:
    """A shift of real parts, on a client that follows a script."""

    def __init__(self, client: Any, make_lease: Callable[..., Lease], handler: Handler) -> None:
        self._make_lease = make_lease
        self._calls = HandlerCalls(handler, 4)
        keeper = LeaseKeeper(client, 30_000)
        runner: Any = self
        self.slots = Slots(
            WorkStage(self._calls, 100), runner, client, BrokerStatus("ipc:///somewhere"), keeper
        )
        self.outcomes: dict[int, HandlerResult] = {}
        self.given_back: list[int] = []
        self._changed = asyncio.Event()

    def take(self, *numbers: int) -> list[HeldJob]:
        held = [HeldJob(self._make_lease(number)) for number in numbers]
        for each in held:
            self.slots.take(each)
        return held

    async def until_idle(self) -> dict[int, str | None]:
        """Wait until all is said and done, and return the results by number."""
        async with asyncio.timeout(PATIENCE_S):
            while not self.slots.is_idle:
                self._changed.clear()
                await self._changed.wait()
        return {number: outcome.result for number, outcome in sorted(self.outcomes.items())}

    def check_again(self) -> None:
        self._changed.set()

    def settled(self, held: HeldJob, outcome: HandlerResult) -> None:
        self.outcomes[held.token - 100] = outcome

    async def release_unfinished(self, jobs: Any) -> None:
        self.given_back += [held.token - 100 for held in jobs]


Make = Callable[[Handler], Crew]


@pytest.fixture
async def crew(client: Any, make_lease: Callable[..., Lease]) -> Make:
    return lambda handler: Crew(client, make_lease, handler)


def number_of(job: Job) -> int:
    return int(job.job_id[-3:], 16)


async def test_what_ends_at_once_needs_no_task_of_its_own(crew: Make) -> None:
    tasks = set()

    async def handler(job: Job) -> str:
        tasks.add(asyncio.current_task())
        return "done"

    busy = crew(handler)
    busy.take(*range(1, 51))
    assert len(await busy.until_idle()) == 50
    assert len(tasks) == 1


async def test_what_waits_holds_up_nothing_else(crew: Make) -> None:
    at_work, all_there = set(), asyncio.Event()

    async def handler(job: Job) -> str:
        if number_of(job) % 2:
            at_work.add(job.job_id)
            if len(at_work) == 25:
                all_there.set()
            await all_there.wait()
        return "done"

    busy = crew(handler)
    busy.take(*range(1, 51))
    assert len(await busy.until_idle()) == 50


async def test_each_job_has_context_variables_of_its_own(crew: Make) -> None:
    async def handler(job: Job) -> str:
        found = WHOSE.get()
        WHOSE.set(job.job_id)
        if number_of(job) == 2:
            await asyncio.sleep(0.01)
        return found if WHOSE.get() == job.job_id else "lost"

    busy = crew(handler)
    busy.take(1, 2, 3)
    assert await busy.until_idle() == dict.fromkeys([1, 2, 3], "nobody's")
    assert WHOSE.get() == "nobody's"


async def test_a_lease_that_is_lost_stops_that_job_alone(crew: Make) -> None:
    async def handler(job: Job) -> str:
        if number_of(job) != 3:
            await asyncio.sleep(0.01 if number_of(job) == 2 else 3_600)
        return "done"

    busy = crew(handler)
    lost, *_ = busy.take(1, 2, 3)
    await asyncio.sleep(0.001)
    lost.lose(LeaseLostError("granted anew"))
    assert await busy.until_idle() == {2: "done", 3: "done"}
    assert busy.given_back == []


async def test_a_lost_lease_of_a_past_job_cancels_no_other(
    crew: Make,
) -> None:
    seen: list[list[bool]] = []
    jobs: list[HeldJob] = []

    async def handler(job: Job) -> str:
        await asyncio.sleep(0)
        seen.append([held.task is asyncio.current_task() for held in jobs])
        return "done"

    busy = crew(handler)
    jobs += busy.take(1)
    await busy.until_idle()
    jobs += busy.take(2)
    await busy.until_idle()
    assert seen == [[True], [False, True]]
    assert [held.task for held in jobs] == [None, None]


async def test_a_handler_may_limit_its_own_time(crew: Make) -> None:
    async def handler(job: Job) -> str:
        try:
            async with asyncio.timeout(0.01), asyncio.TaskGroup() as group:
                waiting = group.create_task(asyncio.sleep(3_600 if number_of(job) == 2 else 0))
                await waiting
        except TimeoutError:
            return "late"
        return "in time"

    busy = crew(handler)
    busy.take(1, 2, 3)
    assert await busy.until_idle() == {1: "in time", 2: "late", 3: "in time"}


async def test_a_fault_of_the_worker_leaves_that_job_alone(
    crew: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def outcome(job: Job) -> HandlerResult:
        if number_of(job) == 1:
            raise RuntimeError("a bug")
        return HandlerResult.of_result("done")

    busy = crew(str)
    monkeypatch.setattr(busy.slots.stage, "run", outcome)
    busy.take(1, 2)
    assert await busy.until_idle() == {2: "done"}
    assert busy.given_back == []
    assert "left alone after RuntimeError('a bug')" in caplog.text


async def test_a_job_that_stops_its_own_task_stops_no_other(crew: Make) -> None:
    async def handler(job: Job) -> str:
        task = asyncio.current_task()
        if number_of(job) == 1 and task is not None:
            task.cancel()
        else:
            await asyncio.sleep(0)
        return "done"

    busy = crew(handler)
    busy.take(1, 2, 3)
    assert await busy.until_idle() == dict.fromkeys([1, 2, 3], "done")


@pytest.mark.parametrize(("stops", "called", "given_back"), [(False, [2], []), (True, [], [2])])
async def test_waiting_jobs_do_not_start_after_loss_or_stop(
    *, crew: Make, stops: bool, called: list[int], given_back: list[int]
) -> None:
    calls: list[int] = []

    async def handler(job: Job) -> str:
        calls.append(number_of(job))
        return "done"

    busy = crew(handler)
    lost, _ = busy.take(1, 2)
    lost.lose(LeaseLostError("granted anew"))
    if stops:
        busy.slots.cancel()
    assert list(await busy.until_idle()) == called == calls
    assert busy.given_back == given_back


async def test_busy_handlers_leave_the_loop_a_turn(
    client: Any, crew: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "BUSY_S_MAX", -1)
    turns: list[int] = []

    async def handler(job: Job) -> str:
        asyncio.get_running_loop().call_soon(turns.append, number_of(job))
        return str(len(turns))

    busy = crew(handler)
    busy.take(1, 2, 3, 4)
    assert await busy.until_idle() == {1: "0", 2: "1", 3: "2", 4: "3"}
    assert len(client.messages) > 1

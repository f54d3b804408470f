"""Slots and time limits: which handler has a place, and what becomes of one that does not end."""

import asyncio
import logging
import threading
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.worker.at_work import AtWork, Start
from tests.worker.script import PATIENCE_S, ScriptedLink, make_lease, number_of, turns, until
from tollgate.client.errors import BrokerUnreachableError
from tollgate.domain.exceptions import LeaseLostError, UnsupportedVersionError
from tollgate.domain.models import Job
from tollgate.domain.results import HistoryEntry
from tollgate.domain.status import COMPLETED, FAILED
from tollgate.worker import runner as runner_module
from tollgate.worker import work as work_module
from tollgate.worker.call import CallResult, Fail, Retry
from tollgate.worker.context import AsyncContext

LOST = LeaseLostError("granted anew")
OVERRUN = "TimeoutError: the handler took longer than 0.02 s"


@pytest.fixture
def go_on() -> Any:
    """Lets handlers in threads return; set at the end of each test."""
    event = threading.Event()
    yield event
    event.set()


def releases(worker: AtWork) -> list[tuple[str | None, Any]]:
    return [(each.text, each.fields["delay_ms"]) for each in worker.script.all("release")]


# --- time limits ----------------------------------------------------------------------------------


async def test_a_time_limit_ends_a_try(
    link: ScriptedLink, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(job: Job) -> str:
        await asyncio.sleep(3_600 if number_of(job.job_id) == 1 else 0)
        return "done"

    worker = start(handler, timeout_s=0.02, backoff_s=[1.0])
    link.grant(make_lease(1), make_lease(2))
    assert await worker.until_outcomes(2) == [("transition", 2, COMPLETED), ("release", 1, OVERRUN)]
    ((_, delay_ms),) = releases(worker)
    assert 750 <= delay_ms <= 1_250
    assert f"try 1 of 3: {OVERRUN}; again in" in caplog.text
    await turns()
    assert worker.stage.room() == 4
    await worker.stopped()


async def test_the_last_try_over_its_limit_fails(link: ScriptedLink, start: Start) -> None:
    async def handler(job: Job) -> str:
        await asyncio.sleep(3_600)
        return "never"

    worker = start(handler, timeout_s=0.02)
    link.grant(make_lease(attempts=2))
    assert await worker.until_outcomes(1) == [("transition", 1, FAILED)]
    assert worker.script.all("transition")[0].text == OVERRUN
    await worker.stopped()


async def test_a_result_after_the_limit_is_too_late(link: ScriptedLink, start: Start) -> None:
    """The try has failed already, whatever the handler returns when it is cancelled."""

    async def handler(job: Job) -> str:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3_600)
        return "after all"

    worker = start(handler, timeout_s=0.02)
    link.grant(make_lease())
    await worker.until_outcomes(1)
    await turns()
    assert await worker.stopped() == [("release", 1, OVERRUN)]


async def test_a_thread_over_its_limit_keeps_its_slot(
    link: ScriptedLink,
    start: Start,
    go_on: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(work_module, "STUCK_S", 3_600)

    def handler(job: Job) -> str:
        if number_of(job.job_id) == 1:
            go_on.wait(PATIENCE_S)
        return "done"

    worker = start(handler, concurrency=2, timeout_s=0.02)
    link.grant(make_lease(1))
    assert await worker.until_outcomes(1) == [("release", 1, OVERRUN)]
    assert worker.stage.room() == 1
    await until(lambda: "keeps its slot: 1 of 2 slots are left" in caplog.text)
    go_on.set()
    await until(lambda: "has returned after all" in caplog.text)
    assert worker.stage.room() == 2
    assert await worker.stopped() == [("release", 1, OVERRUN)]


async def test_a_short_overrun_of_a_thread_is_not_told(
    link: ScriptedLink, start: Start, go_on: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    def handler(job: Job) -> str:
        go_on.wait(PATIENCE_S)
        return "done"

    worker = start(handler, timeout_s=0.02)
    link.grant(make_lease(1))
    await worker.until_outcomes(1)
    (held,) = worker.stage.stuck
    go_on.set()
    await until(lambda: worker.stage.room() == 4)
    worker.stage._tell_stuck(held)  # as a second after the limit
    assert worker.stage.room() == 4
    assert "slot" not in caplog.text
    assert "after all" not in caplog.text
    await worker.stopped()


# --- no slot left ---------------------------------------------------------------------------------


async def test_a_worker_without_slots_leaves(
    link: ScriptedLink,
    start: Start,
    go_on: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(work_module, "STUCK_S", 0.01)

    def handler(job: Job) -> str:
        go_on.wait(PATIENCE_S)
        return "never"

    worker = start(handler, concurrency=2, timeout_s=0.02)
    link.grant(make_lease(1), make_lease(2))
    assert len(await worker.ended()) == 2
    assert worker.runner.is_stuck
    (line,) = [record for record in caplog.records if "no slot is left" in record.getMessage()]
    assert line.levelno == logging.ERROR
    assert make_lease(1).job.job_id in line.getMessage()
    assert make_lease(2).job.job_id in line.getMessage()


async def test_a_worker_without_slots_waits_for_no_grace(
    link: ScriptedLink, start: Start, go_on: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its handlers hang, and their jobs were ended by the broker: nothing could finish."""
    monkeypatch.setattr(work_module, "STUCK_S", 0.01)

    def handler(job: Job) -> str:
        go_on.wait(PATIENCE_S)
        return "never"

    link.script.answers["touch"] = [LOST]
    worker = start(handler, concurrency=1, lease_ms=30, stop_grace_s=3_600)
    link.grant(make_lease(1))
    assert await worker.ended() == []
    assert worker.runner.is_stuck


async def test_a_slot_that_comes_back_keeps_the_worker(
    link: ScriptedLink, start: Start, go_on: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_module, "STUCK_S", 3_600)

    def handler(job: Job) -> str:
        go_on.wait(PATIENCE_S)
        return "done"

    link.script.answers["touch"] = [LOST]
    worker = start(handler, concurrency=1, lease_ms=900)
    link.grant(make_lease(1))
    await until(lambda: worker.stage._leave)
    go_on.set()
    await until(lambda: worker.stage.room() == 1)
    worker.stage._leave_if_stuck()  # as STUCK_S later
    assert worker.stage._leave is None
    assert not worker.runner.is_stopping
    link.grant(make_lease(2))
    assert ("transition", 2, COMPLETED) in await worker.until_outcomes(2)
    await worker.stopped()
    assert not worker.runner.is_stuck


async def test_a_stuck_async_handler_keeps_its_slot(link: ScriptedLink, start: Start) -> None:
    may_end = asyncio.Event()

    async def handler(job: Job) -> str:
        while not may_end.is_set():
            with suppress(asyncio.CancelledError):
                await may_end.wait()
        return "done"

    worker = start(handler, concurrency=1, timeout_s=0.02)
    link.grant(make_lease(1))
    await worker.until_outcomes(1)
    await turns()
    assert worker.stage.room() == 0
    assert len(worker.stage.stuck) == 1
    may_end.set()
    await until(lambda: worker.stage.room() == 1)
    await worker.stopped()


async def test_a_lost_thread_keeps_its_slot_until_it_returns(
    link: ScriptedLink, start: Start, go_on: threading.Event
) -> None:
    def handler(job: Job) -> str:
        go_on.wait(PATIENCE_S)
        return "whichever"

    link.script.answers["touch"] = [LOST]
    link.script.answers["transition"] = [LOST]
    worker = start(handler, concurrency=1, lease_ms=30)
    link.grant(make_lease(1))
    await until(lambda: worker.stage.stuck)
    await turns()
    assert worker.stage.room() == 0
    assert len(link.script.all("claim")) == 1
    link.script.answers["get"] = [make_lease(1, version=9).job]
    go_on.set()
    await link.script.until_said("claim", 2)  # it has the place for another job
    await worker.stopped()


async def test_another_job_is_not_taken_for_a_lost_one(
    link: ScriptedLink, start: Start, go_on: threading.Event
) -> None:
    def handler(job: Job) -> str:
        if number_of(job.job_id) == 1:
            go_on.wait(PATIENCE_S)
        return f"done {number_of(job.job_id)}"

    link.script.answers["touch"] = [LOST]
    worker = start(handler, concurrency=2, lease_ms=300)
    link.grant(make_lease(1))
    await until(lambda: worker.stage.stuck)
    link.grant(make_lease(2))
    await until(lambda: worker.runner.finished == 1)
    assert [each.text for each in link.script.all("transition")] == ["done 2"]
    assert len(worker.stage.stuck) == 1
    go_on.set()  # a stop waits for the handler
    await worker.stopped()


async def test_a_job_whose_try_is_over_is_called_again(
    link: ScriptedLink, start: Start, go_on: threading.Event
) -> None:
    """Its thread still runs, past its time limit, but what it returns counts for nothing."""

    def handler(job: Job) -> str:
        if job.attempts == 0:
            go_on.wait(PATIENCE_S)
        return f"try {job.attempts + 1}"

    worker = start(handler, concurrency=2, timeout_s=0.2)
    link.grant(make_lease(1))
    await until(lambda: worker.stage.stuck)
    link.grant(make_lease(1, token=7, attempts=1))
    await until(lambda: worker.runner.finished == 1)
    (told,) = link.script.all("transition")
    assert (told.text, told.token) == ("try 2", 7)
    await worker.stopped()


async def test_a_lost_thread_goes_on_with_a_new_lease(
    link: ScriptedLink, start: Start, go_on: threading.Event
) -> None:
    """The lease was not lost to another worker, but to another claim of this one."""
    calls: list[str] = []

    def handler(job: Job) -> str:
        calls.append(job.job_id)
        go_on.wait(PATIENCE_S)
        return "done"

    link.script.answers["touch"] = [LOST]
    worker = start(handler, concurrency=2, lease_ms=300)
    link.grant(make_lease(1))
    await until(lambda: worker.stage.stuck)
    link.grant(make_lease(1, token=7))
    await until(lambda: not worker.stage.stuck)
    assert worker.stage.room() == 1
    assert worker.runner.keeper.holder(make_lease(1).job.job_id) is not None  # it is touched
    go_on.set()
    await until(lambda: worker.runner.finished)
    assert len(calls) == 1
    assert [each.token for each in link.script.all("transition")] == [7]
    await worker.stopped()


async def test_a_thread_that_goes_on_has_its_time_limit(
    link: ScriptedLink, start: Start, go_on: threading.Event
) -> None:
    def handler(job: Job) -> str:
        go_on.wait(PATIENCE_S)
        return "done"

    link.script.answers["touch"] = [LOST]
    worker = start(handler, concurrency=2, lease_ms=300, timeout_s=1)
    link.grant(make_lease(1))
    await until(lambda: worker.stage.stuck)
    link.grant(make_lease(1, token=7))
    assert await worker.until_outcomes(1) == [
        ("release", 1, "TimeoutError: the handler took longer than 1 s")
    ]
    go_on.set()
    await worker.stopped()


class Late:
    """An executor that begins no call until the test does."""

    asking_max = 1

    def __init__(self) -> None:
        self.calls: list[Any] = []

    async def open(self) -> None:
        """Be ready."""

    def start(self, call: Any) -> None:
        self.calls.append(call)

    def cancel(self, call: Any, reason: str) -> bool:
        return True

    def notify(self, call: Any) -> None:
        """Tell nobody."""

    def close(self) -> None:
        """End nothing."""


@pytest.mark.parametrize("timeout_s", [None, 600])
async def test_a_call_that_waits_for_a_place_has_all_its_time(
    link: ScriptedLink, start: Start, timeout_s: float | None
) -> None:
    executor = Late()
    worker = start(lambda _: "", executor=executor, timeout_s=timeout_s)
    link.grant(make_lease(1))
    await until(lambda: executor.calls)
    (call,) = executor.calls
    limits = [call.limit_at]
    call.began()
    limits.append(call.limit_at)
    assert [each is None for each in limits] == [True, timeout_s is None]
    assert (call.timer is None) is (timeout_s is None)  # it need not begin any more
    call.done(CallResult("done"))
    assert await worker.until_outcomes(1) == [("transition", 1, COMPLETED)]
    await worker.stopped()


@pytest.mark.parametrize("timeout_s", [None, 600])
async def test_a_call_that_never_begins_is_given_back(
    link: ScriptedLink, start: Start, monkeypatch: pytest.MonkeyPatch, timeout_s: float | None
) -> None:
    monkeypatch.setattr(work_module, "BEGIN_S", 0.01)
    worker = start(lambda _: "", executor=Late(), timeout_s=timeout_s)
    link.grant(make_lease(1))
    assert await worker.until_outcomes(1) == [("release", 1, None)]
    assert releases(worker) == [(None, None)]  # it is no try
    await until(lambda: worker.stage.room() == 4)
    await worker.stopped()


async def test_a_task_that_never_began_gives_its_slot_back(
    link: ScriptedLink, start: Start
) -> None:
    called: list[str] = []

    async def handler(job: Job) -> str:
        called.append(job.job_id)
        return "done"

    worker = start(handler, concurrency=1)
    take = worker.stage.take

    def lost_at_once(held: Any) -> None:
        take(held)
        worker.stage.lost(held)

    worker.stage.take = lost_at_once  # type: ignore[method-assign]
    link.grant(make_lease(1))
    await link.script.until_said("claim", 2)
    assert worker.stage.room() == 1
    assert not called
    assert await worker.stopped() == []


async def test_a_job_lost_before_its_call_gives_its_slot_back(
    link: ScriptedLink, start: Start
) -> None:
    worker = start(lambda job: "never", concurrency=1, work_delay_ms=3_600_000)
    link.grant(make_lease(1))
    await until(lambda: worker.stage._working)
    (held,) = worker.stage._working
    worker.stage.lost(held)
    assert worker.stage.room() == 1
    assert await worker.stopped() == []


async def test_a_lost_job_that_waits_for_a_slot_never_begins(
    link: ScriptedLink, start: Start
) -> None:
    called: list[int] = []
    may_end = asyncio.Event()

    async def handler(job: Job) -> str:
        called.append(number_of(job.job_id))
        await may_end.wait()
        return "done"

    link.script.answers["touch"] = [None, LOST]
    worker = start(handler, concurrency=1, lease_ms=30)
    link.grant(make_lease(1), make_lease(2))
    await until(lambda: len(link.script.all("touch")) >= 2 and not worker.stage._waiting)
    may_end.set()
    await until(lambda: worker.runner.finished)
    assert called == [1]
    assert await worker.stopped() == [("transition", 1, COMPLETED)]


# --- a stop ---------------------------------------------------------------------------------------


async def test_a_thread_that_goes_on_is_given_back(
    link: ScriptedLink, start: Start, go_on: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "CANCEL_S", 0.01)

    def handler(job: Job) -> str:
        go_on.wait(PATIENCE_S)
        return "too late"

    worker = start(handler, stop_grace_s=0.01)
    link.grant(make_lease())
    await until(lambda: worker.stage._working)
    assert await worker.stopped() == [("release", 1, None)]
    go_on.set()
    await asyncio.sleep(0.02)
    assert worker.script.outcomes() == [("release", 1, None)]


async def test_a_thread_that_returns_in_time_is_settled(link: ScriptedLink, start: Start) -> None:
    def handler(job: Job, ctx: Any) -> str:
        while not ctx.worker_stopping:
            threading.Event().wait(0.001)
        return "in time"

    worker = start(handler)
    link.grant(make_lease())
    await until(lambda: worker.stage._working)
    assert await worker.stopped() == [("transition", 1, COMPLETED)]


async def test_a_stop_tells_each_handler_once_it_works(link: ScriptedLink, start: Start) -> None:
    """A job that somebody wants stopped is told so from its start."""
    seen: list[bool] = []

    async def handler(job: Job, ctx: AsyncContext) -> str:
        seen.append(ctx.stop_requested)
        return "done"

    worker = start(handler)
    link.grant(make_lease(1, stop_requested=True), make_lease(2))
    await until(lambda: worker.runner.finished == 2)
    assert seen == [True, False]
    await worker.stopped()


# --- the log --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "attempts", "on_exhausted", "level", "line"),
    [
        (ValueError("no\nway"), 0, "fail", logging.ERROR, "try 1 of 3: ValueError: no way; again"),
        (ValueError("no"), 2, "fail", logging.ERROR, "try 3 of 3: ValueError: no; the job fails"),
        (ValueError("no"), 2, "hold", logging.ERROR, "ValueError: no; the job is on hold, until"),
        (Retry("busy", after_s=5), 0, "fail", logging.INFO, "try 1 of 3: busy; again in 5.0 s"),
        (Retry("busy"), 2, "fail", logging.ERROR, "try 3 of 3: busy; the job fails"),
        (Fail("bad input"), 0, "hold", logging.WARNING, "try 1 of 3: bad input; the job fails"),
    ],
)
async def test_the_log_says_why_a_try_failed(
    *,
    link: ScriptedLink,
    start: Start,
    caplog: pytest.LogCaptureFixture,
    fault: Exception,
    attempts: int,
    on_exhausted: str,
    level: int,
    line: str,
) -> None:
    async def handler(job: Job) -> str:
        raise fault

    caplog.set_level("INFO")
    worker = start(handler, on_exhausted=on_exhausted)
    link.grant(make_lease(attempts=attempts))
    await worker.until_outcomes(1)
    (record,) = [each for each in caplog.records if "try" in each.getMessage()]
    assert line in record.getMessage()
    assert record.levelno == level
    trace = getattr(record, "exception", None)
    assert (trace is not None) == isinstance(fault, ValueError)
    if trace:
        assert "in handler" in trace
        assert "worker/handlers.py" not in trace  # how it was called helps nobody
    await worker.stopped()


async def test_what_is_no_text_is_not_tried_again(link: ScriptedLink, start: Start) -> None:
    worker = start(lambda job: 5)
    link.grant(make_lease())
    await worker.until_outcomes(1)
    (failed,) = worker.script.all("transition")
    assert (failed.target, failed.text) == (FAILED, "the handler returned int instead of a str")
    await worker.stopped()


# --- tries that are used up -----------------------------------------------------------------------


def lapsed(attempt: int) -> HistoryEntry:
    return HistoryEntry(datetime(2026, 1, 1, tzinfo=UTC), "lapsed", attempt=attempt)


@pytest.mark.parametrize("on_exhausted", ["fail", "hold"])
async def test_a_job_whose_tries_are_used_up_is_not_called(
    link: ScriptedLink, start: Start, on_exhausted: str
) -> None:
    called: list[str] = []

    async def handler(job: Job) -> str:
        called.append(job.job_id)
        return "done"

    link.script.answers["history"] = [BrokerUnreachableError("nobody"), [lapsed(3)]]
    worker = start(handler, on_exhausted=on_exhausted)
    link.grant(make_lease(attempts=3))
    await worker.until_outcomes(1)
    (ended,) = link.script.all("transition", "release")
    assert ended.text == "try 3 ended without a result: the lease lapsed"
    assert (ended.target, ended.fields.get("hold")) == (
        (FAILED, None) if on_exhausted == "fail" else (None, True)
    )
    assert not called
    await worker.stopped()


async def test_a_job_that_was_resumed_has_one_more_try(link: ScriptedLink, start: Start) -> None:
    worker = start(lambda job: "done")
    link.grant(make_lease(attempts=3))  # nothing in its history speaks against it
    assert await worker.until_outcomes(1) == [("transition", 1, COMPLETED)]
    await worker.stopped()


async def test_a_job_whose_history_is_refused_has_one_more_try(
    link: ScriptedLink, start: Start
) -> None:
    """Nothing shows that it must end, and it would keep its place for ever."""
    link.script.answers["history"] = [UnsupportedVersionError("no history")] * 100
    worker = start(lambda job: "done")
    link.grant(make_lease(attempts=3))
    assert await worker.until_outcomes(1) == [("transition", 1, COMPLETED)]
    assert len(link.script.all("history")) == 1
    await worker.stopped()


async def test_a_spent_job_keeps_its_place_until_it_ends(link: ScriptedLink, start: Start) -> None:
    link.script.answers["history"] = [asyncio.Event().wait]
    worker = start(lambda job: "done", concurrency=1)
    link.grant(make_lease(attempts=3))
    await link.script.until_said("history")
    assert worker.stage.room() == 0
    assert not worker.stage.is_idle
    assert not worker.stage.is_quiet
    assert await worker.stopped() == [("release", 1, None)]


async def test_a_spent_job_that_is_lost_is_left_alone(link: ScriptedLink, start: Start) -> None:
    link.script.answers["history"] = [asyncio.Event().wait]
    link.script.answers["touch"] = [LOST]
    worker = start(lambda job: "done", concurrency=1, lease_ms=30)
    link.grant(make_lease(attempts=3))
    await until(lambda: link.script.all("reclaim") and worker.stage.room() == 1)
    assert await worker.stopped() == []

"""The worker's loop in orderings that real processes do not produce on demand."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest

from tollgate.client.errors import BrokerUnreachableError
from tollgate.client.results import Lease
from tollgate.domain.exceptions import (
    DrainingError,
    InternalError,
    LeaseLostError,
    SessionEvictedError,
    UnsupportedVersionError,
)
from tollgate.domain.models import Job
from tollgate.domain.status import JobStatus
from tollgate.worker import runner as runner_module
from tollgate.worker.handlers import Handler, HandlerCalls, HandlerResult, WorkStage
from tollgate.worker.payments import PaymentSimulator, PaymentStage
from tollgate.worker.runner import Runner
from tollgate.worker.settings import Settings
from tollgate.worker.slots import Stage

PATIENCE_S = 30.0
UNPAID = {"status": JobStatus.AWAITING_PAYMENT, "version": 1}

Start = Callable[..., Any]


class Running:
    """A runner at work on a script, and what it calls handlers with."""

    def __init__(
        self, client: Any, stages: list[Stage], calls: HandlerCalls, **options: Any
    ) -> None:
        settings: dict[str, Any] = {
            "endpoint": "ipc:///somewhere",
            "lease_ms": 30,
            "stop_grace_s": 30.0,
        }
        self.client = client
        self.calls = calls
        self.runner = Runner(client, stages, Settings(**settings | options))
        calls.on_thread_free = self.runner.check_again
        self.task = asyncio.create_task(self.runner.run())

    async def stopped(self) -> list[tuple[str, ...]]:
        """Stop, and return what was said but claims and touches."""
        self.runner.stop()
        return await self.ended()

    async def ended(self) -> list[tuple[str, ...]]:
        await asyncio.wait_for(self.task, PATIENCE_S)
        return [said[:3] for said in self.client.said if said[0] in {"transition", "release"}]


@pytest.fixture
async def start(client: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(runner_module, "CLAIM_WAIT_MS", 100)
    begun: list[Running] = []

    def work(handler: Handler, **options: Any) -> Running:
        calls = HandlerCalls(handler, options.get("concurrency", 4))
        stages: list[Stage] = [WorkStage(calls, options.get("concurrency", 4))]
        begun.append(Running(client, stages, calls, only="work", **options))
        return begun[-1]

    yield work
    for running in begun:
        running.task.cancel()
        running.calls.close()


@pytest.fixture
async def start_payments(client: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(runner_module, "CLAIM_WAIT_MS", 100)

    def pay(simulator: PaymentSimulator, limit: int = 64, **options: Any) -> Running:
        calls = HandlerCalls(str, 1)
        stage = PaymentStage(simulator, limit, clock=datetime(2026, 1, 1, tzinfo=UTC).timestamp)
        return Running(client, [stage], calls, only="payments", **options)

    return pay


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what is looked at knows no events
            await asyncio.sleep(0.005)


async def at_once(job: Job) -> str:
    return "done"


async def test_a_lost_lease_cancels_an_async_handler(
    client: Any, start: Start, make_lease: Callable[..., Lease]
) -> None:
    cancelled = asyncio.Event()

    async def handler(job: Job) -> str:
        try:
            await asyncio.sleep(3_600)
        finally:
            cancelled.set()
        return "never"

    client.script["claim"] = [[make_lease()]]
    client.script["touch"] = [None, LeaseLostError("granted anew")]
    running = start(handler)
    await asyncio.wait_for(cancelled.wait(), PATIENCE_S)
    assert await running.stopped() == []


async def test_a_handler_that_overhears_it_has_its_outcome_dropped(
    client: Any, start: Start, make_lease: Callable[..., Lease]
) -> None:
    returned = asyncio.Event()

    async def handler(job: Job) -> str:
        try:
            await asyncio.sleep(3_600)
        except asyncio.CancelledError:
            returned.set()
        return "too late"

    client.script["claim"] = [[make_lease()]]
    client.script["touch"] = [LeaseLostError("granted anew")]
    running = start(handler)
    await asyncio.wait_for(returned.wait(), PATIENCE_S)
    assert await running.stopped() == []


async def test_an_abandoned_thread_keeps_its_slot_until_it_returns(
    client: Any, start: Start, make_lease: Callable[..., Lease]
) -> None:
    go_on = threading.Event()

    def handler(job: Job) -> str:
        go_on.wait(PATIENCE_S)
        return "whichever"

    client.script["claim"] = [[make_lease(1)], [make_lease(2)]]
    client.script["touch"] = [LeaseLostError("granted anew")]
    running = start(handler, concurrency=1, jobs=1)
    await until(lambda: running.calls.abandoned)
    assert len(client.saying("claim")) == 1
    go_on.set()
    said = await running.ended()
    assert said == [("transition", make_lease(2).job.job_id, JobStatus.COMPLETED)]


async def test_what_a_claim_brings_after_a_stop_is_given_back(
    client: Any, start: Start, make_lease: Callable[..., Lease]
) -> None:
    async def parked() -> list[Lease]:
        running.runner.stop()
        await asyncio.sleep(0.01)
        return [make_lease(1), make_lease(2)]

    client.script["claim"] = [parked]
    running = start(str)
    assert await running.ended() == [
        ("release", make_lease(number).job.job_id, make_lease(number).token) for number in (1, 2)
    ]


async def test_a_claim_that_never_returns_does_not_hold_up_a_stop(
    client: Any, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "SLACK_S", 0.01)
    client.script["claim"] = [asyncio.Event().wait]
    running = start(str)
    await client.until_said("claim")
    assert await running.stopped() == []


async def test_a_job_begun_is_finished_in_the_time_of_grace(
    client: Any, start: Start, make_lease: Callable[..., Lease]
) -> None:
    async def handler(job: Job) -> str:
        running.runner.stop()
        await asyncio.sleep(0.05)
        return "done"

    client.script["claim"] = [[make_lease()]]
    running = start(handler)
    assert await running.ended() == [("transition", make_lease().job.job_id, JobStatus.COMPLETED)]
    assert running.runner.finished == 1


async def test_a_job_unfinished_after_the_grace_is_released(
    client: Any, start: Start, make_lease: Callable[..., Lease]
) -> None:
    async def handler(job: Job) -> str:
        running.runner.stop()
        await asyncio.sleep(3_600)
        return "never"

    client.script["claim"] = [[make_lease()]]
    running = start(handler, stop_grace_s=0.01)
    assert await running.ended() == [("release", make_lease().job.job_id, make_lease().token)]
    assert running.runner.is_idle


async def test_a_handler_that_will_not_be_cancelled_is_told_of(
    client: Any,
    start: Start,
    make_lease: Callable[..., Lease],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner_module, "RELEASE_S", 0.01)
    monkeypatch.setattr(runner_module, "SLACK_S", 0.01)
    go_on = asyncio.Event()

    async def handler(job: Job) -> str:
        running.runner.stop()
        while not go_on.is_set():
            try:
                await go_on.wait()
            except asyncio.CancelledError:
                continue
        return "at last"

    client.script["claim"] = [[make_lease()]]
    running = start(handler, stop_grace_s=0.01)
    given_back = [("release", make_lease().job.job_id, make_lease().token)]
    assert await running.ended() == given_back
    assert not running.runner.is_idle
    go_on.set()
    await until(lambda: running.runner.is_idle)
    assert await running.ended() == given_back


async def test_an_unanswered_release_does_not_delay_a_stop(
    client: Any,
    start_payments: Start,
    make_lease: Callable[..., Lease],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(runner_module, "RELEASE_S", 0.01)
    client.script["claim"] = [[make_lease(**UNPAID)]]
    client.script["release"] = [asyncio.Event().wait]
    running = start_payments(PaymentSimulator(never_share=1))
    await client.until_said("claim", 2)
    await running.stopped()
    assert "left to lapse" in caplog.text


async def test_the_broker_is_asked_again_until_it_is_back(
    client: Any,
    start: Start,
    make_lease: Callable[..., Lease],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    client.script["claim"] = [
        DrainingError("leaving"),
        BrokerUnreachableError("nobody there"),
        InternalError("not yet itself"),
        SessionEvictedError("restarted without its sessions"),
        [make_lease()],
    ]
    running = start(lambda job: "done", jobs=1)
    assert len(await running.ended()) == 1
    messages = [record.getMessage() for record in caplog.records]
    assert [message.split("(")[0].split()[-2:] for message in messages] == [
        ["no", "requests"],
        ["is", "back"],
    ]


async def test_a_refusal_that_will_not_pass_ends_the_worker(client: Any, start: Start) -> None:
    client.script["claim"] = [UnsupportedVersionError("version 9 only")]
    running = start(str)
    with pytest.raises(UnsupportedVersionError):
        await running.ended()


async def test_a_worker_bug_leaves_one_job_alone(
    client: Any,
    start: Start,
    make_lease: Callable[..., Lease],
    caplog: pytest.LogCaptureFixture,
) -> None:
    client.script["claim"] = [[make_lease(1), make_lease(2)]]
    client.script["transition"] = [RuntimeError("a bug")]
    running = start(lambda job: "done", jobs=1)
    assert [said[0] for said in await running.ended()] == ["transition", "transition"]
    assert "left alone after RuntimeError('a bug')" in caplog.text


async def test_claims_ask_for_no_more_than_there_is_room_for(
    client: Any, start: Start, make_lease: Callable[..., Lease]
) -> None:
    go_on = asyncio.Event()

    async def handler(job: Job) -> str:
        await go_on.wait()
        return "done"

    client.script["claim"] = [[make_lease(1), make_lease(2)], [make_lease(3)]]
    running = start(handler, concurrency=3, jobs=3)
    await client.until_said("claim", 2)
    await asyncio.sleep(0.05)
    assert [limit for _, limit in client.saying("claim")] == [3, 1]
    go_on.set()
    await running.ended()
    assert running.runner.finished == 3


async def test_unsettled_jobs_limit_further_claims(
    client: Any, start: Start, make_lease: Callable[..., Lease]
) -> None:
    go_on = asyncio.Event()
    client.script["claim"] = [[make_lease(1), make_lease(2)], [make_lease(3), make_lease(4)]]
    client.script["send"] = [go_on.wait] * 100
    running = start(at_once, concurrency=2)
    await client.until_said("transition", 4)
    await asyncio.sleep(0.05)
    assert [limit for _, limit in client.saying("claim")] == [2, 2]
    go_on.set()
    await client.until_said("claim", 3)
    await running.stopped()
    assert running.runner.finished == 4


async def test_a_jobs_limit_keeps_slots_until_settlement(
    client: Any, start: Start, make_lease: Callable[..., Lease]
) -> None:
    go_on = asyncio.Event()
    client.script["claim"] = [[make_lease(1)], [make_lease(2)], [make_lease(3)]]
    client.script["send"] = [go_on.wait] * 100
    running = start(str, concurrency=1, jobs=2)
    await client.until_said("transition")
    await asyncio.sleep(0.05)
    assert len(client.saying("claim")) == 1
    go_on.set()
    assert len(await running.ended()) == 2


async def test_an_unanswered_result_is_released_after_the_grace(
    client: Any, start: Start, make_lease: Callable[..., Lease], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    client.script["claim"] = [[make_lease()]]
    client.script["send"] = [asyncio.Event().wait]
    running = start(str, stop_grace_s=0.05, lease_ms=60_000)
    await client.until_said("transition")
    said = await running.stopped()
    assert said[1:] == [("release", make_lease().job.job_id, make_lease().token)]
    assert "released unfinished" in caplog.text
    assert running.runner.is_idle
    assert running.runner.finished == 0


async def test_a_late_unanswered_result_is_released(
    client: Any,
    start: Start,
    make_lease: Callable[..., Lease],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner_module, "RELEASE_S", 0.01)
    monkeypatch.setattr(runner_module, "SLACK_S", 0.01)

    async def handler(job: Job) -> str:
        running.runner.stop()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3_600)
        return "after all"

    client.script["claim"] = [[make_lease()]]
    client.script["send"] = [asyncio.Event().wait]
    running = start(handler, stop_grace_s=0.01, lease_ms=60_000)
    said = await running.ended()
    assert [name for name, *_ in said] == ["transition", "release"]
    assert running.runner.is_idle


async def test_a_lease_is_touched_until_its_outcome_is_heard(
    client: Any, start: Start, make_lease: Callable[..., Lease]
) -> None:
    go_on = asyncio.Event()

    async def unheard() -> object:
        await go_on.wait()
        return object()

    client.script["claim"] = [[make_lease()]]
    client.script["transition"] = [unheard]
    running = start(str, lease_ms=15)
    await client.until_said("touch", 3)
    go_on.set()
    await until(lambda: running.runner.finished)
    touches = client.saying("touch")
    await asyncio.sleep(0.05)
    assert client.saying("touch") == touches
    await running.stopped()


async def test_payments_are_said_as_drawn(
    client: Any, start_payments: Start, make_lease: Callable[..., Lease]
) -> None:
    simulator = PaymentSimulator(7, refused_share=0.5, never_share=0.2, delay_ms_max=2)
    leases = [make_lease(number, **UNPAID) for number in range(1, 31)]
    kinds = {lease.job.job_id: simulator.draw(lease.job.job_id).kind for lease in leases}
    paid = [kind for kind in kinds.values() if kind != "never"]
    client.script["claim"] = [leases]
    running = start_payments(simulator, jobs=len(paid))
    await running.ended()
    outcomes = {
        job_id: (target, error) for job_id, target, error, *_ in client.saying("transition")
    }
    expected = {
        "confirmed": (JobStatus.RUNNING, None),
        "refused": (JobStatus.FAILED, "payment refused"),
    }
    assert outcomes == {job_id: expected[kind] for job_id, kind in kinds.items() if kind != "never"}
    assert {job_id for job_id, _ in client.saying("release")} == kinds.keys() - outcomes.keys()


async def test_payments_that_never_come_leave_room_for_others(
    client: Any, start_payments: Start, make_lease: Callable[..., Lease]
) -> None:
    client.script["claim"] = [[make_lease(number, **UNPAID)] for number in range(1, 6)]
    running = start_payments(PaymentSimulator(never_share=1), limit=1, unpaid_max=3)
    await client.until_said("claim", 6)
    said = await running.stopped()
    # The first two were forgotten: no more than `unpaid_max` are remembered.
    assert {token for _, _, token in said} == {103, 104, 105}
    assert not client.saying("touch")


async def test_a_pending_payment_is_touched_and_released_at_a_stop(
    client: Any, start_payments: Start, make_lease: Callable[..., Lease]
) -> None:
    client.script["claim"] = [[make_lease(**UNPAID)]]
    hour = PaymentSimulator(delay_ms_min=3_600_000, delay_ms_max=3_600_000)
    running = start_payments(hour, lease_ms=30)
    await client.until_said("touch", 2)
    assert await running.stopped() == [("release", make_lease().job.job_id, make_lease().token)]


async def test_a_stop_waits_for_a_payment_being_settled(
    client: Any, start_payments: Start, make_lease: Callable[..., Lease]
) -> None:
    async def slow() -> object:
        running.runner.stop()
        await asyncio.sleep(0.05)
        return object()

    client.script["claim"] = [[make_lease(**UNPAID)]]
    client.script["transition"] = [slow]
    running = start_payments(PaymentSimulator())
    await running.ended()
    assert not client.saying("release")
    assert running.runner.finished == 1


@pytest.mark.parametrize(
    ("late_s", "pauses_s"), [(0, [2.0]), (1.5, [0.5]), (2, []), (100, []), (-100, [2.0])]
)
async def test_a_payment_is_known_a_time_after_the_jobs_creation(
    make_job: Callable[..., Job],
    monkeypatch: pytest.MonkeyPatch,
    late_s: float,
    pauses_s: list[float],
) -> None:
    slept: list[float] = []

    async def sleep(pause_s: float) -> None:
        slept.append(pause_s)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    job = make_job(**UNPAID)
    stage = PaymentStage(
        PaymentSimulator(delay_ms_min=2_000, delay_ms_max=2_000),
        1,
        clock=lambda: job.created_at.timestamp() + late_s,
    )
    assert await stage.run(job) == HandlerResult.paid()
    assert slept == pytest.approx(pauses_s)


async def test_a_pause_comes_before_the_handler(
    make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[object] = []

    async def sleep(pause_s: float) -> None:
        order.append(pause_s)

    async def handler(job: Job) -> str:
        order.append("handler")
        return "done"

    monkeypatch.setattr(asyncio, "sleep", sleep)
    await WorkStage(HandlerCalls(handler, 1), 1, pause_ms=20).run(make_job())
    assert order == [0.02, "handler"]

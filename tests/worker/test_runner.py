"""The worker's loop in orderings that real processes do not produce on demand."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from time import monotonic
from typing import Any

import pytest

from tests.worker.at_work import AtWork, Start
from tests.worker.script import (
    PATIENCE_S,
    ScriptedLink,
    make_job,
    make_lease,
    number_of,
    turns,
    until,
    until_true,
)
from tollgate.client.errors import BrokerUnreachableError, OutcomeUnknown
from tollgate.client.results import Touched
from tollgate.domain.exceptions import (
    DrainingError,
    InternalError,
    JobNotFoundError,
    LeaseLostError,
    SessionEvictedError,
    UnsupportedVersionError,
)
from tollgate.domain.models import Job
from tollgate.domain.status import AWAITING_INPUT, COMPLETED, FAILED
from tollgate.worker import runner as runner_module
from tollgate.worker.claims import CLAIM_LIMIT
from tollgate.worker.context import AsyncContext
from tollgate.worker.held import HeldJob
from tollgate.worker.outcome import GiveBack
from tollgate.worker.settings import CLAIM_WAIT_MS

LOST = LeaseLostError("granted anew")
WHOSE: ContextVar[str] = ContextVar("WHOSE", default="nobody's")


async def at_once(job: Job) -> str:
    return "done"


async def for_ever(job: Job) -> str:
    await asyncio.sleep(3_600)
    return "never"


def limits(link: ScriptedLink) -> list[int | None]:
    return [each.limit for each in link.script.all("claim")]


# --- claims ---------------------------------------------------------------------------------------


async def test_claims_ask_for_as_many_as_there_is_room(link: ScriptedLink, start: Start) -> None:
    worker = start(for_ever, concurrency=3, stop_grace_s=0)
    link.grant(make_lease(1), make_lease(2))
    link.grant(make_lease(3))
    await until(lambda: len(worker.runner.keeper._held) == 3)
    await turns()
    assert limits(link) == [3, 1]
    assert len(await worker.stopped()) == 3


async def test_a_claim_asks_for_no_more_than_the_broker_allows(
    link: ScriptedLink, start: Start
) -> None:
    start(at_once, concurrency=CLAIM_LIMIT + 500)
    await link.script.until_said("claim")
    assert limits(link) == [CLAIM_LIMIT]


async def test_one_message_settles_and_claims(link: ScriptedLink, start: Start) -> None:
    worker = start(at_once, concurrency=2)
    link.grant(make_lease(1), make_lease(2))
    await until(lambda: worker.runner.finished == 2)
    await turns()
    assert link.script.messages == [["claim"], ["transition", "transition", "claim"], ["claim"]]
    # The one in the message does not wait, because the results would wait with it.
    waits = [each.fields["wait_ms"] for each in link.script.all("claim")]
    assert waits == [CLAIM_WAIT_MS, 0, CLAIM_WAIT_MS]


async def test_a_calm_worker_parks_its_claim_at_once(link: ScriptedLink, start: Start) -> None:
    """It does not wait for the answer that there is no other job: there was none before."""
    worker = start(at_once, concurrency=1)
    for number in (1, 2, 3):
        link.grant(make_lease(number))
        await until(lambda: worker.runner.finished == number)  # noqa: B023 - awaited here
        await turns()
    first = [["claim"], ["transition", "claim"], ["claim"]]
    assert link.script.messages == [*first, *2 * [["transition"], ["claim"]]]


@pytest.mark.parametrize(
    ("options", "rooms"), [({}, [2, 2, 2, 1, 0]), ({"jobs": 10}, [2, 1, 0]), ({"jobs": 1}, [1, 0])]
)
async def test_unsettled_jobs_limit_further_claims(
    start: Start, options: dict[str, int], rooms: list[int]
) -> None:
    """As many results as slots may be under way; with `jobs`, each of them keeps its slot."""
    worker = start(at_once, concurrency=2, **options)
    for settling, room in enumerate(rooms):
        assert worker.runner._room(worker.stage) == room
        worker.runner.settler.put(HeldJob(make_lease(settling + 1), worker.stage), GiveBack())


async def test_a_jobs_limit_keeps_slots_until_settlement(link: ScriptedLink, start: Start) -> None:
    gate = asyncio.Event()
    link.script.answers["post"] = [gate.wait] * 100
    worker = start(at_once, concurrency=1, jobs=2)
    link.grant(make_lease(1))
    await link.script.until_said("transition")
    await turns()
    assert limits(link) == [1]
    gate.set()
    await link.script.until_said("claim", 2)
    link.grant(make_lease(2))
    assert len(await worker.ended()) == 2


async def test_claims_never_exceed_what_is_left_of_jobs(link: ScriptedLink, start: Start) -> None:
    worker = start(at_once, concurrency=4, jobs=5)
    link.grant(*map(make_lease, range(1, 5)))
    await until(lambda: worker.runner.finished == 4)
    await link.script.until_said("claim", 2)
    link.grant(make_lease(5))
    assert len(await worker.ended()) == 5
    assert set(limits(link)[1:]) == {1}


async def test_a_retry_does_not_count_as_one_of_jobs(link: ScriptedLink, start: Start) -> None:
    async def handler(job: Job) -> str:
        if not job.attempts:
            raise ValueError("not yet")
        return "done"

    worker = start(handler, concurrency=1, jobs=1)
    link.grant(make_lease())
    link.grant(make_lease(attempts=1, token=7))
    assert await worker.ended() == [
        ("release", 1, "ValueError: not yet"), ("transition", 1, COMPLETED),
    ]  # fmt: skip


async def test_the_broker_is_asked_again_until_it_is_back(
    link: ScriptedLink, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    link.script.answers["claim"] = [
        DrainingError("leaving"),
        BrokerUnreachableError("nobody there"),
        InternalError("not yet itself"),
        SessionEvictedError("restarted without its sessions"),
        [make_lease()],
    ]
    worker = start(at_once, jobs=1)
    assert len(await worker.ended()) == 1
    messages = [record.getMessage() for record in caplog.records]
    assert [message.split("(")[0].split()[-2:] for message in messages] == [
        ["no", "requests"],
        ["is", "back"],
    ]


async def test_a_refused_claim_is_not_made_again_before_its_pause(
    link: ScriptedLink, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever else the worker has to say: a broker that starts has enough to do."""
    monkeypatch.setattr("tollgate.worker.broker_status.PAUSE_S_MIN", 3_600)
    link.script.answers["claim"] = [DrainingError("leaving")]
    worker = start(at_once)
    await link.script.until_said("claim")
    await turns()
    worker.runner.check_again()
    await turns()
    assert len(link.script.all("claim")) == 1


async def test_a_refusal_that_will_not_pass_ends_the_worker(
    link: ScriptedLink, start: Start
) -> None:
    link.script.answers["claim"] = [UnsupportedVersionError("version 9 only")]
    with pytest.raises(UnsupportedVersionError):
        await start(at_once).ended()


async def test_a_refused_claim_lets_handlers_finish(link: ScriptedLink, start: Start) -> None:
    async def handler(job: Job) -> str:
        await asyncio.sleep(0.02)
        return "done"

    link.script.answers["claim"] = [[make_lease()], UnsupportedVersionError("revoked")]
    worker = start(handler)
    with pytest.raises(UnsupportedVersionError):
        await worker.ended()
    assert link.script.outcomes() == [("transition", 1, COMPLETED)]


async def test_a_job_that_comes_back_to_its_worker_runs_once(
    link: ScriptedLink, start: Start
) -> None:
    """Its lease lapsed, and this worker's own claim got it while the handler was at work."""
    go_on = asyncio.Event()
    calls: list[str] = []

    async def handler(job: Job) -> str:
        calls.append(job.job_id)
        await go_on.wait()
        return "done"

    worker = start(handler)
    link.grant(make_lease())
    await until(lambda: calls)
    link.grant(make_lease(token=7))
    await link.script.until_said("claim", 3)
    go_on.set()
    await worker.until_outcomes(1)
    assert [each.token for each in link.script.all("transition")] == [7]
    assert len(calls) == 1
    assert len(await worker.stopped()) == 1


async def test_a_result_without_lease_is_sent_with_the_new_one(
    link: ScriptedLink, start: Start
) -> None:
    """The lease lapsed while the result was under way, and came back by this worker's claim."""
    gate = asyncio.Event()
    worker = start(at_once)
    link.grant(make_lease(2))
    await link.script.until_said("claim", 3)  # it parks its claims from now on
    link.script.answers["post"] = [gate.wait]
    link.script.answers["transition"] = [LOST]
    link.script.answers["get"] = [make_job()]
    link.grant(make_lease())
    await link.script.until_said("transition", 2)
    link.grant(make_lease(token=7))
    await link.script.until_said("claim", 5)
    gate.set()
    await until(lambda: worker.runner.finished == 2)
    assert [each.token for each in link.script.all("transition")] == [102, 101, 7]
    await worker.stopped()


# --- a drain --------------------------------------------------------------------------------------


async def test_a_drain_ends_when_nothing_is_ready(link: ScriptedLink, start: Start) -> None:
    worker = start(at_once, drain=True)
    assert await worker.ended() == []
    assert [each.fields["wait_ms"] for each in link.script.all("claim")] == [0]


async def test_a_drain_works_on_all_that_is_ready(link: ScriptedLink, start: Start) -> None:
    link.script.answers["claim"] = [
        [make_lease(1), make_lease(2)], [make_lease(3)], [make_lease(4)], [],
    ]  # fmt: skip
    worker = start(at_once, drain=True, concurrency=2)
    await worker.ended()
    assert worker.runner.finished == 4
    assert {each.fields["wait_ms"] for each in link.script.all("claim")} == {0}


async def test_a_drain_claims_again_after_each_job(link: ScriptedLink, start: Start) -> None:
    """A job may have made others ready: the last claim comes after the last job."""
    go_on = asyncio.Event()

    async def handler(job: Job) -> str:
        await go_on.wait()
        return "done"

    link.script.answers["claim"] = [[make_lease(1)], []]
    worker = start(handler, drain=True)
    await link.script.until_said("claim", 2)
    await turns()
    assert not worker.task.done()
    link.script.answers["claim"] = [[make_lease(2)]]
    go_on.set()
    assert len(await worker.ended()) == 2


async def test_a_drain_does_not_wait_for_answers(link: ScriptedLink, start: Start) -> None:
    async def handler(job: Job, ctx: AsyncContext) -> str:
        return await ctx.ask({"a": 1})

    link.script.answers["claim"] = [[make_lease()]]
    worker = start(handler, drain=True)
    assert await worker.ended() == [("transition", 1, AWAITING_INPUT), ("release", 1, None)]
    assert worker.runner.finished == 0


async def test_a_drain_waits_for_a_broker_that_is_away(link: ScriptedLink, start: Start) -> None:
    link.script.answers["claim"] = [DrainingError("leaving"), [make_lease()], OutcomeUnknown("?")]
    assert len(await start(at_once, drain=True).ended()) == 1


# --- a stop ---------------------------------------------------------------------------------------


async def test_a_parked_claim_does_not_hold_up_a_stop(link: ScriptedLink, start: Start) -> None:
    worker = start(at_once)
    await link.script.until_said("claim")
    assert await worker.stopped() == []
    assert len(link.script.all("withdraw")) == 1


async def test_what_a_claim_brings_after_a_stop_goes_back(link: ScriptedLink, start: Start) -> None:
    """The stop comes while the message with results and a claim is under way."""
    gate = asyncio.Event()

    async def leases() -> list[Any]:
        await gate.wait()
        return [make_lease(8), make_lease(9)]

    link.script.answers["claim"] = [[make_lease(1)], leases]
    worker = start(at_once, concurrency=1)
    await link.script.until_said("transition")
    worker.runner.stop()
    await turns()
    gate.set()
    assert await worker.ended() == [
        ("transition", 1, COMPLETED), ("release", 8, None), ("release", 9, None),
    ]  # fmt: skip
    assert [each.fields["delay_ms"] for each in link.script.all("release")] == [None, None]


async def test_a_job_begun_is_finished_in_the_grace(link: ScriptedLink, start: Start) -> None:
    async def handler(job: Job, ctx: AsyncContext) -> str:
        worker.runner.stop()
        while not ctx.worker_stopping:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        return "done"

    worker = start(handler)
    link.grant(make_lease())
    assert await worker.ended() == [("transition", 1, COMPLETED)]
    assert worker.runner.finished == 1


async def test_a_job_unfinished_after_the_grace_is_released(
    link: ScriptedLink, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    worker = start(for_ever, stop_grace_s=0.01)
    link.grant(make_lease())
    await until(lambda: worker.stage._working)
    assert await worker.stopped() == [("release", 1, None)]
    (release,) = link.script.all("release")
    assert release.fields == {"delay_ms": None, "hold": False}  # no try is counted
    assert worker.runner.is_idle
    assert "released unfinished" in caplog.text


async def test_what_a_cancelled_handler_returns_is_its_result(
    link: ScriptedLink, start: Start
) -> None:
    async def handler(job: Job) -> str:
        try:
            await asyncio.sleep(3_600)
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)
        return "after all"

    worker = start(handler, stop_grace_s=0.01)
    link.grant(make_lease())
    await until(lambda: worker.stage._working)
    assert await worker.stopped() == [("transition", 1, COMPLETED)]


async def test_a_handler_that_ignores_the_stop_is_left(
    link: ScriptedLink, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "CANCEL_S", 0.01)
    go_on = asyncio.Event()

    async def handler(job: Job) -> str:
        while not go_on.is_set():
            try:
                await go_on.wait()
            except asyncio.CancelledError:
                continue
        return "at last"

    worker = start(handler, stop_grace_s=0.01)
    link.grant(make_lease())
    await until(lambda: worker.stage._working)
    assert await worker.stopped() == [("release", 1, None)]
    go_on.set()
    await turns()
    assert link.script.outcomes() == [("release", 1, None)]


async def test_jobs_that_wait_for_a_slot_go_back_at_once(link: ScriptedLink, start: Start) -> None:
    """A claim got more than there are slots, because results kept theirs when it was made."""
    worker = start(for_ever, concurrency=1, stop_grace_s=0.05)
    link.grant(make_lease(1), make_lease(2))
    await until(lambda: worker.stage._waiting)
    worker.runner.stop()
    await link.script.until_said("release")
    assert await worker.ended() == [("release", 2, None), ("release", 1, None)]


@pytest.mark.parametrize("jobs", [1, 3])
async def test_an_unanswered_result_is_sent_again_at_the_end(
    link: ScriptedLink, start: Start, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    monkeypatch.setattr(runner_module, "LAST_S", 0.01)
    monkeypatch.setattr(runner_module, "CANCEL_S", 0.01)
    link.script.answers["post"] = [asyncio.Event().wait] * 9
    worker = start(at_once, stop_grace_s=0.01)
    link.grant(*map(make_lease, range(1, jobs + 1)))
    await link.script.until_said("transition", jobs)
    said = await worker.stopped()
    last = [
        [("transition", each, COMPLETED), ("release", each, None)] for each in range(1, jobs + 1)
    ]
    assert said[jobs:] == [command for commands in last for command in commands]
    assert worker.runner.finished == 0


async def test_an_unanswered_release_does_not_delay_a_stop(
    link: ScriptedLink, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "LAST_S", 0.01)
    monkeypatch.setattr(runner_module, "CANCEL_S", 0.01)
    link.script.answers["release"] = [asyncio.Event().wait] * 9
    worker = start(for_ever, stop_grace_s=0)
    link.grant(make_lease())
    await until(lambda: worker.stage._working)
    assert await worker.stopped() == [("release", 1, None)] * 2


async def test_a_stop_while_the_broker_is_away(link: ScriptedLink, start: Start) -> None:
    link.script.answers["claim"] = [OutcomeUnknown("no answer")] * 1_000
    worker = start(at_once)
    await link.script.until_said("claim", 3)
    assert await worker.stopped() == []


# --- leases ---------------------------------------------------------------------------------------


def before_each_job(worker: AtWork, act: Callable[[], None]) -> None:
    """Have the stage call `act` before it takes a job."""
    take = worker.stage.take

    def acted(held: HeldJob) -> None:
        act()
        take(held)

    worker.stage.take = acted  # type: ignore[method-assign]


async def test_leases_are_kept_before_the_first_handler_begins(
    link: ScriptedLink, start: Start
) -> None:
    """To start hundreds of threads takes longer than a short lease lasts."""
    worker = start(at_once, lease_ms=30)
    before_each_job(worker, lambda: until_true(lambda: link.script.all("touch")))
    link.grant(make_lease(1), make_lease(2), make_lease(3))
    assert len(await worker.until_outcomes(3)) == 3
    first = link.script.all("touch")[:3]
    assert {each.job for each in first} == {1, 2, 3}
    await worker.stopped()


async def test_a_stop_amid_a_claim_gives_the_rest_back(link: ScriptedLink, start: Start) -> None:
    worker = start(for_ever, stop_grace_s=3_600)
    before_each_job(worker, worker.runner.stop)
    link.grant(make_lease(1), make_lease(2), make_lease(3))
    await link.script.until_said("release", 2)
    assert link.script.outcomes() == [("release", 2, None), ("release", 3, None)]
    assert [each.job_id for each in worker.runner.keeper._held.values()] == [
        make_lease(1).job.job_id
    ]


async def test_a_lease_given_back_is_not_claimed_again(link: ScriptedLink, start: Start) -> None:
    """Its touch was under way, and is answered after the release."""
    touching, released = threading.Event(), threading.Event()

    def wait() -> None:
        touching.set()
        released.wait(PATIENCE_S)

    worker = start(for_ever, lease_ms=30, stop_grace_s=3_600)

    def stop() -> None:
        touching.wait(PATIENCE_S)
        worker.runner.stop()

    link.script.answers["touch"] = [LOST] * 3
    link.script.answers["touches"] = [wait]
    before_each_job(worker, stop)
    link.grant(make_lease(1), make_lease(2), make_lease(3))
    await link.script.until_said("release", 2)
    released.set()
    await until(lambda: link.script.all("reclaim"))  # of the job that was begun
    await worker.stopped()
    assert {each.job for each in link.script.all("reclaim")} == {1}


async def test_a_lost_lease_cancels_an_async_handler(link: ScriptedLink, start: Start) -> None:
    cancelled = asyncio.Event()

    async def handler(job: Job, ctx: AsyncContext) -> str:
        try:
            await asyncio.sleep(3_600)
        finally:
            assert ctx.stop_requested
            cancelled.set()
        return "never"

    link.script.answers["touch"] = [LOST]
    worker = start(handler, lease_ms=30)
    link.grant(make_lease())
    await asyncio.wait_for(cancelled.wait(), PATIENCE_S)
    assert await worker.stopped() == []
    assert len(link.script.all("reclaim")) == 1


async def test_a_lost_lease_stops_that_job_alone(link: ScriptedLink, start: Start) -> None:
    go_on = asyncio.Event()

    async def handler(job: Job) -> str:
        await go_on.wait()
        return "done"

    link.script.answers["touch"] = [LOST]
    worker = start(handler, lease_ms=30)
    link.grant(make_lease(1), make_lease(2), make_lease(3))
    await until(lambda: len(worker.stage._working) == 2)
    go_on.set()
    assert await worker.until_outcomes(2) == [
        ("transition", 2, COMPLETED), ("transition", 3, COMPLETED),
    ]  # fmt: skip
    assert len(await worker.stopped()) == 2


async def test_a_lost_lease_is_told_once_and_touched_no_more(
    link: ScriptedLink, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """Two touches of it may be under way; a thread cannot be ended, and goes on."""
    go_on = threading.Event()

    def handler(job: Job) -> str:
        go_on.wait(PATIENCE_S)
        return "after all"

    worker = start(handler)
    link.grant(make_lease())
    await until(lambda: worker.stage._working)
    (held,) = worker.stage._working
    for _ in range(2):
        worker.runner.lease_lost(held, held.token, LOST)
    await until(lambda: worker.stage.stuck)
    await turns()
    assert caplog.text.count("the lease is lost") == 1
    assert worker.runner.keeper.holder(held.job_id) is None
    go_on.set()
    await until(lambda: worker.runner.finished)
    await worker.stopped()


async def test_a_lease_lost_as_its_outcome_is_decided_is_no_loss(
    link: ScriptedLink, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """The lease thread looked before that, and its word comes after it."""
    gate = asyncio.Event()
    link.script.answers["post"] = [gate.wait]
    worker = start(at_once)
    link.grant(make_lease())
    await until(lambda: worker.runner.settler.outcomes)
    (held,) = worker.runner.settler.outcomes
    worker.runner.lease_lost(held, held.token, LOST)
    await turns()
    assert "the lease is lost" not in caplog.text
    assert worker.runner.keeper.holder(held.job_id) is held
    gate.set()
    await until(lambda: worker.runner.finished)
    await worker.stopped()


def test_a_lease_lost_after_the_end_is_no_fault() -> None:
    """The lease thread may still be in a call when the loop has been closed."""

    async def make() -> AtWork:
        worker = AtWork(ScriptedLink(), at_once)
        worker.close()
        return worker

    runner = asyncio.run(make()).runner
    stage: Any = None
    runner.lease_lost(HeldJob(make_lease(), stage), 101, LOST)


async def test_a_result_after_a_lost_lease_is_sent(link: ScriptedLink, start: Start) -> None:
    """It is kept while another worker has the lease, and stored if that one dies."""

    async def handler(job: Job) -> str:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3_600)
        return "after all"

    link.script.answers["touch"] = [LOST]
    link.script.answers["transition"] = [LOST]
    link.script.answers["reclaim"] = [[], [make_lease(token=7)]]
    worker = start(handler, lease_ms=30)
    link.grant(make_lease())
    await until(lambda: worker.runner.finished)
    assert [each.token for each in link.script.all("transition")] == [101, 7]
    await worker.stopped()


async def test_a_result_that_waits_for_its_lease_is_not_made_again(
    link: ScriptedLink, start: Start
) -> None:
    """The queue was paused, or another worker gave the job back: a claim of this worker gets it."""
    calls: list[str] = []

    async def handler(job: Job) -> str:
        calls.append(job.job_id)
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3_600)
        return "after all"

    worker = start(handler)
    link.grant(make_lease(1))
    await until(lambda: worker.stage._working)
    (held,) = worker.stage._working
    link.script.answers["transition"] = [LOST] * 1_000
    link.script.answers["get"] = [make_job()] * 1_000
    worker.runner.lease_lost(held, held.token, LOST)
    await link.script.until_said("get")  # no answer gives the job by its id
    link.grant(make_lease(1, token=7))
    await until(lambda: held.token == 7)
    link.script.answers["transition"].clear()
    await until(lambda: worker.runner.finished)
    assert link.script.all("transition")[-1].token == 7
    assert worker.runner.keeper.holder(held.job_id) is None
    assert len(calls) == 1
    await worker.stopped()


async def test_a_result_that_is_under_way_is_not_made_again(
    link: ScriptedLink, start: Start
) -> None:
    """A claim brings the job back while the result is sent under the lease that was lost."""
    calls: list[str] = []
    gate = asyncio.Event()

    async def lost() -> LeaseLostError:
        await gate.wait()
        return LOST

    async def handler(job: Job) -> str:
        calls.append(job.job_id)
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3_600)
        return "after all"

    worker = start(handler)
    link.grant(make_lease(1))
    await until(lambda: worker.stage._working)
    (held,) = worker.stage._working
    link.script.answers["transition"] = [lost]
    link.script.answers["get"] = [make_job()] * 1_000
    worker.runner.lease_lost(held, held.token, LOST)
    await link.script.until_said("transition")
    link.grant(make_lease(1, token=7))
    await until(lambda: held.token == 7 or len(calls) > 1)
    gate.set()
    await until(lambda: worker.runner.finished)
    assert link.script.all("transition")[-1].token == 7
    assert len(calls) == 1
    await worker.stopped()


async def test_a_lease_that_lapsed_is_had_back_in_time(link: ScriptedLink, start: Start) -> None:
    """The machine stood still; the lease thread claims the job by its id."""
    go_on = asyncio.Event()

    async def handler(job: Job) -> str:
        await go_on.wait()
        return "done"

    link.script.answers["touch"] = [LOST]
    link.script.answers["reclaim"] = [[make_lease(token=7)]]
    worker = start(handler, lease_ms=30)
    link.grant(make_lease())
    await until(lambda: any(each.token == 7 for each in link.script.all("touch")))
    go_on.set()
    await worker.until_outcomes(1)
    assert [each.token for each in link.script.all("transition")] == [7]
    await worker.stopped()


async def test_a_lease_is_touched_until_its_outcome_is_heard(
    link: ScriptedLink, start: Start
) -> None:
    gate = asyncio.Event()
    link.script.answers["post"] = [gate.wait]
    worker = start(at_once, lease_ms=15)
    link.grant(make_lease())
    await link.script.until_said("touch", 3)
    gate.set()
    await until(lambda: worker.runner.finished)
    await asyncio.sleep(0.02)  # one may be under way
    touches = len(link.script.all("touch"))
    await asyncio.sleep(0.05)
    assert len(link.script.all("touch")) == touches
    await worker.stopped()


async def test_a_lease_lost_while_settling_cancels_nothing(
    link: ScriptedLink, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """Its own outcome ended it: the touch was decided after that, and answered before it."""
    gate = asyncio.Event()
    link.script.answers["post"] = [gate.wait]
    link.script.answers["touch"] = [LOST] * 3
    worker = start(at_once, lease_ms=15)
    link.grant(make_lease())
    await link.script.until_said("touch", 3)
    gate.set()
    await until(lambda: worker.runner.finished)
    assert not link.script.all("reclaim")
    assert "lost" not in caplog.text
    await worker.stopped()


async def test_a_touch_tells_who_asked_for_a_stop(link: ScriptedLink, start: Start) -> None:
    async def handler(job: Job, ctx: AsyncContext) -> str:
        while not ctx.stop_requested:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        return f"stopped, {ctx.worker_stopping}"

    link.script.answers["touch"] = [Touched(stop_requested=True)]
    worker = start(handler, lease_ms=30)
    link.grant(make_lease())
    await worker.until_outcomes(1)
    assert link.script.all("transition")[0].text == "stopped, False"
    await worker.stopped()


async def test_leases_that_came_late_are_touched_first(
    link: ScriptedLink, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """A handler has blocked the loop: some of them may have lapsed, and others have the jobs."""
    link.script.answers["first touch"] = [None, LOST]
    worker = start(at_once, lease_ms=60_000)
    await link.script.until_said("claim")
    leases = [make_lease(1), make_lease(2)]
    worker.runner.take_leases(worker.stage, leases, asked_at=monotonic() - 61)
    assert not worker.runner.is_idle
    await until(lambda: worker.runner.finished)
    assert [each.job for each in link.script.all("first touch")] == [1, 2]
    assert "00002: its lease ended before it was begun (granted anew)" in caplog.text
    assert await worker.stopped() == [("transition", 1, COMPLETED)]


async def test_a_late_job_that_is_gone_is_not_begun(link: ScriptedLink, start: Start) -> None:
    link.script.answers["first touch"] = [JobNotFoundError("id")]
    worker = start(at_once, lease_ms=60_000)
    await link.script.until_said("claim")
    worker.runner.take_leases(worker.stage, [make_lease(1)], asked_at=monotonic() - 61)
    await until(lambda: worker.runner.is_idle)
    assert await worker.stopped() == []


async def test_a_touch_without_an_answer_ends_no_lease(link: ScriptedLink, start: Start) -> None:
    """The broker may be away for a moment: the leases are taken, and the lease thread goes on."""
    link.script.answers["first touch"] = [OutcomeUnknown("no answer")]
    worker = start(at_once, lease_ms=60_000)
    await link.script.until_said("claim")
    worker.runner.take_leases(worker.stage, [make_lease(1)], asked_at=monotonic() - 61)
    assert await worker.until_outcomes(1) == [("transition", 1, COMPLETED)]
    await worker.stopped()


async def test_a_lease_that_was_regained_is_not_lost(link: ScriptedLink, start: Start) -> None:
    """The lease thread tells of the old one after a claim of this worker has got the job back."""
    go_on = asyncio.Event()

    async def handler(job: Job) -> str:
        await go_on.wait()
        return "done"

    worker = start(handler)
    link.grant(make_lease(1))
    await until(lambda: worker.stage._working)
    (held,) = worker.stage._working
    worker.runner.lease_lost(held, held.token, LOST)
    held.regain(make_lease(1, token=7))
    await turns()
    assert not held.is_lost
    go_on.set()
    assert await worker.until_outcomes(1) == [("transition", 1, COMPLETED)]
    await worker.stopped()


async def test_a_job_that_is_on_its_way_back_is_not_lost(link: ScriptedLink, start: Start) -> None:
    """The process stood still. Its claim has the job, and the lease thread was answered first."""
    gate = asyncio.Event()
    calls: list[str] = []

    async def handler(job: Job) -> str:
        calls.append(job.job_id)
        await gate.wait()
        return "done"

    worker = start(handler)
    link.grant(make_lease(1))
    await until(lambda: worker.stage._working)
    (held,) = worker.stage._working
    await link.script.until_said("claim", 2)
    link.script.answers["first touch"] = [LOST]
    worker.runner.lease_lost(held, held.token, LOST)
    link.script.answers["post"] = [turns]
    link.grant(make_lease(1, token=7))
    await link.script.until_said("claim", 3)
    await turns()
    gate.set()
    assert await worker.until_outcomes(1) == [("transition", 1, COMPLETED)]
    assert [each.token for each in link.script.all("transition")] == [7]
    assert len(calls) == 1
    await worker.stopped()


async def test_a_job_among_late_leases_is_not_lost(link: ScriptedLink, start: Start) -> None:
    """The same, and the claim waited so long that its leases are touched before they are begun."""
    gate, go_on = asyncio.Event(), asyncio.Event()

    async def handler(job: Job) -> str:
        await go_on.wait()
        return "done"

    worker = start(handler, lease_ms=60_000)
    link.grant(make_lease(1))
    await until(lambda: worker.stage._working)
    (held,) = worker.stage._working
    link.script.answers["first touch"] = [None, LOST, LOST]
    link.script.answers["post"] = [gate.wait]
    late = [make_lease(1, token=7)]
    worker.runner.take_leases(worker.stage, late, asked_at=monotonic() - 61)
    worker.runner.lease_lost(held, held.token, LOST)
    await link.script.until_said("first touch", 2)
    await turns()
    gate.set()
    await until(lambda: held.token == 7)
    await turns()
    go_on.set()
    assert await worker.until_outcomes(1) == [("transition", 1, COMPLETED)]
    await worker.stopped()


# --- handlers -------------------------------------------------------------------------------------


async def test_a_burst_of_jobs_leaves_the_loop_its_turns(link: ScriptedLink, start: Start) -> None:
    """Handlers that wait go on while many short ones come."""
    at_work, all_there = set(), asyncio.Event()

    async def handler(job: Job) -> str:
        if number_of(job.job_id) % 2:
            at_work.add(job.job_id)
            if len(at_work) == 25:
                all_there.set()
            await all_there.wait()
        return "done"

    worker = start(handler, concurrency=50)
    link.grant(*map(make_lease, range(1, 51)))
    await until(lambda: worker.runner.finished == 50)
    assert len(link.script.messages) < 20
    await worker.stopped()


async def test_each_call_has_context_variables_of_its_own(link: ScriptedLink, start: Start) -> None:
    async def handler(job: Job) -> str:
        found = WHOSE.get()
        WHOSE.set(job.job_id)
        await asyncio.sleep(0.001 * (number_of(job.job_id) % 2))
        return found if WHOSE.get() == job.job_id else "lost"

    worker = start(handler)
    link.grant(*map(make_lease, range(1, 4)))
    await until(lambda: worker.runner.finished == 3)
    assert {each.text for each in link.script.all("transition")} == {"nobody's"}
    assert WHOSE.get() == "nobody's"
    await worker.stopped()


async def test_threads_have_context_variables_of_their_own(
    link: ScriptedLink, start: Start
) -> None:
    def handler(job: Job) -> str:
        found = WHOSE.get()
        WHOSE.set(job.job_id)
        return found

    worker = start(handler, concurrency=1)
    for number in (1, 2, 3):
        link.grant(make_lease(number))
    await until(lambda: worker.runner.finished == 3)
    assert {each.text for each in link.script.all("transition")} == {"nobody's"}
    await worker.stopped()


async def test_a_handler_may_limit_its_own_time(link: ScriptedLink, start: Start) -> None:
    async def handler(job: Job) -> str:
        try:
            async with asyncio.timeout(0.01), asyncio.TaskGroup() as group:
                await group.create_task(asyncio.sleep(3_600 if number_of(job.job_id) == 2 else 0))
        except TimeoutError:
            return "late"
        return "in time"

    worker = start(handler)
    link.grant(*map(make_lease, range(1, 4)))
    await until(lambda: worker.runner.finished == 3)
    results = {each.job: each.text for each in link.script.all("transition")}
    assert results == {1: "in time", 2: "late", 3: "in time"}
    await worker.stopped()


async def test_a_fault_of_the_worker_leaves_one_job_alone(
    link: ScriptedLink,
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    worker = start(at_once)
    decide = worker.stage._policy.outcome

    def outcome(ended: Any, attempt: int) -> Any:
        if attempt == 3:
            raise RuntimeError("a bug")
        return decide(ended, attempt)

    monkeypatch.setattr(worker.stage._policy, "outcome", outcome)
    link.grant(make_lease(1, attempts=2), make_lease(2))
    await until(lambda: worker.runner.finished == 1)
    await turns()
    assert worker.stage.room() == 4
    assert "left alone after a fault of the worker" in caplog.text
    assert worker.runner.keeper.holder(make_job(1).job_id) is None  # its lease lapses
    assert await worker.stopped() == [("transition", 2, COMPLETED)]


async def test_a_pause_comes_before_the_handler(link: ScriptedLink, start: Start) -> None:
    began_at: list[float] = []

    async def handler(job: Job) -> str:
        began_at.append(asyncio.get_running_loop().time())
        return "done"

    worker = start(handler, work_delay_ms=50)
    asked_at = asyncio.get_running_loop().time()
    link.grant(make_lease())
    await until(lambda: worker.runner.finished)
    assert began_at[0] - asked_at >= 0.05
    await worker.stopped()


async def test_a_stop_ends_the_pause_before_a_handler(link: ScriptedLink, start: Start) -> None:
    worker = start(at_once, work_delay_ms=3_600_000, stop_grace_s=0.01)
    link.grant(make_lease())
    await until(lambda: worker.stage._working)
    assert await worker.stopped() == [("release", 1, None)]


async def test_a_failed_thread_fails_its_job(link: ScriptedLink, start: Start) -> None:
    def handler(job: Job) -> str:
        assert threading.current_thread() is not threading.main_thread()
        raise ValueError("no")

    worker = start(handler, max_attempts=1)
    link.grant(make_lease())
    await until(lambda: worker.runner.finished)
    assert await worker.stopped() == [("transition", 1, FAILED)]

"""An outcome takes effect once, and none is thrown away while its job can still take it.

The broker is a script here: a real one cannot be made to lose just the answer, and just once.
"""

import asyncio
import logging
from collections import Counter
from typing import Any

import pytest

from tests.worker.script import PATIENCE_S, ScriptedLink, make_job, make_lease, turns, until
from tollgate.client.errors import BrokerUnreachableError, OutcomeUnknown
from tollgate.domain.exceptions import (
    DrainingError,
    ExpiredError,
    InternalError,
    InvalidStateTransitionError,
    JobNotFoundError,
    LeaseLostError,
    NotAuthorizedError,
    SessionEvictedError,
    TollgateError,
    TooLargeError,
    VersionConflictError,
)
from tollgate.domain.status import COMPLETED, FAILED, RUNNING
from tollgate.worker.broker_status import BrokerStatus
from tollgate.worker.held import HeldJob
from tollgate.worker.outcome import GiveBack, Move, Outcome
from tollgate.worker.policy import RetryPolicy
from tollgate.worker.roles import Roles
from tollgate.worker.settle import MESSAGES_MAX, Settler

DONE = Move.completed("42")
UNKNOWN = OutcomeUnknown("no answer")
UNREACHABLE = BrokerUnreachableError("nobody there")
LOST = LeaseLostError("lease 101 is over")


class Desk:
    """A settler, and how each job has ended."""

    def __init__(self, link: Any, on_exhausted: Any = "fail") -> None:
        self.link = link
        self.script = link.script
        policy = RetryPolicy(3, 2.0, on_exhausted)
        self.roles = Roles(link)
        self.settler = Settler(
            link, BrokerStatus("ipc:///somewhere"), policy, 30_000, self._ended, self.roles
        )
        self.ends: dict[int, Outcome | None] = {}

    def put(self, *numbers: int, outcome: Outcome = DONE) -> list[HeldJob]:
        stage: Any = None
        held = [HeldJob(make_lease(number), stage) for number in numbers]
        for each in held:
            self.settler.put(each, outcome)
        return held

    def send(self) -> bool:
        """Send what is ready in one message, as the runner does; return whether there was any."""
        message = self.settler.take()
        if message is not None:
            self.link.post(*message, 1.0)
            self.link.push()
        return message is not None

    async def settle(self, outcome: Outcome = DONE) -> tuple[HeldJob, Outcome | None]:
        """Settle job 1, and return it and the outcome that the broker took."""
        (held,) = self.put(1, outcome=outcome)
        self.send()
        await self.until_ended(1)
        return held, self.ends[1]

    async def until_ended(self, jobs: int) -> dict[int, Outcome | None]:
        await until(lambda: len(self.ends) >= jobs)
        return dict(sorted(self.ends.items()))

    def _ended(self, held: HeldJob, outcome: Outcome | None) -> None:
        number = int(held.job.job_id[-4:], 16)
        assert number not in self.ends
        self.ends[number] = outcome

    def sent(self) -> list[tuple[Any, ...]]:
        return [(each.target, each.text, each.version, each.token) for each in self.transitions()]

    def transitions(self) -> list[Any]:
        return self.script.all("transition")  # type: ignore[no-any-return]


@pytest.fixture
async def desk(link: ScriptedLink) -> Desk:
    return Desk(link)


# --- one message ----------------------------------------------------------------------------------


async def test_an_outcome_names_version_and_lease(desk: Desk) -> None:
    assert (await desk.settle())[1] == DONE
    assert desk.sent() == [(COMPLETED, "42", 2, 101)]
    assert not desk.settler


async def test_what_is_ready_at_once_goes_in_one_message(desk: Desk) -> None:
    desk.put(1, 2)
    desk.put(3, outcome=GiveBack(delay_ms=5, reason="later"))
    assert desk.send()
    assert not desk.send()
    assert list(await desk.until_ended(3)) == [1, 2, 3]
    assert desk.script.messages == [["transition", "transition", "release"]]


async def test_results_wait_for_a_message_and_share_the_next(desk: Desk) -> None:
    gate = asyncio.Event()
    desk.script.answers["post"] = [gate.wait] * MESSAGES_MAX
    for number in range(1, MESSAGES_MAX + 4):
        desk.put(number)
        assert desk.send() == (number <= MESSAGES_MAX)
    await turns()
    assert len(desk.settler) == desk.settler.under_way == MESSAGES_MAX + 3
    gate.set()
    await desk.until_ended(MESSAGES_MAX)
    assert desk.send()
    await desk.until_ended(MESSAGES_MAX + 3)
    assert desk.script.messages[MESSAGES_MAX:] == [["transition"] * 3]


async def test_a_refusal_is_that_jobs_alone(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.script.answers["transition"] = [
        make_job(1), InvalidStateTransitionError("failed", "completed"), make_job(3)
    ]  # fmt: skip
    desk.put(1, 2, 3)
    desk.send()
    assert await desk.until_ended(3) == {1: DONE, 2: None, 3: DONE}
    assert len(desk.sent()) == 3
    (record,) = caplog.records
    assert record.getMessage() == (
        "job 00000000-0000-0000-0000-000000000002: cannot be completed any more:"
        " a job cannot go from failed to completed"
    )


async def test_a_refusal_that_passes_repeats_that_job_alone(desk: Desk) -> None:
    desk.script.answers["transition"] = [
        make_job(1), DrainingError("leaving"), make_job(3), SessionEvictedError("restarted"),
        ExpiredError("frozen"),
    ]  # fmt: skip
    desk.put(1, 2, 3)
    desk.send()
    assert await desk.until_ended(3) == {1: DONE, 2: DONE, 3: DONE}
    assert [each.job for each in desk.transitions()] == [1, 2, 3, 2, 2, 2]
    assert not desk.script.all("get")  # nothing was applied: the job need not be looked at


async def test_a_job_settled_alone_leaves_its_place(desk: Desk) -> None:
    gate = asyncio.Event()
    desk.script.answers["transition"] = [DrainingError("leaving"), gate.wait]
    desk.put(1)
    desk.send()
    await desk.script.until_said("transition", 2)
    assert (len(desk.settler), desk.settler.under_way) == (1, 0)
    gate.set()


# --- a missing answer -----------------------------------------------------------------------------

OURS: dict[str, Any] = {"status": COMPLETED, "result": "42", "version": 3}


@pytest.mark.parametrize(
    ("fields", "end", "times"),
    [
        ({}, DONE, 2),
        (OURS, DONE, 1),
        ({"status": COMPLETED, "result": "of another one", "version": 3}, None, 1),
        ({"status": FAILED, "error": "too late", "version": 3}, None, 1),
        (OURS | {"version": 5}, None, 1),
    ],
)
async def test_a_message_without_answer_applies_once(
    *, desk: Desk, fields: dict[str, Any], end: Outcome | None, times: int
) -> None:
    desk.script.answers["post"] = [UNKNOWN]
    desk.script.answers["get"] = [make_job(1, **fields), make_job(2, **fields)]
    desk.put(1, 2)
    desk.send()
    assert await desk.until_ended(2) == {1: end, 2: end}
    assert Counter(each.job for each in desk.transitions()) == {1: times, 2: times}


async def test_doubt_lasts_until_the_job_was_seen(desk: Desk) -> None:
    """A refusal that passes after an answer was missing says nothing about the first message."""
    desk.script.answers["transition"] = [UNKNOWN, DrainingError("leaving")]
    desk.script.answers["get"] = [UNREACHABLE, make_job(), make_job(**OURS)]
    held, end = await desk.settle()
    assert end == DONE
    assert held.version == 3
    assert len(desk.sent()) == 2


async def test_a_message_that_never_left_is_sent_again(desk: Desk) -> None:
    desk.script.answers["post"] = [UNREACHABLE]
    desk.script.answers["get"] = [make_job()]
    assert (await desk.settle())[1] == DONE
    assert desk.sent() == [(COMPLETED, "42", 2, 101)] * 2


async def test_the_log_tells_who_a_result_waits_for(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.script.answers["transition"] = [UNREACHABLE]
    desk.script.answers["get"] = [make_job()]
    assert (await desk.settle())[1] == DONE
    assert "takes no requests (nobody there): waiting for it" in caplog.text


async def test_a_broker_without_the_job_ends_it(desk: Desk) -> None:
    desk.script.answers["transition"] = [UNKNOWN]
    assert (await desk.settle())[1] is None  # `get` finds no job


@pytest.mark.parametrize("refusal", [NotAuthorizedError("no"), JobNotFoundError("id")])
async def test_a_refusal_that_stays_ends_it(desk: Desk, refusal: TollgateError) -> None:
    desk.script.answers["transition"] = [refusal]
    assert (await desk.settle())[1] is None
    assert len(desk.sent()) == 1


# --- a lease that is over -------------------------------------------------------------------------


async def test_a_lapsed_lease_is_had_back(desk: Desk) -> None:
    desk.script.answers["transition"] = [LOST]
    desk.script.answers["reclaim"] = [[make_lease(token=7)]]
    assert (await desk.settle())[1] == DONE
    assert [token for *_, token in desk.sent()] == [101, 7]
    assert [each.target for each in desk.script.all("reclaim")] == [RUNNING]


async def test_a_result_waits_for_the_other_lease(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """Another worker has the job; it dies, and the result is stored after all."""
    desk.script.answers["transition"] = [LOST, LOST, LOST]
    desk.script.answers["get"] = [make_job(), make_job()]
    desk.script.answers["reclaim"] = [[], [], [make_lease(token=9)]]
    assert (await desk.settle())[1] == DONE
    assert desk.sent()[-1] == (COMPLETED, "42", 2, 9)
    told = "another worker has the lease, or its queue is paused; this one keeps its result"
    assert caplog.text.count(told) == 1


async def test_the_other_lease_is_asked_for_with_pauses(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lease may stand for hours; asking for it without a pause would keep the broker busy."""
    monkeypatch.setattr("tollgate.worker.broker_status.PAUSE_S_MIN", 3_600)
    desk.script.answers["transition"] = [LOST] * 100
    desk.script.answers["get"] = [make_job()] * 100
    desk.put(1)
    desk.send()
    await desk.script.until_said("get")
    await turns()
    assert len(desk.script.all("reclaim")) == 1
    desk.settler.give_up()


async def test_a_job_that_is_gone_keeps_no_result_waiting(desk: Desk) -> None:
    desk.script.answers["transition"] = [LOST]  # then `get` finds no job
    assert (await desk.settle())[1] is None
    assert len(desk.script.all("reclaim")) == 1


async def test_a_result_ends_with_the_other_workers(desk: Desk) -> None:
    desk.script.answers["transition"] = [LOST, LOST]
    desk.script.answers["get"] = [make_job(), make_job(status=FAILED, error="theirs", version=3)]
    assert (await desk.settle())[1] is None
    assert len(desk.sent()) == 2


async def test_a_lease_that_the_lease_thread_got_back_is_used(desk: Desk) -> None:
    """It was granted again, in the thread or by a claim of this worker, while this was asked."""

    async def granted_elsewhere() -> list[Any]:
        held.token = 55
        return []

    desk.script.answers["transition"] = [LOST]
    desk.script.answers["get"] = [make_job()]
    desk.script.answers["reclaim"] = [granted_elsewhere]
    (held,) = desk.put(1)
    desk.send()
    assert await desk.until_ended(1) == {1: DONE}
    assert [token for *_, token in desk.sent()] == [101, 55]


async def test_a_lease_of_a_job_that_moved_is_released(desk: Desk) -> None:
    """The job went through a question meanwhile: it is claimed, but it is another one."""
    desk.script.answers["transition"] = [LOST]
    desk.script.answers["reclaim"] = [[make_lease(token=7, version=4)]]
    desk.script.answers["get"] = [make_job(version=4)]
    assert (await desk.settle())[1] is None
    assert [(each.job, each.token) for each in desk.script.all("release")] == [(1, 7)]
    assert len(desk.sent()) == 1


async def test_a_conflict_is_looked_into(desk: Desk) -> None:
    desk.script.answers["transition"] = [VersionConflictError("it is at version 3")]
    desk.script.answers["get"] = [make_job(**OURS)]
    assert (await desk.settle())[1] == DONE
    assert len(desk.sent()) == 1


@pytest.mark.parametrize("fault", [UNREACHABLE, UNKNOWN, DrainingError("leaving")])
async def test_a_broker_lost_while_regaining_is_asked_again(desk: Desk, fault: Any) -> None:
    desk.script.answers["transition"] = [LOST, LOST]
    desk.script.answers["reclaim"] = [fault, [make_lease(token=7)]]
    assert (await desk.settle())[1] == DONE
    assert [token for *_, token in desk.sent()] == [101, 101, 7]


@pytest.mark.parametrize("outcome", [GiveBack(), GiveBack(5, "ValueError: no")])
async def test_a_lease_that_is_over_needs_no_release(desk: Desk, outcome: Outcome) -> None:
    desk.script.answers["release"] = [LOST]
    assert (await desk.settle(outcome))[1] is None
    assert len(desk.script.all("release")) == 1
    assert not desk.script.all("reclaim")


async def test_a_hold_is_not_lost_with_a_lease(desk: Desk) -> None:
    hold = GiveBack(reason="ValueError: no", hold=True)
    desk.script.answers["release"] = [LOST]
    desk.script.answers["reclaim"] = [[make_lease(token=7)]]
    assert (await desk.settle(hold))[1] == hold
    assert [each.token for each in desk.script.all("release")] == [101, 7]


# --- outcomes that the broker does not take -------------------------------------------------------


@pytest.mark.parametrize(("text_bytes", "setting"), [(1, "--text-bytes"), (9, "--request-bytes")])
async def test_a_result_too_large_fails_its_job_alone(
    desk: Desk, link: ScriptedLink, text_bytes: int, setting: str, caplog: pytest.LogCaptureFixture
) -> None:
    link.limits["text_bytes"] = text_bytes
    desk.script.answers["transition"] = [make_job(), TooLargeError("too much", limit=1)]
    desk.put(1, 2)
    desk.send()
    error = f"the handler's result has 2 bytes, and the broker takes 1: raise its setting {setting}"
    assert await desk.until_ended(2) == {1: DONE, 2: Move.failed(error)}
    assert [each.job for each in desk.transitions()] == [1, 2, 2]
    assert error in caplog.text


async def test_a_result_too_large_goes_on_hold(link: ScriptedLink) -> None:
    desk = Desk(link, "hold")
    desk.script.answers["transition"] = [TooLargeError("too much", limit=1)]
    _, end = await desk.settle()
    assert isinstance(end, GiveBack)
    assert end.hold
    assert "raise its setting --text-bytes" in (end.reason or "")


async def test_an_error_too_large_is_cut(desk: Desk) -> None:
    desk.script.answers["transition"] = [TooLargeError("too much", limit=4)]
    assert (await desk.settle(Move.failed("é" * 9)))[1] == Move.failed("éé")


@pytest.mark.parametrize("on_exhausted", ["fail", "hold"])
async def test_a_pause_beyond_the_jobs_end_is_no_pause(
    link: ScriptedLink, on_exhausted: Any
) -> None:
    desk = Desk(link, on_exhausted)
    desk.script.answers["release"] = [TooLargeError("the job ends before that", limit=3)]
    _, end = await desk.settle(GiveBack(60_000, "ValueError: no"))
    error = "ValueError: no; the job ends before another try"
    assert end == (Move.failed(error) if on_exhausted == "fail" else GiveBack(None, error, True))


async def test_a_reason_too_large_for_a_hold_is_cut(link: ScriptedLink) -> None:
    """The broker was started again with a lower limit."""
    desk = Desk(link, "hold")
    desk.script.answers["release"] = [TooLargeError("reason is too long", limit=4)] * 2
    hold = GiveBack(reason="é" * 9, hold=True)
    assert (await desk.settle(hold))[1] == GiveBack(reason="éé", hold=True)


async def test_the_last_progress_comes_before_the_outcome(desk: Desk) -> None:
    """In the same message; the answer to it is the outcome of no job."""
    first, second = desk.put(1, 2)
    second.put_progress_back(("all of it", 1.0))
    desk.send()
    assert await desk.until_ended(2) == {1: DONE, 2: DONE}
    assert [len(names) for names in desk.script.messages] == [3]
    assert desk.script.messages[0][1:] == ["transition", "transition"]
    assert not first.has_progress
    assert not second.has_progress


async def test_what_stays_too_large_is_given_up(desk: Desk) -> None:
    """A broker that calls everything too large is not asked without end."""
    desk.script.answers["transition"] = [TooLargeError("too long", limit=4)] * 1_000
    assert (await desk.settle(Move.failed("a reason")))[1] is None
    assert len(desk.transitions()) < 10


async def test_a_fault_of_the_broker_loses_no_result(desk: Desk) -> None:
    desk.script.answers["transition"] = [InternalError("a defect")] * 2
    assert (await desk.settle())[1] == DONE
    assert len(desk.transitions()) == 3


async def test_a_question_too_large_fails_its_job(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    refusal = TooLargeError("a job asks for input 32 times at most", limit=32)
    desk.script.answers["transition"] = [refusal]
    held = HeldJob(make_lease(), Any)  # type: ignore[arg-type]
    job, took = await desk.settler.deliver(held, Move.asks("{}", keeps_lease=True))
    assert took == Move.failed("a job asks for input 32 times at most")
    assert job is not None
    assert job.status is FAILED
    assert "a job asks for input 32 times at most" in caplog.text


# --- faults and the end ---------------------------------------------------------------------------


def a_bug() -> Any:
    raise RuntimeError("a bug")


async def test_a_fault_of_the_worker_leaves_one_job_alone(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.script.answers |= {"transition": [UNKNOWN], "get": [a_bug]}
    desk.put(1, 2)
    desk.send()
    assert await desk.until_ended(2) == {1: None, 2: DONE}
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "left alone after a fault of the worker" in record.getMessage()
    assert not desk.script.all("release")  # it would come back at once
    assert not desk.settler


async def test_what_is_given_up_is_sent_no_more(desk: Desk) -> None:
    gate = asyncio.Event()

    async def refused() -> None:
        await gate.wait()
        raise DrainingError("leaving")

    desk.script.answers["post"] = [refused]
    under_way = desk.put(1)
    desk.send()
    await turns()
    ready = desk.put(2)
    assert {*desk.settler.give_up()} == {*under_way, *ready}
    gate.set()
    await asyncio.sleep(0.02)
    assert not desk.settler
    assert not desk.send()
    assert not desk.ends
    assert len(desk.sent()) == 1


async def test_what_is_given_up_is_not_tried_again(desk: Desk) -> None:
    desk.script.answers["transition"] = [DrainingError("leaving")] * 1_000
    held = desk.put(1)
    desk.send()
    await desk.script.until_said("transition", 4)
    assert [*desk.settler.give_up()] == held
    sent = len(desk.sent())
    await asyncio.sleep(0.05)
    assert len(desk.sent()) == sent
    assert not desk.ends


# --- the lease of a job that was answered ---------------------------------------------------------


@pytest.mark.parametrize(
    ("touches", "reclaims", "has_it", "token"),
    [
        ([None], [], True, 101),
        ([LOST], [[make_lease(token=7)]], True, 7),
        ([LOST], [[]], False, 101),
        ([LOST], [[make_lease(token=7, version=9)]], False, 101),
        ([JobNotFoundError("id")], [], False, 101),
        ([UNREACHABLE, DrainingError("leaving"), None], [], True, 101),
        ([LOST, LOST], [UNREACHABLE, [make_lease(token=7)]], True, 7),
        ([LOST, LOST], [UNKNOWN, []], False, 101),
        ([LOST], [NotAuthorizedError("no")], False, 101),
    ],
)
async def test_whether_the_lease_is_still_there(
    *, desk: Desk, touches: list[Any], reclaims: list[Any], has_it: bool, token: int
) -> None:
    desk.script.answers |= {"touch": [*touches], "reclaim": [*reclaims]}
    held = HeldJob(make_lease(), Any)  # type: ignore[arg-type]
    assert await asyncio.wait_for(desk.settler.has_lease(held), PATIENCE_S) is has_it
    assert held.token == token


@pytest.mark.parametrize(("second", "has_it"), [(None, True), (LOST, False)])
async def test_a_lease_that_a_claim_of_this_worker_got_is_there(
    desk: Desk, second: Any, *, has_it: bool
) -> None:
    """The answer had freed the job, and the worker's parked claim was granted it."""
    held = HeldJob(make_lease(), Any)  # type: ignore[arg-type]

    async def granted_elsewhere() -> list[Any]:
        held.token = 55
        return []

    desk.script.answers |= {"touch": [LOST, second], "reclaim": [granted_elsewhere]}
    assert await asyncio.wait_for(desk.settler.has_lease(held), PATIENCE_S) is has_it
    assert [each.token for each in desk.script.all("touch")] == [101, 55]

"""A handler asks, and goes on with the answer, here or in the worker that comes after."""

import asyncio
import json
import logging
import threading
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from tests.worker.at_work import Start
from tests.worker.script import (
    PATIENCE_S,
    ScriptedLink,
    make_job,
    make_lease,
    number_of,
    turns,
    until,
)
from tollgate.client.errors import BrokerUnreachableError, OutcomeUnknown
from tollgate.client.results import Lease, Touched
from tollgate.domain.exceptions import (
    ArgumentError,
    DrainingError,
    JobNotFoundError,
    LeaseLostError,
    NotAuthorizedError,
    TooLargeError,
    WaitTimeoutError,
)
from tollgate.domain.models import Job
from tollgate.domain.results import InputRound
from tollgate.domain.status import AWAITING_INPUT, COMPLETED, FAILED
from tollgate.worker.call import Fail, Retry, Suspended
from tollgate.worker.context import AsyncContext, Context
from tollgate.worker.held import HeldJob
from tollgate.worker.questions import find, key_of, same_schema, schema_text

LOST = LeaseLostError("granted anew")
UNREACHABLE = BrokerUnreachableError("nobody there")
UNKNOWN = OutcomeUnknown("no answer")
NAME: dict[str, Any] = {"id": "name", "type": "text"}
AGE: dict[str, Any] = {"id": "age", "type": "number"}


def rounds(*answered: tuple[str | dict[str, Any], str]) -> tuple[InputRound, ...]:
    return tuple(
        InputRound(3 + 2 * number, schema if isinstance(schema, str) else json.dumps(schema), text)
        for number, (schema, text) in enumerate(answered)
    )


def answered(number: int = 1, text: str = "Ada", **fields: Any) -> Job:
    """The job after its one question was answered."""
    given = {"version": 4, "inputs": rounds((NAME, text)), "provided_input": text}
    return make_job(number, **given | fields)


async def asks_name(job: Job, ctx: AsyncContext) -> str:
    return "hello " + await ctx.ask(NAME)


def asks_name_in_thread(job: Job, ctx: Context) -> str:
    return "hello " + ctx.ask(NAME)


def _raise(fault: Exception) -> NoReturn:
    raise fault


# --- one question ---------------------------------------------------------------------------------


@pytest.mark.parametrize("handler", [asks_name, asks_name_in_thread])
async def test_a_question_and_its_answer(
    link: ScriptedLink, start: Start, handler: Callable[..., Any]
) -> None:
    worker = start(handler)
    link.grant(make_lease())
    await link.script.until_said("wait")
    (asked,) = link.script.all("transition")
    assert (asked.target, asked.text, asked.version, asked.token, asked.fields) == (
        AWAITING_INPUT, '{"id":"name","type":"text"}', 2, 101, {"keep_lease": True},
    )  # fmt: skip
    link.script.answers["wait"] = [answered()]
    await until(lambda: worker.runner.finished)
    (_, told) = link.script.all("transition")
    assert (told.target, told.text, told.version, told.token) == (COMPLETED, "hello Ada", 4, 101)
    assert await worker.stopped()


async def test_a_handler_that_asks_has_no_slot(link: ScriptedLink, start: Start) -> None:
    worker = start(asks_name, concurrency=1)
    for number in (1, 2, 3):
        link.grant(make_lease(number))
    await until(lambda: len(worker.stage._asking) == 3)
    assert worker.stage.room() == 1
    assert not worker.stage.is_idle
    assert worker.stage.is_quiet
    await worker.stopped()


async def test_one_wait_is_for_all_questions(link: ScriptedLink, start: Start) -> None:
    worker = start(asks_name)
    link.grant(make_lease(1))
    await link.script.until_said("wait")
    link.grant(make_lease(2))
    await until(lambda: link.script.all("wait")[-1].fields["jobs"] == [1, 2])
    link.script.answers["wait"] = [answered(1)]
    await until(lambda: link.script.all("wait")[-1].fields["jobs"] == [2])
    link.script.answers["wait"] = [answered(2)]
    await until(lambda: worker.runner.finished == 2)
    await worker.stopped()


@pytest.mark.parametrize(
    "fault", [WaitTimeoutError("30 s"), UNREACHABLE, DrainingError("leaving"), UNKNOWN]
)
async def test_a_wait_that_fails_is_begun_again(
    link: ScriptedLink, start: Start, fault: Exception
) -> None:
    link.script.answers["wait"] = [fault, fault, answered()]
    worker = start(asks_name)
    link.grant(make_lease())
    await until(lambda: worker.runner.finished)
    assert worker.runner.finished == 1
    await worker.stopped()


async def test_a_wait_that_is_refused_is_told(
    link: ScriptedLink, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    link.script.answers["wait"] = [TooLargeError("too many jobs", limit=1), answered()]
    worker = start(asks_name)
    link.grant(make_lease())
    await until(lambda: worker.runner.finished)
    told = [each.message for each in caplog.records if each.levelno == logging.WARNING]
    assert told == ["the wait for answers failed (too many jobs)"]
    await worker.stopped()


async def test_a_question_without_answer_is_asked_once(link: ScriptedLink, start: Start) -> None:
    """The message that asks has no answer: the job shows that it asks already."""
    link.script.answers["transition"] = [UNKNOWN]
    link.script.answers["get"] = [
        make_job(status=AWAITING_INPUT, version=3, input_schema='{"id":"name","type":"text"}')
    ]
    link.script.answers["wait"] = [answered()]
    worker = start(asks_name)
    link.grant(make_lease())
    await until(lambda: worker.runner.finished)
    assert [each.target for each in link.script.all("transition")] == [AWAITING_INPUT, COMPLETED]
    await worker.stopped()


async def test_a_question_answered_before_it_is_seen(link: ScriptedLink, start: Start) -> None:
    """Its message had no answer, and the human was faster than the look at the job."""
    link.script.answers["transition"] = [UNKNOWN]
    link.script.answers["get"] = [answered(inputs=rounds(('{"id":"name","type":"text"}', "Ada")))]
    link.script.answers["wait"] = [answered()]
    worker = start(asks_name)
    link.grant(make_lease())
    await until(lambda: worker.runner.finished)
    (_, told) = link.script.all("transition")
    assert (told.text, told.version) == ("hello Ada", 4)
    await worker.stopped()


async def test_a_lapsed_lease_is_had_back_to_ask(link: ScriptedLink, start: Start) -> None:
    link.script.answers["transition"] = [LOST]
    link.script.answers["reclaim"] = [[make_lease(token=7)]]
    link.script.answers["wait"] = [answered()]
    worker = start(asks_name)
    link.grant(make_lease())
    await until(lambda: worker.runner.finished)
    assert [each.token for each in link.script.all("transition")] == [101, 7, 7]
    await worker.stopped()


async def test_a_lease_that_lapsed_while_asking_is_had_back(
    link: ScriptedLink, start: Start
) -> None:
    """The job is free after the answer; nobody else has taken it."""
    link.script.answers["wait"] = [answered()]
    link.script.answers["touch"] = [LOST]
    link.script.answers["reclaim"] = [[make_lease(token=7, version=4)]]
    worker = start(asks_name)
    link.grant(make_lease())
    await until(lambda: worker.runner.finished)
    assert link.script.all("transition")[-1].token == 7
    await worker.stopped()


async def test_a_lease_over_while_asking_ends_nothing(link: ScriptedLink, start: Start) -> None:
    """The lease thread hears of it; only after the answer the job can be had back."""
    worker = start(asks_name, lease_ms=15)
    link.script.answers["transition"] = [
        make_job(status=AWAITING_INPUT, version=3), make_job(status=COMPLETED, version=5),
    ]  # fmt: skip
    link.grant(make_lease())
    await link.script.until_said("wait")
    link.script.answers["touch"] = [LOST] * 3
    await link.script.until_said("touch", 4)
    assert not link.script.all("reclaim")
    link.script.answers["wait"] = [answered()]
    await until(lambda: worker.runner.finished)
    await worker.stopped()


async def test_a_question_that_its_worker_gets_back_is_the_same_call(
    link: ScriptedLink, start: Start
) -> None:
    """Its lease lapsed; after the answer a claim of this worker is quicker than the wait."""
    calls: list[str] = []

    async def handler(job: Job, ctx: AsyncContext) -> str:
        calls.append(job.job_id)
        return await asks_name(job, ctx)

    worker = start(handler)
    link.grant(make_lease())
    await link.script.until_said("wait")
    link.grant(Lease(answered(), 7, 30_000))
    await link.script.until_said("claim", 3)
    link.script.answers["wait"] = [answered()]
    await until(lambda: worker.runner.finished)
    assert len(calls) == 1
    assert [each.token for each in link.script.all("transition")] == [101, 7]
    await worker.stopped()


async def test_a_job_of_another_worker_is_left_to_it(
    link: ScriptedLink, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """Its lease lapsed while it asked, and another worker goes on with it."""
    link.script.answers["wait"] = [answered()]
    link.script.answers["touch"] = [LOST]
    worker = start(asks_name)
    link.grant(make_lease())
    await until(lambda: "another worker goes on" in caplog.text and worker.stage.is_idle)
    assert await worker.stopped() == [("transition", 1, AWAITING_INPUT)]
    assert worker.runner.keeper.holder(make_job().job_id) is None


async def test_a_job_that_moved_takes_no_question(
    link: ScriptedLink, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    link.script.answers["transition"] = [LOST]
    link.script.answers["get"] = [make_job(status=FAILED, error="by force", version=3)]
    worker = start(asks_name)
    link.grant(make_lease())
    await until(lambda: worker.stage.is_idle and link.script.all("get"))
    assert await worker.stopped() == [("transition", 1, AWAITING_INPUT)]
    assert "cannot be awaiting_input any more: it is failed" in caplog.text
    assert "try 1" not in caplog.text


async def test_a_thread_whose_job_is_lost_asks_nothing(link: ScriptedLink, start: Start) -> None:
    asks = threading.Event()

    def handler(job: Job, ctx: Context) -> str:
        asks.wait(PATIENCE_S)
        return ctx.ask(NAME)

    worker = start(handler, lease_ms=15)
    link.script.answers["touch"] = [LOST]
    link.grant(make_lease())
    await until(lambda: worker.stage.stuck)
    asks.set()
    await until(lambda: not worker.stage.stuck)
    assert await worker.stopped() == []


async def test_a_job_whose_answers_are_refused_ends_its_call(
    link: ScriptedLink, start: Start
) -> None:
    """It was removed, for example; the script has no such job."""
    worker = start(asks_name)
    link.grant(make_lease(inputs=rounds((NAME, ""))))
    await link.script.until_said("release")
    assert len(link.script.all("get")) == 1
    assert await worker.stopped() == [("release", 1, None)]


async def test_a_question_after_all_were_answered_is_waited_for(
    link: ScriptedLink, start: Start
) -> None:
    worker = start(asks_name)
    link.script.answers["wait"] = [answered(1)]
    link.grant(make_lease(1))
    await until(lambda: worker.runner.finished == 1)
    link.script.answers["wait"] = [answered(2)]
    link.grant(make_lease(2))
    await until(lambda: worker.runner.finished == 2)
    await worker.stopped()


@pytest.mark.parametrize("turn", range(6))
@pytest.mark.parametrize("said", [answered(1), JobNotFoundError(make_job(1).job_id)])
async def test_an_answer_too_late_for_one_is_harmless_to_others(
    link: ScriptedLink, start: Start, said: Any, turn: int
) -> None:
    """The call of job 1 ends about when the broker says something about its question."""
    calls: list[HeldJob] = []

    async def handler(job: Job, ctx: AsyncContext) -> str:
        calls.append(ctx._call)  # type: ignore[arg-type]
        return await ctx.ask(NAME)

    def end_after(turns: int) -> None:
        if turns:
            asyncio.get_running_loop().call_soon(end_after, turns - 1)
        else:
            worker.stage.questions.end(calls[0])

    def late() -> Any:
        end_after(turn)
        return said

    worker = start(handler)
    link.grant(make_lease(1), make_lease(2))
    await until(lambda: link.script.all("wait") and len(worker.stage._asking) == 2)
    link.script.answers["wait"] = [late, answered(2)]
    await until(lambda: ("transition", 2, COMPLETED) in link.script.outcomes())
    await worker.stopped()


@pytest.mark.parametrize("fault", [UNREACHABLE, UNKNOWN, DrainingError("leaving")])
async def test_a_lost_broker_does_not_end_a_question(
    link: ScriptedLink, start: Start, fault: Exception
) -> None:
    link.script.answers["transition"] = [fault]
    link.script.answers["get"] = [make_job()]
    link.script.answers["wait"] = [answered()]
    link.script.answers["touch"] = [fault, LOST]
    link.script.answers["reclaim"] = [fault]
    worker = start(asks_name)
    link.grant(make_lease())
    await until(lambda: worker.runner.finished)
    assert link.script.outcomes()[-1] == ("transition", 1, COMPLETED)
    await worker.stopped()


@pytest.mark.parametrize(
    "end",
    [
        make_job(status=FAILED, error="deadline passed", version=4),
        JobNotFoundError(make_job().job_id),
    ],
)
async def test_a_job_that_ends_while_asking_ends_its_call(
    link: ScriptedLink, start: Start, end: Any
) -> None:
    ended: list[BaseException] = []

    async def handler(job: Job, ctx: AsyncContext) -> str:
        try:
            return await ctx.ask(NAME)
        except BaseException as fault:
            ended.append(fault)
            raise

    link.script.answers["wait"] = [end]
    worker = start(handler)
    link.grant(make_lease())
    await until(lambda: ended)
    assert [type(each) for each in ended] == [Suspended]
    said = await worker.stopped()
    assert said[0] == ("transition", 1, AWAITING_INPUT)
    assert {name for name, *_ in said[1:]} <= {"release"}


@pytest.mark.parametrize(
    "refusal", [TooLargeError("32 times at most", limit=32), NotAuthorizedError("no")]
)
async def test_a_question_that_is_refused_ends_its_call(
    link: ScriptedLink, start: Start, refusal: Exception
) -> None:
    link.script.answers["transition"] = [refusal]
    worker = start(asks_name)
    link.grant(make_lease())
    await link.script.until_said("transition", 1 + isinstance(refusal, TooLargeError))
    await until(lambda: worker.stage.is_idle)
    targets = [each.target for each in link.script.all("transition")]
    assert targets == [AWAITING_INPUT, FAILED][: len(targets)]
    await worker.stopped()


# --- a stop ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("handler", [asks_name, asks_name_in_thread])
async def test_a_stop_hands_questions_over(
    link: ScriptedLink, start: Start, handler: Callable[..., Any]
) -> None:
    worker = start(handler)
    link.grant(make_lease())
    await link.script.until_said("wait")
    assert await worker.stopped() == [("transition", 1, AWAITING_INPUT), ("release", 1, None)]
    (release,) = link.script.all("release")
    assert release.fields == {"delay_ms": None, "hold": False}  # no try is counted


async def test_a_stop_while_a_question_is_asked(link: ScriptedLink, start: Start) -> None:
    gate = asyncio.Event()

    async def slowly() -> Job:
        await gate.wait()
        return make_job(status=AWAITING_INPUT, version=3)

    link.script.answers["transition"] = [slowly]
    worker = start(asks_name)
    link.grant(make_lease())
    await link.script.until_said("transition")
    worker.runner.stop()
    await turns()
    gate.set()
    assert await worker.ended() == [("transition", 1, AWAITING_INPUT), ("release", 1, None)]


async def test_a_question_after_a_stop_keeps_no_lease(link: ScriptedLink, start: Start) -> None:
    async def handler(job: Job, ctx: AsyncContext) -> str:
        worker.runner.stop()
        await asyncio.sleep(0.01)
        return await ctx.ask(NAME)

    worker = start(handler)
    link.grant(make_lease())
    assert await worker.ended() == [("transition", 1, AWAITING_INPUT)]
    assert link.script.all("transition")[0].fields == {"keep_lease": False}


async def test_a_stop_ends_those_that_wait_for_a_slot(link: ScriptedLink, start: Start) -> None:
    """They have their answer, and other workers can go on with their jobs at once."""

    async def handler(job: Job, ctx: AsyncContext) -> str:
        if number_of(job.job_id) == 1:
            return await ctx.ask(NAME)
        await asyncio.sleep(3_600)
        return "never"

    worker = start(handler, concurrency=1, stop_grace_s=0.05)
    link.grant(make_lease(1))
    await link.script.until_said("wait")
    link.grant(make_lease(2))
    await until(lambda: worker.stage._working)
    link.script.answers["wait"] = [answered(1)]
    await until(lambda: worker.stage._resuming)
    assert (await worker.stopped())[1:] == [("release", 1, None), ("release", 2, None)]


@pytest.mark.parametrize("catches", [False, True])
async def test_a_handler_that_gives_up_its_question_ends(
    link: ScriptedLink, start: Start, catches: bool
) -> None:
    """The job waits for the answer and takes no result: it is called again when that has come."""

    async def handler(job: Job, ctx: AsyncContext) -> str:
        try:
            await asyncio.wait_for(ctx.ask(NAME), 0.01)
        except BaseException:
            if catches:
                return "a result that nothing can take"
            raise
        return "never"

    worker = start(handler)
    link.grant(make_lease())
    await link.script.until_said("release")
    assert await worker.stopped() == [("transition", 1, AWAITING_INPUT), ("release", 1, None)]


async def asks_in_a_group(job: Job, ctx: AsyncContext) -> str:
    """The group puts what ends the call into an exception of its own."""
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(ctx.ask(NAME))
    return asking.result()


async def test_a_task_group_does_not_turn_a_stop_into_a_try(
    link: ScriptedLink, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    worker = start(asks_in_a_group, max_attempts=1)
    link.grant(make_lease())
    await link.script.until_said("wait")
    assert await worker.stopped() == [("transition", 1, AWAITING_INPUT), ("release", 1, None)]
    assert "question open" not in caplog.text


async def test_a_task_group_beyond_the_most_that_ask_is_no_try(
    link: ScriptedLink, start: Start
) -> None:
    worker = start(asks_in_a_group, asking_max=0, max_attempts=1)
    link.grant(make_lease())
    await link.script.until_said("transition")
    await until(lambda: worker.stage.is_idle)
    assert await worker.stopped() == [("transition", 1, AWAITING_INPUT)]


async def test_a_call_that_has_to_end_asks_no_more(link: ScriptedLink, start: Start) -> None:
    async def handler(job: Job, ctx: AsyncContext) -> str:
        await asyncio.gather(ctx.ask(NAME, key="name"), return_exceptions=True)
        return await ctx.ask(AGE, key="age")

    worker = start(handler)
    link.grant(make_lease())
    await link.script.until_said("wait")
    assert await worker.stopped() == [("transition", 1, AWAITING_INPUT), ("release", 1, None)]


# --- questions that outlive their call ------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (lambda: "a result", ("release", 1, None)),
        (lambda: 1 / 0, ("release", 1, None)),
        (lambda: _raise(Retry("busy")), ("release", 1, None)),
        (lambda: _raise(Fail("no")), ("transition", 1, FAILED)),
    ],
)
async def test_a_question_left_open_ends_with_its_call(
    link: ScriptedLink,
    start: Start,
    caplog: pytest.LogCaptureFixture,
    end: Callable[[], Any],
    said: tuple[Any, ...],
) -> None:
    """While it is open the job takes no result and no pause; its answer calls it again."""
    left: list[asyncio.Task[str]] = []

    async def handler(job: Job, ctx: AsyncContext) -> Any:
        left.append(asyncio.create_task(ctx.ask(NAME)))
        await link.script.until_said("wait")
        return end()

    worker = start(handler, concurrency=1)
    link.grant(make_lease())
    await link.script.until_said(said[0], 1 if said[0] == "release" else 2)
    assert link.script.outcomes()[-1] == said
    await asyncio.wait(left)
    assert isinstance(left[0].exception(), Suspended)
    assert worker.stage.room() == 1
    assert ("ended with a question open" in caplog.text) == (said[0] == "release")
    await worker.stopped()
    assert not link.script.all("touch", "reclaim")


async def test_an_answer_after_the_call_takes_no_slot(link: ScriptedLink, start: Start) -> None:
    """A task that the handler left has its answer, and waits for a slot, when the call ends."""
    left: list[asyncio.Task[str]] = []
    ends = asyncio.Event()

    async def handler(job: Job, ctx: AsyncContext) -> str:
        if number_of(job.job_id) == 1:
            left.append(asyncio.create_task(ctx.ask(NAME)))
            await ends.wait()
        else:
            await asyncio.sleep(3_600)
        return "done"

    worker = start(handler, concurrency=1, stop_grace_s=0.05)
    link.grant(make_lease(1))
    await link.script.until_said("wait")
    link.grant(make_lease(2))
    await until(lambda: worker.stage._working)
    link.script.answers["wait"] = [answered(1)]
    await until(lambda: worker.stage._resuming)
    ends.set()
    await asyncio.wait(left)
    assert isinstance(left[0].exception(), Suspended)
    await link.script.until_said("release")
    assert not worker.stage._resuming
    assert (await worker.stopped())[1:] == [("release", 1, None), ("release", 2, None)]


async def test_a_question_asked_as_its_call_ends_waits_for_nothing(
    link: ScriptedLink, start: Start
) -> None:
    left: list[asyncio.Task[str]] = []
    gate = asyncio.Event()

    async def slowly() -> Job:
        await gate.wait()
        return make_job(status=AWAITING_INPUT, version=3)

    async def handler(job: Job, ctx: AsyncContext) -> str:
        left.append(asyncio.create_task(ctx.ask(NAME)))
        await link.script.until_said("transition")
        return "done"

    link.script.answers["transition"] = [slowly]
    worker = start(handler)
    link.grant(make_lease())
    await link.script.until_said("transition", 2)
    gate.set()
    await asyncio.wait(left)
    assert isinstance(left[0].exception(), Suspended)
    await until(lambda: worker.stage.is_idle)
    assert not link.script.all("wait")
    await worker.stopped()


# --- slots ----------------------------------------------------------------------------------------


async def test_answers_come_before_new_jobs(link: ScriptedLink, start: Start) -> None:
    order: list[int] = []
    go_on = asyncio.Event()

    async def handler(job: Job, ctx: AsyncContext) -> str:
        number = number_of(job.job_id)
        if number == 1:
            await ctx.ask(NAME)
        elif number == 2:
            await go_on.wait()
        order.append(number)
        return "done"

    worker = start(handler, concurrency=1)
    link.grant(make_lease(1))
    await link.script.until_said("wait")
    link.grant(make_lease(2), make_lease(3))
    await until(lambda: worker.stage._waiting)
    link.script.answers["wait"] = [answered(1)]
    await until(lambda: worker.stage._resuming)
    assert worker.stage.room() <= 0
    go_on.set()
    await until(lambda: worker.runner.finished == 3)
    assert order == [2, 1, 3]
    await worker.stopped()


async def test_leases_of_those_that_wait_are_touched(link: ScriptedLink, start: Start) -> None:
    worker = start(asks_name, lease_ms=15)
    link.grant(make_lease())
    await link.script.until_said("wait")
    touches = len(link.script.all("touch"))
    await link.script.until_said("touch", touches + 2)
    await worker.stopped()


async def test_beyond_the_most_that_may_ask_a_call_ends(link: ScriptedLink, start: Start) -> None:
    worker = start(asks_name, asking_max=1)
    link.grant(make_lease(1))
    await link.script.until_said("wait")
    link.grant(make_lease(2))
    await link.script.until_said("transition", 2)
    await until(lambda: worker.runner.keeper.holder(make_job(2).job_id) is None)
    keeps = [each.fields["keep_lease"] for each in link.script.all("transition")]
    assert keeps == [True, False]
    assert len(worker.stage._asking) == 1
    # The answer makes the job ready, and the handler is called from its start.
    link.script.answers["get"] = [answered(2, "Bob")]
    link.grant(make_lease(2, token=9, version=4, inputs=rounds(("", ""))))
    await until(lambda: worker.runner.finished == 1)
    assert (link.script.all("transition")[-1].text) == "hello Bob"
    await worker.stopped()


async def test_questions_on_their_way_count_as_asked(link: ScriptedLink, start: Start) -> None:
    """As many as have slots may ask at once: one `wait` must still be able to name them all."""
    gate = asyncio.Event()
    link.script.answers["transition"] = [gate.wait] * 3
    worker = start(asks_name, asking_max=1, concurrency=3)
    link.grant(make_lease(1), make_lease(2), make_lease(3))
    await link.script.until_said("transition", 3)
    keeps = [each.fields["keep_lease"] for each in link.script.all("transition")]
    assert keeps == [True, False, False]
    gate.set()
    await worker.stopped()


async def test_no_more_may_ask_than_one_wait_can_name(link: ScriptedLink, start: Start) -> None:
    worker = start(asks_name, asking_max=5_000)
    assert worker.stage.questions._asking_max == 1_000
    await worker.stopped()


async def test_the_time_limit_does_not_count_waiting(link: ScriptedLink, start: Start) -> None:
    worker = start(asks_name, timeout_s=0.05)
    link.grant(make_lease())
    await link.script.until_said("wait")
    await asyncio.sleep(0.1)
    link.script.answers["wait"] = [answered()]
    await until(lambda: worker.runner.finished)
    assert link.script.outcomes()[-1] == ("transition", 1, COMPLETED)
    await worker.stopped()


async def test_what_a_question_leaves_of_the_time_limit(link: ScriptedLink, start: Start) -> None:
    calls: list[HeldJob] = []

    async def handler(job: Job, ctx: AsyncContext) -> str:
        calls.append(ctx._call)  # type: ignore[arg-type]
        await asyncio.sleep(0.02)
        return await ctx.ask(NAME)

    worker = start(handler, timeout_s=3_600)
    link.grant(make_lease())
    await link.script.until_said("wait")
    assert (calls[0].left_s or 0) < 3_600
    await worker.stopped()


async def test_a_lease_lost_as_its_job_begins_to_ask_ends_the_call(
    link: ScriptedLink, start: Start
) -> None:
    calls: list[HeldJob] = []

    async def handler(job: Job, ctx: AsyncContext) -> str:
        calls.append(ctx._call)  # type: ignore[arg-type]
        return await ctx.ask(NAME)

    worker = start(handler)
    link.grant(make_lease())
    await link.script.until_said("wait")
    worker.runner.lease_lost(calls[0], calls[0].token, LOST)
    await until(lambda: worker.stage.is_idle)
    assert await worker.stopped() == [("transition", 1, AWAITING_INPUT)]


async def test_an_answer_that_comes_with_a_stop_takes_no_slot(
    link: ScriptedLink, start: Start
) -> None:
    gate = asyncio.Event()

    async def slowly() -> Touched:
        await gate.wait()
        return Touched(stop_requested=False)

    link.script.answers["wait"] = [answered()]
    link.script.answers["touch"] = [slowly]
    worker = start(asks_name)
    link.grant(make_lease())
    await link.script.until_said("touch")
    worker.runner.stop()
    await turns()
    gate.set()
    assert await worker.ended() == [("transition", 1, AWAITING_INPUT), ("release", 1, None)]


async def test_a_time_limit_goes_on_after_an_answer(link: ScriptedLink, start: Start) -> None:
    async def handler(job: Job, ctx: AsyncContext) -> str:
        await ctx.ask(NAME)
        await asyncio.sleep(3_600)
        return "never"

    link.script.answers["wait"] = [answered()]
    worker = start(handler, timeout_s=0.05)
    link.grant(make_lease())
    await link.script.until_said("release")
    assert "TimeoutError" in (link.script.all("release")[0].text or "")
    await worker.stopped()


async def test_an_overdue_thread_asks_nothing(link: ScriptedLink, start: Start) -> None:
    """Its try has ended, and another one may be under way."""
    ended: list[type[BaseException]] = []
    overdue = threading.Event()

    def handler(job: Job, ctx: Context) -> str:
        overdue.wait(PATIENCE_S)
        try:
            return ctx.ask(NAME)
        except BaseException as fault:
            ended.append(type(fault))
            raise

    worker = start(handler, timeout_s=0.01)
    link.grant(make_lease())
    await link.script.until_said("release")
    overdue.set()
    await until(lambda: ended)
    assert ended == [Suspended]
    assert not link.script.all("transition")
    await worker.stopped()


# --- the same questions again ---------------------------------------------------------------------


def held_with(*known: tuple[str | dict[str, Any], str]) -> HeldJob:
    held = HeldJob(make_lease(), Any)  # type: ignore[arg-type]
    held.rounds = [*rounds(*known)]
    return held


async def test_answers_of_an_earlier_call_come_at_once(link: ScriptedLink, start: Start) -> None:
    async def handler(job: Job, ctx: AsyncContext) -> str:
        return " ".join([await ctx.ask(NAME), await ctx.ask(AGE), await ctx.ask("third")])

    known = rounds((NAME, "Ada"), (AGE, "36"))
    link.script.answers["get"] = [UNREACHABLE, make_job(version=6, inputs=known)]
    after = (*known, InputRound(7, "third", "!"))
    link.script.answers["wait"] = [make_job(version=8, inputs=after)]
    worker = start(handler)
    link.grant(make_lease(version=6, inputs=rounds(("", ""), ("", ""))))
    await until(lambda: worker.runner.finished)
    asked, told = link.script.all("transition")
    assert (asked.text, asked.version) == ("third", 6)
    assert (told.text, told.version) == ("Ada 36 !", 8)
    await worker.stopped()


async def test_a_changed_schema_fails_without_retry(link: ScriptedLink, start: Start) -> None:
    link.script.answers["get"] = [make_job(version=4, inputs=rounds((AGE, "36")))]
    worker = start(asks_name)
    link.grant(make_lease(version=4, inputs=rounds(("", ""))))
    await until(lambda: worker.runner.finished)
    (failed,) = link.script.all("transition")
    assert failed.target is FAILED
    assert failed.text == ("question 0 was answered with another schema: the handler has changed")
    await worker.stopped()


async def test_two_questions_at_once_are_refused(link: ScriptedLink, start: Start) -> None:
    faults: list[Any] = []

    async def handler(job: Job, ctx: AsyncContext) -> str:
        faults.extend(await asyncio.gather(ctx.ask(NAME), ctx.ask(AGE), return_exceptions=True))
        return "done"

    link.script.answers["wait"] = [answered()]
    worker = start(handler)
    link.grant(make_lease())
    await until(lambda: worker.runner.finished)
    assert faults[0] == "Ada"
    assert isinstance(faults[1], ArgumentError)
    assert "one question at a time" in str(faults[1])
    await worker.stopped()


async def test_two_at_once_are_refused_after_a_restart(link: ScriptedLink, start: Start) -> None:
    """Also while the earlier answers are fetched."""
    faults: list[Any] = []

    async def handler(job: Job, ctx: AsyncContext) -> str:
        asks = (ctx.ask(NAME, key=0), ctx.ask(AGE, key=1))
        faults.extend(await asyncio.gather(*asks, return_exceptions=True))
        return "done"

    link.script.answers["get"] = [make_job(version=4, inputs=rounds((NAME, "Ada")))]
    worker = start(handler)
    link.grant(make_lease(version=4, inputs=rounds(("", ""))))
    await until(lambda: worker.runner.finished)
    assert faults[0] == "Ada"
    assert isinstance(faults[1], ArgumentError)
    await worker.stopped()


def test_numbers_count_in_the_order_of_the_calls() -> None:
    held = held_with((NAME, "Ada"), (AGE, "36"))
    found = [find(held.rounds or [], None, held) for _ in range(3)]
    assert [(place, known and known.text) for place, known in found] == [
        (0, "Ada"), (1, "36"), (2, None),
    ]  # fmt: skip


def test_a_number_as_key_may_repeat() -> None:
    held = held_with((NAME, "Ada"), (AGE, "36"))
    places = [find(held.rounds or [], key, held)[0] for key in (1, 0, 0, None)]
    assert places == [1, 0, 0, 1]


@pytest.mark.parametrize("key", [3, -1, 99])
def test_a_number_beyond_the_next_is_refused(key: int) -> None:
    held = held_with((NAME, "Ada"), (AGE, "36"))
    with pytest.raises(ArgumentError, match="comes after 2"):
        find(held.rounds or [], key, held)


def test_texts_as_keys_need_no_order() -> None:
    keyed = {"x-tollgate-key": "age", **AGE}
    held = held_with((keyed, "36"), (NAME, "Ada"))
    known = held.rounds or []
    assert find(known, "age", held)[1] is known[0]
    assert find(known, "name", held) == (0, None)
    assert find(known, None, held) == (0, known[1])  # the numbers count without them


async def test_a_text_as_key_is_kept_in_the_schema(link: ScriptedLink, start: Start) -> None:
    async def handler(job: Job, ctx: AsyncContext) -> str:
        return await ctx.ask(NAME, key="who") + await ctx.ask(NAME, key="who")

    keyed = NAME | {"x-tollgate-key": "who"}
    link.script.answers["wait"] = [answered(inputs=rounds((keyed, "Ada")))]
    worker = start(handler)
    link.grant(make_lease())
    await until(lambda: worker.runner.finished)
    asked, told = link.script.all("transition")
    assert json.loads(asked.text or "") == keyed
    assert told.text == "AdaAda"
    await worker.stopped()


@pytest.mark.parametrize(
    ("schema", "key", "text"),
    [
        ("any text", None, "any text"),
        ('{"b": 1}', 0, '{"b": 1}'),
        ({"a": "é"}, None, '{"a":"é"}'),
        ([1, 2], 3, "[1,2]"),
        ('{"b": 1}', "k", '{"b":1,"x-tollgate-key":"k"}'),
        ({"b": 1}, "k", '{"b":1,"x-tollgate-key":"k"}'),
    ],
)
def test_a_schema_becomes_text(schema: Any, key: Any, text: str) -> None:
    assert schema_text(schema, key) == text


def loop_in_itself() -> dict[str, Any]:
    schema: dict[str, Any] = {}
    schema["itself"] = schema
    return schema


@pytest.mark.parametrize(
    ("schema", "key", "complaint"),
    [
        (5, None, "schema must be a text, a dict or a list, not 5"),
        (None, None, "schema must be a text"),
        ({"a": {1}}, None, "cannot be written as JSON"),
        ({"a": float("nan")}, None, "cannot be written as JSON"),
        (loop_in_itself(), None, "cannot be written as JSON"),
        ("\ud800", None, "surrogate"),
        ({"a": "\ud800"}, None, "surrogate"),
        ("no JSON", "k", "must be a JSON object"),
        ([1], "k", "must be a JSON object"),
        ({}, 1.5, "key must be a number or a text"),
        ({}, True, "key must be a number or a text"),
    ],
)
def test_what_is_no_schema_or_key_is_refused(schema: Any, key: Any, complaint: str) -> None:
    with pytest.raises(ArgumentError, match=complaint):
        schema_text(schema, key)


@pytest.mark.parametrize(
    ("one", "other", "are_same"),
    [
        ("text", "text", True),
        ('{"a":1,"b":2}', '{"b": 2, "a": 1}', True),
        ('{"a":1}', '{"a":2}', False),
        ("text", "other text", False),
        ("null", "other text", False),
        (None, "text", False),
    ],
)
def test_schemas_are_compared_as_json(one: str | None, other: str, *, are_same: bool) -> None:
    assert same_schema(one, other) is are_same


@pytest.mark.parametrize("schema", [None, "", "text", "[1]", "{}", '{"x-tollgate-key": 5}'])
def test_a_schema_without_a_text_as_key(schema: str | None) -> None:
    assert key_of(schema) is None

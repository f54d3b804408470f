"""What a handler sees of its job, of the worker, and of who wants it to stop."""

import logging
from typing import Any

import pytest

from tests.worker.script import make_job, make_lease
from tollgate.domain.models import Job
from tollgate.worker.context import AsyncContext, Context
from tollgate.worker.held import HeldJob

ID = make_job().job_id


class Call:
    """A call as an executor gives it to a context."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.attempt = 2
        self.stop_requested = self.is_stopping = False
        self.progress: list[tuple[str, float | None]] = []

    def set_progress(self, text: str, fraction: float | None) -> None:
        self.progress.append((text, fraction))

    def ask(self, schema: Any, key: Any) -> str:
        return f"{schema} {key}"


@pytest.fixture
def call() -> Any:
    return Call(make_job())


def test_a_context_shows_the_call(call: Any) -> None:
    ctx = Context(call)
    assert ctx.job is call.job
    assert ctx.attempt == 2
    assert ctx.traceparent is None
    assert (ctx.stop_requested, ctx.worker_stopping) == (False, False)
    call.stop_requested = True
    assert (ctx.stop_requested, ctx.worker_stopping) == (True, False)
    call.is_stopping = True
    assert (ctx.stop_requested, ctx.worker_stopping) == (True, True)


def test_progress_and_questions_go_to_the_call(call: Any) -> None:
    ctx = Context(call)
    ctx.progress("begun")
    ctx.progress("half", 0.5)
    assert call.progress == [("begun", None), ("half", 0.5)]
    assert ctx.ask("schema") == "schema None"
    assert ctx.ask("schema", key="who") == "schema who"


async def test_an_async_context_asks_the_held_job() -> None:
    asked: list[Any] = []

    class Stage:
        async def ask(self, held: HeldJob, schema: Any, key: Any) -> str:
            asked.append((held, schema, key))
            return "Ada"

    stage: Any = Stage()
    held = HeldJob(make_lease(), stage)
    assert await AsyncContext(held).ask({"a": 1}, 0) == "Ada"
    assert asked == [(held, {"a": 1}, 0)]


def test_log_lines_carry_job_and_try(call: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "tollgate.handler")
    ctx = Context(call)
    ctx.log.info("begun", extra={"city": "Bern"})
    ctx.log.info("done")
    first, second = caplog.records
    assert (first.name, first.levelno) == ("tollgate.handler", logging.INFO)
    fields = vars(first)
    assert (fields["job_id"], fields["attempt"], fields["city"]) == (ID, 2, "Bern")
    assert "traceparent" not in fields
    assert (vars(second)["job_id"], hasattr(second, "city")) == (ID, False)


def test_log_lines_carry_the_trace_of_the_creator(caplog: pytest.LogCaptureFixture) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    call: Any = Call(make_job(traceparent=parent))
    Context(call).log.warning("slow")
    assert vars(caplog.records[0])["traceparent"] == parent

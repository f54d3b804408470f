"""What results and exceptions become: texts that the broker takes, whatever they are."""

from datetime import timedelta
from typing import Any
from unittest.mock import NonCallableMock

import pytest

from tests.worker.script import make_job
from tollgate.domain.commands import Release, Transition
from tollgate.domain.results import InputRound
from tollgate.domain.status import AWAITING_INPUT, COMPLETED, FAILED, RUNNING
from tollgate.worker.call import CallResult, Fail, Retry, Suspended
from tollgate.worker.outcome import TEXT_BYTES, GiveBack, Move, cut, shortened, text_of


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


class Text(str):
    __slots__ = ()


def test_a_text_is_a_result() -> None:
    assert text_of("") == ("", None)
    assert text_of("é") == ("é", None)


def test_a_subclass_of_str_is_kept_as_plain_text() -> None:
    text, _ = text_of(Text("kept"))
    assert type(text) is str


@pytest.mark.parametrize(
    ("result", "error"),
    [
        (None, "the handler returned NoneType instead of a str"),
        (b"bytes", "the handler returned bytes instead of a str"),
        ("\ud800", "the handler's result is not valid text: it has a lone surrogate"),
    ],
)
def test_what_cannot_be_kept_has_an_error(result: object, error: str) -> None:
    assert text_of(result) == (None, error)


def test_what_only_says_that_it_is_a_text_is_none() -> None:
    value = NonCallableMock(spec=str)
    assert isinstance(value, str)
    assert text_of(value) == (None, "the handler returned NonCallableMock instead of a str")


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (ValueError("no such city"), "ValueError: no such city"),
        (ValueError(), "ValueError"),
        (ValueError("  "), "ValueError"),
        (KeyError("name"), "KeyError: 'name'"),
        (SystemExit(3), "SystemExit: 3"),
        (UnprintableError(), "UnprintableError"),
    ],
)
def test_an_error_names_its_type(fault: BaseException, error: str) -> None:
    result = CallResult.of_exception(fault)
    assert (result.error, result.is_final, result.is_retry) == (error, False, False)
    assert type(fault).__name__ in (result.trace or "")


def test_what_a_handler_may_raise() -> None:
    assert CallResult.of_exception(Suspended()) == CallResult(is_suspended=True)
    retry = CallResult.of_exception(Retry("busy", after_s=5))
    assert retry == CallResult(error="busy", is_retry=True, after_s=5.0)
    assert CallResult.of_exception(Retry()) == CallResult(error="Retry", is_retry=True)
    assert CallResult.of_exception(Fail("bad")) == CallResult(error="bad", is_final=True)
    assert CallResult.of_exception(Fail()) == CallResult(error="Fail", is_final=True)


class Later(Retry):
    after_s: Any = None

    def __init__(self) -> None:
        pass


@pytest.mark.parametrize(
    ("after_s", "counts"), [(timedelta(minutes=1), 60), ("soon", None), (float("nan"), None)]
)
def test_a_pause_that_a_subclass_names(after_s: Any, counts: float | None) -> None:
    retry = Later()
    retry.after_s = after_s
    assert CallResult.of_exception(retry) == CallResult(
        error="Retry", is_retry=True, after_s=counts
    )


class Hidden(BaseExceptionGroup[BaseException]):
    exceptions = ()  # as a careless subclass has it


def group(*faults: BaseException) -> BaseExceptionGroup[BaseException]:
    return BaseExceptionGroup("tasks", [BaseExceptionGroup("more", faults)])


def test_a_decision_in_a_group_counts() -> None:
    """A task group raises its tasks' exceptions so; the handler has decided all the same."""
    busy, fault = Retry("busy", after_s=5), ValueError("a fault")
    assert CallResult.of_exception(group(fault, Suspended())) == CallResult(is_suspended=True)
    final = CallResult(error="bad", is_final=True)
    assert CallResult.of_exception(group(busy, fault, Fail("bad"))) == final
    again = CallResult(error="busy", is_retry=True, after_s=5)
    assert CallResult.of_exception(group(busy, Retry("later"))) == again
    assert CallResult.of_exception(Hidden("tasks", [Fail("bad")])) == final


def test_a_fault_in_a_group_is_named() -> None:
    result = CallResult.of_exception(group(ValueError("a fault"), Retry("busy")))
    assert result.error == "ExceptionGroup: tasks (1 sub-exception): ValueError: a fault"
    assert not result.is_retry


def test_a_suspension_passes_handlers_of_exceptions() -> None:
    assert not issubclass(Suspended, Exception)


def test_a_trace_begins_at_the_handler() -> None:
    def handler() -> None:
        raise ValueError("no") from KeyError("cause")

    try:
        handler()
    except ValueError as fault:
        trace = CallResult.of_exception(fault).trace or ""
    assert "in handler" in trace
    assert "KeyError: 'cause'" in trace


def test_a_text_is_cut_between_characters() -> None:
    assert cut("é€é", 4) == "é"
    assert cut("half \ud800", 99) == "half ?"
    error = Move.failed("é" + "€" * TEXT_BYTES).error or ""
    assert TEXT_BYTES - 3 < len(error.encode()) <= TEXT_BYTES
    assert set(error) == {"é", "€"}


def test_a_broker_with_a_lower_limit_is_told_less() -> None:
    assert shortened(Move.failed("é" * 9), 5) == Move.failed("éé")
    assert shortened(Move.failed("é" * 9), 0) == Move.failed("")


def test_outcomes_as_commands() -> None:
    job_id = make_job().job_id
    assert Move.completed("42").command(job_id, 2, 7) == Transition(
        job_id=job_id, target=COMPLETED, result="42", expected_version=2, lease=7
    )
    assert Move.failed("no").command(job_id, 2, 7) == Transition(
        job_id=job_id, target=FAILED, error="no", expected_version=2, lease=7
    )
    assert Move.paid().command(job_id, 1, 7) == Transition(
        job_id=job_id, target=RUNNING, expected_version=1, lease=7
    )
    assert Move.asks("{}", keeps_lease=True).command(job_id, 2, 7) == Transition(
        job_id=job_id, target=AWAITING_INPUT, input_schema="{}", keep_lease=True,
        expected_version=2, lease=7,
    )  # fmt: skip
    assert GiveBack(5, "no").command(job_id, 2, 7) == Release(
        job_id=job_id, lease=7, delay_ms=5, reason="no"
    )
    assert GiveBack(hold=True).command(job_id, 2, 7) == Release(job_id=job_id, lease=7, hold=True)


def test_a_move_is_recognised_in_the_job() -> None:
    done = Move.completed("42")
    after: dict[str, Any] = {"status": COMPLETED, "result": "42", "version": 3}
    assert done.made(make_job(**after), 3)
    assert not done.made(make_job(**after | {"version": 4}), 3)
    assert not done.made(make_job(**after | {"result": "43"}), 3)
    assert not done.made(make_job(**after | {"inputs": (InputRound(3, "{}"),), "version": 5}), 3)


def test_a_question_is_recognised_after_its_answer() -> None:
    asks = Move.asks("{}", keeps_lease=True)
    rounds = (InputRound(3, "{}", "Ada"),)
    assert asks.made(make_job(version=4, inputs=rounds), 3)
    assert not asks.made(make_job(version=6, inputs=rounds), 5)
    assert not asks.made(make_job(version=4, inputs=(InputRound(3, "[]", "Ada"),)), 3)

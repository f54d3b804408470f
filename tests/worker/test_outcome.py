"""What becomes of results and exceptions that are no text, or too much of it."""

import pytest

from tollgate.domain.exceptions import TooLargeError
from tollgate.domain.status import JobStatus
from tollgate.worker.handlers import TEXT_LIMIT_BYTES, HandlerResult


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


class Text(str):
    __slots__ = ()


def test_a_text_completes() -> None:
    assert HandlerResult.of_result("é" * (TEXT_LIMIT_BYTES // 2)).target is JobStatus.COMPLETED
    assert HandlerResult.of_result("") == HandlerResult(JobStatus.COMPLETED, result="")


def test_a_subclass_of_str_is_kept_as_plain_text() -> None:
    assert type(HandlerResult.of_result(Text("kept")).result) is str


@pytest.mark.parametrize(
    ("result", "error"),
    [
        (None, "the handler returned NoneType instead of a str"),
        (b"bytes", "the handler returned bytes instead of a str"),
        ("\ud800", "the handler's result is not valid text: it has a lone surrogate"),
        (
            "é" * (TEXT_LIMIT_BYTES // 2) + "x",
            "the handler's result has 65537 bytes, and a text may have 65536",
        ),
    ],
)
def test_what_cannot_be_kept_fails(result: object, error: str) -> None:
    assert HandlerResult.of_result(result) == HandlerResult(JobStatus.FAILED, error=error)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (ValueError("no such city"), "no such city"),
        (ValueError(), "ValueError"),
        (ValueError("  "), "ValueError"),
        (SystemExit(3), "3"),
        (UnprintableError(), "UnprintableError"),
        (ValueError("half \ud800"), "half ?"),
    ],
)
def test_an_exception_fails_with_its_message(fault: BaseException, error: str) -> None:
    assert HandlerResult.of_exception(fault) == HandlerResult(JobStatus.FAILED, error=error)


def test_a_long_message_is_cut_between_characters() -> None:
    error = HandlerResult.of_exception(ValueError("é" + "€" * TEXT_LIMIT_BYTES)).error
    assert error is not None
    assert TEXT_LIMIT_BYTES - 3 < len(error.encode()) <= TEXT_LIMIT_BYTES
    assert set(error) == {"é", "€"}


def test_a_broker_with_a_lower_limit_is_told_less() -> None:
    refusal = TooLargeError("result holds more than 20 bytes", limit=20)
    shortened = HandlerResult.of_result("x" * 50).shortened(refusal)
    assert shortened.error == "the handler's result has 50 bytes, and a text may have 20"
    assert shortened.shortened(refusal).error == "the handler's result"
    assert shortened.shortened(TooLargeError("no limit named")).error == ""

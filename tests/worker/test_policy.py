"""What becomes of a job after a try: again after a pause, on hold, or failed."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from tollgate.domain.exceptions import ArgumentError
from tollgate.worker.call import CallResult, Retry
from tollgate.worker.outcome import GiveBack, Move
from tollgate.worker.policy import BACKOFF_S_MAX, DELAY_S_MAX, JITTER, RetryPolicy


def policy(backoff_s: float | Sequence[float] = 2.0, on_exhausted: Any = "fail") -> RetryPolicy:
    return RetryPolicy(3, backoff_s, on_exhausted)


def failed(error: str = "ValueError: no", **fields: Any) -> CallResult:
    return CallResult(error=error, **fields)


@pytest.mark.parametrize(
    ("backoff_s", "attempt", "pause_s"),
    [
        (2.0, 1, 2.0),
        (2.0, 2, 4.0),
        (2.0, 5, 32.0),
        (2.0, 13, BACKOFF_S_MAX),
        (2.0, 10**9, BACKOFF_S_MAX),
        (0.0, 5, 0.0),
        (3, 1, 3.0),
        ([1.0, 10.0, 60.0], 1, 1.0),
        ([1.0, 10.0, 60.0], 2, 10.0),
        ((1.0, 10.0, 60.0), 9, 60.0),
    ],
)
def test_pauses_grow_with_the_tries(backoff_s: Any, attempt: int, pause_s: float) -> None:
    drawn = [policy(backoff_s).pause_s(attempt) for _ in range(200)]
    assert all(pause_s * (1 - JITTER) <= each <= pause_s * (1 + JITTER) for each in drawn)
    if pause_s:
        assert max(drawn) - min(drawn) > pause_s * JITTER  # jobs that failed together spread


def test_a_failed_try_is_followed_by_the_next() -> None:
    outcome = policy().outcome(failed(), 2)
    assert isinstance(outcome, GiveBack)
    assert (outcome.reason, outcome.hold) == ("ValueError: no", False)
    assert 3_000 <= (outcome.delay_ms or 0) <= 5_000


@pytest.mark.parametrize("attempt", [3, 4])
def test_the_last_try_fails_or_holds(attempt: int) -> None:
    assert policy().outcome(failed(), attempt) == Move.failed("ValueError: no")
    hold = policy(on_exhausted="hold").outcome(failed(), attempt)
    assert hold == GiveBack(None, "ValueError: no", hold=True)


@pytest.mark.parametrize("on_exhausted", ["fail", "hold"])
def test_what_the_handler_fails_is_failed_at_once(on_exhausted: Any) -> None:
    outcome = policy(on_exhausted=on_exhausted).outcome(failed("bad", is_final=True), 1)
    assert outcome == Move.failed("bad")


def test_a_suspended_call_is_no_try() -> None:
    assert policy().outcome(CallResult(is_suspended=True), 3) == GiveBack(None, None, hold=False)


@pytest.mark.parametrize(
    ("after_s", "delay_ms"),
    [
        (0.0, 0),
        (1.5, 1_500),
        (-5.0, 0),
        (1e30, DELAY_S_MAX * 1_000),
        (float("inf"), DELAY_S_MAX * 1_000),
    ],
)
def test_a_handler_may_choose_the_pause(after_s: float, delay_ms: float) -> None:
    outcome = policy().outcome(CallResult.of_exception(Retry("busy", after_s=after_s)), 1)
    assert outcome == GiveBack(int(delay_ms), "busy")


def test_a_pause_of_the_backoff_is_one_that_the_broker_takes() -> None:
    outcome = RetryPolicy(3, [1e12], "fail").outcome(CallResult(error="busy"), 1)
    assert outcome == GiveBack(int(DELAY_S_MAX * 1_000), "busy")


def test_a_chosen_pause_does_not_add_a_try() -> None:
    ended = CallResult.of_exception(Retry("busy", after_s=1))
    assert policy().outcome(ended, 3) == Move.failed("busy")


def test_a_pause_may_be_a_timedelta() -> None:
    assert Retry(after_s=timedelta(minutes=1)).after_s == 60


@pytest.mark.parametrize("after_s", ["5", float("nan"), True, [1]])
def test_what_is_no_pause_is_refused(after_s: Any) -> None:
    with pytest.raises(ArgumentError, match="Retry: after_s"):
        Retry("busy", after_s=after_s)


@pytest.mark.parametrize("value", [None, 5, b"bytes", "\ud800"])
def test_what_is_no_text_is_not_tried_again(value: object) -> None:
    assert isinstance(policy().outcome(CallResult(value), 1), Move)
    hold = policy(on_exhausted="hold").outcome(CallResult(value), 1)
    assert isinstance(hold, GiveBack)
    assert hold.hold


def test_a_text_completes_in_any_try() -> None:
    assert policy().outcome(CallResult("done"), 99) == Move.completed("done")


def test_texts_fit_the_brokers_limits() -> None:
    narrow = policy(on_exhausted="hold")
    narrow.text_bytes, narrow.reason_bytes = 5, 3
    long = failed("é" * 9)
    assert getattr(narrow.outcome(long, 1), "reason", None) == "é"
    assert narrow.outcome(long, 3) == GiveBack(None, "é", hold=True)
    assert narrow.outcome(failed("é" * 9, is_final=True), 1) == Move.failed("éé")

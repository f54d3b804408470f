"""A held job: what it takes from its lease, and the progress that its handler reports."""

import threading
from typing import Any

import pytest

from tests.worker.script import make_lease
from tollgate.domain.exceptions import ArgumentError
from tollgate.worker.call import CallResult
from tollgate.worker.held import PROGRESS_BYTES, HeldJob


class Stage:
    def __init__(self) -> None:
        self.told = 0
        self.ended: list[tuple[HeldJob, CallResult]] = []

    def progressed(self) -> None:
        self.told += 1

    def call_ended(self, held: HeldJob, result: CallResult) -> None:
        self.ended.append((held, result))


@pytest.fixture
def stage() -> Stage:
    return Stage()


def held_by(stage: Any, **fields: Any) -> HeldJob:
    return HeldJob(make_lease(**fields), stage)


def test_it_begins_as_its_lease(stage: Stage) -> None:
    held = held_by(stage, version=6, attempts=2, stop_requested=True)
    assert (held.version, held.token, held.attempt, held.stop_requested) == (6, 101, 3, True)
    assert [held.is_over, held.is_lost, held.is_stopping, held.has_progress] == [False] * 4


def test_the_latest_progress_is_sent_once(stage: Stage) -> None:
    held = held_by(stage)
    held.set_progress("begun", None)
    held.set_progress("half", 0.5)
    assert stage.told == 2
    assert held.has_progress
    assert held.take_progress() == ("half", 0.5)
    assert held.take_progress() is None
    assert not held.has_progress


def test_a_progress_that_failed_gives_way_to_a_newer_one(stage: Stage) -> None:
    held = held_by(stage)
    held.put_progress_back(("old", None))
    assert held.take_progress() == ("old", None)
    held.set_progress("new", None)
    held.put_progress_back(("old", None))
    assert held.take_progress() == ("new", None)


def test_a_long_progress_is_cut_by_bytes(stage: Stage) -> None:
    held = held_by(stage)
    held.set_progress("x" + "é" * PROGRESS_BYTES, None)
    text, _ = held.take_progress() or ("", None)
    assert len(text.encode()) == PROGRESS_BYTES - 1
    assert set(text) == {"x", "é"}


@pytest.mark.parametrize(
    ("text", "fraction", "complaint"),
    [
        (5, None, "text must be a text"),
        (b"half", None, "text must be a text"),
        ("\ud800", None, "surrogate"),
        ("half", 1.1, "fraction must be a number from 0 to 1"),
        ("half", -0.1, "fraction must be a number from 0 to 1"),
        ("half", float("nan"), "fraction must be a number from 0 to 1"),
        ("half", "0.5", "fraction must be a number from 0 to 1"),
    ],
)
def test_what_is_no_progress_is_refused(
    stage: Stage, text: Any, fraction: Any, complaint: str
) -> None:
    held = held_by(stage)
    with pytest.raises(ArgumentError, match=complaint):
        held.set_progress(text, fraction)
    assert not held.has_progress


@pytest.mark.parametrize("fraction", [0, 1, 0.25, True])
def test_a_fraction_is_from_0_to_1(stage: Stage, fraction: Any) -> None:
    held = held_by(stage)
    if fraction is True:
        with pytest.raises(ArgumentError):
            held.set_progress("half", fraction)
    else:
        held.set_progress("half", fraction)
        assert held.take_progress() == ("half", fraction)


def test_progress_may_be_set_in_any_thread(stage: Stage) -> None:
    held = held_by(stage)
    threads = [
        threading.Thread(target=held.set_progress, args=(f"step {number}", number / 10))
        for number in range(10)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    text, fraction = held.take_progress() or ("", None)
    assert text == f"step {round((fraction or 0) * 10)}"


def test_the_end_of_a_call_goes_to_its_stage(stage: Stage) -> None:
    held = held_by(stage)
    held.done(CallResult("done"))
    assert stage.ended == [(held, CallResult("done"))]


def test_a_time_limit_is_for_a_call_that_is_at_work(stage: Stage) -> None:
    """The watchdog ends a worker by it: not while a human is asked, and not after the call."""
    held = held_by(stage)
    limits = [held.limit_at]
    held.begun_at, held.left_s = 100.0, 5.0
    limits.append(held.limit_at)
    for name in ("is_asking", "is_over"):
        setattr(held, name, True)
        limits.append(held.limit_at)
        setattr(held, name, False)
    assert limits == [None, 105.0, None, None]

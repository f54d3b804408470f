"""Ready lines: who is first, delayed jobs among them, and what a snapshot keeps of a line."""

from copy import deepcopy
from datetime import datetime
from random import Random
from typing import Any

import pytest

from tests.broker.repository.slots import SECOND, places, slot, slots
from tests.core import EPOCH
from tollgate.broker.repository import lines
from tollgate.broker.repository.job import Slot
from tollgate.broker.repository.lines import (
    FIRST,
    READY,
    ReadyLine,
)
from tollgate.domain.results import Settlement
from tollgate.domain.settlement import SettlementState
from tollgate.domain.status import AWAITING_INPUT, AWAITING_PAYMENT, COMPLETED, RUNNING, JobStatus


def ready_line(state: Any = AWAITING_PAYMENT, count: int = 0) -> ReadyLine:
    return ReadyLine(state, lambda: count)


def taken(line: ReadyLine, at: datetime = EPOCH) -> list[int]:
    return places(iter(lambda: line.take(at), None))


def test_what_is_ready_first_is_taken_first() -> None:
    line, some = ready_line(RUNNING), slots(4, RUNNING)
    for number in (2, 0, 3):
        line.join([some[number]], EPOCH, is_first=True)
    assert line.ready(EPOCH) is some[2]
    assert taken(line) == [2, 0, 3]
    assert line.take(EPOCH) is None


@pytest.mark.parametrize("times", [32_767, 65_536])
def test_a_job_that_comes_again_very_often_stays_in_line(times: int) -> None:
    line, (some,) = ready_line(RUNNING), slots(1, RUNNING)
    line.join([some], EPOCH, is_first=True)
    for _ in range(times):
        some.entries &= ~READY  # it is put on hold, and resumed
        line.join([some], EPOCH)
    assert line.order() == [0]
    assert taken(line) == [0]
    assert some.entries == READY


def test_a_job_that_comes_again_stands_at_the_end() -> None:
    line, some = ready_line(RUNNING), slots(3, RUNNING)
    line.join(some, EPOCH, is_first=True)
    for _ in range(3):
        some[0].entries &= ~READY  # it is leased, and freed
        line.join([some[0]], EPOCH)
    assert taken(line) == [1, 2, 0]
    assert some[0].entries == READY  # no entry is left


@pytest.mark.parametrize("status", [AWAITING_PAYMENT, RUNNING, AWAITING_INPUT])
def test_a_job_that_is_leased_or_has_moved_is_skipped(status: JobStatus) -> None:
    line, some = ready_line(status), slots(4, status)
    line.join(some, EPOCH, is_first=status is not AWAITING_INPUT)
    some[0].entries &= ~READY
    some[1].job.status = COMPLETED
    some[3].job.version = 0
    assert taken(line) == [2]


def test_a_job_that_was_here_before_has_one_place() -> None:
    """It left the status and came back: its old entry, which is not true, must not serve it."""
    line, some = ready_line(RUNNING), slots(2, RUNNING)
    line.join(some, EPOCH, is_first=True)
    some[0].job.status = AWAITING_INPUT
    some[0].job.status = RUNNING
    line.join([some[0]], EPOCH)
    assert line.ready(EPOCH) is some[1]
    assert taken(line) == [1, 0]


def test_two_lines_count_a_job_apart() -> None:
    """A job that goes back and forth leaves entries in both; the two use bits of their own."""
    running, asking = ready_line(RUNNING), ready_line(AWAITING_INPUT)
    (job,) = slots(1, RUNNING)
    running.join([job], EPOCH, is_first=True)
    for _ in range(5):
        job.job.status = AWAITING_INPUT
        asking.join([job], EPOCH)
        job.job.status = RUNNING
        running.join([job], EPOCH)
    assert asking.ready(EPOCH) is None
    assert taken(running) == [0]
    assert job.entries == READY


def test_what_was_taken_can_be_put_back_in_order() -> None:
    line, some = ready_line(RUNNING), slots(5, RUNNING)
    for number in (1, 3):
        some[number].extend().not_before = EPOCH + number * SECOND
        line.delay(some[number], EPOCH + number * SECOND)
    line.join([some[0], some[2]], EPOCH, is_first=True)
    line.join([some[4]], EPOCH + 3 * SECOND, is_first=True)
    at = EPOCH + 5 * SECOND
    for _ in range(3):
        drawn = [line.take(at) for _ in range(5)]
        assert places(drawn) == [0, 2, 1, 3, 4]
        for job in reversed(drawn):
            assert job is not None
            line.put_back(job)
    assert taken(line, at) == [0, 2, 1, 3, 4]


def test_delayed_jobs_come_before_what_joins_when_they_are_due() -> None:
    line, some = ready_line(RUNNING), slots(6, RUNNING)
    for number in (4, 1):  # due at the same time: by creation
        some[number].extend().not_before = EPOCH + SECOND
        line.delay(some[number], EPOCH + SECOND)
    some[5].extend().not_before = EPOCH + 2 * SECOND
    line.delay(some[5], EPOCH + 2 * SECOND)
    line.join([some[0]], EPOCH, is_first=True)  # before they are due
    line.join([some[2]], EPOCH + SECOND, is_first=True)  # at the same instant
    line.join([some[3]], EPOCH + 2 * SECOND, is_first=True)
    assert line.order() == [0, EPOCH + SECOND, 2, EPOCH + 2 * SECOND, 3]
    assert taken(line, EPOCH + 2 * SECOND) == [0, 1, 4, 2, 5, 3]


def test_a_delayed_job_is_not_ready_before_its_time() -> None:
    line, (job,) = ready_line(RUNNING), slots(1, RUNNING)
    job.extend().not_before = EPOCH + SECOND
    line.delay(job, EPOCH + SECOND)
    assert line.ready(EPOCH + SECOND - SECOND / 1_000) is None
    assert line.ready(EPOCH + SECOND) is job
    job.extend().on_hold = True
    assert line.ready(EPOCH + SECOND) is None


def test_two_times_in_a_row_are_one_mark() -> None:
    line, some = ready_line(RUNNING), slots(40, RUNNING)
    for number, job in enumerate(some):
        job.extend().not_before = EPOCH + number * SECOND
        line.delay(job, EPOCH + number * SECOND)
    for number in range(40):
        line._mark(EPOCH + number * SECOND)
    assert len(line) == 1
    assert taken(line, EPOCH + 39 * SECOND) == [*range(40)]


def test_marks_stay_within_the_bound_of_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Marks with stale entries between them come together when those are checked."""
    monkeypatch.setattr(lines, "SLACK", 64)
    line, some = ready_line(RUNNING, 2), slots(2, RUNNING)
    some[0].extend().not_before = EPOCH
    line.delay(some[0], EPOCH)
    line.join([some[1]], EPOCH, is_first=True)
    for number in range(2_000):
        some[1].entries &= ~READY
        line.join([some[1]], EPOCH + number * SECOND)  # each time behind a mark
        line.check(1, line.count())
        assert len(line) <= 2 * 2 + 64 + 4
    assert taken(line, EPOCH + 3_000 * SECOND) == [0, 1]


def test_a_settlement_is_in_line_by_its_state_and_time() -> None:
    line = ready_line(SettlementState.WANTED)
    some = slots(3, COMPLETED, settlement=Settlement(SettlementState.WANTED, EPOCH))
    line.join(some[:2], EPOCH, is_first=True)
    some[2].extend().settlement = Settlement(
        SettlementState.WANTED, EPOCH, not_before=EPOCH + SECOND
    )
    line.delay(some[2], EPOCH + SECOND)
    some[0].extend().settlement = Settlement(SettlementState.MANUAL, EPOCH)
    assert taken(line, EPOCH) == [1]
    assert taken(line, EPOCH + SECOND) == [2]


# --- snapshots ----------------------------------------------------------------------------------


def restored(line: ReadyLine, some: list[Slot]) -> ReadyLine:
    """Return a line made from what the snapshot of another one says, and the same jobs."""
    copy = ReadyLine(line.state, line.count)
    order = line.order()
    ready = {entry for entry in order if isinstance(entry, int)}
    for job in some:
        job.entries = 0
    copy.restore([some[entry] if isinstance(entry, int) else entry for entry in order])
    for job in some:
        not_before = line.not_before(job)
        if job.index not in ready and not_before is not None and not job.job.on_hold:
            copy.delay(job, not_before)
    return copy


@pytest.mark.parametrize("seed", range(20))
def test_a_restored_line_gives_the_same_jobs(seed: int) -> None:
    random = Random(seed)
    line, some = ready_line(RUNNING, 12), slots(12, RUNNING)
    at, out = EPOCH, set(range(12))
    for _ in range(200):
        at += random.choice([0, 0, 1]) * SECOND
        match random.choice(["join", "join", "delay", "take", "hold"]):
            case "join" if out:
                job = some[out.pop()]
                job.extend().not_before = None
                line.join([job], at)
            case "delay" if out:
                job = some[out.pop()]
                not_before = at + random.randrange(1, 5) * SECOND
                job.extend().not_before = not_before
                line.delay(job, not_before)
            case "take" if (drawn := line.take(at)) is not None:
                drawn.entries &= ~READY
                drawn.extend().not_before = None
                out.add(drawn.index)
            case "hold" if len(out) < 12:
                job = some[random.choice(sorted(set(range(12)) - out))]
                job.entries &= ~READY
                job.extend().not_before = None
                out.add(job.index)
            case _:
                pass
        order = line.order()
        assert [entry for entry in order if isinstance(entry, datetime)] == sorted(
            {entry for entry in order if isinstance(entry, datetime)}
        )
    at += 9 * SECOND
    expected = expected_of(order, some, at)
    same, _ = deepcopy((line, some))
    copy = restored(line, some)
    assert copy.order() == order
    assert taken(copy, at) == taken(same, at) == expected


def expected_of(order: list[int | datetime], some: list[Slot], at: datetime) -> list[int]:
    """Return what a line gives, by its order and the times of its delayed jobs."""
    ready = {entry for entry in order if isinstance(entry, int)}
    waiting = sorted(
        (job.job.not_before, job.index)
        for job in some
        if job.index not in ready and job.job.not_before is not None
    )
    given: list[int] = []
    for entry in [*order, at]:
        if isinstance(entry, int):
            given.append(entry)
            continue
        while waiting and waiting[0][0] <= entry:
            given.append(waiting.pop(0)[1])
    return given


def test_an_order_has_each_job_once_at_its_last_place() -> None:
    line, some = ready_line(RUNNING), slots(3, RUNNING)
    line.join(some, EPOCH, is_first=True)
    for number in (0, 1, 0):
        some[number].entries &= ~READY
        line.join([some[number]], EPOCH)
    some[2].entries &= ~READY
    assert line.order() == [1, 0]


def test_new_jobs_are_marked_as_ready_already() -> None:
    line, some = ready_line(), slots(3)
    for job in some:
        job.entries = FIRST
    line.enter_new(some)
    assert taken(line) == [0, 1, 2]
    assert slot(9).entries == 0

"""Lines whose entries go stale, and delayed jobs: heads, orders, and bounds."""

from datetime import datetime
from random import Random

import pytest

from tests.broker.repository.slots import SECOND, Counted, slots
from tests.core import EPOCH
from tollgate.broker.repository import lines
from tollgate.broker.repository.lines import (
    CHECKS,
    SLACK,
    Delays,
    StaleLine,
)

# --- a line of entries that go stale ------------------------------------------------------------


def stale_line(true: set[int]) -> tuple[StaleLine[int], Counted]:
    is_true = Counted(true.__contains__)
    return StaleLine(is_true), is_true


def test_the_first_true_entry_is_at_the_head() -> None:
    line, _ = stale_line({3, 5})
    assert line.first() is None
    line.extend(range(7))
    assert line.first() == 3
    assert line.first() == 3  # looking takes nothing
    assert len(line) == 4  # the stale ones before it are gone
    assert line.true_entries() == [3, 5]


def test_each_stale_head_is_dropped_once() -> None:
    line, is_true = stale_line(set())
    line.extend(range(1_000))
    assert line.first() is None
    assert (is_true.asked, len(line)) == (1_000, 0)
    assert line.first() is None
    assert is_true.asked == 1_000


def test_no_entry_is_checked_while_few_are_stale() -> None:
    line, is_true = stale_line({0})
    line.extend(range(SLACK + 2))
    line.check(10**9, 1)
    assert (is_true.asked, len(line)) == (1, SLACK + 2)  # the head


def test_stale_heads_are_dropped_as_they_come() -> None:
    count = 4 * SLACK
    true = set(range(count))
    line, is_true = stale_line(true)
    line.extend(range(count))
    for number in range(count // 2):
        true.remove(number)
        if number % 256 == 255:
            line.check(256, len(true))
    is_true.asked = 0
    assert line.first() == count // 2
    assert is_true.asked <= SLACK // 2 + 256


def test_a_check_looks_at_a_few_entries_for_each_change() -> None:
    line, is_true = stale_line(set())
    line.extend(range(2 * SLACK))
    for changes in (1, 1, 7, 256):
        is_true.asked = 0
        line.check(changes, 0)
        assert is_true.asked == CHECKS * changes + CHECKS


def test_stale_entries_stay_within_their_bound() -> None:
    """Behind one true entry at the head, which stops the head from dropping them."""
    true = {0}
    line, _ = stale_line(true)
    line.extend([0])
    for number in range(1, 3 * SLACK):
        line.extend([number])  # and is stale at once
        line.check(1, len(true))
        assert len(line) <= 2 * len(true) + SLACK + 1
    assert line.first() == 0


def test_checks_keep_the_order() -> None:
    """Also while the head is taken, and entries are added, in the middle of a round."""
    random = Random(1)
    true: set[int] = set()
    line, _ = stale_line(true)
    added = 0
    for _ in range(3_000):
        some = range(added, added + random.randrange(60))
        added = some.stop
        line.extend(some)
        true |= {number for number in some if random.random() < 0.02}
        if true and random.random() < 0.5:
            true.discard(random.choice([*true]))
        line.check(len(some), len(true))
        assert line.first() == min(true, default=None)
    assert line.true_entries() == sorted(true)
    assert added > 4 * SLACK


def test_a_round_of_checks_ends_when_enough_is_dropped() -> None:
    line, is_true = stale_line({0})
    line.extend(range(SLACK + 5))
    line.check(10**9, 1)
    assert (len(line), is_true.asked) == (SLACK + 2, 2 + 3)  # the head twice


# --- jobs that wait for a time ------------------------------------------------------------------


def delays() -> tuple[Delays, dict[int, datetime], Counted]:
    due: dict[int, datetime] = {}
    is_true = Counted(lambda not_before, slot: due.get(slot.index) == not_before)
    return Delays(is_true), due, is_true


def test_delayed_jobs_come_by_time_and_then_by_creation() -> None:
    waiting, due, _ = delays()
    jobs = slots(6)
    for number, seconds in ((5, 2), (3, 1), (4, 1), (0, 3), (2, 2)):
        due[number] = EPOCH + seconds * SECOND
        waiting.add(due[number], jobs[number], 9)
    assert waiting.times() == sorted(due.values())
    came = []
    while (first := waiting.first()) is not None:
        assert first == (due[first[1].index], first[1])
        came.append(waiting.pop().index)
    assert came == [3, 4, 2, 5, 0]


def test_a_delay_that_is_not_true_any_more_is_dropped() -> None:
    waiting, due, _ = delays()
    (job,) = slots(1)
    for seconds in (1, 2, 3):
        due[0] = EPOCH + seconds * SECOND
        waiting.add(due[0], job, 1)
    assert waiting.first() == (EPOCH + 3 * SECOND, job)
    assert waiting.times() == [EPOCH + 3 * SECOND]
    del due[0]
    assert waiting.first() is None


def test_a_job_that_is_delayed_twice_comes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "SLACK", 0)
    waiting, due, _ = delays()
    some = slots(2)
    due |= {0: EPOCH, 1: EPOCH}
    for job in [*some, *some, *some]:  # some of the entries are checked
        waiting.add(EPOCH, job, 1)
    assert waiting._heap
    assert waiting._checked
    assert waiting.times() == [EPOCH, EPOCH]
    assert [waiting.pop(), waiting.pop()] == some
    assert waiting.first() is None


def test_stale_delays_stay_within_their_bound() -> None:
    waiting, due, is_true = delays()
    jobs = slots(2)
    due[1] = EPOCH
    waiting.add(EPOCH, jobs[1], 2)  # true, and the head for ever
    for number in range(3 * SLACK):
        due[0] = EPOCH + (number + 1) * SECOND
        is_true.asked = 0
        waiting.add(due[0], jobs[0], 2)
        assert is_true.asked <= 2 * CHECKS
        assert len(waiting._heap) + len(waiting._checked) <= 2 * 2 + SLACK + 1
    assert waiting.times() == [EPOCH, due[0]]
    assert waiting.pop() is jobs[1]
    assert waiting.first() == (due[0], jobs[0])

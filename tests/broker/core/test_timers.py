"""Timers and timelines: due items come up in order, and settled items do not pile up."""

from collections.abc import Callable
from operator import itemgetter
from random import Random

import pytest

from tollgate.broker.core.timers import (
    ADDED_MAX,
    CHECKS,
    NEVER_MS,
    SETTLED_MAX,
    SLACK,
    Timeline,
    Timers,
)

Item = tuple[int, str]


def timers_of(live: Callable[[Item], bool], count: Callable[[], int]) -> Timers[int, Item]:
    return Timers(Timeline(NEVER_MS), itemgetter(0), live, count)


def test_due_items_come_up_earliest_first_and_once() -> None:
    timers = timers_of(lambda item: True, lambda: 4)
    for item in [(5, "e"), (1, "a"), (3, "c"), (3, "b")]:
        timers.add(item)
    assert timers.first_due() == 1
    assert list(timers.due(0)) == []
    assert list(timers.due(3)) == [(1, "a"), (3, "c"), (3, "b")]  # as they were added
    assert list(timers.due(3)) == []
    assert timers.first_due() == 5
    assert list(timers.due(9)) == [(5, "e")]
    assert timers.first_due() is None


def test_items_of_one_time_come_up_in_the_order_added() -> None:
    timers = timers_of(lambda item: True, lambda: 9)
    for item in [(9, "z"), (3, "a"), (3, "b"), (9, "y"), (3, "c"), (1, "d"), (9, "x")]:
        timers.add(item)
    assert [key for _, key in timers.due(9)] == ["d", "a", "b", "c", "z", "y", "x"]


def test_settled_items_do_not_come_up() -> None:
    timers = timers_of(lambda item: item == (2, "b"), lambda: 1)
    timers.add((1, "a"))
    timers.add((2, "b"))
    assert list(timers.due(9)) == [(2, "b")]


def test_a_settled_item_between_two_due_ones_is_dropped() -> None:
    live = {(1, "a"), (1, "b")}
    timers = timers_of(live.__contains__, live.__len__)
    timers.add((1, "a"))
    timers.add((1, "b"))
    due = timers.due(1)
    assert next(due) == (1, "a")
    live.clear()
    assert list(due) == []


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("one_in", [1_000, 3])
def test_settled_timers_do_not_pile_up(in_order: bool, one_in: int) -> None:
    live: dict[Item, None] = {}
    timers = timers_of(live.__contains__, live.__len__)
    random = Random(1)
    for number in range(20 * SLACK):
        item = (number if in_order else random.randrange(10**6), str(number))
        if number % one_in == 0:
            live[item] = None
        timers.add(item)
        assert len(timers) <= 2.25 * len(live) + SLACK
    found: list[Item] = []
    while timers.is_due(10**7):
        found += timers.due(10**7)
    assert found == sorted(live, key=itemgetter(0))


def test_no_add_checks_all_settled_items(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = [0]

    def is_live(item: Item) -> bool:
        looked[0] += 1
        return False

    count = [10**9]
    timers = timers_of(is_live, lambda: count[0])
    timers.add_all([(number, "") for number in range(50 * SLACK)], range(50 * SLACK))
    assert looked == [0]
    count[0] = 0  # all of them are settled now
    most = 0
    while len(timers) > SLACK:
        before = looked[0]
        timers.add((10**6, ""))
        most = max(most, looked[0] - before)
    assert 0 < most <= CHECKS * ADDED_MAX


def test_the_head_skips_settled_items() -> None:
    live = {(5, "a")}
    timeline = Timeline(NEVER_MS)
    timers: Timers[int, Item] = Timers(timeline, itemgetter(0), live.__contains__, live.__len__)
    timers.add_all([(1, "x"), (2, "y")], [1, 2])
    timers.add((5, "a"))
    assert timeline.next_at == 1
    timeline.refresh()
    assert timeline.next_at == 5
    assert len(timers) == 1
    live.clear()
    timeline.refresh()
    assert timeline.next_at == NEVER_MS


def test_checks_keep_live_items_in_order() -> None:
    live = {(-key, str(key)) for key in range(0, 4 * SLACK, 4)}
    timers = timers_of(live.__contains__, lambda: 0)
    for key in range(4 * SLACK):
        timers.add((-key, str(key)))
    assert list(timers.due(0)) == sorted(live)


@pytest.mark.parametrize(
    "whens", [[5, 1, 3], [5, 5, 1], [1, 5, 3], [5, 5, 5], [5, None, 1], [None, 5]], ids=str
)
def test_items_added_together_come_up_each_at_its_time(whens: list[int | None]) -> None:
    timers: Timers[int, int | None] = Timers(
        Timeline(NEVER_MS), lambda when: when, lambda _: True, lambda: 99
    )
    timers.add_all(whens, whens)
    timers.add_all(whens, whens)
    due = sorted([when for when in whens if when is not None] * 2)
    assert [*timers.due(2)] == [when for when in due if when <= 2]
    assert [*timers.due(9)] == [when for when in due if when > 2]


def test_one_call_drops_few_settled_items() -> None:
    timers = timers_of(lambda item: item == (5, "live"), lambda: 10**9)
    items = [(5, "settled")] * (3 * SETTLED_MAX) + [(5, "live")]
    timers.add_all(items, [5] * len(items))
    calls = 0
    found: list[Item] = []
    while timers.is_due(5):
        before = len(timers)
        found += timers.due(5)
        assert before - len(timers) <= SETTLED_MAX + 1
        calls += 1
    assert (found, calls, len(timers)) == ([(5, "live")], 4, 0)
    assert not timers.is_due(5)

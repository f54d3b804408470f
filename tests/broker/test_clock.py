"""The loop's own pauses do not count against leases and waits."""

from datetime import timedelta

import pytest

from tests.core import EPOCH
from tollgate.broker.clock import CATCH_UP_MS, PAUSE_MS, REST_MS, SET_MS, LoopClock


class Clocks:
    """Both clocks of a machine, and a loop clock that reads them."""

    def __init__(self) -> None:
        self.ms = 1_000_000
        self.set_by_ms = 0
        self.loop = LoopClock(
            lambda: self.ms * 1_000_000,
            lambda: EPOCH + timedelta(milliseconds=self.ms + self.set_by_ms),
        )
        self.start_ms = self.loop.read().mono_ms

    def turn(self, ms: int) -> int:
        """Let a turn take so long; return how far the loop's clock has come."""
        self.ms += ms
        return self.loop.read().mono_ms - self.start_ms

    def sleep(self, ms: int, limit_ms: int) -> int:
        self.ms += ms
        return self.loop.read(limit_ms).mono_ms - self.start_ms


def test_turns_and_sleeps_count() -> None:
    clocks = Clocks()
    assert clocks.turn(3) == 3
    assert clocks.sleep(1_000, 1_000) == 1_003
    assert clocks.turn(PAUSE_MS) == 1_003 + PAUSE_MS
    assert clocks.sleep(1_000 + PAUSE_MS, 1_000) == 2_003 + 2 * PAUSE_MS
    assert clocks.loop.pauses == 0


def test_the_wall_clock_shows_a_pause() -> None:
    clocks = Clocks()
    clocks.turn(3_600_000)
    assert clocks.loop.read().wall == EPOCH + timedelta(milliseconds=clocks.ms)


@pytest.mark.parametrize("gap_ms", [PAUSE_MS + 1, 3_600_000])
def test_a_pause_in_a_sleep_or_a_turn_does_not_count(gap_ms: int) -> None:
    clocks = Clocks()
    assert clocks.sleep(1_000 + gap_ms, 1_000) == 0
    clocks.loop.caught_up()
    assert clocks.turn(100) == 100
    clocks = Clocks()
    assert clocks.turn(gap_ms) == 0
    assert clocks.loop.pauses == 1


def test_the_clock_stands_until_the_loop_has_caught_up() -> None:
    clocks = Clocks()
    clocks.turn(60_000)
    for _ in range(5):
        assert clocks.turn(20) == 0
        assert clocks.sleep(0, 0) == 0
    clocks.loop.caught_up()
    assert clocks.turn(20) == 20


def test_a_flood_does_not_hold_the_clock_for_ever() -> None:
    clocks = Clocks()
    clocks.turn(60_000)
    turns = 0
    while clocks.turn(100) == 0:
        turns += 1
    assert (turns + 1) * 100 == CATCH_UP_MS
    assert clocks.turn(100) == 200


def test_repeated_stalls_slow_the_clock_to_half_at_most() -> None:
    clocks = Clocks()
    clocks.turn(2 * REST_MS)
    clocks.loop.caught_up()
    began_ms, began = clocks.ms, clocks.turn(0)
    for _ in range(200):
        clocks.turn(50)
        clocks.sleep(1_000, 0)  # a disk that stalls for a second, again and again
        clocks.loop.caught_up()
    spent_ms = clocks.ms - began_ms
    assert clocks.turn(0) - began >= spent_ms // 2


def test_rare_pauses_count_in_full() -> None:
    clocks = Clocks()
    for _ in range(3):
        before = clocks.turn(0)
        for _ in range(REST_MS // 100):
            clocks.turn(100)
        assert clocks.sleep(600_000, 0) - before == REST_MS
        clocks.loop.caught_up()


@pytest.mark.parametrize("by_ms", [SET_MS + 1, -SET_MS - 1, 10**14, -(10**13)])
def test_a_wall_clock_that_was_set_is_told_once(by_ms: int) -> None:
    clocks = Clocks()
    assert clocks.loop.set_by_ms() == 0
    clocks.turn(60_000)
    clocks.set_by_ms = by_ms
    assert clocks.loop.set_by_ms() == by_ms
    assert clocks.loop.set_by_ms() == 0


def test_a_wall_clock_that_drifts_was_not_set() -> None:
    clocks = Clocks()
    for _ in range(100):
        clocks.turn(5_000)
        clocks.set_by_ms += SET_MS // 2
        assert clocks.loop.set_by_ms() == 0

"""Time as the core sees it: what comes in as `now`, and what is due by then."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from heapq import heappop, heappush
from itertools import count
from typing import Any, Generic, TypeVar

import msgspec

Item = TypeVar("Item")
When = TypeVar("When", int, datetime)

SLACK = 1_024
"""How many settled items there may be beyond as many as there are live ones."""


class Instant(msgspec.Struct, frozen=True, gc=False):
    """One moment on both clocks: `wall` in UTC, `mono_ms` on the one that is never set."""

    wall: datetime
    mono_ms: int


def milliseconds(span: timedelta) -> int:
    """Return a span in whole milliseconds, rounded up: who waits for it never wakes too early."""
    return -(-span // timedelta(milliseconds=1))


class Timers(Generic[When, Item]):
    """Items by the time at which they are due: `when` reads it off an item, and it never changes.

    An item is not taken out early: `is_live` says, when it is due, whether it still matters, and
    beforehand, once there are far more than `count_live` tells, so that settled ones do not pile
    up. Items of the same time come up as they were added.

    Most times come in order, being so long from now each: those are a queue, the others a heap.
    """

    def __init__(
        self,
        when: Callable[[Item], When | None],
        is_live: Callable[[Item], bool],
        count_live: Callable[[], int],
    ) -> None:
        self._when: Callable[[Item], Any] = when
        self._count_live = count_live
        self._is_live: Callable[[Item], bool] = is_live
        self._queue: deque[Item] = deque()
        self._heap: list[tuple[When, int, Item]] = []
        self._places = count()
        self._newest: When | None = None
        self._look_in = SLACK

    def __len__(self) -> int:
        """Return how many items there are, settled ones included."""
        return len(self._queue) + len(self._heap)

    def add_all(self, items: Sequence[Item]) -> None:
        """Have items come up, each at its time; never if it has none."""
        whens = [*map(self._when, items)]
        first = whens[0] if whens else None
        if first is None or not self._is_last(first) or whens.count(first) < len(whens):
            for item in items:
                self.add(item)
            return
        self._queue.extend(items)  # as most often: all of them at one time, behind all others
        self._newest = first
        self._look_in -= len(items)
        if self._look_in < 0:
            self._sweep()

    def add(self, item: Item) -> None:
        """Have an item come up at its time; never if it has none."""
        when = self._when(item)
        if when is None:
            return
        if self._is_last(when):
            self._queue.append(item)
            self._newest = when
        else:
            heappush(self._heap, (when, next(self._places), item))
        self._look_in -= 1
        if self._look_in < 0:
            self._sweep()

    def _is_last(self, when: When) -> bool:
        newest = self._newest
        return newest is None or when >= newest or not self._queue

    def due(self, now: When) -> Iterator[Item]:
        """Take out and yield what is live and due, earliest first."""
        while (when := self.next()) is not None and when <= now:
            if self._queue and self._when(self._queue[0]) == when:
                item = self._queue.popleft()
            else:
                item = heappop(self._heap)[2]
            if self._is_live(item):
                yield item

    def next(self) -> When | None:
        """Return when the next item, live or settled, is due."""
        if not self._queue:
            return self._heap[0][0] if self._heap else None
        first: When = self._when(self._queue[0])
        return min(first, self._heap[0][0]) if self._heap else first

    def _sweep(self) -> None:
        """Let go of what is settled, if that is most of it; look again before SLACK are beyond."""
        if len(self) > 2 * self._count_live() + SLACK // 2:
            self._queue = deque(self.live())
            self._newest = self._when(self._queue[-1]) if self._queue else None
            self._heap.clear()
        self._look_in = SLACK // 2

    def live(self) -> list[Item]:
        """Return the items that still matter, each once, earliest first."""
        items = {id(item): item for item in self._queue}
        items |= {id(item): item for _, _, item in sorted(self._heap, key=_place)}
        return sorted(filter(self._is_live, items.values()), key=self._when)


def _place(entry: tuple[When, int, object]) -> tuple[When, int]:
    return entry[:2]

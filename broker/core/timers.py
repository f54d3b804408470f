"""Time as the core sees it: the instant that comes in, and what will be due by which clock.

Each clock has a `Timeline`, which knows the earliest time at which anything may be due; its
`Timers` hold the items. One comparison with a timeline tells whether there is anything to do.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from heapq import heappop, heappush
from itertools import count
from typing import Any, Final, Generic, TypeVar

import msgspec

Item = TypeVar("Item")
When = TypeVar("When", int, datetime)

SLACK = 1_024
"""How many settled items there may be beyond as many as there are live ones."""
ADDED_MAX: Final = SLACK // 8
"""So many items are added between two looks at how many are settled."""
SETTLED_MAX: Final = 2 * SLACK
"""How many settled items one call of `due` drops: a call may not be long."""
CHECKS: Final = 4
"""How many items are checked for each one that is added, while too many are settled."""
NEVER_MS: Final = 2**63
NEVER: Final = datetime.max.replace(tzinfo=UTC)


def later(at: datetime, span: timedelta) -> datetime:
    """Return a time and a span added; the last date if there is no such date."""
    try:
        return at + span
    except OverflowError:
        return NEVER


class Instant(msgspec.Struct, frozen=True, gc=False):
    """One moment on both clocks: `wall` in UTC, `mono_ms` on the monotonic clock."""

    wall: datetime
    mono_ms: int


class Timeline(Generic[When]):
    """The earliest time on one clock at which anything may be due: `next_at`."""

    def __init__(self, never: When) -> None:
        self.next_at: When = never
        self._never: When = never
        self._sources: list[Callable[[], When | None]] = []

    def add_source(self, first_due: Callable[[], When | None]) -> None:
        """Have `refresh` ask `first_due` when its earliest item is due."""
        self._sources.append(first_due)

    def refresh(self) -> None:
        """Find the earliest time anew, after due items were taken out."""
        times = [first_due() for first_due in self._sources]
        self.next_at = min([at for at in times if at is not None], default=self._never)


class Timers(Generic[When, Item]):
    """Items by due time: `when` reads it off an item, and it never changes.

    An item that is settled early stays until it reaches the head, where `is_live` tells. While more
    than half of the items are settled (`count_live` tells), each `add` also checks a few others, so
    that no `add` pays for all of them. Add an item once.

    Most times come in order, because most spans are equal: those items stand in a queue, the others
    in a heap. Items of the same time come up in the order in which they were added, unless the
    queue was empty in between.
    """

    def __init__(
        self,
        timeline: Timeline[When],
        when: Callable[[Item], When | None],
        is_live: Callable[[Item], bool],
        count_live: Callable[[], int],
    ) -> None:
        self.delay: Any = None
        """How long after its time an item is due, as a span of the clock; None for no delay."""
        self._timeline: Timeline[When] = timeline
        self._when: Callable[[Item], Any] = when
        self._is_live: Callable[[Item], bool] = is_live
        self._count_live = count_live
        # A check moves items from the queue's head behind those checked, which are all earlier,
        # and from the heap's last leaf to the other heap. When all are checked, the pairs change
        # places.
        self._queue: deque[Item] = deque()
        self._checked: deque[Item] = deque()
        self._heap: list[tuple[When, int, Item]] = []
        self._checked_heap: list[tuple[When, int, Item]] = []
        self._newest: When | None = None
        self._places = count()
        self._added = 0
        timeline.add_source(self.first_due)

    def __len__(self) -> int:
        """Return how many items there are, settled ones included."""
        queued = len(self._queue) + len(self._checked)
        return queued + len(self._heap) + len(self._checked_heap)

    def __iter__(self) -> Iterator[Item]:
        """Yield all items in no order, settled ones included."""
        yield from self._queue
        yield from self._checked
        for _, _, item in self._heap:
            yield item
        for _, _, item in self._checked_heap:
            yield item

    def add_all(self, items: Sequence[Item], whens: Sequence[When | None]) -> None:
        """Add items with their times, which the caller reads faster than `when` does.

        Those without a time never come up.
        """
        first = whens[0] if whens else None
        if first is None or not self._is_newest(first) or whens.count(first) < len(whens):
            for item in items:
                self.add(item)
            return
        self._queue.extend(items)  # the common case: all at one time, later than all others
        self._newest = first
        self._grew(first, len(items))

    def add(self, item: Item) -> None:
        """Add an item; without a time it never comes up."""
        when = self._when(item)
        if when is None:
            return
        if self._is_newest(when):
            self._queue.append(item)
            self._newest = when
        else:
            heappush(self._heap, (when, next(self._places), item))
        self._grew(when, 1)

    def due(self, now: When) -> Iterator[Item]:
        """Take out and yield the live items that are due at `now`, earliest first.

        One call drops no more than SETTLED_MAX settled items; `is_due` tells whether more are left.
        """
        latest: When = now if self.delay is None else now - self.delay
        settled = 0
        while settled < SETTLED_MAX and (head := self._head()) is not None and head[0] <= latest:
            _, item, take = head
            take()
            if self._is_live(item):
                yield item
            else:
                settled += 1

    def is_due(self, now: When) -> bool:
        """Return whether the earliest item, live or settled, is due at `now`."""
        latest: When = now if self.delay is None else now - self.delay
        head = self._head()
        return head is not None and head[0] <= latest

    def first_due(self) -> When | None:
        """Return when the earliest item is due, and drop the settled ones before it.

        It drops no more than SLACK of them: then the item may be a settled one.
        """
        is_live, left = self._is_live, SLACK
        if not (self._heap or self._checked_heap):  # the common case, without a call for each head
            queue = self._checked or self._queue
            while queue and left and not is_live(queue[0]):
                queue.popleft()
                left -= 1
        head = self._head()
        while left and head is not None and not is_live(head[1]):
            head[2]()
            head = self._head()
            left -= 1
        if head is None or self.delay is None:
            return None if head is None else head[0]
        try:
            return head[0] + self.delay  # type: ignore[no-any-return]
        except OverflowError:  # later than any date
            return None

    def _is_newest(self, when: When) -> bool:
        newest = self._newest
        return newest is None or when >= newest or not (self._queue or self._checked)

    def _head(self) -> tuple[When, Item, Callable[[], object]] | None:
        """Return the earliest item with its time, and the call that takes it out."""
        heaps = [heap for heap in (self._heap, self._checked_heap) if heap]
        heap = min(heaps, key=lambda heap: heap[0][:2], default=None)
        queue = self._checked or self._queue
        if queue and (heap is None or self._when(queue[0]) <= heap[0][0]):
            return self._when(queue[0]), queue[0], queue.popleft
        return None if heap is None else (heap[0][0], heap[0][2], partial(heappop, heap))

    def _grew(self, when: When, added: int) -> None:
        timeline: Any = self._timeline
        if self.delay is None:
            timeline.next_at = min(timeline.next_at, when)
        elif when - timeline.next_at < -self.delay:  # no sum: it may lie outside all dates
            timeline.next_at = when + self.delay
        self.settled(added)

    def settled(self, count: int) -> None:
        """Take note of items that were settled early; also checks some others, as `add` does."""
        self._added += count
        if self._added >= ADDED_MAX:
            self._check(CHECKS * self._added)
            self._added = 0

    def _check(self, items: int) -> None:
        """Check some more items if too many are settled, and drop those that are."""
        if len(self) <= 2 * self._count_live() + SLACK // 2:
            return
        for _ in range(items):
            if self._queue:
                item = self._queue.popleft()
                if self._is_live(item):
                    self._checked.append(item)
            elif self._heap:
                entry = self._heap.pop()  # the last leaf: the rest is still a heap
                if self._is_live(entry[2]):
                    heappush(self._checked_heap, entry)
            else:
                self._queue, self._checked = self._checked, self._queue
                self._heap, self._checked_heap = self._checked_heap, self._heap
                if not (self._queue or self._heap):
                    return

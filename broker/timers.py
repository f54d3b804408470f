"""Time as the core sees it: what comes in as `now`, and what is due by then."""

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from datetime import datetime, timedelta
from heapq import heappop, heappush
from typing import Generic, NamedTuple, TypeVar

Key = TypeVar("Key", bound=Hashable)
When = TypeVar("When", int, datetime)

SLACK = 1_024
"""How many settled entries a heap may hold beyond as many as there are live ones."""


class Instant(NamedTuple):
    """One moment on both clocks: `wall` in UTC, `mono_ms` on the one that is never set."""

    wall: datetime
    mono_ms: int


def milliseconds(span: timedelta) -> int:
    """Return a span in whole milliseconds, rounded up: who waits for it never wakes too early."""
    return -(-span // timedelta(milliseconds=1))


class Timers(Generic[When, Key]):
    """Keys by the time at which they are due.

    An entry is never taken out early: whoever set it knows, when it is due, whether it still
    matters. `is_live` says so beforehand, so that settled entries do not pile up.

    Most times come in order, being so long from now each: those are kept as a queue, and only the
    others as a heap.
    """

    def __init__(self, is_live: Callable[[When, Key], bool]) -> None:
        self._is_live: Callable[[When, Key], bool] = is_live
        self._queue: deque[tuple[When, Key]] = deque()
        self._heap: list[tuple[When, Key]] = []

    def __len__(self) -> int:
        """Return how many entries there are, settled ones included."""
        return len(self._queue) + len(self._heap)

    def set(self, when: When, key: Key, live: int) -> None:
        """Have `key` come up at `when`; `live` is how many live entries there may be by now."""
        queue = self._queue
        if queue and when < queue[-1][0]:
            heappush(self._heap, (when, key))
        else:
            queue.append((when, key))
        if len(queue) + len(self._heap) > 2 * live + SLACK:
            self._sweep()

    def due(self, now: When) -> Iterator[Key]:
        """Take out and yield what is live and due, earliest first."""
        while (first := self._first()) is not None and first[0] <= now:
            if self._queue and self._queue[0] is first:
                self._queue.popleft()
            else:
                heappop(self._heap)
            if self._is_live(*first):
                yield first[1]

    def next(self) -> When | None:
        """Return when the next entry, live or settled, is due."""
        first = self._first()
        return None if first is None else first[0]

    def live(self) -> list[tuple[When, Key]]:
        """Return the entries that still matter, earliest first."""
        entries = set(self._queue).union(self._heap)
        return sorted(entry for entry in entries if self._is_live(*entry))

    def _first(self) -> tuple[When, Key] | None:
        if not self._heap:
            return self._queue[0] if self._queue else None
        return min(self._queue[0], self._heap[0]) if self._queue else self._heap[0]

    def _sweep(self) -> None:
        """Keep what is live, and each of that once."""
        self._queue = deque(self.live())
        self._heap.clear()

"""Time as the core sees it: what comes in as `now`, and what is due by then."""

from collections.abc import Callable, Hashable, Iterator
from datetime import datetime, timedelta
from heapq import heapify, heappop, heappush
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
    """

    def __init__(self, is_live: Callable[[When, Key], bool]) -> None:
        self._is_live: Callable[[When, Key], bool] = is_live
        self._heap: list[tuple[When, Key]] = []

    def __len__(self) -> int:
        """Return how many entries there are, settled ones included."""
        return len(self._heap)

    def set(self, when: When, key: Key, live: int) -> None:
        """Have `key` come up at `when`; `live` is how many live entries there may be by now."""
        heappush(self._heap, (when, key))
        if len(self._heap) > 2 * live + SLACK:
            self._heap[:] = {entry for entry in self._heap if self._is_live(*entry)}
            heapify(self._heap)

    def due(self, now: When) -> Iterator[Key]:
        """Take out and yield what is live and due, earliest first."""
        while self._heap and self._heap[0][0] <= now:
            when, key = heappop(self._heap)
            if self._is_live(when, key):
                yield key

    def next(self) -> When | None:
        """Return when the next entry, live or settled, is due."""
        return self._heap[0][0] if self._heap else None

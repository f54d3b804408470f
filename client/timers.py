"""Keeps the next wake-up time of each pending request; holds no clock."""

import heapq
from typing import Final

from tollgate.client.inflight import PendingRequest

SLACK: Final = 64
"""How many outdated entries the heap may hold before they are removed."""


class Timers:
    """The next wake-up time of each pending request, its `wake_at`.

    The heap holds numbers only, so a finished request and its commands are freed at once.
    """

    def __init__(self, requests: dict[int, PendingRequest]) -> None:
        """Start empty; `requests` are those in flight, by their numbers."""
        self._requests = requests
        self._heap: list[tuple[float, int]] = []

    def __len__(self) -> int:
        """Return the number of entries, outdated ones included."""
        return len(self._heap)

    def set(self, request: PendingRequest, at: float) -> None:
        """Wake `request` at `at` or its deadline; this replaces an earlier wake-up time."""
        at = min(at, request.deadline)
        request.wake_at = at
        if len(self._requests) == 1:  # the usual case: all other entries are outdated
            self._heap = [(at, request.seq)]
            return
        heapq.heappush(self._heap, (at, request.seq))
        if len(self._heap) > 2 * len(self._requests) + SLACK:
            self._heap = [entry for entry in self._heap if self._current(entry) is not None]
            heapq.heapify(self._heap)

    def next(self) -> float | None:
        """Return the earliest time, or None."""
        heap = self._heap
        while heap:
            if self._current(heap[0]) is not None:
                return heap[0][0]
            heapq.heappop(heap)
        return None

    def pop_due(self, now: float) -> PendingRequest | None:
        """Remove and return a request whose time has come; None if there is none."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            request = self._current(heapq.heappop(heap))
            if request is not None:
                request.wake_at = None
                return request
        return None

    def _current(self, entry: tuple[float, int]) -> PendingRequest | None:
        """Return the request of an entry, or None if the entry is outdated."""
        request = self._requests.get(entry[1])
        return request if request is not None and request.wake_at == entry[0] else None

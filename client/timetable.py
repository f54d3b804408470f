"""Remembers which message wants attention when; holds no clock."""

import heapq
from itertools import count
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from client.message import Message

SLACK: Final = 64
"""How many outdated entries may lie about before they are swept out."""


class Timetable:
    """When which message wants attention; a message has one such time at most, its `wake_at`."""

    def __init__(self) -> None:
        """Begin empty."""
        self._heap: list[tuple[float, int, Message]] = []
        self._ties = count()

    def __len__(self) -> int:
        """Return how many entries there are, outdated ones included."""
        return len(self._heap)

    def set(self, message: "Message", at: float, live: int) -> None:
        """Wake `message` at `at`, and no more at a time set before; there are `live` messages."""
        message.wake_at = at
        heapq.heappush(self._heap, (at, next(self._ties), message))
        if len(self._heap) > 2 * live + SLACK:  # mostly of messages that are done
            self._heap = [entry for entry in self._heap if entry[2].wake_at == entry[0]]
            heapq.heapify(self._heap)

    def next(self) -> float | None:
        """Return the earliest time, or None."""
        heap = self._heap
        while heap and heap[0][2].wake_at != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def pop_due(self, now: float) -> "Message | None":
        """Return a message whose time has come, once; None if there is none."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            at, _, message = heapq.heappop(heap)
            if message.wake_at == at:
                message.wake_at = None
                return message
        return None

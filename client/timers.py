"""Remembers which message wants attention when; holds no clock."""

import heapq
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tollgate.client.inflight import Message

SLACK: Final = 64
"""How many outdated entries may lie about before they are swept out."""


class Timetable:
    """When which message wants attention; a message has one such time at most, its `wake_at`.

    It knows messages by their numbers alone, so that it keeps none alive that is done: its commands
    are given back when it is, and not a thousand messages later.
    """

    def __init__(self, messages: "dict[int, Message]") -> None:
        """Begin empty; `messages` are those under way, by their numbers."""
        self._messages = messages
        self._heap: list[tuple[float, int]] = []

    def __len__(self) -> int:
        """Return how many entries there are, outdated ones included."""
        return len(self._heap)

    def set(self, message: "Message", at: float) -> None:
        """Wake `message` at `at` or its deadline, and no more at a time set before."""
        at = min(at, message.deadline)
        message.wake_at = at
        if len(self._messages) == 1:  # the usual case: all other entries are outdated
            self._heap = [(at, message.seq)]
            return
        heapq.heappush(self._heap, (at, message.seq))
        if len(self._heap) > 2 * len(self._messages) + SLACK:  # mostly of messages that are done
            self._heap = [entry for entry in self._heap if self._of(entry) is not None]
            heapq.heapify(self._heap)

    def next(self) -> float | None:
        """Return the earliest time, or None."""
        heap = self._heap
        while heap:
            if self._of(heap[0]) is not None:
                return heap[0][0]
            heapq.heappop(heap)
        return None

    def pop_due(self, now: float) -> "Message | None":
        """Return a message whose time has come, once; None if there is none."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            message = self._of(heapq.heappop(heap))
            if message is not None:
                message.wake_at = None
                return message
        return None

    def _of(self, entry: tuple[float, int]) -> "Message | None":
        """Return whom an entry is about, or None if it is outdated."""
        message = self._messages.get(entry[1])
        return message if message is not None and message.wake_at == entry[0] else None

"""Waits until something can be read: asleep, or at first awake for a moment."""

import os
import time
from collections.abc import Sequence
from typing import Any, Final

import zmq

INPUT: Final = int(zmq.POLLIN)


class Lookout:
    """Waits for input at sockets of libzmq and at file descriptors.

    With `spin_us`, it looks again and again for so many microseconds before it sleeps, unless
    nothing had come the last time either: waking up is a good part of a round trip. That keeps a
    core busy for so long after each message, and costs nothing while none comes.
    """

    def __init__(self, watched: Sequence[Any], spin_us: int = 0) -> None:
        self._items = [(each, INPUT) for each in watched]
        self._spin_s = spin_us / 1_000_000
        self._is_awake = False

    def forget(self, watched: Any) -> None:  # noqa: ANN401 - whatever can be watched
        """Look there no more."""
        self._items = [item for item in self._items if item[0] != watched]

    def wait(self, patience_ms: int) -> list[Any]:
        """Return where something can be read; nowhere, if nothing could for so long."""
        left_ms, found = patience_ms, list[tuple[Any, int]]()
        if self._is_awake:
            found = self._look(patience_ms)
            left_ms = max(0, patience_ms - int(self._spin_s * 1_000))
        if not found:
            found = zmq.zmq_poll(self._items, left_ms)
        if self._spin_s and patience_ms:
            self._is_awake = bool(found)
        return [each for each, _ in found]

    def _look(self, patience_ms: int) -> list[tuple[Any, int]]:
        """Look for a moment, everywhere each time: who waits elsewhere is not to be passed over.

        Whoever else is ready to run goes first: it may be the thread that brings the next message.
        """
        until = time.monotonic() + min(self._spin_s, patience_ms / 1_000)
        while not (found := zmq.zmq_poll(self._items, 0)) and time.monotonic() < until:
            os.sched_yield()
        return found

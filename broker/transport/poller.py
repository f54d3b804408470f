"""Waits until something can be read, and can poll for a moment before it sleeps."""

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import zmq

INPUT: Final = int(zmq.POLLIN)

Found = list[tuple[Any, int]]
"""Sources that can be read, each with `INPUT`."""


class Poller:
    """Waits for input at sockets of libzmq and at file descriptors.

    With `spin_us`, it polls for that many microseconds before it sleeps, unless the last call
    found nothing either: waking up is a large part of a round trip (docs/performance.md). This
    keeps one core busy that long after each message, and costs nothing while none comes.
    """

    def __init__(self, sources: Sequence[Any], spin_us: int = 0) -> None:
        self._items = [(each, INPUT) for each in sources]
        self._spin_s = spin_us / 1_000_000
        self._is_busy = False
        self.wait: Callable[[int], Found] = (
            self._spin_and_sleep if spin_us else partial(zmq.zmq_poll, self._items)
        )
        """Takes a timeout in milliseconds; returns what can be read, nothing after the timeout."""

    def unregister(self, source: Any) -> None:  # noqa: ANN401 - a socket or a descriptor
        """Stop polling a source."""
        self._items.remove((source, INPUT))

    def _spin_and_sleep(self, timeout_ms: int) -> Found:
        left_ms, found = timeout_ms, Found()
        if self._is_busy:
            found = self._spin(timeout_ms)
            left_ms = max(0, timeout_ms - int(self._spin_s * 1_000))
        if not found:
            found = zmq.zmq_poll(self._items, left_ms)
        if timeout_ms:
            self._is_busy = bool(found)
        return found

    def _spin(self, timeout_ms: int) -> Found:
        """Poll all sources for a moment, so that none is passed over.

        Other threads that can run go first: one of them may bring the next message.
        """
        until = time.monotonic() + min(self._spin_s, timeout_ms / 1_000)
        while not (found := zmq.zmq_poll(self._items, 0)) and time.monotonic() < until:
            os.sched_yield()
        return found

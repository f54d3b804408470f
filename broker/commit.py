"""Holds replies back until what they tell of is safe: the one place where a reply leaves from."""

import os
import threading
from collections.abc import Callable
from enum import Enum, auto
from queue import SimpleQueue
from typing import Final

from tollgate.broker.core.pipeline import Outcome, Reply
from tollgate.broker.core.records import encode_records
from tollgate.broker.journal import Journal

HELD_BYTES_MAX: Final = 8 * 1024 * 1024
HELD_MAX: Final = 1_000
"""With so many replies behind a sync that is under way, its end is waited for."""


class Order(Enum):
    """What the thread beside the loop is told to do."""

    SYNC = auto()
    LEAVE = auto()


class Outbox:
    """Writes records down, and sends replies once all records before them are synced.

    A sync takes about as long as deciding a message of a hundred commands. So with `beside`, and
    while more is waiting to be decided, it goes on in a thread of its own; `fd` is readable when it
    has ended, and then `finish` is to be called. Otherwise `put` returns when all is sent.
    """

    def __init__(self, journal: Journal, send: Callable[[Reply], None], *, beside: bool) -> None:
        self._journal = journal
        self._send = send
        self._beside = beside
        self._held: list[Reply] = []
        """What the sync under way does not cover, or what waits for none that is."""
        self._covered: list[Reply] = []
        self._held_bytes = 0
        self._is_syncing = False
        self._fault: BaseException | None = None
        # In C: a semaphore is made of Python, and the loop has to wait while the thread runs that.
        self._orders: SimpleQueue[Order] = SimpleQueue()
        self.fd, self._ended = os.pipe()
        self.thread = threading.Thread(target=self._sync_when_told, name="sync", daemon=True)
        if beside:
            self.thread.start()

    def put(self, outcome: Outcome, *, more: Callable[[], bool]) -> None:
        """Write a batch down, and see to it that its replies are sent when that is safe.

        `more` tells whether somebody waits to be decided meanwhile. Raises JournalFailedError.
        """
        if outcome.records and self._journal.is_kept:
            self._journal.append(encode_records(outcome.records))
        self._held += outcome.replies
        if self._is_syncing:
            self._held_bytes += sum(len(reply.frame) for reply in outcome.replies)
            if len(self._held) > HELD_MAX or self._held_bytes > HELD_BYTES_MAX:
                self.finish()
        elif self._beside and outcome.records and more():
            self._begin()
        else:
            self.flush()

    def finish(self) -> None:
        """Send what a sync that has ended, or is waited for, has made safe.

        Raises what it raised: then nothing that it was to cover is sent.
        """
        os.read(self.fd, 1)
        self._is_syncing = False
        if self._fault is not None:
            raise self._fault
        covered, self._covered = self._covered, []
        for reply in covered:
            self._send(reply)
        if self._held:
            self._begin()

    def flush(self) -> None:
        """Return when all that was put in is safe and sent. Raises JournalFailedError."""
        while self._is_syncing:
            self.finish()
        self._journal.sync()  # under an interval policy there may be something left
        held, self._held = self._held, []
        for reply in held:
            self._send(reply)

    def close(self) -> None:
        """Let the thread go, after the sync that it is at."""
        self._orders.put(Order.LEAVE)

    def _begin(self) -> None:
        self._covered, self._held, self._held_bytes = self._held, [], 0
        self._is_syncing = True
        self._orders.put(Order.SYNC)

    def _sync_when_told(self) -> None:
        while self._orders.get() is Order.SYNC:
            try:
                self._journal.sync()
            except BaseException as fault:  # noqa: BLE001 - it is raised where it can stop the broker
                self._fault = fault
            os.write(self._ended, b"\0")

"""Group commit: append a batch, sync once, and only then send its replies."""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from queue import SimpleQueue
from typing import Final

from tollgate.broker.core.batch import Output, ReplyFrame
from tollgate.broker.core.records import encode_records
from tollgate.broker.journal import Journal

HELD_BYTES_MAX: Final = 8 * 1024 * 1024
HELD_MAX: Final = 1_000
"""With more replies than that behind a sync, the loop waits for its end."""


class Order(Enum):
    """What the sync thread is told to do."""

    SYNC = auto()
    LEAVE = auto()


class GroupCommit:
    """Appends records, and sends replies once all records before them are synced: the only way out.

    A sync takes about as long as deciding a message of a hundred commands. So with `beside`, and
    while messages are waiting, it runs in a thread of its own beside the next batch. `fd` becomes
    readable when it has ended; then call `finish`. Otherwise `put` returns when all is sent.
    """

    def __init__(
        self, journal: Journal, send: Callable[[ReplyFrame], None], *, beside: bool
    ) -> None:
        self._journal = journal
        self._send = send
        self._beside = beside
        self._held: list[ReplyFrame] = []
        """The replies that the running sync does not cover."""
        self._covered: list[ReplyFrame] = []
        """The replies that the running sync covers."""
        self._held_bytes = 0
        self._is_syncing = False
        self._append_since_s: float | None = None
        self._sync_since_s: float | None = None
        self._fault: BaseException | None = None
        # A queue in C: a semaphore is Python code, and the loop would wait while it runs.
        self._orders: SimpleQueue[Order] = SimpleQueue()
        self.fd, self._ended = os.pipe()
        self.thread = threading.Thread(target=self._sync_when_told, name="sync", daemon=True)
        if beside:
            self.thread.start()

    @property
    def disk_since_s(self) -> float | None:
        """Since when (monotonic) a write or a sync goes on; a write may go on beside a sync."""
        began = [each for each in (self._append_since_s, self._sync_since_s) if each is not None]
        return min(began, default=None)

    def put(self, output: Output, *, more: Callable[[], bool]) -> None:
        """Append the records of a batch, and send its replies when they are durable.

        `more` tells whether messages are waiting to be decided. Raises JournalFailedError.
        """
        if output.records and self._journal.is_kept:
            self._append_since_s = time.monotonic()
            self._journal.append(encode_records(output.records))
            self._append_since_s = None
        if not self._beside:  # so nothing is held
            if self._journal.is_kept:
                self._sync()
            for reply in output.replies:
                self._send(reply)
            return
        self._held += output.replies
        if self._is_syncing:
            self._held_bytes += sum(len(reply.frame) for reply in output.replies)
            if len(self._held) > HELD_MAX or self._held_bytes > HELD_BYTES_MAX:
                self.finish()
        elif output.records and more():
            self._begin()
        else:
            self.flush()

    def finish(self) -> None:
        """Send the replies that a sync covers, once it has ended: waits for that if need be.

        Raises what the sync raised; then none of its replies is sent.
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
        """Return when everything is durable and sent. Raises JournalFailedError."""
        while self._is_syncing:
            self.finish()
        self._sync()  # under an interval policy some records may be unsynced
        held, self._held = self._held, []
        for reply in held:
            self._send(reply)

    def close(self) -> None:
        """End the sync thread, after the sync that it runs, without waiting for it."""
        if self.fd < 0:
            return
        os.close(self.fd)
        self.fd = -1
        if self._beside:
            self._orders.put(Order.LEAVE)
        else:
            os.close(self._ended)

    def _sync(self) -> None:
        self._sync_since_s = time.monotonic()
        self._journal.sync()
        self._sync_since_s = None

    def _begin(self) -> None:
        self._covered, self._held, self._held_bytes = self._held, [], 0
        self._is_syncing = True
        self._orders.put(Order.SYNC)

    def _sync_when_told(self) -> None:
        while self._orders.get() is Order.SYNC:
            try:
                self._sync()
            except BaseException as fault:  # noqa: BLE001 - `finish` raises it in the loop, where it stops the broker
                self._fault = fault
            with suppress(BrokenPipeError):  # closed meanwhile
                os.write(self._ended, b"\0")
        os.close(self._ended)

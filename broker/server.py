"""The loop: takes what has arrived, has it decided, makes it safe, and sends what came of it."""

import time
from collections import deque
from collections.abc import Container, Sequence
from datetime import UTC, datetime
from typing import Final, Protocol

import msgspec
import structlog

from tollgate.broker.commit import Outbox
from tollgate.broker.compaction import Compactor
from tollgate.broker.core.pipeline import Arrival, Outcome, Pipeline, Reply
from tollgate.broker.core.timers import Instant
from tollgate.broker.journal import Journal
from tollgate.broker.journal.fsync import parse_fsync
from tollgate.broker.settings import Settings
from tollgate.broker.telemetry.counters import Counters
from tollgate.broker.telemetry.systemd import Notifier
from tollgate.broker.transport.poller import Lookout
from tollgate.broker.transport.router import Door

log = structlog.get_logger("tollgate.broker")

IDLE_MS: Final = 1_000
"""How long to sleep at most: by then a wall clock that was set is noticed, and a full segment."""
RETRY_MS: Final = 1_000
"""How long to wait for room on the disk before what is due is tried again."""
CHORES_MS: Final = 20
"""How often to look after what is not a message, at most."""
KEYS_MS: Final = 1_000
"""How often to look for keys that have changed."""
NEWS_MS: Final = 60_000
"""How often to log what was refused or dropped, if anything was."""


class Keys(Protocol):
    """What lets peers in, and may change its mind."""

    def refresh(self) -> Sequence[str]:
        """Return the principals that may not do any more what they could before."""


class Server:
    """Runs a pipeline over its doors until `stop_fd` becomes readable.

    Everything that a batch changed is in `journal` before anything of that batch is sent.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - the composition root puts it together
        self,
        pipeline: Pipeline,
        journal: Journal,
        compactor: Compactor,
        doors: Sequence[Door],
        settings: Settings,
        stop_fd: int,
        *,
        counters: Counters,
        notifier: Notifier,
        keys: Keys | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._agenda = pipeline.agenda
        self._journal = journal
        self._compactor = compactor
        self._doors = {door.mark[0]: door for door in doors}
        self._turns = deque(doors)
        self._settings = settings
        self._stop_fd = stop_fd
        self._counters = counters
        self._notifier = notifier
        self._keys = keys
        # Under an interval policy, what is written waits no longer than that to be synced.
        self._idle_ms = min(IDLE_MS, parse_fsync(settings.fsync).interval_ms or IDLE_MS)
        self._idle_ms = min(self._idle_ms, notifier.watchdog_ms or IDLE_MS)
        self._outbox = Outbox(
            journal, self._send, beside=not settings.in_memory and settings.fsync == "always"
        )
        sockets = [door.socket for door in doors]
        self._lookout = Lookout([stop_fd, self._outbox.fd, *sockets], settings.spin_us)
        self._undelivered: list[tuple[str, int]] = []
        self._writable = True
        self._left: list[Arrival] = []
        """What was taken, and comes before all else at the next turn."""
        self._more = False
        """Whether something was left at a door when the last batch was taken."""
        self._chores_at_ms = self._keys_at_ms = self._alive_at_ms = 0
        self._news_at_ms = _now().mono_ms + NEWS_MS

    def run(self) -> None:
        """Serve until told to stop; then answer what was taken, and return.

        Raises JournalFailedError: nothing of the batch was sent, and the process must stop.
        """
        self._agenda.foresee(_now())
        while True:
            ready = self._lookout.wait(self._patience_ms())
            if self._stop_fd in ready:
                break
            now = _now()
            if self._outbox.fd in ready:
                self._outbox.finish()
            self._catch_up(now)
            batch = self._left or self._take(ready)
            if batch or self._undelivered or not self._writable or self._due_in_ms(now) == 0:
                self._serve(batch, now)
            elif not ready:
                self._outbox.flush()
            self._do_chores(now.mono_ms)
        self._leave()

    def _take(self, ready: Container[object]) -> list[Arrival]:
        """Take what has arrived at the doors, within the bounds of a batch."""
        batch: list[Arrival] = []
        self._more = False
        self._turns.rotate()  # a door that could fill each batch would keep all others waiting
        for door in self._turns:
            if door.socket in ready and door.drain(batch):
                self._more = True
        return batch

    def _do_chores(self, now_ms: int) -> None:
        if now_ms < self._chores_at_ms:
            return
        self._chores_at_ms = now_ms + CHORES_MS
        self._compactor.step(now_ms)
        for door in self._doors.values():
            door.tend()
        if self._notifier.watchdog_ms is not None and now_ms >= self._alive_at_ms:
            self._alive_at_ms = now_ms + self._notifier.watchdog_ms
            self._notifier.alive()
        if now_ms >= self._keys_at_ms and self._keys is not None:
            self._keys_at_ms = now_ms + KEYS_MS
            for name in self._keys.refresh():
                self._left = [_disowned(arrival, name) for arrival in self._left]
                self._release(self._pipeline.expel(name))
        if now_ms >= self._news_at_ms:
            self._news_at_ms = now_ms + NEWS_MS
            if news := self._counters.news():
                log.info("refused or dropped so far", **news)

    def _catch_up(self, now: Instant) -> None:
        """Decide all deadlines that have passed: nobody acts on a job that one has ended."""
        while self._agenda.is_overdue(now, writable=self._writable):
            self._serve([], now)
            if self._stop_fd in self._lookout.wait(0):
                return

    def _serve(self, batch: list[Arrival], now: Instant) -> None:
        """Have a batch decided, if there is room on disk for all that it may change."""
        behind: list[Arrival] = []
        writable = self._has_room(batch)
        if not writable and len(batch) > 1:  # one that asks for too much refuses only itself
            batch, behind = batch[:1], batch[1:]
            writable = self._has_room(batch)
        if writable is not self._writable:
            self._writable = writable
            event = "there is room on the disk again" if writable else "the disk is full"
            log.warning(event, refused=None if writable else "all that changes something")
        undelivered, self._undelivered = self._undelivered, []
        outcome = self._pipeline.run(batch, now, undelivered, writable=self._writable)
        if batch:
            self._left = batch[outcome.taken :] + behind
        if not self._writable:
            self._undelivered += undelivered
        self._release(outcome)

    def _has_room(self, batch: list[Arrival]) -> bool:
        if not self._journal.is_kept:
            return True
        return self._journal.room(*self._pipeline.records_max(batch, len(self._undelivered)))

    def _release(self, outcome: Outcome) -> None:
        """Have what a batch came to sent, once all of it is safe."""
        self._outbox.put(outcome, more=self._has_more)

    def _has_more(self) -> bool:
        """Return whether somebody waits to be decided."""
        return bool(self._left) or self._more or any(map(Door.has_input, self._turns))

    def _send(self, reply: Reply) -> None:
        if not self._doors[reply.peer[0]].send(reply):
            self._undelivered += reply.grants

    def _patience_ms(self) -> int:
        if self._left or self._more or (self._undelivered and self._writable):
            return 0
        return min(self._due_in_ms(_now()), self._idle_ms if self._writable else RETRY_MS)

    def _due_in_ms(self, now: Instant) -> int:
        return self._agenda.calm_ms(now, writable=self._writable)

    def _leave(self) -> None:
        """Wake the parked, answer what is here already, and refuse what comes for a moment."""
        self._notifier.stopping()
        self._release(self._pipeline.drain())
        while self._agenda.is_behind:
            self._serve([], _now())
        self._outbox.flush()
        self._lookout.forget(self._stop_fd)
        leave_at_ms = _now().mono_ms + self._settings.drain_ms
        while self._left or (left_ms := leave_at_ms - _now().mono_ms) > 0:
            self._serve(self._left or self._take(self._lookout.wait(left_ms)), _now())
            self._outbox.flush()
        self._outbox.close()


def _disowned(arrival: Arrival, name: str) -> Arrival:
    """Return a message that waits to be decided, by nobody if it is of the principal `name`."""
    if arrival.principal.name != name:
        return arrival
    return msgspec.structs.replace(arrival, principal=arrival.principal._replace(role=None))


def _now() -> Instant:
    return Instant(datetime.now(UTC), time.monotonic_ns() // 1_000_000)

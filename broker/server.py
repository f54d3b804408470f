"""The broker's loop: takes messages, has them decided, made durable, and answered."""

import os
from collections import defaultdict, deque
from collections.abc import Container, Sequence
from typing import Final, Protocol

import msgspec

from tollgate.broker.clock import LoopClock
from tollgate.broker.commit import GroupCommit
from tollgate.broker.compaction import Compactor
from tollgate.broker.core.batch import Arrival, ReplyFrame
from tollgate.broker.core.limits import DUE_MAX, batch_records_max
from tollgate.broker.core.pipeline import Pipeline
from tollgate.broker.core.roles import Principal
from tollgate.broker.core.timers import Instant
from tollgate.broker.figures import NOTED_MANY, ServerFigures
from tollgate.broker.journal import Journal, parse_fsync
from tollgate.broker.memory import limited_memory
from tollgate.broker.settings import Settings
from tollgate.broker.telemetry import Counters, Notifier
from tollgate.broker.transport.endpoints import EndpointError
from tollgate.broker.transport.poller import Poller
from tollgate.broker.transport.router import Router
from tollgate.log import get_logger
from tollgate.signals import LOGGED

log = get_logger("tollgate.broker")

IDLE_MS: Final = 250
"""The longest sleep: after it the loop sees a wall clock that was set, and a full segment. A pause
of the process in a sleep is noticed if it is longer than this and PAUSE_MS together."""
RETRY_MS: Final = 1_000
"""How long to wait for room on the disk before trying again."""
HOUSEKEEPING_MS: Final = 20
"""The shortest time between two rounds of housekeeping."""
FILES_MS: Final = 5_000
"""How often to look whether the files of the journal and of the sockets are still there, and
whether the wall clock was set."""
AHEAD_S: Final = 5.0
"""A last record that is so far ahead of the wall clock is worth a warning."""
KEYS_MS: Final = 500
"""How often to look for changed keys, and the longest sleep if there are keys: together a second"""
FEW: Final = 4
"""Without a journal, up to so many messages of a turn are decided and answered one by one."""
STOPS_MAX: Final = 256
"""How many signals to read at a time."""
REST_MS: Final = 10
"""After so long without a message, events of the feed are put into columns."""
NEWS_MS: Final = 60_000
"""How often to log what was refused or dropped, if anything was."""


class Keys(Protocol):
    """The keys that admit peers; they and their roles can be taken away."""

    def refresh(self) -> Sequence[Principal]:
        """Return the principals that are no longer what they were at the last call."""


class Server:
    """Runs a pipeline over its sockets until a byte comes at `stop_fd`, or its other end is closed.

    A byte that is the number of one of the signals in `LOGGED` is no reason to stop.

    Everything that a batch changed is in `journal` before anything of that batch is sent.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - the composition root puts it together
        self,
        pipeline: Pipeline,
        journal: Journal,
        compactor: Compactor,
        routers: Sequence[Router],
        settings: Settings,
        stop_fd: int,
        *,
        counters: Counters,
        notifier: Notifier,
        keys: Keys | None = None,
        clock: LoopClock | None = None,
        figures: ServerFigures | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._deadlines = pipeline.deadlines
        self._feed = pipeline.feed
        self._journal = journal
        self._reserved = batch_records_max(settings.limits(), sockets=len(routers))
        """Bytes and records that any batch fits in: reserved on the disk before it is decided."""
        self._compactor = compactor
        self._routers = {router.mark[0]: router for router in routers}
        self._in_turn = deque(routers)
        self._clock = clock or LoopClock()
        self._figures = figures or ServerFigures(self._clock)
        self._figures.serve(routers, counters)
        pipeline.figures.outside = self._figures
        self._batches = self._figures.batches = defaultdict(int)
        self._settings = settings
        self._stop_fd = stop_fd
        self._counters = counters
        self._notifier = notifier
        self._keys = keys
        # Under an interval policy, records wait no longer than that interval to be synced.
        self._idle_ms = min(IDLE_MS, parse_fsync(settings.fsync) or IDLE_MS)
        self._idle_ms = min(self._idle_ms, notifier.watchdog_ms or IDLE_MS)
        if keys is not None:
            self._idle_ms = min(self._idle_ms, KEYS_MS)
        self._commit = GroupCommit(
            journal, self._send, beside=not settings.in_memory and settings.fsync == "always"
        )
        sockets = [router.socket for router in routers]
        self._poller = Poller([stop_fd, self._commit.fd, *sockets], settings.spin_us)
        self._undelivered: list[tuple[str, int]] = []
        """Grants, by job and token, of replies that could not be sent."""
        self._few = 0 if journal.is_kept else FEW  # with a journal, they share a sync
        self._writable = True
        self._is_active = True
        """Whether what happens by itself may change something: leases lapse, finished jobs go."""
        self._memory = limited_memory()
        self._left: list[Arrival] = []
        """Messages that were taken and not decided: the next batch."""
        self._more = False
        """Whether messages were left at a socket when the last batch was taken."""
        self._missing: str | None = None
        """What the journal misses: all changes are refused until it is back."""
        self._housekeeping_at_ms = self._keys_at_ms = self._alive_at_ms = 0
        self._files_at_ms = self._clock.machine_ms + FILES_MS
        self._news_at_ms = self._clock.machine_ms + NEWS_MS

    def run(self) -> None:
        """Serve until told to stop; then answer what was taken, and return.

        Raises JournalFailedError: nothing of the batch was sent, and the process must stop. Raises
        EndpointError, after it has answered what was taken, if no new peer could connect.
        """
        now = self._clock.read()
        self._notifier.vouch(lambda: self._commit.disk_since_s)
        self._deadlines.start(now, clocks_agree=self._clock.clocks_agree)
        ahead_s = (self._pipeline.last_record_at - now.wall).total_seconds()
        if ahead_s > AHEAD_S:
            log.warning(
                "the wall clock is behind the last record of the journal: one of them is wrong,"
                " and new times of jobs go on from that record's",
                by_s=round(ahead_s, 3),
            )
        self._look_for_room(now)
        if self._writable:
            self._begin_log(now)
        try:
            self._serve_until_told()
        except EndpointError:
            self._leave()
            raise
        self._leave()

    def close(self) -> None:
        """Give back what the server opened itself."""
        self._commit.close()

    def _serve_until_told(self) -> None:
        while True:
            patience_ms = self._patience_ms(self._clock.read())
            ready = dict(self._poller.wait(patience_ms))
            if self._stop_fd in ready and self._is_told_to_stop():
                break
            now = self._clock.read(patience_ms)
            if self._commit.fd in ready:
                self._commit.finish()
            batch = self._left or self._take(ready)
            if batch:
                self._serve_taken(batch, now)
            elif self._has_work(now):
                self._serve([], now)
            elif not ready and self._feed.loose:
                self._feed.pack()  # sooner, it would delay clients that send without a pause
            elif not self._writable:
                self._serve([], now)  # there may be room again
            elif not ready:
                self._commit.flush()
            if self._clock.machine_ms >= self._housekeeping_at_ms:
                self._do_housekeeping(self._clock.machine_ms)

    def _is_told_to_stop(self) -> bool:
        """Read what came at `stop_fd`: numbers of signals, of which some only have to be logged."""
        numbers = os.read(self._stop_fd, STOPS_MAX)
        return not numbers or not LOGGED.keys() >= {*numbers}

    def _take(self, ready: Container[object]) -> list[Arrival]:
        """Take messages from the sockets, within the bounds of a batch."""
        batch: list[Arrival] = []
        self._more = False
        self._in_turn.rotate()  # otherwise one socket could fill every batch
        for router in self._in_turn:
            if router.socket in ready and router.receive(batch):
                self._more = True
        if self._clock.is_behind and not self._has_more():
            self._clock.caught_up()
        return batch

    def _do_housekeeping(self, now_ms: int) -> None:
        self._housekeeping_at_ms = now_ms + HOUSEKEEPING_MS
        self._pipeline.figures.refill()
        if len(self._figures.noted) >= NOTED_MANY:
            self._figures.fold()
        if now_ms >= self._compactor.look_at_ms:
            self._compactor.step(now_ms)
        for router in self._routers.values():
            router.housekeeping()
        if self._notifier.watchdog_ms is not None and now_ms >= self._alive_at_ms:
            self._alive_at_ms = now_ms + self._notifier.watchdog_ms
            self._notifier.alive()
        if now_ms >= self._keys_at_ms and self._keys is not None:
            self._keys_at_ms = now_ms + KEYS_MS
            if changed := frozenset(self._keys.refresh()):
                self._left = [_without_roles(arrival, changed) for arrival in self._left]
                self._commit.put(self._pipeline.expel(*changed), more=self._has_more)
        if now_ms >= self._files_at_ms:
            self._files_at_ms = now_ms + FILES_MS
            self._look_at_files()
            self._look_at_clock()
        if now_ms >= self._news_at_ms:
            self._news_at_ms = now_ms + NEWS_MS
            if news := self._counters.news():
                log.info("refused or dropped so far", **news)

    def _look_at_files(self) -> None:
        """Raises JournalFailedError or EndpointError if the broker must stop."""
        missing = self._journal.look()
        if missing != self._missing:
            self._missing = missing
            if missing is None:
                log.info("the journal is whole again")
            else:
                log.error("the journal is not whole: put the files back", missing=missing)
        for router in self._routers.values():
            router.look()

    def _look_at_clock(self) -> None:
        if set_by_ms := self._clock.set_by_ms():
            log.warning(
                "the wall clock was set, or this machine slept: deadlines of jobs go by that clock",
                by_s=round(set_by_ms / 1_000, 3),
            )

    def _serve_taken(self, batch: list[Arrival], now: Instant) -> None:
        """Have messages decided: a few one by one, if that takes no further sync.

        So the reply to the first of them does not wait until the last one is decided.
        """
        if not 1 < len(batch) <= self._few:
            self._serve(batch, now)
            return
        for place in range(1, len(batch) + 1):
            self._serve(batch[place - 1 : place], now)
            if self._left:  # the next turn goes on with this message
                self._left += batch[place:]
                return

    def _serve(self, batch: list[Arrival], now: Instant) -> None:
        """Have a batch decided; without room on the disk for any batch, nothing may change."""
        undelivered: Sequence[tuple[str, int]] = ()
        if not self._pipeline.is_deciding:  # the room for the first batch is for the whole message
            if self._journal.is_kept or self._memory is not None:
                self._look_for_room(now)
            if self._undelivered and self._is_active:
                undelivered = self._undelivered[:DUE_MAX]
                del self._undelivered[:DUE_MAX]
        self._batches[len(batch)] += 1
        output = self._pipeline.run(
            batch, now, undelivered, writable=self._writable, active=self._is_active
        )
        self._left = batch[output.taken :]
        self._commit.put(output, more=self._has_more)

    def _look_for_room(self, now: Instant) -> None:
        has_disk = not self._journal.is_kept or self._journal.room(*self._reserved)
        writable = has_disk and (self._memory is None or self._memory.has_room())
        # A full memory does not stop what gives memory back.
        self._is_active = writable or (
            has_disk and self._memory is not None and self._memory.has_room_for_own()
        )
        if writable is not self._writable:
            self._writable = writable
            if writable:
                self._begin_log(now)
            event = "changes are accepted again" if writable else self._why_not_writable()
            log.warning(event, refused=None if writable else "all that changes something")

    def _why_not_writable(self) -> str:
        if self._memory is not None and not self._memory.has_room():
            return "the memory limit (ulimit -v) is reached"
        return "the disk is full" if self._missing is None else "the journal is not whole"

    def _begin_log(self, now: Instant) -> None:
        output = self._pipeline.begin_log(now)
        if output.records:
            self._commit.put(output, more=self._has_more)

    def _has_more(self) -> bool:
        """Return whether messages wait to be decided."""
        return bool(self._left) or self._more or any(map(Router.has_input, self._in_turn))

    def _has_work(self, now: Instant) -> bool:
        """Return whether there is something to do without a message."""
        return (
            self._pipeline.is_behind(writable=self._writable)
            or bool(self._undelivered and self._is_active)
            or self._deadlines.is_due(now, writable=self._is_active)
        )

    def _send(self, reply: ReplyFrame) -> None:
        if not self._routers[reply.peer[0]].send(reply):
            self._undelivered += reply.grants

    def _patience_ms(self, now: Instant) -> int:
        """Return how long to sleep if no message comes."""
        behind = self._pipeline.is_behind(writable=self._writable)
        is_waited_for = self._left or self._more or (self._undelivered and self._is_active)
        if is_waited_for or behind:
            return 0
        longest_ms = self._idle_ms if self._writable else RETRY_MS
        if self._feed.loose:
            longest_ms = min(longest_ms, REST_MS)
        return min(longest_ms, self._deadlines.due_in_ms(now, writable=self._is_active))

    def _leave(self) -> None:
        """Answer the parked commands and what is here already; then refuse for a moment."""
        self._notifier.stopping()
        self._commit.put(self._pipeline.drain(), more=self._has_more)
        while self._pipeline.is_behind():
            self._serve(self._left, self._clock.read())  # refuses what was taken already
        self._commit.flush()
        self._poller.unregister(self._stop_fd)
        leave_at_ms = self._clock.machine_ms + self._settings.drain_ms
        while self._left or (left_ms := leave_at_ms - self._clock.machine_ms) > 0:
            batch = self._left or self._take(dict(self._poller.wait(left_ms)))
            self._serve(batch, self._clock.read(self._settings.drain_ms))
            self._commit.flush()


def _without_roles(arrival: Arrival, principals: frozenset[Principal]) -> Arrival:
    """Return a message; if one of these principals sent it, by this key, without its roles."""
    sender = arrival.principal
    if sender not in principals:
        return arrival
    return msgspec.structs.replace(arrival, principal=Principal(sender.name, key=sender.key))

"""What only the process of a broker knows: its loop, its journal's files, its connections.

The loop notes little, each time it turns: the size of a batch, a turn that took a millisecond or
more, how long a sync took. `ServerFigures` adds that up when it is asked, which a `stats` does.
"""

import os
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Protocol

from tollgate.broker.clock import LoopClock
from tollgate.broker.journal.format import listing, segment_name, snapshot_name
from tollgate.domain.figures import Histogram, JournalFigures, LoopFigures

SESSIONS_PER_MS: Final = 1_024
"""Session numbers reserved for each millisecond: more than can be opened in it."""
STEP_BOUNDS_S: Final = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0,
)  # fmt: skip
SYNC_BOUNDS_S: Final = (
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0,
)  # fmt: skip
BATCH_BOUNDS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
NOTED_MANY: Final = 256
"""With so many times of syncs, the loop calls `fold`: the journal keeps four times as many."""
STARTS_MAX: Final = 16
START_APART: Final = 200 * SESSIONS_PER_MS
"""Session numbers that are farther apart were given by two runs of the broker."""
NAMED_BY_TIME: Final = datetime(2020, 1, 1, tzinfo=UTC)
"""Session numbers below this time are not made of a time."""
MILLISECOND: Final = timedelta(milliseconds=1)
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Socket(Protocol):
    """What of a router is asked for."""

    @property
    def connections(self) -> int:
        """How many peers are connected."""

    @property
    def unread_bytes(self) -> int:
        """How many bytes of replies wait for peers to read them."""


class Synced(Protocol):
    """A journal that notes how long its syncs take, in seconds; the oldest notes go."""

    sync_times_s: deque[float]


class ServerFigures:
    """Figures of the server, by the names of the fields of `StatsResult`."""

    def __init__(
        self,
        clock: LoopClock,
        *,
        journal: Synced | None = None,
        directory: Path | None = None,
        fsync: str = "never",
        starts: Sequence[datetime] = (),
    ) -> None:
        """Take what is asked. Without a `journal` nothing is known of files and syncs."""
        self.batches: dict[int, int] = {}
        """How many batches there were, by their number of messages."""
        self._clock = clock
        self._since = clock.read().wall
        self._journal = journal
        self.noted: deque[float] = deque() if journal is None else journal.sync_times_s
        """What the journal has noted since the last `fold`."""
        self._directory = directory
        self._fsync = fsync
        self._starts = [*starts]
        self._sockets: Sequence[Socket] = ()
        self._dropped: Mapping[str, int] = {}
        self._sync = _empty(SYNC_BOUNDS_S)

    def serve(self, sockets: Sequence[Socket], dropped: Mapping[str, int]) -> None:
        """Take what the server begins with: its sockets, and its counters."""
        self._sockets, self._dropped = sockets, dropped

    def fold(self) -> None:
        """Add up what the journal has noted; call this often enough that it forgets nothing."""
        while self.noted:
            _add(self._sync, self.noted.popleft())

    def __call__(self) -> dict[str, Any]:
        """Return the figures as they are now; looks at the files of the journal."""
        self.fold()
        return {
            "since": self._since,
            "starts": self._starts,
            "loop": self._loop(),
            "journal": self._files(),
            "connections": sum(each.connections for each in self._sockets),
            "unread_bytes": sum(each.unread_bytes for each in self._sockets),
            "dropped": dict(self._dropped),
        }

    def _loop(self) -> LoopFigures:
        step, batches = _empty(STEP_BOUNDS_S), _empty(BATCH_BOUNDS)
        for size, count in self.batches.items():
            batches.counts[bisect_left(BATCH_BOUNDS, size)] += count
            batches.total += size * count
        for took_ms, count in self._clock.long_steps.items():
            step.counts[bisect_left(STEP_BOUNDS_S, took_ms / 1_000)] += count
            step.total += took_ms * count / 1_000
        step.counts[0] += max(0, sum(batches.counts) - sum(step.counts))  # all others were short
        return LoopFigures(step, batches, _copied(self._sync), self._clock.pauses)

    def _files(self) -> JournalFigures | None:
        """Return the sizes of the files; None if there are none, or they cannot be looked at."""
        if self._journal is None or self._directory is None:
            return None
        try:
            found = listing(path.name for path in self._directory.iterdir())
            names = [*map(segment_name, found.segments), *map(snapshot_name, found.snapshots)]
            files = {name: (self._directory / name).stat() for name in names}
            free = os.statvfs(self._directory)
        except OSError:  # a file has just been deleted, or the directory is gone
            return None
        newest = snapshot_name(found.snapshots[-1]) if found.snapshots else None
        return JournalFigures(
            sum(file.st_size for file in files.values()),
            len(found.segments),
            len(found.snapshots),
            None if newest is None else datetime.fromtimestamp(files[newest].st_mtime, UTC),
            free.f_bavail * free.f_frsize,
            self._fsync,
        )


def starts_of(sessions: Iterable[int]) -> list[datetime]:
    """Return when earlier runs of the broker started, as the numbers of their sessions tell.

    Each run goes on with numbers that are made of the time of its start. A run of which no session
    is remembered is not known.
    """
    starts: list[datetime] = []
    last = 0
    for number in sorted(sessions):
        if number - last > START_APART:
            start = EPOCH + number // SESSIONS_PER_MS * MILLISECOND
            if start >= NAMED_BY_TIME:
                starts.append(start)
        last = number
    return starts[-STARTS_MAX:]


def _empty(bounds: Sequence[float]) -> Histogram:
    return Histogram(list(bounds), [0] * (len(bounds) + 1))


def _add(histogram: Histogram, value: float) -> None:
    histogram.counts[bisect_left(histogram.bounds, value)] += 1
    histogram.total += value


def _copied(histogram: Histogram) -> Histogram:
    return Histogram(histogram.bounds, histogram.counts.copy(), histogram.total)

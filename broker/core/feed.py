"""The event feed: the latest events by their place in the log, for readers that follow it.

The feed keeps the events themselves, as they were applied, and with each what else a reader needs
to know of its job. Nothing is made of them before somebody reads. They lie in chunks: a record adds
to the newest one, and the oldest one goes when there are too many.

A place is the number of a record, and how many of its events come before it.
"""

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import Final, NamedTuple, cast

import msgspec

from tollgate.broker.core.events import AnyEvent, Origin
from tollgate.broker.repository.job import Slot
from tollgate.domain.results import InputRound, Settlement
from tollgate.domain.status import JobStatus

EVENTS_MAX: Final = 100_000
"""How many events are kept; the last record may be more."""
BYTES_MAX: Final = 64 * 1_024 * 1_024
"""The bytes of the requests, or of the records in a replay, that the events came with."""
CHUNK_EVENTS: Final = 1_024
CHUNK_BYTES: Final = 1_024 * 1_024

Place = tuple[int, int]
"""The number of a record, and how many of its events come before."""
Seen = tuple[str, JobStatus, int, int, tuple[InputRound, ...] | None, Settlement | None]
"""A job after an event: queue, status, version, attempts, rounds of input and settlement."""
Known = Slot | Seen | None
"""What is known of the job of an event: of a new job, or one that moved, most is in the event."""

seen_of: Final = cast(
    "Callable[[Slot], Seen]",
    attrgetter(
        "job.queue", "job.status", "job.version", "job.attempts", "job.inputs", "job.settlement"
    ),
)
"""Returns what a reader needs to know of a job as it is now."""
_first_of: Final = attrgetter("first")


class Stretch(NamedTuple):
    """Events of one record: from `begin` to `end` in its chunk, the first one at `place`."""

    place: Place
    events: list[AnyEvent]
    known: list[Known]
    begin: int
    end: int
    origin: Origin


class _Chunk(msgspec.Struct):
    """Some records in a row: `first` is the number of the first one."""

    first: int
    events: list[AnyEvent] = msgspec.field(default_factory=list)
    known: list[Known] = msgspec.field(default_factory=list)
    ends: "array[int]" = msgspec.field(default_factory=lambda: array("L"))
    """Where the events of each record end."""
    origins: list[Origin] = msgspec.field(default_factory=list)
    size: int = 0


class Feed:
    """The latest events of all records up to the newest one; the number of records is unbroken."""

    def __init__(self, events_max: int = EVENTS_MAX, bytes_max: int = BYTES_MAX) -> None:
        self._events_max = events_max
        self._bytes_max = bytes_max
        self._chunks: list[_Chunk] = []
        self._kept = self._kept_bytes = 0  # in all chunks but the newest
        self._size = 0  # of the newest
        self.begin(1)

    def begin(self, number: int) -> None:
        """Forget everything; the next record has this number."""
        self._chunks.clear()
        self._kept = self._kept_bytes = 0
        self._add_chunk(number)

    def _add_chunk(self, number: int) -> None:
        chunk = _Chunk(number)
        self._chunks.append(chunk)
        self._events, self._ends, self._origins = chunk.events, chunk.ends, chunk.origins
        self.known = chunk.known
        """What is known of the job of each event; an effect adds to it, before its record is."""
        self._size = 0

    def append(self, events: Sequence[AnyEvent], origin: Origin, size: int) -> None:
        """Add the events of the next record, in order, which came with so many bytes."""
        kept = self._events
        kept += events
        self._ends.append(len(kept))
        self._origins.append(origin)
        self._size += size
        if len(self._ends) >= CHUNK_EVENTS or len(kept) >= CHUNK_EVENTS or self._size > CHUNK_BYTES:
            self._close_chunk()

    def _close_chunk(self) -> None:
        chunk = self._chunks[-1]
        chunk.size = self._size
        self._kept += len(chunk.events)
        self._kept_bytes += chunk.size
        self._add_chunk(chunk.first + len(chunk.ends))
        while self._kept > self._events_max - CHUNK_EVENTS or (
            self._kept_bytes > self._bytes_max - CHUNK_BYTES
        ):
            oldest = self._chunks.pop(0)
            self._kept -= len(oldest.events)
            self._kept_bytes -= oldest.size

    def __len__(self) -> int:
        """Return how many events are kept."""
        return self._kept + len(self._events)

    @property
    def oldest(self) -> Place:
        """The place before the first event that is kept."""
        return self._chunks[0].first, 0

    @property
    def newest(self) -> Place:
        """The place after the last event."""
        newest = self._chunks[-1]
        return newest.first + len(newest.ends), 0

    def has(self, place: Place) -> bool:
        """Return whether all events after a place are kept, and the place itself can be one."""
        if not self.oldest <= place <= self.newest:
            return False
        if place[1] == 0:
            return True
        at, begin = self._find(place)
        chunk = self._chunks[at]
        return begin <= chunk.ends[place[0] - chunk.first]

    def after(self, place: Place) -> Iterator[Stretch]:
        """Yield the events after a place, those of one record at a time."""
        if place >= self.newest:
            return
        number, skipped = place
        at, begin = self._find(place)
        for each in self._chunks[at:]:
            ends, origins = each.ends, each.origins
            for row in range(number - each.first, len(ends)):
                end = ends[row]
                if begin < end:
                    first = (each.first + row, skipped)
                    yield Stretch(first, each.events, each.known, begin, end, origins[row])
                begin, skipped = end, 0
            number, begin = each.first + len(ends), 0

    def _find(self, place: Place) -> tuple[int, int]:
        """Return which chunk has a place, and how many of its events come before."""
        number, skipped = place
        at = bisect_right(self._chunks, number, key=_first_of) - 1
        chunk = self._chunks[at]
        row = number - chunk.first
        return at, (chunk.ends[row - 1] if row else 0) + skipped

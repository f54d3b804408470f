"""The event feed: the latest events by their place in the log, for readers that follow it.

The feed keeps the events themselves, as they were applied, and with each what else a reader needs
to know of its job. Only a read makes something of them. They lie in chunks: a record adds
to the newest one, and the oldest one goes when there are too many.

A place is the number of a record, and how many of its events come before it.
"""

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import accumulate, chain, starmap
from operator import attrgetter
from typing import Final, NamedTuple, cast

import msgspec

from tollgate.broker.core.events import AnyEvent, Origin
from tollgate.broker.core.records import Record
from tollgate.broker.repository.job import Slot
from tollgate.domain.results import InputRound, Settlement
from tollgate.domain.status import JobStatus

EVENTS_MAX: Final = 100_000
"""How many events are kept; the last record may be more."""
BYTES_MAX: Final = 64 * 1_024 * 1_024
"""The bytes of the requests, or of the records in a replay, that the events came with."""
CHUNK_EVENTS: Final = 1_000
CHUNK_BYTES: Final = 128 * 1_024
"""So much is fresh at most; a chunk is about as large, or has so many events."""
RECORD_BYTES: Final = 128
"""What a record counts for that came with no request of its own."""

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
_events_of: Final = attrgetter("events")
_origin_of: Final = attrgetter("at", "by", "client")


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
    events: list[AnyEvent]
    known: list[Known]
    ends: "array[int]"
    """Where the events of each record end."""
    origins: list[Origin]
    size: int


class Feed:
    """The latest events of all records up to the newest one; the numbers of records are unbroken.

    What a record costs is little: it is put into `fresh`, and what is known of its jobs into
    `known`. From time to time `settle` makes a chunk of them, at the speed of C.
    """

    def __init__(self, events_max: int = EVENTS_MAX, bytes_max: int = BYTES_MAX) -> None:
        self._events_max = events_max
        self._bytes_max = bytes_max
        self._chunks: list[_Chunk] = []
        self._kept = self._kept_bytes = 0  # in all chunks
        self._next = 1
        """The number of the first fresh record."""
        self.fresh: list[Record] = []
        """The records that are in no chunk yet."""
        self.known: list[Known] = []
        """What is known of the job of each fresh event; an effect adds to it, before its record is
        there. Always the same list."""
        self._room = CHUNK_BYTES
        self.room = CHUNK_BYTES
        """How many bytes more may be fresh: below 0 the feed is to be tended. With `watch`, that is
        so after every record."""

    def begin(self, number: int) -> None:
        """Forget everything; the next record has this number."""
        self._chunks.clear()
        self.fresh.clear()
        self.known.clear()
        self._kept = self._kept_bytes = 0
        self._next = number
        self.room = self._room

    def watch(self, *, watched: bool) -> None:
        """Have the feed tended after every record, or only when much is fresh."""
        room = 0 if watched else CHUNK_BYTES
        self.room += room - self._room
        self._room = room

    def settle(self) -> None:
        """Make a chunk of what is fresh, and drop the oldest ones if there is too much."""
        if not self.fresh:
            return
        records = self.fresh
        events = [*chain.from_iterable(map(_events_of, records))]
        ends = array("L", accumulate(map(len, map(_events_of, records))))
        known = self.known[: len(events)]
        del self.known[: len(events)]
        chunk = _Chunk(
            self._next, events, known, ends, [*starmap(Origin, map(_origin_of, records))],
            self._room - self.room,
        )  # fmt: skip
        self._next += len(records)
        self.fresh, self.room = [], self._room
        self._add(chunk)
        while self._kept > self._events_max - CHUNK_EVENTS or (
            self._kept_bytes > self._bytes_max - CHUNK_BYTES
        ):
            oldest = self._chunks.pop(0)
            self._kept -= len(oldest.events)
            self._kept_bytes -= oldest.size

    def _add(self, chunk: _Chunk) -> None:
        self._kept += len(chunk.events)
        self._kept_bytes += chunk.size
        last = self._chunks[-1] if self._chunks else None
        if (
            last is None
            or len(last.events) + len(chunk.events) > CHUNK_EVENTS
            or len(last.ends) + len(chunk.ends) > CHUNK_EVENTS
            or last.size + chunk.size > CHUNK_BYTES
        ):
            self._chunks.append(chunk)
            return
        # A reader settles whatever is there: many small chunks would be slow to find things in.
        before = len(last.events)
        last.events += chunk.events
        last.known += chunk.known
        last.ends.extend(map(before.__add__, chunk.ends))
        last.origins += chunk.origins
        last.size += chunk.size

    def __len__(self) -> int:
        """Return how many events are kept in chunks."""
        return self._kept

    @property
    def oldest(self) -> Place:
        """The place before the first event that is kept."""
        return self._chunks[0].first if self._chunks else self._next, 0

    @property
    def next_number(self) -> int:
        """The number of the next record."""
        return self._next + len(self.fresh)

    @property
    def newest(self) -> Place:
        """The place after the last event."""
        return self._next + len(self.fresh), 0

    def has(self, place: Place) -> bool:
        """Return whether all events after a place are kept, and the place itself can be one."""
        self.settle()
        if not self.oldest <= place <= self.newest:
            return False
        if place[1] == 0:
            return True
        at, begin = self._find(place)
        chunk = self._chunks[at]
        return begin <= chunk.ends[place[0] - chunk.first]

    def after(self, place: Place) -> Iterator[Stretch]:
        """Yield the events after a place, those of one record at a time; some have none."""
        self.settle()
        if place >= self.newest:
            return
        number, skipped = place
        at, begin = self._find(place)
        for each in self._chunks[at:]:
            ends, origins = each.ends, each.origins
            for row in range(number - each.first, len(ends)):
                first, end = (each.first + row, skipped), ends[row]
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

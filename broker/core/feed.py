"""The event feed: the latest events by their place in the log, for readers that follow it.

The feed keeps the events themselves, as they were applied, and with each what else a reader needs
to know of its job. Only a read makes something of them. They lie in chunks: a record adds
to the newest one, and the oldest one goes when there are too many. While the broker rests,
it puts the chunks that are full into columns (`event_columns`), which take little.

A place is the number of a record, and how many of its events come before it.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate, chain, starmap
from operator import attrgetter
from typing import Final, NamedTuple

import msgspec

from tollgate.broker.core.event_columns import EventColumns, Known, Rows
from tollgate.broker.core.events import AnyEvent, Origin
from tollgate.broker.core.records import Record

EVENTS_MAX: Final = 100_000
"""How many events are kept; the last record may be more."""
BYTES_MAX: Final = 64 * 1_024 * 1_024
"""The bytes of the requests, or of the records in a replay, that the events came with."""
CHUNK_EVENTS: Final = 1_000
CHUNK_BYTES: Final = 128 * 1_024
"""So much is fresh at most; a chunk is about as large, or has so many events."""
RECORD_BYTES: Final = 128
"""What a record counts for that came with no request of its own."""
PACKED_MAX: Final = 4 * CHUNK_EVENTS
"""A chunk of more events, most of them of one record, is never put into columns."""

Place = tuple[int, int]
"""The number of a record, and how many of its events come before."""
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
    made: int
    """How many events had to be made from columns to have these."""


class _Chunk(msgspec.Struct):
    """Some records in a row: `first` is the number of the first one."""

    first: int
    rows: Rows
    ends: "array[int]"
    """Where the events of each record end."""
    size: int
    columns: EventColumns | None = None
    """What it has in place of rows."""

    @property
    def count(self) -> int:
        """How many events it has."""
        return self.ends[-1]


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
        self._in_columns = 0  # so many of the oldest chunks, or they are to stay as they are
        self._last_read: tuple[EventColumns, Rows] | None = None
        self.loose = 0
        """How many chunks are full, and not in columns yet: see `pack`."""
        self._next = 1
        """The number of the first fresh record."""
        self.fresh: list[Record] = []
        """The records that are in no chunk yet."""
        self.known: list[Known] = []
        """What is known of the job of each fresh event; an effect adds to it, before its record is
        there. Always the same list."""
        self.room = CHUNK_BYTES
        """How many bytes more may be fresh: below 0 the feed is to be settled."""

    def begin(self, number: int) -> None:
        """Forget everything; the next record has this number."""
        self._chunks.clear()
        self.fresh.clear()
        self.known.clear()
        self._kept = self._kept_bytes = self._in_columns = self.loose = 0
        self._last_read = None
        self._next = number
        self.room = CHUNK_BYTES

    def settle(self) -> None:
        """Make a chunk of what is fresh, and drop the oldest ones if there is too much."""
        if not self.fresh:
            return
        records = self.fresh
        events = [*chain.from_iterable(map(_events_of, records))]
        ends = array("L", accumulate(map(len, map(_events_of, records))))
        known = self.known[: len(events)]
        del self.known[: len(events)]
        rows = Rows(events, known, [*starmap(Origin, map(_origin_of, records))])
        chunk = _Chunk(self._next, rows, ends, CHUNK_BYTES - self.room)
        self._next += len(records)
        self.fresh, self.room = [], CHUNK_BYTES
        self._add(chunk)
        while len(self._chunks) > 1 and (
            self._kept > self._events_max - CHUNK_EVENTS
            or self._kept_bytes > self._bytes_max - CHUNK_BYTES
        ):
            oldest = self._chunks.pop(0)
            self._kept -= oldest.count
            self._kept_bytes -= oldest.size
            self._in_columns = max(0, self._in_columns - 1)
        self.loose = len(self._chunks) - 1 - self._in_columns

    def _add(self, chunk: _Chunk) -> None:
        self._kept += chunk.count
        self._kept_bytes += chunk.size
        last = self._chunks[-1] if self._chunks else None
        if (
            last is None
            or last.count + chunk.count > CHUNK_EVENTS
            or len(last.ends) + len(chunk.ends) > CHUNK_EVENTS
            or last.size + chunk.size > CHUNK_BYTES
        ):
            self._chunks.append(chunk)
            return
        # A reader settles whatever is there: many small chunks would be slow to find things in.
        last.rows.extend(chunk.rows)
        last.ends.extend(map(last.count.__add__, chunk.ends))
        last.size += chunk.size

    def pack(self) -> None:
        """Put the oldest of the chunks that are `loose` into columns: takes about a millisecond."""
        chunk = self._chunks[self._in_columns]
        if chunk.count <= PACKED_MAX:
            chunk.columns, chunk.rows = EventColumns(chunk.rows), Rows([], [], [])
        self._in_columns += 1
        self.loose -= 1

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
            ends, (events, known, origins), made = each.ends, *self._rows_of(each)
            for row in range(number - each.first, len(ends)):
                first, end = (each.first + row, skipped), ends[row]
                yield Stretch(first, events, known, begin, end, origins[row], made)
                begin, skipped, made = end, 0, 0
            number, begin = each.first + len(ends), 0

    def _rows_of(self, chunk: _Chunk) -> tuple[Rows, int]:
        """Return the rows of a chunk, and how many had to be made for it from columns.

        Those of one chunk are kept: readers often go on where another one has just read.
        """
        columns = chunk.columns
        if columns is None:
            return chunk.rows, 0
        if self._last_read is not None and self._last_read[0] is columns:
            return self._last_read[1], 0
        rows = columns.rows()
        self._last_read = columns, rows
        return rows, chunk.count

    def _find(self, place: Place) -> tuple[int, int]:
        """Return which chunk has a place, and how many of its events come before."""
        number, skipped = place
        at = bisect_right(self._chunks, number, key=_first_of) - 1
        chunk = self._chunks[at]
        row = number - chunk.first
        return at, (chunk.ends[row - 1] if row else 0) + skipped

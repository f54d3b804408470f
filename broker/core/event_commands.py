"""The command `events`: reads the feed, and serves the readers that are parked.

Parked readers are served at the end of a batch, at most every 20 ms, those first that have waited
longest. Together they have one scan budget, and what it leaves over is served the next time.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec

from tollgate.broker.core.context import Answer, Context, Handlers, RequestContext, one_by_one
from tollgate.broker.core.event_columns import Known
from tollgate.broker.core.event_rows import HIDDEN, queue_of, row_of, statuses_of
from tollgate.broker.core.feed import Place
from tollgate.broker.core.limits import RESULT_BYTES
from tollgate.broker.core.waiters import Parked
from tollgate.domain.commands import Events
from tollgate.domain.exceptions import EventsGoneError, ReplyFullError
from tollgate.domain.results import EventsResult, error_of

EVENTS_BYTES_MAX: Final = 256 * 1_024
"""The most that a result has, unless its first event alone has more."""
ROW_SCANS: Final = 3
"""Cost of showing an event, in scans: looks at one event."""
READER_SCANS: Final = 4
"""Cost of looking for a parked reader, in scans,"""
ANSWER_SCANS: Final = 12
"""and of answering it."""
JOB_IDS_A_SCAN: Final = 8
"""How many `job_ids` of a parked reader cost one more."""
SERVE_EVERY_MS: Final = 20
GO_ON_MS: Final = 10
"""Sooner than that if the budget was not enough for all."""
_NO_PLACE: Final = -1


class Read(NamedTuple):
    """What a reader gets: the events, encoded, the place after them, and what it took."""

    rows: list[bytes]
    next: Place
    scans: int
    is_cut: bool
    """Whether the next event did not fit, although there is none before it."""


def events(context: Context, command: Events, request: RequestContext) -> EventsResult | None:
    """Show the events after a position; park the reader if there are none."""
    context.check_scans()
    parked = context.waiters.parked.get(request.ticket.key)
    after = _start(context, command, parked)
    read = _read(context, command, after, request.room_bytes, context.scans_left)
    context.scans_left -= read.scans
    if read.is_cut:
        raise ReplyFullError("the next event would not fit in this reply")
    if read.rows or not command.wait_ms or read.next < context.state.feed.newest:
        if parked is not None:  # this repeats a parked reader: answer it once
            context.waiters.remove(parked)
        return _result(context, read.rows, read.next)
    waiters = context.waiters
    if not waiters.readers:  # so there is no reader that has something unread
        waiters.served_to, waiters.unserved = read.next, {}
    waiters.park(request.ticket, command, request.now_ms + command.wait_ms)
    waiters.parked[request.ticket.key].place = read.next
    return None


def _start(context: Context, command: Events, parked: Parked | None) -> Place:
    """Return where to begin. Raises EventsGoneError."""
    if command.after is not None:
        return _place_of(context, command.after)
    if parked is not None and parked.place is not None:
        return parked.place  # a repeat: "from now on" began with the first try
    return context.place()


def _place_of(context: Context, position: str) -> Place:
    """Return the place of a position. Raises EventsGoneError."""
    log_id, number, before = [*position.rsplit("-", 2), "", ""][:3]
    place = (_number(number), _number(before))
    here, feed = context.place(), context.state.feed
    is_here = place[0] == here[0] and 0 <= place[1] <= here[1]
    if log_id != context.state.log_id or _NO_PLACE in place or not (is_here or feed.has(place)):
        raise gone(context, position)
    return place


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 18 else _NO_PLACE  # noqa: PLR2004 - digits of an uint


def gone(context: Context, position: str) -> EventsGoneError:
    """Return the refusal of a position whose events are not kept."""
    return EventsGoneError(
        f"the events after {position:.64} are not kept: list the jobs, and go on from there",
        oldest=context.position(context.state.feed.oldest),
        newest=context.position(),
    )


def _result(context: Context, rows: list[bytes], place: Place) -> EventsResult:
    raw: list[Any] = [*map(msgspec.Raw, rows)]
    return EventsResult(raw, context.position(place), context.position())


def _read(context: Context, command: Events, after: Place, room_bytes: int, scans_max: int) -> Read:
    """Read the feed: as many events as there are, as were asked for, and as fit."""
    wanted = _Wanted(command)
    log_id, texts, limit = context.state.log_id, command.texts, command.limit
    room = min(EVENTS_BYTES_MAX, room_bytes - RESULT_BYTES)
    rows: list[bytes] = []
    scans, made, place = 0, 0, after  # made are the events that had to be made from columns
    for stretch in context.state.feed.after(after):
        number, skipped = place = stretch.place
        if scans + made >= scans_max:
            return Read(rows, place, scans + made, is_cut=False)
        scans += 1
        made += stretch.made
        events, known, origin = stretch.events, stretch.known, stretch.origin
        for index in range(stretch.begin, stretch.end):
            if scans >= scans_max:
                return Read(rows, place, scans + made, is_cut=False)
            scans += 1
            event = events[index]
            skipped += 1
            if type(event) not in HIDDEN and (wanted.all or wanted.has(event, known[index])):
                scans += ROW_SCANS
                row = row_of(
                    event, known[index], origin, f"{log_id}-{number}-{skipped}", texts=texts
                )
                room -= len(row)
                if room < 0 and (rows or len(row) > room_bytes - RESULT_BYTES):
                    return Read(rows, place, scans + made, is_cut=not rows)
                rows.append(row)
                if len(rows) >= limit:
                    return Read(rows, (number, skipped), scans + made, is_cut=False)
            place = (number, skipped)
    return Read(rows, max(after, context.state.feed.newest), scans + made, is_cut=False)


class _Wanted:
    """Which events a reader asks for."""

    def __init__(self, command: Events) -> None:
        self._queues = command.queues and frozenset(command.queues)
        self._statuses = command.statuses and frozenset(command.statuses)
        self._job_ids = command.job_ids and frozenset(command.job_ids)
        self.all = not (self._queues or self._statuses or self._job_ids)

    def has(self, event: Any, known: Known) -> bool:  # noqa: ANN401 - of any kind
        if self._job_ids and getattr(event, "job_id", None) not in self._job_ids:
            return False
        if self._queues and queue_of(event, known) not in self._queues:
            return False
        return not self._statuses or not self._statuses.isdisjoint(statuses_of(event, known))


# --- parked readers -------------------------------------------------------------------------------


def are_due(context: Context, now_ms: int) -> bool:
    """Return whether parked readers are to be served now."""
    at_ms = context.serve_at_ms()
    return at_ms is not None and now_ms >= at_ms


def wake_up_for_readers(context: Context) -> None:
    """Have the loop wake up when there is something for parked readers."""
    at_ms, mono = context.serve_at_ms(), context.state.mono
    if at_ms is not None:
        mono.next_at = min(mono.next_at, at_ms)


def serve_readers(context: Context, now_ms: int, scans_max: int) -> Iterator[Answer]:
    """Yield the answers to parked readers for which there is something, until the budget is spent.

    The caller may stop at any answer: who was not served then is the first one the next time.
    """
    waiters, feed = context.waiters, context.state.feed
    waiters.serve_at_ms = now_ms + SERVE_EVERY_MS
    if waiters.served_to != feed.newest:
        waiters.served_to = feed.newest
        first = [number for number in waiters.unserved if number in waiters.readers]
        waiters.unserved = dict.fromkeys([*first, *waiters.readers])
    equal: dict[bytes, tuple[EventsResult | None, Place]] = {}
    for number in [*waiters.unserved]:
        if scans_max <= 0:
            waiters.serve_at_ms = now_ms + GO_ON_MS
            return
        scans_max -= READER_SCANS
        parked = waiters.readers.get(number)
        if parked is None or parked.place is None:  # it was answered otherwise
            del waiters.unserved[number]
            continue
        command: Any = parked.command
        scans_max -= len(command.job_ids or ()) // JOB_IDS_A_SCAN
        if waiters.endings and (ending := waiters.ending_of(parked)):  # its key was taken away
            del waiters.unserved[number]
            waiters.remove(parked)
            scans_max -= ANSWER_SCANS
            yield Answer(parked.ticket, ending.result, Events)
            continue
        if not feed.has(parked.place):
            del waiters.unserved[number]
            waiters.remove(parked)
            refusal = gone(context, context.position(parked.place))
            scans_max -= ANSWER_SCANS
            yield Answer(parked.ticket, error_of(refusal), Events)
            continue
        key = _key(command, parked.place)
        if key not in equal:  # many readers follow the same: they get the same answer
            room = context.limits.reply_bytes
            read = _read(context, command, parked.place, room, scans_max)
            scans_max -= read.scans
            result = _result(context, read.rows, read.next) if read.rows else None
            equal[key] = (result, read.next)
        result, parked.place = equal[key]
        if parked.place >= feed.newest or result is not None:
            del waiters.unserved[number]
        if result is not None:
            waiters.remove(parked)
            scans_max -= ANSWER_SCANS
            yield Answer(parked.ticket, result, Events)


def _key(command: Events, place: Place) -> bytes:
    bare = msgspec.structs.replace(command, after=None, wait_ms=0)
    return _encode_key((bare, place))


_encode_key: Final = msgspec.msgpack.Encoder().encode

EVENT_COMMANDS: Final[Handlers] = {Events: one_by_one(events)}

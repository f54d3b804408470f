"""Events in columns: how the feed keeps those that it has had for a while.

Events that follow each other are much alike: of the same kind, in the same status, at the same
time. A column has one field of all events of a kind. Where its values repeat it takes a byte for
each, or nothing. Texts are not copied, and a job that is stored stands for its creation.
Out come events that are shown as those that went in, in the same order.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import compress, islice, repeat, starmap
from operator import attrgetter
from types import NoneType
from typing import Any, Final, NamedTuple, cast

from msgspec.structs import astuple

from tollgate.broker.core.events import AnyEvent, JobCreated, NewRest, Origin
from tollgate.broker.repository.job import PlainStoredJob, Slot, StoredJob
from tollgate.domain.results import DEFAULT_QUEUE, InputRound, Settlement
from tollgate.domain.status import AWAITING_PAYMENT, JobStatus

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
_Form = tuple[type[AnyEvent], type]
"""The kind of an event, and the sort of what is known of its job."""
CODES_MAX: Final = 256
"""A byte tells so many values apart."""


class Column:
    """Values of one type in order; those that come out are equal to those that were put in."""

    __slots__ = ("_codes", "_values")

    def __init__(self, values: Sequence[Any]) -> None:
        self._codes: bytes | None = None
        """Which value comes at each place; None if each place has its own, or all have the same."""
        self._values: Sequence[Any] = values
        if not values or values.count(values[0]) == len(values):
            self._values = values[:1]
        elif self._has_few([*map(id, values)]) or self._has_few(values):
            return
        elif {*map(type, values)} == {int}:
            self._values = array("q", values)

    def _has_few(self, keys: Sequence[Any]) -> bool:
        """Take a byte for each value, if so few are different; equal ones have equal keys."""
        try:
            if len({*keys[: CODES_MAX + 1]}) > CODES_MAX:  # the common case, without the rest
                return False
            values = dict(zip(keys, self._values, strict=True))
        except TypeError:  # the fields that most new jobs do not have cannot be a key
            return False
        if len(values) > CODES_MAX:
            return False
        codes = dict(zip(values, range(CODES_MAX), strict=False))
        self._codes = bytes(map(codes.__getitem__, keys))
        self._values = (*values.values(),)
        return True

    def __iter__(self) -> Iterator[Any]:
        """Return the values; without an end if all of them are the same."""
        if self._codes is not None:
            return map(self._values.__getitem__, self._codes)
        return repeat(self._values[0]) if len(self._values) == 1 else iter(self._values)


class Rows(NamedTuple):
    """Events, what is known of the job of each, and the origins of their records."""

    events: list[AnyEvent]
    known: list[Known]
    origins: list[Origin]

    def extend(self, more: "Rows") -> None:
        """Add the rows that come after these."""
        self.events.extend(more.events)
        self.known.extend(more.known)
        self.origins.extend(more.origins)


class EventColumns:
    """Rows in columns."""

    __slots__ = ("_groups", "_order", "_origins", "_sizes")

    def __init__(self, rows: Rows) -> None:
        forms: list[_Form] = [*zip(map(type, rows.events), _sorts(rows), strict=True)]
        self._groups: dict[_Form, list[Column]] = {}
        for form in dict.fromkeys(forms):
            chosen = [*map(form.__eq__, forms)]
            events, known = [*compress(rows.events, chosen)], [*compress(rows.known, chosen)]
            self._groups[form] = _group(form, events, known)
        self._order = Column(forms)
        self._origins = _columns(map(astuple, rows.origins))
        self._sizes = len(forms), len(rows.origins)

    def rows(self) -> Rows:
        """Return the rows that were put in."""
        events, origins = self._sizes
        made = {form: map(_reader(*form), _rows(some)) for form, some in self._groups.items()}
        pairs = [*map(next, map(made.__getitem__, islice(self._order, events)))]
        return Rows(
            [event for event, _ in pairs],
            [known for _, known in pairs],
            [*islice(starmap(Origin, _rows(self._origins)), origins)],
        )


def _columns(rows: Iterable[tuple[Any, ...]]) -> list[Column]:
    return [*map(Column, zip(*rows, strict=True))]


def _rows(columns: list[Column]) -> Iterator[tuple[Any, ...]]:
    """Return rows; maybe without an end."""
    return zip(*columns, strict=False)


def _sorts(rows: Rows) -> list[type]:
    """Return the sort of what is known of each event: PlainStoredJob if the job tells all of it."""
    sorts: list[type] = [*map(type, rows.known)]
    if JobCreated not in {*map(type, rows.events)}:
        return sorts
    return [
        PlainStoredJob
        if type(event) is JobCreated and type(known) is Slot and _is_told(event, known.job)
        else sort
        for event, known, sort in zip(rows.events, rows.known, sorts, strict=True)
    ]


def _group(form: _Form, events: list[AnyEvent], known: list[Any]) -> list[Column]:
    """Return events of one form in columns; the reader of the form knows which they are."""
    _, sort = form
    if sort is PlainStoredJob:
        return [Column([slot.job for slot in known])]
    fields = zip(*map(astuple, events), strict=True)
    if sort is NoneType:
        return [*map(Column, fields)]
    if sort is tuple:
        return [*map(Column, fields), *_columns(known)]
    next(fields)  # the id of the job
    return [Column(known), *map(Column, fields)]


def _is_told(event: JobCreated, job: StoredJob) -> bool:
    """Return whether a job tells of its creation: it is stored, and its rare fields may change."""
    rest = event.rest
    return job.version > 0 and (rest is None or rest == NewRest(rest.queue))


def _reader(kind: Callable[..., AnyEvent], sort: type) -> Callable[[Any], tuple[AnyEvent, Known]]:
    """Return what makes the event of a row, and what is known of its job."""
    if sort is PlainStoredJob:
        return _creation
    if sort is Slot:  # the id of a job is its first field
        return lambda row: (kind(row[0].job.job_id, *row[1:]), row[0])
    end = -len(Seen.__args__) if sort is tuple else None  # type: ignore[attr-defined]  # a generic alias has them
    return lambda row: (kind(*row[:end]), None if end is None else row[end:])


def _creation(row: tuple[StoredJob]) -> tuple[AnyEvent, Known]:
    (job,) = row
    rest = None if job.queue == DEFAULT_QUEUE else NewRest(job.queue)
    event = JobCreated(
        job.job_id, job.created_at, job.input_hash, job.input, job.identifier_from_purchaser,
        job.blockchain_identifier, job.pay_by_time, job.submit_result_time, rest,
    )  # fmt: skip
    return event, (job.queue, AWAITING_PAYMENT, 1, 0, None, None)

"""The history of a job as packed bytes: what has happened to it, when, and by whom.

Each entry is a byte of length (or 255 and two more) and a MessagePack array, whose last fields may
be missing: code, time, who (a number in `Origins`), from, to, attempt, reason.

A history has at most 64 entries: the first 16 and the last 48. The number of those that were left
out between them stands in an entry of its own.
"""

from datetime import UTC, datetime
from typing import Final

import msgspec

from tollgate.broker.core.events import Origin
from tollgate.broker.repository.job import SHORT_HISTORY
from tollgate.domain.results import HistoryEntry
from tollgate.domain.settlement import SettlementState
from tollgate.domain.status import JobStatus

FIRST_MAX: Final = 16
LAST_MAX: Final = 48
TRIM_BYTES: Final = SHORT_HISTORY
"""Shorter histories are not looked at: they have not too many entries."""
TRIM_SLACK: Final = 16
"""So many entries more than allowed are kept before the middle is cut out."""
REASON_CHARACTERS_MAX: Final = 200
"""A history shows the beginning of a reason."""
ORIGINS_MAX: Final = 65_536

LEFT_OUT: Final = 0
MOVED: Final = 1
CLAIMED: Final = 2
RELEASED: Final = 3
LAPSED: Final = 4
HELD: Final = 5
RESUMED: Final = 6
STOP_REQUESTED: Final = 7
ANNOTATED: Final = 8
INPUT_PROVIDED: Final = 9
SETTLED: Final = 10
_MOVES: Final = (MOVED, INPUT_PROVIDED, SETTLED)
_WHAT: Final = (
    "", "moved", "claimed", "released", "lapsed", "held", "resumed", "stop_requested",
    "annotated", "input_provided", "settled",
)  # fmt: skip
_STATUSES: Final = tuple(JobStatus)
_STATES: Final = tuple(SettlementState)
_NUMBERS: Final[dict[JobStatus | SettlementState, int]] = {
    **{status: number for number, status in enumerate(_STATUSES)},
    **{state: number for number, state in enumerate(_STATES)},
}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LONG: Final = 255
"""A length from here on takes two more bytes."""
_HEADS: Final = [bytes((length,)) for length in range(_LONG)]
"""The byte of each shorter length."""

Who = int | tuple[str, str]


class _Packed(msgspec.Struct, array_like=True, gc=False):
    code: int
    at: datetime
    who: Who = 0
    before: int | None = None
    after: int | None = None
    attempt: int | None = None
    reason: str | None = None


_encode: Final = msgspec.msgpack.Encoder().encode
_decoder: Final = msgspec.msgpack.Decoder(_Packed)


class Origins:
    """Numbers for principals and their clients: most histories name the same few.

    Number 0 is the broker itself. If there are very many, further ones are written out.
    """

    __slots__ = ("_numbers", "pairs")

    def __init__(self) -> None:
        self.pairs: list[tuple[str, str]] = [("", "")]
        """Principal and client by number."""
        self._numbers: dict[tuple[str, str], int] = {("", ""): 0}

    def number(self, by: str, client: str) -> Who:
        """Return the number of an origin; a new one gets the next."""
        pair = (by, client)
        number = self._numbers.get(pair)
        if number is not None:
            return number
        if len(self.pairs) >= ORIGINS_MAX:
            return pair
        self._numbers[pair] = number = len(self.pairs)
        self.pairs.append(pair)
        return number

    def restore(self, pairs: list[tuple[str, str]]) -> None:
        """Set what a snapshot holds."""
        self.pairs = pairs
        self._numbers = {pair: number for number, pair in enumerate(pairs)}

    def entry(  # noqa: PLR0913, PLR0917 - one argument a field
        self,
        code: int,
        origin: Origin,
        before: JobStatus | SettlementState | None = None,
        after: JobStatus | SettlementState | None = None,
        attempt: int | None = None,
        reason: str | None = None,
    ) -> bytes:
        """Return an entry; the same bytes serve all jobs to which the same happens at once."""
        who: Who | None = self._numbers.get((origin.by, origin.client))
        if who is None:
            who = self.number(origin.by, origin.client)
        is_short = attempt is None and reason is None  # the common case
        fields: tuple[object, ...]
        if before is None or after is None:
            fields = (code, origin.at, who) if is_short else (code, origin.at, who, None, None)
        else:
            fields = (code, origin.at, who, _NUMBERS[before], _NUMBERS[after])
        if not is_short:
            fields = (*fields, attempt, reason and reason[:REASON_CHARACTERS_MAX])
        packed = _encode(fields)
        return _HEADS[len(packed)] + packed if len(packed) < _LONG else _with_length(packed)

    def read(self, created_at: datetime, history: bytes | None) -> tuple[list[HistoryEntry], int]:
        """Return the entries of a history, the creation first, and how many were left out."""
        entries = [HistoryEntry(created_at, "created")]
        left_out = 0
        for packed in _unpacked(_trimmed(history or b"", FIRST_MAX + LAST_MAX)):
            if packed.code == LEFT_OUT:
                left_out = packed.attempt or 0
                continue
            by, client = self.pairs[packed.who] if isinstance(packed.who, int) else packed.who
            names = _STATES if packed.code == SETTLED else _STATUSES
            entries.append(
                HistoryEntry(
                    packed.at,
                    _WHAT[packed.code],
                    None if packed.before is None else names[packed.before].value,
                    None if packed.after is None else names[packed.after].value,
                    by or None,
                    client or None,
                    packed.attempt,
                    packed.reason,
                )
            )
        return entries, left_out


def is_claimed_since_moved(history: bytes | None) -> bool:
    """Return whether a history tells of a claim after the last move of the job or settlement."""
    is_claimed = False
    for _, body, _ in _spans(history or b""):
        code = (history or b"")[body + 1]  # behind the head of a short array: a small integer
        is_claimed = code == CLAIMED or (is_claimed and code not in _MOVES)
    return is_claimed


def grown(history: bytes | None, entry: bytes) -> bytes:
    """Return a history with one more entry."""
    if history is None:
        return entry
    history += entry
    if len(history) > TRIM_BYTES:
        return _trimmed(history, FIRST_MAX + LAST_MAX + TRIM_SLACK)
    return history


def _unpacked(history: bytes) -> list[_Packed]:
    return [_decoder.decode(history[body:end]) for _, body, end in _spans(history)]


def _spans(history: bytes) -> list[tuple[int, int, int]]:
    """Return where each entry begins, where its array begins, and where it ends."""
    spans, start = [], 0
    while start < len(history):
        body, length = start + 1, history[start]
        if length == _LONG:
            body, length = start + 3, int.from_bytes(history[start + 1 : start + 3], "big")
        spans.append((start, body, body + length))
        start = body + length
    return spans


def _count(history: bytes) -> int:
    """Return how many entries there are: in less time than to find out what they hold."""
    start = entries = 0
    while start < len(history):
        length = history[start]
        if length == _LONG:
            length = 2 + int.from_bytes(history[start + 1 : start + 3], "big")
        start += 1 + length
        entries += 1
    return entries


def _trimmed(history: bytes, entries_max: int) -> bytes:
    """Return a history without its middle, if it has more than `entries_max` entries."""
    if _count(history) <= entries_max:
        return history
    spans = _spans(history)
    left_out = 0
    if len(spans) > FIRST_MAX:
        _, body, end = spans[FIRST_MAX]
        packed = _decoder.decode(history[body:end])
        if packed.code == LEFT_OUT:
            left_out = packed.attempt or 0
            del spans[FIRST_MAX]
    if len(spans) <= entries_max:
        return history
    left_out += len(spans) - FIRST_MAX - LAST_MAX
    gap = _with_length(_encode((LEFT_OUT, _EPOCH, 0, None, None, left_out)))
    head_end, tail_start = spans[FIRST_MAX - 1][2], spans[-LAST_MAX][0]
    return history[:head_end] + gap + history[tail_start:]


def _with_length(packed: bytes) -> bytes:
    length = len(packed)
    if length < _LONG:
        return _HEADS[length] + packed
    return bytes((_LONG,)) + length.to_bytes(2, "big") + packed

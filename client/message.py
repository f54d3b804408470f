"""One request under way: its frame, how long it may take, and what its silence means."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import msgspec

from client.errors import BrokerUnreachableError, OutcomeUnknown
from client.packing import Parcel, frame_of
from domain.commands import Wait
from domain.exceptions import Refusal, TollgateError
from domain.messages import encode_command

if TYPE_CHECKING:
    from client.exchange import Exchange

NO_SESSION: Final = 0
"""The broker remembers nothing of such a request."""
VALID_S_MAX: Final = 366 * 86_400.0
"""A request is valid for a year at most, however long its caller would wait."""
BACKOFF_S: Final = 0.5
BACKOFF_S_MAX: Final = 5.0
DOUBLINGS_MAX: Final = 4
JITTER: Final = 0.5
"""Repeats are spread over so much of the backoff, half of it to either side."""
MAYBE: Final = "; what was asked of it may be done or not"


class Message:
    """One request under way."""

    __slots__ = (
        "_frame",
        "_until",
        "attempts",
        "deadline",
        "exchange",
        "parcel",
        "queued",
        "refusal",
        "repeatable",
        "sent",
        "seq",
        "wake_at",
    )

    def __init__(self, seq: int, exchange: "Exchange", parcel: Parcel) -> None:
        """Make a message that is to be sent."""
        self.seq = seq
        self.exchange = exchange
        self.parcel = parcel
        self.repeatable = parcel.repeatable
        self.deadline = exchange.deadline
        self.queued = True
        """Whether it is among those to be sent now."""
        self.sent = False
        """Whether it left under this number, so that it may be executed."""
        self.attempts = 0
        self.refusal: Refusal | None = None
        """What the broker said when it would not take it: to be tried again."""
        self.wake_at: float | None = None
        """The time in the timetable that counts."""
        self._frame: bytes | None = None
        self._until: float | None = None

    def frame(self, now: float, wall: datetime) -> bytes:
        """Return the frame to send: the same each time, but that a wait asks for what is left."""
        if isinstance(self.parcel.commands[0], Wait):
            return self._build([self._what_is_left(self.parcel.commands[0], now)], now, wall)
        if self._frame is None:
            self._frame = self._build(self.parcel.encoded, now, wall)
        return self._frame

    def renumber(self, seq: int) -> None:
        """Make a new request of it: under the old number nothing was executed."""
        self.seq = seq
        self.sent = self.queued = False
        self._frame = None

    def backoff_s(self, jitter: float) -> float:
        """Return how long to leave it alone; `jitter` is from 0 to 1."""
        doubled = BACKOFF_S * float(2 ** min(self.attempts - 1, DOUBLINGS_MAX))
        return min(doubled, BACKOFF_S_MAX) * (1 - JITTER / 2 + JITTER * jitter)

    def silence(self, broker: str, complaint: str) -> TollgateError:
        """Return what it means that no answer came by the deadline."""
        if not self.sent:
            return self.refusal or BrokerUnreachableError(f"no broker at {broker}")
        late = f"the broker at {broker} did not answer in time"
        if complaint:
            late += f" (what did come was: {complaint})"
        if self.repeatable:
            return BrokerUnreachableError(late)
        return OutcomeUnknown(late + MAYBE)

    def _build(self, encoded: list[bytes], now: float, wall: datetime) -> bytes:
        valid_until = wall + timedelta(seconds=min(self.deadline - now, VALID_S_MAX))
        return frame_of(NO_SESSION, self.seq, 0, encoded, valid_until)

    def _what_is_left(self, wait: Wait, now: float) -> bytes:
        # A broker that came back knows nothing of the time waited before.
        if self._until is None:
            self._until = now + wait.timeout_ms / 1_000
        left_ms = max(0, round((self._until - now) * 1_000))
        return encode_command(msgspec.structs.replace(wait, timeout_ms=left_ms))

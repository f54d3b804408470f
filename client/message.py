"""One request under way: its frame, how long it may take, and what its silence means."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec

from client.errors import BrokerUnreachableError, OutcomeUnknown
from client.parcel import Parcel, Piece, frame_of
from domain.commands import Wait
from domain.exceptions import Refusal, TollgateError
from domain.messages import encode_command

if TYPE_CHECKING:
    from client.exchange import Exchange
    from client.memory import Memory

VALID_S_MAX: Final = 366 * 86_400.0
"""A request is valid for a year at most, however long its caller would wait."""
BACKOFFS_S: Final = (0.5, 1.0, 2.0, 4.0, 5.0)
"""How long to wait for an answer before the next attempt; all later ones have the last."""
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
        "memory",
        "parcel",
        "queued",
        "refusal",
        "sends",
        "seq",
        "session",
        "wake_at",
    )

    def __init__(
        self, seq: int, exchange: "Exchange", parcel: Parcel, memory: "Memory | None"
    ) -> None:
        """Make a message that is to be sent; in a session of `memory`, if that is not None."""
        self.seq = seq
        self.exchange = exchange
        self.parcel = parcel
        self.memory = memory
        self.session = 0
        """The session that it is sent in; 0 for none: the broker remembers nothing of it."""
        self.deadline = exchange.deadline
        self.queued = False
        """Whether it is among those to be sent now."""
        self.sends = 0
        """How often it left under this number, so that it may be executed."""
        self.attempts = 0
        """How often it left, under any number."""
        self.refusal: Refusal | None = None
        """What the broker said when it would not take it: to be tried again."""
        self.wake_at: float | None = None
        """The time in the timetable that counts."""
        self._frame: bytes | None = None
        self._until: float | None = None

    @property
    def place(self) -> int:
        """Where its commands stand in the call."""
        return self.parcel.slots[0]

    @property
    def sent(self) -> bool:
        """Whether it left under this number, so that it may be executed."""
        return self.sends > 0

    @property
    def repeatable(self) -> bool:
        """Whether it may be sent again: the broker remembers it, or it does no harm twice."""
        return self.session > 0 or self.parcel.repeatable

    @property
    def uncertain(self) -> bool:
        """Whether it may have changed something that its caller would not know of."""
        return self.sent and not self.parcel.repeatable

    def frame(self, now: float, wall: float) -> bytes:
        """Return the frame to send: the same each time, but that a wait asks for what is left."""
        if isinstance(self.parcel.commands[0], Wait):
            return self._build([self._what_is_left(self.parcel.commands[0], now)], now, wall)
        if self._frame is None:
            self._frame = self._build(self.parcel.pieces, now, wall)
        return self._frame

    def renumber(self, seq: int) -> None:
        """Make a new request of it: under the old number nothing was executed."""
        self.seq = seq
        self.session = self.sends = 0
        self.queued = False
        self._frame = None

    def backoff_s(self, jitter: float) -> float:
        """Return how long to leave it alone; `jitter` is from 0 to 1."""
        backoff_s = BACKOFFS_S[min(self.attempts, len(BACKOFFS_S)) - 1]
        return backoff_s * (1 - JITTER / 2 + JITTER * jitter)

    def silence(self, broker: str, complaint: str) -> TollgateError:
        """Return what it means that no answer came by the deadline."""
        if not self.sent:
            return self.refusal or BrokerUnreachableError(f"no broker at {broker}")
        late = f"the broker at {broker} did not answer in time"
        if complaint:
            late += f" (what did come was: {complaint})"
        return OutcomeUnknown(late + MAYBE) if self.uncertain else BrokerUnreachableError(late)

    def _build(self, pieces: Sequence[Piece], now: float, wall: float) -> bytes:
        left_s = min(self.deadline - now, VALID_S_MAX)
        valid_until = datetime.fromtimestamp(wall + left_s, UTC)
        acked = self.memory.acked if self.session and self.memory else 0
        count = len(self.parcel.commands)
        return frame_of(self.session, self.seq, acked, count, pieces, valid_until)

    def _what_is_left(self, wait: Wait, now: float) -> bytes:
        # A broker that came back knows nothing of the time waited before.
        if self._until is None:
            self._until = now + wait.timeout_ms / 1_000
        left_ms = max(0, round((self._until - now) * 1_000))
        return encode_command(msgspec.structs.replace(wait, timeout_ms=left_ms))

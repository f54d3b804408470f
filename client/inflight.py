"""One request under way: its frame, how long it may take, and what its silence means."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec

from tollgate.client.errors import BrokerUnreachableError, OutcomeUnknown
from tollgate.client.parcel import Parcel, frame_of
from tollgate.domain.commands import Wait
from tollgate.domain.exceptions import Refusal, TollgateError
from tollgate.domain.messages import encode_command

if TYPE_CHECKING:
    from tollgate.client.exchange import Exchange
    from tollgate.client.memory import Memory

VALID_S_MAX: Final = 366 * 86_400.0
"""A request is valid for a year at most, however long its caller would wait."""
BACKOFFS_S: Final = (0.5, 1.0, 2.0, 4.0, 5.0)
"""How long to wait for an answer before the next attempt; all later ones have the last."""
JITTER: Final = 0.5
"""Repeats are spread over so much of the backoff, half of it to either side."""
_EARLIEST: Final = 1 - JITTER / 2
MAYBE: Final = "; what was asked of it may be done or not"


class Message(msgspec.Struct, eq=False):
    """One request under way."""

    seq: int
    exchange: "Exchange"
    parcel: Parcel
    memory: "Memory | None"
    """In a session of which it is to be sent."""
    deadline: float
    session: int = 0
    """The session that it is sent in; 0 for none: the broker remembers nothing of it."""
    queued: bool = False
    """Whether it is among those to be sent now."""
    sends: int = 0
    """How often it left under this number, so that it may be executed."""
    attempts: int = 0
    """How often it left, under any number."""
    refusal: Refusal | None = None
    """What the broker said when it would not take it: to be tried again."""
    wake_at: float | None = None
    """The time in the timetable that counts."""
    _frame: bytes | None = None
    _until: float | None = None

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
        if self._frame is not None:
            return self._frame
        commands, pieces = self.parcel.commands, self.parcel.pieces
        left_s = min(self.deadline - now, VALID_S_MAX)
        valid_until = datetime.fromtimestamp(wall + left_s, UTC)
        acked = self.memory.acked if self.session and self.memory else 0
        first = commands[0]
        if isinstance(first, Wait):
            left = [self._what_is_left(first, now)]
            return frame_of(self.session, self.seq, acked, 1, left, valid_until)
        frame = frame_of(self.session, self.seq, acked, len(commands), pieces, valid_until)
        self._frame = frame
        return frame

    def renumber(self, seq: int) -> None:
        """Make a new request of it: under the old number nothing was executed."""
        self.seq = seq
        self.session = self.sends = 0
        self.queued = False
        self._frame = None

    def shrink(self, positions: list[int]) -> None:
        """Keep the commands at these positions alone; none of it has left under this number."""
        self.parcel = self.parcel.only(positions)
        self._frame = None

    def backoff_s(self, jitter: float) -> float:
        """Return how long to leave it alone; `jitter` is from 0 to 1."""
        backoff_s = BACKOFFS_S[min(self.attempts, len(BACKOFFS_S)) - 1]
        return backoff_s * (_EARLIEST + JITTER * jitter)

    def silence(self, broker: str, complaint: str) -> TollgateError:
        """Return what it means that no answer came by the deadline."""
        if not self.sent:
            return self.refusal or BrokerUnreachableError(f"no broker at {broker}")
        late = f"the broker at {broker} did not answer in time"
        if complaint:
            late += f" (what did come was: {complaint})"
        return OutcomeUnknown(late + MAYBE) if self.uncertain else BrokerUnreachableError(late)

    def _what_is_left(self, wait: Wait, now: float) -> bytes:
        # A broker that came back knows nothing of the time waited before.
        if self._until is None:
            self._until = now + wait.timeout_ms / 1_000
        left_ms = max(0, round((self._until - now) * 1_000))
        return encode_command(msgspec.structs.replace(wait, timeout_ms=left_ms))

"""A session of the broker's memory of requests: its number, and who may be sent in it now."""

from collections import OrderedDict, deque
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tollgate.client.exchange import Exchange
    from tollgate.client.inflight import Message

WINDOW: Final = 64
"""How far a request's number may be beyond what was acknowledged."""


class State(Enum):
    """Whether there is a session to send in."""

    CLOSED = auto()
    OPENING = auto()
    OPEN = auto()
    NEVER = auto()
    """The broker remembers nothing."""


class Memory:
    """One session at a time, with the requests under way in it.

    An answer tells its request by the number alone, so what is sent outside of the session or in
    another one over the same connection must be numbered elsewhere: this one begins at `first_seq`.
    """

    def __init__(self, first_seq: int) -> None:
        """Begin without a session."""
        self.state = State.CLOSED
        self.session = 0
        self.opener: Exchange | None = None
        """The call that opens a session, while it is under way."""
        self.waiting: deque[Message] = deque()
        """What may not be sent yet, in order; some of it may be dropped already."""
        self._next_seq = first_seq
        self._under_way: OrderedDict[int, None] = OrderedDict()

    @property
    def acked(self) -> int:
        """Up to which number every request has come to its end."""
        return next(iter(self._under_way), self._next_seq) - 1

    def take_seq(self) -> int:
        """Return the number for another request, which is under way from now on."""
        seq = self._next_seq
        self._next_seq += 1
        self._under_way[seq] = None
        return seq

    def settle(self, seq: int) -> None:
        """Note that a request has come to its end, whatever that was."""
        self._under_way.pop(seq, None)

    def hold(self, message: "Message") -> None:
        """Keep a request until it may be sent.

        In the order of the numbers: a lower one that stood behind a higher one would never be
        sent, since it keeps the window where it is.
        """
        place = len(self.waiting)
        if message.memory is not None:
            while place and self._is_higher(self.waiting[place - 1], message):
                place -= 1
        self.waiting.insert(place, message)

    def admits(self, message: "Message") -> bool:
        """Return whether a request may be sent now."""
        if self.state is State.NEVER or message.memory is None:
            return True
        return self.state is State.OPEN and message.seq <= self.acked + WINDOW

    @staticmethod
    def _is_higher(one: "Message", other: "Message") -> bool:
        return one.memory is not None and one.seq > other.seq

    def opened(self, session: int | None) -> None:
        """Note what `hello` told: a session's number, None if the broker remembers nothing."""
        self.session = session or 0
        self.state = State.NEVER if session is None else State.OPEN
        self.opener = None

    def evicted(self, session: int) -> None:
        """Note that the broker knows nothing of a session; it may be one before this."""
        if self.session == session and self.state is State.OPEN:
            self.session = 0
            self.state = State.CLOSED

"""The broker's memory of requests, as a client uses it: a session's number, and whose turn it is."""

from collections import deque
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from client.exchange import Message

WINDOW: Final = 64
"""How far a request's number may be beyond what was acknowledged, until `hello` tells."""


class State(Enum):
    """Whether there is a session."""

    CLOSED = auto()
    OPENING = auto()
    OPEN = auto()
    NEVER = auto()
    """The broker remembers nothing."""


class Memory:
    """One session: what is under way in it, and what waits until it may be.

    Answers tell a request by its number alone, so each session of a connection counts from a
    number of its own: `first_seq`.
    """

    def __init__(self, first_seq: int) -> None:
        """Begin without a session."""
        self.state = State.CLOSED
        self.number = 0
        self.waiting: deque[Message] = deque()
        """Messages that cannot be sent yet, in order."""
        self._next_seq = first_seq
        self._under_way: dict[int, Message] = {}

    @property
    def acked(self) -> int:
        """Up to which number all requests have come to their end."""
        return next(iter(self._under_way), self._next_seq) - 1

    def has_room(self, window: int) -> bool:
        """Return whether one more request may be sent."""
        return self._next_seq <= self.acked + window

    def number_next(self, message: "Message") -> int:
        """Return the number for a message that is to be sent, and count it as under way."""
        seq = self._next_seq
        self._next_seq = seq + 1
        self._under_way[seq] = message
        return seq

    def settle(self, seq: int) -> None:
        """Note that a request has come to its end, whatever that was."""
        self._under_way.pop(seq, None)

    def opened(self, number: int | None) -> None:
        """Note what `hello` told: the number of a new session, None if there are none."""
        self.number = number or 0
        self.state = State.NEVER if number is None else State.OPEN

    def evicted(self, number: int) -> None:
        """Note that the broker does not know this session (any more)."""
        if self.state is State.OPEN and self.number == number:
            self.state = State.CLOSED
            self.number = 0

"""How many bytes wait for each peer to read them: libzmq bounds messages, but no bytes.

Now and then a reply is handed to libzmq without a copy, as a mark: libzmq says when it has let go
of it, and that is when the kernel has taken it and all that was sent to that peer before. So what
is held is known, up to the distance of two marks, however slow anybody is.
"""

from collections import deque
from typing import Final

import zmq

LARGE_BYTES: Final = 16 * 1024
"""From here on a reply is counted; the smaller ones are bounded by their number."""
MARK_BYTES: Final = 256 * 1024
"""How far marks are apart: each costs as much as a few commands."""
MARKS_MIN: Final = 4
"""They are closer where the limit is so low that there would be fewer."""
PEERS_MAX: Final = 1_000
"""With so many peers in mind, those are looked for of whom nothing is held any more."""


class Held:
    """What was sent to one peer and not proved to have left: in all, and since the last mark."""

    __slots__ = ("bytes", "is_full", "marks", "unmarked_bytes")

    def __init__(self) -> None:
        self.bytes = self.unmarked_bytes = 0
        self.marks: deque[tuple[zmq.MessageTracker, int]] = deque()
        self.is_full = False
        """Whether a reply was held back, and not half of the rest has left since."""

    def settle(self) -> int:
        """Return how much is held now."""
        while self.marks and self.marks[0][0].done:
            self.bytes -= self.marks.popleft()[1]
        return self.bytes


class Unread:
    """Sends replies, and holds no more than `limit_bytes` in large ones for any peer."""

    def __init__(self, socket: "zmq.Socket[bytes]", limit_bytes: int) -> None:
        self._socket = socket
        socket.copy_threshold = 0  # a mark is never copied, however short
        self._limit_bytes = limit_bytes
        self._mark_bytes = min(MARK_BYTES, limit_bytes // MARKS_MIN)
        self._peers: dict[bytes, Held] = {}

    def send(self, peer: bytes, frame: bytes) -> bool:
        """Send a reply, or return False: too much waits for that peer already.

        Raises what the socket raises: zmq.Again for too many messages, EHOSTUNREACH.
        """
        size = len(frame)
        if size < LARGE_BYTES:
            self._send(peer, frame)
            return True
        held = self._peers.get(peer) or self._meet(peer)
        if held.bytes + size > self._limit_bytes:
            held.settle()
            if held.marks and held.bytes + size > self._limit_bytes:
                held.is_full = True
                return False
        unmarked_bytes = held.unmarked_bytes + size
        if unmarked_bytes < self._mark_bytes:
            self._send(peer, frame)
        else:
            self._socket.send(peer, zmq.DONTWAIT | zmq.SNDMORE)
            tracker = self._socket.send(frame, zmq.DONTWAIT, copy=False, track=True)
            held.marks.append((tracker, unmarked_bytes))
            unmarked_bytes = 0
        held.unmarked_bytes = unmarked_bytes
        held.bytes += size
        return True

    def is_full(self, peer: bytes) -> bool:
        """Return whether a reply to a peer was held back, and it has not read half since."""
        held = self._peers.get(peer)
        if held is None or not held.is_full:
            return False
        held.is_full = held.settle() > self._limit_bytes // 2
        return held.is_full

    def forget(self, peer: bytes) -> None:
        """Note that a peer is gone."""
        self._peers.pop(peer, None)

    def _send(self, peer: bytes, frame: bytes) -> None:
        self._socket.send(peer, zmq.DONTWAIT | zmq.SNDMORE)
        self._socket.send(frame, zmq.DONTWAIT)

    def _meet(self, peer: bytes) -> Held:
        if len(self._peers) >= PEERS_MAX:
            self._peers = {
                each: held for each, held in self._peers.items() if held.settle() and held.marks
            }
        held = self._peers[peer] = Held()
        return held

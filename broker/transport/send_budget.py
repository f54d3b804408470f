"""Bounds the bytes queued for each peer, and for all: libzmq bounds messages only.

Now and then a reply is handed to libzmq without a copy, as a mark. libzmq reports when it has
released a mark; by then the kernel has taken it, and all that was sent to that peer before. So the
queued bytes are known up to the distance of two marks, however slowly a peer reads.

The bounds leave room for peers that read, however many do not. The first half of the total is for
all peers. The second half is for peers with little queued. Above the total, a peer with nothing
queued gets one small reply.
"""

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import zmq

NO_WAIT: Final = int(zmq.DONTWAIT)  # plain numbers: an enum costs time with each message
NO_WAIT_MORE: Final = NO_WAIT | int(zmq.SNDMORE)
MARK_BYTES: Final = 1024 * 1024
"""Distance of two marks: each costs as much as a few commands."""
MARKS_MIN: Final = 4
"""Marks within a peer's limit at least: they are closer if that is low."""
UNMARKED_SHARE: Final = 8
"""Marks are closer, too, if the unmarked bytes of all known peers could exceed 1/8 of the total."""
LITTLE_BYTES: Final = 1024 * 1024
SMALL_BYTES: Final = 64 * 1024
PEERS_MAX: Final = 1_000
"""Number of known peers at which those with nothing queued are forgotten."""
SWEEP_S: Final = 0.1
"""Shortest time between two such sweeps while the first half of the total is used up."""
MUTE_S: Final = 0.05
"""How long requests are not taken from a peer whose queue has no room for another message."""
RELEASE_S: Final = 0.001
"""Longest wait for the report of a released mark: it comes by a thread of pyzmq."""


class Queued:
    """What was sent to one peer and is not known to have left: in all, and since the last mark."""

    __slots__ = ("bytes", "marks", "mute_until_s", "refused_bytes", "unmarked_bytes")

    def __init__(self) -> None:
        self.bytes = self.unmarked_bytes = 0
        self.mute_until_s = 0.0
        self.marks: deque[tuple[zmq.MessageTracker, int]] = deque()
        self.refused_bytes = 0
        """Size of the last reply refused, until half of the allowed bytes have left."""


class SendBudget:
    """Sends replies, and queues at most `peer_bytes` for a peer and `total_bytes` for all."""

    def __init__(self, socket: "zmq.Socket[bytes]", peer_bytes: int, total_bytes: int) -> None:
        # The socket's own `send` first looks at options for other kinds of sockets.
        self._send: Callable[..., zmq.MessageTracker] = super(zmq.Socket, socket).send
        socket.copy_threshold = 0  # a mark is never copied, however short
        self._peer_bytes = peer_bytes
        self._total_bytes = total_bytes
        self._shared_bytes = total_bytes // 2
        self._queued_bytes = 0
        """What is queued for all peers."""
        self._peers: dict[bytes, Queued] = {}
        self.refused: set[bytes] = set()
        """The peers that a reply was refused for; no other is full."""
        self._sweep_at_peers = PEERS_MAX
        self._sweep_at_s = 0.0
        self._space_marks()

    def send(self, peer: bytes, frame: bytes) -> bool:
        """Send a reply, or return False: too much is queued for that peer already.

        Raises what the socket raises: zmq.Again for too many messages, EHOSTUNREACH.
        """
        size = len(frame)
        queued = self._peers.get(peer) or self._add(peer)
        if (
            queued.bytes + size > self._peer_bytes or self._queued_bytes + size > self._shared_bytes
        ) and self._is_too_much(peer, queued, size):
            queued.refused_bytes = size
            self.refused.add(peer)
            return False
        unmarked_bytes = queued.unmarked_bytes + size
        self._send(peer, NO_WAIT_MORE)
        # The first reply is a mark, too: a peer that a sweep forgot may have something queued.
        if unmarked_bytes < self._mark_bytes and queued.bytes:
            self._send(frame, NO_WAIT)
        else:
            tracker = self._send(frame, NO_WAIT, copy=False, track=True)
            self._settle(queued)
            queued.marks.append((tracker, unmarked_bytes))
            unmarked_bytes = 0
        queued.unmarked_bytes = unmarked_bytes
        queued.bytes += size
        self._queued_bytes += size
        return True

    @property
    def queued_bytes(self) -> int:
        """What is queued for peers that have not read all up to their last mark."""
        for queued in self._peers.values():
            self._settle(queued)
        return sum(queued.bytes for queued in self._peers.values() if queued.marks)

    def is_full(self, peer: bytes) -> bool:
        """Return whether a reply to a peer was refused, and it has not read half since."""
        queued = self._peers.get(peer)
        if queued is not None:
            if queued.mute_until_s and time.monotonic() < queued.mute_until_s:
                return True
            if queued.refused_bytes:
                self._settle(queued)
                allowed = self._allowed(self._queued_bytes + queued.refused_bytes)
                if queued.marks and queued.bytes > allowed // 2:
                    return True
                queued.refused_bytes = 0
        self.refused.discard(peer)
        return False

    def mute(self, peer: bytes) -> None:
        """Note that libzmq took no more messages for a peer."""
        queued = self._peers.get(peer)
        if queued is not None:
            queued.mute_until_s = time.monotonic() + MUTE_S
            self.refused.add(peer)

    def forget(self, peer: bytes) -> None:
        """Note that a peer is gone."""
        self.refused.discard(peer)
        queued = self._peers.pop(peer, None)
        if queued is not None:
            self._queued_bytes -= queued.bytes

    def _is_too_much(self, peer: bytes, queued: Queued, size: int) -> bool:
        self._settle(queued)
        if self._queued_bytes + size > self._shared_bytes and time.monotonic() >= self._sweep_at_s:
            self._sweep()
            self._peers[peer] = queued
        if queued.bytes + size <= self._allowed(self._queued_bytes + size):
            return False
        if queued.marks and not queued.refused_bytes:
            with suppress(zmq.NotDone):
                queued.marks[-1][0].wait(RELEASE_S)
            self._settle(queued)
        after = self._queued_bytes + size
        return bool(queued.marks) or (after > self._total_bytes and size > SMALL_BYTES)

    def _allowed(self, total: int) -> int:
        """Return how much may be queued for a peer that has not read everything before."""
        if total <= self._shared_bytes:
            return self._peer_bytes
        return min(LITTLE_BYTES if total <= self._total_bytes else SMALL_BYTES, self._peer_bytes)

    def _settle(self, queued: Queued) -> None:
        """Subtract what has left."""
        while queued.marks and queued.marks[0][0].done:
            left = queued.marks.popleft()[1]
            queued.bytes -= left
            self._queued_bytes -= left

    def _add(self, peer: bytes) -> Queued:
        if len(self._peers) >= self._sweep_at_peers:
            self._sweep()
        queued = self._peers[peer] = Queued()
        self._space_marks()
        return queued

    def _sweep(self) -> None:
        """Forget all peers without a mark: only unmarked bytes can be queued for them."""
        for peer, queued in list(self._peers.items()):
            self._settle(queued)
            if not queued.marks:
                self.forget(peer)
                queued.bytes = queued.unmarked_bytes = 0
        self._sweep_at_peers = max(PEERS_MAX, 2 * len(self._peers))
        self._sweep_at_s = time.monotonic() + SWEEP_S
        self._space_marks()

    def _space_marks(self) -> None:
        share = self._total_bytes // UNMARKED_SHARE // max(1, len(self._peers))
        self._mark_bytes = min(MARK_BYTES, self._peer_bytes // MARKS_MIN, share)

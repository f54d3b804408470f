"""How many bytes wait for a peer to read them, and for all: libzmq bounds messages, but no bytes.

Now and then a reply is handed to libzmq without a copy, as a mark: libzmq says when it has let go
of it, and that is when the kernel has taken it and all that was sent to that peer before. So what
is held is known, up to the distance of two marks, however slow anybody is.

The bounds leave something for who reads, however many do not. Of what may be held for all, half is
for anybody; the other half is for peers of whom little is held; and beyond, one small reply goes
to each that has taken all before.
"""

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import zmq

NO_WAIT: Final = int(zmq.DONTWAIT)  # plain numbers: an enum takes its time with each message
NO_WAIT_MORE: Final = NO_WAIT | int(zmq.SNDMORE)
MARK_BYTES: Final = 1024 * 1024
"""How far marks are apart: each costs as much as a few commands."""
MARKS_MIN: Final = 4
"""They are closer where the limit is so low that there would be fewer,"""
UNMARKED_SHARE: Final = 8
"""and where so many peers are in mind that what is unmarked would be more than this part of all."""
LITTLE_BYTES: Final = 1024 * 1024
SMALL_BYTES: Final = 64 * 1024
PEERS_MAX: Final = 1_000
"""With so many peers in mind, those are looked for of whom nothing is held any more."""
SWEEP_S: Final = 0.1
"""How often that is done at most while much is held."""
MUTE_S: Final = 0.05
"""How long a peer with all the messages that it may have is not asked what it wants."""
WORD_S: Final = 0.001
"""How long the word may take that a peer has taken all: it comes by a thread of its own."""


class Held:
    """What was sent to one peer and not proved to have left: in all, and since the last mark."""

    __slots__ = ("bytes", "marks", "mute_until_s", "refused_bytes", "unmarked_bytes")

    def __init__(self) -> None:
        self.bytes = self.unmarked_bytes = 0
        self.mute_until_s = 0.0
        self.marks: deque[tuple[zmq.MessageTracker, int]] = deque()
        self.refused_bytes = 0
        """Of the last reply that was held back, until half of what may be held has left."""


class Unread:
    """Sends replies, and holds no more than `limit_bytes` for a peer and `total_bytes` for all."""

    def __init__(self, socket: "zmq.Socket[bytes]", limit_bytes: int, total_bytes: int) -> None:
        # The socket's own `send` looks at options for other kinds of sockets first.
        self._send: Callable[..., zmq.MessageTracker] = super(zmq.Socket, socket).send
        socket.copy_threshold = 0  # a mark is never copied, however short
        self._limit_bytes = limit_bytes
        self._total_bytes = total_bytes
        self._anybodys_bytes = total_bytes // 2
        self._held_bytes = 0
        """What is held for all peers."""
        self._peers: dict[bytes, Held] = {}
        self._sweep_at_peers = PEERS_MAX
        self._sweep_at_s = 0.0
        self._space_marks()

    def send(self, peer: bytes, frame: bytes) -> bool:
        """Send a reply, or return False: too much waits for that peer already.

        Raises what the socket raises: zmq.Again for too many messages, EHOSTUNREACH.
        """
        size = len(frame)
        held = self._peers.get(peer) or self._meet(peer)
        if (
            held.bytes + size > self._limit_bytes or self._held_bytes + size > self._anybodys_bytes
        ) and self._is_too_much(peer, held, size):
            held.refused_bytes = size
            return False
        unmarked_bytes = held.unmarked_bytes + size
        self._send(peer, NO_WAIT_MORE)
        # The first is marked, too: who was met anew after a sweep may hold something yet.
        if unmarked_bytes < self._mark_bytes and held.bytes:
            self._send(frame, NO_WAIT)
        else:
            tracker = self._send(frame, NO_WAIT, copy=False, track=True)
            self._settle(held)
            held.marks.append((tracker, unmarked_bytes))
            unmarked_bytes = 0
        held.unmarked_bytes = unmarked_bytes
        held.bytes += size
        self._held_bytes += size
        return True

    def is_full(self, peer: bytes) -> bool:
        """Return whether a reply to a peer was held back, and it has not read half since."""
        held = self._peers.get(peer)
        if held is None:
            return False
        if held.mute_until_s and time.monotonic() < held.mute_until_s:
            return True
        if not held.refused_bytes:
            return False
        self._settle(held)
        allowed = self._allowed(self._held_bytes + held.refused_bytes)
        if held.marks and held.bytes > allowed // 2:
            return True
        held.refused_bytes = 0
        return False

    def mute(self, peer: bytes) -> None:
        """Note that libzmq took no more messages for a peer."""
        held = self._peers.get(peer)
        if held is not None:
            held.mute_until_s = time.monotonic() + MUTE_S

    def forget(self, peer: bytes) -> None:
        """Note that a peer is gone."""
        held = self._peers.pop(peer, None)
        if held is not None:
            self._held_bytes -= held.bytes

    def _is_too_much(self, peer: bytes, held: Held, size: int) -> bool:
        self._settle(held)
        if self._held_bytes + size > self._anybodys_bytes and time.monotonic() >= self._sweep_at_s:
            self._sweep()
            self._peers[peer] = held
        if held.bytes + size <= self._allowed(self._held_bytes + size):
            return False
        if held.marks and not held.refused_bytes:
            with suppress(zmq.NotDone):
                held.marks[-1][0].wait(WORD_S)
            self._settle(held)
        after = self._held_bytes + size
        return bool(held.marks) or (after > self._total_bytes and size > SMALL_BYTES)

    def _allowed(self, in_all: int) -> int:
        """Return how much may be held for a peer that has not taken all before."""
        if in_all <= self._anybodys_bytes:
            return self._limit_bytes
        little = LITTLE_BYTES if in_all <= self._total_bytes else SMALL_BYTES
        return min(little, self._limit_bytes)

    def _settle(self, held: Held) -> None:
        """Take note of what has left."""
        while held.marks and held.marks[0][0].done:
            left = held.marks.popleft()[1]
            held.bytes -= left
            self._held_bytes -= left

    def _meet(self, peer: bytes) -> Held:
        if len(self._peers) >= self._sweep_at_peers:
            self._sweep()
        held = self._peers[peer] = Held()
        self._space_marks()
        return held

    def _sweep(self) -> None:
        """Forget all peers of whom no mark is held: no more than what is unmarked can be."""
        for peer, held in list(self._peers.items()):
            self._settle(held)
            if not held.marks:
                self.forget(peer)
                held.bytes = held.unmarked_bytes = 0
        self._sweep_at_peers = max(PEERS_MAX, 2 * len(self._peers))
        self._sweep_at_s = time.monotonic() + SWEEP_S
        self._space_marks()

    def _space_marks(self) -> None:
        share = self._total_bytes // UNMARKED_SHARE // max(1, len(self._peers))
        self._mark_bytes = min(MARK_BYTES, self._limit_bytes // MARKS_MIN, share)

"""How much a peer has been sent that it has not read: libzmq counts messages, but no bytes."""

import fcntl
import struct
import termios
from typing import Final

import zmq

LOOK_BYTES: Final = 1024 * 1024
"""After so much, the kernel is asked whether the peer reads."""
PEERS_MAX: Final = 10_000
"""How many peers are kept in mind: one more, and those are forgotten that were sent little."""


class Unread:
    """Bytes sent to each peer since it was last seen to have read all."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._look_bytes = min(LOOK_BYTES, limit_bytes)
        self._sent: dict[bytes, int] = {}
        self._files: dict[bytes, int] = {}
        self._looked: set[bytes] = set()
        self._mute: set[bytes] = set()

    def next_batch(self) -> None:
        """Note that libzmq has had time to write what it was given before."""
        self._looked.clear()

    def heard(self, peer: bytes, frame: zmq.Frame) -> None:
        """Note where a peer is connected, while that matters."""
        if self._sent.get(peer, 0) > self._look_bytes // 2:
            self._files[peer] = frame.get(zmq.SRCFD)

    def takes(self, peer: bytes, size: int) -> bool:
        """Return whether a peer may be sent so many bytes more; then they count."""
        sent = self._sent.get(peer, 0) + size
        if sent > self._look_bytes and peer not in self._looked:
            self._looked.add(peer)
            if self._has_read_all(peer):
                sent = size
        if sent > max(self._limit_bytes, size):
            self._mute.add(peer)
            return False
        self._sent[peer] = sent
        if len(self._sent) > PEERS_MAX:
            self._sent = {peer: sent for peer, sent in self._sent.items() if sent > LOOK_BYTES // 2}
            self._files = {peer: at for peer, at in self._files.items() if peer in self._sent}
            self._mute &= self._sent.keys()
        return True

    def is_mute(self, peer: bytes) -> bool:
        """Return whether a peer asks, and does not read what it has been answered before."""
        if peer not in self._mute:
            return False
        if peer not in self._looked:
            self._looked.add(peer)
            if self._has_read_all(peer):
                self._mute.discard(peer)
                self._sent[peer] = 0
        return peer in self._mute

    def forget(self, peer: bytes) -> None:
        """Note that a peer is gone."""
        self._sent.pop(peer, None)
        self._files.pop(peer, None)
        self._mute.discard(peer)

    def _has_read_all(self, peer: bytes) -> bool:
        """Ask the kernel: while something waits in its queue, more may wait in libzmq's.

        Once a batch: what libzmq was given a moment ago may not have come so far yet.
        """
        file = self._files.get(peer)
        if file is None:
            return True  # it has sent nothing since it was sent much
        try:
            (waiting,) = struct.unpack("i", fcntl.ioctl(file, termios.TIOCOUTQ, bytes(4)))
        except (OSError, ValueError):  # gone
            return True
        return bool(waiting == 0)

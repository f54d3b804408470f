"""What a peer does not read is bounded in bytes: real sockets, a peer that reads when told."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from broker.unread import LARGE_BYTES, Unread

LIMIT_BYTES = 4 * 1024 * 1024
FRAME = bytes(100_000)
KERNEL_BYTES = 2 * 1024 * 1024
"""More than the kernel's own queue takes."""


class Pair:
    """A ROUTER with an `Unread`, and one peer."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", directory: Path) -> None:
        self.router = context.socket(zmq.ROUTER)
        self.router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.router.setsockopt(zmq.SNDHWM, 0)
        self.router.bind(f"ipc://{directory}/s")
        self.unread = Unread(self.router, LIMIT_BYTES)
        self.dealer = context.socket(zmq.DEALER)
        self.dealer.setsockopt(zmq.RCVHWM, 1)
        self.dealer.setsockopt(zmq.RCVTIMEO, 5_000)
        self.dealer.connect(f"ipc://{directory}/s")
        self.dealer.send(b"")
        self.peer = self.router.recv_multipart()[0]

    def send_until_refused(self, most: int = 1_000) -> int:
        """Return how many frames went out, waiting each time for what the kernel takes."""
        for sent in range(most):
            refused_at = time.monotonic() + 0.5
            while not self.unread.send(self.peer, FRAME):
                if time.monotonic() >= refused_at:
                    return sent
                time.sleep(0.005)
        return most


@pytest.fixture
def pair(short_dir: Path) -> Iterator[Pair]:
    context = zmq.Context()
    yield Pair(context, short_dir)
    context.destroy(linger=0)


def test_a_peer_that_does_not_read_is_sent_no_more_than_the_limit(pair: Pair) -> None:
    sent_bytes = pair.send_until_refused() * len(FRAME)
    assert LIMIT_BYTES - len(FRAME) <= sent_bytes <= LIMIT_BYTES + KERNEL_BYTES
    assert pair.unread.is_full(pair.peer)


def test_who_has_read_is_sent_to_again(pair: Pair) -> None:
    sent = pair.send_until_refused()
    for _ in range(sent):
        assert len(pair.dealer.recv()) == len(FRAME)
    deadline = time.monotonic() + 5
    while pair.unread.is_full(pair.peer) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not pair.unread.is_full(pair.peer)
    assert pair.unread.send(pair.peer, FRAME)
    assert len(pair.dealer.recv()) == len(FRAME)


def test_who_reads_is_never_refused(pair: Pair) -> None:
    for _ in range(3 * LIMIT_BYTES // len(FRAME)):
        assert pair.unread.send(pair.peer, FRAME)
        assert len(pair.dealer.recv()) == len(FRAME)


def test_a_reply_larger_than_the_limit_goes_to_who_has_read_all_before(pair: Pair) -> None:
    large = bytes(LIMIT_BYTES + 1)
    assert pair.unread.send(pair.peer, FRAME)
    assert len(pair.dealer.recv()) == len(FRAME)
    assert pair.unread.send(pair.peer, large)
    assert len(pair.dealer.recv()) == len(large)


def test_small_replies_are_left_to_their_number(pair: Pair) -> None:
    small = bytes(LARGE_BYTES - 1)
    for _ in range(2 * LIMIT_BYTES // len(small)):
        assert pair.unread.send(pair.peer, small)
    assert not pair.unread.is_full(pair.peer)


def test_a_peer_that_is_gone_is_forgotten(pair: Pair) -> None:
    pair.send_until_refused()
    pair.unread.forget(pair.peer)
    assert not pair.unread.is_full(pair.peer)

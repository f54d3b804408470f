"""What a peer does not read is bounded in bytes: real sockets, a peer that reads when told."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from tollgate.broker.transport.send_budget import (
    LITTLE_BYTES,
    MARK_BYTES,
    SMALL_BYTES,
    SWEEP_S,
    Unread,
)

LIMIT_BYTES = 4 * 1024 * 1024
FRAME = bytes(100_000)
KERNEL_BYTES = 2 * 1024 * 1024
"""More than the kernel's own queue takes."""
KERNEL_EACH_BYTES = 512 * 1024
"""And what it takes of each of many."""
MUTE = 30


TOTAL_BYTES = 16 * 1024 * 1024


class House:
    """A ROUTER with an `Unread`, and peers that read when told."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", directory: Path) -> None:
        self._context = context
        self._dealers: list[zmq.Socket[bytes]] = []
        self._endpoint = f"ipc://{directory}/s"
        self.router = context.socket(zmq.ROUTER)
        self.router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.router.setsockopt(zmq.SNDHWM, 0)
        self.router.bind(self._endpoint)
        self.unread = Unread(self.router, LIMIT_BYTES, TOTAL_BYTES)
        self.dealer, self.peer = self.join()

    def join(self) -> tuple["zmq.Socket[bytes]", bytes]:
        """Let another peer come; return its socket and its name."""
        dealer = self._context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.RCVHWM, 1)
        dealer.setsockopt(zmq.RCVTIMEO, 5_000)
        dealer.connect(self._endpoint)
        dealer.send(b"")
        self._dealers.append(dealer)
        return dealer, self.router.recv_multipart()[0]

    def send_until_refused(
        self, peer: bytes, frame: bytes = FRAME, most: int = 100_000, patience_s: float = 0.5
    ) -> int:
        """Return how many frames went out, waiting each time for what the kernel takes."""
        for sent in range(most):
            refused_at = time.monotonic() + patience_s
            while not self.unread.send(peer, frame):
                if time.monotonic() >= refused_at:
                    return sent
                time.sleep(0.005)
                self.router.poll(0)  # as the loop does: then libzmq looks who has gone
        return most

    def close(self) -> None:
        """Let the peers go first, and then the socket with what they have not read."""
        for dealer in self._dealers:
            dealer.close(linger=0)
        self.router.close(linger=0)

    def fill(self) -> int:
        """Let more peers not read than there is room for; return how many bytes were sent."""
        mute = [self.join()[1] for _ in range(MUTE)]
        return sum(self.send_until_refused(peer, patience_s=0.05) * len(FRAME) for peer in mute)


@pytest.fixture
def house(short_dir: Path) -> Iterator[House]:
    context = zmq.Context()
    house = House(context, short_dir)
    yield house
    house.close()
    context.term()


def test_a_peer_that_does_not_read_is_sent_no_more_than_the_limit(house: House) -> None:
    sent_bytes = house.send_until_refused(house.peer) * len(FRAME)
    assert LIMIT_BYTES - len(FRAME) <= sent_bytes <= LIMIT_BYTES + KERNEL_BYTES
    assert house.unread.is_full(house.peer)


def test_who_has_read_is_sent_to_again(house: House) -> None:
    sent = house.send_until_refused(house.peer)
    for _ in range(sent):
        assert len(house.dealer.recv()) == len(FRAME)
    deadline = time.monotonic() + 5
    while house.unread.is_full(house.peer) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not house.unread.is_full(house.peer)
    assert house.unread.send(house.peer, FRAME)
    assert len(house.dealer.recv()) == len(FRAME)


def test_who_reads_is_never_refused(house: House) -> None:
    for _ in range(3 * LIMIT_BYTES // len(FRAME)):
        assert house.unread.send(house.peer, FRAME)
        assert len(house.dealer.recv()) == len(FRAME)


def test_a_reply_larger_than_the_limit_goes_to_who_has_read_all_before(house: House) -> None:
    large = bytes(LIMIT_BYTES + 1)
    assert house.unread.send(house.peer, FRAME)
    assert len(house.dealer.recv()) == len(FRAME)
    wait_until(lambda: house.unread.send(house.peer, large))
    assert len(house.dealer.recv()) == len(large)


def test_small_replies_count_as_well(house: House) -> None:
    small = bytes(1_000)
    sent_bytes = house.send_until_refused(house.peer, small) * len(small)
    assert LIMIT_BYTES - len(small) <= sent_bytes <= LIMIT_BYTES + KERNEL_BYTES
    assert house.unread.is_full(house.peer)


def test_all_that_do_not_read_are_sent_no_more_than_the_total(house: House) -> None:
    sent_bytes = house.fill()
    assert TOTAL_BYTES - len(FRAME) <= sent_bytes
    assert sent_bytes <= TOTAL_BYTES + MUTE * (SMALL_BYTES + MARK_BYTES + KERNEL_EACH_BYTES)


def test_who_reads_is_served_small_replies_though_the_total_is_reached(house: House) -> None:
    house.fill()
    small = bytes(SMALL_BYTES)
    for _ in range(100):
        wait_until(lambda: house.unread.send(house.peer, small))
        assert len(house.dealer.recv()) == len(small)
    house.send_until_refused(house.peer, small)  # it stops reading, and is as the others
    assert house.unread.is_full(house.peer)


def test_who_reads_is_served_large_replies_while_half_is_held_for_others(house: House) -> None:
    for _ in range(3):
        house.send_until_refused(house.join()[1], patience_s=0.05)
    large = bytes(2 * LITTLE_BYTES)
    for _ in range(20):
        wait_until(lambda: house.unread.send(house.peer, large))
        assert len(house.dealer.recv()) == len(large)
    slow = house.join()[1]
    assert house.send_until_refused(slow) * len(FRAME) <= LITTLE_BYTES + KERNEL_BYTES


def test_what_was_held_for_who_is_gone_or_has_read_is_free_again(house: House) -> None:
    gone = [house.join() for _ in range(MUTE)]
    for _, peer in gone:
        house.send_until_refused(peer, patience_s=0.05)
    for dealer, _ in gone:
        dealer.close(0)
    time.sleep(2 * SWEEP_S)
    sent_bytes = house.send_until_refused(house.peer) * len(FRAME)
    assert sent_bytes >= LIMIT_BYTES - len(FRAME)  # as much as if nobody had been there


def test_peers_who_have_read_all_are_not_remembered_for_ever(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tollgate.broker.transport.send_budget.PEERS_MAX", 4)
    house.unread._sweep_at_peers = 4
    for _ in range(20):
        dealer, peer = house.join()
        assert house.unread.send(peer, FRAME)
        assert len(dealer.recv()) == len(FRAME)
    assert len(house.unread._peers) <= 8


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_peer_that_is_gone_is_forgotten(house: House) -> None:
    house.send_until_refused(house.peer)
    house.unread.forget(house.peer)
    assert not house.unread.is_full(house.peer)


def test_a_peer_with_all_the_messages_it_may_have_is_not_asked_for_a_moment(house: House) -> None:
    unread = house.unread
    unread.mute(b"nobody")
    assert not unread.is_full(b"nobody")
    assert unread.send(house.peer, b"one")
    assert not unread.is_full(house.peer)
    unread.mute(house.peer)
    assert unread.is_full(house.peer)
    deadline = time.monotonic() + 5
    while unread.is_full(house.peer) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not unread.is_full(house.peer)  # it may have read since: it is tried again

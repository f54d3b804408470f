"""A turn of the socket ends only if its file descriptor will report the next event."""

from collections import deque
from typing import Any

import pytest
import zmq

from tollgate.client.connection import Connection
from tollgate.client.session import Session
from tollgate.domain.commands import Count, Get
from tollgate.domain.results import JobsResult

from .peers import reply

READABLE, WRITABLE = int(zmq.POLLIN), int(zmq.POLLOUT)


class TrickySocket:
    """Takes frames when `writable`; the answer to a frame arrives once it is sent."""

    def __init__(self) -> None:
        self.writable = True
        self.opens_later = False
        self.sent: list[bytes] = []
        self.inbox: deque[bytes] = deque()
        self.replies: deque[bytes] = deque()
        self.looks = 0

    def getsockopt(self, option: int) -> int:
        assert option == zmq.EVENTS
        self.looks += 1
        return READABLE * bool(self.inbox) + WRITABLE * self.writable

    def recv(self, flags: int) -> bytes:
        assert flags == zmq.DONTWAIT
        return self.inbox.popleft()

    def send(self, frame: bytes, flags: int) -> None:
        assert flags == zmq.DONTWAIT
        if not self.writable:
            self.writable = self.opens_later  # a connection comes at the wrong moment
            raise zmq.Again
        self.sent.append(frame)
        if self.replies:
            self.inbox.append(self.replies.popleft())


@pytest.fixture
def socket() -> TrickySocket:
    return TrickySocket()


@pytest.fixture
def connection(socket: TrickySocket, monkeypatch: pytest.MonkeyPatch) -> Connection:
    connection = Connection("nowhere")
    tricky: Any = socket
    monkeypatch.setattr(connection, "_open", lambda: tricky)
    return connection


@pytest.fixture
def session() -> Session:
    return Session("nowhere", jitter=lambda: 0.5)


def test_frames_that_arrive_while_sending_are_taken(
    connection: Connection, socket: TrickySocket, session: Session
) -> None:
    calls = [session.submit([Count()], deadline=float("inf")) for _ in range(3)]
    for call in calls:
        session.pull(call)
    socket.replies.extend(reply(seq, JobsResult([], None)) for seq in (1, 2, 3))

    connection.turn(session)

    assert all(call.done for call in calls)
    assert not socket.inbox


def test_a_socket_that_opens_late_is_tried_again(
    connection: Connection, socket: TrickySocket, session: Session
) -> None:
    socket.writable, socket.opens_later = False, True
    session.pull(session.submit([Get(job_id="a")], deadline=float("inf")))
    connection.turn(session)
    assert len(socket.sent) == 1


def test_a_socket_that_stays_blocked_ends_the_turn(
    connection: Connection, socket: TrickySocket, session: Session
) -> None:
    socket.writable = False
    session.pull(session.submit([Get(job_id="a")], deadline=float("inf")))
    connection.turn(session)
    assert socket.sent == []
    socket.writable = True
    connection.turn(session)
    connection.turn(session)
    assert len(socket.sent) == 1


def test_a_turn_without_sends_asks_for_events_twice(
    connection: Connection, socket: TrickySocket, session: Session
) -> None:
    call = session.submit_one(Count(), deadline=float("inf"))
    connection.turn(session)
    socket.looks = 0
    socket.inbox.append(reply(1, JobsResult([], None)))
    connection.turn(session)
    assert call.done
    assert socket.looks == 2

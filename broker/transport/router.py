"""A ROUTER socket and who comes in by it: listening, connections, messages in and replies out."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import structlog
import zmq

from tollgate.broker.core.batch import Arrival, Reply
from tollgate.broker.core.roles import Principal
from tollgate.broker.settings import Settings
from tollgate.broker.telemetry.counters import Counters
from tollgate.broker.transport.connections import Watch
from tollgate.broker.transport.endpoints import Endpoint, EndpointError
from tollgate.broker.transport.listener import Listener
from tollgate.broker.transport.send_budget import Unread

log = structlog.get_logger("tollgate.broker")

FRAME_FACTOR: Final = 4
"""A frame of up to so many times the limit is answered; a larger one ends its connection."""

QUEUED_MIN: Final = 4
"""So many messages of a peer may be queued at least: a client sends some ahead."""
BACKLOG_MAX: Final = 100

NO_WAIT: Final = int(zmq.DONTWAIT)  # plain numbers: an enum takes its time with each message
EVENTS: Final = int(zmq.EVENTS)
INPUT: Final = int(zmq.POLLIN)

Identify = Callable[[zmq.Frame], Principal]
"""Tells by a message's frame who has sent it. Never by its routing id: a peer may choose that."""


class Share(NamedTuple):
    """How much of a batch one peer may have, and all together."""

    messages: int
    bytes: int
    batch_messages: int
    batch_bytes: int


class Door:
    """One ROUTER socket. `mark` is a byte that tells its peers from those of other doors."""

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        mark: bytes,
        identify: Identify,
        settings: Settings,
        counters: Counters,
    ) -> None:
        self.mark = mark
        self._identify = identify
        self._counters = counters
        self._share = Share(
            settings.share_messages,
            settings.share_bytes,
            settings.batch_messages,
            settings.batch_bytes,
        )
        self.bound: list[str] = []
        """Where it listens, as libzmq calls it."""
        self._held: list[Endpoint | Listener] = []
        self._is_shut = False
        self.socket = context.socket(zmq.ROUTER)
        self._unread = Unread(self.socket, settings.unread_bytes, settings.unread_total_bytes)
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # hear of peers that are gone
        self.socket.setsockopt(zmq.ROUTER_HANDOVER, 0)  # nobody takes another's replies
        self.socket.setsockopt(zmq.MAXMSGSIZE, FRAME_FACTOR * settings.request_bytes)
        self.socket.setsockopt(zmq.SNDHWM, settings.send_window)
        self.socket.setsockopt(zmq.RCVHWM, _queued_max(settings))
        self.socket.setsockopt(zmq.HANDSHAKE_IVL, settings.handshake_ms)
        # Who stands in the kernel's queue is let in yet after the door was shut.
        self._backlog = min(BACKLOG_MAX, max(1, settings.connections // 8))
        self.socket.setsockopt(zmq.BACKLOG, self._backlog)
        self._watch = Watch(self.socket, settings.connections, self._shut, self._reopen)

    def open(self, endpoints: Sequence[str | Endpoint]) -> None:
        """Listen: at a tcp url, or at an ipc endpoint that this process holds.

        Raises EndpointError.
        """
        for endpoint in endpoints:
            held = endpoint if isinstance(endpoint, Endpoint) else self._listen(endpoint)
            self._held.append(held)
            self._bind(held.url)
            held.opened()
            self.bound.append(_text(self.socket.getsockopt(zmq.LAST_ENDPOINT)))

    def _listen(self, url: str) -> Listener:
        listener = Listener(url, self._backlog)
        self.socket.setsockopt(zmq.USE_FD, listener.give())
        return listener

    def _bind(self, url: str) -> None:
        umask = os.umask(0o177)
        try:
            self.socket.bind(url)
        except zmq.ZMQError as fault:
            raise EndpointError(f"{url}: {fault}") from None
        finally:
            os.umask(umask)

    def tend(self) -> None:
        """Say and count what the watch on the connections has seen and done."""
        self._counters.update(self._watch.take_failures())
        if self._watch.is_shut is not self._is_shut:
            self._is_shut = self._watch.is_shut
            said = "too many connections: accepting no more" if self._is_shut else "accepting again"
            log.warning(said, connections=self._watch.connections)

    def close(self) -> None:
        """Watch no more; the socket goes with its context."""
        self._watch.close()
        for held in self._held:
            if isinstance(held, Listener):
                held.close()

    def _shut(self) -> None:
        _each(held.shut for held in self._held)

    def _reopen(self) -> None:
        _each(held.reopen for held in self._held)

    def has_input(self) -> bool:
        """Return whether something has arrived."""
        return bool(int(self.socket.getsockopt(EVENTS)) & INPUT)

    def drain(self, batch: list[Arrival]) -> bool:
        """Take what has arrived, until one peer has had its share, or the batch is full.

        To be called when something has, as a poll has told. Return whether there may be more.
        libzmq hands over one message of each peer in turn: who waits is never behind more than one
        share of each other's.
        """
        share, receive = self._share, self.socket.recv
        messages: dict[bytes, int] = {}
        sizes: dict[bytes, int] = {}
        size = 0
        while len(batch) < share.batch_messages and size < share.batch_bytes:
            peer = receive(NO_WAIT)
            frame = receive(NO_WAIT, copy=False)
            principal, frames = self._identify(frame), [frame.bytes]
            if frame.more:
                frames += self._rest()
            if self._unread.is_full(peer):
                self._counters["request_of_mute"] += 1  # its answer would have to be dropped
            else:
                batch.append(Arrival(self.mark + peer, frames, principal))
            if not self.has_input():  # asking costs less than being told by an exception
                return False
            taken = sum(map(len, frames))
            size += taken
            messages[peer] = count = messages.get(peer, 0) + 1
            sizes[peer] = taken = sizes.get(peer, 0) + taken
            if count >= share.messages or taken >= share.bytes:
                break
        return True

    def _rest(self) -> Iterator[bytes]:
        """Take the frames of a message behind its first one."""
        more = True
        while more:
            frame = self.socket.recv(NO_WAIT, copy=False)
            yield frame.bytes
            more = frame.more

    def send(self, reply: Reply) -> bool:
        """Send a reply; return False, and count why, if it cannot be."""
        peer = reply.peer[1:]
        try:
            if self._unread.send(peer, reply.frame):
                return True
            self._counters["reply_not_read"] += 1
        except zmq.Again:
            self._unread.mute(peer)
            self._counters["reply_not_read"] += 1
        except zmq.ZMQError as fault:
            if fault.errno != zmq.EHOSTUNREACH:
                raise
            self._unread.forget(peer)
            self._counters["reply_peer_gone"] += 1
        return False


def _each(actions: Iterable[Callable[[], None]]) -> None:
    """Do all of them, whatever becomes of each; then raise the first fault, if there was one."""
    faults = []
    for act in actions:
        try:
            act()
        except OSError as fault:
            faults.append(fault)
    if faults:
        raise faults[0]


def _queued_max(settings: Settings) -> int:
    """Return how many messages may be queued from a peer: libzmq bounds their number alone."""
    largest = settings.receive_bytes // (FRAME_FACTOR * settings.request_bytes)
    return max(QUEUED_MIN, min(settings.receive_window, largest))


def _text(option: int | bytes) -> str:
    return option.decode().rstrip("\0") if isinstance(option, bytes) else str(option)

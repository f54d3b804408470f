"""A ROUTER socket and who comes in by it: listening, connections, messages in and replies out."""

import os
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import structlog
import zmq
from zmq.utils.monitor import parse_monitor_message

from broker.counters import Counters
from broker.endpoint import Endpoint, EndpointError
from broker.pipeline import Arrival, Reply
from broker.principal import Principal
from broker.settings import Settings
from broker.unread import Unread

log = structlog.get_logger("tollgate.broker")

FRAME_FACTOR: Final = 4
"""A frame of up to so many times the limit is answered; a larger one ends its connection."""
EVENTS_AT_ONCE: Final = 10_000
"""How many events of connections are taken between two batches."""
NOT_SHAKEN_HANDS: Final = {
    zmq.Event.HANDSHAKE_FAILED_NO_DETAIL: "handshake_broken_off",
    zmq.Event.HANDSHAKE_FAILED_PROTOCOL: "handshake_malformed",
    zmq.Event.HANDSHAKE_FAILED_AUTH: "handshake_key_refused",
    zmq.Event.ACCEPT_FAILED: "accept_failed",
}

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
        self.connections = 0
        """How many there are, those that are still shaking hands included."""
        self._identify = identify
        self._counters = counters
        self._connections_max = settings.connections
        self._share = Share(
            settings.share_messages,
            settings.share_bytes,
            settings.batch_messages,
            settings.batch_bytes,
        )
        self.bound: list[str] = []
        """Where it listens, as libzmq calls it."""
        self._held: list[Endpoint] = []
        self.is_shut = False
        """Whether nobody else is let in, for there are too many."""
        self._unread = Unread(settings.unread_bytes)
        self.socket = context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # hear of peers that are gone
        self.socket.setsockopt(zmq.ROUTER_HANDOVER, 0)  # nobody takes another's replies
        self.socket.setsockopt(zmq.MAXMSGSIZE, FRAME_FACTOR * settings.request_bytes)
        self.socket.setsockopt(zmq.SNDHWM, settings.send_window)
        self.socket.setsockopt(zmq.RCVHWM, settings.receive_window)
        self.socket.setsockopt(zmq.HANDSHAKE_IVL, settings.handshake_ms)
        self.monitor = self._watch(context)

    def _watch(self, context: "zmq.Context[zmq.Socket[bytes]]") -> "zmq.Socket[bytes]":
        address = f"inproc://door-{self.mark.hex()}"
        events = zmq.Event.ACCEPTED | zmq.Event.DISCONNECTED
        for failure in NOT_SHAKEN_HANDS:
            events |= failure
        self.socket.monitor(address, events)
        monitor = context.socket(zmq.PAIR)
        monitor.setsockopt(zmq.RCVHWM, 0)  # full, it would hold up libzmq's own thread
        monitor.connect(address)
        return monitor

    def open(self, endpoints: Sequence[str | Endpoint]) -> None:
        """Listen: at a url, or at an ipc endpoint that this process holds. Raises EndpointError."""
        for endpoint in endpoints:
            held = isinstance(endpoint, Endpoint)
            url = endpoint.url if isinstance(endpoint, Endpoint) else endpoint
            self._bind(url)
            if isinstance(endpoint, Endpoint):
                endpoint.opened()
                self._held.append(endpoint)
            self.bound.append(url if held else _text(self.socket.getsockopt(zmq.LAST_ENDPOINT)))

    def _bind(self, url: str) -> None:
        umask = os.umask(0o177)
        try:
            self.socket.bind(url)
        except zmq.ZMQError as fault:
            raise EndpointError(f"{url}: {fault}") from None
        finally:
            os.umask(umask)

    def tend(self) -> None:
        """Count connections, and let in no more before there are more than can be had.

        With no file descriptor left, libzmq's ipc listener would end the process.
        """
        for _ in range(EVENTS_AT_ONCE):
            try:
                told = parse_monitor_message(self.monitor.recv_multipart(zmq.DONTWAIT))
            except zmq.Again:
                break
            event = zmq.Event(told["event"])
            if event is zmq.Event.ACCEPTED:
                self.connections += 1
            elif event is zmq.Event.DISCONNECTED:
                self.connections -= 1
            else:
                self._counters[NOT_SHAKEN_HANDS[event]] += 1
        if not self.is_shut and self.connections >= self._connections_max:
            self._shut()
        elif self.is_shut and self.connections <= self._connections_max // 2:
            self._reopen()

    def _shut(self) -> None:
        self.is_shut = True
        self._counters["stopped_accepting"] += 1
        log.warning("too many connections: accepting no more", connections=self.connections)
        for endpoint in self._held:
            endpoint.shut()
        if not self._held:  # by tcp, it takes all who are in with it; they will come again
            for url in self.bound:
                self.socket.unbind(url)
            self.connections = 0

    def _reopen(self) -> None:
        self.is_shut = False
        log.warning("accepting connections again", connections=self.connections)
        for endpoint in self._held:
            endpoint.reopen()
        if not self._held:
            for url in self.bound:
                self._bind(url)

    def drain(self, batch: list[Arrival]) -> bool:
        """Take what has arrived, until one peer has had its share, or the batch is full.

        Return whether there may be more. libzmq hands over one message of each peer in turn: who
        waits is never behind more than one share of each other's.
        """
        share, receive, mark, identify = self._share, self.socket.recv, self.mark, self._identify
        unread = self._unread
        unread.next_batch()
        messages: dict[bytes, int] = {}
        sizes: dict[bytes, int] = {}
        size = 0
        while len(batch) < share.batch_messages and size < share.batch_bytes:
            try:
                peer = receive(zmq.DONTWAIT)
            except zmq.Again:
                return False
            frame = receive(zmq.DONTWAIT, copy=False)
            frames, principal = [frame.bytes], identify(frame)
            unread.heard(peer, frame)
            while frame.more:
                frame = receive(zmq.DONTWAIT, copy=False)
                frames.append(frame.bytes)
            batch.append(Arrival(mark + peer, frames, principal))
            taken = sum(map(len, frames))
            size += taken
            messages[peer] = count = messages.get(peer, 0) + 1
            sizes[peer] = taken = sizes.get(peer, 0) + taken
            if count >= share.messages or taken >= share.bytes:
                break
        return True

    def send(self, reply: Reply) -> bool:
        """Send a reply; return False, and count why, if it cannot be."""
        peer = reply.peer[1:]
        if not self._unread.takes(peer, len(reply.frame)):
            self._counters["reply_not_read"] += 1
            return False
        try:
            self.socket.send_multipart((peer, reply.frame), zmq.DONTWAIT)
        except zmq.Again:
            self._counters["reply_not_read"] += 1
            return False
        except zmq.ZMQError as fault:
            if fault.errno != zmq.EHOSTUNREACH:
                raise
            self._unread.forget(peer)
            self._counters["reply_peer_gone"] += 1
            return False
        return True


def _text(option: int | bytes) -> str:
    return option.decode().rstrip("\0") if isinstance(option, bytes) else str(option)

"""A ROUTER socket: its endpoints and connections, messages in, replies out."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

import zmq

from tollgate.broker.core.batch import Arrival, ReplyFrame
from tollgate.broker.core.limits import BATCH_BYTES, BATCH_MESSAGES
from tollgate.broker.core.roles import Principal
from tollgate.broker.telemetry import Counters
from tollgate.broker.transport.connections import ConnectionMonitor
from tollgate.broker.transport.endpoints import IpcEndpoint, TcpEndpoint, backlog_for
from tollgate.broker.transport.send_budget import SendBudget
from tollgate.log import get_logger

log = get_logger("tollgate.broker")

FRAME_FACTOR: Final = 4
"""A frame of up to 4 times `request_bytes` is answered; a larger one ends its connection."""
QUEUED_MIN: Final = 4
"""Messages of a peer that may be queued at least: clients pipeline a few."""

NO_WAIT: Final = int(zmq.DONTWAIT)  # plain numbers: an enum costs time with each message
EVENTS: Final = int(zmq.EVENTS)
INPUT: Final = int(zmq.POLLIN)

Identify = Callable[[zmq.Frame], Principal]
"""Returns the sender of a frame. Never judges by the routing id: a peer can choose that."""


class RouterLimits(NamedTuple):
    """Limits of one ROUTER socket. Settings decide the first four; the others are constants."""

    request_bytes: int
    connections: int
    unread_total_bytes: int
    linger_ms: int
    batch_messages: int = BATCH_MESSAGES
    """Messages in a batch,"""
    batch_bytes: int = BATCH_BYTES
    """and bytes after which no other is added: a large message is a batch of its own."""
    share_messages: int = 64
    """Messages of one peer in a batch,"""
    share_bytes: int = 256 * 1024
    """and bytes of one peer in a batch."""
    send_window: int = 1_000
    """Replies queued for a peer."""
    unread_bytes: int = 32 * 1024 * 1024
    """Bytes queued for a peer that does not read."""
    receive_window: int = 1_000
    """Messages queued from a peer."""
    receive_bytes: int = 32 * 1024 * 1024
    """Bytes queued from a peer, if each message is as large as possible."""
    handshake_ms: int = 5_000
    """Time to finish a handshake."""

    def queued_max(self) -> int:
        """Return how many messages may be queued from a peer: libzmq bounds their number only."""
        largest = self.receive_bytes // (FRAME_FACTOR * self.request_bytes)
        return max(QUEUED_MIN, min(self.receive_window, largest))


class Router:
    """One ROUTER socket. `mark` is a byte that tells its peers from those of other routers."""

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        mark: bytes,
        identify: Identify,
        limits: RouterLimits,
        counters: Counters,
    ) -> None:
        self.mark = mark
        self._identify = identify
        self._limits = limits
        self._counters = counters
        self.bound: list[str] = []
        """Addresses that it is bound to, as libzmq writes them."""
        self._endpoints: list[IpcEndpoint | TcpEndpoint] = []
        self._was_paused = False
        self.socket = context.socket(zmq.ROUTER)
        self._budget = SendBudget(self.socket, limits.unread_bytes, limits.unread_total_bytes)
        for option, value in {
            zmq.ROUTER_MANDATORY: 1,  # report peers that are gone
            zmq.ROUTER_HANDOVER: 0,  # no peer takes another's replies
            zmq.MAXMSGSIZE: FRAME_FACTOR * limits.request_bytes,
            zmq.SNDHWM: limits.send_window,
            zmq.RCVHWM: limits.queued_max(),
            zmq.HANDSHAKE_IVL: limits.handshake_ms,
            zmq.BACKLOG: backlog_for(limits.connections),
            # Set before `bind`: a connection keeps the value of that moment. If a peer with unread
            # replies disconnects while the socket closes, libzmq waits that long for it, and the
            # default is for ever: the context would never terminate.
            zmq.LINGER: limits.linger_ms,
        }.items():
            self.socket.setsockopt(option, value)
        self._monitor = ConnectionMonitor(
            self.socket, limits.connections, self._pause, self._resume
        )

    def bind(self, endpoints: Iterable[IpcEndpoint | TcpEndpoint]) -> None:
        """Accept connections at endpoints that this process holds. Raises EndpointError."""
        for endpoint in endpoints:
            self._endpoints.append(endpoint)
            endpoint.bind(self.socket)
            self.bound.append(self.socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0"))

    def housekeeping(self) -> None:
        """Count and log what the connection monitor has seen and done."""
        if self._monitor.failures:
            self._counters.update(self._monitor.take_failures())
        if self._monitor.is_paused is not self._was_paused:
            self._was_paused = self._monitor.is_paused
            event = (
                "too many connections: accepting no more" if self._was_paused else "accepting again"
            )
            log.warning(event, connections=self._monitor.connections)

    def look(self) -> None:
        """Bind endpoints anew whose files are gone. Raises EndpointError if that cannot be done."""
        for endpoint in self._endpoints:
            event = endpoint.look(self.socket)
            if event is not None:
                log.warning(event, endpoint=endpoint.url)

    @property
    def connections(self) -> int:
        """How many peers are connected, or about to be."""
        return self._monitor.connections

    @property
    def unread_bytes(self) -> int:
        """How many bytes of replies wait for peers to read them."""
        return self._budget.queued_bytes

    def close(self) -> None:
        """Stop the connection monitor; the socket is closed with its context."""
        self._monitor.close()

    def has_input(self) -> bool:
        """Return whether a message can be received."""
        return bool(int(self.socket.getsockopt(EVENTS)) & INPUT)

    def receive(self, batch: list[Arrival]) -> bool:
        """Receive messages until one peer has had its share, or the batch is full.

        Call it when a poll has reported input. Return whether there may be more. libzmq hands over
        one message of each peer in turn: no peer waits for more than one share of each other peer.
        """
        limits, receive, events = self._limits, self.socket.recv, self.socket.getsockopt
        messages: dict[bytes, int] = {}
        sizes: dict[bytes, int] = {}
        size = 0
        while len(batch) < limits.batch_messages and size < limits.batch_bytes:
            peer = receive(NO_WAIT)
            frame = receive(NO_WAIT, copy=False)
            principal, frames = self._identify(frame), [frame.bytes]
            if frame.more:
                frames += self._rest()
            if peer in self._budget.refused and self._budget.is_full(peer):
                self._counters["request_of_mute"] += 1  # the reply would have to be dropped
            else:
                batch.append(Arrival(self.mark + peer, frames, principal))
            if not int(events(EVENTS)) & INPUT:  # asking costs less than an exception
                return False
            taken = sum(map(len, frames))
            size += taken
            messages[peer] = count = messages.get(peer, 0) + 1
            sizes[peer] = taken = sizes.get(peer, 0) + taken
            if count >= limits.share_messages or taken >= limits.share_bytes:
                break
        return True

    def send(self, reply: ReplyFrame) -> bool:
        """Send a reply; return False, and count the reason, if it cannot be sent."""
        peer = reply.peer[1:]
        try:
            if self._budget.send(peer, reply.frame):
                return True
            self._counters["reply_not_read"] += 1
        except zmq.Again:
            self._budget.mute(peer)
            self._counters["reply_not_read"] += 1
        except zmq.ZMQError as fault:
            if fault.errno != zmq.EHOSTUNREACH:
                raise
            self._budget.forget(peer)
            self._counters["reply_peer_gone"] += 1
        return False

    def _rest(self) -> Iterator[bytes]:
        """Receive the frames of a message behind its first one."""
        more = True
        while more:
            frame = self.socket.recv(NO_WAIT, copy=False)
            yield frame.bytes
            more = frame.more

    def _pause(self) -> None:
        _call_all(endpoint.pause for endpoint in self._endpoints)

    def _resume(self) -> None:
        _call_all(endpoint.resume for endpoint in self._endpoints)


def _call_all(actions: Iterable[Callable[[], None]]) -> None:
    """Call all of them, even if one fails; then raise the first OSError, if there was one."""
    faults = []
    for act in actions:
        try:
            act()
        except OSError as fault:
            faults.append(fault)
    if faults:
        raise faults[0]

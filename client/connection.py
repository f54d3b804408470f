"""Holds the DEALER socket of one client, opened at first use; it blocks nowhere but in `listen`."""

import os
from time import monotonic, time
from typing import TYPE_CHECKING, Final, cast

import zmq

from tollgate.client.errors import BrokerUnreachableError, ForkedClientError, KeyFileError
from tollgate.client.keyfile import read_key

if TYPE_CHECKING:
    from tollgate.client.exchange import Exchange
    from tollgate.client.session import Session

ENDPOINT_VARIABLE: Final = "TOLLGATE_ENDPOINT"
WAIT_S_MAX: Final = 3_600.0

# As plain numbers: arithmetic on the enum's members takes longer than the call that they are for.
_DONTWAIT: Final = int(zmq.DONTWAIT)
_POLLIN: Final = int(zmq.POLLIN)
_EITHER: Final = int(zmq.POLLIN | zmq.POLLOUT)

_OPTIONS: Final[dict[int, int | bytes]] = {
    zmq.IMMEDIATE: 1,  # nothing waits for a broker that is not there, to be executed much later
    zmq.LINGER: 0,  # nothing is left to be sent when nobody waits for its answer
    zmq.SNDHWM: 64,  # what cannot leave stays with the session, which knows that it did not
    zmq.RCVHWM: 0,  # all that comes was asked for
    zmq.RECONNECT_IVL: 50,
    zmq.RECONNECT_IVL_MAX: 1_000,
}

_HEARTBEATS: Final[dict[int, int | bytes]] = {
    zmq.HEARTBEAT_IVL: 10_000,
    zmq.HEARTBEAT_TIMEOUT: 30_000,
}
"""By tcp the other side may be gone without a word; then libzmq connects anew."""


def _events(socket: "zmq.Socket[bytes]") -> int:
    return cast("int", socket.getsockopt(zmq.EVENTS))


def _drain(socket: "zmq.Socket[bytes]", session: "Session") -> None:
    while _events(socket) & _POLLIN:
        session.receive(socket.recv(_DONTWAIT), monotonic())


def _flush(socket: "zmq.Socket[bytes]", session: "Session") -> bool | None:
    """Send what there is to send; return whether some could not leave, None if there was none."""
    blocked = None
    while not session.awaits_nothing:
        now = monotonic()
        frame = session.next_frame(now, time())
        if frame is None:
            break
        try:
            socket.send(frame, _DONTWAIT)
        except zmq.Again:
            return True
        blocked = False
        if not session.sent(now):
            break
    return blocked


def resolve_endpoint(endpoint: str | None) -> str:
    """Return `endpoint`, or else what TOLLGATE_ENDPOINT says, or else the user's default."""
    named = endpoint or os.environ.get(ENDPOINT_VARIABLE)
    if named:
        return named
    from tollgate.domain.endpoint import default_endpoint  # noqa: PLC0415 - seldom needed, and slow to load

    return default_endpoint()


class Link:
    """A connection to `endpoint` that belongs to the process which opened it.

    By tcp a broker lets in key holders alone: `key` is the file with theirs.
    """

    def __init__(self, endpoint: str, key: str | None = None, spin_us: int = 0) -> None:
        """Take note of where to connect; nothing is opened yet.

        `spin_us` is how many microseconds to look for an answer again and again before sleeping.
        """
        self._spin_s = spin_us / 1_000_000
        self.endpoint = endpoint
        self._key = key if endpoint.startswith("tcp:") else None
        self._socket: zmq.Socket[bytes] | None = None
        self._pid = 0

    @property
    def socket(self) -> "zmq.Socket[bytes]":
        """The socket, opened if it is not.

        Raises:
            BrokerUnreachableError: the endpoint is none.
            KeyFileError: the key cannot be used, or there is none and has to be.
            ForkedClientError: another process opened it.

        """
        socket, pid = self._socket, os.getpid()
        if socket is None:
            self._socket = socket = self._open()
            self._pid = pid
        elif self._pid != pid:
            raise ForkedClientError(
                f"process {self._pid} opened this client, process {pid} has to make its own"
            )
        return socket

    @property
    def foreign(self) -> bool:
        """Whether another process opened it, and so whatever is shared with that one stays."""
        return self._socket is not None and self._pid != os.getpid()

    @property
    def broker(self) -> str:
        """What to call the other side when it does not answer: a key refused is mere silence."""
        return f"{self.endpoint} that knows the key {self._key}" if self._key else self.endpoint

    def close(self) -> None:
        """Close the socket; in a forked child, let the parent's be."""
        foreign = self.foreign
        socket, self._socket = self._socket, None
        if socket is not None and not foreign:
            context = socket.context
            socket.close(linger=0)
            context.term()

    def drain(self, session: "Session") -> None:
        """Hand the session all that has arrived."""
        _drain(self.socket, session)

    def flush(self, session: "Session") -> bool:
        """Send what the session has to send; return whether some of it could not leave yet."""
        return _flush(self.socket, session) is True

    def listen(self, session: "Session", exchange: "Exchange", *, blocked: bool) -> None:
        """Sleep until something arrives, something `blocked` can leave, or the session is due.

        Then hand the session what has arrived, as far as `exchange` needs it; most often it has.
        """
        socket, under_way = self.socket, exchange.messages
        if under_way:
            self._sleep(socket, session.next_wakeup(), _EITHER if blocked else _POLLIN)
        try:
            while under_way:
                session.receive(socket.recv(_DONTWAIT), monotonic())
        except zmq.Again:
            return

    def _sleep(self, socket: "zmq.Socket[bytes]", wakeup: float | None, wanted: int) -> None:
        if self._spin_s and self._spin(socket, wanted):
            return
        left_s = WAIT_S_MAX if wakeup is None else min(wakeup - monotonic(), WAIT_S_MAX)
        # Rounded up: a millisecond too early is a turn in vain.
        zmq.zmq_poll([(socket, wanted)], max(0, int(left_s * 1_000) + 1))

    def _spin(self, socket: "zmq.Socket[bytes]", wanted: int) -> bool:
        """Look for events for a moment; return whether there are any.

        Whoever else is ready to run goes first: it may be the thread that brings the answer.
        """
        until = monotonic() + self._spin_s
        while not _events(socket) & wanted:
            if monotonic() >= until:
                return False
            os.sched_yield()
        return True

    def turn(self, session: "Session") -> None:
        """Drain and flush until there is nothing to do before the file descriptor says so.

        It says so on a change only, and every use of the socket may swallow that; so ask for the
        events after the last use.
        """
        socket = self.socket
        while True:
            _drain(socket, session)
            blocked = _flush(socket, session)
            if blocked is None:  # the last use was to ask for the events
                return
            if not _events(socket) & (_EITHER if blocked else _POLLIN):
                return

    def _open(self) -> "zmq.Socket[bytes]":
        context = zmq.Context()  # one per client, and made after any fork
        socket = context.socket(zmq.DEALER)
        try:
            for options in (_OPTIONS, self._credentials()):
                for option, value in options.items():
                    socket.setsockopt(option, value)
            socket.connect(self.endpoint)
        except KeyFileError:
            socket.close(linger=0)
            context.term()
            raise
        except zmq.ZMQError as fault:
            socket.close(linger=0)
            context.term()
            raise BrokerUnreachableError(
                f"{self.endpoint!r} is no endpoint such as ipc:///path or tcp://host:port: {fault}"
            ) from None
        return socket

    def _credentials(self) -> dict[int, int | bytes]:
        if not self.endpoint.startswith("tcp:"):
            return {}
        if self._key is None:
            raise KeyFileError(
                f"{self.endpoint} takes a key: --key FILE, TOLLGATE_KEY, or Client(..., key=FILE)"
            )
        public, secret, broker = read_key(self._key)
        return {
            zmq.CURVE_PUBLICKEY: public,
            zmq.CURVE_SECRETKEY: secret,
            zmq.CURVE_SERVERKEY: broker,
            **_HEARTBEATS,
        }

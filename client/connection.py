"""Holds one client's DEALER socket, opened at first use. Only `listen` blocks."""

import os
from time import monotonic, time
from typing import Final, cast

import zmq

from tollgate.client.errors import BrokerUnreachableError, ForkedClientError, KeyFileError
from tollgate.client.inflight import Call
from tollgate.client.session import Session
from tollgate.domain.exceptions import ArgumentError

ENDPOINT_VARIABLE: Final = "TOLLGATE_ENDPOINT"
KEY_VARIABLE: Final = "TOLLGATE_KEY"
WAIT_S_MAX: Final = 3_600.0
SPIN_US_LIMIT: Final = 1e9
_KEY_FIELDS: Final = ("public_key", "secret_key", "broker_public_key")

# Plain numbers: arithmetic on the members of the enum takes longer than the calls they are for.
_DONTWAIT: Final = int(zmq.DONTWAIT)
_POLLIN: Final = int(zmq.POLLIN)
_POLLINOUT: Final = int(zmq.POLLIN | zmq.POLLOUT)

_OPTIONS: Final[dict[int, int | bytes]] = {
    zmq.IMMEDIATE: 1,  # without a broker nothing is queued, to be executed much later
    zmq.LINGER: 0,  # close drops what was not sent: no caller waits for its answer
    zmq.SNDHWM: 64,  # a frame that does not fit stays with the session, which then knows it
    zmq.RCVHWM: 0,  # everything that comes was asked for
    zmq.RECONNECT_IVL: 50,
    zmq.RECONNECT_IVL_MAX: 1_000,
}
_TCP_OPTIONS: Final[dict[int, int | bytes]] = {
    zmq.HEARTBEAT_IVL: 10_000,  # a tcp peer can vanish without a sign; then libzmq reconnects
    zmq.HEARTBEAT_TIMEOUT: 30_000,
}


def resolve_endpoint(endpoint: object) -> str:
    """Return `endpoint`, or the value of TOLLGATE_ENDPOINT, or the user's default.

    A path is that of an ipc socket. Raises ArgumentError.
    """
    if endpoint is not None:
        if isinstance(endpoint, os.PathLike):
            endpoint = f"ipc://{os.fspath(endpoint)}"
        if not isinstance(endpoint, str) or not endpoint:
            raise ArgumentError(
                "endpoint must be a text such as ipc:///path or tcp://host:port, or the path of a "
                f"socket, not {endpoint!r:.60}"
            )
        return str.__str__(endpoint)
    if named := os.environ.get(ENDPOINT_VARIABLE):
        return named
    from tollgate.domain.endpoint import default_endpoint  # noqa: PLC0415 - rarely needed, slow to load

    return default_endpoint()


def read_key(path: str) -> tuple[bytes, bytes, bytes]:
    """Return the public key, the secret key and the broker's public key, each 40 bytes of Z85.

    Raises KeyFileError for a file that others can read, or that `tollgate keys new` did not make.
    """
    import tomllib  # noqa: PLC0415 - most clients need no key

    try:
        with open(path, "rb") as file:  # noqa: PTH123 - fstat needs the open file
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise KeyFileError(f"others can read the key {path}; say: chmod 600 {path}")
            fields = tomllib.load(file)
        public, secret, broker = (str(fields[name]).encode("ascii") for name in _KEY_FIELDS)
    except OSError as fault:
        raise KeyFileError(f"the key {path} cannot be read: {fault.strerror}") from None
    except (ValueError, KeyError) as fault:
        raise KeyFileError(f"{path} is no key as `tollgate keys new` makes: {fault}") from None
    return public, secret, broker


def _events(socket: "zmq.Socket[bytes]") -> int:
    return cast("int", socket.getsockopt(zmq.EVENTS))


def _drain(socket: "zmq.Socket[bytes]", session: Session) -> None:
    while _events(socket) & _POLLIN:
        session.receive(socket.recv(_DONTWAIT), monotonic())


def _flush(socket: "zmq.Socket[bytes]", session: Session) -> bool | None:
    """Return whether the socket could not take all of it; None if there was nothing to send."""
    blocked = None
    while not session.idle:
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


def _close(socket: "zmq.Socket[bytes]") -> None:
    context = socket.context
    socket.close(linger=0)
    context.term()


class Connection:
    """A connection to a broker; it belongs to the process that opened it."""

    def __init__(
        self,
        endpoint: "str | os.PathLike[str] | None" = None,
        key: "str | os.PathLike[str] | None" = None,
        spin_us: int = 0,
    ) -> None:
        """Note where to connect; nothing is opened yet.

        `endpoint` and `key` (the path of a key file, used by tcp only) default to the environment.
        `spin_us` is how many microseconds to look for an answer before sleeping.
        """
        self.endpoint = resolve_endpoint(endpoint)
        given: object = key
        if given is not None and not (given and isinstance(given, str | os.PathLike)):
            raise ArgumentError(f"key must be the path of a key file, not {key!r:.60}")
        self._key: str | None = None
        if self.endpoint.startswith("tcp:"):
            self._key = os.fspath(key) if key is not None else os.environ.get(KEY_VARIABLE) or None
        if type(spin_us) not in {int, float} or not 0 <= spin_us < SPIN_US_LIMIT:
            raise ArgumentError(f"spin_us must be a number of microseconds, not {spin_us!r:.60}")
        self._spin_s = spin_us / 1_000_000
        self._socket: zmq.Socket[bytes] | None = None
        self._pid = 0

    @property
    def socket(self) -> "zmq.Socket[bytes]":
        """The socket, opened if it is not.

        Raises:
            BrokerUnreachableError: the endpoint is not valid.
            KeyFileError: the key cannot be used, or is required and missing.
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
        """Whether another process opened it: what is shared with that process must stay."""
        return self._socket is not None and self._pid != os.getpid()

    @property
    def broker(self) -> str:
        """A name of the broker for error messages: it never answers a client whose key it lacks."""
        return f"{self.endpoint} that knows the key {self._key}" if self._key else self.endpoint

    def close(self) -> None:
        """Close the socket; in a forked child, leave the parent's socket alone."""
        foreign = self.foreign
        socket, self._socket = self._socket, None
        if socket is not None and not foreign:
            _close(socket)

    def drain(self, session: Session) -> None:
        """Pass everything that has arrived to the session."""
        _drain(self.socket, session)

    def flush(self, session: Session) -> bool:
        """Send what the session has to send; return whether the socket could not take all of it."""
        return _flush(self.socket, session) is True

    def listen(self, session: Session, call: Call, *, blocked: bool) -> None:
        """Sleep until a frame arrives, a `blocked` one can be sent, or the session is due.

        Then pass frames to the session until `call` has no request in flight, or none is left.
        """
        socket, requests = self.socket, call.requests
        if requests:
            self._sleep(socket, session.next_wakeup(), _POLLINOUT if blocked else _POLLIN)
        try:
            while requests:
                session.receive(socket.recv(_DONTWAIT), monotonic())
        except zmq.Again:
            return

    def _sleep(self, socket: "zmq.Socket[bytes]", wakeup: float | None, wanted: int) -> None:
        if self._spin_s:
            until = monotonic() + self._spin_s
            while monotonic() < until:
                if _events(socket) & wanted:
                    return
                os.sched_yield()  # the thread that brings the answer may be waiting for this core
        left_s = WAIT_S_MAX if wakeup is None else min(wakeup - monotonic(), WAIT_S_MAX)
        # Rounded up: waking a millisecond early would be in vain.
        zmq.zmq_poll([(socket, wanted)], max(0, int(left_s * 1_000) + 1))

    def turn(self, session: Session) -> None:
        """Drain and flush until there is nothing to do before the file descriptor is readable.

        It becomes readable on a change only, and every use of the socket may consume that; so the
        last use must be to ask for the events.
        """
        socket = self.socket
        while True:
            _drain(socket, session)
            blocked = _flush(socket, session)
            if blocked is None:  # the last use was in `_drain`, which asked for the events
                return
            if not _events(socket) & (_POLLINOUT if blocked else _POLLIN):
                return

    def _open(self) -> "zmq.Socket[bytes]":
        socket = zmq.Context().socket(zmq.DEALER)  # one context a client, made after any fork
        try:
            for option, value in (_OPTIONS | self._tcp_options()).items():
                socket.setsockopt(option, value)
            socket.connect(self.endpoint)
        except KeyFileError:
            _close(socket)
            raise
        except zmq.ZMQError as fault:
            _close(socket)
            raise BrokerUnreachableError(
                f"{self.endpoint!r} is no endpoint such as ipc:///path or tcp://host:port: {fault}"
            ) from None
        return socket

    def _tcp_options(self) -> dict[int, int | bytes]:
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
            **_TCP_OPTIONS,
        }

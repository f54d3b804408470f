"""Holds one client's DEALER socket, opened at first use. Only `exchange` and `listen` block.

All clients of a process share one ZeroMQ context. Each of its own would need two threads and six
file descriptors, and libzmq ends the process if there are too few descriptors for a context.
"""

import errno
import os
import resource
import weakref
from datetime import datetime
from threading import RLock
from time import monotonic, time
from typing import Final, cast

import zmq

from tollgate.client.errors import (
    BrokerUnreachableError,
    ClientClosedError,
    ForkedClientError,
    InvalidEndpointError,
    KeyFileError,
)
from tollgate.client.inflight import Call
from tollgate.client.session import Session
from tollgate.domain.commands import date_of
from tollgate.domain.endpoint import check_endpoint, default_endpoint
from tollgate.domain.exceptions import ArgumentError
from tollgate.threads import check_threads

ENDPOINT_VARIABLE: Final = "TOLLGATE_ENDPOINT"
KEY_VARIABLE: Final = "TOLLGATE_KEY"
WAIT_S_MAX: Final = 3_600.0
SPIN_US_LIMIT: Final = 1e9
CONTEXT_FILES: Final = 16
"""How many file descriptors must be free before a context is made: it takes six with a socket."""
CONTEXT_THREADS: Final = 2
"""How many threads a context has."""
CLOSE_LINGER_MS: Final = 100
"""How long closing may take to send the last frames, if the broker is slow to take them."""
RECONNECT_MS_MIN, RECONNECT_MS_MAX = 50, 1_000
"""The pauses between attempts to connect: each is longer than the one before."""
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
            endpoint = f"ipc://{os.path.abspath(endpoint)}"  # noqa: PTH100 - pathlib loads slowly
        if not isinstance(endpoint, str) or not endpoint:
            raise ArgumentError(
                "endpoint must be a text such as ipc:///path or tcp://host:port, or the path of a "
                f"socket, not {endpoint!r:.60}"
            )
        return str.__str__(endpoint)
    return os.environ.get(ENDPOINT_VARIABLE) or default_endpoint()


def log_warning(message: str) -> None:
    """Log a warning. Without a configuration of logging, Python writes it to stderr."""
    import logging  # noqa: PLC0415 - rarely needed, slow to load

    logging.getLogger("tollgate.client").warning("%s", message)


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


def check_key(endpoint: str, key: str | None) -> None:
    """Raise KeyFileError unless a client of `endpoint` can use this key."""
    if endpoint.startswith("tcp:"):
        _read_key_for(endpoint, key)


def _read_key_for(endpoint: str, key: str | None) -> tuple[bytes, bytes, bytes]:
    if key is None:
        raise KeyFileError(
            f"{endpoint} takes a key: --key FILE, TOLLGATE_KEY, or Client(..., key=FILE)"
        )
    return read_key(key)


def _events(socket: "zmq.Socket[bytes]") -> int:
    return cast("int", socket.getsockopt(zmq.EVENTS))


def _drain(socket: "zmq.Socket[bytes]", session: Session) -> None:
    while _events(socket) & _POLLIN:
        session.receive(socket.recv(_DONTWAIT), monotonic())


def _flush(socket: "zmq.Socket[bytes]", session: Session) -> bool | None:
    """Return whether the socket could not take all of it; None if there was nothing to send."""
    blocked = None
    while True:
        now = monotonic()
        frame = session.next_frame(now, time())
        if frame is None:
            break
        try:
            socket.send(frame, _DONTWAIT)
        except zmq.Again:
            session.blocked(now)
            return True
        blocked = False
        if not session.sent(now):
            break
    return blocked


class SharedContext:
    """The ZeroMQ context of a process: made with its first socket, terminated with its last one."""

    def __init__(self) -> None:
        # Reentrant: the garbage collector may close a client while another one is opened.
        self._lock = RLock()
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._sockets = 0

    def open(self) -> "zmq.Socket[bytes]":
        """Open a DEALER.

        Raises OSError or ZMQError if the process may have no more files or threads.
        """
        with self._lock:
            self._sockets += 1  # first, so that no other client's end terminates the context now
            try:
                if self._context is None:
                    self._context = self._make()
                return self._context.socket(zmq.DEALER)
            except BaseException:
                self._leave()
                raise

    def close(self, socket: "zmq.Socket[bytes]", linger_ms: int) -> None:
        """Close a socket, and terminate the context if it was the last one.

        What the socket took is still sent for up to `linger_ms`.
        """
        with self._lock:
            socket.close(linger_ms)
            self._leave()

    def _make(self) -> "zmq.Context[zmq.Socket[bytes]]":
        check_threads(CONTEXT_THREADS)
        spare: list[int] = []
        try:  # without a descriptor for its epoll, libzmq would abort the process
            while len(spare) < CONTEXT_FILES:
                spare.append(os.eventfd(0))
        finally:
            for number in spare:
                os.close(number)
        context = zmq.Context()
        context.set(zmq.MAX_SOCKETS, context.get(zmq.SOCKET_LIMIT))  # the default is 1,023
        return context

    def _leave(self) -> None:
        self._sockets -= 1
        if not self._sockets and self._context is not None:
            context, self._context = self._context, None
            context.term()


_shared = SharedContext()
_inherited: list[SharedContext] = []
"""Contexts of the processes that this one was forked from: nothing may touch them here."""


def _begin_anew() -> None:
    """In a forked child, forget the parent's context, and the lock that its threads may hold."""
    global _shared  # noqa: PLW0603 - one a process
    _inherited.append(_shared)
    _shared = SharedContext()


os.register_at_fork(after_in_child=_begin_anew)


class _Opened:
    """A socket, and the event that wakes the thread which sleeps on it."""

    __slots__ = ("context", "event", "pid", "socket")

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.context = _shared
        try:
            # Kept free for the connection: libzmq would try in vain to make it, and say nothing.
            spare = os.eventfd(0)
            try:
                self.socket = self.context.open()
            finally:
                os.close(spare)
        except BaseException:
            os.close(self.event)
            raise

    def close(self, linger_ms: int = 0) -> None:
        self.context.close(self.socket, linger_ms)
        os.close(self.event)


def _close_all(opened: list[_Opened], linger_ms: int = 0) -> None:
    """Close what this process opened. Taking it from the list decides which thread does it."""
    while opened:
        try:
            each = opened.pop()
        except IndexError:  # another thread was faster
            return
        if each.pid == os.getpid():
            each.close(linger_ms)


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
        self.reconnect_ms_max = RECONNECT_MS_MAX
        """The longest pause between attempts to connect. Set it before the first use."""
        self._socket: zmq.Socket[bytes] | None = None
        self._pid = 0
        self._event = -1
        self._is_closed = False
        self._opened: list[_Opened] = []
        # A client that was never closed. Not at exit, where a thread may still be in a call.
        weakref.finalize(self, _close_all, self._opened).atexit = False

    @property
    def socket(self) -> "zmq.Socket[bytes]":
        """The socket, opened if it is not.

        Raises:
            InvalidEndpointError: the endpoint is malformed.
            BrokerUnreachableError: too many files are open.
            KeyFileError: the key cannot be used, or is required and missing.
            ForkedClientError: another process opened it.
            ClientClosedError: it was closed.

        """
        socket, pid = self._socket, os.getpid()
        if socket is None:
            socket = self._open()
        elif self._pid != pid:
            raise self.forked()
        return socket

    @property
    def foreign(self) -> bool:
        """Whether another process opened it: what is shared with that process must stay."""
        return self._pid not in {0, os.getpid()}

    def forked(self) -> ForkedClientError:
        """Return the error for a client of another process."""
        return ForkedClientError(
            f"process {self._pid} opened this client, and a ZeroMQ socket does not survive a fork:"
            f" process {os.getpid()} has to make its own client. tollgate.Client() is safe before a"
            " fork, since it opens nothing until its first call; tollgate.connect() is not"
        )

    @property
    def broker(self) -> str:
        """A name of the broker for error messages: it never answers a client whose key it lacks."""
        return f"{self.endpoint} that knows the key {self._key}" if self._key else self.endpoint

    def interrupt(self) -> None:
        """Wake the thread that is in `listen`; all further use raises ClientClosedError.

        May be called in any thread. The socket is for one thread alone: so `close` must follow,
        once no other thread can have it.
        """
        self._is_closed = True
        self._socket = None
        if self.foreign:
            return
        try:
            opened = self._opened.pop()
        except IndexError:
            return
        os.eventfd_write(opened.event, 1)  # never read: the client stays closed
        self._opened.append(opened)

    def close(self, session: Session) -> None:
        """Close the socket, after a last turn; in a forked child, leave the parent's one alone."""
        self.interrupt()
        has_sent = self.last_turn(session)
        _close_all(self._opened, CLOSE_LINGER_MS if has_sent else 0)

    def last_turn(self, session: Session) -> bool:
        """Send what a session whose caller has left still has to send, if it can be sent now.

        Return whether something was sent. Nothing is raised: the caller is on its way out.
        """
        if session.idle or self.foreign or not self._opened:
            return False
        socket = self._opened[-1].socket
        try:
            _drain(socket, session)
            return _flush(socket, session) is not None
        except zmq.ZMQError:
            return False

    def drain(self, session: Session) -> None:
        """Pass everything that has arrived to the session."""
        _drain(self.socket, session)

    def flush(self, session: Session) -> bool:
        """Send what the session has to send; return whether the socket could not take all of it."""
        return _flush(self.socket, session) is True

    def broker_time_in(self, session: Session, delay_ms: int) -> datetime:
        """Return the broker's time, as far as the session knows it, in so many milliseconds."""
        return date_of(session.broker_time(time()) + delay_ms / 1_000)

    def exchange(self, session: Session, call: Call) -> None:
        """Flush and listen; for a caller with nothing to do in between."""
        socket = self.socket
        blocked = _flush(socket, session) is True
        self._listen(socket, session, call, blocked=blocked)

    def listen(self, session: Session, call: Call, *, blocked: bool) -> None:
        """Sleep until a frame arrives, a `blocked` one can be sent, or the session is due.

        Then pass frames to the session until `call` has no request in flight, or none is left.
        """
        self._listen(self.socket, session, call, blocked=blocked)

    def _listen(
        self, socket: "zmq.Socket[bytes]", session: Session, call: Call, *, blocked: bool
    ) -> None:
        requests, wanted = call.requests, _POLLINOUT if blocked else _POLLIN
        if requests and not (self._spin_s and self._spin(socket, wanted)):
            wakeup = session.next_wakeup()
            left_s = WAIT_S_MAX if wakeup is None else min(wakeup - monotonic(), WAIT_S_MAX)
            # Rounded up: waking a millisecond early would be in vain.
            timeout_ms = max(0, int(left_s * 1_000) + 1)
            zmq.zmq_poll([(socket, wanted), (self._event, _POLLIN)], timeout_ms)
        try:
            while requests:
                session.receive(socket.recv(_DONTWAIT), monotonic())
        except zmq.Again:
            return

    def _spin(self, socket: "zmq.Socket[bytes]", wanted: int) -> bool:
        """Look for `wanted` without sleeping, for `spin_us`; return whether it has come."""
        until = monotonic() + self._spin_s
        while monotonic() < until:
            if _events(socket) & wanted:
                return True
            os.sched_yield()  # the thread that brings the answer may be waiting for this core
        return False

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
        if self.foreign:  # the fork came while a thread was here
            raise self.forked()
        self._check_open()
        try:
            check_endpoint(self.endpoint)
        except ValueError as fault:
            raise InvalidEndpointError(str(fault)) from None
        options = _OPTIONS | self._reconnect_options() | self._tcp_options()
        try:
            opened = _Opened()
        except (OSError, zmq.ZMQError) as fault:
            if fault.errno == errno.EAGAIN:
                raise BrokerUnreachableError(
                    f"no connection to {self.endpoint} can be opened: {fault.strerror}"
                ) from None
            files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            raise BrokerUnreachableError(
                f"no connection to {self.endpoint} can be opened: {fault.strerror}; this process"
                f" may have {files} files open (ulimit -n), and each client takes three"
            ) from None
        socket = opened.socket
        try:
            for option, value in options.items():
                socket.setsockopt(option, value)
            socket.connect(self.endpoint)
        except zmq.ZMQError as fault:
            opened.close()
            raise InvalidEndpointError(
                f"{self.endpoint!r} cannot be connected to: {fault.strerror}"
            ) from None
        self._pid, self._event = opened.pid, opened.event
        self._opened.append(opened)
        self._socket = socket
        self._check_open()  # another thread that closed it may not have seen the socket
        return socket

    def _check_open(self) -> None:
        if self._is_closed:
            self._socket = None
            raise ClientClosedError(f"the client of {self.endpoint} was closed")

    def _reconnect_options(self) -> dict[int, int]:
        longest = self.reconnect_ms_max
        return {
            zmq.RECONNECT_IVL: min(RECONNECT_MS_MIN, longest),
            zmq.RECONNECT_IVL_MAX: longest,
        }

    def _tcp_options(self) -> dict[int, int | bytes]:
        if not self.endpoint.startswith("tcp:"):
            return {}
        public, secret, broker = _read_key_for(self.endpoint, self._key)
        return {
            zmq.CURVE_PUBLICKEY: public,
            zmq.CURVE_SECRETKEY: secret,
            zmq.CURVE_SERVERKEY: broker,
            **_TCP_OPTIONS,
        }

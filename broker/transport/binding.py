"""Decides what the broker listens at, and opens one ROUTER socket for ipc and one for tcp.

There are two sockets because identities differ. Over tcp libzmq vouches for a peer's key; over ipc
it takes such properties from the peer, which could claim any key. While the broker's own key is
rotated, there is a third one, for a socket has one key.
"""

import resource
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Final

import zmq

from tollgate.broker.access.keyring import KeyRing
from tollgate.broker.access.peer_credentials import CurveCredentials, PeerCredentials, group_id
from tollgate.broker.settings import Settings, SettingsError
from tollgate.broker.telemetry import Counters
from tollgate.broker.transport.endpoints import EndpointError, IpcEndpoint, TcpEndpoint
from tollgate.broker.transport.router import Router, RouterLimits
from tollgate.log import get_logger
from tollgate.threads import check_threads

LIBZMQ_MIN: Final = (4, 3, 5)
"""The oldest version that was tried; older ones have known faults that a peer can use."""
FILES_MAX: Final = 65_536
"""Default of `connections` where the system sets no limit on open files."""
FILES_MIN: Final = 64
"""With fewer, the broker itself may find none left: libzmq would abort it without a reason."""
THREADS_MIN: Final = 6
"""libzmq's two, and those that write the log, sync, count connections and vouch for keys."""
CONNECTIONS_MIN: Final = 256
"""With fewer, libzmq accepts faster than the monitor counts; tried with this number."""

log = get_logger("tollgate.broker")


class Binding:
    """The endpoints of the settings, held from construction on, and bound by `open_routers`."""

    def __init__(self, settings: Settings, connections: int, stack: ExitStack) -> None:
        """Lock the ipc endpoints and read the keys; `stack` gives all of it back.

        `connections` is the limit of one router, see `connections_per_router`. Raises
        SettingsError, EndpointError or KeyRingError.
        """
        self._settings = settings
        self._stack = stack
        self._limits = RouterLimits(
            settings.limits().request_bytes,
            connections,
            settings.unread_total_bytes,
            settings.linger_ms,
        )
        self._group = _group_of(settings)
        self._ipc = [
            stack.enter_context(IpcEndpoint(url, self._group))
            for url in settings.bind
            if url.startswith("ipc:")
        ]
        self.keys = None if settings.keys is None else KeyRing(settings.keys)

    def open_routers(
        self, context: "zmq.Context[zmq.Socket[bytes]]", counters: Counters
    ) -> list[Router]:
        """Bind a router for each kind of endpoint. Raises EndpointError."""
        routers = []
        if self._ipc:
            credentials = PeerCredentials(self._group, self._settings.group_roles)
            router = Router(context, b"\x01", credentials.identify, self._limits, counters)
            self._stack.callback(router.close)
            router.bind(self._ipc)
            routers.append(router)
        urls = [url for url in self._settings.bind if url.startswith("tcp:")]
        if self.keys is not None and (urls or self._settings.bind_next):
            self.keys.counters = counters
            by_key = (
                (b"\x02", self.keys.own, self._listening(urls)),
                (
                    b"\x03",
                    self.keys.next or self.keys.own,
                    self._listening(self._settings.bind_next),
                ),
            )
            curve = CurveCredentials(context, self.keys)
            self._stack.callback(curve.close)
            for mark, pair, endpoints in by_key:
                if not endpoints:
                    continue
                router = Router(context, mark, curve.identify, self._limits, counters)
                self._stack.callback(router.close)
                curve.require_keys(router.socket, pair)
                _set_heartbeats(router.socket, self._settings.heartbeat_ms)
                router.bind(endpoints)
                routers.append(router)
                log.info("key of the broker", public_key=pair.public_key, bind=router.bound)
            log.info("keys", directory=str(self._settings.keys), clients=len(self.keys))
        return routers

    def _listening(self, urls: Iterable[str]) -> list[TcpEndpoint]:
        """Listen at tcp endpoints, until the stack gives them back. Raises EndpointError."""
        endpoints = []
        for url in urls:
            endpoints.append(TcpEndpoint(url, self._limits.connections))
            self._stack.callback(endpoints[-1].close)
        return endpoints


def libzmq() -> str:
    """Return the version of libzmq, and whether it was built with CURVE."""
    return f"{zmq.zmq_version()} {'with' if zmq.has('curve') else 'without'} CURVE"


def check_libzmq(settings: Settings) -> None:
    """Raise EndpointError if libzmq is too old, or lacks what the settings ask for."""
    if zmq.zmq_version_info() < LIBZMQ_MIN:
        least = ".".join(map(str, LIBZMQ_MIN))
        raise EndpointError(f"libzmq {zmq.zmq_version()} is too old, it takes {least} or newer")
    if settings.keys is not None and not zmq.has("curve"):
        raise EndpointError("this libzmq was built without CURVE, which tcp takes")


def check_process_threads() -> None:
    """Raise EndpointError if the broker can start no threads; libzmq would abort it."""
    try:
        check_threads(THREADS_MIN)
    except OSError as fault:
        raise EndpointError(str(fault.strerror)) from None


def connections_per_router(settings: Settings) -> int:
    """Raise the limit on open files as far as allowed; return each router's share of connections.

    By default a quarter of the files is for connections: libzmq accepts faster than the monitor
    counts, and the process ends when no file is left. Routers get equal shares: a crowd at one
    takes nothing from the other. Raises SettingsError for more connections than files allow.
    """
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    if files == resource.RLIM_INFINITY:
        files = 4 * FILES_MAX
    if files < FILES_MIN:
        raise SettingsError(
            f"this process may have {files} files open, and the broker takes {FILES_MIN} at least"
            " (see ulimit -n)"
        )
    if files // 4 < CONNECTIONS_MIN:
        log.warning(
            "few files may be open: a flood of connections could end the broker", files=files
        )
    if settings.connections > files - files // 4:
        raise SettingsError(
            f"connections: {settings.connections} are too many where {files} files may be open;"
            f" three quarters of them, {files - files // 4}, are the most (see ulimit -n)"
        )
    routers = len({url.startswith("tcp:") for url in settings.bind}) + bool(settings.bind_next)
    return max(1, (settings.connections or files // 4) // routers)


def _group_of(settings: Settings) -> int | None:
    """Return the number of the group in the settings, if there is one. Raises SettingsError."""
    try:
        return group_id(settings.socket_group) if settings.socket_group else None
    except KeyError:
        raise SettingsError(f"socket_group: there is no group {settings.socket_group!r}") from None


def _set_heartbeats(socket: "zmq.Socket[bytes]", every_ms: int) -> None:
    """Detect tcp peers that are gone without a word: nothing else tells it."""
    if every_ms:
        socket.setsockopt(zmq.HEARTBEAT_IVL, every_ms)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3 * every_ms)
        socket.setsockopt(zmq.HEARTBEAT_TTL, 3 * every_ms)

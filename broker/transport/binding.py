"""Opens the doors that the settings name, if they can be kept shut to everybody else."""

import resource
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

import structlog
import zmq

from tollgate.broker.access.curve import KeyHolders, heartbeats
from tollgate.broker.access.keyring import KeyRing
from tollgate.broker.access.peer_credentials import Callers, group_id
from tollgate.broker.core.roles import Role
from tollgate.broker.settings import Settings, SettingsError
from tollgate.broker.telemetry.counters import Counters
from tollgate.broker.transport.endpoints import Endpoint, EndpointError
from tollgate.broker.transport.router import Door

LIBZMQ_MIN: Final = (4, 3, 5)
"""The oldest that was tried; those before have known faults that a peer can use."""
FILES_MAX: Final = 65_536
"""How many connections there are by default where the system sets no limit."""
CONNECTIONS_MIN: Final = 256
"""With fewer, libzmq is faster than whoever counts; tried with this many."""

log = structlog.get_logger("tollgate.broker")


def open_doors(  # noqa: PLR0913, PLR0917 - what they are made of
    context: "zmq.Context[zmq.Socket[bytes]]",
    settings: Settings,
    endpoints: dict[str, Endpoint],
    group: int | None,
    keys: KeyRing | None,
    counters: Counters,
    stack: ExitStack,
) -> Iterator[Door]:
    """Open a door for who is known by uid, and another for who is known by key.

    Two sockets, since a peer of the first could give itself any key's name: there, libzmq takes
    such properties from the peer.
    """
    if endpoints:
        callers = Callers(group, Role(settings.group_role))
        door = Door(context, b"\x01", callers.identify, settings, counters)
        stack.callback(door.close)
        door.open([*endpoints.values()])
        yield door
    urls = [url for url in settings.bind if url not in endpoints]
    if urls and keys is not None:
        keys.counters = counters
        holders = KeyHolders(context, keys)
        stack.callback(holders.close)
        door = Door(context, b"\x02", holders.identify, settings, counters)
        stack.callback(door.close)
        holders.guard(door.socket)
        for option, value in heartbeats(settings.heartbeat_ms).items():
            door.socket.setsockopt(option, value)
        door.open(urls)
        log.info("keys", directory=str(settings.keys), clients=len(keys))
        yield door


def group_of(name: str) -> int | None:
    """Return the number of a group, None for no name. Raises SettingsError."""
    if not name:
        return None
    try:
        return group_id(name)
    except KeyError:
        raise SettingsError(f"socket_group: there is no group {name!r}") from None


def check_libzmq(settings: Settings) -> None:
    """Raise EndpointError if libzmq is too old, or cannot do what the settings ask for."""
    if zmq.zmq_version_info() < LIBZMQ_MIN:
        least = ".".join(map(str, LIBZMQ_MIN))
        raise EndpointError(f"libzmq {zmq.zmq_version()} is too old, it takes {least} or newer")
    if settings.keys is not None and not zmq.has("curve"):
        raise EndpointError("this libzmq was built without CURVE, which tcp takes")


def open_files(settings: Settings) -> Settings:
    """Have as many files open as may be; by default, a quarter of them are for connections.

    No more, since libzmq accepts faster than anybody can count, and ends with the last of them. The
    doors share that: a crowd at one takes nothing from the other. Raises SettingsError for more
    connections than can be had.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if most == resource.RLIM_INFINITY:
        most = 4 * FILES_MAX
    if most // 4 < CONNECTIONS_MIN:
        log.warning(
            "few files may be open: a flood of connections could end the broker", files=most
        )
    if settings.connections > most - most // 4:
        raise SettingsError(
            f"connections: {settings.connections} are too many where {most} files may be open;"
            f" three quarters of them, {most - most // 4}, are the most (see ulimit -n)"
        )
    doors = len({url.startswith("tcp:") for url in settings.bind})
    share = (settings.connections or most // 4) // doors
    return settings.model_copy(update={"connections": max(1, share)})

"""Who sent a frame: by the kernel's credentials over ipc, by a CURVE key over tcp."""

import grp
import os
import pwd
import time
from collections.abc import Iterable
from typing import Final

import zmq
from zmq.auth.thread import ThreadAuthenticator

from tollgate.broker.access.key_files import KeyPair
from tollgate.broker.access.keyring import KeyRing
from tollgate.broker.core.roles import NOBODY, Principal, Role
from tollgate.log import get_logger

PEER_ADDRESS: Final = b"Peer-Address"
"""libzmq's name for it; as bytes, because text would be encoded again for each message."""
CACHE_MAX: Final = 4_096
"""Processes whose principal is cached; with more, the cache is cleared."""
CACHE_S: Final = 1.0
"""How long: after that, a user who was removed from the group has lost its role here, too."""
ZAP_DOMAIN: Final = "tollgate"
"""Without a domain that is enforced, libzmq accepts every peer when no authenticator runs."""

log = get_logger("tollgate.broker")


class PeerCredentials:
    """Identifies ipc peers by the address that libzmq gives: `localhost:uid:gid:pid`.

    The uid that the broker runs as is `admin`. Members of `group` have `group_roles`, other users
    have no role.
    """

    def __init__(self, group: int | None = None, group_roles: Iterable[Role] = ()) -> None:
        self._group = group
        self._group_roles = frozenset(group_roles)
        self._cache: dict[str, Principal] = {}
        self._cached_until_s = 0.0

    def identify(self, frame: zmq.Frame) -> Principal:
        """Return the sender of a frame."""
        try:
            return self.principal(str(frame.get(PEER_ADDRESS)))
        except zmq.ZMQError:  # the kernel does not tell it
            return NOBODY

    def principal(self, address: str) -> Principal:
        """Return the principal at an address."""
        if time.monotonic() >= self._cached_until_s or len(self._cache) >= CACHE_MAX:
            self._cache.clear()
            self._cached_until_s = time.monotonic() + CACHE_S
        cached = self._cache.get(address)
        if cached is None:
            cached = self._cache[address] = self._look_up(address)
        return cached

    def _look_up(self, address: str) -> Principal:
        try:
            _, uid, gid, _ = address.split(":")
            return Principal(f"uid:{int(uid)}", self._roles(int(uid), int(gid)))
        except ValueError:
            return NOBODY

    def _roles(self, uid: int, gid: int) -> frozenset[Role]:
        if uid == os.geteuid():
            return frozenset({Role.ADMIN})
        if self._group is not None and self._group in {gid, *_groups(uid, gid)}:
            return self._group_roles
        return frozenset()


def _groups(uid: int, gid: int) -> list[int]:
    try:
        return os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
    except KeyError:
        return []


def group_id(name: str) -> int:
    """Return a group's number. Raises KeyError."""
    return grp.getgrnam(name).gr_gid


class CurveCredentials:
    """Answers libzmq's question whether a key may connect, and identifies tcp peers by their key.

    pyzmq asks in a thread of its own, which runs until `close`.
    """

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", ring: KeyRing) -> None:
        """Start to answer. Make it before a socket is bound."""
        self._ring = ring
        self._authenticator = ThreadAuthenticator(context)
        self._authenticator.start()
        self._authenticator.configure_curve_callback(ZAP_DOMAIN, credentials_provider=self)

    def callback(self, domain: str, key: bytes) -> bool:
        """Return whether a key (Z85) may connect: pyzmq calls this at each handshake."""
        try:
            return domain == ZAP_DOMAIN and self._ring.may_connect(key.decode())
        except Exception:  # it would end the thread, and then no peer could connect
            log.exception("a key was not looked up")
            return False

    def require_keys(self, socket: "zmq.Socket[bytes]", own: KeyPair) -> None:
        """Let only holders of known keys connect to a socket that is not bound yet.

        They must know the public key of `own`, the pair that the broker proves itself by here.
        """
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, own.secret_key.encode())
        socket.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN.encode())
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)

    def identify(self, frame: zmq.Frame) -> Principal:
        """Return the sender of a frame. It is looked up each time, for a key can be revoked."""
        try:
            return self._ring.principal(str(frame.get("User-Id")))
        except zmq.ZMQError:  # the peer has no key
            return NOBODY

    def close(self) -> None:
        """Stop to answer."""
        self._authenticator.stop()

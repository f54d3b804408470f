"""Who is at the other end of a unix socket, by the kernel's word, and what role that has."""

import grp
import os
import pwd
import time
from typing import Final

import zmq

from tollgate.broker.core.roles import NOBODY, Principal, Role

ADDRESS: Final = b"Peer-Address"
"""What libzmq calls it; as bytes, since text would be encoded anew for each message."""
KNOWN_MAX: Final = 4_096
"""How many processes are remembered: one more, and all are looked up anew."""
KNOWN_S: Final = 1.0
"""How long they are: by then, who was put out of the group is out here, too."""


class Callers:
    """Principals by the address that libzmq gives: `localhost:uid:gid:pid`, as the kernel has it.

    The user that this runs as is `admin`. Members of `group` have `group_role`, nobody else any.
    """

    def __init__(self, group: int | None = None, group_role: Role | None = None) -> None:
        self._group = group
        self._group_role = group_role
        self._known: dict[str, Principal] = {}
        self._known_until_s = 0.0

    def identify(self, frame: zmq.Frame) -> Principal:
        """Return who has sent a frame."""
        try:
            return self.principal(str(frame.get(ADDRESS)))
        except zmq.ZMQError:  # the kernel does not say; then it is nobody
            return NOBODY

    def principal(self, address: str) -> Principal:
        """Return who a peer is."""
        if time.monotonic() >= self._known_until_s or len(self._known) >= KNOWN_MAX:
            self._known.clear()
            self._known_until_s = time.monotonic() + KNOWN_S
        known = self._known.get(address)
        if known is None:
            known = self._known[address] = self._look_up(address)
        return known

    def _look_up(self, address: str) -> Principal:
        try:
            _, uid, gid, _ = address.split(":")
            return Principal(f"uid:{int(uid)}", self._role(int(uid), int(gid)))
        except ValueError:
            return NOBODY

    def _role(self, uid: int, gid: int) -> Role | None:
        if uid == os.geteuid():
            return Role.ADMIN
        if self._group is not None and self._group in {gid, *_groups(uid, gid)}:
            return self._group_role
        return None


def group_id(name: str) -> int:
    """Return a group's number. Raises KeyError."""
    return grp.getgrnam(name).gr_gid


def _groups(uid: int, gid: int) -> list[int]:
    try:
        return os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
    except KeyError:
        return []

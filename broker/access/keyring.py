"""The keys that a broker accepts: its own pair, and the holders of its clients' keys.

A client has one key, and while it is rotated, earlier ones too, each until its time is over. All of
them are the same principal, so that sessions go on with the new key.
"""

import errno
import os
import time
from collections import Counter
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from threading import Lock
from typing import Final

import structlog

from tollgate.broker.access.key_files import (
    BROKER_KEY,
    NEXT_KEY,
    SUFFIX,
    ClientKey,
    KeyRingError,
    RetiringKey,
    public_keys,
    read_client,
    read_pair,
)
from tollgate.broker.access.permissions import UnsafeError, check_private, make_private
from tollgate.broker.core.roles import NOBODY, Principal
from tollgate.terminal import streams

SYSTEM_ERRORS: Final = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR}
"""Errors that tell of the system's state, and nothing about the keys."""

log = structlog.get_logger("tollgate.broker")


class KeyRing:
    """The keys in a directory; `refresh` reads them again if a file has changed."""

    def __init__(self, directory: Path) -> None:
        """Read all keys. Raises KeyRingError if one of them, or the directory, cannot be used."""
        self.counters: Counter[str] = Counter()
        """Counts the keys that were skipped; only the thread that calls `refresh` writes here."""
        self._directory = directory
        self._lock = Lock()
        self._changed: list[Principal] = []
        self._skipped: Counter[str] = Counter()
        self._has_failed = False
        try:
            make_private(directory)
            self._signature = self._read_signature()
            self.own = read_pair(directory / BROKER_KEY)
            following = directory / NEXT_KEY
            self.next = read_pair(following) if following.exists() else None
            """The pair that will replace it, while it is rotated."""
            self._clients: dict[str, ClientKey] = dict(map(read_client, self._paths()))
        except (OSError, UnsafeError) as fault:
            raise KeyRingError(
                f"the keys in {directory} cannot be used: {streams.reason(fault)}"
            ) from None
        self._ends_s: dict[RetiringKey, float] = {}
        """When each earlier key ends (monotonic). It is only moved forward, never back."""
        self._by_key: dict[str, Principal] = {}
        self._use(_by_key(self._clients))

    def __len__(self) -> int:
        """Return how many clients are known."""
        return len(self._clients)

    def clients(self) -> dict[str, ClientKey]:
        """Return the clients by name."""
        return dict(self._clients)

    def principal(self, public_key: str) -> Principal:
        """Return the holder of a key; `NOBODY`, without a role, if it is unknown or revoked."""
        return self._by_key.get(public_key) or NOBODY

    def refresh(self) -> list[Principal]:
        """Read the keys again if a file has changed, and end those whose time is over.

        Return the principals that are no longer what they were at the last call. A file that cannot
        be read counts as no key. But while the system cannot open files, nothing is read.
        """
        with self._lock:
            self._read_again()
            self._end_retiring()
            changed, self._changed = self._changed, []
            self.counters.update(self._skipped)
            self._skipped.clear()
        return changed

    def may_connect(self, public_key: str) -> bool:
        """Return whether the holder of a key may connect; an unknown key may be new. Any thread.

        Raises nothing: libzmq asks.
        """
        if not self.principal(public_key).roles:
            with self._lock:
                self._read_again()
        return bool(self.principal(public_key).roles)

    def _read_again(self) -> None:
        try:
            signature = self._read_signature()
            if signature == self._signature:
                return
            clients = self._read()
        except OSError as fault:  # the signature is not stored, so it is tried again
            if not self._has_failed:
                log.warning("the keys cannot be read now and stay in use", reason=str(fault))
            self._has_failed = True
            return
        self._has_failed = False
        self._signature = signature
        before, self._clients = self._clients, clients
        changed = [name for name in before if before[name] != clients.get(name)]
        log.info("keys read again", keys=len(self), changed=changed)
        self._use(_by_key(clients))

    def _end_retiring(self) -> None:
        """End the earlier keys whose time is over."""
        if self._ends_s:
            for principal in self._use(_by_key(self._clients)):
                log.info("an earlier key has ended", principal=principal.name)

    def _use(self, by_key: dict[str, Principal]) -> list[Principal]:
        """Let these keys be used but those whose time is over; return the principals that end.

        The time left is taken from the clock at first sight. If the clock is set back afterwards,
        it is not longer; if it is set forward, it is shorter.
        """
        now, now_s = datetime.now(UTC), time.monotonic()
        self._ends_s = {
            key: min(self._ends_s.get(key, inf), now_s + key.left_s(now))
            for client in self._clients.values()
            for key in client.retiring
        }
        for key, end_s in self._ends_s.items():
            if end_s <= now_s:
                del by_key[key.public_key]
        before, self._by_key = self._by_key, by_key
        ended = [each for key, each in before.items() if by_key.get(key) != each]
        self._changed += ended
        return ended

    def _read(self) -> dict[str, ClientKey]:
        """Return the keys that can be used. Raises OSError if the system cannot open files."""
        clients: dict[str, ClientKey] = {}
        try:
            check_private(self._directory)
            paths = self._paths()
        except (OSError, UnsafeError) as fault:
            self._skip(fault)
            return clients
        for path in paths:
            try:
                name, client = read_client(path)
                _by_key({**clients, name: client})
            except (OSError, KeyRingError) as fault:
                self._skip(fault)
                continue
            clients[name] = client
        return clients

    def _skip(self, fault: OSError | KeyRingError | UnsafeError) -> None:
        if isinstance(fault, OSError) and fault.errno in SYSTEM_ERRORS:
            raise fault
        self._skipped["key_passed_over"] += 1
        log.error("a key was passed over", reason=str(fault))

    def _paths(self) -> list[Path]:
        return sorted(path for path in self._directory.iterdir() if path.name.endswith(SUFFIX))

    def _read_signature(self) -> list[tuple[str, int, int]]:
        """Return a value that changes when a file changes. Raises OSError."""
        try:
            with os.scandir(self._directory) as entries:
                found = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
            found.append(("", self._directory.stat()))
        except FileNotFoundError:
            return []
        return sorted((name, state.st_ctime_ns, state.st_ino) for name, state in found)


def _by_key(clients: dict[str, ClientKey]) -> dict[str, Principal]:
    """Return the holder of each key. Raises KeyRingError if a key comes twice."""
    by_key: dict[str, Principal] = {}
    for name, client in clients.items():
        for key in public_keys(client):
            principal = Principal(f"key:{name}", client.roles, key)
            other = by_key.setdefault(key, principal)
            if other is not principal:
                raise KeyRingError(
                    f"{other.name} and {principal.name} are the same key; remove one of them"
                )
    return by_key

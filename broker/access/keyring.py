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
from tollgate.log import get_logger
from tollgate.terminal import streams

SYSTEM_ERRORS: Final = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR}
"""Errors that tell of the system's state, and nothing about the keys."""

FILES_A_LOOK: Final = 100
"""How many files one call of `refresh` looks at, if the directory has not changed."""

REFUSED_TOLD: Final = 100
"""How many refused keys are logged until keys change: strangers may come with any number."""
FORMER_MAX: Final = 10_000
"""How many keys that have ended are remembered with their holders; the oldest go."""

FileState = tuple[str, int, int]
"""A file's name, and what changes when it does: the time of its last change, and its inode."""

log = get_logger("tollgate.broker")


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
        self._former: dict[str, str] = {}
        """The holders of keys that were revoked or have ended since the start."""
        self._told: set[str] = set()
        """The refused keys that were logged since keys have changed."""
        self._next = 0
        """The place in the signature of the file that was looked at last."""
        try:
            make_private(directory)
            self._signature = self._read_signature()
            self.own = read_pair(directory / BROKER_KEY)
            following = directory / NEXT_KEY
            self.next = read_pair(following) if following.exists() else None
            """The pair that will replace it, while it is rotated."""
            self._files: dict[FileState, tuple[str, ClientKey]] = {
                state: read_client(directory / state[0])
                for state in self._signature
                if state[0].endswith(SUFFIX)
            }
            """What is in each file of a client, for as long as the file does not change."""
        except (OSError, UnsafeError) as fault:
            raise KeyRingError(
                f"the keys in {directory} cannot be used: {streams.reason(fault)}"
            ) from None
        self._ends_s: dict[RetiringKey, float] = {}
        """When each earlier key ends (monotonic). It may come to be sooner, never later."""
        self._by_key: dict[str, Principal] = {}
        self._clients = dict(self._files.values())
        by_key: dict[str, Principal] = {}
        for name, client in self._clients.items():
            _add(by_key, name, client)
        self._use(by_key)

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
            self._read_again(FILES_A_LOOK)
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
                if not self.principal(public_key).roles:
                    self._tell_refused(public_key)
        return bool(self.principal(public_key).roles)

    def _tell_refused(self, public_key: str) -> None:
        """Log a key that is refused, once, with its former holder: somebody still uses it."""
        if public_key not in self._told and len(self._told) < REFUSED_TOLD:
            self._told.add(public_key)
            former = self._former.get(public_key, "unknown")
            log.info("a key is refused", public_key=public_key, former_holder=former)

    def _read_again(self, files_max: int | None = None) -> None:
        """Read what has changed. With `files_max`, look only at so many files that are in place."""
        try:
            signature = self._read_signature() if files_max is None else self._look(files_max)
            if signature == self._signature:
                return
            clients, by_key = self._read(signature)
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
        self._use(by_key)

    def _use(self, by_key: dict[str, Principal]) -> None:
        """Use these keys from now on, but those whose time is over."""
        self._ends_s = {
            key: self._ends_s.get(key, inf)
            for client in self._clients.values()
            for key in client.retiring
        }
        for public_key in self._ended():
            del by_key[public_key]
        before, self._by_key = self._by_key, by_key
        self._changed += [each for key, each in before.items() if by_key.get(key) != each]
        self._note_former(before)

    def _note_former(self, before: dict[str, Principal]) -> None:
        """Remember who held the keys that are no longer there; of refused ones tell anew."""
        self._told.clear()
        for key, each in before.items():
            if key not in self._by_key:
                self._former[key] = each.name
        while len(self._former) > FORMER_MAX:
            del self._former[next(iter(self._former))]

    def _end_retiring(self) -> None:
        """End the earlier keys whose time is over."""
        ended = self._ended() & self._by_key.keys()
        if not ended:
            return
        for key in sorted(ended):
            principal = self._by_key[key]
            log.info("an earlier key has ended", principal=principal.name, public_key=key)
            self._changed.append(principal)
        before = self._by_key
        self._by_key = {key: each for key, each in before.items() if key not in ended}
        self._note_former(before)

    def _ended(self) -> set[str]:
        """Return the earlier keys whose time is over.

        The time left is taken from the clock at first sight. If the clock is set back afterwards,
        it is not longer; if it is set forward, it is shorter.
        """
        now, now_s = datetime.now(UTC), time.monotonic()
        for key, end_s in self._ends_s.items():
            self._ends_s[key] = min(end_s, now_s + key.left_s(now))
        return {key.public_key for key, end_s in self._ends_s.items() if end_s <= now_s}

    def _read(
        self, signature: list[FileState]
    ) -> tuple[dict[str, ClientKey], dict[str, Principal]]:
        """Return the clients that can be used, and who holds each key; only changed files are read.

        Raises OSError if the system cannot open files.
        """
        clients: dict[str, ClientKey] = {}
        by_key: dict[str, Principal] = {}
        files: dict[FileState, tuple[str, ClientKey]] = {}
        try:
            check_private(self._directory)
        except (OSError, UnsafeError) as fault:
            self._skip(fault)
            return clients, by_key
        for state in signature:
            if not state[0].endswith(SUFFIX):
                continue
            try:
                name, client = self._files.get(state) or read_client(self._directory / state[0])
                _add(by_key, name, client)
            except (OSError, KeyRingError) as fault:
                self._skip(fault)
                continue
            files[state] = name, client
            clients[name] = client
        self._files = files
        return clients, by_key

    def _skip(self, fault: OSError | KeyRingError | UnsafeError) -> None:
        if isinstance(fault, OSError) and fault.errno in SYSTEM_ERRORS:
            raise fault
        self._skipped["key_passed_over"] += 1
        log.error("a key was passed over", reason=str(fault))

    def _look(self, files_max: int) -> list[FileState]:
        """Return the signature, read anew if the directory or one of the next files has changed.

        A new, replaced or removed file changes the directory. A file that is written in place is
        noticed when its turn comes: with many files, not at the first look.
        """
        known = self._signature
        try:
            if not known or known[0] != _state_of("", self._directory.stat()):
                return self._read_signature()
            for _ in range(min(files_max, len(known))):
                self._next = (self._next + 1) % len(known)
                state = known[self._next]
                path = self._directory / state[0]
                if state != _state_of(state[0], path.stat(follow_symlinks=False)):
                    return self._read_signature()
        except FileNotFoundError:
            return self._read_signature()
        return known

    def _read_signature(self) -> list[FileState]:
        """Return a value that changes when a file changes. Raises OSError."""
        try:
            with os.scandir(self._directory) as entries:
                found = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
            found.append(("", self._directory.stat()))
        except FileNotFoundError:
            return []
        return sorted(_state_of(name, state) for name, state in found)


def _state_of(name: str, state: os.stat_result) -> FileState:
    return name, state.st_ctime_ns, state.st_ino


def _add(by_key: dict[str, Principal], name: str, client: ClientKey) -> None:
    """Add the keys of a client, all or none. Raises KeyRingError if one of them is there."""
    added: dict[str, Principal] = {}
    for key in public_keys(client):
        other = by_key.get(key) or added.get(key)
        if other is not None:
            raise KeyRingError(f"{other.name} and key:{name} are the same key; remove one of them")
        added[key] = Principal(f"key:{name}", client.roles, key)
    by_key.update(added)

"""The keys that a broker knows: its own pair, and the public keys of its clients, each in a file.

    keys/broker.key     its own pair, mode 0600
    keys/alice.toml     a client's public key and role

Keys are Z85 text of 40 characters, as in CURVE.
"""

import errno
import os
import re
import tomllib
from collections import Counter
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Final

import msgspec
import structlog
import zmq

from tollgate.broker.access.permissions import (
    UnsafeError,
    check_private,
    check_secret,
    check_unchanged,
    make_private,
)
from tollgate.broker.core.roles import NOBODY, Principal, Role
from tollgate.terminal import streams

BROKER_KEY: Final = "broker.key"
SUFFIX: Final = ".toml"
SYSTEM_ERRORS: Final = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR}
"""Errors that tell of the system's state, and nothing about the keys."""
is_name = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}").fullmatch
"""Valid names of keys: safe as a file name everywhere, and unambiguous in a log."""
_is_key = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}").fullmatch

log = structlog.get_logger("tollgate.broker")


class KeyRingError(Exception):
    """Keys that cannot be used; the message is one line that says what to do."""


class KeyPair(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key pair. A client's file has the broker's public key, too."""

    public_key: str
    secret_key: str
    broker_public_key: str | None = None


class ClientKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the broker knows of a client."""

    public_key: str
    role: Role


class KeyRing:
    """The keys in a directory; `refresh` reads them again if a file has changed."""

    def __init__(self, directory: Path) -> None:
        """Read all keys. Raises KeyRingError if one of them, or the directory, cannot be used."""
        self.counters: Counter[str] = Counter()
        """Counts the keys that were skipped; only the thread that calls `refresh` writes here."""
        self._directory = directory
        self._lock = Lock()
        self._changed: list[str] = []
        self._skipped: Counter[str] = Counter()
        self._has_failed = False
        try:
            make_private(directory)
            self._signature = self._read_signature()
            self.own = read_pair(directory / BROKER_KEY)
            self._clients: dict[str, ClientKey] = dict(map(_read_client, self._paths()))
        except (OSError, UnsafeError) as fault:
            raise KeyRingError(
                f"the keys in {directory} cannot be used: {streams.reason(fault)}"
            ) from None
        self._by_key = _by_key(self._clients)

    def __len__(self) -> int:
        """Return how many clients are known."""
        return len(self._clients)

    def clients(self) -> dict[str, ClientKey]:
        """Return the clients by name."""
        return dict(self._clients)

    def principal(self, public_key: str) -> Principal:
        """Return the holder of a key; `NOBODY`, without a role, if it is unknown or revoked."""
        return self._by_key.get(public_key) or NOBODY

    def refresh(self) -> list[str]:
        """Read the keys again if a file has changed.

        Return the principals that have changed since the last call. A file that cannot be read
        counts as no key. But while the system cannot open files, nothing changes.
        """
        with self._lock:
            self._read_again()
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
        before, self._clients, self._by_key = self._clients, clients, _by_key(clients)
        changed = [name for name in before if before[name] != clients.get(name)]
        log.info("keys read again", keys=len(self), changed=changed)
        self._changed += [f"key:{name}" for name in changed]

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
                name, client = _read_client(path)
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


def new_pair() -> KeyPair:
    """Make a key pair."""
    public, secret = zmq.curve_keypair()
    return KeyPair(public.decode(), secret.decode())


def read_pair(path: Path) -> KeyPair:
    """Read a pair from a file that only its owner can read. Raises KeyRingError."""
    try:
        with path.open("rb") as file:
            check_secret(path, file.fileno())
            pair = msgspec.convert(tomllib.load(file), KeyPair)
    except FileNotFoundError:
        raise KeyRingError(
            f"there is no {path}; make it with: tollgate keys new NAME --role ROLE"
        ) from None
    except OSError as fault:
        raise KeyRingError(f"{path}: {fault.strerror}") from None
    except (ValueError, UnsafeError) as fault:
        raise KeyRingError(f"{path}: {fault}") from None
    if not (_is_key(pair.public_key) and _is_key(pair.secret_key)):
        raise KeyRingError(f"{path}: a key has 40 characters of Z85")
    if zmq.curve_public(pair.secret_key.encode()) != pair.public_key.encode():
        raise KeyRingError(f"{path}: the public key does not belong to the secret one")
    return pair


def write_pair(path: Path, pair: KeyPair) -> None:
    """Write a pair into a new file of mode 0600. Raises KeyRingError if there is one already."""
    broker = f'broker_public_key = "{pair.broker_public_key}"\n' if pair.broker_public_key else ""
    _write_new(
        path, f'public_key = "{pair.public_key}"\nsecret_key = "{pair.secret_key}"\n{broker}'
    )


def write_client(directory: Path, name: str, client: ClientKey) -> None:
    """Add a client. Raises KeyRingError if there is one of that name."""
    text = f'public_key = "{client.public_key}"\nrole = "{client.role}"\n'
    _write_new(directory / (name + SUFFIX), text)


def _write_new(path: Path, text: str) -> None:
    """Write a new file of mode 0600, at once as a whole. Raises KeyRingError if it exists."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        opened = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(opened, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.link(part, path)
    except FileExistsError:
        raise KeyRingError(f"there is a {path} already; it is not replaced") from None
    except OSError as fault:
        raise KeyRingError(f"{path}: {fault.strerror}") from None
    finally:
        with suppress(OSError):  # a read-only file system, of which the error above tells
            part.unlink()


def _read_client(path: Path) -> tuple[str, ClientKey]:
    """Return a client's name and its key. Raises KeyRingError or OSError."""
    name = path.name.removesuffix(SUFFIX)
    if not is_name(name):
        raise KeyRingError(f"{path.parent}: a key cannot be called {path.name!r}")
    # O_NONBLOCK: if it is a pipe, opening would block.
    opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        with os.fdopen(opened, "rb") as file:
            check_unchanged(path, opened)
            client = msgspec.convert(tomllib.load(file), ClientKey)
    except UnsafeError as fault:
        raise KeyRingError(str(fault)) from None
    except ValueError as fault:
        raise KeyRingError(f"{path}: {fault}") from None
    if not _is_key(client.public_key):
        raise KeyRingError(f"{path}: a key has 40 characters of Z85")
    return name, client


def _by_key(clients: dict[str, ClientKey]) -> dict[str, Principal]:
    by_key: dict[str, Principal] = {}
    for name, client in clients.items():
        principal = Principal(f"key:{name}", frozenset({client.role}))
        other = by_key.setdefault(client.public_key, principal)
        if other != principal:
            raise KeyRingError(f"{other.name} and key:{name} are the same key; remove one of them")
    return by_key

"""The keys that a broker knows: its own pair, and the public keys of its clients, each in a file.

    keys/broker.key     its own pair, mode 0600
    keys/alice.toml     a client's public key and role

Keys are Z85 text of 40 characters, as CURVE has them.
"""

import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import Final

import msgspec
import structlog
import zmq

from broker.directories import UnsafeError, check_secret, make_private
from broker.principal import NOBODY, Principal
from domain.roles import Role

OWN: Final = "broker.key"
SUFFIX: Final = ".toml"
is_name = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}").fullmatch
"""What a key may be called: what any file system takes for a name, and no log for anything else."""
_is_key = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}").fullmatch

log = structlog.get_logger("tollgate.broker")


class KeyRingError(Exception):
    """Keys that cannot be used; the message is one line that says what to do."""


class Pair(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key pair, or in a client's file also the broker's public key."""

    public_key: str
    secret_key: str
    broker_public_key: str | None = None


class Client(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the broker knows of a client."""

    public_key: str
    role: Role


class KeyRing:
    """The keys in a directory, read anew by `refresh`."""

    def __init__(self, directory: Path) -> None:
        """Read all keys. Raises KeyRingError if one of them, or the directory, cannot be used."""
        self._directory = directory
        try:
            make_private(directory)
        except (OSError, UnsafeError) as fault:
            raise KeyRingError(f"the keys in {directory} cannot be used: {fault}") from None
        self.own = read_pair(directory / OWN)
        self._lock = Lock()
        self._changed: list[str] = []
        self._seen = self._signature()
        self._clients: dict[str, Client] = dict(self._read())
        self._by_key = _by_key(self._clients)

    def __len__(self) -> int:
        """Return how many clients are known."""
        return len(self._clients)

    def clients(self) -> dict[str, Client]:
        """Return the clients by name."""
        return dict(self._clients)

    def principal(self, public_key: str) -> Principal:
        """Return who has this key: nobody, without a role, if it is unknown or revoked."""
        return self._by_key.get(public_key) or NOBODY

    def refresh(self) -> list[str]:
        """Read the keys again if a file has changed.

        Return the principals that are not as they were at the last call. A file that cannot be read
        is no key any more.
        """
        with self._lock:
            self._read_again()
            changed, self._changed = self._changed, []
        return changed

    def lets_in(self, public_key: str) -> bool:
        """Return whether who has this key may come in; an unknown one may be new. Any thread."""
        if self.principal(public_key).role is None:
            with self._lock:
                self._read_again()
        return self.principal(public_key).role is not None

    def _read_again(self) -> None:
        signature = self._signature()
        if signature == self._seen:
            return
        self._seen = signature
        before = self._clients
        clients: dict[str, Client] = {}
        for path in self._paths():
            try:
                name, client = _read_client(path)
                _by_key({**clients, name: client})
            except KeyRingError as fault:
                log.error("a key was passed over", reason=str(fault))  # noqa: TRY400
                continue
            clients[name] = client
        self._clients, self._by_key = clients, _by_key(clients)
        changed = [name for name in before if before[name] != self._clients.get(name)]
        log.info("keys read again", keys=len(self), changed=changed)
        self._changed += [f"key:{name}" for name in changed]

    def _read(self) -> Iterator[tuple[str, Client]]:
        for path in self._paths():
            yield _read_client(path)

    def _paths(self) -> list[Path]:
        return sorted(self._directory.glob("*" + SUFFIX))

    def _signature(self) -> list[tuple[str, int, int]]:
        """Return what tells the files from how they were before."""
        try:
            with os.scandir(self._directory) as entries:
                found = [(entry.name, entry.stat()) for entry in entries]
        except OSError:
            return []
        return sorted((name, state.st_mtime_ns, state.st_ino) for name, state in found)


def read_pair(path: Path) -> Pair:
    """Read a pair from a file that nobody else can read. Raises KeyRingError."""
    try:
        with path.open("rb") as file:
            check_secret(path, file.fileno())
            pair = msgspec.convert(tomllib.load(file), Pair)
    except FileNotFoundError:
        raise KeyRingError(f"there is no {path}; make it with: tollgate keys new NAME") from None
    except (OSError, ValueError, UnsafeError) as fault:
        raise KeyRingError(f"{path}: {fault}") from None
    if not (_is_key(pair.public_key) and _is_key(pair.secret_key)):
        raise KeyRingError(f"{path}: a key has 40 characters of Z85")
    if zmq.curve_public(pair.secret_key.encode()) != pair.public_key.encode():
        raise KeyRingError(f"{path}: the public key does not belong to the secret one")
    return pair


def write_pair(path: Path, pair: Pair) -> None:
    """Write a pair into a new file of mode 0600. Raises KeyRingError if there is one already."""
    broker = f'broker_public_key = "{pair.broker_public_key}"\n' if pair.broker_public_key else ""
    text = f'public_key = "{pair.public_key}"\nsecret_key = "{pair.secret_key}"\n{broker}'
    write_new(path, text)


def write_client(directory: Path, name: str, client: Client) -> None:
    """Let a client in. Raises KeyRingError if there is one of that name."""
    text = f'public_key = "{client.public_key}"\nrole = "{client.role}"\n'
    write_new(directory / (name + SUFFIX), text)


def write_new(path: Path, text: str) -> None:
    """Write a file of mode 0600 that nobody sees half of.

    Raises KeyRingError if there is one already.
    """
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
        part.unlink(missing_ok=True)


def new_pair() -> Pair:
    """Make a key pair."""
    public, secret = zmq.curve_keypair()
    return Pair(public.decode(), secret.decode())


def _read_client(path: Path) -> tuple[str, Client]:
    name = path.name.removesuffix(SUFFIX)
    if not is_name(name):
        raise KeyRingError(f"{path}: a key cannot be called that")
    try:
        client = msgspec.convert(tomllib.loads(path.read_text()), Client)
    except (OSError, ValueError) as fault:
        raise KeyRingError(f"{path}: {fault}") from None
    if not _is_key(client.public_key):
        raise KeyRingError(f"{path}: a key has 40 characters of Z85")
    return name, client


def _by_key(clients: dict[str, Client]) -> dict[str, Principal]:
    by_key: dict[str, Principal] = {}
    for name, client in clients.items():
        principal = Principal(f"key:{name}", client.role)
        other = by_key.setdefault(client.public_key, principal)
        if other != principal:
            raise KeyRingError(f"{other.name} and key:{name} are the same key; remove one of them")
    return by_key

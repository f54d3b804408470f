"""The files of keys: what is in them, how they are read, and how they are written.

    keys/broker.key         the broker's own pair, mode 0600
    keys/broker.next.key    the pair that will replace it, while it is rotated
    keys/alice.toml         a client's public key and roles, and earlier keys until they end

Keys are Z85 text of 40 characters, as in CURVE. A file appears, or is replaced, at once as a whole.
"""

import fcntl
import os
import re
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import zmq
from msgspec import Meta

from tollgate.broker.access.permissions import UnsafeError, check_secret, check_unchanged
from tollgate.broker.core.roles import Role

BROKER_KEY: Final = "broker.key"
NEXT_KEY: Final = "broker.next.key"
SUFFIX: Final = ".toml"
RETIRING_MAX: Final = 8
"""Earlier keys of a client that are valid at a time."""
LOCK_S: Final = 10.0
"""Longest wait for another command that changes the keys."""
is_name = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}").fullmatch
"""Valid names of keys: safe as a file name everywhere, and unambiguous in a log."""
_is_key = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}").fullmatch

Time = Annotated[datetime, Meta(tz=True)]


class KeyRingError(Exception):
    """Keys that cannot be used; the message is one line that says what to do."""


class KeyPair(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key pair. A client's file has the broker's public key, too."""

    public_key: str
    secret_key: str
    broker_public_key: str | None = None


class RetiringKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An earlier key of a client. Its holder may connect until it ends."""

    public_key: str
    since: Time
    """When a newer key replaced it."""
    until: Time

    def left_s(self, now: datetime) -> float:
        """Return for how long it is valid: at most its overlap, also if the clock was set back."""
        return (self.until - max(now, self.since)).total_seconds()


class ClientKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the broker knows of a client."""

    public_key: str
    roles: Annotated[frozenset[Role], Meta(min_length=1)]
    retiring: Annotated[tuple[RetiringKey, ...], Meta(max_length=RETIRING_MAX)] = ()
    """Its earlier keys, the newest one last."""

    @property
    def role_names(self) -> list[str]:
        """The names of its roles, in the order of the roles."""
        return [role.value for role in Role if role in self.roles]


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
    text = f'public_key = "{pair.public_key}"\nsecret_key = "{pair.secret_key}"\n{broker}'
    _write(path, text, is_new=True)


def read_client(path: Path) -> tuple[str, ClientKey]:
    """Return a client's name and its key. Raises KeyRingError or OSError."""
    name = path.name.removesuffix(SUFFIX)
    if not is_name(name):
        raise KeyRingError(f"{path.parent}: a key cannot be called {path.name!r}")
    # O_NONBLOCK: if it is a pipe, opening would block.
    opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        with os.fdopen(opened, "rb") as file:
            check_unchanged(path, opened)
            client = _client_of(tomllib.load(file))
    except UnsafeError as fault:
        raise KeyRingError(str(fault)) from None
    except ValueError as fault:
        raise KeyRingError(f"{path}: {fault}") from None
    if not all(map(_is_key, public_keys(client))):
        raise KeyRingError(f"{path}: a key has 40 characters of Z85")
    return name, client


def _client_of(fields: dict[str, Any]) -> ClientKey:
    """Return a client from its file's fields. Raises ValueError."""
    if "role" in fields and "roles" not in fields:  # files made before a key could have several
        fields["roles"] = [fields.pop("role")]
    return msgspec.convert(fields, ClientKey)


def public_keys(client: ClientKey) -> list[str]:
    """Return the keys of a client, earlier ones first."""
    return [*(key.public_key for key in client.retiring), client.public_key]


def write_client(directory: Path, name: str, client: ClientKey) -> None:
    """Add a client. Raises KeyRingError if there is one of that name."""
    _write(directory / (name + SUFFIX), _text_of(client), is_new=True)


def replace_client(directory: Path, name: str, client: ClientKey) -> None:
    """Write a client's file anew. Raises KeyRingError."""
    _write(directory / (name + SUFFIX), _text_of(client), is_new=False)


def rotated(client: ClientKey, public_key: str, now: datetime, until: datetime) -> ClientKey:
    """Return a client with a new key; all earlier ones end at `until`, or before it.

    Those that have ended are left out. Raises KeyRingError if there are too many.
    """
    retiring = [
        RetiringKey(key.public_key, key.since, min(key.until, until))
        for key in (*client.retiring, RetiringKey(client.public_key, now, until))
    ]
    retiring = [key for key in retiring if key.left_s(now) > 0]
    if len(retiring) > RETIRING_MAX:
        raise KeyRingError(
            f"{RETIRING_MAX} earlier keys are valid still; wait until one has ended, or end all of"
            " them with: --overlap 0"
        )
    return ClientKey(public_key, client.roles, tuple(retiring))


def finish_rotation(directory: Path) -> None:
    """Let the broker's next pair replace its own. Raises OSError."""
    (directory / NEXT_KEY).replace(directory / BROKER_KEY)
    _sync_directory(directory)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep other commands from changing the keys meanwhile. Raises KeyRingError or OSError."""
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        give_up_at_s = time.monotonic() + LOCK_S
        while True:
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= give_up_at_s:
                    raise KeyRingError(
                        f"another command changes the keys in {directory}; try again"
                    ) from None
                time.sleep(0.02)
        yield
    finally:
        os.close(opened)


def _text_of(client: ClientKey) -> str:
    roles = ", ".join(f'"{name}"' for name in client.role_names)
    text = f'public_key = "{client.public_key}"\nroles = [{roles}]\n'
    for key in client.retiring:
        text += f'\n[[retiring]]\npublic_key = "{key.public_key}"\n'
        text += f"since = {shown(key.since)}\nuntil = {shown(key.until)}\n"
    return text


def shown(moment: datetime) -> str:
    """Return a time in UTC, as TOML and JSON have it."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _write(path: Path, text: str, *, is_new: bool) -> None:
    """Write a new file of mode 0600, or replace one. Raises KeyRingError.

    It is on the disk then, and so is its name: a key that the broker knows must not be lost.
    """
    made = False
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        opened = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(opened, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            os.link(part, path)
            made = True
        else:
            part.replace(path)
        _sync_directory(path.parent)
    except FileExistsError:
        raise KeyRingError(f"there is a {path} already; it is not replaced") from None
    except OSError as fault:
        if made:
            path.unlink()
        raise KeyRingError(f"{path}: {fault.strerror}") from None
    finally:
        with suppress(OSError):  # a read-only file system, of which the error above tells
            part.unlink()


def _sync_directory(directory: Path) -> None:
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)

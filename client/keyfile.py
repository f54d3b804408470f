"""The file that lets a client in by tcp: its key pair, and the broker's public key."""

import os
from typing import Final

from tollgate.client.errors import KeyFileError

KEY_VARIABLE: Final = "TOLLGATE_KEY"
_FIELDS: Final = ("public_key", "secret_key", "broker_public_key")


def resolve_key(key: "str | os.PathLike[str] | None") -> str | None:
    """Return the path `key`, or else what TOLLGATE_KEY says, or None."""
    return os.fspath(key) if key is not None else os.environ.get(KEY_VARIABLE) or None


def read_key(path: str) -> tuple[bytes, bytes, bytes]:
    """Return public key, secret key and the broker's public key, in Z85 of 40 bytes each.

    Raises KeyFileError for a file that others can read, or that `tollgate keys new` has not made.
    """
    import tomllib  # noqa: PLC0415 - most clients need no key

    try:
        with open(path, "rb") as file:  # noqa: PTH123 - the mode is asked of what is open
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise KeyFileError(f"others can read the key {path}; say: chmod 600 {path}")
            fields = tomllib.load(file)
        public, secret, broker = (str(fields[name]).encode("ascii") for name in _FIELDS)
    except OSError as fault:
        raise KeyFileError(f"the key {path} cannot be read: {fault.strerror}") from None
    except (ValueError, KeyError) as fault:
        raise KeyFileError(f"{path} is no key as `tollgate keys new` makes: {fault}") from None
    return public, secret, broker

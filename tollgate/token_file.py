"""Reads a secret word, such as an API key, from a file."""

from codecs import BOM_UTF8
from pathlib import Path

from tollgate.domain.exceptions import TollgateError


class TokenError(TollgateError):
    """The file with the word cannot be used; the message says why."""


def read_token(file: Path, what: str = "token") -> str:
    """Return the word in a file; errors call it `what`. Raises TokenError.

    Some editors begin a file with a byte order mark, which is no part of the word.
    """
    try:
        token = file.read_bytes().removeprefix(BOM_UTF8).decode("ascii").strip()
    except OSError as fault:
        raise TokenError(f"{file} cannot be read: {fault.strerror}") from None
    except UnicodeDecodeError:
        raise TokenError(f"{file} cannot be read: it is no text") from None
    if not token or not token.isprintable() or " " in token:
        raise TokenError(f"{file} has no {what}: one word is expected")
    return token

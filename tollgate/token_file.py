"""Reads a secret word, such as an API key, from a file."""

from pathlib import Path

from tollgate.domain.exceptions import TollgateError


class TokenError(TollgateError):
    """The file with the word cannot be used; the message says why."""


def read_token(file: Path, what: str = "token") -> str:
    """Return the word in a file; errors call it `what`. Raises TokenError."""
    try:
        token = file.read_text(encoding="ascii").strip()
    except OSError as fault:
        raise TokenError(f"{file} cannot be read: {fault.strerror}") from None
    except UnicodeDecodeError:
        raise TokenError(f"{file} cannot be read: it is no text") from None
    if not token or not token.isprintable() or " " in token:
        raise TokenError(f"{file} has no {what}: one word is expected")
    return token

"""Computes MIP-004's hashes, by which purchaser and service prove a job's input and result.

MIP-004 ("A Hashing Standard for Input and Output Data Integrity") hashes the UTF-8 bytes of
`identifier_from_purchaser + ";" + payload` with SHA-256, in lowercase hexadecimal. The functions
here differ in the payload. MIP-004 sets no limit on the identifier; if it contains a semicolon,
another pair can have the same hashed text, so a service should refuse it.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from tollgate.domain.exceptions import ArgumentError

JsonValue: TypeAlias = (
    "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
)


class UnhashableInputError(ArgumentError):
    """The value has no canonical form, so two parties cannot agree on its hash."""


def input_hash(identifier_from_purchaser: str, input_data: JsonValue) -> str:
    """Return the hash of a job's input (MIP-004, "Input Hash").

    The payload is the canonical JSON of RFC 8785: keys in the order of their UTF-16 code units,
    numbers as ECMAScript writes them. MIP-004's sample code and the services built on it use
    `canonicaljson`, which differs on floats such as 1.0 and 1e-6, on keys beyond the BMP and on
    large integers; for text and small integers both agree.

    Args:
        identifier_from_purchaser: as in MIP-003's `start_job`.
        input_data: MIP-003's `input_data`: an object, or a list of key and value pairs.

    Returns:
        64 lowercase hexadecimal digits.

    Raises:
        ArgumentError: for what RFC 8785 cannot represent: NaN, infinities, integers of
            2**53 and beyond, keys that are no strings, lone surrogates, types that JSON lacks.
    """
    return _hash(identifier_from_purchaser, _canonical_json(input_data))


def output_hash(identifier_from_purchaser: str, output: str) -> str:
    """Return the hash of a job's result by the text of MIP-004: the payload is the raw string.

    Services in use hash the escaped form instead: see `output_hash_as_deployed`.

    Returns:
        64 lowercase hexadecimal digits.

    Raises:
        ArgumentError: no text, or a lone surrogate, which UTF-8 cannot represent.
    """
    if not isinstance(output, str):
        raise _no_text("output", output)
    return _hash(identifier_from_purchaser, _utf8(output))


def output_hash_as_deployed(identifier_from_purchaser: str, output: str) -> str:
    r"""Return the hash of a job's result as deployed Masumi software computes it.

    There the payload is the string as JSON escapes it, without its quotes: a line break counts as
    the two characters `\n`. For a result without quotes, backslashes and control characters this
    is `output_hash`.

    Returns:
        64 lowercase hexadecimal digits.

    Raises:
        ArgumentError: no text, or a lone surrogate, which UTF-8 cannot represent.
    """
    if not isinstance(output, str):  # anything else would be dumped, too
        raise _no_text("output", output)
    escaped = json.dumps(output, ensure_ascii=False)[1:-1]
    return _hash(identifier_from_purchaser, _utf8(escaped))


def _no_text(name: str, value: object) -> UnhashableInputError:
    return UnhashableInputError(f"{name} must be a text (str), not a {type(value).__name__}")


def _hash(identifier_from_purchaser: str, payload: bytes) -> str:
    if not isinstance(identifier_from_purchaser, str):
        raise _no_text("identifier_from_purchaser", identifier_from_purchaser)
    return hashlib.sha256(_utf8(identifier_from_purchaser) + b";" + payload).hexdigest()


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UnhashableInputError(
            f"a lone surrogate at character {error.start} has no UTF-8 form"
        ) from error


def _canonical_json(value: JsonValue) -> bytes:
    import rfc8785  # noqa: PLC0415 - most importers of this module hash nothing

    try:
        return rfc8785.dumps(value)
    except RecursionError as error:
        raise UnhashableInputError("the input is nested too deeply") from error
    except UnicodeEncodeError as error:  # from a key: rfc8785 sorts before it checks
        raise UnhashableInputError("a lone surrogate in a key has no UTF-8 form") from error
    except ValueError as error:  # its CanonicalizationError and all below it
        reason = str(error).replace("<class '", "").replace("'>", "")  # of a type that JSON lacks
        raise UnhashableInputError(f"RFC 8785 cannot represent the input: {reason}") from error

"""Reads an input given as text as what was meant, or asks for it to be said explicitly.

The hash of an input is computed over its JSON value (MIP-004). Broken JSON would get the hash of a
string, which no other implementation computes. So an input that looks like a mistake is refused.
`as_text=True`, on the command line `--text`, says that the input is plain text.
"""

import json
from json import JSONDecodeError
from typing import Any, Final

from tollgate.domain.exceptions import ArgumentError

BOM: Final = "\ufeff"
NESTING_MAX: Final = 500
"""Python's own parser takes 1,000 levels less those of its caller; others take fewer."""
_JSON_SPACE: Final = " \t\n\r"
_JSON_STARTS: Final = ("{", "[", '"', "'{", "'[")
"""What begins like JSON; the last two are JSON within quotes that a shell has not removed."""
_MISREAD_BOMS: Final = ("\ufffe", "\xff\xfe", "\xfe\xff", "\xef\xbb\xbf")
_SAY_TEXT: Final = "; if it is meant as plain text, say so with as_text=True (--text)"


class _NotJsonError(ValueError):
    """Python's parser takes it, JSON does not."""


def _no_constant(name: str) -> None:
    raise _NotJsonError(f"JSON has no {name}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _NotJsonError(f"the key {twice!r:.60} is there twice")
    return found


_decode = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_object).decode


def hash_of_input(text: str, purchaser: str | None, *, as_text: bool = False) -> str:
    """Return the MIP-004 hash of an input given as text, without a byte order mark.

    JSON is parsed first; other text is hashed as a JSON string, and with `as_text` all text is. A
    missing identifier counts as an empty one. Raises ArgumentError for what seems to be a mistake,
    and for an input without a canonical form.
    """
    from tollgate.domain.hashing import UnhashableInputError, input_hash  # noqa: PLC0415 - not for a ping

    value = text if as_text else _value_of(text)
    try:
        return input_hash(purchaser or "", value)
    except UnhashableInputError as fault:
        raise ArgumentError(f"create: the input has no hash: {fault}") from None


def _value_of(text: str) -> Any:  # noqa: ANN401 - JSON
    """Return the JSON value of a text, or the text if it cannot be meant as JSON."""
    if not text.strip():
        raise _mistake("is empty (was a variable not set?)" if not text else "is only white space")
    if "\0" in text:
        raise _mistake("has NUL characters, as UTF-16 read byte by byte; convert it to UTF-8")
    try:
        value = _decode(text)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as fault:
        _refuse_mistakes(text, fault)
        return text
    if text.count("[") + text.count("{") > NESTING_MAX and _is_deep(value):
        raise _too_deep()
    return value


def _refuse_mistakes(text: str, fault: ValueError) -> None:
    """Raise ArgumentError for a text that is not JSON, but does not seem to be plain text either.

    `fault` is what the parser said.
    """
    if text.startswith(_MISREAD_BOMS):
        raise _mistake("begins with a byte order mark read in a wrong encoding; decode it as it is")
    if text.lstrip(_JSON_SPACE).startswith(_JSON_STARTS):
        if isinstance(fault, JSONDecodeError):
            reason = f"{fault.msg} at character {fault.pos + 1}"
        elif isinstance(fault, _NotJsonError):
            reason = str(fault)
        else:
            reason = "a number in it has too many digits"
        raise _mistake(f"begins like JSON, but is not: {reason}")
    if text.strip() != text:
        raise _mistake("is plain text with white space around it; remove that")
    try:
        float(text)
    except ValueError:
        return
    raise _mistake(f"is the number {text:.40}, which JSON cannot hold")


def _is_deep(value: object) -> bool:
    level = [value] if isinstance(value, list | dict) else []
    for _ in range(NESTING_MAX):
        level = [
            child
            for each in level
            for child in (each.values() if isinstance(each, dict) else each)
            if isinstance(child, list | dict)
        ]
    return bool(level)


def _too_deep() -> ArgumentError:
    return ArgumentError(f"create: input is nested more than {NESTING_MAX} levels deep")


def _mistake(what: str) -> ArgumentError:
    return ArgumentError(f"create: input {what}{_SAY_TEXT}")

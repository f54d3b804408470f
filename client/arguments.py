"""Converts arguments to the protocol's plain types, and says which ones cannot be taken.

Only what is not of a plain type already comes here, or what is refused: the usual call pays
nothing for it. docs/client.md has the table of what each argument may be.
"""

import reprlib
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from numbers import Real
from operator import index
from os import PathLike
from typing import Any, Final, TypeVar
from uuid import UUID

import msgspec

from tollgate.client.framing import UNFIT
from tollgate.domain.commands import ALL_QUEUES, Command, check_queue_names
from tollgate.domain.exceptions import ArgumentError

_Command = TypeVar("_Command", bound=Command)

UNIX_S_MIN: Final = 1_000_000_000
"""September 2001. A smaller number is a duration, not a time."""
UNIX_S_MAX: Final = 100_000_000_000
"""MIP-003 has times in seconds. Masumi's services have milliseconds: those above this."""
TIMEOUT_S_MAX: Final = 365 * 24 * 3600.0
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 60


def shown(value: object) -> str:
    """Return a value for an error message, in at most some 60 characters."""
    return _short.repr(value)


def described(value: object) -> str:
    """Return type and value for an error message, in at most some 100 characters."""
    return "None" if value is None else f"the {type(value).__qualname__} {shown(value)}"


def wrong(command: str, name: str, value: object, expected: str) -> ArgumentError:
    """Return the error that names the argument, what is expected, and what was given."""
    return ArgumentError(f"{command}: {name} must be {expected}, not {described(value)}")


def text(command: str, name: str, value: object, expected: str = "a text (str)") -> str:
    """Return a text as a plain str, also of a subclass of str or an Enum. Raises ArgumentError."""
    if isinstance(value, Enum):
        value = value.value
    if not isinstance(value, str):
        if isinstance(value, bytes | bytearray | memoryview):
            expected += ", with bytes decoded"
        elif isinstance(value, PathLike):
            expected += ", for a file its contents"
        raise wrong(command, name, value, expected)
    plain = str.__str__(value)
    try:
        plain.encode()
    except UnicodeEncodeError as fault:
        raise ArgumentError(
            f"{command}: {name} is not valid Unicode: there is a lone surrogate at character "
            f"{fault.start + 1}; was it decoded from bytes that are not UTF-8?"
        ) from None
    return plain


def identifier(command: str, name: str, value: object, expected: str) -> str:
    """Return an id as a plain str; a UUID is taken too. Raises ArgumentError."""
    return str(value) if isinstance(value, UUID) else text(command, name, value, expected)


def whole(command: str, name: str, value: Any, expected: str) -> int:  # noqa: ANN401 - to be seen
    """Return a whole number as a plain int, also of other types of integers.

    Raises ArgumentError.
    """
    if not isinstance(value, bool):
        try:
            return int(index(value))
        except TypeError:
            pass
    raise wrong(command, name, value, expected)


def time(command: str, name: str, value: object, expected: str) -> datetime:
    """Return a plain datetime in UTC, of a subclass of datetime or a Unix time.

    Raises ArgumentError.
    """
    if isinstance(value, datetime):
        try:  # by its fields, since its own arithmetic gives the subclass again
            plain = _EPOCH.replace(
                year=value.year,
                month=value.month,
                day=value.day,
                hour=value.hour,
                minute=value.minute,
                second=value.second,
                microsecond=value.microsecond,
            )
            if (offset := value.utcoffset()) is not None:
                return plain - offset
        except (OverflowError, TypeError, ValueError):  # pandas.NaT among others
            pass
        raise wrong(command, name, value, expected)
    if isinstance(value, date):
        raise wrong(command, name, value, expected)
    number = whole(command, name, value, expected)
    if number < UNIX_S_MIN:  # a duration by mistake
        raise wrong(command, name, value, f"{expected}, not before September 2001")
    try:
        return _EPOCH + timedelta(milliseconds=number if number > UNIX_S_MAX else number * 1_000)
    except OverflowError:
        raise wrong(command, name, value, f"{expected}, not after the year 9999") from None


def seconds(value: object, name: str = "timeout_s") -> float:
    """Return a time-out as a float of at most a year. Raises ArgumentError."""
    if type(value) is float and value <= TIMEOUT_S_MAX:  # NaN is not
        return value
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, Real) or value != value:  # noqa: PLR0124 - NaN
        raise ArgumentError(
            f"{name} must be a number of seconds or a timedelta, not {described(value)}"
        )
    return min(float(value), TIMEOUT_S_MAX) if value < TIMEOUT_S_MAX else TIMEOUT_S_MAX


def flag(command: str, name: str, value: object, expected: str) -> bool:
    """Return a truth value. Raises ArgumentError: 0 and 1 are likely a mistake."""
    if isinstance(value, bool):
        return value
    raise wrong(command, name, value, expected)


def _number(value: Any) -> float | None:  # noqa: ANN401 - to be seen
    """Return a real number of any type as a float; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def fraction(command: str, name: str, value: object, expected: str) -> float:
    """Return a number from 0 to 1 as a float. Raises ArgumentError."""
    number = _number(value)
    if number is not None and 0 <= number <= 1:
        return number
    raise wrong(command, name, value, expected)


def delay_ms(command: str, name: str, value: object) -> int:
    """Return a delay given in seconds or as a timedelta in milliseconds. Raises ArgumentError."""
    expected = "a number of seconds or a timedelta, from 0 to a year"
    number = _number(value.total_seconds() if isinstance(value, timedelta) else value)
    if number is not None and 0 <= number <= TIMEOUT_S_MAX:
        return round(number * 1_000)
    raise wrong(command, name, value, expected)


def _as_it_is(_: str, __: str, value: object, ___: str) -> object:
    return value


Convert = Callable[[str, str, object, str], object]
_NUL_FREE: Final = "a text that is not empty and has no NUL character"
_A_TEXT: Final = (text, "a text (str)")
_AN_ID: Final = (identifier, "a job's id: a text of 1 to 64 characters, or a UUID")
_A_TIME: Final = (
    time,
    "a datetime with a time zone, or a Unix time as an int in seconds (milliseconds above 1e11)",
)
_JOB_IDS: Final = "a job's id, or 1 to 1,000 of them in a list"
_JOB_IDS_MAX: Final = 1_000
_QUEUES: Final = "the name of a queue, 1 to 64 of them in a list, or '*' for all"
_SOME_QUEUES: Final = "the name of a queue, or 1 to 64 of them in a list"
_A_FLAG: Final = (flag, "True or False")
_A_HASH: Final = (text, "64 lowercase hexadecimal digits")
_A_QUEUE: Final = "the name of a queue: 1 to 64 of the characters A-Z a-z 0-9 . _ -"
_FIELDS: Final[dict[str, tuple[Convert, str]]] = {
    "input_hash": _A_HASH,
    "input": _A_TEXT,
    "identifier_from_purchaser": (identifier, _NUL_FREE),
    "job_id": _AN_ID,
    "blockchain_identifier": (identifier, _NUL_FREE),
    "pay_by_time": _A_TIME,
    "submit_result_time": _A_TIME,
    "not_before": _A_TIME,
    "queue": (text, _A_QUEUE),
    "priority": (whole, "a whole number from 0, which comes first, to 9"),
    "meta": _A_TEXT,
    "traceparent": (text, "a W3C traceparent, such as 00-<32 digits>-<16 digits>-01"),
    "settle": _A_FLAG,
    "get.lease": _A_FLAG,
    "list.lease": _A_FLAG,
    "newest": _A_FLAG,
    "texts": _A_FLAG,
    "keep_lease": _A_FLAG,
    "force": _A_FLAG,
    "hold": _A_FLAG,
    "reason": _A_TEXT,
    "result_hash": _A_HASH,
    "on_chain_state": (text, _NUL_FREE),
    "result": _A_TEXT,
    "error": _A_TEXT,
    "input_schema": _A_TEXT,
    "expected_version": (whole, "a whole number from 1 to 2**53 - 1"),
    "lease": (whole, "the token of a lease, a whole number from 0 to 2**53 - 1"),
    "lease_ms": (whole, "a whole number of milliseconds from 1 to 86,400,000, a day"),
    "wait_ms": (whole, "a whole number of milliseconds from 0 to 3,600,000, an hour"),
    "limit": (whole, "a whole number from 1 to 1,000"),
    "after": (text, "the `next` of a page"),
    "events.after": (text, "a position: an `as_of`, or the `next` or `position` of events"),
    "events.queues": (_as_it_is, _SOME_QUEUES),
    "job_ids": (_as_it_is, _JOB_IDS),
    "queues": (_as_it_is, _QUEUES),
}
"""How to convert each argument, and what it must be. The other ones are converted by the caller.

A name may mean something else in one command; then it stands behind the command's."""
_NEW_ID: Final = "a UUID, as text in lowercase with hyphens"


def job_ids(values: object, command: str = "wait") -> list[str]:
    """Return several ids as plain texts; one alone is taken too. Raises ArgumentError."""
    if isinstance(values, str | UUID | Enum):
        values = [values]
    if isinstance(values, Iterable) and not isinstance(values, bytes):
        found = [
            each if type(each) is str else identifier(command, "job_ids", each, _AN_ID[1])
            for each in values
        ]
        if 0 < len(found) <= _JOB_IDS_MAX:
            return found
    raise wrong(command, "job_ids", values, _JOB_IDS)


def queues(values: object, command: str = "claim") -> list[str]:
    """Return the names of queues as plain texts; one alone is taken too. Raises ArgumentError."""
    expected = _QUEUES if command == "claim" else _SOME_QUEUES
    if isinstance(values, str | Enum):
        values = [values]
    if isinstance(values, Iterable) and not isinstance(values, bytes):
        found = [text(command, "queues", each, _A_QUEUE) for each in values]
        try:
            check_queue_names([each for each in found if each != ALL_QUEUES or command != "claim"])
        except ValueError:
            raise wrong(command, "queues", values, expected) from None
        return found
    raise wrong(command, "queues", values, expected)


def converted(kind: type[_Command], fields: dict[str, Any]) -> _Command:
    """Return a command of `kind` with its fields converted. Raises ArgumentError."""
    command = str(kind.__struct_config__.tag)
    plain = dict(fields)
    for field in msgspec.structs.fields(kind):
        name = field.name
        value = fields.get(name)
        known = _FIELDS.get(f"{command}.{name}") or _FIELDS.get(name)
        if known is None or (value is None and not (field.required and name != "meta")):
            continue
        convert, expected = known
        if command == "create" and name == "job_id":
            expected = _NEW_ID
        try:
            plain[name] = msgspec.convert(convert(command, name, value, expected), field.type)
        except ArgumentError:
            raise
        except UNFIT:
            raise wrong(command, name, value, expected) from None
    try:
        return kind(**plain)  # which checks how the fields fit together
    except ValueError as fault:
        raise ArgumentError(f"{command}: {fault}") from None

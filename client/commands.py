"""Makes commands from what users pass, and refuses what a broker could not decode."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from os import urandom
from typing import Any, Final, TypeVar

import msgspec

from tollgate.client.framing import UNFIT
from tollgate.domain.commands import (
    UINT_LIMIT,
    Cancel,
    Claim,
    Command,
    Count,
    Create,
    Get,
    List,
    ProvideInput,
    Release,
    Touch,
    Transition,
    Wait,
)
from tollgate.domain.exceptions import MalformedError
from tollgate.domain.status import COMPLETED, FAILED, JobStatus

__all__ = [  # the public ones: `tollgate.commands`
    "cancel",
    "claim",
    "count",
    "create",
    "get",
    "list_page",
    "provide_input",
    "release",
    "touch",
    "transition",
]

SLICE_MS: Final = 15_000
"""A longer wait is divided into waits of this length."""
JOB_IDS_AT_ONCE: Final = 64
"""How many ids to make from one read of the system's random source."""

JOB_ID_MAX: Final = 64
HASH_LENGTH: Final = 64

Row = Create | str | Mapping[str, Any]
"""What `create_many` takes: a command, an input hash, or the arguments of `create` by name."""

AnyStatus = JobStatus | str
_Command = TypeVar("_Command", bound=Command)

_STATUSES: Final = {status.value: status for status in JobStatus}
_VARIANT: Final = "89ab" * 4
"""What a random digit becomes at the position of a UUID's variant."""
_TO_VARIANT: Final = bytes.maketrans(b"0123456789abcdef", _VARIANT.encode())


def make(kind: type[_Command], **fields: Any) -> _Command:  # noqa: ANN401 - as the command has it
    """Return a command of `kind`, checked by the rules of the protocol. Raises MalformedError."""
    try:
        for text in fields.values():
            if isinstance(text, str) and not text.isascii():
                text.encode()  # a lone surrogate cannot be sent
        return msgspec.convert(fields, kind)
    except UNFIT as fault:
        raise MalformedError(f"{kind.__struct_config__.tag}: {fault}") from None


def _is_plain(text: object) -> bool:
    """Return whether this is a text that certainly can be encoded."""
    return type(text) is str and text.isascii()


def _is_count(number: object) -> bool:
    return type(number) is int and 0 < number < UINT_LIMIT


def status_of(status: AnyStatus) -> JobStatus:
    """Return the status of that name. Raises MalformedError."""
    try:
        return _STATUSES[status]
    except (KeyError, TypeError):
        raise MalformedError(f"no status {status!r}; there are {', '.join(JobStatus)}") from None


def optional_status(status: AnyStatus | None) -> JobStatus | None:
    """Return the status of that name, or None for None. Raises MalformedError."""
    return None if status is None else status_of(status)


def hash_of_input(text: str, identifier_from_purchaser: str | None) -> str:
    """Return the MIP-004 hash of an input given as text.

    JSON is parsed first; any other text is hashed as a JSON string. A missing identifier counts as
    an empty one. Raises MalformedError for an input without a canonical form.
    """
    from tollgate.domain.hashing import UnhashableInputError, input_hash  # noqa: PLC0415 - not for a ping

    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        value = text
    try:
        return input_hash(identifier_from_purchaser or "", value)
    except UnhashableInputError as fault:
        raise MalformedError(f"the input has no hash: {fault}") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def new_job_id() -> str:
    """Return a UUID4 as text; less than half the time of `uuid.uuid4`."""
    digits = urandom(16).hex()
    variant = _VARIANT[int(digits[16], 16)]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def new_job_ids() -> Iterator[str]:
    """Yield UUID4s as text without end; a third of the time of `new_job_id` for each."""
    while True:
        yield from _uuid4s(JOB_IDS_AT_ONCE)


def _uuid4s(count: int) -> list[str]:
    """Return UUID4s, all formatted at once by slices with a step over one text."""
    text = bytearray(urandom(16 * count).hex("-", 2).encode())
    text += b"-"
    del text[4::40]  # there is a hyphen after every four digits: remove those that a UUID lacks
    del text[28::39]
    del text[32::38]
    text[14::37] = b"4" * count  # the version
    text[19::37] = text[19::37].translate(_TO_VARIANT)
    text[36::37] = b" " * count
    return text.decode().split()


def create(  # noqa: PLR0913 - one argument a field
    input_hash: str | None = None,
    *,
    input: str | None = None,  # noqa: A002 - the field's name
    identifier_from_purchaser: str | None = None,
    job_id: str | None = None,
    blockchain_identifier: str | None = None,
    pay_by_time: datetime | None = None,
    submit_result_time: datetime | None = None,
) -> Create:
    """Return a `create` with a job id, so that it may be repeated. Raises MalformedError."""
    if input_hash is None:
        if not isinstance(input, str):
            raise MalformedError("create takes an input_hash, or an input as text")
        input_hash = hash_of_input(input, identifier_from_purchaser)
    if (
        identifier_from_purchaser is None
        and blockchain_identifier is None
        and pay_by_time is None
        and submit_result_time is None
        and type(input_hash) is str
        and len(input_hash) == HASH_LENGTH
        and (job_id is None or type(job_id) is str)
        and (input is None or _is_plain(input))
    ):  # the usual case: a `Create` checks everything else itself
        try:
            return Create(input_hash=input_hash, input=input, job_id=job_id or new_job_id())
        except ValueError as fault:
            raise MalformedError(f"create: {fault}") from None
    times: tuple[object, ...] = (pay_by_time, submit_result_time)
    if any(isinstance(time, str) for time in times):
        raise MalformedError("create: a time is a datetime, not a text")  # `make` would parse it
    return make(
        Create,
        input_hash=input_hash,
        input=input,
        identifier_from_purchaser=identifier_from_purchaser,
        job_id=job_id or new_job_id(),
        blockchain_identifier=blockchain_identifier,
        pay_by_time=pay_by_time,
        submit_result_time=submit_result_time,
    )


def creates(rows: Iterable[Row]) -> Iterator[Create | MalformedError]:
    """Yield a `create` with a job id for each row, or the error of that row."""
    job_ids = new_job_ids()
    for row in rows:
        try:
            if type(row) is str and len(row) == HASH_LENGTH:  # nothing else in it can be wrong
                command = Create(input_hash=row)
                command.job_id = next(job_ids)  # which needs no check
                yield command
            elif isinstance(row, str):
                yield create(row)
            elif isinstance(row, Create):
                fields = msgspec.structs.asdict(row)
                if row.job_id is None:
                    fields["job_id"] = next(job_ids)
                yield make(Create, **fields)
            else:
                yield create(**{"job_id": next(job_ids), **row})
        except (TypeError, ValueError) as fault:
            yield MalformedError(f"not the arguments of create: {fault}")
        except MalformedError as refusal:
            yield refusal


def get(job_id: str | None = None, blockchain_identifier: str | None = None) -> Get:
    """Return a `get` by one of the two. Raises MalformedError."""
    if (
        blockchain_identifier is None
        and type(job_id) is str
        and 0 < len(job_id) <= JOB_ID_MAX
        and job_id.isascii()
    ):  # the usual case: there is nothing else to check
        return Get(job_id=job_id)
    return make(Get, job_id=job_id, blockchain_identifier=blockchain_identifier)


def transition(  # noqa: PLR0913 - one argument a field
    job_id: str,
    target: AnyStatus,
    *,
    result: str | None = None,
    error: str | None = None,
    input_schema: str | None = None,
    expected_version: int | None = None,
    lease: int | None = None,
) -> Transition:
    """Return a `transition`. Raises MalformedError."""
    if type(target) is not JobStatus:
        target = status_of(target)
    if (
        input_schema is None
        and type(job_id) is str
        and 0 < len(job_id) <= JOB_ID_MAX
        and job_id.isascii()
        and (result is None or (target is COMPLETED and _is_plain(result)))
        and (error is None or (target is FAILED and _is_plain(error)))
        and (expected_version is None or _is_count(expected_version))
        and (lease is None or _is_count(lease))
    ):  # the usual case: there is nothing else to check
        return Transition(
            job_id=job_id,
            target=target,
            result=result,
            error=error,
            expected_version=expected_version,
            lease=lease,
        )
    return make(
        Transition,
        job_id=job_id,
        target=target,
        result=result,
        error=error,
        input_schema=input_schema,
        expected_version=expected_version,
        lease=lease,
    )


def provide_input(job_id: str, text: str, expected_version: int) -> ProvideInput:
    """Return a `provide_input`. Raises MalformedError."""
    return make(ProvideInput, job_id=job_id, input=text, expected_version=expected_version)


def cancel(job_id: str, expected_version: int | None = None) -> Cancel:
    """Return a `cancel`. Raises MalformedError."""
    return make(Cancel, job_id=job_id, expected_version=expected_version)


def count(status: AnyStatus | None = None) -> Count:
    """Return a `count`. Raises MalformedError."""
    return make(Count, status=optional_status(status))


def list_page(status: AnyStatus | None = None, after: str | None = None, limit: int = 100) -> List:
    """Return a `list`. Raises MalformedError."""
    return make(List, status=optional_status(status), after=after, limit=limit)


def claim(status: AnyStatus, *, lease_ms: int = 30_000, wait_ms: int = 0, limit: int = 1) -> Claim:
    """Return a `claim`. Raises MalformedError."""
    return make(Claim, status=status_of(status), lease_ms=lease_ms, wait_ms=wait_ms, limit=limit)


def touch(job_id: str, lease: int, lease_ms: int = 30_000) -> Touch:
    """Return a `touch`. Raises MalformedError."""
    return make(Touch, job_id=job_id, lease=lease, lease_ms=lease_ms)


def release(job_id: str, lease: int) -> Release:
    """Return a `release`. Raises MalformedError."""
    return make(Release, job_id=job_id, lease=lease)


def check_message_commands(count: int | None) -> None:
    """Raise ValueError if `count` is below 1."""
    if count is not None and count < 1:
        raise ValueError(f"a message has 1 command at least, not {count}")


class SlicedWait:
    """A wait of any length, divided into short ones, so that the broker may restart in between.

    `patience_s` is how long the broker may take to answer after the end of a short wait.
    """

    def __init__(
        self,
        job_ids: str | Sequence[str],
        statuses: Sequence[AnyStatus] | None,
        until: float | None,
        patience_s: float,
    ) -> None:
        """Wait until the monotonic time `until`; None is for ever. Raises MalformedError."""
        self._until = until
        self._patience_s = patience_s
        self._whole = make(
            Wait,
            job_ids=[job_ids] if isinstance(job_ids, str) else [*job_ids],
            statuses=None if statuses is None else [*map(status_of, statuses)],
            timeout_ms=SLICE_MS,
        )

    def over(self, now: float) -> bool:
        """Whether there is no time left to wait."""
        return self._until is not None and now >= self._until

    def slice(self, now: float) -> tuple[Wait, float]:
        """Return the next short wait, and the time by which it must be answered."""
        timeout_ms = SLICE_MS
        if self._until is not None:
            timeout_ms = min(SLICE_MS, max(0, round((self._until - now) * 1_000)))
        command = msgspec.structs.replace(self._whole, timeout_ms=timeout_ms)
        return command, now + timeout_ms / 1_000 + self._patience_s

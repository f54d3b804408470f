"""Makes commands from what users pass, and refuses what a broker could not decode."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from enum import Enum
from os import urandom
from typing import Any, Final, TypeGuard, TypeVar
from uuid import UUID

import msgspec

from tollgate.client import arguments
from tollgate.client.framing import UNFIT
from tollgate.client.inputs import BOM, hash_of_input
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
from tollgate.domain.exceptions import ArgumentError
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
JobId = str | UUID
Time = datetime | int
"""A datetime with a time zone, or a Unix time: in seconds or, above 1e11, in milliseconds."""
_Command = TypeVar("_Command", bound=Command)

_PLAIN: Final = frozenset({type(None), int, datetime, JobStatus, list})
"""What msgspec encodes, beside `str`. It would take subclasses of `str`, but not encode them."""
_AN_INPUT: Final = "a text (str), such as that of json.dumps"
_A_ROW: Final = "an input hash, a Create, or a mapping of create's arguments"
_STATUSES: Final = {status.value: status for status in JobStatus}
_VARIANT: Final = "89ab" * 4
"""What a random digit becomes at the position of a UUID's variant."""
_TO_VARIANT: Final = bytes.maketrans(b"0123456789abcdef", _VARIANT.encode())


def make(kind: type[_Command], **fields: Any) -> _Command:  # noqa: ANN401 - as the command has it
    """Return a command of `kind`, checked by the rules of the protocol. Raises ArgumentError."""
    try:
        for value in fields.values():
            if type(value) is str:
                if not value.isascii():
                    value.encode()  # a lone surrogate cannot be sent
            elif type(value) not in _PLAIN:
                break
        else:
            return msgspec.convert(fields, kind)
    except UNFIT:
        pass
    return arguments.converted(kind, fields)


def _is_plain(text: object) -> TypeGuard[str]:
    """Return whether this is a text that certainly can be encoded."""
    return type(text) is str and text.isascii()


def _is_count(number: object) -> bool:
    return type(number) is int and 0 < number < UINT_LIMIT


def status_of(status: Any) -> JobStatus:  # noqa: ANN401 - to be checked
    """Return the status of that name. Raises ArgumentError."""
    try:
        return _STATUSES[status]
    except (KeyError, TypeError):
        name = status.value if isinstance(status, Enum) else status
        if isinstance(name, str) and (found := _STATUSES.get(str.__str__(name))):
            return found
        raise ArgumentError(
            f"there is no status {arguments.shown(status)}; there are {', '.join(JobStatus)}"
        ) from None


def optional_status(status: AnyStatus | None) -> JobStatus | None:
    """Return the status of that name, or None for None. Raises ArgumentError."""
    return None if status is None else status_of(status)


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
    as_text: bool = False,
    identifier_from_purchaser: str | None = None,
    job_id: JobId | None = None,
    blockchain_identifier: str | None = None,
    pay_by_time: Time | None = None,
    submit_result_time: Time | None = None,
) -> Create:
    """Return a `create` with a job id, so that it may be repeated. Raises ArgumentError."""
    if input_hash is None:
        input, input_hash = _hashed(input, identifier_from_purchaser, as_text=as_text)  # noqa: A001
    if job_id is None:
        job_id = new_job_id()
    if (
        identifier_from_purchaser is None
        and blockchain_identifier is None
        and pay_by_time is None
        and submit_result_time is None
        and type(input_hash) is str
        and len(input_hash) == HASH_LENGTH
        and type(job_id) is str
        and job_id
        and (input is None or _is_plain(input))
    ):  # the usual case: a `Create` checks everything else itself
        try:
            return Create(input_hash=input_hash, input=input, job_id=job_id)
        except ValueError as fault:
            raise ArgumentError(f"create: {fault}") from None
    fields: dict[str, object] = {
        "input_hash": input_hash,
        "input": input,
        "identifier_from_purchaser": identifier_from_purchaser,
        "job_id": job_id,
        "blockchain_identifier": blockchain_identifier,
        "pay_by_time": pay_by_time,
        "submit_result_time": submit_result_time,
    }
    if str in map(type, (pay_by_time, submit_result_time)):
        return arguments.converted(Create, fields)  # which refuses it; `make` would parse it
    return make(Create, **fields)


def _hashed(text: object, purchaser: object, *, as_text: bool) -> tuple[str, str]:
    """Return the input as it is stored, and its hash."""
    if text is None:
        raise ArgumentError("create takes an input_hash, or an input as text")
    if not _is_plain(text):
        text = arguments.text("create", "input", text, _AN_INPUT)
        if not as_text:
            text = text.removeprefix(BOM)
    if purchaser is not None and not _is_plain(purchaser):
        name = "identifier_from_purchaser"
        purchaser = arguments.identifier("create", name, purchaser, "a text (str)")
    return text, hash_of_input(text, purchaser, as_text=as_text)


_ARGUMENTS: Final = ("input_hash", *(create.__kwdefaults__ or ()))


def creates(rows: Iterable[Row]) -> Iterator[Create | ArgumentError]:
    """Yield a `create` with a job id for each row, or the error of that row.

    Raises ArgumentError at once if `rows` is what one row may be, or no iterable.
    """
    if isinstance(rows, str | bytes | Mapping | Create) or not isinstance(rows, Iterable):
        raise ArgumentError(
            f"create_many: jobs must be a list or another iterable of jobs, not "
            f"{arguments.described(rows)}"
        )
    return _creates(rows)


def _creates(rows: Iterable[Any]) -> Iterator[Create | ArgumentError]:
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
                yield _checked(row, job_ids)
            elif isinstance(row, Mapping):
                yield create(**{"job_id": next(job_ids), **row})
            else:
                yield arguments.wrong("create_many", "a job", row, _A_ROW)
        except ArgumentError as refusal:
            yield refusal
        except TypeError:
            known = ", ".join(_ARGUMENTS)
            yield arguments.wrong("create_many", "a job", row, f"a mapping with the keys {known}")
        except ValueError as fault:
            yield ArgumentError(f"create: {fault}")


def _checked(row: Create, job_ids: Iterator[str]) -> Create:
    fields = msgspec.structs.asdict(row)
    if row.job_id is None:
        fields["job_id"] = next(job_ids)
    return make(Create, **fields)


def get(job_id: JobId | None = None, blockchain_identifier: str | None = None) -> Get:
    """Return a `get` by one of the two. Raises ArgumentError."""
    if (
        blockchain_identifier is None
        and type(job_id) is str
        and 0 < len(job_id) <= JOB_ID_MAX
        and job_id.isascii()
    ):  # the usual case: there is nothing else to check
        return Get(job_id=job_id)
    return make(Get, job_id=job_id, blockchain_identifier=blockchain_identifier)


def transition(  # noqa: PLR0913 - one argument a field
    job_id: JobId,
    target: AnyStatus,
    *,
    result: str | None = None,
    error: str | None = None,
    input_schema: str | None = None,
    expected_version: int | None = None,
    lease: int | None = None,
) -> Transition:
    """Return a `transition`. Raises ArgumentError."""
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


def provide_input(job_id: JobId, text: str, expected_version: int) -> ProvideInput:
    """Return a `provide_input`. Raises ArgumentError."""
    return make(ProvideInput, job_id=job_id, input=text, expected_version=expected_version)


def cancel(job_id: JobId, expected_version: int | None = None) -> Cancel:
    """Return a `cancel`. Raises ArgumentError."""
    return make(Cancel, job_id=job_id, expected_version=expected_version)


def count(status: AnyStatus | None = None) -> Count:
    """Return a `count`. Raises ArgumentError."""
    return make(Count, status=optional_status(status))


def list_page(status: AnyStatus | None = None, after: str | None = None, limit: int = 100) -> List:
    """Return a `list`. Raises ArgumentError."""
    return make(List, status=optional_status(status), after=after, limit=limit)


def claim(status: AnyStatus, *, lease_ms: int = 30_000, wait_ms: int = 0, limit: int = 1) -> Claim:
    """Return a `claim`. Raises ArgumentError."""
    return make(Claim, status=status_of(status), lease_ms=lease_ms, wait_ms=wait_ms, limit=limit)


def touch(job_id: JobId, lease: int, lease_ms: int = 30_000) -> Touch:
    """Return a `touch`. Raises ArgumentError."""
    return make(Touch, job_id=job_id, lease=lease, lease_ms=lease_ms)


def release(job_id: JobId, lease: int) -> Release:
    """Return a `release`. Raises ArgumentError."""
    return make(Release, job_id=job_id, lease=lease)


def check_bulk(count: object, on_progress: object = None) -> None:
    """Raise ArgumentError if `count` is not a whole number from 1 on, or the other no function."""
    if on_progress is not None and not callable(on_progress):
        raise ArgumentError(
            f"on_progress must be a function, not {arguments.described(on_progress)}"
        )
    if count is not None and not (type(count) is int and count > 0):
        raise ArgumentError(
            f"message_commands must be a whole number from 1 on, not {arguments.described(count)}"
        )


def _statuses(statuses: object) -> list[JobStatus]:
    if isinstance(statuses, str | Enum):
        return [status_of(statuses)]
    if not isinstance(statuses, Iterable):
        raise arguments.wrong("wait", "statuses", statuses, "a status, or a list of them")
    return [*map(status_of, statuses)]


class SlicedWait:
    """A wait of any length, divided into short ones, so that the broker may restart in between.

    `patience_s` is how long the broker may take to answer after the end of a short wait.
    """

    def __init__(
        self,
        job_ids: JobId | Sequence[JobId],
        statuses: AnyStatus | Sequence[AnyStatus] | None,
        until: float | None,
        patience_s: float,
    ) -> None:
        """Wait until the monotonic time `until`; None is for ever. Raises ArgumentError."""
        self._until = until
        self._patience_s = patience_s
        self._whole = make(
            Wait,
            job_ids=[job_ids] if type(job_ids) is str else arguments.job_ids(job_ids),
            statuses=None if statuses is None else _statuses(statuses),
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

"""Makes commands from what users pass, and refuses what a broker could not decode."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from itertools import chain, repeat
from os import urandom
from typing import Any, Final, TypeGuard, TypeVar
from uuid import UUID

import msgspec

from tollgate.client import arguments
from tollgate.client.framing import UNFIT
from tollgate.client.inputs import BOM, hash_of_input
from tollgate.domain.commands import (
    UINT_LIMIT,
    Annotate,
    Cancel,
    Claim,
    Command,
    Count,
    Create,
    Events,
    Explain,
    Get,
    History,
    Hold,
    List,
    PauseQueue,
    ProvideInput,
    Release,
    RequestStop,
    Resume,
    ResumeQueue,
    Settle,
    Stats,
    Touch,
    Transition,
)
from tollgate.domain.exceptions import ArgumentError
from tollgate.domain.results import Progress
from tollgate.domain.settlement import SettlementState
from tollgate.domain.status import COMPLETED, FAILED, JobStatus

__all__ = [  # the public ones: `tollgate.commands`
    "annotate",
    "cancel",
    "claim",
    "count",
    "create",
    "events_page",
    "get",
    "history",
    "hold",
    "list_page",
    "pause_queue",
    "provide_input",
    "release",
    "request_stop",
    "resume",
    "resume_queue",
    "settle",
    "touch",
    "transition",
]

JOB_IDS_AT_ONCE: Final = 64
"""How many ids to make from one read of the system's random source."""

JOB_ID_MAX: Final = 64

AnyStatus = JobStatus | str
AnySettlement = SettlementState | str
Delay = float | timedelta
"""A number of seconds, or a timedelta, of at most a year."""
JobId = str | UUID
Time = datetime | int
"""A datetime with a time zone, or a Unix time: in seconds or, above 1e11, in milliseconds."""
_Command = TypeVar("_Command", bound=Command)

_PLAIN: Final = frozenset(
    {type(None), bool, int, datetime, JobStatus, SettlementState, Progress, list}
)
"""What msgspec encodes, beside `str`. It would take subclasses of `str`, but not encode them."""
_AN_INPUT: Final = "a text (str), such as that of json.dumps"
_STATUSES: Final = {status.value: status for status in JobStatus}
_SETTLEMENTS: Final = {state.value: state for state in SettlementState}
_COUNTS: Final = range(1, UINT_LIMIT)
_NONE_OF_THEM: Final = (None, None, None, None, None, 0, None, None, None, None, False)
"""The arguments of `create` that most calls leave out; comparing them all at once is cheapest."""
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
    return type(number) is int and number in _COUNTS


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


def statuses_of(statuses: object, command: str) -> list[JobStatus]:
    """Return the statuses of one name or of several. Raises ArgumentError."""
    if isinstance(statuses, str | Enum):
        return [status_of(statuses)]
    if not isinstance(statuses, Iterable):
        raise arguments.wrong(command, "statuses", statuses, "a status, or a list of them")
    return [*map(status_of, statuses)]


def optional_settlement(state: Any) -> SettlementState | None:  # noqa: ANN401 - to be checked
    """Return the state of that name, or None for None. Raises ArgumentError."""
    name = state.value if isinstance(state, Enum) else state
    if name is None:
        return None
    if isinstance(name, str) and (found := _SETTLEMENTS.get(str.__str__(name))):
        return found
    raise ArgumentError(
        f"a settlement has no state {arguments.shown(state)}; there are "
        f"{', '.join(SettlementState)}"
    )


def new_job_id() -> str:
    """Return a UUID4 as text; less than half the time of `uuid.uuid4`."""
    digits = urandom(16).hex()
    variant = _VARIANT[int(digits[16], 16)]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def new_job_ids() -> Iterator[str]:
    """Return UUID4s as text without end; a third of the time of `new_job_id` for each."""
    return chain.from_iterable(map(_uuid4s, repeat(JOB_IDS_AT_ONCE)))


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
    queue: str | None = None,
    priority: int = 0,
    not_before: Time | None = None,
    delay_s: Delay | None = None,
    meta: str | None = None,
    traceparent: str | None = None,
    settle: bool = False,
) -> Create:
    """Return a `create` with a job id, so that it may be repeated. Raises ArgumentError.

    `delay_s` is counted from now, by the clock of this machine; the methods of a client and of a
    batch take the broker's.
    """
    if input_hash is None:
        input, input_hash = _hashed(input, identifier_from_purchaser, as_text=as_text)  # noqa: A001
    if job_id is None:
        job_id = new_job_id()
    try:
        if (
            (
                identifier_from_purchaser,
                blockchain_identifier,
                pay_by_time,
                submit_result_time,
                queue,
                priority,
                not_before,
                delay_s,
                meta,
                traceparent,
                settle,
            )
            == _NONE_OF_THEM
            and type(input_hash) is str
            and type(job_id) is str
            and job_id
            and (input is None or _is_plain(input))
        ):  # the usual case: a `Create` checks everything else itself
            return Create(input_hash=input_hash, input=input, job_id=job_id)
    except (TypeError, ValueError):  # what follows says which argument is wrong
        pass
    if delay_s is not None:
        not_before = local_time_in(delay_of(delay_s, not_before))
    fields: dict[str, object] = {
        "input_hash": input_hash,
        "input": input,
        "identifier_from_purchaser": identifier_from_purchaser,
        "job_id": job_id,
        "blockchain_identifier": blockchain_identifier,
        "pay_by_time": pay_by_time,
        "submit_result_time": submit_result_time,
        "queue": queue,
        "priority": priority,
        "not_before": not_before,
        "meta": meta,
        "traceparent": traceparent,
        "settle": settle,
    }
    if str in map(type, (pay_by_time, submit_result_time, not_before)):
        return arguments.converted(Create, fields)  # which refuses it; `make` would parse it
    return make(Create, **fields)


def local_time_in(delay_ms: int) -> datetime:
    """Return the time of this machine in so many milliseconds."""
    return datetime.now(UTC) + timedelta(milliseconds=delay_ms)


def delay_of(delay_s: object, not_before: object) -> int:
    """Return the delay of a `create` in ms. Raises ArgumentError, also if both are given."""
    if not_before is not None:
        raise ArgumentError("create takes one of not_before and delay_s")
    return arguments.delay_ms("create", "delay_s", delay_s)


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


def get(
    job_id: JobId | None = None, blockchain_identifier: str | None = None, *, lease: bool = False
) -> Get:
    """Return a `get` by one of the two. Raises ArgumentError."""
    if (
        blockchain_identifier is None
        and not lease
        and type(job_id) is str
        and job_id
        and len(job_id) <= JOB_ID_MAX
        and job_id.isascii()
    ):  # the usual case: there is nothing else to check
        return Get(job_id=job_id)
    return make(Get, job_id=job_id, blockchain_identifier=blockchain_identifier, lease=lease)


def transition(  # noqa: PLR0913 - one argument a field
    job_id: JobId,
    target: AnyStatus,
    *,
    result: str | None = None,
    error: str | None = None,
    input_schema: str | None = None,
    expected_version: int | None = None,
    lease: int | None = None,
    keep_lease: bool = False,
    force: bool = False,
) -> Transition:
    """Return a `transition`. Raises ArgumentError."""
    if type(target) is not JobStatus:
        target = status_of(target)
    if (
        input_schema is None
        and not keep_lease
        and not force
        and type(job_id) is str
        and job_id
        and len(job_id) <= JOB_ID_MAX
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
        keep_lease=keep_lease,
        force=force,
    )


def provide_input(
    job_id: JobId, text: str, expected_version: int, *, input_hash: str | None = None
) -> ProvideInput:
    """Return a `provide_input`. Raises ArgumentError."""
    return make(
        ProvideInput,
        job_id=job_id,
        input=text,
        expected_version=expected_version,
        input_hash=input_hash,
    )


def cancel(job_id: JobId, expected_version: int | None = None) -> Cancel:
    """Return a `cancel`. Raises ArgumentError."""
    return make(Cancel, job_id=job_id, expected_version=expected_version)


def hold(job_id: JobId, *, reason: str | None = None, expected_version: int | None = None) -> Hold:
    """Return a `hold`. Raises ArgumentError."""
    return make(Hold, job_id=job_id, reason=reason, expected_version=expected_version)


def resume(job_id: JobId, *, expected_version: int | None = None) -> Resume:
    """Return a `resume`. Raises ArgumentError."""
    return make(Resume, job_id=job_id, expected_version=expected_version)


def request_stop(
    job_id: JobId, *, reason: str | None = None, expected_version: int | None = None
) -> RequestStop:
    """Return a `request_stop`. Raises ArgumentError."""
    return make(RequestStop, job_id=job_id, reason=reason, expected_version=expected_version)


def annotate(job_id: JobId, meta: str | None, *, expected_version: int | None = None) -> Annotate:
    """Return an `annotate`. Raises ArgumentError."""
    return make(Annotate, job_id=job_id, meta=meta, expected_version=expected_version)


def settle(  # noqa: PLR0913 - one argument a field
    job_id: JobId,
    *,
    lease: int | None = None,
    to: AnySettlement | None = None,
    result_hash: str | None = None,
    on_chain_state: str | None = None,
    reason: str | None = None,
    retry_after_s: Delay | None = None,
) -> Settle:
    """Return a `settle`. Raises ArgumentError."""
    return make(
        Settle,
        job_id=job_id,
        lease=lease,
        to=optional_settlement(to),
        result_hash=result_hash,
        on_chain_state=on_chain_state,
        reason=reason,
        retry_after_ms=_optional_ms("settle", "retry_after_s", retry_after_s),
    )


def pause_queue(queue: str) -> PauseQueue:
    """Return a `pause_queue`. Raises ArgumentError."""
    return make(PauseQueue, queue=queue)


def resume_queue(queue: str) -> ResumeQueue:
    """Return a `resume_queue`. Raises ArgumentError."""
    return make(ResumeQueue, queue=queue)


def count(
    status: AnyStatus | None = None,
    *,
    queue: str | None = None,
    settlement: AnySettlement | None = None,
) -> Count:
    """Return a `count`. Raises ArgumentError."""
    settlement = optional_settlement(settlement)
    return make(Count, status=optional_status(status), queue=queue, settlement=settlement)


def list_page(  # noqa: PLR0913 - one argument a field
    status: AnyStatus | None = None,
    after: str | None = None,
    limit: int = 100,
    *,
    queue: str | None = None,
    settlement: AnySettlement | None = None,
    newest: bool = False,
    lease: bool = False,
) -> List:
    """Return a `list`. Raises ArgumentError."""
    return make(
        List,
        status=optional_status(status),
        after=after,
        limit=limit,
        queue=queue,
        settlement=optional_settlement(settlement),
        newest=newest,
        lease=lease,
    )


def stats(queue: str | None = None) -> Stats:
    """Return a `stats`. Raises ArgumentError."""
    return make(Stats, queue=queue)


def explain(job_id: JobId) -> Explain:
    """Return an `explain`. Raises ArgumentError."""
    return make(Explain, job_id=job_id)


def history(job_id: JobId) -> History:
    """Return a `history`. Raises ArgumentError."""
    return make(History, job_id=job_id)


def events_page(  # noqa: PLR0913 - one argument a field
    after: str | None = None,
    *,
    limit: int = 1_000,
    wait_ms: int = 0,
    queues: str | Sequence[str] | None = None,
    statuses: AnyStatus | Sequence[AnyStatus] | None = None,
    job_ids: JobId | Sequence[JobId] | None = None,
    texts: bool = False,
) -> Events:
    """Return an `events`. Raises ArgumentError."""
    return make(
        Events,
        after=after,
        limit=limit,
        wait_ms=wait_ms,
        queues=None if queues is None else arguments.queues(queues, "events"),
        statuses=None if statuses is None else statuses_of(statuses, "events"),
        job_ids=None if job_ids is None else arguments.job_ids(job_ids, "events"),
        texts=texts,
    )


def claim(  # noqa: PLR0913 - one argument a field
    status: AnyStatus | None = None,
    *,
    settlement: AnySettlement | None = None,
    queue: str | None = None,
    queues: str | Sequence[str] | None = None,
    job_ids: JobId | Sequence[JobId] | None = None,
    lease_ms: int = 30_000,
    wait_ms: int = 0,
    limit: int | None = None,
) -> Claim:
    """Return a `claim`. Raises ArgumentError."""
    chosen = None if job_ids is None else arguments.job_ids(job_ids, "claim")
    if queue is not None:
        if queues is not None:
            raise ArgumentError("claim takes one of queue and queues")
        queues = queue
    if limit is None:
        limit = 1 if chosen is None else len(chosen)
    return make(
        Claim,
        status=optional_status(status),
        settlement=optional_settlement(settlement),
        queues=None if queues is None else arguments.queues(queues),
        job_ids=chosen,
        lease_ms=lease_ms,
        wait_ms=wait_ms,
        limit=limit,
    )


def touch(
    job_id: JobId,
    lease: int,
    lease_ms: int = 30_000,
    *,
    progress: str | None = None,
    fraction: float | None = None,
) -> Touch:
    """Return a `touch`. Raises ArgumentError."""
    made = None if progress is None and fraction is None else _progress(progress, fraction)
    return make(Touch, job_id=job_id, lease=lease, lease_ms=lease_ms, progress=made)


def _progress(progress: object, fraction: object) -> Progress:
    return Progress(
        arguments.text("touch", "progress", progress),
        None
        if fraction is None
        else arguments.fraction("touch", "fraction", fraction, "a number from 0 to 1"),
    )


def release(
    job_id: JobId,
    lease: int,
    *,
    delay_s: Delay | None = None,
    reason: str | None = None,
    hold: bool = False,
) -> Release:
    """Return a `release`. Raises ArgumentError."""
    delay_ms = _optional_ms("release", "delay_s", delay_s)
    return make(Release, job_id=job_id, lease=lease, delay_ms=delay_ms, reason=reason, hold=hold)


def _optional_ms(command: str, name: str, delay: Delay | None) -> int | None:
    return None if delay is None else arguments.delay_ms(command, name, delay)

"""What users see of an event: what happened, to which job, by whom, and what is new of the job."""

from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import UNSET

from tollgate.broker.core.event_columns import Known, Seen
from tollgate.broker.core.events import (
    AnyEvent,
    JobAnnotated,
    JobCreated,
    JobHeld,
    JobProgressed,
    JobPruned,
    JobResumed,
    JobSettled,
    JobTransitioned,
    LeaseGranted,
    LeaseLapsed,
    LeaseReleased,
    LogBegan,
    Origin,
    QueuePaused,
    QueueResumed,
    SessionEvicted,
    SessionOpened,
    StopRequested,
)
from tollgate.broker.repository.job import Slot, mock_identifier
from tollgate.broker.repository.job_repo import FORCED
from tollgate.domain.results import (
    DEFAULT_QUEUE,
    ChangedFields,
    JobEvent,
    Progress,
    Settlement,
)
from tollgate.domain.settlement import SettlementState
from tollgate.domain.status import AWAITING_INPUT, AWAITING_PAYMENT, FAILED, RUNNING, JobStatus

HIDDEN: Final = frozenset[type[AnyEvent]]({SessionOpened, SessionEvicted, LogBegan})
"""The kinds that concern neither a job nor a queue."""
_encode: Final = msgspec.msgpack.Encoder().encode

Row = Callable[[Any, Any, Origin, str, bool], JobEvent]
"""Makes what users see: of an event, what is known of its job, and its origin and position."""


def status_at(version: int) -> JobStatus:
    """Return the status in which a job was at a version that it has left.

    The table of legal transitions leaves no choice: a job is paid first, then it works and asks in
    turns.
    """
    if version == 1:
        return AWAITING_PAYMENT
    return AWAITING_INPUT if version % 2 else RUNNING


def queue_of(event: Any, known: Known) -> str | None:  # noqa: ANN401 - of any kind
    """Return the queue of an event."""
    if type(known) is Slot:
        return known.job.queue
    if known is None:
        return getattr(event, "queue", None)
    return known[0]  # type: ignore[index]  # a tuple


def statuses_of(event: Any, known: Known) -> tuple[JobStatus | None, JobStatus | None]:  # noqa: ANN401 - of any kind
    """Return the status of the job after an event, and the one that it has left."""
    if type(event) is JobTransitioned:
        return event.target, status_at(event.version)
    if type(event) is JobCreated:
        return AWAITING_PAYMENT, None
    return (None, None) if known is None else (known[1], None)  # type: ignore[index]  # a tuple


def row_of(event: AnyEvent, known: Known, origin: Origin, position: str, *, texts: bool) -> bytes:
    """Return an event as it stands in a result."""
    return _encode(_ROWS[type(event)](event, known, origin, position, texts))


def _created(event: JobCreated, _: Known, origin: Origin, position: str, texts: bool) -> JobEvent:  # noqa: FBT001 - see Row
    rest, queue = event.rest, DEFAULT_QUEUE
    changed = ChangedFields(
        event.input_hash,
        event.blockchain_identifier or mock_identifier(event.job_id),
        event.at,
        event.at,
        input=event.input if texts and event.input is not None else UNSET,
    )
    for name in _OPTIONAL:
        if (value := getattr(event, name)) is not None:
            setattr(changed, name, value)
    if rest is not None:
        queue = rest.queue or DEFAULT_QUEUE
        changed.priority = rest.priority or UNSET
        for name in _OPTIONAL_REST:
            if (value := getattr(rest, name)) is not None:
                setattr(changed, name, value)
        if rest.settle:
            changed.settlement = Settlement(SettlementState.PENDING, event.at)
    return JobEvent(
        position, origin.at, "created", event.job_id, queue, AWAITING_PAYMENT, 1, None,
        origin.by or None, origin.client or None, None, None, changed,
    )  # fmt: skip


def _moved(
    event: JobTransitioned,
    known: Slot | Seen,
    origin: Origin,
    position: str,
    texts: bool,  # noqa: FBT001 - see Row
) -> JobEvent:
    target, version, by = event.target, event.version, origin.by
    changed = ChangedFields(updated_at=event.at)
    what, reason = "moved", FORCED if event.forced else None
    if event.provided_input is not None:
        what = "input_provided"
    if type(known) is tuple:
        queue, inputs, settlement = known[0], known[4], known[5]
        if inputs is not None and (target is AWAITING_INPUT or what != "moved"):
            changed.inputs = inputs
        if settlement is not None and settlement.state is not SettlementState.PENDING:
            changed.settlement = settlement
    else:
        queue = known.job.queue  # type: ignore[union-attr]  # a slot
    if texts:
        _add_texts(changed, event)
    if target is FAILED and not by:
        reason = event.error
    return JobEvent(
        position, origin.at, what, event.job_id, queue, target, version + 1, status_at(version),
        by or None, origin.client or None, None, reason, changed,
    )  # fmt: skip


def _add_texts(changed: ChangedFields, event: JobTransitioned) -> None:
    if event.result is not None:
        changed.result = event.result
    if event.error is not None:
        changed.error = event.error
    if event.target is AWAITING_INPUT:
        changed.input_schema, changed.provided_input = event.input_schema, None
    elif event.provided_input is not None:
        changed.provided_input = event.provided_input


def _other(
    what: str,
    changed_by: Callable[[Any, Seen, Origin], ChangedFields | None] = lambda *_: None,
    attempt_of: Callable[[Any, Seen], int | None] = lambda *_: None,
) -> Row:
    """Return what makes the row of an event that neither creates nor moves a job."""

    def row(event: Any, known: Seen, origin: Origin, position: str, _: bool) -> JobEvent:  # noqa: ANN401, FBT001 - see Row
        return JobEvent(
            position, origin.at, what, event.job_id, known[0], known[1], known[2], None,
            origin.by or None, origin.client or None, attempt_of(event, known),
            getattr(event, "reason", None), changed_by(event, known, origin),
        )  # fmt: skip

    return row


def _of_queue(what: str) -> Row:
    """Return what makes the row of an event of a queue."""

    def row(event: Any, _: None, origin: Origin, position: str, __: bool) -> JobEvent:  # noqa: ANN401, FBT001 - see Row
        return JobEvent(
            position, origin.at, what, queue=event.queue, by=origin.by or None,
            client=origin.client or None,
        )  # fmt: skip

    return row


def _after_release(event: LeaseReleased, known: Seen, _: Origin) -> ChangedFields | None:
    changed = ChangedFields()
    if _released_attempt(event, known) is not None:
        changed.attempts = known[3]
    if event.not_before is not None:
        changed.not_before = event.not_before
    if event.hold:
        changed.on_hold = True
    return None if changed == ChangedFields() else changed


def _released_attempt(event: LeaseReleased, known: Seen) -> int | None:
    return known[3] if event.is_attempt and known[1] is RUNNING else None


def _after_lapse(_: LeaseLapsed, known: Seen, __: Origin) -> ChangedFields | None:
    return ChangedFields(attempts=known[3]) if known[1] is RUNNING else None


def _lapsed_attempt(_: LeaseLapsed, known: Seen) -> int | None:
    return known[3] if known[1] is RUNNING else None


def _progress(event: JobProgressed, _: Seen, origin: Origin) -> ChangedFields:
    return ChangedFields(progress=Progress(event.text, event.fraction, origin.at))


_OPTIONAL: Final = ("identifier_from_purchaser", "pay_by_time", "submit_result_time")
_OPTIONAL_REST: Final = ("not_before", "meta", "traceparent")
_ROWS: Final[dict[type[AnyEvent], Row]] = {
    JobCreated: _created,
    JobTransitioned: _moved,
    LeaseGranted: _other("claimed"),
    LeaseReleased: _other("released", _after_release, _released_attempt),
    LeaseLapsed: _other("lapsed", _after_lapse, _lapsed_attempt),
    JobPruned: _other("removed"),
    JobHeld: _other("held", lambda *_: ChangedFields(on_hold=True)),
    JobResumed: _other("resumed", lambda *_: ChangedFields(on_hold=False)),
    StopRequested: _other("stop_requested", lambda *_: ChangedFields(stop_requested=True)),
    JobAnnotated: _other("annotated", lambda event, *_: ChangedFields(meta=event.meta)),
    JobProgressed: _other("progress", _progress),
    JobSettled: _other("settled", lambda _, known, __: ChangedFields(settlement=known[5] or UNSET)),
    QueuePaused: _of_queue("queue_paused"),
    QueueResumed: _of_queue("queue_resumed"),
}

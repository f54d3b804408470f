"""The commands about single jobs: each looks at jobs, judges, and records events."""

from collections.abc import Sequence
from datetime import timedelta
from itertools import count
from typing import Any, Final

from tollgate.broker.core.context import Context, Handlers, RequestContext, about, one_by_one
from tollgate.broker.core.events import (
    AnyEvent,
    JobAnnotated,
    JobCreated,
    JobHeld,
    JobResumed,
    JobSettled,
    JobTransitioned,
    NewRest,
    StopRequested,
)
from tollgate.broker.core.leases import info
from tollgate.broker.core.limits import Limits
from tollgate.broker.core.state import no_settlement
from tollgate.broker.core.timers import later
from tollgate.broker.repository.job import (
    Changes,
    Slot,
    StoredJob,
    is_finished,
    job_result,
    rounds_bytes,
    text_bytes,
)
from tollgate.broker.repository.job_repo import InMemoryJobRepository
from tollgate.domain.commands import (
    Annotate,
    Cancel,
    Create,
    Get,
    Hold,
    ProvideInput,
    RequestStop,
    Resume,
    Settle,
    Transition,
)
from tollgate.domain.exceptions import (
    InvalidStateTransitionError,
    JobConflictError,
    JobNotFoundError,
    NotAuthorizedError,
    Refusal,
    RepositoryFullError,
    TooLargeError,
    VersionConflictError,
)
from tollgate.domain.results import DEFAULT_QUEUE, JobFields, JobResult, Result, error_of
from tollgate.domain.settlement import CLAIMABLE, LEGAL_SETTLEMENTS, SettlementState
from tollgate.domain.status import (
    AWAITING_INPUT,
    LEGAL_TRANSITIONS,
    RUNNING,
    JobStatus,
)

NOT_COMPARED: Final = frozenset({"not_before", "traceparent"})
"""What may differ when a creation is sent again: a retry has other ones."""


def create(context: Context, commands: Sequence[Create], request: RequestContext) -> list[Any]:
    """Store jobs. A job that is stored already with the same fields is shown as it is now."""
    now, pay_by, lead = request.now, context.pay_by(), context.lead
    found = context.state.jobs.get_all([command.job_id for command in commands])
    events = [
        JobCreated(
            command.job_id or context.new_id(), now, command.input_hash, command.input,
            command.identifier_from_purchaser, command.blockchain_identifier,
            command.pay_by_time or pay_by, command.submit_result_time,
            _rest_of(command, lead)
            if command.queue or command.priority or command.meta is not None
            or command.not_before or command.traceparent or command.settle else None,
        )
        for command, slot in zip(commands, found, strict=True) if slot is None
    ]  # fmt: skip
    if events:
        _check_capacity(context, events)
    changes = context.record(events, request.now_ms)
    if len(events) == len(commands):
        return _results_of(changes, found, {}, whole=False)
    made = iter(_results_of(changes, [None] * len(events), {}, whole=False))
    return [
        _created_before(command, slot) if slot else next(made)
        for command, slot in zip(commands, found, strict=True)
    ]


def _rest_of(command: Create, lead: timedelta) -> NewRest:
    """Return the other fields; `lead` is how far the time of records is ahead of the clock."""
    not_before = command.not_before
    if not_before is not None and lead:
        not_before = later(not_before, lead)
    return NewRest(
        command.queue, command.priority, not_before, command.meta, command.traceparent,
        command.settle,
    )  # fmt: skip


def _check_capacity(context: Context, events: Sequence[JobCreated]) -> None:
    jobs, limits = context.state.jobs, context.limits
    if jobs.stored >= limits.jobs:
        raise RepositoryFullError(f"{limits.jobs} jobs are stored already", limit=limits.jobs)
    if jobs.texts.total_bytes >= limits.stored_bytes:
        message = f"the jobs stored have {limits.stored_bytes} bytes of texts"
        raise RepositoryFullError(message, limit=limits.stored_bytes)
    if len(jobs.queues.by_name) + len(events) > limits.queues:
        names = {(event.rest and event.rest.queue) or DEFAULT_QUEUE for event in events}
        context.check_queues(names)


def _created_before(command: Create, slot: Slot) -> Result:
    job = slot.job
    for field in command.__struct_fields__:
        supplied = getattr(command, field)
        if field == "settle":
            differs = supplied and job.settlement is None
        elif field in NOT_COMPARED or (field == "priority" and not supplied):
            continue
        else:
            differs = supplied is not None and supplied != getattr(job, field)
        if differs:
            message = f"there is a job {job.job_id} already, with another {field}"
            return error_of(about(job, JobConflictError(message)))
    return job_result(slot.whole())


def _results_of(
    changes: Changes,
    found: Sequence[Slot | None],
    refused: dict[int, Refusal],
    *,
    whole: bool,
) -> list[Any]:
    """Return the results of commands about the jobs that were `found`.

    `refused` has the commands, by place, that were refused before they became an event; `changes`
    tells of the events. With `whole` some jobs may have rounds of input.
    """
    if not changes.refused and not refused:
        if whole:
            return [job_result(slot.whole()) for slot in changes.slots]
        if len(changes.slots) == 1:  # without the call that a comprehension is
            return [job_result(changes.slots[0].job)]
        return [job_result(slot.job) for slot in changes.slots]
    slots, places = iter(changes.slots), count()
    results: list[Any] = []
    for place, slot in enumerate(found):
        refusal = refused.get(place) or changes.refused.get(next(places))
        if refusal is None:
            results.append(job_result(next(slots).whole()))
        elif slot is None or isinstance(refusal, NotAuthorizedError):  # it must not show the job
            results.append(error_of(refusal))
        else:
            results.append(error_of(about(slot.job, refusal)))
    return results


def get(context: Context, commands: Sequence[Get], request: RequestContext) -> list[Any]:
    """Show jobs, with the texts of all rounds of input."""
    jobs = context.state.jobs
    found: list[Any] = jobs.get_all([command.job_id for command in commands])
    is_plain = not jobs.texts.longest_rounds and None not in found
    if is_plain and True not in [command.lease for command in commands]:  # the common case
        return [job_result(slot.job) for slot in found]
    results: list[Any] = []
    for command, slot in zip(commands, found, strict=True):
        if slot is None:
            results.append(_paid_by(jobs, command, request))
        else:
            results.append(job_result(_shown(slot, command, request)))
    return results


def _paid_by(jobs: InMemoryJobRepository, command: Get, request: RequestContext) -> Result:
    if command.blockchain_identifier is None:
        return error_of(JobNotFoundError(command.job_id or ""))
    slot = jobs.find_by_payment(command.blockchain_identifier)
    if slot is None:
        message = "no job has this blockchain identifier"
        return error_of(JobNotFoundError.rebuilt(message, {}))
    return JobResult(_shown(slot, command, request))


def _shown(slot: Slot, command: Get, request: RequestContext) -> JobFields:
    return slot.whole().shown(info(slot, request.now_ms) if command.lease else None)


def transition(
    context: Context, commands: Sequence[Transition], request: RequestContext
) -> list[Any]:
    """Move jobs: for the holder of the lease, or for anyone while there is no lease."""
    leases, now = context.state.leases, request.now
    rights = request.ticket.principal.rights
    moves = None if rights.force else rights.moves  # a role that may force may make all moves
    found = context.state.jobs.get_all([command.job_id for command in commands])
    events: list[JobTransitioned] = []
    refused: dict[int, Refusal] = {}
    for command, slot in zip(commands, found, strict=True):
        try:
            if moves is not None and command.force:
                raise NotAuthorizedError("force takes the role admin")
            if slot is None:
                raise JobNotFoundError(command.job_id)
            job, lease, target = slot.job, command.lease, command.target
            version = job.version
            if command.expected_version is not None and command.expected_version != version:
                check_version(job, command.expected_version)
            if (lease is not None or slot.lease is not None) and not command.force:
                leases.check(slot, lease)
            if moves is not None and (job.status, target) not in moves:
                raise _no_right_to_move(job, target)
            if target is AWAITING_INPUT and job.status is RUNNING:
                _check_rounds(slot, command.input_schema, context.limits, is_new=True)
        except Refusal as refusal:
            refused[len(events) + len(refused)] = refusal.with_traceback(None)
            continue
        events.append(
            JobTransitioned(
                job.job_id, version, target, now, command.result, command.error,
                command.input_schema, None, None, command.keep_lease, command.force,
            )
        )  # fmt: skip
    moving = found
    if refused:
        moving = [slot for place, slot in enumerate(found) if place not in refused]
    changes = context.record(events, request.now_ms, moving)
    whole = context.state.jobs.texts.longest_rounds > 0
    return _results_of(changes, found, refused, whole=whole)


def _no_right_to_move(job: StoredJob, target: JobStatus) -> NotAuthorizedError:
    return NotAuthorizedError(
        f"no role of this peer may move a job from {job.status} to {target}", job_id=job.job_id
    )


def _check_rounds(slot: Slot, text: str | None, limits: Limits, *, is_new: bool) -> None:
    """Raise TooLargeError if one more question or answer is too much for a job."""
    rounds = slot.rounds or ()
    if is_new and len(rounds) >= limits.input_rounds:
        limit = limits.input_rounds
        raise TooLargeError(f"a job asks for input {limit} times at most", limit=limit)
    if rounds_bytes(rounds) + text_bytes(text) > limits.inputs_bytes:
        limit = limits.inputs_bytes
        message = f"the questions and answers of a job hold {limit} bytes at most"
        raise TooLargeError(message, limit=limit)


def provide_input(context: Context, command: ProvideInput, request: RequestContext) -> JobResult:
    """Answer what a job asks for. A lease on the job does not hinder the purchaser."""
    slot = context.state.jobs.require(command.job_id)
    job = slot.job
    check_version(job, command.expected_version)
    if job.status is not AWAITING_INPUT:
        message = "only a job in awaiting_input takes input"
        raise _wrong_status(job, RUNNING, message)
    try:
        _check_rounds(slot, command.input, context.limits, is_new=False)
    except TooLargeError as refusal:
        raise about(job, refusal) from None
    event = JobTransitioned(
        job.job_id,
        job.version,
        RUNNING,
        request.now,
        provided_input=command.input,
        input_hash=command.input_hash,
        keep_lease=slot.lease is not None and slot.lease.is_kept,
    )
    return JobResult(context.record_one(event, request.now_ms))


def cancel(context: Context, command: Cancel, request: RequestContext) -> JobResult:
    """Fail an unpaid job. A lease on the job does not hinder the purchaser."""
    job = _wanted(context, command).job
    if job.status is not JobStatus.AWAITING_PAYMENT:
        raise _wrong_status(job, JobStatus.FAILED, "only an unpaid job can be cancelled")
    event = JobTransitioned(
        job.job_id, job.version, JobStatus.FAILED, request.now, error="cancelled"
    )
    return JobResult(context.record_one(event, request.now_ms))


def hold(context: Context, command: Hold, request: RequestContext) -> JobResult:
    """Put a job on hold; its holder, if there is one, goes on."""
    slot = _unfinished(_wanted(context, command), "on hold")
    event = JobHeld(slot.job.job_id, command.reason)
    return _changed(context, request, slot, event, is_so=slot.job.on_hold)


def resume(context: Context, command: Resume, request: RequestContext) -> JobResult:
    """Let claims have a job again that was on hold."""
    slot = _wanted(context, command)
    event = JobResumed(slot.job.job_id)
    return _changed(context, request, slot, event, is_so=not slot.job.on_hold)


def request_stop(context: Context, command: RequestStop, request: RequestContext) -> JobResult:
    """Ask the holder of a job to stop."""
    slot = _unfinished(_wanted(context, command), "stopped")
    event = StopRequested(slot.job.job_id, command.reason)
    return _changed(context, request, slot, event, is_so=slot.job.stop_requested)


def annotate(context: Context, command: Annotate, request: RequestContext) -> JobResult:
    """Replace the meta of a job."""
    slot = _wanted(context, command)
    event = JobAnnotated(slot.job.job_id, command.meta)
    return _changed(context, request, slot, event, is_so=slot.job.meta == command.meta)


def settle(context: Context, command: Settle, request: RequestContext) -> JobResult:
    """Move the settlement of a job, or note what the payment service says of it."""
    slot = context.state.jobs.require(command.job_id)
    job, to, settlement = slot.job, command.to, slot.job.settlement
    try:
        if command.lease is not None or to is not None:
            context.state.leases.check(slot, command.lease)
    except Refusal as refusal:
        raise about(job, refusal) from None
    if settlement is None:
        raise about(job, no_settlement(job.job_id))
    state = settlement.state
    if to is not None:
        if (state, to) not in request.ticket.principal.rights.settles:
            message = f"no role of this peer may move a settlement from {state} to {to}"
            raise NotAuthorizedError(message, job_id=job.job_id)
        if to not in LEGAL_SETTLEMENTS[state] or state is SettlementState.PENDING:
            raise _illegal_settlement(job, state, to)
    not_before = None
    if command.retry_after_ms is not None:
        if (to or state) not in CLAIMABLE:
            message = f"a settlement that is {to or state} is not claimed: nothing is tried again"
            raise about(job, InvalidStateTransitionError.rebuilt(message, {"allowed": []}))
        not_before = later(request.now, timedelta(milliseconds=command.retry_after_ms))
    is_ours = command.lease is not None or slot.lease is None
    event = JobSettled(
        job.job_id, to, command.result_hash, command.on_chain_state, command.reason, not_before,
        ends_lease=to is not None or (not_before is not None and is_ours),
    )  # fmt: skip
    return JobResult(context.record_one(event, request.now_ms))


def _illegal_settlement(
    job: StoredJob, state: SettlementState, to: SettlementState
) -> InvalidStateTransitionError:
    """Return the refusal of a move; its status, target and allowed are states of settlements."""
    allowed = sorted(each.value for each in LEGAL_SETTLEMENTS[state])
    if state is SettlementState.PENDING:  # only the job moves it
        allowed = []
    message = f"a settlement cannot be moved from {state} to {to}; from there it can be moved to: "
    details: dict[str, object] = {
        "job_id": job.job_id,
        "version": job.version,
        "status": state.value,
        "target": to.value,
        "allowed": allowed,
    }
    return InvalidStateTransitionError.rebuilt(message + (", ".join(allowed) or "nothing"), details)


def _wanted(context: Context, command: Cancel | Hold | Resume | RequestStop | Annotate) -> Slot:
    """Return the job of a command, if it is at the expected version."""
    slot = context.state.jobs.require(command.job_id)
    if command.expected_version is not None:
        check_version(slot.job, command.expected_version)
    return slot


def _changed(
    context: Context, request: RequestContext, slot: Slot, event: AnyEvent, *, is_so: bool
) -> JobResult:
    """Record an event, unless it would change nothing (`is_so`); show the job."""
    if not is_so:
        context.record_one(event, request.now_ms)
    return job_result(slot.whole())


def _unfinished(slot: Slot, what: str) -> Slot:
    job = slot.job
    if is_finished(job):
        message = f"job {job.job_id} is {job.status}: it cannot be {what}"
        raise about(job, InvalidStateTransitionError.rebuilt(message, {"allowed": []}))
    return slot


def check_version(job: StoredJob, expected_version: int) -> None:
    """Raise VersionConflictError if a job is at another version."""
    if expected_version != job.version:
        message = f"job {job.job_id} is at version {job.version}, not {expected_version}"
        raise about(job, VersionConflictError(message))


def _wrong_status(job: StoredJob, target: JobStatus, message: str) -> Refusal:
    allowed = sorted(status.value for status in LEGAL_TRANSITIONS[job.status])
    details: dict[str, object] = {"target": target.value, "allowed": allowed}
    return about(job, InvalidStateTransitionError.rebuilt(message, details))


JOB_COMMANDS: Final[Handlers] = {
    Create: create,
    Get: get,
    Transition: transition,
    ProvideInput: one_by_one(provide_input),
    Cancel: one_by_one(cancel),
    Hold: one_by_one(hold),
    Resume: one_by_one(resume),
    RequestStop: one_by_one(request_stop),
    Annotate: one_by_one(annotate),
    Settle: one_by_one(settle),
}

"""What each command about jobs does: look, decide, record an event."""

from collections.abc import Sequence
from itertools import count
from typing import Any, Final

from tollgate.broker.core.context import Desk, Handlers, Turn, alone, job_result
from tollgate.broker.core.events import JobCreated, JobTransitioned
from tollgate.broker.core.sizes import RESULT_BYTES, job_bytes_max
from tollgate.broker.repository.job import Done, StoredJob
from tollgate.broker.repository.store import Jobs
from tollgate.domain.commands import Cancel, Count, Create, Get, List, ProvideInput, Transition
from tollgate.domain.exceptions import (
    InvalidStateTransitionError,
    JobConflictError,
    JobNotFoundError,
    Refusal,
    ReplyFullError,
    RepositoryFullError,
    VersionConflictError,
)
from tollgate.domain.results import CountResult, JobResult, JobsResult, Result, error_of
from tollgate.domain.status import LEGAL_TRANSITIONS, JobStatus


def create(desk: Desk, commands: Sequence[Create], turn: Turn) -> list[Any]:
    """Store jobs; show one that is there already, with the same fields, as it is now."""
    now, pay_by = turn.now, desk.pay_by(turn.now)
    found = desk.state.jobs.find_all([command.job_id for command in commands])
    events = [
        JobCreated(
            command.job_id or desk.new_id(), now, command.input_hash, command.input,
            command.identifier_from_purchaser, command.blockchain_identifier,
            command.pay_by_time or pay_by, command.submit_result_time,
        )
        for command, job in zip(commands, found, strict=True) if job is None
    ]  # fmt: skip
    if events:
        _check_capacity(desk)
    done = desk.record_all(JobCreated, events, turn.now_ms)
    if len(events) == len(commands):
        return _results_of(done, found, {})
    made = iter(_results_of(done, [None] * len(events), {}))
    return [
        _created_before(command, job) if job else next(made)
        for command, job in zip(commands, found, strict=True)
    ]


def _check_capacity(desk: Desk) -> None:
    jobs, limits = desk.state.jobs, desk.limits
    if jobs.count() >= limits.jobs:
        raise RepositoryFullError(f"{limits.jobs} jobs are stored already", limit=limits.jobs)
    if jobs.texts.total_bytes >= limits.stored_bytes:
        message = f"the jobs stored have {limits.stored_bytes} bytes of texts"
        raise RepositoryFullError(message, limit=limits.stored_bytes)


def _created_before(command: Create, job: StoredJob) -> Result:
    for field in command.__struct_fields__:
        supplied = getattr(command, field)
        if supplied is not None and supplied != getattr(job, field):
            message = f"there is a job {job.job_id} already, with another {field}"
            return error_of(about(job, JobConflictError(message)))
    return job_result(job)


def _results_of(
    done: Done, found: Sequence[StoredJob | None], refused: dict[int, Refusal]
) -> list[Any]:
    """Return the results of what was done to the jobs that were `found`, or was not.

    What was refused by its place never came to be an event; `done` tells of the others.
    """
    if not done.refused and not refused:
        return [*map(JobResult, done.jobs)]  # type: ignore[arg-type]  # as in job_result
    jobs, places = iter(done.jobs), count()
    results: list[Any] = []
    for place, job in enumerate(found):
        refusal = refused.get(place) or done.refused.get(next(places))
        if refusal is None:
            results.append(job_result(next(jobs)))
        else:
            results.append(error_of(about(job, refusal) if job else refusal))
    return results


def get(desk: Desk, commands: Sequence[Get], _: Turn) -> list[Any]:
    """Show jobs."""
    jobs = desk.state.jobs
    found = jobs.find_all([command.job_id for command in commands])
    if None not in found:
        return [*map(JobResult, found)]  # type: ignore[arg-type]  # as in job_result
    return [
        job_result(job) if job else _paid_by(jobs, command)
        for command, job in zip(commands, found, strict=True)
    ]


def _paid_by(jobs: Jobs, command: Get) -> Result:
    if command.blockchain_identifier is None:
        return error_of(JobNotFoundError(command.job_id or ""))
    try:
        return job_result(jobs.get_by_payment(command.blockchain_identifier))
    except JobNotFoundError as refusal:
        return error_of(refusal)


def transition(desk: Desk, commands: Sequence[Transition], turn: Turn) -> list[Any]:
    """Move jobs, for whoever holds their lease, or for anybody while nobody does."""
    leases, now = desk.state.leases, turn.now
    found = desk.state.jobs.find_all([command.job_id for command in commands])
    events: list[JobTransitioned] = []
    refused: dict[int, Refusal] = {}
    for command, job in zip(commands, found, strict=True):
        try:
            if job is None:
                raise JobNotFoundError(command.job_id)
            version, at, lease = job.version, job.updated_at, command.lease
            if command.expected_version is not None and command.expected_version != version:
                _check_version(job, command.expected_version)
            if lease is not None or leases.standing:
                leases.check(command.job_id, lease)
        except Refusal as refusal:
            refused[len(events) + len(refused)] = refusal.with_traceback(None)
            continue
        events.append(
            JobTransitioned(
                command.job_id, version, command.target, now if now > at else at,  # noqa: FURB136 - `max` takes twice as long
                command.result, command.error, command.input_schema,
            )
        )  # fmt: skip
    return _results_of(desk.record_all(JobTransitioned, events, turn.now_ms), found, refused)


def provide_input(desk: Desk, command: ProvideInput, turn: Turn) -> JobResult:
    """Answer what a job asks for; a lease on it does not stand in the purchaser's way."""
    job = desk.state.jobs.get(command.job_id)
    _check_version(job, command.expected_version)
    if job.status is not JobStatus.AWAITING_INPUT:
        message = "only a job in awaiting_input takes input"
        raise _wrong_status(job, JobStatus.RUNNING, message)
    event = JobTransitioned(
        job.job_id,
        job.version,
        JobStatus.RUNNING,
        max(turn.now, job.updated_at),
        provided_input=command.input,
    )
    return JobResult(desk.record(event, turn.now_ms))


def cancel(desk: Desk, command: Cancel, turn: Turn) -> JobResult:
    """Fail an unpaid job; a lease on it does not stand in the purchaser's way."""
    job = desk.state.jobs.get(command.job_id)
    if command.expected_version is not None:
        _check_version(job, command.expected_version)
    if job.status is not JobStatus.AWAITING_PAYMENT:
        raise _wrong_status(job, JobStatus.FAILED, "only an unpaid job can be cancelled")
    event = JobTransitioned(
        job.job_id,
        job.version,
        JobStatus.FAILED,
        max(turn.now, job.updated_at),
        error="cancelled",
    )
    return JobResult(desk.record(event, turn.now_ms))


def _check_version(job: StoredJob, expected_version: int) -> None:
    if expected_version != job.version:
        message = f"job {job.job_id} is at version {job.version}, not {expected_version}"
        raise about(job, VersionConflictError(message))


def _wrong_status(job: StoredJob, target: JobStatus, message: str) -> Refusal:
    allowed = sorted(status.value for status in LEGAL_TRANSITIONS[job.status])
    details: dict[str, object] = {"target": target.value, "allowed": allowed}
    return about(job, InvalidStateTransitionError.rebuilt(message, details))


def about(job: StoredJob, refusal: Refusal) -> Refusal:
    """Say in a refusal how the job stands, so that the caller need not ask."""
    refusal.job_id, refusal.status, refusal.version = job.job_id, job.status.value, job.version
    return refusal


def count_jobs(desk: Desk, command: Count, _: Turn) -> CountResult:
    """Count jobs by status, and say since when the oldest of each has been there."""
    jobs = desk.state.jobs
    asked = [command.status] if command.status else list(JobStatus)
    by_status = {status.value: jobs.count(status) for status in asked}
    oldest = {status: jobs.lanes.oldest(status) for status in asked}
    return CountResult(
        total=sum(by_status.values()),
        by_status=by_status,
        oldest={status.value: job.updated_at if job else None for status, job in oldest.items()},
    )


def list_jobs(desk: Desk, command: List, turn: Turn) -> JobsResult:
    """Show a page of jobs: as many as there are, as were asked for, and as fit.

    All pages of a batch share what may be looked at for them: it may be one job for the last.
    """
    creation, after = desk.state.jobs.creation, -1 if command.after is None else int(command.after)
    scanned = creation.scanned
    scan_max = max(1, desk.scans_left)
    jobs, cursors = creation.page(after, command.limit, command.status, scan_max=scan_max)
    desk.scans_left -= creation.scanned - scanned
    room_bytes = turn.room_bytes - RESULT_BYTES
    for place, job in enumerate(jobs):
        room_bytes -= job_bytes_max(job)
        if room_bytes < 0:
            if place == 0:
                raise ReplyFullError("the next job would not fit in this reply")
            del jobs[place:], cursors[place:]
            return _page(jobs, str(cursors[-1]))
    more = str(cursors[-1]) if len(cursors) > len(jobs) else None
    return _page(jobs, more)


def _page(jobs: list[StoredJob], cursor: str | None) -> JobsResult:
    return JobsResult(jobs, cursor)  # type: ignore[arg-type]  # encoded, they are JobFields


HANDLERS: Final[Handlers] = {
    Create: create,
    Get: get,
    Transition: transition,
    ProvideInput: alone(provide_input),
    Cancel: alone(cancel),
    Count: alone(count_jobs),
    List: alone(list_jobs),
}

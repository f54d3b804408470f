"""The commands about jobs: each looks at jobs, judges, and records events."""

from collections.abc import Sequence
from itertools import count
from operator import attrgetter
from typing import Any, Final

from tollgate.broker.core.context import Context, Handlers, RequestContext, about, one_by_one
from tollgate.broker.core.events import JobCreated, JobTransitioned
from tollgate.broker.core.limits import RESULT_BYTES, job_bytes_max
from tollgate.broker.repository.job import Changes, StoredJob
from tollgate.broker.repository.job_repo import InMemoryJobRepository
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

_job_id_of = attrgetter("job_id")


def create(context: Context, commands: Sequence[Create], request: RequestContext) -> list[Any]:
    """Store jobs. A job that is stored already with the same fields is shown as it is now."""
    now, pay_by = request.now, context.pay_by(request.now)
    found = context.state.jobs.get_all(map(_job_id_of, commands))
    events = [
        JobCreated(
            command.job_id or context.new_id(), now, command.input_hash, command.input,
            command.identifier_from_purchaser, command.blockchain_identifier,
            command.pay_by_time or pay_by, command.submit_result_time,
        )
        for command, job in zip(commands, found, strict=True) if job is None
    ]  # fmt: skip
    if events:
        _check_capacity(context)
    changes = context.record(events, request.now_ms)
    if len(events) == len(commands):
        return _results_of(changes, found, {})
    made = iter(_results_of(changes, [None] * len(events), {}))
    return [
        _created_before(command, job) if job else next(made)
        for command, job in zip(commands, found, strict=True)
    ]


def _check_capacity(context: Context) -> None:
    jobs, limits = context.state.jobs, context.limits
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
    return JobResult(job)


def _results_of(
    changes: Changes, found: Sequence[StoredJob | None], refused: dict[int, Refusal]
) -> list[Any]:
    """Return the results of commands about the jobs that were `found`.

    `refused` has the commands, by place, that were refused before they became an event; `changes`
    tells of the events.
    """
    if not changes.refused and not refused:
        return [*map(JobResult, changes.jobs)]
    jobs, places = iter(changes.jobs), count()
    results: list[Any] = []
    for place, job in enumerate(found):
        refusal = refused.get(place) or changes.refused.get(next(places))
        if refusal is None:
            results.append(JobResult(next(jobs)))
        else:
            results.append(error_of(about(job, refusal) if job else refusal))
    return results


def get(context: Context, commands: Sequence[Get], _: RequestContext) -> list[Any]:
    """Show jobs."""
    jobs = context.state.jobs
    found = jobs.get_all(map(_job_id_of, commands))
    if None not in found:
        return [*map(JobResult, found)]  # type: ignore[arg-type]  # none of them is None
    return [
        JobResult(job) if job else _paid_by(jobs, command)
        for command, job in zip(commands, found, strict=True)
    ]


def _paid_by(jobs: InMemoryJobRepository, command: Get) -> Result:
    if command.blockchain_identifier is None:
        return error_of(JobNotFoundError(command.job_id or ""))
    job = jobs.find_by_payment(command.blockchain_identifier)
    if job is None:
        message = "no job has this blockchain identifier"
        return error_of(JobNotFoundError.rebuilt(message, {}))
    return JobResult(job)


def transition(
    context: Context, commands: Sequence[Transition], request: RequestContext
) -> list[Any]:
    """Move jobs: for the holder of the lease, or for anyone while there is no lease."""
    leases, now = context.state.leases, request.now
    found = context.state.jobs.get_all(map(_job_id_of, commands))
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
    return _results_of(context.record(events, request.now_ms), found, refused)


def provide_input(context: Context, command: ProvideInput, request: RequestContext) -> JobResult:
    """Answer what a job asks for. A lease on the job does not hinder the purchaser."""
    job = context.state.jobs.require(command.job_id)
    _check_version(job, command.expected_version)
    if job.status is not JobStatus.AWAITING_INPUT:
        message = "only a job in awaiting_input takes input"
        raise _wrong_status(job, JobStatus.RUNNING, message)
    event = JobTransitioned(
        job.job_id,
        job.version,
        JobStatus.RUNNING,
        max(request.now, job.updated_at),
        provided_input=command.input,
    )
    return JobResult(context.record_one(event, request.now_ms))


def cancel(context: Context, command: Cancel, request: RequestContext) -> JobResult:
    """Fail an unpaid job. A lease on the job does not hinder the purchaser."""
    job = context.state.jobs.require(command.job_id)
    if command.expected_version is not None:
        _check_version(job, command.expected_version)
    if job.status is not JobStatus.AWAITING_PAYMENT:
        raise _wrong_status(job, JobStatus.FAILED, "only an unpaid job can be cancelled")
    event = JobTransitioned(
        job.job_id,
        job.version,
        JobStatus.FAILED,
        max(request.now, job.updated_at),
        error="cancelled",
    )
    return JobResult(context.record_one(event, request.now_ms))


def _check_version(job: StoredJob, expected_version: int) -> None:
    if expected_version != job.version:
        message = f"job {job.job_id} is at version {job.version}, not {expected_version}"
        raise about(job, VersionConflictError(message))


def _wrong_status(job: StoredJob, target: JobStatus, message: str) -> Refusal:
    allowed = sorted(status.value for status in LEGAL_TRANSITIONS[job.status])
    details: dict[str, object] = {"target": target.value, "allowed": allowed}
    return about(job, InvalidStateTransitionError.rebuilt(message, details))


def count_jobs(context: Context, command: Count, _: RequestContext) -> CountResult:
    """Count jobs by status, and tell since when the oldest of each has been there."""
    jobs = context.state.jobs
    asked = [command.status] if command.status else list(JobStatus)
    by_status = {status.value: jobs.count(status) for status in asked}
    oldest = {status: jobs.statuses.oldest(status) for status in asked}
    return CountResult(
        total=sum(by_status.values()),
        by_status=by_status,
        oldest={status.value: job.updated_at if job else None for status, job in oldest.items()},
    )


def list_jobs(context: Context, command: List, request: RequestContext) -> JobsResult:
    """Show a page of jobs: as many as there are, as were asked for, and as fit.

    All pages of a batch share one scan budget; a page that begins without any left scans one job.
    """
    repository, after = context.state.jobs, -1 if command.after is None else int(command.after)
    scanned = repository.creation.scanned
    scan_max = max(1, context.scans_left)
    jobs, cursors = repository.page(after, command.limit, command.status, scan_max)
    context.scans_left -= repository.creation.scanned - scanned
    room_bytes = request.room_bytes - RESULT_BYTES
    for place, job in enumerate(jobs):
        room_bytes -= job_bytes_max(job)
        if room_bytes < 0:
            if place == 0:
                raise ReplyFullError("the next job would not fit in this reply")
            del jobs[place:], cursors[place:]
            return JobsResult([*jobs], str(cursors[-1]))
    more = str(cursors[-1]) if len(cursors) > len(jobs) else None
    return JobsResult([*jobs], more)


JOB_COMMANDS: Final[Handlers] = {
    Create: create,
    Get: get,
    Transition: transition,
    ProvideInput: one_by_one(provide_input),
    Cancel: one_by_one(cancel),
    Count: one_by_one(count_jobs),
    List: one_by_one(list_jobs),
}

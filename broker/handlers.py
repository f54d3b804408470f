"""What each command about jobs does: look, decide, record an event."""

from typing import Final

from broker.desk import Desk, Handlers, Turn, job_result
from broker.events import JobCreated, JobTransitioned
from broker.sizes import RESULT_BYTES, job_bytes_max
from broker.stored import StoredJob
from domain.commands import Cancel, Count, Create, Get, List, ProvideInput, Transition
from domain.exceptions import (
    InvalidStateTransitionError,
    JobConflictError,
    Refusal,
    ReplyFullError,
    RepositoryFullError,
    VersionConflictError,
)
from domain.results import CountResult, JobResult, JobsResult
from domain.status import LEGAL_TRANSITIONS, JobStatus


def create(desk: Desk, command: Create, turn: Turn) -> JobResult:
    """Store a job; a second time with the same id and fields, show it as it is now."""
    jobs, job_id = desk.state.jobs, command.job_id
    if job_id is not None and (job := jobs.find(job_id)) is not None:
        return _created_before(command, job)
    if jobs.count() >= desk.limits.jobs:
        raise RepositoryFullError(
            f"{desk.limits.jobs} jobs are stored already", limit=desk.limits.jobs
        )
    if jobs.text_bytes >= desk.limits.stored_bytes:
        limit = desk.limits.stored_bytes
        raise RepositoryFullError(f"the jobs stored have {limit} bytes of texts", limit=limit)
    now = turn.now
    event = JobCreated(
        job_id or desk.new_id(), now, command.input_hash, command.input,
        command.identifier_from_purchaser, command.blockchain_identifier,
        command.pay_by_time or desk.pay_by(now), command.submit_result_time,
    )  # fmt: skip
    return JobResult(desk.record(event, turn.now_ms))


def _created_before(command: Create, job: StoredJob) -> JobResult:
    for field in command.__struct_fields__:
        supplied = getattr(command, field)
        if supplied is not None and supplied != getattr(job, field):
            raise JobConflictError(
                f"there is a job {job.job_id} already, with another {field}",
                job_id=job.job_id,
                status=job.status.value,
                version=job.version,
            )
    return job_result(job)


def get(desk: Desk, command: Get, _: Turn) -> JobResult:
    """Show a job."""
    jobs = desk.state.jobs
    if command.job_id is not None:
        return JobResult(jobs.get(command.job_id))  # type: ignore[arg-type]  # as in job_result
    return job_result(jobs.get_by_payment(command.blockchain_identifier or ""))


def transition(desk: Desk, command: Transition, turn: Turn) -> JobResult:
    """Move a job, for whoever holds its lease, or for anybody while nobody does."""
    state, job_id = desk.state, command.job_id
    job = state.jobs.get(job_id)
    at, lease = turn.now, command.lease
    at = max(at, job.updated_at)
    if command.expected_version is not None:
        _check_version(job, command.expected_version)
    try:
        if lease is not None or state.leases.standing:
            state.leases.check(job_id, lease)
        event = JobTransitioned(
            job_id, job.version, command.target, at,
            command.result, command.error, command.input_schema,
        )  # fmt: skip
        return JobResult(desk.record(event, turn.now_ms))
    except Refusal as refusal:
        raise about(job, refusal) from None


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


def count(desk: Desk, command: Count, _: Turn) -> CountResult:
    """Count jobs by status, and say since when the oldest of each has been there."""
    jobs = desk.state.jobs
    asked = [command.status] if command.status else list(JobStatus)
    by_status = {status.value: jobs.count(status) for status in asked}
    oldest = {status: jobs.oldest(status) for status in asked}
    return CountResult(
        total=sum(by_status.values()),
        by_status=by_status,
        oldest={status.value: job.updated_at if job else None for status, job in oldest.items()},
    )


def list_jobs(desk: Desk, command: List, turn: Turn) -> JobsResult:
    """Show a page of jobs: as many as there are, as were asked for, and as fit.

    All pages of a batch share what may be looked at for them: it may be one job for the last.
    """
    repository, after = desk.state.jobs, -1 if command.after is None else int(command.after)
    scanned = repository.scanned
    scan_max = max(1, desk.scans_left)
    jobs, cursors = repository.page(after, command.limit, command.status, scan_max=scan_max)
    desk.scans_left -= repository.scanned - scanned
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
    ProvideInput: provide_input,
    Cancel: cancel,
    Count: count,
    List: list_jobs,
}

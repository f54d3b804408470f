"""What each command about jobs does: look, decide, record an event."""

from collections.abc import Callable
from typing import Any, Final

from broker.desk import Desk, Turn, job_result
from broker.events import JobCreated, JobTransitioned
from broker.repository import Standing
from broker.shown import ShownJob
from broker.sizes import RESULT_BYTES, job_bytes_max
from domain.commands import Cancel, Command, Count, Create, Get, List, ProvideInput, Transition
from domain.exceptions import (
    InvalidStateTransitionError,
    JobConflictError,
    Refusal,
    ReplyFullError,
    RepositoryFullError,
    VersionConflictError,
)
from domain.results import CountResult, JobResult, JobsResult, Result
from domain.status import LEGAL_TRANSITIONS, JobStatus

Handler = Callable[[Desk, Any, Turn], Result | None]
"""Decides one command. Raises a Refusal; returns None for a command that it has parked."""


def create(desk: Desk, command: Create, turn: Turn) -> JobResult:
    """Store a job; a second time with the same id and fields, show it as it is now."""
    if command.job_id is not None and (job := desk.state.jobs.find(command.job_id)) is not None:
        return _created_before(command, job)
    if desk.state.jobs.count() >= desk.limits.jobs:
        raise RepositoryFullError(
            f"{desk.limits.jobs} jobs are stored already", limit=desk.limits.jobs
        )
    now = turn.now.wall
    event = JobCreated(
        command.job_id or desk.new_id(),
        now,
        command.input_hash,
        command.input,
        command.identifier_from_purchaser,
        command.blockchain_identifier,
        command.pay_by_time or now + desk.pay_within,
        command.submit_result_time,
    )
    return desk.moved(event, turn.now)


def _created_before(command: Create, job: ShownJob) -> JobResult:
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
        return job_result(jobs.get(command.job_id))
    return job_result(jobs.get_by_payment(command.blockchain_identifier or ""))


def transition(desk: Desk, command: Transition, turn: Turn) -> JobResult:
    """Move a job, for whoever holds its lease, or for anybody while nobody does."""
    job_id = command.job_id
    standing = desk.state.jobs.standing(job_id)
    if command.expected_version is not None:
        _check_version(job_id, standing, command.expected_version)
    try:
        desk.state.leases.check(job_id, command.lease)
        event = JobTransitioned(
            job_id,
            standing.version,
            command.target,
            max(turn.now.wall, standing.updated_at),
            command.result,
            command.error,
            command.input_schema,
        )
        return desk.moved(event, turn.now)
    except Refusal as refusal:
        raise about(job_id, standing, refusal) from None


def provide_input(desk: Desk, command: ProvideInput, turn: Turn) -> JobResult:
    """Answer what a job asks for; a lease on it does not stand in the purchaser's way."""
    standing = desk.state.jobs.standing(command.job_id)
    _check_version(command.job_id, standing, command.expected_version)
    if standing.status is not JobStatus.AWAITING_INPUT:
        message = "only a job in awaiting_input takes input"
        raise _wrong_status(command.job_id, standing, JobStatus.RUNNING, message)
    event = JobTransitioned(
        command.job_id,
        standing.version,
        JobStatus.RUNNING,
        max(turn.now.wall, standing.updated_at),
        provided_input=command.input,
    )
    return desk.moved(event, turn.now)


def cancel(desk: Desk, command: Cancel, turn: Turn) -> JobResult:
    """Fail an unpaid job; a lease on it does not stand in the purchaser's way."""
    standing = desk.state.jobs.standing(command.job_id)
    _check_version(command.job_id, standing, command.expected_version)
    if standing.status is not JobStatus.AWAITING_PAYMENT:
        message = "only an unpaid job can be cancelled"
        raise _wrong_status(command.job_id, standing, JobStatus.FAILED, message)
    event = JobTransitioned(
        command.job_id,
        standing.version,
        JobStatus.FAILED,
        max(turn.now.wall, standing.updated_at),
        error="cancelled",
    )
    return desk.moved(event, turn.now)


def _check_version(job_id: str, standing: Standing, expected_version: int | None) -> None:
    if expected_version is not None and expected_version != standing.version:
        message = f"job {job_id} is at version {standing.version}, not {expected_version}"
        raise about(job_id, standing, VersionConflictError(message))


def _wrong_status(job_id: str, standing: Standing, target: JobStatus, message: str) -> Refusal:
    allowed = sorted(status.value for status in LEGAL_TRANSITIONS[standing.status])
    details: dict[str, object] = {"target": target.value, "allowed": allowed}
    return about(job_id, standing, InvalidStateTransitionError.rebuilt(message, details))


def about(job_id: str, standing: Standing, refusal: Refusal) -> Refusal:
    """Say in a refusal how the job stands, so that the caller need not ask."""
    refusal.job_id, refusal.status = job_id, standing.status.value
    refusal.version = standing.version
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
    """Show a page of jobs: as many as there are, as were asked for, and as fit."""
    after = -1 if command.after is None else int(command.after)
    jobs, cursors = desk.state.jobs.page(after, command.limit, command.status)
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


def _page(jobs: list[ShownJob], cursor: str | None) -> JobsResult:
    return JobsResult(jobs, cursor)  # type: ignore[arg-type]  # encoded, they are JobFields


HANDLERS: Final[dict[type[Command], Handler]] = {
    Create: create,
    Get: get,
    Transition: transition,
    ProvideInput: provide_input,
    Cancel: cancel,
    Count: count,
    List: list_jobs,
}

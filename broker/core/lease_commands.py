"""The commands about leases, and those that park: claim, touch, release, wait."""

from typing import Final

from tollgate.broker.core.context import (
    Answer,
    Context,
    Handlers,
    RequestContext,
    about,
    one_by_one,
    wait_timed_out,
)
from tollgate.broker.core.events import LeaseGranted, LeaseReleased
from tollgate.broker.core.limits import RESULT_BYTES, job_bytes_max, result_bytes_with
from tollgate.broker.repository.job import Slot
from tollgate.domain.commands import Claim, Release, Touch, Wait
from tollgate.domain.exceptions import (
    Refusal,
    ReplyFullError,
    SessionEvictedError,
)
from tollgate.domain.results import (
    Grant,
    JobResult,
    LeaseResult,
    LeasesResult,
    OkResult,
    error_of,
)


def claim(context: Context, command: Claim, request: RequestContext) -> LeasesResult | None:
    """Grant leases on the oldest ready jobs; park the claim if there are none."""
    granted = _grant(context, command, request.now_ms, request.room_bytes)
    if granted.leases or not command.wait_ms:
        return granted
    context.waiters.park(request.ticket, command, request.now_ms + command.wait_ms)
    return None


def _grant(context: Context, command: Claim, now_ms: int, room_bytes: int) -> LeasesResult:
    """Grant a claim the jobs that are ready now, as far as they fit in `room_bytes`."""
    jobs = context.state.jobs
    taken = jobs.statuses.take_ready(command.status, command.limit)
    fitting = taken
    if RESULT_BYTES + len(taken) * result_bytes_with(jobs.texts.longest_bytes) > room_bytes:
        fitting = _fitting(taken, room_bytes - RESULT_BYTES)
    if len(fitting) < len(taken):
        jobs.statuses.put_back(taken[len(fitting) :])
        if not fitting:
            raise ReplyFullError("the next job would not fit in this reply")
    events = [
        LeaseGranted(job.job_id, token, command.lease_ms)
        for token, (_, job) in enumerate(fitting, context.state.leases.next_token)
    ]
    granted = context.record(events, now_ms).jobs
    return LeasesResult(
        [Grant(job, event.lease) for job, event in zip(granted, events, strict=True)]
    )


def _fitting(taken: list[Slot], room_bytes: int) -> list[Slot]:
    """Return the first of the jobs, as many as fit."""
    for place, (_, job) in enumerate(taken):
        room_bytes -= job_bytes_max(job)
        if room_bytes < 0:
            return taken[:place]
    return taken


def touch(context: Context, command: Touch, request: RequestContext) -> LeaseResult:
    """Extend a lease. It is no event: after a restart the lease runs as it was granted."""
    job = context.state.jobs.require(command.job_id)
    try:
        context.state.leases.touch(command.job_id, command.lease, command.lease_ms, request.now_ms)
    except Refusal as refusal:
        raise about(job, refusal) from None
    return LeaseResult(command.job_id, command.lease, command.lease_ms)


def release(context: Context, command: Release, request: RequestContext) -> OkResult:
    """End a lease unused; the job may be claimed again."""
    job = context.state.jobs.require(command.job_id)
    try:
        context.record_one(LeaseReleased(command.job_id, command.lease), request.now_ms)
    except Refusal as refusal:
        raise about(job, refusal) from None
    return OkResult()


def wait(context: Context, command: Wait, request: RequestContext) -> JobResult | None:
    """Show the first job that is in an awaited status; park the wait if none is."""
    awaited = command.awaited
    jobs = [context.state.jobs.require(job_id) for job_id in command.job_ids]
    for job in jobs:
        if job.status in awaited:
            return JobResult(job)
    if not command.timeout_ms:
        raise wait_timed_out()
    context.waiters.park(request.ticket, command, request.now_ms + command.timeout_ms)
    return None


def serve_claim(context: Context, now_ms: int, room_bytes: int) -> Answer | None:
    """Grant one parked claim the jobs that are ready; None if no claim can be served.

    Of the claims for a status, the one that has been parked longest is served first.
    """
    for status in context.waiters.claims():
        parked = context.waiters.first_claim(status)
        if parked is None or context.state.jobs.statuses.first_ready(status) is None:
            continue
        context.waiters.remove(parked)
        session = parked.ticket.session
        if session and not context.state.requests.knows(session):  # evicted meanwhile
            refusal = SessionEvictedError(f"session {session} was forgotten, to make room")
            return Answer(parked.ticket, error_of(refusal))
        try:
            result = _grant(context, parked.command, now_ms, room_bytes)  # type: ignore[arg-type]  # a claim
        except ReplyFullError as refusal:  # a job from before the limits were lowered
            return Answer(parked.ticket, error_of(refusal))
        return Answer(parked.ticket, result)
    return None


LEASE_COMMANDS: Final[Handlers] = {
    Claim: one_by_one(claim),
    Touch: one_by_one(touch),
    Release: one_by_one(release),
    Wait: one_by_one(wait),
}

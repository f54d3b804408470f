"""What the commands about leases do, and those that wait: claim, touch, release, wait."""

from typing import Final

from tollgate.broker.core.context import Answer, Desk, Handlers, Turn, alone, in_order, job_result
from tollgate.broker.core.events import LeaseGranted, LeaseReleased
from tollgate.broker.core.job_commands import about
from tollgate.broker.core.sizes import RESULT_BYTES, job_bytes_max, result_bytes_with
from tollgate.broker.core.waiters import Parked
from tollgate.broker.repository.job import Slot
from tollgate.domain.commands import Claim, Release, Touch, Wait
from tollgate.domain.exceptions import (
    Refusal,
    ReplyFullError,
    SessionEvictedError,
    WaitTimeoutError,
)
from tollgate.domain.results import (
    Grant,
    JobResult,
    LeaseResult,
    LeasesResult,
    OkResult,
    Result,
    error_of,
)


def claim(desk: Desk, command: Claim, turn: Turn) -> LeasesResult | None:
    """Grant leases on the oldest free jobs; park the claim if there are none."""
    granted = grant(desk, command, turn.now_ms, turn.room_bytes)
    if granted.leases or not command.wait_ms:
        return granted
    desk.is_moved = True
    desk.waiters.park(turn.ticket, command, turn.now_ms + command.wait_ms)
    return None


def grant(desk: Desk, command: Claim, now_ms: int, room_bytes: int) -> LeasesResult:
    """Grant a claim what there is for it now, as far as it fits in `room_bytes`."""
    jobs = desk.state.jobs
    taken = jobs.lanes.take_free(command.status, command.limit)
    fitting = taken
    if RESULT_BYTES + len(taken) * result_bytes_with(jobs.texts.longest_bytes) > room_bytes:
        fitting = _fitting(taken, room_bytes - RESULT_BYTES)
    if len(fitting) < len(taken):
        jobs.lanes.put_back(taken[len(fitting) :])
        if not fitting:
            raise ReplyFullError("the next job would not fit in this reply")
    events = [
        LeaseGranted(job.job_id, token, command.lease_ms)
        for token, (_, job) in enumerate(fitting, desk.state.leases.next_token)
    ]
    granted = desk.record_all(LeaseGranted, events, now_ms).jobs
    return LeasesResult(
        [
            Grant(job, event.lease)  # type: ignore[arg-type]  # encoded, JobFields
            for job, event in zip(granted, events, strict=True)
        ]
    )


def _fitting(taken: list[Slot], room_bytes: int) -> list[Slot]:
    """Return the first of the jobs, as many as fit."""
    for place, (_, job) in enumerate(taken):
        room_bytes -= job_bytes_max(job)
        if room_bytes < 0:
            return taken[:place]
    return taken


def touch(desk: Desk, command: Touch, turn: Turn) -> LeaseResult:
    """Extend a lease. No event: after a restart the lease runs as it was granted."""
    job = desk.state.jobs.get(command.job_id)
    desk.is_moved = True  # it may be shorter than before
    try:
        desk.state.leases.touch(command.job_id, command.lease, command.lease_ms, turn.now_ms)
    except Refusal as refusal:
        raise about(job, refusal) from None
    return LeaseResult(command.job_id, command.lease, command.lease_ms)


def release(desk: Desk, command: Release, turn: Turn) -> OkResult:
    """End a lease unused; the job may be claimed again."""
    job = desk.state.jobs.get(command.job_id)
    try:
        desk.record(LeaseReleased(command.job_id, command.lease), turn.now_ms)
    except Refusal as refusal:
        raise about(job, refusal) from None
    return OkResult()


def wait(desk: Desk, command: Wait, turn: Turn) -> JobResult | None:
    """Show the first job that is where it is waited for; park the wait if none is."""
    awaited = command.awaited
    jobs = [desk.state.jobs.get(job_id) for job_id in command.job_ids]
    for job in jobs:
        if job.status in awaited:
            return job_result(job)
    if not command.timeout_ms:
        raise _timed_out()
    desk.is_moved = True
    desk.waiters.park(turn.ticket, command, turn.now_ms + command.timeout_ms)
    return None


def serve_claim(desk: Desk, now_ms: int, room_bytes: int) -> Answer | None:
    """Grant one parked claim what there is for it, first come first served."""
    for status in desk.waiters.claims():
        parked = desk.waiters.first_claim(status)
        if parked is None or desk.state.jobs.lanes.first_free(status) is None:
            continue
        desk.waiters.remove(parked)
        session = parked.ticket.session
        if session and not desk.state.ledger.knows(session):  # evicted while the claim waited
            refusal = SessionEvictedError(f"session {session} was forgotten, to make room")
            return Answer(parked.ticket, error_of(refusal))
        try:
            result = grant(desk, parked.command, now_ms, room_bytes)  # type: ignore[arg-type]  # a claim
        except ReplyFullError as refusal:  # a job from before the limits were lowered
            return Answer(parked.ticket, error_of(refusal))
        return Answer(parked.ticket, result)
    return None


def time_out(desk: Desk, parked: Parked) -> None:
    """Answer a parked command whose time is over: a claim gets nothing, a wait an error."""
    waited = isinstance(parked.command, Wait)
    desk.waiters.remove(parked)
    result: Result = error_of(_timed_out()) if waited else LeasesResult([])
    desk.answers.append(Answer(parked.ticket, result))


def _timed_out() -> WaitTimeoutError:
    return WaitTimeoutError("none of the jobs came to a status waited for in time")


LENDING: Final[Handlers] = {
    Claim: alone(claim),
    Touch: in_order(touch),
    Release: in_order(release),
    Wait: alone(wait),
}

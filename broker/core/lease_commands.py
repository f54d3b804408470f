"""The commands claim, touch, release, wait, stop_waiting, pause_queue and resume_queue."""

from collections.abc import Sequence
from datetime import timedelta
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
from tollgate.broker.core.events import (
    JobProgressed,
    LeaseGranted,
    LeaseReleased,
    QueuePaused,
    QueueResumed,
)
from tollgate.broker.core.limits import RESULT_BYTES, job_bytes_max, result_bytes_with
from tollgate.broker.core.timers import later
from tollgate.broker.core.waiters import END_COST, Parked, names_of, state_of
from tollgate.broker.repository.job import Claimed, Slot, claimed_for, grant, job_result
from tollgate.domain.commands import (
    ALL_QUEUES,
    Claim,
    Hold,
    PauseQueue,
    Release,
    ResumeQueue,
    StopWaiting,
    Touch,
    Wait,
)
from tollgate.domain.exceptions import (
    InvalidStateTransitionError,
    NotAuthorizedError,
    Refusal,
    ReplyFullError,
    SessionEvictedError,
    TooLargeError,
)
from tollgate.domain.results import (
    JobResult,
    LeaseResult,
    LeasesResult,
    OkResult,
    error_of,
)
from tollgate.domain.status import RUNNING

PROGRESS_EVERY: Final = timedelta(seconds=1)
"""Progress that comes sooner after the last one is not kept."""
MILLISECOND: Final = timedelta(milliseconds=1)
COMPARED_MAX: Final = 16
"""If more queues than this have new jobs, the first matching claim is served, not the one that has
been parked longest of all."""
LEASE_COST: Final = 8
"""Cost of a lease that a parked claim gets, see `SERVED_MAX`."""
FEW_LEASES: Final = 8
"""A claim of more jobs takes for each of them"""
LEASE_SCANS: Final = 2
"""as much of the scan budget as this, so that a batch has few such claims,"""
LEASE_BYTES: Final = 64
"""and as much of the room of fresh events: a short message may ask for a thousand jobs."""
FEW_LINES: Final = 16
"""A claim that looks at up to this number of lines costs little more than one that looks at one."""


def claim(context: Context, command: Claim, request: RequestContext) -> LeasesResult | None:
    """Grant leases on the jobs that are ready; park the claim if there are none."""
    state = state_of(command)
    if state not in request.ticket.principal.rights.claims:
        message = f"no role of this peer may claim jobs that are {state}"
        raise NotAuthorizedError(message)
    origin = context.origin
    context.figures.claims[origin.by, origin.client] = command, origin
    if context.are_owed:
        raise context.put_off()  # the claims that were parked before come first
    if command.job_ids is not None:
        return _grant_named(context, command, request)
    if context.scans_left <= 0 and _is_wide(names_of(command)):
        context.check_scans()
    granted = _grant(context, command, state, request.now_ms, request.room_bytes)
    if not granted.leases and not context.state.jobs.queues.drops_left:
        raise context.put_off()
    if granted.leases or not command.wait_ms:
        waiters = context.waiters
        if waiters.parked and (key := request.ticket.key) in waiters.parked:
            # This repeats a parked claim: answer it once.
            waiters.remove(waiters.parked[key])
        return granted
    context.waiters.park(request.ticket, command, request.now_ms + command.wait_ms)
    return None


def _is_wide(names: Sequence[str]) -> bool:
    return ALL_QUEUES in names or len(names) > FEW_LINES


def _grant(
    context: Context, command: Claim, state: Claimed, now_ms: int, room_bytes: int
) -> LeasesResult:
    """Grant a claim of a state the jobs that are ready now, as far as they fit in `room_bytes`."""
    jobs = context.state.jobs
    jobs.queues.looked = 0
    taken = jobs.queues.take(state, names_of(command), command.limit, context.origin.at)
    if jobs.queues.looked > FEW_LINES:
        context.scans_left -= int(jobs.queues.looked)
    if not taken:
        return LeasesResult([])
    if command.limit > FEW_LEASES:
        context.scans_left -= LEASE_SCANS * len(taken)
        context.state.feed.room -= LEASE_BYTES * len(taken)
    fitting = _fitting(context, taken, room_bytes)
    if fitting is not taken:
        jobs.queues.put_back(state, taken[len(fitting) :])
        if not fitting:
            raise ReplyFullError("the next job would not fit in this reply")
    return _lease(context, fitting, command, now_ms)


def _grant_named(context: Context, command: Claim, request: RequestContext) -> LeasesResult:
    """Grant a claim those of the jobs that it names that are free."""
    jobs, state = context.state.jobs, state_of(command)
    found = jobs.get_all(dict.fromkeys(command.job_ids or ()))
    free = [
        slot
        for slot in found
        if slot is not None
        and slot.lease is None
        and not slot.job.on_hold
        and claimed_for(slot.job) is state
        and not jobs.queues.is_paused(slot.job.queue)
    ][: command.limit]
    fitting = _fitting(context, free, request.room_bytes)
    if free and not fitting:
        raise ReplyFullError("the next job would not fit in this reply")
    return _lease(context, fitting, command, request.now_ms)


def _lease(context: Context, slots: Sequence[Slot], command: Claim, now_ms: int) -> LeasesResult:
    events = [
        LeaseGranted(slot.job.job_id, token, command.lease_ms)
        for token, slot in enumerate(slots, context.state.leases.next_token)
    ]
    granted = context.record(events, now_ms, slots).slots
    return LeasesResult(
        [grant(slot.job, event.lease) for slot, event in zip(granted, events, strict=True)]
    )


def _fitting(context: Context, slots: list[Slot], room_bytes: int) -> list[Slot]:
    """Return the first of the jobs, as many as fit."""
    room_bytes -= RESULT_BYTES
    if len(slots) * result_bytes_with(context.state.jobs.texts) <= room_bytes:
        return slots
    for place, slot in enumerate(slots):
        room_bytes -= job_bytes_max(slot)
        if room_bytes < 0:
            return slots[:place]
    return slots


def touch(context: Context, command: Touch, request: RequestContext) -> LeaseResult:
    """Extend a lease. It is no event: after a restart the lease runs as it was granted."""
    slot = context.state.jobs.require(command.job_id)
    job = slot.job
    try:
        context.state.leases.touch(slot, command.lease, command.lease_ms, request.now_ms)
    except Refusal as refusal:
        raise about(job, refusal) from None
    progress = command.progress
    if progress is not None and request.writable:
        last = job.progress
        if last is None or last.at is None or request.now - last.at >= PROGRESS_EVERY:
            event = JobProgressed(job.job_id, progress.text, progress.fraction)
            context.record_one(event, request.now_ms)
    return LeaseResult(command.job_id, command.lease, command.lease_ms, job.stop_requested)


def release(context: Context, command: Release, request: RequestContext) -> OkResult:
    """End a lease unused; the job may be claimed again, now or later."""
    rights = request.ticket.principal.rights
    if command.hold and Hold not in rights.commands:
        raise NotAuthorizedError("a release with hold takes a role that may hold jobs")
    slot = context.state.jobs.require(command.job_id)
    job, not_before = slot.job, None
    try:
        context.state.leases.check(slot, command.lease)
        if command.delay_ms is not None:
            if job.status is not RUNNING:
                message = f"job {job.job_id} is {job.status}: only a running job can be delayed"
                raise InvalidStateTransitionError.rebuilt(message, {})
            delay = timedelta(milliseconds=command.delay_ms)
            not_before, ends = later(request.now, delay), job.submit_result_time
            if ends is not None and later(context.wall, delay) >= ends:
                left_ms = max(0, (ends - context.wall) // MILLISECOND)
                message = f"the delay ends after submit_result_time, in {left_ms} ms"
                raise TooLargeError(message, limit=left_ms)
        event = LeaseReleased(
            job.job_id, command.lease, not_before, command.reason, command.hold,
            command.delay_ms is not None or command.reason is not None,
        )  # fmt: skip
        context.record_one(event, request.now_ms)
    except Refusal as refusal:
        raise about(job, refusal) from None
    context.figures.attempts += event.is_attempt and job.status is RUNNING
    return OkResult()


def wait(context: Context, command: Wait, request: RequestContext) -> JobResult | None:
    """Show the first job that is in an awaited status; park the wait if none is."""
    awaited = command.awaited
    slots = [context.state.jobs.require(job_id) for job_id in command.job_ids]
    for slot in slots:
        if slot.job.status in awaited:
            if (parked := context.waiters.parked.get(request.ticket.key)) is not None:
                context.waiters.remove(parked)  # it has ended and is repeated: answer it once
            return job_result(slot.whole())
    if not command.timeout_ms:
        raise wait_timed_out()
    context.waiters.park(request.ticket, command, request.now_ms + command.timeout_ms)
    return None


def stop_waiting(context: Context, command: StopWaiting, request: RequestContext) -> OkResult:
    """Answer parked commands of the same session, or of the same connection without one."""
    waiters = context.waiters
    for parked in waiters.find_all(request.ticket, command.seqs):
        if context.ends_left <= 0:
            raise context.put_off()  # the next batch stops the others
        if (ending := waiters.ending_of(parked)) is None:
            context.end_wait(parked)
        else:
            context.end_with(parked, ending.result)
    return OkResult()


def pause_queue(context: Context, command: PauseQueue, request: RequestContext) -> OkResult:
    """Grant no job of a queue until it is resumed."""
    if not context.state.jobs.queues.is_paused(command.queue):
        context.check_queues({command.queue})
        context.record_one(QueuePaused(command.queue), request.now_ms)
    return OkResult()


def resume_queue(context: Context, command: ResumeQueue, request: RequestContext) -> OkResult:
    """Let claims have the jobs of a paused queue again."""
    if context.state.jobs.queues.is_paused(command.queue):
        context.record_one(QueueResumed(command.queue), request.now_ms)
    return OkResult()


def serve_claim(context: Context, now_ms: int, room_bytes: int) -> Answer | None:
    """Grant one parked claim the jobs that are ready; None if no claim can be served.

    Of the claims that match, the one that has been parked longest is served first.
    """
    waiters, parked = context.waiters, _first_to_serve(context)
    if parked is None:
        return None
    session = parked.ticket.session
    if session and not context.state.requests.knows(session):  # evicted meanwhile
        waiters.remove(parked)
        refusal = SessionEvictedError(f"session {session} was forgotten, to make room")
        return Answer(parked.ticket, error_of(refusal), Claim)
    if waiters.endings and (ending := waiters.ending_of(parked)):  # its key was taken away
        waiters.remove(parked)
        return Answer(parked.ticket, ending.result, Claim)
    context.act_for(parked.ticket)
    command: Claim = parked.command  # type: ignore[assignment]  # it was found among the claims
    try:
        result = _grant(context, command, state_of(command), now_ms, room_bytes)
    except ReplyFullError as refusal:  # stored before the limits were lowered
        context.waiters.remove(parked)
        return Answer(parked.ticket, error_of(refusal), Claim)
    if not result.leases and not context.state.jobs.queues.drops_left:
        return None  # it is served in the next batch
    waiters.remove(parked)
    spent = END_COST + LEASE_COST * len(result.leases)
    context.serves_left -= spent if command.queues is None else spent + len(command.queues)
    return Answer(parked.ticket, result, Claim)


def _first_to_serve(context: Context) -> Parked | None:
    """Return the claim to serve next; look only where jobs have become ready."""
    queues, waiters = context.state.jobs.queues, context.waiters
    first: Parked | None = None
    for state, name in [*queues.changed]:
        parked = waiters.first_claim(state, name)
        if parked is None or not queues.has_ready(state, name, context.origin.at):
            if not queues.drops_left:
                return None
            del queues.changed[state, name]
        elif first is None or parked.number < first.number:
            first = parked
            if len(queues.changed) > COMPARED_MAX:
                break
    return first


LEASE_COMMANDS: Final[Handlers] = {
    Claim: one_by_one(claim),
    Touch: one_by_one(touch),
    Release: one_by_one(release),
    Wait: one_by_one(wait),
    StopWaiting: one_by_one(stop_waiting),
    PauseQueue: one_by_one(pause_queue),
    ResumeQueue: one_by_one(resume_queue),
}

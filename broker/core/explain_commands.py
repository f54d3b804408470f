"""The command that says why a job is where it is: explain."""

from collections import Counter
from datetime import datetime, timedelta
from itertools import islice
from typing import Final

from tollgate.broker.core.context import Context, Handlers, RequestContext, one_by_one
from tollgate.broker.core.figures import Who, client_figures, tag_of
from tollgate.broker.core.leases import info
from tollgate.broker.core.limits import CLAIMANTS_SHOWN
from tollgate.broker.core.roles import RIGHTS, Role
from tollgate.broker.core.waiters import names_of, state_of
from tollgate.broker.repository.indexes import ended_at
from tollgate.broker.repository.job import Claimed, Slot, claimed_for, is_finished
from tollgate.broker.repository.queues import CLAIMED
from tollgate.domain.commands import (
    ALL_QUEUES,
    Annotate,
    Cancel,
    Claim,
    Command,
    Explain,
    Hold,
    ProvideInput,
    RequestStop,
    Resume,
    Settle,
)
from tollgate.domain.figures import ClientFigures, Coming, Legal
from tollgate.domain.results import ExplainedResult
from tollgate.domain.settlement import LEGAL_SETTLEMENTS, SettlementState
from tollgate.domain.status import (
    AWAITING_INPUT,
    AWAITING_PAYMENT,
    LEGAL_TRANSITIONS,
    RUNNING,
    TERMINAL,
    JobStatus,
)

EXPLAIN_SCANS: Final = 256
"""Explaining a job takes as long as looking at this number of jobs, beside its line."""
AHEAD_MAX: Final = 5_000
"""How many entries of lines are looked at to tell how many jobs come before one."""
LEASES_LOOKED: Final = 5_000
"""How many leases are looked at to tell what each claimant holds."""
MILLISECOND: Final = timedelta(milliseconds=1)


def explain(context: Context, command: Explain, request: RequestContext) -> ExplainedResult:
    """Show what is known of why a job is where it is, and what comes next."""
    jobs = context.state.jobs
    slot = jobs.require(command.job_id)
    job, lease = slot.job, slot.lease
    context.check_scans()
    state = claimed_for(job)
    entries, left_out = jobs.origins.read(job.created_at, slot.history)
    before, is_all = _before(context, slot, state)
    claimants, more = _claimants(context, slot, state)
    queue = jobs.queues.by_name[job.queue]
    return ExplainedResult(
        job=job.shown(info(slot, request.now_ms)),
        as_of=context.position(),
        time=context.wall,
        writable=request.writable,
        entries=entries,
        left_out=left_out,
        claimed_for=state.value,
        claimable=_is_claimable(context, slot, state),
        paused=queue.is_paused,
        before=before,
        before_at_least=not is_all,
        parked_claims=sum(
            len(context.waiters.claims.get((state, name), ())) for name in (job.queue, ALL_QUEUES)
        ),
        claimants=claimants,
        claimants_left_out=more,
        lapses=context.state.leases.lapses.get(job.job_id) or 0,
        lapses_max=context.limits.lapses,
        lease_ms=None if lease is None else lease.lease_ms,
        coming=_coming(context, slot, request),
        legal=_legal(slot),
    )


def _is_claimable(context: Context, slot: Slot, state: Claimed) -> bool:
    """Return whether a claim of its queue could have a job now, were it the first in its line."""
    job = slot.job
    if state not in CLAIMED or slot.lease is not None or job.on_hold:
        return False
    not_before = _not_before(slot, state)
    is_due = not_before is None or not_before <= context.origin.at
    return is_due and not context.state.jobs.queues.is_paused(job.queue)


def _not_before(slot: Slot, state: Claimed) -> datetime | None:
    """Return from when on a job may be claimed; None is at once."""
    if state is RUNNING:
        return slot.job.not_before
    settlement = slot.job.settlement
    if settlement is not None and isinstance(state, SettlementState):
        return settlement.not_before
    return None


def _before(context: Context, slot: Slot, state: Claimed) -> tuple[int, bool]:
    """Return how many ready jobs come before one, and whether all lines were looked at."""
    queue, at = context.state.jobs.queues.by_name[slot.job.queue], context.origin.at
    before, left = 0, AHEAD_MAX
    context.scans_left -= EXPLAIN_SCANS
    for priority in sorted(queue.levels):
        line = queue.levels[priority].lines.get(state)
        if line is None or priority > slot.job.priority:
            continue
        own = slot if priority == slot.job.priority and slot.lease is None else None
        count, looked = line.ahead_of(own, at, left)
        before += count
        context.scans_left -= looked
        if looked > left:
            return before, False
        left -= looked
    return before, True


def _claimants(context: Context, slot: Slot, state: Claimed) -> tuple[list[ClientFigures], int]:
    """Return the client that holds a job, and those that claim jobs as this one; how many more."""
    figures, lease = context.figures, slot.lease
    parked = Counter[Who]()
    for name in (slot.job.queue, ALL_QUEUES):
        for each in islice(context.waiters.claims.get((state, name), {}).values(), AHEAD_MAX):
            parked[context.sender_of(each.ticket)] += 1
    standing = context.state.leases.standing(LEASES_LOOKED)
    context.scans_left -= len(figures.claims) + min(AHEAD_MAX, sum(parked.values())) + len(standing)
    found = {*parked}
    found.update(
        who for who, (claim, _) in figures.claims.items() if _would_take(claim, slot, state)
    )
    holder = None if lease is None else (lease.by, lease.client)
    held = Counter((each.by, each.client) for each in standing)
    order = [who for who in figures.by_time(found) if who != holder]
    if holder is not None:
        order.insert(0, holder)
    shown = [
        client_figures(who, figures.heard(who), held[who], parked[who])
        for who in order[:CLAIMANTS_SHOWN]
    ]
    return shown, len(order) - len(shown)


def _would_take(claim: Claim, slot: Slot, state: Claimed) -> bool:
    """Return whether a claim is for jobs as this one."""
    if state_of(claim) is not state:
        return False
    if claim.job_ids is not None:
        return slot.job.job_id in claim.job_ids
    names = names_of(claim)
    return ALL_QUEUES in names or slot.job.queue in names


def _coming(context: Context, slot: Slot, request: RequestContext) -> list[Coming]:
    """Return what happens to a job by itself, earliest first."""
    job, limits, lease, coming = slot.job, context.limits, slot.lease, list[Coming]()
    now = context.wall
    if lease is not None:
        lapses = (context.state.leases.lapses.get(job.job_id) or 0) + 1
        then = "unless it is touched, the lease lapses and the job can be claimed again"
        if job.status is RUNNING and lapses >= limits.lapses:
            then = "unless it is touched, the lease lapses and the job fails:"
            then += f" this is lapse {lapses} of {limits.lapses}"
        coming.append(Coming("lease", now + (lease.ends_ms - request.now_ms) * MILLISECOND, then))
    if job.status is AWAITING_PAYMENT and job.pay_by_time is not None:
        grace = timedelta(milliseconds=limits.payment_grace_ms)
        at = _sum(job.pay_by_time, grace)
        if at is not None:
            coming.append(Coming("pay_by_time", at, "the job fails unless it is paid by then"))
    if job.status in (RUNNING, AWAITING_INPUT) and job.submit_result_time is not None:
        then = "the job fails unless it has ended by then"
        coming.append(Coming("submit_result_time", job.submit_result_time, then))
    at, wall_at = context.state.at, context.wall_at  # delays end by the time of records
    if job.not_before is not None and job.not_before > at and job.status not in TERMINAL:
        then = "its delay ends: it can be claimed"
        coming.append(Coming("not_before", wall_at(job.not_before), then))
    settlement = job.settlement
    if settlement is not None and settlement.not_before and settlement.not_before > at:
        then = "the settlement can be claimed again"
        coming.append(Coming("settlement.not_before", wall_at(settlement.not_before), then))
    if is_finished(job):
        since = max(ended_at(job), context.aged_from)
        until = _sum(since, timedelta(milliseconds=limits.keep_finished_ms))
        if until is not None:
            then = "the broker forgets the job, or earlier if there are too many finished ones"
            coming.append(Coming("keep_finished_ms", wall_at(until), then))
    return sorted(coming, key=lambda each: each.at)


def _sum(at: datetime, span: timedelta) -> datetime | None:
    """Return a time and a span added, or None: there may be no such date."""
    try:
        return at + span
    except OverflowError:
        return None


def _legal(slot: Slot) -> list[Legal]:
    """Return the commands that are legal for a job, each with the roles that may send it."""
    job, settlement = slot.job, slot.job.settlement
    is_free = slot.lease is None
    legal = [
        Legal("transition", _having("moves", (job.status, target)), target.value)
        for target in sorted(LEGAL_TRANSITIONS[job.status])
    ]
    if job.status is AWAITING_PAYMENT:
        legal.append(Legal("cancel", _sending(Cancel), JobStatus.FAILED.value))
    if job.status is AWAITING_INPUT:
        legal.append(Legal("provide_input", _sending(ProvideInput), RUNNING.value))
    state = claimed_for(job)
    if state in CLAIMED and is_free and not job.on_hold:
        legal.append(Legal("claim", _having("claims", state)))
    if not is_finished(job):
        legal.append(Legal("request_stop", _sending(RequestStop)))
        change = Resume if job.on_hold else Hold
        legal.append(Legal(tag_of(change), _sending(change)))
    if settlement is not None:
        if settlement.state is not SettlementState.PENDING:
            legal += [
                Legal("settle", _having("settles", (settlement.state, to)), to.value)
                for to in sorted(LEGAL_SETTLEMENTS[settlement.state])
            ]
        legal.append(Legal("settle", _sending(Settle)))
    legal.append(Legal("annotate", _sending(Annotate)))
    return legal


def _sending(command: type[Command]) -> list[str]:
    return _having("commands", command)


def _having(right: str, what: object) -> list[str]:
    return [role.value for role in Role if what in getattr(RIGHTS[role], right)]


EXPLAIN_COMMANDS: Final[Handlers] = {Explain: one_by_one(explain)}

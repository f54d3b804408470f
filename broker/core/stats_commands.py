"""The commands that say how the broker is, and why a job is where it is: stats, explain."""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final

import msgspec

from tollgate.broker.core.context import Context, Handlers, RequestContext, one_by_one
from tollgate.broker.core.figures import Heard, Who
from tollgate.broker.core.leases import info, stands
from tollgate.broker.core.limits import RESULT_BYTES, job_bytes_max
from tollgate.broker.core.roles import RIGHTS, Role
from tollgate.broker.core.waiters import Ticket, names_of, state_of
from tollgate.broker.repository.indexes import ended_at
from tollgate.broker.repository.job import Slot, StandingLease
from tollgate.broker.repository.job_repo import claimed_for, is_finished
from tollgate.broker.repository.lines import Claimed
from tollgate.broker.repository.queues import CLAIMED, JobQueue
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
    Stats,
)
from tollgate.domain.figures import (
    SESSIONS_LOOKED,
    ClientFigures,
    Coming,
    CommandFigures,
    Legal,
    QueueFigures,
    StateFigures,
)
from tollgate.domain.results import ExplainedResult, StatsResult
from tollgate.domain.settlement import LEGAL_SETTLEMENTS, SettlementState
from tollgate.domain.status import (
    AWAITING_INPUT,
    AWAITING_PAYMENT,
    LEGAL_TRANSITIONS,
    RUNNING,
    TERMINAL,
    JobStatus,
)

STATS_SCANS: Final = 1_000
"""To show the figures takes about as long as looking at so many jobs, ..."""
QUEUE_SCANS: Final = 8
"""... and at so many for each queue that is shown."""
STATE_SCANS: Final = 4
"""To gather those of a queue in one status takes about so long, ..."""
DELAYS_SCANS: Final = 4
"""... and to look at a line with delayed jobs, ..."""
CLIENT_SCANS: Final = 4
"""... and to gather those of a client."""
STEP_SCANS: Final = 3_000
"""A step gathers about so much; the next one goes on."""
RESTARTS_MAX: Final = 3
"""How often gathering begins again, because something happened meanwhile, before it hurries."""
LOOKED_MAX: Final = 5_000
"""How many leases, and how many jobs on hold or delayed, one `stats` looks at."""
QUEUES_SHOWN: Final = 200
CLIENTS_SHOWN: Final = 500
STATS_BYTES: Final = 32 * RESULT_BYTES
"""More than the figures take in a reply without queues and clients."""
QUEUE_BYTES: Final = 1_024
"""More than the figures of a queue take in a reply."""
CLIENT_BYTES: Final = 512
"""More than those of a client take, without the queues of its last claim."""
CLAIMED_QUEUES_SHOWN: Final = 8
EXPLAIN_SCANS: Final = 256
"""Explaining a job takes about as long as looking at so many jobs, and at its line."""
AHEAD_MAX: Final = 5_000
"""How many entries of lines are looked at to tell how many jobs come before one."""
CLAIMANTS_SHOWN: Final = 16
MILLISECOND: Final = timedelta(milliseconds=1)


# --- stats ----------------------------------------------------------------------------------------


class _Gathering:
    """The figures that take long: gathered in parts, one a step, while nothing happens.

    A message that is put off is the first one of the next step. So what was gathered is still true
    then, unless something was due meanwhile: a step that finds the log at another place begins
    again, and after some times does all in one step.
    """

    def __init__(self, context: Context, ticket: Ticket, restarts: int) -> None:
        self.place = context.place()
        self.ticket = ticket
        """The message that asks: another one begins anew."""
        self.restarts = restarts
        self.standing: list[StandingLease] = []
        self.barred = _Barred()
        self.totals: dict[Claimed, StateFigures] = {}
        self.of_queues: dict[JobQueue, dict[Claimed, StateFigures]] = {}
        self.clients: list[ClientFigures] = []
        """Those heard last, first; as many as are shown at most."""
        self.more_clients = 0
        self.done_for: RequestContext | None = None
        """The message that has them; others of its commands are about the same moment."""
        self._parts = self._gather(context)

    def go_on(self, context: Context) -> bool:
        """Gather for one step; return whether everything is there."""
        left = STEP_SCANS
        for scans in self._parts:
            context.scans_left -= scans
            left -= scans
            if left < 0 and (
                self.restarts < RESTARTS_MAX or not context.state.jobs.queues.drops_left
            ):
                return False
        return True

    def _gather(self, context: Context) -> Iterator[int]:
        """Gather everything; yield after each part what it took, in scans."""
        self.standing = _standing(context)
        yield len(self.standing)
        yield from self.barred.gather(context, self.standing)
        for queue in [*context.state.jobs.queues.by_name.values()]:
            states = _states_of(queue)
            while not _knows_oldest(context, queue, states):
                yield STEP_SCANS + 1  # the next step drops more stale entries
            own = self.of_queues[queue] = {
                state: _state(queue, state, self.barred) for state in states
            }
            _add(self.totals, own)
            yield STATE_SCANS * (1 + len(own))
        yield from self._gather_clients(context)

    def _gather_clients(self, context: Context) -> Iterator[int]:
        figures, client_of = context.figures, context.state.requests.client_of
        held = Counter((lease.by, lease.client) for lease in self.standing)
        claims: Counter[Who] = Counter()
        waits: Counter[Who] = Counter()
        for parked in [*islice(context.waiters.parked.values(), LOOKED_MAX)]:
            ticket = parked.ticket
            who = (ticket.principal.name, client_of(ticket.session) if ticket.session else "")
            (claims if isinstance(parked.command, Claim) else waits)[who] += 1
            yield 1
        latest = context.state.requests.latest(SESSIONS_LOOKED)
        sessions = Counter((each.owner, each.client) for each in latest)
        yield SESSIONS_LOOKED
        order = figures.by_time({*figures.seen, *held, *claims, *waits})
        yield len(order)
        for who in order[:CLIENTS_SHOWN]:
            client = _client(who, figures.heard(who), held[who], claims[who], waits[who])
            self.clients.append(msgspec.structs.replace(client, sessions=sessions[who]))
            yield CLIENT_SCANS
        self.more_clients = len(order) - len(self.clients)


def _gathered(context: Context, request: RequestContext) -> _Gathering:
    """Return all figures that take long. Puts the message off if this step has done enough."""
    gathering: _Gathering | None = context.gathering
    place, ticket = context.place(), request.ticket
    if gathering is not None and gathering.done_for is not None:
        if gathering.done_for is request and gathering.place == place:
            return gathering
        gathering = None
    if gathering is None or gathering.ticket != ticket:
        gathering = _Gathering(context, ticket, 0)
    elif gathering.place != place:
        gathering = _Gathering(context, ticket, gathering.restarts + 1)
    context.gathering = gathering
    if not gathering.go_on(context):
        raise context.put_off()
    gathering.done_for = request
    return gathering


def stats(context: Context, command: Stats, request: RequestContext) -> StatsResult:
    """Show the figures of the broker. Raises ReplyFullError if this batch has read too much."""
    context.check_scans()
    gathered = _gathered(context, request)
    state, figures = context.state, context.figures
    standing, totals = gathered.standing, gathered.totals
    everything = [*gathered.of_queues]
    shown = [queue for queue in everything if command.queue in (None, queue.name)]
    shown.sort(key=lambda queue: queue.jobs, reverse=True)
    room = max(0, request.room_bytes - STATS_BYTES)
    queues_shown = min(QUEUES_SHOWN, room // 2 // QUEUE_BYTES)
    room -= min(queues_shown, len(shown)) * QUEUE_BYTES
    clients_shown = min(CLIENTS_SHOWN, room // (CLIENT_BYTES + CLAIMED_QUEUES_SHOWN * 64))
    clients = gathered.clients[:clients_shown]
    context.scans_left -= STATS_SCANS + QUEUE_SCANS * min(queues_shown, len(shown)) + len(clients)
    kinds = Counter(type(parked.command) is Claim for parked in context.waiters.parked.values())
    return StatsResult(
        as_of=context.position(),
        time=context.wall,
        server=context.server,
        boot_id=context.boot_id,
        writable=request.writable,
        jobs=state.jobs.stored,
        stored_bytes=state.jobs.texts.total_bytes,
        statuses={each.value: totals.get(each) or StateFigures() for each in JobStatus},
        settlements={each.value: totals[each] for each in SettlementState if each in totals},
        queues=[_queue(context, each, gathered.of_queues[each]) for each in shown[:queues_shown]],
        queues_left_out=max(0, len(shown) - queues_shown),
        estimated=gathered.barred.is_estimate,
        sessions=len(state.requests),
        outcomes=state.requests.outcomes,
        parked_claims=kinds[True],
        parked_waits=kinds[False],
        clients=clients,
        clients_left_out=gathered.more_clients + len(gathered.clients) - len(clients),
        leases_left_out=state.jobs.leased - len(standing),
        commands={
            _tag(kind): CommandFigures(decided, dict(figures.refused.get(kind, {})))
            for kind, decided in figures.decided.items()
        },
        attempts=figures.attempts,
        lapses=figures.lapses,
        repeats=figures.repeats,
        last_denied=figures.last_denied,
        in_status_s={each.value: times.histogram() for each, times in figures.in_status.items()},
        to_claim_s={each.value: times.histogram() for each, times in figures.to_claim.items()},
        **figures.outside(),
    )


def _tag(kind: type[Command]) -> str:
    return str(kind.__struct_config__.tag)


def _knows_oldest(context: Context, queue: JobQueue, states: list[Claimed]) -> bool:
    queues = context.state.jobs.queues
    return all(queues.knows_oldest(queue, each) for each in states)


def _states_of(queue: JobQueue) -> list[Claimed]:
    """Return the statuses and settlement states in which a queue has jobs."""
    counts: list[dict[Any, int]] = [queue.counts, queue.settled]
    return [state for some in counts for state, count in some.items() if count]


class _Barred:
    """How many jobs are leased; and of the others, on hold or delayed: by queue and state."""

    def __init__(self) -> None:
        self.leased: Counter[tuple[str, Claimed]] = Counter()
        self.on_hold: Counter[tuple[str, Claimed]] = Counter()
        self.delayed: Counter[tuple[str, Claimed]] = Counter()
        self.is_estimate = False

    def gather(self, context: Context, standing: list[StandingLease]) -> Iterator[int]:
        """Count the jobs that no claim gets; estimate their number if there are too many of them.

        Yields what each part took, in scans.
        """
        jobs = context.state.jobs
        self.leased.update((each.slot.job.queue, claimed_for(each.slot.job)) for each in standing)
        if len(standing) < jobs.leased:
            self.is_estimate = True
            for key, count in self.leased.items():
                self.leased[key] = count * jobs.leased // len(standing)  # of those seen
        yield len(standing)
        held = jobs.queues.held
        looked = min(len(held), LOOKED_MAX)
        for slot in islice(held.values(), looked):
            if slot.lease is None and not is_finished(slot.job):
                self.on_hold[slot.job.queue, claimed_for(slot.job)] += 1
        if looked < len(held):
            self.is_estimate = True
            for key, count in self.on_hold.items():
                self.on_hold[key] = count * len(held) // looked
        yield looked
        if jobs.queues.are_barred:
            yield from self._gather_delayed(context)

    def _gather_delayed(self, context: Context) -> Iterator[int]:
        at, left = context.origin.at, LOOKED_MAX
        for queue in [*context.state.jobs.queues.by_name.values()]:
            for state, lines in [*queue.lines.items()]:
                for delays in [line.delays for line in lines if line.delays is not None]:
                    count, entries = delays.later(at, max(1, left))
                    self.delayed[queue.name, state] += count
                    self.is_estimate |= entries > left
                    yield min(entries, max(1, left)) + DELAYS_SCANS
                    left = max(0, left - entries)


def _add(totals: dict[Claimed, StateFigures], own: dict[Claimed, StateFigures]) -> None:
    """Add the figures of a queue to those of all."""
    for state, figures in own.items():
        total = totals.setdefault(state, StateFigures())
        if figures.oldest is not None and (not total.oldest or figures.oldest < total.oldest):
            total.oldest = figures.oldest
        total.count += figures.count
        total.ready += figures.ready
        total.leased += figures.leased
        total.on_hold += figures.on_hold
        total.delayed += figures.delayed
        total.paused += figures.paused


def _state(queue: JobQueue, state: Claimed, barred: _Barred) -> StateFigures:
    """Return the figures of a queue in a status or settlement state."""
    count = queue.count(state)
    shown = StateFigures(count, queue.oldest(state))
    if state in CLAIMED:
        key = (queue.name, state)
        shown.leased = min(barred.leased.get(key, 0), count)  # `get` is in C
        shown.on_hold = min(barred.on_hold.get(key, 0), count - shown.leased)
        shown.delayed = min(barred.delayed.get(key, 0), count - shown.leased - shown.on_hold)
        free = count - shown.leased - shown.on_hold - shown.delayed
        shown.ready, shown.paused = (0, free) if queue.is_paused else (free, 0)
    return shown


def _queue(context: Context, queue: JobQueue, figures: dict[Claimed, StateFigures]) -> QueueFigures:
    claims = context.waiters.claims
    names = (queue.name, ALL_QUEUES)
    return QueueFigures(
        queue.name,
        {each.value: found for each, found in figures.items() if isinstance(each, JobStatus)},
        {each.value: found for each, found in figures.items() if isinstance(each, SettlementState)},
        queue.is_paused,
        sum(len(claims.get((RUNNING, name), ())) for name in names),
    )


def _standing(context: Context) -> list[StandingLease]:
    """Return the leases that stand, as far as there are not too many of them."""
    return [each for each in islice(context.state.leases.timers, LOOKED_MAX) if stands(each)]


def _client(
    who: Who, heard: Heard | None, leases: int = 0, claims: int = 0, waits: int = 0
) -> ClientFigures:
    if heard is None:  # it holds leases from before the broker's start
        return ClientFigures(*who, leases=leases, parked_claims=claims, parked_waits=waits)
    last = heard.claim
    if last is not None and len(last.queues) > CLAIMED_QUEUES_SHOWN:
        last = msgspec.structs.replace(last, queues=last.queues[:CLAIMED_QUEUES_SHOWN])
    return ClientFigures(
        *who, _roles_of(heard.ticket), heard.at, leases, claims, waits, last,
    )  # fmt: skip


def _roles_of(ticket: Ticket) -> list[str]:
    return [role.value for role in Role if role in ticket.principal.roles]


# --- explain --------------------------------------------------------------------------------------


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
        lapses=context.state.leases.lapses.get(job.job_id, 0),
        lapses_max=context.limits.lapses,
        lease_ms=None if lease is None else lease.lease_ms,
        coming=_coming(context, slot, request),
        legal=_legal(slot),
    )


def explained_bytes_max(slot: Slot | None) -> int:
    """Return a bound on what an explanation takes, without the history of the job."""
    return job_bytes_max(slot) + (CLAIMANTS_SHOWN + 8) * RESULT_BYTES


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
    client_of = context.state.requests.client_of
    for name in (slot.job.queue, ALL_QUEUES):
        for each in islice(context.waiters.claims.get((state, name), {}).values(), AHEAD_MAX):
            ticket = each.ticket
            who = (ticket.principal.name, client_of(ticket.session) if ticket.session else "")
            parked[who] += 1
    standing = _standing(context)
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
        _client(who, figures.heard(who), held[who], parked[who]) for who in order[:CLAIMANTS_SHOWN]
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
        lapses = context.state.leases.lapses.get(job.job_id, 0) + 1
        then = "unless it is touched, the lease lapses and the job can be claimed again"
        if job.status is RUNNING and lapses >= limits.lapses:
            then = f"unless it is touched, the lease lapses for the {lapses}th time: the job fails"
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
        legal.append(Legal(_tag(change), _sending(change)))
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


STATS_COMMANDS: Final[Handlers] = {
    Stats: one_by_one(stats),
    Explain: one_by_one(explain),
}

"""The command that says how the broker is: stats."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

import msgspec

from tollgate.broker.core.context import Context, Handlers, RequestContext, one_by_one
from tollgate.broker.core.figures import (
    CLAIMED_QUEUES_SHOWN,
    Who,
    client_figures,
    tag_of,
)
from tollgate.broker.core.limits import STATS_BYTES
from tollgate.broker.core.waiters import Ticket
from tollgate.broker.repository.job import Claimed, StandingLease, claimed_for, is_finished
from tollgate.broker.repository.queues import CLAIMED, JobQueue
from tollgate.domain.commands import (
    ALL_QUEUES,
    Claim,
    Stats,
)
from tollgate.domain.figures import (
    SESSIONS_LOOKED,
    ClientFigures,
    CommandFigures,
    QueueFigures,
    StateFigures,
)
from tollgate.domain.results import StatsResult
from tollgate.domain.settlement import SettlementState
from tollgate.domain.status import (
    RUNNING,
    JobStatus,
)

# What parts of an answer cost, as a number of jobs that are looked at in the same time:
STATS_SCANS: Final = 1_000
"""Showing the figures without queues and clients."""
QUEUE_SCANS: Final = 8
"""Showing a queue."""
STATE_SCANS: Final = 4
"""Gathering the figures of a queue in one status."""
DELAYS_SCANS: Final = 4
"""Looking at a line with delayed jobs."""
CLIENT_SCANS: Final = 4
"""Gathering the figures of a client."""
STEP_SCANS: Final = 3_000
"""One step gathers this much; the next step goes on."""
RESTARTS_MAX: Final = 3
"""How often gathering begins again, because something happened meanwhile, before it hurries."""
LOOKED_MAX: Final = 5_000
"""How many leases, and how many jobs on hold or delayed, one `stats` looks at."""
QUEUES_SHOWN: Final = 200
CLIENTS_SHOWN: Final = 500
QUEUE_BYTES: Final = 1_024
"""More than the figures of a queue take in a reply."""
CLIENT_BYTES: Final = 512
"""More than those of a client take, without the queues of its last claim."""


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
        self.standing = context.state.leases.standing(LOOKED_MAX)
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
        figures = context.figures
        held = Counter((lease.by, lease.client) for lease in self.standing)
        claims: Counter[Who] = Counter()
        waits: Counter[Who] = Counter()
        for parked in [*islice(context.waiters.parked.values(), LOOKED_MAX)]:
            who = context.sender_of(parked.ticket)
            (claims if isinstance(parked.command, Claim) else waits)[who] += 1
            yield 1
        latest = context.state.requests.latest(SESSIONS_LOOKED)
        sessions = Counter((each.owner, each.client) for each in latest)
        yield SESSIONS_LOOKED
        order = figures.by_time({*figures.seen, *held, *claims, *waits})
        yield len(order)
        for who in order[:CLIENTS_SHOWN]:
            client = client_figures(who, figures.heard(who), held[who], claims[who], waits[who])
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
            tag_of(kind): CommandFigures(decided, dict(figures.refused.get(kind, {})))
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


STATS_COMMANDS: Final[Handlers] = {Stats: one_by_one(stats)}

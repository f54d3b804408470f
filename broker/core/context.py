"""What commands are decided with: the state, the parked commands, and the recorded events."""

from collections import deque
from collections.abc import Callable, Sequence
from copy import copy
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import msgspec

from tollgate.broker.core.events import AnyEvent, JobTransitioned, LeaseGranted, Origin
from tollgate.broker.core.feed import Place
from tollgate.broker.core.figures import Figures, Who
from tollgate.broker.core.limits import Limits
from tollgate.broker.core.state import State
from tollgate.broker.core.timers import Instant, later
from tollgate.broker.core.waiters import (
    ENDS_MAX,
    SERVED_MAX,
    Ending,
    Parked,
    Ticket,
    Waiters,
)
from tollgate.broker.repository.job import Changes, Slot, StoredJob, job_result
from tollgate.broker.repository.listing import SCAN_JOBS_MAX
from tollgate.broker.repository.queues import DROPS_MAX
from tollgate.domain.commands import Command, Events, Wait
from tollgate.domain.exceptions import (
    Refusal,
    ReplyFullError,
    RepositoryFullError,
    WaitTimeoutError,
)
from tollgate.domain.results import (
    CountResult,
    EventsResult,
    JobResult,
    LeasesResult,
    Result,
    error_of,
)
from tollgate.domain.settlement import SettlementState
from tollgate.domain.status import JobStatus


class RequestContext(msgspec.Struct):
    """What the commands of one request are decided with: who asks, when, and the room left."""

    ticket: Ticket
    now: datetime
    """The time of its record: by the wall clock, and never before that of an earlier record."""
    now_ms: int
    """The same moment on the monotonic clock."""
    frame_bytes: int
    """The length of the request."""
    room_bytes: int
    """The room that the reply has left for the next result."""
    writable: bool = True
    """Whether the journal has room for events."""


Handler = Callable[["Context", Sequence[Any], RequestContext], list[Any]]
"""Decides a run of commands of one kind; returns the Result of each, or None if it was parked.

An exception, also a Refusal, means that nothing of the run has happened.
"""
Handlers = dict[type[Command], Handler]


BEHIND_US_A_MS: Final = 900
"""How far the time of records goes in a millisecond while the wall clock is behind it."""
MEASURED: Final = frozenset[type[AnyEvent]]({JobTransitioned, LeaseGranted})
"""The events that end a measured time."""


class Answer(NamedTuple):
    """The result of a command that was parked, or could have been; its kind is `kind`."""

    ticket: Ticket
    result: Result
    kind: type[Command]


class Context:
    """The state and the parked commands, with the events and answers since they were last taken."""

    def __init__(self, limits: Limits, new_id: Callable[[], str], state: State) -> None:
        self.limits = limits
        self.new_id = new_id
        self.state = state
        self.waiters = Waiters(limits.parked, limits.parked_share, limits.watched, state.mono)
        self.events: list[AnyEvent] = []
        """The events since they were last taken; always the same list."""
        self.answers: deque[Answer | Ending] = deque()
        """The answers to parked commands, and those of which many get the same: `next_answer`."""
        self.ends_left = ENDS_MAX
        """How much the ends of parked commands may still cost in this batch,"""
        self.serves_left = SERVED_MAX
        """and how much the grants to parked claims."""
        self.are_owed = False
        """Whether parked claims wait for the next batch, although there may be jobs for them."""
        self.scans_left = SCAN_JOBS_MAX
        """The scan budget: how many jobs the reads of this batch may still look at, and how many
        lines its claims."""
        self.lacks_budget = False
        """Whether a command of this message has found too little left of the budgets of the batch.
        """
        self.origin = Origin(state.at)
        """Who causes the next events, and when."""
        self.wall = state.at
        """What the wall clock says; it may have been set back."""
        self.aged_from = datetime.min.replace(tzinfo=UTC)
        """Finished jobs grow old from this time of records on, if they ended before it."""
        self._at_ms: int | None = None
        """The monotonic time at which `state.at` was last set; None before the first time."""
        self.counted_at = ""
        """The position in the log at which `counted` was counted."""
        self.counted: dict[
            tuple[JobStatus | None, SettlementState | None, str | None], CountResult
        ] = {}
        self.gathering: Any = None
        """What the last `stats` has gathered: see there."""
        self.figures = Figures()
        self.server = self.boot_id = ""
        """What `hello` tells, for other commands too."""
        self.is_torn = False
        """Whether an event failed in the middle of its effect: the process must stop."""
        self._pay_within = timedelta(milliseconds=limits.pay_within_ms)
        self._pay_from = self._pay_by = datetime.min.replace(tzinfo=UTC)

    def act_for(self, ticket: Ticket) -> Origin:
        """Attribute the next events to a request; return their origin."""
        client = self.state.requests.client_of(ticket.session)
        self.origin = origin = Origin(self.origin.at, ticket.principal.name, client)
        return origin

    def sender_of(self, ticket: Ticket) -> Who:
        """Return who has sent a command: the name of its key, and that of its client."""
        client_of = self.state.requests.client_of
        return ticket.principal.name, client_of(ticket.session) if ticket.session else ""

    def begin_batch(self, now: Instant) -> None:
        """Set the budgets of a batch; let the next events happen by themselves, now.

        They do not happen before the last record.
        """
        state = self.state
        self.scans_left, self.ends_left, self.serves_left = SCAN_JOBS_MAX, ENDS_MAX, SERVED_MAX
        state.jobs.queues.drops_left = DROPS_MAX
        if state.requests.forgotten:
            state.requests.free_some()
        self.lacks_budget = self.are_owed = False
        self.wall = now.wall
        state.at = now.wall if now.wall >= state.at else self.time_at(now)
        self._at_ms = now.mono_ms
        self.origin = Origin(state.at)

    def time_at(self, now: Instant) -> datetime:
        """Return the time of records at `now`: that of the wall clock, unless it was set back.

        While the wall clock is behind the last record, the time of records goes on by the monotonic
        clock: delays end, and finished jobs grow old. It goes a tenth slower, so that the wall
        clock reaches it.
        """
        at = self.state.at
        if now.wall >= at or self._at_ms is None:
            return max(now.wall, at)
        went_ms = max(0, now.mono_ms - self._at_ms)
        return later(at, timedelta(microseconds=went_ms * BEHIND_US_A_MS))

    @property
    def lead(self) -> timedelta:
        """How far the time of records is ahead of the wall clock."""
        return self.state.at - self.wall

    def wall_at(self, at: datetime) -> datetime:
        """Return what the wall clock will show when the time of records is `at`."""
        left = at - self.state.at
        slow = left * (1_000 / BEHIND_US_A_MS)
        has_caught_up = slow - left >= self.lead
        return at if has_caught_up else later(self.wall, slow)

    def pay_by(self) -> datetime:
        """Return the `pay_by_time` of a job that is created now: one object for a whole batch."""
        if self.wall is not self._pay_from:
            self._pay_from, self._pay_by = self.wall, later(self.wall, self._pay_within)
        return self._pay_by

    def record(
        self, events: list[Any], now_ms: int, found: Sequence[Slot | None] | None = None
    ) -> Changes:
        """Apply a run of events of one kind, and answer the waits that they end.

        `now_ms` is monotonic; `found` are the jobs of the events, if they were looked up already.
        Returns the jobs, and the refusals of events that were not applied.
        """
        if not events:
            return Changes()
        kind = type(events[0])
        if self.figures.samples_left and kind in MEASURED:
            if found is None:
                found = self.state.jobs.get_all([event.job_id for event in events])
            self.figures.measure(events, found, self.origin)
        try:
            changes = self.state.effects[kind](events, self.origin, now_ms, found)
        except BaseException:
            self.is_torn = True
            raise
        if changes.refused:
            events = [event for place, event in enumerate(events) if place not in changes.refused]
        self.events += events
        if self.waiters.watched and kind is JobTransitioned:
            for slot in changes.slots:
                self._answer_waits(slot)
        return changes

    def has_room_for(self, queues: set[str]) -> bool:
        """Return whether all of these queues may exist at the same time."""
        by_name = self.state.jobs.queues.by_name
        new = len(queues - by_name.keys())
        return not new or len(by_name) + new <= self.limits.queues

    def check_queues(self, names: set[str]) -> None:
        """Raise RepositoryFullError if there would be too many queues with these."""
        if not self.has_room_for(names):
            limit = self.limits.queues
            raise RepositoryFullError(f"there are {limit} queues already", limit=limit)

    def record_one(self, event: AnyEvent, now_ms: int) -> Any:  # noqa: ANN401 - as the event has it
        """Apply one event; return the job that it created or moved. Raises its Refusal."""
        changes = self.record([event], now_ms)
        return changes.only() if changes.refused or changes.slots else None

    def serve_at_ms(self) -> int | None:
        """Return when parked readers of events are to be served; None if they have seen all."""
        waiters = self.waiters
        if not waiters.readers:
            return None
        if not waiters.unserved and waiters.served_to == self.state.feed.newest:
            return None
        return waiters.serve_at_ms

    def place(self) -> Place:
        """Return the place in the log: what is decided next is behind it."""
        return self.state.feed.next_number, len(self.events)

    def position(self, place: Place | None = None) -> str:
        """Return a place in the log as a text, by default the one of what is decided next."""
        number, before = place or self.place()
        return f"{self.state.log_id}-{number}-{before}"

    def _answer_waits(self, slot: Slot) -> None:
        """Answer the waits for a job to be where it is now."""
        job = slot.job
        groups = self.waiters.take_groups(job.job_id, job.status)
        if not groups:
            return
        result = job_result(copy(slot.whole()))  # it may move on before the answer is encoded
        if len(groups) == 1 == len(groups[0]) and self.ends_left > 0:
            (parked,) = groups[0].values()  # the common case
            self.end_with(parked, result)
        else:
            self.answers.append(self.waiters.end_groups(groups, result))

    def end_wait(self, parked: Parked) -> None:
        """Answer a parked command whose time is over.

        A claim gets no lease, a reader no events, and a wait an error.
        """
        result: Result = LeasesResult([])
        if isinstance(parked.command, Wait):
            result = error_of(wait_timed_out())
        elif isinstance(parked.command, Events):  # nothing, and where to go on
            result = EventsResult([], self.position(parked.place), self.position())
        self.end_with(parked, result)

    def end_with(self, parked: Parked, result: Result) -> None:
        """Answer a parked command with a result."""
        self.waiters.remove(parked)
        self.ends_left -= parked.cost
        self.answers.append(Answer(parked.ticket, result, type(parked.command)))

    def next_answer(self) -> Answer | None:
        """Take out the next answer to a parked command; None if this batch may give no other."""
        answers = self.answers
        while answers:
            head = answers[0]
            if isinstance(head, Answer):
                answers.popleft()
                return head
            parked, self.ends_left = self.waiters.take_ended(head, self.ends_left)
            if parked is not None:
                return Answer(parked.ticket, head.result, type(parked.command))
            if not head.is_over:
                return None
            answers.popleft()
        return None

    def put_off(self) -> ReplyFullError:
        """Have the message put off, for a batch with new budgets; return the command's refusal.

        The refusal is sent only if other commands of the message have changed something: then the
        message cannot be put off.
        """
        self.lacks_budget = True
        return ReplyFullError("this message has read as much as one may; send the rest again")

    def charge_texts(self, results: Sequence[Any]) -> None:
        """Take from the scan budget what long histories and rounds of input have cost."""
        texts = self.state.jobs.texts
        self.scans_left -= texts.work
        texts.work = 0
        if texts.longest_rounds:
            shown = [result.job.inputs for result in results if type(result) is JobResult]
            self.scans_left -= sum([len(inputs) for inputs in shown if inputs])

    def check_scans(self) -> None:
        """Raise ReplyFullError if the commands of this batch have looked at as much as they may."""
        if self.scans_left <= 0:
            raise ReplyFullError("this message has read as much as one may; send the rest again")

    def take_events(self) -> list[AnyEvent]:
        """Return the events recorded since the last call, and clear them."""
        events = self.events.copy()
        self.events.clear()
        return events


def one_by_one(decide: Callable[["Context", Any, RequestContext], Result | None]) -> Handler:
    """Return the handler of a kind whose commands are decided one after the other."""

    def handler(context: Context, commands: Sequence[Any], request: RequestContext) -> list[Any]:
        results: list[Any] = []
        for command in commands:
            try:
                results.append(decide(context, command, request))
            except Refusal as refusal:
                if context.is_torn:
                    raise
                results.append(error_of(refusal))
        return results

    return handler


def about(job: StoredJob, refusal: Refusal) -> Refusal:
    """Add the job's status and version to a refusal, so that the caller need not ask."""
    refusal.job_id, refusal.status, refusal.version = job.job_id, job.status.value, job.version
    return refusal


def wait_timed_out() -> WaitTimeoutError:
    """Return the refusal of a wait whose time is over."""
    return WaitTimeoutError("none of the jobs came to a status waited for in time")

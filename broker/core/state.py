"""Everything that the broker knows, and the one way in which it changes: events are applied."""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from operator import attrgetter
from typing import Any, Final

import msgspec

from tollgate.broker.core.event_columns import Known, seen_of
from tollgate.broker.core.events import (
    AnyEvent,
    JobAnnotated,
    JobCreated,
    JobHeld,
    JobProgressed,
    JobPruned,
    JobResumed,
    JobSettled,
    JobTransitioned,
    LeaseGranted,
    LeaseLapsed,
    LeaseReleased,
    LogBegan,
    Origin,
    QueuePaused,
    QueueResumed,
    SessionEvicted,
    SessionOpened,
    StopRequested,
)
from tollgate.broker.core.feed import RECORD_BYTES, Feed
from tollgate.broker.core.leases import Leases
from tollgate.broker.core.records import Record
from tollgate.broker.core.request_log import RequestLog
from tollgate.broker.core.timers import NEVER, NEVER_MS, Timeline, Timers
from tollgate.broker.repository.history import (
    ANNOTATED,
    HELD,
    LAPSED,
    RELEASED,
    RESUMED,
    SETTLED,
    STOP_REQUESTED,
)
from tollgate.broker.repository.indexes import measured
from tollgate.broker.repository.job import Changes, Slot, StandingLease, claimed_for, is_finished
from tollgate.broker.repository.job_repo import InMemoryJobRepository
from tollgate.domain.exceptions import (
    InvalidStateTransitionError,
    JobConflictError,
    JobNotFoundError,
    LeaseHeldError,
    Refusal,
)
from tollgate.domain.results import Progress
from tollgate.domain.settlement import CLAIMABLE
from tollgate.domain.status import AWAITING_INPUT, AWAITING_PAYMENT, RUNNING, TERMINAL

RESTORE_GAP: Final = 2**32
"""How much a restore raises the numbers of leases and sessions, if the clock was set back."""
NUMBERS_FROM: Final = datetime(2020, 1, 1, tzinfo=UTC)
NUMBERS_A_MS: Final = 4_096
"""More numbers than a broker gives in a millisecond."""

Found = Sequence[Slot | None] | None
Effect = Callable[[Sequence[Any], Origin, int, Found], Changes]


class State:
    """Jobs, leases, deadlines and the request log, as the records so far have left them."""

    def __init__(self) -> None:
        self.wall = Timeline(NEVER)
        """When something is due by the wall clock: deadlines."""
        self.record_time = Timeline(NEVER)
        """When something is due by the time of records: delays end, finished jobs are removed."""
        self.mono = Timeline(NEVER_MS)
        """When something is due by the monotonic clock: leases and parked commands."""
        self.jobs = InMemoryJobRepository(timeline=self.record_time)
        self.leases = Leases(self.jobs, self.mono)
        self.requests = RequestLog()
        self.at = datetime.min.replace(tzinfo=UTC)
        """The time of the last record."""
        self.feed = Feed()
        """The latest events, for readers."""
        self.known = self.feed.known
        """What every effect tells of the jobs of its events, in order."""
        self.log_id = ""
        """Names the log: a position in another log means nothing in this one."""
        self.unpaid: Timers[datetime, Slot] = Timers(
            self.wall, attrgetter("job.pay_by_time"), _is_unpaid, self._count_unpaid
        )
        """Jobs in `awaiting_payment`, by `pay_by_time`."""
        self.unfinished: Timers[datetime, Slot] = Timers(
            self.wall, attrgetter("job.submit_result_time"), _is_unfinished, self._count_unfinished
        )
        """Jobs in `running` and `awaiting_input`, by `submit_result_time`."""
        self.effects: dict[type[AnyEvent], Effect] = {
            JobCreated: self._create,
            JobTransitioned: self._transition,
            JobPruned: self._prune,
            LeaseGranted: self._grant,
            LeaseReleased: self._each(self._release),
            LeaseLapsed: self._each(self._lapse),
            SessionOpened: self._each(self._open_session),
            SessionEvicted: self._each(self._evict_session),
            JobHeld: self._each(self._hold),
            JobResumed: self._each(self._resume),
            StopRequested: self._each(self._request_stop),
            JobAnnotated: self._each(self._annotate),
            JobProgressed: self._each(self._progress),
            JobSettled: self._each(self._settle),
            QueuePaused: self._each(self._pause_queue),
            QueueResumed: self._each(self._resume_queue),
            LogBegan: self._each(self._begin_log),
        }
        """What a run of events of one kind does, live and in replay alike.

        Takes the events, their origin, the monotonic time at which leases begin, and the jobs of
        the events if they were looked up already. Returns the jobs, and the refusals of the events
        that contradict the state: those have changed nothing.
        """

    def apply(self, record: Record, now_ms: int, size: int = 0) -> None:
        """Replay the events of a record, which has so many bytes.

        Raises the Refusal of one that contradicts the state.
        """
        origin = Origin(record.at or self._time_of(record.events), record.by, record.client)
        self.at = max(self.at, origin.at)
        for kind, group in groupby(record.events, type):
            run = [*group]
            for part in ([event] for event in run) if self._changes_parts(run) else (run,):
                if refused := self.effects[kind](part, origin, now_ms, None).refused:
                    raise next(iter(refused.values()))
        feed = self.feed
        if record.at is None:  # of format 1
            record = msgspec.structs.replace(record, at=origin.at)
        feed.fresh.append(record)
        feed.room -= max(size, RECORD_BYTES)
        if feed.room < 0:
            feed.settle()

    def _changes_parts(self, run: list[Any]) -> bool:
        """Return whether moves of a record must be applied one by one.

        While it lived they were decided in turn if they are of one job; what is known of the job
        after each must be as it was then.
        """
        if len(run) == 1 or type(run[0]) is not JobTransitioned:
            return False
        return self.jobs.have_parts or AWAITING_INPUT in [move.target for move in run]

    @property
    def records(self) -> int:
        """The number of the last record."""
        return self.feed.next_number - 1

    def _each(self, effect: Callable[[Any, Origin, int], Slot | None]) -> Effect:
        """Return what applies events one by one; an effect may return the job that it changed."""

        def apply(events: Sequence[Any], origin: Origin, now_ms: int, _: Found) -> Changes:
            changes = Changes()
            for place, event in enumerate(events):
                try:
                    slot = effect(event, origin, now_ms)
                except Refusal as refusal:
                    changes.refused[place] = refusal.with_traceback(None)
                    continue
                if slot is not None:
                    changes.slots.append(slot)
                self.known.append(None if slot is None else seen_of(slot))
            return changes

        return apply

    def _time_of(self, events: Iterable[AnyEvent]) -> datetime:
        """Return the time of a record of format 1, whose events of jobs have times."""
        return max([self.at, *[each.at for each in events if isinstance(each, _DATED)]])

    # --- jobs -----------------------------------------------------------------------------------

    def _create(self, events: Sequence[JobCreated], _: Origin, __: int, ___: Found) -> Changes:
        changes = self.jobs.create_all(events)
        self.known += changes.slots
        if changes.slots:
            pay_by_times = [slot.job.pay_by_time for slot in changes.slots]
            self.unpaid.add_all(changes.slots, pay_by_times)
        return changes

    def _transition(
        self, events: Sequence[JobTransitioned], origin: Origin, _: int, found: Found
    ) -> Changes:
        leased = self.jobs.leased
        changes = self.jobs.update_all(events, origin, found)
        if leased != self.jobs.leased:
            self.leases.timers.settled(leased - self.jobs.leased)
        if self.leases.lapses:
            for slot in changes.slots:
                self.leases.lapses.discard(slot.job.job_id)
        if self.jobs.have_parts:  # they may change later, and what they are now is in no event
            self.known += [_moved(slot) for slot in changes.slots]
        else:
            self.known += changes.slots
        if not self.jobs.are_dated:
            return changes
        moves = events
        if changes.refused:
            moves = [event for place, event in enumerate(events) if place not in changes.refused]
        for move, slot in zip(moves, changes.slots, strict=True):
            # A job enters `running` from `awaiting_payment` once, with its first move. Look at the
            # event, not at the job: in a replay the job may have moved on in the same run.
            if slot.job.submit_result_time and move.version == 1 and move.target is RUNNING:
                self.unfinished.add(slot)
        return changes

    def _prune(self, events: Sequence[JobPruned], _: Origin, __: int, ___: Found) -> Changes:
        changes = Changes()
        for place, event in enumerate(events):
            try:
                known = seen_of(self.jobs.require(event.job_id))
                self.jobs.remove(event.job_id)
            except Refusal as refusal:
                changes.refused[place] = refusal.with_traceback(None)
                continue
            self.known.append(known)
            self.leases.lapses.discard(event.job_id)
        return changes

    def _hold(self, event: JobHeld, origin: Origin, _: int) -> Slot:
        slot = self._unfinished_job(event.job_id)
        self._put_on_hold(slot, event.reason, origin)
        return slot

    def _put_on_hold(self, slot: Slot, reason: str | None, origin: Origin) -> None:
        slot.extend().on_hold = True
        self.jobs.queues.held[slot.job.job_id] = slot
        self.jobs.bar(slot)
        self.jobs.note(slot, HELD, origin, reason=reason)

    def _resume(self, event: JobResumed, origin: Origin, _: int) -> Slot:
        slot = self.jobs.require(event.job_id)
        if not slot.job.on_hold:
            raise JobConflictError(f"job {event.job_id} is not on hold", job_id=event.job_id)
        slot.extend().on_hold = False
        del self.jobs.queues.held[slot.job.job_id]
        self.jobs.note(slot, RESUMED, origin)
        if slot.lease is None:
            self.jobs.free(slot, origin.at)
        return slot

    def _request_stop(self, event: StopRequested, origin: Origin, _: int) -> Slot:
        slot = self._unfinished_job(event.job_id)
        slot.extend().stop_requested = True
        self.jobs.note(slot, STOP_REQUESTED, origin, reason=event.reason)
        return slot

    def _annotate(self, event: JobAnnotated, origin: Origin, _: int) -> Slot:
        slot = self.jobs.require(event.job_id)
        self.jobs.texts.set_meta(slot, event.meta)
        self.jobs.note(slot, ANNOTATED, origin)
        return slot

    def _progress(self, event: JobProgressed, origin: Origin, _: int) -> Slot:
        slot = self.jobs.require(event.job_id)
        counted = measured(slot)
        slot.extend().progress = Progress(event.text, event.fraction, origin.at)
        self.jobs.texts.changed_parts(slot, counted)
        return slot

    def _settle(self, event: JobSettled, origin: Origin, _: int) -> Slot:
        slot = self.jobs.require(event.job_id)
        before = slot.job.settlement
        if before is None:
            raise no_settlement(event.job_id)
        told = {
            name: value
            for name in ("result_hash", "on_chain_state", "reason", "not_before")
            if (value := getattr(event, name)) is not None
        }
        if event.to is not None:
            self.leases.lapses.discard(event.job_id)
            told |= {"state": event.to, "updated_at": origin.at}
            told.setdefault("not_before", None)
        after = msgspec.structs.replace(before, **told)
        if event.ends_lease and slot.lease is not None:
            slot.lease = None
            self.jobs.leased -= 1
        self.jobs.set_settlement(slot, after, origin.at)
        if event.to or event.reason or after.on_chain_state != before.on_chain_state:
            to = after.state if event.to is not None else None
            was = before.state if event.to is not None else None
            reason = event.reason or event.on_chain_state
            self.jobs.note(slot, SETTLED, origin, before=was, after=to, reason=reason)
        if event.ends_lease and event.to is None and after.state in CLAIMABLE:
            self.jobs.bar(slot)
            self.jobs.free(slot, origin.at)
        return slot

    def _unfinished_job(self, job_id: str) -> Slot:
        slot = self.jobs.require(job_id)
        if is_finished(slot.job):
            raise JobConflictError(f"job {job_id} is {slot.job.status}", job_id=job_id)
        return slot

    # --- leases ---------------------------------------------------------------------------------

    def _grant(
        self, events: Sequence[LeaseGranted], origin: Origin, now_ms: int, found: Found
    ) -> Changes:
        changes, leases = Changes(), list[StandingLease]()
        last_token, by, client = self.leases.last_token, origin.by, origin.client
        span_ms = ends_ms = -1
        if found is None:
            found = self.jobs.get_all([event.job_id for event in events])
        for event, slot in zip(events, found, strict=True):
            if slot is None:
                changes.refuse(JobNotFoundError(event.job_id))
                continue
            is_free = slot.lease is None and slot.job.status not in TERMINAL  # the common case
            if (not is_free or event.lease <= last_token) and (
                refusal := _refusal_of(slot, event, last_token)
            ):
                changes.refuse(refusal)
                continue
            last_token = event.lease
            if (
                event.lease_ms != span_ms
            ):  # most last equally long: they share the number of the end
                span_ms = event.lease_ms
                ends_ms = now_ms + span_ms
            changes.slots.append(slot)
            leases.append(StandingLease(slot, last_token, span_ms, ends_ms, by, client))
        self.leases.begin(changes.slots, leases, origin)
        self.known += map(seen_of, changes.slots)
        return changes

    def _release(self, event: LeaseReleased, origin: Origin, _: int) -> Slot:
        slot = self.jobs.require(event.job_id)
        self.leases.check(slot, event.lease)
        attempt = self._count_attempt(slot) if event.is_attempt else None
        if event.not_before is not None:
            slot.extend().not_before = event.not_before
        self.leases.timers.settled(1)
        self.jobs.note(slot, RELEASED, origin, attempt=attempt, reason=event.reason)
        if event.hold and not slot.job.on_hold:
            self._put_on_hold(slot, event.reason, origin)
        self.jobs.free(slot, origin.at)
        return slot

    def _lapse(self, event: LeaseLapsed, origin: Origin, _: int) -> Slot:
        slot = self.jobs.require(event.job_id)
        lease = self.leases.check(slot, event.lease)
        self.leases.lapse(slot)
        attempt = self._count_attempt(slot)
        holder = None if lease is None else lease.client or lease.by
        self.jobs.note(slot, LAPSED, origin, attempt=attempt, reason=holder)
        self.jobs.free(slot, origin.at)
        return slot

    def _count_attempt(self, slot: Slot) -> int | None:
        """Count a try that has ended; return its number, None if the job was not worked on."""
        if slot.job.status is not RUNNING:
            return None
        job = slot.extend()
        job.attempts += 1
        return job.attempts

    # --- sessions, queues and the log -----------------------------------------------------------

    def _open_session(self, event: SessionOpened, _: Origin, __: int) -> None:
        self.requests.open(event.session, event.owner, event.client)

    def _evict_session(self, event: SessionEvicted, _: Origin, __: int) -> None:
        self.requests.evict(event.session)

    def _pause_queue(self, event: QueuePaused, _: Origin, __: int) -> None:
        self.jobs.queues.pause(event.queue)

    def _resume_queue(self, event: QueueResumed, _: Origin, __: int) -> None:
        self.jobs.queues.unpause(event.queue)

    def _begin_log(self, event: LogBegan, origin: Origin, _: int) -> None:
        self.log_id = event.log_id
        if event.is_restore:
            self.leases.last_token = _raised(self.leases.last_token, event.number)
            self.requests.last_session = _raised(self.requests.last_session, event.number)
            self.requests.evict_all()
            for slot in self.jobs.slots():
                if slot.lease is not None:
                    self.jobs.free(slot, origin.at)

    def _count_unpaid(self) -> int:
        return self.jobs.count(AWAITING_PAYMENT)

    def _count_unfinished(self) -> int:
        return self.jobs.count(RUNNING) + self.jobs.count(AWAITING_INPUT)


def restored_number(last: int, at: datetime) -> int:
    """Return the number above which a restore at that time begins; `last` is of before it.

    It follows from the time: the same backup may be restored again, and then neither restore may
    give a number that the other one has given.
    """
    return _raised(last, (at - NUMBERS_FROM) // timedelta(milliseconds=1) * NUMBERS_A_MS)


def _raised(last: int, number: int) -> int:
    return number if number > last else last + RESTORE_GAP


def no_settlement(job_id: str) -> InvalidStateTransitionError:
    """Return the refusal of a settlement that a job does not have."""
    message = f"job {job_id} has no settlement: it was created without `settle`"
    return InvalidStateTransitionError.rebuilt(message, {"job_id": job_id, "allowed": []})


def _refusal_of(slot: Slot, event: LeaseGranted, last_token: int) -> Refusal | None:
    """Return the refusal of a lease that cannot be granted."""
    job = slot.job
    if is_finished(slot.job) or (job.status in TERMINAL and claimed_for(job) not in CLAIMABLE):
        message = f"job {job.job_id} is {job.status}: there is nothing to do"
        return JobConflictError(message, job_id=job.job_id)
    if slot.lease is not None or event.lease <= last_token:
        message = f"lease {event.lease} on job {job.job_id} cannot be granted"
        return LeaseHeldError(message, job_id=job.job_id)
    return None


def _moved(slot: Slot) -> Known:
    """Return what a reader needs to know of a job that has moved, beside the event."""
    job = slot.job
    return slot if job.settlement is None and job.inputs is None else seen_of(slot)


def _is_unpaid(slot: Slot) -> bool:
    return slot.job.status is AWAITING_PAYMENT


def _is_unfinished(slot: Slot) -> bool:
    return slot.job.status is RUNNING or slot.job.status is AWAITING_INPUT


_DATED: Final = (JobCreated, JobTransitioned)

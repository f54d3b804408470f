"""Everything that the broker knows, and the one way in which it changes: events are applied."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from typing import Any

from tollgate.broker.core.events import (
    AnyEvent,
    JobCreated,
    JobPruned,
    JobTransitioned,
    LeaseGranted,
    LeaseLapsed,
    LeaseReleased,
    SessionEvicted,
    SessionOpened,
)
from tollgate.broker.core.leases import Leases
from tollgate.broker.core.request_log import RequestLog
from tollgate.broker.core.timers import NEVER, NEVER_MS, Timeline, Timers
from tollgate.broker.repository.job import Changes, Slot, StoredJob
from tollgate.broker.repository.job_repo import InMemoryJobRepository
from tollgate.domain.exceptions import JobConflictError, JobNotFoundError, Refusal
from tollgate.domain.status import AWAITING_INPUT, AWAITING_PAYMENT, RUNNING, TERMINAL


class State:
    """Jobs, leases, deadlines and the request log, as the records so far have left them."""

    def __init__(self) -> None:
        self.wall = Timeline(NEVER)
        """When something is due by the wall clock: deadlines, and finished jobs to remove."""
        self.mono = Timeline(NEVER_MS)
        """When something is due by the monotonic clock: leases and parked commands."""
        self.jobs = InMemoryJobRepository()
        self.leases = Leases(self.mono)
        self.requests = RequestLog()
        self.unpaid: Timers[datetime, StoredJob] = Timers(
            self.wall, attrgetter("pay_by_time"), _is_unpaid, self._count_unpaid
        )
        """Jobs in `awaiting_payment`, by `pay_by_time`."""
        self.unfinished: Timers[datetime, StoredJob] = Timers(
            self.wall, attrgetter("submit_result_time"), _is_unfinished, self._count_unfinished
        )
        """Jobs in `running` and `awaiting_input`, by `submit_result_time`."""
        self.effects: dict[type[AnyEvent], Callable[[Sequence[Any], int], Changes]] = {
            JobCreated: self._create,
            JobTransitioned: self._transition,
            JobPruned: self._prune,
            LeaseGranted: self._grant,
            LeaseReleased: self._release,
            LeaseLapsed: self._lapse,
            SessionOpened: self._open_session,
            SessionEvicted: self._evict_session,
        }
        """What a run of events of one kind does, live and in replay alike.

        Takes the events and the monotonic time at which leases begin. Returns the jobs, and the
        refusals of the events that contradict the state: those have changed nothing.
        """

    def apply(self, events: Iterable[AnyEvent], now_ms: int) -> None:
        """Replay events in order. Raises the Refusal of one that contradicts the state."""
        for kind, run in groupby(events, type):
            if refused := self.effects[kind]([*run], now_ms).refused:
                raise next(iter(refused.values()))

    def restore_jobs(
        self, slots: Sequence[Slot], leased: Iterable[str], named: Sequence[str]
    ) -> None:
        """Add jobs of a snapshot, with their deadlines."""
        self.jobs.restore(slots, leased, named)
        for _, job in slots:
            if job.status is AWAITING_PAYMENT:
                self.unpaid.add(job)
            elif job.status not in TERMINAL:
                self.unfinished.add(job)

    def _create(self, events: Sequence[JobCreated], _: int) -> Changes:
        changes = self.jobs.create_all(events)
        self.unpaid.add_all(changes.jobs)
        return changes

    def _transition(self, events: Sequence[JobTransitioned], _: int) -> Changes:
        changes, leases = self.jobs.update_all(events), self.leases
        if leases.standing or leases.lapses:
            for job in changes.jobs:
                leases.forget(job.job_id)
        for job in changes.jobs:
            # A job enters `running` from `awaiting_payment` once, with its first move.
            if job.submit_result_time is not None and job.version == 2 and job.status is RUNNING:  # noqa: PLR2004 - see above
                self.unfinished.add(job)
        return changes

    def _prune(self, events: Sequence[JobPruned], _: int) -> Changes:
        return _each(events, lambda event: self.jobs.remove(event.job_id))

    def _grant(self, events: Sequence[LeaseGranted], now_ms: int) -> Changes:
        changes = Changes()
        found = self.jobs.get_all([event.job_id for event in events])
        for event, job in zip(events, found, strict=True):
            try:
                if job is None:
                    raise JobNotFoundError(event.job_id)
                if job.status in TERMINAL:
                    message = f"job {job.job_id} is {job.status}: there is nothing to do"
                    raise JobConflictError(message, job_id=job.job_id)
                self.leases.grant(event.job_id, event.lease, event.lease_ms, now_ms)
            except Refusal as refusal:
                changes.refuse(refusal)
            else:
                changes.jobs.append(job)
        self.jobs.lease(*[job.job_id for job in changes.jobs])
        return changes

    def _release(self, events: Sequence[LeaseReleased], _: int) -> Changes:
        def release(event: LeaseReleased) -> None:
            self.leases.end(event.job_id, event.lease)
            self.jobs.free(event.job_id)

        return _each(events, release)

    def _lapse(self, events: Sequence[LeaseLapsed], _: int) -> Changes:
        def lapse(event: LeaseLapsed) -> None:
            self.leases.lapse(event.job_id, event.lease)
            self.jobs.free(event.job_id)

        return _each(events, lapse)

    def _open_session(self, events: Sequence[SessionOpened], _: int) -> Changes:
        return _each(events, lambda event: self.requests.open(event.session, event.owner))

    def _evict_session(self, events: Sequence[SessionEvicted], _: int) -> Changes:
        return _each(events, lambda event: self.requests.evict(event.session))

    def _count_unpaid(self) -> int:
        return self.jobs.count(AWAITING_PAYMENT)

    def _count_unfinished(self) -> int:
        return self.jobs.count(RUNNING) + self.jobs.count(AWAITING_INPUT)


def _each(events: Sequence[Any], effect: Callable[[Any], None]) -> Changes:
    """Apply events one by one; the changes show no jobs."""
    changes = Changes()
    for place, event in enumerate(events):
        try:
            effect(event)
        except Refusal as refusal:
            changes.refused[place] = refusal.with_traceback(None)
    return changes


def _is_unpaid(job: StoredJob) -> bool:
    return job.status is AWAITING_PAYMENT


def _is_unfinished(job: StoredJob) -> bool:
    return job.status is RUNNING or job.status is AWAITING_INPUT

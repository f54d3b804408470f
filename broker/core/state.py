"""All that the broker knows, and the one way in which it changes: an event is applied."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from typing import Any, Final

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
from tollgate.broker.core.records import Record
from tollgate.broker.core.request_log import Ledger
from tollgate.broker.core.timers import Timers
from tollgate.broker.repository.job import Done, Slot, StoredJob
from tollgate.broker.repository.job_repo import InMemoryJobRepository
from tollgate.domain.exceptions import JobConflictError, JobNotFoundError, Refusal
from tollgate.domain.status import AWAITING_PAYMENT, TERMINAL, JobStatus

AllEffects = Callable[[Sequence[Any], int], Done]
_UNFINISHED: Final = (JobStatus.RUNNING, JobStatus.AWAITING_INPUT)


class State:
    """Jobs, leases, deadlines and the memory of requests, as the records so far have left them."""

    def __init__(self) -> None:
        self.repository = InMemoryJobRepository()
        self.jobs = self.repository.own()
        """What is in it, as it is held: for one thread, which has all of this state to itself."""
        self.leases = Leases()
        self.ledger = Ledger()
        self.unpaid: Timers[datetime, StoredJob] = Timers(
            attrgetter("pay_by_time"), _is_unpaid, self._count_unpaid
        )
        """Jobs that await payment, by `pay_by_time`."""
        self.unfinished: Timers[datetime, StoredJob] = Timers(
            attrgetter("submit_result_time"), _is_unfinished, self._count_unfinished
        )
        """Jobs that run or await input, by `submit_result_time`."""
        self.effects_of_all: dict[type[AnyEvent], AllEffects] = {
            JobCreated: self._create_all,
            JobTransitioned: self._transition_all,
            LeaseGranted: self._grant_all,
        }
        """What events of a kind do, one after the other, live and replayed alike.

        Takes them and where the time of a lease begins (monotonic, in milliseconds); returns the
        jobs, and the Refusals of those that contradict what is known: these have changed nothing.
        """
        self.effects: dict[type[AnyEvent], Callable[[Any, int], StoredJob | None]] = {
            **{kind: _one(effects) for kind, effects in self.effects_of_all.items()},
            LeaseReleased: self._release,
            LeaseLapsed: self._lapse,
            SessionOpened: self._open_session,
            SessionEvicted: self._evict_session,
            JobPruned: self._prune,
        }
        """The same for one event of any kind: returns the job, if there is one, or raises."""

    def apply(self, events: Iterable[AnyEvent], now_ms: int) -> None:
        """Let what has happened once happen again, in order. Raises a Refusal if it cannot."""
        for kind, some in groupby(events, type):
            effects = self.effects_of_all.get(kind)
            if effects is None:
                for event in some:
                    self.effects[kind](event, now_ms)
            elif refused := effects([*some], now_ms).refused:
                raise next(iter(refused.values()))

    def remember(self, record: Record) -> None:
        """Keep the outcomes of a record's message, if it belongs to a session."""
        if record.session:
            self.ledger.remember(record.session, record.seq, record.acked, record)

    def restore_jobs(
        self, slots: Sequence[Slot], held: Iterable[str], named: Sequence[str]
    ) -> None:
        """Take over jobs from a snapshot, with their deadlines."""
        self.jobs.restore(slots, held, named)
        for _, job in slots:
            self._watch_deadlines(job)

    def _watch_deadlines(self, job: StoredJob) -> None:
        """Have a job come up when the time is over in which it may be in its status."""
        if job.status is AWAITING_PAYMENT:
            self.unpaid.add(job)
        elif job.status in _UNFINISHED:
            self.unfinished.add(job)

    def _count_unpaid(self) -> int:
        return self.jobs.count(JobStatus.AWAITING_PAYMENT)

    def _count_unfinished(self) -> int:
        return sum(self.jobs.count(status) for status in _UNFINISHED)

    def _create_all(self, events: Sequence[JobCreated], _: int) -> Done:
        done = self.jobs.create_all(events)
        self.unpaid.add_all(done.jobs)
        return done

    def _transition_all(self, events: Sequence[JobTransitioned], _: int) -> Done:
        done, leases = self.jobs.update_all(events), self.leases
        if leases.standing or leases.lapses:
            for job in done.jobs:
                leases.forget(job.job_id)
        for job in done.jobs:
            if job.submit_result_time is not None:
                self._watch_deadlines(job)
        return done

    def _grant_all(self, events: Sequence[LeaseGranted], now_ms: int) -> Done:
        done = Done()
        found = self.jobs.find_all([event.job_id for event in events])
        for event, job in zip(events, found, strict=True):
            try:
                if job is None:
                    raise JobNotFoundError(event.job_id)
                if job.status in TERMINAL:
                    message = f"job {job.job_id} is {job.status}: there is nothing to do"
                    raise JobConflictError(message, job_id=job.job_id)
                self.leases.grant(event.job_id, event.lease, event.lease_ms, now_ms)
            except Refusal as refusal:
                done.refuse(refusal)
                continue
            done.jobs.append(job)
        self.jobs.hold(*[job.job_id for job in done.jobs])
        return done

    def _release(self, event: LeaseReleased, _: int) -> None:
        self.leases.end(event.job_id, event.lease)
        self.jobs.free(event.job_id)

    def _lapse(self, event: LeaseLapsed, _: int) -> None:
        self.leases.lapse(event.job_id, event.lease)
        self.jobs.free(event.job_id)

    def _open_session(self, event: SessionOpened, _: int) -> None:
        self.ledger.open(event.session, event.owner)

    def _evict_session(self, event: SessionEvicted, _: int) -> None:
        self.ledger.evict(event.session)

    def _prune(self, event: JobPruned, _: int) -> None:
        self.jobs.remove(event.job_id)


def _one(effects: AllEffects) -> Callable[[Any, int], StoredJob]:
    """Return what does to one event what `effects` do to many."""

    def effect(event: AnyEvent, now_ms: int) -> StoredJob:
        return effects([event], now_ms).only()

    return effect


def _is_unpaid(job: StoredJob) -> bool:
    return job.status is AWAITING_PAYMENT


def _is_unfinished(job: StoredJob) -> bool:
    return job.status in _UNFINISHED

"""All that the broker knows, and the one way in which it changes: an event is applied."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any, Final

from broker.events import (
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
from broker.leases import Leases
from broker.ledger import Ledger
from broker.records import Record
from broker.repository import InMemoryJobRepository
from broker.stored import Slot, StoredJob
from broker.timers import Timers
from domain.exceptions import JobConflictError
from domain.status import TERMINAL, JobStatus

_UNFINISHED: Final = (JobStatus.RUNNING, JobStatus.AWAITING_INPUT)


class State:
    """Jobs, leases, deadlines and the memory of requests, as the records so far have left them."""

    def __init__(self) -> None:
        self.jobs = InMemoryJobRepository(as_stored=True)
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
        self.effects: dict[type[AnyEvent], Callable[[Any, int], StoredJob | None]] = {
            JobCreated: self._create,
            JobTransitioned: self._transition,
            LeaseGranted: self._grant,
            LeaseReleased: self._release,
            LeaseLapsed: self._lapse,
            SessionOpened: self._open_session,
            SessionEvicted: self._evict_session,
            JobPruned: self._prune,
        }
        """What each kind of event does, live and replayed alike.

        Each takes an event and where the time of a lease begins (monotonic, in milliseconds), and
        returns the job that was created or moved. It raises a Refusal, and changes nothing, if the
        event contradicts what is known.
        """

    def remember(self, record: Record) -> None:
        """Keep the outcomes of a record's message, if it belongs to a session."""
        if record.session:
            self.ledger.remember(
                record.session, record.seq, record.acked, record.digest, record.full_outcomes()
            )

    def restore_jobs(
        self, slots: Sequence[Slot], held: Iterable[str], named: Iterable[str]
    ) -> None:
        """Take over jobs from a snapshot, with their deadlines."""
        self.jobs.restore(slots, held, named)
        for _, job in slots:
            self._watch_deadlines(job)

    def _watch_deadlines(self, job: StoredJob) -> None:
        """Have a job come up when the time is over in which it may be in its status."""
        if job.status is JobStatus.AWAITING_PAYMENT:
            if job.pay_by_time is not None:
                self.unpaid.add(job)
        elif job.submit_result_time is not None and job.status in _UNFINISHED:
            self.unfinished.add(job)

    def _count_unpaid(self) -> int:
        return self.jobs.count(JobStatus.AWAITING_PAYMENT)

    def _count_unfinished(self) -> int:
        return sum(self.jobs.count(status) for status in _UNFINISHED)

    def _create(self, event: JobCreated, _: int) -> StoredJob:
        job = self.jobs.create(
            event.input_hash,
            job_id=event.job_id,
            at=event.at,
            input=event.input,
            identifier_from_purchaser=event.identifier_from_purchaser,
            blockchain_identifier=event.blockchain_identifier,
            pay_by_time=event.pay_by_time,
            submit_result_time=event.submit_result_time,
        )
        if job.pay_by_time is not None:
            self.unpaid.add(job)
        return job

    def _transition(self, event: JobTransitioned, _: int) -> StoredJob:
        job = self.jobs.update_status(
            event.job_id,
            event.target,
            event.result,
            event.error,
            at=event.at,
            expected_version=event.version,
            input_schema=event.input_schema,
            provided_input=event.provided_input,
        )
        if self.leases.standing or self.leases.lapses:
            self.leases.forget(event.job_id)
        if job.submit_result_time is not None:
            self._watch_deadlines(job)
        return job

    def _grant(self, event: LeaseGranted, now_ms: int) -> None:
        status = self.jobs.get(event.job_id).status
        if status in TERMINAL:
            raise JobConflictError(f"job {event.job_id} is {status}: there is nothing to do")
        self.leases.grant(event.job_id, event.lease, event.lease_ms, now_ms)
        self.jobs.hold(event.job_id)

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


def _is_unpaid(job: StoredJob) -> bool:
    return job.status is JobStatus.AWAITING_PAYMENT


def _is_unfinished(job: StoredJob) -> bool:
    return job.status in _UNFINISHED

"""The only owner of jobs: creates, finds, moves, leases and removes them, each under one lock.

The broker works with runs: `create_all`, `update_all` and `get_all` take many jobs at once, and the
methods for one job are their case of one. `validate_transition` judges every move in `update_all`,
and `validate_settlement` every move of a settlement.
"""

import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Self

import msgspec

from tollgate.broker.core.events import JobCreated, JobTransitioned, NewRest, Origin
from tollgate.broker.core.timers import Timeline
from tollgate.broker.repository.history import (
    CLAIMED,
    INPUT_PROVIDED,
    MOVED,
    RELEASED,
    TRIM_BYTES,
    Origins,
    grown,
)
from tollgate.broker.repository.indexes import FinishedJobs, TextTotals, measured
from tollgate.broker.repository.job import (
    Changes,
    Claimed,
    ExtendedJob,
    PlainStoredJob,
    Slot,
    StandingLease,
    StoredJob,
    claimed_for,
    is_finished,
)
from tollgate.broker.repository.lines import FIRST, READY
from tollgate.broker.repository.listing import Page, Wanted, page
from tollgate.broker.repository.queues import Level, Queues
from tollgate.broker.repository.table import ShardedTable
from tollgate.domain.exceptions import (
    InvalidStateTransitionError,
    JobConflictError,
    JobNotFoundError,
    VersionConflictError,
)
from tollgate.domain.models import Job
from tollgate.domain.results import DEFAULT_QUEUE, MOCK_PREFIX, InputRound, Settlement
from tollgate.domain.settlement import OPEN, SettlementState, validate_settlement
from tollgate.domain.status import (
    AWAITING_INPUT,
    AWAITING_PAYMENT,
    COMPLETED,
    RUNNING,
    TERMINAL,
    JobStatus,
    validate_transition,
)

PLAIN: Final[tuple[str | None, int]] = (None, 0)
"""Queue and priority of most jobs."""
FORCED: Final = "forced"
"""The reason in the history of a job that was moved under the lease of another."""


def _new_id() -> str:
    return str(uuid.uuid4())


def _clock() -> datetime:
    return datetime.now(UTC)


class InMemoryJobRepository:
    """Owns every job. Thread-safe: `_lock` wraps every access to `_store`, reads and writes.

    `with repository:` holds the lock, so that many calls are one step to other threads; the broker
    does so for a batch. `create`, `get` and `update_status` return frozen `Job`s. The methods of
    the broker return the slots of stored jobs: use them only while you hold the lock.

    `new_id` and `clock` give the id and the time where a caller of `create` and `update_status`
    supplies none; the broker always supplies both. `timeline` learns when delayed jobs are due.
    """

    def __init__(
        self,
        *,
        new_id: Callable[[], str] = _new_id,
        clock: Callable[[], datetime] = _clock,
        timeline: Timeline[datetime] | None = None,
    ) -> None:
        self._lock = threading.RLock()
        self._new_id = new_id
        self._clock = clock
        self._store: ShardedTable[Slot] = ShardedTable()
        self._by_payment: ShardedTable[str] = ShardedTable()
        self.next_index = 0
        """The place of the next job in the order of creation."""
        self.stored = 0
        """How many jobs there are."""
        self.leased = 0
        """How many jobs are under a lease."""
        self.queues = Queues(timeline)
        self.finished = FinishedJobs()
        self.texts = TextTotals()
        self.origins = Origins()
        self.are_dated = False
        """Whether a job has ever had a `submit_result_time`."""
        self._are_settled = False
        """Whether a job has ever had a settlement."""
        self.have_parts = False
        """Whether a job has ever had rounds of input or a settlement."""
        self._newest = datetime.min.replace(tzinfo=UTC)
        """No job was changed later."""

    def __enter__(self) -> Self:
        """Hold the lock until the end of the `with` block."""
        self._lock.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release the lock."""
        self._lock.release()

    # --- one job --------------------------------------------------------------------------------

    def create(  # noqa: PLR0913 - a job has many fields
        self,
        input_hash: str,
        *,
        job_id: str | None = None,
        at: datetime | None = None,
        input: str | None = None,  # noqa: A002 - the field's name
        identifier_from_purchaser: str | None = None,
        blockchain_identifier: str | None = None,
        pay_by_time: datetime | None = None,
        submit_result_time: datetime | None = None,
        queue: str | None = None,
        priority: int = 0,
    ) -> Job:
        """Store a job in `awaiting_payment`, and return it.

        Raises JobConflictError if another job has this `job_id` or `blockchain_identifier`.
        """
        new = JobCreated(
            job_id or self._new_id(), at or self._clock(), input_hash, input,
            identifier_from_purchaser, blockchain_identifier, pay_by_time, submit_result_time,
            NewRest(queue, priority) if queue or priority else None,
        )  # fmt: skip
        with self._lock:
            return self.create_all([new]).only().job()

    def get(self, job_id: str) -> Job:
        """Return a job. Raises JobNotFoundError."""
        with self._lock:
            return self.require(job_id).job.job()

    def update_status(  # noqa: PLR0913 - the seed's, and what a transition may bring
        self,
        job_id: str,
        target: JobStatus,
        result: str | None = None,
        error: str | None = None,
        *,
        at: datetime | None = None,
        expected_version: int | None = None,
        input_schema: str | None = None,
        provided_input: str | None = None,
    ) -> Job:
        """Move a job to `target`, and return it as it is then.

        Raises JobNotFoundError, VersionConflictError or InvalidStateTransitionError; then nothing
        has changed.
        """
        with self._lock:
            version = expected_version
            if version is None:
                version = self.require(job_id).job.version
            move = JobTransitioned(
                job_id, version, target, at or self._clock(), result, error, input_schema,
                provided_input,
            )  # fmt: skip
            return self.update_all([move], Origin(move.at)).only().job()

    def count(self, status: JobStatus | None = None) -> int:
        """Return how many jobs are stored, in all or in one status."""
        with self._lock:
            return self.stored if status is None else self.queues.counts[status]

    # --- runs of jobs ---------------------------------------------------------------------------

    def create_all(  # noqa: C901, PLR0912, PLR0915 - one fast loop
        self, news: Sequence[JobCreated]
    ) -> Changes:
        """Store jobs in `awaiting_payment`, in order; return them, and why others were refused.

        A job id or a supplied blockchain identifier of a stored job is a JobConflictError.
        """
        changes = Changes()
        slots = changes.slots
        begin = 0  # where the slots of the last level begin
        rest: NewRest | None = None
        newest: datetime | None = None
        with self._lock:
            texts, index, store = self.texts, self.next_index, self._store
            home = store.first  # where most jobs are
            is_large = store.is_large(len(news))
            level: Level | None = None  # a refused job must not make a queue
            for new in news:
                job_id, at, payment, text = new.job_id, new.at, new.blockchain_identifier, new.input
                if is_large:
                    home = store.home(job_id)
                if job_id in home:
                    message = f"there is a job {job_id} already"
                    changes.refuse(JobConflictError(message, job_id=job_id))
                    continue
                if payment is None:
                    payment = MOCK_PREFIX + job_id[:8]
                elif self._by_payment.setdefault(payment, job_id) == job_id:
                    texts.add(payment)
                else:
                    changes.refuse(_paid_for(self._by_payment[payment]))
                    continue
                if level is None or new.rest is not None or rest is not None:
                    rest = new.rest
                    other = self.queues.level(*(rest.place if rest else PLAIN))
                    if level is not None and other is not level:
                        self.queues.add_new(slots[begin:], level)
                        begin = len(slots)
                    level = other
                job = PlainStoredJob(
                    job_id, AWAITING_PAYMENT, new.input_hash, payment, at, at, None, None, 1, text,
                    new.identifier_from_purchaser, new.pay_by_time, new.submit_result_time,
                )  # fmt: skip
                if text is not None:
                    size = len(text) if text.isascii() else len(text.encode())
                    texts.total_bytes += size
                    if size > texts.longest_bytes:  # noqa: PLR1730 - `max` takes twice as long
                        texts.longest_bytes = size
                if new.submit_result_time is not None:
                    self.are_dated = True
                if at is not newest:
                    newest = at
                    self._newest = max(self._newest, at)
                if job.identifier_from_purchaser is not None:
                    texts.add(job.identifier_from_purchaser)
                home[job_id] = slot = Slot(index, job, FIRST)
                if rest is not None:
                    self._set_rest(slot, rest, level)
                index += 1
                slots.append(slot)
            if level is not None:
                self.queues.add_new(slots[begin:] if begin else slots, level)
            self.next_index = index
            self.stored += len(slots)
        return changes

    def update_all(  # noqa: C901 - one loop, the fastest
        self,
        moves: Sequence[JobTransitioned],
        origin: Origin,
        found: Sequence[Slot | None] | None = None,
    ) -> Changes:
        """Move jobs, in order, each from its version; return them, and why others were refused.

        `found` are their slots, if they were looked up already. Refusals are JobNotFoundError,
        VersionConflictError and InvalidStateTransitionError.
        """
        changes = Changes()
        slots = changes.slots
        before = after = None  # the last legal move; its slots begin at `begin`
        alike = None  # a job that moves from here to `after` moves together with the last one
        begin, queue, priority = 0, DEFAULT_QUEUE, 0
        at: datetime | None = None
        is_newest = False  # whether no job was changed after `at`: then no times are compared
        with self._lock:
            texts, are_many = self.texts, self.queues.are_many
            if found is None:
                found = self._store.get_all([move.job_id for move in moves])
            for move, slot in zip(moves, found, strict=True):
                if slot is None:
                    changes.refuse(JobNotFoundError(move.job_id))
                    continue
                job, target = slot.job, move.target
                version, current = job.version, job.status
                if version != move.version:
                    changes.refuse(_version_conflict(job, move.version))
                    continue
                if (
                    current is not alike
                    or target is not after
                    or (are_many and (job.queue is not queue or job.priority != priority))
                ):
                    if len(slots) > begin:
                        self._moved(slots[begin:], before, after, origin)
                    begin, before, after = len(slots), current, target
                    # Of those that wait for input some move with it, and some without.
                    alike = current if current is not AWAITING_INPUT else None
                    queue, priority = job.queue, job.priority
                    try:
                        validate_transition(current, target)
                    except InvalidStateTransitionError as refusal:
                        changes.refuse(refusal)
                        before = after = alike = None
                        continue
                if move.result is not job.result or move.error is not job.error:
                    texts.set_outcome(job, move)
                if target is AWAITING_INPUT or move.provided_input is not None:
                    job = self._set_dialogue(slot, move)
                job.status, job.version = target, version + 1
                if move.at is not at:
                    at = move.at
                    is_newest = at >= self._newest
                    self._newest = max(self._newest, at)
                if is_newest or at > job.updated_at:
                    job.updated_at = at
                if slot.lease is not None:
                    self._end_or_keep(slot, move, origin)
                slots.append(slot)
            self._moved(slots[begin:] if begin else slots, before, after, origin)
        return changes

    def get_all(self, job_ids: Iterable[str | None]) -> list[Slot | None]:
        """Return the slots of jobs, and None for each id that no job has."""
        with self._lock:
            return self._store.get_all(job_ids)

    def find(self, job_id: str) -> Slot | None:
        """Return the slot of a job, or None."""
        with self._lock:
            return self._store.get(job_id)

    def require(self, job_id: str) -> Slot:
        """Return the slot of a job. Raises JobNotFoundError."""
        with self._lock:
            slot = self._store.get(job_id)
        if slot is None:
            raise JobNotFoundError(job_id)
        return slot

    def find_by_payment(self, blockchain_identifier: str) -> Slot | None:
        """Return the slot of the job whose creator supplied this identifier, or None."""
        with self._lock:
            job_id = self._by_payment.get(blockchain_identifier)
            return None if job_id is None else self._store[job_id]

    # --- one change -----------------------------------------------------------------------------

    def lease(self, slots: Sequence[Slot], leases: Sequence[StandingLease], origin: Origin) -> None:
        """Lease jobs: no claim gets them until they are freed or change their status."""
        with self._lock:
            first = self.origins.entry(CLAIMED, origin)
            # In order: a replay may apply the grants of several claims in one run.
            served: list[tuple[Claimed, str]] = []
            status, queue = None, ""
            for slot, lease in zip(slots, leases, strict=True):
                job, entry = slot.job, first
                if job.status is not status or job.queue != queue or job.settlement is not None:
                    status, queue = job.status, job.queue
                    served.append((claimed_for(job), queue))
                slot.lease = lease
                slot.entries &= ~READY
                if job.attempts and job.status is RUNNING:
                    entry = self.origins.entry(CLAIMED, origin, attempt=job.attempts + 1)
                history = slot.history
                if history is not None and len(history) + len(entry) <= TRIM_BYTES:
                    slot.history = history + entry  # the common case, without a call
                else:
                    self.texts.set_history(slot, grown(history, entry))
            self.leased += len(slots)
            self.queues.served(served)

    def free(self, slot: Slot, at: datetime) -> None:
        """End the lease on a job, if there is one; it may be claimed again as soon as it is due."""
        with self._lock:
            self.queues.are_barred |= slot.job.not_before is not None
            if slot.lease is not None:
                slot.lease = None
                self.leased -= 1
            self.queues.free(slot, at)

    def bar(self, slot: Slot) -> None:
        """Take a job out of its line until `free`: it is on hold, or delayed."""
        with self._lock:
            slot.entries &= ~READY
            self.queues.are_barred = True

    def note(  # noqa: PLR0913 - one argument a field of an entry
        self,
        slot: Slot,
        code: int,
        origin: Origin,
        *,
        before: SettlementState | None = None,
        after: SettlementState | None = None,
        attempt: int | None = None,
        reason: str | None = None,
    ) -> None:
        """Add an entry to the history of a job."""
        with self._lock:
            entry = self.origins.entry(code, origin, before, after, attempt, reason)
            history = slot.history
            if history is not None and len(history) + len(entry) <= TRIM_BYTES:
                slot.history = history + entry  # the common case, without a call
            else:
                self.texts.set_history(slot, grown(history, entry))

    def set_settlement(self, slot: Slot, settlement: Settlement, at: datetime) -> None:
        """Replace the settlement of a job. Raises InvalidStateTransitionError."""
        with self._lock:
            now = slot.job.settlement
            before = None if now is None else now.state
            if before is not None and before is not settlement.state:
                validate_settlement(before, settlement.state)
            counted = measured(slot)
            slot.extend().settlement = settlement
            self.texts.changed_parts(slot, counted)
            self.queues.are_barred |= settlement.not_before is not None
            if before is not settlement.state:
                self.queues.settle(slot, before, settlement.state, at)
                if settlement.state not in OPEN:
                    self.finished.add([slot])

    def page(self, wanted: Wanted, after: int | None, limit: int, scan_max: int) -> Page:
        """Return a page of jobs by creation: see `listing`."""
        with self._lock:
            return page(self.queues, wanted, after, limit, scan_max)

    def remove(self, job_id: str) -> None:
        """Remove a finished job. Raises JobNotFoundError, or JobConflictError if it is not."""
        with self._lock:
            slot = self.require(job_id)
            job = slot.job
            if not is_finished(job):
                raise JobConflictError(f"job {job_id} is {job.status}", job_id=job_id)
            is_named = self._by_payment.get(job.blockchain_identifier) == job_id
            if is_named:
                del self._by_payment[job.blockchain_identifier]
            self.texts.remove(slot, is_named=is_named)
            del self._store[job_id]
            self.stored -= 1
            # Stale entries and the event feed can hold the slot for long: let them hold no texts.
            # The feed may also hold the job, while it keeps its creation: so change a copy.
            slot.job = job = copy(job)
            job.version = 0  # marks its entries in the indexes as stale
            self.queues.remove(slot)
            self.finished.remove()
            job.blockchain_identifier, job.identifier_from_purchaser = "", None
            job.input = job.result = job.error = job.input_schema = job.provided_input = None
            if isinstance(job, ExtendedJob):
                job.meta = job.inputs = job.progress = None
            slot.history = slot.rounds = None

    # --- snapshots ------------------------------------------------------------------------------

    def slots(self) -> list[Slot]:
        """Return the slots of all jobs, in order of creation."""
        with self._lock:
            return sorted(self._store.values(), key=lambda slot: slot.index)

    def is_named(self, job: StoredJob) -> bool:
        """Return whether the creator of a job supplied its blockchain identifier."""
        with self._lock:
            return self._by_payment.get(job.blockchain_identifier) == job.job_id

    def restore(self, slot: Slot, *, is_named: bool) -> None:
        """Add a job of a snapshot, created after all others; its lines are restored apart."""
        with self._lock:
            job = slot.job
            if is_named:
                holder = self._by_payment.setdefault(job.blockchain_identifier, job.job_id)
                if holder != job.job_id:
                    raise _paid_for(holder)
            self._store[job.job_id] = slot
            self.stored += 1
            self.leased += slot.lease is not None
            self.queues.restore(slot)
            self.are_dated |= job.submit_result_time is not None
            self._are_settled |= job.settlement is not None
            self.have_parts |= job.settlement is not None or job.inputs is not None
            self._newest = max(self._newest, job.updated_at)
            self.queues.are_barred = True  # some may be
            self.texts.restore(slot, is_named=is_named)

    # --- parts of a change ----------------------------------------------------------------------

    def _set_rest(self, slot: Slot, new: NewRest, level: Level) -> None:
        """Set the fields that most new jobs do not have."""
        slot.job.queue = level.queue.name
        if new == NewRest(new.queue):
            return
        job = slot.extend()
        job.priority = level.priority
        job.not_before, job.traceparent = new.not_before, new.traceparent
        self.queues.are_barred |= new.not_before is not None
        self.texts.set_meta(slot, new.meta)
        self.texts.add(new.traceparent or "")
        if new.settle:
            self._are_settled = self.have_parts = True
            job.settlement = Settlement(SettlementState.PENDING, job.created_at)
            level.queue.settled[SettlementState.PENDING] += 1
            self.texts.changed_parts(slot, 0)

    def _set_dialogue(self, slot: Slot, move: JobTransitioned) -> StoredJob:
        """Set the last question or answer of a job, and add it to the rounds of input."""
        job, counted = slot.extend(), measured(slot)
        self.texts.set_dialogue(job, move)
        rounds, shown = slot.rounds or (), job.inputs or ()
        if move.target is AWAITING_INPUT:
            version = move.version + 1
            rounds = (*rounds, InputRound(version, move.input_schema))
            shown = (*shown, InputRound(version))
        elif rounds:
            last = msgspec.structs.replace(
                rounds[-1], text=move.provided_input, hash=move.input_hash
            )
            rounds = (*rounds[:-1], last)
            shown = (*shown[:-1], InputRound(last.version, hash=last.hash))
        slot.rounds, job.inputs = rounds, shown
        self.have_parts = True
        self.texts.changed_parts(slot, counted)
        return job

    def _end_or_keep(self, slot: Slot, move: JobTransitioned, origin: Origin) -> None:
        """End the lease on a job that moves, or let it stand."""
        if move.forced:
            self.note(slot, RELEASED, origin, reason=FORCED)
        if move.keep_lease and slot.lease is not None:
            slot.lease.is_kept = move.target is AWAITING_INPUT
            self.queues.are_barred = True
        else:
            slot.lease = None
            self.leased -= 1

    def _moved(
        self,
        moved: list[Slot],
        before: JobStatus | None,
        after: JobStatus | None,
        origin: Origin,
    ) -> None:
        """Note moves of jobs of one level from one status to another: histories and indexes."""
        if not moved or before is None or after is None:
            return
        is_answer = before is AWAITING_INPUT and moved[0].job.provided_input is not None
        code = INPUT_PROVIDED if is_answer else MOVED
        entry = self.origins.entry(code, origin, before, after)
        short = TRIM_BYTES - len(entry)
        for slot in moved:
            history = slot.history
            if history is None:
                slot.history = entry
            elif len(history) <= short:  # the common cases, without a call
                slot.history = history + entry
            else:
                self.texts.set_history(slot, grown(history, entry))
        self.queues.move(moved, self.queues.level_of(moved[0].job), before, after, origin.at)
        if after not in TERMINAL:
            return
        if not self._are_settled:
            self.finished.add(moved)
            return
        state = SettlementState.WANTED if after is COMPLETED else SettlementState.CLOSED
        for slot in moved:  # in order: a replay may apply them in other runs
            if slot.job.settlement is None:
                self.finished.add([slot])
            else:
                settlement = msgspec.structs.replace(
                    slot.job.settlement, state=state, updated_at=origin.at
                )
                self.set_settlement(slot, settlement, origin.at)


def _paid_for(holder: str) -> JobConflictError:
    message = f"this blockchain identifier belongs to job {holder}"
    return JobConflictError(message, job_id=holder)


def _version_conflict(job: StoredJob, expected_version: int) -> VersionConflictError:
    return VersionConflictError(
        f"job {job.job_id} is at version {job.version}, not {expected_version}",
        job_id=job.job_id,
        status=job.status.value,
        version=job.version,
    )

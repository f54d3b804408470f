"""The whole state as chunks of bytes, and back: the contents of a snapshot.

Snapshots of format 1 are read too: they have no queues and no ready lines, so the jobs that were
not leased are ready in order of creation.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import islice
from typing import Any, Final, TypeVar

import msgspec

from tollgate.broker.core.request_log import SessionLog
from tollgate.broker.core.state import State
from tollgate.broker.repository.history import Origins
from tollgate.broker.repository.indexes import ended_at
from tollgate.broker.repository.job import (
    Claimed,
    ExtendedJob,
    PlainStoredJob,
    Slot,
    StandingLease,
    StoredJob,
    is_finished,
    mock_identifier,
)
from tollgate.broker.repository.lines import READY
from tollgate.broker.repository.queues import DATED, ONLY_ENTRY, JobQueue
from tollgate.domain.results import DEFAULT_QUEUE, InputRound, Progress, Settlement
from tollgate.domain.settlement import SettlementState
from tollgate.domain.status import AWAITING_INPUT, AWAITING_PAYMENT, RUNNING, TERMINAL, JobStatus

JOBS_A_CHUNK: Final = 500
NUMBERS_A_CHUNK: Final = 20_000
FORMAT: Final = 2
Item = TypeVar("Item")


class Chunk(msgspec.Struct, tag_field="c", array_like=True, gc=False):
    """The base of all chunks. Fields are added at the end alone, with a default."""

    def fields(self) -> dict[str, Any]:
        """Return the fields by name."""
        return {name: getattr(self, name) for name in self.__struct_fields__}


class Rest(msgspec.Struct, array_like=True, gc=False):
    """The fields that most jobs do not have."""

    queue: str = DEFAULT_QUEUE
    priority: int = 0
    not_before: datetime | None = None
    attempts: int = 0
    rounds: list[tuple[int, str | None, str | None, str | None]] | None = None
    progress: tuple[str, float | None, datetime | None] | None = None
    on_hold: bool = False
    stop_requested: bool = False
    meta: str | None = None
    traceparent: str | None = None
    settlement: Settlement | None = None


class LeaseRow(msgspec.Struct, array_like=True, gc=False):
    """A standing lease."""

    token: int
    lease_ms: int
    by: str = ""
    client: str = ""
    is_kept: bool = False


class JobRow(msgspec.Struct, array_like=True, gc=False):
    """A job with its place, and what else its slot holds.

    Its blockchain identifier is None if it was made of the job's id. The fields stand here once
    more, since the format of a snapshot does not change with the one on the wire.
    """

    job_id: str
    status: JobStatus
    input_hash: str
    blockchain_identifier: str | None
    created_at: datetime
    updated_at: datetime
    result: str | None
    error: str | None
    version: int
    input: str | None
    identifier_from_purchaser: str | None
    pay_by_time: datetime | None
    submit_result_time: datetime | None
    input_schema: str | None
    provided_input: str | None
    index: int
    leased: bool = False
    lease: LeaseRow | None = None
    history: bytes | None = None
    rest: Rest | None = None


class JobsChunk(Chunk, tag=1):
    """Jobs in order of creation."""

    jobs: list[JobRow]


class OrderChunk(Chunk, tag=2):
    """The places of the jobs of a status, in the order in which they entered it.

    In format 1 of all queues at once; otherwise of one queue, and also of a settlement state.
    """

    state: str
    indexes: list[int]
    queue: str | None = None


class LeasesChunk(Chunk, tag=3):
    """How often leases have lapsed; in format 1 also the leases (job, token, milliseconds)."""

    standing: list[tuple[str, int, int]]
    lapses: list[tuple[str, int]]


class SessionsChunk(Chunk, tag=4):
    """Sessions, least recently used first."""

    sessions: list[tuple[int, SessionLog]]


class CountersChunk(Chunk, tag=5):
    """The numbers that are never given twice, the time, and the name of the log."""

    next_index: int
    last_token: int
    last_session: int
    format: int = 1
    at: datetime | None = None
    records: int = 0
    log_id: str = ""


class ReadyChunk(Chunk, tag=6):
    """The places of the jobs in a ready line; a time stands for the delayed jobs due then."""

    queue: str
    priority: int
    state: str
    order: list[int | datetime]


class FinishedChunk(Chunk, tag=7):
    """The places of the finished jobs, in the order in which they will be removed."""

    indexes: list[int]


class QueuesChunk(Chunk, tag=8):
    """The queues in order of creation, those paused, and the order of service by status."""

    names: list[str]
    paused: list[str]
    orders: list[tuple[str, list[str], list[str]]]


class OriginsChunk(Chunk, tag=9):
    """The principals and clients that histories refer to by number."""

    pairs: list[tuple[str, str]]


_encode: Final = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(
    JobsChunk | OrderChunk | LeasesChunk | SessionsChunk | CountersChunk | ReadyChunk
    | FinishedChunk | QueuesChunk | OriginsChunk
)  # fmt: skip


def snapshot_chunks(state: State) -> Iterator[bytes]:
    """Yield the chunks of a state: the same bytes for the same state."""
    jobs, requests = state.jobs, state.requests
    yield _encode(
        CountersChunk(
            jobs.next_index, state.leases.last_token, requests.last_session, FORMAT, state.at,
            state.records, state.log_id,
        )
    )  # fmt: skip
    queues = jobs.queues
    paused = [name for name, queue in queues.by_name.items() if queue.is_paused]
    orders = [(str(each), never, served) for each, never, served in queues.orders()]
    yield _encode(QueuesChunk([*queues.by_name], paused, orders))
    for pairs in _split(jobs.origins.pairs):
        yield _encode(OriginsChunk(pairs))
    for slots in _split(jobs.slots()):
        yield _encode(JobsChunk([_row(slot, is_named=jobs.is_named(slot.job)) for slot in slots]))
    for queue in queues.by_name.values():
        yield from _queue_chunks(queue)
    for indexes in _split(jobs.finished.order(), NUMBERS_A_CHUNK):
        yield _encode(FinishedChunk(indexes))
    yield _encode(LeasesChunk([], sorted(state.leases.lapses.items())))
    for sessions in _split(requests.sessions()):
        yield _encode(SessionsChunk(sessions))


def _queue_chunks(queue: JobQueue) -> Iterator[bytes]:
    """Yield the orders of a queue: of entry into each status, and of each ready line."""
    for state in (*JobStatus, *sorted(DATED)):
        entered = [_slot_in(entry).index for entry in queue.entered(state).true_entries()]
        for indexes in _split(entered, NUMBERS_A_CHUNK):
            yield _encode(OrderChunk(state.value, indexes, queue.name))
    for priority in sorted(queue.levels):
        for state, line in sorted(queue.levels[priority].lines.items()):
            for order in _split(line.order(), NUMBERS_A_CHUNK):
                yield _encode(ReadyChunk(queue.name, priority, state.value, order))


class ChunkReader:
    """Shows the chunks of a snapshot to people, in the order in which they were yielded."""

    def __init__(self) -> None:
        self._origins = Origins()

    def read(self, payload: bytes) -> Iterator[dict[str, Any]]:
        """Yield what a chunk holds: one item for each job, and one for any other chunk.

        Raises msgspec.MsgspecError for bytes that are not a chunk.
        """
        chunk = _decoder.decode(payload)
        if isinstance(chunk, OriginsChunk):
            known = self._origins.pairs if len(self._origins.pairs) > 1 else []
            self._origins.restore([*known, *chunk.pairs])
        if not isinstance(chunk, JobsChunk):
            yield {"part": type(chunk).__name__, **msgspec.to_builtins(chunk.fields())}
            return
        for row in chunk.jobs:
            (_, *entries), left_out = self._origins.read(row.created_at, row.history)
            fields = {name: getattr(row, name) for name in row.__struct_fields__}
            del fields["history"], fields["job_id"]
            shown = {"job_id": row.job_id, "history": entries, "left_out": left_out, **fields}
            yield msgspec.to_builtins(
                {name: value for name, value in shown.items() if value not in (None, 0, [])}
            )


class Restorer:
    """Restores a state from the chunks of a snapshot, in the order in which they were yielded."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._format = FORMAT
        self._slots: dict[int, Slot] = {}
        self._is_begun = False

    def restore(self, payload: bytes) -> None:  # noqa: C901 - one case a chunk
        """Add a chunk. Raises msgspec.MsgspecError for bytes that are not a chunk."""
        self._is_begun = True
        state, chunk = self._state, _decoder.decode(payload)
        match chunk:
            case CountersChunk():
                self._restore_counters(chunk)
            case QueuesChunk():
                self._restore_queues(chunk)
            case OriginsChunk():
                known = state.jobs.origins.pairs if len(state.jobs.origins.pairs) > 1 else []
                state.jobs.origins.restore([*known, *chunk.pairs])
            case JobsChunk():
                for row in chunk.jobs:
                    self._restore_job(row)
            case OrderChunk():
                self._restore_order(chunk)
            case ReadyChunk():
                line = state.jobs.queues.level(chunk.queue, chunk.priority).line(
                    _claimed(chunk.state)
                )
                slots = self._slots
                line.restore(
                    [slots[each] if isinstance(each, int) else each for each in chunk.order]
                )
            case FinishedChunk():
                state.jobs.finished.add([self._slots[index] for index in chunk.indexes])
            case LeasesChunk():
                self._restore_leases(chunk)
            case SessionsChunk():
                for number, session in chunk.sessions:
                    state.requests.restore(number, session)

    def finish(self) -> None:
        """Complete the state after the last chunk."""
        if not self._is_begun:
            return
        jobs = self._state.jobs
        if self._format == 1:
            slots = [slot for slot in self._slots.values() if is_finished(slot.job)]
            jobs.finished.add(sorted(slots, key=lambda slot: (ended_at(slot.job), slot.job.job_id)))
        for slot in self._slots.values():
            if not slot.entries & READY:
                jobs.queues.restore_delayed(slot, self._state.at)
        self._slots = {}
        self._is_begun = False

    def _restore_counters(self, chunk: CountersChunk) -> None:
        state = self._state
        state.jobs.next_index = chunk.next_index
        state.leases.last_token = chunk.last_token
        state.requests.last_session = chunk.last_session
        state.feed.begin(chunk.records + 1)
        state.log_id = chunk.log_id
        if chunk.at is not None:
            state.at = chunk.at
        self._format = chunk.format

    def _restore_queues(self, chunk: QueuesChunk) -> None:
        queues = self._state.jobs.queues
        for name in chunk.names:
            queues.add(name)
        for name in chunk.paused:
            queues.pause(name)
        for each, never, served in chunk.orders:
            queues.restore_order(_claimed(each), never, served)

    def _restore_job(self, row: JobRow) -> None:
        state = self._state
        rest = row.rest or (_rest_in_format_1(row) if self._format == 1 else _NOTHING)
        job = _job(row, rest)
        level = state.jobs.queues.level(rest.queue, rest.priority)
        rounds = tuple(InputRound(*each) for each in rest.rounds) if rest.rounds else None
        slot = Slot(row.index, job, 0, None, row.history, rounds)
        if rest.queue != DEFAULT_QUEUE:
            job.queue = level.queue.name
        if row.lease is not None:
            lease = row.lease
            slot.lease = StandingLease(
                slot, lease.token, lease.lease_ms, lease.lease_ms, lease.by, lease.client,
                lease.is_kept,
            )  # fmt: skip
        self._slots[row.index] = slot
        state.jobs.restore(slot, is_named=row.blockchain_identifier is not None)
        if job.status is AWAITING_PAYMENT:
            state.unpaid.add(slot)
        elif job.status not in TERMINAL:
            state.unfinished.add(slot)
        if self._format == 1 and job.status not in TERMINAL and not row.leased:
            level.line(job.status).restore([slot])

    def _restore_order(self, chunk: OrderChunk) -> None:
        state = _claimed(chunk.state)
        queues = self._state.jobs.queues
        slots = [self._slots[index] for index in chunk.indexes]
        if not slots:
            return
        entered = queues.add(chunk.queue or DEFAULT_QUEUE).entered(state)
        if isinstance(state, SettlementState):
            entered.extend([(slot.job.settlement.updated_at, slot) for slot in slots])  # type: ignore[union-attr]  # they have one
            return
        again = state not in TERMINAL
        entered.extend(
            [
                (slot.job.version, slot) if again and slot.job.version > ONLY_ENTRY else slot
                for slot in slots
            ]
        )

    def _restore_leases(self, chunk: LeasesChunk) -> None:
        state = self._state
        for job_id, token, lease_ms in chunk.standing:  # of format 1
            slot = state.jobs.require(job_id)
            slot.lease = StandingLease(slot, token, lease_ms, lease_ms)
            state.jobs.leased += 1
        if self._format == 1:
            for job_id, lapses in chunk.lapses:
                slot = state.jobs.require(job_id)
                slot.extend().attempts = lapses if slot.job.status is RUNNING else 0
        state.leases.restore(chunk.lapses)


def _row(slot: Slot, *, is_named: bool) -> JobRow:
    job, lease = slot.job, None
    if slot.lease is not None:
        held = slot.lease
        lease = LeaseRow(held.token, held.lease_ms, held.by, held.client, held.is_kept)
    return JobRow(
        job.job_id, job.status, job.input_hash,
        job.blockchain_identifier if is_named else None,
        job.created_at, job.updated_at, job.result, job.error, job.version,
        job.input, job.identifier_from_purchaser, job.pay_by_time, job.submit_result_time,
        job.input_schema, job.provided_input, slot.index, lease is not None, lease, slot.history,
        _rest(slot),
    )  # fmt: skip


def _rest(slot: Slot) -> Rest | None:
    job = slot.job
    rounds = progress = None
    if slot.rounds is not None:
        rounds = [(each.version, each.schema, each.text, each.hash) for each in slot.rounds]
    if job.progress is not None:
        progress = (job.progress.text, job.progress.fraction, job.progress.at)
    rest = Rest(
        job.queue, job.priority, job.not_before, job.attempts, rounds, progress, job.on_hold,
        job.stop_requested, job.meta, job.traceparent, job.settlement,
    )  # fmt: skip
    return None if rest == _NOTHING else rest


_NOTHING: Final = Rest()


def _rest_in_format_1(row: JobRow) -> Rest:
    """Return the last round of input: format 1 kept that one, and not when the job asked."""
    if row.status is AWAITING_INPUT:
        version = row.version
    elif row.provided_input is not None:  # it was running again, and may have ended then
        version = row.version - (1 if row.status is RUNNING else 2)
    elif row.input_schema is not None:  # it failed while it asked
        version = row.version - 1
    else:
        return _NOTHING
    return Rest(rounds=[(version, row.input_schema, row.provided_input, None)])


def _job(row: JobRow, rest: Rest) -> StoredJob:
    plain = PlainStoredJob(
        row.job_id, row.status, row.input_hash,
        row.blockchain_identifier or mock_identifier(row.job_id),
        row.created_at, row.updated_at, row.result, row.error, row.version,
        row.input, row.identifier_from_purchaser, row.pay_by_time, row.submit_result_time,
        row.input_schema, row.provided_input,
    )  # fmt: skip
    if rest == Rest(rest.queue):
        return plain
    job = ExtendedJob(*msgspec.structs.astuple(plain))
    job.priority, job.not_before, job.attempts = rest.priority, rest.not_before, rest.attempts
    if rest.rounds is not None:
        job.inputs = tuple(InputRound(each[0], hash=each[3]) for each in rest.rounds)
    if rest.progress is not None:
        job.progress = Progress(*rest.progress)
    job.on_hold, job.stop_requested = rest.on_hold, rest.stop_requested
    job.meta, job.traceparent, job.settlement = rest.meta, rest.traceparent, rest.settlement
    return job


def _claimed(value: str) -> Claimed:
    return JobStatus(value) if value in _STATUSES else SettlementState(value)


_STATUSES: Final = frozenset(JobStatus)


def _slot_in(entry: Any) -> Slot:  # noqa: ANN401 - of any of the three forms
    slot: Slot = entry[1] if type(entry) is tuple else entry
    return slot


def _split(items: Iterable[Item], size: int = JOBS_A_CHUNK) -> Iterator[list[Item]]:
    remaining = iter(items)
    while some := list(islice(remaining, size)):
        yield some

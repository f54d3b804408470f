"""The whole state as chunks of bytes, and back: what a snapshot holds."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import islice
from typing import Final, TypeVar

import msgspec

from tollgate.broker.core.request_log import Session
from tollgate.broker.core.state import State
from tollgate.broker.repository.job import Slot, StoredJob, mock_identifier
from tollgate.domain.status import JobStatus

JOBS_A_CHUNK: Final = 500
Item = TypeVar("Item")


class Chunk(msgspec.Struct, tag_field="c", array_like=True, gc=False):
    """The base of all chunks."""


class JobRow(msgspec.Struct, array_like=True, gc=False):
    """A job with its place, and whether somebody held it; None for an identifier made of its id."""

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
    held: bool = False


class JobsChunk(Chunk, tag=1):
    """Jobs, by creation."""

    jobs: list[JobRow]


class OrderChunk(Chunk, tag=2):
    """The jobs of a status by their place in the order of creation, in order of entry."""

    status: JobStatus
    indexes: list[int]


class LeasesChunk(Chunk, tag=3):
    """Standing leases (job, token, milliseconds granted), and how often others have lapsed."""

    standing: list[tuple[str, int, int]]
    lapses: list[tuple[str, int]]


class SessionsChunk(Chunk, tag=4):
    """Sessions, least recently used first."""

    sessions: list[tuple[int, Session]]


class CountersChunk(Chunk, tag=5):
    """What must never be given twice."""

    next_index: int
    last_token: int
    last_session: int


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(
    JobsChunk | OrderChunk | LeasesChunk | SessionsChunk | CountersChunk
)


def image(state: State) -> Iterator[bytes]:
    """Yield the chunks of a state: the same bytes for the same state."""
    jobs, leases, ledger = state.jobs, state.leases, state.ledger
    yield _encoder.encode(
        CountersChunk(jobs.creation.next_index, leases.last_token, ledger.last_session)
    )
    named, held = jobs.named(), jobs.lanes.held
    for some in _split(jobs.slots()):
        yield _encoder.encode(JobsChunk([_row(slot, named, held) for slot in some]))
    for status, indexes in jobs.lanes.entered(jobs.slots()).items():
        yield _encoder.encode(OrderChunk(status, indexes))
    yield _encoder.encode(LeasesChunk(*leases.image()))
    for sessions in _split(ledger.sessions()):
        yield _encoder.encode(SessionsChunk(sessions))


def restore(state: State, payload: bytes) -> None:
    """Put a chunk back, in the order in which `image` gave them.

    Raises msgspec.MsgspecError for what is no chunk.
    """
    chunk = _decoder.decode(payload)
    match chunk:
        case CountersChunk():
            state.jobs.creation.next_index = chunk.next_index
            state.leases.last_token = chunk.last_token
            state.ledger.last_session = chunk.last_session
        case JobsChunk():
            rows = chunk.jobs
            state.restore_jobs(
                [(row.index, _job(row)) for row in rows],
                [row.job_id for row in rows if row.held],
                [row.job_id for row in rows if row.blockchain_identifier is not None],
            )
        case OrderChunk():
            state.jobs.restore_entered(chunk.status, chunk.indexes)
        case LeasesChunk():
            state.leases.restore(chunk.standing, chunk.lapses)
        case SessionsChunk():
            for number, session in chunk.sessions:
                state.ledger.restore(number, session)


def _row(slot: Slot, named: frozenset[str], held: set[str]) -> JobRow:
    index, job = slot
    return JobRow(
        job.job_id, job.status, job.input_hash,
        job.blockchain_identifier if job.job_id in named else None,
        job.created_at, job.updated_at, job.result, job.error, job.version,
        job.input, job.identifier_from_purchaser, job.pay_by_time, job.submit_result_time,
        job.input_schema, job.provided_input, index, job.job_id in held,
    )  # fmt: skip


def _job(row: JobRow) -> StoredJob:
    return StoredJob(
        row.job_id, row.status, row.input_hash,
        row.blockchain_identifier or mock_identifier(row.job_id),
        row.created_at, row.updated_at, row.result, row.error, row.version,
        row.input, row.identifier_from_purchaser, row.pay_by_time, row.submit_result_time,
        row.input_schema, row.provided_input,
    )  # fmt: skip


def _split(items: Iterable[Item]) -> Iterator[list[Item]]:
    remaining = iter(items)
    while some := list(islice(remaining, JOBS_A_CHUNK)):
        yield some

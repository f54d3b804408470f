"""The whole state as chunks of bytes, and back: the contents of a snapshot."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import islice
from typing import Final, TypeVar

import msgspec

from tollgate.broker.core.request_log import SessionLog
from tollgate.broker.core.state import State
from tollgate.broker.repository.job import Slot, StoredJob, mock_identifier
from tollgate.domain.status import JobStatus

JOBS_A_CHUNK: Final = 500
Item = TypeVar("Item")


class Chunk(msgspec.Struct, tag_field="c", array_like=True, gc=False):
    """The base of all chunks."""


class JobRow(msgspec.Struct, array_like=True, gc=False):
    """A job with its place, and whether it was leased.

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


class JobsChunk(Chunk, tag=1):
    """Jobs in order of creation."""

    jobs: list[JobRow]


class OrderChunk(Chunk, tag=2):
    """The places of the jobs of a status, in the order in which they entered it."""

    status: JobStatus
    indexes: list[int]


class LeasesChunk(Chunk, tag=3):
    """Standing leases (job, token, milliseconds granted), and how often others have lapsed."""

    standing: list[tuple[str, int, int]]
    lapses: list[tuple[str, int]]


class SessionsChunk(Chunk, tag=4):
    """Sessions, least recently used first."""

    sessions: list[tuple[int, SessionLog]]


class CountersChunk(Chunk, tag=5):
    """The numbers that are never given twice."""

    next_index: int
    last_token: int
    last_session: int


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(
    JobsChunk | OrderChunk | LeasesChunk | SessionsChunk | CountersChunk
)


def snapshot_chunks(state: State) -> Iterator[bytes]:
    """Yield the chunks of a state: the same bytes for the same state."""
    jobs, leases, requests = state.jobs, state.leases, state.requests
    yield _encoder.encode(
        CountersChunk(jobs.creation.next_index, leases.last_token, requests.last_session)
    )
    named, leased = jobs.named(), jobs.statuses.leased
    for some in _split(jobs.slots()):
        yield _encoder.encode(JobsChunk([_row(slot, named, leased) for slot in some]))
    for status, indexes in jobs.statuses.entered(jobs.slots()).items():
        yield _encoder.encode(OrderChunk(status, indexes))
    yield _encoder.encode(LeasesChunk(*leases.snapshot()))
    for sessions in _split(requests.sessions()):
        yield _encoder.encode(SessionsChunk(sessions))


def restore(state: State, payload: bytes) -> None:
    """Add a chunk to the state, in the order in which `snapshot_chunks` yielded them.

    Raises msgspec.MsgspecError for bytes that are not a chunk.
    """
    chunk = _decoder.decode(payload)
    match chunk:
        case CountersChunk():
            state.jobs.creation.next_index = chunk.next_index
            state.leases.last_token = chunk.last_token
            state.requests.last_session = chunk.last_session
        case JobsChunk():
            rows = chunk.jobs
            state.restore_jobs(
                [(row.index, _job(row)) for row in rows],
                [row.job_id for row in rows if row.leased],
                [row.job_id for row in rows if row.blockchain_identifier is not None],
            )
        case OrderChunk():
            state.jobs.restore_entered(chunk.status, chunk.indexes)
        case LeasesChunk():
            state.leases.restore(chunk.standing, chunk.lapses)
        case SessionsChunk():
            for number, session in chunk.sessions:
                state.requests.restore(number, session)


def _row(slot: Slot, named: frozenset[str], leased: set[str]) -> JobRow:
    index, job = slot
    return JobRow(
        job.job_id, job.status, job.input_hash,
        job.blockchain_identifier if job.job_id in named else None,
        job.created_at, job.updated_at, job.result, job.error, job.version,
        job.input, job.identifier_from_purchaser, job.pay_by_time, job.submit_result_time,
        job.input_schema, job.provided_input, index, job.job_id in leased,
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

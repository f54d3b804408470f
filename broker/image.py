"""The whole state as chunks of bytes, and back: what a snapshot holds."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final, TypeVar

import msgspec

from broker.ledger import Session
from broker.repository import StoredJob
from broker.state import State
from domain.status import JobStatus

JOBS_A_CHUNK: Final = 500
Item = TypeVar("Item")


class Chunk(msgspec.Struct, tag_field="c", array_like=True, gc=False):
    """The base of all chunks."""


class JobsChunk(Chunk, tag=1):
    """Jobs, by creation."""

    jobs: list[StoredJob]


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
    jobs, entered = state.jobs.image()
    next_index = state.jobs.next_index
    standing, lapses = state.leases.image()
    yield _encoder.encode(
        CountersChunk(next_index, state.leases.last_token, state.ledger.last_session)
    )
    for some in _split(jobs):
        yield _encoder.encode(JobsChunk(some))
    for status, indexes in entered.items():
        yield _encoder.encode(OrderChunk(status, indexes))
    yield _encoder.encode(LeasesChunk(standing, lapses))
    for sessions in _split(list(state.ledger.sessions())):
        yield _encoder.encode(SessionsChunk(sessions))


def restore(state: State, payload: bytes) -> None:
    """Put a chunk back, in the order in which `image` gave them.

    Raises msgspec.MsgspecError for what is no chunk.
    """
    chunk = _decoder.decode(payload)
    match chunk:
        case CountersChunk():
            state.jobs.restore([], chunk.next_index)
            state.leases.last_token = chunk.last_token
            state.ledger.last_session = chunk.last_session
        case JobsChunk():
            state.restore_jobs(chunk.jobs)
        case OrderChunk():
            state.jobs.restore_entered(chunk.status, chunk.indexes)
        case LeasesChunk():
            state.leases.restore(chunk.standing, chunk.lapses)
        case SessionsChunk():
            for number, session in chunk.sessions:
                state.ledger.restore(number, session)


def _split(items: Sequence[Item]) -> Iterator[list[Item]]:
    remaining = iter(items)
    while some := list(islice(remaining, JOBS_A_CHUNK)):
        yield some

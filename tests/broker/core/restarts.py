"""Stops a core and starts another one from its records, with or without a snapshot between."""

from collections.abc import Iterable, Iterator
from itertools import count

from tests.core import Driver, job_id, pipeline_of
from tollgate.broker.core.engine import Engine
from tollgate.broker.core.records import Record, encode_records
from tollgate.broker.core.replay import replay
from tollgate.broker.core.snapshot import snapshot_chunks
from tollgate.broker.core.state import State
from tollgate.broker.journal import RECORD, SNAPSHOT_CHUNK, Entry


def entries(records: Iterable[Record], first: int = 1) -> Iterator[Entry]:
    """Yield the records as a journal reads them."""
    for sequence, payload in enumerate(encode_records(list(records)), first):
        yield Entry(sequence, RECORD, payload)


def replayed(records: list[Record], middle: int | None = None) -> State:
    """Return what the records make; `middle` of them by way of a snapshot."""
    state = State()
    if middle is None:
        replay(entries(records), state)
        return state
    first = replayed(records[:middle])
    chunks = [Entry(middle, SNAPSHOT_CHUNK, chunk) for chunk in snapshot_chunks(first)]
    replay([*chunks, *entries(records[middle:], middle + 1)], state)
    return state


def live_state(driver: Driver) -> State:
    state: State = driver.engine.context.state
    return state


def live_chunks(driver: Driver) -> list[bytes]:
    """Return the snapshot of a running core as it was at its last record."""
    state = live_state(driver)
    last = driver.records[-1].at if driver.records else None
    at, state.at = state.at, last or state.at
    chunks = list(snapshot_chunks(state))
    state.at = at
    return chunks


def replayed_chunks(records: list[Record], middle: int | None = None) -> list[bytes]:
    return list(snapshot_chunks(replayed(records, middle)))


def restart(driver: Driver, middle: int | None = None) -> None:
    """Go on with a new core that knows what the records say; its ids are other ones."""
    state = replayed(driver.records, middle)
    state.leases.restart(driver.mono_ms)
    ids = count(10_000 + 100 * len(driver.records))
    engine = Engine(
        driver.engine.context.limits,
        new_id=lambda: job_id(next(ids)),
        server="tollgate test",
        boot_id="boot",
        state=state,
    )
    driver.pipeline = pipeline_of(engine)
    driver.pipeline.deadlines.start(driver.now)

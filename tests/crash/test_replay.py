"""Replay restores the state from the journal: from all records, and from any prefix."""

from collections.abc import Iterable, Iterator
from datetime import datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.core import ADMIN, EPOCH, HASH, job_id
from tests.crash.steps import Bench, Step, first_steps, step_lists
from tests.sizes import sample
from tollgate.broker.compaction import state_chunks
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
    QueueResumed,
    SessionEvicted,
    SessionOpened,
    StopRequested,
)
from tollgate.broker.core.records import DoneOutcome, Record, encode_records
from tollgate.broker.core.replay import ReplayError, replay
from tollgate.broker.core.snapshot import snapshot_chunks
from tollgate.broker.core.state import State
from tollgate.broker.core.timers import Timers
from tollgate.broker.journal import RECORD, SNAPSHOT_CHUNK, Entry
from tollgate.broker.repository.job import Slot
from tollgate.domain.settlement import SettlementState
from tollgate.domain.status import JobStatus

WAITING, RUNNING, DONE = job_id(1), job_id(2), job_id(3)
SESSION = 7

many = settings(
    max_examples=sample(100, 300),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
)


def entries(records: Iterable[Record], first: int = 1) -> Iterator[Entry]:
    """Yield the records as a journal reads them."""
    for sequence, payload in enumerate(encode_records(list(records)), first):
        yield Entry(sequence, RECORD, payload)


def replayed(records: Iterable[Record]) -> State:
    state = State()
    replay(entries(records), state)
    return state


def deadlines(state: State) -> list[list[tuple[datetime | None, str]]]:
    """Return the deadlines of jobs that are not finished."""
    unpaid = [(slot.job.pay_by_time, slot.job.job_id) for slot in live(state.unpaid)]
    unfinished = [(slot.job.submit_result_time, slot.job.job_id) for slot in live(state.unfinished)]
    return [unpaid, unfinished]


def live(timers: Timers[datetime, Slot]) -> list[Slot]:
    """Return the jobs that would come up, and leave them where they are."""
    heap = sorted([*timers._heap, *timers._checked_heap], key=lambda entry: entry[:2])
    items = [*timers._checked, *timers._queue, *(job for _, _, job in heap)]
    return sorted(filter(timers._is_live, items), key=timers._when)


def updated(state: State) -> dict[str, tuple[int, datetime, JobStatus]]:
    slots = state.jobs.slots()
    return {slot.job.job_id: (slot.index, slot.job.updated_at, slot.job.status) for slot in slots}


@many
@given(first_steps)
def test_a_prefix_of_the_records_restores_its_state(steps: list[Step]) -> None:
    bench, copy, done = Bench(), State(), 0
    for step in steps:
        before = updated(bench.state)
        bench.take(step)
        records = bench.driver.records
        replay(entries(records[done:], done + 1), copy)
        done = len(records)
        assert list(snapshot_chunks(copy)) == bench.snapshot_chunks()
        assert deadlines(copy) == deadlines(bench.state)
        assert copy.requests.outcomes == bench.state.requests.outcomes
        for name, (index, at, status) in updated(bench.state).items():
            index_before, at_before, status_before = before.get(name, (index, at, status))
            if index == index_before:  # and is not another job with the same id
                assert at >= at_before
                assert status is status_before or status_before not in (
                    JobStatus.COMPLETED,
                    JobStatus.FAILED,
                )


@many
@given(first_steps, step_lists)
def test_a_restored_snapshot_behaves_like_the_original(first: list[Step], then: list[Step]) -> None:
    bench = Bench()
    for step in first:
        bench.take(step)
    restored, state = State(), replayed(bench.driver.records)
    last = len(bench.driver.records)
    chunks = (Entry(last, SNAPSHOT_CHUNK, chunk) for chunk in bench.snapshot_chunks())
    replay(chunks, restored)
    assert list(snapshot_chunks(restored)) == bench.snapshot_chunks()
    assert deadlines(restored) == deadlines(bench.state)
    assert restored.requests.outcomes == bench.state.requests.outcomes
    twins = []
    for each in (state, restored):
        each.leases.restart(bench.driver.mono_ms)
        twin = Bench(each, first_id=50_000)
        twin.follow(bench)
        for step in then:
            twin.take(step)
        twins.append(twin)
    assert twins[0].frames == twins[1].frames
    assert encode_records(twins[0].driver.records) == encode_records(twins[1].driver.records)
    assert twins[0].snapshot_chunks() == twins[1].snapshot_chunks()


@many
@given(first_steps, st.floats(0, 1))
def test_a_snapshot_and_the_later_records_make_the_whole(steps: list[Step], share: float) -> None:
    bench = Bench()
    for step in steps:
        bench.take(step)
    records = bench.driver.records
    part = round(share * len(records))
    state = State()
    chunks = [Entry(part, SNAPSHOT_CHUNK, chunk) for chunk in state_chunks(entries(records[:part]))]
    replay([*chunks, *entries(records[part:], part + 1)], state)
    assert list(snapshot_chunks(state)) == bench.snapshot_chunks()
    assert deadlines(state) == deadlines(bench.state)


DIGEST = bytes(16)
BEFORE = [
    Record([SessionOpened(SESSION, ADMIN.name)]),
    Record([JobCreated(WAITING, EPOCH, HASH, blockchain_identifier="paid")]),
    Record([JobCreated(RUNNING, EPOCH, HASH), JobCreated(DONE, EPOCH, HASH)]),
    Record([JobTransitioned(RUNNING, 1, JobStatus.RUNNING, EPOCH), LeaseGranted(RUNNING, 5, 10)]),
    Record([JobTransitioned(DONE, 1, JobStatus.FAILED, EPOCH)], SESSION, 1, 0, DIGEST, [0]),
]


@pytest.mark.parametrize(
    "event",
    [
        JobCreated(WAITING, EPOCH, HASH),
        JobCreated(job_id(4), EPOCH, HASH, blockchain_identifier="paid"),
        JobTransitioned(WAITING, 2, JobStatus.RUNNING, EPOCH),
        JobTransitioned(WAITING, 1, JobStatus.COMPLETED, EPOCH),
        JobTransitioned(DONE, 2, JobStatus.RUNNING, EPOCH),
        JobTransitioned(job_id(4), 1, JobStatus.RUNNING, EPOCH),
        LeaseGranted(RUNNING, 6, 10),
        LeaseGranted(WAITING, 5, 10),
        LeaseGranted(DONE, 6, 10),
        LeaseGranted(job_id(4), 6, 10),
        LeaseReleased(RUNNING, 4),
        LeaseReleased(WAITING, 5),
        LeaseReleased(job_id(4), 5),
        LeaseLapsed(RUNNING, 4),
        LeaseLapsed(WAITING, 5),
        LeaseLapsed(job_id(4), 5),
        SessionOpened(SESSION, ADMIN.name),
        SessionOpened(SESSION - 1, ADMIN.name),
        SessionEvicted(SESSION + 1),
        JobPruned(RUNNING),
        JobPruned(job_id(4)),
        JobHeld(DONE),
        JobHeld(job_id(4)),
        JobResumed(RUNNING),
        StopRequested(DONE),
        JobAnnotated(job_id(4), "new"),
        JobProgressed(job_id(4), "half"),
        JobSettled(RUNNING, SettlementState.WANTED),
        JobSettled(job_id(4), None, None, "word"),
        QueueResumed("default"),
    ],
    ids=str,
)
def test_an_event_that_contradicts_those_before_it_is_refused(event: AnyEvent) -> None:
    with pytest.raises(ReplayError, match="entry 6 of the journal cannot be applied"):
        replayed([*BEFORE, Record([event])])


@pytest.mark.parametrize(
    "record",
    [
        Record([], SESSION + 1, 1, 0, DIGEST, [DoneOutcome()]),
        Record([], SESSION, 1, 0, DIGEST, [DoneOutcome()]),
        Record([], SESSION, 2, 0, DIGEST, [0]),
        Record([LeaseReleased(RUNNING, 5)], SESSION, 2, 0, DIGEST, [0]),
    ],
    ids=["unknown session", "a request twice", "no such event", "an event that moves no job"],
)
def test_a_request_that_contradicts_those_before_it_is_refused(record: Record) -> None:
    with pytest.raises(ReplayError, match="entry 6 of the journal cannot be applied"):
        replayed([*BEFORE, record])


def test_a_naive_time_is_refused() -> None:
    event = JobTransitioned(WAITING, 1, JobStatus.RUNNING, EPOCH.replace(tzinfo=None))
    with pytest.raises(ReplayError):
        replayed([*BEFORE, Record([event])])

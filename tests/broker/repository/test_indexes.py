"""The order of creation in blocks, finished jobs by their end, and the bytes of all texts."""

from random import Random

import pytest

from tests.broker.repository.slots import SECOND, places, slot, slots
from tests.core import EPOCH, HASH, job_id, job_ids
from tollgate.broker.core.events import JobCreated, NewRest
from tollgate.broker.repository import indexes
from tollgate.broker.repository.indexes import BLOCK, CreationIndex, FinishedJobs
from tollgate.broker.repository.job import Slot, job_text_bytes, parts_bytes, rounds_bytes
from tollgate.broker.repository.job_repo import InMemoryJobRepository
from tollgate.domain.results import Progress, Settlement
from tollgate.domain.settlement import SettlementState
from tollgate.domain.status import AWAITING_INPUT, COMPLETED, FAILED, RUNNING

# --- the order of creation ----------------------------------------------------------------------


def removed(index: CreationIndex, job: Slot) -> None:
    job.job.version = 0
    index.remove(job)


def test_jobs_come_in_order_from_any_place_on() -> None:
    index, some = CreationIndex(), slots(3 * BLOCK)
    index.add(some[:1])
    index.add(some[1:])
    assert [len(block) for block in index._blocks] == [BLOCK] * 3
    for place in (-1, 0, 1, BLOCK - 2, BLOCK - 1, BLOCK, 3 * BLOCK - 1, 10**9):
        assert places(index.after(place)) == [*range(place + 1, 3 * BLOCK)]
        assert places(index.before(place)) == [*range(min(place, 3 * BLOCK))][::-1]
    assert places(index.before(None)) == [*range(3 * BLOCK)][::-1]
    assert places(CreationIndex().after(-1)) == places(CreationIndex().before(None)) == []


def test_places_of_other_queues_are_missing_in_between() -> None:
    index, some = CreationIndex(), slots(4_000)[::3]
    index.add(some)
    for place in (0, 1, 2, 3, 3_070, 3_071, 3_072, 3_999):
        assert places(index.after(place)) == [*range(0, 4_000, 3)][place // 3 + 1 :]
        assert (
            places(index.before(place))
            == [each for each in range(0, 4_000, 3) if each < place][::-1]
        )


@pytest.mark.parametrize("seed", range(5))
def test_removed_jobs_leave_at_most_as_many_entries(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexes, "BLOCK", 16)
    random = Random(seed)
    index, stored = CreationIndex(), dict[int, Slot]()
    for number in range(2_000):
        job = slot(number)
        index.add([job])
        stored[number] = job
        while stored and random.random() < 0.5:
            removed(index, stored.pop(random.choice([*stored])))
        entries = sum(map(len, index._blocks))
        assert entries <= 2 * len(stored) + 2 * len(index._blocks)
        assert len(index._blocks) <= len(stored)
    for place in (-1, 500, 1_000, 1_999):
        expected = [number for number in stored if number > place]
        assert [each.index for each in index.after(place) if each.job.version] == expected
        before = [number for number in stored if number < place]
        assert [each.index for each in index.before(place) if each.job.version] == before[::-1]


def test_a_removal_copies_one_block_at_most() -> None:
    index, some = CreationIndex(), slots(8 * BLOCK)
    index.add(some)
    others = [id(block) for block in index._blocks[1:]]
    for job in some[: BLOCK // 2 + 1]:
        removed(index, job)
    assert len(index._blocks[0]) == BLOCK // 2 - 1  # it was copied once, without the removed ones
    for job in some[BLOCK // 2 + 1 : BLOCK]:
        removed(index, job)
    assert [id(block) for block in index._blocks] == others


def test_jobs_come_after_all_jobs_of_a_queue_have_gone() -> None:
    index, some = CreationIndex(), slots(3)
    index.add(some[:2])
    for job in some[:2]:
        removed(index, job)
    assert (index._blocks, index._firsts, index._live) == ([], [], [])
    index.add(some[2:])
    assert places(index.after(-1)) == [2]


# --- finished jobs ------------------------------------------------------------------------------


def test_the_job_that_finished_first_is_the_oldest() -> None:
    finished = FinishedJobs()
    assert finished.oldest() is None
    some = slots(4, FAILED)
    for number in (2, 0, 3):
        some[number].job.updated_at = EPOCH + number * SECOND
        finished.add([some[number]])
    assert finished.oldest() == (EPOCH + 2 * SECOND, job_id(2))
    assert finished.order() == [2, 0, 3]
    some[0].job.version = 0  # not the oldest
    finished.remove()
    assert (finished.count, finished.order()) == (2, [2, 3])
    some[2].job.version = 0
    finished.remove()
    assert finished.oldest() == (EPOCH + 3 * SECOND, job_id(3))
    assert (finished.count, len(finished._slots)) == (1, 1)


def test_a_settled_job_finished_when_its_settlement_did() -> None:
    finished, job = FinishedJobs(), slot(1, COMPLETED)
    job.extend().settlement = Settlement(SettlementState.CONFIRMED, EPOCH + SECOND)
    finished.add([job])
    assert finished.oldest() == (EPOCH + SECOND, job_id(1))


# --- the bytes of all texts ---------------------------------------------------------------------


def counted(jobs: InMemoryJobRepository) -> int:
    """Return what the texts of all jobs have, added up anew."""
    size = 0
    for each in jobs.slots():
        size += job_text_bytes(each.job) + parts_bytes(each.job) + rounds_bytes(each.rounds)
        if not jobs.is_named(each.job):
            size -= len(each.job.blockchain_identifier)
    return size


def test_text_totals_are_those_of_the_stored_jobs() -> None:
    jobs = InMemoryJobRepository(new_id=job_ids(), clock=lambda: EPOCH)
    one = jobs.create(HASH, input="ä", identifier_from_purchaser="abc").job_id
    assert jobs.texts.total_bytes == counted(jobs) == 5
    jobs.update_status(one, RUNNING)
    for schema, text in (("schema", "given"), ("ß", "x"), ("", "")):
        before = counted(jobs)
        jobs.update_status(one, AWAITING_INPUT, input_schema=schema)
        assert jobs.texts.total_bytes == counted(jobs) > before - 9
        jobs.update_status(one, RUNNING, provided_input=text)
        assert jobs.texts.total_bytes == counted(jobs)
        rounds = rounds_bytes(jobs.require(one).rounds)
        assert jobs.texts.longest_rounds == rounds
    assert rounds == 14  # "schema", "given", "ß" and "x"
    jobs.update_status(one, FAILED, error="e" * 20)
    assert jobs.texts.total_bytes == counted(jobs)
    assert jobs.texts.longest_bytes == 20
    named = jobs.create(HASH, blockchain_identifier="pay").job_id
    assert jobs.texts.total_bytes == counted(jobs)
    copy = InMemoryJobRepository()
    copy.queues.level(None, 0)
    for each in jobs.slots():
        copy.restore(each, is_named=jobs.is_named(each.job))
    assert copy.texts.total_bytes == counted(copy) == jobs.texts.total_bytes
    assert copy.texts.longest_bytes >= jobs.texts.longest_bytes
    assert copy.texts.longest_rounds == 14
    jobs.remove(one)
    assert jobs.texts.total_bytes == counted(jobs) == 3
    jobs.update_status(named, FAILED)
    jobs.remove(named)
    assert jobs.texts.total_bytes == 0


def test_meta_progress_and_settlement_count_as_texts() -> None:
    jobs = InMemoryJobRepository(new_id=job_ids(), clock=lambda: EPOCH)
    rest = NewRest(meta="ä" * 5, traceparent="t" * 55, settle=True)
    (job,) = jobs.create_all([JobCreated(job_id(9), EPOCH, HASH, rest=rest)]).slots
    assert jobs.texts.total_bytes == counted(jobs) > 65
    jobs.texts.set_meta(job, "m")
    assert jobs.texts.total_bytes == counted(jobs)
    jobs.texts.set_meta(job, None)
    before = indexes.measured(job)
    job.extend().progress = Progress("half", 0.5)
    jobs.texts.changed_parts(job, before)
    assert jobs.texts.total_bytes == counted(jobs)
    for status in (RUNNING, COMPLETED):
        jobs.update_status(job.job.job_id, status)
    wanted = job.job.settlement
    assert wanted is not None
    assert wanted.state is SettlementState.WANTED
    confirmed = Settlement(SettlementState.MANUAL, EPOCH, None, "FundsLocked", "r" * 500)
    jobs.set_settlement(job, confirmed, EPOCH)
    assert jobs.texts.total_bytes == counted(jobs)
    assert jobs.texts.longest_parts == parts_bytes(job.job) > 500

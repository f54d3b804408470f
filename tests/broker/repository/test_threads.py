"""A hundred threads use one repository at once."""

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import pytest

from tests.core import EPOCH, HASH
from tollgate.broker.repository.job_repo import InMemoryJobRepository
from tollgate.broker.repository.listing import Wanted
from tollgate.domain.exceptions import (
    InvalidStateTransitionError,
    JobConflictError,
    VersionConflictError,
)
from tollgate.domain.status import (
    AWAITING_INPUT,
    AWAITING_PAYMENT,
    COMPLETED,
    FAILED,
    RUNNING,
    JobStatus,
)

THREADS = 100


@pytest.fixture
def crowd() -> Iterator[Callable[[Callable[[int], Any]], list[Any]]]:
    """Call a function in a hundred threads at once, and return each result."""
    patience_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so that threads meet in the middle of things
    with ThreadPoolExecutor(THREADS) as pool:

        def call(work: Callable[[int], Any]) -> list[Any]:
            gate = threading.Barrier(THREADS)

            def one(number: int) -> Any:
                gate.wait(timeout=30)
                return work(number)

            return [future.result() for future in [pool.submit(one, n) for n in range(THREADS)]]

        yield call
    sys.setswitchinterval(patience_s)


def test_a_hundred_threads_create_and_lose_no_job(crowd: Any) -> None:
    jobs = InMemoryJobRepository()
    made = crowd(lambda _: [jobs.create(HASH).job_id for _ in range(50)])
    ids = {job_id for some in made for job_id in some}
    assert len(ids) == jobs.count() == jobs.count(AWAITING_PAYMENT) == 50 * THREADS
    assert all(jobs.get(job_id).job_id == job_id for job_id in ids)
    seen = jobs.page(Wanted(), None, 10_000, 10_000).slots
    assert [slot.index for slot in seen] == [*range(50 * THREADS)]
    assert {slot.job.job_id for slot in seen} == ids


def test_of_a_hundred_racing_transitions_exactly_one_wins(crowd: Any) -> None:
    jobs = InMemoryJobRepository()
    for _ in range(20):
        job_id = jobs.create(HASH).job_id

        def start(number: int, job_id: str = job_id) -> str:
            try:
                return jobs.update_status(job_id, RUNNING, f"by {number}").result or ""
            except InvalidStateTransitionError:
                return ""

        winners = [result for result in crowd(start) if result]
        job = jobs.get(job_id)
        assert winners == [job.result]
        assert job.version == 2
    assert jobs.count(RUNNING) == jobs.count() == 20


def test_of_a_hundred_at_the_same_version_exactly_one_wins(crowd: Any) -> None:
    jobs = InMemoryJobRepository()
    job_id = jobs.create(HASH).job_id
    jobs.update_status(job_id, RUNNING)

    def step(number: int) -> bool:
        version = jobs.get(job_id).version
        target = AWAITING_INPUT if jobs.get(job_id).status is RUNNING else RUNNING
        try:
            jobs.update_status(job_id, target, expected_version=version)
        except (VersionConflictError, InvalidStateTransitionError):
            return False
        return True

    won = sum(sum(crowd(step)) for _ in range(5))
    assert jobs.get(job_id).version == 2 + won


def test_one_of_a_hundred_threads_gets_a_payment(crowd: Any) -> None:
    jobs = InMemoryJobRepository()

    def pay(number: int) -> str | None:
        try:
            return jobs.create(HASH, blockchain_identifier="pay").job_id
        except JobConflictError:
            return None

    winners = [job_id for job_id in crowd(pay) if job_id]
    slot = jobs.find_by_payment("pay")
    assert slot is not None
    assert winners == [slot.job.job_id]
    assert jobs.count() == 1


def test_a_hundred_threads_do_everything_at_once(crowd: Any) -> None:
    jobs = InMemoryJobRepository()

    def live(number: int) -> Counter[str]:
        done: Counter[str] = Counter()
        random = Random(number)
        for _ in range(20):
            job = jobs.create(HASH)
            assert jobs.get(job.job_id).version == 1
            jobs.update_status(job.job_id, RUNNING)
            target = random.choice([COMPLETED, FAILED, AWAITING_INPUT])
            assert jobs.update_status(job.job_id, target).version == 3
            done[target] += 1
            assert 0 <= jobs.count(target) <= jobs.count() <= 20 * THREADS
        return done

    total = sum(crowd(live), Counter[str]())
    assert {status.value: jobs.count(status) for status in JobStatus if jobs.count(status)} == total
    assert sum(total.values()) == jobs.count() == 20 * THREADS
    stored = jobs.page(Wanted(), None, 20 * THREADS, 20 * THREADS).slots
    assert Counter(slot.job.status.value for slot in stored) == total
    queue = jobs.queues.by_name["default"]
    entered = {
        each.value: len({*map(id, queue.entered(each).true_entries())}) for each in JobStatus
    }
    assert {status: number for status, number in entered.items() if number} == total
    asking = jobs.queues.take(AWAITING_INPUT, ["default"], 20 * THREADS, EPOCH)
    assert len({slot.index for slot in asking}) == len(asking) == total[AWAITING_INPUT]

"""What messages can cost where there are many queues: each shares the scan budget of its batch."""

from itertools import pairwise

from tests.core import HASH, Driver, job_of, leases_of
from tollgate.broker.core.list_commands import LIST_QUEUE_SCANS
from tollgate.broker.repository.listing import MERGE_COST, SCAN_JOBS_MAX
from tollgate.domain.commands import (
    AnyCommand,
    Claim,
    Count,
    Create,
    Hold,
    List,
    Resume,
    Transition,
)
from tollgate.domain.results import CountResult, ErrorResult, JobsResult, LeasesResult
from tollgate.domain.settlement import SettlementState
from tollgate.domain.status import JobStatus


def many_queues(queues: int, priorities: int) -> Driver:
    """Return a core with queues that have lines, and no job that can be claimed."""
    driver = Driver()
    for priority in range(priorities):
        names = [f"queue-{number}" for number in range(queues)]
        jobs = [job_of(each) for each in driver.ask(*[
            Create(input_hash=HASH, queue=name, priority=priority) for name in names
        ])]  # fmt: skip
        driver.ask(*[Transition(job_id=job.job_id, target=JobStatus.RUNNING) for job in jobs])
        driver.ask(Claim(status=JobStatus.RUNNING, lease_ms=9_999, wait_ms=0, limit=queues,
                         queues=["*"]))  # fmt: skip
    return driver


def test_a_page_of_many_queues_looks_at_fewer_jobs() -> None:
    driver = Driver()
    for _ in range(20):
        driver.ask(*[Create(input_hash=HASH, queue=f"queue-{each}") for each in range(500)])
    rare = List(settlement=SettlementState.PENDING, limit=1)
    (page, *others) = driver.ask(*[rare] * 3)
    assert isinstance(page, JobsResult)
    looked_at = (SCAN_JOBS_MAX - LIST_QUEUE_SCANS * 500) // MERGE_COST
    assert page.next == str(looked_at - 1)
    assert isinstance(others[0], JobsResult)  # of one job: one scan was left
    assert isinstance(others[1], ErrorResult)
    assert others[1].code == "reply_full"


def test_claims_of_many_queues_share_the_scan_budget() -> None:
    driver = many_queues(200, 5)
    wide = Claim(status=JobStatus.RUNNING, lease_ms=9, wait_ms=0, limit=1, queues=["*"])
    results = driver.ask(*[wide] * 1_000)
    granted = [result for result in results if isinstance(result, LeasesResult)]
    assert len(granted) == SCAN_JOBS_MAX // (200 * 5 + 200 // 4) + 1
    assert {each.code for each in results[len(granted) :] if isinstance(each, ErrorResult)} == {
        "reply_full"
    }
    assert driver.grants_of(wide) == []  # the next batch looks at as many as any


def test_claims_of_few_queues_cost_no_scans() -> None:
    driver = many_queues(3, 5)
    wide = Claim(status=JobStatus.RUNNING, lease_ms=9, wait_ms=0, limit=1, queues=["*"])
    assert len(leases_of(driver.ask(*[wide] * 1_000)[-1])) == 0
    assert driver.engine.context.scans_left == SCAN_JOBS_MAX


def test_parked_claims_of_many_queues_leave_scans_for_messages() -> None:
    driver = many_queues(200, 5)
    for number in range(50):
        driver.post(Claim(status=JobStatus.RUNNING, lease_ms=9, wait_ms=9_999, limit=1,
                          queues=["*"]), peer=bytes([number]))  # fmt: skip
    jobs = [job_of(each).job_id for each in driver.ask(*[
        Create(input_hash=HASH, queue="queue-199", priority=9)
    ] * 50)]  # fmt: skip
    driver.inbox.clear()
    driver.ask(*[Transition(job_id=each, target=JobStatus.RUNNING) for each in jobs])
    parked = driver.engine.context.waiters.parked
    left = [len(parked)]
    while driver.pipeline.is_behind():
        driver.ask(Count())  # it is answered in each batch
        left.append(len(parked))
    assert left[-1] == 0
    assert max(before - after for before, after in pairwise(left)) <= 10


def test_counts_after_changes_share_the_scan_budget() -> None:
    driver = many_queues(100, 1)
    job = driver.job(Create(input_hash=HASH)).job_id
    pairs: list[AnyCommand] = [
        Hold(job_id=job),
        Count(),
        Resume(job_id=job),
        Count(queue="default"),
    ] * 50
    results = driver.ask(*pairs)
    counted = [each for each in results if isinstance(each, CountResult)]
    assert 10 < len(counted) < 100
    assert isinstance(results[-1], ErrorResult)
    assert results[-1].code == "reply_full"


def test_counts_of_made_up_queues_are_not_kept() -> None:
    driver = Driver()
    driver.job(Create(input_hash=HASH))
    driver.ask(*[Count(queue=f"queue-{number}") for number in range(100)], Count(queue="default"))
    assert len(driver.engine.context.counted) == 1

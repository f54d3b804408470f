"""The order in which claims get jobs: lines, queues, priorities, delays, holds and pauses."""

from typing import Any

import pytest

from tests.broker.core.restarts import live_chunks, replayed_chunks, restart
from tests.core import (
    AWAITING_INPUT,
    COMPLETED,
    FAILED,
    HOUR,
    OTHER,
    RUNNING,
    Driver,
    create,
    leases_of,
    move,
    running,
)
from tollgate.domain.commands import (
    Claim,
    Hold,
    PauseQueue,
    ProvideInput,
    Release,
    Resume,
    ResumeQueue,
    Settle,
)
from tollgate.domain.settlement import SettlementState


def take(limit: int = 1, **fields: Any) -> Claim:
    fields = {"status": RUNNING, "queues": ["*"], "lease_ms": 1_000, "wait_ms": 0, **fields}
    return Claim(limit=limit, **fields)


def taken(driver: Driver, *claims: Claim) -> list[str]:
    """Return the jobs that claims get, one after the other."""
    return [grant.job.job_id for claim in claims for grant in driver.grants_of(claim)]


def ready(driver: Driver, number: int, **fields: Any) -> list[str]:
    return [running(driver, **fields).job_id for _ in range(number)]


def release(driver: Driver, job: str, lease: int, **fields: Any) -> None:
    driver.ask(Release(job_id=job, lease=lease, **fields))


def test_jobs_come_in_order_of_priority_and_then_of_entry() -> None:
    driver = Driver()
    late, first, middle, second = (running(driver, priority=n).job_id for n in (9, 0, 1, 0))
    assert taken(driver, take(4)) == [first, second, middle, late]


@pytest.mark.parametrize("way", ["release", "lapse", "resume"])
def test_a_job_that_is_freed_goes_to_the_end(way: str) -> None:
    driver = Driver()
    first, second = ready(driver, 2)
    if way == "resume":
        driver.ask(Hold(job_id=first), Resume(job_id=first))
    else:
        assert taken(driver, take(lease_ms=10)) == [first]
        if way == "release":
            release(driver, first, 1)
        else:
            driver.pass_ms(10)
    assert taken(driver, take(2)) == [second, first]


def test_a_paused_queue_grants_nothing_and_keeps_its_order() -> None:
    driver = Driver()
    jobs = ready(driver, 3)
    driver.ask(PauseQueue(queue="default"))
    assert taken(driver, take(), take(queues=["default"])) == []
    assert taken(driver, take(queues=None, job_ids=[jobs[0]])) == []
    parked = driver.post(take(3, wait_ms=1_000), peer=OTHER)
    driver.ask(ResumeQueue(queue="default"))
    grants = leases_of(driver.result_of(parked, OTHER))
    assert [grant.job.job_id for grant in grants] == jobs


def test_due_jobs_join_by_time_before_what_joins_then() -> None:
    driver = Driver()
    at = driver.wall + driver.wall.resolution * 500_000
    late, early, now = ready(driver, 3)
    for job, delay_ms in ((late, 500), (early, 400)):
        (grant,) = driver.grants_of(take(queues=None, job_ids=[job]))
        release(driver, job, grant.lease, delay_ms=delay_ms)
    planned = running(driver, not_before=at).job_id
    (grant,) = driver.grants_of(take())
    driver.pass_ms(500)
    release(driver, now, grant.lease)
    assert taken(driver, take(4)) == [early, late, planned, now]


def test_a_delayed_job_is_granted_once() -> None:
    driver = Driver()
    (job,) = ready(driver, 1)
    (grant,) = driver.grants_of(take())
    release(driver, job, grant.lease, delay_ms=500)
    driver.ask(move(job, AWAITING_INPUT))  # and back, with the same time
    driver.ask(ProvideInput(job_id=job, input="x", expected_version=3))
    driver.pass_ms(500)
    assert taken(driver, take(9), take(9)) == [job]


def test_a_delayed_job_on_hold_is_not_claimed_when_due() -> None:
    driver = Driver()
    (job,) = ready(driver, 1, not_before=driver.wall + HOUR)
    driver.ask(Hold(job_id=job))
    driver.pass_ms(3_600_000)
    assert taken(driver, take()) == []
    driver.ask(Resume(job_id=job))
    assert taken(driver, take()) == [job]


def test_queues_are_taken_from_in_the_order_named() -> None:
    driver = Driver()
    (a,), (b,) = ready(driver, 1, queue="a"), ready(driver, 1, queue="b", priority=0)
    assert taken(driver, take(2, queues=["b", "nothing", "a"])) == [b, a]


def test_star_takes_the_queue_served_longest_ago() -> None:
    driver = Driver()
    a, b, c = (ready(driver, 3, queue=name) for name in "abc")
    assert taken(driver, take(), take(), take()) == [a[0], b[0], c[0]]
    assert taken(driver, take(queues=["a"])) == [a[1]]
    assert taken(driver, take(2), take(3)) == [b[1], b[2], c[1], c[2], a[2]]


def test_star_is_fair_for_each_status() -> None:
    driver = Driver()
    paid = [running(driver, queue=name).job_id for name in ("a", "b")]
    unpaid = [driver.job(create(queue=name)).job_id for name in ("a", "b")]
    assert taken(driver, take()) == paid[:1]
    assert taken(driver, take(status="awaiting_payment")) == unpaid[:1]


def test_the_order_of_queues_is_the_same_after_a_replay() -> None:
    driver = Driver()
    a, b = ready(driver, 3, queue="a"), ready(driver, 2, queue="b")
    named = take(2, queues=None, job_ids=[a[0], b[0]])
    driver.ask(named, take(queues=["a"]))  # the grants of both are in one record
    assert replayed_chunks(driver.records) == live_chunks(driver)
    restart(driver)
    assert taken(driver, take(), take()) == [b[1], a[2]]


def test_jobs_finish_in_the_same_order_in_a_replay() -> None:
    driver = Driver()
    driver.ask(create(settle=True), create())
    driver.pass_ms(90_000_000)  # both fail, in one record
    assert replayed_chunks(driver.records) == live_chunks(driver)


def test_a_ready_job_goes_to_the_claim_parked_longest() -> None:
    driver = Driver()
    waits = [("b",), ("a", "b"), ("*",), ("a",)]
    seqs = [driver.post(take(queues=list(each), wait_ms=9_000), peer=OTHER) for each in waits]
    got = []
    for queue in "aaba":
        ready(driver, 1, queue=queue)
        got.append([bool(driver.answer_to(seq, OTHER)) for seq in seqs])
    assert got == [
        [False, True, False, False],
        [False, True, True, False],
        [True, True, True, False],
        [True, True, True, True],
    ]


def test_of_claims_for_queues_the_first_parked_is_served() -> None:
    driver = Driver()
    jobs = [driver.job(create(queue=queue)) for queue in "ba"]
    seqs = [driver.post(take(queues=[queue], wait_ms=9_000), peer=OTHER) for queue in "ab"]
    driver.ask(*[move(job, RUNNING) for job in jobs])  # the queue of the second claim comes first
    assert [leases_of(driver.result_of(seq, OTHER))[0].lease for seq in seqs] == [1, 2]


def test_a_settlement_waits_in_lines_of_its_own() -> None:
    driver = Driver()
    jobs = ready(driver, 2, settle=True)
    driver.ask(*[move(job, COMPLETED) for job in reversed(jobs)])
    claim = take(status=None, settlement=SettlementState.WANTED)
    (grant,) = driver.grants_of(claim)
    assert grant.job.job_id == jobs[1]
    driver.ask(Settle(job_id=jobs[1], lease=grant.lease, retry_after_ms=100))
    driver.pass_ms(100)
    assert taken(driver, claim, claim, claim) == jobs


def test_a_retry_without_the_token_leaves_the_lease() -> None:
    driver = Driver()
    (job,) = ready(driver, 1, settle=True)
    driver.ask(move(job, COMPLETED))
    claim = take(status=None, settlement=SettlementState.WANTED)
    (grant,) = driver.grants_of(claim)
    driver.ask(Settle(job_id=job, retry_after_ms=0))
    assert taken(driver, claim) == []
    release(driver, job, grant.lease)
    assert taken(driver, claim) == [job]


def test_a_settlement_that_moves_waits_for_its_time() -> None:
    driver = Driver()
    (job,) = ready(driver, 1, settle=True)
    driver.ask(move(job, COMPLETED))
    driver.ask(Settle(job_id=job, to=SettlementState.SUBMITTED, retry_after_ms=100))
    claim = take(status=None, settlement=SettlementState.SUBMITTED)
    assert taken(driver, claim) == []
    driver.pass_ms(100)
    assert taken(driver, claim) == [job]


def test_a_job_on_hold_is_not_claimed_for_its_settlement() -> None:
    driver = Driver()
    (job,) = ready(driver, 1, settle=True)
    driver.ask(move(job, COMPLETED), Hold(job_id=job))
    claim = take(status=None, settlement=SettlementState.WANTED)
    assert taken(driver, claim) == []
    driver.ask(Resume(job_id=job))
    assert taken(driver, claim) == [job]


def test_a_failed_job_has_nothing_to_settle() -> None:
    driver = Driver()
    job = driver.job(move(running(driver, settle=True), FAILED))
    assert job.settlement is not None
    assert job.settlement.state is SettlementState.CLOSED
    assert taken(driver, take(status=None, settlement=SettlementState.WANTED)) == []


def test_a_job_that_is_refused_brings_no_queue_to_life() -> None:
    driver = Driver()
    driver.ask(create(blockchain_identifier="p"))
    refused = create(blockchain_identifier="p", queue="a")
    driver.ask(refused, create(queue="b"), create(queue="a"))  # decided in one run
    assert replayed_chunks(driver.records) == live_chunks(driver)
    jobs = [grant.job.queue for grant in driver.grants_of(take(9, status="awaiting_payment"))]
    assert jobs == ["default", "b", "a"]

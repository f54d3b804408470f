"""Claims, leases, and what happens to a lease that lapses or cannot be delivered."""

from datetime import timedelta

import pytest

from tests.core import (
    AWAITING_INPUT,
    AWAITING_PAYMENT,
    COMPLETED,
    DAY_MS,
    EPOCH,
    FAILED,
    HOUR,
    RUNNING,
    Driver,
    at,
    claim,
    create,
    leases_of,
    move,
    running,
    status_of,
)
from tollgate.domain.commands import (
    Cancel,
    Claim,
    Get,
    Hold,
    ProvideInput,
    Release,
    Resume,
    Touch,
)
from tollgate.domain.models import JobStatus
from tollgate.domain.results import (
    LeaseResult,
    OkResult,
)


def test_claim_touch_release() -> None:
    driver = Driver()
    ids = [running(driver).job_id for _ in range(3)]
    grants = driver.grants_of(claim(limit=2))
    assert [(grant.job.job_id, grant.lease) for grant in grants] == [(ids[0], 1), (ids[1], 2)]
    assert [grant.job.job_id for grant in driver.grants_of(claim(limit=9))] == [ids[2]]
    assert driver.grants_of(claim()) == []
    driver.pass_ms(900)
    (touched,) = driver.ask(Touch(job_id=ids[0], lease=1, lease_ms=1_000))
    assert touched == LeaseResult(ids[0], 1, 1_000)
    assert driver.ask(Release(job_id=ids[1], lease=2)) == [OkResult()]
    assert [grant.lease for grant in driver.grants_of(claim())] == [4]
    driver.pass_ms(100)  # the third one lapses, the touched one does not
    assert [grant.job.job_id for grant in driver.grants_of(claim())] == [ids[2]]
    driver.pass_ms(899)
    assert driver.grants_of(claim(limit=9)) == []
    driver.pass_ms(1)
    assert [grant.job.job_id for grant in driver.grants_of(claim(limit=9))] == ids[:2]


def test_claims_of_unpaid_and_running_jobs_are_apart() -> None:
    driver = Driver()
    unpaid = driver.job(create())
    assert driver.grants_of(claim(RUNNING)) == []
    (grant,) = driver.grants_of(claim(AWAITING_PAYMENT))
    job = driver.job(move(unpaid, RUNNING, lease=grant.lease))
    assert job.status is RUNNING
    (again,) = driver.grants_of(claim(RUNNING))  # the transition has ended the lease
    assert again.lease > grant.lease


def test_a_standing_lease_guards_its_job() -> None:
    driver = Driver()
    job = running(driver)
    (grant,) = driver.grants_of(claim())
    held = driver.error(move(job, COMPLETED))
    assert (held.code, held.status, held.version) == ("lease_held", "running", 2)
    for wrong in (0, grant.lease + 1):
        lost = driver.error(move(job, COMPLETED, lease=wrong))
        assert (lost.code, lost.status, lost.version) == ("lease_lost", "running", 2)
    done = driver.job(move(job, COMPLETED, lease=grant.lease))
    assert done.version == 3
    for command in (
        move(job, FAILED, lease=grant.lease),
        Touch(job_id=job.job_id, lease=grant.lease, lease_ms=1),
        Release(job_id=job.job_id, lease=grant.lease),
    ):
        assert driver.error(command).code == "lease_lost"


def test_the_old_holder_cannot_act_after_the_lease_lapsed() -> None:
    driver = Driver()
    job = running(driver)
    (old,) = driver.grants_of(claim())
    driver.pass_ms(1_000)
    for command in (
        move(job, COMPLETED, lease=old.lease),
        Touch(job_id=job.job_id, lease=old.lease, lease_ms=1),
        Release(job_id=job.job_id, lease=old.lease),
    ):
        assert driver.error(command).code == "lease_lost"
    (new,) = driver.grants_of(claim())
    assert new.lease > old.lease
    assert driver.error(move(job, COMPLETED, lease=old.lease)).code == "lease_lost"
    assert driver.job(move(job, COMPLETED, lease=new.lease)).status is COMPLETED


def test_a_lease_does_not_hinder_the_purchaser() -> None:
    driver = Driver()
    unpaid = driver.job(create())
    driver.grants_of(claim(AWAITING_PAYMENT))
    assert driver.job(Cancel(job_id=unpaid.job_id)).status is FAILED
    asking = at(driver, AWAITING_INPUT)
    driver.grants_of(claim(AWAITING_INPUT))
    answered = driver.job(ProvideInput(job_id=asking.job_id, input="x", expected_version=3))
    assert answered.status is RUNNING


def test_version_then_lease_then_legality_are_checked() -> None:
    driver = Driver()
    job = running(driver)
    (grant,) = driver.grants_of(claim())
    conflict = driver.error(move(job, AWAITING_PAYMENT, expected_version=1, lease=99))
    assert (conflict.code, conflict.status, conflict.version) == ("version_conflict", "running", 2)
    lost = driver.error(move(job, AWAITING_PAYMENT, lease=99))
    assert (lost.code, lost.message) == (
        "lease_lost",
        f"lease 99 on job {job.job_id} was never granted",
    )
    assert driver.error(move(job, AWAITING_PAYMENT)).code == "lease_held"
    illegal = driver.error(move(job, AWAITING_PAYMENT, lease=grant.lease, expected_version=2))
    assert (illegal.code, illegal.job_id) == ("illegal_transition", job.job_id)
    assert (illegal.status, illegal.target, illegal.version) == ("running", "awaiting_payment", 2)
    assert illegal.allowed == ["awaiting_input", "completed", "failed"]
    for command in (
        ProvideInput(job_id=job.job_id, input="x", expected_version=1),
        Cancel(job_id=job.job_id, expected_version=1),
    ):
        assert driver.error(command).code == "version_conflict"
    assert driver.job(Get(job_id=job.job_id)).version == 2


def test_a_lease_touched_for_less_ends_earlier() -> None:
    driver = Driver()
    job = running(driver).job_id
    (grant,) = driver.grants_of(claim(lease_ms=60_000))
    driver.ask(Touch(job_id=job, lease=grant.lease, lease_ms=10))
    driver.pass_ms(10)
    assert [each.job.job_id for each in driver.grants_of(claim())] == [job]


def test_leases_run_on_the_monotonic_clock() -> None:
    driver = Driver()
    running(driver)
    driver.grants_of(claim(lease_ms=1_000))
    driver.set_wall(EPOCH + 2 * HOUR)
    assert driver.grants_of(claim()) == []
    driver.set_wall(EPOCH - timedelta(days=1))
    driver.mono_ms += 1_000
    assert len(driver.grants_of(claim())) == 1


def lapse(driver: Driver, times: int, status: JobStatus = RUNNING) -> None:
    for _ in range(times):
        assert len(driver.grants_of(claim(status))) == 1
        driver.pass_ms(1_000)


def test_a_running_job_fails_after_too_many_lapses() -> None:
    driver = Driver()
    job = running(driver)
    lapse(driver, 4)
    assert status_of(driver, job) is RUNNING
    lapse(driver, 1)
    shown = driver.job(Get(job_id=job.job_id))
    assert (shown.status, shown.version) == (FAILED, 3)
    assert "lapsed 5 times" in (shown.error or "")


def test_lapses_are_counted_within_one_status() -> None:
    driver = Driver(lapses=2)
    job = driver.job(create())
    lapse(driver, 5, AWAITING_PAYMENT)
    assert status_of(driver, job) is AWAITING_PAYMENT
    driver.job(move(job, RUNNING))
    lapse(driver, 1)
    (grant,) = driver.grants_of(claim())
    driver.ask(Release(job_id=job.job_id, lease=grant.lease))
    driver.job(move(job, AWAITING_INPUT))
    lapse(driver, 3, AWAITING_INPUT)
    driver.job(move(job, RUNNING))
    lapse(driver, 1)
    assert status_of(driver, job) is RUNNING
    lapse(driver, 1)
    assert status_of(driver, job) is FAILED


def test_an_undelivered_grant_is_released_at_once() -> None:
    driver = Driver()
    running(driver)
    (grant,) = driver.grants_of(claim(lease_ms=DAY_MS))
    undelivered = driver.grants[-1]
    assert undelivered == [(grant.job.job_id, grant.lease)]
    seq = driver.post(claim(wait_ms=1_000))
    driver.run(undelivered=undelivered)
    (again,) = leases_of(driver.result_of(seq))
    assert again.lease == grant.lease + 1
    assert driver.grants[-1] == [(again.job.job_id, again.lease)]
    driver.run(undelivered=undelivered)  # over already
    assert driver.grants_of(claim()) == []


def test_an_undelivered_grant_does_not_count_as_a_lapse() -> None:
    driver = Driver(lapses=2)
    job = running(driver)
    for _ in range(5):
        driver.grants_of(claim())
        driver.run(undelivered=driver.grants[-1])
    assert status_of(driver, job) is RUNNING


@pytest.mark.parametrize("way", ["held", "claimed by its id"])
def test_a_job_delayed_twice_is_granted_once(way: str) -> None:
    driver = Driver()
    job_id = running(driver, not_before=EPOCH + HOUR).job_id
    if way == "held":
        driver.ask(Hold(job_id=job_id))
        driver.ask(Resume(job_id=job_id))
    else:
        named = Claim(status=RUNNING, lease_ms=9, wait_ms=0, limit=1, job_ids=[job_id])
        (grant,) = driver.grants_of(named)
        driver.ask(Release(job_id=job_id, lease=grant.lease))
    assert driver.grants_of(claim(limit=9)) == []
    driver.pass_ms(3_600_000)
    assert [grant.job.job_id for grant in driver.grants_of(claim(limit=9))] == [job_id]
    assert driver.engine.context.state.jobs.leased == 1

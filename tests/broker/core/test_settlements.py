"""The second state machine: what `settle` may do, and what it does to leases."""

import pytest

from tests.core import HASH, Driver, job_id
from tollgate.domain.commands import Claim, Create, Get, History, Settle, Touch, Transition
from tollgate.domain.exceptions import JobConflictError
from tollgate.domain.models import JobStatus
from tollgate.domain.results import ErrorResult, HistoryResult, JobResult, LeaseResult, LeasesResult
from tollgate.domain.settlement import LEGAL_SETTLEMENTS, SettlementState
from tollgate.domain.status import COMPLETED, FAILED, RUNNING

JOB = job_id(7)
PENDING, WANTED = SettlementState.PENDING, SettlementState.WANTED
SUBMITTED, CONFIRMED = SettlementState.SUBMITTED, SettlementState.CONFIRMED
REFUSED, MANUAL = SettlementState.REFUSED, SettlementState.MANUAL
WAY_TO: dict[SettlementState, list[SettlementState]] = {
    WANTED: [],
    SUBMITTED: [SUBMITTED],
    CONFIRMED: [SUBMITTED, CONFIRMED],
    REFUSED: [REFUSED],
    MANUAL: [MANUAL],
}


def settling(state: SettlementState) -> Driver:
    """Return a broker with one job whose settlement is in a state."""
    driver = Driver()
    driver.ask(Create(input_hash=HASH, job_id=JOB, settle=True))
    driver.ask(Transition(job_id=JOB, target=RUNNING))
    if state is not PENDING:
        end: JobStatus = FAILED if state is SettlementState.CLOSED else COMPLETED
        driver.ask(Transition(job_id=JOB, target=end))
    for to in WAY_TO.get(state, []):
        driver.ask(Settle(job_id=JOB, to=to))
    assert state_in(driver) is state
    return driver


def state_in(driver: Driver) -> SettlementState | None:
    (result,) = driver.ask(Get(job_id=JOB))
    assert isinstance(result, JobResult)
    settlement = result.job.settlement
    return None if settlement is None else settlement.state


def claim(driver: Driver) -> list[int]:
    (result,) = driver.ask(Claim(settlement=WANTED, lease_ms=60_000, wait_ms=0, limit=1))
    assert isinstance(result, LeasesResult)
    return [grant.lease for grant in result.leases]


@pytest.mark.parametrize("to", SettlementState)
@pytest.mark.parametrize("state", SettlementState)
def test_every_pair_of_settlement_states(state: SettlementState, to: SettlementState) -> None:
    driver = settling(state)
    (result,) = driver.ask(Settle(job_id=JOB, to=to))
    if state is not PENDING and to in LEGAL_SETTLEMENTS[state]:
        assert isinstance(result, JobResult)
        assert state_in(driver) is to
        return
    assert isinstance(result, ErrorResult)
    assert (result.code, result.job_id) == ("illegal_transition", JOB)
    assert (result.status, result.target) == (state, to)
    assert result.allowed == ([] if state is PENDING else sorted(LEGAL_SETTLEMENTS[state]))
    assert "a settlement cannot" in result.message
    assert state_in(driver) is state


def test_a_retry_leaves_the_lease_of_another_alone() -> None:
    driver = settling(WANTED)
    (token,) = claim(driver)
    (noted,) = driver.ask(Settle(job_id=JOB, retry_after_ms=5_000))
    assert isinstance(noted, JobResult)
    (touched,) = driver.ask(Touch(job_id=JOB, lease=token, lease_ms=60_000))
    assert isinstance(touched, LeaseResult)


@pytest.mark.parametrize("holds", [True, False])
def test_a_retry_is_not_claimed_before_its_time(holds: bool) -> None:
    driver = settling(WANTED)
    lease = claim(driver)[0] if holds else None
    driver.ask(Settle(job_id=JOB, lease=lease, retry_after_ms=5_000))
    assert claim(driver) == []
    driver.pass_ms(4_999)
    assert claim(driver) == []
    driver.pass_ms(1)
    assert len(claim(driver)) == 1


def test_a_claim_of_a_settlement_is_no_try() -> None:
    driver = Driver()
    driver.ask(Create(input_hash=HASH, job_id=JOB, settle=True))
    driver.ask(Transition(job_id=JOB, target=RUNNING))
    driver.ask(Claim(status=RUNNING, lease_ms=1_000, wait_ms=0, limit=1))
    driver.pass_ms(1_000)
    driver.ask(Claim(status=RUNNING, lease_ms=1_000, wait_ms=0, limit=1))
    driver.ask(Transition(job_id=JOB, target=COMPLETED, lease=2))
    assert claim(driver) == [3]
    (result,) = driver.ask(History(job_id=JOB))
    assert isinstance(result, HistoryResult)
    claimed = [entry.attempt for entry in result.entries if entry.what == "claimed"]
    assert claimed == [None, 2, None]


@pytest.mark.parametrize("state", SettlementState)
def test_a_job_is_removed_when_its_settlement_has_ended(state: SettlementState) -> None:
    """Retention never asks for another job; a record that does is refused, and nothing is lost."""
    jobs = settling(state).engine.context.state.jobs
    if LEGAL_SETTLEMENTS[state]:
        with pytest.raises(JobConflictError):
            jobs.remove(JOB)
        assert jobs.find(JOB) is not None
    else:
        jobs.remove(JOB)
        assert jobs.find(JOB) is None

"""What a payment means for its job: each state of the chain against each state of the job."""

from datetime import timedelta
from typing import Any

import pytest

from tests.masumi.payments import NOW, payment
from tollgate.domain.models import Job
from tollgate.domain.status import JobStatus
from tollgate.masumi.gate import LAST_MINUTES, Act, decide

HASH = "25f3afe66b39b0582711c9faf53930c7b6a6feffd10294750ec77be47fd63080"
OTHER = "59e08c108addc5e1667e34f85c90bb4ff98c410701bfb6088a4deb86b3273ca9"
VOID = (
    "RefundRequested", "Disputed", "ResultSubmitted", "WithdrawAuthorized", "RefundAuthorized",
    "Withdrawn", "RefundWithdrawn", "DisputedWithdrawn", "FundsOrDatumInvalid",
)  # fmt: skip


def job(status: str = "awaiting_payment", **fields: Any) -> Job:
    return Job(
        job_id="6d1f3c2a-5b7e-4f8a-9c0d-1e2f3a4b5c6d",
        status=JobStatus(status),
        input_hash=HASH,
        blockchain_identifier="chain",
        created_at=NOW,
        updated_at=NOW,
        **fields,
    )


def test_locked_funds_open_the_gate() -> None:
    assert decide(job(), payment(), NOW).act is Act.OPEN


def test_a_payment_that_is_not_on_chain_changes_nothing() -> None:
    for status in JobStatus:
        assert decide(job(status.value), payment(None), NOW).act is Act.NOTHING


@pytest.mark.parametrize("state", VOID)
def test_a_void_payment_ends_its_job(state: str) -> None:
    decision = decide(job(), payment(state), NOW)
    assert decision.act is Act.END
    assert state in str(decision.reason)


@pytest.mark.parametrize("given", [None, HASH])
def test_a_payment_for_the_same_or_no_input_opens(given: str | None) -> None:
    assert decide(job(), payment(input_hash=given), NOW).act is Act.OPEN


def test_a_payment_for_another_input_ends_the_job() -> None:
    decision = decide(job(), payment(input_hash=OTHER), NOW)
    assert decision.act is Act.END
    assert OTHER in str(decision.reason)


@pytest.mark.parametrize(
    ("before_the_last_minutes", "act"),
    [(timedelta(milliseconds=1), Act.OPEN), (timedelta(0), Act.END), (-timedelta(1), Act.END)],
)
def test_the_gate_stays_shut_in_the_last_minutes(
    before_the_last_minutes: timedelta, act: Act
) -> None:
    by = NOW + LAST_MINUTES + before_the_last_minutes
    assert decide(job(), payment(submit_by=by), NOW).act is act


def test_a_payment_without_a_deadline_opens() -> None:
    assert decide(job(), payment(submit_by=None), NOW).act is Act.OPEN


@pytest.mark.parametrize("state", ["RefundRequested", "Disputed"])
@pytest.mark.parametrize("status", ["running", "awaiting_input"])
def test_an_objection_asks_the_holder_to_stop_once(state: str, status: str) -> None:
    assert decide(job(status), payment(state), NOW).act is Act.ASK_TO_STOP
    assert decide(job(status, stop_requested=True), payment(state), NOW).act is Act.NOTHING


@pytest.mark.parametrize("status", ["running", "awaiting_input", "completed"])
def test_a_job_that_was_paid_goes_on(status: str) -> None:
    assert decide(job(status), payment(), NOW).act is Act.NOTHING


def test_money_for_a_failed_job_is_reported() -> None:
    decision = decide(job("failed", error="not paid in time"), payment(), NOW)
    assert decision.act is Act.REPORT
    assert "not paid in time" in str(decision.reason)
    assert decide(job("failed"), payment("RefundWithdrawn"), NOW).act is Act.NOTHING


def test_a_state_of_a_later_service_changes_nothing() -> None:
    for status in JobStatus:
        assert decide(job(status.value), payment("SomethingNew"), NOW).act is Act.NOTHING

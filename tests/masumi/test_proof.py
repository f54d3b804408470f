"""The next step with the hash of a result: what is there is compared, and never replaced."""

from datetime import timedelta

import pytest

from tests.masumi.payments import NOW, payment
from tollgate.masumi.gate import LAST_MINUTES
from tollgate.masumi.payment import Payment
from tollgate.masumi.proof import OVERDUE, Step, decide, recoveries, recovery_reason

OURS = "25f3afe66b39b0582711c9faf53930c7b6a6feffd10294750ec77be47fd63080"
OTHER = "59e08c108addc5e1667e34f85c90bb4ff98c410701bfb6088a4deb86b3273ca9"
SUBMITTING = ("SubmitResultRequested", "SubmitResultInitiated")
TAKES_RESULT = ("FundsLocked", "RefundRequested", "Disputed")
ENDED = (
    "FundsOrDatumInvalid", "WithdrawAuthorized", "RefundAuthorized", "Withdrawn",
    "RefundWithdrawn", "DisputedWithdrawn",
)  # fmt: skip


@pytest.mark.parametrize("state", TAKES_RESULT)
def test_a_payment_that_waits_for_us_gets_the_hash(state: str) -> None:
    assert decide(payment(state), OURS, NOW).step is Step.SUBMIT


@pytest.mark.parametrize("state", [*TAKES_RESULT, *ENDED, "ResultSubmitted", "SomethingNew"])
@pytest.mark.parametrize("action", ["WaitingForExternalAction", "None", *SUBMITTING])
def test_another_hash_on_chain_is_for_a_person(state: str, action: str) -> None:
    found = decide(payment(state, result_hash=OTHER, action=action), OURS, NOW)
    assert found.step is Step.MANUAL
    assert OTHER in str(found.reason)


@pytest.mark.parametrize("action", [*SUBMITTING, "WaitingForManualAction"])
def test_another_hash_at_the_service_is_for_a_person(action: str) -> None:
    found = decide(payment(action=action, action_hash=OTHER), OURS, NOW)
    assert found.step is Step.MANUAL
    assert OTHER in str(found.reason)


@pytest.mark.parametrize("state", ["ResultSubmitted", "Disputed", "Withdrawn", "RefundRequested"])
def test_our_hash_on_chain_is_confirmed(state: str) -> None:
    assert decide(payment(state, result_hash=OURS, action="None"), OURS, NOW).step is Step.CONFIRMED


def test_our_hash_is_not_sent_again_before_the_state_follows() -> None:
    assert decide(payment("FundsLocked", result_hash=OURS), OURS, NOW).step is Step.SUBMITTED


@pytest.mark.parametrize("action", SUBMITTING)
def test_our_hash_at_the_service_is_submitted(action: str) -> None:
    shown = payment(action=action, action_hash=OURS)
    assert decide(shown, OURS, NOW).step is Step.SUBMITTED
    at_the_end = shown.submit_by
    assert at_the_end is not None
    assert decide(shown, OURS, at_the_end).step is Step.SUBMITTED
    assert decide(shown, OURS, at_the_end + OVERDUE).step is Step.MANUAL


@pytest.mark.parametrize("state", ENDED)
def test_a_payment_that_ended_without_a_hash_is_refused(state: str) -> None:
    found = decide(payment(state), OURS, NOW)
    assert found.step is Step.REFUSED
    assert state in str(found.reason)


def test_nothing_is_submitted_in_the_last_minutes() -> None:
    by = NOW + LAST_MINUTES
    assert decide(payment(submit_by=by), OURS, NOW).step is Step.REFUSED
    by += timedelta(milliseconds=1)
    assert decide(payment(submit_by=by), OURS, NOW).step is Step.SUBMIT
    assert decide(payment(submit_by=None), OURS, NOW).step is Step.SUBMIT


@pytest.mark.parametrize("state", TAKES_RESULT)
def test_an_error_at_the_service_is_recovered(state: str) -> None:
    found = decide(payment(state, action="WaitingForManualAction", error="Network"), OURS, NOW)
    assert found == type(found)(Step.RECOVER, "Network")


def test_a_job_that_ran_without_a_payment_is_for_a_person() -> None:
    assert decide(payment(None, action="None"), OURS, NOW).step is Step.MANUAL


@pytest.mark.parametrize(
    "shown", [payment("SomethingNew"), payment(action="AuthorizeRefundRequested")]
)
def test_what_is_not_ours_to_do_is_waited_for(shown: Payment) -> None:
    assert decide(shown, OURS, NOW).step is Step.WAIT


def test_a_reason_counts_recoveries() -> None:
    assert recoveries(recovery_reason(2, 3, "recovery 7 of 9: Network")) == 2
    for reason in (None, "", "no recovery 2 of 3", "recovery of"):
        assert recoveries(reason) == 0

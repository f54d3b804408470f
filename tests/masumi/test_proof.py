"""The next step with the hash of a result: what is there is compared, and never replaced."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from tests.masumi.payments import NOW, payment
from tollgate.masumi.gate import LAST_MINUTES
from tollgate.masumi.payment import PastAction, Payment
from tollgate.masumi.proof import OVERDUE, Step, decide, next_recovery

OURS = "25f3afe66b39b0582711c9faf53930c7b6a6feffd10294750ec77be47fd63080"
OTHER = "59e08c108addc5e1667e34f85c90bb4ff98c410701bfb6088a4deb86b3273ca9"
SUBMITTING = ("SubmitResultRequested", "SubmitResultInitiated")
MANUAL = "WaitingForManualAction"
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


def test_a_service_that_notes_a_hash_with_its_request_alone() -> None:
    for noted, step in ((OURS, Step.SUBMITTED), (OTHER, Step.MANUAL), (None, Step.MANUAL)):
        history = (PastAction("SubmitResultRequested", noted),)
        shown = payment(action="SubmitResultInitiated", history=history)
        assert decide(shown, OURS, NOW).step is step


@pytest.mark.parametrize("state", TAKES_RESULT)
def test_a_hash_that_the_service_lost_is_for_a_person(state: str) -> None:
    history = (PastAction("SubmitResultRequested", OURS),)
    for action in SUBMITTING:
        found = decide(payment(state, action=action), OURS, NOW)
        assert (found.step, found.reason) == (
            Step.MANUAL,
            "the service has lost the hash that it took",
        )
    shown = payment(state, action="SubmitResultRequested", history=history)
    assert decide(shown, OURS, NOW).step is Step.MANUAL


@pytest.mark.parametrize(
    "fields",
    [
        {"state": "SomethingNew"},
        {"state": "ResultSubmitted"},
        {"action": "None"},
        {"action": "Ignore"},
        {"action": "SomethingNew"},
        {"action": "AuthorizeRefundRequested"},
        {"result_hash": OURS},
        {"action": "SubmitResultRequested", "action_hash": OURS},
        {"action": MANUAL, "history": (PastAction("SubmitResultRequested", OURS),)},
    ],
)
def test_nothing_is_waited_for_after_the_deadline(fields: dict[str, Any]) -> None:
    shown = payment(**fields)
    by = shown.submit_by
    assert by is not None
    least = timedelta(milliseconds=1)
    assert decide(shown, OURS, by + OVERDUE - least).step not in {Step.MANUAL, Step.REFUSED}
    found = decide(shown, OURS, by + OVERDUE)
    assert found.step is Step.MANUAL
    assert str(found.reason).startswith("the time to submit a result is over: ")


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


def failed(*history: tuple[str, str | None], state: str = "FundsLocked", **fields: Any) -> Payment:
    """Return a payment that waits for a person; `history` is what was before, newest first."""
    given: dict[str, Any] = {"action": MANUAL, "error": "Network"} | fields
    return payment(state, history=tuple(PastAction(*each) for each in history), **given)


@pytest.mark.parametrize("state", TAKES_RESULT)
@pytest.mark.parametrize(
    "history",
    [
        [("SubmitResultRequested", OURS)],
        [("SubmitResultInitiated", OURS), ("SubmitResultRequested", OURS)],
        [("SubmitResultInitiated", None), ("SubmitResultRequested", OURS)],
        [(MANUAL, None), (MANUAL, OURS), ("SubmitResultRequested", OURS)],
    ],
)
def test_a_failed_submission_is_recovered(
    state: str, history: list[tuple[str, str | None]]
) -> None:
    found = decide(failed(*history, state=state), OURS, NOW)
    assert (found.step, found.reason) == (Step.RECOVER, "Network")


@pytest.mark.parametrize("action", [MANUAL, "WaitingForExternalAction"])
@pytest.mark.parametrize(
    "history",
    [
        [("SubmitResultInitiated", OTHER)],
        [("SubmitResultInitiated", None), ("SubmitResultRequested", OTHER)],
        [(MANUAL, OTHER), ("SubmitResultRequested", OTHER)],
    ],
)
def test_another_hash_that_failed_is_for_a_person(
    action: str, history: list[tuple[str, str | None]]
) -> None:
    found = decide(failed(*history, action=action), OURS, NOW)
    assert found.step is Step.MANUAL
    assert OTHER in str(found.reason)


def test_another_hash_that_a_person_cleared_is_replaced() -> None:
    cleared = failed(
        (MANUAL, OTHER), ("SubmitResultRequested", OTHER),
        action="WaitingForExternalAction", error=None,
    )  # fmt: skip
    assert decide(cleared, OURS, NOW).step is Step.SUBMIT


@pytest.mark.parametrize(
    "before", ["AuthorizeRefundRequested", "WithdrawRequested", "None", MANUAL]
)
def test_what_a_person_began_is_not_recovered(before: str) -> None:
    found = decide(failed((before, None), state="RefundRequested"), OURS, NOW)
    assert found.step is Step.MANUAL
    assert decide(failed(state="RefundRequested"), OURS, NOW).step is Step.MANUAL


@pytest.mark.parametrize("state", TAKES_RESULT)
@pytest.mark.parametrize("granted", ["AuthorizeRefundRequested", "AuthorizeRefundInitiated"])
@pytest.mark.parametrize("error", [None, "Timeout"])
def test_nothing_is_submitted_after_a_granted_refund(
    state: str, granted: str, error: str | None
) -> None:
    shown = failed((granted, None), ("WaitingForExternalAction", None), state=state, error=error)
    for action in (MANUAL, "WaitingForExternalAction"):
        found = decide(msgspec.structs.replace(shown, action=action), OURS, NOW)
        assert (found.step, found.reason) == (
            Step.MANUAL,
            "a person has granted the buyer a refund",
        )


def test_a_job_that_ran_without_a_payment_is_for_a_person() -> None:
    assert decide(payment(None, action="None"), OURS, NOW).step is Step.MANUAL


@pytest.mark.parametrize(
    "shown", [payment("SomethingNew"), payment(action="AuthorizeRefundRequested")]
)
def test_what_is_not_ours_to_do_is_waited_for(shown: Payment) -> None:
    assert decide(shown, OURS, NOW).step is Step.WAIT


def test_a_reason_counts_recoveries() -> None:
    once, twice = failed(), failed((MANUAL, None))
    for unknown in (None, "", "no recovery 2 of 3", "recovery of", "2 recoveries did not help"):
        first = next_recovery(once, unknown, 2, "recovery 7 of 9, after failure 5: Network")
        assert str(first).startswith("recovery 1 of 2, after failure 1: recovery 7 of 9")
    second = next_recovery(twice, first, 2, "Network")
    assert second == "recovery 2 of 2, after failure 2: Network"
    assert next_recovery(failed((MANUAL, None), (MANUAL, None)), second, 2, "Network") is None
    assert next_recovery(once, None, 0, "Network") is None


def test_one_failure_is_one_recovery() -> None:
    first = next_recovery(failed(), None, 1, "Network")
    assert next_recovery(failed(), first, 1, "Network") == first

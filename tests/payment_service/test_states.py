"""The tables of the stand-in, against the facts of the real service.

The facts are those of the public `transition-matrix.fixture.json` of masumi-payment-service at
revision aca38338, written down here in another form: one letter for each action and state.
"""

import pytest

from tests.payment_service.states import (
    AFTER_SUBMIT,
    MOVES,
    RETRIES,
    SUBMITTABLE,
    TRANSITIONS,
    Action,
    OnChainState,
)

COLUMNS = (
    "FundsLocked", "FundsOrDatumInvalid", "ResultSubmitted", "RefundRequested", "Disputed",
    "WithdrawAuthorized", "RefundAuthorized", "Withdrawn", "RefundWithdrawn", "DisputedWithdrawn",
)  # fmt: skip
# "=" the same action, "x" WaitingForExternalAction, "n" None, "r" the ...Requested of this action,
# "R" the same with an error, "!" WaitingForManualAction with an error.
FACTS = {
    "None":                     "! ! ! ! ! ! ! ! ! !",
    "Ignore":                   "= = = = = ! ! = = =",
    "WaitingForManualAction":   "! ! ! ! ! ! ! ! ! !",
    "WaitingForExternalAction": "x ! x x x x x n n n",
    "SubmitResultRequested":    "= ! = = = ! ! ! ! !",
    "SubmitResultInitiated":    "r ! x r x ! ! ! ! !",
    "WithdrawRequested":        "! ! ! ! = = ! ! ! !",
    "WithdrawInitiated":        "! ! ! ! r r ! n ! !",
    "AuthorizeRefundRequested": "! ! = ! = ! x ! ! !",
    "AuthorizeRefundInitiated": "! ! R x r ! x ! ! !",
}  # fmt: skip


def expected(action: str, letter: str) -> tuple[str, bool]:
    requested = action.replace("Initiated", "Requested")
    return {
        "=": (action, False),
        "x": ("WaitingForExternalAction", False),
        "n": ("None", False),
        "r": (requested, False),
        "R": (requested, True),
        "!": ("WaitingForManualAction", True),
    }[letter]


@pytest.mark.parametrize("action", FACTS)
def test_a_row_says_what_the_service_does(action: str) -> None:
    row = TRANSITIONS[Action(action)]
    found = {str(state): (str(after), error is not None) for state, (after, error) in row.items()}
    letters = FACTS[action].split()
    assert found == {
        state: expected(action, letter) for state, letter in zip(COLUMNS, letters, strict=True)
    }


def test_there_are_ten_states_and_ten_actions() -> None:
    assert sorted(OnChainState) == sorted(COLUMNS)
    assert sorted(Action) == sorted(FACTS)
    assert set(TRANSITIONS) == set(Action)


def test_every_state_can_be_reached_and_four_end() -> None:
    assert set(MOVES) == {None, *OnChainState}
    assert set().union(*MOVES.values()) == set(OnChainState)
    ends = {state for state, following in MOVES.items() if not following}
    assert ends == {
        "FundsOrDatumInvalid", "Withdrawn", "RefundWithdrawn", "DisputedWithdrawn",
    }  # fmt: skip


def test_a_submit_follows_the_moves_of_the_chain() -> None:
    assert set(AFTER_SUBMIT) == SUBMITTABLE
    for before, after in AFTER_SUBMIT.items():
        assert after in MOVES[before]


def test_a_retry_starts_with_a_request() -> None:
    assert {str(before): str(after) for before, after in RETRIES.items()} == {
        name: name.replace("Initiated", "Requested")
        for name in FACTS
        if name.endswith(("Requested", "Initiated"))
    }

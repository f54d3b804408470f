"""States and actions of a payment, and how one follows from the other, as tables.

A payment has two parts. `OnChainState` is what the chain shows. `Action` is what the service does
next for the seller. When the chain shows another state, the next action follows from both: that is
`next_action`. The facts are those of masumi-payment-service at revision aca38338.
"""

from enum import StrEnum
from typing import Final, NamedTuple


class OnChainState(StrEnum):
    """What the chain shows. A payment without funds has none."""

    FUNDS_LOCKED = "FundsLocked"
    FUNDS_OR_DATUM_INVALID = "FundsOrDatumInvalid"
    RESULT_SUBMITTED = "ResultSubmitted"
    REFUND_REQUESTED = "RefundRequested"
    DISPUTED = "Disputed"
    WITHDRAW_AUTHORIZED = "WithdrawAuthorized"
    REFUND_AUTHORIZED = "RefundAuthorized"
    WITHDRAWN = "Withdrawn"
    REFUND_WITHDRAWN = "RefundWithdrawn"
    DISPUTED_WITHDRAWN = "DisputedWithdrawn"


class Action(StrEnum):
    """What the service does next for the seller."""

    NONE = "None"
    IGNORE = "Ignore"
    WAITING_FOR_MANUAL_ACTION = "WaitingForManualAction"
    WAITING_FOR_EXTERNAL_ACTION = "WaitingForExternalAction"
    SUBMIT_RESULT_REQUESTED = "SubmitResultRequested"
    SUBMIT_RESULT_INITIATED = "SubmitResultInitiated"
    WITHDRAW_REQUESTED = "WithdrawRequested"
    WITHDRAW_INITIATED = "WithdrawInitiated"
    AUTHORIZE_REFUND_REQUESTED = "AuthorizeRefundRequested"
    AUTHORIZE_REFUND_INITIATED = "AuthorizeRefundInitiated"


class Next(NamedTuple):
    """The next action, and the error that is noted with it, if any."""

    action: Action
    error: str | None = None


# Errors, in the words of this project.
BUG: Final = "the chain shows a state that should be impossible here"
EXTERNAL: Final = "another program acted for this wallet"
LATE: Final = "the action was not done in time"
MISMATCH: Final = "the amount or the datum does not match"
MOVED: Final = "the chain moved on while a manual action was awaited"

_S = OnChainState
_A = Action
_MANUAL: Final = _A.WAITING_FOR_MANUAL_ACTION
_EXTERNAL: Final = _A.WAITING_FOR_EXTERNAL_ACTION
_INVALID: Final = {_S.FUNDS_OR_DATUM_INVALID: Next(_MANUAL, MISMATCH)}
_AUTHORIZED: Final = {
    _S.WITHDRAW_AUTHORIZED: Next(_MANUAL, EXTERNAL),
    _S.REFUND_AUTHORIZED: Next(_MANUAL, EXTERNAL),
}
_FINISHED: Final = (_S.WITHDRAWN, _S.REFUND_WITHDRAWN, _S.DISPUTED_WITHDRAWN)
FINAL_STATES: Final = frozenset(_FINISHED)


def _row(default: Next, *changes: dict[OnChainState, Next]) -> dict[OnChainState, Next]:
    """Return the outcome for every state: the default, then the changes, later ones first."""
    row = dict.fromkeys(OnChainState, default)
    for change in changes:
        row.update(change)
    return row


TRANSITIONS: Final[dict[Action, dict[OnChainState, Next]]] = {
    _A.NONE: _row(Next(_MANUAL, BUG), _INVALID, _AUTHORIZED),
    _A.IGNORE: _row(Next(_A.IGNORE), _AUTHORIZED),
    _MANUAL: _row(Next(_MANUAL, MOVED), _INVALID),
    _EXTERNAL: _row(Next(_EXTERNAL), _INVALID, dict.fromkeys(_FINISHED, Next(_A.NONE))),
    _A.SUBMIT_RESULT_REQUESTED: _row(
        Next(_A.SUBMIT_RESULT_REQUESTED),
        _INVALID,
        _AUTHORIZED,
        dict.fromkeys(_FINISHED, Next(_MANUAL, LATE)),
    ),
    _A.SUBMIT_RESULT_INITIATED: _row(
        Next(_MANUAL, LATE),
        _INVALID,
        _AUTHORIZED,
        {
            _S.FUNDS_LOCKED: Next(_A.SUBMIT_RESULT_REQUESTED),
            _S.REFUND_REQUESTED: Next(_A.SUBMIT_RESULT_REQUESTED),
            _S.RESULT_SUBMITTED: Next(_EXTERNAL),
            _S.DISPUTED: Next(_EXTERNAL),
        },
    ),
    _A.WITHDRAW_REQUESTED: _row(
        Next(_MANUAL, LATE),
        _INVALID,
        {
            _S.FUNDS_LOCKED: Next(_MANUAL, BUG),
            _S.DISPUTED: Next(_A.WITHDRAW_REQUESTED),
            _S.WITHDRAW_AUTHORIZED: Next(_A.WITHDRAW_REQUESTED),
            _S.REFUND_AUTHORIZED: Next(_MANUAL, EXTERNAL),
            _S.WITHDRAWN: Next(_MANUAL, EXTERNAL),
        },
    ),
    _A.WITHDRAW_INITIATED: _row(
        Next(_MANUAL, LATE),
        _INVALID,
        {
            _S.FUNDS_LOCKED: Next(_MANUAL, BUG),
            _S.DISPUTED: Next(_A.WITHDRAW_REQUESTED),
            _S.WITHDRAW_AUTHORIZED: Next(_A.WITHDRAW_REQUESTED),
            _S.REFUND_AUTHORIZED: Next(_MANUAL, EXTERNAL),
            _S.WITHDRAWN: Next(_A.NONE),
        },
    ),
    _A.AUTHORIZE_REFUND_REQUESTED: _row(
        Next(_MANUAL, LATE),
        _INVALID,
        {
            _S.FUNDS_LOCKED: Next(_MANUAL, BUG),
            _S.RESULT_SUBMITTED: Next(_A.AUTHORIZE_REFUND_REQUESTED),
            _S.DISPUTED: Next(_A.AUTHORIZE_REFUND_REQUESTED),
            _S.WITHDRAW_AUTHORIZED: Next(_MANUAL, EXTERNAL),
            _S.REFUND_AUTHORIZED: Next(_EXTERNAL),
        },
    ),
    _A.AUTHORIZE_REFUND_INITIATED: _row(
        Next(_MANUAL, LATE),
        _INVALID,
        {
            _S.FUNDS_LOCKED: Next(_MANUAL, BUG),
            _S.RESULT_SUBMITTED: Next(_A.AUTHORIZE_REFUND_REQUESTED, LATE),
            _S.REFUND_REQUESTED: Next(_EXTERNAL),
            _S.DISPUTED: Next(_A.AUTHORIZE_REFUND_REQUESTED),
            _S.WITHDRAW_AUTHORIZED: Next(_MANUAL, EXTERNAL),
            _S.REFUND_AUTHORIZED: Next(_EXTERNAL),
        },
    ),
}
"""The next action for every action and every state that the chain then shows."""

MOVES: Final[dict[OnChainState | None, frozenset[OnChainState]]] = {
    None: frozenset({_S.FUNDS_LOCKED, _S.FUNDS_OR_DATUM_INVALID}),
    _S.FUNDS_LOCKED: frozenset({_S.RESULT_SUBMITTED, _S.REFUND_REQUESTED, _S.REFUND_WITHDRAWN}),
    _S.FUNDS_OR_DATUM_INVALID: frozenset(),
    _S.RESULT_SUBMITTED: frozenset({_S.DISPUTED, _S.WITHDRAWN}),
    _S.REFUND_REQUESTED: frozenset(
        {_S.FUNDS_LOCKED, _S.DISPUTED, _S.REFUND_AUTHORIZED, _S.REFUND_WITHDRAWN}
    ),
    _S.DISPUTED: frozenset(
        {
            _S.DISPUTED,  # a result replaced by another
            _S.RESULT_SUBMITTED,
            _S.REFUND_REQUESTED,
            _S.WITHDRAW_AUTHORIZED,
            _S.REFUND_AUTHORIZED,
            _S.DISPUTED_WITHDRAWN,
        }
    ),
    _S.WITHDRAW_AUTHORIZED: frozenset({_S.WITHDRAWN}),
    _S.REFUND_AUTHORIZED: frozenset({_S.REFUND_WITHDRAWN}),
    **dict.fromkeys(_FINISHED, frozenset()),
}
"""What buyer, seller and arbiter can make of a state on the chain."""

SUBMITTABLE: Final = frozenset({_S.FUNDS_LOCKED, _S.REFUND_REQUESTED, _S.DISPUTED})
"""States in which `submit-result` takes a hash."""

AFTER_SUBMIT: Final = {
    _S.FUNDS_LOCKED: _S.RESULT_SUBMITTED,
    _S.REFUND_REQUESTED: _S.DISPUTED,
    _S.DISPUTED: _S.DISPUTED,
}
"""What the chain shows once a result is on it."""

RETRIES: Final = {
    _A.SUBMIT_RESULT_REQUESTED: _A.SUBMIT_RESULT_REQUESTED,
    _A.SUBMIT_RESULT_INITIATED: _A.SUBMIT_RESULT_REQUESTED,
    _A.WITHDRAW_REQUESTED: _A.WITHDRAW_REQUESTED,
    _A.WITHDRAW_INITIATED: _A.WITHDRAW_REQUESTED,
    _A.AUTHORIZE_REFUND_REQUESTED: _A.AUTHORIZE_REFUND_REQUESTED,
    _A.AUTHORIZE_REFUND_INITIATED: _A.AUTHORIZE_REFUND_REQUESTED,
}
"""Which action a retry starts again. Others cannot be retried."""

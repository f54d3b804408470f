"""A payment as the payment service shows it, and what its states mean.

The words are those of masumi-payment-service, revision aca38338. A later one may have others, so
they are plain texts: a word that is not known here changes nothing, and is looked at again later.
"""

from datetime import datetime
from typing import Final

import msgspec

FUNDS_LOCKED: Final = "FundsLocked"
FUNDS_INVALID: Final = "FundsOrDatumInvalid"
RESULT_SUBMITTED: Final = "ResultSubmitted"
REFUND_REQUESTED: Final = "RefundRequested"
DISPUTED: Final = "Disputed"

TAKES_RESULT: Final = frozenset({FUNDS_LOCKED, REFUND_REQUESTED, DISPUTED})
"""The states in which the service takes the hash of a result."""
OBJECTIONS: Final = frozenset({REFUND_REQUESTED, DISPUTED})
"""The buyer wants the money back."""
ENDED: Final = frozenset(
    {
        FUNDS_INVALID, "WithdrawAuthorized", "RefundAuthorized", "Withdrawn", "RefundWithdrawn",
        "DisputedWithdrawn",
    }
)  # fmt: skip
"""A payment in these states takes no result any more."""

FOR_US: Final = "WaitingForExternalAction"
FOR_PEOPLE: Final = "WaitingForManualAction"
SUBMIT_REQUESTED: Final = "SubmitResultRequested"
SUBMIT_INITIATED: Final = "SubmitResultInitiated"
SUBMITTING: Final = frozenset({SUBMIT_REQUESTED, SUBMIT_INITIATED})
REFUNDING: Final = frozenset({"AuthorizeRefundRequested", "AuthorizeRefundInitiated"})
"""A person has granted the buyer a refund."""


STATE_CHARACTERS: Final = 100
"""The broker takes no longer state: what is beyond is cut."""


class PastAction(msgspec.Struct, frozen=True):
    """What the service did or waited for before."""

    action: str
    result_hash: str | None


class Payment(msgspec.Struct, frozen=True):
    """What the watcher uses of a payment."""

    id: str
    blockchain_identifier: str
    changed_at: str
    """When its action, its state or its result last changed, as the service wrote it."""
    updated_at: str
    on_chain_state: str | None
    """None before anything of it is on chain."""
    result_hash: str | None
    """The hash on chain."""
    input_hash: str | None
    submit_by: datetime | None
    """Until when a result can be submitted."""
    action: str
    """What the service does next, or whom it waits for."""
    action_hash: str | None
    """The hash that it is putting on chain."""
    error: str | None
    """Why its last action failed. It then waits for a person, or after a timeout for us."""
    history: tuple[PastAction, ...] = ()
    """Its actions before this one, newest first; only `resolve` asks for them."""


class Times(msgspec.Struct, frozen=True):
    """The times of a payment in Unix milliseconds, as the payment service has them."""

    pay_by: int
    submit_result: int
    unlock: int
    external_dispute_unlock: int


class NewPayment(msgspec.Struct, frozen=True):
    """A payment that a buyer can make now."""

    blockchain_identifier: str
    times: Times
    seller_vkey: str | None
    """The key of the seller's wallet."""


class _Wallet(msgspec.Struct):
    walletVkey: str | None = None  # noqa: N815


class ToldNewPayment(msgspec.Struct):
    """The answer to the creation of a payment."""

    blockchainIdentifier: str  # noqa: N815
    payByTime: str | int  # noqa: N815
    submitResultTime: str | int  # noqa: N815
    unlockTime: str | int  # noqa: N815
    externalDisputeUnlockTime: str | int  # noqa: N815
    SmartContractWallet: _Wallet | None = None

    def payment(self) -> NewPayment:
        """Return it in our words. Raises ValueError for a time that is none."""
        return NewPayment(
            self.blockchainIdentifier,
            Times(
                int(self.payByTime),
                int(self.submitResultTime),
                int(self.unlockTime),
                int(self.externalDisputeUnlockTime),
            ),
            self.SmartContractWallet.walletVkey if self.SmartContractWallet else None,
        )


class _NextAction(msgspec.Struct):
    requestedAction: str  # noqa: N815 - the service's names, here and below
    resultHash: str | None = None  # noqa: N815
    errorType: str | None = None  # noqa: N815
    errorNote: str | None = None  # noqa: N815


class ToldPayment(msgspec.Struct):
    """A payment in an answer of the service. Fields that are not used are not looked at."""

    id: str
    blockchainIdentifier: str  # noqa: N815
    updatedAt: str  # noqa: N815
    NextAction: _NextAction
    nextActionOrOnChainStateOrResultLastChangedAt: str | None = None  # noqa: N815
    onChainState: str | None = None  # noqa: N815
    resultHash: str | None = None  # noqa: N815
    inputHash: str | None = None  # noqa: N815
    submitResultTime: str | int | None = None  # noqa: N815
    ActionHistory: list[_NextAction] | None = None

    def payment(self) -> Payment:
        """Return it in our words. Raises ValueError for a time that is none."""
        action = self.NextAction
        by, error = self.submitResultTime, action.errorType
        if error and action.errorNote:
            error = f"{error}: {action.errorNote}"
        return Payment(
            id=self.id,
            blockchain_identifier=self.blockchainIdentifier,
            changed_at=self.nextActionOrOnChainStateOrResultLastChangedAt or self.updatedAt,
            updated_at=self.updatedAt,
            on_chain_state=(self.onChainState or "")[:STATE_CHARACTERS] or None,
            result_hash=_lower(self.resultHash),
            input_hash=_lower(self.inputHash),
            submit_by=None if by is None else _time(by),
            action=action.requestedAction,
            action_hash=_lower(action.resultHash),
            error=error,
            history=tuple(
                PastAction(each.requestedAction, _lower(each.resultHash))
                for each in self.ActionHistory or ()
            ),
        )


def _lower(digits: str | None) -> str | None:
    return digits.lower() if digits else None


def _time(milliseconds: str | int) -> datetime:
    try:
        return msgspec.convert(int(milliseconds) / 1_000, datetime, strict=False)
    except msgspec.ValidationError as fault:
        raise ValueError(f"{milliseconds!r} is no time in milliseconds: {fault}") from None

"""A payment as the payment service shows it, and what its states mean.

The words are those of masumi-payment-service, revision aca38338. A later one may have others, so
they are plain texts: a word that is not known here changes nothing, and is looked at again later.
What the broker, a log or a calendar could not take is no payment: all is checked here, once.
"""

from datetime import UTC, datetime
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

WORD_CHARACTERS: Final = 100
"""The broker takes no longer state: what is beyond is cut."""
ERROR_CHARACTERS: Final = 1_000
IDENTIFIER_CHARACTERS: Final = 8_000
"""The most of a `blockchainIdentifier`, at the service and at the broker."""
HASH_CHARACTERS: Final = 250
"""The most of a hash at the service. A result's has 64, and so has an input's that is not odd."""
TIME_CHARACTERS: Final = 40
TIMES_MS: Final = (946_684_800_000, 7_258_118_400_000)
"""The years 2000 to 2200: a deadline before or after them cannot be reckoned with."""

SOURCE_TYPES: Final = ("Web3CardanoV1", "Web3CardanoV2")
"""The kinds of payment sources whose payments can be read."""

Position = tuple[str, str]
"""A place in the order of changes: when a payment changed, as the service wrote it, and its id."""


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
            _token("blockchainIdentifier", self.blockchainIdentifier, IDENTIFIER_CHARACTERS),
            Times(
                milliseconds(self.payByTime),
                milliseconds(self.submitResultTime),
                milliseconds(self.unlockTime),
                milliseconds(self.externalDisputeUnlockTime),
            ),
            self.SmartContractWallet.walletVkey if self.SmartContractWallet else None,
        )


class _NextAction(msgspec.Struct):
    requestedAction: str  # noqa: N815 - the service's names, here and below
    resultHash: str | None = None  # noqa: N815
    errorType: str | None = None  # noqa: N815
    errorNote: str | None = None  # noqa: N815


class ToldChange(msgspec.Struct, kw_only=True):
    """What an answer tells of the order of changes."""

    id: str
    updatedAt: str  # noqa: N815
    nextActionOrOnChainStateOrResultLastChangedAt: str | None = None  # noqa: N815

    def position(self) -> Position:
        """Return where it is in the order. Raises ValueError if it has no place there."""
        changed_at = self.nextActionOrOnChainStateOrResultLastChangedAt or self.updatedAt
        return _moment(changed_at), _token("id", self.id, WORD_CHARACTERS)


class ToldPayment(ToldChange, kw_only=True):
    """A payment in an answer of the service. Fields that are not used are not looked at."""

    blockchainIdentifier: str  # noqa: N815
    NextAction: _NextAction
    onChainState: str | None = None  # noqa: N815
    resultHash: str | None = None  # noqa: N815
    inputHash: str | None = None  # noqa: N815
    submitResultTime: str | int | None = None  # noqa: N815
    ActionHistory: list[_NextAction] | None = None

    def payment(self) -> Payment:
        """Return it in our words. Raises ValueError for what cannot be in a payment."""
        changed_at, own_id = self.position()
        action, by = self.NextAction, self.submitResultTime
        error = action.errorType
        if error and action.errorNote:
            error = f"{error}: {action.errorNote}"
        return Payment(
            id=own_id,
            blockchain_identifier=_token(
                "blockchainIdentifier", self.blockchainIdentifier, IDENTIFIER_CHARACTERS
            ),
            changed_at=changed_at,
            updated_at=_moment(self.updatedAt),
            on_chain_state=_shown(self.onChainState, WORD_CHARACTERS),
            result_hash=_hash(self.resultHash),
            input_hash=_hash(self.inputHash),
            submit_by=None if by is None else datetime.fromtimestamp(milliseconds(by) / 1_000, UTC),
            action=_shown(action.requestedAction, WORD_CHARACTERS) or "",
            action_hash=_hash(action.resultHash),
            error=_shown(error, ERROR_CHARACTERS),
            history=tuple(
                PastAction(
                    _shown(each.requestedAction, WORD_CHARACTERS) or "", _hash(each.resultHash)
                )
                for each in self.ActionHistory or ()
            ),
        )


def milliseconds(told: str | int) -> int:
    """Return a time in Unix milliseconds. Raises ValueError for one that is none."""
    text = str(told)[:TIME_CHARACTERS]
    least, most = TIMES_MS
    if not text.isdecimal() or not least <= int(text) <= most:
        raise ValueError(f"{text!r} is no time in milliseconds")
    return int(text)


def _moment(text: str) -> str:
    """Return a time as the service writes it: such texts sort as their times do."""
    if len(text) != len("2026-01-02T03:04:05.678Z") or text[10] + text[-1] != "TZ":
        raise ValueError(f"{text[:TIME_CHARACTERS]!r} is no time such as 2026-01-02T03:04:05.678Z")
    datetime.fromisoformat(text)
    return text


def _token(name: str, text: str, most: int) -> str:
    if not (0 < len(text) <= most and text.isascii() and text.isprintable()):
        raise ValueError(f"{name} is empty, has over {most} characters, or odd ones")
    return text


def _hash(digits: str | None) -> str | None:
    return _token("a hash", digits, HASH_CHARACTERS).lower() if digits else None


def _shown(text: str | None, most: int) -> str | None:
    """Return a text that a log and the broker can take: cut, and all of it printable."""
    cut = (text or "")[:most]
    # Put in place of, not left out: a word must not become another one.
    return (
        "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in cut) or None
    )

"""What the service keeps of a payment, and how it shows it.

Times are integers in milliseconds here, and texts in what is shown.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from tests.payment_service.states import Action, OnChainState

V1: Final = "Web3CardanoV1"
V2: Final = "Web3CardanoV2"
PREPROD: Final = "Preprod"
MAINNET: Final = "Mainnet"
NETWORKS: Final = (PREPROD, MAINNET)
SOURCE_TYPES: Final = (V1, V2)


@dataclass(frozen=True)
class Key:
    """An API key. One that is no admin's changes only payments that it created."""

    id: str
    token: str
    can_pay: bool = True
    is_admin: bool = False
    networks: tuple[str, ...] = NETWORKS


@dataclass(frozen=True)
class Source:
    """A payment source: a contract on one network."""

    id: str
    network: str
    type: str
    address: str
    policy_id: str


@dataclass(frozen=True)
class ActionEntry:
    """A next action. It is replaced, never changed."""

    id: str
    created: int
    action: Action
    error_type: str | None = None
    error_note: str | None = None
    result_hash: str | None = None


@dataclass
class Transaction:
    """A transaction on the chain."""

    id: str
    created: int
    updated: int
    tx_hash: str
    status: str
    previous: OnChainState | None = None
    new: OnChainState | None = None


@dataclass
class Payment:
    """One payment request."""

    id: str
    identifier: str
    source: Source
    key_id: str
    agent: str
    purchaser: str
    input_hash: str
    metadata: str | None
    funds: list[dict[str, str]]
    pay_by: int
    submit_by: int
    unlock: int
    dispute_unlock: int
    created: int
    updated: int
    next_action_changed: int
    on_chain_changed: int
    changed: int
    next_action: ActionEntry
    on_chain_state: OnChainState | None = None
    result_hash: str | None = ""
    seller_cooldown: int = 0
    transaction: Transaction | None = None
    actions: list[ActionEntry] = field(default_factory=list)
    transactions: list[Transaction] = field(default_factory=list)


def iso(time_ms: int) -> str:
    """Return a time as the service writes it: `2026-01-01T00:00:00.000Z`."""
    text = datetime.fromtimestamp(time_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{time_ms % 1000:03}Z"


def shape_of(payment: Payment, *, history: bool | None) -> dict[str, Any]:
    """Return a payment as the service shows it. `history` None leaves the histories out."""
    source = payment.source
    entry = payment.next_action
    shape: dict[str, Any] = {
        "id": payment.id,
        "createdAt": iso(payment.created),
        "updatedAt": iso(payment.updated),
        "lastCheckedAt": None,
        "blockchainIdentifier": payment.identifier,
        "agentIdentifier": payment.agent,
        "agentName": "Stand-in",
        "pricingType": "Fixed",
        "payByTime": str(payment.pay_by),
        "submitResultTime": str(payment.submit_by),
        "unlockTime": str(payment.unlock),
        "externalDisputeUnlockTime": str(payment.dispute_unlock),
        "collateralReturnLovelace": None,
        "buyerReturnAddress": None,
        "sellerReturnAddress": None,
        "requestedById": payment.key_id,
        "inputHash": payment.input_hash,
        "resultHash": payment.result_hash,
        "onChainState": payment.on_chain_state,
        "nextActionLastChangedAt": iso(payment.next_action_changed),
        "onChainStateOrResultLastChangedAt": iso(payment.on_chain_changed),
        "nextActionOrOnChainStateOrResultLastChangedAt": iso(payment.changed),
        "cooldownTime": payment.seller_cooldown,
        "cooldownTimeOtherParty": 0,
        "totalBuyerCardanoFees": 0,
        "totalSellerCardanoFees": 0,
        "NextAction": {
            "id": entry.id,
            "requestedAction": entry.action,
            "errorType": entry.error_type,
            "errorNote": entry.error_note,
            "resultHash": entry.result_hash,
        },
        "CurrentTransaction": payment.transaction and _transaction_shape(payment.transaction),
        "RequestedFunds": payment.funds,
        "WithdrawnForSeller": [],
        "WithdrawnForBuyer": [],
        "PaymentSource": {
            "id": source.id,
            "network": source.network,
            "paymentSourceType": source.type,
            "smartContractAddress": source.address,
            "policyId": source.policy_id,
        },
        "BuyerWallet": None
        if payment.on_chain_state is None
        else {"id": "buyer", "walletVkey": "b0" * 28},
        "SmartContractWallet": {
            "id": "seller",
            "walletVkey": "5e" * 28,
            "walletAddress": "addr_test1stand-in",
        },
        "metadata": payment.metadata,
    }
    if history is not None:
        shape["ActionHistory"] = (
            [_action_shape(entry) for entry in reversed(payment.actions)] if history else None
        )
        shape["TransactionHistory"] = (
            [_transaction_shape(entry) for entry in reversed(payment.transactions)]
            if history
            else None
        )
    return shape


def _action_shape(entry: ActionEntry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "createdAt": iso(entry.created),
        "updatedAt": iso(entry.created),
        "submittedTxHash": None,
        "requestedAction": entry.action,
        "errorType": entry.error_type,
        "errorNote": entry.error_note,
        "resultHash": entry.result_hash,
    }


def _transaction_shape(entry: Transaction) -> dict[str, Any]:
    return {
        "id": entry.id,
        "createdAt": iso(entry.created),
        "updatedAt": iso(entry.updated),
        "fees": None,
        "blockHeight": None,
        "blockTime": None,
        "txHash": entry.tx_hash,
        "status": entry.status,
        "previousOnChainState": entry.previous,
        "newOnChainState": entry.new,
        "confirmations": None,
    }

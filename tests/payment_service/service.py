"""The payments of a stand-in for the Masumi payment service, in memory and without HTTP.

It does what masumi-payment-service does at revision aca38338, as far as a seller's agent can see
it. The calls of HTTP and the moves of chain and buyer are methods of one class. Times are integers
in milliseconds, as in the service.
"""

import heapq
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from tests.payment_service.faults import Faults
from tests.payment_service.payment import (
    MAINNET,
    NETWORKS,
    PREPROD,
    SOURCE_TYPES,
    V1,
    V2,
    ActionEntry,
    Key,
    Payment,
    Source,
    Transaction,
    iso,
    shape_of,
)
from tests.payment_service.states import (
    AFTER_SUBMIT,
    BUG,
    FINAL_STATES,
    MOVES,
    RETRIES,
    SUBMITTABLE,
    TRANSITIONS,
    Action,
    OnChainState,
)
from tests.payment_service.values import (
    HEX,
    IDENTIFIER_MAX,
    MINUTE_MS,
    ServiceError,
    check_times,
    choice_of,
    limit_of,
    text_of,
    time_of,
    with_history,
)

__all__ = [
    "DIFF_BOTH",
    "DIFF_NEXT_ACTION",
    "DIFF_ON_CHAIN",
    "MAINNET",
    "MINUTE_MS",
    "PREPROD",
    "V1",
    "V2",
    "IllegalMoveError",
    "Key",
    "Payment",
    "PaymentService",
    "ServiceError",
    "iso",
]

HOUR_MS: Final = 60 * MINUTE_MS
SLACK_MS: Final = 5 * MINUTE_MS
"""Nothing is sent to the chain this close to a deadline."""
GRACE_MS: Final = 5 * MINUTE_MS
"""How long after `payByTime` a payment without funds is given up."""
COOLDOWN_MS: Final = 7 * MINUTE_MS
"""The cooldown of a payment source."""
COOLDOWN_EXTRA_MS: Final = 10 * MINUTE_MS
DIFF_NEXT_ACTION: Final = "next_action_changed"
DIFF_ON_CHAIN: Final = "on_chain_changed"
DIFF_BOTH: Final = "changed"


class IllegalMoveError(ValueError):
    """The chain cannot go from the payment's state to the one asked for."""


class PaymentService:
    """Payments, their buyers and their chain.

    Args:
        seed: ids, tokens and failures of the chain follow from it.
        faults: what goes wrong with calls over HTTP; see `server`.
        clock: returns the time in seconds.
        chain_failures: the share of steps on the chain that fail.
        cooldown_ms: the sources' cooldown.
        late_ms: how much older than its appearance the time of a change in `diff` can be.
        loses_transaction: as the service's code reads, a recovery leaves a payment whose hash was
            not sent yet without a transaction: it can then neither be retried nor submitted.
    """

    def __init__(
        self,
        seed: int = 0,
        faults: Faults | None = None,
        clock: Callable[[], float] = time.time,
        *,
        chain_failures: float = 0.0,
        cooldown_ms: int = COOLDOWN_MS,
        late_ms: int = 0,
        loses_transaction: bool = False,
    ) -> None:
        self.faults = faults or Faults.none()
        self.chain_failures = chain_failures
        self.cooldown_ms = cooldown_ms
        self.late_ms = late_ms
        self.loses_transaction = loses_transaction
        self.source_types: tuple[str, ...] = SOURCE_TYPES
        """The types that it knows; older services know the first one alone."""
        self.payments: dict[str, Payment] = {}
        self.accepted: list[tuple[str, str]] = []
        """Identifier and hash of every accepted `submit-result`, in order."""
        self.before_write: Callable[[str], None] = lambda identifier: None
        """Called by `submit_result` between reading and writing, for tests of concurrency."""
        self.show: Callable[[dict[str, Any]], dict[str, Any]] = lambda shape: shape
        """Makes the answer of `resolve` from what it should be, for tests of odd answers."""
        self._clock = clock
        self._random = random.Random(seed)
        self._lock = threading.RLock()
        self._fail_next: set[str] = set()
        self.sources = [self._new_source(n, t) for n in NETWORKS for t in SOURCE_TYPES]
        self.keys: dict[str, Key] = {}
        self.key = self.add_key()
        self.agent = self.agent_of()

    # --- setting up ------------------------------------------------------------------------------

    def add_key(
        self,
        *,
        can_pay: bool = True,
        is_admin: bool = False,
        networks: tuple[str, ...] = NETWORKS,
    ) -> Key:
        """Return a new API key."""
        with self._lock:
            key = Key(self._id(), self._hex(16), can_pay, is_admin, networks)
            self.keys[key.token] = key
            return key

    def agent_of(self, network: str = PREPROD, source_type: str = V1) -> str:
        """Return the identifier of an agent of this source."""
        source = next(s for s in self.sources if (s.network, s.type) == (network, source_type))
        return source.policy_id + "746f6c6c67617465"

    @property
    def now_ms(self) -> int:
        """The service's time."""
        return int(self._clock() * 1000)

    # --- calls -----------------------------------------------------------------------------------

    def create(self, key: Key | None = None, /, **body: Any) -> dict[str, Any]:
        """Create a payment as `POST /payment` does; what is not given has a usable value.

        Names are those of the HTTP body. Times may be milliseconds.
        """
        now = self.now_ms
        wanted: dict[str, Any] = {
            "inputHash": "00" * 32,
            "network": PREPROD,
            "agentIdentifier": self.agent,
            "identifierFromPurchaser": "aabbccddeeff0011",
            "payByTime": now + HOUR_MS,
            "submitResultTime": now + 2 * HOUR_MS,
            "unlockTime": now + 3 * HOUR_MS,
            "externalDisputeUnlockTime": now + 4 * HOUR_MS,
            **body,
        }
        for name, value in wanted.items():
            if name.endswith("Time") and isinstance(value, int):
                wanted[name] = iso(value)
        return self.create_payment(wanted, key or self.key)

    def create_payment(self, body: Mapping[str, Any], key: Key) -> dict[str, Any]:
        """`POST /payment`."""
        input_hash = text_of(body, "inputHash", most=250)
        network = self._network(body, key)
        agent = text_of(body, "agentIdentifier", least=57, most=250)
        purchaser = text_of(body, "identifierFromPurchaser", least=14, most=26)
        source_type = choice_of(body, "paymentSourceType", SOURCE_TYPES)
        index = body.get("supportedPaymentSourceIndex")
        if index is not None and (not isinstance(index, int) or not 0 <= index <= 24):
            raise ServiceError(400, "supportedPaymentSourceIndex: must be an integer of 0 to 24")
        metadata = text_of(body, "metadata") if body.get("metadata") is not None else None
        submit_by = time_of(body, "submitResultTime")
        pay_by = time_of(body, "payByTime")
        unlock = time_of(body, "unlockTime", default=submit_by + 6 * HOUR_MS)
        dispute = time_of(body, "externalDisputeUnlockTime", default=submit_by + 12 * HOUR_MS)
        source = self._source_of(agent, network)
        if source_type is not None and source_type != source.type:
            raise ServiceError(400, "paymentSourceType does not match the agent's source")
        for name, value in (("Purchaser identifier", purchaser), ("Input hash", input_hash)):
            if not HEX.fullmatch(value):
                raise ServiceError(400, f"{name} is not a valid hex string")
        with self._lock:
            now = self.now_ms
            check_times(now, pay_by, submit_by, unlock, dispute)
            if source.type == V2 and index is None:
                raise ServiceError(400, "V2 payments need supportedPaymentSourceIndex")
            if source.type == V1 and index is not None:
                raise ServiceError(400, "V1 payments must not set supportedPaymentSourceIndex")
            payment = Payment(
                id=self._id(),
                identifier=self._hex(32) + agent.lower() + purchaser.lower() + self._hex(160),
                source=source,
                key_id=key.id,
                agent=agent,
                purchaser=purchaser,
                input_hash=input_hash,
                metadata=metadata,
                funds=[{"id": self._id(), "amount": "10000000", "unit": ""}],
                pay_by=pay_by,
                submit_by=submit_by,
                unlock=unlock,
                dispute_unlock=dispute,
                created=now,
                updated=now,
                next_action_changed=now,
                on_chain_changed=now,
                changed=now,
                next_action=ActionEntry(self._id(), now, Action.WAITING_FOR_EXTERNAL_ACTION),
            )
            self.payments[payment.identifier] = payment
            return shape_of(payment, history=None)

    def diff(self, query: Mapping[str, Any], key: Key, *, by: str = DIFF_BOTH) -> dict[str, Any]:
        """`GET /payment/diff`: oldest change first, from `lastUpdate` and `cursorId` on.

        Both are inclusive: what the last page ended with comes again.
        """
        limit = limit_of(query)
        since = time_of(query, "lastUpdate", default=0)
        cursor = query.get("cursorId")
        with self._lock:
            found = [
                (changed, payment.id, payment)
                for payment in self._selected(query, key)
                if (changed := getattr(payment, by)) > since
                or (changed == since and (cursor is None or payment.id >= cursor))
            ]
            first = heapq.nsmallest(limit, found, key=lambda entry: entry[:2])
            return self._page((payment for _, _, payment in first), query)

    def list(self, query: Mapping[str, Any], key: Key) -> dict[str, Any]:
        """`GET /payment`: newest first, from `cursorId` on, which comes again."""
        limit = limit_of(query)
        state = choice_of(query, "filterOnChainState", tuple(OnChainState))
        manual = str(query.get("filterNeedsManualAction", "")).lower() == "true"
        cursor = query.get("cursorId")
        with self._lock:
            found = [
                payment
                for payment in self._selected(query, key)
                if state in {None, payment.on_chain_state}
                and (not manual or _needs_manual_action(payment))
            ]
            found.sort(key=lambda payment: (payment.created, payment.id), reverse=True)
            if cursor:
                ids = [payment.id for payment in found]
                found = found[ids.index(cursor) :] if cursor in ids else []
            return self._page(found[:limit], query)

    def resolve(self, body: Mapping[str, Any], key: Key) -> dict[str, Any]:
        """`POST /payment/resolve-blockchain-identifier`: one payment, of any source."""
        identifier = text_of(body, "blockchainIdentifier", least=1, most=IDENTIFIER_MAX)
        network = self._network(body, key)
        address = body.get("filterSmartContractAddress")
        with self._lock:
            payment = self.payments.get(identifier)
            if (
                payment is None
                or payment.source.network != network
                or (address is not None and payment.source.address != address)
            ):
                raise ServiceError(404, "Payment not found")
            return self.show(shape_of(payment, history=with_history(body)))

    def submit_result(self, body: Mapping[str, Any], key: Key) -> dict[str, Any]:
        """`POST /payment/submit-result`: queue a hash. A repeat finds no payment: 404."""
        network = self._network(body, key)
        result_hash = text_of(body, "submitResultHash", least=64, most=64)
        if not HEX.fullmatch(result_hash):
            raise ServiceError(400, "submitResultHash: must be a 64-char hex sha256 digest")
        identifier = text_of(body, "blockchainIdentifier", least=1, most=IDENTIFIER_MAX)
        read = self._waiting(identifier, network, SUBMITTABLE, key)
        self.before_write(identifier)
        with self._lock:
            payment = self._unchanged(identifier, read)
            self._set_action(payment, Action.SUBMIT_RESULT_REQUESTED, result_hash=result_hash)
            self.accepted.append((identifier, result_hash))
            return shape_of(payment, history=None)

    def authorize_refund(self, body: Mapping[str, Any], key: Key) -> dict[str, Any]:
        """`POST /payment/authorize-refund`: queue the seller's consent to a refund."""
        network = self._network(body, key)
        identifier = text_of(body, "blockchainIdentifier", most=IDENTIFIER_MAX)
        states = frozenset({OnChainState.DISPUTED, OnChainState.REFUND_REQUESTED})
        read = self._waiting(identifier, network, states, key)
        with self._lock:
            payment = self._unchanged(identifier, read)
            self._set_action(payment, Action.AUTHORIZE_REFUND_REQUESTED)
            return shape_of(payment, history=None)

    def recover(self, body: Mapping[str, Any], key: Key) -> dict[str, Any]:
        """`POST /payment/error-state-recovery`: clear an error, or try the failed action again."""
        identifier = text_of(body, "blockchainIdentifier", least=1, most=IDENTIFIER_MAX)
        network = self._network(body, key)
        updated = time_of(body, "updatedAt")
        retry = body.get("retryPreviousAction", False)
        if not isinstance(retry, bool):
            raise ServiceError(400, "retryPreviousAction: must be a boolean")
        with self._lock:
            payment = self.payments.get(identifier)
            if payment is None or payment.source.network != network or payment.updated != updated:
                raise ServiceError(
                    404, "Payment request not found with this identifier, or it was changed"
                )
            self._may_change(payment, key)
            action, result_hash = self._recovered(payment, retry=retry)
            confirmed = [entry for entry in payment.transactions if entry.status == "Confirmed"]
            current = payment.transaction
            is_lost = self.loses_transaction and not payment.transactions
            if is_lost or (current is not None and current.status != "Confirmed"):
                payment.transaction = confirmed[-1] if confirmed else None
            self._set_action(payment, action, result_hash=result_hash)
            return shape_of(payment, history=None)

    def _recovered(self, payment: Payment, *, retry: bool) -> tuple[Action, str | None]:
        """Return the action after a recovery, and the hash that goes with it."""
        current = payment.next_action
        state = payment.on_chain_state
        if state is None:
            raise ServiceError(400, "The payment is not on the chain yet: start a new one")
        if current.action is not Action.WAITING_FOR_MANUAL_ACTION:
            raise ServiceError(
                400, f"Payment request is not in WaitingForManualAction: {current.action}"
            )
        if current.error_type is None:
            raise ServiceError(400, "Payment request is not in an error state")
        if not retry:
            if state in FINAL_STATES:
                return Action.NONE, None
            return Action.WAITING_FOR_EXTERNAL_ACTION, None
        if state in FINAL_STATES:
            raise ServiceError(400, "The payment is completed: nothing can be retried")
        return _retried(current, payment.actions)

    # --- the chain and the buyer -----------------------------------------------------------------

    def lock_funds(self, identifier: str, valid: bool = True) -> None:
        """The buyer pays. What is paid after `payByTime`, or wrongly, is invalid."""
        with self._lock:
            payment = self.payments[identifier]
            in_time = self.now_ms <= payment.pay_by
            self._observe(
                payment,
                OnChainState.FUNDS_LOCKED
                if valid and in_time
                else OnChainState.FUNDS_OR_DATUM_INVALID,
            )

    def request_refund(self, identifier: str) -> None:
        """The buyer asks for the money back: a dispute, if there is a result already."""
        with self._lock:
            payment = self.payments[identifier]
            has_result = payment.on_chain_state is OnChainState.RESULT_SUBMITTED
            self._observe(
                payment, OnChainState.DISPUTED if has_result else OnChainState.REFUND_REQUESTED
            )

    def dispute(self, identifier: str) -> None:
        """The buyer disputes a result."""
        self.move(identifier, OnChainState.DISPUTED)

    def move(self, identifier: str, state: OnChainState) -> None:
        """Let the chain show `state`. Raises `IllegalMoveError` if it cannot follow."""
        with self._lock:
            self._observe(self.payments[identifier], state)

    def fail_next(self, identifier: str) -> None:
        """Let the next step of this payment on the chain fail."""
        with self._lock:
            self._fail_next.add(identifier)

    def tick(self) -> int:
        """Take every payment one step further. Returns how many moved."""
        with self._lock:
            return sum([self._step(payment) for payment in list(self.payments.values())])

    def _step(self, payment: Payment) -> bool:
        if payment.on_chain_state is None:
            return self._give_up_unpaid(payment)
        if payment.next_action.action in _QUEUED:
            return self._send(payment)
        if payment.next_action.action in _QUEUED.values():
            self._confirm(payment)
            return True
        return False

    def _give_up_unpaid(self, payment: Payment) -> bool:
        now = self.now_ms
        if now <= payment.pay_by + GRACE_MS:
            return False
        payment.on_chain_state = OnChainState.FUNDS_OR_DATUM_INVALID
        self._fail(payment, f"payByTime ({payment.pay_by}) passed without funds")
        payment.on_chain_changed = payment.changed
        return True

    def _send(self, payment: Payment) -> bool:
        """Send what is queued to the chain, if it is due."""
        entry = payment.next_action
        if not self._is_due(payment, self.now_ms):
            return False
        current = payment.transaction
        if self._fails(payment) or current is None or current.status != "Confirmed":
            # Without a transaction that is on chain, it does not find what it has to spend.
            note = f"{_LABELS[entry.action]} failed: the node refused it"
            self._fail(payment, note, result_hash=entry.result_hash)
        else:
            self._begin_transaction(payment)
            self._set_action(payment, _QUEUED[entry.action], result_hash=entry.result_hash)
        return True

    def _confirm(self, payment: Payment) -> None:
        """Show on the chain what was sent to it."""
        entry = payment.next_action
        if self._fails(payment):
            self._time_out(payment)
        elif entry.action is Action.SUBMIT_RESULT_INITIATED:
            assert payment.on_chain_state is not None, BUG
            state = AFTER_SUBMIT[payment.on_chain_state]
            self._observe(payment, state, result_hash=entry.result_hash, by_seller=True)
        elif payment.source.type == V2:
            self._observe(payment, OnChainState.REFUND_AUTHORIZED, by_seller=True)
        else:
            self._observe(payment, OnChainState.REFUND_REQUESTED, result_hash="", by_seller=True)

    def _is_due(self, payment: Payment, now: int) -> bool:
        """Return whether the queue takes this payment now: deadlines and cooldown."""
        entry = payment.next_action
        state = payment.on_chain_state
        is_cooling = payment.seller_cooldown and payment.seller_cooldown >= now - self.cooldown_ms
        if entry.error_type is not None or is_cooling:
            return False
        if entry.action is Action.AUTHORIZE_REFUND_REQUESTED:
            return payment.source.type == V2 or state is OnChainState.DISPUTED
        if entry.result_hash is None or state not in SUBMITTABLE:
            return False
        if payment.submit_by > now + SLACK_MS:
            return True
        is_disputed = state is OnChainState.DISPUTED and payment.source.type == V2
        return is_disputed and payment.dispute_unlock > now + SLACK_MS

    def _fails(self, payment: Payment) -> bool:
        if payment.identifier in self._fail_next:
            self._fail_next.discard(payment.identifier)
            return True
        return self._random.random() < self.chain_failures

    def _fail(self, payment: Payment, note: str, result_hash: str | None = None) -> None:
        """Park the payment. The hash that was not sent stays with the error."""
        self._set_action(
            payment, Action.WAITING_FOR_MANUAL_ACTION, result_hash=result_hash, error=note
        )

    def _time_out(self, payment: Payment) -> None:
        """Give up a transaction. The payment then waits for its seller, with an error and no hash.

        The transaction stays the current one: what is submitted now fails, until it is recovered.
        """
        assert payment.transaction is not None, BUG
        payment.transaction.status = "FailedViaTimeout"
        payment.transaction.updated = self.now_ms
        self._set_action(payment, Action.WAITING_FOR_EXTERNAL_ACTION, error="Timeout when waiting")

    def _observe(
        self,
        payment: Payment,
        state: OnChainState,
        *,
        result_hash: str | None = None,
        by_seller: bool = False,
    ) -> None:
        """The chain shows `state`: note it, and what follows from it.

        As in the service, the new action has no hash. A result that was queued and not yet on the
        chain is therefore lost, and the payment waits in `SubmitResultRequested` for ever.
        """
        previous = payment.on_chain_state
        if state not in MOVES[previous]:
            raise IllegalMoveError(f"{previous} cannot become {state}")
        now = self.now_ms
        if not by_seller or payment.transaction is None:
            self._begin_transaction(payment)
        transaction = payment.transaction
        assert transaction is not None, BUG
        transaction.status = "Confirmed"
        transaction.previous, transaction.new, transaction.updated = previous, state, now
        old = payment.next_action
        action, error = TRANSITIONS[old.action][state]
        note = error if old.error_note is None else f"{old.error_note}({old.action}) -> {error}"
        is_new = result_hash is not None and result_hash != payment.result_hash
        payment.on_chain_state = state
        if result_hash is not None:
            payment.result_hash = result_hash
        if by_seller:
            payment.seller_cooldown = now + self.cooldown_ms + COOLDOWN_EXTRA_MS
        self._set_action(payment, action, error=note, is_error=error is not None)
        if is_new or previous is not state:
            payment.on_chain_changed = payment.changed

    # --- writing ---------------------------------------------------------------------------------

    def _set_action(
        self,
        payment: Payment,
        action: Action,
        *,
        result_hash: str | None = None,
        error: str | None = None,
        is_error: bool | None = None,
    ) -> None:
        now = self.now_ms
        has_error = error is not None if is_error is None else is_error
        payment.actions.append(payment.next_action)
        payment.next_action = ActionEntry(
            self._id(), now, action, "Unknown" if has_error else None, error, result_hash
        )
        # The database stamps a change with the start of its transaction, and shows it at its end.
        began = max(payment.updated, now - self._random.randint(0, self.late_ms))
        payment.next_action_changed = payment.changed = began
        payment.updated = now

    def _begin_transaction(self, payment: Payment) -> None:
        now = self.now_ms
        if payment.transaction is not None:
            payment.transactions.append(payment.transaction)
        payment.transaction = Transaction(self._id(), now, now, self._hex(32), "Pending")

    def _unchanged(self, identifier: str, read: ActionEntry) -> Payment:
        """Return the payment if its next action is still the one that was read, else 409."""
        payment = self.payments[identifier]
        if payment.next_action is not read:
            raise ServiceError(
                409, "Payment state changed concurrently; retry against the new state"
            )
        return payment

    def _waiting(
        self, identifier: str, network: str, states: frozenset[OnChainState], key: Key
    ) -> ActionEntry:
        """Return the next action of a payment that waits in one of these states, else 404."""
        with self._lock:
            payment = self.payments.get(identifier)
            if (
                payment is None
                or payment.on_chain_state not in states
                or payment.next_action.action is not Action.WAITING_FOR_EXTERNAL_ACTION
                or payment.source.network != network
                or payment.transaction is None
            ):
                raise ServiceError(404, "Payment not found or in invalid state")
            self._may_change(payment, key)
            return payment.next_action

    @staticmethod
    def _may_change(payment: Payment, key: Key) -> None:
        if payment.key_id != key.id and not key.is_admin:
            raise ServiceError(403, "You are not authorized to change this payment")

    # --- reading ---------------------------------------------------------------------------------

    def _network(self, values: Mapping[str, Any], key: Key) -> str:
        network = choice_of(values, "network", NETWORKS)
        if network is None:
            raise ServiceError(400, "network: required")
        if network not in key.networks:
            raise ServiceError(401, "Unauthorized, network not allowed")
        return network

    def _selected(self, query: Mapping[str, Any], key: Key) -> Iterable[Payment]:
        """Return the payments of the sources asked for: of version 1, unless the query says."""
        network = self._network(query, key)
        source_type = choice_of(query, "filterPaymentSourceType", self.source_types)
        address = query.get("filterSmartContractAddress")
        if source_type is None and address is None:
            source_type = V1
        return [
            payment
            for payment in self.payments.values()
            if payment.source.network == network
            and source_type in {None, payment.source.type}
            and address in {None, payment.source.address}
        ]

    def _page(self, payments: Iterable[Payment], query: Mapping[str, Any]) -> dict[str, Any]:
        history = with_history(query)
        return {"Payments": [shape_of(payment, history=history) for payment in payments]}

    # --- ids -------------------------------------------------------------------------------------

    def _source_of(self, agent: str, network: str) -> Source:
        for source in self.sources:
            if source.network == network and agent.startswith(source.policy_id):
                return source
        raise ServiceError(404, "Network and policyId combination not supported")

    def _new_source(self, network: str, source_type: str) -> Source:
        prefix = "addr1" if network == MAINNET else "addr_test1"
        return Source(self._id(), network, source_type, f"{prefix}w{self._hex(20)}", self._hex(28))

    def _id(self) -> str:
        """Return an id such as the service's: no order follows from it."""
        return "c" + self._hex(12)

    def _hex(self, size: int) -> str:
        return self._random.randbytes(size).hex()


def _retried(failed: ActionEntry, history: list[ActionEntry]) -> tuple[Action, str | None]:
    """Return the action that starts again after `failed`, and its hash."""
    previous = history[-1]
    action = RETRIES.get(previous.action)
    if action is None:
        raise ServiceError(400, "The immediately preceding payment action is not retryable")
    if action is not Action.SUBMIT_RESULT_REQUESTED:
        return action, None
    result_hash = failed.result_hash or previous.result_hash
    if result_hash is None:
        raise ServiceError(400, "The failed submit-result action has no result hash to retry")
    return action, result_hash


_QUEUED: Final = {
    Action.SUBMIT_RESULT_REQUESTED: Action.SUBMIT_RESULT_INITIATED,
    Action.AUTHORIZE_REFUND_REQUESTED: Action.AUTHORIZE_REFUND_INITIATED,
}
"""What is queued, and what it becomes once it was sent to the chain."""
_LABELS: Final = {
    Action.SUBMIT_RESULT_REQUESTED: "Submitting result",
    Action.SUBMIT_RESULT_INITIATED: "Submitting result",
    Action.AUTHORIZE_REFUND_REQUESTED: "Authorizing refund",
    Action.AUTHORIZE_REFUND_INITIATED: "Authorizing refund",
}


def _needs_manual_action(payment: Payment) -> bool:
    entry = payment.next_action
    return entry.action is Action.WAITING_FOR_MANUAL_ACTION or entry.error_type is not None

"""The stand-in without HTTP: what is accepted, and what the chain makes of it."""

from typing import Any

import pytest

from tests.payment_service.caller import Clock
from tests.payment_service.service import (
    MINUTE_MS,
    V1,
    V2,
    IllegalMoveError,
    PaymentService,
    ServiceError,
)
from tests.payment_service.states import Action, OnChainState

HASH = "ab" * 32
OTHER = "cd" * 32
WAITING = "WaitingForExternalAction"
MANUAL = "WaitingForManualAction"


def paid(service: PaymentService, **body: Any) -> str:
    identifier: str = service.create(**body)["blockchainIdentifier"]
    service.lock_funds(identifier)
    return identifier


def submit(service: PaymentService, identifier: str, result_hash: str = HASH) -> dict[str, Any]:
    return service.submit_result(
        {
            "network": "Preprod",
            "blockchainIdentifier": identifier,
            "submitResultHash": result_hash,
        },
        service.key,
    )


def resolve(service: PaymentService, identifier: str) -> dict[str, Any]:
    body = {"network": "Preprod", "blockchainIdentifier": identifier}
    return service.resolve(body, service.key)


def state(service: PaymentService, identifier: str) -> tuple[str | None, str]:
    payment = service.payments[identifier]
    return payment.on_chain_state, payment.next_action.action


def recover(service: PaymentService, identifier: str, *, retry: bool) -> dict[str, Any]:
    return service.recover(
        {
            "network": "Preprod",
            "blockchainIdentifier": identifier,
            "updatedAt": resolve(service, identifier)["updatedAt"],
            "retryPreviousAction": retry,
        },
        service.key,
    )


def refused(status: int) -> Any:
    return pytest.raises(ServiceError, check=lambda error: error.status == status)


# --- create --------------------------------------------------------------------------------------


def test_a_new_payment_waits_for_its_buyer(service: PaymentService) -> None:
    payment = service.create()
    assert payment["onChainState"] is None
    assert payment["NextAction"]["requestedAction"] == WAITING
    assert payment["resultHash"] == ""
    assert payment["payByTime"] == str(service.now_ms + 60 * MINUTE_MS)
    assert service.create()["blockchainIdentifier"] != payment["blockchainIdentifier"]


@pytest.mark.parametrize(
    ("minutes", "is_taken"),
    [
        ((10, 15, 30, 45), True),
        ((-5, 15, 30, 45), True),
        ((-6, 15, 30, 45), False),
        ((11, 15, 30, 45), False),
        ((9, 14, 30, 45), False),
        ((10, 15, 29, 45), False),
        ((10, 15, 30, 44), False),
    ],
)
def test_times_keep_their_distances(
    service: PaymentService, minutes: tuple[int, ...], is_taken: bool
) -> None:
    names = ("payByTime", "submitResultTime", "unlockTime", "externalDisputeUnlockTime")
    times: dict[str, Any] = {
        name: service.now_ms + minute * MINUTE_MS
        for name, minute in zip(names, minutes, strict=True)
    }
    if is_taken:
        service.create(**times)
    else:
        with refused(400):
            service.create(**times)
    assert len(service.payments) == is_taken


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {"identifierFromPurchaser": "a" * 13}),
        (400, {"identifierFromPurchaser": "a" * 27}),
        (400, {"identifierFromPurchaser": "xyzxyzxyzxyzxyzxyz"}),
        (400, {"inputHash": "no hex"}),
        (400, {"inputHash": None}),
        (400, {"agentIdentifier": "a" * 56}),
        (404, {"agentIdentifier": "a" * 57}),
        (400, {"network": "Preview"}),
        (400, {"paymentSourceType": V2}),
        (400, {"supportedPaymentSourceIndex": 0}),
        (400, {"submitResultTime": "2030-01-01T00:00:00+00:00"}),
        (400, {"submitResultTime": "soon"}),
        (400, {"submitResultTime": "2030-13-01T00:00:00Z"}),
    ],
)
def test_an_invalid_payment_is_refused(
    service: PaymentService, status: int, body: dict[str, Any]
) -> None:
    with refused(status):
        service.create(**body)
    assert not service.payments


def test_a_payment_of_version_2_names_its_source(service: PaymentService) -> None:
    agent = service.agent_of(source_type=V2)
    with refused(400):
        service.create(agentIdentifier=agent)
    payment = service.create(agentIdentifier=agent, supportedPaymentSourceIndex=0)
    assert payment["PaymentSource"]["paymentSourceType"] == V2


# --- paying --------------------------------------------------------------------------------------


def test_funds_are_valid_until_the_last_second(service: PaymentService, clock: Clock) -> None:
    in_time, late, wrong = (service.create()["blockchainIdentifier"] for _ in range(3))
    service.lock_funds(wrong, valid=False)
    clock.now_s += 3600
    service.lock_funds(in_time)
    clock.now_s += 1
    service.lock_funds(late)
    assert state(service, in_time) == ("FundsLocked", WAITING)
    assert state(service, late) == ("FundsOrDatumInvalid", MANUAL)
    assert state(service, wrong) == ("FundsOrDatumInvalid", MANUAL)
    assert resolve(service, wrong)["NextAction"]["errorType"] == "Unknown"


def test_an_unpaid_payment_is_given_up(service: PaymentService, clock: Clock) -> None:
    identifier = service.create()["blockchainIdentifier"]
    clock.now_s += 3600 + 300
    assert service.tick() == 0
    assert state(service, identifier) == (None, WAITING)
    clock.now_s += 1
    assert service.tick() == 1
    assert state(service, identifier) == ("FundsOrDatumInvalid", MANUAL)
    with pytest.raises(IllegalMoveError):
        service.lock_funds(identifier)


# --- submitting ----------------------------------------------------------------------------------


def test_a_result_gets_onto_the_chain(service: PaymentService) -> None:
    identifier = paid(service)
    seen = [submit(service, identifier)]
    while service.tick():
        seen.append(resolve(service, identifier))
    assert [
        (p["onChainState"], p["NextAction"]["requestedAction"], p["resultHash"]) for p in seen
    ] == [
        ("FundsLocked", "SubmitResultRequested", ""),
        ("FundsLocked", "SubmitResultInitiated", ""),
        ("ResultSubmitted", WAITING, HASH),
    ]
    assert [p["NextAction"]["resultHash"] for p in seen] == [HASH, HASH, None]
    assert service.accepted == [(identifier, HASH)]


def test_a_repeat_finds_no_payment_at_any_time(service: PaymentService) -> None:
    identifier = paid(service)
    submit(service, identifier)
    for _ in range(3):
        with refused(404):
            submit(service, identifier)
        service.tick()
    assert service.accepted == [(identifier, HASH)]


def test_only_one_of_two_concurrent_submits_wins(service: PaymentService) -> None:
    identifier = paid(service)

    def intrude(found: str) -> None:
        service.before_write = lambda _: None
        submit(service, found, OTHER)

    service.before_write = intrude
    with refused(409):
        submit(service, identifier)
    assert service.accepted == [(identifier, OTHER)]
    assert resolve(service, identifier)["NextAction"]["resultHash"] == OTHER


def test_a_foreign_key_changes_nothing(service: PaymentService) -> None:
    identifier = paid(service)
    body = {
        "network": "Preprod",
        "blockchainIdentifier": identifier,
        "submitResultHash": HASH,
    }
    with refused(403):
        service.submit_result(body, service.add_key())
    assert not service.accepted
    service.submit_result(body, service.add_key(is_admin=True))
    assert len(service.accepted) == 1


@pytest.mark.parametrize("result_hash", ["ab" * 31, "ab" * 33, "xy" * 32, None, 7])
def test_only_a_sha256_is_taken(service: PaymentService, result_hash: Any) -> None:
    identifier = paid(service)
    with refused(400):
        submit(service, identifier, result_hash)


def test_without_funds_nothing_is_taken(service: PaymentService) -> None:
    identifier = service.create()["blockchainIdentifier"]
    with refused(404):
        submit(service, identifier)
    service.lock_funds(identifier, valid=False)
    with refused(404):
        submit(service, identifier)


def test_a_result_after_a_refund_request_is_a_dispute(service: PaymentService) -> None:
    identifier = paid(service)
    service.request_refund(identifier)
    submit(service, identifier)
    service.tick()
    service.tick()
    assert state(service, identifier) == ("Disputed", WAITING)
    assert resolve(service, identifier)["resultHash"] == HASH


def test_a_dispute_takes_another_hash(service: PaymentService, clock: Clock) -> None:
    identifier = paid(service)
    submit(service, identifier)
    service.tick()
    service.tick()
    service.request_refund(identifier)
    assert state(service, identifier) == ("Disputed", WAITING)
    submit(service, identifier, OTHER)
    assert service.tick() == 0  # the cooldown after the first result
    clock.now_s += 60 * (7 + 10 + 7) + 1
    assert service.tick() == 1
    service.tick()
    assert resolve(service, identifier)["resultHash"] == OTHER


def test_near_the_deadline_nothing_is_sent(service: PaymentService, clock: Clock) -> None:
    identifier = paid(service)
    submit(service, identifier)
    clock.now_s += 7200 - 300
    assert service.tick() == 0
    assert state(service, identifier) == ("FundsLocked", "SubmitResultRequested")
    clock.now_s -= 1
    assert service.tick() == 1


@pytest.mark.parametrize("source_type", [V1, V2])
def test_in_a_dispute_version_2_sends_for_longer(
    service: PaymentService, clock: Clock, source_type: str
) -> None:
    body = {"supportedPaymentSourceIndex": 0} if source_type == V2 else {}
    agent = service.agent_of(source_type=source_type)
    first, second = (paid(service, agentIdentifier=agent, **body) for _ in range(2))
    for identifier in (first, second):
        submit(service, identifier)
    service.tick()
    service.tick()
    for identifier in (first, second):
        service.dispute(identifier)
    clock.now_s += 4 * 3600 - 301  # two hours after submitResultTime
    submit(service, first, OTHER)
    assert service.tick() == (source_type == V2)
    clock.now_s += 1
    submit(service, second, OTHER)
    service.tick()
    assert state(service, second) == ("Disputed", "SubmitResultRequested")


def test_the_network_must_be_the_payments(service: PaymentService) -> None:
    identifier = paid(service)
    body = {
        "network": "Mainnet",
        "blockchainIdentifier": identifier,
        "submitResultHash": HASH,
    }
    with refused(404):
        service.submit_result(body, service.key)


def test_what_is_queued_with_an_error_is_not_sent(service: PaymentService, clock: Clock) -> None:
    agent = service.agent_of(source_type=V2)
    identifier = paid(service, agentIdentifier=agent, supportedPaymentSourceIndex=0)
    submit(service, identifier)
    service.tick()
    service.tick()
    service.dispute(identifier)
    clock.now_s += 3600
    service.authorize_refund(
        {"network": "Preprod", "blockchainIdentifier": identifier}, service.key
    )
    service.tick()
    service.move(identifier, OnChainState.RESULT_SUBMITTED)  # the buyer was faster
    assert state(service, identifier) == ("ResultSubmitted", "AuthorizeRefundRequested")
    assert resolve(service, identifier)["NextAction"]["errorType"] == "Unknown"
    assert service.tick() == 0


def test_a_refund_request_loses_what_was_queued(service: PaymentService) -> None:
    identifier = paid(service)
    submit(service, identifier)
    service.request_refund(identifier)
    assert state(service, identifier) == ("RefundRequested", "SubmitResultRequested")
    assert resolve(service, identifier)["NextAction"]["resultHash"] is None
    assert service.tick() == 0


def test_the_chain_refuses_impossible_moves(service: PaymentService) -> None:
    identifier = paid(service)
    with pytest.raises(IllegalMoveError):
        service.dispute(identifier)  # there is no result yet
    service.move(identifier, OnChainState.REFUND_WITHDRAWN)
    with pytest.raises(IllegalMoveError):
        service.lock_funds(identifier)
    assert state(service, identifier) == ("RefundWithdrawn", "None")


# --- failures and recovery -----------------------------------------------------------------------


def test_a_failed_step_can_be_tried_again(service: PaymentService) -> None:
    identifier = paid(service)
    submit(service, identifier)
    service.fail_next(identifier)
    service.tick()
    assert state(service, identifier) == ("FundsLocked", MANUAL)
    failed = resolve(service, identifier)["NextAction"]
    assert failed["errorType"] == "Unknown"
    assert failed["errorNote"].startswith("Submitting result failed: ")
    assert failed["resultHash"] == HASH
    again = recover(service, identifier, retry=True)["NextAction"]
    assert (again["requestedAction"], again["resultHash"]) == ("SubmitResultRequested", HASH)
    service.tick()
    service.tick()
    assert resolve(service, identifier)["resultHash"] == HASH
    assert service.accepted == [(identifier, HASH)]


def test_after_a_timeout_a_hash_is_sent_once_recovered(service: PaymentService) -> None:
    identifier = paid(service)
    submit(service, identifier)
    service.tick()
    service.fail_next(identifier)
    service.tick()
    assert state(service, identifier) == ("FundsLocked", WAITING)
    failed = resolve(service, identifier)
    assert (failed["NextAction"]["errorType"], failed["NextAction"]["resultHash"]) == (
        "Unknown",
        None,
    )
    assert failed["CurrentTransaction"]["status"] == "FailedViaTimeout"
    submit(service, identifier)
    service.tick()
    assert state(service, identifier) == ("FundsLocked", MANUAL)
    recover(service, identifier, retry=False)
    submit(service, identifier)
    service.tick()
    service.tick()
    assert resolve(service, identifier)["resultHash"] == HASH


def test_a_cleared_error_takes_a_new_hash(service: PaymentService) -> None:
    identifier = paid(service)
    submit(service, identifier)
    service.fail_next(identifier)
    service.tick()
    cleared = recover(service, identifier, retry=False)["NextAction"]
    assert (cleared["requestedAction"], cleared["errorType"]) == (WAITING, None)
    submit(service, identifier, OTHER)
    assert len(service.accepted) == 2


def test_a_lost_transaction_makes_a_retry_fail(clock: Clock) -> None:
    service = PaymentService(clock=clock, loses_transaction=True)
    identifier = paid(service)
    submit(service, identifier)
    service.fail_next(identifier)
    service.tick()
    for _ in range(2):
        recover(service, identifier, retry=True)
        service.tick()
        assert state(service, identifier) == ("FundsLocked", MANUAL)


def test_a_recovery_names_the_state_that_it_saw(service: PaymentService, clock: Clock) -> None:
    identifier = paid(service)
    seen = resolve(service, identifier)["updatedAt"]
    submit(service, identifier)
    service.fail_next(identifier)
    clock.now_s += 1
    service.tick()
    body = {"network": "Preprod", "blockchainIdentifier": identifier, "updatedAt": seen}
    with refused(404):
        service.recover(body, service.key)
    body["updatedAt"] = resolve(service, identifier)["updatedAt"]
    with refused(403):
        service.recover(body, service.add_key())
    service.recover(body, service.key)


def test_only_an_error_can_be_recovered(service: PaymentService) -> None:
    identifier = service.create()["blockchainIdentifier"]
    with refused(400):
        recover(service, identifier, retry=False)
    service.lock_funds(identifier)
    with refused(400):
        recover(service, identifier, retry=False)


def test_invalid_funds_cannot_be_tried_again(service: PaymentService) -> None:
    identifier = service.create()["blockchainIdentifier"]
    service.lock_funds(identifier, valid=False)
    with refused(400):
        recover(service, identifier, retry=True)
    recover(service, identifier, retry=False)
    assert state(service, identifier) == ("FundsOrDatumInvalid", WAITING)


def test_a_finished_payment_is_not_tried_again(service: PaymentService) -> None:
    identifier = paid(service)
    submit(service, identifier)
    service.move(identifier, OnChainState.REFUND_WITHDRAWN)
    assert state(service, identifier) == ("RefundWithdrawn", MANUAL)
    with refused(400):
        recover(service, identifier, retry=True)
    assert recover(service, identifier, retry=False)["NextAction"]["requestedAction"] == "None"


def test_the_chain_fails_by_seed(clock: Clock) -> None:
    def failed(seed: int) -> list[bool]:
        service = PaymentService(seed, clock=clock, chain_failures=0.5)
        identifiers = [paid(service) for _ in range(40)]
        for identifier in identifiers:
            submit(service, identifier)
        service.tick()
        return [state(service, identifier)[1] == MANUAL for identifier in identifiers]

    assert failed(1) == failed(1)
    assert 5 < sum(failed(1)) < 35
    assert failed(1) != failed(2)


@pytest.mark.parametrize(
    ("source_type", "after"), [(None, "RefundRequested"), (V2, "RefundAuthorized")]
)
def test_a_refund_can_be_authorized(
    service: PaymentService, clock: Clock, source_type: str | None, after: str
) -> None:
    body = {} if source_type is None else {"supportedPaymentSourceIndex": 0}
    agent = service.agent_of(source_type=source_type) if source_type else service.agent
    identifier = paid(service, agentIdentifier=agent, **body)
    submit(service, identifier)
    service.tick()
    service.tick()
    service.dispute(identifier)
    asked = {"network": "Preprod", "blockchainIdentifier": identifier}
    assert service.authorize_refund(asked, service.key)["NextAction"]["requestedAction"] == (
        "AuthorizeRefundRequested"
    )
    with refused(404):
        service.authorize_refund(asked, service.key)
    clock.now_s += 3600
    service.tick()
    service.tick()
    assert state(service, identifier) == (after, WAITING)


def test_the_history_is_shown_on_request(service: PaymentService) -> None:
    identifier = paid(service)
    submit(service, identifier)
    assert resolve(service, identifier)["ActionHistory"] is None
    body = {
        "network": "Preprod",
        "blockchainIdentifier": identifier,
        "includeHistory": "true",
    }
    shown = service.resolve(body, service.key)
    assert [entry["requestedAction"] for entry in shown["ActionHistory"]] == [WAITING, WAITING]
    service.tick()
    shown = service.resolve(body, service.key)
    assert [entry["status"] for entry in shown["TransactionHistory"]] == ["Confirmed"]
    assert shown["CurrentTransaction"]["status"] == "Pending"


def test_equal_seeds_give_equal_answers(clock: Clock) -> None:
    first, second = PaymentService(5, clock=clock), PaymentService(5, clock=clock)
    assert first.create() == second.create()
    assert first.create() != PaymentService(6, clock=clock).create()


def test_actions_are_written_as_text(service: PaymentService) -> None:
    assert str(Action.NONE) == "None"
    assert f"{OnChainState.DISPUTED}" == "Disputed"

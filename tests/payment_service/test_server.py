"""The stand-in over HTTP."""

from tests.payment_service.conftest import Caller
from tests.payment_service.service import PaymentService

HASH = "ab" * 32
OTHER = "cd" * 32


def paid(service: PaymentService) -> str:
    identifier: str = service.create()["blockchainIdentifier"]
    service.lock_funds(identifier)
    return identifier


def test_a_result_gets_onto_the_chain(service: PaymentService, call: Caller) -> None:
    identifier = paid(service)
    body = {"network": "Preprod", "blockchainIdentifier": identifier}
    status, answer = call("POST", "/payment/submit-result", **body, submitResultHash=HASH)
    assert (status, answer["status"]) == (200, "success")
    seen = [answer["data"]]
    while service.tick():
        status, answer = call("POST", "/payment/resolve-blockchain-identifier", **body)
        assert status == 200
        seen.append(answer["data"])
    assert [
        (p["onChainState"], p["NextAction"]["requestedAction"], p["resultHash"]) for p in seen
    ] == [
        ("FundsLocked", "SubmitResultRequested", ""),
        ("FundsLocked", "SubmitResultInitiated", ""),
        ("ResultSubmitted", "WaitingForExternalAction", HASH),
    ]
    assert [p["NextAction"]["resultHash"] for p in seen] == [HASH, HASH, None]
    assert service.accepted == [(identifier, HASH)]


def test_a_repeated_submit_finds_no_payment(service: PaymentService, call: Caller) -> None:
    identifier = paid(service)
    body = {
        "network": "Preprod",
        "blockchainIdentifier": identifier,
        "submitResultHash": HASH,
    }
    assert call("POST", "/payment/submit-result", **body)[0] == 200
    assert call("POST", "/payment/submit-result", **body) == (
        404,
        {"status": "error", "error": {"message": "Payment not found or in invalid state"}},
    )
    assert len(service.accepted) == 1

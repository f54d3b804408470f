"""The stand-in over HTTP, with and without faults."""

import http.client
import threading
import urllib.parse
from typing import Any

import pytest

from tests.payment_service.caller import Caller
from tests.payment_service.faults import DONE, Fault
from tests.payment_service.server import BODY_MAX, Server
from tests.payment_service.service import PaymentService

HASH = "ab" * 32


def paid(service: PaymentService) -> dict[str, str]:
    """Return the body of a call about a paid payment."""
    identifier: str = service.create()["blockchainIdentifier"]
    service.lock_funds(identifier)
    return {"network": "Preprod", "blockchainIdentifier": identifier}


def test_all_calls_work_over_http(service: PaymentService, call: Caller) -> None:
    status, created = call(
        "POST",
        "/payment",
        network="Preprod",
        inputHash="00" * 32,
        agentIdentifier=service.agent,
        identifierFromPurchaser="aabbccddeeff0011",
        payByTime="2027-01-15T09:00:00.000Z",
        submitResultTime="2027-01-15T10:00:00Z",
    )
    assert (status, created["status"]) == (200, "success")
    payment = created["data"]
    assert payment["unlockTime"] == str(int(payment["submitResultTime"]) + 6 * 3_600_000)
    identifier = payment["blockchainIdentifier"]
    body = {"network": "Preprod", "blockchainIdentifier": identifier}
    service.lock_funds(identifier)
    resolved = call("POST", "/payment/resolve-blockchain-identifier", **body)[1]["data"]
    assert resolved["onChainState"] == "FundsLocked"
    assert call("POST", "/payment/submit-result", **body, submitResultHash=HASH)[0] == 200
    service.fail_next(identifier)
    service.tick()
    failed = call("GET", "/payment/diff", network="Preprod")[1]["data"]["Payments"][0]
    assert failed["NextAction"]["requestedAction"] == "WaitingForManualAction"
    status, again = call(
        "POST",
        "/payment/error-state-recovery",
        **body,
        updatedAt=failed["updatedAt"],
        retryPreviousAction=True,
    )
    assert again["data"]["NextAction"]["requestedAction"] == "SubmitResultRequested"
    service.tick()
    service.tick()
    service.dispute(identifier)
    assert call("POST", "/payment/authorize-refund", **body)[0] == 200
    assert len(call("GET", "/payment/", network="Preprod")[1]["data"]["Payments"]) == 1
    for part in ("next-action", "onchain-state-or-result"):
        assert len(call("GET", f"/payment/diff/{part}", network="Preprod")[1]["data"]["Payments"])


def test_a_refusal_is_json_with_a_message(service: PaymentService, call: Caller) -> None:
    body = {**paid(service), "submitResultHash": HASH}
    assert call("POST", "/payment/submit-result", **body)[0] == 200
    assert call("POST", "/payment/submit-result", **body) == (
        404,
        {"status": "error", "error": {"message": "Payment not found or in invalid state"}},
    )


def test_a_token_is_needed_except_for_health(service: PaymentService, call: Caller) -> None:
    for token in ("", "unknown"):
        call.headers["token"] = token
        assert call("GET", "/payment", network="Preprod")[0] == 401
    assert call("GET", "/health") == (200, {"status": "success", "data": {"status": "ok"}})
    call.headers["token"] = service.add_key(can_pay=False).token
    assert call("GET", "/payment", network="Preprod")[0] == 200
    assert call("POST", "/payment/submit-result", **paid(service))[0] == 401


def test_an_unknown_path_is_not_found(call: Caller) -> None:
    assert call("GET", "/payments")[0] == 404
    assert call("POST", "/health")[0] == 404
    assert call("GET", "/payment/submit-result")[0] == 404


def test_a_body_that_is_no_json_object_is_refused(service: PaymentService, call: Caller) -> None:
    parts = urllib.parse.urlsplit(call.server.url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=10)
    for text in ("{", "[]"):
        headers = {"token": call.server.token, "Content-Type": "application/json"}
        connection.request("POST", parts.path + "/payment/submit-result", text, headers)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 400
    connection.close()
    call.headers["Content-Type"] = "text/plain"
    assert call("POST", "/payment/resolve-blockchain-identifier", **paid(service))[0] == 400


def test_a_body_has_a_limit(call: Caller) -> None:
    status, _ = call("POST", "/payment", metadata="a" * BODY_MAX)
    assert status == 413


@pytest.mark.parametrize("fault", Fault)
def test_a_fault_has_its_effect_or_none(
    service: PaymentService, call: Caller, fault: Fault
) -> None:
    service.faults.slow_s = 0.01
    service.faults.plan("submit-result", fault)
    body = {**paid(service), "submitResultHash": HASH}
    status: int | None = None
    headers: dict[str, str] = {}
    text = b""
    if fault is Fault.HALF:
        with pytest.raises(http.client.IncompleteRead):
            call.raw("POST", "/payment/submit-result", **body)
    else:
        status, headers, text = call.raw("POST", "/payment/submit-result", **body)
    assert (
        status
        == {
            Fault.ERROR_BEFORE: 500,
            Fault.ERROR_AFTER: 500,
            Fault.CONFLICT: 409,
            Fault.SLOW: 200,
            Fault.HTML_OK: 200,
            Fault.HTML_ERROR: 502,
            Fault.HALF: None,
            Fault.TOO_MANY: 429,
        }[fault]
    )
    assert text.startswith(b"<!doctype") == (fault in {Fault.HTML_OK, Fault.HTML_ERROR})
    assert headers.get("Retry-After") == ("1" if fault is Fault.TOO_MANY else None)
    assert len(service.accepted) == (fault in DONE)
    # The same call once more finds what the first one did.
    expected = 404 if fault in DONE else 200
    assert call("POST", "/payment/submit-result", **body)[0] == expected
    assert len(service.accepted) == 1


def test_of_many_concurrent_submits_one_is_accepted(service: PaymentService, call: Caller) -> None:
    body = paid(service)
    callers = 8
    gate = threading.Barrier(callers, timeout=10)
    service.before_write = lambda _: None if gate.broken else _wait(gate)
    statuses: list[int] = []

    def submit(number: int) -> None:
        status, _ = call(
            "POST", "/payment/submit-result", **body, submitResultHash=f"{number:064x}"
        )
        statuses.append(status)

    threads = [threading.Thread(target=submit, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200, *[409] * (callers - 1)]
    assert len(service.accepted) == 1


def _wait(gate: threading.Barrier) -> None:
    gate.wait()


def test_a_server_can_be_started_again_at_its_port(service: PaymentService) -> None:
    server = Server(service)
    addresses = []
    for _ in range(2):
        with server:
            addresses.append(server.url)
            assert Caller(server)("GET", "/health")[0] == 200
    assert addresses[0] == addresses[1]
    with pytest.raises(ConnectionRefusedError):
        Caller(server)("GET", "/health")


def test_the_end_closes_idle_connections(service: PaymentService) -> None:
    with Server(service) as server:
        parts = urllib.parse.urlsplit(server.url)
        connection = http.client.HTTPConnection(parts.netloc, timeout=10)
        connection.request("GET", parts.path + "/health")
        connection.getresponse().read()
        idle: Any = connection.sock
    assert idle.recv(1) == b""
    connection.close()

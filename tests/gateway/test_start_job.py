"""Hiring over HTTP: the payment, the job, repeats, and what is refused."""

import gzip
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import pytest

from tests.gateway.conftest import Town, running_paid
from tests.gateway.running import FREE, PAID, PURCHASER, running_gateway
from tests.payment_service.faults import Fault
from tollgate.domain.hashing import input_hash
from tollgate.testing import Broker

BODY: dict[str, Any] = {"identifier_from_purchaser": PURCHASER, "input_data": {"topic": "tolls"}}
TWICE = b'{"identifier_from_purchaser": "aabbccddeeff0011", "input_data": {%b}}'
TIMES = ("payByTime", "submitResultTime", "unlockTime", "externalDisputeUnlockTime")


def body(topic: str, **more: Any) -> dict[str, Any]:
    return {**BODY, "input_data": {"topic": topic}, **more}


def jobs(town: Town) -> int:
    return town.client.count().total


def test_paid_hire_has_all_fields(town: Town) -> None:
    answer = town.paid.post("/start_job", BODY)
    assert answer.status_code == 200
    told = answer.json()
    payment = town.service.payments[told["blockchainIdentifier"]]
    job = town.client.get(told["id"])
    assert told == {
        "id": job.job_id,
        "job_id": job.job_id,
        "blockchainIdentifier": payment.identifier,
        "payByTime": payment.pay_by,
        "submitResultTime": payment.submit_by,
        "unlockTime": payment.unlock,
        "externalDisputeUnlockTime": payment.dispute_unlock,
        "agentIdentifier": payment.agent,
        "sellerVKey": "5e" * 28,
        "identifierFromPurchaser": PURCHASER,
        "input_hash": input_hash(PURCHASER, BODY["input_data"]),
        "inputHash": input_hash(PURCHASER, BODY["input_data"]),
        "status": "success",
    }
    assert payment.input_hash == told["input_hash"]
    assert (job.status.value, job.queue) == ("awaiting_payment", "writer")
    assert job.input == '{"topic":"tolls"}'
    assert job.settlement is not None
    assert job.pay_by_time is not None
    assert job.submit_result_time is not None
    assert job.pay_by_time.timestamp() * 1_000 == payment.pay_by
    assert job.submit_result_time.timestamp() * 1_000 == payment.submit_by - 600_000


def test_same_hire_is_same_job(town: Town) -> None:
    first = town.paid.post("/start_job", body("again")).json()
    before = len(town.service.payments)
    second = town.paid.post(
        "/start_job",
        {"identifierFromPurchaser": PURCHASER, "inputData": {"topic": "again"}},
    )
    assert second.json() == first
    assert len(town.service.payments) == before


def test_repeat_is_answered_when_ended(town: Town) -> None:
    first = town.paid.post("/start_job", body("ended")).json()
    for status in ("running", "failed"):
        town.client.transition(first["id"], status)
    assert town.paid.post("/start_job", body("ended")).json() == first


def test_repeat_of_a_hire_that_was_never_paid(town: Town) -> None:
    """Its buyer could still pay by the terms of the first answer."""
    first = town.paid.post("/start_job", body("unpaid")).json()
    town.client.cancel(first["id"])
    again = town.paid.post("/start_job", body("unpaid"))
    assert (again.status_code, again.json()["error"]) == (409, "job_conflict")
    assert "another identifier_from_purchaser" in again.json()["message"]


def test_other_purchaser_is_other_job(town: Town) -> None:
    first = town.paid.post("/start_job", body("shared")).json()
    other = body("shared", identifier_from_purchaser="ffeeddccbbaa0099")
    assert town.paid.post("/start_job", other).json()["id"] != first["id"]


def test_equal_hires_at_once_pay_once(town: Town) -> None:
    before = len(town.service.payments)
    town.service.faults.plan("create", Fault.SLOW)  # so that all come while the first waits
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: town.paid.post("/start_job", body("at once")), range(10)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1
    assert len(town.service.payments) == before + 1


@pytest.mark.parametrize("fault", [each for each in Fault if each is not Fault.TOO_MANY])
def test_service_fails_once(town: Town, fault: Fault) -> None:
    town.service.faults.plan("create", fault)
    answer = town.paid.post("/start_job", body(f"fault {fault}"))
    assert answer.status_code == 200
    job = town.client.get(answer.json()["id"])
    assert job.blockchain_identifier == answer.json()["blockchainIdentifier"]
    assert job.blockchain_identifier in town.service.payments


def test_service_is_away(town: Town) -> None:
    before = jobs(town)
    town.service.faults.plan("create", *[Fault.ERROR_BEFORE] * 3)
    answer = town.paid.post("/start_job", body("service away"))
    assert answer.status_code == 503
    assert answer.json()["error"] == "payment_service"
    assert answer.headers["retry-after"] == "5"
    assert jobs(town) == before
    assert town.paid.post("/start_job", body("service away")).status_code == 200


def test_silent_service_is_told_before_the_caller_leaves(tmp_path: Path, town: Town) -> None:
    """Two tries of 6 s would take longer than the 10 s of a request."""
    agent = PAID.format(agent=town.service.agent, url=town.server.url)
    agent = agent.replace("timeout_s = 2", "timeout_s = 6") + "\n[http]\ntimeout_s = 10\n"
    (tmp_path / "token").write_text(town.server.token)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        running_gateway(
            tmp_path,
            agent.replace(str(town.server.port), str(silent.getsockname()[1])),
            town.broker.endpoint,
        ) as gateway,
    ):
        answer = gateway.post("/start_job", body("silent"))
    assert (answer.status_code, answer.json()["error"]) == (503, "payment_service")


def test_service_asks_to_wait(town: Town) -> None:
    town.service.faults.plan("create", Fault.TOO_MANY)
    answer = town.paid.post("/start_job", body("too many"))
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "2"


def test_payment_without_a_seller_starts_no_job(town: Town) -> None:
    before = jobs(town)
    town.server.proxy.changes["create"] = lambda told: {**told, "SmartContractWallet": None}
    try:
        answer = town.paid.post("/start_job", body("no seller"))
    finally:
        del town.server.proxy.changes["create"]
    assert (answer.status_code, answer.json()["error"]) == (503, "payment_service")
    assert jobs(town) == before
    town.paid.logged("names no seller", level="error")


def test_service_refuses_our_key(town: Town) -> None:
    key = town.service.keys.pop(town.server.token)
    answer = town.paid.post("/start_job", body("no key"))
    town.service.keys[town.server.token] = key
    assert answer.status_code == 503
    town.paid.logged("invalid authentication token", level="error")


def test_free_hire_runs_at_once(town: Town) -> None:
    told = town.free.post("/start_job", {"input_data": {"text": "a"}}).json()
    job = town.client.get(told["job_id"])
    assert (job.status.value, job.queue, job.settlement) == ("running", "echo", None)
    assert told["blockchainIdentifier"] == f"FREE-{job.job_id}" == job.blockchain_identifier
    assert len(told["identifierFromPurchaser"]) == 26
    assert told["agentIdentifier"] == "Echo"
    assert [told[name] for name in TIMES] == sorted(told[name] for name in TIMES)
    assert all(10**12 < told[name] < 10**13 for name in TIMES)


def test_free_hire_twice_is_one_job(town: Town) -> None:
    hire = {"input_data": {"text": "b"}, "identifier_from_purchaser": "any name"}
    first = town.free.post("/start_job", hire).json()
    before = jobs(town)
    assert town.free.post("/start_job", hire).json() == first
    assert jobs(town) == before


def test_free_hire_cut_in_half_goes_on(town: Town) -> None:
    hire: dict[str, Any] = {"input_data": {"text": "half"}, "identifier_from_purchaser": "half"}
    first = town.free.post("/start_job", hire).json()
    job = town.client.get(first["id"])
    other = hire | {"identifier_from_purchaser": "other half"}
    expected = input_hash("other half", hire["input_data"])
    job_id = str(uuid5(uuid5(NAMESPACE_URL, "tollgate:agent:Echo"), f"other half;{expected}"))
    town.client.create(
        expected, job_id=job_id, queue="echo", meta=job.meta, input=job.input,
        identifier_from_purchaser="other half", blockchain_identifier=f"FREE-{job_id}",
    )  # fmt: skip
    assert town.free.post("/start_job", other).json()["id"] == job_id
    assert town.client.get(job_id).status.value == "running"


WRONG_BODIES: list[tuple[Any, str]] = [
    (b"", "the body is empty"),
    (b"{", "no JSON"),
    (b"\xff{}", "no JSON"),
    (b'"text"', "must be a JSON object, not a text"),
    (b"[" * 100_000, "nested too deeply"),
    (b'{"input_data": {"topic": NaN}}', "no JSON"),
    ({}, "identifier_from_purchaser is missing"),
    (BODY | {"identifier_from_purchaser": "xyz"}, "14 to 26 hexadecimal digits"),
    (BODY | {"identifier_from_purchaser": "aa"}, "14 to 26 hexadecimal digits"),
    (BODY | {"identifier_from_purchaser": "aa" * 14}, "14 to 26 hexadecimal digits"),
    (BODY | {"identifier_from_purchaser": PURCHASER + "\n"}, "14 to 26 hexadecimal digits"),
    (BODY | {"identifier_from_purchaser": 1}, "must be a text, not a number"),
    (BODY | {"identifierFromPurchaser": "ff" * 8}, "identifierFromPurchaser differ"),
    (BODY | {"input_data": []}, "must be a JSON object, not a list"),
    (BODY | {"input_data": {}}, "does not fit"),
    (BODY | {"input_data": {"topic": "ab"}}, "does not fit"),
    (BODY | {"input_data": {"topic": "abc", "words": 1.5}}, "does not fit"),
    (BODY | {"input_data": {"topic": "abc", "words": 2**53}}, "does not fit"),
    (BODY | {"input_data": {"topic": "abc", "other": 1}}, "does not fit"),
    (b'{"input_data": {"topic": "\\ud800abc"}}', "JSON"),
    (gzip.compress(json.dumps(BODY).encode(), mtime=0), "without a Content-Encoding"),
    (json.dumps(BODY).encode("utf-16"), "no JSON"),
    (b'{"identifier_from_purchaser": "gr\xfcn"}', "no JSON in UTF-8"),
    (b"identifier_from_purchaser=aabbccddeeff0011", "no JSON"),
    (json.dumps(json.dumps(BODY)).encode(), "not a text"),
    (BODY | {"input_data": json.dumps(BODY["input_data"])}, "must be a JSON object, not a text"),
    (TWICE % b'"topic": "tolls", "topic": "taxes"', "topic is twice in one object"),
    (TWICE % b'"topic": "tolls", "to\\u0070ic": "tolls"', "topic is twice in one object"),
    (TWICE % b'"topic": "tolls"}, "input_data": {"topic": "taxes"', "input_data is twice"),
]


@pytest.mark.parametrize(("wrong", "why"), WRONG_BODIES)
def test_wrong_body_is_refused(town: Town, wrong: Any, why: str) -> None:
    before, payments = jobs(town), len(town.service.payments)
    answer = town.paid.post("/start_job", wrong)
    assert answer.status_code == 400
    assert answer.json()["error"] == "invalid_input"
    assert why in answer.json()["message"]
    assert (jobs(town), len(town.service.payments)) == (before, payments)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_mark_of_utf8_is_passed_over(town: Town, encoding: str) -> None:
    told = json.dumps(body(f"mark {encoding}")).encode(encoding)
    hash_ = input_hash(PURCHASER, {"topic": f"mark {encoding}"})
    assert town.paid.post("/start_job", told).json()["input_hash"] == hash_


def test_every_wrong_field_is_named(town: Town) -> None:
    wrong = {"identifier_from_purchaser": "x", "input_data": {"topic": 1, "words": "two"}}
    told = town.paid.post("/start_job", wrong).json()["field_errors"]
    assert set(told) == {"identifier_from_purchaser", "topic", "words"}


@pytest.mark.parametrize("identifier", ["", "a;b", "a\nb", "x" * 251, "é" * 130, 5])
def test_free_agent_refuses_identifier(town: Town, identifier: Any) -> None:
    hire = {"input_data": {"text": "x"}, "identifier_from_purchaser": identifier}
    answer = town.free.post("/start_job", hire)
    assert answer.status_code == 400
    assert set(answer.json()["field_errors"]) == {"identifier_from_purchaser"}


def test_input_that_is_too_large_makes_no_payment(town: Town) -> None:
    before = len(town.service.payments)
    answer = town.paid.post("/start_job", body("x" * 70_000))
    assert (answer.status_code, answer.json()["error"]) == (413, "too_large")
    assert "more than 65,536" in answer.json()["field_errors"]["input_data"]
    assert len(town.service.payments) == before
    assert town.paid.post("/start_job", body("x" * 60_000)).status_code == 200


def test_job_of_another_agent_of_the_name(tmp_path: Path, town: Town) -> None:
    """Its id is told by neither: `/status` finds no job of another queue."""
    hire = {"input_data": {"text": "a"}, "identifier_from_purchaser": "two agents"}
    assert town.free.post("/start_job", hire).status_code == 200
    agent = FREE.replace('queue = "echo"', 'queue = "other"')
    with running_gateway(tmp_path, agent, town.broker.endpoint) as other:
        answer = other.post("/start_job", hire)
    assert (answer.status_code, answer.json()["error"]) == (409, "job_conflict")


def test_broker_with_a_later_clock(tmp_path: Path, town: Town) -> None:
    """It would fail the job at once, and the buyer would be told a payment."""
    before = len(town.service.payments)
    later = datetime.now(UTC) + timedelta(hours=48)
    folders = [tmp_path / name for name in ("paid", "free")]
    for each in folders:
        each.mkdir()
    with Broker(start=later) as broker:
        with running_paid(folders[0], town.server, broker.endpoint) as paid:
            answer = paid.post("/start_job", body("later"))
            assert "clock" in paid.logged(level="error")["event"]
        with running_gateway(folders[1], FREE, broker.endpoint) as free:
            job_id = free.post("/start_job", {"input_data": {"text": "later"}}).json()["id"]
            assert free.get("/status", job_id=job_id).json()["status"] == "running"
    assert (answer.status_code, answer.json()["error"]) == (503, "payment_service")
    assert len(town.service.payments) == before


def test_trace_reaches_job(town: Town) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    for told, kept in ((trace, trace), ("nonsense", None), (trace.upper(), None)):
        hire = {"input_data": {"text": told}, "identifier_from_purchaser": "ab" * 10}
        answer = town.free.post("/start_job", hire, headers={"traceparent": told})
        job_id = answer.json()["id"]
        assert town.client.get(job_id).traceparent == kept
        assert town.free.logged("request", job_id=job_id).get("traceparent") == kept
        # Sent again without a trace it is the same job, whose trace the line tells.
        request_id = f"again-{told[-7:]}"
        town.free.post("/start_job", hire, headers={"x-request-id": request_id})
        line = town.free.logged("request", request_id=request_id)
        assert line["job_id"] == job_id
        assert line.get("traceparent") == kept


def test_replaced_note_is_a_conflict(town: Town) -> None:
    told = town.paid.post("/start_job", body("annotated")).json()
    town.client.annotate(told["id"], "another note")
    answer = town.paid.post("/start_job", body("annotated"))
    assert answer.status_code == 409
    assert told["id"] in answer.json()["message"]

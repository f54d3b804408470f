"""What `/status` shows of a job, in each of its states."""

import json
from uuid import UUID

import httpx
import pytest

from tests.gateway.conftest import Town
from tests.serving import PATIENCE_S

SCHEMA = {"input_data": [{"id": "colour", "type": "color", "name": "Colour"}]}


def hired(town: Town, text: str) -> str:
    return str(town.free.post("/start_job", {"input_data": {"text": text}}).json()["id"])


def status(town: Town, job_id: str, key: str = "job_id") -> dict[str, object]:
    answer = town.free.get("/status", **{key: job_id})
    assert answer.status_code == 200
    told: dict[str, object] = answer.json()
    return told


def test_running_has_two_names_and_an_id(town: Town) -> None:
    job_id = hired(town, "running")
    told = status(town, job_id)
    assert set(told) == {"id", "job_id", "status"}
    assert (told["job_id"], told["status"]) == (job_id, "running")
    assert str(UUID(str(told["id"]))) == told["id"] != job_id
    assert status(town, job_id, "jobId") == told
    assert status(town, job_id.upper()) == told


def test_id_is_stable_for_a_version(town: Town) -> None:
    job_id = hired(town, "stable")
    first = status(town, job_id)
    town.client.annotate(job_id, None)
    assert status(town, job_id)["id"] == first["id"]
    town.client.transition(job_id, "awaiting_input", input_schema=json.dumps(SCHEMA))
    assert status(town, job_id)["id"] != first["id"]


def test_awaiting_payment(town: Town) -> None:
    hire = {"identifier_from_purchaser": "aabbccddeeff0011", "input_data": {"topic": "waits"}}
    job_id = town.paid.post("/start_job", hire).json()["id"]
    assert town.paid.get("/status", job_id=job_id).json()["status"] == "awaiting_payment"


def test_completed_has_the_result(town: Town) -> None:
    job_id = hired(town, "completed")
    town.client.transition(job_id, "completed", result='The "result"\nä 😀')
    told = status(town, job_id)
    assert (told["status"], told["result"]) == ("completed", 'The "result"\nä 😀')


def test_failed_hides_the_error(town: Town) -> None:
    job_id = hired(town, "failed")
    town.client.transition(job_id, "failed", error="ValueError: a secret")
    assert set(status(town, job_id)) == {"id", "job_id", "status"}


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        (json.dumps(SCHEMA), SCHEMA),
        (
            json.dumps({**SCHEMA, "x-tollgate-key": "k", "title": "left out"}),
            SCHEMA,
        ),
        (
            "Which  colour?",
            {"input_data": [{"id": "answer", "type": "textarea", "name": "Which colour?"}]},
        ),
        ("[1]", {"input_data": [{"id": "answer", "type": "textarea", "name": "[1]"}]}),
        (
            '{"type": "object"}',
            {"input_data": [{"id": "answer", "type": "textarea", "name": '{"type": "object"}'}]},
        ),
    ],
)
def test_question_has_known_keys_alone(town: Town, asked: str, shown: object) -> None:
    job_id = hired(town, f"asks {asked[:900]}")
    town.client.transition(job_id, "awaiting_input", input_schema=asked)
    told = status(town, job_id)
    assert (told["status"], told["input_schema"]) == ("awaiting_input", shown)


@pytest.mark.parametrize(
    "job_id",
    ["x", "", "11111111-1111-4111-8111-111111111111", "../etc", "0" * 5_000, "{}", "%00", "ä"],
)
def test_unknown_id_is_not_found(town: Town, job_id: str) -> None:
    answer = town.free.get("/status", job_id=job_id)
    assert (answer.status_code, answer.json()["error"]) == (404, "job_not_found")


def test_id_is_needed(town: Town) -> None:
    answer = town.free.get("/status")
    assert (answer.status_code, answer.json()["field_errors"]) == (400, {"job_id": "is missing"})


@pytest.mark.parametrize("name", ["job_id", "jobId"])
def test_two_ids_are_refused(town: Town, name: str) -> None:
    job_id = hired(town, "told twice")
    for others, code in ((job_id, 200), ("x", 400)):
        query = {name: [others, job_id]}
        answer = httpx.get(f"{town.free.url}/status", params=query, timeout=PATIENCE_S)
        assert answer.status_code == code
    assert answer.json()["field_errors"] == {name: "is there twice, with two values"}


def test_job_of_another_agent_is_not_found(town: Town) -> None:
    job_id = hired(town, "another")
    assert town.paid.get("/status", job_id=job_id).status_code == 404

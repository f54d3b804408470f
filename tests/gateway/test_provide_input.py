"""Answers to the questions of jobs: which question is meant, and what is refused."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import rfc8785

from tests.gateway.conftest import Town
from tollgate.domain.hashing import input_hash
from tollgate.gateway.request import Answer, HttpError
from tollgate.gateway.status import provide as give

SCHEMA: dict[str, Any] = {
    "input_data": [
        {"id": "colour", "type": "option", "name": "Colour", "data": {"values": ["red", "blue"]}}
    ]
}
HASH = hashlib.sha256(rfc8785.dumps(SCHEMA)).hexdigest()
ANSWER = {"colour": ["red"]}
PURCHASER = "buyer"


def asking(town: Town, text: str, schema: object = SCHEMA) -> dict[str, Any]:
    """Return the status of a job that asks."""
    hire = {"input_data": {"text": text}, "identifier_from_purchaser": PURCHASER}
    job_id = town.free.post("/start_job", hire).json()["id"]
    return ask_again(town, job_id, schema)


def ask_again(town: Town, job_id: str, schema: object = SCHEMA) -> dict[str, Any]:
    asked = schema if isinstance(schema, str) else json.dumps(schema)
    town.client.transition(job_id, "awaiting_input", input_schema=asked)
    told: dict[str, Any] = town.free.get("/status", job_id=job_id).json()
    return told


def provide(town: Town, asked: dict[str, Any], **body: Any) -> Any:
    given = {"job_id": asked["job_id"], "input_data": ANSWER, **body}
    return town.free.post("/provide_input", given)


def test_answer_by_status_id(town: Town) -> None:
    asked = asking(town, "by status id")
    answer = provide(town, asked, status_id=asked["id"])
    expected = input_hash(PURCHASER, ANSWER)
    assert answer.json() == {
        "input_hash": expected,
        "signature": "",
        "status": "success",
    }
    job = town.client.get(asked["job_id"])
    assert (job.status.value, job.provided_input) == ("running", '{"colour":["red"]}')
    assert job.inputs is not None
    assert job.inputs[-1].hash == expected


@pytest.mark.parametrize("digits", [HASH, HASH.upper()])
def test_answer_by_schema_hash(town: Town, digits: str) -> None:
    asked = asking(town, f"by hash {digits}")
    answer = provide(town, asked, input_schema_hash=digits)
    assert answer.status_code == 200


def test_schema_hash_is_of_what_was_shown(town: Town) -> None:
    asked = asking(town, "extra keys", {**SCHEMA, "title": "for the handler alone"})
    shown = hashlib.sha256(rfc8785.dumps(asked["input_schema"])).hexdigest()
    assert provide(town, asked, input_schema_hash=shown).status_code == 200


def test_schema_hash_as_callers_read_limits(town: Town) -> None:
    """Sokosumi's callers read a limit as a number before they hash; see `hashes`."""
    field = {"id": "a", "type": "text", "name": "A"}
    schema: dict[str, Any] = {
        "input_data": [{**field, "validations": [{"validation": "min", "value": "3"}]}]
    }
    read: dict[str, Any] = {
        "input_data": [{**field, "validations": [{"validation": "min", "value": 3}]}]
    }
    asked = asking(town, "limits", schema)
    digits = hashlib.sha256(rfc8785.dumps(read)).hexdigest()
    answer = provide(town, asked, input_schema_hash=digits, input_data={"a": "long enough"})
    assert answer.status_code == 200


def test_other_spellings(town: Town) -> None:
    asked = asking(town, "spellings")
    body = {"jobId": asked["job_id"], "statusId": asked["id"], "inputData": ANSWER}
    assert town.free.post("/provide_input", body).status_code == 200


def test_same_answer_again_is_acknowledged(town: Town) -> None:
    asked = asking(town, "again")
    first = provide(town, asked, status_id=asked["id"])
    assert provide(town, asked, status_id=asked["id"]).json() == first.json()
    ask_again(town, asked["job_id"])
    assert provide(town, asked, status_id=asked["id"]).json() == first.json()
    job = town.client.get(asked["job_id"])
    assert job.status.value == "awaiting_input"
    assert len(job.inputs or ()) == 2


def test_other_answer_to_old_question_is_stale(town: Town) -> None:
    asked = asking(town, "stale")
    provide(town, asked, status_id=asked["id"])
    for again in (False, True):
        if again:
            ask_again(town, asked["job_id"])
        answer = provide(town, asked, status_id=asked["id"], input_data={"colour": ["blue"]})
        assert (answer.status_code, answer.json()["error"]) == (409, "stale_answer")


@pytest.mark.parametrize("body", [{"status_id": "x"}, {"input_schema_hash": "0" * 64}])
def test_wrong_fence_is_stale(town: Town, body: dict[str, str]) -> None:
    asked = asking(town, f"fence {body}")
    assert provide(town, asked, **body).status_code == 409
    assert town.client.get(asked["job_id"]).status.value == "awaiting_input"


def test_both_fences_must_fit(town: Town) -> None:
    asked = asking(town, "both fences")
    wrong = provide(town, asked, status_id=asked["id"], input_schema_hash="0" * 64)
    assert wrong.status_code == 409
    assert provide(town, asked, status_id=asked["id"], input_schema_hash=HASH).status_code == 200


def test_answers_at_once_one_is_taken(town: Town) -> None:
    asked = asking(town, "at once")
    colours = ["red", "blue"] * 5

    def give(colour: str) -> int:
        given = provide(town, asked, status_id=asked["id"], input_data={"colour": [colour]})
        return int(given.status_code)

    with ThreadPoolExecutor(10) as pool:
        codes = list(pool.map(give, colours))
    taken = json.loads(town.client.get(asked["job_id"]).provided_input or "")["colour"][0]
    for colour, code in zip(colours, codes, strict=True):
        assert code == (200 if colour == taken else 409)


async def test_answer_that_comes_second(town: Town) -> None:
    """The job is answered between the look and the answer, as if by another gateway."""
    asked = asking(town, "second")
    job = town.client.get(asked["job_id"])
    provide_first = provide(town, asked, status_id=asked["id"])
    assert provide_first.status_code == 200
    async with town.broker.connect_async() as client:
        same = Answer(job.job_id, ANSWER, asked["id"], None, b"{}")
        assert (await give(client, job, same)).input_hash == provide_first.json()["input_hash"]
        other = Answer(job.job_id, {"colour": ["blue"]}, asked["id"], None, b"{}")
        with pytest.raises(HttpError) as caught:
            await give(client, job, other)
    assert caught.value.code == "stale_answer"


def test_answer_to_plain_text(town: Town) -> None:
    asked = asking(town, "plain text", "Which colour?")
    answer = provide(town, asked, status_id=asked["id"], input_data={"answer": "red"})
    assert answer.status_code == 200
    assert town.client.get(asked["job_id"]).provided_input == '{"answer":"red"}'


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"input_data": {"colour": ["green"]}}, "colour"),
        ({"input_data": {}}, "colour"),
        ({"input_data": {"colour": 2**53}}, "colour"),  # it has no canonical form
        ({"input_data": {**ANSWER, "more": 1}}, "more"),
        ({"input_data": None}, "input_data"),
        ({"input_data": "red"}, "input_data"),
        ({"status_id": None}, "status_id"),
        ({"status_id": 7}, "status_id"),
        ({"status_id": None, "input_schema_hash": "xyz"}, "input_schema_hash"),
        ({"job_id": None}, "job_id"),
        ({"job_id": 5}, "job_id"),
        ({"jobId": "other"}, "job_id"),
    ],
)
def test_wrong_answer_changes_nothing(town: Town, body: dict[str, Any], field: str) -> None:
    asked = asking(town, f"wrong {body}")
    answer = provide(town, asked, **{"status_id": asked["id"], **body})
    assert answer.status_code == 400
    assert field in answer.json()["field_errors"]
    job = town.client.get(asked["job_id"])
    assert (job.status.value, job.version) == ("awaiting_input", 3)


@pytest.mark.parametrize("job_id", ["x", "11111111-1111-4111-8111-111111111111"])
def test_unknown_job(town: Town, job_id: str) -> None:
    body = {"job_id": job_id, "status_id": "x", "input_data": {}}
    assert town.free.post("/provide_input", body).status_code == 404


def test_job_that_asks_nothing(town: Town) -> None:
    job_id = town.free.post("/start_job", {"input_data": {"text": "asks nothing"}}).json()["id"]
    asked = town.free.get("/status", job_id=job_id).json()
    answer = provide(town, asked, status_id=asked["id"])
    assert (answer.status_code, answer.json()["message"]) == (
        409,
        "the job is running and asks nothing",
    )


def test_answer_with_a_key_twice(town: Town) -> None:
    asked = asking(town, "twice")
    told = json.dumps({"job_id": asked["job_id"], "status_id": asked["id"]}).encode()
    answer = town.free.post(
        "/provide_input",
        told[:-1] + b',"input_data":{"colour":["blue"],"colour":["red"]}}',
    )
    assert answer.status_code == 400
    assert set(answer.json()["field_errors"]) == {"colour"}
    assert town.client.get(asked["job_id"]).status == "awaiting_input"

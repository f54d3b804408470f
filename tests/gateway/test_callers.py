"""What public callers read of the answers, as they read it, in several revisions.

The field lists are those of MIP-003 (main 60d8788), of the masumi SDK 1.2.0 and of sokosumi's
public packages. Models are strict: no text becomes a number.
"""
# ruff: noqa: N815 - the names are the callers'

import hashlib
import json
from enum import StrEnum
from typing import Annotated, Any, Literal

import pytest
import rfc8785
from pydantic import BaseModel, ConfigDict, Field, model_validator

from tests.gateway.conftest import Town
from tests.gateway.running import PURCHASER
from tollgate.domain.hashing import input_hash

Text = Annotated[str, Field(min_length=1)]
Milliseconds = Annotated[int, Field(ge=10**12, lt=10**13)]
QUESTION: dict[str, Any] = {
    "input_groups": [
        {
            "id": "g",
            "title": "More",
            "input_data": [{"id": "size", "type": "number", "name": "Size"}],
        }
    ]
}


class Read(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class FreeStart(Read):
    id: Text


class PaidStart(FreeStart):
    input_hash: Text
    identifierFromPurchaser: Text
    blockchainIdentifier: Text
    payByTime: Milliseconds
    submitResultTime: Milliseconds
    unlockTime: Milliseconds
    externalDisputeUnlockTime: Milliseconds
    agentIdentifier: Text
    sellerVKey: Text


class EarlierStart(Read):
    status: Literal["success", "error"]
    job_id: Text
    identifierFromPurchaser: Text
    input_hash: Text


class CamelStart(Read):
    """The masumi SDK after 1.2.0."""

    id: Text
    inputHash: Text


class Value(StrEnum):
    AWAITING_PAYMENT = "awaiting_payment"
    AWAITING_INPUT = "awaiting_input"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


class InputField(Read):
    id: Text
    type: Text
    name: Text


class Group(Read):
    id: Text
    title: Text
    input_data: Annotated[list[InputField], Field(min_length=1)]


class Schema(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    input_data: list[InputField] | None = None
    input_groups: list[Group] | None = None

    @model_validator(mode="after")
    def _has_one(self) -> "Schema":
        if len(self.model_fields_set) != 1:
            raise ValueError("exactly one is expected")
        return self


class Status(Read):
    id: Text
    job_id: Text
    status: Annotated[Value, Field(strict=False)]
    input_schema: Schema | None = None
    result: str | None = None

    @model_validator(mode="after")
    def _has_what_its_status_needs(self) -> "Status":
        if self.status == "awaiting_input" and not self.input_schema:
            raise ValueError("input_schema is expected")
        if self.status == "completed" and not self.result:
            raise ValueError("result is expected")
        return self


class Answered(Read):
    input_hash: Text
    signature: str
    status: Literal["success", "error"]


class Availability(Read):
    status: Literal["available", "unavailable"]
    type: Literal["masumi-agent"]
    message: str | None = None


class Demo(Read):
    input: dict[str, Any]
    output: dict[str, str]


@pytest.mark.parametrize("model", [FreeStart, PaidStart, EarlierStart, CamelStart])
def test_paid_start(town: Town, model: type[Read]) -> None:
    body = {"identifier_from_purchaser": PURCHASER, "input_data": {"topic": model.__name__}}
    model.model_validate_json(town.paid.post("/start_job", body).content)


@pytest.mark.parametrize("model", [FreeStart, EarlierStart, CamelStart])
def test_free_start(town: Town, model: type[Read]) -> None:
    body = {"identifierFromPurchaser": PURCHASER, "input_data": {"text": model.__name__}}
    model.model_validate_json(town.free.post("/start_job", body).content)


def test_one_life_as_a_caller_sees_it(town: Town) -> None:
    body = {"identifierFromPurchaser": PURCHASER, "input_data": {"topic": "life", "words": 3}}
    started = PaidStart.model_validate_json(town.paid.post("/start_job", body).content)
    assert started.input_hash == input_hash(PURCHASER, body["input_data"])  # type: ignore[arg-type]

    def look() -> Status:
        return Status.model_validate_json(town.paid.get("/status", job_id=started.id).content)

    assert look().status == "awaiting_payment"
    town.client.transition(started.id, "running")
    assert look().status == "running"
    town.client.transition(started.id, "awaiting_input", input_schema=json.dumps(QUESTION))
    asked = look()
    assert asked.input_schema is not None
    given = {
        "job_id": started.id,
        "input_data": {"size": 4},
        "input_schema_hash": hashlib.sha256(rfc8785.dumps(QUESTION)).hexdigest(),
    }
    answered = Answered.model_validate_json(town.paid.post("/provide_input", given).content)
    assert answered.input_hash == input_hash(PURCHASER, {"size": 4})
    town.client.transition(started.id, "completed", result="done")
    assert look().result == "done"


def test_pages_without_a_job(town: Town) -> None:
    for gateway in (town.free, town.paid):
        Schema.model_validate_json(gateway.get("/input_schema").content)
        Availability.model_validate_json(gateway.get("/availability").content)
    Demo.model_validate_json(town.free.get("/demo").content)


def test_no_answer_has_a_null(town: Town) -> None:
    job_id = town.free.post("/start_job", {"input_data": {"text": "nulls"}}).json()["id"]
    for answer in (
        town.free.get("/status", job_id=job_id),
        town.free.get("/input_schema"),
        town.free.get("/availability"),
        town.free.get("/nothing"),
    ):
        assert "null" not in answer.text

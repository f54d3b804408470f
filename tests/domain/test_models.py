"""The state machine, for every pair of statuses, and the fields of `Job`."""

from datetime import timedelta
from typing import Any, get_type_hints

import pytest
from pydantic import ValidationError

from tests.core import EPOCH, HASH
from tollgate.domain.exceptions import InvalidStateTransitionError
from tollgate.domain.models import LEGAL_TRANSITIONS, TERMINAL, Job, JobStatus, validate_transition
from tollgate.domain.results import InputRound, JobFields, LeaseInfo, Progress, Settlement
from tollgate.domain.settlement import SettlementState

# Written down from the design, not read from the code under test.
LEGAL = {
    ("awaiting_payment", "running"),
    ("awaiting_payment", "failed"),
    ("running", "completed"),
    ("running", "failed"),
    ("running", "awaiting_input"),
    ("awaiting_input", "running"),
    ("awaiting_input", "failed"),
}
NAMES = ("awaiting_payment", "awaiting_input", "running", "completed", "failed")


def fields(**changes: Any) -> dict[str, Any]:
    return {
        "job_id": "11111111-2222-4333-8444-555555555555",
        "status": JobStatus.RUNNING,
        "input_hash": HASH,
        "blockchain_identifier": "mock_bc_11111111",
        "created_at": EPOCH,
        "updated_at": EPOCH + timedelta(seconds=1),
        "result": None,
        "error": None,
        "version": 2,
        "input": '{"text": "Grüße"}',
        "identifier_from_purchaser": "aabb",
        "pay_by_time": EPOCH + timedelta(days=1),
        "submit_result_time": None,
        "input_schema": None,
        "provided_input": None,
        "queue": "shop",
        "priority": 3,
        "not_before": None,
        "attempts": 1,
        "inputs": (InputRound(2, "name?", "Ann"), InputRound(4, "age?")),
        "progress": Progress("reading", 0.5, EPOCH),
        "on_hold": False,
        "stop_requested": True,
        "meta": "for Ann",
        "traceparent": None,
        "settlement": Settlement(SettlementState.PENDING, EPOCH),
        "lease": LeaseInfo("uid:1", "shop@host:1", 500),
        **changes,
    }


def test_the_schema_of_a_job_describes_its_parts() -> None:
    schema = Job.model_json_schema()
    assert "$ref" not in str(schema["properties"]["settlement"])  # it stands alone
    (settlement, _) = schema["properties"]["settlement"]["anyOf"]
    assert settlement["required"] == ["state", "updated_at"]
    assert "manual" in settlement["properties"]["state"]["enum"]
    (progress, _) = schema["properties"]["progress"]["anyOf"]
    assert progress["required"] == ["text"]


def test_the_statuses_are_those_of_mip_003() -> None:
    assert {status.value for status in JobStatus} == set(NAMES)


@pytest.mark.parametrize("target", NAMES)
@pytest.mark.parametrize("current", NAMES)
def test_every_pair_of_statuses(current: str, target: str) -> None:
    if (current, target) in LEGAL:
        validate_transition(JobStatus(current), JobStatus(target))
        return
    with pytest.raises(InvalidStateTransitionError) as caught:
        validate_transition(JobStatus(current), JobStatus(target))
    refusal = caught.value
    assert (refusal.from_state, refusal.to_state) == (current, target)
    assert type(refusal.from_state) is str
    assert type(refusal.to_state) is str
    assert refusal.allowed == sorted(to for at, to in LEGAL if at == current)
    assert all(type(name) is str for name in refusal.allowed or ())


def test_every_status_has_a_row() -> None:
    assert set(LEGAL_TRANSITIONS) == set(JobStatus)
    pairs = {(a.value, b.value) for a, targets in LEGAL_TRANSITIONS.items() for b in targets}
    assert pairs == LEGAL


def test_terminal_statuses_have_no_transitions() -> None:
    assert {status.value for status in TERMINAL} == {"completed", "failed"}


@pytest.mark.parametrize("name", list(fields()))
def test_a_job_cannot_be_changed(name: str) -> None:
    job = Job(**fields())
    with pytest.raises(ValidationError):
        setattr(job, name, None)
    with pytest.raises(ValidationError):
        delattr(job, name)
    assert job == Job(**fields())


def test_a_job_takes_no_unknown_field() -> None:
    with pytest.raises(ValidationError):
        Job(**fields(colour="red"))


@pytest.mark.parametrize("name", list(fields()))
def test_a_job_takes_no_field_of_a_wrong_type(name: str) -> None:
    with pytest.raises(ValidationError):
        Job(**fields(**{name: object()}))


def test_the_wire_has_the_fields_of_a_job_in_order() -> None:
    assert list(JobFields.__struct_fields__) == list(Job.model_fields)
    types = get_type_hints(JobFields)
    assert {name: field.annotation for name, field in Job.model_fields.items()} == types

"""The repository: what its plan promises."""

import inspect
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.core import EPOCH, HASH, job_ids
from tollgate.broker.repository.job_repo import InMemoryJobRepository
from tollgate.domain.exceptions import (
    InvalidStateTransitionError,
    JobConflictError,
    JobNotFoundError,
    VersionConflictError,
)
from tollgate.domain.models import LEGAL_TRANSITIONS, Job, JobStatus

AWAITING_PAYMENT, AWAITING_INPUT, RUNNING, COMPLETED, FAILED = (
    JobStatus("awaiting_payment"),
    JobStatus("awaiting_input"),
    JobStatus("running"),
    JobStatus("completed"),
    JobStatus("failed"),
)
THREADS = 100


def fixed(start: datetime = EPOCH) -> InMemoryJobRepository:
    return InMemoryJobRepository(new_id=job_ids(), clock=lambda: start)


def test_the_signatures_are_those_of_the_plan() -> None:
    def names(method: Callable[..., object]) -> list[str]:
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
        parameters = inspect.signature(method).parameters.values()
        return [parameter.name for parameter in parameters if parameter.kind in kinds]

    assert names(InMemoryJobRepository.create) == ["self", "input_hash"]
    assert names(InMemoryJobRepository.get) == ["self", "job_id"]
    assert names(InMemoryJobRepository.update_status) == [
        "self", "job_id", "target", "result", "error",
    ]  # fmt: skip
    assert not [p for p in inspect.signature(InMemoryJobRepository).parameters.values()
                if p.kind is not inspect.Parameter.KEYWORD_ONLY]  # fmt: skip


def test_create_positionally_and_by_name() -> None:
    jobs = InMemoryJobRepository()
    before = datetime.now(UTC)
    for job in (jobs.create(HASH), jobs.create(input_hash=HASH)):
        assert type(job) is Job
        assert job.status is AWAITING_PAYMENT
        assert job.input_hash == HASH
        assert job.blockchain_identifier == "mock_bc_" + job.job_id[:8]
        assert uuid.UUID(job.job_id).version == 4
        assert str(uuid.UUID(job.job_id)) == job.job_id
        assert before <= job.created_at == job.updated_at <= datetime.now(UTC)
        assert job.created_at.utcoffset() == timedelta(0)
        assert (job.version, job.result, job.error) == (1, None, None)
        assert jobs.get(job.job_id) == job
        assert jobs.get(job_id=job.job_id) == job
    assert jobs.count() == 2


def test_update_status_positionally_and_by_name() -> None:
    jobs = InMemoryJobRepository()
    job = jobs.create(HASH)
    running = jobs.update_status(job.job_id, RUNNING)
    assert (running.status, running.version) == (RUNNING, 2)
    assert running.created_at == job.created_at <= running.updated_at
    done = jobs.update_status(job_id=job.job_id, target=COMPLETED, result="r", error="e")
    assert (done.status, done.result, done.error, done.version) == (COMPLETED, "r", "e", 3)
    other = jobs.create(HASH)
    failed = jobs.update_status(other.job_id, FAILED, "r", "e")
    assert (failed.result, failed.error) == ("r", "e")
    assert jobs.get(other.job_id) == failed


def test_a_returned_job_never_changes() -> None:
    jobs = fixed()
    job = jobs.create(HASH)
    shown = jobs.get(job.job_id)
    jobs.update_status(job.job_id, RUNNING, result="r")
    assert job == shown
    assert (shown.status, shown.result, shown.version) == (AWAITING_PAYMENT, None, 1)


@pytest.mark.parametrize("call", ["get", "update_status"])
def test_an_unknown_job_is_not_found(call: str) -> None:
    jobs = InMemoryJobRepository()
    jobs.create(HASH)
    arguments = (RUNNING,) if call == "update_status" else ()
    with pytest.raises(JobNotFoundError) as caught:
        getattr(jobs, call)("nonexistent", *arguments)
    assert caught.value.job_id == "nonexistent"


PATHS = {
    AWAITING_PAYMENT: [],
    RUNNING: [RUNNING],
    AWAITING_INPUT: [RUNNING, AWAITING_INPUT],
    COMPLETED: [RUNNING, COMPLETED],
    FAILED: [FAILED],
}


@pytest.mark.parametrize("target", JobStatus)
@pytest.mark.parametrize("current", JobStatus)
def test_illegal_transitions_are_refused(current: JobStatus, target: JobStatus) -> None:
    jobs = fixed()
    job = jobs.create(HASH)
    for step in PATHS[current]:
        job = jobs.update_status(job.job_id, step)
    if target in LEGAL_TRANSITIONS[current]:
        assert jobs.update_status(job.job_id, target).status is target
        assert (jobs.count(current), jobs.count(target)) == (0, 1)
        return
    with pytest.raises(InvalidStateTransitionError):
        jobs.update_status(job.job_id, target, result="r", error="e")
    assert jobs.get(job.job_id) == job
    assert jobs.count(current) == 1


def test_only_the_expected_version_is_moved() -> None:
    jobs = fixed()
    job = jobs.create(HASH)
    for wrong in (0, 2, 99):
        with pytest.raises(VersionConflictError) as caught:
            jobs.update_status(job.job_id, RUNNING, expected_version=wrong)
        refusal = caught.value
        assert (refusal.status, refusal.version) == ("awaiting_payment", 1)
        assert refusal.job_id == job.job_id
    with pytest.raises(VersionConflictError):  # comes before what is legal
        jobs.update_status(job.job_id, COMPLETED, expected_version=2)
    assert jobs.get(job.job_id) == job
    assert jobs.update_status(job.job_id, RUNNING, expected_version=1).version == 2


def test_updated_at_never_goes_back() -> None:
    times = iter([EPOCH, EPOCH - timedelta(hours=1), EPOCH + timedelta(seconds=1), EPOCH])
    jobs = InMemoryJobRepository(clock=lambda: next(times))
    job = jobs.create(HASH)
    seen = [jobs.update_status(job.job_id, s).updated_at for s in (RUNNING, AWAITING_INPUT, FAILED)]
    assert seen == [EPOCH, EPOCH + timedelta(seconds=1), EPOCH + timedelta(seconds=1)]
    other = fixed()
    job = other.create(HASH, at=EPOCH)
    moved = other.update_status(job.job_id, FAILED, at=EPOCH - timedelta(days=1))
    assert (moved.updated_at, moved.created_at) == (EPOCH, EPOCH)


def test_supplied_fields_are_stored() -> None:
    jobs = InMemoryJobRepository()
    supplied: dict[str, Any] = {
        "job_id": str(uuid.UUID(int=5)),
        "input": "{}",
        "identifier_from_purchaser": "aa",
        "blockchain_identifier": "pay",
        "pay_by_time": EPOCH,
        "submit_result_time": EPOCH + timedelta(days=1),
    }
    job = jobs.create(HASH, at=EPOCH, **supplied)
    assert {name: getattr(job, name) for name in supplied} == supplied
    assert job.created_at == job.updated_at == EPOCH
    paid = jobs.find_by_payment("pay")
    assert paid is not None
    assert paid.job.job() == job


def test_input_schemas_and_inputs_are_stored() -> None:
    jobs = fixed()
    job_id = jobs.create(HASH).job_id
    jobs.update_status(job_id, RUNNING)
    for round_ in ("1", "2"):
        asked = jobs.update_status(job_id, AWAITING_INPUT, input_schema="which " + round_)
        assert (asked.input_schema, asked.provided_input) == ("which " + round_, None)
        answered = jobs.update_status(job_id, RUNNING, provided_input="this " + round_)
        assert (answered.input_schema, answered.provided_input) == (
            "which " + round_,
            "this " + round_,
        )
    done = jobs.update_status(job_id, COMPLETED, "r")
    assert (done.input_schema, done.provided_input) == ("which 2", "this 2")


def test_an_id_and_a_payment_belong_to_one_job() -> None:
    jobs = fixed()
    first = jobs.create(HASH, blockchain_identifier="pay")
    with pytest.raises(JobConflictError):
        jobs.create(HASH, job_id=first.job_id)
    with pytest.raises(JobConflictError) as caught:
        jobs.create(HASH, blockchain_identifier="pay")
    assert caught.value.job_id == first.job_id
    with pytest.raises(JobConflictError):  # and a refused creation claims no payment
        jobs.create(HASH, job_id=first.job_id, blockchain_identifier="other")
    assert jobs.find_by_payment("other") is None
    assert jobs.count() == 1
    paid = jobs.find_by_payment("pay")
    assert paid is not None
    assert paid.job.job() == first
    assert jobs.create(HASH, blockchain_identifier="other").blockchain_identifier == "other"

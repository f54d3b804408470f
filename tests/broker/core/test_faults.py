"""Faults of the broker's own, and the records that events make."""

from typing import Any

import pytest

from tests.core import (
    AWAITING_INPUT,
    COMPLETED,
    EPOCH,
    RUNNING,
    Driver,
    claim,
    create,
    error_of_result,
    job_id,
    job_of,
    make_pipeline,
    move,
)
from tollgate.broker.core.events import JobCreated, JobTransitioned, LeaseGranted
from tollgate.broker.core.records import Record
from tollgate.domain.commands import (
    Cancel,
    Count,
    Create,
    Get,
    Touch,
)
from tollgate.domain.exceptions import JobConflictError, Refusal


def break_handler(driver: Driver, monkeypatch: pytest.MonkeyPatch, fault: Any) -> None:
    handlers: dict[Any, Any] = driver.engine._handlers
    monkeypatch.setitem(handlers, Count, fault)


def test_a_fault_before_any_event_is_an_internal_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver = Driver()

    def fault(*_: object) -> None:
        raise ZeroDivisionError("oops")

    break_handler(driver, monkeypatch, fault)
    first, error, second = driver.ask(create(), Count(), create())
    internal = error_of_result(error)
    assert (internal.code, internal.retryable) == ("internal", False)
    assert (job_of(first).job_id, job_of(second).job_id) == (job_id(1), job_id(2))


def test_a_fault_after_an_event_stops_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    real = driver.engine._handlers[Create]

    def fault(context: Any, _: Any, request: Any) -> None:
        real(context, [create()], request)
        raise ZeroDivisionError("oops")

    break_handler(driver, monkeypatch, fault)
    with pytest.raises(ZeroDivisionError):
        driver.ask(Count())


@pytest.mark.parametrize("kind", [ZeroDivisionError, JobConflictError])
@pytest.mark.parametrize("commands", [1, 2])
def test_a_fault_within_an_event_stops_the_broker(
    kind: type[Exception], commands: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Refusal too, if a run of events raises it: some of the events may have happened."""
    driver = Driver()

    def fault(*_: object) -> None:
        raise kind("oops")

    monkeypatch.setitem(driver.engine.context.state.effects, JobCreated, fault)
    with pytest.raises(kind):
        driver.ask(*[create()] * commands)


def test_a_refusal_within_an_event_stops_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    job = driver.job(create())

    def fault(*_: object) -> None:
        raise JobConflictError("oops")

    monkeypatch.setitem(driver.engine.context.state.effects, JobTransitioned, fault)
    with pytest.raises(JobConflictError):
        driver.ask(Cancel(job_id=job.job_id))


def test_a_request_makes_one_record_and_a_refusal_none() -> None:
    driver = Driver()
    driver.ask(create(), create(), move(job_id(1), RUNNING))
    assert [len(record.events) for record in driver.records] == [3]
    driver.ask(Get(job_id=job_id(1)), Count(), move(job_id(2), COMPLETED), claim(AWAITING_INPUT))
    assert len(driver.records) == 1
    driver.ask(Touch(job_id=job_id(1), lease=9, lease_ms=9))
    assert len(driver.records) == 1
    driver.grants_of(claim())
    assert len(driver.records) == 2


def test_the_same_records_build_the_same_state() -> None:
    driver = Driver()
    driver.ask(create(), create(blockchain_identifier="pay"), create(submit_result_time=EPOCH))
    driver.ask(move(job_id(1), RUNNING), move(job_id(3), RUNNING), Cancel(job_id=job_id(2)))
    driver.post(claim(lease_ms=100))
    driver.pass_ms(100)
    other = make_pipeline()
    for record in driver.records:
        for event in record.events:
            other._engine.context.state.apply(Record([event], at=record.at), 0)
    states = [pipeline._engine.context.state for pipeline in (driver.pipeline, other)]
    shown = [[slot.job for slot in state.jobs.slots()] for state in states]
    assert shown[0] == shown[1]
    assert states[0].leases.next_token == states[1].leases.next_token


def test_an_event_that_contradicts_the_state_changes_nothing() -> None:
    driver = Driver()
    driver.ask(create(), move(job_id(1), RUNNING))
    state = driver.engine.context.state
    before = state.jobs.get(job_id(1))
    for event in [event for record in driver.records for event in record.events]:
        with pytest.raises(Refusal):
            state.apply(Record([event]), 0)
    assert state.jobs.get(job_id(1)) == before
    assert state.jobs.count() == 1


def test_no_lease_is_granted_on_a_finished_job() -> None:
    driver = Driver()
    driver.ask(create(), Cancel(job_id=job_id(1)))
    state = driver.engine.context.state
    with pytest.raises(JobConflictError):
        state.apply(Record([LeaseGranted(job_id(1), 1, 1_000)]), 0)
    assert state.jobs.leased == 0

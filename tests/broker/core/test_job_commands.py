"""The commands about jobs, and the refusals of one command in their order."""

from datetime import timedelta
from typing import Any

import pytest

from tests.core import (
    AWAITING_INPUT,
    AWAITING_PAYMENT,
    COMPLETED,
    EPOCH,
    FAILED,
    GRACE_MS,
    HASH,
    HOUR,
    RUNNING,
    Driver,
    at,
    create,
    job_id,
    move,
    running,
    wait,
)
from tollgate.domain.commands import (
    AnyCommand,
    Cancel,
    Count,
    Create,
    Get,
    Hello,
    List,
    ProvideInput,
    Release,
    Touch,
)
from tollgate.domain.models import JobStatus
from tollgate.domain.results import (
    CountResult,
    HelloResult,
    JobFields,
    JobsResult,
)


def test_hello_tells_the_version_and_the_limits() -> None:
    driver = Driver(jobs=7, parked=3)
    (hello,) = driver.ask(Hello())
    assert isinstance(hello, HelloResult)
    assert (hello.protocol, hello.server, hello.boot_id) == (1, "tollgate test", "boot")
    assert hello.session is None
    assert (hello.limits["jobs"], hello.limits["parked"]) == (7, 3)
    assert hello.limits["request_bytes"] == 256 * 1024
    assert hello.limits["commands"] == 1_000
    assert hello.limits["reply_bytes"] == 4 * 1024 * 1024
    assert hello.limits["text_bytes"] == 64 * 1024
    assert hello.limits["blockchain_identifier_bytes"] == 8_000
    assert hello.limits["identifier_from_purchaser_bytes"] == 256
    assert hello.limits["payment_grace_ms"] == GRACE_MS
    assert Driver().engine.limits.jobs == 1_000_000
    assert Driver().engine.limits.parked == 10_000


def test_create_and_get() -> None:
    driver = Driver()
    job = driver.job(create())
    assert job == JobFields(
        job_id=job_id(1),
        status=AWAITING_PAYMENT,
        input_hash=HASH,
        blockchain_identifier="mock_bc_00000001",
        created_at=EPOCH,
        updated_at=EPOCH,
        result=None,
        error=None,
        version=1,
        input=None,
        identifier_from_purchaser=None,
        pay_by_time=EPOCH + timedelta(days=1),
        submit_result_time=None,
        input_schema=None,
        provided_input=None,
    )
    assert driver.job(Get(job_id=job.job_id)) == job
    fields: dict[str, Any] = {
        "input": '{"a": 1}',
        "identifier_from_purchaser": "aa",
        "job_id": job_id(0xABC),
        "blockchain_identifier": "pay",
        "pay_by_time": EPOCH + HOUR,
        "submit_result_time": EPOCH + 2 * HOUR,
    }
    full = driver.job(create(**fields))
    assert {name: getattr(full, name) for name in fields} == fields
    assert driver.job(Get(blockchain_identifier="pay")) == full


def test_create_with_a_known_id_and_fields_shows_the_job() -> None:
    driver = Driver()
    fields: dict[str, Any] = {"job_id": job_id(9), "input": "x", "pay_by_time": EPOCH + HOUR}
    driver.job(create(**fields))
    moved = driver.job(move(job_id(9), RUNNING))
    assert driver.job(create(**fields)) == moved
    assert driver.job(create(job_id=job_id(9))) == moved  # what is not supplied may be anything
    assert driver.engine.context.state.jobs.count() == 1


@pytest.mark.parametrize(
    "other",
    [
        {"input": "y"},
        {"identifier_from_purchaser": "bb"},
        {"blockchain_identifier": "pay 2"},
        {"pay_by_time": EPOCH + 2 * HOUR},
        {"submit_result_time": EPOCH + HOUR},
        {"input_hash": "f" * 64},
    ],
    ids=str,
)
def test_create_with_a_known_id_and_other_fields_fails(other: dict[str, Any]) -> None:
    driver = Driver()
    fields: dict[str, Any] = {
        "job_id": job_id(9),
        "input": "x",
        "pay_by_time": EPOCH + HOUR,
        "input_hash": HASH,
    }
    before = driver.job(Create(**fields))
    error = driver.error(Create(**{**fields, **other}))
    assert (error.code, error.job_id) == ("job_conflict", job_id(9))
    assert (error.status, error.version) == ("awaiting_payment", 1)
    assert driver.job(Get(job_id=job_id(9))) == before


def test_one_payment_belongs_to_one_job() -> None:
    driver = Driver()
    driver.job(create(blockchain_identifier="pay"))
    error = driver.error(create(blockchain_identifier="pay"))
    assert (error.code, error.job_id) == ("job_conflict", job_id(1))
    assert driver.engine.context.state.jobs.count() == 1


def test_a_transition_sets_the_fields_of_its_target() -> None:
    driver = Driver()
    job = driver.job(create())
    driver.pass_ms(10)
    job = driver.job(move(job, RUNNING))
    assert (job.status, job.version) == (RUNNING, 2)
    assert job.updated_at == EPOCH + timedelta(milliseconds=10)
    job = driver.job(move(job, AWAITING_INPUT, input_schema="which?"))
    assert (job.input_schema, job.provided_input) == ("which?", None)
    job = driver.job(ProvideInput(job_id=job.job_id, input="this", expected_version=3))
    assert (job.status, job.provided_input, job.version) == (RUNNING, "this", 4)
    job = driver.job(move(job, COMPLETED, result="done"))
    assert (job.status, job.result, job.error) == (COMPLETED, "done", None)
    failed = driver.job(move(running(driver), FAILED, error="broke"))
    assert (failed.status, failed.result, failed.error) == (FAILED, None, "broke")


def test_cancel_fails_an_unpaid_job() -> None:
    driver = Driver()
    job = driver.job(create())
    job = driver.job(Cancel(job_id=job.job_id, expected_version=1))
    assert (job.status, job.error, job.version) == (FAILED, "cancelled", 2)


@pytest.mark.parametrize("status", [RUNNING, AWAITING_INPUT, COMPLETED, FAILED])
def test_cancel_of_any_other_job_is_illegal(status: JobStatus) -> None:
    driver = Driver()
    job = at(driver, status)
    error = driver.error(Cancel(job_id=job.job_id))
    assert (error.code, error.status, error.target) == ("illegal_transition", status, "failed")
    assert error.version == job.version
    assert driver.job(Get(job_id=job.job_id)) == job


@pytest.mark.parametrize("status", [AWAITING_PAYMENT, RUNNING, COMPLETED, FAILED])
def test_only_a_job_in_awaiting_input_takes_input(status: JobStatus) -> None:
    driver = Driver()
    job = at(driver, status)
    error = driver.error(ProvideInput(job_id=job.job_id, input="x", expected_version=job.version))
    assert (error.code, error.status, error.target) == ("illegal_transition", status, "running")
    assert driver.job(Get(job_id=job.job_id)) == job


def test_count_tells_the_oldest_of_each_status() -> None:
    driver = Driver()
    first = driver.job(create())
    driver.pass_ms(1_000)
    driver.job(create())
    driver.job(move(first, RUNNING))
    (result,) = driver.ask(Count())
    assert result == CountResult(
        2,
        {"awaiting_payment": 1, "awaiting_input": 0, "running": 1, "completed": 0, "failed": 0},
        {
            "awaiting_payment": EPOCH + timedelta(seconds=1),
            "awaiting_input": None,
            "running": EPOCH + timedelta(seconds=1),
            "completed": None,
            "failed": None,
        },
        as_of="-4-0",  # what is decided next is record 4 of a log without a name
    )
    (one,) = driver.ask(Count(status=RUNNING))
    assert one == CountResult(
        1, {"running": 1}, {"running": EPOCH + timedelta(seconds=1)}, as_of="-4-0"
    )
    (none,) = driver.ask(Count(status=FAILED))
    assert none == CountResult(0, {"failed": 0}, {"failed": None}, as_of="-4-0")


def pages(driver: Driver, **fields: Any) -> list[list[str]]:
    seen, after = [], None
    while True:
        (page,) = driver.ask(List(after=after, **fields))
        assert isinstance(page, JobsResult)
        seen.append([job.job_id for job in page.jobs])
        after = page.next
        if after is None:
            return seen


def flat(lists: list[list[str]]) -> list[str]:
    return [item for items in lists for item in items]


def test_list_by_pages() -> None:
    driver = Driver()
    ids = [driver.job(create()).job_id for _ in range(5)]
    assert pages(driver, limit=2) == [ids[:2], ids[2:4], ids[4:]]
    assert pages(driver, limit=5) == [ids]
    driver.job(move(ids[1], RUNNING))
    assert flat(pages(driver, limit=1, status=RUNNING)) == [ids[1]]
    assert flat(pages(driver, limit=2, status=AWAITING_PAYMENT)) == [ids[0], *ids[2:]]
    assert pages(Driver(), limit=1) == [[]]


def test_a_page_holds_the_jobs_that_fit_in_the_reply() -> None:
    driver = Driver(reply_bytes=400_000)
    ids = [driver.job(create(input="x" * 60_000)).job_id for _ in range(14)]
    shown = pages(driver, limit=1_000)
    assert len(shown) > 1
    assert flat(shown) == ids
    assert all(len(page) > 2 for page in shown[:-1])


def test_a_free_job_may_be_moved_by_anybody() -> None:
    driver = Driver()
    job = running(driver)
    assert driver.error(move(job, COMPLETED, lease=1)).code == "lease_lost"
    assert driver.job(move(job, COMPLETED)).status is COMPLETED


UNKNOWN = "nobody"


LONG = "x" * 11


@pytest.mark.parametrize(
    "command",
    [
        Get(job_id=UNKNOWN),
        Get(blockchain_identifier=UNKNOWN),
        move(UNKNOWN, COMPLETED, expected_version=9, lease=9),
        ProvideInput(job_id=UNKNOWN, input="x", expected_version=9),
        Cancel(job_id=UNKNOWN, expected_version=9),
        Touch(job_id=UNKNOWN, lease=1, lease_ms=1),
        Release(job_id=UNKNOWN, lease=1),
        wait(UNKNOWN),
        wait(job_id(1), UNKNOWN),
    ],
    ids=str,
)
def test_job_not_found_comes_before_other_refusals(
    command: AnyCommand,
) -> None:
    driver = Driver()
    driver.job(move(driver.job(create()), FAILED))
    assert driver.error(command).code == "job_not_found"


@pytest.mark.parametrize(
    ("command", "limit"),
    [
        (create(input=LONG), 10),
        (create(identifier_from_purchaser=LONG), 8),
        (create(blockchain_identifier=LONG), 9),
        (create(input="é" * 5 + "x"), 10),
        (create(input="😀" * 3), 10),
        (create(job_id=job_id(1), input=LONG), 10),
        (move(UNKNOWN, COMPLETED, result=LONG), 10),
        (move(UNKNOWN, FAILED, error=LONG), 10),
        (move(UNKNOWN, AWAITING_INPUT, input_schema=LONG), 10),
        (ProvideInput(job_id=UNKNOWN, input=LONG, expected_version=1), 10),
    ],
    ids=str,
)
def test_too_large_comes_before_other_refusals(command: AnyCommand, limit: int) -> None:
    driver = Driver(
        text_bytes=10, identifier_from_purchaser_bytes=8, blockchain_identifier_bytes=9, jobs=1
    )
    driver.job(create(job_id=job_id(1)))
    error = driver.error(command)
    assert (error.code, error.limit, error.retryable) == ("too_large", limit, False)
    assert driver.engine.context.state.jobs.count() == 1


def test_a_short_request_can_hold_an_identifier_too_long() -> None:
    driver = Driver(blockchain_identifier_bytes=9, identifier_from_purchaser_bytes=8)
    for field in ("blockchain_identifier", "identifier_from_purchaser"):
        assert driver.error(create(**{field: LONG})).code == "too_large"
    assert driver.engine.context.state.jobs.count() == 0


@pytest.mark.parametrize("text", ["x" * 10, "é" * 5, "😀😀é", ""])
def test_a_text_at_its_limit_is_accepted(text: str) -> None:
    driver = Driver(text_bytes=10, identifier_from_purchaser_bytes=8, blockchain_identifier_bytes=9)
    assert driver.job(create(input=text)).input == text
    driver.job(create(identifier_from_purchaser="x" * 8, blockchain_identifier="x" * 9))


def test_a_full_repository_still_finds_its_jobs() -> None:
    driver = Driver(jobs=2)
    driver.job(create(job_id=job_id(7), blockchain_identifier="pay"))
    driver.job(create())
    error = driver.error(create())
    assert (error.code, error.retryable, error.limit) == ("repository_full", True, 2)
    assert driver.error(create(blockchain_identifier="pay")).code == "repository_full"
    assert driver.job(create(job_id=job_id(7))).job_id == job_id(7)
    assert driver.job(move(job_id(7), RUNNING)).status is RUNNING
    assert driver.engine.context.state.jobs.count() == 2


@pytest.mark.parametrize("target", JobStatus)
@pytest.mark.parametrize("status", JobStatus)
def test_every_pair_of_statuses_through_the_pipeline(status: JobStatus, target: JobStatus) -> None:
    legal = {
        AWAITING_PAYMENT: {RUNNING, FAILED},
        RUNNING: {COMPLETED, FAILED, AWAITING_INPUT},
        AWAITING_INPUT: {RUNNING, FAILED},
        COMPLETED: set[JobStatus](),
        FAILED: set[JobStatus](),
    }[status]
    driver = Driver()
    job = at(driver, status)
    records = len(driver.records)
    if target in legal:
        assert driver.job(move(job, target)).status is target
        return
    error = driver.error(move(job, target))
    assert (error.code, error.status, error.target) == ("illegal_transition", status, target)
    assert error.allowed == sorted(legal)
    assert driver.job(Get(job_id=job.job_id)) == job
    assert len(driver.records) == records

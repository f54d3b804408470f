"""Every command, every refusal in its order, and what happens by itself in time."""

from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest

from tests.core import (
    ADMIN,
    EPOCH,
    HASH,
    OTHER,
    PEER,
    Driver,
    error_of_result,
    job_id,
    job_of,
    leases_of,
    make_pipeline,
)
from tollgate.broker.core.batch import Arrival
from tollgate.broker.core.deadlines import FAR_MS
from tollgate.broker.core.events import JobCreated
from tollgate.broker.core.limits import job_bytes_max, result_bytes_max
from tollgate.broker.repository.indexes import StatusIndex
from tollgate.domain.commands import (
    AnyCommand,
    Cancel,
    Claim,
    Count,
    Create,
    Get,
    Hello,
    List,
    ProvideInput,
    Release,
    Touch,
    Transition,
    Wait,
)
from tollgate.domain.exceptions import JobConflictError, Refusal
from tollgate.domain.messages import Refused, Reply, Request, encode_request
from tollgate.domain.models import JobStatus
from tollgate.domain.results import (
    CountResult,
    ErrorResult,
    HelloResult,
    JobFields,
    JobsResult,
    LeaseResult,
    LeasesResult,
    OkResult,
)

AWAITING_PAYMENT, AWAITING_INPUT, RUNNING, COMPLETED, FAILED = (
    JobStatus("awaiting_payment"),
    JobStatus("awaiting_input"),
    JobStatus("running"),
    JobStatus("completed"),
    JobStatus("failed"),
)
DAY_MS = 86_400_000
GRACE_MS = 300_000
HOUR = timedelta(hours=1)


def create(**fields: Any) -> Create:
    return Create(input_hash=HASH, **fields)


def move(job: JobFields | str, target: JobStatus, **fields: Any) -> Transition:
    return Transition(job_id=job if isinstance(job, str) else job.job_id, target=target, **fields)


def claim(
    status: JobStatus = RUNNING, lease_ms: int = 1_000, wait_ms: int = 0, limit: int = 1
) -> Claim:
    return Claim(status=status, lease_ms=lease_ms, wait_ms=wait_ms, limit=limit)


def wait(*job_ids: str, timeout_ms: int = 1_000, statuses: list[JobStatus] | None = None) -> Wait:
    return Wait(job_ids=list(job_ids), timeout_ms=timeout_ms, statuses=statuses)


def running(driver: Driver, **fields: Any) -> JobFields:
    return driver.job(move(driver.job(create(**fields)), RUNNING))


def at(driver: Driver, status: JobStatus) -> JobFields:
    """Return a new job in `status`."""
    job = driver.job(create())
    if status is AWAITING_PAYMENT:
        return job
    if status is FAILED:
        return driver.job(move(job, FAILED))
    job = driver.job(move(job, RUNNING))
    return job if status is RUNNING else driver.job(move(job, status))


# --- commands -----------------------------------------------------------------------------------


def test_hello_tells_who_is_there_and_its_limits() -> None:
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
    assert hello.limits["blockchain_identifier_bytes"] == 4 * 1024
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


def test_a_known_id_with_the_same_fields_is_that_job_as_it_is_now() -> None:
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
def test_a_known_id_with_another_field_is_a_conflict(other: dict[str, Any]) -> None:
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


def test_one_payment_opens_one_gate() -> None:
    driver = Driver()
    driver.job(create(blockchain_identifier="pay"))
    error = driver.error(create(blockchain_identifier="pay"))
    assert (error.code, error.job_id) == ("job_conflict", job_id(1))
    assert driver.engine.context.state.jobs.count() == 1


def test_a_transition_takes_what_belongs_to_it() -> None:
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
def test_cancel_of_any_other_is_illegal(status: JobStatus) -> None:
    driver = Driver()
    job = at(driver, status)
    error = driver.error(Cancel(job_id=job.job_id))
    assert (error.code, error.status, error.target) == ("illegal_transition", status, "failed")
    assert error.version == job.version
    assert driver.job(Get(job_id=job.job_id)) == job


@pytest.mark.parametrize("status", [AWAITING_PAYMENT, RUNNING, COMPLETED, FAILED])
def test_only_a_job_that_asks_takes_input(status: JobStatus) -> None:
    driver = Driver()
    job = at(driver, status)
    error = driver.error(ProvideInput(job_id=job.job_id, input="x", expected_version=job.version))
    assert (error.code, error.status, error.target) == ("illegal_transition", status, "running")
    assert driver.job(Get(job_id=job.job_id)) == job


def test_count_by_status_with_the_oldest_of_each() -> None:
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
    )
    (one,) = driver.ask(Count(status=RUNNING))
    assert one == CountResult(1, {"running": 1}, {"running": EPOCH + timedelta(seconds=1)})
    (none,) = driver.ask(Count(status=FAILED))
    assert none == CountResult(0, {"failed": 0}, {"failed": None})


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


def test_a_page_holds_what_fits_in_the_reply() -> None:
    driver = Driver(reply_bytes=400_000)
    ids = [driver.job(create(input="x" * 60_000)).job_id for _ in range(14)]
    shown = pages(driver, limit=1_000)
    assert len(shown) > 1
    assert flat(shown) == ids
    assert all(len(page) > 2 for page in shown[:-1])


def test_claim_touch_release() -> None:
    driver = Driver()
    ids = [running(driver).job_id for _ in range(3)]
    grants = driver.grants_of(claim(limit=2))
    assert [(grant.job.job_id, grant.lease) for grant in grants] == [(ids[0], 1), (ids[1], 2)]
    assert [grant.job.job_id for grant in driver.grants_of(claim(limit=9))] == [ids[2]]
    assert driver.grants_of(claim()) == []
    driver.pass_ms(900)
    (touched,) = driver.ask(Touch(job_id=ids[0], lease=1, lease_ms=1_000))
    assert touched == LeaseResult(ids[0], 1, 1_000)
    assert driver.ask(Release(job_id=ids[1], lease=2)) == [OkResult()]
    assert [grant.lease for grant in driver.grants_of(claim())] == [4]
    driver.pass_ms(100)  # the third one lapses, the touched one does not
    assert [grant.job.job_id for grant in driver.grants_of(claim())] == [ids[2]]
    driver.pass_ms(899)
    assert driver.grants_of(claim(limit=9)) == []
    driver.pass_ms(1)
    assert [grant.job.job_id for grant in driver.grants_of(claim(limit=9))] == ids[:2]


def test_claims_of_unpaid_jobs_are_apart_from_those_of_running_ones() -> None:
    driver = Driver()
    unpaid = driver.job(create())
    assert driver.grants_of(claim(RUNNING)) == []
    (grant,) = driver.grants_of(claim(AWAITING_PAYMENT))
    job = driver.job(move(unpaid, RUNNING, lease=grant.lease))
    assert job.status is RUNNING
    (again,) = driver.grants_of(claim(RUNNING))  # the transition has ended the lease
    assert again.lease > grant.lease


def test_a_standing_lease_guards_its_job() -> None:
    driver = Driver()
    job = running(driver)
    (grant,) = driver.grants_of(claim())
    held = driver.error(move(job, COMPLETED))
    assert (held.code, held.status, held.version) == ("lease_held", "running", 2)
    for wrong in (0, grant.lease + 1):
        lost = driver.error(move(job, COMPLETED, lease=wrong))
        assert (lost.code, lost.status, lost.version) == ("lease_lost", "running", 2)
    done = driver.job(move(job, COMPLETED, lease=grant.lease))
    assert done.version == 3
    for command in (
        move(job, FAILED, lease=grant.lease),
        Touch(job_id=job.job_id, lease=grant.lease, lease_ms=1),
        Release(job_id=job.job_id, lease=grant.lease),
    ):
        assert driver.error(command).code == "lease_lost"


def test_the_old_holder_cannot_act_after_the_lease_lapsed() -> None:
    driver = Driver()
    job = running(driver)
    (old,) = driver.grants_of(claim())
    driver.pass_ms(1_000)
    for command in (
        move(job, COMPLETED, lease=old.lease),
        Touch(job_id=job.job_id, lease=old.lease, lease_ms=1),
        Release(job_id=job.job_id, lease=old.lease),
    ):
        assert driver.error(command).code == "lease_lost"
    (new,) = driver.grants_of(claim())
    assert new.lease > old.lease
    assert driver.error(move(job, COMPLETED, lease=old.lease)).code == "lease_lost"
    assert driver.job(move(job, COMPLETED, lease=new.lease)).status is COMPLETED


def test_a_free_job_may_be_moved_by_anybody() -> None:
    driver = Driver()
    job = running(driver)
    assert driver.error(move(job, COMPLETED, lease=1)).code == "lease_lost"
    assert driver.job(move(job, COMPLETED)).status is COMPLETED


def test_a_purchaser_is_not_held_up_by_a_lease() -> None:
    driver = Driver()
    unpaid = driver.job(create())
    driver.grants_of(claim(AWAITING_PAYMENT))
    assert driver.job(Cancel(job_id=unpaid.job_id)).status is FAILED
    asking = at(driver, AWAITING_INPUT)
    driver.grants_of(claim(AWAITING_INPUT))
    answered = driver.job(ProvideInput(job_id=asking.job_id, input="x", expected_version=3))
    assert answered.status is RUNNING


# --- refusals of one command, in their order ----------------------------------------------------

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
def test_an_unknown_job_is_not_found_before_all_that_it_could_be_wrong_with(
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
def test_too_large_a_text_is_told_before_anything_else(command: AnyCommand, limit: int) -> None:
    driver = Driver(
        text_bytes=10, identifier_from_purchaser_bytes=8, blockchain_identifier_bytes=9, jobs=1
    )
    driver.job(create(job_id=job_id(1)))
    error = driver.error(command)
    assert (error.code, error.limit, error.retryable) == ("too_large", limit, False)
    assert driver.engine.context.state.jobs.count() == 1


@pytest.mark.parametrize("text", ["x" * 10, "é" * 5, "😀😀é", ""])
def test_a_text_at_its_limit_is_taken(text: str) -> None:
    driver = Driver(text_bytes=10, identifier_from_purchaser_bytes=8, blockchain_identifier_bytes=9)
    assert driver.job(create(input=text)).input == text
    driver.job(create(identifier_from_purchaser="x" * 8, blockchain_identifier="x" * 9))


def test_a_full_repository_takes_no_more_but_knows_what_it_has() -> None:
    driver = Driver(jobs=2)
    driver.job(create(job_id=job_id(7), blockchain_identifier="pay"))
    driver.job(create())
    error = driver.error(create())
    assert (error.code, error.retryable, error.limit) == ("repository_full", True, 2)
    assert driver.error(create(blockchain_identifier="pay")).code == "repository_full"
    assert driver.job(create(job_id=job_id(7))).job_id == job_id(7)
    assert driver.job(move(job_id(7), RUNNING)).status is RUNNING
    assert driver.engine.context.state.jobs.count() == 2


def test_the_version_is_checked_before_the_lease_and_the_lease_before_what_is_legal() -> None:
    driver = Driver()
    job = running(driver)
    (grant,) = driver.grants_of(claim())
    conflict = driver.error(move(job, AWAITING_PAYMENT, expected_version=1, lease=99))
    assert (conflict.code, conflict.status, conflict.version) == ("version_conflict", "running", 2)
    assert driver.error(move(job, AWAITING_PAYMENT, lease=99)).code == "lease_lost"
    assert driver.error(move(job, AWAITING_PAYMENT)).code == "lease_held"
    illegal = driver.error(move(job, AWAITING_PAYMENT, lease=grant.lease, expected_version=2))
    assert (illegal.code, illegal.job_id) == ("illegal_transition", job.job_id)
    assert (illegal.status, illegal.target, illegal.version) == ("running", "awaiting_payment", 2)
    assert illegal.allowed == ["awaiting_input", "completed", "failed"]
    for command in (
        ProvideInput(job_id=job.job_id, input="x", expected_version=1),
        Cancel(job_id=job.job_id, expected_version=1),
    ):
        assert driver.error(command).code == "version_conflict"
    assert driver.job(Get(job_id=job.job_id)).version == 2


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


# --- replies that would grow over their limit ---------------------------------------------------


def test_what_does_not_fit_in_the_reply_is_not_executed_nor_is_all_after_it() -> None:
    driver = Driver(reply_bytes=400_000, text_bytes=60_000, request_bytes=10**9)
    jobs = [running(driver) for _ in range(20)]
    results = driver.ask(*(move(job, COMPLETED, result="x" * 50_000) for job in jobs), Count())
    done = [result for result in results if type(result).__name__ == "JobResult"]
    full = [error_of_result(result) for result in results[len(done) :]]
    assert 5 <= len(done) <= 8
    assert {error.code for error in full} == {"reply_full"}
    assert all(error.retryable for error in full)
    statuses = [driver.job(Get(job_id=job.job_id)).status for job in jobs]
    assert statuses == [COMPLETED] * len(done) + [RUNNING] * (20 - len(done))


def small(driver: Driver) -> JobFields:
    return driver.job(create(job_id=job_id(50), input="x"))


BIG: dict[str, Any] = {"input": "x" * 60_000, "blockchain_identifier": "pay"}


@pytest.mark.parametrize(
    "command",
    [
        Get(job_id=job_id(51)),
        Get(blockchain_identifier="pay"),
        create(job_id=job_id(51)),
        create(input="x" * 60_000),
        create(input="x" * 60_001),
        move(job_id(51), RUNNING),
        Cancel(job_id=job_id(51)),
        List(limit=1_000),
        claim(AWAITING_PAYMENT, limit=1_000),
    ],
    ids=lambda command: type(command).__name__,
)
@pytest.mark.parametrize("reply_bytes", [330_000, 335_000, 400_000])
def test_no_reply_grows_over_its_limit(reply_bytes: int, command: AnyCommand) -> None:
    """Clients size their buffers by it."""
    driver = Driver(reply_bytes=reply_bytes, text_bytes=60_000, request_bytes=10**9)
    driver.job(create(job_id=job_id(51), **BIG))
    commands = [command, *[Get(job_id=job_id(51))] * 20, command, *[command] * 900]
    one_then_many = [Get(job_id=job_id(51))] * 5 + [command] * 995
    for batch in (commands, commands[1:], one_then_many, [command] * 25):
        request = encode_request(driver.request(*batch))
        outcome = driver.pipeline.run([Arrival(PEER, [request], ADMIN)], driver.now)
        (reply,) = outcome.replies
        assert len(reply.frame) <= reply_bytes
        (answer,) = driver.take(outcome)
        assert isinstance(answer[1], Reply)
        assert len(answer[1].results) == len(batch)


def test_no_repeated_reply_grows_over_its_limit_either() -> None:
    """The jobs that a request created may have grown since."""
    driver = Driver(reply_bytes=600_000, text_bytes=60_000, request_bytes=10**9)
    (hello,) = driver.ask(Hello(open_session=True))
    assert isinstance(hello, HelloResult)
    batch = [create(input="x" * 60_000)] * 9
    frame = encode_request(driver.request(*batch, session=hello.session or 0))
    first = driver.pipeline.run([Arrival(PEER, [frame], ADMIN)], driver.now)
    assert b"reply_full" not in first.replies[0].frame
    for number in range(1, 10):
        asks = move(job_id(number), AWAITING_INPUT, input_schema="y" * 60_000)
        driver.ask(move(job_id(number), RUNNING), asks)
    again = driver.pipeline.run([Arrival(PEER, [frame], ADMIN)], driver.now)
    assert again.replies[0].frame == first.replies[0].frame  # not a byte more
    assert driver.engine.context.state.jobs.count() == 9


def test_what_was_executed_is_never_said_not_to_have_fit() -> None:
    """A repeat shows its reads as they are now; they must not crowd out what happened."""
    driver = Driver(reply_bytes=600_000, text_bytes=60_000, request_bytes=10**9)
    (hello,) = driver.ask(Hello(open_session=True))
    assert isinstance(hello, HelloResult)
    for _ in range(12):
        driver.ask(create())
    reads = [Get(job_id=job_id(number)) for number in range(1, 13)]
    frame = encode_request(
        driver.request(*reads, create(input="x" * 60_000), session=hello.session or 0)
    )
    (_, first), *_ = driver.run(Arrival(PEER, [frame], ADMIN))
    for number in range(1, 13):
        driver.ask(move(job_id(number), RUNNING))
        driver.ask(move(job_id(number), COMPLETED, result="z" * 60_000))
    outcome = driver.pipeline.run([Arrival(PEER, [frame], ADMIN)], driver.now)
    assert len(outcome.replies[0].frame) <= 600_000
    ((_, again),) = driver.take(outcome)
    assert isinstance(first, Reply)
    assert isinstance(again, Reply)
    assert again.results[-1] == first.results[-1]
    full = again.results[-2]
    assert isinstance(full, ErrorResult)
    assert full.code == "reply_full"
    assert driver.engine.context.state.jobs.count() == 13


def test_a_repeat_of_a_parked_claim_does_not_begin_its_time_anew() -> None:
    driver = Driver()
    (hello,) = driver.ask(Hello(open_session=True))
    assert isinstance(hello, HelloResult)
    waiting = Claim(status=RUNNING, lease_ms=1_000, wait_ms=1_000, limit=1)
    frame = encode_request(driver.request(waiting, session=hello.session or 0))
    driver.run(Arrival(PEER, [frame], ADMIN))
    driver.pass_ms(600)
    driver.run(Arrival(PEER, [frame], ADMIN))
    driver.inbox.clear()
    driver.pass_ms(400)
    ((_, answer),) = driver.inbox
    assert isinstance(answer, Reply)
    assert answer.results == [LeasesResult([])]


def test_a_claim_takes_what_fits_and_leaves_the_rest_free() -> None:
    driver = Driver(reply_bytes=400_000)
    ids = [driver.job(create(input="x" * 60_000)).job_id for _ in range(10)]
    grants = driver.grants_of(claim(AWAITING_PAYMENT, limit=10))
    taken = [grant.job.job_id for grant in grants]
    assert 3 <= len(taken) < 10
    assert taken == ids[: len(taken)]
    rest = driver.grants_of(claim(AWAITING_PAYMENT, limit=10))
    assert rest[0].job.job_id == ids[len(taken)]


def test_a_bound_on_a_result_is_one() -> None:
    """What is checked beforehand against the room left is never less than what is written."""
    driver = Driver()
    text = "\x00😀" * 12_000
    job = driver.job(
        create(
            input=text,
            identifier_from_purchaser="é" * 128,
            blockchain_identifier="ü" * 2_048,
            pay_by_time=datetime.max.replace(tzinfo=EPOCH.tzinfo),
            submit_result_time=EPOCH,
        )
    )
    stored = driver.engine.context.state.jobs.require(job.job_id)
    assert len(msgspec.msgpack.encode(job)) <= job_bytes_max(stored)
    assert job_bytes_max(stored) <= result_bytes_max(driver.engine.limits)
    for result in driver.ask(Hello(), Count()):
        assert len(msgspec.msgpack.encode(result)) <= 1_024


# --- refusals of a whole message ----------------------------------------------------------------


def refuse(driver: Driver, *frames: bytes) -> Refused:
    before = driver.engine.context.state.jobs.count()
    ((_, answer),) = driver.run(Arrival(PEER, list(frames), ADMIN))
    assert isinstance(answer, Refused)
    assert driver.engine.context.state.jobs.count() == before
    return answer


def pack(**changes: object) -> bytes:
    fields = {"v": 1, "session": 0, "seq": 3, "acked": 0, "commands": [], **changes}
    return msgspec.msgpack.encode(fields)


CREATE = {"type": "create", "input_hash": HASH}
PAST = EPOCH - HOUR
WAIT = {"type": "wait", "job_ids": [job_id(1)], "timeout_ms": 9}


def test_whole_messages_are_refused_for_the_first_reason_in_order() -> None:
    driver = Driver(request_bytes=1_000, commands=3)
    long = {**CREATE, "input": "x" * 2_000}
    wrong = {**CREATE, "colour": 1}
    reasons: list[tuple[str, dict[str, object]]] = [
        ("unsupported_version", {"v": 2, "commands": [wrong, long] * 4, "valid_until": PAST}),
        ("malformed", {"commands": [wrong, long] * 4, "valid_until": PAST}),
        ("too_large", {"commands": [long], "valid_until": PAST}),
        ("too_large", {"commands": [CREATE] * 4, "valid_until": PAST}),
        ("expired", {"commands": [CREATE], "valid_until": PAST, "session": 99}),
        ("session_evicted", {"commands": [CREATE], "session": 99}),
    ]
    for code, changes in reasons:
        answer = refuse(driver, pack(**changes))
        assert (answer.seq, answer.error.code) == (3, code)
    driver.drain()
    for code, changes in reasons:
        assert refuse(driver, pack(**changes)).error.code == code
    assert refuse(driver, pack(commands=[CREATE])).error.code == "draining"
    assert refuse(driver, pack()).error.code == "draining"


@pytest.mark.parametrize(
    ("frames", "seq"),
    [
        ([b""], None),
        ([b"\xc1"], None),
        ([b"GET / HTTP/1.1"], None),
        ([pack(), pack()], None),
        ([b"", pack()], None),
        ([pack() + b"x"], None),
        ([pack(commands=[WAIT, CREATE])], 3),
        ([pack(commands=[{"type": "fly"}])], 3),
        ([pack(commands=[CREATE, {**CREATE, "input_hash": "0" * 63}])], 3),
        ([pack(seq=2**53)], None),
        ([pack(valid_until=msgspec.msgpack.Ext(-1, b"\x00" * 4 + (2**40).to_bytes(8, "big")))], 3),
    ],
    ids=str,
)
def test_what_is_no_request_is_malformed(frames: list[bytes], seq: int | None) -> None:
    answer = refuse(Driver(), *frames)
    assert (answer.error.code, answer.error.retryable, answer.seq) == ("malformed", False, seq)


def test_the_limits_of_a_message_are_told() -> None:
    driver = Driver(request_bytes=500, commands=2)
    assert refuse(driver, pack(commands=[CREATE] * 3)).error.limit == 2
    assert refuse(driver, pack(commands=[{**CREATE, "input": "x" * 500}])).error.limit == 500
    frame = pack(commands=[{**CREATE, "input": ""}])
    padding = 500 - len(frame) - 2
    ((_, answer),) = driver.run(
        Arrival(PEER, [pack(commands=[{**CREATE, "input": "x" * padding}])], ADMIN)
    )
    assert isinstance(answer, Reply)


def test_a_message_is_good_until_its_last_moment() -> None:
    driver = Driver()
    ((_, answer),) = driver.run(Arrival(PEER, [pack(valid_until=EPOCH)], ADMIN))
    assert answer == Reply(1, 3, [])
    driver.pass_ms(1)
    assert refuse(driver, pack(valid_until=EPOCH)).error.code == "expired"


def test_results_stand_in_the_order_of_their_commands() -> None:
    driver = Driver()
    results = driver.ask(
        create(), Get(job_id=job_id(1)), move(job_id(1), COMPLETED), move(job_id(1), RUNNING),
        Get(job_id=job_id(2)), Count(),
    )  # fmt: skip
    assert [getattr(result, "code", type(result).__name__) for result in results] == [
        "JobResult", "JobResult", "illegal_transition", "JobResult", "job_not_found", "CountResult",
    ]  # fmt: skip


# --- waiting ------------------------------------------------------------------------------------


def test_a_wait_for_what_is_there_already_ends_at_once() -> None:
    driver = Driver()
    failed, unpaid = at(driver, FAILED), at(driver, AWAITING_PAYMENT)
    done = at(driver, COMPLETED)
    assert driver.job(wait(unpaid.job_id, done.job_id, failed.job_id)) == done
    assert driver.job(wait(unpaid.job_id, statuses=[AWAITING_PAYMENT])) == unpaid
    assert driver.job(wait(failed.job_id, statuses=[RUNNING])) == failed


def test_a_wait_ends_in_the_batch_that_ends_it() -> None:
    driver = Driver()
    job = driver.job(create())
    seq = driver.post(wait(job.job_id, timeout_ms=1_000), peer=OTHER)
    running_seq = driver.post(wait(job.job_id, statuses=[RUNNING]), peer=OTHER)
    assert driver.answer_to(seq, OTHER) is None
    arrivals = [
        Arrival(PEER, [encode_request(driver.request(command))], ADMIN)
        for command in (move(job, RUNNING), move(job, COMPLETED, result="r"))
    ]
    answers = driver.run(*arrivals)
    assert [to for to, _ in answers] == [PEER, OTHER, PEER, OTHER]
    assert job_of(driver.result_of(running_seq, OTHER)).status is RUNNING
    assert job_of(driver.result_of(seq, OTHER)).result == "r"
    assert len(driver.engine.context.waiters.parked) == 0


def test_a_wait_is_answered_once() -> None:
    driver = Driver()
    first, second = driver.job(create()), driver.job(create())
    seq = driver.post(wait(first.job_id, second.job_id, first.job_id), peer=OTHER)
    driver.ask(move(first, FAILED), move(second, FAILED))
    driver.pass_ms(10_000)
    answers = [answer for to, answer in driver.inbox if to == OTHER]
    assert len(answers) == 1
    assert job_of(driver.result_of(seq, OTHER)).job_id == first.job_id


def test_a_wait_ends_in_time() -> None:
    driver = Driver()
    job = driver.job(create())
    assert driver.error(wait(job.job_id, timeout_ms=0)).code == "wait_timeout"
    seq = driver.post(wait(job.job_id, timeout_ms=100))
    driver.pass_ms(99)
    assert driver.answer_to(seq) is None
    driver.pass_ms(1)
    error = error_of_result(driver.result_of(seq))
    assert (error.code, error.retryable) == ("wait_timeout", True)
    claim_seq = driver.post(claim(wait_ms=100))
    driver.pass_ms(100)
    assert leases_of(driver.result_of(claim_seq)) == []


def test_waits_end_for_what_the_clock_does_too() -> None:
    driver = Driver()
    job = driver.job(create(pay_by_time=EPOCH + HOUR))
    seq = driver.post(wait(job.job_id, timeout_ms=3_600_000))
    driver.set_wall(EPOCH + HOUR + timedelta(milliseconds=GRACE_MS))
    assert job_of(driver.result_of(seq)).status is FAILED


def test_waits_with_and_without_a_session_may_end_at_the_same_time() -> None:
    """Their keys in the timers' heap must have an order."""
    driver = Driver()
    job = driver.job(create())
    (hello,) = driver.ask(Hello(open_session=True))
    assert isinstance(hello, HelloResult)
    for session in (0, hello.session or 0, 0, hello.session or 0):
        request = driver.request(wait(job.job_id, timeout_ms=100), session=session)
        driver.run(Arrival(PEER, [encode_request(request)], ADMIN))
    assert len(driver.engine.context.waiters.parked) == 4
    driver.pass_ms(100)
    assert len(driver.engine.context.waiters.parked) == 0


def test_parked_claims_are_served_in_their_order_with_jobs_in_theirs() -> None:
    driver = Driver()
    unpaid = [driver.job(create()) for _ in range(4)]
    seqs = [driver.post(claim(wait_ms=1_000, limit=limit), peer=OTHER) for limit in (1, 2, 5)]
    answers = driver.ask(*(move(job, RUNNING) for job in reversed(unpaid)))
    assert len(answers) == 4
    got = [[grant.job.job_id for grant in leases_of(driver.result_of(seq, OTHER))] for seq in seqs]
    ids = [job.job_id for job in unpaid]
    assert got == [ids[:1], ids[1:3], ids[3:]]


def test_a_released_or_lapsed_job_goes_to_who_waits() -> None:
    driver = Driver()
    job = running(driver)
    (grant,) = driver.grants_of(claim(lease_ms=500))
    first = driver.post(claim(wait_ms=10_000, lease_ms=500))
    second = driver.post(claim(wait_ms=10_000, lease_ms=500))
    driver.ask(Release(job_id=job.job_id, lease=grant.lease))
    assert [g.lease for g in leases_of(driver.result_of(first))] == [2]
    driver.pass_ms(500)
    assert [g.lease for g in leases_of(driver.result_of(second))] == [3]


def test_a_parked_claim_gets_the_job_as_it_is_then() -> None:
    driver = Driver()
    seq = driver.post(claim(wait_ms=1_000))
    running(driver)
    (grant,) = leases_of(driver.result_of(seq))
    assert (grant.job.status, grant.job.version) == (RUNNING, 2)


def test_no_more_waits_than_the_settings_allow() -> None:
    driver = Driver(parked=2, watched=3)
    ids = [driver.job(create()).job_id for _ in range(3)]
    driver.post(wait(*ids))
    error = driver.refused(wait(ids[0]))
    assert (error.code, error.retryable, error.limit) == ("overloaded", True, 3)
    driver.post(claim(wait_ms=100))
    for command in (wait(ids[0]), claim(wait_ms=100)):
        error = driver.refused(command)
        assert (error.code, error.retryable, error.limit) == ("overloaded", True, 2)
    assert driver.job(wait(ids[0], statuses=[AWAITING_PAYMENT])).job_id == ids[0]
    assert driver.error(wait(ids[0], timeout_ms=0)).code == "wait_timeout"
    assert driver.grants_of(claim()) == []
    driver.pass_ms(1_000)  # both are over
    driver.post(wait(ids[0], timeout_ms=5))
    assert len(driver.engine.context.waiters.parked) == 1


def test_a_repeated_wait_goes_to_where_it_was_last_asked_for() -> None:
    driver = Driver()
    job = driver.job(create())
    (hello,) = driver.ask(Hello(open_session=True))
    assert isinstance(hello, HelloResult)
    request = encode_request(driver.request(wait(job.job_id), session=hello.session or 0))
    assert driver.run(Arrival(PEER, [request], ADMIN)) == []
    assert driver.run(Arrival(OTHER, [request], ADMIN)) == []
    answers = driver.run(
        Arrival(PEER, [encode_request(driver.request(Cancel(job_id=job.job_id)))], ADMIN)
    )
    assert [to for to, _ in answers] == [PEER, OTHER]


def test_leaving_wakes_all_who_wait() -> None:
    driver = Driver()
    job = driver.job(create())
    seqs = [driver.post(wait(job.job_id)), driver.post(claim(wait_ms=100))]
    driver.drain()
    for seq in seqs:
        error = error_of_result(driver.result_of(seq))
        assert (error.code, error.retryable) == ("draining", True)
    assert driver.refused(create()).code == "draining"
    driver.pass_ms(10_000)
    assert len(driver.inbox) == 4


def test_a_job_too_large_for_todays_limits_does_not_bring_the_broker_down() -> None:
    """It was stored when more was allowed."""
    driver = Driver(text_bytes=300_000, request_bytes=10**9)
    job = driver.job(create(input="x" * 300_000))
    other = Driver(text_bytes=1_000, reply_bytes=250_000)
    state = driver.engine.context.state
    other.engine.context.state = state
    seq = other.post(claim(wait_ms=1_000))
    other.ask(create())
    other.post(move(job, RUNNING))
    assert error_of_result(other.result_of(seq)).code == "reply_full"
    assert state.jobs.get(job.job_id).status is RUNNING


def test_a_lease_that_was_touched_for_less_ends_earlier() -> None:
    driver = Driver()
    job = running(driver).job_id
    (grant,) = driver.grants_of(claim(lease_ms=60_000))
    driver.ask(Touch(job_id=job, lease=grant.lease, lease_ms=10))
    driver.pass_ms(10)
    assert [each.job.job_id for each in driver.grants_of(claim())] == [job]


def test_a_wait_is_answered_with_the_job_as_it_came_there_though_it_moves_on_at_once() -> None:
    driver = Driver()
    job = driver.job(create())
    waiting = Wait(job_ids=[job.job_id], statuses=[RUNNING], timeout_ms=9)
    seq = driver.post(waiting, peer=OTHER)
    driver.ask(move(job, RUNNING), move(job, COMPLETED, result="r"))
    shown = job_of(driver.result_of(seq, OTHER))
    assert (shown.status, shown.version, shown.result) == (RUNNING, 2, None)


# --- time ---------------------------------------------------------------------------------------


def status_of(driver: Driver, job: JobFields) -> JobStatus:
    return driver.engine.context.state.jobs.get(job.job_id).status


def test_an_unpaid_job_fails_after_its_deadline_and_the_grace() -> None:
    driver = Driver(payment_grace_ms=5_000)
    job = driver.job(create(pay_by_time=EPOCH + HOUR))
    default = driver.job(create())
    driver.set_wall(EPOCH + HOUR + timedelta(milliseconds=4_999))
    assert status_of(driver, job) is AWAITING_PAYMENT
    driver.set_wall(EPOCH + HOUR + timedelta(milliseconds=5_000))
    shown = driver.job(Get(job_id=job.job_id))
    assert (shown.status, shown.version) == (FAILED, 2)
    assert "pay_by_time" in (shown.error or "")
    assert shown.updated_at == EPOCH + HOUR + timedelta(seconds=5)
    driver.set_wall(EPOCH + timedelta(days=1, seconds=5))
    assert status_of(driver, default) is FAILED


@pytest.mark.parametrize("status", [RUNNING, AWAITING_INPUT])
def test_an_unfinished_job_fails_at_its_deadline(status: JobStatus) -> None:
    driver = Driver()
    job = running(driver, submit_result_time=EPOCH + HOUR)
    if status is AWAITING_INPUT:
        driver.job(move(job, AWAITING_INPUT))
    driver.set_wall(EPOCH + HOUR - timedelta(milliseconds=1))
    assert status_of(driver, job) is status
    driver.set_wall(EPOCH + HOUR)
    shown = driver.job(Get(job_id=job.job_id))
    assert shown.status is FAILED
    assert "submit_result_time" in (shown.error or "")


def test_a_deadline_passed_already_counts_when_the_job_comes_to_it() -> None:
    driver = Driver()
    job = driver.job(create(submit_result_time=EPOCH - HOUR))
    driver.pass_ms(1)
    assert status_of(driver, job) is AWAITING_PAYMENT  # this deadline is of running jobs
    driver.job(move(job, RUNNING))
    driver.run()
    assert status_of(driver, job) is FAILED


def test_what_is_paid_or_done_in_time_has_no_deadline() -> None:
    driver = Driver()
    paid = running(driver, pay_by_time=EPOCH + HOUR)
    done = driver.job(move(running(driver, submit_result_time=EPOCH + HOUR), COMPLETED))
    driver.set_wall(EPOCH + timedelta(days=3))
    assert status_of(driver, paid) is RUNNING
    assert status_of(driver, done) is COMPLETED


def test_deadlines_come_before_the_commands_of_a_batch() -> None:
    driver = Driver()
    job = running(driver, submit_result_time=EPOCH + HOUR)
    driver.wall = EPOCH + HOUR
    error = driver.error(move(job, COMPLETED))
    assert (error.code, error.status) == ("illegal_transition", "failed")


def test_a_deadline_ends_a_lease() -> None:
    driver = Driver()
    job = running(driver, submit_result_time=EPOCH + HOUR)
    (grant,) = driver.grants_of(claim(lease_ms=DAY_MS))
    driver.set_wall(EPOCH + HOUR)
    assert driver.error(move(job, COMPLETED, lease=grant.lease)).code == "lease_lost"


def test_a_clock_set_back_takes_no_time_back() -> None:
    driver = Driver()
    job = running(driver, submit_result_time=EPOCH + HOUR)
    (grant,) = driver.grants_of(claim(lease_ms=1_000))
    driver.set_wall(EPOCH - timedelta(days=400))
    driver.mono_ms += 999
    moved = driver.job(move(job, AWAITING_INPUT, lease=grant.lease))
    assert moved.updated_at == EPOCH
    driver.set_wall(EPOCH + HOUR - timedelta(seconds=1))
    assert status_of(driver, job) is AWAITING_INPUT
    driver.set_wall(EPOCH + HOUR)
    assert status_of(driver, job) is FAILED
    driver.set_wall(EPOCH)
    assert status_of(driver, job) is FAILED


def test_lease_time_runs_on_the_clock_that_is_never_set() -> None:
    driver = Driver()
    running(driver)
    driver.grants_of(claim(lease_ms=1_000))
    driver.set_wall(EPOCH + 2 * HOUR)
    assert driver.grants_of(claim()) == []
    driver.set_wall(EPOCH - timedelta(days=1))
    driver.mono_ms += 1_000
    assert len(driver.grants_of(claim())) == 1


def lapse(driver: Driver, times: int, status: JobStatus = RUNNING) -> None:
    for _ in range(times):
        assert len(driver.grants_of(claim(status))) == 1
        driver.pass_ms(1_000)


def test_a_running_job_whose_lease_lapses_too_often_fails() -> None:
    driver = Driver()
    job = running(driver)
    lapse(driver, 4)
    assert status_of(driver, job) is RUNNING
    lapse(driver, 1)
    shown = driver.job(Get(job_id=job.job_id))
    assert (shown.status, shown.version) == (FAILED, 3)
    assert "lapsed 5 times" in (shown.error or "")


def test_lapses_are_counted_within_one_stay_in_running() -> None:
    driver = Driver(lapses=2)
    job = driver.job(create())
    lapse(driver, 5, AWAITING_PAYMENT)
    assert status_of(driver, job) is AWAITING_PAYMENT
    driver.job(move(job, RUNNING))
    lapse(driver, 1)
    (grant,) = driver.grants_of(claim())
    driver.ask(Release(job_id=job.job_id, lease=grant.lease))
    driver.job(move(job, AWAITING_INPUT))
    lapse(driver, 3, AWAITING_INPUT)
    driver.job(move(job, RUNNING))
    lapse(driver, 1)
    assert status_of(driver, job) is RUNNING
    lapse(driver, 1)
    assert status_of(driver, job) is FAILED


def test_an_undelivered_grant_is_free_at_once() -> None:
    driver = Driver()
    running(driver)
    (grant,) = driver.grants_of(claim(lease_ms=DAY_MS))
    undelivered = driver.grants[-1]
    assert undelivered == [(grant.job.job_id, grant.lease)]
    seq = driver.post(claim(wait_ms=1_000))
    driver.run(undelivered=undelivered)
    (again,) = leases_of(driver.result_of(seq))
    assert again.lease == grant.lease + 1
    assert driver.grants[-1] == [(again.job.job_id, again.lease)]
    driver.run(undelivered=undelivered)  # over already
    assert driver.grants_of(claim()) == []


def test_an_undelivered_grant_does_not_count_as_a_lapse() -> None:
    driver = Driver(lapses=2)
    job = running(driver)
    for _ in range(5):
        driver.grants_of(claim())
        driver.run(undelivered=driver.grants[-1])
    assert status_of(driver, job) is RUNNING


@pytest.mark.parametrize("keep_finished_ms", [0, 1, 5_000])
def test_who_keeps_nothing_for_long_still_sleeps_while_there_is_nothing(
    keep_finished_ms: int,
) -> None:
    driver = Driver(keep_finished_ms=keep_finished_ms)
    driver.run()
    assert driver.pipeline.deadlines.due_in_ms(driver.now) == FAR_MS
    driver.ask(create(), move(job_id(1), FAILED))
    assert driver.pipeline.deadlines.due_in_ms(driver.now) <= keep_finished_ms
    driver.pass_ms(keep_finished_ms)
    assert driver.engine.context.state.jobs.count() == 0
    driver.run()
    assert driver.pipeline.deadlines.due_in_ms(driver.now) == FAR_MS


@pytest.mark.parametrize("far", [False, True])
def test_how_long_nothing_will_happen(far: bool) -> None:
    driver = Driver(payment_grace_ms=5_000)

    def due() -> int:
        return driver.pipeline.deadlines.due_in_ms(driver.now)

    assert due() == FAR_MS
    latest = datetime.max.replace(tzinfo=EPOCH.tzinfo)
    job = driver.job(create(pay_by_time=latest if far else EPOCH + HOUR))
    if far:
        assert due() == FAR_MS
        return
    assert due() == 3_605_000
    seq = driver.post(wait(job.job_id, timeout_ms=700))
    assert due() == 700
    driver.grants_of(claim(AWAITING_PAYMENT, lease_ms=300))
    assert due() == 300
    driver.mono_ms += 299
    assert due() == 1
    driver.mono_ms += 2
    assert due() == 0
    driver.run()
    assert due() == 399
    driver.mono_ms += 399
    driver.run()
    assert driver.answer_to(seq) is not None
    driver.wall = EPOCH + HOUR + timedelta(microseconds=4_999_001)
    assert due() == 1  # never too early, but not a moment lost either
    driver.wall = EPOCH + 3 * HOUR
    assert due() == 0
    driver.run()
    assert due() > 0


@pytest.mark.parametrize(
    "time", [datetime.max.replace(tzinfo=EPOCH.tzinfo), datetime.min.replace(tzinfo=EPOCH.tzinfo)]
)
def test_no_date_brings_the_broker_down(time: datetime) -> None:
    driver = Driver()
    job = driver.job(create(pay_by_time=time, submit_result_time=time))
    driver.pass_ms(1)
    driver.pipeline.deadlines.due_in_ms(driver.now)
    if time.year == 9999:
        driver.job(move(job, RUNNING))
        assert driver.pipeline.deadlines.due_in_ms(driver.now) == FAR_MS
        driver.pass_ms(1)
    assert status_of(driver, job) is (RUNNING if time.year == 9999 else FAILED)


def test_a_deadline_in_year_1_stops_no_later_create() -> None:
    driver = Driver()
    first = datetime.min.replace(tzinfo=EPOCH.tzinfo)
    driver.ask(create(submit_result_time=first))
    moved, created = driver.ask(move(job_id(1), RUNNING), create())
    assert (job_of(moved).status, job_of(created).status) == (RUNNING, AWAITING_PAYMENT)
    driver.run()
    assert driver.job(Get(job_id=job_id(1))).status is FAILED


def test_finished_jobs_are_looked_at_under_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(max_finished=0)
    jobs = driver.engine.context.state.jobs
    looked: list[bool] = []
    oldest_finished = StatusIndex.oldest_finished

    def look(index: StatusIndex) -> tuple[datetime, str] | None:
        looked.append(jobs._lock._is_owned())  # type: ignore[attr-defined]
        return oldest_finished(index)

    monkeypatch.setattr(StatusIndex, "oldest_finished", look)
    driver.pipeline.deadlines.start(driver.now)
    driver.ask(create(), Cancel(job_id=job_id(1)))
    driver.run()
    assert len(looked) > 2
    assert all(looked)


def test_more_deadlines_than_one_step_decides_are_all_decided_in_the_end() -> None:
    driver = Driver()
    for _ in range(3):
        driver.ask(*[create(pay_by_time=EPOCH)] * 900)
    driver.wall = EPOCH + HOUR
    steps = 0
    while driver.pipeline.deadlines.is_due(driver.now):
        driver.run()
        steps += 1
        assert steps < 10
    assert steps == 3
    assert driver.engine.context.state.jobs.count(FAILED) == 2_700


def test_a_bouncing_job_leaves_no_heap_of_deadlines() -> None:
    driver = Driver()
    job = running(driver, submit_result_time=EPOCH + HOUR)
    for _ in range(10):
        driver.ask(*[move(job, AWAITING_INPUT), move(job, RUNNING)] * 400)
    assert len(driver.engine.context.state.unfinished) == 1


def test_the_deadline_of_a_forgotten_job_is_not_that_of_a_new_one_by_its_id() -> None:
    driver = Driver(payment_grace_ms=0, keep_finished_ms=1_000)
    first = driver.job(create(job_id=job_id(9), pay_by_time=EPOCH + timedelta(minutes=10)))
    driver.job(Cancel(job_id=first.job_id))
    for _ in range(70):
        driver.pass_ms(1_000)
    assert driver.error(Get(job_id=first.job_id)).code == "job_not_found"
    again = driver.job(create(job_id=job_id(9), pay_by_time=EPOCH + timedelta(minutes=20)))
    for _ in range(11):
        driver.pass_ms(60_000)
    assert status_of(driver, again) is AWAITING_PAYMENT
    driver.pass_ms(7 * 60_000)
    assert status_of(driver, again) is AWAITING_PAYMENT
    driver.pass_ms(60_000)
    assert status_of(driver, again) is FAILED


# --- faults of our own --------------------------------------------------------------------------


def break_handler(driver: Driver, monkeypatch: pytest.MonkeyPatch, fault: Any) -> None:
    handlers: dict[Any, Any] = driver.engine._dispatcher._handlers
    monkeypatch.setitem(handlers, Count, fault)


def test_a_fault_before_anything_happened_is_told_and_survived(
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
    real = driver.engine._dispatcher._handlers[Create]

    def fault(context: Any, _: Any, request: Any) -> None:
        real(context, [create()], request)
        raise ZeroDivisionError("oops")

    break_handler(driver, monkeypatch, fault)
    with pytest.raises(ZeroDivisionError):
        driver.ask(Count())


@pytest.mark.parametrize("kind", [ZeroDivisionError, JobConflictError])
@pytest.mark.parametrize("commands", [1, 2])
def test_a_fault_amid_an_event_stops_the_broker(
    kind: type[Exception], commands: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Refusal too, if it comes out of many events: nobody knows which of them have happened."""
    driver = Driver()

    def fault(*_: object) -> None:
        raise kind("oops")

    monkeypatch.setitem(driver.engine.context.state.effects, JobCreated, fault)
    with pytest.raises(kind):
        driver.ask(*[create()] * commands)


# --- records ------------------------------------------------------------------------------------


def test_a_message_is_one_record_and_a_refusal_none() -> None:
    driver = Driver()
    driver.ask(create(), create(), move(job_id(1), RUNNING))
    assert [len(record.events) for record in driver.records] == [3]
    driver.ask(Get(job_id=job_id(1)), Count(), move(job_id(2), COMPLETED), claim(AWAITING_INPUT))
    assert len(driver.records) == 1
    driver.ask(Touch(job_id=job_id(1), lease=9, lease_ms=9))
    assert len(driver.records) == 1
    driver.grants_of(claim())
    assert len(driver.records) == 2


def test_the_same_records_make_the_same_state() -> None:
    driver = Driver()
    driver.ask(create(), create(blockchain_identifier="pay"), create(submit_result_time=EPOCH))
    driver.ask(move(job_id(1), RUNNING), move(job_id(3), RUNNING), Cancel(job_id=job_id(2)))
    driver.post(claim(lease_ms=100))
    driver.pass_ms(100)
    other = make_pipeline()
    for record in driver.records:
        for event in record.events:
            other._engine.context.state.apply([event], 0)
    states = [pipeline._engine.context.state for pipeline in (driver.pipeline, other)]
    shown = [state.jobs.creation.page(-1, 99)[0] for state in states]
    assert shown[0] == shown[1]
    assert states[0].leases.next_token == states[1].leases.next_token


def test_an_event_that_contradicts_what_is_known_changes_nothing() -> None:
    driver = Driver()
    driver.ask(create(), move(job_id(1), RUNNING))
    state = driver.engine.context.state
    before = state.jobs.get(job_id(1))
    for event in [event for record in driver.records for event in record.events]:
        with pytest.raises(Refusal):
            state.apply([event], 0)
    assert state.jobs.get(job_id(1)) == before
    assert state.jobs.count() == 1


def test_a_request_of_another_shape_than_a_dealer_sends() -> None:
    """Encoding by hand gives the bytes that the client's encoder gives."""
    driver = Driver()
    by_hand = pack(seq=1, commands=[CREATE])
    assert encode_request(Request(1, 0, 1, 0, [create()])) == by_hand
    assert isinstance(driver.ask(claim())[0], LeasesResult)

"""What users met, each as a test: lists, leases, questions, retries, queues and histories."""

from tests.broker.core.restarts import live_chunks, replayed_chunks, restart
from tests.core import (
    AWAITING_INPUT,
    COMPLETED,
    FAILED,
    RUNNING,
    Driver,
    claim,
    create,
    job_id,
    move,
    running,
)
from tollgate.broker.core.roles import Principal, Role
from tollgate.domain.commands import (
    Annotate,
    Cancel,
    Claim,
    Get,
    Hello,
    History,
    List,
    ProvideInput,
    Release,
    Touch,
)
from tollgate.domain.results import HistoryResult, JobsResult, LeaseResult

WORKER = Principal("key:anna", frozenset({Role.WORKER}))


def history(driver: Driver, job: str) -> HistoryResult:
    (result,) = driver.ask(History(job_id=job))
    assert isinstance(result, HistoryResult), result
    return result


def claim_from(*queues: str, limit: int = 1) -> Claim:
    return Claim(status=RUNNING, lease_ms=1_000, wait_ms=0, limit=limit, queues=list(queues))


def test_b10_a_job_is_answered_and_cancelled_by_text() -> None:
    driver = Driver()
    asking = driver.job(move(running(driver), AWAITING_INPUT, input_schema='"name?"'))
    answered = driver.job(ProvideInput(job_id=asking.job_id, input="Ann", expected_version=3))
    cancelled = driver.job(Cancel(job_id=driver.job(create()).job_id))
    assert (answered.status, answered.provided_input) == (RUNNING, "Ann")
    assert (cancelled.status, cancelled.error) == (FAILED, "cancelled")


def test_b11_a_worker_asks_and_goes_on_under_its_lease() -> None:
    driver = Driver()
    job = running(driver).job_id
    (grant,) = driver.grants_of(claim())
    driver.ask(move(job, AWAITING_INPUT, lease=grant.lease, keep_lease=True))
    driver.ask(ProvideInput(job_id=job, input="yes", expected_version=3))
    (touched,) = driver.ask(Touch(job_id=job, lease=grant.lease, lease_ms=1_000))
    assert isinstance(touched, LeaseResult)
    assert driver.grants_of(claim()) == []
    assert driver.job(move(job, COMPLETED, lease=grant.lease)).status is COMPLETED


def test_b18_a_list_shows_the_newest_first() -> None:
    driver = Driver()
    for _ in range(5):
        driver.ask(create())
    (page,) = driver.ask(List(limit=2, newest=True))
    assert isinstance(page, JobsResult)
    assert [job.job_id for job in page.jobs] == [job_id(5), job_id(4)]
    (rest,) = driver.ask(List(limit=9, newest=True, after=page.next))
    assert isinstance(rest, JobsResult)
    assert [job.job_id for job in rest.jobs] == [job_id(3), job_id(2), job_id(1)]
    assert rest.next is None


def test_b19_the_first_answer_is_kept_beside_the_second() -> None:
    driver = Driver()
    job = running(driver)
    for question, answer in (('"name?"', "Ann"), ('"age?"', "42")):
        job = driver.job(move(job, AWAITING_INPUT, input_schema=question))
        job = driver.job(
            ProvideInput(job_id=job.job_id, input=answer, expected_version=job.version)
        )
    rounds = job.inputs or ()
    assert driver.job(Get(job_id=job.job_id)).inputs == rounds
    assert [(each.version, each.schema, each.text) for each in rounds] == [
        (3, '"name?"', "Ann"),
        (5, '"age?"', "42"),
    ]
    assert job.provided_input == "42"
    (shown,) = driver.grants_of(claim())
    assert [(each.version, each.text) for each in shown.job.inputs or ()] == [(3, None), (5, None)]


def test_b22_a_lease_shows_its_holder_and_an_admin_may_end_it() -> None:
    driver = Driver()
    job = running(driver).job_id
    admin, driver.principal = driver.principal, WORKER
    driver.grants_of(claim(lease_ms=600_000))
    driver.principal = admin
    driver.pass_ms(1_000)
    lease = driver.job(Get(job_id=job, lease=True)).lease
    assert lease is not None
    assert (lease.by, lease.left_ms) == ("key:anna", 599_000)
    assert driver.job(Get(job_id=job)).lease is None
    forced = driver.job(move(job, FAILED, error="by operator", force=True, expected_version=2))
    assert (forced.status, forced.error) == (FAILED, "by operator")
    assert driver.job(Get(job_id=job, lease=True)).lease is None


def test_b23_a_history_outlives_a_snapshot() -> None:
    driver = Driver()
    driver.ask(Hello(open_session=True, client="cron@host"))
    job = running(driver).job_id
    driver.ask(move(job, FAILED, error="no"))
    before = history(driver, job)
    restart(driver, middle=len(driver.records))
    after = history(driver, job)
    assert after.entries == before.entries
    moves = [(one.from_, one.to, one.by) for one in after.entries if one.what == "moved"]
    assert moves == [
        ("awaiting_payment", "running", "uid:1000"),
        ("running", "failed", "uid:1000"),
    ]


def test_b24_a_released_job_goes_behind_all_others() -> None:
    driver = Driver()
    flaky, good = running(driver).job_id, running(driver).job_id
    got = []
    for _ in range(4):
        (grant,) = driver.grants_of(claim())
        got.append(grant.job.job_id)
        driver.ask(Release(job_id=grant.job.job_id, lease=grant.lease))
    assert got == [flaky, good, flaky, good]


def test_b24_a_job_released_with_a_delay_waits_that_long() -> None:
    driver = Driver()
    flaky = running(driver).job_id
    (grant,) = driver.grants_of(claim())
    driver.ask(Release(job_id=flaky, lease=grant.lease, delay_ms=5_000, reason="quota"))
    driver.pass_ms(4_999)
    assert driver.grants_of(claim()) == []
    driver.pass_ms(1)
    (grant,) = driver.grants_of(claim())
    assert (grant.job.job_id, grant.job.attempts) == (flaky, 1)


def test_b26_two_agents_at_one_broker_get_their_own_jobs() -> None:
    driver = Driver()
    ours, theirs = running(driver, queue="ours").job_id, running(driver, queue="theirs").job_id
    assert driver.grants_of(claim()) == []  # neither is in `default`
    assert [each.job.job_id for each in driver.grants_of(claim_from("theirs", limit=9))] == [theirs]
    assert [each.job.job_id for each in driver.grants_of(claim_from("ours", limit=9))] == [ours]


def test_a_long_history_keeps_its_beginning_and_its_end() -> None:
    driver = Driver()
    job = driver.job(create()).job_id
    for number in range(100):
        driver.wall += driver.now.wall.resolution * 1_000
        driver.ask(Annotate(job_id=job, meta=str(number)))
    shown = history(driver, job)
    kept = [entry for entry in shown.entries if entry.what == "annotated"]
    assert len(kept) + shown.left_out == 100
    assert 63 <= len(kept) <= 64
    assert replayed_chunks(driver.records) == live_chunks(driver)

"""Without room on the disk nothing changes and no record is made; reads and waits go on."""

from tests.core import (
    ADMIN,
    EPOCH,
    FAILED,
    HOUR,
    PEER,
    RUNNING,
    Driver,
    claim,
    create,
    error_of_result,
    job_id,
    leases_of,
    move,
    running,
    status_of,
    wait,
)
from tollgate.broker.core.batch import Arrival
from tollgate.domain.commands import Get, Hello
from tollgate.domain.messages import Reply, encode_request
from tollgate.domain.results import HelloResult, JobResult


def test_a_full_disk_opens_no_session() -> None:
    driver = Driver()
    driver.writable = False
    assert driver.error(Hello(open_session=True)).code == "storage_full"
    assert isinstance(driver.ask(Hello())[0], HelloResult)
    assert not driver.records


def test_a_full_disk_decides_no_deadline_but_ends_waits() -> None:
    driver = Driver()
    job = running(driver, submit_result_time=EPOCH + HOUR)
    driver.grants_of(claim(lease_ms=10))
    waiting = driver.post(wait(job.job_id, timeout_ms=20))
    before = len(driver.records)
    driver.writable = False
    driver.pass_ms(3_600_000)
    assert error_of_result(driver.result_of(waiting)).code == "wait_timeout"
    assert driver.job(Get(job_id=job.job_id)).status is RUNNING
    assert driver.pipeline.deadlines.due_in_ms(driver.now, writable=False) > 0
    assert len(driver.records) == before
    driver.writable = True
    driver.run()
    assert status_of(driver, job) is FAILED


def test_a_full_disk_grants_no_parked_claim() -> None:
    driver = Driver()
    driver.pipeline._batch_reply_bytes = 1  # the batch is full before the claim is served
    job = driver.job(create())
    seq = driver.post(claim(wait_ms=1_000))
    driver.ask(move(job, RUNNING))
    driver.writable = False
    driver.run()
    assert driver.answer_to(seq) is None
    assert not driver.pipeline.is_behind(writable=False)
    driver.writable = True
    assert driver.pipeline.is_behind()
    driver.run()
    assert [grant.job.job_id for grant in leases_of(driver.result_of(seq))] == [job.job_id]


def test_a_request_refused_on_a_full_disk_may_be_repeated() -> None:
    driver = Driver()
    (hello,) = driver.ask(Hello(open_session=True))
    assert isinstance(hello, HelloResult)
    frame = encode_request(driver.request(create(), session=hello.session or 0))
    driver.writable = False
    before = len(driver.records)
    ((_, refused),) = driver.run(Arrival(PEER, [frame], ADMIN))
    assert isinstance(refused, Reply)
    assert error_of_result(refused.results[0]).code == "storage_full"
    assert len(driver.records) == before
    driver.writable = True
    ((_, again),) = driver.run(Arrival(PEER, [frame], ADMIN))
    assert isinstance(again, Reply)
    assert isinstance(again.results[0], JobResult)
    assert again.results[0].job.job_id == job_id(1)

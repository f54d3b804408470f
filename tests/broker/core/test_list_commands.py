"""The commands that read much: how much one message may read, and when a count is taken anew."""

from tests.core import (
    ADMIN,
    AWAITING_INPUT,
    AWAITING_PAYMENT,
    PEER,
    RUNNING,
    Driver,
    at,
    claim,
    create,
    error_of_result,
    move,
)
from tollgate.broker.core.batch import Arrival
from tollgate.broker.core.list_commands import LEASE_SCANS, SHOWN_SCANS
from tollgate.broker.repository.listing import SCAN_JOBS_MAX
from tollgate.domain.commands import Count, Get, History, List
from tollgate.domain.messages import Request, encode_request
from tollgate.domain.results import CountResult, HistoryResult, JobsResult


def test_a_message_may_not_read_without_end() -> None:
    """A page of many queues and a history are looked up: the loop may not stand meanwhile."""
    driver = Driver()
    job = driver.job(create())
    driver.ask(*[create(queue=f"q{number}") for number in range(100)])
    histories = driver.ask(*[History(job_id=job.job_id)] * 1_000)
    read = [each for each in histories if isinstance(each, HistoryResult)]
    assert 0 < len(read) < len(histories)
    assert error_of_result(histories[-1]).code == "reply_full"
    pages = driver.ask(*[List(limit=1)] * 1_000)
    assert 0 < len([each for each in pages if isinstance(each, JobsResult)]) < len(pages)
    assert error_of_result(pages[-1]).code == "reply_full"
    counts = driver.ask(*[Count()] * 1_000)
    assert {each.total for each in counts if isinstance(each, CountResult)} == {101}
    assert len(driver.ask(History(job_id=job.job_id))) == 1  # the next message may read again


def test_counts_are_taken_anew_when_something_happens() -> None:
    driver = Driver()
    driver.ask(create())
    before, _, after = driver.ask(Count(), create(), Count())
    assert isinstance(before, CountResult)
    assert isinstance(after, CountResult)
    assert (before.total, after.total) == (1, 2)
    assert before.as_of != after.as_of


def spent(driver: Driver, command: List) -> int:
    driver.ask(command)
    return SCAN_JOBS_MAX - driver.engine.context.scans_left


def test_shown_jobs_and_leases_take_from_the_scan_budget() -> None:
    driver = Driver()
    driver.ask(*[create() for _ in range(50)])
    free = spent(driver, List(limit=50, lease=True))
    assert free == spent(driver, List(limit=50)) == 50 * (1 + SHOWN_SCANS)
    driver.ask(claim(AWAITING_PAYMENT, limit=20))
    assert spent(driver, List(limit=50, lease=True)) == free + 20 * LEASE_SCANS


def test_a_list_with_leases_shows_free_jobs_alike() -> None:
    driver = Driver()
    job_id = driver.job(create(meta="m", queue="a"), create()).job_id
    frames = []
    for lease in (False, True):
        request = Request(1, 0, 9, 0, [List(limit=5, lease=lease), Get(job_id=job_id, lease=lease)])
        arrival = Arrival(PEER, [encode_request(request)], ADMIN)
        frames += [reply.frame for reply in driver.pipeline.run([arrival], driver.now).replies]
    assert frames[0] == frames[1]


def test_shown_rounds_of_input_take_from_the_scan_budget() -> None:
    driver = Driver()
    job = at(driver, RUNNING)
    without = spent(driver, List(limit=5))
    for rounds in (1, 2, 3):
        driver.ask(move(job, AWAITING_INPUT, input_schema="?"), move(job, RUNNING))
        assert spent(driver, List(limit=5)) == without + rounds

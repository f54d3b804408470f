"""The commands that read much: how much one message may read, and when a count is taken anew."""

from tests.core import Driver, create, error_of_result
from tollgate.domain.commands import Count, History, List
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

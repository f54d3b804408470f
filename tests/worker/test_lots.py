"""Real brokers and workers with many jobs at once: settled together, each has its own end."""

import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.worker.house import ONE_TRY, PATIENCE_S, House, all_paid, ended, left, pay, until_logged
from tollgate.client.sync import Client
from tollgate.domain.models import Job
from tollgate.domain.status import JobStatus


@pytest.fixture
def client(house: House) -> Iterator[Client]:
    house.broker()
    with Client(house.endpoint, timeout_s=PATIENCE_S) as client:
        yield client


def all_ended(client: Client, jobs: list[Job]) -> list[Job]:
    return [ended(client, job) for job in jobs]


@pytest.mark.parametrize("handler", ["by_input", "by_input_at_once"])
def test_each_job_of_many_has_its_own_end(house: House, client: Client, handler: str) -> None:
    errors = {
        "raise": "ValueError: no such city:\nAtlantis",
        "nothing": "the handler returned NoneType instead of a str",
        "too much": "the handler's result has 90000 bytes, and the broker takes 65536:"
        " raise its setting --text-bytes",
    }
    jobs = all_paid(client, [*errors, *map(str, range(47))] * 6)
    house.worker(*ONE_TRY, "--concurrency", "128", handler=handler)
    for job in all_ended(client, jobs):
        text = job.input or ""
        assert job.version == 3
        assert (job.result, job.error) == ((None, errors[text]) if text in errors else (text, None))


def test_a_lower_text_limit_fails_only_larger_results(house: House) -> None:
    house.broker("--text-bytes", "100")
    with Client(house.endpoint, timeout_s=PATIENCE_S) as client:
        jobs = all_paid(client, ["é" * 40, "short", "é" * 30])
        house.worker(handler="twice")
        large, short, fits = all_ended(client, jobs)
    assert large.error == (
        "the handler's result has 160 bytes, and the broker takes 100:"
        " raise its setting --text-bytes"
    )
    assert short.result == "shortshort"
    assert fits.error is not None


def test_many_results_outlast_an_outage_longer_than_a_lease(house: House, short_dir: Path) -> None:
    """All are delivered when the broker is back: no lease lapses, and nothing is called again."""
    data = ("--data-dir", str(short_dir / "data"))
    broker = house.broker(*data)
    options = ("--concurrency", "1000", "--lease-ms", "3000")
    worker = house.worker(*options, handler="until_told")
    with Client(house.endpoint, timeout_s=PATIENCE_S) as client:
        jobs = all_paid(client, ["x"] * 300)
        for job in jobs:
            house.until_begun(job)
    broker.kill()
    broker.wait()
    (house.folder / "go on").touch()
    until_logged(worker, "takes no requests")  # a claim has waited for more than a lease
    house.broker(*data)
    with Client(house.endpoint, timeout_s=PATIENCE_S) as client:
        for job in all_ended(client, jobs):
            assert (job.result, job.attempts) == ("told", 0)
            happened = [entry.what for entry in client.history(job.job_id).entries]
            assert happened == ["created", "moved", "claimed", "moved"]
    worker.terminate()
    assert left(worker)[0] == 0


def test_a_lease_lost_before_settlement_loses_one_job(house: House, client: Client) -> None:
    worker = house.worker("--concurrency", "16", handler="late")
    all_ended(client, all_paid(client, ["warm up"]))  # the deadline must not race a starting worker
    soon = datetime.now(UTC) + timedelta(seconds=1)
    others = client.create_many({"input": "in time"} for _ in range(9))
    late, *others = pay(client, [client.create(input="late", submit_result_time=soon), *others])
    house.until_begun(late)
    late = ended(client, late)  # by its deadline, while its handler blocks the worker
    (house.folder / "go on").touch()
    assert {job.result for job in all_ended(client, others)} == {"IN TIME"}
    assert (late.status, late.result, late.version) == (JobStatus.FAILED, None, 3)
    worker.terminate()
    exit_code, log = left(worker)
    assert exit_code == 0
    assert log.count("cannot be completed any more") == 1
    assert "jobs finished: 10" in log


@pytest.mark.parametrize("handler", ["shout", "shout_later", "by_input_at_once"])
def test_a_stop_amid_many_jobs_leaves_none_half_done(
    house: House, client: Client, handler: str
) -> None:
    jobs = all_paid(client, ["x"] * 2_000)
    worker = house.worker("--concurrency", "128", handler=handler)
    house.until(lambda: client.count().by_status["completed"] > 100)
    worker.terminate()
    exit_code, log = left(worker)
    assert exit_code == 0
    assert "Traceback" not in log
    completed = client.count().by_status["completed"]
    assert f'jobs finished: {completed}"' in log
    # All else is free at once: nothing of it waits for the end of a lease.
    free = client.claim(JobStatus.RUNNING, limit=1_000)
    free += client.claim(JobStatus.RUNNING, limit=1_000)
    assert len(free) == len(jobs) - completed


def test_so_many_jobs_and_no_more(house: House, client: Client) -> None:
    all_paid(client, ["x"] * 50)
    worker = house.worker("--concurrency", "1", "--jobs", "5", handler="by_input_at_once")
    exit_code, log = left(worker)
    assert exit_code == 0
    assert 'jobs finished: 5"' in log
    assert client.count().by_status["completed"] == 5


def test_a_broker_killed_amid_many_jobs_loses_none(house: House) -> None:
    journal = ("--data-dir", str(house.folder / "data"))
    broker = house.broker(*journal)
    with Client(house.endpoint, timeout_s=PATIENCE_S) as client:
        jobs = all_paid(client, [str(number) for number in range(2_000)])
        worker = house.worker("--concurrency", "128", handler="shout_later")
        for share in (200, 900):
            house.until(lambda share=share: client.count().by_status["completed"] > share)  # type: ignore[misc]
            broker.kill()
            broker.communicate()
            broker = house.broker(*journal)
        results = [(job.result, job.version) for job in all_ended(client, jobs)]
    assert results == [(f"{number}!", 3) for number in range(2_000)]
    worker.terminate()
    exit_code, log = left(worker)
    assert exit_code == 0
    assert "Traceback" not in log
    # Not one of its outcomes was taken for somebody else's, and none of its leases was lost.
    lines = Counter(re.findall(r"refused|moved on|lease lost|left alone", log))
    assert not lines
    assert 'jobs finished: 2000"' in log

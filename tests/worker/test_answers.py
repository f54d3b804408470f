"""What handlers return and raise, whatever it is, ends their job with a text that says it."""

from collections.abc import Iterator

import pytest

from tests.worker.answers import CASES
from tests.worker.house import ONE_TRY, House, all_paid, left
from tollgate.client.sync import Client


@pytest.fixture
def house(shared_house: House) -> Iterator[House]:
    yield shared_house
    shared_house.kill_workers()


@pytest.mark.parametrize("handler", ["plain", "in_loop"])
def test_every_answer_ends_its_job(house: House, client: Client, handler: str) -> None:
    worker = house.worker(*ONE_TRY, handler=f"tests.worker.answers:{handler}")
    jobs = all_paid(client, CASES)
    house.until(lambda: client.count().by_status["running"] == 0)
    done = [client.get(job.job_id) for job in jobs]
    for (name, (_, result, error)), job in zip(CASES.items(), done, strict=True):
        assert (name, job.result) == (name, result)
        assert (job.error or "").startswith(error or ""), (name, job.error)
    worker.terminate()
    exit_code, log = left(worker)
    assert exit_code == 0
    assert f"jobs finished: {len(CASES)}" in log
    for (_, _, error), job in zip(CASES.values(), jobs, strict=True):
        assert (f"job {job.job_id}: " in log) == (error is not None)

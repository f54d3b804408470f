"""Both clients with a durable broker that is killed during calls: each change happens once."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tollgate.client.sync import Client
from tollgate.domain.exceptions import JobConflictError, VersionConflictError
from tollgate.domain.status import JobStatus

from .peers import PATIENCE_S, BrokerProcess

ROUNDS = 60
ASKED_MAX = 32
"""How often one job may ask for input."""
KILLS = 2


@pytest.fixture
def durable(endpoint: str, tmp_path: Path) -> Any:
    process = BrokerProcess(endpoint, "--data-dir", str(tmp_path / "data"), in_memory=False)
    yield process.start()
    process.kill()


def test_each_step_happens_once_across_kills(
    make_client: Callable[..., Client], durable: BrokerProcess
) -> None:
    client = make_client(durable.endpoint, timeout_s=2 * PATIENCE_S)
    job = client.transition(client.create(input="x").job_id, JobStatus.RUNNING)
    stop = threading.Event()

    def kill_now_and_then() -> None:
        for _ in range(KILLS):
            time.sleep(0.3)
            durable.kill()
            durable.start()
        stop.set()

    killer = threading.Thread(target=kill_now_and_then)
    killer.start()
    steps = asked = 0
    while steps < ROUNDS or not stop.is_set():
        if asked == ASKED_MAX:
            client.transition(job.job_id, JobStatus.COMPLETED, expected_version=job.version)
            job = client.transition(client.create(input="x").job_id, JobStatus.RUNNING)
            asked = 0
        # Without memory, a repeat of any of these would be refused, or move the job twice.
        job = client.transition(job.job_id, JobStatus.AWAITING_INPUT, expected_version=job.version)
        job = client.provide_input(job.job_id, "more", expected_version=job.version)
        (lease,) = client.claim(JobStatus.RUNNING)
        assert (lease.job.job_id, lease.job.version) == (job.job_id, job.version)
        client.release(job.job_id, lease.token)
        steps += 1
        asked += 1
    killer.join()
    assert client.get(job.job_id).version == 2 + 2 * asked
    with pytest.raises(VersionConflictError):
        client.transition(job.job_id, JobStatus.COMPLETED, expected_version=job.version - 1)


def test_bulk_creation_makes_each_job_once_across_kills(
    make_client: Callable[..., Client], durable: BrokerProcess
) -> None:
    client = make_client(durable.endpoint, timeout_s=2 * PATIENCE_S)
    killed = []

    def rows() -> Any:
        for number in range(4_000):
            if number % 2_000 == 1_500:
                durable.kill()
                durable.start()
                killed.append(number)
            yield {"input": f"text {number}", "blockchain_identifier": f"payment {number}"}

    jobs = client.create_many(rows())
    assert len(killed) == 2
    assert [job.input for job in jobs] == [f"text {number}" for number in range(4_000)]
    assert client.count().total == 4_000
    with pytest.raises(JobConflictError):
        client.create(input="another", blockchain_identifier="payment 17")

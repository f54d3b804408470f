"""`list --follow` beside a real broker: new jobs, and each change, without a gap."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from uuid import uuid4

import pytest

from tests.brokers import PATIENCE_S, ROOT, running_broker
from tests.cli.results import read_line
from tollgate.cli import follow
from tollgate.cli.follow import follow_jobs
from tollgate.client.sync import Client
from tollgate.domain.models import Job
from tollgate.domain.settlement import SettlementState
from tollgate.domain.status import JobStatus

from .conftest import Start, wait_until


@pytest.fixture
def queue() -> str:
    return f"q{uuid4()}"


def states(jobs: Iterator[Job], number: int) -> list[tuple[str, JobStatus]]:
    return [(job.job_id, job.status) for job in islice(jobs, number)]


def test_list_follow_shows_each_change(start: Start, client: Client, queue: str) -> None:
    first = client.create(input="x", queue=queue)
    process = start("list", "--follow", "--json", "--queue", queue)
    assert read_line(process)["job_id"] == first.job_id
    client.create(input="other", queue=f"{queue}.other")
    second = client.create(input="y", queue=queue)
    assert read_line(process)["job_id"] == second.job_id
    for status in (JobStatus.RUNNING, JobStatus.FAILED):
        client.transition(first.job_id, status)
        shown = read_line(process)
        assert (shown["job_id"], shown["status"]) == (first.job_id, status)
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_S) == 130


def test_changes_during_the_list_are_shown_once(
    client: Client, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "PAGE", 3)
    ids = [client.create(input=f"{number}", queue=queue).job_id for number in range(7)]
    jobs = follow_jobs(client, queue=queue)
    assert [job_id for job_id, _ in states(jobs, 2)] == ids[:2]
    client.transition(ids[0], JobStatus.RUNNING)  # was shown before
    client.transition(ids[6], JobStatus.RUNNING)  # is on a page that is still to be read
    client.transition(ids[1], JobStatus.RUNNING)
    client.transition(ids[1], JobStatus.FAILED)
    assert [job_id for job_id, _ in states(jobs, 5)] == ids[2:]
    last = client.create(input="last", queue=queue).job_id
    assert states(jobs, 3) == [
        (ids[0], JobStatus.RUNNING), (ids[1], JobStatus.FAILED),
        (last, JobStatus.AWAITING_PAYMENT),
    ]  # fmt: skip
    client.annotate(last, "no change of status")
    client.transition(last, JobStatus.FAILED)
    assert states(jobs, 1) == [(last, JobStatus.FAILED)]


def test_follow_with_a_status_shows_what_gets_it(client: Client, queue: str) -> None:
    done, running, later = (client.create(input=each, queue=queue).job_id for each in "abc")
    client.transition(done, JobStatus.FAILED)
    client.transition(running, JobStatus.RUNNING)
    jobs = follow_jobs(client, JobStatus.FAILED, queue=queue)
    assert states(jobs, 1) == [(done, JobStatus.FAILED)]
    client.transition(later, JobStatus.RUNNING)
    client.transition(later, JobStatus.FAILED)
    client.transition(running, JobStatus.FAILED)
    assert states(jobs, 2) == [(later, JobStatus.FAILED), (running, JobStatus.FAILED)]


def test_follow_with_a_settlement_shows_its_changes(client: Client, queue: str) -> None:
    first, second = (client.create(input=each, queue=queue, settle=True).job_id for each in "ab")
    for job_id in (first, second):
        client.transition(job_id, JobStatus.RUNNING)
        client.transition(job_id, JobStatus.COMPLETED, result="r")
    client.settle(first, to=SettlementState.SUBMITTED)
    jobs = follow_jobs(client, queue=queue, settlement=SettlementState.SUBMITTED)
    assert states(jobs, 1) == [(first, JobStatus.COMPLETED)]
    client.settle(second, to=SettlementState.SUBMITTED)
    assert states(jobs, 1) == [(second, JobStatus.COMPLETED)]


def test_jobs_that_are_gone_are_left_out(client: Client, queue: str) -> None:
    there = client.create(input="x", queue=queue)
    current = follow._current(client, [str(uuid4()), there.job_id], lease=False)
    assert [job.job_id for job in current] == [there.job_id]


def test_list_follow_waits_for_the_broker(directory: Path) -> None:
    told = directory / "told"
    with running_broker(directory, data_dir=directory / "data") as broker, told.open("wb") as err:
        with Client(broker.endpoint, timeout_s=PATIENCE_S) as client:
            job = client.create(input="x")
        process = subprocess.Popen(
            [
                sys.executable, "-m", "tollgate", "list", "--follow", "--json", "--endpoint",
                broker.endpoint, "--answer-timeout", "0.5",
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=err,
        )  # fmt: skip
        try:
            assert read_line(process)["job_id"] == job.job_id
            with Client(broker.endpoint, timeout_s=PATIENCE_S) as client:
                client.transition(job.job_id, JobStatus.RUNNING)
            assert read_line(process)["status"] == "running"
            broker.kill()
            wait_until(lambda: "waiting for it" in told.read_text())
            broker.restart()
            with Client(broker.endpoint, timeout_s=PATIENCE_S) as client:
                client.transition(job.job_id, JobStatus.FAILED)
            assert read_line(process)["status"] == "failed"
        finally:
            process.kill()
            process.communicate(timeout=PATIENCE_S)

"""Workers are replaced one by one under load: nothing is lost, and nothing finished runs twice."""

import time
from collections import Counter
from pathlib import Path
from threading import Event, Thread
from typing import Self

import pytest

from tests.sizes import sample
from tests.worker.house import PATIENCE_S, House, Program, left, until_logged
from tollgate.client.sync import Client
from tollgate.domain.models import Job, JobStatus

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]

GRACE_S = 1.0
LEAVE_S = GRACE_S + 15.0
"""When a worker has left. No limit on performance: a worker that never leaves is found."""
DEPLOYS = sample(2, 5)
HANDLERS = """
import asyncio, os, pathlib, time

def note(job, what):
    with pathlib.Path("notes").open("a") as notes:
        notes.write(f"{what} {job.job_id}\\n")
        notes.flush()
        os.fsync(notes.fileno())

def plain(job):
    note(job, "begun")
    if job.input == "long":
        while not pathlib.Path("go on").exists():
            time.sleep(0.02)
    else:
        time.sleep(int(job.input) / 1_000)
    note(job, "finished")
    return job.input

async def later(job):
    note(job, "begun")
    await asyncio.sleep(int(job.input) / 1_000)
    note(job, "finished")
    return job.input
"""
WORKERS = {
    "plain": ("plain", "thread"),
    "later": ("later", "thread"),
    "isolated": ("plain", "process"),
}


class Load:
    """Creates jobs for each worker, until told to stop."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._leaving = Event()
        self._thread = Thread(target=self._run)
        self.jobs: list[Job] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving.set()
        self._thread.join()

    def _run(self) -> None:
        with Client(self._endpoint, timeout_s=PATIENCE_S) as client:
            for queue in ("plain", "isolated"):
                self.create(client, queue, "long")
            number = 0
            while not self._leaving.is_set():
                for queue in WORKERS:
                    self.create(client, queue, str(10 * (number % 20)))
                number += 1
                self._leaving.wait(0.05)

    def create(self, client: Client, queue: str, text: str) -> None:
        job = client.create(input=text, as_text=True, queue=queue)
        client.transition(job.job_id, JobStatus.RUNNING)
        self.jobs.append(job)


def deployed(house: House, queue: str) -> Program:
    handler, isolation = WORKERS[queue]
    worker = house.worker(
        *("--handler", f"deployed:{handler}", "--isolation", isolation, "--queue", queue),
        *("--stop-grace-s", str(GRACE_S), "--concurrency", "4"),
    )
    until_logged(worker, "its role is admin")  # it has reached the broker
    return worker


def replaced(house: House, workers: dict[str, Program]) -> None:
    """Start each worker's successor, and stop the worker."""
    for queue, old in workers.items():
        workers[queue] = deployed(house, queue)
        begun = time.monotonic()
        old.terminate()
        code, log = left(old)
        assert (queue, code) == (queue, 0), log
        assert time.monotonic() - begun < LEAVE_S


def test_workers_are_replaced_under_load(house: House) -> None:
    (house.folder / "deployed.py").write_text(HANDLERS)
    house.broker()
    workers = {queue: deployed(house, queue) for queue in WORKERS}
    with Load(house.endpoint) as load:
        for _ in range(DEPLOYS):
            replaced(house, workers)
    (house.folder / "go on").touch()
    with Client(house.endpoint, timeout_s=PATIENCE_S) as client:
        for job in load.jobs:
            ended = client.wait(job.job_id, timeout_s=PATIENCE_S)
            assert (ended.status, ended.error, ended.result) == ("completed", None, job.input)
            assert ended.attempts == 0  # what a stop releases is no try
    counts = noted(house.folder / "notes")
    assert [what for what in counts.items() if what[0][0] == "finished" and what[1] != 1] == []
    begun = {job_id for what, job_id in counts if what == "begun"}
    assert begun == {job.job_id for job in load.jobs}
    long_ones = [job for job in load.jobs if job.input == "long"]
    assert all(counts["begun", job.job_id] > 1 for job in long_ones)


def noted(path: Path) -> Counter[tuple[str, str]]:
    counts: Counter[tuple[str, str]] = Counter()
    for line in path.read_text().splitlines():
        what, _, job_id = line.partition(" ")
        counts[what, job_id] += 1
    return counts

"""Handlers that block for many lease times keep their leases: they run once, and complete."""

import sys

import pytest

from tests.sizes import sample
from tests.worker.house import PATIENCE_S, House, all_paid, left, paid
from tollgate.client.sync import Client
from tollgate.domain.models import JobStatus

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]

LEASE_MS = 1_000  # touched each third of it: no pause of the broker below PAUSE_MS ends it
BLOCKED_S = sample(12, 30) * LEASE_MS / 1_000
HANDLERS = f"""
import ctypes, pathlib, time

def begun(job):
    with pathlib.Path(job.job_id).open("a") as runs:
        runs.write("run ")

async def sleeps(job):
    begun(job)
    time.sleep({BLOCKED_S})
    return "slept"

def holds(job):
    begun(job)
    library, end = ctypes.PyDLL(None), time.monotonic() + {BLOCKED_S}
    while (left := end - time.monotonic()) > 0:
        library.usleep(int(left * 1e6))  # PyDLL: no other thread of the interpreter runs
    return "held"
"""
OVERRUNS = """
import asyncio, time

async def part(job):
    time.sleep(3_600)

async def blocks(job):
    await part(job)
    return "never"

async def blocks_in_a_part(job):
    await asyncio.gather(part(job), asyncio.sleep(0))
    return "never"

async def blocks_behind_others(job):
    if job.input == "block":
        await asyncio.sleep(0)  # the others return, and their results are not sent yet
        time.sleep(3_600)
    return "finished"
"""
CASES = {
    "async-thread": ("sleeps", "thread"),
    "async-process": ("sleeps", "process"),
    "c-call-process": ("holds", "process"),
}


@pytest.mark.skipif(sys.platform != "linux", reason="ctypes.PyDLL(None) is the C library there")
def test_a_blocked_handler_keeps_its_lease(house: House) -> None:
    (house.folder / "blocking.py").write_text(HANDLERS)
    house.broker()
    for queue, (handler, isolation) in CASES.items():
        house.worker(
            *("--handler", f"blocking:{handler}", "--isolation", isolation),
            *("--queue", queue, "--lease-ms", str(LEASE_MS), "--concurrency", "1"),
        )
    with Client(house.endpoint, timeout_s=PATIENCE_S) as client:
        jobs = {queue: client.create("0" * 64, queue=queue) for queue in CASES}
        for job in jobs.values():
            client.transition(job.job_id, JobStatus.RUNNING)
        for queue, job in jobs.items():
            ended = client.wait(job.job_id, timeout_s=BLOCKED_S + PATIENCE_S)
            assert (queue, ended.error, ended.status) == (queue, None, JobStatus.COMPLETED)
            happened = [entry.what for entry in client.history(job.job_id).entries]
            assert happened == ["created", "moved", "claimed", "moved"]
            assert ended.attempts == 0
            assert (house.folder / job.job_id).read_text() == "run "


@pytest.mark.parametrize("handler", ["blocks", "blocks_in_a_part"])
def test_a_handler_that_blocks_beyond_its_limit_ends_the_worker(house: House, handler: str) -> None:
    """In a task that the handler made, too. Its try is counted, and a supervisor starts anew."""
    (house.folder / "overruns.py").write_text(OVERRUNS)
    house.broker()
    worker = house.worker(
        "--timeout-s", "0.3", "--max-attempts", "1", handler=f"overruns:{handler}"
    )
    with Client(house.endpoint, timeout_s=PATIENCE_S) as client:
        job = paid(client, "x")
        exit_code, log = left(worker)
        assert exit_code == 4, log
        assert "blocked beyond the time limit of its handler (TimeoutError: the handler took" in log
        ended_job = client.get(job.job_id)
    assert ended_job.error == "TimeoutError: the handler took longer than 0.3 s"


def test_an_overrun_loses_no_finished_result(house: House) -> None:
    """The loop that would have sent it is blocked: it goes out with the last words."""
    (house.folder / "overruns.py").write_text(OVERRUNS)
    house.broker()
    with Client(house.endpoint, timeout_s=PATIENCE_S) as client:
        jobs = all_paid(client, ["block", "finish", "finish"])
        options = ("--timeout-s", "0.3", "--max-attempts", "1")
        exit_code, log = left(house.worker(*options, handler="overruns:blocks_behind_others"))
        assert exit_code == 4, log
        ended = [client.get(job.job_id) for job in jobs]
    assert [job.result for job in ended] == [None, "finished", "finished"]
    assert ended[0].error == "TimeoutError: the handler took longer than 0.3 s"

"""Situations that people met with workers of many kinds, each with what is right here.

What they have in common is tested in more breadth beside this file: stops in `test_stops`,
children in `test_handlers_with_children`, what handlers meddle with in `test_meddling_handlers`.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.worker.house import ONE_TRY, PATIENCE_S, House, ended, left, paid, until_logged
from tollgate.client.sync import Client
from tollgate.domain.status import JobStatus

CASES = """
import asyncio, pathlib, time

def called(job):
    with open("calls", "a") as calls:
        calls.write(job.job_id + "\\n")

async def blocks(job):
    called(job)
    time.sleep(2.5)  # a library that blocks
    return "done"

def raises(job):
    called(job)
    return {"prompt": 1}["promptly"]

async def raises_later(job):
    return raises(job)

def returns_much(job):
    return "x" * 100_000

def hangs(job):
    if job.input == "hang":
        time.sleep(3_600)
    return "done"

def asks(job, ctx):
    called(job)
    return "got " + ctx.ask({"input_data": []})

async def asks_later(job, ctx):
    called(job)
    return "got " + await ctx.ask({"input_data": []})

def retries(job, ctx):
    import tollgate
    called(job)
    if ctx.attempt < 3:
        raise tollgate.Retry("busy", after_s=0)
    return f"try {ctx.attempt}"
"""


@pytest.fixture
def house(shared_house: House) -> Iterator[House]:
    shared_house.has("cases", CASES)
    (shared_house.folder / "calls").unlink(missing_ok=True)
    yield shared_house
    shared_house.kill_workers()


def test_a_handler_that_blocks_the_loop_runs_once(house: House, client: Client) -> None:
    """A synchronous library in an async handler: the lease is kept, and the log says who blocks."""
    job = paid(client, "x")
    workers = [house.worker("--lease-ms", "1000", handler="cases:blocks") for _ in range(2)]
    job = ended(client, job)
    assert (job.result, job.attempts) == ("done", 0)
    assert house.told("calls").count(job.job_id) == 1
    for worker in workers:
        worker.terminate()
    log = "".join(left(worker)[1] for worker in workers)
    assert f"job {job.job_id}: its handler blocks the event loop" in log
    assert "cases.py:" in log
    assert "the event loop was blocked for" in log


@pytest.mark.parametrize("handler", ["raises", "raises_later"])
def test_a_handler_that_raises_leaves_a_trace(house: House, client: Client, handler: str) -> None:
    worker = house.worker("--max-attempts", "2", "--backoff-s", "0", handler=f"cases:{handler}")
    job = ended(client, paid(client, "x"))
    assert (job.status, job.error, job.attempts) == ("failed", "KeyError: 'promptly'", 1)
    assert house.told("calls").count(job.job_id) == 2
    worker.terminate()
    _, log = left(worker)
    assert f"job {job.job_id}: try 1 of 2: KeyError: 'promptly'; again in" in log
    assert f"job {job.job_id}: try 2 of 2: KeyError: 'promptly'; the job fails" in log
    assert '["promptly"]' in log.replace('\\"', '"')  # the line of the handler
    history = [entry.reason for entry in client.history(job.job_id).entries]
    assert "KeyError: 'promptly'" in history


def test_hanging_handlers_end_the_worker_with_a_code(house: House, client: Client) -> None:
    """Their jobs are over, and their threads are not: a supervisor starts another worker."""
    worker = house.worker("--concurrency", "2", "--lease-ms", "900", handler="cases:hangs")
    until_logged(worker, "its role is admin")  # it claims now: the handlers begin before `soon`
    soon = datetime.now(UTC) + timedelta(seconds=2)
    jobs = [paid(client, "hang", submit_result_time=soon) for _ in range(2)]
    assert {ended(client, job).status for job in jobs} == {"failed"}
    until_logged(worker, "0 of 2 slots are left")
    exit_code, log = left(worker)
    assert exit_code == 4
    assert all(f"job {job.job_id}: its handler does not end" in log for job in jobs)
    house.worker("--concurrency", "2", handler="cases:hangs")
    assert ended(client, paid(client, "good")).result == "done"


@pytest.mark.parametrize("handler", ["asks", "asks_later"])
def test_a_handler_asks_a_human(house: House, client: Client, handler: str) -> None:
    house.worker(handler=f"cases:{handler}")
    job = paid(client, "x")
    asked = client.wait(job.job_id, statuses=["awaiting_input"], timeout_s=PATIENCE_S)
    assert asked.input_schema == '{"input_data":[]}'
    client.provide_input(job.job_id, "yes", expected_version=asked.version)
    job = ended(client, job)
    assert (job.result, job.attempts) == ("got yes", 0)
    assert house.told("calls").count(job.job_id) == 1


def test_a_handler_can_be_tried_again(house: House, client: Client) -> None:
    house.worker(handler="cases:retries")
    job = ended(client, paid(client, "x"))
    assert (job.result, job.attempts) == ("try 3", 2)


def test_a_raised_limit_is_obeyed(house: House) -> None:
    large = ("--text-bytes", "300000", "--request-bytes", "2097152", "--reply-bytes", "33554432")
    other = House(house.folder / "other")
    other.has("cases", CASES)
    other.broker(*large)
    other.worker(*ONE_TRY, handler="cases:returns_much")
    try:
        with Client(other.endpoint, timeout_s=PATIENCE_S) as client:
            job = ended(client, paid(client, "x"))
        assert (job.status, len(job.result or "")) == (JobStatus.COMPLETED, 100_000)
    finally:
        other.close()

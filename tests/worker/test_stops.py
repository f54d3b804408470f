"""SIGTERM in every situation: the worker leaves in time, and its jobs are free at once."""

import os
import signal
import time
from collections.abc import Iterator

import pytest

from tests.worker.house import (
    ONE_TRY,
    PATIENCE_S,
    House,
    Program,
    all_paid,
    ended,
    left,
    paid,
    until_logged,
)
from tollgate.client.sync import Client
from tollgate.domain.models import Job
from tollgate.domain.status import JobStatus

STUBBORN = """
import asyncio, ctypes, pathlib, threading, time

GO_ON = asyncio.Event()

def begun(job):
    pathlib.Path(job.job_id).touch()

def sleeps(job):
    begun(job)
    time.sleep(3_600)

async def sleeps_in_loop(job):
    begun(job)
    time.sleep(3_600)

async def sleeps_in_c(job):
    begun(job)
    ctypes.PyDLL(None).sleep(6)  # it holds the interpreter
    time.sleep(3_600)

async def sleeps_in_thread(job):
    begun(job)
    await asyncio.to_thread(time.sleep, 3_600)

async def awaits(job):
    begun(job)
    await asyncio.sleep(3_600)

async def swallows(job):
    begun(job)
    while True:
        try:
            await asyncio.sleep(3_600)
        except BaseException:
            pass

async def cleans_up_long(job):
    begun(job)
    try:
        await asyncio.sleep(3_600)
    finally:
        await asyncio.sleep(3_600)

async def asks(job, ctx):
    begun(job)
    return await ctx.ask({"question": "yes?"})

def asks_in_thread(job, ctx):
    begun(job)
    return ctx.ask({"question": "yes?"})

def leaves_a_thread(job):
    threading.Thread(target=time.sleep, args=(3_600,), daemon=False).start()
    return "left"

def leaves_an_executor(job):
    from concurrent.futures import ThreadPoolExecutor
    ThreadPoolExecutor().submit(time.sleep, 3_600)
    return "left"

async def mixed(job):
    begun(job)
    if job.input == "finish":
        await GO_ON.wait()
        return "finished"
    while len(GO_ON._waiters) < 2:
        await asyncio.sleep(0.01)
    GO_ON.set()
    await asyncio.sleep(0)  # the others return now, and their results are not sent yet
    begun(job)
    time.sleep(3_600)

def leaves_no_memory(job):
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (200 << 20, 200 << 20))
    taken = []
    while True:
        taken.append(bytearray(1 << 20))

def logs_much(job):
    import logging
    begun(job)
    while True:
        logging.getLogger("handler").warning("x" * 10_000)
"""
GRACE = ("--stop-grace-s", "1")
LEAVES_S = 3.0 if "PYTEST_XDIST_WORKER_COUNT" not in os.environ else 8.0
"""The grace time and 2 s; more if other tests use the machine."""


@pytest.fixture
def house(shared_house: House) -> Iterator[House]:
    shared_house.has("stubborn", STUBBORN)
    yield shared_house
    shared_house.kill_workers()


def stopped(worker: Program) -> tuple[int, str]:
    """Stop a worker; return its exit code and its log. It must leave in time."""
    asked_at = time.monotonic()
    worker.terminate()
    exit_code, log = left(worker)
    assert time.monotonic() - asked_at < LEAVES_S, log
    return exit_code, log


def assert_free(client: Client, job: Job, status: JobStatus = JobStatus.RUNNING) -> None:
    """The job can be had at once, and no try of it was counted."""
    (lease,) = client.claim(status, wait_ms=0)
    assert (lease.job.job_id, lease.job.attempts) == (job.job_id, 0)
    client.transition(job.job_id, "failed", error="cleared away", lease=lease.token)


def test_a_stop_of_an_idle_worker(house: House, client: Client) -> None:
    worker = house.worker(handler="shout")
    assert ended(client, paid(client, "x")).result == "X"
    exit_code, log = stopped(worker)
    assert (exit_code, "jobs finished: 1" in log) == (0, True)


@pytest.mark.parametrize(
    "handler",
    [
        "sleeps", "sleeps_in_loop", "sleeps_in_thread", "awaits", "swallows", "cleans_up_long",
        "logs_much",
    ],
)  # fmt: skip
def test_a_stop_gives_hanging_jobs_back(house: House, client: Client, handler: str) -> None:
    job = paid(client, "x")
    worker = house.worker(*GRACE, handler=f"stubborn:{handler}")
    house.until_begun(job)
    exit_code, log = stopped(worker)
    assert exit_code == 0, log
    assert_free(client, job)


def test_a_stop_waits_for_a_call_that_holds_the_interpreter(house: House, client: Client) -> None:
    job = paid(client, "x")
    worker = house.worker(*GRACE, handler="stubborn:sleeps_in_c")
    house.until_begun(job)
    worker.terminate()
    exit_code, log = left(worker)
    assert exit_code == 0, log
    assert_free(client, job)


def test_a_stop_without_memory(house: House, client: Client) -> None:
    """A new thread ends before its first line then, for which Python waits at its start."""
    worker = house.worker(*ONE_TRY, handler="stubborn:leaves_no_memory")
    assert ended(client, paid(client, "x")).error == "MemoryError"
    assert stopped(worker)[0] == 0


@pytest.mark.parametrize("handler", ["asks", "asks_in_thread"])
def test_a_stop_gives_questions_to_the_next_worker(
    house: House, client: Client, handler: str
) -> None:
    job = paid(client, "x")
    worker = house.worker(*GRACE, handler=f"stubborn:{handler}")
    client.wait(job.job_id, statuses=["awaiting_input"], timeout_s=PATIENCE_S)
    assert stopped(worker)[0] == 0
    house.worker(handler=f"stubborn:{handler}")
    asked = client.get(job.job_id)
    client.provide_input(job.job_id, "yes", expected_version=asked.version)
    job = ended(client, job)
    assert (job.result, job.attempts) == ("yes", 0)


@pytest.mark.parametrize("handler", ["leaves_a_thread", "leaves_an_executor"])
def test_a_stop_waits_for_no_thread_left_behind(house: House, client: Client, handler: str) -> None:
    worker = house.worker(handler=f"stubborn:{handler}")
    assert ended(client, paid(client, "x")).result == "left"
    exit_code, log = stopped(worker)
    assert exit_code == 0
    assert "what does not end" in log


def test_a_stop_waits_for_no_thread_of_the_handlers_module(house: House, client: Client) -> None:
    house.has(
        "starts_a_thread",
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(3_600,)).start()\n"
        "def answer(job): return 'answered'\n",
    )
    worker = house.worker(handler="starts_a_thread:answer")
    assert ended(client, paid(client, "x")).result == "answered"
    exit_code, log = stopped(worker)
    assert exit_code == 0
    assert "what does not end" in log


def test_a_finished_result_is_sent_past_a_blocked_loop(house: House, client: Client) -> None:
    jobs = all_paid(client, ["block", "finish", "finish"])
    worker = house.worker(*GRACE, "--lease-ms", "60000", handler="stubborn:mixed")
    house.until_begun(jobs[0])
    exit_code, _ = stopped(worker)
    assert exit_code == 0
    assert [client.get(job.job_id).result for job in jobs[1:]] == ["finished"] * 2
    assert_free(client, jobs[0])


@pytest.mark.parametrize("handler", ["shout", "shout_later"])
def test_a_stop_amid_200_settlements(house: House, client: Client, handler: str) -> None:
    jobs = all_paid(client, ["x"] * 200)
    worker = house.worker("--concurrency", "200", handler=handler)
    house.until(lambda: client.get(jobs[0].job_id).status is JobStatus.COMPLETED)
    exit_code, log = stopped(worker)
    assert exit_code == 0
    done = [client.get(job.job_id) for job in jobs]
    completed = sum(job.status is JobStatus.COMPLETED for job in done)
    assert f'jobs finished: {completed}"' in log
    assert all(job.attempts == 0 for job in done)
    free = client.claim(JobStatus.RUNNING, limit=1_000)
    assert len(free) == 200 - completed
    for lease in free:
        client.transition(lease.job.job_id, "failed", error="cleared", lease=lease.token)


@pytest.mark.parametrize("signals", [(signal.SIGINT,), (signal.SIGTERM,)])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("handler", ["sleeps", "sleeps_in_loop", "swallows"])
def test_a_second_signal_ends_it_whatever_it_does(
    house: House,
    client: Client,
    handler: str,
    signals: tuple[signal.Signals],
    second: signal.Signals,
) -> None:
    job = paid(client, "x")
    options = ("--stop-grace-s", "3600", "--lease-ms", "1000")
    worker = house.worker(*options, handler=f"stubborn:{handler}")
    house.until_begun(job)
    worker.send_signal(signals[0])
    until_logged(worker, "stopping")
    worker.send_signal(second)
    assert left(worker)[0] == 130
    house.kill_workers()
    (lease,) = client.claim(JobStatus.RUNNING, wait_ms=10_000, lease_ms=60_000)
    client.transition(job.job_id, "failed", error="cleared away", lease=lease.token)

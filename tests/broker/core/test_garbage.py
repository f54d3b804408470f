"""The broker runs with the garbage collector off, so it must make no reference cycles."""

import gc
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.core import ADMIN, HASH, PEER, Driver, job_of
from tollgate.broker.core.batch import Arrival
from tollgate.broker.repository.job_repo import InMemoryJobRepository
from tollgate.domain.commands import (
    Cancel,
    Claim,
    Count,
    Create,
    Get,
    Hello,
    List,
    Release,
    Transition,
    Wait,
)
from tollgate.domain.exceptions import Refusal
from tollgate.domain.status import JobStatus


@pytest.fixture
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def serve(driver: Driver) -> None:
    """Have every kind of command decided, with refusals and timeouts."""
    (created,) = driver.ask(Create(input_hash=HASH, input="x"))
    job_id = job_of(created).job_id
    driver.ask(Get(job_id=job_id), Get(job_id="nobody"), Count(), List(limit=5))
    driver.ask(Transition(job_id=job_id, target=JobStatus.COMPLETED))
    driver.ask(Transition(job_id=job_id, target=JobStatus.RUNNING))
    driver.ask(Claim(status=JobStatus.RUNNING, lease_ms=10, wait_ms=0, limit=1))
    driver.ask(Release(job_id=job_id, lease=1), Cancel(job_id=job_id))
    driver.post(Wait(job_ids=[job_id], timeout_ms=5))
    driver.post(Claim(status=JobStatus.AWAITING_INPUT, lease_ms=10, wait_ms=5, limit=1))
    driver.run(Arrival(PEER, [b"no message"], ADMIN))
    driver.pass_ms(50)
    driver.ask(Transition(job_id=job_id, target=JobStatus.FAILED, error="e"))


def test_serving_makes_no_reference_cycles(without_collector: None) -> None:
    driver = Driver()
    driver.ask(Hello(open_session=True))
    serve(driver)  # what is made once, at first use, is not counted
    driver.records.clear()
    driver.inbox.clear()
    gc.collect()
    for _ in range(200):
        serve(driver)
    assert gc.collect() == 0


def test_a_refused_change_makes_no_reference_cycle(without_collector: None) -> None:
    jobs = InMemoryJobRepository()
    job_id = jobs.create(HASH).job_id
    gc.collect()
    for _ in range(10):
        with suppress(Refusal):
            jobs.update_status(job_id, JobStatus.COMPLETED)
    assert gc.collect() == 0


def test_the_start_makes_no_full_collection() -> None:
    spy = (
        "import atexit, gc, runpy, sys\n"
        "sys.argv = ['broker', '--help']\n"
        "gc.callbacks.append(lambda phase, info: print(info['generation'], file=sys.stderr))\n"
        "atexit.register(gc.callbacks.clear)\n"  # the interpreter itself collects at its end
        "runpy.run_module('tollgate.broker', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", spy], capture_output=True, check=True, text=True, timeout=60
    )
    assert "Usage:" in done.stdout
    assert "2" not in done.stderr.split()

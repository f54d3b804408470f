"""Time that a test advances: what is due is decided when `advance` returns, and never before."""

import asyncio
import logging
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from tests.brokers import ROOT
from tollgate import (
    AsyncClient,
    Client,
    JobNotFoundError,
    JobStatus,
    LeaseLostError,
    WaitTimeoutError,
)
from tollgate.broker.core.deadlines import REMOVED_MAX
from tollgate.broker.core.limits import DUE_MAX
from tollgate.testing import Broker
from tollgate.testing.clock import LATEST

from .inside import is_parked, pauses_of

START = datetime(2030, 6, 1, 12, tzinfo=UTC)
YEAR = timedelta(days=366)


@pytest.fixture
def tollgate_broker_settings() -> dict[str, object]:
    return {"start": START}


@pytest.fixture
def broker(tollgate_broker: Broker) -> Broker:
    return tollgate_broker


@pytest.fixture
def client(tollgate_client: Client) -> Client:
    return tollgate_client


def test_time_stands_until_it_is_advanced(broker: Broker, client: Client) -> None:
    first = client.create(input="a")
    time.sleep(0.01)
    assert client.create(input="b").created_at == first.created_at == broker.now == START
    assert client.ping().time == START
    assert broker.advance(1.5) == broker.now == START + timedelta(seconds=1.5)
    assert client.create(input="c").created_at == client.ping().time == broker.now


def test_an_unpaid_job_fails_at_its_deadline() -> None:
    with Broker(pay_within_ms=60_000, payment_grace_ms=1_000) as broker, broker.connect() as client:
        job = client.create(input="a")
        broker.advance(60.999)
        assert client.get(job.job_id).status == "awaiting_payment"
        broker.advance(0.001)
        failed = client.get(job.job_id)
        assert (failed.status, failed.error) == ("failed", "not paid by pay_by_time")


def test_a_lease_lapses_by_an_advance(broker: Broker, client: Client) -> None:
    job = broker.pay(client.create(input="a"))
    (lease,) = client.claim("running", lease_ms=30_000)
    broker.advance(29)
    client.touch(job.job_id, lease.token, lease_ms=30_000)
    broker.advance(29)
    assert client.claim("running") == []
    broker.advance(1)
    with pytest.raises(LeaseLostError):
        client.touch(job.job_id, lease.token, lease_ms=30_000)
    (again,) = client.claim("running")
    assert again.job.attempts == 1


def test_an_advance_is_no_pause_of_the_loop(broker: Broker, client: Client) -> None:
    job = broker.pay(client.create(input="a"))
    for _ in range(3):  # soon after each other, and long
        client.claim("running", lease_ms=60_000)
        broker.advance(60)
    assert client.get(job.job_id).attempts == 3
    assert pauses_of(broker) == 0


def test_a_delay_ends_exactly(broker: Broker, client: Client) -> None:
    job = broker.pay(client.create(input="a", delay_s=60))
    assert job.not_before == START + timedelta(seconds=60)
    broker.advance(timedelta(milliseconds=59_999))
    assert client.claim("running") == []
    broker.advance(0.001)
    (lease,) = client.claim("running")
    client.release(lease.job.job_id, lease.token, delay_s=3_600, reason="later")
    broker.advance(3_599)
    assert client.claim("running") == []
    broker.advance(1)
    (lease,) = client.claim("running")
    assert lease.job.attempts == 1


def test_a_delay_after_an_advance_begins_then(broker: Broker, client: Client) -> None:
    client.ping()  # the client knows the time of now
    broker.advance(YEAR)
    job = broker.pay(client.create(input="a", delay_s=10))
    assert job.not_before == START + YEAR + timedelta(seconds=10)
    batch = client.batch()
    batch.create(input="b", delay_s=10)
    (other,) = batch.send()
    assert other.not_before == job.not_before


def test_a_parked_claim_gets_a_delayed_job(broker: Broker, client: Client) -> None:
    job = broker.pay(client.create(input="a", delay_s=60))
    with ThreadPoolExecutor() as pool, broker.connect() as worker:
        claim = pool.submit(worker.claim, "running", wait_ms=600_000, timeout_s=60)
        while not is_parked(broker):
            time.sleep(0.001)
        broker.advance(60)
        assert claim.result(30)[0].job.job_id == job.job_id


def test_a_parked_claim_ends_by_an_advance(broker: Broker) -> None:
    with ThreadPoolExecutor() as pool, broker.connect() as worker:
        claim = pool.submit(worker.claim, "running", wait_ms=50_000, timeout_s=60)
        while not is_parked(broker):
            time.sleep(0.001)
        broker.advance(50)
        assert claim.result(30) == []


def test_a_wait_ends_in_real_time_too(broker: Broker, client: Client) -> None:
    job = client.create(input="a")
    with pytest.raises(WaitTimeoutError):
        client.wait(job.job_id, timeout_s=0.05)
    assert client.claim("running", wait_ms=50) == []


@pytest.mark.parametrize("pause_ms", [0, 1_200])
def test_finished_jobs_go_when_their_time_is_over(pause_ms: int) -> None:
    with Broker(keep_finished_ms=30_000) as broker, broker.connect() as client:
        job = client.cancel(client.create(input="a").job_id)
        client.claim("running", wait_ms=pause_ms)  # the clocks go apart
        broker.advance(29)
        assert client.get(job.job_id).status == "failed"
        broker.advance(1)
        with pytest.raises(JobNotFoundError):
            client.get(job.job_id)


def test_all_that_is_due_is_decided_at_once() -> None:
    """More than one step of each kind."""
    jobs = 3 * max(DUE_MAX, REMOVED_MAX)
    with Broker(keep_finished_ms=60_000) as broker, broker.connect() as client:
        client.create_many([{"input": str(number)} for number in range(jobs)])
        broker.advance(YEAR)
        assert client.count().by_status[JobStatus.FAILED] == jobs
        broker.advance(60)
        assert client.count().total == 0


def test_years_pass_for_a_client_of_before(
    broker: Broker, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    client.create(input="a")
    for _ in range(100):
        broker.advance(10 * YEAR)
        assert client.get(client.create(input="a").job_id).created_at == broker.now
    assert client.ping().time == broker.now > datetime(3030, 1, 1, tzinfo=UTC)
    late = broker.connect()
    assert late.wait(late.cancel(late.create(input="b").job_id).job_id).status == "failed"
    assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []


def test_requests_under_way_are_never_late(broker: Broker) -> None:
    stop = threading.Event()

    def calls() -> int:
        made = 0
        with broker.connect() as client:
            while not stop.is_set():
                client.create(input="a", delay_s=1)
                made += 1
        return made

    with ThreadPoolExecutor() as pool:
        calling = [pool.submit(calls) for _ in range(2)]
        for _ in range(300):
            broker.advance(3_600)
        stop.set()
        assert min(each.result() for each in calling) > 0


def test_a_client_of_another_process_goes_on(broker: Broker) -> None:
    code = (
        "import sys, tollgate\n"
        "client = tollgate.connect(sys.argv[1])\n"
        "for _ in sys.stdin:\n"
        "    print(client.create(input='a', delay_s=60).created_at, flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, broker.endpoint], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        for _ in range(3):
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline().strip() == str(broker.now)
            broker.advance(YEAR)
        _, stderr = process.communicate(timeout=30)
    assert stderr.count("clock of the broker") == 1


def test_many_threads_advance_one_time(broker: Broker) -> None:
    def advance(_: int) -> None:
        for _ in range(20):
            broker.advance(1)

    with ThreadPoolExecutor(4) as pool:
        assert [*pool.map(advance, range(4))] == [None] * 4
    assert broker.now == START + timedelta(seconds=80)


async def test_time_advances_in_a_coroutine(broker: Broker) -> None:
    async with broker.connect_async() as client:
        job = broker.pay(await client.create(input="a", delay_s=60))
        claim = asyncio.create_task(client.claim("running", wait_ms=600_000, timeout_s=60))
        while not is_parked(broker):
            await client.ping()
        broker.advance(60)
        assert (await claim)[0].job.job_id == job.job_id
        late = AsyncClient(broker.endpoint)
        assert (await late.ping()).time == broker.now
        await late.close()


@pytest.mark.parametrize("by", [-1, -0.001, timedelta(seconds=-1), float("nan"), float("inf")])
def test_time_does_not_go_back(broker: Broker, by: float) -> None:
    with pytest.raises(ValueError, match=r"back|cannot be advanced"):
        broker.advance(by)
    assert broker.now == START


def test_time_ends_before_dates_do(broker: Broker, client: Client) -> None:
    with pytest.raises(ValueError, match="before the year 9000"):
        broker.advance(timedelta(days=366 * 7_000))
    assert broker.now == START
    broker.advance(LATEST - START)
    assert client.create(input="a").created_at == LATEST


def test_a_start_takes_a_time_zone() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        Broker(start=datetime(2030, 1, 1))  # noqa: DTZ001 - that is the mistake
    with Broker(start=datetime(1999, 1, 1, tzinfo=UTC)) as broker, broker.connect() as client:
        assert client.create(input="a").created_at.year == 1999

"""Real brokers, real workers, real signals: what becomes of jobs when processes come and go."""

import signal
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from tests.worker.house import PATIENCE_S, House, ended, left
from tollgate.client.sync import Client
from tollgate.domain.status import JobStatus
from tollgate.worker.example_handler import describe
from tollgate.worker.payments import Kind, PaymentSimulator

HOUR_MS = 3_600_000


@pytest.fixture
def client(house: House) -> Iterator[Client]:
    house.broker()
    with Client(house.endpoint, timeout_s=PATIENCE_S) as client:
        yield client


def test_all_jobs_of_a_folder_end_as_their_payments_were_drawn(
    house: House, client: Client
) -> None:
    jobs = client.create_many({"input": f"Job number {number}."} for number in range(60))
    for _ in range(2):
        house.worker("--seed", "5", "--refused-share", "0.3", "--concurrency", "8")
    simulator = PaymentSimulator(5, refused_share=0.3, delay_ms_max=5)
    for job in (ended(client, job) for job in jobs):
        if simulator.draw(job.job_id).kind is Kind.REFUSED:
            assert (job.status, job.error, job.version) == ("failed", "payment refused", 2)
        else:
            assert (job.status, job.result, job.version) == ("completed", describe(job), 3)
    count = Counter(job.status for job in client.list())
    assert count[JobStatus.FAILED] > 0
    assert count.total() == 60


@pytest.mark.parametrize(("handler", "result"), [("shout", "ÉTÉ"), ("shout_later", "ÉTÉ!")])
def test_plain_and_async_handlers(house: House, client: Client, handler: str, result: str) -> None:
    worker = house.worker("--jobs", "1", handler=handler)
    job = ended(client, client.create(input="été"))
    assert (job.status, job.result) == (JobStatus.COMPLETED, result)
    exit_code, log = left(worker)
    assert exit_code == 0
    lines = log.splitlines()
    assert f"payments and work on {house.endpoint}, handler handlers:{handler}" in lines[0]
    assert "jobs finished: 1" in lines[-1]


def test_whatever_a_handler_does_wrong_fails_its_job_with_a_message(
    house: House, client: Client
) -> None:
    worker = house.worker("--log-level", "debug", handler="by_input")
    errors = {
        "raise": "no such city:\nAtlantis",
        "raise silently": "LookupError",
        "exit": "gone",
        "nothing": "the handler returned NoneType instead of a str",
        "too much": "the handler's result has 90000 bytes, and a text may have 65536",
        "fine": None,
    }
    for text, error in errors.items():
        job = ended(client, client.create(input=text))
        assert (job.error, job.version) == (error, 3)
    worker.send_signal(signal.SIGINT)
    exit_code, log = left(worker)
    assert exit_code == 0
    assert "ValueError: no such city" in log  # the traceback, at debug


def test_a_job_without_input_fails_clearly(house: House, client: Client) -> None:
    house.worker()
    job = ended(client, client.create("0" * 64))
    assert (job.status, job.error) == (JobStatus.FAILED, "the job has no input to describe")


@pytest.mark.parametrize("handler", ["hangs", "hangs_later"])
def test_a_worker_killed_in_mid_job_is_replaced_and_nothing_happens_twice(
    house: House, client: Client, handler: str
) -> None:
    job = client.create(input="take over")
    victim = house.worker("--lease-ms", "1000", handler=handler)
    house.until_begun(job)
    victim.kill()
    victim.communicate()
    assert client.get(job.job_id).status is JobStatus.RUNNING
    house.worker(handler="shout")
    job = ended(client, job)
    assert (job.status, job.result, job.version) == (JobStatus.COMPLETED, "TAKE OVER", 3)


def test_a_lease_outlives_its_time_while_there_is_work(house: House, client: Client) -> None:
    job = client.create(input="long")
    house.worker("--lease-ms", "3000", "--concurrency", "1", handler="until_told")
    house.until_begun(job)
    idle = house.worker("--only", "work", handler="shout")
    time.sleep(5)
    (house.folder / "go on").touch()
    assert ended(client, job).result == "told"
    idle.terminate()
    assert left(idle)[0] == 0


@pytest.mark.parametrize("handler", ["hangs", "hangs_later", "overhears"])
def test_a_stop_gives_back_what_does_not_finish(house: House, client: Client, handler: str) -> None:
    job = client.create(input="given back")
    worker = house.worker("--lease-ms", str(HOUR_MS), "--stop-grace-s", "0.2", handler=handler)
    house.until_begun(job)
    worker.terminate()
    assert left(worker)[0] == 0
    house.worker(handler="shout")
    job = ended(client, job)
    assert (job.result, job.version) == ("GIVEN BACK", 3)


def test_a_stop_lets_work_finish(house: House, client: Client) -> None:
    job = client.create(input="finished")
    worker = house.worker("--stop-grace-s", str(PATIENCE_S), handler="until_told")
    house.until_begun(job)
    worker.terminate()
    assert worker.stderr is not None
    while "stopping" not in worker.stderr.readline():
        pass
    (house.folder / "go on").touch()
    assert left(worker)[0] == 0
    assert client.get(job.job_id).result == "told"


def test_a_second_signal_ends_it_at_once(house: House, client: Client) -> None:
    job = client.create(input="never mind")
    worker = house.worker("--stop-grace-s", "3600", handler="hangs")
    house.until_begun(job)
    worker.terminate()
    assert worker.stderr is not None
    while "stopping" not in worker.stderr.readline():
        pass
    worker.send_signal(signal.SIGINT)
    assert left(worker)[0] == 130


def test_a_worker_outlives_its_broker(house: House) -> None:
    broker = house.broker()
    worker = house.worker(handler="shout")
    for text in ("before", "after"):
        with Client(house.endpoint, timeout_s=PATIENCE_S) as client:
            assert ended(client, client.create(input=text)).result == text.upper()
        broker.terminate()
        broker.communicate(timeout=PATIENCE_S)
        if text == "before":
            time.sleep(1)
            broker = house.broker()
    worker.terminate()
    exit_code, log = left(worker)
    assert exit_code == 0
    assert log.count("is back") == 1
    assert log.count("takes no requests") in {1, 2}
    assert "Traceback" not in log


def test_a_broker_killed_in_mid_job_is_no_reason_to_stop(house: House) -> None:
    broker = house.broker()
    worker = house.worker("--lease-ms", "3000", "--concurrency", "1", handler="until_told")
    with Client(house.endpoint, timeout_s=PATIENCE_S) as client:
        lost = client.create(input="lost with the broker's memory")
        house.until_begun(lost)
    broker.kill()
    broker.communicate()
    (house.folder / "go on").touch()
    house.broker()
    with Client(house.endpoint, timeout_s=PATIENCE_S) as client:
        assert ended(client, client.create(input="next")).result == "told"
    worker.terminate()
    assert left(worker)[0] == 0


def test_what_is_never_paid_is_left_to_the_brokers_deadline(house: House) -> None:
    house.broker("--payment-grace-ms", "1")
    house.worker("--never-share", "1", "--payments-max", "1", "--lease-ms", "500")
    with Client(house.endpoint, timeout_s=PATIENCE_S) as client:
        soon = datetime.fromtimestamp(time.time() + 2, UTC)
        jobs = [client.create(input="unpaid", pay_by_time=soon) for _ in range(5)]
        for job in jobs:
            unpaid = ended(client, job)
            assert (unpaid.status, unpaid.version) == (JobStatus.FAILED, 2)
            assert unpaid.error != "payment refused"


def test_each_role_can_be_had_alone(house: House, client: Client) -> None:
    job = client.create(input="apart")
    payments = house.worker("--only", "payments", "--jobs", "1", handler="shout")
    assert left(payments)[0] == 0
    assert client.get(job.job_id).status is JobStatus.RUNNING
    work = house.worker("--only", "work", "--jobs", "1", handler="shout")
    assert left(work)[0] == 0
    assert client.get(job.job_id).result == "APART"


def test_a_broker_can_be_waited_for_at_the_start(house: House) -> None:
    worker = house.worker("--wait-for-broker-s", str(PATIENCE_S), "--jobs", "1", handler="shout")
    time.sleep(1)
    house.broker()
    with Client(house.endpoint, timeout_s=PATIENCE_S) as client:
        assert ended(client, client.create(input="late")).result == "LATE"
    assert left(worker)[0] == 0


def test_a_broker_that_does_not_come_in_time_ends_it(house: House) -> None:
    worker = house.worker("--wait-for-broker-s", "0.3")
    exit_code, log = left(worker)
    assert exit_code == 3
    assert log.splitlines()[-1].endswith(f"no broker at {house.endpoint}")


def test_a_stop_comes_before_a_broker_that_does_not(house: House) -> None:
    worker = house.worker("--wait-for-broker-s", "3600")
    assert worker.stderr is not None
    while "takes no requests" not in worker.stderr.readline():
        pass
    worker.terminate()
    assert left(worker)[0] == 0

"""Real brokers, real workers, real signals: what becomes of jobs when processes come and go."""

import signal
import time
from collections.abc import Iterator

import pytest

from tests.worker.house import (
    ONE_TRY,
    PATIENCE_S,
    SIMULATED,
    House,
    ended,
    left,
    paid,
    until_logged,
)
from tollgate.client.sync import Client
from tollgate.domain.status import JobStatus
from tollgate.worker.example_handler import describe
from tollgate.worker.payments import Kind, PaymentSimulator

HOUR_MS = 3_600_000


@pytest.fixture
def house(shared_house: House) -> Iterator[House]:
    yield shared_house
    shared_house.kill_workers()


def test_all_jobs_of_a_folder_end_as_their_payments_were_drawn(
    house: House, client: Client
) -> None:
    jobs = client.create_many({"input": f"Job number {number}."} for number in range(60))
    for _ in range(2):
        house.worker(*SIMULATED, "--seed", "5", "--refused-share", "0.3", "--concurrency", "8")
    simulator = PaymentSimulator(5, refused_share=0.3, delay_ms_max=5)
    done = [ended(client, job) for job in jobs]
    for job in done:
        if simulator.draw(job.job_id).kind is Kind.REFUSED:
            assert (job.status, job.error, job.version) == ("failed", "payment refused", 2)
        else:
            assert (job.status, job.result, job.version) == ("completed", describe(job), 3)
    assert 0 < sum(job.status is JobStatus.FAILED for job in done) < 60


@pytest.mark.parametrize(("handler", "result"), [("shout", "ÉTÉ"), ("shout_later", "ÉTÉ!")])
def test_plain_and_async_handlers(house: House, client: Client, handler: str, result: str) -> None:
    worker = house.worker(*SIMULATED, "--jobs", "1", handler=handler)
    job = ended(client, client.create(input="été"))
    assert (job.status, job.result) == (JobStatus.COMPLETED, result)
    exit_code, log = left(worker)
    assert exit_code == 0
    lines = log.splitlines()
    assert f"payments and work on {house.endpoint}, handler handlers:{handler}" in lines[0]
    assert "payments are simulated" in log
    assert "jobs finished: 1" in lines[-1]


def test_nothing_is_paid_without_the_option(house: House, client: Client) -> None:
    unpaid = client.create(input="unpaid")
    worker = house.worker("--jobs", "1", handler="shout")
    assert ended(client, paid(client, "paid")).result == "PAID"
    exit_code, log = left(worker)
    assert (exit_code, "simulated" in log) == (0, False)
    assert client.get(unpaid.job_id).status is JobStatus.AWAITING_PAYMENT
    client.transition(unpaid.job_id, JobStatus.FAILED, error="cleared away")


def test_a_handler_error_fails_its_job_with_a_message(house: House, client: Client) -> None:
    worker = house.worker(*ONE_TRY, "--concurrency", "1", "--jobs", "6", handler="by_input")
    errors = {
        "raise": "ValueError: no such city:\nAtlantis",
        "raise silently": "LookupError",
        "exit": "SystemExit: gone",
        "nothing": "the handler returned NoneType instead of a str",
        "too much": "the handler's result has 90000 bytes, and the broker takes 65536:"
        " raise its setting --text-bytes",
        "fine": None,
    }
    for text, error in errors.items():
        job = ended(client, paid(client, text))
        assert (job.error, job.version) == (error, 3)
    exit_code, log = left(worker)
    assert exit_code == 0
    assert "ValueError: no such city" in log  # the traceback, at the default level
    assert "Traceback" in log


def test_a_job_without_input_fails_clearly(house: House, client: Client) -> None:
    house.worker(*ONE_TRY)
    job = client.transition(client.create("0" * 64).job_id, JobStatus.RUNNING)
    job = ended(client, job)
    assert job.status is JobStatus.FAILED
    assert "the job has no input to describe" in (job.error or "")


@pytest.mark.parametrize("handler", ["hangs", "hangs_later"])
def test_a_worker_killed_in_mid_job_is_replaced(house: House, client: Client, handler: str) -> None:
    job = paid(client, "take over")
    victim = house.worker("--lease-ms", "1000", handler=handler)
    house.until_begun(job)
    victim.kill()
    victim.wait()
    assert client.get(job.job_id).status is JobStatus.RUNNING
    house.worker(handler="shout")
    job = ended(client, job)
    assert (job.status, job.result, job.version) == (JobStatus.COMPLETED, "TAKE OVER", 3)


def test_a_lease_outlives_its_time_while_there_is_work(house: House, client: Client) -> None:
    job = paid(client, "long")
    house.worker("--lease-ms", "1500", "--concurrency", "1", handler="until_told")
    house.until_begun(job)
    idle = house.worker(handler="shout")
    time.sleep(2.5)
    (house.folder / "go on").touch()
    assert ended(client, job).result == "told"
    assert idle.poll() is None


def test_progress_that_comes_soon_is_shown_later(house: House, client: Client) -> None:
    """The broker keeps one a second. The worker waits with the next one: else it would be lost."""
    job = paid(client, "x")
    house.worker(handler="reports_twice")

    def is_shown() -> bool:
        progress = client.get(job.job_id).progress
        return progress is not None and progress.text == "two"

    house.until(is_shown)
    (house.folder / "go on").touch()
    assert ended(client, job).result == "told"


@pytest.mark.parametrize("handler", ["hangs", "hangs_later", "overhears"])
def test_a_stop_gives_back_what_does_not_finish(house: House, client: Client, handler: str) -> None:
    job = paid(client, "given back")
    stop = ("--lease-ms", str(HOUR_MS), "--stop-grace-s", "0.2")
    worker = house.worker(*stop, handler=handler)
    house.until_begun(job)
    worker.terminate()
    assert left(worker)[0] == 0
    house.worker(handler="shout")
    job = ended(client, job)
    assert (job.result, job.version, job.attempts) == ("GIVEN BACK", 3, 0)


def test_a_stop_lets_work_finish(house: House, client: Client) -> None:
    job = paid(client, "finished")
    worker = house.worker("--stop-grace-s", str(PATIENCE_S), handler="until_told")
    house.until_begun(job)
    worker.terminate()
    until_logged(worker, "stopping")
    (house.folder / "go on").touch()
    assert left(worker)[0] == 0
    assert client.get(job.job_id).result == "told"


def test_a_second_signal_ends_it_at_once(house: House, client: Client) -> None:
    job = paid(client, "never mind")
    worker = house.worker("--stop-grace-s", "3600", "--lease-ms", "1000", handler="hangs")
    house.until_begun(job)
    worker.terminate()
    until_logged(worker, "stopping")
    worker.send_signal(signal.SIGINT)
    assert left(worker)[0] == 130
    (lease,) = client.claim(JobStatus.RUNNING, wait_ms=10_000)  # it lapses: nobody released it
    client.transition(job.job_id, JobStatus.FAILED, error="cleared away", lease=lease.token)


def test_each_role_can_be_had_alone(house: House, client: Client) -> None:
    job = client.create(input="apart")
    payments = house.worker(
        *SIMULATED, "--only", "payments", "--payments-max", "1", "--jobs", "1", handler="shout"
    )
    assert left(payments)[0] == 0
    assert client.get(job.job_id).status is JobStatus.RUNNING
    work = house.worker("--jobs", "1", handler="shout")
    assert left(work)[0] == 0
    assert client.get(job.job_id).result == "APART"

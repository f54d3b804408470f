"""Real workers whose broker comes late, goes, or is killed."""

import time
from datetime import UTC, datetime

from tests.worker.house import PATIENCE_S, SIMULATED, House, ended, left, paid, until_logged
from tollgate.client.sync import Client
from tollgate.domain.status import JobStatus


def test_a_worker_outlives_its_broker(house: House) -> None:
    broker = house.broker()
    worker = house.worker(handler="shout")
    for text in ("before", "after"):
        with Client(house.endpoint, timeout_s=PATIENCE_S) as client:
            assert ended(client, paid(client, text)).result == text.upper()
        broker.terminate()
        broker.wait(PATIENCE_S)
        if text == "before":
            time.sleep(1)
            broker = house.broker()
    worker.terminate()
    exit_code, log = left(worker)
    assert exit_code == 0
    assert log.count("is back") == 1
    assert log.count("takes no requests") in {1, 2}
    assert "Traceback" not in log


def test_a_worker_goes_on_after_kills_in_a_row(house: House) -> None:
    """Other workers stop consuming when a connection is lost several times within seconds."""
    broker = house.broker()
    worker = house.worker(handler="shout")
    for number in range(4):
        with Client(house.endpoint, timeout_s=PATIENCE_S) as client:
            paid(client, "claimed or not")
        broker.kill()
        broker.wait()
        broker = house.broker()
        with Client(house.endpoint, timeout_s=PATIENCE_S) as client:
            assert ended(client, paid(client, f"after {number}")).result == f"AFTER {number}"
    worker.terminate()
    assert left(worker)[0] == 0


def test_a_broker_killed_in_mid_job_is_no_reason_to_stop(house: House) -> None:
    broker = house.broker()
    worker = house.worker("--lease-ms", "3000", "--concurrency", "1", handler="until_told")
    with Client(house.endpoint, timeout_s=PATIENCE_S) as client:
        lost = paid(client, "lost with the broker's memory")
        house.until_begun(lost)
    broker.kill()
    broker.wait()
    (house.folder / "go on").touch()
    house.broker()
    with Client(house.endpoint, timeout_s=PATIENCE_S) as client:
        assert ended(client, paid(client, "next")).result == "told"
    worker.terminate()
    assert left(worker)[0] == 0


def test_what_is_never_paid_is_left_to_the_brokers_deadline(house: House) -> None:
    house.broker("--payment-grace-ms", "1")
    house.worker(*SIMULATED, "--never-share", "1", "--payments-max", "1", "--lease-ms", "500")
    with Client(house.endpoint, timeout_s=PATIENCE_S) as client:
        soon = datetime.fromtimestamp(time.time() + 2, UTC)
        jobs = [client.create(input="unpaid", pay_by_time=soon) for _ in range(5)]
        for job in jobs:
            unpaid = ended(client, job)
            assert (unpaid.status, unpaid.version) == (JobStatus.FAILED, 2)
            assert unpaid.error != "payment refused"


def test_a_broker_can_be_waited_for_at_the_start(house: House) -> None:
    once = ("--wait-for-broker-s", str(PATIENCE_S), "--jobs", "1")
    worker = house.worker(*once, handler="shout")
    until_logged(worker, "takes no requests")
    house.broker()
    with Client(house.endpoint, timeout_s=PATIENCE_S) as client:
        assert ended(client, paid(client, "late")).result == "LATE"
    assert left(worker)[0] == 0


def test_a_broker_that_does_not_come_in_time_ends_it(house: House) -> None:
    worker = house.worker("--wait-for-broker-s", "0.3")
    exit_code, log = left(worker)
    assert exit_code == 3
    assert f"no broker at {house.endpoint}" in log.splitlines()[-1]


def test_a_stop_comes_before_a_broker_that_does_not(house: House) -> None:
    worker = house.worker("--wait-for-broker-s", "3600")
    until_logged(worker, "takes no requests")
    worker.terminate()
    exit_code, log = left(worker)
    assert exit_code == 0
    assert "stopped; jobs finished: 0" in log

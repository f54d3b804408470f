"""SIGTERM while the broker is away or frozen, or while nobody reads the log."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.worker.house import PATIENCE_S, House, ended, left, paid, until_logged
from tests.worker.test_stops import GRACE, LEAVES_S, STUBBORN, stopped
from tollgate.client.sync import Client


@pytest.mark.parametrize("handler", ["handlers:shout", "stubborn:sleeps", "stubborn:asks"])
def test_a_stop_without_a_broker(house: House, handler: str) -> None:
    house.has("stubborn", STUBBORN)
    broker = house.broker()
    worker = house.worker(*GRACE, handler=handler)
    with Client(house.endpoint, timeout_s=PATIENCE_S) as client:
        job = paid(client, "x")
        if handler == "handlers:shout":
            ended(client, job)
        else:
            house.until_begun(job)
        if handler == "stubborn:asks":
            client.wait(job.job_id, statuses=["awaiting_input"], timeout_s=PATIENCE_S)
    broker.kill()
    broker.wait()
    if handler == "handlers:shout":
        until_logged(worker, "takes no requests")
    assert stopped(worker)[0] == 0


@pytest.mark.parametrize("handler", ["until_told", "hangs", "hangs_later"])
def test_a_stop_while_the_broker_is_frozen(house: House, handler: str) -> None:
    broker = house.broker()
    worker = house.worker(*GRACE, "--lease-ms", "2000", handler=handler)
    with Client(house.endpoint, timeout_s=PATIENCE_S) as client:
        job = paid(client, "x")
        house.until_begun(job)
        broker.send_signal(signal.SIGSTOP)
        (house.folder / "go on").touch()
        try:
            exit_code, _ = stopped(worker)
        finally:
            broker.send_signal(signal.SIGCONT)
        assert exit_code == 0
        house.worker(handler="shout")  # when the lease has lapsed: the broker read no word of it
        assert ended(client, job).result in {"told", "X"}


def test_a_stop_while_nobody_reads_the_log(house: House) -> None:
    house.has("stubborn", STUBBORN)
    house.broker()
    reader, writer = os.pipe()
    command = ["tollgate.worker", "--endpoint", house.endpoint, *GRACE]
    worker = subprocess.Popen(
        [sys.executable, "-m", *command, "--handler", "stubborn:logs_much"],
        cwd=house.folder, stdin=subprocess.DEVNULL, stdout=writer, stderr=writer,
    )  # fmt: skip
    try:
        os.close(writer)
        with Client(house.endpoint, timeout_s=PATIENCE_S) as client:
            job = paid(client, "x")
            house.until_begun(job)
            time.sleep(1)  # the pipe is full
            asked_at = time.monotonic()
            worker.terminate()
            assert worker.wait(PATIENCE_S) == 0
            assert time.monotonic() - asked_at < LEAVES_S + 1  # the last lines wait for 1 s
            (lease,) = client.claim("running")
            assert (lease.job.job_id, lease.job.attempts) == (job.job_id, 0)
    finally:
        worker.kill()
        worker.wait()
        os.close(reader)


def test_a_stop_after_a_broker_that_came_back_empty(house: House) -> None:
    broker = house.broker()
    worker = house.worker(*GRACE, handler="hangs")
    with Client(house.endpoint, timeout_s=PATIENCE_S) as client:
        house.until_begun(paid(client, "x"))
    broker.kill()
    broker.wait()
    house.broker()
    assert stopped(worker)[0] == 0
    assert "Traceback" not in left(worker)[1]

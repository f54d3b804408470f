"""Twelve broken situations, made for real: `explain` or `stats` names the cause in one step."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

import tollgate
from tests.broker.access.key_commands import new_key
from tests.brokers import PATIENCE_S, ROOT, BrokerProcess, running_broker
from tollgate.client.errors import BrokerUnreachableError
from tollgate.client.sync import Client
from tollgate.diagnosis import Finding, findings
from tollgate.domain.exceptions import StorageFullError
from tollgate.explaining import Reason, reasons
from tollgate.testing import Broker

HASH = "0123456789abcdef" * 4
LIMIT_BYTES = 512 * 1024
UNDER_LIMIT = f"""import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, ({LIMIT_BYTES}, resource.RLIM_INFINITY))
os.execv(sys.argv[1], sys.argv[1:])"""
"""Runs a program that can write no file longer than that: less than is reserved for a batch."""
STRACE = shutil.which("strace")
SLOW_US = 60_000
HOUR = timedelta(hours=1)


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Broker(pay_within_ms=86_400_000) as broker:
        yield broker


@pytest.fixture
def client(broker: Broker) -> Client:
    return broker.connect(name="shop")


def found(client: Client, code: str) -> Finding:
    """Return the finding of this code in the figures of a broker."""
    by_code = {each.code: each for each in findings(client.stats())}
    return by_code[code]


def told(client: Client, job_id: str, code: str) -> Reason:
    """Return the reason of this code in the explanation of a job."""
    by_code = {each.code: each for each in reasons(client.explain(job_id))}
    return by_code[code]


def running(client: Client, **fields: Any) -> str:
    job = client.create(HASH, **fields)
    client.transition(job.job_id, "running")
    return job.job_id


def worker_of(broker: Broker) -> Client:
    return broker.connect(name="worker@gpu")


def of_jobs(client: Client, *, clock_off_s: float = 0.0) -> list[Finding]:
    """Return all findings but those of the loop's times, which a busy machine may have."""
    stats = msgspec.structs.replace(client.stats(), loop=None)
    return findings(stats, clock_off_s=clock_off_s)


def test_unpaid_for_long(broker: Broker, client: Client) -> None:
    job = client.create(HASH)
    assert not of_jobs(client)
    broker.advance(5 * HOUR)
    assert found(client, "unpaid").text == "1 unpaid job, the oldest for 5 h"
    assert told(client, job.job_id, "unpaid").text == "its payment is not confirmed"


def test_no_worker_on_a_queue(broker: Broker, client: Client) -> None:
    worker_of(broker).claim("running", queues="other")
    job_id = running(client, queue="mail")
    broker.advance(HOUR)
    text = "no client claims the 1 ready job of queue mail, the oldest for 1 h"
    assert found(client, "no_worker").text == text
    assert "no client has claimed jobs of queue mail" in told(client, job_id, "no_claims").text


def test_a_handler_that_hangs(broker: Broker, client: Client) -> None:
    worker, job_id = worker_of(broker), running(client)
    (lease,) = worker.claim("running", lease_ms=30_000)
    for _ in range(60):  # the worker keeps the lease; its handler tells nothing
        broker.advance(timedelta(seconds=20))
        worker.touch(job_id, lease.token)
    assert told(client, job_id, "no_progress").text.endswith("for 20 min: does it hang?")
    assert "worker@gpu" in told(client, job_id, "held").text


def test_a_poison_job(broker: Broker, client: Client) -> None:
    job_id = running(client)

    def handler(_: object) -> str:
        raise ValueError("poison")

    broker.drain(handler, max_attempts=3, backoff_s=0.0)
    assert "ValueError: poison" in told(client, job_id, "failed").text
    text = told(client, job_id, "tried").text
    assert text.startswith("2 tries have ended without an outcome")
    assert "ValueError: poison" in text


def test_a_lost_worker(broker: Broker, client: Client) -> None:
    worker, job_id = worker_of(broker), running(client)
    worker.claim("running", lease_ms=600_000)
    broker.advance(timedelta(minutes=7))
    silent = told(client, job_id, "holder_silent").text
    assert silent.startswith("worker@gpu")
    assert silent.endswith("for 7 min: is it lost?")
    text = "worker@gpu holds 1 job, and has sent nothing for 7 min"
    assert found(client, "silent_worker").text == text


def test_leases_that_lapse(broker: Broker, client: Client) -> None:
    worker, job_id = worker_of(broker), running(client)
    for _ in range(4):
        worker.claim("running", lease_ms=10)
        broker.advance(timedelta(seconds=1))
    assert found(client, "lapses").text == "4 leases lapsed since the broker started"
    text = "4 leases of it lapsed, last of worker@gpu; at 5 it fails"
    assert told(client, job_id, "lapsed").text == text


def test_a_settlement_that_was_refused(client: Client) -> None:
    job_id = running(client, settle=True)
    client.transition(job_id, "completed", result="x")
    assert told(client, job_id, "no_claims").text.startswith(
        "no client has claimed settlements that are wanted"
    )
    client.settle(job_id, to="refused", reason="another hash is on chain")
    assert found(client, "settlement_refused").text == "1 refused settlement"
    words = tollgate.explaining.in_words(client.explain(job_id))
    assert "nothing is tried again" in words.settlement[0]
    assert words.settlement[1] == "reason: another hash is on chain"


def test_a_clock_that_is_off() -> None:
    with Broker(start=datetime.now(UTC) - HOUR) as broker, broker.connect() as client:
        command = [sys.executable, "-m", "tollgate", "stats", "--endpoint", broker.endpoint]
        shown = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=True
        )
        assert "s ahead of the broker's [clock_off]" in shown.stdout
        assert not of_jobs(client, clock_off_s=4.9)


def test_a_broker_that_restarts_again_and_again(tmp_path: Path) -> None:
    with Broker(data_dir=tmp_path) as broker:
        for _ in range(2):
            with broker.connect() as client:
                client.create(HASH)  # which opens a session
                codes = {each.code for each in findings(client.stats())}
            assert "restarts" not in codes
            time.sleep(0.3)  # starts within a fifth of a second are taken for one
            broker.restart()
        with broker.connect() as client:
            text = found(client, "restarts").text
        assert text.startswith("the broker has started 3 times in ")


def test_a_disk_that_is_full(short_dir: Path) -> None:
    endpoint = f"ipc://{short_dir}/b.sock"
    command = [
        sys.executable, "-m", "tollgate.broker", "--bind", endpoint, "--drain-ms", "0",
        "--data-dir", str(short_dir / "data"), "--segment-bytes", str(1024 * 1024),
    ]  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-c", UNDER_LIMIT, *command], cwd=ROOT, stderr=subprocess.DEVNULL
    ) as process:
        try:
            with Client(endpoint, timeout_s=PATIENCE_S) as client:
                client.ping()
                with pytest.raises(StorageFullError):
                    client.create(HASH)
                assert "the disk is full" in found(client, "not_writable").text
        finally:
            process.terminate()


def test_a_sync_that_is_slow(short_dir: Path) -> None:
    if STRACE is None:
        pytest.skip("strace is not installed")
    with (
        running_broker(short_dir, data_dir=short_dir / "data") as broker,
        slow_syncs(broker),
        Client(broker.endpoint, timeout_s=PATIENCE_S) as client,
    ):
        for _ in range(8):
            client.create(HASH)
        assert found(client, "slow_sync").text.startswith("1 of 100 syncs of the journal takes")


class slow_syncs:  # noqa: N801 - used as a function
    """Delays each sync of a running broker."""

    def __init__(self, broker: BrokerProcess) -> None:
        inject = f"inject=fdatasync:delay_exit={SLOW_US}"
        self._command = [
            str(STRACE), "-f", "-o", "/dev/null", "-e", "trace=fdatasync", "-e", inject,
            "-p", str(broker.process.pid),
        ]  # fmt: skip

    def __enter__(self) -> None:
        self._tracer = subprocess.Popen(self._command, stderr=subprocess.PIPE)
        assert self._tracer.stderr is not None
        told_first = self._tracer.stderr.readline().decode()
        if "attached" not in told_first:
            self._tracer.wait(PATIENCE_S)
            pytest.skip(f"this process may not trace others: {told_first}")

    def __exit__(self, *_: object) -> None:
        self._tracer.terminate()
        self._tracer.wait(PATIENCE_S)
        if self._tracer.stderr is not None:
            self._tracer.stderr.close()


def test_a_key_that_was_revoked(short_dir: Path) -> None:
    admin, gone = new_key(short_dir, "ops"), new_key(short_dir, "gpu", "worker")
    with running_broker(short_dir, keys=short_dir / "keys") as broker:
        command = ["tollgate", "keys", "revoke", "gpu", "--keys", str(short_dir / "keys")]
        subprocess.run(
            [sys.executable, "-m", *command],
            cwd=ROOT, check=True, capture_output=True, timeout=PATIENCE_S,
        )  # fmt: skip
        deadline = time.monotonic() + PATIENCE_S
        with Client(broker.tcp, key=admin) as client:
            codes: set[str] = set()
            while "key_refused" not in codes and time.monotonic() < deadline:
                with suppress(BrokerUnreachableError), Client(broker.tcp, key=gone) as other:
                    other.ping(timeout_s=0.5)
                codes = {each.code for each in findings(client.stats())}
            text = found(client, "key_refused").text
        assert text.endswith("came with a key that is unknown or was revoked")
        (told,) = [event for event in broker.events if event["event"] == "a key is refused"]
        assert told["former_holder"] == "key:gpu"

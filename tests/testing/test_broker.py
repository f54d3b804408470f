"""The broker of a test: several at once, restarts, failures, its end, and a host left as it was."""

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.brokers import PATIENCE_S, ROOT, Peer
from tollgate import (
    ClientClosedError,
    InvalidStateTransitionError,
    JobNotFoundError,
    JobStatus,
    TooLargeError,
    VersionConflictError,
)
from tollgate.broker.settings import SettingsError
from tollgate.client.clock import shared_clocks
from tollgate.testing import Broker, BrokerFailedError

from .inside import fail, is_parked

HASH = "ab" * 32


def files() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


def test_two_brokers_have_their_own_jobs_and_times() -> None:
    with Broker() as first, Broker(start=first.now) as second:
        job = first.connect().create(input="a")
        first.advance(60)
        assert (first.now - second.now).total_seconds() == 60
        assert second.connect().create(input="b").created_at == second.now
        with pytest.raises(JobNotFoundError):
            second.connect().get(job.job_id)


def test_brokers_of_many_threads_start_at_once() -> None:
    def use(number: int) -> int:
        with Broker() as broker, broker.connect() as client:
            client.create_many([{"input": str(each)} for each in range(number)])
            broker.advance(1)
            return client.count().total

    with ThreadPoolExecutor(8) as pool:
        assert [*pool.map(use, range(1, 25))] == [*range(1, 25)]


def test_the_umask_of_other_threads_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[int] = []

    def umask(mask: int) -> int:
        called.append(mask)
        return 0o22

    monkeypatch.setattr(os, "umask", umask)
    with Broker() as broker:
        path = Path(broker.endpoint.removeprefix("ipc://"))
        assert path.stat().st_mode & 0o777 == 0o600
    assert called == []


def test_a_payment_is_confirmed() -> None:
    with Broker() as broker, broker.connect() as client:
        job = broker.pay(client.create(input="a"))
        assert job.status is JobStatus.RUNNING
        assert broker.pay(client.create(input="b").job_id).status is JobStatus.RUNNING
        history = client.history(job.job_id)
        assert "tollgate.testing" in {each.client for each in history.entries}
        with pytest.raises(InvalidStateTransitionError):
            broker.pay(job)
        with pytest.raises(JobNotFoundError):
            broker.pay("none")


def test_settings_are_given_and_checked() -> None:
    with Broker(text_bytes=1_000) as broker, pytest.raises(TooLargeError):
        broker.connect().create(input="a" * 1_001)
    with pytest.raises(SettingsError, match="text_byts: there is no such setting"):
        Broker(text_byts=1_000)
    with pytest.raises(TypeError, match="decides bind itself"):
        Broker(bind=["ipc:///nowhere"])


def test_the_environment_is_not_read(monkeypatch: pytest.MonkeyPatch, short_dir: Path) -> None:
    monkeypatch.setenv("TOLLGATE_BROKER_TEXT_BYTES", "1000")
    monkeypatch.setenv("TOLLGATE_BROKER_NO_SUCH", "1")
    monkeypatch.setenv("TOLLGATE_ENDPOINT", f"ipc://{short_dir}/other.sock")
    monkeypatch.setenv("TOLLGATE_DATA_DIR", str(short_dir / "data"))
    monkeypatch.setenv("TOLLGATE_LOG_FORMAT", "none")
    monkeypatch.setenv("NOTIFY_SOCKET", f"{short_dir}/notify")
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified,
        Broker() as broker,
        broker.connect() as client,
    ):
        notified.bind(f"{short_dir}/notify")
        notified.setblocking(False)
        client.create(input="a" * 2_000)
        broker.restart()  # which a notifier would tell
        with pytest.raises(BlockingIOError):
            notified.recv(100)
    assert [each.name for each in short_dir.iterdir()] == ["notify"]


def test_a_restart_replays(tmp_path: Path) -> None:
    with Broker(data_dir=tmp_path / "data") as broker, broker.connect() as client:
        endpoint = broker.endpoint
        job = broker.pay(client.create(input="a"))
        (lease,) = client.claim("running", lease_ms=60_000)
        broker.advance(59)
        broker.restart()
        assert broker.endpoint == endpoint
        assert client.get(job.job_id) == job
        broker.advance(59)  # the lease runs anew
        client.touch(job.job_id, lease.token, lease_ms=60_000)
        broker.advance(60)
        assert len(client.claim("running")) == 1
        later = broker.now
    with Broker(data_dir=tmp_path / "data") as again:  # time does not go back in a journal
        assert again.now == later
        assert again.connect().get(job.job_id).attempts == 1


def test_a_restart_in_memory_forgets() -> None:
    with Broker() as broker, broker.connect() as client:
        job = client.create(input="a")
        broker.advance(60)
        now = broker.now
        broker.restart()
        assert client.count().total == 0
        assert client.create(input="b").created_at == now == broker.now
        with pytest.raises(JobNotFoundError):
            client.get(job.job_id)


def test_one_data_directory_has_one_broker(tmp_path: Path) -> None:
    with Broker(data_dir=tmp_path / "data"):
        second = Broker(data_dir=tmp_path / "data")
        with pytest.raises(Exception, match=r"in use|another broker"):
            second.__enter__()
    with Broker(data_dir=tmp_path / "data"):
        pass


def test_it_ends_with_parked_calls() -> None:
    with ThreadPoolExecutor() as pool:
        with Broker() as broker:
            client, waiter = broker.connect(), broker.connect()
            job = client.create(input="a")
            wait = pool.submit(waiter.wait, job.job_id, timeout_s=600)
            while not is_parked(broker):
                time.sleep(0.001)
            begin = time.monotonic()
        assert time.monotonic() - begin < PATIENCE_S / 2
        with pytest.raises(ClientClosedError):
            wait.result(PATIENCE_S)


def test_it_ends_with_peers_that_do_not_read() -> None:
    with zmq.Context() as context:
        with Broker() as broker, broker.connect() as client:
            client.create(input="a" * 60_000, job_id="6f1c8e9e-6c0a-4b0e-9a54-2a8f4b3f1f0a")
            peer = Peer(context, broker.endpoint, RCVHWM=1, RCVBUF=4_096)
            for _ in range(500):
                peer.send({"type": "get", "job_id": "6f1c8e9e-6c0a-4b0e-9a54-2a8f4b3f1f0a"})
            client.ping()
            begin = time.monotonic()
        assert time.monotonic() - begin < PATIENCE_S / 2
        peer.close()


async def test_it_ends_with_open_asyncio_clients() -> None:
    with Broker() as broker:
        client = broker.connect_async()
        await client.ping()
        claim = asyncio.create_task(client.claim("running", wait_ms=60_000, timeout_s=60))
        await client.ping()
    assert not claim.done()
    await client.close()
    with pytest.raises(ClientClosedError):
        await claim


def test_it_closes_clients_of_loops_that_have_ended() -> None:
    with Broker() as broker:
        client = broker.connect_async()
        asyncio.run(client.ping())
    assert client._closed


def test_a_fault_of_the_broker_is_raised_in_the_test() -> None:
    broker = Broker()
    match = "ZeroDivisionError: by nought"
    with pytest.raises(BrokerFailedError, match=match) as raised, broker:  # noqa: PT012 - as below
        client = broker.connect(timeout_s=PATIENCE_S)
        client.ping()
        fail(broker, ZeroDivisionError("by nought"))
        begin = time.monotonic()
        with pytest.raises(ClientClosedError):
            client.count()
        assert time.monotonic() - begin < PATIENCE_S / 2
        for call in (lambda: broker.advance(1), lambda: broker.pay("a"), broker.connect):
            with pytest.raises(BrokerFailedError):
                call()
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


def test_a_fault_ends_an_advance() -> None:
    with pytest.raises(BrokerFailedError), Broker() as broker:  # noqa: PT012 - its end raises
        fail(broker, ZeroDivisionError())
        with pytest.raises(BrokerFailedError):
            broker.advance(1)
        raise AssertionError("what the test says comes after it")


def test_a_fault_is_what_a_call_under_way_raises() -> None:
    """Looked at after `with`, whose end raises too."""
    seen: list[BaseException] = []
    with pytest.raises(BrokerFailedError), Broker() as broker:  # noqa: PT012 - its end raises
        broker.advance(0)
        fail(broker, ZeroDivisionError())
        try:
            broker.advance(1)
        except Exception as fault:  # noqa: BLE001 - it is looked at below
            seen.append(fault)
    assert [(type(each), type(each.__cause__)) for each in seen] == [
        (BrokerFailedError, ZeroDivisionError)
    ]


async def test_a_fault_ends_calls_of_asyncio() -> None:
    with pytest.raises(BrokerFailedError), Broker() as broker:  # noqa: PT012 - its end raises
        client = broker.connect_async(timeout_s=PATIENCE_S)
        await client.ping()
        fail(broker, ZeroDivisionError())
        with pytest.raises(ClientClosedError):
            await client.count()


def test_a_fault_at_the_start_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(*arguments: Any, **options: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("tollgate.broker.assembly.Engine", raises)
    before, threads = files(), threading.active_count()
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            Broker().__enter__()
    assert files() <= before  # what earlier tests have left may go meanwhile
    assert threading.active_count() <= threads
    assert not shared_clocks


def test_it_is_used_between_its_start_and_its_end() -> None:
    broker = Broker()
    with pytest.raises(RuntimeError, match="not started: say `with Broker"):
        broker.advance(1)
    with broker:
        folder = Path(broker.endpoint.removeprefix("ipc://")).parent
        assert folder.exists()
    broker.close()
    with pytest.raises(RuntimeError, match="closed"):
        broker.connect()
    with pytest.raises(RuntimeError, match="make another"):
        broker.__enter__()
    assert not folder.exists()


def test_a_long_temporary_folder_is_no_trouble(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / ("a" * 100)
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    with Broker() as broker:
        broker.connect().ping()


def test_the_host_is_left_as_it_was(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def host() -> tuple[object, ...]:
        return (
            gc.isenabled(), gc.get_freeze_count(), sys.getswitchinterval(),
            [signal.getsignal(number) for number in numbers],
            resource.getrlimit(resource.RLIMIT_NOFILE), threading.excepthook, sys.excepthook,
            logging.getLogger().level, [*logging.getLogger().handlers],
        )  # fmt: skip

    with Broker() as warm:  # what a process has once, is there
        warm.connect().ping()
    before, opened, threads = host(), files(), threading.active_count()
    with caplog.at_level(logging.INFO, "tollgate.broker"):
        for _ in range(5):
            with Broker() as broker, broker.connect() as client:
                client.create_many([HASH] * 10)
                broker.restart()
                broker.advance(1)
    assert host() == before
    assert files() <= opened
    assert threading.active_count() <= threads
    assert capfd.readouterr() == ("", "")


def test_its_log_goes_to_logging(
    caplog: pytest.LogCaptureFixture, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, "tollgate.broker"), Broker(data_dir=tmp_path / "d"):
        pass
    assert any("journal directory='" in each.getMessage() for each in caplog.records)
    assert {each.name for each in caplog.records} == {"tollgate.broker"}
    assert capfd.readouterr() == ("", "")


def test_without_logging_nothing_is_printed() -> None:
    code = (
        "from tollgate.testing import Broker\n"
        "from tollgate.log import get_logger\n"
        "import structlog\n"
        "with Broker() as broker:\n"
        "    broker.connect().ping()\n"
        "    get_logger('tollgate.broker').error('odd', why=1)\n"
        "assert not structlog.is_configured()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_leaves_the_broker_alone() -> None:
    with Broker() as broker, broker.connect() as client:
        child = os.fork()
        if not child:
            broker.close()
            os._exit(0 if Path(broker._endpoint.removeprefix("ipc://")).exists() else 1)  # type: ignore[union-attr]
        assert os.waitpid(child, 0)[1] == 0
        assert client.count().total == 0


def test_its_own_process_is_its_admin() -> None:
    with Broker() as broker, broker.connect() as client:
        assert client.ping().roles == ["admin"]
        job = client.create(input="a")
        with pytest.raises(VersionConflictError):
            client.transition(job.job_id, "running", expected_version=99)

"""`tollgate metrics` as a program: its exits, its token, its limits, and a broker that is away."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import pytest

from tests.broker.access.key_commands import new_key
from tests.brokers import running_broker
from tests.metrics.running import MetricsProcess, running_metrics, value
from tests.serving import PATIENCE_S
from tollgate.client.sync import Client
from tollgate.metrics.command import is_loopback
from tollgate.metrics.server import CONNECTIONS_MAX

TOKEN = "correct-horse-battery"  # noqa: S105 - of these tests alone
EVERYWHERE = "0.0.0.0"  # noqa: S104 - it needs a token


def run(directory: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-P", "-m", "tollgate", "metrics", *arguments],
        cwd=directory, capture_output=True, text=True, timeout=PATIENCE_S,
        env={**os.environ, "COLUMNS": "100", **environment}, check=False,
    )  # fmt: skip


def test_help_has_an_example(tmp_path: Path) -> None:
    shown = run(tmp_path, "--help")
    assert shown.returncode == 0
    assert "tollgate metrics --host 0.0.0.0 --token-file metrics.token" in shown.stdout


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_ends_it_with_zero(short_dir: Path, sign: signal.Signals) -> None:
    with running_metrics(short_dir, f"ipc://{short_dir}/b.sock") as exporter:
        assert exporter.stop(sign) == 0
        assert exporter.log()[-1]["event"] == "left"


def test_a_hang_up_is_ignored_under_nohup(short_dir: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with running_metrics(short_dir, f"ipc://{short_dir}/b.sock") as exporter:
            exporter.process.send_signal(signal.SIGHUP)
            assert answers(exporter)
            assert exporter.stop() == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_too_many_connections_are_closed(short_dir: Path) -> None:
    with running_metrics(short_dir, f"ipc://{short_dir}/b.sock") as exporter:
        address = ("127.0.0.1", int(exporter.url.rpartition(":")[2]))
        silent = [socket.create_connection(address) for _ in range(CONNECTIONS_MAX)]
        with socket.create_connection(address, timeout=PATIENCE_S) as one_more:
            assert one_more.recv(1) == b""
            silent[0].settimeout(0.2)
            with pytest.raises(TimeoutError):
                silent[0].recv(1)
        for each in silent:
            each.close()
        deadline = time.monotonic() + PATIENCE_S
        while not answers(exporter):
            assert time.monotonic() < deadline


def answers(exporter: MetricsProcess) -> bool:
    try:
        return exporter.get("/healthz").status_code == 200
    except httpx.TransportError:  # closed, or reset
        return False


def test_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        shown = run(tmp_path, "--port", str(port))
    assert shown.returncode == 1
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in shown.stderr


def test_missing_extra_is_told(tmp_path: Path) -> None:
    code = (
        "import sys, runpy, importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'prometheus_client' else find(name, *a)\n"
        "sys.argv = ['metrics']\n"
        "runpy.run_module('tollgate.metrics', run_name='__main__')\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert shown.returncode == 2
    assert shown.stderr == (
        "tollgate metrics: prometheus-client is not installed: pip install 'tollgate[metrics]'\n"
    )


@pytest.mark.parametrize("host", [EVERYWHERE, "::", "", "localhost.example", "10.0.0.1"])
def test_another_address_needs_a_token(tmp_path: Path, host: str) -> None:
    shown = run(tmp_path, "--host", host, "--port", "0")
    assert shown.returncode == 2
    assert "--token-file" in shown.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "::1"])
def test_addresses_of_this_machine_alone(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    ("text", "told"), [(None, "No such file"), ("", "has no token"), ("two words", "has no token")]
)
def test_a_token_that_cannot_be_used(tmp_path: Path, text: str | None, told: str) -> None:
    if text is not None:
        (tmp_path / "token").write_text(text)
    shown = run(tmp_path, "--host", EVERYWHERE, "--port", "0", "--token-file", "token")
    assert shown.returncode == 1
    assert told in shown.stderr


def test_requests_need_the_token(short_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    options = ("--host", EVERYWHERE, "--token-file", "token")
    with (
        running_broker(short_dir) as broker,
        running_metrics(tmp_path, broker.endpoint, *options) as exporter,
    ):
        for path in ("/metrics", "/readyz", "/healthz", "/nothing"):
            refused = exporter.get(path)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        for wrong in ("", "Bearer", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x",
                      f"Bearer {TOKEN[:-1]}", "Bearer \xe4"):  # fmt: skip
            header = {"Authorization": wrong.encode("latin-1")}
            assert exporter.get("/metrics", **header).status_code == 401, wrong  # type: ignore[arg-type]
        for right in (f"Bearer {TOKEN}", f"bearer {TOKEN}"):
            answer = exporter.get("/metrics", Authorization=right)
            assert (answer.status_code, "tollgate_jobs" in answer.text) == (200, True)


def test_a_broker_that_is_away_and_comes_back(short_dir: Path, tmp_path: Path) -> None:
    with (
        running_broker(short_dir, data_dir=short_dir / "data") as broker,
        running_metrics(tmp_path, broker.endpoint) as exporter,
    ):
        with Client(broker.endpoint) as client:
            client.create("0" * 64)
        assert exporter.get("/readyz").status_code == 200
        assert value(exporter.scrape()["tollgate_sessions"]) == 1
        broker.kill()
        for path in ("/metrics", "/readyz"):
            answer = exporter.get(path)
            assert answer.status_code == 503
            assert answer.text.startswith("the broker does not answer: ")
        assert exporter.get("/healthz").status_code == 200
        broker.restart()
        deadline = time.monotonic() + PATIENCE_S
        while exporter.get("/readyz").status_code != 200:
            assert time.monotonic() < deadline
        jobs = exporter.scrape()["tollgate_jobs"]
        assert value(jobs, queue="default", status="awaiting_payment") == 1


def test_it_starts_before_the_broker(short_dir: Path, tmp_path: Path) -> None:
    with running_metrics(tmp_path, f"ipc://{short_dir}/b.sock") as exporter:
        assert exporter.get("/metrics").status_code == 503
        with running_broker(short_dir):
            deadline = time.monotonic() + PATIENCE_S
            while exporter.get("/metrics").status_code != 200:
                assert time.monotonic() < deadline


def test_the_role_observer_is_enough(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="tg-") as name:
        directory = Path(name)
        key = str(new_key(directory, "prometheus", "observer"))
        with (
            running_broker(directory, keys=directory / "keys") as broker,
            running_metrics(tmp_path, broker.tcp, "--key", key) as exporter,
        ):
            assert exporter.get("/readyz").status_code == 200
            assert value(exporter.scrape()["tollgate_writable"]) == 1


def test_a_key_that_is_lost_later(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="tg-") as name:
        key = new_key(Path(name), "prometheus", "observer")
        options = ("--key", str(key))
        with running_metrics(tmp_path, "tcp://127.0.0.1:1", *options) as exporter:
            key.unlink()
            answer = exporter.get("/metrics")
    assert answer.status_code == 503
    assert answer.text.startswith("the broker gives no figures: ")


def test_a_key_that_cannot_be_read(tmp_path: Path) -> None:
    shown = run(tmp_path, "--endpoint", "tcp://127.0.0.1:1", "--key", "none.key", "--port", "0")
    assert shown.returncode == 1
    assert "none.key" in shown.stderr

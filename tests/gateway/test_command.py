"""`tollgate gateway` as a program: its check, its exits, and how it stops."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.gateway.running import FREE, PAID, PURCHASER, GatewayProcess, running_gateway
from tests.serving import PATIENCE_S
from tollgate.testing import Broker

HIRE = {"input_data": {"text": "a"}, "identifier_from_purchaser": "command"}
NAME_SERVER_IS_DEAD = """
import sys, time, uvloop

async def hangs(loop, *_, **__):
    print('{"event":"resolving"}', file=sys.stderr, flush=True)
    await loop.run_in_executor(None, time.sleep, 3_600)

uvloop.Loop.getaddrinfo = hangs
"""


def run(directory: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-P", "-m", "tollgate", "gateway", *arguments],
        cwd=directory, capture_output=True, text=True, timeout=PATIENCE_S,
        env={**os.environ, "COLUMNS": "100"}, check=False,
    )  # fmt: skip


def test_help_has_an_example(tmp_path: Path) -> None:
    shown = run(tmp_path, "--help")
    assert shown.returncode == 0
    assert "tollgate gateway agent.toml --check" in shown.stdout


def test_check_says_what_the_agent_is(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text(FREE)
    shown = run(tmp_path, "agent.toml", "--check")
    assert (shown.returncode, shown.stdout) == (
        0,
        "agent.toml: Echo: queue echo, price free, 1 field of input; nothing is wrong\n",
    )


def test_check_tells_every_error(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text(FREE.replace("text", "textx").replace("echo", "e o"))
    shown = run(tmp_path, "agent.toml", "--check")
    assert shown.returncode == 2
    lines = shown.stderr.splitlines()
    assert [line.split(": ")[0] for line in lines[:-1]] == ["agent.toml:7", "agent.toml:3"]
    assert lines[-1] == "2 errors"


def test_check_looks_for_the_token(tmp_path: Path) -> None:
    text = PAID.format(agent="a" * 60, url="http://127.0.0.1:1/api/v1")
    (tmp_path / "agent.toml").write_text(text)
    shown = run(tmp_path, "agent.toml", "--check")
    assert shown.returncode == 2
    assert shown.stderr.startswith("agent.toml:23: payment_service.token_file: ")


def test_agent_in_python(tmp_path: Path) -> None:
    (tmp_path / "agents.py").write_text(
        "from tollgate.gateway import Agent\n"
        "ECHO = Agent(name='Echo', price='free', queue='echo', input_data=[\n"
        "    {'id': 'text', 'type': 'text', 'name': 'A'}])\n"
    )
    with Broker() as broker:
        gateway = GatewayProcess(tmp_path, "agents:ECHO", broker.endpoint)
        try:
            gateway.wait_until_ready()
            assert gateway.post("/start_job", HIRE).status_code == 200
        finally:
            assert gateway.stop() == 0


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_ends_it_with_zero(tmp_path: Path, sign: signal.Signals) -> None:
    with running_gateway(tmp_path, FREE, f"ipc://{tmp_path}/b.sock") as gateway:
        assert gateway.stop(sign) == 0
        assert gateway.log()[-1]["event"] == "left"


def test_a_hang_up_is_ignored_under_nohup(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with running_gateway(tmp_path, FREE, f"ipc://{tmp_path}/b.sock") as gateway:
            status = Path(f"/proc/{gateway.process.pid}/status").read_text()
            (ignored,) = re.findall(r"SigIgn:\s*(\w+)", status)
            assert int(ignored, 16) >> (signal.SIGHUP - 1) & 1
            assert gateway.stop() == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_open_request_is_answered_at_stop(tmp_path: Path) -> None:
    """While the broker is away a request waits; the stop lets it end."""
    with running_gateway(tmp_path, FREE, f"ipc://{tmp_path}/b.sock") as gateway:
        url = httpx.URL(gateway.url)
        connection = http.client.HTTPConnection(url.host, url.port or 0, timeout=PATIENCE_S)
        connection.request("GET", "/availability")
        deadline = time.monotonic() + PATIENCE_S
        port = connection.sock.getsockname()[1]
        while not has_read_all(port):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        gateway.process.send_signal(signal.SIGTERM)
        assert connection.getresponse().status == 503
        assert gateway.stop() == 0


@pytest.mark.parametrize("signals", [1, 2])
def test_it_stops_while_a_name_is_resolved(
    tmp_path: Path, signals: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(NAME_SERVER_IS_DEAD)
    (tmp_path / "token").write_text("abc-123")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    agent = PAID.format(agent="a" * 60, url="https://payments.example/api/v1")
    agent = agent.replace("timeout_s = 2", "timeout_s = 0.1")
    with Broker() as broker, running_gateway(tmp_path, agent, broker.endpoint) as gateway:
        url = httpx.URL(gateway.url)
        body = {"input_data": {"topic": "abc"}, "identifier_from_purchaser": PURCHASER}
        with closing(http.client.HTTPConnection(url.host, url.port)) as connection:
            connection.request("POST", "/start_job", json.dumps(body))
            gateway.logged("resolving")
            for _ in range(signals):
                gateway.process.terminate()
                gateway.logged("stopping")
            assert gateway.process.wait(PATIENCE_S) == 0
        assert gateway.log()[-1]["event"] == "left"


def has_read_all(port: int) -> bool:
    """Return whether the server of a client at this port has accepted it, and read all it sent."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, _, client, _, queues, *_, inode = line.split()[:10]
        if client.endswith(f":{port:04X}"):
            return inode != "0" and queues.endswith(":00000000")
    return False


def test_port_in_use(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text(FREE)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        shown = run(tmp_path, "agent.toml", "--port", str(port))
    assert shown.returncode == 1
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in shown.stderr


def test_port_is_shared(tmp_path: Path) -> None:
    with Broker() as broker, running_gateway(tmp_path, FREE, broker.endpoint, "--reuse-port") as a:
        port = int(a.url.rpartition(":")[2])
        with running_gateway(tmp_path, FREE, broker.endpoint, "--reuse-port", port=port) as b:
            assert a.url == b.url
            for _ in range(20):
                assert httpx.get(f"{a.url}/availability").status_code == 200
            a.stop()
            for _ in range(20):
                assert httpx.get(f"{b.url}/availability").status_code == 200


def test_other_folder_gives_no_modules(tmp_path: Path) -> None:
    (tmp_path / "uvicorn.py").write_text("raise SystemExit('the wrong uvicorn')\n")
    (tmp_path / "click.py").write_text("raise SystemExit('the wrong click')\n")
    with running_gateway(tmp_path, FREE, f"ipc://{tmp_path}/b.sock") as gateway:
        assert gateway.get("/input_schema").status_code == 200

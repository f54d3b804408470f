"""`tollgate payments`: its programs start, tell what is wrong, and confirm payments."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from tests.brokers import BrokerProcess
from tollgate.client.sync import Client

Invoke = Callable[..., Result]
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def endpoint(shared_broker: BrokerProcess) -> str:
    """A broker without the unpaid jobs of other tests, which would be paid here, too."""
    return shared_broker.endpoint


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=30)
    return process.returncode, (out or b"").decode(), (err or b"").decode()


def test_without_a_command_it_shows_its_help(invoke: Invoke) -> None:
    shown = invoke("payments")
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert shown.stdout == invoke("payments", "--help").stdout


def test_simulate_confirms_payments_and_does_no_work(start: Start, endpoint: str) -> None:
    with Client(endpoint) as client:
        client.create("ab" * 32)
        before = client.count("running").total
        process = start("payments", "simulate", "--jobs", "1", "--pay-delay-ms-max", "60")
        assert ended(process)[0] == 0
        assert client.count("running").total == before + 1


def test_simulate_drains_and_warns(start: Start, endpoint: str) -> None:
    with Client(endpoint) as client:
        job = client.create("cd" * 32)
        code, _, err = ended(start("payments", "simulate", "--drain", "--pay-delay-ms-max", "60"))
        assert (code, client.get(job.job_id).status) == (0, "running")
    assert "payments are simulated: jobs run without a real payment" in err


def test_simulate_leaves_real_payments_alone(start: Start, endpoint: str) -> None:
    with Client(endpoint) as client:
        job = client.create("ef" * 32, blockchain_identifier="a real payment", settle=True)
        for option in ("--drain", "--never-share=1"):
            code, _, err = ended(start("payments", "simulate", option))
            assert (code, client.get(job.job_id).status) == (1, "awaiting_payment")
            assert "has a payment that has to be settled" in err
        client.transition(job.job_id, "failed", error="no lease is left on it")


def test_simulate_takes_an_identifier_alone(start: Start, endpoint: str) -> None:
    with Client(endpoint) as client:
        job = client.create("ef" * 32, blockchain_identifier="only an identifier")
        code, _, _ = ended(start("payments", "simulate", "--drain"))
        assert (code, client.get(job.job_id).status) == (0, "running")


def test_masumi_says_what_is_missing(start: Start) -> None:
    code, out, err = ended(start("payments", "masumi"))
    assert (code, out) == (2, "")
    assert "--service-url" in err


def test_masumi_without_httpx_says_how_to_install_it(tmp_path: Path) -> None:
    program = (
        "import sys, importlib.util as u; find = u.find_spec;"
        "u.find_spec = lambda name, *rest: None if name == 'httpx' else find(name, *rest);"
        "import runpy; sys.argv = ['x', '--help'];"
        "runpy.run_module('tollgate.masumi', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'tollgate[masumi]'" in done.stderr


def test_masumi_leaves_when_it_is_told_to(start: Start, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("abc")
    process = start(
        "payments", "masumi", "--service-url", "http://127.0.0.1:1/api/v1",
        "--service-token-file", str(token), "--network", "Preprod",
    )  # fmt: skip
    assert process.stderr is not None
    while b"trying again" not in process.stderr.readline():
        assert process.poll() is None
    os.kill(process.pid, signal.SIGTERM)
    assert ended(process)[0] == 0

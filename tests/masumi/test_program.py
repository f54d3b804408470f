"""The program as it runs, beside a payment that no program should read."""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.masumi.conftest import Town
from tests.serving import PATIENCE_S
from tollgate.testing import Broker

NAME_SERVER_IS_DEAD = """
import socket, sys, time
from tollgate.masumi import command

def hangs(*_, **__):
    print("resolving", file=sys.stderr, flush=True)
    time.sleep(3_600)

socket.getaddrinfo = hangs
command.GRACE_S = {grace_s}
"""


async def test_the_program_outlives_an_odd_payment(town: Town, tmp_path: Path) -> None:
    job, odd = await town.hire(), town.service.create()["blockchainIdentifier"]
    town.service.payments[odd].submit_by = 10**400
    town.service.lock_funds(job.blockchain_identifier)
    token = tmp_path / "token"
    token.write_text(town.server.token)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "tollgate.masumi", "--endpoint", town.broker.endpoint,
        "--service-url", town.server.url.replace("http://", "http://user:hunter2@"),
        "--service-token-file", str(token), "--network", "Preprod",
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        await town.client.wait(job.job_id, statuses=["running"], timeout_s=30)
        process.terminate()
        async with asyncio.timeout(30):
            text = (await process.communicate())[1].decode()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0
    assert "cannot be read" in text
    assert town.server.url in text
    assert "hunter2" not in text


@pytest.mark.parametrize(
    ("call_s", "grace_s", "signals"),
    [("0.5", 3_600, 1), ("600", 0.2, 1), ("600", 3_600, 2)],
    ids=["the call ends", "the grace ends", "second signal"],
)
def test_it_stops_while_a_name_is_resolved(
    tmp_path: Path, call_s: str, grace_s: float, signals: int
) -> None:
    (tmp_path / "sitecustomize.py").write_text(NAME_SERVER_IS_DEAD.format(grace_s=grace_s))
    (tmp_path / "token").write_text("abc-123")
    log = tmp_path / "log"
    with Broker() as broker, log.open("wb") as stderr:
        process = subprocess.Popen(
            [
                sys.executable, "-P", "-m", "tollgate.masumi", "--endpoint", broker.endpoint,
                "--service-url", "https://payments.example/api/v1", "--network", "Preprod",
                "--service-token-file", str(tmp_path / "token"), "--call-s", call_s,
            ],
            env=os.environ | {"PYTHONPATH": str(tmp_path)}, stderr=stderr,
        )  # fmt: skip
        try:
            wait_for(log, "resolving")
            for _ in range(signals):
                process.terminate()
                wait_for(log, "stopping")
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()
            process.wait()


def wait_for(path: Path, text: str) -> None:
    until = time.monotonic() + PATIENCE_S
    while text not in path.read_text():
        assert time.monotonic() < until, path.read_text()
        time.sleep(0.01)

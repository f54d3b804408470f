"""The stand-in as a process of its own."""

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.brokers import PATIENCE_S, ROOT

COMMAND = [sys.executable, "-m", "tests.payment_service"]


@contextmanager
def running(*options: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    process = subprocess.Popen([*COMMAND, *options], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


def call(where: dict[str, str], path: str, **body: Any) -> Any:
    request = urllib.request.Request(  # noqa: S310 - the URL is the stand-in's
        where["url"] + path,
        json.dumps(body).encode() if body else None,
        {"token": where["token"], "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:  # noqa: S310 - the same
        return json.load(answer)["data"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it(number: signal.Signals) -> None:
    with running("--seed", "7") as (process, where):
        assert call(where, "/health") == {"status": "ok"}
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == 0


def test_it_pays_by_itself() -> None:
    with running("--auto", "0.01") as (_, where):
        day_s = 86_400
        times = {
            "payByTime": _iso(time.time() + day_s),
            "submitResultTime": _iso(time.time() + 2 * day_s),
        }
        payment = call(
            where,
            "/payment",
            network="Preprod",
            inputHash="00" * 32,
            agentIdentifier=where["agent"],
            identifierFromPurchaser="aabbccddeeff0011",
            **times,
        )
        body = {"network": "Preprod", "blockchainIdentifier": payment["blockchainIdentifier"]}
        _wait_for(where, body, "FundsLocked")
        call(where, "/payment/submit-result", **body, submitResultHash="ab" * 32)
        assert _wait_for(where, body, "ResultSubmitted")["resultHash"] == "ab" * 32


def test_the_help_shows_an_example() -> None:
    done = subprocess.run(
        [*COMMAND, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "example:" in done.stdout
    assert "--auto SECONDS" in done.stdout


@pytest.mark.parametrize("option", ["--faults=2", "--auto=0", "--auto=nan", "--chain-failures=-1"])
def test_an_impossible_option_is_refused(option: str) -> None:
    done = subprocess.run([*COMMAND, option], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert option.split("=", maxsplit=1)[0] in done.stderr


def _iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _wait_for(where: dict[str, str], body: dict[str, str], state: str) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        payment = call(where, "/payment/resolve-blockchain-identifier", **body)
        if payment["onChainState"] == state:
            return payment
        time.sleep(0.01)
    pytest.fail(f"the payment did not become {state}")

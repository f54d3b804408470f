"""Schemathesis sends what the OpenAPI document allows and forbids, and judges the answers."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.conftest import running_paid
from tests.gateway.running import FREE, GatewayProcess, running_gateway
from tests.payment_service.server import Server
from tollgate.testing import Broker

PROGRAM = Path(__file__).parents[2] / ".venv-judges" / "bin" / "schemathesis"
SEED = "20261129"
EVERY_KIND = """\
name = "Every kind"
price = "free"
queue = "kinds"

[[input_groups]]
id = "texts"
title = "Texts"
input_data = [
  { id = "text", type = "text", name = "T", validations = [{ validation = "min", value = "2" }] },
  { id = "string", type = "string", name = "S" },
  { id = "textarea", type = "textarea", name = "A" },
  { id = "email", type = "email", name = "E" },
  { id = "url", type = "url", name = "U" },
  { id = "tel", type = "tel", name = "P" },
  { id = "password", type = "password", name = "W" },
  { id = "search", type = "search", name = "Q" },
  { id = "color", type = "color", name = "C" },
]

[[input_groups]]
id = "others"
title = "Others"
input_data = [
  { id = "number", type = "number", name = "N", validations = [
    { validation = "min", value = "-5" }, { validation = "format", value = "integer" },
  ] },
  { id = "range", type = "range", name = "R", data = { min = "1", max = "9", step = "2" } },
  { id = "boolean", type = "boolean", name = "B" },
  { id = "checkbox", type = "checkbox", name = "X" },
  { id = "option", type = "option", name = "O", data = { values = ["a", "b"] } },
  { id = "radio", type = "radio", name = "D", data = { values = ["a", "b"] } },
  { id = "date", type = "date", name = "Y" },
  { id = "time", type = "time", name = "I" },
  { id = "month", type = "month", name = "M" },
  { id = "week", type = "week", name = "K" },
  { id = "datetime", type = "datetime-local", name = "L" },
  { id = "file", type = "file", name = "F", data = { outputFormat = "url" }, validations = [
    { validation = "optional", value = "true" },
  ] },
]
"""
# A body may be as large as schemathesis likes: 413 is a refusal, too.
REFUSALS = "[checks.negative_data_rejection]\nexpected-statuses = [400, 404, 405, 409, 413, 429]\n"
MANY_HIRES = "\n[http]\nhires_per_s = 100000\nrequests_per_s = 100000\n"

pytestmark = pytest.mark.skipif(
    not PROGRAM.exists(), reason="schemathesis is not installed: run make judges"
)


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker() as broker:
        yield broker


def judge(gateway: GatewayProcess, examples: int = 60) -> None:
    """Let schemathesis judge a gateway. Raises AssertionError with what it says."""
    (gateway.directory / "schemathesis.toml").write_text(REFUSALS)
    judged = subprocess.run(
        [
            PROGRAM, "run", f"{gateway.url}/openapi.json", "--max-examples", str(examples),
            "--seed", SEED, "--phases", "examples,coverage,fuzzing", "--no-color",
        ],
        cwd=gateway.directory, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert judged.returncode == 0, judged.stdout + judged.stderr
    assert gateway.get("/availability").status_code == 200


@pytest.mark.timeout(320)
@pytest.mark.parametrize("agent", [FREE, EVERY_KIND], ids=["one field", "every kind"])
def test_free_agent_does_as_documented(tmp_path: Path, broker: Broker, agent: str) -> None:
    with running_gateway(tmp_path, agent + MANY_HIRES, broker.endpoint) as gateway:
        judge(gateway)


@pytest.mark.timeout(320)
def test_paid_agent_does_as_documented(tmp_path: Path, broker: Broker) -> None:
    with Server() as server, running_paid(tmp_path, server, broker.endpoint) as gateway:
        judge(gateway)

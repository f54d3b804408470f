"""The same hire at two gateways at the same time is one job, and one payment is told."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.conftest import running_paid
from tests.gateway.running import FREE, PURCHASER, GatewayProcess, running_gateway
from tests.payment_service.faults import Fault
from tests.payment_service.server import Server
from tollgate import Client
from tollgate.testing import Broker

ROUNDS = 20


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker() as broker:
        yield broker


@pytest.fixture
def client(broker: Broker) -> Iterator[Client]:
    with broker.connect() as client:
        yield client


def hire_at_both(
    gateways: tuple[GatewayProcess, GatewayProcess], body: dict[str, Any]
) -> list[dict[str, Any]]:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda each: each.post("/start_job", body), gateways * 2))
    assert {answer.status_code for answer in answers} == {200}, [each.text for each in answers]
    return [answer.json() for answer in answers]


def test_paid(tmp_path: Path, broker: Broker, client: Client) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    with (
        Server() as server,
        running_paid(folders[0], server, broker.endpoint) as one,
        running_paid(folders[1], server, broker.endpoint) as other,
    ):
        payments = 0
        for number in range(3):
            server.service.faults.plan("create", Fault.SLOW, Fault.SLOW)
            body = {
                "identifier_from_purchaser": PURCHASER,
                "input_data": {"topic": f"both {number}"},
            }
            told = hire_at_both((one, other), body)
            assert all(each == told[0] for each in told)
            job = client.get(told[0]["id"])
            assert job.blockchain_identifier == told[0]["blockchainIdentifier"]
            payments = len(server.service.payments)
        assert payments == 6  # both made one each time, and one of them was never told


def test_free(tmp_path: Path, broker: Broker, client: Client) -> None:
    with (
        running_gateway(tmp_path, FREE, broker.endpoint) as one,
        running_gateway(tmp_path, FREE, broker.endpoint) as other,
    ):
        for number in range(ROUNDS):
            body = {
                "identifier_from_purchaser": PURCHASER,
                "input_data": {"text": f"both {number}"},
            }
            told = hire_at_both((one, other), body)
            assert all(each == told[0] for each in told)
            job = client.get(told[0]["id"])
            assert (job.status.value, job.version) == ("running", 2)

"""A gateway over tcp does what the roles of its key let it, and says what they lack."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broker.access.key_commands import new_key
from tests.brokers import BrokerProcess, running_broker
from tests.gateway.running import FREE, running_gateway

HIRE = {"input_data": {"text": "a"}}


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Path, BrokerProcess]]:
    with tempfile.TemporaryDirectory(prefix="tg-") as name:
        directory = Path(name)
        new_key(directory, "alice")
        with running_broker(directory, keys=directory / "keys") as broker:
            yield directory, broker


def test_free_agent_with_both_roles(served: tuple[Path, BrokerProcess], tmp_path: Path) -> None:
    directory, broker = served
    key = str(new_key(directory, "both", "producer", "payments"))
    with running_gateway(tmp_path, FREE, broker.tcp, "--key", key) as gateway:
        assert gateway.post("/start_job", HIRE).status_code == 200
        assert not [line for line in gateway.log() if line["level"] == "error"]


@pytest.mark.parametrize(("role", "lacks"), [("producer", "payments"), ("observer", "producer")])
def test_missing_role_is_told(
    served: tuple[Path, BrokerProcess], tmp_path: Path, role: str, lacks: str
) -> None:
    directory, broker = served
    key = str(new_key(directory, f"only-{role}", role))
    with running_gateway(tmp_path, FREE, broker.tcp, "--key", key) as gateway:
        assert lacks in gateway.logged(level="error")["event"]
        answer = gateway.post("/start_job", HIRE)
        assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")


def test_key_that_cannot_be_read(served: tuple[Path, BrokerProcess], tmp_path: Path) -> None:
    _, broker = served
    with (
        pytest.raises(AssertionError, match=r"none\.key"),
        running_gateway(tmp_path, FREE, broker.tcp, "--key", "none.key"),
    ):
        pass

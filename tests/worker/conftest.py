"""What tests of the worker share: a scripted broker, a worker's parts on it, and real houses."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.worker.at_work import AtWork, Handler, Start
from tests.worker.house import PATIENCE_S, ROOT, House
from tests.worker.isolation import make_call, opened  # noqa: F401 - fixtures
from tests.worker.script import ScriptedLink
from tollgate.client.sync import Client


@pytest.fixture
async def link() -> ScriptedLink:
    """A broker that answers by its script."""
    return ScriptedLink()


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pauses be short: their length is not what is tested."""
    monkeypatch.setattr("tollgate.worker.broker_status.PAUSE_S_MIN", 0.001)
    monkeypatch.setattr("tollgate.worker.broker_status.PAUSE_S_MAX", 0.01)


@pytest.fixture
def house(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[House]:
    """A folder without a broker yet, for a test that starts and ends its own."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    house = House(tmp_path_factory.mktemp("w"))
    yield house
    house.close()


@pytest.fixture
def client(house: House) -> Iterator[Client]:
    """A client of the broker in `house`."""
    with Client(house.endpoint, timeout_s=PATIENCE_S) as client:
        yield client


@pytest.fixture(scope="module")
def shared_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A folder with one broker for all tests of a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        house = House(tmp_path_factory.mktemp("w"))
        house.broker()
        yield house
        house.close()


@pytest.fixture
async def start(link: ScriptedLink) -> AsyncIterator[Start]:
    """Start workers on the scripted broker; each is ended after the test."""
    started: list[AtWork] = []

    def begin(handler: Handler | None = None, **options: Any) -> AtWork:
        started.append(AtWork(link, handler, **options))
        return started[-1]

    yield begin
    for each in started:
        each.close()

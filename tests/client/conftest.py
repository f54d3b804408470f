"""What tests of the client share: broker processes, and both clients with one interface."""

import asyncio
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tollgate.client.aio import AsyncClient
from tollgate.client.batch import AsyncBatch
from tollgate.client.sync import Client
from tollgate.testing import Broker

from .peers import PATIENCE_S, BrokerProcess
from .talk import Talk


@pytest.fixture
def talk() -> Talk:
    return Talk()


@pytest.fixture
def endpoint() -> Iterator[str]:
    # Not tmp_path: an ipc path holds 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="tollgate-") as directory:
        yield f"ipc://{Path(directory) / 'b.sock'}"


def _running_broker() -> Iterator[BrokerProcess]:
    with tempfile.TemporaryDirectory(prefix="tollgate-") as directory:
        process = BrokerProcess(f"ipc://{Path(directory) / 'b.sock'}").start()
        yield process
        process.kill()


@pytest.fixture(scope="module")
def broker() -> Iterator[BrokerProcess]:
    """Run one broker for all tests of a module; jobs of earlier tests stay in it."""
    yield from _running_broker()


@pytest.fixture
def empty_broker() -> Iterator[BrokerProcess]:
    """Run a broker for one test of clients in processes; others use `tollgate_broker`."""
    yield from _running_broker()


class Awaited:
    """An `AsyncClient` that is called like a `Client`, so that one test covers both."""

    def __init__(
        self, endpoint: str | None = None, *, timeout_s: float = 10.0, name: str | None = None
    ) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._client = AsyncClient(endpoint, timeout_s=timeout_s, name=name)

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._client, name)
        return self._awaiting(attribute) if callable(attribute) else attribute

    def close(self) -> None:
        if not self._loop.is_closed():
            self._await(self._client.close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(PATIENCE_S)
            self._loop.close()

    def _awaiting(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            outcome = function(*arguments, **named)
            if isinstance(outcome, AsyncBatch):
                send = outcome.send
                outcome.send = self._awaiting(send)  # type: ignore[method-assign]
                return outcome
            if hasattr(outcome, "__aiter__"):
                return iter(self._await(_gather(outcome)))
            return self._await(outcome)

        return call

    def _await(self, awaitable: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(awaitable, self._loop).result(2 * PATIENCE_S)


async def _gather(items: Any) -> list[Any]:
    return [item async for item in items]


@pytest.fixture(params=[Client, Awaited], ids=["Client", "AsyncClient"])
def make_client(request: pytest.FixtureRequest, endpoint: str) -> Iterator[Callable[..., Any]]:
    """Return a function that makes clients: `Client` in one run, `AsyncClient` in the other."""
    clients: list[Any] = []

    def make(to: str | None = None, **options: Any) -> Any:
        clients.append(request.param(to or endpoint, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def client(make_client: Callable[..., Any], broker: BrokerProcess) -> Any:
    """Return a client of the module's broker."""
    return make_client(broker.endpoint, timeout_s=PATIENCE_S)


@pytest.fixture
def client_of_empty(make_client: Callable[..., Any], tollgate_broker: Broker) -> Any:
    """Return a client of a broker without jobs, in this process."""
    return make_client(tollgate_broker.endpoint, timeout_s=PATIENCE_S)

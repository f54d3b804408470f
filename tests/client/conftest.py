"""What tests of the client share: a broker process, and both clients behind one face."""

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


@pytest.fixture
def broker(endpoint: str) -> Iterator[BrokerProcess]:
    process = BrokerProcess(endpoint).start()
    yield process
    process.kill()


class Awaited:
    """An `AsyncClient` that is called as a `Client` is, so that one test shows both."""

    def __init__(self, endpoint: str | None = None, *, timeout_s: float = 10.0) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._client = AsyncClient(endpoint, timeout_s=timeout_s)

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
    """Return what makes clients of one kind and then of the other; both take the same calls."""
    clients: list[Any] = []

    def make(to: str | None = None, **options: Any) -> Any:
        clients.append(request.param(to or endpoint, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def client(make_client: Callable[..., Any], broker: BrokerProcess) -> Any:
    """Return a client of a running broker."""
    return make_client(timeout_s=PATIENCE_S)

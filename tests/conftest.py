"""Fixtures for all tests: brokers that really run, and sockets to talk to them."""

import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import zmq
from hypothesis import settings

from tests.brokers import BrokerProcess, Peer, running_broker

# Whoever runs the tests in the background may ignore these, and what the tests start would too.
for _number, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

# A run repeats itself: what a test finds, it finds for everybody.
settings.register_profile("tollgate", derandomize=True, deadline=None)
settings.load_profile("tollgate")


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory with a path short enough for sockets: pytest's own are too deep."""
    with tempfile.TemporaryDirectory(prefix="tg-") as directory:
        yield Path(directory)


@pytest.fixture
def broker(short_dir: Path) -> Iterator[Callable[..., BrokerProcess]]:
    """Start brokers with settings; each is stopped at the end, and must leave in order."""
    with ExitStack() as stack:

        def start(name: str = "b", **settings: Any) -> BrokerProcess:
            return stack.enter_context(running_broker(short_dir, name, **settings))

        yield start


@pytest.fixture
def peer() -> Iterator[Callable[..., Peer]]:
    """Connect raw DEALER sockets to an endpoint; all are closed at the end."""
    peers: list[Peer] = []
    with zmq.Context() as context:

        def connect(endpoint: str, **options: int) -> Peer:
            peers.append(Peer(context, endpoint, **options))
            return peers[-1]

        yield connect
        for made in peers:
            made.close()

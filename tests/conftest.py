"""Fixtures for all tests: real brokers, and raw sockets to talk to them."""

import os
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
from tests.sizes import VARIABLE, is_full

WORKERS_MAX = 16
"""Enough to wait for every process of the suite at once; more of them only collect tests."""

# A shell that runs the tests in the background may ignore these signals. The processes that the
# tests start would inherit that.
for _number, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

# Every run tries the same examples: a failure here is a failure on every machine.
settings.register_profile("tollgate", derandomize=True, deadline=None)
settings.load_profile("tollgate")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run the whole of the long suites")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("full"):
        os.environ[VARIABLE] = "1"


@pytest.hookimpl(optionalhook=True)  # pytest-xdist declares it, and may be switched off
def pytest_xdist_auto_num_workers() -> int:
    """Return what `-n auto` means: two workers a core, because most tests wait for processes."""
    return min(WORKERS_MAX, 2 * len(os.sched_getaffinity(0)))


@pytest.fixture(scope="session")
def full() -> bool:
    """Whether the whole of the long suites is to run. At import time, ask `tests.sizes`."""
    return is_full()


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory whose path is short enough for a socket: pytest's own are too long."""
    with tempfile.TemporaryDirectory(prefix="tg-") as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def shared_broker() -> Iterator[BrokerProcess]:
    """One broker in memory for all tests of a module. No test may stop it or use up its limits."""
    with (
        tempfile.TemporaryDirectory(prefix="tg-") as directory,
        running_broker(Path(directory)) as process,
    ):
        yield process


@pytest.fixture
def broker(short_dir: Path) -> Iterator[Callable[..., BrokerProcess]]:
    """Start brokers with settings. Each is stopped at the end, and must stop cleanly."""
    with ExitStack() as stack:

        def start(name: str = "b", **settings: Any) -> BrokerProcess:
            return stack.enter_context(running_broker(short_dir, name, **settings))

        yield start


@pytest.fixture
def peer() -> Iterator[Callable[..., Peer]]:
    """Connect raw DEALER sockets to an endpoint. All are closed at the end."""
    peers: list[Peer] = []
    with zmq.Context() as context:

        def connect(endpoint: str, **options: int) -> Peer:
            peers.append(Peer(context, endpoint, **options))
            return peers[-1]

        yield connect
        for made in peers:
            made.close()

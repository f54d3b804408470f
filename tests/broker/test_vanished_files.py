"""A broker finds within seconds that its files are gone: it binds anew, or leaves and says why."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.brokers import PATIENCE_S, BrokerProcess, running_broker
from tollgate.client.sync import Client
from tollgate.domain.exceptions import TollgateError

HASH = "0" * 64


def answers(endpoint: str) -> bool:
    try:
        with Client(endpoint, timeout_s=0.5) as client:
            return client.count().total >= 0
    except TollgateError:
        return False


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def left_with(broker: BrokerProcess, *parts: str) -> None:
    """Check that it left with exit code 1, and that its last line says why."""
    broker.checked = True
    assert broker.process.wait(PATIENCE_S) == 1, broker.stderr
    assert "Traceback" not in broker.stderr
    last = broker.stderr.splitlines()[-1]
    for part in parts:
        assert part in last


def test_files_that_vanish_are_noticed(short_dir: Path) -> None:
    # All at the same time: a broker looks every five seconds.
    names = ["swept", "taken", "moved", "emptied"]
    for name in names:
        (short_dir / name).mkdir(mode=0o700)
    with (
        running_broker(short_dir / "swept") as swept,
        Client(swept.endpoint, timeout_s=PATIENCE_S) as before,
        running_broker(short_dir / "taken") as taken,
        running_broker(short_dir / "moved", data_dir=short_dir / "moved" / "data") as moved,
        running_broker(short_dir / "emptied", data_dir=short_dir / "emptied" / "data") as emptied,
        Client(emptied.endpoint, timeout_s=PATIENCE_S) as client,
    ):
        before.create(HASH)
        client.create(HASH)
        shutil.rmtree(short_dir / "swept")
        os.kill(
            taken.process.pid, signal.SIGSTOP
        )  # else it might look before the other one is there
        for path in (taken.path, taken.path.with_name("b.sock.lock")):
            path.unlink()
        with running_broker(short_dir / "taken", "other", bind=taken.endpoint) as thief:
            os.kill(taken.process.pid, signal.SIGCONT)
            (short_dir / "moved" / "data").rename(short_dir / "moved" / "aside")
            shutil.rmtree(short_dir / "emptied" / "data")

            left_with(emptied, "tollgate broker: could not ", "removed", "must stop")
            left_with(moved, "could not find the journal", "removed, moved or replaced")
            left_with(taken, taken.endpoint, "another broker is listening there")
            assert taken.path.is_socket()  # the other one's
            assert answers(taken.endpoint)
            thief.kill()
        wait_for(lambda: answers(swept.endpoint))
        assert before.count().total == 1
        swept.kill()


def test_nothing_is_acknowledged_once_the_journal_is_removed(short_dir: Path) -> None:
    data = short_dir / "data"
    with (
        running_broker(short_dir, data_dir=data) as broker,
        Client(broker.endpoint, timeout_s=1) as client,
    ):
        client.create(HASH)
        for path in data.iterdir():
            path.unlink()
        try:
            client.create(HASH)
        except TollgateError:
            pass
        else:
            raise AssertionError("it was acknowledged")
        left_with(
            broker, "could not sync the journal", "removed, moved, replaced or cut", "must stop"
        )

"""The broker's own key is rotated as docs/deployment.md says: clients move to a second endpoint."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

import tollgate
from tests.broker.access.handshakes import is_accepted
from tests.broker.access.key_commands import curve, keys, new_key, rotate
from tests.brokers import PATIENCE_S, BrokerProcess, running_broker
from tests.core import HASH
from tollgate.broker.access.key_files import read_pair


def restart(broker: BrokerProcess, **settings: Any) -> None:
    broker.process.send_signal(signal.SIGTERM)
    broker._settings |= settings
    broker.restart()


@contextmanager
def creating(url: str, key: Path, acknowledged: list[str]) -> Iterator[None]:
    """Create jobs all the time; each must be acknowledged, whatever happens to the broker."""
    told, faults = threading.Event(), list[Exception]()

    def create() -> None:
        try:
            with tollgate.Client(url, key=key, timeout_s=PATIENCE_S) as client:
                while not told.is_set():
                    acknowledged.append(client.create(HASH).job_id)
                    time.sleep(0.005)
        except Exception as fault:  # noqa: BLE001 - it is reported below
            faults.append(fault)

    thread = threading.Thread(target=create)
    before = len(acknowledged)
    thread.start()
    try:
        yield
        deadline = time.monotonic() + PATIENCE_S
        now = len(acknowledged)
        while len(acknowledged) == now and not faults:  # one more, after all that happened
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        told.set()
        thread.join()
    assert not faults
    assert len(acknowledged) > before


def may_connect(url: str, key: Path) -> bool:
    with zmq.Context() as context:
        options = {getattr(zmq, name): value for name, value in curve(key).items()}
        return is_accepted(context, url, options)


@pytest.mark.skipif(sys.platform != "linux", reason="takes all of 127.0.0.0/8")
def test_clients_move_to_the_new_key_and_lose_nothing(short_dir: Path) -> None:
    pid = os.getpid()  # an address of this process alone: the ports stay the same over restarts
    address = f"127.{1 + (pid >> 16)}.{(pid >> 8) & 255}.{pid & 255}"
    url, next_url = f"tcp://{address}:5555", f"tcp://{address}:5556"
    directory, acknowledged = short_dir / "keys", list[str]()
    alice, bob = new_key(short_dir, "alice", "producer"), new_key(short_dir, "bob")
    options: dict[str, Any] = {"data_dir": short_dir / "data", "keys": directory, "bind": url}
    with running_broker(short_dir, **options) as broker:
        with creating(url, alice, acknowledged):
            done = keys("rotate-broker", "--keys", directory)
            assert done.exit_code == 0
            restart(broker)  # by chance, before the next step: nothing has changed
        with creating(url, alice, acknowledged):
            restart(broker, bind_next=next_url)
            # Alice gets a new file, which knows the next key; bob's is changed by hand.
            moved = rotate(short_dir, "alice", "1h")
            now, following = (read_pair(each).broker_public_key for each in (bob, moved))
            assert now is not None
            assert following is not None
            assert f"next: {following}" in done.stderr
            by_hand = short_dir / "bob-2.key"
            by_hand.touch(0o600)
            by_hand.write_text(bob.read_text().replace(now, following))
            for old, new in ((alice, moved), (bob, by_hand)):
                accepted = [may_connect(at, key) for at in (url, next_url) for key in (old, new)]
                assert accepted == [True, False, False, True]
        with creating(next_url, moved, acknowledged):
            assert keys("rotate-broker", "--finish", "--keys", directory).exit_code == 0
            restart(broker)
            accepted = [may_connect(at, key) for at in (url, next_url) for key in (bob, by_hand)]
            assert accepted == [False, True, False, True]
        with tollgate.connect(next_url, key=by_hand) as client:
            stored = {job.job_id for job in client.list()}
        assert stored == set(acknowledged)
        assert len(stored) == len(acknowledged)


@pytest.mark.parametrize(
    ("spoil", "arguments", "reason"),
    [
        (lambda _: None, ["--finish"], "there is no"),
        (lambda keys: (keys / "broker.next.key").touch(0o600), [], "already"),
        (lambda keys: (keys / "broker.next.key").touch(0o600), ["--finish"], "broker.next.key"),
        (lambda keys: (keys / "broker.key").unlink(), [], "broker.key"),
    ],
)
def test_a_wrong_rotation_of_the_broker_changes_nothing(
    tmp_path: Path, spoil: Any, arguments: list[str], reason: str
) -> None:
    new_key(tmp_path, "alice")
    spoil(tmp_path / "keys")
    before = {path: path.read_bytes() for path in (tmp_path / "keys").iterdir()}
    done = keys("rotate-broker", *arguments, "--keys", tmp_path / "keys")
    assert (done.exit_code, reason in done.stderr) == (1, True)
    assert {path: path.read_bytes() for path in (tmp_path / "keys").iterdir()} == before


def test_a_next_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    new_key(tmp_path, "alice")
    assert keys("rotate-broker", "--keys", tmp_path / "keys").exit_code == 0
    (tmp_path / "keys" / "broker.next.key").chmod(0o640)
    done = keys("list", "--keys", tmp_path / "keys")
    assert (done.exit_code, "chmod 600" in done.stderr) == (1, True)

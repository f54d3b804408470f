"""Keys that are rotated while workers work: no paid job is lost, and the log says what to do."""

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.broker.access.key_commands import keys, new_key, rotate
from tests.brokers import BrokerProcess, running_broker
from tests.worker.house import House, Program, ended, left, paid, until_logged
from tollgate.client.sync import Client
from tollgate.domain.models import Job
from tollgate.domain.status import RUNNING

HANDLERS = """
import pathlib, time

def waits(job):
    with pathlib.Path(job.job_id).open("a") as begun:
        begun.write("x")
    while not pathlib.Path(f"{job.job_id} may end").exists():
        time.sleep(0.01)
    return "done"
"""


@pytest.fixture
def served() -> Iterator[tuple[Path, BrokerProcess]]:
    with tempfile.TemporaryDirectory(prefix="tg-") as name:
        directory = Path(name)
        new_key(directory, "alice")
        with running_broker(directory, keys=directory / "keys") as broker:
            yield directory, broker


def test_a_key_is_rotated_at_work(house: House, served: tuple[Path, BrokerProcess]) -> None:
    directory, broker = served
    house.has("waiting", HANDLERS)
    house.endpoint = broker.tcp

    def worker(key: Path) -> Program:
        options = ("--lease-ms", "1000", "--stop-grace-s", "1")
        return house.worker("--key", str(key), *options, handler="waiting:waits")

    def may_end(job: Job) -> None:
        (house.folder / f"{job.job_id} may end").touch()

    old = worker(new_key(directory, "shop", "worker"))
    with Client(broker.endpoint) as local:
        first, second = (paid(local, "x") for _ in range(2))
        for job in (first, second):
            house.until_begun(job)
        rotate(directory, "shop", "1h", out="second")
        may_end(first)
        assert (ended(local, first).result, ended(local, first).attempts) == ("done", 0)
        newest = rotate(directory, "shop", "0", out="third")
        exit_code, log = left(old)
        assert exit_code == 1
        assert "the broker refuses this worker: " in log
        assert log.count("start it with a key that is valid and has the role for this") == 2
        new = worker(newest)
        house.until(lambda: house.told(second.job_id) == "xx")
        assert local.get(second.job_id).status is RUNNING
        may_end(second)
        assert (ended(local, second).result, ended(local, second).attempts) == ("done", 1)
        assert house.told(first.job_id) == "x"
    new.terminate()
    assert left(new)[0] == 0


def test_a_role_is_taken_at_work_and_given_back(
    house: House, served: tuple[Path, BrokerProcess]
) -> None:
    """A result that is finished meanwhile is kept, though its lease lapses, and no job is begun."""
    directory, broker = served
    house.has("waiting", HANDLERS)
    house.endpoint = broker.tcp
    key = new_key(directory, "shop", "worker")
    worker = house.worker("--key", str(key), "--lease-ms", "300", handler="waiting:waits")
    with Client(broker.endpoint) as local:
        first = paid(local, "x")
        house.until_begun(first)
        give(directory, "shop", "worker", "observer")
        until_logged(worker, "this worker has lost the role worker (")
        (house.folder / f"{first.job_id} may end").touch()
        second = paid(local, "x")
        (house.folder / f"{second.job_id} may end").touch()
        house.until(lambda: lapses(local, first))
        assert local.get(first.job_id).status is RUNNING
        give(directory, "shop", "observer", "worker")
        until_logged(worker, "this worker has the roles again that it had lost")
        assert ended(local, first).result == ended(local, second).result == "done"
        assert (house.told(first.job_id), house.told(second.job_id)) == ("x", "x")
    worker.terminate()
    exit_code, log = left(worker)
    assert exit_code == 0
    assert log.count("has lost the role") == 1
    assert log.count("touch failed (touch takes the role worker") == 1  # of dozens


@pytest.mark.skipif(sys.platform != "linux", reason="takes all of 127.0.0.0/8")
def test_the_key_of_the_broker_is_rotated_at_work(house: House, short_dir: Path) -> None:
    """As docs/deployment.md says. The job of a worker that is forgotten goes to another one."""
    pid = os.getpid()  # an address of this process alone: the ports stay the same over restarts
    address = f"127.{129 + (pid >> 16)}.{(pid >> 8) & 255}.{pid & 255}"
    url, next_url = f"tcp://{address}:5555", f"tcp://{address}:5556"
    directory, old_key = short_dir / "keys", new_key(short_dir, "shop", "worker")
    house.has("waiting", HANDLERS)
    options: dict[str, Any] = {"data_dir": short_dir / "data", "keys": directory, "bind": url}

    def worker(key: Path, endpoint: str) -> Program:
        house.endpoint = endpoint
        options = ("--lease-ms", "1500", "--stop-grace-s", "0.1")
        return house.worker("--key", str(key), *options, handler="waiting:waits")

    def may_end(job: Job) -> None:
        (house.folder / f"{job.job_id} may end").touch()

    with running_broker(short_dir, **options) as broker, Client(broker.endpoint) as local:
        old = worker(old_key, url)
        first, second = (paid(local, "x") for _ in range(2))
        for job in (first, second):
            house.until_begun(job)
        assert keys("rotate-broker", "--keys", directory).exit_code == 0
        restart(broker, bind_next=next_url)
        may_end(first)
        assert (ended(local, first).result, ended(local, first).attempts) == ("done", 0)
        assert house.told(second.job_id) == "x"
        new = worker(rotate(short_dir, "shop", "1h"), next_url)
        third = paid(local, "x")
        may_end(third)
        assert ended(local, third).result == "done"
        assert keys("rotate-broker", "--finish", "--keys", directory).exit_code == 0
        restart(broker)
        house.until(lambda: house.told(second.job_id) == "xx")  # the new worker has it
        may_end(second)
        assert ended(local, second).result == "done"
        for each in (old, new):
            each.terminate()
            assert left(each)[0] == 0


def restart(broker: BrokerProcess, **settings: Any) -> None:
    broker.process.terminate()
    broker._settings |= settings
    broker.restart()


def give(directory: Path, name: str, before: str, after: str) -> None:
    """Change the role of a key, as an operator does with an editor."""
    file = directory / "keys" / f"{name}.toml"
    other = file.with_suffix(".new")
    other.touch(0o600)
    other.write_text(file.read_text().replace(before, after))
    other.replace(file)


def lapses(client: Client, job: Job) -> int:
    return sum(entry.what == "lapsed" for entry in client.history(job.job_id).entries)

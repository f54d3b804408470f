"""Processes that handlers start are as after a plain fork, and none outlives its worker."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worker.house import House, Program, ended, left, paid, until_logged
from tests.worker.parents import PARENTS
from tollgate.client.sync import Client

MODULE = "tests.worker.parents"


@pytest.fixture
def house(shared_house: House) -> Iterator[House]:
    yield shared_house
    shared_house.kill_workers()


def group(program: Program) -> list[int]:
    """Return the processes in the session of a program that have not ended."""
    alive = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            except OSError:
                continue
            if int(session) == program.pid and state != "Z":
                alive.append(int(entry.name))
    return alive


@pytest.mark.parametrize("handler", ["plain", "in_loop"])
def test_children_are_as_after_a_plain_fork(house: House, client: Client, handler: str) -> None:
    worker = house.worker("--concurrency", "1", handler=f"{MODULE}:{handler}")
    for name, (_, result) in PARENTS.items():
        job = ended(client, paid(client, name))
        assert (name, job.result, job.error) == (name, result, None)
    assert worker.poll() is None
    assert "stopping" not in worker.log
    for number in range(50):
        assert worker.log.count(f"line {number} of a child") == 3
    assert worker.log.count("ZeroDivisionError: integer division") == 1
    worker.terminate()
    exit_code, log = left(worker)
    assert exit_code == 0
    assert f"jobs finished: {len(PARENTS)}" in log
    house.until(lambda: not group(worker))  # a forkserver sees that it is alone


@pytest.mark.parametrize(
    ("handler", "result"), [("asks_in_a_fork", "17 17"), ("asks_in_a_fork_of_the_loop", "17")]
)
def test_a_fork_has_no_use_of_a_context(
    house: House, client: Client, handler: str, result: str
) -> None:
    house.worker(handler=f"{MODULE}:{handler}")
    assert ended(client, paid(client, "x")).result == result


@pytest.mark.parametrize(
    "handler",
    [
        "leaves_a_child", "leaves_a_deaf_child", "leaves_a_pool", "leaves_a_spawned_pool",
        "leaves_an_executor", "leaves_a_busy_executor",
    ],
)  # fmt: skip
def test_children_left_behind_end_with_the_worker(
    house: House, client: Client, handler: str
) -> None:
    worker = house.worker(handler=f"{MODULE}:{handler}")
    assert ended(client, paid(client, "x")).error is None
    worker.terminate()
    assert left(worker)[0] == 0
    house.until(lambda: not group(worker))


@pytest.mark.parametrize("handler", ["waits_for_a_pool", "waits_for_an_executor"])
@pytest.mark.parametrize("signals", [1, 2])
def test_children_of_hanging_handlers_end_with_it(
    house: House, client: Client, handler: str, signals: int
) -> None:
    grace_s = "0.5" if signals == 1 else "3600"
    worker = house.worker("--stop-grace-s", grace_s, handler=f"{MODULE}:{handler}")
    job = paid(client, "x")
    house.until_begun(job)
    worker.terminate()
    if signals == 2:
        until_logged(worker, "stopping")
        worker.terminate()
    assert left(worker)[0] == (0 if signals == 1 else 130)
    house.until(lambda: not group(worker))
    if signals == 1:
        (lease,) = client.claim("running")
        assert (lease.job.job_id, lease.job.attempts) == (job.job_id, 0)


def test_children_that_are_just_starting_end_too(house: House, client: Client) -> None:
    worker = house.worker(handler=f"{MODULE}:starts_one_after_the_other")
    house.until_begun(paid(client, "x"))
    worker.terminate()
    until_logged(worker, "stopping")
    worker.terminate()
    assert left(worker)[0] == 130
    house.until(lambda: not group(worker))


def test_children_of_a_worker_may_outlive_it_as_programs(house: House, client: Client) -> None:
    house.has("starts", "import subprocess\ndef program(job):\n"
              "    return str(subprocess.Popen(['sleep', '60']).pid)\n")  # fmt: skip
    worker = house.worker(handler="starts:program")
    pid = int(ended(client, paid(client, "x")).result or "")
    worker.terminate()
    assert left(worker)[0] == 0
    os.kill(pid, 9)  # it is still there: it is the program's

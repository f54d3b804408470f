"""Handlers that change what the process has only one of: streams, signals, the loop, the log.

That is theirs to do. The worker goes on, and a stop is obeyed.
"""

from collections.abc import Iterator

import pytest

from tests.worker.house import PATIENCE_S, House, ended, left, paid
from tests.worker.meddlers import LOOP_ONLY, MEDDLERS
from tollgate.client.sync import Client

RESULTS = {"nests_loop": "RuntimeError"}


@pytest.fixture
def house(shared_house: House) -> Iterator[House]:
    yield shared_house
    shared_house.kill_workers()


@pytest.mark.parametrize(
    ("handler", "meddler"),
    [("plain", name) for name in MEDDLERS] + [("in_loop", name) for name in LOOP_ONLY | MEDDLERS],
)
def test_a_worker_outlives_its_handler(house: House, handler: str, meddler: str) -> None:
    worker = house.worker("--stop-grace-s", "1", handler=f"tests.worker.meddlers:{handler}")
    with Client(house.endpoint, timeout_s=PATIENCE_S) as client:
        job = ended(client, paid(client, meddler))
        assert (job.result, job.error) == (RESULTS.get(meddler, "done"), None)
        for _ in range(2):
            assert ended(client, paid(client, "next")).result == "done"
        worker.terminate()
        exit_code, log = left(worker)
    assert exit_code == 0, log

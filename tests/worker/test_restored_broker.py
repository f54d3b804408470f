"""A broker comes back from a backup under a worker: its leases and sessions mean nothing any more.

The worker keeps what its handlers have made, and sends it if the job of the backup can take it.
"""

import subprocess
import sys

import pytest

from tests.worker.house import PATIENCE_S, House, ended, left, paid
from tollgate.client.sync import Client
from tollgate.domain.exceptions import JobNotFoundError
from tollgate.domain.status import JobStatus

HANDLERS = """
import asyncio, pathlib, time

def begun(job):
    with pathlib.Path(job.job_id).open("a") as begun:
        begun.write("x")

def plain(job, ctx):
    begun(job)
    if job.input == "asks":
        return ctx.ask({"question": "yes?"})
    while not pathlib.Path(f"{job.input} may end").exists():
        time.sleep(0.01)
    return f"{job.input} has ended"

async def later(job, ctx):
    begun(job)
    if job.input == "asks":
        return await ctx.ask({"question": "yes?"})
    while not pathlib.Path(f"{job.input} may end").exists():
        await asyncio.sleep(0.01)
    return f"{job.input} has ended"
"""


@pytest.mark.parametrize("handler", ["plain", "later"])
def test_a_broker_is_restored_under_a_worker(house: House, handler: str) -> None:
    house.has("working", HANDLERS)
    data, backup = house.folder / "data", house.folder / "backup"

    def journal(act: str, *arguments: object) -> None:
        command = [sys.executable, "-m", "tollgate", "journal", act, *map(str, arguments)]
        subprocess.run([*command, "--data-dir", data], check=True, capture_output=True)

    broker = house.broker("--data-dir", str(data))
    worker = house.worker("--lease-ms", "1000", "--concurrency", "4", handler=f"working:{handler}")
    with Client(house.endpoint, timeout_s=PATIENCE_S) as client:
        held, away = paid(client, "held"), paid(client, "away")
        for job in (held, away):
            house.until_begun(job)
        asks = paid(client, "asks")
        client.wait(asks.job_id, statuses=["awaiting_input"], timeout_s=PATIENCE_S)
        journal("backup", backup)
        unknown = paid(client, "unknown to the backup")
        house.until_begun(unknown)
    broker.kill()
    broker.wait()
    (house.folder / "away may end").touch()
    data.rename(house.folder / "lost")
    journal("restore", backup)
    house.broker("--data-dir", str(data))
    with Client(house.endpoint, timeout_s=PATIENCE_S) as client:
        assert ended(client, away).result == "away has ended"
        (house.folder / "held may end").touch()
        asked = client.get(asks.job_id)
        client.provide_input(asks.job_id, "yes", expected_version=asked.version)
        assert ended(client, held).result == "held has ended"
        assert ended(client, asks).result == "yes"
        assert [client.get(job.job_id).attempts for job in (held, away, asks)] == [0, 0, 0]
        assert [house.told(job.job_id) for job in (held, away, asks)] == ["x"] * 3
        (house.folder / "unknown to the backup may end").touch()
        with pytest.raises(JobNotFoundError):
            client.get(unknown.job_id)
        assert ended(client, paid(client, "away")).status is JobStatus.COMPLETED
    worker.terminate()
    exit_code, log = left(worker)
    assert (exit_code, "Traceback" in log) == (0, False)

"""One side of a pair: measures the tollgate of the interpreter that runs it; prints JSON.

Imports nothing of this folder, so that it measures an older tree as well.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import tollgate

if TYPE_CHECKING:
    from tollgate.domain.commands import AnyCommand

BIN = Path(sys.executable).parent
HASH = "0123456789abcdef" * 4
TEXT = "x" * 100
READY_S = 20.0


@contextmanager
def broker(place: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run a broker, and yield its endpoint when it listens."""
    socket = place / "b.sock"
    endpoint = f"ipc://{socket}"
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(
            [BIN / "tollgate", "broker", "--bind", endpoint, *options], stderr=log, cwd=place
        )
    try:
        end = time.monotonic() + READY_S
        while b'"ready"' not in (place / "log").read_bytes() and time.monotonic() < end:
            time.sleep(0.005)
        yield endpoint, process
    finally:
        process.terminate()
        process.wait(20)


def lifecycle(client: "tollgate.Client", jobs: int, per_message: int) -> float:
    """Return commands a second: create, run, read and complete so many jobs."""
    make = tollgate.commands
    ids = [f"{os.urandom(4).hex()}-0000-4000-8000-{number:012x}" for number in range(jobs)]
    commands: list[AnyCommand] = [
        *(make.create(HASH, job_id=job_id, input=TEXT) for job_id in ids),
        *(make.transition(job_id, "running") for job_id in ids),
        *(make.get(job_id) for job_id in ids),
        *(make.transition(job_id, "completed", result=TEXT) for job_id in ids),
    ]
    start = time.perf_counter()
    results = client.send_many(commands, message_commands=per_message)
    span = time.perf_counter() - start
    if results[-1].status != "completed":
        raise RuntimeError(results[-1])
    return len(commands) / span


def single(client: "tollgate.Client", calls: int) -> float:
    """Return the time of one `get`, in microseconds."""
    job_id = client.create(HASH).job_id
    start = time.perf_counter()
    for _ in range(calls):
        client.get(job_id)
    return (time.perf_counter() - start) / calls * 1e6


def worked(endpoint: str, client: "tollgate.Client", place: Path, jobs: int) -> float:
    """Return jobs a second, worked on by one worker with an empty handler."""
    (place / "empty_handler.py").write_text("def answer(job):\n    return 'done'\n")
    ids = [job.job_id for job in client.create_many([HASH] * jobs)]
    client.send_many(tollgate.commands.transition(job_id, "running") for job_id in ids)
    worker = subprocess.Popen(
        [
            BIN / "tollgate", "worker", "--endpoint", endpoint, "--only", "work",
            "--handler", "empty_handler:answer", "--concurrency", "512", "--log-level", "warning",
        ],
        cwd=place,
    )  # fmt: skip
    try:
        before, start = client.count().by_status["completed"], 0.0
        done = first = 0
        while done < jobs:
            done = client.count().by_status["completed"] - before
            if done and not start:
                start, first = time.perf_counter(), done
            time.sleep(0.002)
        return (jobs - first) / (time.perf_counter() - start)
    finally:
        worker.terminate()
        worker.wait(20)


def started(*command: object) -> float:
    """Return the seconds that a command takes."""
    start = time.perf_counter()
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    return time.perf_counter() - start


def main(scale: float) -> None:
    """Measure everything once."""
    found: dict[str, float] = {}
    jobs = int(10_000 * scale)
    with tempfile.TemporaryDirectory(prefix="tg-") as folder:
        place = Path(folder)
        with broker(place, "--in-memory") as (endpoint, process):
            with tollgate.connect(endpoint, timeout_s=60) as client:
                lifecycle(client, 500, 100)
                for per_message in (100, 1_000):
                    found[f"in memory, {per_message} a message, commands/s"] = lifecycle(
                        client, jobs, per_message
                    )
                found["one get, 1/us"] = 1 / single(client, int(2_000 * scale))
                found["jobs worked, jobs/s"] = worked(endpoint, client, place, jobs)
                before = _rss(process.pid)
                client.create_many([{"input_hash": HASH, "input": TEXT}] * (5 * jobs))
                found["1/bytes a job"] = 5 * jobs / (_rss(process.pid) - before)
            found["tollgate ping, 1/s"] = 1 / started(
                BIN / "tollgate", "ping", "--endpoint", endpoint
            )
    with tempfile.TemporaryDirectory(prefix="tg-") as folder:
        place = Path(folder)
        with (
            broker(place, "--data-dir", str(place / "data")) as (endpoint, _),
            tollgate.connect(endpoint, timeout_s=60) as client,
        ):
            lifecycle(client, 500, 100)
            for per_message in (100, 1_000):
                found[f"durable, {per_message} a message, commands/s"] = lifecycle(
                    client, jobs, per_message
                )
        start = time.perf_counter()
        with broker(place, "--data-dir", str(place / "data")):
            found["start and replay, 1/s"] = 1 / (time.perf_counter() - start)
    found["import tollgate, 1/s"] = 1 / started(sys.executable, "-c", "import tollgate")
    found["peak of this client, 1/KiB"] = 1 / resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps(found))


def _rss(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0)

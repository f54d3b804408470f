"""What a job takes of the broker's memory: new, and after six changes.

    python -m benchmarks.job_bytes 100000

By the resident memory of a broker in memory mode. The Redis hash that `growth.py` compares with
takes 1,256 bytes (MEMORY USAGE); a new job may take 0.8 of it, and one with six changes 1.0.

The event feed is in it. With `--pause-ms 0` its events stay objects: those lie in columns that the
broker has had 10 ms of rest for.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import tollgate
from benchmarks.processes import Broker, rss_bytes
from benchmarks.work import INPUT_HASH, input_of
from tollgate.domain.commands import AnyCommand, Release

INPUT: Final = input_of(200)
ROOM: Final = ("--jobs", "4000000", "--max-finished", "4000000")
HASH_BYTES: Final = 1_256
"""A job in Redis, as docs/performance.md has it."""
NEW_MAX: Final = 0.8
CHANGED_MAX: Final = 1.0
LEASE_MS: Final = 600_000
A_MESSAGE: Final = 1_000


def measure(jobs: int, pause_s: float, directory: Path) -> dict[str, float]:
    """Return the bytes a job by what has happened to it; pause after each message."""
    found: dict[str, float] = {}
    with (
        Broker(directory, *ROOM) as broker,
        tollgate.connect(broker.endpoint, timeout_s=120) as client,
    ):
        before = rss_bytes(broker.pid)

        def note(name: str) -> None:
            found[name] = (rss_bytes(broker.pid) - before) / jobs

        def each_message(ids: list[str], make: Callable[[str], AnyCommand]) -> None:
            for first in range(0, jobs, A_MESSAGE):
                client.send_many(map(make, ids[first : first + A_MESSAGE]))
                time.sleep(pause_s)

        ids: list[str] = []
        row = {"input_hash": INPUT_HASH, "input": INPUT}
        for first in range(0, jobs, A_MESSAGE):
            rows = [row] * min(A_MESSAGE, jobs - first)
            ids += [job.job_id for job in client.create_many(rows)]
            time.sleep(pause_s)
        note("new")
        each_message(ids, lambda job_id: tollgate.commands.transition(job_id, "running"))
        note("running (1 change)")
        for number in (3, 5):
            for _ in range(0, jobs, A_MESSAGE):  # the first ready first: each job once
                leases = client.claim("running", limit=A_MESSAGE, lease_ms=LEASE_MS)
                client.send_many(
                    Release(job_id=lease.job.job_id, lease=lease.token, reason="try again")
                    for lease in leases
                )
                time.sleep(pause_s)
            note(f"claimed and released ({number} changes)")
        each_message(
            ids, lambda job_id: tollgate.commands.transition(job_id, "completed", result="done")
        )
        note("completed (6 changes)")
    return found


def main() -> int:
    """Measure, print, and return 1 if a bound is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.job_bytes", description=__doc__)
    parser.add_argument("jobs", type=int, nargs="?", default=100_000, help="how many jobs")
    parser.add_argument(
        "--pause-ms", type=int, default=25, metavar="N",
        help="pause after each message of 1,000 commands; after 10 ms the broker packs its events",
    )  # fmt: skip
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tg-") as folder:
        found = measure(options.jobs, options.pause_ms / 1_000, Path(folder))
    for name, size in found.items():
        print(f"{name:36}{size:>8.0f} bytes{size / HASH_BYTES:>8.2f} of a Redis hash")
    new, changed = found["new"], found["completed (6 changes)"]
    return int(new > NEW_MAX * HASH_BYTES or changed > CHANGED_MAX * HASH_BYTES)


if __name__ == "__main__":
    sys.exit(main())

"""What a job takes of the broker's memory: new, and after six changes.

    python -m benchmarks.job_bytes 100000

By the resident memory of a broker in memory mode. The Redis hash that `growth.py` compares with
takes 1,256 bytes (MEMORY USAGE); a new job may take 0.8 of it, and one with six changes 1.0.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Final

import tollgate
from benchmarks.processes import Broker, rss_bytes
from benchmarks.work import INPUT_HASH, input_of
from tollgate.domain.commands import Release

INPUT: Final = input_of(200)
ROOM: Final = ("--jobs", "4000000", "--max-finished", "4000000")
HASH_BYTES: Final = 1_256
"""A job in Redis, as docs/performance.md has it."""
NEW_MAX: Final = 0.8
CHANGED_MAX: Final = 1.0
LEASE_MS: Final = 600_000
A_MESSAGE: Final = 1_000


def measure(jobs: int, directory: Path) -> dict[str, float]:
    """Return the bytes a job by what has happened to it."""
    found: dict[str, float] = {}
    with (
        Broker(directory, *ROOM) as broker,
        tollgate.connect(broker.endpoint, timeout_s=120) as client,
    ):
        before = rss_bytes(broker.pid)

        def note(name: str) -> None:
            found[name] = (rss_bytes(broker.pid) - before) / jobs

        row = {"input_hash": INPUT_HASH, "input": INPUT}
        ids = [job.job_id for job in client.create_many([row] * jobs)]
        note("new")
        client.send_many(tollgate.commands.transition(job_id, "running") for job_id in ids)
        note("running (1 change)")
        for number in (3, 5):
            for _ in range(0, jobs, A_MESSAGE):  # the first ready first: each job once
                leases = client.claim("running", limit=A_MESSAGE, lease_ms=LEASE_MS)
                client.send_many(
                    Release(job_id=lease.job.job_id, lease=lease.token, reason="try again")
                    for lease in leases
                )
            note(f"claimed and released ({number} changes)")
        client.send_many(
            tollgate.commands.transition(job_id, "completed", result="done") for job_id in ids
        )
        note("completed (6 changes)")
    return found


def main() -> int:
    """Measure, print, and return 1 if a bound is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.job_bytes", description=__doc__)
    parser.add_argument("jobs", type=int, nargs="?", default=100_000, help="how many jobs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tg-") as folder:
        found = measure(options.jobs, Path(folder))
    for name, size in found.items():
        print(f"{name:36}{size:>8.0f} bytes{size / HASH_BYTES:>8.2f} of a Redis hash")
    new, changed = found["new"], found["completed (6 changes)"]
    return int(new > NEW_MAX * HASH_BYTES or changed > CHANGED_MAX * HASH_BYTES)


if __name__ == "__main__":
    sys.exit(main())

"""A thousand readers of events beside some that never read: python -m tests.feed.crowd.

Jobs are created one after the other, and read by another client, with and without the crowd by
turns: so its cost for others is a ratio of one run. Each reader must have been told each event.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

from tests.brokers import PATIENCE_S, ROOT, BrokerProcess, running_broker
from tests.feed.readers import PATIENCE_S as READERS_S
from tollgate.client.sync import Client
from tollgate.domain.exceptions import EventsGoneError

HASH = "0123456789abcdef" * 4
APART_S = 0.05
GETS = 5
"""How many reads are timed for each job that is created."""
KEPT = 100_000
"""The broker keeps so many events at most."""


class Outcome(NamedTuple):
    """What a run came to."""

    told: int
    """Readers that were told every event, in order, in all rounds."""
    gone: bool
    """Whether a reader that had fallen behind was told so; always, if that was not tried."""
    alone_ms: list[float]
    crowded_ms: list[float]
    """How long others waited for an answer, without the crowd and with it."""
    rss_kib: tuple[int, int]
    """The broker's memory before and with the crowd."""
    files: tuple[int, int]
    """The files that the broker had open."""
    unread_bytes: int


@contextmanager
def reading(
    endpoint: str, readers: int, silent: int, after: str
) -> "Iterator[subprocess.Popen[str]]":
    """Run readers in a process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.feed.readers", endpoint, str(readers), str(silent), after],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def run(
    directory: Path, *, readers: int, silent: int, rounds: int, jobs: int, falls_behind: bool
) -> Outcome:
    """Run some rounds, each without a crowd and with one."""
    alone_ms: list[float] = []
    crowded_ms: list[float] = []
    told, unread, sizes, files = readers, 0, [0, 0], [0, 0]
    with running_broker(directory) as broker, Client(broker.endpoint, timeout_s=60) as client:
        begun = position(client)
        for _ in range(rounds):
            alone_ms += work(client, jobs)
            sizes[0], files[0] = sizes[0] or rss_kib(broker), files[0] or open_files(broker)
            after = position(client)
            with reading(broker.endpoint, readers, silent, after) as process:
                wait_until_parked(client, readers)
                crowded_ms += work(client, jobs)
                sizes[1] = max(sizes[1], rss_kib(broker))
                files[1] = max(files[1], open_files(broker))
                unread = max(unread, client.stats().unread_bytes or 0)
                shown, _ = process.communicate(f"{position(client)}\n", timeout=READERS_S + 30)
            found = json.loads(shown)
            true = [event.position for event in client.events(after, follow=False)]
            digest = hashlib.sha256("".join(true).encode()).hexdigest()
            is_all = (found["told"], found["digests"]) == ([len(true)], [digest])
            told = min(told, found["done"] if is_all else 0)
        gone = is_gone(client, begun) if falls_behind else True
    return Outcome(
        told, gone, alone_ms, crowded_ms, (sizes[0], sizes[1]), (files[0], files[1]), unread
    )


def position(client: Client) -> str:
    found = client.count().as_of
    assert found is not None
    return found


def work(client: Client, jobs: int) -> list[float]:
    """Create jobs, and return how long each read took, in ms."""
    found = []
    for _ in range(jobs):
        job_id = client.create(HASH).job_id
        for _ in range(GETS):
            begun = time.perf_counter()
            client.get(job_id)
            found.append((time.perf_counter() - begun) * 1_000)
            time.sleep(APART_S / GETS)
    return found


def wait_until_parked(client: Client, readers: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while client.stats().parked_waits < readers:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_gone(client: Client, after: str) -> bool:
    """Create more events than are kept; return whether a reader is told, and can begin anew."""
    client.create_many([HASH] * (KEPT + 1_000))
    try:
        client.events_page(after)
    except EventsGoneError as refusal:
        again = client.events_page(refusal.oldest, limit=1)
        return again.next != again.as_of
    return False


def rss_kib(broker: BrokerProcess) -> int:
    lines = Path(f"/proc/{broker.process.pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS:")))


def open_files(broker: BrokerProcess) -> int:
    return len([*Path(f"/proc/{broker.process.pid}/fd").iterdir()])


def main() -> int:
    """Run, and print what came of it; the exit code is 1 if a reader was not told all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readers", type=int, default=1_000)
    parser.add_argument("--silent", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=40, help="jobs created in each round")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tg") as scratch:
        outcome = run(Path(scratch), **vars(options), falls_behind=True)
    alone, crowded = median(outcome.alone_ms), median(outcome.crowded_ms)
    late = [quantiles(each, n=20)[-1] for each in (outcome.alone_ms, outcome.crowded_ms)]
    more_kib = (outcome.rss_kib[1] - outcome.rss_kib[0]) / max(1, options.readers)
    sys.stdout.write(
        f"{outcome.told:,} of {options.readers:,} readers were told every event, beside"
        f" {options.silent} that never read; told that events are gone: {outcome.gone}\n"
        f"others wait {alone:.2f} ms without them, {crowded:.2f} ms with them (medians),"
        f" {late[0]:.1f} and {late[1]:.1f} ms (95 %); ratio of the medians {crowded / alone:.2f}\n"
        f"broker: {outcome.rss_kib[0] / 1_024:.0f} MiB before, {outcome.rss_kib[1] / 1_024:.0f}"
        f" MiB with them ({more_kib:.0f} KiB a reader); files {outcome.files[0]} and"
        f" {outcome.files[1]}; unread {outcome.unread_bytes:,} bytes\n"
    )
    return 0 if outcome.told == options.readers and outcome.gone else 1


if __name__ == "__main__":
    sys.exit(main())

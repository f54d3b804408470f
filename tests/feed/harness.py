"""A broker under load that is killed again and again, and replicas that follow its events.

Readers: a quick one, one that sleeps, one of a single queue, and some that ask and never read. At
the end, when nothing happens any more, each replica is held against what the broker lists.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import zmq

from tests.brokers import PATIENCE_S, ROOT, BrokerProcess, Peer
from tests.feed.producer import QUEUES
from tests.feed.replica import Jobs, Replica, differences, shown
from tollgate.broker.compaction import compact_directory
from tollgate.client.sync import Client
from tollgate.domain.exceptions import EventsGoneError

PRODUCERS = 2
SILENT = 3
"""How many readers ask and never read."""
SLOW_S = 1.5
"""So long that a restart, which begins with a snapshot, knows nothing of its position."""
LIST_PAGE = 100
"""A list of several pages: the broker goes on between them."""
SETTINGS: dict[str, Any] = {
    "max_finished": 400, "segment_bytes": 250_000, "lapses": 3, "fsync": "never",
}  # fmt: skip
"""Jobs are removed, leases lapse, and segments are compacted all the time. What a broker that is
killed has written is in the files of the kernel."""


class Outcome(NamedTuple):
    """What a run came to."""

    events: int
    """Events that the quick reader has taken."""
    kills: int
    gone: int
    """How often a reader had to list the jobs anew."""
    compared: int
    """Jobs that were compared at the end, by all readers together."""
    wrong: list[str]
    seconds: float


class Reader(threading.Thread):
    """Keeps a replica up to date, until told to stop and nothing is left to read."""

    def __init__(self, endpoint: str, *, pause_s: float = 0.0, queue: str | None = None) -> None:
        super().__init__(daemon=True)
        self.endpoint = endpoint
        self.pause_s = pause_s
        self.queue = queue
        self.events = self.gone = 0
        self.replica = Replica()
        self.position: str | None = None
        self.loses_place = False
        """Whether to go on with a position of another log, as after a restore."""
        self.fault: BaseException | None = None
        self.ends = threading.Event()

    def run(self) -> None:
        try:
            with Client(self.endpoint, timeout_s=PATIENCE_S) as client:
                self.follow(client)
        except BaseException as fault:  # noqa: BLE001 - the main thread tells it
            self.fault = fault

    def follow(self, client: Client) -> None:
        self.start_anew(client)
        while True:
            ends = self.ends.is_set()
            if self.loses_place:
                self.loses_place, self.position = False, "another-1-0"
            try:
                page = client.events_page(self.position, wait_ms=200, queues=self.queue)
            except EventsGoneError:
                self.gone += 1
                self.start_anew(client)
                continue
            self.replica.apply_all(page.events)
            self.events += len(page.events)
            self.position = page.next
            if page.next == page.as_of:
                self.replica.is_strict = True
                if ends:
                    return
            if self.pause_s:
                self.ends.wait(self.pause_s)

    def start_anew(self, client: Client) -> None:
        """List all jobs; of several pages the position of the first one counts."""
        jobs, after, self.position = [], None, None
        while True:
            page = client.list_page(queue=self.queue, after=after, limit=LIST_PAGE)
            self.position = self.position or page.as_of
            jobs += page.jobs
            after = page.next
            if after is None:
                break
        self.replica = Replica(jobs, is_strict=False)


class Run:
    def __init__(self, directory: Path, events: int, kills: int, seed: int) -> None:
        self.directory = directory
        self.events = events
        self.kills = kills
        self.random = Random(seed)
        self.seed = seed
        self.broker = BrokerProcess(directory, data_dir=directory / "data", **SETTINGS)
        endpoint = self.broker.endpoint
        self.readers = [Reader(endpoint), Reader(endpoint, pause_s=SLOW_S)]
        self.readers += [Reader(endpoint, queue=queue) for queue in QUEUES[1:2]]
        self.producers: list[subprocess.Popen[bytes]] = []

    def run(self, show: Callable[[int, int], None], seconds: float) -> Outcome:
        """Run until there were so many events and kills, or so many seconds have passed."""
        began = time.monotonic()
        context = zmq.Context()
        try:
            self.broker.wait_until_ready()
            silent = [
                Peer(context, self.broker.endpoint, RCVHWM=1, SNDTIMEO=0) for _ in range(SILENT)
            ]
            for number in range(PRODUCERS):
                command = [
                    sys.executable, "-m", "tests.feed.producer", self.broker.endpoint,
                    str(self.seed * 100 + number),
                ]  # fmt: skip
                self.producers.append(subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE))
            for reader in self.readers:
                reader.start()
            kills = 0
            until = began + seconds
            while kills < self.kills or self.readers[0].events < self.events:
                for peer in silent:
                    with suppress(zmq.Again):  # it has as much unread as a peer may have
                        peer.send({"type": "events", "wait_ms": 60_000})
                time.sleep(self.random.uniform(0.05, 0.4))
                if kills < self.kills and self.readers[0].events >= self.due(kills):
                    self.broker.kill()
                    if kills % 2 == 0:  # so that it starts from a snapshot, if a segment is closed
                        compact_directory(self.directory / "data")
                    self.broker.restart()
                    self.random.choice(self.readers).loses_place = True
                    kills += 1
                show(self.readers[0].events, kills)
                if time.monotonic() > until or any(reader.fault for reader in self.readers):
                    break
            self.stop_producers()
            return self.outcome(kills, began)
        finally:
            context.destroy(linger=0)
            for producer in self.producers:
                producer.kill()
                producer.communicate()
            self.broker.kill()

    def due(self, kills: int) -> float:
        """Return how many events there are before the next kill."""
        return self.events * (kills + 0.5) / max(1, self.kills)

    def stop_producers(self) -> None:
        for producer in self.producers:
            producer.communicate(timeout=PATIENCE_S)

    def outcome(self, kills: int, began: float) -> Outcome:
        """Let all readers read to the end; compare each replica when nothing happens any more."""
        wrong: list[str] = []
        compared = 0
        with Client(self.broker.endpoint, timeout_s=PATIENCE_S) as client:
            position = self.settled(client)
            for reader in self.readers:
                reader.ends.set()
                reader.join(PATIENCE_S)
                if reader.fault is not None or reader.is_alive():
                    wrong.append(f"a reader ended with {reader.fault!r}")
                    continue
                true: Jobs = {job.job_id: shown(job) for job in client.list(queue=reader.queue)}
                wrong += differences(reader.replica.jobs, true)
                compared += len(true)
            if client.count().as_of != position:
                wrong.append("the broker went on while replicas were compared")
        first, gone = self.readers[0].events, sum(reader.gone for reader in self.readers)
        return Outcome(first, kills, gone, compared, wrong, time.monotonic() - began)

    def settled(self, client: Client) -> str | None:
        """Return the position when all leases have lapsed and old jobs are removed."""
        until = time.monotonic() + PATIENCE_S
        last: str | None = None
        while time.monotonic() < until:
            is_leased = any(job.lease for job in client.list(lease=True))
            position = client.count().as_of
            if position == last and not is_leased:
                return position
            last = position
            time.sleep(1)
        return last

"""Measures readers of the event feed: how many events one gets a second, and what others delay.

    python -m benchmarks.events [--events 90000] [--rounds 7] [--readers 100] [--silent 10]

The first part fills a broker with events, and reads all of them with the blocking client, again and
again. The second part has many asyncio clients follow the events while a job is created 20 times a
second. It tells how long after its creation the readers have been told of a job: with all of them
reading, and with some more that have asked and never read. The two ways take turns.
"""

import argparse
import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter

import msgspec
import zmq

from tests.brokers import running_broker
from tollgate.client import commands
from tollgate.client.aio import AsyncClient
from tollgate.client.sync import Client

HASH = "0" * 64
CREATIONS = 60
APART_S = 0.05


def rates(endpoint: str, events: int, rounds: int) -> list[float]:
    """Return the events a second of each round."""
    found = []
    with Client(endpoint, timeout_s=60) as client:
        start = client.count().as_of
        jobs = client.create_many([HASH] * (events // 3))
        client.send_many(commands.transition(job.job_id, "running") for job in jobs)
        client.send_many(commands.transition(job.job_id, "completed", result="x") for job in jobs)
        for _ in range(rounds):
            begun, read = perf_counter(), 0
            after = start
            while True:
                page = client.events_page(after)
                read += len(page.events)
                after = page.next
                if after == page.as_of:
                    break
            found.append(read / (perf_counter() - begun))
    return found


@contextmanager
def silent_readers(endpoint: str, number: int) -> Iterator[None]:
    """Have so many peers ask for events all the time, and never read an answer."""
    frame = {"v": 1, "session": 0, "acked": 0, "commands": [{"type": "events", "wait_ms": 60_000}]}
    with zmq.Context() as context:
        context.linger = 0
        for _ in range(number):
            socket = context.socket(zmq.DEALER)
            socket.set(zmq.RCVHWM, 1)
            socket.connect(endpoint)
            for seq in range(1, 1_000):
                socket.send(msgspec.msgpack.encode({**frame, "seq": seq}))
        yield
        context.destroy(linger=0)


async def delays_ms(endpoint: str, readers: int) -> list[float]:
    """Return how long after its creation each reader was told of each job, in ms."""
    created: dict[str, float] = {}
    found: list[float] = []

    async def follow(client: AsyncClient, after: str) -> None:
        async for event in client.events(after):
            told = perf_counter() - created[event.job_id or ""]
            found.append(told * 1_000)

    async with AsyncClient(endpoint, timeout_s=60) as maker:
        start = (await maker.count()).as_of or ""
        clients = [AsyncClient(endpoint, timeout_s=60) for _ in range(readers)]
        tasks = [asyncio.ensure_future(follow(client, start)) for client in clients]
        await asyncio.sleep(1)
        for number in range(CREATIONS):
            job_id = new_id(number)
            created[job_id] = perf_counter()
            await maker.create(HASH, job_id=job_id)
            await asyncio.sleep(APART_S)
        while len(found) < readers * CREATIONS:  # noqa: ASYNC110 - many tasks add to it
            await asyncio.sleep(APART_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for client in clients:
            await client.close()
    return found


def new_id(number: int) -> str:
    """Return an id that no other round has."""
    return f"{int(perf_counter() * 1e6) % 2**32:08x}-0000-4000-8000-{number:012x}"


def main() -> None:
    """Print both parts, with the spread of each figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=90_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--readers", type=int, default=100)
    parser.add_argument("--silent", type=int, default=10)
    chosen = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="tg-") as directory,
        running_broker(Path(directory)) as broker,
    ):
        found = rates(broker.endpoint, chosen.events, chosen.rounds)
        print(
            f"one reader: {median(found):,.0f} events a second"
            f" ({min(found):,.0f} to {max(found):,.0f})"
        )
        ways: dict[int, list[float]] = {0: [], chosen.silent: []}
        ratios = []
        for _ in range(chosen.rounds):
            told = {}
            for silent in ways:
                with silent_readers(broker.endpoint, silent):
                    some = asyncio.run(delays_ms(broker.endpoint, chosen.readers))
                ways[silent] += some
                told[silent] = median(some)
            ratios.append(told[chosen.silent] / told[0])
        for silent, all_of_way in ways.items():
            late = quantiles(all_of_way, n=20)[-1]
            print(
                f"{chosen.readers} readers, {silent} more that never read: told after"
                f" {median(all_of_way):.1f} ms (median), {late:.1f} ms (95 %)"
            )
        print(
            f"ratio of the medians: {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()

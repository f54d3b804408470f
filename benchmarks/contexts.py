"""Measures many busy clients in one process: with one ZeroMQ context, and with one for each.

    python -m benchmarks.contexts [--clients 100] [--seconds 3] [--rounds 3]

Each client reads a job again and again, in one event loop. The two ways take turns.
"""

import argparse
import asyncio
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

from tests.brokers import running_broker
from tollgate.client import connection
from tollgate.client.aio import AsyncClient


async def reads_per_s(endpoint: str, clients: int, seconds: float, *, shared: bool) -> float:
    """Return how many reads a second `clients` clients do together."""
    made = []
    for _ in range(clients):
        if not shared:
            connection._shared = connection.SharedContext()  # noqa: SLF001 - the way that it was
        made.append(AsyncClient(endpoint, timeout_s=60))
        await made[-1].ping()
    job = (await made[0].create("0" * 64)).job_id
    end, done = perf_counter() + seconds, 0

    async def read(client: AsyncClient) -> None:
        nonlocal done
        while perf_counter() < end:
            await client.get(job)
            done += 1

    begun = perf_counter()
    await asyncio.gather(*map(read, made))
    took = perf_counter() - begun
    for client in made:
        await client.close()
    return done / took


def main() -> None:
    """Print the reads a second of both ways, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    figures: dict[bool, list[float]] = {True: [], False: []}
    with (
        tempfile.TemporaryDirectory(prefix="tg-") as directory,
        running_broker(Path(directory)) as broker,
    ):
        for _ in range(chosen.rounds):
            for shared, of_way in figures.items():
                reads = reads_per_s(broker.endpoint, chosen.clients, chosen.seconds, shared=shared)
                of_way.append(asyncio.run(reads))
    one, each = median(figures[True]), median(figures[False])
    print(f"{chosen.clients} busy clients, reads a second:")
    print(f"one context for all  {one:9,.0f}")
    print(f"a context for each   {each:9,.0f}")
    print(f"ratio                {one / each:9.2f}")


if __name__ == "__main__":
    main()

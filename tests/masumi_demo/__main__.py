"""`make demo-masumi`: buyers, a broker, workers and a watcher of a payment service, live.

The payment service is a stand-in, in this process, with faults. All the rest is as it is used.
"""

import argparse
import asyncio
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from random import Random
from threading import Event, Thread
from typing import Final

from rich.console import Console
from rich.live import Live

from tests.masumi_demo.buyers import MIX, Buyer, Deal
from tests.masumi_demo.screen import picture, summary
from tests.payment_service.faults import Faults
from tests.payment_service.server import Server
from tests.payment_service.service import PaymentService
from tollgate import AsyncClient
from tollgate.demo.processes import Processes, Signals

HANDLER: Final = Path(__file__).parent / "handler.py"
WORKERS: Final = 2
TICK_S: Final = 0.4
REFRESH_S: Final = 0.2
HIRE_S: Final = 0.3
PLAIN_S: Final = 2.0


def main(arguments: list[str] | None = None) -> int:
    """Run the demonstration; the exit code is 1 if anything is wrong, and 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.masumi_demo",
        description=__doc__,
        epilog="example: python -m tests.masumi_demo --jobs 12 --seed 7",
    )
    parser.add_argument("--jobs", type=int, default=24, help="how many buyers there are")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=float, default=0.1, help="share of faulty calls, 0 to 1")
    options = parser.parse_args(arguments)
    service = PaymentService(
        options.seed,
        Faults.all(options.seed, options.faults),
        chain_failures=options.faults / 4,
        cooldown_ms=0,
    )
    deals = [Deal(number + 1, MIX[number % len(MIX)]) for number in range(options.jobs)]
    begun_at = time.monotonic()
    with Signals() as signals:
        try:
            with Server(service) as server, Processes(signals) as processes:
                _start(processes, server)
                asyncio.run(_show(processes, service, deals, options.seed))
        except KeyboardInterrupt:
            return 130
    faults = sum(service.faults.counts.values())
    lines = summary(deals, faults, time.monotonic() - begun_at)
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if any(deal.wrong for deal in deals) else 0


def _start(processes: Processes, server: Server) -> None:
    processes.start_broker(("--in-memory", "--payment-grace-ms", "0"))
    directory, endpoint = processes.directory, processes.endpoint
    shutil.copy(HANDLER, directory / "writer.py")
    token = directory / "token"
    token.write_text(server.token)
    for number in range(1, WORKERS + 1):
        processes.start_program(
            f"worker {number}", "tollgate.worker", "--endpoint", endpoint,
            "--handler", "writer:answer", "--concurrency", "4",
        )  # fmt: skip
    processes.start_program(
        "watcher", "tollgate.masumi", "--endpoint", endpoint, "--service-url", server.url,
        "--service-token-file", str(token), "--network", "Preprod", "--poll-s", "0.5",
    )  # fmt: skip


async def _show(
    processes: Processes, service: PaymentService, deals: list[Deal], seed: int
) -> None:
    """Let the buyers hire, and show it until all deals are over."""
    over = Event()
    chain = Thread(target=_tick, args=(service, over), name="chain", daemon=True)
    chain.start()
    random, console = Random(seed), Console()
    begun: list[Deal] = []
    shown_at = 0.0
    try:
        async with (
            AsyncClient(processes.endpoint, timeout_s=20) as client,
            asyncio.TaskGroup() as group,
        ):
            hiring = group.create_task(_hire(deals, begun, client, service, random))
            with Live(console=console, auto_refresh=False) as live:
                while not (hiring.done() and all(deal.is_over for deal in deals)):
                    processes.check()
                    faults = sum(service.faults.counts.values())
                    if console.is_terminal:
                        live.update(picture(begun, faults), refresh=True)
                    elif time.monotonic() - shown_at > PLAIN_S:
                        shown_at = time.monotonic()
                        done = sum(deal.is_over for deal in deals)
                        sys.stdout.write(f"{len(begun)} hired, {done} over, {faults} faults\n")
                    await asyncio.sleep(REFRESH_S)
                if console.is_terminal:
                    live.update(picture(begun, faults), refresh=True)
    finally:
        over.set()
        chain.join()


async def _hire(
    deals: list[Deal],
    begun: list[Deal],
    client: AsyncClient,
    service: PaymentService,
    random: Random,
) -> None:
    async with asyncio.TaskGroup() as group:
        for deal in deals:
            begun.append(deal)
            group.create_task(Buyer(deal, client, service, random).run())
            await asyncio.sleep(HIRE_S)


def _tick(service: PaymentService, over: Event) -> None:
    while not over.wait(TICK_S):
        with suppress(ValueError):
            service.tick()


if __name__ == "__main__":
    sys.exit(main())

"""`make demo-masumi`: buyers hire an agent over HTTP, pay, and verify what they get, live.

The agent is a broker, workers, gateways and a watcher of a payment service, as they are used. The
payment service is a stand-in, in this process, with faults.
"""

import argparse
import asyncio
import signal
import sys
import time
from collections import deque
from collections.abc import Coroutine
from contextlib import suppress
from random import Random
from threading import Event, Thread
from typing import Any, Final, Self

import httpx
from rich.live import Live

from tests.masumi_demo import seller
from tests.masumi_demo.buyers import MIX, Buyer, Deal, Market
from tests.masumi_demo.screen import EVENTS, SIZE_MIN, counts, picture, summary, where
from tests.payment_service.faults import Faults
from tests.payment_service.server import Server
from tests.payment_service.service import PaymentService
from tollgate import AsyncClient, TollgateError
from tollgate.demo.processes import Processes, Signals
from tollgate.terminal.output import say
from tollgate.terminal.style import terminal

TICK_S: Final = 0.4
REFRESH_S: Final = 0.2
HIRE_S: Final = 0.3
PLAIN_S: Final = 2.0
JOBS_MAX: Final = 1_000
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(arguments: list[str] | None = None) -> int:
    """Run it; the exit code is 1 if anything is wrong, and 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.masumi_demo",
        description=__doc__,
        epilog="example: python -m tests.masumi_demo --jobs 12 --seed 7",
    )
    parser.add_argument("--jobs", type=_jobs, default=24, help="how many buyers there are")
    parser.add_argument("--seed", type=int, default=1, help="decides tokens, faults and topics")
    parser.add_argument("--faults", type=_share, default=0.1, help="share of faulty calls, 0 to 1")
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
                say("starting a broker, two workers, a watcher and two gateways")
                urls = seller.start(processes, server)
                _run(_show(processes, service, deals, urls, options.seed))
        except KeyboardInterrupt:
            return 130
        except TollgateError as fault:
            say(f"{parser.prog}: {fault}")
            return 1
        except ExceptionGroup as group:
            say(f"{parser.prog}: {_first(group)}")
            return 1
    faults = sum(service.faults.counts.values())
    lines = summary(deals, faults, time.monotonic() - begun_at)
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if any(deal.wrong for deal in deals) else 0


def _jobs(text: str) -> int:
    number = int(text)
    if not 1 <= number <= JOBS_MAX:
        raise argparse.ArgumentTypeError(f"{text} is not from 1 to {JOBS_MAX}")
    return number


def _share(text: str) -> float:
    share = float(text)
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return share


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error of a group; one that is no TollgateError is a bug, and raised."""
    first = group.exceptions[0]
    if isinstance(first, BaseExceptionGroup):
        return _first(first)
    if not isinstance(first, TollgateError):
        raise group
    return first


def _run(show: Coroutine[Any, Any, None]) -> None:
    """Run until its end or a signal: it is cancelled, and then the signal has its effect.

    An exception that a handler raises inside the loop could leave tasks behind.
    """
    before = {sign: signal.getsignal(sign) for sign in SIGNALS}
    came: list[int] = []

    async def watched() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.ensure_future(show)

        def stop(sign: int) -> None:
            came.append(sign)
            task.cancel()

        for sign, handler in before.items():
            if handler is not signal.SIG_IGN:
                loop.add_signal_handler(sign, stop, sign)
        with suppress(asyncio.CancelledError):
            await task

    try:
        asyncio.run(watched())
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)
    if came:
        raise KeyboardInterrupt if came[0] == signal.SIGINT else SystemExit(128 + came[0])


async def _show(
    processes: Processes, service: PaymentService, deals: list[Deal], urls: list[str], seed: int
) -> None:
    """Let the buyers hire, and show it until all deals are over and settled."""
    over = Event()
    chain = Thread(target=_tick, args=(service, over), name="chain", daemon=True)
    chain.start()
    begun: list[Deal] = []
    events: deque[str] = deque(maxlen=EVENTS)
    try:
        async with (
            AsyncClient(processes.endpoint, timeout_s=20) as client,
            httpx.AsyncClient(timeout=20) as http,
            asyncio.TaskGroup() as group,
        ):
            market = Market(urls[0], urls[1], http, service, Random(seed), events.append)
            group.create_task(_hire(deals, begun, market))
            settling = group.create_task(seller.look(client, deals))
            with Screen(service, urls, events) as screen:
                while not settling.done():
                    processes.check()
                    screen.show(begun)
                    await asyncio.sleep(REFRESH_S)
                screen.show(begun, is_last=True)
    finally:
        over.set()
        chain.join()


class Screen:
    """Shows the deals on standard error: live on a terminal, elsewhere as a line now and then."""

    def __init__(self, service: PaymentService, urls: list[str], events: deque[str]) -> None:
        self._service = service
        self._where = where(urls)
        self._events = events
        self._console = terminal(stderr=True)
        self._live: Live | None = None
        self._next_s = 0.0

    def __enter__(self) -> Self:
        columns, lines = self._console.size
        is_large = columns >= SIZE_MIN[0] and lines >= SIZE_MIN[1]
        if self._console.is_terminal and is_large and not self._console.is_dumb_terminal:
            self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False)
            self._live.start()
        else:
            say(self._where)
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._console.print()

    def show(self, deals: list[Deal], *, is_last: bool = False) -> None:
        """Show how it is now."""
        faults = sum(self._service.faults.counts.values())
        if self._live is not None:
            height = self._console.height
            shown = picture(deals, self._where, faults, tuple(self._events), height)
            self._live.update(shown, refresh=True)
        elif is_last or time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + PLAIN_S
            say(counts(deals, faults))


async def _hire(deals: list[Deal], begun: list[Deal], market: Market) -> None:
    async with asyncio.TaskGroup() as group:
        for deal in deals:
            begun.append(deal)
            group.create_task(Buyer(deal, market).run())
            await asyncio.sleep(HIRE_S)


def _tick(service: PaymentService, over: Event) -> None:
    while not over.wait(TICK_S):
        with suppress(ValueError):
            service.tick()


if __name__ == "__main__":
    sys.exit(main())

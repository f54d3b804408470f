"""The composition root of a worker: puts its parts together, and runs them until a signal."""

import asyncio
import logging
import os
import signal
import sys
from contextlib import suppress
from typing import Final

from tollgate.client.aio import AsyncClient
from tollgate.domain.exceptions import TollgateError
from tollgate.worker.handlers import Handler, HandlerCalls
from tollgate.worker.payments import PaymentSimulator
from tollgate.worker.retry import Link, Pauses, is_passing, one_line
from tollgate.worker.roles import Payments, Role, Work
from tollgate.worker.runner import Runner
from tollgate.worker.settings import SILENCE_S_MAX, Settings

log = logging.getLogger("tollgate.worker")

DONE: Final = 0
REFUSED: Final = 1
BROKER_NOT_REACHED: Final = 3
INTERRUPTED: Final = 130

ANSWER_S_MIN: Final = 1.0
ANSWER_S_MAX: Final = 5.0


def serve(settings: Settings, handler: Handler, simulator: PaymentSimulator) -> int:
    """Run a worker until SIGTERM or SIGINT, or until it has done its `jobs`; return an exit code.

    The process ends in here at a second signal, or if a handler does not come to an end.
    """
    return asyncio.run(_serve(settings, handler, simulator))


async def _serve(settings: Settings, handler: Handler, simulator: PaymentSimulator) -> int:
    # An answer that stays out must leave time for another touch before the lease is over.
    answer_s = min(max(settings.lease_ms / 3_000, ANSWER_S_MIN), ANSWER_S_MAX)
    async with AsyncClient(settings.endpoint, key=settings.key, timeout_s=answer_s) as client:
        calls = HandlerCalls(handler, settings.concurrency)
        runner = Runner(client, _roles(settings, calls, simulator), settings)
        calls.on_thread_free = runner.look_again
        stop = _stop_at_signals(runner)
        exit_code = await _run(runner, client, settings, stop)
        if calls.given_up or not runner.is_idle:
            _exit_now(exit_code)  # Python would wait for such a handler for as long as it likes
        calls.close()
    return exit_code


def _roles(settings: Settings, calls: HandlerCalls, simulator: PaymentSimulator) -> list[Role]:
    roles: list[Role] = []
    if settings.only != "work":
        roles.append(Payments(simulator, settings.payments_max))
    if settings.only != "payments":
        roles.append(Work(calls, settings.concurrency, pause_ms=settings.work_delay_ms))
    return roles


def _stop_at_signals(runner: Runner) -> asyncio.Event:
    """Stop at the first signal, and exit at the second; return what the first one sets."""
    stop = asyncio.Event()

    def asked_to_stop(sign: signal.Signals) -> None:
        if stop.is_set():
            _exit_now(INTERRUPTED)
        log.info("%s: stopping; once more to exit at once", sign.name)
        stop.set()
        runner.stop()

    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, asked_to_stop, sign)
    return stop


async def _run(runner: Runner, client: AsyncClient, settings: Settings, stop: asyncio.Event) -> int:
    try:
        async with asyncio.timeout(settings.wait_for_broker_s):
            await _reach(client, settings.endpoint, stop)
    except TimeoutError:
        log.error("no broker at %s", settings.endpoint)  # noqa: TRY400 - no traceback
        return BROKER_NOT_REACHED
    try:
        await runner.run()
    except TollgateError as refusal:
        log.error("the broker will not have this worker: %s", one_line(refusal))  # noqa: TRY400
        return REFUSED
    log.info("stopped; jobs finished: %d", runner.finished)
    return DONE


async def _reach(client: AsyncClient, endpoint: str, stop: asyncio.Event) -> None:
    """Return as soon as the broker has answered, or `stop` is set."""
    pinging = asyncio.create_task(_until_answered(client, endpoint))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({pinging, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        pinging.cancel()
        stopping.cancel()


async def _until_answered(client: AsyncClient, endpoint: str) -> None:
    link = Link(endpoint)
    pauses = Pauses()
    while True:
        try:
            await client.ping(SILENCE_S_MAX)
        except TollgateError as fault:
            if not is_passing(fault):
                return  # claiming will say it better
            link.lost(fault)
        else:
            link.back()
            return
        await pauses.wait()


def _exit_now(exit_code: int) -> None:
    """End the process without waiting for threads and tasks that may never end."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(exit_code)

"""The composition root of a worker: builds its parts, and runs them until a signal."""

import asyncio
import logging
import os
import signal
from time import monotonic
from typing import Final

from tollgate.client.aio import AsyncClient
from tollgate.domain.exceptions import TollgateError
from tollgate.domain.status import AWAITING_PAYMENT
from tollgate.streams import finish
from tollgate.worker.handlers import Handler, HandlerCalls, WorkStage
from tollgate.worker.payments import PaymentSimulator, PaymentStage
from tollgate.worker.retry import Backoff, BrokerStatus, may_pass, one_line
from tollgate.worker.runner import Runner
from tollgate.worker.settings import SILENCE_S_MAX, Settings
from tollgate.worker.slots import Stage

log = logging.getLogger("tollgate.worker")

DONE: Final = 0
REFUSED: Final = 1
BROKER_NOT_REACHED: Final = 3
INTERRUPTED: Final = 130
STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

ANSWER_S_MIN: Final = 1.0
ANSWER_S_MAX: Final = 5.0


def serve(settings: Settings, handler: Handler, simulator: PaymentSimulator) -> int:
    """Run a worker until SIGTERM or SIGINT, or until `jobs` have ended; return the exit code.

    The process ends in here at a second signal, or when a handler does not end.
    """
    return asyncio.run(_serve(settings, handler, simulator))


async def _serve(settings: Settings, handler: Handler, simulator: PaymentSimulator) -> int:
    # A touch without an answer must leave time for another one before the lease lapses.
    answer_s = min(max(settings.lease_ms / 3_000, ANSWER_S_MIN), ANSWER_S_MAX)
    async with AsyncClient(settings.endpoint, key=settings.key, timeout_s=answer_s) as client:
        calls = HandlerCalls(handler, settings.concurrency)
        runner = Runner(client, _stages(settings, calls, simulator), settings)
        calls.on_thread_free = runner.check_again
        stop = _stop_at_signals(runner)
        exit_code = await _run(runner, client, settings, stop)
        if calls.abandoned or not runner.is_idle:
            _exit_now(exit_code)  # Python would wait for such a handler
        calls.close()
    return exit_code


def _stages(settings: Settings, calls: HandlerCalls, simulator: PaymentSimulator) -> list[Stage]:
    stages: list[Stage] = []
    if settings.only != "work":
        stages.append(PaymentStage(simulator, settings.payments_max))
    if settings.only != "payments":
        stages.append(WorkStage(calls, settings.concurrency, pause_ms=settings.work_delay_ms))
    return stages


def _stop_at_signals(runner: Runner) -> asyncio.Event:
    """Stop at the first signal, exit at the second; return the event that the first one sets."""
    stop = asyncio.Event()

    def on_signal(sign: signal.Signals) -> None:
        if stop.is_set():
            _exit_now(INTERRUPTED)
        log.info("%s: stopping; a second signal ends it at once", sign.name)
        stop.set()
        runner.stop()

    loop = asyncio.get_running_loop()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # a parent may have blocked them
    for sign in STOP_SIGNALS:
        loop.add_signal_handler(sign, on_signal, sign)
    return stop


async def _run(runner: Runner, client: AsyncClient, settings: Settings, stop: asyncio.Event) -> int:
    try:
        async with asyncio.timeout(settings.wait_for_broker_s):
            roles = await _reach(client, settings.endpoint, stop)
    except TimeoutError:
        log.error("no broker at %s", settings.endpoint)  # noqa: TRY400 - no traceback
        return BROKER_NOT_REACHED
    if "admin" in roles and settings.endpoint.startswith("ipc:"):
        log.info("this worker runs as the broker's user: its role is admin, it may do everything")
    if settings.only is None and "worker" in roles and not roles & {"payments", "admin"}:
        log.info("the role worker does not decide payments: this worker does work only")
        runner.leave_out(AWAITING_PAYMENT)
    try:
        await runner.run()
    except TollgateError as refusal:
        log.error("the broker refuses this worker: %s", one_line(refusal))  # noqa: TRY400
        return REFUSED
    log.info("stopped; jobs finished: %d", runner.finished)
    return DONE


async def _reach(client: AsyncClient, endpoint: str, stop: asyncio.Event) -> set[str]:
    """Return this worker's roles as soon as the broker has answered, or none if `stop` is set."""
    pinging = asyncio.create_task(_until_answered(client, endpoint))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({pinging, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return pinging.result() if pinging.done() else set()
    finally:
        pinging.cancel()
        stopping.cancel()


async def _until_answered(client: AsyncClient, endpoint: str) -> set[str]:
    broker = BrokerStatus(endpoint)
    backoff = Backoff()
    while True:
        asked_at = monotonic()
        try:
            hello = await client.ping(SILENCE_S_MAX)
        except TollgateError as fault:
            if not may_pass(fault):
                return set()  # the first claim gets a clearer refusal
            broker.lost(fault, asked_at)
        else:
            broker.back()
            return set(hello.roles or [hello.role])  # an older broker tells its one role
        await backoff.wait()


def _exit_now(exit_code: int) -> None:
    """End the process without waiting for threads and tasks."""
    logging.shutdown()
    finish()
    os._exit(exit_code)

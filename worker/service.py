"""One run of a worker: puts its parts together, watches over them, and always leaves."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Final

from tollgate.client.errors import may_pass
from tollgate.client.sync import Client
from tollgate.domain.exceptions import ArgumentError, TollgateError
from tollgate.domain.results import HelloResult
from tollgate.domain.status import AWAITING_PAYMENT
from tollgate.threads import check_threads
from tollgate.worker.broker_status import Backoff, BrokerStatus, refusal_line
from tollgate.worker.executor import Executor
from tollgate.worker.handlers import (
    HandlerNotFoundError,
    LoopExecutor,
    ThreadExecutor,
    is_async,
    load_handler,
    unfit,
)
from tollgate.worker.lease import answer_s
from tollgate.worker.leaving import end_by, exit_now, say
from tollgate.worker.link import LeaseClient, Link
from tollgate.worker.payments import PaymentStage, RealPaymentError, simulator_of
from tollgate.worker.policy import RetryPolicy
from tollgate.worker.questions import Questions
from tollgate.worker.roles import roles_of
from tollgate.worker.runner import Runner
from tollgate.worker.settings import SILENCE_S_MAX, WorkerSettings
from tollgate.worker.signals import StopSignals
from tollgate.worker.tries import why_spent
from tollgate.worker.watchdog import Watchdog, held_limit_s
from tollgate.worker.work import WorkStage, overrun

log = logging.getLogger("tollgate.worker")

DONE: Final = 0
REFUSED: Final = 1
BROKER_NOT_REACHED: Final = 3
STUCK: Final = 4
INTERRUPTED: Final = 130
THREADS: Final = 2
"""The lease thread and the watchdog."""
LEAVE_S: Final = 1.2
"""How long after the grace time a worker may take to leave, before it is ended as it is."""
END_S: Final = 1.8
"""How long after the grace time its process may go on."""


class Service:
    """Runs a worker once, in the loop that is running.

    With `signals`, the process is the worker's: it is ended if the worker cannot leave otherwise.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        executor: Executor,
        signals: StopSignals | None,
    ) -> None:
        self._settings = settings
        self._executor = executor
        self._signals = signals
        self._loop = asyncio.get_running_loop()
        self._policy = RetryPolicy(settings.max_attempts, settings.backoff_s, settings.on_exhausted)
        self._broker = BrokerStatus(settings.endpoint)
        self._stopping = asyncio.Event()
        self._runner: Runner | None = None
        self._questions: Questions | None = None
        self._watchdog = Watchdog(
            self._loop,
            signals,
            on_signal=self._on_signal,
            at_work=self._at_work,
            on_overrun=self._on_overrun,
            on_beat=self._on_beat,
            held_s=None if signals is None else held_limit_s(settings.lease_ms),
        )

    @property
    def finished(self) -> int:
        """How many jobs it has ended."""
        return 0 if self._runner is None else self._runner.finished

    def stop(self) -> None:
        """Stop; may be called in any thread."""
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        self._stopping.set()
        if self._runner is not None:
            self._runner.stop()
        else:
            self._executor.close()  # it may wait for the module of a handler

    async def run(self) -> int:
        """Work until `stop` is called; return the exit code."""
        settings = self._settings
        try:
            check_threads(THREADS)
        except OSError as fault:
            log.error("the worker cannot start: %s", fault.strerror)  # noqa: TRY400 - one line
            return BROKER_NOT_REACHED
        self._watchdog.start()
        try:
            async with Link(
                settings.endpoint,
                key=settings.key,
                timeout_s=answer_s(settings.lease_ms),
                name=settings.name,
                lease_ms=settings.lease_ms,
            ) as link:
                await self._executor.open()
                return await self._run(link)
        except HandlerNotFoundError:
            raise
        except RealPaymentError as fault:
            log.error("the worker ends: %s", fault)  # noqa: TRY400 - one line
            return REFUSED
        except TollgateError as refusal:
            log.error("the broker refuses this worker: %s", refusal_line(refusal))  # noqa: TRY400
            return REFUSED
        finally:
            if self._questions is not None:
                self._questions.close()
            self._executor.close()
            self._watchdog.close()

    async def _run(self, link: Link) -> int:
        hello = await self._reach(link)
        if hello is None:
            if not self._stopping.is_set():
                return BROKER_NOT_REACHED
            log.info("stopped; jobs finished: 0")
            return DONE
        runner = self._put_together(link, hello)
        if self._stopping.is_set():
            runner.stop()
        await runner.run()
        log.info("stopped; jobs finished: %d", runner.finished)
        return STUCK if runner.is_stuck else DONE

    def _put_together(self, link: Link, hello: HelloResult) -> Runner:
        settings, policy = self._settings, self._policy
        policy.text_bytes = link.limit("text_bytes", policy.text_bytes)
        policy.reason_bytes = link.limit("reason_bytes", policy.reason_bytes)
        self._runner = runner = Runner(link, self._broker, settings, policy, self._make_client)
        roles = runner.roles.begin(hello)
        if settings.simulate_payments and settings.only != "work":
            log.warning("payments are simulated: jobs run without a real payment")
            runner.add(PaymentStage(simulator_of(settings), settings.payments_max, runner))
            if settings.only is None and "worker" in roles and not roles & {"payments", "admin"}:
                log.warning("the role worker does not decide payments: this worker does work only")
                runner.leave_out(AWAITING_PAYMENT)
        if settings.only != "payments":
            stage = WorkStage(settings, self._executor, policy, runner)
            stage.questions = Questions(link, runner.settler, stage, self._executor.asking_max)
            stage.why_spent = partial(why_spent, link)
            self._questions = stage.questions
            runner.add(stage)
        return runner

    def _make_client(self, timeout_s: float) -> Client:
        settings = self._settings
        return LeaseClient(
            settings.endpoint, key=settings.key, timeout_s=timeout_s, name=settings.name,
            lease_ms=settings.lease_ms,
        )  # fmt: skip

    async def _reach(self, link: Link) -> HelloResult | None:
        """Return the broker's first answer, or None if there is none in time, or at a stop."""
        pinging = asyncio.create_task(self._until_answered(link))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait(
                {pinging, stopping},
                timeout=self._settings.wait_for_broker_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not pinging.done():
                if not stopping.done():
                    log.error("no broker at %s", link.endpoint)
                return None
            hello = pinging.result()
        finally:
            pinging.cancel()
            stopping.cancel()
        if "admin" in roles_of(hello) and link.endpoint.startswith("ipc:"):
            log.info("this worker runs as the broker's user: its role is admin, it may do all")
        return hello

    async def _until_answered(self, link: Link) -> HelloResult:
        backoff = Backoff()
        while True:
            asked_at = monotonic()
            try:
                hello = await link.ping(SILENCE_S_MAX)
            except TollgateError as fault:
                if not may_pass(fault):
                    raise
                self._broker.lost(fault, asked_at)
            else:
                self._broker.back()
                return hello
            await backoff.wait()

    def _on_beat(self) -> None:
        """Put back what handlers may have taken from the worker; called in the loop."""
        if self._signals is not None:
            self._signals.keep()
        if isinstance(self._executor, LoopExecutor):
            self._executor.end_cancelled()

    # --- called by the watchdog, in its thread ----------------------------------------------------

    def _at_work(self, task: object) -> tuple[str, float | None] | None:
        """Return the job that a task of the loop works on, and when its time limit ends.

        A task that a handler has made, as `gather` does, is of no known job: then no job is named,
        and the first time limit of all counts.
        """
        executor, runner = self._executor, self._runner
        if runner is None or not isinstance(executor, LoopExecutor):
            return None
        call = executor.call_of(task)
        held = None if call is None else runner.keeper.holder(call.job.job_id)
        if held is not None:
            return held.job_id, held.limit_at
        return "", min((limit_at for _, limit_at in runner.keeper.limits()), default=None)

    def _on_signal(self, count: int) -> None:
        if count > 1:
            exit_now(INTERRUPTED)
        grace_ends_at = monotonic() + self._settings.stop_grace_s
        self._watchdog.end_by(grace_ends_at + LEAVE_S, self._leave)
        end_by(grace_ends_at + END_S)
        self.stop()
        name = self._signals.last.name if self._signals and self._signals.last else "a signal"
        say(logging.INFO, "%s: stopping; a second signal ends it at once", name)

    def _leave(self) -> None:
        say(
            logging.ERROR, "the worker cannot stop in order: its leases are given back, and it ends"
        )
        if self._runner is not None:
            self._runner.keeper.release_all(self._runner.settler.outcomes)
        exit_now(DONE)

    def _on_overrun(self, job_id: str) -> None:
        """End the process: an async handler blocks the loop beyond its time limit."""
        if self._signals is None:
            return  # the process is not the worker's
        runner = self._runner
        held = None if runner is None else runner.keeper.holder(job_id)
        if runner is not None and held is None:
            held = min(runner.keeper.limits(), key=lambda each: each[1], default=(None, 0.0))[0]
        if runner is not None and held is not None:
            result = overrun(self._settings.timeout_s)
            blocks = "job %s: the loop is blocked beyond the time limit of its handler (%s)"
            say(logging.ERROR, blocks, held.job_id, result.error)
            late = self._policy.outcome(result, held.attempt)
            runner.keeper.release_all({**runner.settler.outcomes, held: late})
        exit_now(STUCK)


def executor_of(settings: WorkerSettings) -> Callable[[], Executor]:
    """Return a function that makes the executor. Raises HandlerNotFoundError or ArgumentError."""
    handler = settings.handler
    if not isinstance(handler, str) and (why := unfit(handler)):
        raise ArgumentError(f"handler: {handler!r:.60} {why}")
    if settings.isolation == "process":
        from tollgate.worker.isolation.executor import ProcessExecutor, name_of  # noqa: PLC0415 - seldom used

        name = handler if isinstance(handler, str) else name_of(handler)
        return lambda: ProcessExecutor(
            name,
            settings.concurrency,
            recycle_jobs=settings.recycle_jobs,
            recycle_memory_mb=settings.recycle_memory_mb,
        )
    if isinstance(handler, str):
        handler = load_handler(handler)
    kind = LoopExecutor if is_async(handler) else ThreadExecutor
    return lambda: kind(handler)

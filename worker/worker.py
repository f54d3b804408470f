"""The worker as users start it: in a process of its own, or in a loop or thread of theirs."""

import asyncio
import dataclasses
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from os import PathLike
from typing import Any, Literal, Self

from tollgate.client.connection import resolve_endpoint
from tollgate.domain.exceptions import ArgumentError
from tollgate.worker.leaving import keep, leave_in_time
from tollgate.worker.own_tasks import run_to_end
from tollgate.worker.payments import simulator_of
from tollgate.worker.service import Service, executor_of
from tollgate.worker.settings import HandlerOrName, WorkerSettings, checked
from tollgate.worker.signals import StopSignals


class Worker:
    """Takes paid jobs from the queues, has a handler work on them, and sends its results.

        def answer(job):                 # or: async def, or with a second argument, see `Context`
            return job.input.upper()

        tollgate.Worker(answer).run()

    `handler` is a function, or its name as `module:function`. It returns the result as text. An
    exception is one failed try: the job is tried again after a pause, up to `max_attempts` times in
    all; `backoff_s` is the first pause, which doubles, or a list of the pauses. After the last try
    the job fails, or is put on hold with `on_exhausted="hold"`, until somebody resumes it. A call
    may take `timeout_s`. A handler must be safe to call again with the same job: a worker may die
    before the broker has its result.

    Async handlers run in the worker's event loop, plain ones in threads. With
    `isolation="process"` each runs in a process of its own: one that crashes, hangs or holds the
    interpreter costs one try of one job. Such a process is replaced after `recycle_jobs` jobs, or
    when it has more than `recycle_memory_mb` of memory.

    It confirms no payments, unless `simulate_payments` is set: then jobs run without a real
    payment, which is for demonstrations and tests.

    Raises:
        ArgumentError: an argument has a wrong type or value.
        HandlerNotFoundError: the handler cannot be loaded.

    """

    def __init__(  # noqa: PLR0913 - one argument a setting
        self,
        handler: HandlerOrName,
        endpoint: str | PathLike[str] | None = None,
        *,
        key: str | PathLike[str] | None = None,
        name: str | None = None,
        queues: Sequence[str] | str = ("default",),
        concurrency: int = 4,
        max_attempts: int = 3,
        backoff_s: float | Sequence[float] = 2.0,
        on_exhausted: Literal["fail", "hold"] = "fail",
        timeout_s: float | None = None,
        isolation: Literal["thread", "process"] = "thread",
        recycle_jobs: int | None = None,
        recycle_memory_mb: int | None = None,
        lease_ms: int = 30_000,
        stop_grace_s: float = 8.0,
        jobs: int | None = None,
        wait_for_broker_s: float | None = None,
        simulate_payments: bool = False,
        **simulation: Any,  # noqa: ANN401 - the settings of the simulation
    ) -> None:
        """Make a worker; it connects when it is run."""
        unknown = simulation.keys() - {each.name for each in dataclasses.fields(WorkerSettings)}
        if unknown:
            raise TypeError(f"Worker() has no argument {min(unknown)!r}")
        self._settings = checked(
            WorkerSettings(
                endpoint=resolve_endpoint(endpoint),
                key=None if key is None else os.fspath(key),
                name=name,
                handler=handler,
                queues=(queues,) if isinstance(queues, str) else tuple(queues),
                concurrency=concurrency,
                max_attempts=max_attempts,
                backoff_s=backoff_s,
                on_exhausted=on_exhausted,
                timeout_s=timeout_s,
                isolation=isolation,
                recycle_jobs=recycle_jobs,
                recycle_memory_mb=recycle_memory_mb,
                lease_ms=lease_ms,
                stop_grace_s=stop_grace_s,
                jobs=jobs,
                wait_for_broker_s=wait_for_broker_s,
                simulate_payments=simulate_payments,
                **simulation,
            )
        )
        self._prepare()

    @classmethod
    def of(cls, settings: WorkerSettings) -> Self:
        """Return a worker with these settings. Raises as the class does."""
        given = {
            field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)
        }
        return cls(**given)

    def _prepare(self) -> None:
        try:
            simulator_of(self._settings)
        except ValueError as fault:
            raise ArgumentError(str(fault)) from None
        before = {*threading.enumerate()}
        self._make_executor = executor_of(self._settings)
        self._handlers_threads = {*threading.enumerate()} - before
        """What the handler's module has started: the end of the worker does not wait for it."""
        self._service: Service | None = None
        self._is_stopped = False
        self._lock = threading.Lock()
        self.finished = 0
        """How many jobs the last run has ended."""

    # --- how to run it ----------------------------------------------------------------------------

    def run(self) -> int:
        """Work until SIGTERM, SIGINT or `stop`; return the exit code for the process.

        It waits for a broker that is not running. A signal lets running handlers finish for
        `stop_grace_s`; the other jobs are released, and no try is counted. If a handler cannot be
        ended, `run` ends the process, as does a second signal. In another thread than the main one
        there are no signals.
        """
        _check_no_loop("serve()")
        signals = None
        if _is_main_thread():
            signals = StopSignals()
            signals.install()
        before = {*threading.enumerate()} - self._handlers_threads
        loop = asyncio.new_event_loop()
        try:
            code = run_to_end(loop, self._serve(signals, self._settings), obeys_ctrl_c=False)
        finally:
            _close(loop)
            if signals is not None:
                signals.restore()
        if signals is not None and signals.last is not None:
            leave_in_time(code, before)
        return code

    async def serve(self) -> int:
        """Work in a running event loop until `stop`, as `run` does; return the same code.

        For services that have a loop, and notebooks. Signals are left to the program.
        """
        return await self._serve(None, self._settings)

    def drain(self) -> int:
        """Work on all jobs that are ready, and return how many were finished.

        Jobs that wait for a time, for an answer or for another worker stay where they are.
        """
        _check_no_loop("drain_async()")
        loop = asyncio.new_event_loop()
        try:
            settings = dataclasses.replace(self._settings, drain=True)
            run_to_end(loop, self._serve(None, settings), obeys_ctrl_c=_is_main_thread())
        finally:
            _close(loop)
        return self.finished

    async def drain_async(self) -> int:
        """Do what `drain` does in a running event loop."""
        await self._serve(None, dataclasses.replace(self._settings, drain=True))
        return self.finished

    def stop(self) -> None:
        """Stop as after SIGTERM; may be called in any thread, and before the worker is run."""
        with self._lock:
            self._is_stopped = True
            service = self._service
        if service is not None:
            service.stop()

    async def _serve(self, signals: StopSignals | None, settings: WorkerSettings) -> int:
        with self._lock:
            if self._service is not None:
                raise RuntimeError("this worker runs already")
            self._service = service = Service(settings, self._make_executor(), signals)
            self.finished = 0
            if self._is_stopped:
                service.stop()
        try:
            return await service.run()
        finally:
            self.finished = service.finished
            with self._lock:
                self._service, self._is_stopped = None, False


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _check_no_loop(call: str) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(f"this thread has a running event loop: use `await worker.{call}` there")


def _close(loop: asyncio.AbstractEventLoop) -> None:
    """Close a loop without waiting for the threads of its executor."""
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        with suppress(Exception):
            loop.run_until_complete(asyncio.wait(left, timeout=0.1))
    keep(task for task in left if not task.done())
    with suppress(Exception):
        loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()

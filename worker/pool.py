"""The tasks that work on jobs: one task takes job after job while handlers finish at once."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import copy_context
from time import monotonic
from typing import Any, Final

from tollgate.worker.lease import HeldJob

BUSY_S_MAX: Final = 0.01
"""Longest time in which handlers that finish at once may block the loop, settlements included."""


class Pool:
    """Runs `work` on jobs, in as many tasks as there are jobs that wait for something.

    A task for each job would cost more than a short handler. So a task takes many jobs, and the
    pool starts more tasks only when a handler waits for something and jobs are left.
    """

    def __init__(self, work: Callable[[HeldJob], Coroutine[Any, Any, None]]) -> None:
        self._work = work
        self._waiting: deque[HeldJob] = deque()
        self._tasks_next = 1
        self._is_growing = False

    def add(self, held: HeldJob) -> None:
        """Have a job worked on, in the next turn of the loop."""
        self._waiting.append(held)
        if not self._is_growing:
            self._is_growing = True
            self._grow()

    def _grow(self) -> None:
        """Start more tasks while jobs are waiting: twice as many in each turn of the loop."""
        if not self._waiting:
            self._is_growing = False
            self._tasks_next = 1
            return
        for _ in range(min(self._tasks_next, len(self._waiting))):
            asyncio.create_task(self._run())  # noqa: RUF006 - its job has it, else the loop
        self._tasks_next *= 2
        asyncio.get_running_loop().call_soon(self._grow)  # runs after the first step of each task

    async def _run(self) -> None:
        task = asyncio.current_task()
        begun = monotonic()
        # A cancelled task takes no other job: its next await would raise in that job.
        while self._waiting and task is not None and not task.cancelling():
            held = self._waiting.popleft()
            held.task = task
            try:
                await _OwnContext(self._work(held))
            finally:
                held.task = None  # a lease lost later must not cancel the next job
            if monotonic() - begun > BUSY_S_MAX:
                self._tasks_next = 1
                return


class _OwnContext:
    """Awaits a coroutine in a copy of the context: its context variables stay its own."""

    __slots__ = ("_coroutine",)

    def __init__(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, None]:
        """Pass on all that the coroutine awaits, and run each of its steps in the context."""
        run = copy_context().run
        send, throw = self._coroutine.send, self._coroutine.throw
        step: Any = send
        value: Any = None
        while True:
            try:
                awaited = run(step, value)
            except StopIteration:
                return
            try:
                step, value = send, (yield awaited)
            except BaseException as fault:  # noqa: BLE001 - the coroutine gets cancellation too
                step, value = throw, fault

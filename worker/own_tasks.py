"""Tasks of the worker itself, which no handler finds."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Value = TypeVar("Value")


def own_task(coroutine: Coroutine[Any, Any, Value]) -> "asyncio.Task[Value]":
    """Start a task that is not among `asyncio.all_tasks`.

    Handlers cancel all tasks that they find there, as many examples of a clean end do. The caller
    keeps the task, and cancels it.
    """
    task = asyncio.get_running_loop().create_task(coroutine)
    asyncio.tasks._unregister_task(task)  # noqa: SLF001 - documented, for makers of tasks
    return task


async def wait_for_event(event: asyncio.Event, *, survives: bool) -> None:
    """Wait until an event is set; with `survives` no handler can cancel that."""
    while not event.is_set():
        try:
            await event.wait()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not survives or task is None:
                raise
            task.uncancel()


def run_to_end(loop: asyncio.AbstractEventLoop, main: Coroutine[Any, Any, Value]) -> Value:
    """Run a coroutine to its end, though a handler may stop the loop."""
    task = loop.create_task(main)
    while True:
        try:
            return loop.run_until_complete(task)
        except RuntimeError:
            if task.done():
                raise

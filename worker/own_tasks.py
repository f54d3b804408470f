"""Tasks of the worker itself, which no handler finds."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

Value = TypeVar("Value")


def own_task(coroutine: Coroutine[Any, Any, Value]) -> "asyncio.Task[Value]":
    """Start a task that is not among `asyncio.all_tasks`.

    Handlers cancel all tasks that they find there, as many examples of a clean end do. The caller
    keeps the task, and cancels it.
    """
    return _hidden(asyncio.get_running_loop().create_task(coroutine))


def run_to_end(loop: asyncio.AbstractEventLoop, main: Coroutine[Any, Any, Value]) -> Value:
    """Run a coroutine to its end, though a handler may stop the loop or cancel all tasks.

    Ctrl-C, where no signal handler of ours takes it, cancels the coroutine and is raised again.
    """
    task = _hidden(loop.create_task(main))
    while True:
        try:
            return loop.run_until_complete(task)
        except (RuntimeError, SystemExit):  # `loop.stop()`, or `sys.exit()` in a handler's own task
            if task.done():
                raise
        except KeyboardInterrupt:
            task.cancel()
            with suppress(asyncio.CancelledError):
                loop.run_until_complete(task)
            raise


def _hidden(task: "asyncio.Task[Value]") -> "asyncio.Task[Value]":
    asyncio.tasks._unregister_task(task)  # noqa: SLF001 - documented, for makers of tasks
    return task

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


def run_to_end(
    loop: asyncio.AbstractEventLoop, main: Coroutine[Any, Any, Value], *, obeys_ctrl_c: bool
) -> Value:
    """Run a coroutine to its end, though a handler may stop the loop or cancel all tasks.

    With `obeys_ctrl_c`, KeyboardInterrupt cancels the coroutine and is raised again. Without, where
    no Ctrl-C becomes one, a task of a handler has raised it: it ends nothing.
    """
    task = _hidden(loop.create_task(main))
    while True:
        try:
            return loop.run_until_complete(task)
        except (RuntimeError, SystemExit):  # `loop.stop()`, or `sys.exit()` in a handler's own task
            if task.done():
                raise
        except KeyboardInterrupt:
            if not obeys_ctrl_c and not task.done():
                continue
            task.cancel()
            with suppress(asyncio.CancelledError):
                loop.run_until_complete(task)
            raise


def _hidden(task: "asyncio.Task[Value]") -> "asyncio.Task[Value]":
    asyncio.tasks._unregister_task(task)  # noqa: SLF001 - documented, for makers of tasks
    return task

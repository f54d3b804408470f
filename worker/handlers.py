"""The user's function: how it is found, and how it is called without harm to the worker."""

import asyncio
import importlib
import inspect
import logging
import os
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import reduce

from tollgate.domain.models import Job
from tollgate.worker.outcome import Outcome

Handler = Callable[[Job], object]
"""A plain or async function of a job that returns the result as text; raising fails the job."""

log = logging.getLogger("tollgate.worker")


class HandlerNotFoundError(Exception):
    """There is no such handler; the message is one line that says what is missing."""


def load_handler(path: str) -> Handler:
    """Return the function that `path`, as `module:function`, names.

    Modules are looked for in the current directory too.

    Raises:
        HandlerNotFoundError: there is none, its module cannot be imported, or it cannot be called.

    """
    module_name, colon, function_name = path.partition(":")
    if not (module_name and colon and function_name):
        raise HandlerNotFoundError(f"{path!r} is not of the form module:function")
    if not {"", os.getcwd()} & set(sys.path):  # noqa: PTH109 - sys.path holds texts
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    try:
        module = importlib.import_module(module_name)
    except Exception as fault:
        if isinstance(fault, ModuleNotFoundError) and fault.name == module_name:
            raise HandlerNotFoundError(
                f"there is no module {module_name}, neither installed nor in this directory"
            ) from None
        message = " ".join(f"{type(fault).__name__}: {fault}".split())
        raise HandlerNotFoundError(f"module {module_name} cannot be imported: {message}") from fault
    try:
        handler = reduce(getattr, function_name.split("."), module)
    except AttributeError:
        raise HandlerNotFoundError(f"module {module_name} has no {function_name}") from None
    if not callable(handler):
        raise HandlerNotFoundError(f"{path} is no function: it cannot be called")
    return handler


class HandlerCalls:
    """Calls a handler: an async one in the loop, a plain one in one of `threads` threads."""

    def __init__(self, handler: Handler, threads: int) -> None:
        self._handler = handler
        self._is_async = _is_async(handler)
        self._pool = ThreadPoolExecutor(threads, "handler")
        self.on_thread_free: Callable[[], None] = lambda: None
        """Called, in the loop, when a thread given up on comes back."""
        self.given_up = 0
        """How many threads still run a handler whose outcome nobody waits for any more."""

    async def outcome(self, job: Job) -> Outcome:
        """Call the handler on `job` and return what became of it.

        Whatever a handler raises, SystemExit included, is its job's failure and not the worker's.

        Raises:
            asyncio.CancelledError: the task was cancelled. An async handler has been told; a plain
                one cannot be, and goes on in its thread.

        """
        try:
            result = self._handler(job) if self._is_async else await self._in_thread(job)
            if inspect.isawaitable(result):
                result = await result
        except asyncio.CancelledError as fault:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return Outcome.of_exception(fault)  # the handler's own
        except BaseException as fault:  # noqa: BLE001 - see above
            return _failed(fault)
        return result if isinstance(result, Outcome) else Outcome.of_result(result)

    def close(self) -> None:
        """Start nothing more; threads at work are not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, job: Job) -> object:
        call = self._pool.submit(self._call, job)
        try:
            return await asyncio.wrap_future(call)
        except asyncio.CancelledError:
            if not call.cancel():
                self.given_up += 1
                loop = asyncio.get_running_loop()
                call.add_done_callback(lambda call: self._came_back(loop, call))
            raise

    def _call(self, job: Job) -> object:
        try:
            return self._handler(job)
        except BaseException as fault:  # noqa: BLE001 - see `outcome`
            return _failed(fault)

    def _came_back(self, loop: asyncio.AbstractEventLoop, _: Future[object]) -> None:
        def count() -> None:
            self.given_up -= 1
            self.on_thread_free()

        with suppress(RuntimeError):  # the loop is closed: nobody counts any more
            loop.call_soon_threadsafe(count)


def _failed(fault: BaseException) -> Outcome:
    log.debug("the handler raised", exc_info=fault)
    return Outcome.of_exception(fault)


def _is_async(handler: Handler) -> bool:
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
        getattr(handler, "__call__", None)  # noqa: B004 - of an object with an async __call__
    )

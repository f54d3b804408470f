"""The user's function: how it is loaded and called, and what its result or exception becomes."""

import asyncio
import importlib
import inspect
import logging
import os
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from typing import Final, Self

from tollgate.client.results import Lease
from tollgate.domain.exceptions import TooLargeError
from tollgate.domain.models import Job
from tollgate.domain.status import JobStatus

Handler = Callable[[Job], object]
"""A plain or async function of a job that returns the result as text; raising fails the job."""

log = logging.getLogger("tollgate.worker")

CLAIM_LIMIT: Final = 1_000
"""Most jobs that one claim asks for (docs/protocol.md)."""
TEXT_LIMIT_BYTES: Final = 64 * 1024
"""Largest result or error (docs/protocol.md, "Sizes"), in bytes of UTF-8."""


@dataclass(frozen=True, slots=True)
class HandlerResult:
    """What a worker sends about a job: its next status, and the text that goes with it."""

    target: JobStatus
    result: str | None = None
    error: str | None = None

    @classmethod
    def paid(cls) -> Self:
        """Move the job to `running`: its payment is confirmed."""
        return cls(JobStatus.RUNNING)

    @classmethod
    def failed(cls, message: str, limit_bytes: int = TEXT_LIMIT_BYTES) -> Self:
        """Fail with `message`, cut to `limit_bytes`; what UTF-8 cannot hold is replaced."""
        whole = message.encode(errors="replace")[:limit_bytes]
        return cls(JobStatus.FAILED, error=whole.decode(errors="ignore"))

    @classmethod
    def of_exception(cls, fault: BaseException) -> Self:
        """Fail with the message of an exception, or with its type's name if it has none."""
        name = type(fault).__name__
        try:
            return cls.failed(str(fault).strip() or name)
        except Exception:  # noqa: BLE001 - the __str__ of a user's exception may raise anything
            return cls.failed(name)

    @classmethod
    def of_result(cls, result: object) -> Self:
        """Complete with what a handler returned; fail if the broker cannot store it as text."""
        if not isinstance(result, str):
            return cls.failed(f"the handler returned {type(result).__name__} instead of a str")
        try:
            size_bytes = len(result.encode())
        except UnicodeEncodeError:
            return cls.failed("the handler's result is not valid text: it has a lone surrogate")
        if size_bytes > TEXT_LIMIT_BYTES:
            return cls._too_large(size_bytes, TEXT_LIMIT_BYTES)
        # The encoder refuses subclasses of str.
        return cls(JobStatus.COMPLETED, result=str.__str__(result))

    def shortened(self, refusal: TooLargeError) -> "HandlerResult":
        """Return the result for a broker whose limit is lower than the text of this one."""
        limit_bytes = refusal.limit or 0
        if self.result is not None:
            return self._too_large(len(self.result.encode()), limit_bytes)
        return self.failed(self.error or "", limit_bytes)

    @classmethod
    def _too_large(cls, size_bytes: int, limit_bytes: int) -> Self:
        return cls.failed(
            f"the handler's result has {size_bytes} bytes, and a text may have {limit_bytes}"
        )


class HandlerNotFoundError(Exception):
    """The handler cannot be loaded; the message is one line that says why."""


def load_handler(path: str) -> Handler:
    """Return the function that `path`, as `module:function`, names.

    The current directory is searched for modules too.

    Raises:
        HandlerNotFoundError: it does not exist, cannot be imported, or cannot be called.

    """
    module_name, colon, function_name = path.partition(":")
    if not (module_name and colon and function_name):
        raise HandlerNotFoundError(f"{path!r} is not of the form module:function")
    # First while the handler is imported: its own files come before what is installed. Then last,
    # for what the handler imports when it runs: no file there replaces an installed module.
    here = os.getcwd()  # noqa: PTH109 - sys.path holds texts
    sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as fault:
        if isinstance(fault, ModuleNotFoundError) and fault.name == module_name:
            raise HandlerNotFoundError(
                f"there is no module {module_name}, neither installed nor in this directory"
            ) from None
        message = " ".join(f"{type(fault).__name__}: {fault}".split())
        raise HandlerNotFoundError(f"module {module_name} cannot be imported: {message}") from fault
    finally:
        with suppress(ValueError):  # the handler's module may have removed it
            sys.path.remove(here)
        if here not in sys.path:
            sys.path.append(here)
    try:
        handler = reduce(getattr, function_name.split("."), module)
    except AttributeError:
        raise HandlerNotFoundError(f"module {module_name} has no {function_name}") from None
    if not callable(handler):
        raise HandlerNotFoundError(f"{path} is not a function")
    return handler


class HandlerCalls:
    """Calls a handler: an async one in the loop, a plain one in one of `threads` threads."""

    def __init__(self, handler: Handler, threads: int) -> None:
        self._handler = handler
        self._is_async = _is_async(handler)
        self._pool = ThreadPoolExecutor(threads, "handler")
        self.on_thread_free: Callable[[], None] = lambda: None
        """Called in the loop when an abandoned thread returns."""
        self.abandoned = 0
        """How many threads still run a handler whose result is no longer needed."""

    async def call(self, job: Job) -> HandlerResult:
        """Call the handler on `job` and return its result, or its exception as a failure.

        Any exception of a handler, SystemExit included, fails its job and not the worker.

        Raises:
            asyncio.CancelledError: the task was cancelled. That cancels an async handler; a plain
                one goes on in its thread.

        """
        try:
            result = self._handler(job) if self._is_async else await self._in_thread(job)
            if inspect.isawaitable(result):
                result = await result
        except asyncio.CancelledError as fault:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return HandlerResult.of_exception(fault)  # the handler raised it itself
        except BaseException as fault:  # noqa: BLE001 - see above
            return _failed(fault)
        return result if isinstance(result, HandlerResult) else HandlerResult.of_result(result)

    def close(self) -> None:
        """Start no more calls, without waiting for running threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, job: Job) -> object:
        call = self._pool.submit(self._call, job)
        try:
            return await asyncio.wrap_future(call)
        except asyncio.CancelledError:
            if not call.cancel():
                self.abandoned += 1
                loop = asyncio.get_running_loop()
                call.add_done_callback(lambda call: self._thread_returned(loop, call))
            raise

    def _call(self, job: Job) -> object:
        try:
            return self._handler(job)
        except BaseException as fault:  # noqa: BLE001 - see `call`
            return _failed(fault)

    def _thread_returned(self, loop: asyncio.AbstractEventLoop, _: Future[object]) -> None:
        def count() -> None:
            self.abandoned -= 1
            self.on_thread_free()

        with suppress(RuntimeError):  # the loop is closed: the count is no longer needed
            loop.call_soon_threadsafe(count)


class WorkStage:
    """Calls the handler, up to `concurrency` times at once, each call after a pause."""

    name = "work"
    status = JobStatus.RUNNING
    finishes_at_stop = True

    def __init__(self, calls: HandlerCalls, concurrency: int, *, pause_ms: int = 0) -> None:
        self._calls = calls
        self._concurrency = concurrency
        self._pause_s = pause_ms / 1_000

    def room(self, jobs: int) -> int:
        """See `Stage`; an abandoned thread keeps its slot until it returns."""
        return min(self._concurrency - jobs - self._calls.abandoned, CLAIM_LIMIT)

    def ignores(self, lease: Lease) -> bool:  # noqa: ARG002 - every job is worked on
        """See `Stage`."""
        return False

    async def run(self, job: Job) -> HandlerResult:
        """See `Stage`."""
        if self._pause_s:
            await asyncio.sleep(self._pause_s)
        return await self._calls.call(job)


def _failed(fault: BaseException) -> HandlerResult:
    log.debug("the handler raised", exc_info=fault)
    return HandlerResult.of_exception(fault)


def _is_async(handler: Handler) -> bool:
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
        getattr(handler, "__call__", None)  # noqa: B004 - an object with an async __call__
    )

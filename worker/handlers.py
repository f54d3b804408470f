"""Loads the user's handler, and calls it: async ones in the loop, plain ones in threads."""

import asyncio
import inspect
import logging
import os
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final

from tollgate import user_code
from tollgate.domain.exceptions import TollgateError
from tollgate.domain.models import Job
from tollgate.worker.call import CallResult
from tollgate.worker.context import AsyncContext, Context, Key, Schema
from tollgate.worker.executor import ASKING_MAX, HandlerCall
from tollgate.worker.leaving import leave_child

log = logging.getLogger("tollgate.worker")

THREAD_AGAIN_S: Final = 1.0
"""How long calls wait before another thread is tried for, if the system had none left."""
Handler = Callable[..., object]
"""`f(job)` or `f(job, ctx)`, plain or async, that returns the result as text."""


class HandlerNotFoundError(TollgateError):
    """The handler cannot be loaded; the message is one line that says why."""

    def __init__(self, why: str, *, may_pass: bool = False) -> None:
        super().__init__(why)
        self.may_pass = may_pass
        """Whether a later attempt may load it: its process was killed, or could not be started."""


def load_handler(path: str) -> Handler:
    """Return the function that `path`, as `module:function`, names.

    The current directory is searched for modules too.

    Raises:
        HandlerNotFoundError: it does not exist, cannot be imported, or cannot be called.

    """
    try:
        handler = user_code.load(path, "module:function")
    except user_code.NotLoadedError as fault:
        raise HandlerNotFoundError(str(fault)) from fault.__cause__
    if why := unfit(handler):
        raise HandlerNotFoundError(f"{path} {why}")
    loaded: Handler = handler
    return loaded


def unfit(handler: object) -> str | None:
    """Return why this can be no handler, to follow its name, or None.

    Every call of it would fail, and with it a paid job.
    """
    if not callable(handler):
        return "is not a function"
    if isinstance(handler, type):
        return "is a class: name a function, or an object of that class"
    if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
        return "is a generator: a handler returns its result as one text"
    try:
        signature = _signature(handler)
    except (TypeError, ValueError):
        return None
    try:
        signature.bind(*["job", "context"][: 1 + takes_context(handler)])
    except TypeError as fault:
        return f"cannot be called with a job and a context: {fault}"
    return None


def is_async(handler: Handler) -> bool:
    """Return whether a call of the handler gives a coroutine."""
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
        getattr(handler, "__call__", None)  # noqa: B004 - an object with an async __call__
    )


def takes_context(handler: Handler) -> bool:
    """Return whether the handler takes a context as its second argument.

    One with a default is another thing, unless it is named `ctx` or `context`.
    """
    try:
        signature = _signature(handler)
    except (TypeError, ValueError):
        return False
    positional = [
        each for each in signature.parameters.values()
        if each.kind in {each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD}
    ]  # fmt: skip
    if len(positional) < 2:  # noqa: PLR2004 - the second argument
        return False
    second = positional[1]
    return second.default is second.empty or second.name in {"ctx", "context"}


def _signature(handler: Handler) -> inspect.Signature:
    """Return what a call of the handler may have. Raises TypeError or ValueError.

    A decorator that takes `*args` hands on what it gets; another one has parameters of its own.
    """
    called = inspect.unwrap(handler, stop=_has_own_parameters)
    return inspect.signature(called, follow_wrapped=False)


def _has_own_parameters(function: Callable[..., object]) -> bool:
    parameters = inspect.signature(function, follow_wrapped=False).parameters.values()
    return all(each.kind is not each.VAR_POSITIONAL for each in parameters)


def calling(handler: Handler) -> Callable[[Job, Any], object]:
    """Return the handler as a function of job and context."""
    if takes_context(handler):
        return handler
    return lambda job, _: handler(job)


class LoopExecutor:
    """Calls an async handler, in a task of the worker's loop for each job."""

    asking_max = ASKING_MAX

    def __init__(self, handler: Handler) -> None:
        self._handler: Callable[..., Any] = handler
        self._takes_context = takes_context(handler)
        self._tasks: dict[HandlerCall, asyncio.Task[None]] = {}
        self._cancelled: set[HandlerCall] = set()
        self._owner: asyncio.Task[Any] | None = None
        self._pid = 0
        self._loop: asyncio.AbstractEventLoop

    async def open(self) -> None:
        """See `Executor`."""
        self._loop = asyncio.get_running_loop()
        self._owner = asyncio.current_task()
        self._pid = os.getpid()

    def start(self, call: HandlerCall) -> None:
        """See `Executor`."""
        self._tasks[call] = self._loop.create_task(self._run(call))
        call.began()

    def cancel(self, call: HandlerCall, reason: str) -> bool:  # noqa: ARG002 - as `Executor`
        """See `Executor`: the task is cancelled, and keeps its slot until it has ended."""
        task = self._tasks.get(call)
        if task is not None:
            self._cancelled.add(call)
            task.cancel()
            # A task that was cancelled before its first step never runs a line.
            if inspect.getcoroutinestate(task.get_coro()) is inspect.CORO_CREATED:  # type: ignore[arg-type]  # `_run`
                del self._tasks[call]
                self._cancelled.discard(call)
                task.get_loop().call_soon(call.done, CallResult(is_suspended=True))
        return False

    def notify(self, call: HandlerCall) -> None:
        """See `Executor`: the handler sees it in its context."""

    def close(self) -> None:
        """See `Executor`."""
        self._cancelled.update(self._tasks)
        for task in self._tasks.values():
            task.cancel()

    def end_cancelled(self) -> None:
        """End the calls whose tasks somebody else cancelled before they ran a line."""
        for call, task in [*self._tasks.items()]:
            if task.done():
                del self._tasks[call]
                call.done(CallResult(error="CancelledError"))

    def call_of(self, task: object) -> HandlerCall | None:
        """Return the call that a task is for; may be used in any thread."""
        return next((call for call, each in [*self._tasks.items()] if each is task), None)

    async def _run(self, call: HandlerCall) -> None:
        handler = self._handler
        try:
            if self._takes_context:
                value = await handler(call.job, AsyncContext(call))
            else:
                value = await handler(call.job)
            if os.getpid() != self._pid:
                leave_child(None)
            result = CallResult(value)
        except asyncio.CancelledError as fault:
            if call in self._cancelled or (self._owner is not None and self._owner.cancelling()):
                result = CallResult(is_suspended=True)
            else:  # this handler, or another one, has done it
                result = CallResult.of_exception(fault)
        except BaseException as fault:
            if os.getpid() != self._pid:
                leave_child(fault)
            if self._loop.is_closed():  # the result is not needed
                raise
            result = CallResult.of_exception(fault)
            if call in self._cancelled and not (result.is_final or result.is_retry):
                result = CallResult(is_suspended=True)  # what it made of its cancellation
        self._tasks.pop(call, None)
        self._cancelled.discard(call)
        call.done(result)


def is_running(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether the loop runs the calling code: what blocks there waits for itself."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


class SyncCall:
    """A call as a plain handler sees it in its thread: what must wait goes through the loop."""

    def __init__(self, call: HandlerCall, loop: asyncio.AbstractEventLoop) -> None:
        self._call = call
        self._loop = loop
        self.job = call.job
        self.attempt = call.attempt
        self.set_progress = call.set_progress

    @property
    def stop_requested(self) -> bool:
        """See `HandlerCall`."""
        return self._call.stop_requested

    @property
    def is_stopping(self) -> bool:
        """See `HandlerCall`."""
        return self._call.is_stopping

    def ask(self, schema: Schema, key: Key) -> str | Awaitable[str]:
        """Ask through the loop, and block this thread until there is an answer.

        A plain function may return a coroutine, which runs in the loop: there it awaits the answer.
        """
        asking = self._call.ask(schema, key)
        if is_running(self._loop):
            return asking
        return asyncio.run_coroutine_threadsafe(asking, self._loop).result()


class ThreadExecutor:
    """Calls a plain handler, in daemon threads: one that hangs never keeps a process from its end.

    A thread cannot be ended. A call that was cancelled goes on, and keeps its slot.
    """

    asking_max = ASKING_MAX

    def __init__(self, handler: Handler) -> None:
        self._handler = calling(handler)
        self._calls: SimpleQueue[HandlerCall | None] = SimpleQueue()
        self._waiting: deque[HandlerCall] = deque()
        """Calls for which there is no thread."""
        self._free = 0
        self._threads = 0
        self._again: asyncio.TimerHandle | None = None
        """When to try again to start threads."""
        self._pid = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    async def open(self) -> None:
        """See `Executor`."""
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()

    def start(self, call: HandlerCall) -> None:
        """See `Executor`: a thread that is free takes the call, or a new one."""
        self._waiting.append(call)
        self._hand_out()

    def _hand_out(self) -> None:
        """Give waiting calls to the threads that are free, and to new ones."""
        while self._waiting and (self._free or self._add_thread()):
            call = self._waiting.popleft()
            self._free -= 1
            call.began()
            self._calls.put(call)

    def _add_thread(self) -> bool:
        """Start a thread. If the system has none left, a call waits for one, and we try again."""
        name = f"handler {self._threads + 1}"
        try:
            Thread(target=self._run, name=name, daemon=True).start()
        except RuntimeError:
            log.error("no further thread can be started; there are %d", self._threads)  # noqa: TRY400
            if self._again is None:
                loop = asyncio.get_running_loop()
                self._again = loop.call_later(THREAD_AGAIN_S, self._try_again)
            return False
        self._threads += 1
        self._free += 1
        return True

    def _try_again(self) -> None:
        self._again = None
        self._hand_out()

    def cancel(self, call: HandlerCall, reason: str) -> bool:  # noqa: ARG002 - as `Executor`
        """See `Executor`: a call that waits for a thread never begins."""
        if call in self._waiting:
            self._waiting.remove(call)
            return True
        return False

    def notify(self, call: HandlerCall) -> None:
        """See `Executor`: the handler sees it in its context."""

    def close(self) -> None:
        """See `Executor`: each thread ends as soon as it has no call."""
        self._waiting.clear()
        if self._again is not None:
            self._again.cancel()
        for _ in range(self._threads):
            self._calls.put(None)

    def _run(self) -> None:
        loop = self._loop
        if loop is None:
            return
        while (call := self._calls.get()) is not None:
            result = copy_context().run(self._result_of, call, loop)
            try:
                loop.call_soon_threadsafe(self._ended, call, result)
            except RuntimeError:  # the loop is closed
                return
            del call, result  # while it waits, it keeps no job alive

    def _result_of(self, call: HandlerCall, loop: asyncio.AbstractEventLoop) -> CallResult:
        try:
            value = self._handler(call.job, Context(SyncCall(call, loop)))
            if os.getpid() != self._pid:
                leave_child(None)
            if inspect.isawaitable(value):
                return asyncio.run_coroutine_threadsafe(_awaited(value), loop).result()
        except BaseException as fault:  # noqa: BLE001 - SystemExit too fails its job, not the worker
            if os.getpid() != self._pid:
                leave_child(fault)
            return CallResult.of_exception(fault)
        return CallResult(value)

    def _ended(self, call: HandlerCall, result: CallResult) -> None:
        self._free += 1
        self._hand_out()
        call.done(result)


async def _awaited(value: Awaitable[object]) -> CallResult:
    """Await what a plain handler returned; nothing that it raises gets into the loop."""
    try:
        return CallResult(await value)
    except BaseException as fault:  # noqa: BLE001 - as above
        return CallResult.of_exception(fault)

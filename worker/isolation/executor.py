"""Process isolation: calls a handler in child processes, which may crash, hang or grow."""

import asyncio
import json
import logging
import os
import signal
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Final

from tollgate.domain.exceptions import ArgumentError
from tollgate.job_log import log_fields
from tollgate.worker.call import CallResult, Fail, Suspended, describe
from tollgate.worker.executor import HandlerCall
from tollgate.worker.handlers import HandlerNotFoundError
from tollgate.worker.isolation.child import is_loading
from tollgate.worker.isolation.child_log import log_here
from tollgate.worker.isolation.child_process import ChildProcess
from tollgate.worker.isolation.messages import (
    Answer,
    Asked,
    Begin,
    Broken,
    Ended,
    Flags,
    FromChild,
    Logged,
    Ready,
    Reported,
    Setup,
    Withdrawn,
    fields_of,
    printable,
)

log = logging.getLogger("tollgate.worker")

PAUSE_S_MIN: Final = 0.2
PAUSE_S_MAX: Final = 30.0
"""Pauses between attempts to start a process, after one that did nothing and ended."""
LOADS_MAX: Final = 5
"""How often in a row a process may be killed while it loads the handler, until a first one has."""
CLOSE_S: Final = 1.0
"""How long idle processes may take to leave at the end of the worker."""
STOP_S: Final = 0.3
"""A signal that ends a worker with all its processes reaches all of them in this time."""
_STOP_SIGNALS: Final = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


class ProcessExecutor:
    """Calls the handler in up to `size` processes, and `asking_max` more while calls `ask`.

    See `Executor`. A process runs one call at a time, is used again, and is replaced after
    `recycle_jobs` calls, or when it has more than `recycle_memory_mb` of resident memory.
    """

    def __init__(
        self,
        handler_name: str,
        size: int,
        *,
        recycle_jobs: int | None = None,
        recycle_memory_mb: int | None = None,
    ) -> None:
        """Take the handler by its name: `module:function`, or what `name_of` returns."""
        if is_loading():
            raise RuntimeError(
                "the module of the handler starts a worker while it is imported; put that under"
                ' `if __name__ == "__main__":`'
            )
        self._handler_name = handler_name
        self._size = size
        self._recycle_jobs = recycle_jobs
        self._recycle_memory_mb = recycle_memory_mb
        self.asking_max = size
        """How many calls may wait for an answer at once: each keeps its process."""
        self._members: list[_Member] = []
        """The processes in service."""
        self._processes: list[ChildProcess] = []
        """These, and those that are about to end."""
        self._waiting: deque[HandlerCall] = deque()
        self._wanted = 1
        """How many processes there are to be, not counting those whose call waits in `ask`."""
        self._failures = 0
        self._pause: asyncio.TimerHandle | None = None
        self._opened: asyncio.Future[None] | None = None
        self._is_closed = False

    async def open(self) -> None:
        """Start a process, and wait until it has loaded the handler, or until `close`.

        See `Executor`. A process that was killed meanwhile is no proof against the handler: another
        one loads it, up to LOADS_MAX in all.
        """
        if self._is_closed:
            return
        self._opened = asyncio.get_running_loop().create_future()
        self._balance()
        try:
            await self._opened
        except BaseException:
            self.close()
            raise

    def start(self, call: HandlerCall) -> None:
        """See `Executor`."""
        self._waiting.append(call)
        self._balance()

    def cancel(self, call: HandlerCall, reason: str) -> bool:
        """Kill the process of the call, and all that it has started. See `Executor`."""
        if call in self._waiting:
            self._waiting.remove(call)
            return True
        if (member := self._member_of(call)) is not None:
            member.process.listen()  # a call that has returned is no longer the member's
        if (member := self._member_of(call)) is not None:
            job = call.job
            log.info("job %s: its process is killed: %s", job.job_id, reason, extra=log_fields(job))
            self._part_with(member).kill()
            self._balance()
        return True

    def notify(self, call: HandlerCall) -> None:
        """See `Executor`."""
        member = self._member_of(call)
        if member is not None:
            member.process.send(Flags(call.stop_requested, call.is_stopping))

    def close(self) -> None:
        """Kill the busy processes, let the idle ones leave, and reap all; it takes CLOSE_S at most.

        See `Executor`. An idle process leaves as any program does, with its `atexit` functions.
        """
        self._is_closed = True
        if self._opened is not None and not self._opened.done():
            self._opened.set_result(None)
        for member in [*self._members]:
            is_idle = member.is_idle
            process = self._part_with(member)
            if is_idle:
                process.leave()
            else:
                process.kill()
        until_s = monotonic() + CLOSE_S
        for process in self._processes:
            process.end(until_s)
        self._processes.clear()

    # --- the processes ----------------------------------------------------------------------------

    def _balance(self) -> None:
        """Give waiting calls to idle processes, and have as many processes as are wanted."""
        if self._is_closed:
            return
        idle = [
            member for member in self._members if member.is_idle and not member.process.has_ended()
        ]
        while self._waiting and idle:
            idle.pop().begin(self._waiting.popleft())
        active = sum(not member.asks for member in self._members)
        busy = sum(member.call is not None and not member.asks for member in self._members)
        self._wanted = min(self._size, max(self._wanted, busy + len(self._waiting)))
        while active > self._size and idle:
            self._part_with(idle.pop()).leave()
            active -= 1
        while (
            active < self._wanted
            and len(self._members) < self._size + self.asking_max
            and self._pause is None
            and self._launch()
        ):
            active += 1

    def _launch(self) -> bool:
        member = _Member(self)
        try:
            member.process = ChildProcess(partial(self._hear, member), partial(self._ended, member))
        except OSError as fault:
            self._cannot_start(f"the handler's process cannot be started: {fault}")
            return False
        self._members.append(member)
        self._processes.append(member.process)
        memory_mb = self._recycle_memory_mb
        member.process.send(
            Setup(
                self._handler_name,
                sys.argv,
                _lowest_level(),
                self._recycle_jobs,
                None if memory_mb is None else memory_mb << 20,
            )
        )
        return True

    def _part_with(self, member: "_Member") -> ChildProcess:
        """Take a process out of service, and return it to be ended."""
        self._members.remove(member)
        member.forget()
        return member.process

    def _cannot_start(self, why: str, *, may_pass: bool = True) -> None:
        """Wait before the next attempt, longer each time, so that the machine is not kept busy."""
        if self._pause is not None:
            return
        if self._opened is not None and not self._opened.done():
            if not may_pass:
                self._opened.set_exception(HandlerNotFoundError(why))
                return
            if self._failures + 1 >= LOADS_MAX:
                why = f"{why}, for the {LOADS_MAX}th time in a row"
                self._opened.set_exception(HandlerNotFoundError(why, may_pass=True))
                return
        pause_s = min(PAUSE_S_MIN * 2.0**self._failures, PAUSE_S_MAX)
        self._failures += 1
        log.error("%s; the next process starts in %.1f s", why, pause_s)
        self._pause = asyncio.get_running_loop().call_later(pause_s, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self._balance()

    def _member_of(self, call: HandlerCall) -> "_Member | None":
        return next((member for member in self._members if member.call is call), None)

    def _ended(self, member: "_Member") -> None:
        """Replace a process that has ended."""
        self._processes.remove(member.process)
        if member not in self._members:  # as it was told to
            return
        call = member.call
        self._part_with(member)
        if call is not None:
            self._crashed(call, member.process)
        elif not member.has_served:
            what = "before its first job" if member.is_ready else "while it loaded the handler"
            was_killed = member.process.ended_by is not None
            why = f"the handler's process {member.process.cause()} {what}"
            self._cannot_start(why, may_pass=was_killed)
        else:
            log.warning("the handler's process %s between two jobs", member.process.cause())
        self._balance()

    def _crashed(self, call: HandlerCall, process: ChildProcess) -> None:
        result = CallResult(error=f"the handler's process {process.cause()}")
        if process.ended_by not in _STOP_SIGNALS:
            call.done(result)
            return

        # A service manager stops a worker by a signal to all of its processes. That is no fault of
        # the handler, so its try does not count.
        def tell() -> None:
            call.done(CallResult(is_suspended=True) if call.is_stopping else result)

        asyncio.get_running_loop().call_later(STOP_S, tell)

    # --- what they say ----------------------------------------------------------------------------

    def _hear(self, member: "_Member", message: FromChild) -> None:
        if isinstance(message, Logged):
            log_here(message, member.process.pid)
        if member not in self._members:
            return
        match message:
            case Ready():
                member.is_ready = True
                if self._opened is not None and not self._opened.done():
                    self._opened.set_result(None)
                self._balance()
            case Broken():
                self._part_with(member).leave()
                self._cannot_start(message.reason, may_pass=False)
            case Ended():
                self._returned(member, message)
            case Reported():
                member.report(message)
            case Asked():
                member.ask(message)
            case Withdrawn():
                member.withdraw(message)

    def _returned(self, member: "_Member", message: Ended) -> None:
        call = member.call
        member.forget()
        member.has_served = True
        self._failures = 0
        if message.is_last:
            self._part_with(member).leave()
        self._balance()
        if call is not None:
            call.done(message.result())

    def resumed(self) -> None:
        """Let an idle process leave, if there is one too many when a call has its answer."""
        self._balance()


class _Member:
    """A process in service, and its call."""

    process: ChildProcess

    def __init__(self, executor: ProcessExecutor) -> None:
        self._executor = executor
        self.is_ready = False
        self.has_served = False
        self.call: HandlerCall | None = None
        self.number = 0
        self.asks: dict[int, asyncio.Task[None]] = {}

    @property
    def is_idle(self) -> bool:
        return self.is_ready and self.call is None and self.process.is_alive

    def begin(self, call: HandlerCall) -> None:
        self.call = call
        self.number += 1
        call.began()
        self.process.send(
            Begin(
                self.number,
                fields_of(call.job),
                call.attempt,
                call.stop_requested,
                call.is_stopping,
            )
        )

    def report(self, message: Reported) -> None:
        if self.call is not None and message.call == self.number:
            with suppress(ArgumentError):
                self.call.set_progress(message.text, message.fraction)

    def ask(self, message: Asked) -> None:
        if self.call is None or message.call != self.number:
            self.process.send(Answer(message.question, "error", "the call has ended"))
            return
        asking = self._ask(self.call, message)
        self.asks[message.question] = asyncio.get_running_loop().create_task(asking)

    def withdraw(self, message: Withdrawn) -> None:
        if (task := self.asks.get(message.question)) is not None:
            task.cancel()

    async def _ask(self, call: HandlerCall, message: Asked) -> None:
        schema = message.schema if message.is_text else json.loads(message.schema)
        number = message.question
        try:
            answer = Answer(number, "text", await call.ask(schema, message.key))
        except Suspended:
            answer = Answer(number, "suspended")
        except Fail as fault:
            answer = Answer(number, "fail", printable(fault.reason))
        except ArgumentError as fault:
            answer = Answer(number, "argument", printable(str(fault)))
        except Exception as fault:  # noqa: BLE001 - the handler has it
            answer = Answer(number, "error", printable(describe(fault)))
        finally:
            self.asks.pop(number, None)
        if self.call is call:
            self.process.send(answer)
            self._executor.resumed()

    def forget(self) -> None:
        """End what belongs to the call."""
        self.call = None
        for task in self.asks.values():
            task.cancel()
        self.asks = {}


def name_of(handler: Callable[..., object]) -> str:
    """Return the name by which another process finds a function.

    It is `module:function`, or `/path/of/script.py:function` for a function of the script that runs
    now. The script is imported under another name there: what follows `if __name__ == "__main__":`
    does not run.

    Raises:
        ArgumentError: it cannot be found by a name.

    """
    qualname = getattr(handler, "__qualname__", None)
    module_name = getattr(handler, "__module__", None)
    shown = f"{module_name}.{qualname}" if qualname else repr(handler)
    way_out = (
        'for isolation="process" the handler must be a function at the top of a module, or the'
        " text module:function"
    )
    if not (isinstance(qualname, str) and isinstance(module_name, str)):
        raise ArgumentError(f"handler: {shown} is no function: {way_out}")
    if "<lambda>" in qualname:
        raise ArgumentError(f"handler: {shown} is a lambda: {way_out}")
    if "<locals>" in qualname:
        raise ArgumentError(f"handler: {shown} is defined inside a function: {way_out}")
    if getattr(handler, "__self__", None) is not None and not isinstance(
        handler.__self__,  # type: ignore[attr-defined]
        type(sys),
    ):
        raise ArgumentError(f"handler: {shown} is a method of an object: {way_out}")
    found: object = sys.modules.get(module_name)
    for name in qualname.split("."):
        found = getattr(found, name, None)
    if found is not handler:
        raise ArgumentError(f"handler: {shown} is something else, or missing: {way_out}")
    return f"{_importable(module_name, shown)}:{qualname}"


def _importable(module_name: str, shown: str) -> str:
    """Return how another process imports a module: by its name, or the path of a script."""
    if module_name != "__main__":
        return module_name
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:  # python -m
        return str(spec.name)
    path: str | None = getattr(main, "__file__", None)
    if path is None or not os.path.isfile(path):  # noqa: PTH113 - the module has a text
        raise ArgumentError(
            f"handler: {shown} is defined in an interactive session, and another process cannot"
            " import that; put it into a module"
        )
    return os.path.abspath(path)  # noqa: PTH100 - as above


def _lowest_level() -> int:
    """Return the lowest level that any logger takes. What it refuses is dropped here."""
    root = logging.getLogger()
    levels = [
        logger.level
        for logger in root.manager.loggerDict.values()
        if isinstance(logger, logging.Logger) and logger.level
    ]
    return min([root.level, *levels])

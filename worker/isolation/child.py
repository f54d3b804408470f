"""The process of a handler: loads it, calls it, and speaks with the worker over a socket."""

import asyncio
import ctypes
import faulthandler
import importlib.util
import inspect
import json
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import reduce
from importlib.machinery import SourceFileLoader
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any, Final

from tollgate import streams
from tollgate.client import arguments
from tollgate.domain.exceptions import ArgumentError, TollgateError
from tollgate.domain.models import Job
from tollgate.worker.call import CallResult, Fail, Suspended
from tollgate.worker.context import AsyncContext, Context, Key, Schema
from tollgate.worker.handlers import (
    HandlerNotFoundError,
    calling,
    is_async,
    is_running,
    load_handler,
)
from tollgate.worker.isolation.child_log import SendingHandler
from tollgate.worker.isolation.messages import (
    Answer,
    Asked,
    Begin,
    Broken,
    Ended,
    Flags,
    Frames,
    FromChild,
    Ready,
    Reported,
    Setup,
    Withdrawn,
    frame,
    printable,
    to_child,
)

log = logging.getLogger("tollgate.worker")

MAIN: Final = "__mp_main__"
"""The name of a script in here whose function is the handler: it is not `__main__`."""
LEAVE_S: Final = 5.0
"""How long it may take to leave when the worker is gone."""
STATM: Final = "/proc/self/statm"
_READ_BYTES: Final = 1 << 18
_PR_SET_PDEATHSIG: Final = 1

_loading = threading.Event()


def is_loading() -> bool:
    """Return whether this is the process of a handler, and the handler's module is imported now."""
    return _loading.is_set()


def main(fd: int, parent: int) -> None:
    """Serve the worker at the other end of the socket `fd`, whose process is `parent`."""
    _die_with(parent)
    _restore_signals()
    connection = Connection(fd)
    for stream in (streams.STDERR, streams.STDOUT):
        # Written at once, since the process may crash. A reader that is gone fails no job.
        streams.protect(stream, threaded=False)
    faulthandler.enable(streams.STDERR, all_threads=False)
    Child(connection).run()


class Connection:
    """The socket to the worker. Any thread may send, and so may what interrupts a thread."""

    def __init__(self, fd: int) -> None:
        self._socket: socket.socket | None = socket.socket(fileno=fd)
        self._socket.set_inheritable(False)
        self._lock = threading.RLock()
        self._unsent: deque[bytes] = deque()
        self._is_sending = False
        os.register_at_fork(after_in_child=self._drop)

    @property
    def is_open(self) -> bool:
        """Whether this is the process of the handler, and none that was forked from it."""
        return self._socket is not None

    def send(self, message: FromChild) -> None:
        """Send a message. If that is not possible, this process ends.

        Raises:
            RuntimeError: this is a process that the handler has forked.

        """
        if self._socket is None:
            raise RuntimeError("only the process of the handler itself can speak with the worker")
        self._unsent.append(frame(message))
        with self._lock:
            if self._is_sending:  # a signal handler or a finalizer interrupts the loop below
                return
            self._is_sending = True
            try:
                while self._unsent:
                    self._socket.sendall(self._unsent.popleft())
            except ConnectionError:  # the worker is gone
                _kill_group()
            except OSError:
                os.write(streams.STDERR, b"tollgate: the handler has closed its socket\n")
                os._exit(1)
            finally:
                self._is_sending = False

    def receive(self) -> bytes:
        """Wait for bytes from the worker, and return them, or none if it is gone."""
        assert self._socket is not None  # noqa: S101 - no thread is forked
        try:
            return self._socket.recv(_READ_BYTES)
        except OSError:
            return b""

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class RunningCall:
    """A call of the handler, as its context sees it."""

    def __init__(self, child: "Child", begin: Begin) -> None:
        self._child = child
        self.number = begin.call
        self.job = Job.from_checked(begin.job)
        self.attempt = begin.attempt
        self.stop_requested = begin.stop_requested
        self.is_stopping = begin.is_stopping

    def set_progress(self, text: str, fraction: float | None) -> None:
        """See `BaseContext.progress`."""
        text = arguments.text("progress", "text", text)
        if fraction is not None:
            fraction = arguments.fraction("progress", "fraction", fraction, "a number from 0 to 1")
        self._child.connection.send(Reported(self.number, text, fraction))

    def ask(self, schema: Schema, key: Key) -> str | Awaitable[str]:
        """See `Context.ask`; a coroutine that a plain function returned awaits the answer."""
        if self._child.awaits_answers():
            return self._answer_in_loop(schema, key)
        answers: SimpleQueue[Answer] = SimpleQueue()
        with self._child.question(self.number, schema, key, answers.put):
            return _text_of(answers.get())

    async def _answer_in_loop(self, schema: Schema, key: Key) -> str:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()

        def settle(given: Answer) -> None:
            if not answer.done():
                answer.set_result(given)

        def arrive(given: Answer) -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(settle, given)

        with self._child.question(self.number, schema, key, arrive):
            return _text_of(await answer)


class _Question:
    """Sends a question, and takes it back if the handler waits no longer."""

    def __init__(self, child: "Child", asked: Asked, arrive: Callable[[Answer], None]) -> None:
        self._child = child
        self._asked = asked
        child.questions[asked.question] = arrive

    def __enter__(self) -> None:
        self._child.connection.send(self._asked)

    def __exit__(self, *_: object) -> None:
        if self._child.questions.pop(self._asked.question, None) is not None:
            self._child.connection.send(Withdrawn(self._asked.question))


class Child:
    """Calls the handler in the main thread, while another thread hears what the worker says."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.questions: dict[int, Callable[[Answer], None]] = {}
        """What to do with the answer to each open question."""
        self._numbers = count(1)
        self._setups: SimpleQueue[Setup | None] = SimpleQueue()
        self._calls: SimpleQueue[RunningCall | None] = SimpleQueue()
        self._wake: Callable[[], None] = lambda: None
        self._handler: Callable[[Job, Any], Any] = lambda _job, _context: None
        self._is_async = False
        self._loop: asyncio.AbstractEventLoop | None = None
        """The loop of handlers, once there is one."""
        self._current: RunningCall | None = None
        self._is_idle = False
        self._ended = 0
        self._recycle_jobs = sys.maxsize
        self._recycle_memory_bytes = sys.maxsize
        self._runner = asyncio.Runner()

    def run(self) -> None:
        """Load the handler, and call it until the worker ends the connection."""
        threading.Thread(target=self._listen, name="tollgate", daemon=True).start()
        setup = self._setups.get()
        if setup is None or not self._prepare(setup):
            return
        if self._is_async:
            self._serve_async()
        else:
            self._serve()
        self._runner.close()

    def awaits_answers(self) -> bool:
        """Return whether the handler is async here: a plain one may have returned a coroutine."""
        return self._is_async or (self._loop is not None and is_running(self._loop))

    def question(
        self, call: int, schema: Schema, key: Key, arrive: Callable[[Answer], None]
    ) -> _Question:
        """Return a question, to be asked on entering it."""
        try:
            text = schema if isinstance(schema, str) else json.dumps(schema, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as fault:
            raise ArgumentError(f"ask: schema is no JSON: {fault}") from None
        text = arguments.text("ask", "schema", text)
        if key is not None and not isinstance(key, int | str):
            raise ArgumentError(
                f"ask: key must be a number or a text, not {arguments.described(key)}"
            )
        if isinstance(key, str):
            key = arguments.text("ask", "key", key)
        asked = Asked(call, next(self._numbers), text, isinstance(schema, str), key)
        return _Question(self, asked, arrive)

    # --- the thread that listens ------------------------------------------------------------------

    def _listen(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are the handler's
        frames = Frames()
        while data := self.connection.receive():
            for message in frames.feed(data):
                self._hear(to_child.decode(message))
        # The worker is gone, or wants this process to leave.
        if self._is_idle:
            self._setups.put(None)
            self._calls.put(None)
            self._wake()
            time.sleep(LEAVE_S)
        _kill_group()

    def _hear(self, message: Setup | Begin | Flags | Answer) -> None:
        match message:
            case Setup():
                self._setups.put(message)
            case Begin():
                self._is_idle = False
                self._current = RunningCall(self, message)
                self._calls.put(self._current)
                self._wake()
            case Flags():
                if self._current is not None:
                    self._current.stop_requested = message.stop_requested
                    self._current.is_stopping = message.is_stopping
            case Answer():
                arrive = self.questions.pop(message.question, None)
                if arrive is not None:
                    arrive(message)

    # --- the main thread --------------------------------------------------------------------------

    def _prepare(self, setup: Setup) -> bool:
        """Load the handler, and tell the worker whether that was possible."""
        handlers = [SendingHandler(self.connection)]
        logging.basicConfig(level=setup.log_level, handlers=handlers, force=True)
        logging.captureWarnings(capture=True)
        sys.argv = setup.argv
        self._recycle_jobs = setup.recycle_jobs or sys.maxsize
        self._recycle_memory_bytes = setup.recycle_memory_bytes or sys.maxsize
        _loading.set()
        try:
            handler = _load(setup.handler)
        except BaseException as fault:
            log.debug("the handler", exc_info=fault)
            is_ours = isinstance(fault, HandlerNotFoundError)
            reason = str(fault) if is_ours else f"{type(fault).__name__}: {fault}"
            self.connection.send(Broken(printable(" ".join(reason.split()))))
            return False
        finally:
            _loading.clear()
        self._handler = calling(handler)
        self._is_async = is_async(handler)
        if not self._is_async:
            self._tell_ready()
        return True

    def _tell_ready(self) -> None:
        self._is_idle = True
        self.connection.send(Ready())

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            if self._end(self._call(call)):
                return

    def _serve_async(self) -> None:
        self._loop = loop = self._runner.get_loop()
        serving = loop.create_task(self._serve_in_loop())
        while not serving.done():
            # A task that the handler has made may raise these: asyncio then leaves the loop, with
            # the exception kept in that task.
            with suppress(SystemExit, KeyboardInterrupt):
                loop.run_until_complete(serving)

    async def _serve_in_loop(self) -> None:
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(changed.set)

        self._wake = wake
        self._tell_ready()
        while True:
            try:
                call = self._calls.get_nowait()
            except Empty:
                await changed.wait()
                changed.clear()
                continue
            if call is None or self._end(await self._call_in_loop(call)):
                return

    def _call(self, call: RunningCall) -> CallResult:
        try:
            value = self._handler(call.job, Context(call))
            if inspect.isawaitable(value):
                self._loop = self._runner.get_loop()
                value = self._runner.run(_awaited(value))
        except BaseException as fault:  # noqa: BLE001 - SystemExit of a handler, too, is a failure
            return CallResult.of_exception(fault)
        return CallResult(value)

    async def _call_in_loop(self, call: RunningCall) -> CallResult:
        try:
            value = await self._handler(call.job, AsyncContext(call))
        except BaseException as fault:  # noqa: BLE001 - as above
            return CallResult.of_exception(fault)
        return CallResult(value)

    def _end(self, result: CallResult) -> bool:
        """Tell the worker how a call ended; return whether this process leaves."""
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # the handler may have put anything in their place
                stream.flush()
        self._ended += 1
        is_last = (
            self._ended >= self._recycle_jobs or _resident_bytes() > self._recycle_memory_bytes
        )
        self._current = None
        self._is_idle = True
        self.connection.send(Ended.of(result, is_last=is_last))
        return is_last


def _text_of(answer: Answer) -> str:
    match answer.kind:
        case "text":
            return answer.text
        case "suspended":
            raise Suspended
        case "fail":
            raise Fail(answer.text)
        case "argument":
            raise ArgumentError(answer.text)
        case "error":
            raise TollgateError(answer.text)


async def _awaited(value: Awaitable[object]) -> object:
    return await value


def _load(name: str) -> Callable[..., Any]:
    """Return the handler that `name_of` has named."""
    path, _, function = name.rpartition(":")
    if not path.startswith(os.sep):
        return load_handler(name)
    loader = SourceFileLoader(MAIN, path)
    spec = importlib.util.spec_from_file_location(MAIN, path, loader=loader)
    assert spec is not None  # noqa: S101 - a loader was given
    module = importlib.util.module_from_spec(spec)
    # Also as `__main__`: the classes that it pickles are sought there. Children of the handler find
    # the file by its path, as they do in the script itself, if there is no spec.
    sys.modules[MAIN] = sys.modules["__main__"] = module
    loader.exec_module(module)
    module.__spec__ = None
    handler: Any = reduce(getattr, function.split("."), module)
    return handler  # type: ignore[no-any-return]


def _resident_bytes() -> int:
    """Return how much memory this process has; where /proc is missing, the most it ever had."""
    try:
        with open(STATM, "rb") as statm:  # noqa: PTH123 - after each job
            return int(statm.read().split()[1]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1_024


def _die_with(parent: int) -> None:
    """End this process when the worker ends, also while the handler holds the interpreter."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before that
        os._exit(1)


def _restore_signals() -> None:
    """Have the signals as an interpreter has them that a shell starts."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _kill_group() -> None:
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)

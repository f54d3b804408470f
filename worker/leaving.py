"""The end of a worker's process: with its children, and in time, whatever handlers have left."""

import _thread
import atexit
import logging
import math
import os
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from queue import SimpleQueue
from time import monotonic, sleep
from types import CodeType
from typing import Any, Final, NoReturn

from tollgate import streams

log = logging.getLogger("tollgate.worker")

_acts: Final[SimpleQueue[Callable[[], object]]] = SimpleQueue()
"""Called by threads that `leave_in_time` starts: Python 3.12 starts none while a program ends."""
THREADS_S: Final = 1.0
"""How long the end of the program waits for the threads and children that handlers left."""
CHILDREN_S: Final = 0.2
"""How long children may take to end before they are killed."""
EXIT_S: Final = streams.EXIT_S + CHILDREN_S
"""How long the last acts of a process may take together."""
SAY_S: Final = 0.2
"""How long `say` waits for its line."""
LEAST_S: Final = 0.3
"""What the last acts have at least, though the time for the stop is over."""


def say(level: int, text: str, *args: object, **fields: object) -> None:
    """Log a line from a thread that must never be held up, though a handler blocks all logging."""
    extra = {"extra": fields} if fields else {}
    _within(SAY_S, lambda: log.log(level, text, *args, **extra))  # type: ignore[arg-type]


def exit_now(exit_code: int) -> None:
    """End the process without waiting for threads and tasks, and with it the children of pools."""
    _within(_left_s(EXIT_S), _end_children, logging.shutdown, streams.finish)
    os._exit(exit_code)


_end_at = math.inf


def end_by(moment: float) -> None:
    """Cut the last acts short, so that the process has ended about then (monotonic, in s)."""
    global _end_at  # noqa: PLW0603 - a process ends once
    _end_at = moment


def _left_s(limit_s: float) -> float:
    return min(limit_s, max(LEAST_S, _end_at - monotonic()))


def _within(limit_s: float, *acts: Callable[[], object]) -> None:
    """Do these in a thread, and go on when they are done, or after `limit_s`."""
    done = threading.Event()

    def act() -> None:
        for each in acts:
            with suppress(Exception):
                each()
        done.set()

    if not _start(act):
        _acts.put(act)
    done.wait(limit_s)


def _start(act: Callable[[], object]) -> bool:
    """Call it in a daemon thread; return False if the system has none left, or the program ends.

    Without memory a thread may end before its first line. `Thread.start` waits for that line.
    """
    try:
        _thread.start_new_thread(act, ())
    except RuntimeError:
        return False
    return True


def _act_when_told() -> None:
    _acts.get()()


def _end_children() -> None:
    """End the processes of `multiprocessing`, which Python would end or wait for."""
    multiprocessing = sys.modules.get("multiprocessing")
    if multiprocessing is None:
        return
    process = multiprocessing.process.BaseProcess
    start = process.start.__code__
    process.start = _refuse  # a pool replaces processes that end
    children = set[Any]()
    until = monotonic() + CHILDREN_S
    while True:
        is_starting = _is_running(start)  # its process is not in the list yet
        for child in {*multiprocessing.active_children()} - children:
            children.add(child)
            child.terminate()
        is_over = monotonic() >= until or not any(child.is_alive() for child in children)
        if is_over and not is_starting:
            break
        sleep(0.01)
    for child in children:
        child.kill()


def _is_running(code: CodeType) -> bool:
    """Return whether a thread is in a function."""
    return any(
        frame.f_code is code
        for top in sys._current_frames().values()  # noqa: SLF001 - public, says its page
        for frame, _ in traceback.walk_stack(top)
    )


def _refuse(_: object) -> NoReturn:
    raise RuntimeError("the worker's process ends")


def leave_child(fault: BaseException | None) -> NoReturn:
    """End a process that a handler forked, and that came back from the handler.

    It ends as a program of its own would: it must not go on as another worker.
    """
    code: object = 0
    if isinstance(fault, SystemExit):
        code = 0 if fault.code is None else fault.code
    elif fault is not None:
        code = "".join(traceback.format_exception(fault)).rstrip()
    with suppress(BaseException):
        if not isinstance(code, int):
            sys.stderr.write(f"{code}\n")
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    os._exit(code & 0xFF if isinstance(code, int) else 1)


_is_watched = False
_kept: list[object] = []


def keep(tasks: Iterable[object]) -> None:
    """Keep tasks of handlers that do not end: freed, one that catches everything would go on."""
    _kept.extend(tasks)


def leave_in_time(exit_code: int, before: Collection[threading.Thread] = ()) -> None:
    """From the program's end on, wait only for the threads of `before`, and for others not long.

    Python waits for threads, and for pools of threads and processes. Those with nothing to do end
    at once; one that hangs would keep the process for ever.
    """
    global _is_watched  # noqa: PLW0603 - a process ends once
    if _kept:
        say(logging.WARNING, "async handlers do not end: the process is ended")
        exit_now(exit_code)
    if _is_watched:
        return
    _is_watched = True
    threads_s = _left_s(THREADS_S + LEAST_S) - LEAST_S
    ending = threading.Event()

    def watch() -> None:
        ending.wait()
        for thread in before:
            if not thread.daemon and thread is not threading.main_thread():
                thread.join()
        threading.Event().wait(threads_s)
        left = [
            each.name for each in threading.enumerate()
            if each not in {threading.current_thread(), threading.main_thread(), *before}
        ]  # fmt: skip
        text = "handlers have left what does not end (%s): it is ended"
        say(logging.WARNING, text, ", ".join(left))
        exit_now(exit_code)

    # One for `watch`, one for its line in the log, and one for its end: each may be held up.
    for act in (watch, _act_when_told, _act_when_told):
        _start(act)
    # Called before Python waits for threads; `atexit` is called after that.
    threading._register_atexit(ending.set)  # type: ignore[attr-defined]  # noqa: SLF001
    atexit.register(ending.set)

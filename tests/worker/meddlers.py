"""Handlers that change what a process has only one of. A worker calls them by name."""

import asyncio
import atexit
import builtins
import contextlib
import gc
import locale
import logging
import logging.config
import os
import resource
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tollgate.domain.models import Job

MEDDLERS: dict[str, Callable[[], object]] = {}
LOOP_ONLY: dict[str, Callable[[], object]] = {}
"""Those that need the main thread, or a running loop."""


def plain(job: Job) -> str:
    meddle = MEDDLERS.get(job.input or "")
    return "done" if meddle is None else str(meddle() or "done")


async def in_loop(job: Job) -> str:
    meddle = (MEDDLERS | LOOP_ONLY).get(job.input or "")
    if meddle is None:
        await asyncio.sleep(0.3)  # longer than the worker takes to notice
        return "done"
    value = meddle()
    if asyncio.iscoroutine(value):
        value = await value
    return str(value or "done")


def meddler(function: Callable[[], object]) -> Callable[[], object]:
    MEDDLERS[function.__name__] = function
    return function


def loop_meddler(function: Callable[[], object]) -> Callable[[], object]:
    LOOP_ONLY[function.__name__] = function
    return function


# --- streams --------------------------------------------------------------------------------------


@meddler
def closes_stdout() -> None:
    sys.stdout.close()


@meddler
def closes_stderr() -> None:
    sys.stderr.close()


@meddler
def has_no_streams() -> None:
    sys.stdin = sys.stdout = sys.stderr = None


@meddler
def writes_elsewhere() -> None:
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    sys.stdout = Path("stdout.txt").open("w")  # noqa: SIM115
    with contextlib.redirect_stdout(None):
        print("lost")  # noqa: T201


@meddler
def prints_much() -> None:
    for _ in range(200):
        print("x" * 10_000)  # noqa: T201


@meddler
def closes_standard_descriptors() -> None:
    for descriptor in (0, 1, 2):
        os.close(descriptor)


@meddler
def reads_stdin() -> None:
    with contextlib.suppress(EOFError):
        input("a question? ")


# --- signals --------------------------------------------------------------------------------------


@loop_meddler
def takes_sigterm() -> None:
    signal.signal(signal.SIGTERM, lambda *_: None)


@loop_meddler
def ignores_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@loop_meddler
def resets_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@loop_meddler
def adds_signal_handler() -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: None)


@loop_meddler
def removes_signal_handler() -> None:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, lambda: None)
    loop.remove_signal_handler(signal.SIGTERM)


@loop_meddler
def takes_wakeup_fd() -> None:
    signal.set_wakeup_fd(-1)


@meddler
def blocks_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


@loop_meddler
def uses_alarm() -> None:
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    signal.siginterrupt(signal.SIGALRM, True)
    time.sleep(0.05)
    signal.setitimer(signal.ITIMER_REAL, 0)


# --- the process ----------------------------------------------------------------------------------


@meddler
def changes_directory() -> None:
    os.chdir("/")


@meddler
def forgets_environment() -> None:
    os.environ.clear()
    os.environ["TOLLGATE_ENDPOINT"] = "nonsense"
    os.environ["TZ"] = "Pacific/Kiritimati"
    time.tzset()


@meddler
def changes_locale() -> None:
    for name in ("C", "POSIX", "C.UTF-8"):
        with contextlib.suppress(locale.Error):
            locale.setlocale(locale.LC_ALL, name)
    os.umask(0o777)


@meddler
def limits_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len([*Path("/proc/self/fd").iterdir()]) + 4, hard))


@meddler
def lowers_recursion_limit() -> None:
    sys.setrecursionlimit(90)


@meddler
def collects_no_garbage() -> None:
    gc.disable()
    gc.set_threshold(0)
    gc.freeze()


@meddler
def traces() -> None:
    def trace(*_: Any) -> None:
        return None

    sys.settrace(trace)
    sys.setprofile(trace)
    threading.settrace(trace)


@meddler
def forgets_modules() -> None:
    for name in [each for each in sys.modules if each.startswith("tollgate")]:
        del sys.modules[name]
    sys.path.clear()


@meddler
def replaces_functions_of_all() -> None:
    builtins.print = builtins.open = None  # type: ignore[assignment]
    time.sleep = lambda _: None
    time.time = lambda: 0.0


@meddler
def leaves_what_hangs_at_exit() -> None:
    atexit.register(time.sleep, 3_600)


@meddler
def lets_no_file_grow() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))


# --- logging and warnings -------------------------------------------------------------------------


@meddler
def disables_logging() -> None:
    logging.disable(logging.CRITICAL)


@meddler
def breaks_hooks() -> None:
    sys.excepthook = threading.excepthook = sys.unraisablehook = lambda *_: 1 / 0  # type: ignore[assignment]
    thread_raises()


@meddler
def configures_logging() -> None:
    logging.config.dictConfig({"version": 1})  # it disables all loggers that there are


@meddler
def removes_log_handlers() -> None:
    logging.getLogger().handlers.clear()
    logging.shutdown()


@meddler
def logs_wrongly() -> None:
    logging.getLogger("tollgate.worker").warning("%s %d", "too few")  # noqa: PLE1206
    logging.getLogger("x").error("%s", type("Bad", (), {"__str__": lambda _: 1 / 0})())


@meddler
def makes_warnings_errors() -> None:
    warnings.simplefilter("error")
    logging.captureWarnings(capture=False)


# --- threads and the loop -------------------------------------------------------------------------


@meddler
def leaves_daemon_thread() -> None:
    threading.Thread(target=time.sleep, args=(3_600,), daemon=True).start()


@meddler
def leaves_thread() -> None:
    threading.Thread(target=time.sleep, args=(3_600,), name="left behind").start()


@meddler
def thread_raises() -> None:
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()


@meddler
def sets_small_stacks() -> None:
    threading.stack_size(64 * 1024)


@meddler
def runs_own_loop() -> None:
    def run() -> None:
        asyncio.run(asyncio.sleep(0.01))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


@meddler
def switches_threads_seldom() -> None:
    sys.setswitchinterval(5)


@meddler
def replaces_loop() -> None:
    asyncio.set_event_loop(asyncio.new_event_loop())
    asyncio.set_event_loop_policy(None)  # type: ignore[deprecated]


@loop_meddler
def stops_loop() -> None:
    asyncio.get_running_loop().stop()


@loop_meddler
def cancels_all() -> None:
    for task in asyncio.all_tasks():
        if task is not asyncio.current_task():
            task.cancel()


@loop_meddler
def debugs_loop() -> None:
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 0

    def fail(*_: object) -> None:
        raise RuntimeError("from the exception handler")

    loop.set_exception_handler(fail)
    loop.call_soon(fail)


@loop_meddler
async def ends_executor() -> None:
    loop = asyncio.get_running_loop()
    await asyncio.to_thread(time.sleep, 0)
    await loop.shutdown_default_executor()
    await loop.shutdown_asyncgens()


@loop_meddler
def leaves_tasks() -> None:
    async def stays() -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3_600)

    async def fails() -> None:
        raise ValueError("nobody awaits this")

    _LEFT.append(asyncio.create_task(stays()))
    _LEFT.append(asyncio.create_task(fails()))


_LEFT: list[object] = []


@loop_meddler
def nests_loop() -> str:
    coroutine = asyncio.sleep(0)
    try:
        asyncio.run(coroutine)
    except RuntimeError as fault:
        coroutine.close()
        return type(fault).__name__
    return "nested"


@meddler
def signals_itself() -> None:
    os.kill(os.getpid(), signal.SIGWINCH)

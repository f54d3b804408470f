"""Handlers that start processes. A worker calls them by name, plain and async."""

import asyncio
import concurrent.futures
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tollgate.domain.models import Job
from tollgate.worker.context import AsyncContext, Context

PARENTS: dict[str, tuple[Callable[[], object], str]] = {}
"""What to call, and what it returns."""


def plain(job: Job) -> str:
    return str(PARENTS[job.input or ""][0]())


async def in_loop(job: Job) -> str:
    return str(PARENTS[job.input or ""][0]())


def asks_in_a_fork(job: Job, ctx: Context) -> str:
    """Return why forked children cannot use the context: they would wait for ever."""
    context = multiprocessing.get_context("fork")
    return " ".join(
        _said_by(context.Process(target=_complain, args=(act,)))
        for act in (lambda: ctx.progress("half"), lambda: ctx.ask({}))
    )


async def asks_in_a_fork_of_the_loop(job: Job, ctx: AsyncContext) -> str:
    context = multiprocessing.get_context("fork")
    return _said_by(context.Process(target=_complain, args=(lambda: ctx.ask({}).send(None),)))


def _complain(act: Callable[[], object]) -> None:
    try:
        act()
    except RuntimeError as fault:
        os._exit(17 if "only the process of the handler" in str(fault) else 18)


def _said_by(process: Any) -> str:
    process.start()
    process.join(10)
    process.kill()
    return str(process.exitcode)


def parent(result: object) -> Callable[[Callable[[], object]], Callable[[], object]]:
    def keep(function: Callable[[], object]) -> Callable[[], object]:
        PARENTS[function.__name__] = function, str(result)
        return function

    return keep


def _sleep() -> None:
    time.sleep(300)  # so that nothing is left for long if a test is killed


def _square(number: int) -> int:
    return number * number


def _exit_code(method: str, end: Callable[[Any], None]) -> int | None:
    context: Any = multiprocessing.get_context(method)
    process = context.Process(target=_sleep)
    process.start()
    time.sleep(0.3 if method == "fork" else 2)  # until it sleeps
    end(process)
    process.join(10)
    code: int | None = process.exitcode
    process.kill()
    return code


@parent(-15)
def terminates_a_fork() -> object:
    return _exit_code("fork", lambda process: process.terminate())


@parent(-15)
def terminates_a_spawn() -> object:
    return _exit_code("spawn", lambda process: process.terminate())


@parent(-15)
def terminates_a_forkserver() -> object:
    return _exit_code("forkserver", lambda process: process.terminate())


@parent(1)
def interrupts_a_fork() -> object:
    return _exit_code("fork", lambda process: os.kill(process.pid, signal.SIGINT))


@parent("[0, 1, 4] then TimeoutError")
def limits_a_pool() -> object:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        squares = pool.map(_square, range(3))
        try:
            pool.apply_async(_sleep).get(timeout=0.3)
        except multiprocessing.TimeoutError as fault:
            return f"{squares} then {type(fault).__name__}"
    return "ended"


@parent("[0, 1, 4]")
def uses_an_executor() -> object:
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        return list(pool.map(_square, range(3)))


@parent("BrokenProcessPool")
def breaks_an_executor() -> object:
    with concurrent.futures.ProcessPoolExecutor(1) as pool:
        try:
            pool.submit(os._exit, 3).result()
        except concurrent.futures.process.BrokenProcessPool as fault:
            return type(fault).__name__


@parent(-15)
def terminates_a_program() -> object:
    program = subprocess.Popen(["/bin/sleep", "3600"])
    program.terminate()
    return program.wait(10)


@parent(-2)
def interrupts_a_program() -> object:
    program = subprocess.Popen(["/bin/sleep", "3600"])
    program.send_signal(signal.SIGINT)
    return program.wait(10)


@parent("nothing is blocked, ignored or caught")
def asks_a_program_for_its_signals() -> object:
    code = (
        "import signal\n"
        "print(signal.pthread_sigmask(signal.SIG_BLOCK, []) or 'none',"
        " signal.getsignal(signal.SIGTERM).name)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    is_plain = said.stdout.split() == ["none", "SIG_DFL"]
    return "nothing is blocked, ignored or caught" if is_plain else said.stdout


def _fork(act: Callable[[], object]) -> int:
    """Return how a forked child ended that does `act` and then what it likes."""
    child = os.fork()
    if not child:
        act()
    for _ in range(1_000):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return 99


@parent(7)
def forks_a_child_that_exits() -> object:
    return _fork(lambda: sys.exit(7))


@parent(0)
def forks_a_child_that_returns() -> object:
    child = os.fork()
    if not child:
        return "returned by the child"
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


@parent(1)
def forks_a_child_that_raises() -> object:
    return _fork(lambda: 1 // 0)


@parent("(-15, True, True)")
def forks_a_child_that_is_stopped() -> object:
    reader, writer = os.pipe()

    def act() -> None:
        wakeup = signal.set_wakeup_fd(-1)
        ends = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
        own = ends == [signal.SIG_DFL, signal.default_int_handler]
        os.write(writer, bytes([own, wakeup == -1]))
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
        os._exit(0)

    code = _fork(act)
    own, no_wakeup = os.read(reader, 2)
    os.close(reader)
    os.close(writer)
    return code, bool(own), bool(no_wakeup)


def _log_much() -> None:
    for number in range(50):
        logging.getLogger("child").warning("line %d of a child", number)


@parent("[0, 0, 0]")
def forks_children_that_log() -> object:
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_log_much) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(10)
    return [child.exitcode for child in children]


# --- children that are left behind ----------------------------------------------------------------

_KEPT: list[object] = []


def leaves_a_child(job: Job) -> str:
    child = multiprocessing.get_context("fork").Process(target=_sleep, daemon=True)
    child.start()
    _KEPT.append(child)
    return "left"


def _is_deaf(told: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    told.set()
    _sleep()


def leaves_a_deaf_child(job: Job) -> str:
    context = multiprocessing.get_context("fork")
    told = context.Event()
    child = context.Process(target=_is_deaf, args=(told,), daemon=True)
    child.start()
    _KEPT.append(child)
    return f"left {told.wait(10)}"


def leaves_a_pool(job: Job) -> str:
    pool = multiprocessing.get_context("fork").Pool(2)
    _KEPT.append(pool)
    return str(pool.map(_square, range(3)))


def leaves_a_spawned_pool(job: Job) -> str:
    pool = multiprocessing.get_context("spawn").Pool(2)
    _KEPT.append(pool)
    return str(pool.map(_square, range(3)))


def leaves_an_executor(job: Job) -> str:
    pool = concurrent.futures.ProcessPoolExecutor(2)
    _KEPT.append(pool)
    return str(list(pool.map(_square, range(3))))


def leaves_a_busy_executor(job: Job) -> str:
    pool = concurrent.futures.ProcessPoolExecutor(2)
    _KEPT.extend([pool, pool.submit(_sleep)])
    return "left"


def waits_for_a_pool(job: Job) -> str:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        Path(job.job_id).touch()
        pool.apply(_sleep)
    return "never"


def starts_one_after_the_other(job: Job) -> str:
    for number in range(500):
        multiprocessing.get_context("fork").Process(target=_sleep).start()
        if number == 9:
            Path(job.job_id).touch()
    return "left"


async def waits_for_an_executor(job: Job) -> str:
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        Path(job.job_id).touch()  # noqa: ASYNC240
        await asyncio.get_running_loop().run_in_executor(pool, _sleep)
    return "never"

"""Handlers for the tests of process isolation, and the worker's side of their calls."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.worker.script import make_job
from tollgate.domain.exceptions import ArgumentError
from tollgate.domain.models import Job
from tollgate.worker.call import CallResult, Fail, Suspended
from tollgate.worker.context import Key, Schema
from tollgate.worker.isolation.executor import ProcessExecutor

PATIENCE_S: Final = 40.0

HANDLERS: Final = r"""
import asyncio, atexit, collections, ctypes, logging, multiprocessing, os, pathlib, resource
import signal, subprocess, sys, threading, time, warnings

from tollgate.worker.call import Fail, Retry

log = logging.getLogger("handlers")
atexit.register(lambda: pathlib.Path("left").touch())
calls = 0
hoard = []

def begun(job):
    pathlib.Path(job.job_id).write_text(str(os.getpid()))

class Text(str):
    pass

class Broken(Exception):
    def __str__(self):
        raise ValueError

def answer(job, ctx):
    global calls
    calls += 1
    what, _, rest = job.input.partition(" ")
    match what:
        case "pid": return str(os.getpid())
        case "calls": return str(calls)
        case "echo": return rest
        case "job": return job.model_dump_json()
        case "about": return f"{job.job_id} {ctx.attempt} {ctx.stop_requested}"
        case "size": return str(len(job.input))
        case "large": return "x" * int(rest)
        case "text": return Text("subclass")
        case "surrogate": return "\ud800"
        case "dict": return {"a": 1}
        case "nothing": return None
        case "raise": raise ValueError("bad")
        case "raise-broken": raise Broken
        case "surrogate-error": raise ValueError("\udcff")
        case "retry": raise Retry("busy", after_s=float(rest))
        case "fail": raise Fail("no use")
        case "exit": sys.exit(3)
        case "interrupt": raise KeyboardInterrupt
        case "stop": os.kill(os.getpid(), signal.SIGINT); time.sleep(30)
        case "os-exit": os._exit(3)
        case "segfault": ctypes.string_at(0)
        case "kill": os.kill(os.getpid(), int(rest)); time.sleep(30)
        case "memory":
            limit = 1 << 30
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            return "x" * (limit << 1)
        case "hoard": hoard.append(b"x" * (int(rest) << 20)); return str(os.getpid())
        case "sleep": begun(job); time.sleep(60)
        case "gil": begun(job); ctypes.PyDLL(None).sleep(60)
        case "parent":
            child = subprocess.Popen(["sleep", "61"])
            pathlib.Path("grandchild").write_text(str(child.pid))
            begun(job)
            time.sleep(60)
        case "orphan":
            ctypes.CDLL(None).prctl(1, 0)  # as on a system that does not end it with the worker
            child = subprocess.Popen(["sleep", "61"])
            pathlib.Path("grandchild").write_text(str(child.pid))
            begun(job)
            time.sleep(60)
        case "last-words":
            for number in range(50):
                log.warning("word %d %s", number, "x" * 1_000)
            os._exit(5)
        case "close": os.closerange(3, 200); return "never seen"
        case "shutdown":
            sys.setswitchinterval(100)  # no other thread sees it
            for fd in range(3, 200):
                ctypes.PyDLL(None).shutdown(fd, 2)
            ctypes.PyDLL(None).sleep(60)
        case "c-fork":
            if ctypes.CDLL(None).fork() == 0:
                time.sleep(60)
            os._exit(7)
        case "descriptors":
            return "\n".join(f"{path.name}:{path.readlink()}"
                for path in pathlib.Path("/proc/self/fd").iterdir() if path.is_symlink())
        case "inherited":
            options = {"capture_output": True, "text": True, "close_fds": False}
            return subprocess.run(["ls", "-l", "/proc/self/fd"], **options).stdout
        case "signals":
            odd = {n for n in signal.valid_signals() if signal.getsignal(n) is signal.SIG_IGN}
            return f"{sorted(odd)} {signal.getsignal(signal.SIGINT).__name__} " \
                f"{signal.pthread_sigmask(signal.SIG_BLOCK, ())}"
        case "sigwait":
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
            os.kill(os.getpid(), signal.SIGUSR1)
            return signal.sigwait([signal.SIGUSR1]).name
        case "worker":
            from tollgate.worker.isolation.executor import ProcessExecutor
            return type(ProcessExecutor("handlers:answer", 1)).__name__
        case "own-stdout": sys.stdout = open("printed", "w"); print(rest); return "printed"
        case "no-stdout": sys.stdout = None; return "closed"
        case "unread":
            reader, writer = os.pipe()
            os.close(reader)
            for stream in (1, 2):
                os.dup2(writer, stream)
            print("on stdout", flush=True)
            print("on stderr", file=sys.stderr, flush=True)
            return "printed"
        case "group": return f"{os.getpgrp() == os.getpid()} {os.getsid(0) == os.getpid()}"
        case "thread": return threading.current_thread().name
        case "progress": ctx.progress(rest, 0.5); return "done"
        case "wrong-progress": return wrong(lambda: ctx.progress(rest, 2))
        case "ask": return "got " + ctx.ask({"q": [1, 2.5, None, "é"]}, key=rest or None)
        case "ask-text": return "got " + ctx.ask('{"a":  1}')
        case "ask-set": return wrong(lambda: ctx.ask({"a": {1}}))
        case "ask-ring":
            ring = {}
            ring["ring"] = ring
            return wrong(lambda: ctx.ask(ring))
        case "ask-deep":
            deep = []
            for _ in range(100_000):
                deep = [deep]
            return wrong(lambda: ctx.ask(deep))
        case "ask-in-vain":
            try:
                return ctx.ask({})
            except Exception as fault:
                return f"{type(fault).__name__}: {fault}"
        case "until-stop":
            begun(job)
            while not (ctx.stop_requested and ctx.worker_stopping):
                time.sleep(0.005)
            return "stopped"
        case "log":
            ctx.log.info("hello %s", "you", extra={"city": "Ulm", "odd": Broken})
            ctx.log.info("mean", extra={"mean": "\ud800", "broken": Broken()})
            log.debug("too low")
            try:
                raise ValueError("traced")
            except ValueError:
                log.exception("went wrong")
            log.warning("%d", "no number")
            warnings.warn("old")
            print("on stderr", file=sys.stderr)
            print("on stdout")
            return "logged"
        case "odd-log":
            try:
                raise ValueError("trace \ud800")
            except ValueError:
                fields = {"exc_info": sys.exc_info(), "stack_info": "stack \ud800"}
            names = {"name": "handlers", "levelno": 30, "pathname": "/\udcff.py"}
            log.handle(logging.makeLogRecord({**names, **fields, "msg": "text \ud800"}))
            log.warning(Broken())
            return "logged"
        case "nested-log":
            old = signal.signal(signal.SIGALRM, lambda *_: log.info("x" * 50_000))
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
            for _ in range(100):
                log.info("y" * 300_000)
            signal.setitimer(signal.ITIMER_REAL, 0)
            return "logged"
        case "fork-log":
            process = multiprocessing.get_context("fork").Process(target=forked, args=(ctx,))
            process.start()
            process.join()
            return f"child {process.exitcode}"
        case "terminate":
            process = multiprocessing.get_context(rest).Process(target=time.sleep, args=(60,))
            process.start()
            process.terminate()
            process.join()
            return f"child {process.exitcode}"
        case "later":
            threading.Thread(target=late, args=(ctx,)).start()
            return "first"
        case "linger": threading.Thread(target=time.sleep, args=(60,)).start(); return "lingers"
        case "linger-gil": atexit.register(ctypes.PyDLL(None).sleep, 60); return "lingers"
        case "late-death": threading.Timer(0.05, os._exit, [9]).start(); return "dies"

def forked(ctx):
    log.warning("from a forked process")
    try:
        ctx.progress("x")
    except RuntimeError:
        os._exit(17)

def late(ctx):
    while not os.path.exists("second"):
        time.sleep(0.005)
    ctx.progress("late")
    pathlib.Path("reported").touch()

def wrong(call):
    try:
        call()
    except ValueError as fault:
        return f"{type(fault).__name__}: {fault}"

def plain(job):
    return f"plain {job.input}"

def hands_over(job):
    return later(job)

def hands_over_a_question(job, ctx):
    return asks_later(ctx)

async def asks_later(ctx):
    return "got " + await ctx.ask({})

async def later(job):
    await asyncio.sleep(0)
    return f"async {job.input}"

async def serves(job, ctx):
    global calls
    calls += 1
    what, _, rest = job.input.partition(" ")
    match what:
        case "loop": return str(id(asyncio.get_running_loop()))
        case "calls": return str(calls)
        case "ask": return " ".join(await asyncio.gather(ctx.ask({"n": 1}, "a"), ctx.ask({}, "b")))
        case "impatient":
            try:
                async with asyncio.timeout(0.1):
                    await ctx.ask({})
            except TimeoutError:
                while not os.path.exists("withdrawn"):
                    await asyncio.sleep(0.005)
                return "no answer"
        case "exit": sys.exit(3)
        case "task-exit":
            task = asyncio.create_task(leaves())
            try:
                await task
            except SystemExit:
                return "caught"
        case "cancel": raise asyncio.CancelledError
        case "progress": ctx.progress(rest); return "done"
        case "block": begun(job); time.sleep(60)
        case "leave-task":
            tasks.append(asyncio.create_task(tidies()))
            await asyncio.sleep(0)
            return "left"

tasks = []

async def tidies():
    try:
        await asyncio.sleep(60)
    finally:
        pathlib.Path("tidied").touch()

async def leaves():
    raise SystemExit(4)
"""


class FakeCall:
    """A call as the worker's runner makes it."""

    def __init__(self, job: Job, attempt: int = 1) -> None:
        self.job = job
        self.attempt = attempt
        self.stop_requested = False
        self.is_stopping = False
        self.progress: list[tuple[str, float | None]] = []
        self.asked: list[tuple[Schema, Key]] = []
        self.withdrawn = 0
        self.answer: Callable[[Schema, Key], str] | None = None
        """Answers at once; without it `ask` waits."""
        self.begins = 0
        self.ends = 0
        self._result: asyncio.Future[CallResult] = asyncio.get_running_loop().create_future()

    def set_progress(self, text: str, fraction: float | None) -> None:
        self.progress.append((text, fraction))

    async def ask(self, schema: Schema, key: Key) -> str:
        self.asked.append((schema, key))
        if self.answer is not None:
            return self.answer(schema, key)
        try:
            await asyncio.sleep(PATIENCE_S)
        except asyncio.CancelledError:
            self.withdrawn += 1
            raise
        return "nobody answered"

    def began(self) -> None:
        self.begins += 1

    def done(self, result: CallResult) -> None:
        self.ends += 1
        if not self._result.done():
            self._result.set_result(result)

    @property
    def is_done(self) -> bool:
        return self._result.done()

    async def end(self) -> CallResult:
        return await asyncio.wait_for(asyncio.shield(self._result), PATIENCE_S)


def raising(fault: BaseException) -> Callable[[Schema, Key], str]:
    def answer(schema: Schema, key: Key) -> str:
        raise fault

    return answer


REFUSALS: Final[dict[str, BaseException]] = {
    "Fail: asked before": Fail("asked before"),
    "ArgumentError: no such key": ArgumentError("no such key"),
    "TollgateError: OSError: gone": OSError("gone"),
}
SUSPENDED: Final = Suspended()


MakeCall = Callable[..., FakeCall]
Opened = Callable[..., Awaitable[ProcessExecutor]]


@pytest.fixture
def make_call() -> MakeCall:
    return lambda text, number=1, attempt=1: FakeCall(make_job(number, input=text), attempt)


@pytest.fixture
async def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Opened]:
    """Open executors whose handlers work in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "handlers.py").write_text(HANDLERS)
    made: list[ProcessExecutor] = []

    async def open_one(name: str = "answer", size: int = 1, **options: Any) -> ProcessExecutor:
        made.append(ProcessExecutor(f"handlers:{name}", size, **options))
        await made[-1].open()
        return made[-1]

    yield open_one
    for executor in made:
        executor.close()


async def ran(executor: ProcessExecutor, call: FakeCall) -> CallResult:
    executor.start(call)
    return await call.end()


def read(name: str) -> str:
    """Return what a handler has written."""
    return Path(name).read_text()


def exists(name: str) -> bool:
    return Path(name).exists()


def write(name: str, text: str) -> None:
    """Write a file for handlers."""
    Path(name).write_text(text)


def descriptors() -> list[Path]:
    """Return the open files of this process."""
    return sorted(Path("/proc/self/fd").iterdir())


async def until(condition: Callable[[], object]) -> Any:
    """Wait until it is so, and return what `condition` returned."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    return found


def is_running(pid: int) -> bool:
    """Return whether a process is there, and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False

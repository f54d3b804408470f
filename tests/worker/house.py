"""A folder with a real broker and real workers in it, for the tests that need processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from tollgate.client.sync import Client
from tollgate.domain.models import Job
from tollgate.domain.status import JobStatus

ROOT: Final = Path(__file__).parents[2]
PATIENCE_S: Final = 40.0
SIMULATED: Final = ("--simulate-payments", "--pay-delay-ms-min", "0", "--pay-delay-ms-max", "5")
ONE_TRY: Final = ("--max-attempts", "1")

HANDLERS = """
import asyncio, pathlib, sys, time
from tollgate.domain.models import Job

def begun(job):
    pathlib.Path(job.job_id).touch()

def shout(job: Job) -> str:
    return job.input.upper()

async def shout_later(job: Job) -> str:
    await asyncio.sleep(0.01)
    return job.input.upper() + "!"

def by_input(job: Job) -> object:
    match job.input:
        case "raise": raise ValueError("no such city:\\nAtlantis")
        case "raise silently": raise LookupError
        case "exit": sys.exit("gone")
        case "nothing": return None
        case "too much": return "€" * 30_000
        case _: return job.input

async def by_input_at_once(job: Job) -> object:
    return by_input(job)

def twice(job: Job) -> str:
    return job.input * 2

def hangs(job: Job) -> str:
    begun(job)
    time.sleep(3_600)

async def hangs_later(job: Job) -> str:
    begun(job)
    await asyncio.sleep(3_600)

async def overhears(job: Job) -> str:
    begun(job)
    while True:
        try:
            await asyncio.sleep(3_600)
        except asyncio.CancelledError:
            pass

async def late(job: Job) -> str:
    if job.input == "late":
        until_told(job)  # blocks the worker's loop: nothing is sent
    return job.input.upper()

def reports_twice(job: Job, ctx) -> str:
    ctx.progress("one")
    time.sleep(0.3)  # long enough for it to be sent
    ctx.progress("two")
    return until_told(job)

def until_told(job: Job) -> str:
    begun(job)
    while not pathlib.Path("go on").exists():
        time.sleep(0.01)
    return "told"
"""


class Program(subprocess.Popen[bytes]):
    """A process whose log is a file, so that no child that it leaves keeps a reader waiting."""

    def __init__(self, command: list[str], folder: Path, log: Path, **options: Any) -> None:
        self.log_file = log
        self.is_broker = "tollgate.broker" in command
        with log.open("wb") as file:
            super().__init__(
                command, cwd=folder, stdin=subprocess.DEVNULL, stderr=file,
                start_new_session=True, **options,
            )  # fmt: skip

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self.log_file.read_text()

    def end_group(self) -> None:
        """Kill it with all the children that it left."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()


class House:
    """A folder with a broker's socket and users' handlers, and all processes started in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.endpoint = f"ipc://{folder}/b"
        self._programs: list[Program] = []
        self._started = 0
        self.has("handlers", HANDLERS)

    def has(self, module: str, code: str) -> None:
        """Write a module of the user's."""
        (self.folder / f"{module}.py").write_text(code)

    def broker(self, *options: str) -> Program:
        memory = [] if "--data-dir" in options else ["--in-memory"]
        program = self._start("tollgate.broker", "--bind", self.endpoint, *memory, *options)
        with Client(self.endpoint, timeout_s=PATIENCE_S) as client:
            client.ping()
        return program

    def worker(self, *options: str, handler: str = "", **popen: Any) -> Program:
        """Start a worker; `handler` is a function of `handlers`, or module:function."""
        name = handler if ":" in handler else f"handlers:{handler}"
        chosen = ["--handler", name] if handler else []
        command = ("tollgate.worker", "--endpoint", self.endpoint, *chosen, *options)
        return self._start(*command, **popen)

    def script(self, code: str) -> Program:
        """Start a program of the user's, with the endpoint in its environment."""
        self.has("script", code)
        environment = {**os.environ, "TOLLGATE_ENDPOINT": self.endpoint}
        return self._run([sys.executable, "script.py"], "script", env=environment)

    def until_begun(self, job: Job) -> None:
        """Wait until a handler has said that it works on `job`."""
        self.until((self.folder / job.job_id).exists)

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def told(self, name: str) -> str:
        """Return what a handler has written to a file of this folder; "" if there is none."""
        path = self.folder / name
        return path.read_text() if path.exists() else ""

    def kill_workers(self) -> None:
        """End all that a test left but the broker, and forget what it told the handlers."""
        (self.folder / "go on").unlink(missing_ok=True)
        for program in [each for each in self._programs if not each.is_broker]:
            program.end_group()
            self._programs.remove(program)

    def close(self) -> None:
        self.kill_workers()
        for broker in self._programs:
            broker.send_signal(signal.SIGCONT)
            broker.terminate()
        for broker in self._programs:
            with suppress(subprocess.TimeoutExpired):
                broker.wait(PATIENCE_S)
            broker.end_group()

    def _start(self, module: str, *arguments: str, **popen: Any) -> Program:
        return self._run([sys.executable, "-m", module, *arguments], module, **popen)

    def _run(self, command: list[str], name: str, **popen: Any) -> Program:
        self._started += 1
        log = self.folder / f"{name}.{self._started}.log"
        program = Program(command, self.folder, log, **popen)
        self._programs.append(program)
        return program


def paid(client: Client, text: str, **fields: object) -> Job:
    """Create a job whose payment is confirmed already."""
    (job,) = all_paid(client, [text], **fields)
    return job


def all_paid(client: Client, texts: Iterable[str], **fields: object) -> list[Job]:
    """Create jobs whose payments are confirmed already."""
    return pay(client, client.create_many({"input": text, **fields} for text in texts))


def pay(client: Client, jobs: Iterable[Job]) -> list[Job]:
    """Confirm the payments of jobs."""
    batch = client.batch()
    for job in jobs:
        batch.transition(job.job_id, JobStatus.RUNNING)
    paid: list[Job] = batch.send()
    return paid


def ended(client: Client, job: Job) -> Job:
    return client.wait(job.job_id, timeout_s=PATIENCE_S)


def left(program: Program) -> tuple[int, str]:
    """Wait for a program to end; return its exit code and what it logged."""
    exit_code = program.wait(PATIENCE_S)
    return exit_code, program.log


def until_logged(program: Program, text: str) -> None:
    """Wait until a program has logged `text`."""
    deadline = time.monotonic() + PATIENCE_S
    while text not in program.log:
        assert program.poll() is None, f"it ended before: {program.log}"
        assert time.monotonic() < deadline, program.log
        time.sleep(0.01)

"""A folder with a real broker and real workers in it, for the tests that need processes."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tollgate.client.sync import Client
from tollgate.domain.models import Job

ROOT: Final = Path(__file__).parents[2]
PATIENCE_S: Final = 40.0

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
        until_told(job)  # blocks the worker: nothing is touched, nothing is sent
    return job.input.upper()

def until_told(job: Job) -> str:
    begun(job)
    while not pathlib.Path("go on").exists():
        time.sleep(0.01)
    return "told"
"""


class House:
    """A folder with a broker's socket and users' handlers, and all processes started in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.endpoint = f"ipc://{folder}/b"
        self._processes: list[subprocess.Popen[str]] = []
        (folder / "handlers.py").write_text(HANDLERS)

    def broker(self, *options: str) -> subprocess.Popen[str]:
        memory = [] if "--data-dir" in options else ["--in-memory"]
        process = self._start("tollgate.broker", "--bind", self.endpoint, *memory, *options)
        with Client(self.endpoint, timeout_s=PATIENCE_S) as client:
            client.ping()
        return process

    def worker(self, *options: str, handler: str = "") -> subprocess.Popen[str]:
        chosen = ["--handler", f"handlers:{handler}"] if handler else []
        quick = ["--pay-delay-ms-min", "0", "--pay-delay-ms-max", "5"]
        return self._start(
            "tollgate.worker", "--endpoint", self.endpoint, *quick, *chosen, *options
        )

    def until_begun(self, job: Job) -> None:
        """Wait until a handler has said that it works on `job`."""
        self.until((self.folder / job.job_id).exists)

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def kill_workers(self) -> None:
        """End the workers that a test left, and forget what it told the handlers."""
        (self.folder / "go on").unlink(missing_ok=True)
        workers = [each for each in self._processes if "tollgate.worker" in str(each.args)]
        for worker in workers:
            if worker.poll() is None:
                worker.kill()
                worker.communicate()
            self._processes.remove(worker)

    def close(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                # A worker has its stop tested above, and need not be waited for here.
                (process.terminate if "broker" in str(process.args) else process.kill)()
            try:
                process.communicate(timeout=PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()

    def _start(self, module: str, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=self.folder,
            text=True,
            stderr=subprocess.PIPE,
        )
        self._processes.append(process)
        return process


def ended(client: Client, job: Job) -> Job:
    return client.wait(job.job_id, timeout_s=PATIENCE_S)


def left(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for a process to end; return its exit code and what it logged."""
    _, log = process.communicate(timeout=PATIENCE_S)
    return process.returncode, log


def until_logged(process: subprocess.Popen[str], text: str) -> None:
    """Wait until a process logs a line with `text`."""
    assert process.stderr is not None
    while text not in (line := process.stderr.readline()):
        assert line, "it ended before"

"""The other side of a client: answers made by hand, a scripted ROUTER, a real broker."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import msgspec
import zmq

from tollgate.domain.commands import AnyCommand, Hello
from tollgate.domain.messages import (
    PROTOCOL_VERSION,
    Reply,
    Request,
    decode_request,
    encode_refused,
)
from tollgate.domain.results import AnyResult, HelloResult, JobFields, JobResult
from tollgate.domain.status import JobStatus

ROOT = Path(__file__).parents[2]
WALL = datetime(2026, 1, 1, tzinfo=UTC)
WALL_S = WALL.timestamp()
HASH = "0123456789abcdef" * 4
PATIENCE_S = 30.0
"""Longer than anything here takes, even on a slow machine."""
AT_ONCE_S = 0.05
"""How long a call may take that fails because no broker answers, if nothing has to arrive first."""
SOON_S = 0.2
"""The same, if other threads have to act meanwhile."""
A_WHILE_S = 1.0
"""The same, if something has to arrive first."""
encode = msgspec.msgpack.encode


def job_id(number: int) -> str:
    return f"{number:08x}-0000-4000-8000-000000000000"


def job_fields(number: int = 1, **fields: Any) -> JobFields:
    return JobFields(**wire_job(number, **fields))


def wire_job(number: int = 1, **fields: Any) -> dict[str, Any]:
    """Return a job as a map, to change it or to validate it as a `Job`."""
    return {
        "job_id": job_id(number),
        "status": JobStatus.AWAITING_PAYMENT,
        "input_hash": HASH,
        "blockchain_identifier": f"payment {number}",
        "created_at": WALL,
        "updated_at": WALL,
        "result": None,
        "error": None,
        "version": 1,
        "input": None,
        "identifier_from_purchaser": None,
        "pay_by_time": None,
        "submit_result_time": None,
        "input_schema": None,
        "provided_input": None,
        **fields,
    }


def job_result(number: int = 1, **fields: Any) -> JobResult:
    return JobResult(job_fields(number, **fields))


def hello_result(**limits: int) -> HelloResult:
    return HelloResult(
        protocol=1,
        server="test",
        boot_id="boot",
        session=None,
        remembers=False,
        role="admin",
        limits={"request_bytes": 262_144, "commands": 1_000, **limits},
    )


def greeting(
    session: int | None = None,
    *,
    time: datetime | None = WALL,
    revision: int = 3,
    remembers: bool = False,
) -> HelloResult:
    """Return the greeting of a broker that knows this revision, at this time."""
    hello = hello_result()
    hello.session, hello.remembers = session, remembers or session is not None
    hello.time, hello.revision, hello.roles = time, revision, ["admin"]
    return hello


def reply(seq: int, *results: AnyResult) -> bytes:
    return encode(Reply(PROTOCOL_VERSION, seq, [*results]))


def refused(seq: int | None, refusal: Any) -> bytes:
    return encode_refused(seq, refusal)


Answer = Callable[[Request], list[bytes]]


def obliging(answer: Callable[[AnyCommand], AnyResult]) -> Answer:
    """Answer hello as a broker does, and every other command by `answer`."""

    def answer_all(request: Request) -> list[bytes]:
        results = [
            hello_result() if isinstance(command, Hello) else answer(command)
            for command in request.commands
        ]
        return [reply(request.seq, *results)]

    return answer_all


class ScriptedRouter:
    """A ROUTER in a thread, which answers each request with the frames that `answer` returns."""

    def __init__(self, endpoint: str, answer: Answer) -> None:
        self.endpoint = endpoint
        self.requests: list[Request] = []
        self._answer = answer
        self._stop = threading.Event()
        self._bound = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._bound.wait(PATIENCE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(PATIENCE_S)

    def commands(self) -> list[AnyCommand]:
        return [command for request in self.requests for command in request.commands]

    def _run(self) -> None:
        with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
            socket.setsockopt(zmq.LINGER, 0)
            socket.bind(self.endpoint)
            self._bound.set()
            while not self._stop.is_set():
                if not socket.poll(10):
                    continue
                peer, frame = socket.recv_multipart()
                request = decode_request(frame)
                self.requests.append(request)
                for answer in self._answer(request):
                    socket.send_multipart([peer, answer])


class BrokerProcess:
    """A real broker at one endpoint, which tests start and end."""

    def __init__(self, endpoint: str, *options: str, in_memory: bool = True) -> None:
        self.endpoint = endpoint
        self._command = [sys.executable, "-m", "tollgate.broker", "--bind", endpoint, *options]
        if in_memory:
            self._command.append("--in-memory")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> Self:
        self._process = subprocess.Popen(self._command, cwd=ROOT, stderr=subprocess.DEVNULL)
        return self

    def freeze(self) -> None:
        """Stop the process: its socket still takes requests, and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def kill(self) -> None:
        """End it with SIGKILL, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE_S)
            self._process = None

    def terminate(self) -> int:
        """End it with SIGTERM; return its exit code."""
        assert self._process is not None
        self._process.terminate()
        code = self._process.wait(PATIENCE_S)
        self._process = None
        return code


def printed(program: str, *arguments: object) -> list[str]:
    """Run a program in an interpreter of its own; return the lines that it prints.

    It must end well and print no error. Some programs fork with threads, which Python 3.12 warns
    of: users do the same.
    """
    quiet = "ignore::DeprecationWarning"
    done = subprocess.run(
        [sys.executable, "-W", quiet, "-c", program, *map(str, arguments)],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()

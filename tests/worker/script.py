"""A broker that answers by a script, for orderings that a real one does not produce on demand.

`ScriptedLink` is the part of `Link` that the worker's loop uses, and `ScriptedClient` the part of
`Client` that its lease thread uses. Both answer from one `Script`.
"""

import asyncio
import inspect
import select
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Self
from uuid import UUID

from tollgate.client.results import History, Lease, Touched
from tollgate.domain.commands import AnyCommand, Claim, Release, Touch, Transition
from tollgate.domain.exceptions import JobNotFoundError, TollgateError
from tollgate.domain.models import Job
from tollgate.domain.results import HelloResult
from tollgate.domain.status import RUNNING, JobStatus

PATIENCE_S: Final = 30.0
"""Longer than anything here takes, on a machine however slow."""
UNSCRIPTED: Final = object()
_AT: Final = datetime(2026, 1, 1, tzinfo=UTC)


def make_job(number: int = 1, **fields: Any) -> Job:
    given: dict[str, Any] = {
        "job_id": str(UUID(int=number)),
        "status": RUNNING,
        "input_hash": "0" * 64,
        "blockchain_identifier": f"payment {number}",
        "created_at": _AT,
        "updated_at": _AT,
        "version": 2,
    }
    return Job(**given | fields)


def make_lease(number: int = 1, token: int | None = None, **fields: Any) -> Lease:
    return Lease(make_job(number, **fields), token or 100 + number, 30_000)


def number_of(job_id: str) -> int:
    return UUID(job_id).int


@dataclass(frozen=True)
class Said:
    """One command that the worker sent, with what tests look at."""

    name: str
    job: int = 0
    """The number of the job."""
    token: int | None = None
    target: JobStatus | None = None
    text: str | None = None
    """A result, an error, a question, a reason, or a progress."""
    version: int | None = None
    limit: int | None = None
    """Of a claim."""
    fields: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def short(self) -> tuple[Any, ...]:
        return (self.name, self.job, self.target or self.text)


def said_of(command: AnyCommand) -> Said:
    match command:
        case Transition():
            text = command.result or command.error or command.input_schema
            return Said(
                "transition", number_of(command.job_id), command.lease, command.target, text,
                command.expected_version, fields={"keep_lease": command.keep_lease},
            )  # fmt: skip
        case Release():
            return Said(
                "release", number_of(command.job_id), command.lease, text=command.reason,
                fields={"delay_ms": command.delay_ms, "hold": command.hold},
            )  # fmt: skip
        case Claim():
            fields = {"wait_ms": command.wait_ms, "queues": command.queues}
            return Said("claim", target=command.status, limit=command.limit, fields=fields)
        case Touch():
            return Said("first touch", number_of(command.job_id), command.lease)
    raise AssertionError(command)


class Script:
    """The answers to come, by the name of the command, and what was said.

    Answers are values, exceptions, or functions that return one. Without one, a claim that waits is
    parked until there is one, a claim that does not finds nothing, and all else succeeds.
    """

    def __init__(self) -> None:
        self.answers: dict[str, list[Any]] = defaultdict(list)
        self.said: list[Said] = []
        self.messages: list[list[str]] = []
        """The names of the commands of each message."""
        self._lock = threading.Lock()

    def hear(self, said: Said) -> Any:
        with self._lock:
            self.said.append(said)
            answers = self.answers[said.name]
            return answers.pop(0) if answers else UNSCRIPTED

    def all(self, *names: str) -> list[Said]:
        """Everything that was said with these commands."""
        return [each for each in [*self.said] if each.name in names]

    def outcomes(self) -> list[tuple[Any, ...]]:
        """What was said about jobs: transitions and releases."""
        return [each.short for each in self.all("transition", "release")]

    async def until_said(self, name: str, times: int = 1) -> None:
        await until(lambda: len(self.all(name)) >= times)


class ScriptedCall:
    """A request of a `ScriptedLink`."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None


class ScriptedLink:
    """The part of `Link` that the worker uses."""

    endpoint = "ipc:///somewhere"

    def __init__(self) -> None:
        self.script = Script()
        self.limits: dict[str, int] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._more = asyncio.Event()
        self._pushed = asyncio.Event()

    def grant(self, *leases: Lease) -> None:
        """Answer a parked claim, or the next one, with these leases."""
        self.script.answers["claim"].append([*leases])
        self._more.set()

    def post(
        self,
        commands: Sequence[AnyCommand],
        on_answer: Callable[[list[Any]], None],
        timeout_s: float,
    ) -> ScriptedCall:
        script, call = self.script, ScriptedCall()
        said = [said_of(command) for command in commands]
        script.messages.append([each.name for each in said])
        parks = isinstance(commands[0], Claim) and commands[0].wait_ms > 0
        answers = [script.hear(each) for each in said]
        first = script.answers["post"].pop(0) if script.answers["post"] and not parks else None
        pushed = self._pushed

        async def answer() -> None:
            await pushed.wait()
            await asyncio.sleep(0)
            try:
                await _worth(first)
            except TollgateError as fault:
                on_answer([fault] * len(commands))
                return
            while parks and answers[0] is UNSCRIPTED:
                if script.answers["claim"]:  # granted before this task came so far
                    answers[0] = script.answers["claim"].pop(0)
                else:
                    self._more.clear()
                    await self._more.wait()
            on_answer(
                [
                    await _value(each, command)
                    for each, command in zip(answers, commands, strict=True)
                ]
            )

        call.task = asyncio.create_task(answer())
        self._calls.add(call.task)
        call.task.add_done_callback(self._calls.discard)
        return call

    def push(self) -> None:
        self._pushed.set()
        self._pushed = asyncio.Event()

    def withdraw(self, call: ScriptedCall) -> None:
        self.script.said.append(Said("withdraw"))
        assert call.task is not None
        call.task.cancel()

    async def send(self, command: AnyCommand) -> Any:
        self.script.messages.append([said_of(command).name])
        answer = self.script.hear(said_of(command))
        await asyncio.sleep(0)
        return _raised(await _value(answer, command))

    async def send_many(self, commands: Iterable[AnyCommand]) -> list[Any]:
        given = [*commands]
        self.script.messages.append([said_of(each).name for each in given])
        return [await _value(self.script.hear(said_of(each)), each) for each in given]

    async def get(self, job_id: str) -> Job:
        answer = self.script.hear(Said("get", number_of(job_id)))
        await asyncio.sleep(0)
        if answer is UNSCRIPTED:
            raise JobNotFoundError(job_id)
        job: Job = await _worth(answer)
        return job

    async def touch(self, job_id: str, token: int, *, lease_ms: int) -> Touched:
        answer = self.script.hear(Said("touch", number_of(job_id), token))
        await asyncio.sleep(0)
        if answer is UNSCRIPTED:
            return Touched(stop_requested=False)
        touched: Touched = await _worth(answer)
        return touched

    async def release(self, job_id: str, token: int) -> None:
        answer = self.script.hear(Said("release", number_of(job_id), token))
        await asyncio.sleep(0)
        await _worth(answer)

    async def claim(self, status: JobStatus, *, job_ids: list[str], lease_ms: int) -> list[Lease]:
        answer = self.script.hear(Said("reclaim", number_of(job_ids[0]), target=status))
        await asyncio.sleep(0)
        leases: list[Lease] = [] if answer is UNSCRIPTED else await _worth(answer)
        return leases

    async def wait(self, job_ids: list[str], *, statuses: list[JobStatus], timeout_s: float) -> Job:
        """Answer from the script; a wait without an answer lasts until it is cancelled."""
        said = Said("wait", fields={"jobs": sorted(number_of(each) for each in job_ids)})
        answer = self.script.hear(said)
        while answer is UNSCRIPTED:
            await asyncio.sleep(0.001)
            if self.script.answers["wait"]:
                answer = self.script.answers["wait"].pop(0)
        job: Job = await _worth(answer)
        return job

    async def history(self, job_id: str) -> History:
        answer = self.script.hear(Said("history", number_of(job_id)))
        await asyncio.sleep(0)
        entries = [] if answer is UNSCRIPTED else await _worth(answer)
        return History(job_id, entries, 0, None, "position")

    async def ping(self, timeout_s: float) -> HelloResult:
        assert timeout_s
        answer = self.script.hear(Said("ping"))
        await asyncio.sleep(0)
        hello: HelloResult = await _worth(answer)
        return hello

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def until_quiet(self, timeout_s: float) -> None:
        pass

    def limit(self, name: str, default: int) -> int:
        return self.limits.get(name, default)


def moved(command: Transition) -> Job:
    """The job after a transition."""
    return make_job(
        number_of(command.job_id),
        status=command.target,
        result=command.result,
        error=command.error,
        input_schema=command.input_schema,
        version=(command.expected_version or 1) + 1,
    )


async def _worth(answer: Any) -> Any:
    if callable(answer):
        answer = answer()
    if inspect.isawaitable(answer):
        answer = await answer
    return _raised(answer)


async def _value(answer: Any, command: AnyCommand) -> Any:
    """The value of a command; refusals are values."""
    if answer is UNSCRIPTED:
        match command:
            case Transition():
                return moved(command)
            case Claim():
                return []
        return None
    try:
        return await _worth(answer)
    except TollgateError as fault:
        return fault


def _raised(answer: Any) -> Any:
    if isinstance(answer, BaseException):
        raise answer
    return answer


class ScriptedClient:
    """The part of `Client` that the lease thread uses; its calls block."""

    def __init__(self, script: Script) -> None:
        self.script = script

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def close(self) -> None:
        pass

    def batch(self) -> "ScriptedBatch":
        return ScriptedBatch(self.script)

    def claim(
        self, status: JobStatus, *, job_ids: list[str], lease_ms: int, wait_ms: int
    ) -> list[Lease]:
        assert lease_ms
        assert not wait_ms
        answer = self.script.hear(Said("reclaim", number_of(job_ids[0]), target=status))
        leases: list[Lease] = [] if answer is UNSCRIPTED else _blocking(answer)
        return leases

    def release(self, job_id: str, token: int) -> None:
        _blocking(self.script.hear(Said("release", number_of(job_id), token)))

    def send_many(self, commands: Iterable[AnyCommand]) -> list[Any]:
        given = [*commands]
        self.script.messages.append([said_of(each).name for each in given])
        return [_blocking(self.script.hear(said_of(each))) for each in given]


class ScriptedBatch:
    """Touches of a `ScriptedClient`."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._touches: list[Said] = []

    def touch(
        self,
        job_id: str,
        token: int,
        *,
        lease_ms: int,
        progress: str | None,
        fraction: float | None,
    ) -> None:
        given = {"lease_ms": lease_ms, "fraction": fraction}
        said = Said("touch", number_of(job_id), token, text=progress, fields=given)
        self._touches.append(said)

    def send(self) -> list[Any]:
        self._script.messages.append(["touch"] * len(self._touches))
        answers = [self._script.hear(each) for each in self._touches]
        if self._script.answers["touches"]:
            _blocking(self._script.answers["touches"].pop(0))
        return [Touched(stop_requested=False) if each is UNSCRIPTED else each for each in answers]


def _blocking(answer: Any) -> Any:
    return _raised(answer() if callable(answer) and answer is not UNSCRIPTED else answer)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what is looked at knows no events
            await asyncio.sleep(0.002)


def until_true(condition: Callable[[], object]) -> None:
    """Wait in a test without a loop."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def is_readable(file: Any, within_s: float = 0) -> bool:
    """Return whether there is something to read, of any descriptor: `select` ends at 1,023."""
    poller = select.poll()
    poller.register(file, select.POLLIN)
    return bool(poller.poll(within_s * 1_000))


async def turns(number: int = 20) -> None:
    """Let the loop do all that it can do without waiting."""
    for _ in range(number):
        await asyncio.sleep(0)

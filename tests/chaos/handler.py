"""The handlers of the workers: one plain, one async. Both do what the script of the job says."""

import asyncio
import ctypes
import os
import resource
import signal
import time
from collections.abc import Generator
from random import Random
from typing import Any, Final, NamedTuple

import msgspec

from tests.chaos.notes import BEGUN, FAULT, FINISHED, LEFT, Notes
from tests.chaos.scripts import End, Fault, Script, Work, answer
from tollgate import AsyncContext, Context, Fail, Job, Retry

EVER_S: Final = 3_600.0
STOP_POLL_S: Final = 0.05
TOO_LARGE: Final = "x" * 2_000_000


class ScriptedError(Exception):
    """A failure that the script asks for."""


class Wait(NamedTuple):
    """Let time pass: an async handler lets others work meanwhile."""

    seconds: float


class Ask(NamedTuple):
    """Ask a human; the answer is sent into the generator."""

    question: str
    key: int | str | None


Step = Wait | Ask


def plain(job: Job, ctx: Context) -> object:
    """Play the script of a job, without an event loop."""
    notes = Notes(job.job_id, ctx.attempt)
    steps = play(script_of(job), ctx, notes)
    said: str | None = None
    try:
        while True:
            match steps.send(said):
                case Wait(seconds):
                    time.sleep(seconds)
                    said = None
                case Ask(question, key):
                    said = ctx.ask(schema(question), key)
    except StopIteration as end:
        return end.value
    except BaseException as fault:
        notes.write(LEFT, repr(fault))
        raise


async def later(job: Job, ctx: AsyncContext) -> object:
    """Play the script of a job, in an event loop."""
    notes = Notes(job.job_id, ctx.attempt)
    steps = play(script_of(job), ctx, notes)
    said: str | None = None
    try:
        while True:
            match steps.send(said):
                case Wait(seconds):
                    await asyncio.sleep(seconds)
                    said = None
                case Ask(question, key):
                    said = await ctx.ask(schema(question), key)
    except StopIteration as end:
        return end.value
    except BaseException as fault:
        notes.write(LEFT, repr(fault))
        raise


def script_of(job: Job) -> Script:
    return msgspec.json.decode(job.input or "", type=Script)


def schema(question: str) -> dict[str, Any]:
    return {"input_data": [{"id": "it", "type": "string", "name": question}]}


def play(
    script: Script, ctx: Context | AsyncContext, notes: Notes
) -> Generator[Step, str | None, object]:
    """Yield what has to be waited for, and return what the handler returns."""
    notes.write(BEGUN)
    ctx.progress(f"call {ctx.attempt}", 0.5)
    order = list(range(script.questions))
    if script.is_named:
        Random(notes.run).shuffle(order)
    answers: dict[int, str] = {}
    is_faulty = notes.faults < len(script.faults) or script.end is End.EXHAUST
    for done, number in enumerate(order):
        if is_faulty and done == script.fault_after:
            break
        answers[number] = yield from ask(script, number)
    if is_faulty:
        yield from fail(script, notes)
    yield from work(script)
    said = "; ".join(answers[number] for number in sorted(answers))
    return (yield from finish(script, ctx, notes, said))


def ask(script: Script, number: int) -> Generator[Step, str | None, str]:
    question = script.question(number)
    said = yield Ask(question, script.key(number))
    if said != answer(question):
        raise Fail(f"{said!r} was the answer to {question}")
    return said


def fail(script: Script, notes: Notes) -> Generator[Step, str | None, None]:
    """Fail as the script says."""
    number = notes.faults
    kind = script.faults[number] if number < len(script.faults) else Fault.RAISE
    reason = script.reason(number)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    notes.write(FAULT, kind)
    match kind:
        case Fault.RETRY:
            raise Retry(reason, after_s=0.05 * (1 + number))
        case Fault.HANG:
            yield Wait(EVER_S)
        case Fault.EXIT:
            os._exit(3)
        case Fault.SEGFAULT:
            ctypes.string_at(0)
        case Fault.SIGKILL:
            os.kill(os.getpid(), signal.SIGKILL)
        case Fault.HOLD:
            hold(EVER_S)
    raise ScriptedError(reason)


def work(script: Script) -> Generator[Step, str | None, None]:
    """Let the time of the script pass."""
    match script.work:
        case Work.WAIT:
            yield Wait(script.work_ms / 1_000)
        case Work.BLOCK:
            time.sleep(script.work_ms / 1_000)
        case Work.HOLD:
            hold(script.work_ms / 1_000)


def hold(seconds: float) -> None:
    """Wait in a C call that holds the interpreter: no other thread runs meanwhile."""
    library = ctypes.PyDLL(None)  # unlike CDLL, it keeps the lock
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        library.usleep(int(min(left, 1_000) * 1e6))


def finish(
    script: Script, ctx: Context | AsyncContext, notes: Notes, said: str
) -> Generator[Step, str | None, object]:
    match script.end:
        case End.FAIL:
            raise Fail(script.reason(-1))
        case End.OTHER_QUESTION:
            if not script.questions:
                yield from ask(script, 0)
            yield Ask(f"another {script.question(0)}", script.key(0) or 0)
            raise ScriptedError("the other question was answered")
        case End.TOO_LARGE:
            return TOO_LARGE
        case End.NO_TEXT:
            return 42
        case End.STOP:
            while not ctx.stop_requested:
                yield Wait(STOP_POLL_S)
    notes.write(FINISHED)
    return f"job {script.number}: {said}: {notes.run}"

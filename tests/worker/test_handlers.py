"""Finding the user's function, and calling it without harm to the worker."""

import asyncio
import functools
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from tollgate.domain.models import Job
from tollgate.domain.status import JobStatus
from tollgate.worker.handlers import (
    Handler,
    HandlerCalls,
    HandlerNotFoundError,
    HandlerResult,
    load_handler,
)

MODULE = """
def plain(job): return "plain"
class Group:
    @staticmethod
    def inside(job): return "inside"
number = 3
"""


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_handler_is_found_in_the_current_directory(
    directory: Path, make_job: Callable[..., Job]
) -> None:
    (directory / "my_handlers.py").write_text(MODULE)
    assert load_handler("my_handlers:plain")(make_job()) == "plain"
    assert load_handler("my_handlers:Group.inside")(make_job()) == "inside"
    assert sys.path.count(str(directory)) == 1
    assert sys.path[-1] == str(directory)  # behind all that is installed, once it is imported


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("my_handlers", "'my_handlers' is not of the form module:function"),
        (":plain", "':plain' is not of the form module:function"),
        ("my_handlers:", "'my_handlers:' is not of the form module:function"),
        ("missing:plain", "there is no module missing, neither installed nor in this directory"),
        ("my_handlers:missing", "module my_handlers has no missing"),
        ("my_handlers:number", "my_handlers:number is not a function"),
        ("broken:plain", "module broken cannot be imported: ValueError: on two lines"),
        ("needy:plain", "cannot be imported: ModuleNotFoundError: No module named 'absent'"),
        ("..:plain", "module .. cannot be imported: TypeError"),
    ],
)
def test_what_is_no_handler_is_said_in_one_line(directory: Path, path: str, complaint: str) -> None:
    (directory / "my_handlers.py").write_text(MODULE)
    (directory / "broken.py").write_text("raise ValueError('on\\ntwo lines')")
    (directory / "needy.py").write_text("import absent")
    with pytest.raises(HandlerNotFoundError) as caught:
        load_handler(path)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def plain(job: Job) -> str:
    return f"plain in {threading.current_thread().name.split('_')[0]}"


async def coroutine(job: Job) -> str:
    await asyncio.sleep(0)
    return "async"


@functools.wraps(plain)
def hands_over_a_coroutine(job: Job) -> object:
    return coroutine(job)


class AsyncObject:
    async def __call__(self, job: Job) -> str:
        return f"async in {threading.current_thread().name}"


async def outcome_of(handler: Handler, job: Job) -> HandlerResult:
    calls = HandlerCalls(handler, 2)
    try:
        return await calls.call(job)
    finally:
        calls.close()


@pytest.mark.parametrize(
    ("handler", "result"),
    [
        (plain, "plain in handler"),
        (coroutine, "async"),
        (hands_over_a_coroutine, "async"),
        (functools.partial(coroutine), "async"),
        (AsyncObject(), "async in MainThread"),
    ],
)
async def test_every_kind_of_function_is_called(
    handler: Handler, result: str, make_job: Callable[..., Job]
) -> None:
    assert await outcome_of(handler, make_job()) == HandlerResult(
        JobStatus.COMPLETED, result=result
    )


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (ValueError("bad"), "bad"),
        (SystemExit(), "SystemExit"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (asyncio.CancelledError(), "CancelledError"),
        (StopIteration(), None),
    ],
)
@pytest.mark.parametrize("is_async", [False, True])
async def test_whatever_a_handler_raises_fails_its_job_alone(
    fault: BaseException, error: str | None, is_async: bool, make_job: Callable[..., Job]
) -> None:
    def raising(job: Job) -> NoReturn:
        raise fault

    async def raising_later(job: Job) -> NoReturn:
        await asyncio.sleep(0)
        raise fault

    outcome = await outcome_of(raising_later if is_async else raising, make_job())
    assert outcome.target is JobStatus.FAILED
    if error is not None:  # Python itself turns a StopIteration in a coroutine into another error
        assert outcome.error == error


async def test_a_thread_abandoned_on_is_counted_until_it_is_back(
    make_job: Callable[..., Job],
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def stubborn(job: Job) -> str:
        begun.set()
        go_on.wait(30)
        return "too late"

    calls = HandlerCalls(stubborn, 1)
    back = asyncio.Event()
    calls.on_thread_free = back.set
    running = asyncio.create_task(calls.call(make_job()))
    await asyncio.to_thread(begun.wait, 30)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert calls.abandoned == 1
    go_on.set()
    await asyncio.wait_for(back.wait(), 30)
    assert calls.abandoned == 0
    calls.close()


def test_a_thread_that_outlives_the_loop_is_nobodys_business(
    make_job: Callable[..., Job], caplog: pytest.LogCaptureFixture
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def stubborn(job: Job) -> str:
        begun.set()
        go_on.wait(30)
        return "too late"

    calls = HandlerCalls(stubborn, 1)

    async def give_up() -> None:
        running = asyncio.create_task(calls.call(make_job()))
        await asyncio.to_thread(begun.wait, 30)
        running.cancel()

    asyncio.run(give_up())
    go_on.set()
    calls._pool.shutdown(wait=True)
    assert not caplog.records


async def test_a_call_that_waits_for_a_thread_can_be_taken_back(
    make_job: Callable[..., Job],
) -> None:
    go_on = threading.Event()
    called: list[str] = []

    def handler(job: Job) -> str:
        called.append(job.job_id)
        go_on.wait(30)
        return "done"

    calls = HandlerCalls(handler, 1)
    first = asyncio.create_task(calls.call(make_job(1)))
    second = asyncio.create_task(calls.call(make_job(2)))
    await asyncio.sleep(0.05)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    assert calls.abandoned == 0
    go_on.set()
    assert (await first).result == "done"
    assert called == [make_job(1).job_id]
    calls.close()

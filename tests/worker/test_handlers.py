"""Finding the user's function, and calling it without harm to the worker."""

import asyncio
import functools
import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.worker.script import PATIENCE_S, make_job, until, until_true
from tollgate.domain.models import Job
from tollgate.worker import handlers as handlers_module
from tollgate.worker.call import CallResult, Fail, Retry, Suspended
from tollgate.worker.context import AsyncContext, Context
from tollgate.worker.example_handler import describe
from tollgate.worker.handlers import (
    HandlerNotFoundError,
    LoopExecutor,
    ThreadExecutor,
    is_async,
    load_handler,
    takes_context,
)

MODULE = """
def plain(job): return "plain"
class Group:
    @staticmethod
    def inside(job): return "inside"
number = 3
def generates(job): yield "text"
async def streams(job): yield "text"
def takes_none(): pass
def takes_more(job, ctx, model): pass
def takes_names(job, *, model): pass
"""


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_directory_that_was_removed_is_no_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert load_handler("tollgate.worker.example_handler:describe") is describe


def test_a_handler_is_found_in_the_current_directory(directory: Path) -> None:
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
        ("my_handlers:Group", "my_handlers:Group is a class: name a function, or an object of"),
        ("my_handlers:generates", "my_handlers:generates is a generator: a handler returns its"),
        ("my_handlers:streams", "my_handlers:streams is a generator: a handler returns its"),
        ("my_handlers:takes_none", "cannot be called with a job and a context: too many positi"),
        ("my_handlers:takes_more", "a job and a context: missing a required argument: 'model'"),
        ("my_handlers:takes_names", "a job and a context: missing a required"),
        ("exiting:plain", "module exiting cannot be imported: SystemExit: 0"),
        ("broken:plain", "module broken cannot be imported: ValueError: on two lines"),
        ("needy:plain", "cannot be imported: ModuleNotFoundError: No module named 'absent'"),
        ("..:plain", "module .. cannot be imported: TypeError"),
        ("script:plain", "module script cannot be imported: SystemExit: 3"),
    ],
)
def test_what_is_no_handler_is_said_in_one_line(directory: Path, path: str, complaint: str) -> None:
    (directory / "my_handlers.py").write_text(MODULE)
    (directory / "broken.py").write_text("raise ValueError('on\\ntwo lines')")
    (directory / "exiting.py").write_text("import sys\nsys.exit(0)")
    (directory / "needy.py").write_text("import absent")
    (directory / "script.py").write_text("import sys\nsys.exit(3)")
    with pytest.raises(HandlerNotFoundError) as caught:
        load_handler(path)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


# --- what kind of function it is ------------------------------------------------------------------


def plain(job: Job) -> str:
    return f"plain in {threading.current_thread().name.split()[0]}"


def plain_with_context(job: Job, ctx: Context) -> str:
    return f"{type(ctx).__name__} of try {ctx.attempt}"


async def coroutine(job: Job) -> str:
    await asyncio.sleep(0)
    return "async"


async def coroutine_with_context(job: Job, ctx: AsyncContext) -> str:
    return f"{type(ctx).__name__} of try {ctx.attempt}"


@functools.wraps(plain)
def hands_over_a_coroutine(job: Job) -> object:
    return coroutine(job)


class AsyncObject:
    async def __call__(self, job: Job) -> str:
        return f"async in {threading.current_thread().name}"


class Methods:
    def plain(self, job: Job, ctx: Context) -> str:
        return f"method of try {ctx.attempt}"

    async def later(self, job: Job) -> str:
        return "async method"


def with_option(job: Job, model: str = "large") -> str:
    return model


def with_optional_context(job: Job, context: Context | None = None) -> str:
    return f"try {context.attempt}" if context else "none"


def _hands_on(function: Any) -> Any:
    """Return a function that looks like another one, and takes what that one takes."""

    @functools.wraps(function)
    def wrapper(*args: Any, **named: Any) -> Any:
        return function(*args, **named)

    return wrapper


def _adds_a_model(function: Any) -> Any:
    """Return a function that looks like another one, and has its second argument itself."""

    @functools.wraps(function)
    def wrapper(job: Job) -> Any:
        return function(job, "large")

    return wrapper


@_hands_on
def decorated(job: Job, ctx: Context) -> str:
    return f"decorated try {ctx.attempt}"


@_hands_on
@_adds_a_model
def decorated_with_model(job: Job, model: str) -> str:
    return model


def with_more(job: Job, *more: object, **named: object) -> str:
    return f"{len(more)} and {len(named)}"


class Call:
    """A call as the worker's loop gives it to an executor."""

    def __init__(self, number: int = 1) -> None:
        self.job = make_job(number)
        self.attempt = 2
        self.stop_requested = self.is_stopping = False
        self.results: list[CallResult] = []
        self.thread = ""
        self.begins = 0
        self.asked: list[Any] = []

    def set_progress(self, text: str, fraction: float | None) -> None:
        self.asked.append(text)

    async def ask(self, schema: Any, key: Any) -> str:
        await asyncio.sleep(0)
        if schema == "suspend":
            raise Suspended
        self.asked.append((schema, key, threading.current_thread().name))
        return "Ada"

    def began(self) -> None:
        self.begins += 1

    def done(self, result: CallResult) -> None:
        self.thread = threading.current_thread().name
        self.results.append(result)


Run = Callable[..., Any]


class NoThread:
    """A thread on a system that has none left."""

    def __init__(self, **_: Any) -> None:
        raise RuntimeError("can't start new thread")


@pytest.fixture
async def executors() -> Any:
    opened: list[LoopExecutor | ThreadExecutor] = []

    async def open_one(handler: Any) -> Any:
        opened.append((LoopExecutor if is_async(handler) else ThreadExecutor)(handler))
        await opened[-1].open()
        return opened[-1]

    yield open_one
    for each in opened:
        each.close()


async def result_of(executors: Run, handler: Any) -> CallResult:
    executor, call = await executors(handler), Call()
    executor.start(call)
    await until(lambda: call.results)
    (result,) = call.results
    assert call.thread == "MainThread"
    return result


@pytest.mark.parametrize(
    ("handler", "result"),
    [
        (plain, "plain in handler"),
        (plain_with_context, "Context of try 2"),
        (coroutine, "async"),
        (coroutine_with_context, "AsyncContext of try 2"),
        (hands_over_a_coroutine, "async"),
        (decorated, "decorated try 2"),
        (decorated_with_model, "large"),
        (functools.partial(coroutine), "async"),
        (AsyncObject(), "async in MainThread"),
        (Methods().plain, "method of try 2"),
        (Methods().later, "async method"),
        (with_option, "large"),
        (with_optional_context, "try 2"),
        (with_more, "0 and 0"),
        (lambda job: "lambda", "lambda"),
    ],
)
async def test_every_kind_of_function_is_called(executors: Run, handler: Any, result: str) -> None:
    assert await result_of(executors, handler) == CallResult(result)


def test_a_function_without_signature_gets_the_job_alone() -> None:
    assert not takes_context(dict.fromkeys)
    assert not takes_context(str)


# --- what it raises -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (ValueError("bad"), "ValueError: bad"),
        (SystemExit(), "SystemExit"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (asyncio.CancelledError(), "CancelledError"),
        (StopIteration(), None),
    ],
)
@pytest.mark.parametrize("kind", ["plain", "async", "awaited in a thread"])
async def test_whatever_a_handler_raises_fails_its_job_alone(
    executors: Run, fault: BaseException, error: str | None, kind: str
) -> None:
    def raising(job: Job) -> NoReturn:
        raise fault

    async def raising_later(job: Job) -> NoReturn:
        await asyncio.sleep(0)
        raise fault

    def handing_over(job: Job) -> object:
        return raising_later(job)

    handlers: dict[str, Callable[[Job], object]] = {
        "plain": raising, "async": raising_later, "awaited in a thread": handing_over,
    }  # fmt: skip
    result = await result_of(executors, handlers[kind])
    assert not result.is_suspended
    if error is not None:  # Python itself turns a StopIteration in a coroutine into another error
        assert result.error == error
    assert await result_of(executors, plain) == CallResult("plain in handler")


async def test_a_task_that_cancels_itself_fails_its_job_alone(executors: Run) -> None:
    async def handler(job: Job) -> str:
        task = asyncio.current_task()
        if job.job_id == make_job(1).job_id and task is not None:
            task.cancel()
        await asyncio.sleep(0)
        return "done"

    executor = await executors(handler)
    calls = [Call(number) for number in (1, 2, 3)]
    for each in calls:
        executor.start(each)
    await until(lambda: all(each.results for each in calls))
    assert [each.results for each in calls] == [
        [CallResult(error="CancelledError", trace=calls[0].results[0].trace)],
        [CallResult("done")],
        [CallResult("done")],
    ]


# --- async handlers -------------------------------------------------------------------------------


async def test_a_cancelled_task_is_suspended(executors: Run) -> None:
    async def handler(job: Job) -> str:
        await asyncio.sleep(3_600)
        return "never"

    executor, call = await executors(handler), Call()
    executor.start(call)
    await asyncio.sleep(0)
    assert executor.cancel(call, "its time is over") is False  # until it has ended
    await until(lambda: call.results)
    assert call.results == [CallResult(is_suspended=True)]
    executor.cancel(call, "again")


async def test_a_cancelled_task_may_still_return(executors: Run) -> None:
    async def handler(job: Job) -> str:
        try:
            await asyncio.sleep(3_600)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        return "after all"

    executor, call = await executors(handler), Call()
    executor.start(call)
    await asyncio.sleep(0)
    executor.cancel(call, "its time is over")
    await until(lambda: call.results)
    assert call.results == [CallResult("after all")]


@pytest.mark.parametrize(
    ("fault", "result"),
    [
        (ConnectionError("closed"), CallResult(is_suspended=True)),
        (ExceptionGroup("tasks", [ValueError()]), CallResult(is_suspended=True)),
        (Fail("stopped"), CallResult(error="stopped", is_final=True)),
        (Retry("later"), CallResult(error="later", is_retry=True)),
    ],
)
async def test_what_libraries_make_of_a_cancellation_is_no_try(
    executors: Run, fault: Exception, result: CallResult
) -> None:
    """What the handler decides counts."""

    async def handler(job: Job) -> str:
        try:
            await asyncio.sleep(3_600)
        except asyncio.CancelledError:
            raise fault from None
        return "never"

    executor, call = await executors(handler), Call()
    executor.start(call)
    await asyncio.sleep(0)
    executor.cancel(call, "the worker stops")
    await until(lambda: call.results)
    assert call.results == [result]


async def test_a_task_cancelled_before_it_began_is_suspended(executors: Run) -> None:
    executor, call = await executors(coroutine), Call()
    executor.start(call)
    executor.cancel(call, "its lease is lost")
    assert not call.results
    await until(lambda: call.results)
    assert call.results == [CallResult(is_suspended=True)]
    assert not executor._cancelled  # it keeps no job alive


async def test_an_ended_call_is_forgotten(executors: Run) -> None:
    executor, calls = await executors(coroutine), (Call(), Call())
    for call in calls:
        executor.start(call)
    await asyncio.sleep(0)  # both have begun
    executor.cancel(calls[1], "its lease is lost")
    await until(lambda: all(call.results for call in calls))
    assert not executor._tasks
    assert not executor._cancelled


async def test_the_call_of_a_task_is_known(executors: Run) -> None:
    seen: list[object] = []

    async def handler(job: Job) -> str:
        seen.append(executor.call_of(asyncio.current_task()))
        return "done"

    executor, call = await executors(handler), Call()
    executor.start(call)
    await until(lambda: call.results)
    assert seen == [call]
    assert executor.call_of(asyncio.current_task()) is None


async def test_a_closed_executor_ends_its_tasks(executors: Run) -> None:
    ended = asyncio.Event()

    async def handler(job: Job) -> str:
        try:
            await asyncio.sleep(3_600)
        finally:
            ended.set()
        return "never"

    executor, call = await executors(handler), Call()
    executor.start(call)
    await asyncio.sleep(0)
    executor.close()
    await asyncio.wait_for(ended.wait(), PATIENCE_S)


# --- handlers in threads --------------------------------------------------------------------------


async def test_a_thread_sees_its_call(executors: Run) -> None:
    def handler(job: Job, ctx: Context) -> str:
        ctx.progress("begun")
        until_true(lambda: ctx.stop_requested)
        until_true(lambda: ctx.worker_stopping)
        return ctx.ask({"a": 1}, "key")

    executor, call = await executors(handler), Call()
    executor.start(call)
    await until(lambda: call.asked == ["begun"])
    call.stop_requested = True
    executor.notify(call)
    call.is_stopping = True
    await until(lambda: call.results)
    assert call.results == [CallResult("Ada")]
    assert call.asked[1:] == [({"a": 1}, "key", "MainThread")]


async def test_a_suspended_question_ends_a_thread(executors: Run) -> None:
    def handler(job: Job, ctx: Context) -> str:
        try:
            return ctx.ask("suspend")
        except Exception:  # noqa: BLE001 - as handlers do
            return "caught"

    assert await result_of(executors, handler) == CallResult(is_suspended=True)


async def test_a_coroutine_of_a_plain_handler_may_ask(executors: Run) -> None:
    """Many decorators make a plain function of an async one. Its coroutine runs in the loop."""

    async def asks(ctx: Any) -> str:
        return str(await ctx.ask({"a": 1}, "key"))

    def handler(job: Job, ctx: Context) -> Any:
        return asks(ctx)

    assert await result_of(executors, handler) == CallResult("Ada")


async def test_a_thread_cannot_be_ended(executors: Run) -> None:
    go_on = threading.Event()

    def handler(job: Job) -> str:
        go_on.wait(PATIENCE_S)
        return "done"

    executor, call = await executors(handler), Call()
    executor.start(call)
    assert executor.cancel(call, "its time is over") is False
    go_on.set()
    await until(lambda: call.results)
    assert call.results == [CallResult("done")]


async def test_threads_are_used_again(executors: Run) -> None:
    names: list[str] = []

    def handler(job: Job) -> str:
        names.append(threading.current_thread().name)
        return "done"

    executor = await executors(handler)
    for _ in range(3):
        call = Call()
        executor.start(call)
        await until(lambda call=call: call.results)  # type: ignore[misc]
    assert set(names) == {"handler 1"}


async def test_as_many_threads_as_calls(executors: Run) -> None:
    meeting = threading.Barrier(5)

    def handler(job: Job) -> str:
        meeting.wait(PATIENCE_S)
        return "met"

    executor, calls = await executors(handler), [Call(number) for number in range(1, 6)]
    for each in calls:
        executor.start(each)
    await until(lambda: all(each.results for each in calls))
    assert {each.results[0].value for each in calls} == {"met"}


async def test_a_system_without_threads_loses_no_call(
    executors: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The call waits for a thread that becomes free."""
    go_on = threading.Event()

    def handler(job: Job) -> str:
        go_on.wait(PATIENCE_S)
        return "done"

    executor, calls = await executors(handler), [Call(number) for number in range(1, 4)]
    executor.start(calls[0])
    with monkeypatch.context() as patch:
        patch.setattr(handlers_module, "Thread", NoThread)
        executor.start(calls[1])
        executor.start(calls[2])
    assert [each.begins for each in calls] == [1, 0, 0]
    go_on.set()
    await until(lambda: all(each.results for each in calls))
    assert [each.begins for each in calls] == [1, 1, 1]
    assert caplog.text.count("no further thread can be started; there are 1") == 2
    executor.start(last := Call(4))
    await until(lambda: last.results)


async def test_the_first_calls_get_threads_as_soon_as_there_are_some(
    executors: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No thread of ours exists that could become free."""
    monkeypatch.setattr(handlers_module, "THREAD_AGAIN_S", 0.01)
    executor, calls = await executors(plain), [Call(number) for number in range(1, 4)]
    with monkeypatch.context() as patch:
        patch.setattr(handlers_module, "Thread", NoThread)
        for each in calls:
            executor.start(each)
        assert executor.cancel(calls[0], "its lease is lost")
        assert not any(each.begins for each in calls)
    await until(lambda: all(each.results for each in calls[1:]))
    assert [each.begins for each in calls] == [0, 1, 1]
    assert not executor.cancel(calls[1], "too late")


async def test_a_waiting_thread_keeps_no_job_alive(executors: Run) -> None:
    calls = [Call()]
    (await executors(plain)).start(calls[0])
    await until(lambda: calls[0].results)
    gone = weakref.ref(calls.pop())
    await until(lambda: gc.collect() >= 0 and gone() is None)


async def test_threads_end_with_their_executor(executors: Run) -> None:
    go_on = threading.Event()
    threads: list[threading.Thread] = []

    def handler(job: Job) -> str:
        threads.append(threading.current_thread())
        if job.job_id == make_job(1).job_id:
            go_on.wait(PATIENCE_S)
        return "done"

    executor, calls = await executors(handler), [Call(1), Call(2)]
    for each in calls:
        executor.start(each)
    await until(lambda: calls[1].results)
    executor.close()
    await until(lambda: sum(each.is_alive() for each in threads) == 1)
    go_on.set()
    await until(lambda: not any(each.is_alive() for each in threads))
    assert all(each.daemon for each in threads)


def test_a_thread_that_outlives_its_loop_ends_quietly(caplog: pytest.LogCaptureFixture) -> None:
    begun, go_on = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    def stubborn(job: Job) -> str:
        threads.append(threading.current_thread())
        begun.set()
        go_on.wait(PATIENCE_S)
        return "too late"

    async def give_up() -> None:
        executor = ThreadExecutor(stubborn)
        await executor.open()
        executor.start(Call())
        await asyncio.to_thread(begun.wait, PATIENCE_S)

    asyncio.run(give_up())
    go_on.set()
    threads[0].join(PATIENCE_S)
    assert not threads[0].is_alive()
    assert not caplog.records

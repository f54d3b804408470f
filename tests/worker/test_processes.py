"""Handlers in processes of their own: what goes in and comes out, while all is well."""

import asyncio
import functools
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.worker.isolation import (
    HANDLERS,
    PATIENCE_S,
    REFUSALS,
    SUSPENDED,
    MakeCall,
    Opened,
    exists,
    raising,
    ran,
    read,
    until,
    write,
)
from tests.worker.script import make_job
from tollgate.domain.exceptions import ArgumentError
from tollgate.domain.models import Job
from tollgate.worker.call import CallResult
from tollgate.worker.handlers import HandlerNotFoundError
from tollgate.worker.isolation import executor as processes
from tollgate.worker.isolation import messages
from tollgate.worker.isolation.executor import ProcessExecutor, name_of
from tollgate.worker.isolation.messages import Ended


async def test_a_process_is_used_again(opened: Opened, make_call: MakeCall) -> None:
    executor = await opened(size=4)
    assert [(await ran(executor, make_call("calls"))).value for _ in range(3)] == ["1", "2", "3"]
    assert (await ran(executor, make_call("pid"))).value != str(os.getpid())
    assert len(executor._members) == 1


async def test_a_call_begins_once_its_process_is_ready(opened: Opened, make_call: MakeCall) -> None:
    """The time that a process takes to load the handler is no time of a call."""
    executor = await opened(recycle_jobs=1)
    first, second = make_call("text"), make_call("text", 2)
    executor.start(first)
    executor.start(second)
    assert (first.begins, second.begins) == (1, 0)
    await first.end()
    assert (first.begins, second.begins) == (1, 0)  # another process starts
    await second.end()
    assert (first.begins, second.begins) == (1, 1)


async def test_calls_run_at_once_in_as_many_processes(opened: Opened, make_call: MakeCall) -> None:
    executor = await opened(size=2)
    calls = [make_call("until-stop", number) for number in (1, 2, 3)]
    for call in calls:
        executor.start(call)
    await until(lambda: len([*Path().glob("00000000-*")]) == 2)
    assert len(executor._members) == 2
    for call in calls:
        call.stop_requested = call.is_stopping = True
        executor.notify(call)
    assert [(await call.end()).value for call in calls] == ["stopped"] * 3


async def test_a_job_arrives_whole(opened: Opened, make_call: MakeCall) -> None:
    executor = await opened()
    call = make_call("job")
    seen = (await ran(executor, call)).value
    assert isinstance(seen, str)
    assert Job.model_validate_json(seen) == call.job
    call = make_call("about", attempt=3)
    call.stop_requested = True
    assert (await ran(executor, call)).value == f"{call.job.job_id} 3 True"


async def test_many_megabytes_pass(opened: Opened, make_call: MakeCall) -> None:
    executor = await opened()
    assert (await ran(executor, make_call("size " + "ü" * (4 << 20)))).value == str(5 + (4 << 20))
    assert (await ran(executor, make_call(f"large {8 << 20}"))).value == "x" * (8 << 20)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("text", CallResult("subclass")),
        ("surrogate", CallResult("\ud800")),
        ("nothing", CallResult(None)),
        ("retry 1.5", CallResult(error="busy", is_retry=True, after_s=1.5)),
        ("fail", CallResult(error="no use", is_final=True)),
        ("thread", CallResult("MainThread")),
    ],
)
async def test_results(text: str, result: CallResult, opened: Opened, make_call: MakeCall) -> None:
    assert await ran(await opened(), make_call(text)) == result


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("raise", "ValueError: bad"),
        ("raise-broken", "Broken"),
        ("surrogate-error", "ValueError: \\udcff"),
        ("exit", "SystemExit: 3"),
        ("interrupt", "KeyboardInterrupt"),
        ("stop", "KeyboardInterrupt"),
        ("memory", "MemoryError"),
    ],
)
async def test_an_exception_fails_the_try_and_not_the_process(
    text: str, error: str, opened: Opened, make_call: MakeCall
) -> None:
    executor = await opened()
    pid = (await ran(executor, make_call("pid"))).value
    result = await ran(executor, make_call(text))
    assert result.error == error
    assert not result.is_final
    assert "handlers.py" in (result.trace or "")
    assert (await ran(executor, make_call("pid"))).value == pid


async def test_a_value_that_is_no_text_is_known_by_type(
    opened: Opened, make_call: MakeCall
) -> None:
    result = await ran(await opened(), make_call("dict"))
    assert type(result.value).__name__ == "dict"
    assert not isinstance(result.value, str)
    assert result.error is None


def test_a_result_that_is_too_large_for_its_process_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The worker would take the frame for one that cannot be read."""
    monkeypatch.setattr(messages, "MESSAGE_BYTES_MAX", 16)
    assert Ended.of(CallResult("12345678"), is_last=False).result() == CallResult("12345678")
    ended = Ended.of(CallResult("123456789"), is_last=True)
    error = "the handler's result has 9 bytes, too many to leave its process"
    assert (ended.result(), ended.is_last) == (CallResult(error=error), True)


@pytest.mark.parametrize(
    ("name", "value"), [("plain", "plain x"), ("hands_over", "async x"), ("later", "async x")]
)
async def test_kinds_of_handlers(
    name: str, value: str, opened: Opened, make_call: MakeCall
) -> None:
    assert (await ran(await opened(name), make_call("x"))).value == value


async def test_a_coroutine_of_a_plain_handler_may_ask(opened: Opened, make_call: MakeCall) -> None:
    call = make_call("x")
    call.answer = lambda _schema, _key: "x"
    assert await ran(await opened("hands_over_a_question"), call) == CallResult("got x")


async def test_an_async_handler_keeps_its_loop(opened: Opened, make_call: MakeCall) -> None:
    executor = await opened("serves")
    loops = {(await ran(executor, make_call("loop"))).value for _ in range(3)}
    assert len(loops) == 1
    assert (await ran(executor, make_call("exit"))).error == "SystemExit: 3"
    assert (await ran(executor, make_call("task-exit"))).value == "caught"
    assert (await ran(executor, make_call("cancel"))).error == "CancelledError"
    call = make_call("progress half")
    await ran(executor, call)
    assert call.progress == [("half", None)]
    assert {(await ran(executor, make_call("loop"))).value} == loops


# --- the context ------------------------------------------------------------------------------


async def test_progress_reaches_the_worker(opened: Opened, make_call: MakeCall) -> None:
    executor = await opened()
    call = make_call("progress half of it")
    await ran(executor, call)
    assert call.progress == [("half of it", 0.5)]
    call = make_call("wrong-progress x")
    value = (await ran(executor, call)).value
    assert value == "ArgumentError: progress: fraction must be a number from 0 to 1, not the int 2"
    assert not call.progress


async def test_progress_after_the_end_is_of_no_other_call(
    opened: Opened, make_call: MakeCall
) -> None:
    executor = await opened()
    first, second, third = make_call("later"), make_call("until-stop"), make_call("pid")
    await ran(executor, first)
    executor.start(second)
    write("second", "")
    await until(lambda: exists("reported"))
    second.stop_requested = second.is_stopping = True
    executor.notify(second)
    await second.end()
    await ran(executor, third)
    assert [call.progress for call in (first, second, third)] == [[], [], []]


async def test_an_answer_comes_back(opened: Opened, make_call: MakeCall) -> None:
    executor = await opened()
    call = make_call("ask")
    call.answer = lambda _schema, _key: "42 €"
    assert (await ran(executor, call)).value == "got 42 €"
    assert call.asked == [({"q": [1, 2.5, None, "é"]}, None)]
    call = make_call("ask which")
    call.answer = lambda _schema, _key: ""
    assert (await ran(executor, call)).value == "got "
    assert call.asked[0][1] == "which"
    call = make_call("ask-text")
    call.answer = lambda _schema, _key: "x"
    assert (await ran(executor, call)).value == "got x"
    assert call.asked == [('{"a":  1}', None)]


async def test_a_schema_that_is_no_json_is_refused(opened: Opened, make_call: MakeCall) -> None:
    call = make_call("ask-set")
    value = (await ran(await opened(), call)).value
    assert (
        value
        == "ArgumentError: ask: schema is no JSON: Object of type set is not JSON serializable"
    )
    assert not call.asked


@pytest.mark.parametrize(
    ("question", "complaint"), [("ask-ring", "Circular reference"), ("ask-deep", "recursion")]
)
async def test_a_schema_without_an_end_is_refused(
    question: str, complaint: str, opened: Opened, make_call: MakeCall
) -> None:
    value = str((await ran(await opened(), make_call(question))).value)
    assert value.startswith("ArgumentError: ask: schema is no JSON: ")
    assert complaint in value


async def test_an_exception_of_ask_is_raised_in_the_handler(
    opened: Opened, make_call: MakeCall
) -> None:
    executor = await opened()
    for told, fault in REFUSALS.items():
        call = make_call("ask-in-vain")
        call.answer = raising(fault)
        assert (await ran(executor, call)).value == told
    call = make_call("ask-in-vain")
    call.answer = raising(SUSPENDED)
    assert await ran(executor, call) == CallResult(is_suspended=True)


async def test_async_questions_at_once(opened: Opened, make_call: MakeCall) -> None:
    call = make_call("ask")
    call.answer = lambda _, key: f"{key}!"
    assert (await ran(await opened("serves"), call)).value == "a! b!"
    assert call.asked == [({"n": 1}, "a"), ({}, "b")]


async def test_a_handler_may_stop_waiting_for_an_answer(
    opened: Opened, make_call: MakeCall
) -> None:
    executor = await opened("serves")
    call = make_call("impatient")
    executor.start(call)
    await until(lambda: call.withdrawn)
    write("withdrawn", "")
    assert (await call.end()).value == "no answer"
    assert (await ran(executor, make_call("calls"))).value == "2"


async def test_no_more_processes_than_may_ask_and_work(opened: Opened, make_call: MakeCall) -> None:
    """Each question keeps its process, and its memory."""
    executor = await opened()
    calls = [make_call("ask", number) for number in (1, 2, 3)]
    for call in calls[:2]:
        executor.start(call)
        await until(lambda call=call: call.asked)  # type: ignore[misc]
    executor.start(calls[2])
    assert len(executor._members) == 2
    assert not calls[2].asked


async def test_asking_calls_leave_room_for_others(opened: Opened, make_call: MakeCall) -> None:
    executor = await opened(size=1)
    assert executor.asking_max == 1
    asking = make_call("ask")
    answered = asyncio.Event()

    async def ask(schema: object, key: object) -> str:
        asking.asked.append(({}, None))
        await answered.wait()
        return "late"

    asking.ask = ask  # type: ignore[method-assign]
    executor.start(asking)
    await until(lambda: asking.asked)
    assert (await ran(executor, make_call("calls"))).value == "1"
    assert len(executor._members) == 2
    answered.set()
    assert (await asking.end()).value == "got late"
    await until(lambda: len(executor._members) == 1)  # the other one is not needed now
    assert (await ran(executor, make_call("calls"))).value == "2"


# --- what a handler does to its process -----------------------------------------------------------


async def test_a_process_has_clean_descriptors(opened: Opened, make_call: MakeCall) -> None:
    stdin, pipe = os.dup(0), os.pipe()
    os.dup2(pipe[0], 0)
    os.set_inheritable(pipe[1], True)
    executor = await opened()
    seen = (await ran(executor, make_call("descriptors"))).value
    os.dup2(stdin, 0)
    for fd in (stdin, *pipe):
        os.close(fd)
    assert isinstance(seen, str)
    names = dict(entry.split(":", 1) for entry in seen.splitlines())
    assert names.pop("0") == "/dev/null"
    assert {"1", "2"} < set(names)
    others = [name.split(":")[0] for number, name in names.items() if int(number) > 2]
    assert others == ["socket"]
    inherited = (await ran(executor, make_call("inherited"))).value
    assert isinstance(inherited, str)
    assert "0 -> " in inherited
    assert "socket" not in inherited


async def test_a_process_has_default_signals(
    opened: Opened, make_call: MakeCall, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = {n: signal.signal(n, signal.SIG_IGN) for n in (signal.SIGINT, signal.SIGUSR1)}
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        executor = await opened()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        for number, handler in old.items():
            signal.signal(number, handler)
    ignored = sorted({signal.SIGPIPE, signal.SIGXFSZ})
    value = (await ran(executor, make_call("signals"))).value
    assert value == f"{ignored} default_int_handler set()"
    assert (await ran(executor, make_call("group"))).value == "True True"


async def test_signals_come_to_the_thread_of_the_handler(
    opened: Opened, make_call: MakeCall
) -> None:
    """Another thread that took the signal would end the process: the handler has blocked it."""
    assert (await ran(await opened(), make_call("sigwait"))).value == "SIGUSR1"


async def test_a_handler_may_replace_standard_output(opened: Opened, make_call: MakeCall) -> None:
    """What it has printed is there before its result, even if its process crashes next."""
    executor = await opened()
    assert (await ran(executor, make_call("own-stdout some words"))).value == "printed"
    assert read("printed") == "some words\n"
    assert (await ran(executor, make_call("no-stdout"))).value == "closed"


async def test_a_handler_may_start_a_worker_once_it_is_loaded(
    opened: Opened, make_call: MakeCall
) -> None:
    assert (await ran(await opened(), make_call("worker"))).value == "ProcessExecutor"


async def test_a_reader_of_its_output_that_is_gone_fails_no_call(
    opened: Opened, make_call: MakeCall
) -> None:
    assert (await ran(await opened(), make_call("unread"))).value == "printed"


@pytest.mark.parametrize("method", ["fork", "spawn"])
async def test_children_of_a_handler_can_be_ended(
    method: str, opened: Opened, make_call: MakeCall
) -> None:
    assert (await ran(await opened(), make_call(f"terminate {method}"))).value == "child -15"


# --- the log --------------------------------------------------------------------------------------


async def test_log_lines_come_out_in_the_log_of_the_worker(
    opened: Opened, make_call: MakeCall, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    caplog.set_level(logging.INFO)
    call = make_call("log", attempt=2)
    assert (await ran(await opened(), call)).value == "logged"
    lines = {record.getMessage().split("(")[0].strip(): record for record in caplog.records}
    hello = lines["hello you"]
    assert (hello.name, hello.levelname, hello.process != os.getpid()) == (
        "tollgate.handler",
        "INFO",
        True,
    )
    assert vars(hello)["job_id"] == call.job.job_id
    assert (vars(hello)["attempt"], vars(hello)["city"]) == (2, "Ulm")
    assert "Broken" in vars(hello)["odd"]
    assert (vars(lines["mean"])["mean"], vars(lines["mean"])["broken"]) == ("\\ud800", "<Broken>")
    assert "ValueError: traced" in (lines["went wrong"].exc_text or "")
    assert lines["went wrong"].funcName == "answer"
    assert lines["%d"].levelname == "WARNING"
    assert any(
        "UserWarning: old" in text for text in map(logging.LogRecord.getMessage, caplog.records)
    )
    assert "too low" not in lines
    out, err = capfd.readouterr()
    assert "on stdout" in out
    assert "on stderr" in err


async def test_a_line_that_is_no_text_comes_out_readable(
    opened: Opened, make_call: MakeCall, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    """Names of files and what they hold are not always UTF-8. Nothing of it fails the call."""
    executor = await opened()
    assert (await ran(executor, make_call("odd-log"))).value == "logged"
    (line,) = [record for record in caplog.records if record.name == "handlers"]
    assert (line.getMessage(), line.pathname) == ("text \\ud800", "/\\udcff.py")
    assert "ValueError: trace \\ud800" in (line.exc_text or "")
    assert line.stack_info == "stack \\ud800"
    assert "--- Logging error ---" in capfd.readouterr().err  # of the one whose str raises


async def test_a_logger_of_the_worker_keeps_its_level(
    opened: Opened, make_call: MakeCall, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    logging.getLogger("handlers").setLevel(logging.ERROR)
    try:
        await ran(await opened(), make_call("log"))
    finally:
        logging.getLogger("handlers").setLevel(logging.NOTSET)
    assert "hello you" in caplog.text
    assert "went wrong" in caplog.text
    assert "do not fit" not in caplog.text


async def test_a_line_in_the_middle_of_a_line_breaks_nothing(
    opened: Opened, make_call: MakeCall, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    executor = await opened()
    assert (await ran(executor, make_call("nested-log"))).value == "logged"
    assert sum("y" in record.message for record in caplog.records) == 100
    assert any("x" in record.message for record in caplog.records)


async def test_a_forked_process_leaves_the_socket_alone(
    opened: Opened, make_call: MakeCall, capfd: Any
) -> None:
    executor = await opened()
    assert (await ran(executor, make_call("fork-log"))).value == "child 17"
    assert "WARNING:handlers:from a forked process" in capfd.readouterr().err


def test_a_traceback_from_a_process_is_in_the_log() -> None:
    program = (
        "import logging; from tollgate.log import configure; configure('info', 'json');"
        "fields = {'levelno': 30, 'levelname': 'WARNING', 'msg': 'wrong', 'exc_text': 'Traceback'};"
        "logging.getLogger().handle(logging.makeLogRecord(fields))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(done.stderr)["exception"] == "Traceback"


# --- the handler's name ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("handlers:missing", "module handlers has no missing"),
        ("nowhere:answer", "there is no module nowhere"),
        ("leaves:answer", "SystemExit: 5"),
        ("/leaves.py:answer", "SystemExit: 5"),
        (
            "crashes:answer",
            "process was ended by SIGSEGV while it loaded the handler",
        ),
        ("exits:answer", "process exited with code 6 while it loaded the handler"),
        ("again:answer", 'put that under `if __name__ == "__main__":`'),
    ],
)
async def test_a_handler_that_cannot_be_loaded_fails_open(
    name: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "handlers.py").write_text(HANDLERS)
    (tmp_path / "leaves.py").write_text("import sys; sys.exit(5)")
    (tmp_path / "exits.py").write_text("import os; os._exit(6)")
    (tmp_path / "crashes.py").write_text("import ctypes; ctypes.string_at(0)")
    (tmp_path / "again.py").write_text(
        "from tollgate.worker.isolation.executor import ProcessExecutor\n"
        "ProcessExecutor('again:answer', 1)"
    )
    monkeypatch.setattr(processes, "PAUSE_S_MIN", 0.01)
    executor = ProcessExecutor(f"{tmp_path}{name}" if name.startswith("/") else name, 2)
    with pytest.raises(HandlerNotFoundError) as caught:
        await asyncio.wait_for(executor.open(), PATIENCE_S)
    assert complaint in str(caught.value)
    assert caught.value.may_pass == ("SIGSEGV" in complaint)
    assert not executor._processes


def outer() -> Callable[..., object]:
    def inner(job: Job) -> str:
        return ""

    return inner


class Group:
    @staticmethod
    def inside(job: Job) -> str:
        return ""

    def method(self, job: Job) -> str:
        return ""

    def __call__(self, job: Job) -> str:
        return ""


def replaced(job: Job) -> str:
    return ""


first_replaced = replaced


def replaced(job: Job) -> str:  # type: ignore[no-redef]
    return ""


def test_the_name_of_a_function() -> None:
    assert name_of(outer) == f"{__name__}:outer"
    assert name_of(Group.inside) == f"{__name__}:Group.inside"
    assert name_of(os.path.basename) == "posixpath:basename"
    assert name_of(len) == "builtins:len"


@pytest.mark.parametrize(
    ("handler", "complaint"),
    [
        (lambda job: "", "is a lambda"),
        (outer(), "is defined inside a function"),
        (Group().method, "is a method of an object"),
        (Group(), "is no function"),
        (functools.partial(outer), "is no function"),
        (first_replaced, "is something else, or missing"),
    ],
)
def test_a_function_without_a_name(handler: Callable[..., object], complaint: str) -> None:
    with pytest.raises(ArgumentError, match=complaint) as caught:
        name_of(handler)
    assert 'for isolation="process" the handler must be' in str(caught.value)


def test_names_of_functions_of_the_main_module(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    main = ModuleType("__main__")
    handler = functools.update_wrapper(lambda job: "", outer)
    handler.__module__, handler.__qualname__ = "__main__", "handler"
    vars(main)["handler"] = handler
    monkeypatch.setitem(sys.modules, "__main__", main)
    with pytest.raises(ArgumentError, match="interactive session"):
        name_of(handler)
    main.__file__ = str(tmp_path / "missing.py")
    with pytest.raises(ArgumentError, match="interactive session"):
        name_of(handler)


SCRIPT = """
import asyncio, multiprocessing, os, pickle, sys
from dataclasses import dataclass
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.worker.isolation import FakeCall
from tollgate.worker.isolation.executor import ProcessExecutor, name_of
from tollgate.domain.models import Job

@dataclass
class Point:
    x: int

def answer(job, ctx):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        points = pool.map(double, [Point(1)])
    return f"{{pickle.loads(pickle.dumps(points))}} {{__name__}} {{job.input}}"

def double(point):
    return Point(point.x * 2)

async def main():
    executor = ProcessExecutor(name_of(answer), 1)
    await executor.open()
    call = FakeCall(Job.model_validate_json(sys.argv[1]))
    executor.start(call)
    result = await call.end()
    executor.close()
    print(result.value or result)

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("name", "as_module"), [("script.py", False), ("script", False), ("script.py", True)]
)
def test_a_function_of_a_script_is_found(name: str, as_module: bool, tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    (tmp_path / name).write_text(SCRIPT.format(root=str(root)))
    command = ["-m", "script"] if as_module else [str(tmp_path / name)]
    done = subprocess.run(
        [sys.executable, *command, make_job(input="hi").model_dump_json()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    seen = "script" if as_module else "__mp_main__"
    assert done.stdout == f"[Point(x=2)] {seen} hi\n", done.stderr


def test_a_program_may_have_closed_its_standard_streams(tmp_path: Path) -> None:
    """Their numbers go to other files: the socket of a process must not be one of its streams."""
    script = SCRIPT.format(root=str(Path(__file__).parents[2]))
    for old, new in (
        ("    executor =", "    os.closerange(0, 3)\n    executor ="),
        ("print(result.value or result)", "Path('result').write_text(str(result))"),
        ("return f", "print('words'); print('words', file=sys.stderr)\n    return f"),
        ("{__name__}", "{sys.flags.optimize}"),
    ):
        assert old in script
        script = script.replace(old, new)
    (tmp_path / "script.py").write_text(script)
    command = [sys.executable, "-O", "script.py", make_job(input="hi").model_dump_json()]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=PATIENCE_S)
    assert "[Point(x=2)] 1 hi" in (tmp_path / "result").read_text()

"""Handlers in processes of their own: crashes, hangs, recycling, and the end of the worker."""

import asyncio
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tollgate
from tests.worker.isolation import (
    PATIENCE_S,
    FakeCall,
    MakeCall,
    Opened,
    descriptors,
    exists,
    is_running,
    ran,
    read,
    until,
    write,
)
from tests.worker.script import is_readable
from tollgate.worker.call import CallResult
from tollgate.worker.handlers import HandlerNotFoundError
from tollgate.worker.isolation import child_process
from tollgate.worker.isolation import executor as processes
from tollgate.worker.isolation.executor import ProcessExecutor

OF_SYSTEM = " (the system may have run out of memory)"


def begun(call: FakeCall) -> int:
    """Return the id of the process that has begun a call, or 0."""
    path = Path(call.job.job_id)
    return int(path.read_text() or 0) if path.exists() else 0


@pytest.fixture(params=[True, False], ids=["pidfd", "no pidfd"])
def with_and_without_pidfd(request: pytest.FixtureRequest, monkeypatch: Any) -> None:
    if not request.param:
        monkeypatch.setattr(child_process, "_pidfd", lambda _pid: None)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("os-exit", "exited with code 3"),
        ("segfault", "was ended by SIGSEGV"),
        ("kill 9", "was ended by SIGKILL" + OF_SYSTEM),
        ("kill 15", "was ended by SIGTERM"),
        ("kill 40", "was ended by signal 40"),
    ],
)
@pytest.mark.usefixtures("with_and_without_pidfd")
async def test_a_crash_ends_one_call(
    text: str, cause: str, opened: Opened, make_call: MakeCall
) -> None:
    executor = await opened()
    call = make_call(text)
    assert await ran(executor, call) == CallResult(error=f"the handler's process {cause}")
    assert (await ran(executor, make_call("calls"))).value == "1"
    assert call.ends == 1


async def test_a_segfault_leaves_a_trace(
    opened: Opened, make_call: MakeCall, capfd: pytest.CaptureFixture[str]
) -> None:
    await ran(await opened(), make_call("segfault"))
    error = capfd.readouterr().err
    assert "Fatal Python error: Segmentation fault" in error
    assert "handlers.py" in error


async def test_kill_9_in_mid_call(opened: Opened, make_call: MakeCall) -> None:
    executor = await opened(size=2)
    killed, other = make_call("sleep", 1), make_call("until-stop", 2)
    executor.start(killed)
    executor.start(other)
    os.kill(await until(lambda: begun(killed)), signal.SIGKILL)
    assert (await killed.end()).error == f"the handler's process was ended by SIGKILL{OF_SYSTEM}"
    await until(lambda: begun(other))
    other.stop_requested = other.is_stopping = True
    executor.notify(other)
    assert (await other.end()).value == "stopped"


@pytest.mark.usefixtures("with_and_without_pidfd")
async def test_all_that_was_said_before_a_crash_is_heard(
    opened: Opened,
    make_call: MakeCall,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(child_process, "_READ_BYTES", 1_000)
    executor = await opened()
    call = make_call("last-words")
    executor.start(call)
    pid = executor._members[0].process.pid
    while is_running(pid):  # the loop does not run: it will hear of all at once
        pass
    assert (await call.end()).error == "the handler's process exited with code 5"
    assert caplog.text.count("word") == 50


async def test_a_process_that_is_forked_in_c_hides_no_death(
    opened: Opened, make_call: MakeCall
) -> None:
    result = await ran(await opened(), make_call("c-fork"))  # the copy has the socket open
    assert result.error == "the handler's process exited with code 7"


@pytest.mark.usefixtures("with_and_without_pidfd")
async def test_a_handler_that_closes_all_files_is_ended(
    opened: Opened, make_call: MakeCall, capfd: pytest.CaptureFixture[str]
) -> None:
    executor = await opened()
    error = (await ran(executor, make_call("close"))).error
    assert error == "the handler's process exited with code 1"
    assert "tollgate: the handler has closed its socket" in capfd.readouterr().err
    assert "SIGKILL" in ((await ran(executor, make_call("shutdown"))).error or "")
    assert (await ran(executor, make_call("calls"))).value == "1"


async def test_a_process_that_has_hung_up_is_told_nothing(
    opened: Opened, make_call: MakeCall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its socket is closed already, and it goes on for a moment: the worker stops then."""
    monkeypatch.setattr(child_process, "EXIT_S", 3_600)
    executor = await opened()
    call = make_call("shutdown")
    executor.start(call)
    (member,) = executor._members
    await until(lambda: not member.process.is_alive)
    call.is_stopping = True
    executor.notify(call)
    assert executor.cancel(call, "the worker stops")


async def test_what_cannot_be_read_ends_the_process(opened: Opened, make_call: MakeCall) -> None:
    executor = await opened()
    call = make_call("sleep")
    executor.start(call)
    await until(lambda: begun(call))
    executor._members[0].process._take(b"\xff\xff\xff\xff")
    assert "sent what cannot be read: a message of 4294967295 bytes" in (
        (await call.end()).error or ""
    )
    executor._members[0].process._take(b"\x00\x00\x00\x01\xc1")
    assert (await ran(executor, make_call("calls"))).value == "1"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stop_of_all_processes_costs_no_try(
    number: signal.Signals, opened: Opened, make_call: MakeCall
) -> None:
    executor = await opened()
    call = make_call("gil" if number == signal.SIGTERM else "sleep")
    executor.start(call)
    pid = await until(lambda: begun(call))
    os.kill(pid, number)
    await asyncio.sleep(0.05)
    call.is_stopping = True  # the signal reaches the worker a little later
    result = await call.end()
    if number == signal.SIGTERM:
        assert result == CallResult(is_suspended=True)
    else:
        assert result.error == "KeyboardInterrupt"


async def test_a_crash_during_a_stop_is_a_try(opened: Opened, make_call: MakeCall) -> None:
    """It is no signal of a service manager: the handler has done it."""
    executor = await opened()
    call = make_call("kill 9")
    call.is_stopping = True
    assert "SIGKILL" in ((await ran(executor, call)).error or "")


# --- cancel ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["sleep", "gil"])
@pytest.mark.usefixtures("with_and_without_pidfd")
async def test_a_handler_that_hangs_is_killed(
    text: str, opened: Opened, make_call: MakeCall, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    executor = await opened()
    call = make_call(text)
    executor.start(call)
    pid = await until(lambda: begun(call))
    assert executor.cancel(call, "it took longer than 5 s")
    assert f"job {call.job.job_id}: its process is killed: it took longer than 5 s" in caplog.text
    assert (await ran(executor, make_call("calls"))).value == "1"
    await until(lambda: not is_running(pid))
    assert not call.is_done


async def test_an_async_handler_that_blocks_is_killed(opened: Opened, make_call: MakeCall) -> None:
    executor = await opened("serves")
    call = make_call("block")
    executor.start(call)
    await until(lambda: begun(call))
    assert executor.cancel(call, "test")
    assert (await ran(executor, make_call("calls"))).value == "1"


async def test_children_of_a_killed_handler_end_with_it(
    opened: Opened, make_call: MakeCall
) -> None:
    executor = await opened()
    call = make_call("parent")
    executor.start(call)
    await until(lambda: begun(call))
    executor.cancel(call, "test")
    grandchild = int(read("grandchild"))
    await until(lambda: not is_running(grandchild))


async def test_a_waiting_call_is_cancelled(opened: Opened, make_call: MakeCall) -> None:
    executor = await opened()
    first, second = make_call("until-stop", 1), make_call("sleep", 2)
    executor.start(first)
    executor.start(second)
    assert executor.cancel(second, "test")
    first.stop_requested = first.is_stopping = True
    executor.notify(first)
    await first.end()
    assert executor.cancel(first, "test")  # it has ended already
    assert (await ran(executor, make_call("calls"))).value == "2"
    assert not begun(second)


async def test_a_waiting_call_takes_the_place_of_a_killed_one(
    opened: Opened, make_call: MakeCall
) -> None:
    executor = await opened()
    first, second = make_call("sleep", 1), make_call("calls", 2)
    executor.start(first)
    executor.start(second)
    await until(lambda: begun(first))
    assert executor.cancel(first, "test")
    assert (await second.end()).value == "1"


async def test_cancel_withdraws_a_question(opened: Opened, make_call: MakeCall) -> None:
    executor = await opened()
    call = make_call("ask")
    executor.start(call)
    await until(lambda: call.asked)
    executor.cancel(call, "test")
    await until(lambda: call.withdrawn)


# --- recycling ------------------------------------------------------------------------------------


async def test_a_process_is_replaced_after_so_many_jobs(
    opened: Opened, make_call: MakeCall, caplog: pytest.LogCaptureFixture
) -> None:
    executor = await opened(recycle_jobs=2)
    first = executor._members[0].process.pid
    assert [(await ran(executor, make_call("calls"))).value for _ in range(2)] == ["1", "2"]
    assert len(executor._members) == 1  # the next one starts before it is needed
    assert [(await ran(executor, make_call("calls"))).value for _ in range(2)] == ["1", "2"]
    await until(lambda: not is_running(first))
    assert exists("left")  # it has left as any program does
    await until(lambda: len(executor._processes) == 1)
    await asyncio.sleep(0)
    assert not caplog.records  # that it ended was expected


@pytest.mark.parametrize("has_proc", [True, False])
async def test_a_process_is_replaced_for_its_memory(
    has_proc: bool, opened: Opened, make_call: MakeCall
) -> None:
    if not has_proc:
        hidden = "import tollgate.worker.isolation.child as child; child.STATM = '/nowhere'\n"
        write("handlers.py", read("handlers.py") + hidden)
    # On Linux the most that a process has had includes what its parent had.
    inherited_mb = 0 if has_proc else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1_024
    limit_mb = 200 + inherited_mb
    executor = await opened(recycle_memory_mb=limit_mb)
    first = (await ran(executor, make_call("pid"))).value
    assert (await ran(executor, make_call("hoard 20"))).value == first
    assert (await ran(executor, make_call(f"hoard {limit_mb}"))).value == first
    assert (await ran(executor, make_call("pid"))).value != first


async def test_tasks_of_a_recycled_process_are_cancelled(
    opened: Opened, make_call: MakeCall
) -> None:
    executor = await opened("serves", recycle_jobs=1)
    (process,) = executor._processes
    assert (await ran(executor, make_call("leave-task"))).value == "left"
    await until(lambda: process not in executor._processes)
    assert exists("tidied")
    assert process._timer is not None
    assert process._timer.cancelled()  # it would kill whoever has its number next


@pytest.mark.parametrize("text", ["linger", "linger-gil"])
async def test_a_recycled_process_that_does_not_leave_is_killed(
    text: str, opened: Opened, make_call: MakeCall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_process, "LEAVE_S", 0.1)
    executor = await opened(recycle_jobs=1)
    pid = executor._members[0].process.pid
    assert (await ran(executor, make_call(text))).value == "lingers"
    await until(lambda: not is_running(pid))
    assert (await ran(executor, make_call("calls"))).value == "1"


# --- starting again -------------------------------------------------------------------------------


async def test_an_idle_process_that_ends_is_replaced(
    opened: Opened, make_call: MakeCall, caplog: pytest.LogCaptureFixture
) -> None:
    executor = await opened()
    assert (await ran(executor, make_call("late-death"))).value == "dies"
    what = "the handler's process exited with code 9 between two jobs"
    await until(lambda: what in caplog.text)
    assert (await ran(executor, make_call("calls"))).value == "1"


async def test_a_call_that_has_just_returned_is_not_cancelled(
    opened: Opened, make_call: MakeCall
) -> None:
    """Its result must not be thrown away: the loop was busy, and has not heard of it."""
    executor = await opened()
    call = make_call("calls")
    executor.start(call)
    process = executor._members[0].process
    assert is_readable(process._socket, PATIENCE_S)
    assert not call.is_done
    assert executor.cancel(call, "its lease is lost")
    assert (call.ends, (await call.end()).value) == (1, "1")
    assert (await ran(executor, make_call("calls"))).value == "2"  # in the same process


@pytest.mark.usefixtures("with_and_without_pidfd")
async def test_no_call_goes_to_a_process_that_has_just_ended(
    opened: Opened, make_call: MakeCall
) -> None:
    executor = await opened()
    process = executor._members[0].process
    os.kill(process.pid, signal.SIGKILL)
    while not process.has_ended():  # the loop does not run, and has not heard of it
        pass
    assert (await ran(executor, make_call("calls"))).value == "1"


async def test_a_process_that_cannot_start_is_tried_again_later(
    opened: Opened,
    make_call: MakeCall,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "PAUSE_S_MIN", 0.01)
    executor = await opened(size=3)
    whole = read("handlers.py")
    write("handlers.py", "raise ValueError('half written')")
    started = []
    start = child_process._start

    def counting(connection: Any) -> Any:
        started.append(connection)
        return start(connection)

    monkeypatch.setattr(child_process, "_start", counting)
    assert "SIGKILL" in ((await ran(executor, make_call("kill 9"))).error or "")
    calls = [make_call("calls", number) for number in (1, 2, 3)]
    for call in calls:
        executor.start(call)
    await until(lambda: executor._failures >= 4)
    assert "half written; the next process starts in 0.0 s" in caplog.text
    assert "the next process starts in 0.1 s" in caplog.text
    monkeypatch.setattr(processes, "PAUSE_S_MIN", 60)
    await until(lambda: "the next process starts in 30.0 s" in caplog.text)
    before = len(started)
    assert before <= 3 * 6
    calls.append(make_call("calls", 4))
    executor.start(calls[-1])
    assert len(started) == before  # a new call does not shorten the pause
    write("handlers.py", whole)
    executor._resume()
    assert [(await call.end()).error for call in calls] == [None] * 4


async def test_a_module_that_ends_its_process_is_loaded_again_later(
    opened: Opened,
    make_call: MakeCall,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without the pause it would be loaded again and again. Success makes pauses short again."""
    executor = await opened()
    whole = read("handlers.py")
    write("handlers.py", "import os; os._exit(7)")
    monkeypatch.setattr(processes, "PAUSE_S_MIN", 60)
    assert "SIGKILL" in ((await ran(executor, make_call("kill 9", 1))).error or "")
    call = make_call("calls", 2)
    executor.start(call)
    await until(lambda: "exited with code 7 while it loaded the handler; the next" in caplog.text)
    assert executor._failures == 1
    write("handlers.py", whole)
    executor._resume()
    assert (await call.end()).value == "1"
    assert executor._failures == 0


async def test_a_process_that_the_system_refuses_is_tried_again(
    opened: Opened,
    make_call: MakeCall,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "PAUSE_S_MIN", 0.01)
    executor = await opened()
    start = child_process._start
    refusals = [OSError("no processes left")] * 2

    def sometimes(connection: Any) -> Any:
        if refusals:
            raise refusals.pop()
        return start(connection)

    monkeypatch.setattr(child_process, "_start", sometimes)
    await ran(executor, make_call("kill 9"))
    assert (await ran(executor, make_call("calls"))).value == "1"
    assert caplog.text.count("the handler's process cannot be started: no processes left") == 2


LOADS = """
import os, pathlib, signal
loads = pathlib.Path("loads")
with loads.open("a") as file:
    file.write("x")
if loads.stat().st_size <= int(pathlib.Path("kills").read_text()):
    os.kill(os.getpid(), signal.SIGKILL)
"""
"""A handler whose process is killed while it is loaded, as for its memory, some times."""


async def test_a_process_that_is_killed_while_it_loads_is_replaced(
    opened: Opened,
    make_call: MakeCall,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "PAUSE_S_MIN", 0.01)
    monkeypatch.setattr(processes, "LOADS_MAX", 3)
    write("handlers.py", LOADS + read("handlers.py"))
    write("kills", "2")
    executor = await opened()
    assert (await ran(executor, make_call("calls"))).value == "1"
    killed = [each for each in caplog.messages if "SIGKILL" in each]
    assert len(killed) == 2
    assert "while it loaded the handler; the next process starts in 0.0 s" in killed[0]
    # Once one has loaded it, no number of kills ends the worker.
    write("kills", "6")
    assert "SIGKILL" in ((await ran(executor, make_call("kill 9"))).error or "")
    assert (await ran(executor, make_call("calls"))).value == "1"


async def test_a_process_that_is_killed_at_each_load_is_given_up(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "PAUSE_S_MIN", 0.01)
    write("handlers.py", LOADS)
    write("kills", "1000")
    with pytest.raises(
        HandlerNotFoundError, match=r"SIGKILL .* for the 5th time in a row"
    ) as given_up:
        await opened()
    assert given_up.value.may_pass
    assert read("loads") == "x" * processes.LOADS_MAX


async def test_a_first_process_that_the_system_refuses_is_tried_again(
    opened: Opened, make_call: MakeCall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "PAUSE_S_MIN", 0.01)
    start = child_process._start
    refusals = [OSError("no memory")] * 2

    def sometimes(connection: Any) -> Any:
        if refusals:
            raise refusals.pop()
        return start(connection)

    monkeypatch.setattr(child_process, "_start", sometimes)
    assert (await ran(await opened(), make_call("calls"))).value == "1"
    refusals += [OSError("no memory")] * 1_000
    with pytest.raises(HandlerNotFoundError, match="no memory, for the 5th time") as given_up:
        await opened()
    assert given_up.value.may_pass


async def test_a_stop_comes_before_another_try_to_load(
    opened: Opened, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "PAUSE_S_MIN", 3_600)
    monkeypatch.setattr(processes, "PAUSE_S_MAX", 3_600)
    write("handlers.py", LOADS)
    write("kills", "1000")
    executor = ProcessExecutor("handlers:answer", 1)
    opening = asyncio.create_task(executor.open())
    await until(lambda: "the next process starts" in caplog.text)
    executor.close()
    await opening
    assert not executor._processes


# --- the end of the worker ------------------------------------------------------------------------


@pytest.mark.usefixtures("with_and_without_pidfd")
async def test_close_leaves_nothing(opened: Opened, make_call: MakeCall) -> None:
    before = descriptors()
    executor = await opened(size=3)
    calls = [make_call("parent", 1), make_call("gil", 2)]
    for call in calls:
        executor.start(call)
    await ran(executor, make_call("pid", 3))
    pids = await until(lambda: (found := [begun(call) for call in calls]) and all(found) and found)
    pids += [int(read("grandchild"))]
    pids += [member.process.pid for member in executor._members]
    executor.close()
    for pid in {*pids} - {pids[2]}:
        with pytest.raises(ProcessLookupError):  # no zombie either
            os.kill(pid, 0)
    await until(lambda: not is_running(pids[2]))  # its parent is init, which reaps it
    assert exists("left")  # the idle one has left by itself
    assert descriptors() == before
    assert not any(call.is_done for call in calls)


@pytest.mark.parametrize("what", ["linger", "linger-gil"])
@pytest.mark.usefixtures("with_and_without_pidfd")
async def test_close_kills_a_process_that_does_not_leave(
    opened: Opened, make_call: MakeCall, what: str
) -> None:
    executor = await opened()
    assert (await ran(executor, make_call(what))).value == "lingers"
    (process,) = executor._processes
    executor.close()
    assert process.ended_by == signal.SIGKILL


async def test_what_a_process_says_as_it_leaves_is_heard(
    opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    lines = (
        "import atexit, logging",
        "atexit.register(lambda: logging.getLogger('handler').warning('flushed 7 records'))",
        "def answer(job): ...",
    )
    write("handlers.py", "\n".join(lines))
    executor = await opened()
    executor.close()
    assert "flushed 7 records" in caplog.text


async def test_close_ends_a_process_that_starts(opened: Opened) -> None:
    write("slow.py", "import time; time.sleep(60)")
    executor = ProcessExecutor("slow:answer", 1)
    opening = asyncio.create_task(executor.open())
    await until(lambda: executor._members)
    pid = executor._members[0].process.pid
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


WORKER = """
import asyncio, os, sys
sys.path.insert(0, {root!r})
from datetime import UTC, datetime
from tests.worker.isolation import FakeCall
from tollgate.domain.models import Job
from tollgate.worker.isolation.executor import ProcessExecutor

async def main():
    executor = ProcessExecutor("handlers:answer", 2)
    await executor.open()
    for line in sys.argv[1:]:
        executor.start(FakeCall(Job.model_validate_json(line)))
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.parametrize("text", ["sleep", "gil"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_processes_end_with_the_worker(
    text: str, number: signal.Signals, opened: Opened, make_call: MakeCall
) -> None:
    await opened()  # makes the folder
    call = make_call(text)
    script = WORKER.format(root=str(Path(__file__).parents[2]))
    arguments = [sys.executable, "-c", script, call.job.model_dump_json()]
    with subprocess.Popen(arguments) as worker:  # noqa: ASYNC220 - it takes no time
        pid = await until(lambda: begun(call))
        worker.send_signal(number)
        worker.wait(PATIENCE_S)
    await until(lambda: not is_running(pid))


async def test_without_help_of_the_system_all_end_with_the_worker(
    opened: Opened, make_call: MakeCall
) -> None:
    await opened()
    call = make_call("orphan")
    script = WORKER.format(root=str(Path(__file__).parents[2]))
    arguments = [sys.executable, "-c", script, call.job.model_dump_json()]
    with subprocess.Popen(arguments) as worker:  # noqa: ASYNC220 - it takes no time
        pid = await until(lambda: begun(call))
        worker.kill()
    await until(lambda: not is_running(pid) and not is_running(int(read("grandchild"))))


async def test_a_terminal_interrupts_the_worker_alone(opened: Opened, make_call: MakeCall) -> None:
    await opened()
    call = make_call("sleep")
    script = WORKER.format(root=str(Path(__file__).parents[2]))
    script = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + script
    arguments = [sys.executable, "-c", script, call.job.model_dump_json()]
    with subprocess.Popen(arguments, process_group=0) as worker:  # noqa: ASYNC220 - as above
        pid = await until(lambda: begun(call))
        os.killpg(worker.pid, signal.SIGINT)  # as a terminal does
        await asyncio.sleep(0.2)
        assert is_running(pid)
        worker.kill()


def test_a_process_whose_worker_is_gone_at_once_ends() -> None:
    ours, theirs = socket.socketpair()
    program = f"from tollgate.worker.isolation.child import main; main({theirs.fileno()}, 1)"
    with ours, theirs:
        done = subprocess.run(
            [sys.executable, "-c", program], pass_fds=[theirs.fileno()], check=False, timeout=60
        )
    assert done.returncode == 1


async def test_a_stop_waits_for_no_module(tmp_path: Path, monkeypatch: Any) -> None:
    """A module may take minutes to import, or for ever: a model is loaded, a server is away."""
    monkeypatch.chdir(tmp_path)
    write("loads.py", "import time\nopen('loading', 'w').close()\ntime.sleep(3_600)\n")
    worker = tollgate.Worker("loads:answer", "ipc:///nowhere", isolation="process")
    serving = asyncio.create_task(worker.serve())
    await until(lambda: exists("loading"))
    worker.stop()
    assert await asyncio.wait_for(serving, PATIENCE_S) == 0


async def test_an_executor_closed_before_it_opens_starts_nothing() -> None:
    executor = ProcessExecutor("handlers:answer", 1)
    executor.close()
    await asyncio.wait_for(executor.open(), PATIENCE_S)
    assert not executor._processes

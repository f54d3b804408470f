"""The log of all processes: one format, lines that cannot be rendered, losses, forks."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.brokers import PATIENCE_S, ROOT
from tollgate import streams
from tollgate.log import _Renderer, _Sink

FIELDS = {"event", "level", "logger", "timestamp"}
PRELUDE = """
import asyncio, atexit, logging, os, sys, threading, warnings
import structlog
from tollgate import log
"""


def run(code: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    # From Python 3.12 on, a fork of a process with threads is warned about.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PRELUDE + code]
    options = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, **options}
    return subprocess.run(command, cwd=ROOT, text=True, timeout=PATIENCE_S, check=False, **options)


def logged(code: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(f"log.configure('info')\n{code}").stderr.splitlines()]


def test_both_libraries_give_the_same_fields() -> None:
    lines = logged(
        "logging.getLogger('tollgate.worker').warning('job %d', 7, extra={'job': 7})\n"
        "structlog.get_logger('tollgate.broker').warning('job 7', job=7)\n"
    )
    first, second = ({**line, "timestamp": "", "logger": ""} for line in lines)
    assert (
        first
        == second
        == {"event": "job 7", "level": "warning", "job": 7, "timestamp": "", "logger": ""}
    )
    assert [line["logger"] for line in lines] == ["tollgate.worker", "tollgate.broker"]
    assert all(line["timestamp"].endswith("Z") for line in lines)


@pytest.mark.parametrize(
    ("code", "event"),
    [
        ("warnings.warn('old')", "old"),
        ("threading.Thread(target=lambda: 1 / 0).start()", "a thread ended with an exception"),
        ("class A:\n    def __del__(self): 1 / 0\nA()", "an exception was ignored"),
        ("1 / 0", "uncaught exception"),
        ("logging.getLogger().warning('%d', 'x')", "do not fit"),
        ("atexit.register(lambda: logging.error('late'))", "late"),
        ("asyncio.new_event_loop().call_exception_handler({'message': 'odd'})", "odd"),
    ],
)  # fmt: skip
def test_what_others_say_is_logged_too(code: str, event: str) -> None:
    (line,) = logged(code)
    assert event in line["event"]
    assert line.keys() >= FIELDS


class Odd:
    def __repr__(self) -> str:
        raise ZeroDivisionError


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("value", [Odd(), "\udcff", {1: {Odd()}}, float("nan"), b"\xff", 1 << 70])
def test_any_value_gives_a_line(form: str, value: object) -> None:
    sink = _Sink(streams.Writer(-1), "tollgate")
    line = _Renderer(form, colors=False)(sink, "error", {"event": "odd", "value": value})
    assert "odd" in line
    sink.msg(line)
    if form == "json":
        assert json.loads(line).keys() >= FIELDS


class Drawing:
    def __repr__(self) -> str:
        return "\x1b[2J"


@pytest.mark.parametrize("colors", [False, True])
def test_no_text_from_outside_draws_on_a_terminal(colors: bool) -> None:
    text = "x\n2026-11-29 all is well\t\x1b[2J\x9b2J\r\x07"
    event = {"event": text, "note": text, "list": [text], "odd": Drawing(), "exception": text}
    line = _Renderer("console", colors=colors)(_Sink(streams.Writer(-1), "tollgate"), "info", event)
    assert not [each for each in ("\x1b[2J", "\x9b", "\r", "\x07") if each in line]
    assert line.count("\\x1b[2J") == 5
    assert line.count("\n") == 2  # before the exception, and in it


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    fds = os.pipe()
    yield fds
    for fd in fds:
        os.close(fd)


def until(condition: Callable[[], object]) -> None:
    pause = threading.Event()
    for _ in range(int(PATIENCE_S * 1_000)):
        if condition():
            return
        pause.wait(0.001)
    raise AssertionError("not in time")


def test_losses_are_counted_and_told(pipe: tuple[int, int]) -> None:
    ours, theirs = pipe
    told: list[int] = []
    writer = streams.Writer(theirs)
    writer.tell = told.append
    line = b"x" * 65_535 + b"\n"
    for _ in range(100):
        writer.put(line)
    # Two queues are kept at most, the one that the thread writes and the one that waits, and what
    # the pipe holds: each of the lines is a sixteenth of a queue.
    assert 100 - 2 * 16 - 1 <= writer.dropped < 100
    kept = (100 - writer.dropped) * len(line)
    with open(ours, "rb", closefd=False) as reader:
        assert reader.read(kept) == line * (100 - writer.dropped)
    until(lambda: told)
    assert sum(told) == writer.dropped


def test_a_reader_that_comes_back_is_served(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    ours = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
    theirs = os.open(tmp_path / "log", os.O_WRONLY)
    os.close(ours)
    writer = streams.Writer(theirs)
    writer.put(b"lost\n")
    until(lambda: writer.dropped == 1)
    ours = os.open(tmp_path / "log", os.O_RDONLY)
    writer.put(b"read\n")
    assert os.read(ours, 100) == b"read\n"
    os.close(ours)
    os.close(theirs)


def test_a_non_blocking_pipe_gets_all(pipe: tuple[int, int]) -> None:
    ours, theirs = pipe
    os.set_blocking(theirs, False)  # by another process that shares it
    writer = streams.Writer(theirs)
    writer.put(b"x" * 200_000)
    with open(ours, "rb", closefd=False) as reader:
        assert len(reader.read(200_000)) == 200_000
    assert writer.dropped == 0


def test_the_end_waits_for_readers_briefly() -> None:
    code = "log.configure('info')\nfor _ in range(9): print('x' * 99_999, file=sys.stderr)"
    assert run(code).stderr == ("x" * 99_999 + "\n") * 9
    ours, theirs = os.pipe()
    assert run(code, stderr=theirs).returncode == 0  # nothing reads
    os.close(ours)
    os.close(theirs)


def test_a_forked_child_can_print_and_log() -> None:
    lines = run(
        "log.configure('info', 'json')\nlog.protect_stdout()\n"
        "logging.warning('parent')\n"
        "pid = os.fork()\n"
        "logging.warning('child') if pid == 0 else os.waitpid(pid, 0)\n"
        "print('printed')\n"
    )
    assert sorted(json.loads(line)["event"] for line in lines.stderr.splitlines()) == [
        "child",
        "parent",
    ]
    assert lines.stdout == "printed\nprinted\n"


def test_garbage_and_signals_inside_a_write(pipe: tuple[int, int]) -> None:
    writer = streams.Writer(pipe[1])
    with writer._changed:  # as a finalizer or a signal handler finds it
        writer.put(b"inner\n")
    assert os.read(pipe[0], 100) == b"inner\n"


@pytest.mark.parametrize("module", ["broker", "worker"])
def test_format_is_an_option_and_a_variable(module: str, short_dir: Path) -> None:
    ends = {
        "broker": ["--in-memory", "--bind", f"ipc://{short_dir}/b", "--keys", f"{short_dir}/none"],
        "worker": ["--endpoint", f"ipc://{short_dir}/b", "--wait-for-broker-s", "0.01"],
    }  # fmt: skip

    def first_line(*options: str, **names: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", f"tollgate.{module}", *ends[module], *options], cwd=ROOT,
            env={**os.environ, **names}, capture_output=True, text=True, timeout=PATIENCE_S,
            check=False,
        )  # fmt: skip
        return done.stderr.splitlines()[0]

    assert json.loads(first_line()).keys() >= FIELDS
    assert json.loads(first_line("--log-format", "json")).keys() >= FIELDS
    assert "\x1b" not in first_line("--log-format", "console")
    assert first_line("--log-format", "console")[0] == "2"
    assert first_line(TOLLGATE_LOG_FORMAT="console")[0] == "2"
    assert first_line("--log-format", "json", TOLLGATE_LOG_FORMAT="console")[0] == "{"
    assert "log" in first_line(TOLLGATE_LOG_FORMAT="xml").lower()


def test_a_machine_without_a_null_device_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "devnull", "/nowhere/null")
    streams.open_missing()

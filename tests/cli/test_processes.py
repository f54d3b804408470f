"""The command line as a process: exit codes, streams, pipes, signals, and what it imports."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from tollgate.cli import main as command_line
from tollgate.cli.main import COMMANDS, cli
from tollgate.client.sync import Client
from tollgate.domain.status import JobStatus

Start = Callable[..., subprocess.Popen[bytes]]
Invoke = Callable[..., Result]
SLOW = ("asyncio", "importlib.metadata", "pydantic", "rich")


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=30)
    return process.returncode, (out or b"").decode(), (err or b"").decode()


def test_exit_codes_and_streams(start: Start, tmp_path: Path) -> None:
    code, out, err = ended(start("ping"))
    assert (code, out.count("\n"), err) == (0, 1, "")
    code, out, err = ended(start("get", "nope"))
    assert (code, out) == (1, "")
    assert err == "tollgate: job_not_found: no job nope; see `tollgate list`\n"
    code, out, err = ended(start("wait"))
    assert (code, out) == (2, "")
    assert err == "tollgate: Missing argument 'ID'; see `tollgate wait --help`\n"
    nowhere = f"ipc://{tmp_path}/s"
    code, out, err = ended(start("ping", "--endpoint", nowhere, "--answer-timeout", "0.1"))
    assert (code, out) == (3, "")
    assert err.count("\n") == 1


def test_create_can_wait_for_the_end(start: Start, endpoint: str) -> None:
    process = start("create", "x", "--wait")
    assert process.stderr is not None
    job_id = process.stderr.readline().decode().removeprefix("created ").strip()
    with Client(endpoint) as client:
        client.transition(job_id, JobStatus.FAILED, error="no")
    code, out, err = ended(process)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == f"job         {job_id}"
    assert out.splitlines()[-1] == "error       no"


def test_the_endpoint_comes_from_the_environment(start: Start, tmp_path: Path) -> None:
    nowhere = f"ipc://{tmp_path}/s"
    given = {"TOLLGATE_ENDPOINT": nowhere, "TOLLGATE_ANSWER_TIMEOUT": "0.1"}
    code, _, err = ended(start("ping", env=given))
    assert code == 3
    assert nowhere in err


def test_ctrl_c_is_exit_code_130(start: Start) -> None:
    ended(start("create", "x"))
    process = start("list", "--follow")
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    code, _, err = ended(process)
    assert (code, err) == (130, "tollgate: interrupted\n")


def test_ctrl_c_while_it_loads() -> None:
    interrupted = """
import sys
class Interrupting:
    def find_spec(self, name, path, target=None):
        if name == "click":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupting())
from tollgate.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", interrupted], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (130, b"")


def test_closed_pipe_is_not_an_error(start: Start) -> None:
    lines = "".join(f"{number}\n" for number in range(2_000))
    process = start("create", "-")
    process.communicate(lines.encode(), timeout=30)
    for command in (["list"], ["--help"]):
        reader, writer = os.pipe()
        process = start(*command, stdout=writer)
        os.close(writer)
        os.read(reader, 10)
        os.close(reader)
        assert ended(process)[::2] == (0, "")


def test_full_disk_is_one_line(start: Start) -> None:
    with Path("/dev/full").open("wb") as full:
        code, _, err = ended(start("count", stdout=full))
    assert (code, err) == (1, "tollgate: No space left on device\n")


def test_it_works_without_standard_output(environment: dict[str, str]) -> None:
    closed = ["/bin/sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "tollgate"]
    for command in (["--help"], ["count"], ["list"], ["ping"]):
        done = subprocess.run(
            [*closed, *command], env=environment, capture_output=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, b"")


def test_unencodable_characters_are_replaced(start: Start) -> None:
    _, out, _ = ended(start("create", "日本"))
    western = {"PYTHONIOENCODING": "latin-1"}
    code, shown, err = ended(start("get", out.strip(), env=western))
    assert (code, err) == (0, "")
    assert "input       ??\n" in shown


def test_argument_that_is_not_text_is_one_line(start: Start) -> None:
    code, _, err = ended(start("create", os.fsdecode(b"\xff")))
    assert code in (1, 2)
    assert err.count("\n") == 1


def test_internal_error_is_one_line(monkeypatch: pytest.MonkeyPatch, invoke: Invoke) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError("odd")

    monkeypatch.setattr("tollgate.cli.options.Caller.client", fail)
    result = invoke("ping")
    assert result.exit_code == 1
    assert result.stderr.startswith("tollgate: internal error: ZeroDivisionError: odd; ")
    monkeypatch.setenv("TOLLGATE_TRACEBACK", "1")
    assert isinstance(invoke("ping").exception, ZeroDivisionError)


@pytest.mark.parametrize("arguments", [["--help"], ["ping"]])
def test_help_and_ping_import_no_slow_module(
    endpoint: str, environment: dict[str, str], arguments: list[str]
) -> None:
    assert endpoint
    spy = (
        "import sys, atexit\n"
        f"loaded = lambda: [name for name in {SLOW} if name in sys.modules]\n"
        "atexit.register(lambda: print(*loaded(), file=sys.stderr))\n"
        "from tollgate.__main__ import main; main()"
    )
    command = [sys.executable, "-c", spy, *arguments]
    bare = {name: value for name, value in environment.items() if not name.startswith("COV")}
    done = subprocess.run(command, env=bare, capture_output=True, check=True, timeout=30)
    assert done.stdout
    assert done.stderr.decode().split() == []


def test_help_lists_each_command_with_its_summary(invoke: Invoke) -> None:
    shown = invoke("--help").stdout
    assert invoke().stdout == shown
    assert invoke("-h").stdout == shown
    with cli.make_context("tollgate", ["ping"]) as context:
        for name in cli.list_commands(context):
            command = cli.get_command(context, name)
            assert command is not None
            assert command.name == name
            assert command.get_short_help_str(80) == COMMANDS[name][1]
            assert COMMANDS[name][1] in shown
        assert cli.get_command(context, "nope") is None


MODULES = {name: place for name, (place, _) in COMMANDS.items() if ":" not in place}


SERVING = {"payments"}
"""Commands that start a program which serves, and has a log in place of results."""


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in MODULES])
def test_every_command_has_an_example(invoke: Invoke, name: str) -> None:
    shown = invoke(name, "--help").stdout
    assert f"  tollgate {name} " in shown or f"$(tollgate {name} " in shown
    assert "--json" in shown or name in SERVING
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("name", MODULES)
def test_other_programs_replace_the_process(
    monkeypatch: pytest.MonkeyPatch, invoke: Invoke, name: str
) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda path, arguments: calls.append([path, *arguments]))
    typed = ["--help", "--version", "--", "-x", "--json", "a b"]
    assert invoke(name, *typed).exit_code == 0
    assert calls == [[sys.executable, sys.executable, "-P", "-m", MODULES[name], *typed]]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_version(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    result = invoke("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("tollgate ")
    monkeypatch.setattr(command_line, "PROGRAM", "no-such-distribution")
    assert "not installed" in invoke("--version").stdout


@pytest.mark.parametrize(
    ("words", "completions"),
    [
        ("tollgate c", ["create", "count"]),
        ("tollgate --v", ["--version"]),
        ("tollgate list --status ", ["awaiting_payment", "awaiting_input", "running"]),
        ("tollgate transition x com", ["completed"]),
        ("tollgate count --st", ["--status"]),
    ],
)
def test_completion(start: Start, words: str, completions: list[str]) -> None:
    asked = {
        "_TOLLGATE_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    code, out, err = ended(start(env=asked))
    assert (code, err) == (0, "")
    found = [line.partition(",")[2] for line in out.splitlines()]
    assert found[: len(completions)] == completions


def test_completion_is_in_the_help(invoke: Invoke, start: Start) -> None:
    assert "_TOLLGATE_COMPLETE=bash_source tollgate" in invoke("--help").stdout
    code, out, _ = ended(start(env={"_TOLLGATE_COMPLETE": "zsh_source"}))
    assert code == 0
    assert "#compdef tollgate" in out


@pytest.mark.parametrize(
    ("shell", "words"),
    [
        ("bash", {}),
        ("zsh", {}),
        ("fish", {}),
        ("bash", {"COMP_WORDS": "tollgate get ", "COMP_CWORD": "x"}),
        ("zsh", {"COMP_WORDS": "tollgate get ", "COMP_CWORD": "x"}),
    ],
)
def test_completion_is_silent_without_its_variables(
    start: Start, shell: str, words: dict[str, str]
) -> None:
    process = start(env={"_TOLLGATE_COMPLETE": f"{shell}_complete", **words})
    assert ended(process) == (1, "", "")

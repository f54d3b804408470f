"""The command line in odd surroundings: streams, pipes, directories, terminals, endpoints."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from tests.brokers import PATIENCE_S, ROOT, running_broker
from tollgate.terminal.style import WIDTH

Start = Callable[..., subprocess.Popen[bytes]]
Invoke = Callable[..., Result]
PROGRAMS = ("tollgate", "tollgate.broker", "tollgate.worker", "tollgate.broker.admin.journal")
MALFORMED = (
    "",
    "localhost:5555",
    "http://a:1",
    "inproc://a",
    "ipc://",
    "ipc://run/tollgate/b.sock",
    f"ipc:///{'a' * 150}",
    "tcp://localhost",
    "tcp://:5555",
    "tcp://*:5555",
    "tcp://localhost:0",
    "tcp://localhost:99999",
    "tcp://local host:5555",
    " ipc:///b.sock",
)


def in_shell(
    redirection: str, *command: str, environment: dict[str, str] | None = None
) -> tuple[int, str, str]:
    """Run `python -m` under a shell's redirection; return the exit code and both streams."""
    shell = ["/bin/sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-m", *command]
    done = subprocess.run(
        shell, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("endpoint", MALFORMED)
def test_a_malformed_endpoint_is_wrong_usage(invoke: Invoke, endpoint: str) -> None:
    result = invoke("ping", "--endpoint", endpoint)
    assert result.exit_code == 2
    assert result.stderr.startswith("tollgate: Invalid value for '--endpoint': ")
    assert result.stderr.count("\n") == 1


def test_a_malformed_endpoint_names_its_variable(invoke: Invoke) -> None:
    result = invoke("count", env={"TOLLGATE_ENDPOINT": "localhost:5555"})
    assert result.exit_code == 2
    assert "TOLLGATE_ENDPOINT" in result.stderr
    assert "--endpoint" not in result.stderr


@pytest.mark.parametrize(
    ("module", "variable"),
    [("tollgate", "TOLLGATE_ANSWER_TIMEOUT"), ("tollgate.worker", "TOLLGATE_LOG_FORMAT")],
)
def test_a_wrong_value_names_its_variable(module: str, variable: str) -> None:
    arguments = ["count"] if module == "tollgate" else ["--handler", "os:getcwd"]
    code, _, err = in_shell("", module, *arguments, environment={**os.environ, variable: "5 s"})
    assert code == 2
    assert f"Invalid value for {variable}: " in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "options",
    [["--endpoint", "tcp://localhost"], ["--endpoint", "tcp://127.0.0.1:1"], ["--endpoint", ""]],
)
def test_a_worker_refuses_an_endpoint_at_once(options: list[str]) -> None:
    code, _, err = in_shell("", "tollgate.worker", *options)
    assert code == 2
    assert err.startswith("tollgate worker: ")
    assert err.count("\n") == 1


def test_a_worker_refuses_a_key_at_once(tmp_path: Path) -> None:
    options = ("--endpoint", "tcp://127.0.0.1:1", "--key", str(tmp_path))
    code, _, err = in_shell("", "tollgate.worker", *options)
    assert code == 2
    assert "--key" in err


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_on_a_full_disk_is_one_line(program: str) -> None:
    code, _, err = in_shell(">/dev/full", program, "--help")
    assert code == 1
    assert err.startswith("tollgate")
    assert err.endswith(": No space left on device\n")
    assert err.count("\n") == 1


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_for_a_reader_that_left(program: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", program, "--help"], cwd=ROOT, stdout=writer,
        stderr=subprocess.PIPE, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_help_without_any_stream() -> None:
    for program in PROGRAMS:
        assert in_shell("<&- >&- 2>&-", program, "--help") == (0, "", "")


def test_closed_standard_input_is_said(environment: dict[str, str]) -> None:
    code, out, err = in_shell("<&-", "tollgate", "create", "-", environment=environment)
    assert (code, out) == (2, "")
    assert "standard input is closed" in err
    assert err.count("\n") == 1


def test_journal_and_list_end_quietly_in_a_pipe(short_dir: Path) -> None:
    with running_broker(short_dir, data_dir=short_dir / "data") as broker:
        given = {**os.environ, "TOLLGATE_ENDPOINT": broker.endpoint}
        lines = "".join(f"{number}\n" for number in range(3_000)).encode()
        create = [sys.executable, "-m", "tollgate", "create", "-"]
        subprocess.run(create, input=lines, env=given, cwd=ROOT, check=True, capture_output=True)
        dump = ["journal", "dump", "--data-dir", str(short_dir / "data")]
        for command in (dump, ["list"], ["list", "--json"]):
            process = subprocess.Popen(
                [sys.executable, "-m", "tollgate", *command], env=given, cwd=ROOT,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline()
            process.stdout.close()
            assert process.stderr.read() == b""
            process.stderr.close()
            assert process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
def test_a_broker_runs_without_streams(short_dir: Path, closed: str) -> None:
    socket = short_dir / "b.sock"
    shell = [
        "/bin/sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "tollgate.broker",
        "--bind", f"ipc://{socket}", "--data-dir", str(short_dir / "data"), "--drain-ms", "0",
    ]  # fmt: skip
    broker = subprocess.Popen(shell, cwd=ROOT)
    try:
        code, _, err = in_shell(
            "", "tollgate", "ping", "--endpoint", f"ipc://{socket}", "--answer-timeout", "20"
        )
        assert (code, err) == (0, "")
        if sys.platform == "linux":  # no file of the broker's has the number of a stream
            assert str(Path(f"/proc/{broker.pid}/fd/2").readlink()) == "/dev/null"
    finally:
        broker.send_signal(signal.SIGTERM)
        assert broker.wait(PATIENCE_S) == 0


def test_a_terminal_of_no_width_shows_the_jobs(
    in_terminal: Callable[..., object], start: Start
) -> None:
    start("create", "x").communicate(timeout=PATIENCE_S)
    for size, columns in (((80, 24), "0"), ((0, 0), "")):
        shown = in_terminal("list", "--limit", "1", size=size, env={"COLUMNS": columns})
        assert shown.code == 0  # type: ignore[attr-defined] # a `Shown` of conftest.py
        lines = shown.text.splitlines()  # type: ignore[attr-defined]
        assert len(lines) == 2
        assert 40 < max(map(len, lines)) <= WIDTH


@pytest.mark.parametrize(
    "odd",
    [
        {"LC_ALL": "xx_YY.nope"},
        {"LC_ALL": "C"},
        {"PYTHONIOENCODING": "ascii"},
        {"TERM": "xyzzy"},
        {"HOME": "/nonexistent"},
        {"XDG_RUNTIME_DIR": "relative", "XDG_STATE_HOME": "relative"},
    ],
    ids=str,
)
def test_commands_work_in_odd_surroundings(start: Start, odd: dict[str, str]) -> None:
    process = start("create", "日本", env=odd)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, err) == (0, b"")
    process = start("get", out.decode().strip(), "--json", env=odd)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, err) == (0, b"")
    assert '"input":"日本"' in out.decode()


READ_ONLY = """
mount -t tmpfs none m; mkdir -m 700 m/d; chmod 700 m; mount -o remount,ro m
t() { "$PYTHON" -m tollgate "$@" </dev/null 2>err >out; echo "$? $(tail -n 1 err)"; }
t broker --data-dir m/d --bind ipc://$PWD/b
t broker --in-memory --bind ipc://$PWD/m/x/b
t keys new a --role admin --keys k --out m/a.key
t keys new a --role admin --keys m/k
t doctor --data-dir m/d
tail -n 4 out
"""


def test_a_read_only_file_system_is_one_line(short_dir: Path) -> None:
    (short_dir / "m").mkdir()
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-m", "true"], check=False).returncode:
        pytest.skip("takes the right to mount")
    given = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    given.pop("TOLLGATE_ENDPOINT", None)
    done = subprocess.run(
        [unshare, "-m", "/bin/sh", "-c", READ_ONLY], cwd=short_dir, env=given,
        capture_output=True, text=True, timeout=PATIENCE_S, check=True,
    )  # fmt: skip
    *refused, doctor = done.stdout.splitlines()[:5]
    for line, what in zip(refused, ("--data-dir", "--bind", "m/a.key", "m/k"), strict=True):
        assert line.startswith("1 tollgate ")
        assert "Read-only file system" in line
        assert what in line
    assert doctor == "1 "
    assert "m/d is on a read-only file system" in done.stdout

"""Ctrl-C while a program starts or ends: no traceback, the right exit code, and nothing is left."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.brokers import PATIENCE_S, ROOT
from tests.sizes import sample

MODULES = {
    "command line": ["tollgate", "ping", "--answer-timeout", "0.1"],
    "demo": ["tollgate", "demo"],
    "broker": ["tollgate.broker"],
    "worker": ["tollgate.worker"],
    "simulation": ["tollgate.worker.simulation"],
    "gateway": ["tollgate.gateway", "agent.toml"],
    "metrics": ["tollgate.metrics", "--port", "0"],
    "watcher": ["tollgate.masumi"],
    "journal": ["tollgate.broker.admin.journal", "verify"],
    "keys": ["tollgate.broker.admin.keys", "list"],
    "config": ["tollgate.broker.admin.config", "show"],
    "doctor": ["tollgate.broker.admin.doctor"],
}
REPLACED = ["broker", "worker", "metrics", "config", "payments masumi"]
"""Commands of the command line that become another program."""
IMPORTS = sample(5, 40)
"""At how many imports each program is interrupted."""
SPACING = sample(43, 7)
INTERRUPTED = {130, -signal.SIGINT}
"""A shell shows 130 for both."""
EARLY = "left before it was ready"

SITE = """
import atexit, os, signal, sys

at = os.environ["INTERRUPT_AT"]

def interrupt():
    os.kill(os.getpid(), signal.SIGINT)

class Counting:
    seen = None

    def find_spec(self, name, path=None, target=None):
        if self.seen is not None:
            self.seen += 1
            if str(self.seen) == at:
                print("interrupted", name, file=sys.stderr, flush=True)
                interrupt()
        elif name == "tollgate.signals":
            self.seen = 0

sys.meta_path.insert(0, Counting())
if at == "exit":
    atexit.register(interrupt)
if at == "replaced" and signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()):
    interrupt()
"""
"""Interrupts its own process: at an import after `tollgate.signals`, at the end of the program,
or while Python starts in place of the command line."""


def interrupted(home: Path, at: str, *arguments: str) -> tuple[int, str]:
    """Run a module that is interrupted at some point, and return its exit code and its log.

    It is not interrupted there if it has fewer imports: SIGTERM ends it then.
    """
    (home / "site").mkdir(exist_ok=True)
    (home / "site" / "sitecustomize.py").write_text(SITE)
    environment = {name: value for name, value in os.environ.items() if "TOLLGATE" not in name}
    environment |= {
        "PYTHONPATH": f"{home / 'site'}{os.pathsep}{ROOT}",
        "INTERRUPT_AT": at,
        "TOLLGATE_ENDPOINT": f"ipc://{home}/b.sock",
        "TOLLGATE_DATA_DIR": str(home / "data"),
        "TMPDIR": str(home),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments], cwd=home, env=environment, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        _, log = process.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.terminate()
        _, log = process.communicate(timeout=PATIENCE_S)
    return process.returncode, log


@pytest.mark.parametrize("program", MODULES)
def test_ctrl_c_at_an_import_is_quiet(short_dir: Path, program: str) -> None:
    for number in range(IMPORTS):
        at = str(1 + SPACING * number)
        code, log = interrupted(short_dir, at, *MODULES[program])
        if "interrupted" not in log:
            assert number, log
            break  # it had imported everything, and ended by itself or by SIGTERM
        assert "Traceback" not in log
        assert "Exception" not in log
        assert code in INTERRUPTED or (code == 0 and EARLY in log), log
        assert {path.name for path in short_dir.iterdir()} <= {"site", "data"}


@pytest.mark.parametrize("arguments", [["count", "--answer-timeout", "0.1"], ["--help"]])
def test_ctrl_c_at_the_end_is_quiet(short_dir: Path, arguments: list[str]) -> None:
    assert interrupted(short_dir, "exit", "tollgate", *arguments)[0] in INTERRUPTED
    code, log = interrupted(short_dir, "exit", "tollgate.broker.admin.config", "show")
    assert code in INTERRUPTED
    assert log == ""


@pytest.mark.parametrize("command", REPLACED)
def test_ctrl_c_while_python_starts_again(short_dir: Path, command: str) -> None:
    assert interrupted(short_dir, "replaced", "tollgate", *command.split()) == (-signal.SIGINT, "")


IGNORES = """
import os, runpy, signal, sys
sys.path.insert(0, "")
try:
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
except SystemExit:
    pass
os.kill(os.getpid(), signal.SIGINT)
print("went on")
"""


@pytest.mark.parametrize("program", ["tollgate", "tollgate.broker.admin.config"])
def test_an_ignored_ctrl_c_stays_ignored(program: str) -> None:
    ignoring = ["/bin/sh", "-c", 'trap "" INT; exec "$@"', "sh"]
    command = [*ignoring, sys.executable, "-c", IGNORES, program, "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.endswith("went on\n")
    assert (done.returncode, done.stderr) == (0, "")

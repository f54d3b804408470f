"""Programs under `ulimit -v`: what does not fit is said in one line, and nothing is lost."""

import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.brokers import PATIENCE_S, ROOT
from tollgate.broker import memory
from tollgate.client.errors import BatchError
from tollgate.client.sync import Client
from tollgate.domain.exceptions import StorageFullError
from tollgate.terminal.uncaught import OUT_OF_MEMORY

MIB = 1024 * 1024
PROGRAMS = {
    "broker": ["tollgate.broker", "--in-memory", "--bind", "ipc:///tmp/none"],
    "worker": ["tollgate.worker", "--endpoint", "ipc:///tmp/none"],
    "simulation": ["tollgate.worker.simulation", "--endpoint", "ipc:///tmp/none"],
    "gateway": ["tollgate.gateway", "agent.toml"],
    "metrics": ["tollgate.metrics"],
    "watcher": ["tollgate.masumi"],
    "journal": ["tollgate.broker.admin.journal", "verify"],
    "keys": ["tollgate.broker.admin.keys", "list"],
    "config": ["tollgate.broker.admin.config", "show"],
    "doctor": ["tollgate.broker.admin.doctor"],
    "command line": ["tollgate", "count"],
}


def python(limit: int | None, *arguments: object) -> list[str]:
    """Return the command that runs a module with so many bytes of address space."""
    kib = "unlimited" if limit is None else limit // 1024
    in_shell = f'ulimit -v {kib}; exec "$@"'
    return ["/bin/sh", "-c", in_shell, "sh", sys.executable, "-m", *map(str, arguments)]


@pytest.fixture(scope="module")
def smallest() -> int:
    """Return the address space that Python takes alone."""
    told = "import tollgate.terminal.uncaught; print(open('/proc/self/status').read())"
    status = subprocess.check_output([sys.executable, "-c", told], cwd=ROOT, text=True)
    (peak_kib,) = [line.split()[1] for line in status.splitlines() if line.startswith("VmPeak")]
    return int(peak_kib) * 1024


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("room", [2 * MIB, 8 * MIB])
def test_a_program_that_does_not_fit_says_so(smallest: int, program: str, room: int) -> None:
    done = subprocess.run(
        python(smallest + room, *PROGRAMS[program]), cwd=ROOT, capture_output=True, text=True,
        timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert done.returncode != 0
    if room == 2 * MIB:
        assert done.returncode == 1
        assert OUT_OF_MEMORY in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_broker_refuses_changes_before_memory_is_over(short_dir: Path) -> None:
    created = 0
    options = ("--bind", f"ipc://{short_dir}/b", "--data-dir", short_dir / "data")
    for limit in (224 * MIB, None):
        with (short_dir / "log").open("wb") as log:
            started = subprocess.Popen(
                python(limit, "tollgate.broker", *options), cwd=ROOT, stderr=log
            )
        try:
            with Client(f"ipc://{short_dir}/b", timeout_s=PATIENCE_S) as client:
                for _ in range(100 if limit else 0):
                    rows = [{"input": "a job", "meta": "m" * 4_000}] * 500
                    try:
                        created += len(client.create_many(rows))
                    except BatchError as fault:
                        refused = [each for _, each in fault.failed]
                        assert {type(each) for each in refused} == {StorageFullError}
                        created += len(rows) - len(refused)
                        break
                assert client.count().total == created
        finally:
            started.send_signal(signal.SIGTERM)
            assert started.wait(PATIENCE_S) == 0
        told = "the memory limit (ulimit -v) is reached"
        assert (told in (short_dir / "log").read_text()) is (limit is not None)
    assert created > 0


def test_without_a_limit_nothing_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    assert memory.limited_memory() is None
    monkeypatch.setattr("resource.getrlimit", lambda _: (1, resource.RLIM_INFINITY))
    space = memory.limited_memory()
    assert space is not None
    assert not space.has_room()
    monkeypatch.setattr(memory, "_SIZES", Path("/proc/self/no such file"))
    assert space.has_room()

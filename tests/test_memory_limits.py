"""Programs under `ulimit -v`: what does not fit is said in one line, and nothing is lost."""

import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.brokers import PATIENCE_S, ROOT, BrokerProcess
from tollgate.broker import memory
from tollgate.client.errors import BatchError
from tollgate.client.sync import Client
from tollgate.domain.exceptions import StorageFullError
from tollgate.terminal.uncaught import OUT_OF_MEMORY

MIB = 1024 * 1024
MOST = 4096 * MIB
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
    assert not space.has_room_for_own()
    monkeypatch.setattr(memory, "_SIZES", Path("/proc/self/no such file"))
    assert space.has_room()
    assert space.has_room_for_own()


def limit_memory(broker: BrokerProcess, free: int) -> None:
    """Limit the address space of a broker to what it has, and so much more."""
    pages = int(Path(f"/proc/{broker.process.pid}/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + free
    resource.prlimit(broker.process.pid, resource.RLIMIT_AS, (limit, MOST))


def fill(client: Client) -> None:
    """Create jobs until changes are refused. They are due in a moment."""
    refused: set[type] = set()
    while not refused:
        due = datetime.now(UTC) + timedelta(seconds=5)
        rows = [{"input": "a job", "meta": "m" * 4_000, "pay_by_time": due}] * 100
        try:
            client.create_many(rows)
        except BatchError as fault:
            refused = {type(each) for _, each in fault.failed}
    assert refused == {StorageFullError}


def until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def is_accepted(client: Client) -> bool:
    try:
        client.create(input="now")
    except StorageFullError:
        return False
    return True


@pytest.fixture
def limited(short_dir: Path) -> Iterator[BrokerProcess]:
    """Return a broker whose memory is limited, but not near its limit."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MOST, before[1]))  # the broker inherits it
    try:
        broker = BrokerProcess(
            short_dir, data_dir=short_dir / "data", keep_finished_ms=1_000, payment_grace_ms=0
        )
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    try:
        broker.wait_until_ready()
        yield broker
        broker.process.terminate()
        assert broker.process.wait(PATIENCE_S) == 0
    finally:
        broker.kill()


def test_deadlines_and_leases_end_at_the_memory_limit(limited: BrokerProcess) -> None:
    """What ends and goes gives memory back: changes are accepted again without a restart."""
    with Client(limited.endpoint, timeout_s=PATIENCE_S) as client:
        held = client.create(input="held")
        client.transition(held.job_id, "running")
        assert client.claim("running", lease_ms=1_000)
        limit_memory(limited, memory.RESERVE_BYTES + 20 * MIB)
        fill(client)
        assert not is_accepted(client)
        until(lambda: client.get(held.job_id).attempts == 1)
        until(lambda: client.count().total == 1)
        until(lambda: is_accepted(client))
    told = [event["event"] for event in limited.events if event["level"] == "warning"]
    assert told == ["the memory limit (ulimit -v) is reached", "changes are accepted again"]


def test_a_limit_that_is_raised_is_seen(limited: BrokerProcess) -> None:
    with Client(limited.endpoint, timeout_s=PATIENCE_S) as client:
        limit_memory(limited, memory.RESERVE_BYTES - MIB)
        until(lambda: not is_accepted(client))
        limit_memory(limited, 2 * memory.RESERVE_BYTES)
        until(lambda: is_accepted(client))


def test_nothing_goes_on_without_memory_for_it(limited: BrokerProcess) -> None:
    with Client(limited.endpoint, timeout_s=PATIENCE_S) as client:
        due = datetime.now(UTC) + timedelta(seconds=1)
        job = client.create(input="due", pay_by_time=due)
        limit_memory(limited, memory.OWN_BYTES - MIB)
        time.sleep(2)
        assert client.get(job.job_id).status == "awaiting_payment"
        limit_memory(limited, memory.OWN_BYTES + 8 * MIB)
        until(lambda: not client.count().by_status["awaiting_payment"])
        assert not is_accepted(client)

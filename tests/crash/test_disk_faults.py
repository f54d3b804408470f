"""A disk that fails or is full, under a real broker: no change that is lost was acknowledged."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.core import job_id
from tests.crash.client import Client, create
from tests.crash.process import Broker
from tests.sizes import sample
from tollgate.broker.compaction import LONGEST_MS, LOOK_MS, RETRY_MS, Compactor
from tollgate.broker.journal.file import FileJournal
from tollgate.domain.commands import Count, Get
from tollgate.domain.results import CountResult, ErrorResult, JobResult

STRACE = shutil.which("strace")
REQUESTS_MAX = 12
LIMIT_BYTES = 512 * 1024
UNDER_LIMIT = f"""import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, ({LIMIT_BYTES}, resource.RLIM_INFINITY))
os.execv(sys.argv[1], sys.argv[1:])"""
"""Runs a program that can write no file longer than that: not what is reserved for a batch."""
JOBS_MAX = 500
"""More jobs of 60,000 bytes than there is room for."""
NO_LIMIT = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
NO_DRAIN = ["--drain-ms", "0"]
"""Nothing here is about the requests that come while a broker stops."""
SMALL = [*NO_DRAIN, "--segment-bytes", str(1024 * 1024)]
MOUNT, UMOUNT = shutil.which("mount"), shutil.which("umount")


class Fault(NamedTuple):
    """Which system call fails and how, and how many jobs are acknowledged before it."""

    call: str
    error: str
    nth: int
    doing: str
    acknowledged: int

    def injected(self) -> list[str]:
        assert STRACE is not None
        inject = f"inject={self.call}:error={self.error}:when={self.nth}"
        return [STRACE, "-f", "-qq", "-o", "/dev/null", "-e", f"trace={self.call}", "-e", inject]


@pytest.fixture(scope="module")
def can_trace() -> None:
    if STRACE is None:
        pytest.skip("strace is not installed")
    probe = subprocess.run(
        [STRACE, "-qq", "-o", "/dev/null", "true"], capture_output=True, check=False
    )
    if probe.returncode:
        pytest.skip("this process may not trace others")


def create_until_it_ends(client: Client, broker: Broker) -> int:
    """Create jobs until the broker ends. Return how many were acknowledged."""
    acknowledged = 0
    for number in range(1, REQUESTS_MAX + 1):
        results = client.ask_until_it_ends(
            create(number), is_over=lambda: broker.process.poll() is not None
        )
        if results is None:
            return acknowledged
        assert isinstance(results[0], JobResult), results
        acknowledged = number
    raise AssertionError(f"no call failed: {broker.log()}")


def last_line(broker: Broker) -> str:
    """Return its last line. It must end with exit code 1 and say why in one line."""
    assert broker.process.wait(10) == 1, broker.log()
    log = broker.log()
    assert "Traceback" not in log
    last = log.splitlines()[-1]
    assert last.startswith("tollgate broker: could not "), log
    return last


# The first pwrite64 is the process id in the lock, the second the header of the first segment.
FAULTS = [
    Fault("fdatasync", "EIO", 3, "sync", 1),
    Fault("fdatasync", "ENOSPC", 3, "sync", 1),
    Fault("pwrite64", "EIO", 2, "append to", 0),
    Fault("pwrite64", "EIO", 6, "append to", 2),
    Fault("pwrite64", "ENOSPC", 3, "append to", 0),
    Fault("fallocate", "EIO", 1, "reserve room in", 0),
    Fault("rename", "EIO", 1, "append to", 0),
]
MORE_FAULTS = [
    *[Fault("fdatasync", "EIO", nth, "sync", max(0, nth - 2)) for nth in (1, 2, 4)],
    Fault("pwrite64", "EIO", 3, "append to", 0),
]


@pytest.mark.slow
@pytest.mark.usefixtures("can_trace")
@pytest.mark.parametrize("fault", FAULTS + sample([], MORE_FAULTS), ids=str)
def test_a_failing_disk_ends_the_broker_and_loses_nothing(short_dir: Path, fault: Fault) -> None:
    broker = Broker(short_dir, "failing", before=fault.injected())
    broker.wait_until_ready()
    with Client(broker.url) as client:
        acknowledged = create_until_it_ends(client, broker)
        # Syncs are counted thread by thread, and some run beside the loop.
        assert acknowledged >= fault.acknowledged
        assert acknowledged == fault.acknowledged or fault.call == "fdatasync"
        assert f"could not {fault.doing} the journal in {short_dir}/data" in last_line(broker)
    after = Broker(short_dir, "after", NO_DRAIN)
    try:
        with Client(after.url) as client:
            for number in range(1, acknowledged + 1):
                assert client.ask(Get(job_id=job_id(number)))
            again = client.ask(create(acknowledged + 1), Count())
            assert again is not None
            assert isinstance(again[0], JobResult)
            assert isinstance(again[1], CountResult)
            assert again[1].total == acknowledged + 1
    finally:
        assert after.terminate() == 0


@pytest.mark.slow
def test_a_file_size_limit_is_a_full_disk_until_it_is_lifted(short_dir: Path) -> None:
    broker = Broker(short_dir, "limited", NO_DRAIN, before=(sys.executable, "-c", UNDER_LIMIT))
    try:
        broker.wait_until_ready()
        with Client(broker.url) as client:
            refused(client, create(1))
            resource.prlimit(broker.process.pid, resource.RLIMIT_FSIZE, NO_LIMIT)
            recovers(client, create(1))
    finally:
        assert broker.terminate() == 0


def fill(client: Client) -> int:
    """Create jobs until one is refused for want of room. Return its number."""
    for number in range(2, JOBS_MAX):
        results = client.ask(create(number, 60_000))
        assert results is not None
        if isinstance(results[0], ErrorResult):
            assert results[0].code == "storage_full"
            return number
    raise AssertionError("the disk was never full")


def refused(client: Client, command: object) -> None:
    results = client.ask(command, Count())  # type: ignore[arg-type]
    assert results is not None
    assert isinstance(results[0], ErrorResult)
    assert (results[0].code, results[0].retryable) == ("storage_full", True)
    assert isinstance(results[1], CountResult)


def recovers(client: Client, command: object) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        results = client.ask(command)  # type: ignore[arg-type]
        assert results is not None
        if isinstance(results[0], JobResult):
            return
        time.sleep(0.05)
    raise AssertionError("the broker does not notice that there is room again")


@pytest.fixture
def small_disk(short_dir: Path) -> Iterator[Path]:
    """A file system of 64 MiB on `short_dir/data`."""
    data = short_dir / "data"
    data.mkdir()
    if MOUNT is None or UMOUNT is None:
        pytest.skip("there is no mount here")
    mount = [MOUNT, "-t", "tmpfs", "-o", "size=64m,mode=0700", "tmpfs", str(data)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this process may not mount a file system")
    yield data
    subprocess.run([UMOUNT, "-l", str(data)], check=True)


@pytest.mark.slow
def test_a_full_disk_refuses_writes_answers_reads_and_recovers(
    short_dir: Path, small_disk: Path
) -> None:
    broker = Broker(short_dir, "full", SMALL)
    made = 1
    try:
        broker.wait_until_ready()
        with Client(broker.url) as client:
            client.open_session()
            assert client.ask(create(1))
            ballast(small_disk)
            full = False
            while not full:
                made += 1
                results = client.ask(create(made, 60_000))
                assert results is not None
                full = isinstance(results[0], ErrorResult)
                assert full or made < 500
            waiting = client.seq  # the request that found no room
            refused(client, create(made + 1, 60_000))
            assert client.ask(Get(job_id=job_id(1)))
            (small_disk / "ballast").unlink()
            recovers(client, create(made + 1))
            results = client.ask(create(made, 60_000), seq=waiting)  # nothing of it was remembered
            assert results is not None
            assert isinstance(results[0], JobResult)
            broker.kill()
            broker = Broker(short_dir, "again", SMALL)
            client.reconnect()
            results = client.ask(create(made, 60_000), seq=waiting)
            assert results is not None
            assert isinstance(results[0], JobResult)
            counted = client.ask(Count())
            assert counted is not None
            assert isinstance(counted[0], CountResult)
            assert counted[0].total == made + 1
    finally:
        assert broker.terminate() == 0


def ballast(directory: Path) -> None:
    """Fill the file system."""
    with (directory / "ballast").open("wb") as file, suppress(OSError):
        while True:
            os.write(file.fileno(), bytes(1 << 16))


@pytest.mark.slow
def test_a_broker_reads_when_the_disk_is_full_from_the_start(
    short_dir: Path, small_disk: Path
) -> None:
    first = Broker(short_dir, "first", SMALL)
    with Client(first.url) as client:
        assert client.ask(create(1))
    first.kill()
    ballast(small_disk)
    broker = Broker(short_dir, "full", SMALL)
    try:
        with Client(broker.url) as client:
            assert client.ask(Get(job_id=job_id(1)))
            client.seq = 10
            fill(client)
    finally:
        assert broker.terminate() == 0


def test_a_compaction_that_hangs_is_killed(tmp_path: Path) -> None:
    hangs = tmp_path / "hangs"
    hangs.write_text("#!/bin/sh\nexec sleep 60\n")
    hangs.chmod(0o700)
    journal = FileJournal(tmp_path / "data")
    assert list(journal.replay()) == []
    for number in range(2):
        journal.append([b"%d" % number])
        journal.close_segment()
    compactor = Compactor(journal, tmp_path / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tollgate.broker.compaction.sys.executable", str(hangs))
        compactor.step(LOOK_MS)
    child = compactor._child
    assert child is not None
    compactor.step(LONGEST_MS)  # a moment before
    assert child.poll() is None
    now_ms = LOOK_MS + LONGEST_MS
    compactor.step(now_ms)
    assert child.wait(10) == -signal.SIGKILL
    compactor.step(now_ms + LOOK_MS)
    assert compactor._child is None
    assert compactor.look_at_ms == now_ms + LOOK_MS + RETRY_MS
    compactor.close()
    journal.close()


def test_a_compaction_that_cannot_start_is_retried_later(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path)
    assert list(journal.replay()) == []
    for number in range(2):
        journal.append([b"%d" % number])
        journal.close_segment()
    compactor = Compactor(journal, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tollgate.broker.compaction.sys.executable", str(tmp_path / "nothing"))
        compactor.step(LOOK_MS)
    assert compactor.look_at_ms == LOOK_MS + RETRY_MS
    compactor.close()
    journal.close()

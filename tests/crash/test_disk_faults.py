"""A disk that fails or is full, under a real broker: nothing is acknowledged that is not safe."""

import os
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.core import job_id
from tests.crash.lives import Broker
from tests.crash.talk import Talk, create
from tollgate.broker.compaction import LOOK_MS, RETRY_MS, Compactor
from tollgate.broker.journal.file import FileJournal
from tollgate.domain.commands import Count, Get
from tollgate.domain.results import CountResult, ErrorResult, JobResult

STRACE = shutil.which("strace")
REQUESTS_MAX = 12
LIMIT_BYTES = 512 * 1024
NO_LIMIT = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
MOUNT, UMOUNT = shutil.which("mount"), shutil.which("umount")


class Fault(NamedTuple):
    """Which call of its kind fails, at what, and how many jobs were acknowledged before."""

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


def made_until_the_end(talk: Talk, broker: Broker) -> int:
    """Create one job after the other until the broker dies; return how many were acknowledged."""
    acknowledged = 0
    for number in range(1, REQUESTS_MAX + 1):
        results = talk.ask_the_dying(
            create(number), is_over=lambda: broker.process.poll() is not None
        )
        if results is None:
            return acknowledged
        assert isinstance(results[0], JobResult), results
        acknowledged = number
    raise AssertionError(f"the fault never came: {broker.said()}")


def ended(broker: Broker) -> str:
    """Its last words; it has to say them in one line, and to go with a code that is not zero."""
    assert broker.process.wait(10) == 1, broker.said()
    said = broker.said()
    assert "Traceback" not in said
    last = said.splitlines()[-1]
    assert last.startswith("tollgate broker: could not "), said
    return last


# The first pwrite64 is the process id in the lock, the second the header of the first segment.
FAULTS = [
    *[Fault("fdatasync", "EIO", nth, "sync", nth - 1) for nth in (1, 2, 3)],
    Fault("fdatasync", "ENOSPC", 2, "sync", 1),
    Fault("pwrite64", "EIO", 2, "append to", 0),
    *[Fault("pwrite64", "EIO", nth, "append to", nth - 3) for nth in (3, 5)],
    Fault("pwrite64", "ENOSPC", 3, "append to", 0),
    Fault("fallocate", "EIO", 1, "reserve room in", 0),
    Fault("rename", "EIO", 1, "append to", 0),
]


@pytest.mark.slow
@pytest.mark.usefixtures("can_trace")
@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_failing_disk_ends_the_broker_and_loses_nothing(short_dir: Path, fault: Fault) -> None:
    broker = Broker(short_dir, "failing", before=fault.injected())
    broker.wait_until_ready()
    with Talk(broker.url) as talk:
        assert made_until_the_end(talk, broker) == fault.acknowledged
        assert f"could not {fault.doing} the journal in {short_dir}/data" in ended(broker)
    after = Broker(short_dir, "after")
    try:
        with Talk(after.url) as talk:
            for number in range(1, fault.acknowledged + 1):
                assert talk.ask(Get(job_id=job_id(number)))
            again = talk.ask(create(fault.acknowledged + 1), Count())
            assert again is not None
            assert isinstance(again[0], JobResult)
            assert isinstance(again[1], CountResult)
            assert again[1].total == fault.acknowledged + 1
    finally:
        assert after.terminate() == 0


@pytest.mark.slow
def test_a_limit_on_files_is_a_full_disk_until_it_is_lifted(short_dir: Path) -> None:
    broker = Broker(short_dir, "limited")
    try:
        broker.wait_until_ready()
        pid = broker.process.pid
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (LIMIT_BYTES, resource.RLIM_INFINITY))
        with Talk(broker.url) as talk:
            refused(talk, create(1))
            resource.prlimit(pid, resource.RLIMIT_FSIZE, NO_LIMIT)
            recovers(talk, create(1))
    finally:
        assert broker.terminate() == 0


def refused(talk: Talk, command: object) -> None:
    results = talk.ask(command, Count())  # type: ignore[arg-type]
    assert results is not None
    assert isinstance(results[0], ErrorResult)
    assert (results[0].code, results[0].retryable) == ("storage_full", True)
    assert isinstance(results[1], CountResult)


def recovers(talk: Talk, command: object) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        results = talk.ask(command)  # type: ignore[arg-type]
        assert results is not None
        if isinstance(results[0], JobResult):
            return
        time.sleep(0.05)
    raise AssertionError("there is room again, and the broker does not see it")


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
    broker = Broker(short_dir, "full", ["--segment-bytes", str(1024 * 1024)])
    made = 1
    try:
        broker.wait_until_ready()
        with Talk(broker.url) as talk:
            talk.open_session()
            assert talk.ask(create(1))
            ballast(small_disk)
            full = False
            while not full:
                made += 1
                results = talk.ask(create(made, 60_000))
                assert results is not None
                full = isinstance(results[0], ErrorResult)
                assert full or made < 500
            waiting = talk.seq  # the request that found no room
            refused(talk, create(made + 1, 60_000))
            assert talk.ask(Get(job_id=job_id(1)))
            (small_disk / "ballast").unlink()
            recovers(talk, create(made + 1))
            results = talk.ask(create(made, 60_000), seq=waiting)  # nothing of it was remembered
            assert results is not None
            assert isinstance(results[0], JobResult)
            broker.kill()
            broker = Broker(short_dir, "again", ["--segment-bytes", str(1024 * 1024)])
            talk.reconnect()
            results = talk.ask(create(made, 60_000), seq=waiting)
            assert results is not None
            assert isinstance(results[0], JobResult)
            counted = talk.ask(Count())
            assert counted is not None
            assert isinstance(counted[0], CountResult)
            assert counted[0].total == made + 1
    finally:
        assert broker.terminate() == 0


def ballast(directory: Path) -> None:
    """Leave nothing on the file system."""
    with (directory / "ballast").open("wb") as file, suppress(OSError):
        while True:
            os.write(file.fileno(), bytes(1 << 16))


@pytest.mark.slow
def test_a_disk_that_is_full_from_the_start_does_not_keep_a_broker_from_reading(
    short_dir: Path, small_disk: Path
) -> None:
    first = Broker(short_dir, "first", ["--segment-bytes", str(1024 * 1024)])
    with Talk(first.url) as talk:
        assert talk.ask(create(1))
    first.kill()
    ballast(small_disk)
    broker = Broker(short_dir, "full", ["--segment-bytes", str(1024 * 1024)])
    try:
        with Talk(broker.url) as talk:
            assert talk.ask(Get(job_id=job_id(1)))
            talk.seq = 10
            for number in range(2, 60):
                results = talk.ask(create(number, 60_000))
                assert results is not None
                if isinstance(results[0], ErrorResult):
                    assert results[0].code == "storage_full"
                    break
            else:
                raise AssertionError("the disk was never full")
    finally:
        assert broker.terminate() == 0


def test_a_compaction_that_cannot_be_done_is_left_for_a_while(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path)
    assert list(journal.replay()) == []
    for number in range(2):
        journal.append([b"%d" % number])
        journal.close_segment()
    compactor = Compactor(journal, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tollgate.broker.compaction.sys.executable", str(tmp_path / "nothing"))
        compactor.step(LOOK_MS)
    assert compactor._look_at_ms == LOOK_MS + RETRY_MS
    compactor.close()
    journal.close()

"""What a service manager is told: ready, alive, about to leave; by systemd's protocol."""

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from tests.brokers import PATIENCE_S, ROOT
from tollgate.broker.journal.format import segment_name
from tollgate.broker.telemetry import Notifier
from tollgate.client.sync import Client


@pytest.mark.parametrize("abstract", [False, True])
def test_a_broker_says_when_it_is_ready_alive_and_leaving(short_dir: Path, abstract: bool) -> None:
    name = f"@{short_dir.name}" if abstract else f"{short_dir}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(PATIENCE_S)
        manager.bind(name.replace("@", "\0", 1))
        broker = subprocess.Popen(
            [sys.executable, "-m", "tollgate.broker", "--in-memory", "--bind", f"ipc://{short_dir}/b.sock"],
            cwd=ROOT, stderr=subprocess.DEVNULL,
            env={**os.environ, "NOTIFY_SOCKET": name, "WATCHDOG_USEC": "100000"},
        )  # fmt: skip
        try:
            ready = manager.recv(4_096).decode()
            assert ready.startswith("READY=1\nSTATUS=0 jobs, at ipc://")
            assert (short_dir / "b.sock").is_socket()  # whoever waited may come
            for _ in range(3):
                assert manager.recv(4_096) == b"WATCHDOG=1"
            broker.send_signal(signal.SIGTERM)
            while (said := manager.recv(4_096)) == b"WATCHDOG=1":
                pass
            assert said == b"STOPPING=1"
            assert broker.wait(PATIENCE_S) == 0
        finally:
            broker.kill()
            broker.wait()


STRACE = shutil.which("strace")
SLOW = ("-o", "/dev/null", "-e", "trace=fdatasync", "-e", "inject=fdatasync:delay_enter=2000000")


def test_a_broker_is_alive_while_its_disk_stalls(short_dir: Path) -> None:
    """Else systemd ends it, though a restart would wait for the same disk."""
    if STRACE is None:
        pytest.skip("strace is not installed")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(PATIENCE_S)
        manager.bind(f"{short_dir}/notify")
        options = ("--bind", f"ipc://{short_dir}/b", "--data-dir", str(short_dir / "data"))
        tracer = subprocess.Popen(
            [STRACE, "-f", *SLOW, sys.executable, "-m", "tollgate.broker", *options],
            cwd=ROOT, stderr=subprocess.DEVNULL,
            env={**os.environ, "NOTIFY_SOCKET": f"{short_dir}/notify", "WATCHDOG_USEC": "500000"},
        )  # fmt: skip
        try:
            while b"READY=1" not in manager.recv(4_096):
                pass
            (broker,) = Path(f"/proc/{tracer.pid}/task/{tracer.pid}/children").read_text().split()
            with Client(f"ipc://{short_dir}/b", timeout_s=PATIENCE_S) as client:
                client.ping()
                beats = 0
                creating = threading.Thread(target=lambda: client.create(input="x"))
                manager.settimeout(0)
                with suppress(BlockingIOError):
                    while manager.recv(4_096):
                        pass
                manager.settimeout(0.1)
                creating.start()
                while creating.is_alive():
                    with suppress(TimeoutError):
                        beats += manager.recv(4_096) == b"WATCHDOG=1"
                creating.join()
                assert client.count().total == 1
            assert beats > 6  # the loop itself beats before, between and after two syncs
            os.kill(int(broker), signal.SIGTERM)
            assert tracer.wait(PATIENCE_S) == 0
        finally:
            tracer.kill()
            tracer.wait()


def test_a_manager_that_is_gone_stops_nobody(short_dir: Path) -> None:
    done = subprocess.Popen(
        [sys.executable, "-m", "tollgate.broker", "--in-memory", "--bind", f"ipc://{short_dir}/b.sock"],
        cwd=ROOT, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "NOTIFY_SOCKET": f"{short_dir}/nobody", "WATCHDOG_USEC": "2000"},
    )  # fmt: skip
    assert done.stderr is not None
    while '"ready"' not in done.stderr.readline():
        assert done.poll() is None
    done.terminate()
    done.communicate(timeout=PATIENCE_S)
    assert done.returncode == 0


def test_no_file_left_to_say_it_with_stops_nobody(
    monkeypatch: pytest.MonkeyPatch, short_dir: Path
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", f"{short_dir}/nobody")
    notifier = Notifier()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, most[1]))
    try:
        notifier.alive()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, most)


def test_a_stop_during_the_start_is_told(short_dir: Path) -> None:
    data = short_dir / "data"
    data.mkdir(mode=0o700)
    os.mkfifo(data / segment_name(1), 0o600)  # it is never opened for writing, so the replay hangs
    starting = subprocess.Popen(
        [sys.executable, "-m", "tollgate.broker", "--data-dir", str(data), "--bind", f"ipc://{short_dir}/b.sock"],
        cwd=ROOT, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert starting.stderr is not None
    assert '"journal"' in starting.stderr.readline()
    while not (short_dir / "b.sock.lock").exists():
        assert starting.poll() is None
    starting.terminate()
    _, log = starting.communicate(timeout=PATIENCE_S)
    assert starting.returncode == 0
    assert '"left before it was ready"' in log
    assert '"SIGTERM"' in log

"""The steps of docs/deployment.md, as they are written: between namespaces, and over loopback."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "deployment.md"
ADDRESS = "192.0.2.10"
PATIENCE_S = 100.0

pytestmark = pytest.mark.timeout(240)  # a dozen processes one after the other, on a busy machine
STEP = re.compile(r"^### Step \d: .*?^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
IP = shutil.which("ip")


class Machine:
    """A home directory with an environment and a network of its own."""

    def __init__(self, home: Path, bin_dir: Path, inside: tuple[str, ...] = ()) -> None:
        home.mkdir(mode=0o700)
        (home / "run").mkdir(mode=0o700)
        self.home = home
        self._inside = inside
        self._environment = {
            "HOME": str(home),
            "TOLLGATE_ANSWER_TIMEOUT": str(PATIENCE_S),
            "XDG_RUNTIME_DIR": str(home / "run"),
            "PATH": f"{bin_dir}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        }

    def start(self, script: str) -> "subprocess.Popen[str]":
        command = [*self._inside, "/bin/sh", "-e", "-c", script]
        return subprocess.Popen(
            command, cwd=self.home, env=self._environment, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, script: str) -> str:
        """Run a script that must succeed; return what it printed."""
        process = self.start(script)
        out, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, out + err
        return out


def follow(first: Machine, second: Machine, steps: list[str]) -> None:
    """Follow the three steps, and check that the job arrived at the first machine."""
    first.run(steps[0])
    broker = first.start("exec " + steps[1])
    try:
        assert broker.stderr is not None
        assert any('"ready"' in line for line in broker.stderr)
        out = second.run(steps[2])
        assert "your role is producer" in out
        assert "\nnothing to do\n" in out
        job_id = out.splitlines()[-1]
        assert "from the second machine" in first.run(f"tollgate get {job_id}")
    finally:
        broker.send_signal(signal.SIGTERM)
        broker.communicate(timeout=PATIENCE_S)
    assert broker.returncode == 0


@pytest.fixture
def bin_dir(short_dir: Path) -> Path:
    """A folder with an `scp` that copies into the home of the second machine."""
    made = short_dir / "bin"
    made.mkdir()
    (made / "scp").write_text(f'#!/bin/sh\nexec cp -p "$1" {short_dir}/second/\n')
    (made / "scp").chmod(0o755)
    return made


@pytest.fixture
def namespaces() -> Iterator[tuple[str, str]]:
    """Two network namespaces, joined by a cable; the first has the address of the page."""
    names = (f"tg{os.getpid()}a", f"tg{os.getpid()}b")
    scripts = [
        *(f"netns add {name}" for name in names),
        f"-n {names[0]} link add tg0 type veth peer name tg0 netns {names[1]}",
        f"-n {names[0]} addr add {ADDRESS}/24 dev tg0",
        f"-n {names[1]} addr add 192.0.2.20/24 dev tg0",
        *(f"-n {name} link set tg0 up" for name in names),
    ]
    try:
        for script in scripts:
            command = [IP or "ip", *script.split()]
            if IP is None or subprocess.run(command, capture_output=True, check=False).returncode:
                pytest.skip("takes the right to make network namespaces")
        yield names
    finally:
        for name in names:
            if IP is not None:
                subprocess.run([IP, "netns", "del", name], capture_output=True, check=False)


def steps() -> list[str]:
    found = STEP.findall(PAGE.read_text())
    assert len(found) == 3
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="takes all of 127.0.0.0/8")
def test_a_second_machine_over_loopback(short_dir: Path, bin_dir: Path) -> None:
    pid = os.getpid()  # an address of this process alone: a port that was free could be taken
    address = f"127.{1 + (pid >> 16)}.{(pid >> 8) & 255}.{pid & 255}"
    here = [step.replace(ADDRESS, address) for step in steps()]
    first, second = (Machine(short_dir / name, bin_dir) for name in ("first", "second"))
    follow(first, second, here)


def test_a_second_machine_over_a_cable(
    short_dir: Path, bin_dir: Path, namespaces: tuple[str, str]
) -> None:
    first, second = (
        Machine(short_dir / name, bin_dir, (IP or "ip", "netns", "exec", namespace))
        for name, namespace in zip(("first", "second"), namespaces, strict=True)
    )
    follow(first, second, steps())


def test_the_page_installs_what_the_units_start() -> None:
    page = PAGE.read_text()
    for unit in (ROOT / "deploy").iterdir():
        for program in re.findall(r"^ExecStart=(\S+)", unit.read_text(), re.MULTILINE):
            assert program == "/opt/tollgate/bin/tollgate"
    assert "python3 -m venv /opt/tollgate\n" in page
    for name in re.findall(r"(?:deploy|requirements)/[\w@.-]+", page):
        assert (ROOT / name).is_file(), name

"""The demonstration, end to end with real processes: it adds up, and leaves nothing behind."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

Start = Callable[..., subprocess.Popen[bytes]]
PATIENCE_S = 30.0
FAST_SEED = "2377"
"""With it, the first four jobs are paid, or refused, within 0.7 s."""


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the demonstrations of a test have their directories; the path must be short."""
    place = tmp_path_factory.mktemp("d")
    monkeypatch.setenv("TMPDIR", str(place))
    return place


@pytest.fixture(autouse=True)
def leaves_nothing(place: Path) -> Iterator[None]:
    yield
    assert list(place.iterdir()) == []
    assert processes_in(place) == []


def processes_in(place: Path) -> list[int]:
    """Return the processes of demonstrations below `place`: their sockets are in their options."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:  # it has just ended
                continue
            if os.fsencode(place) in command:
                found.append(int(entry.name))
    return sorted(found)


def wait_for(is_so: Callable[[], Any]) -> Any:
    until = time.monotonic() + PATIENCE_S
    while not (found := is_so()):
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.02)
    return found


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, (out or b"").decode(), (err or b"").decode()


def demo(start: Start, place: Path, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    environment = {"TMPDIR": str(place), **options.pop("env", {})}
    return start("demo", *arguments, env=environment, **options)


def test_two_runs_with_one_seed_agree(start: Start, place: Path) -> None:
    arguments = ("--jobs", "12", "--seed", "5", "--json")
    # The second run's settings are for the user's own broker: the demonstration ignores them.
    users = {"TOLLGATE_ENDPOINT": "ipc:///nowhere", "TOLLGATE_BROKER_JOBS": "nonsense"}
    both = [demo(start, place, *arguments, env=env) for env in ({}, users)]
    first, second = (adds_up(*ended(process)) for process in both)
    assert first["hashes"]["fingerprint"] == second["hashes"]["fingerprint"]
    assert first["failures"] == second["failures"]


def adds_up(code: int, out: str, err: str) -> Any:
    first = "starting a broker and 2 workers; payments are simulated"
    assert (code, err.splitlines()[0]) == (0, first)
    (line,) = out.splitlines()
    summary = msgspec.json.decode(line)
    assert summary["ok"] is True
    assert summary["jobs"] == summary["completed"] + summary["failed"] == 12
    assert summary["not_ended"] == 0
    assert sum(summary["failures"].values()) == summary["failed"]
    hashes = summary["hashes"]
    assert hashes["right"] == hashes["checked"] == summary["completed"]
    assert hashes["wrong"] == []
    assert re.fullmatch("[0-9a-f]{64}", hashes["sample"]["output_hash"])
    for name in ("creation_to_end_ms", "round_trip_ms"):
        assert 0 < summary[name]["p50"] <= summary[name]["p90"] <= summary[name]["p99"]
    return summary


def test_picture_in_a_terminal(
    in_terminal: Callable[..., Any], place: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "demo.svg"
    options = ("--jobs", "4", "--seed", FAST_SEED, "--svg", str(picture))
    shown = in_terminal("demo", *options, env={"TMPDIR": str(place)})
    assert shown.code == 0
    assert "starting a broker and its workers" in shown.text
    assert "payments are simulated" in shown.text
    assert "4 of 4 jobs created" in shown.text
    assert "at the gate" in shown.text
    assert "All jobs ended: 4 in " in shown.text
    drawing = picture.read_text()
    assert drawing.startswith("<svg ")
    assert "at\xa0the\xa0gate" in drawing
    assert re.findall("https?:[^\"' ]*", drawing) == ["http://www.w3.org/2000/svg"]


def test_small_terminal_gets_plain_lines(in_terminal: Callable[..., Any], place: Path) -> None:
    options = ("--jobs", "2", "--seed", FAST_SEED)
    shown = in_terminal("demo", *options, size=(60, 10), env={"TMPDIR": str(place)})
    assert shown.code == 0
    assert "at the gate" not in shown.text
    assert "created 2/2" in shown.text


def test_sigterm_ends_it_and_its_processes(start: Start, place: Path) -> None:
    process = demo(start, place, "--jobs", "100")
    wait_for(lambda: len(processes_in(place)) == 3)
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 143


def test_killed_demo_leaves_no_orphan(start: Start, place: Path) -> None:
    process = demo(start, place, "--jobs", "100")
    wait_for(lambda: len(processes_in(place)) == 3)
    process.kill()
    process.wait(PATIENCE_S)
    wait_for(lambda: not processes_in(place) and not list(place.iterdir()))


@pytest.mark.parametrize("stuck", [False, True])
def test_sigterm_ends_it_without_a_reader(start: Start, place: Path, stuck: bool) -> None:
    reader, writer = os.pipe()
    if stuck:
        os.set_blocking(writer, False)
        with suppress(BlockingIOError):
            while os.write(writer, b"x" * 4_096):
                pass
        os.set_blocking(writer, True)
    else:
        os.close(reader)
    process = demo(start, place, "--jobs", "100", stdout=writer, stderr=writer)
    wait_for(lambda: len(processes_in(place)) == 3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 143
    os.close(writer)
    if stuck:
        os.close(reader)


def test_ctrl_c_restores_the_cursor(in_terminal: Callable[..., Any], place: Path) -> None:
    pressed = ("of 100 jobs created", signal.SIGINT)
    shown = in_terminal("demo", "--jobs", "100", press=pressed, env={"TMPDIR": str(place)})
    assert shown.code == 130
    assert shown.raw.rindex("\x1b[?25h") > shown.raw.rindex("\x1b[?25l")


def test_keep_runs_until_ctrl_c(start: Start, place: Path) -> None:
    process = demo(start, place, "--jobs", "2", "--seed", FAST_SEED, "--keep", "--json")
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(b"  export TOLLGATE_ENDPOINT="):
            endpoint = line.decode().strip().partition("=")[2]
            break
    code, out, _ = ended(start("count", "--json", "--endpoint", endpoint))
    assert (code, msgspec.json.decode(out)["total"]) == (0, 2)
    process.send_signal(signal.SIGINT)
    assert ended(process)[0] == 0

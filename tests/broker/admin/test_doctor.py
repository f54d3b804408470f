"""`tollgate doctor`: each thing that can be wrong is found, with what to do, and exit code 1."""

import json
import os
import resource
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner

from tests.broker.admin.test_config import bare  # noqa: F401 - a fixture for all tests here
from tests.brokers import running_broker
from tests.core import Driver
from tollgate.broker.admin import doctor, keys
from tollgate.broker.core.records import encode_records
from tollgate.broker.core.replay import replay
from tollgate.broker.core.state import State
from tollgate.broker.journal.file import FileJournal
from tollgate.domain.commands import Hello

Found = dict[str, dict[str, Any]]


@pytest.fixture(autouse=True)
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not ask a broker, which takes a process and time; one test does."""
    answer = doctor.Check("broker", "ok", "not asked")
    monkeypatch.setattr(doctor, "check_broker", lambda *_: answer)
    monkeypatch.setattr(doctor, "SYSTEMD", Path("/nonexistent"))


def examine(*arguments: str | Path) -> tuple[int, Found]:
    """Return the exit code and the checks by name."""
    result = CliRunner().invoke(doctor.main, ["--json", *map(str, arguments)])
    assert result.stderr == ""
    return result.exit_code, {
        found["name"]: found for found in map(json.loads, result.stdout.splitlines())
    }


def the_wrong(*arguments: str | Path) -> tuple[str, str, str]:
    """Return the one thing that is wrong: its name, what was found, and what to do."""
    code, found = examine(*arguments)
    (wrong,) = (each for each in found.values() if each["state"] == "wrong")
    assert code == 1
    return wrong["name"], wrong["found"], wrong["to_do"]


def make_journal(directory: Path) -> Path:
    """Make a data directory with one record; return its segment."""
    driver = Driver()
    driver.ask(Hello(open_session=True))
    journal = FileJournal(directory)
    replay(journal.replay(), State())
    journal.append(encode_records(driver.records))
    journal.sync()
    journal.close()
    directory.chmod(0o700)
    (segment,) = directory.glob("segment-*")
    return segment


def test_a_sound_installation_has_nothing_to_do(tmp_path: Path) -> None:
    make_journal(tmp_path / "data")
    code, found = examine("--data-dir", tmp_path / "data")
    assert code == 0
    assert {each["to_do"] for each in found.values()} == {None}
    expected = {"python", "broker", "clock", "settings", "libzmq", "open files", "socket"}
    assert found.keys() == expected | {"data directory", "journal", "free space", "systemd"}
    assert found["journal"]["found"].startswith("sound")
    shown = CliRunner().invoke(doctor.main, ["--data-dir", str(tmp_path / "data")])
    assert shown.stdout.endswith("\nnothing to do\n")


def test_a_data_directory_without_a_journal_is_noted(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    code, found = examine("--data-dir", tmp_path)
    assert (code, found["journal"]["state"]) == (0, "note")


def test_nothing_is_made_by_looking(tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert examine("--data-dir", tmp_path / "data")[0] == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_a_broker_that_answers_and_none(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("TOLLGATE_ANSWER_TIMEOUT", "0.1")
    nowhere = f"ipc://{short_dir}/none"
    assert "start one: tollgate broker" in (doctor.check_broker(nowhere, None).to_do or "")
    malformed = doctor.check_broker("localhost:5555", None)
    assert "TOLLGATE_ENDPOINT" in (malformed.to_do or "")
    monkeypatch.setenv("TOLLGATE_ANSWER_TIMEOUT", "20")
    with running_broker(short_dir) as broker:
        answer = doctor.check_broker(broker.endpoint, None)
        assert answer.state == "ok"
        assert answer.found.endswith("your role is admin")
        monkeypatch.setattr(doctor, "version", lambda _: "9.9.9")
        upgraded = doctor.check_broker(broker.endpoint, None)
        assert upgraded.state == "wrong"
        assert "restart the broker" in (upgraded.to_do or "")


def test_a_wrong_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLGATE_BROKER_FSYNC", "sometimes")
    name, found, to_do = the_wrong()
    assert name == "settings"
    assert found.startswith("fsync: ")
    assert "tollgate config show" in to_do


def test_a_misspelt_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLGATE_ENDPONT", "ipc:///x")
    name, _, to_do = the_wrong()
    assert name == "environment"
    assert "unset TOLLGATE_ENDPONT" in to_do


def test_a_data_directory_that_others_can_write(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(0o777)
    name, _, to_do = the_wrong("--data-dir", tmp_path / "data")
    assert name == "data directory"
    assert to_do.startswith(f"chmod go-w {tmp_path / 'data'}")


def test_a_directory_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path and real(path, mode))
    name, found, to_do = the_wrong("--data-dir", tmp_path / "data")
    assert name == "data directory"
    assert found == f"{tmp_path} cannot be written by uid {os.geteuid()}"
    assert "broker's user" in to_do


def test_a_damaged_journal(tmp_path: Path) -> None:
    segment = make_journal(tmp_path / "data")
    data = bytearray(segment.read_bytes())
    data[60] ^= 1
    segment.write_bytes(data)
    name, found, to_do = the_wrong("--data-dir", tmp_path / "data")
    assert name == "journal"
    assert segment.name in found
    assert "tollgate journal verify" in to_do


def test_a_clock_behind_the_journal(tmp_path: Path) -> None:
    segment = make_journal(tmp_path / "data")
    later_s = segment.stat().st_mtime + 3_600
    os.utime(segment, (later_s, later_s))
    name, found, _ = the_wrong("--data-dir", tmp_path / "data")
    assert name == "journal time"
    assert "behind the newest file" in found


def test_too_little_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        free: int = 1 << 20

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage())
    name, found, _ = the_wrong("--data-dir", tmp_path / "data")
    assert name == "free space"
    assert found == "1 MiB are free, and a snapshot may need 128 MiB"


def test_too_few_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1_023))
    name, _, to_do = the_wrong()
    assert name == "open files"
    assert "LimitNOFILE" in to_do


def new_key(directory: Path) -> Path:
    out = directory / "a.key"
    arguments = ["new", "a", "--role", "admin", "--out", str(out), "--keys", str(directory / "k")]
    assert CliRunner().invoke(keys.main, arguments).exit_code == 0
    return out


def test_a_machine_of_clients_alone(tmp_path: Path) -> None:
    key = new_key(tmp_path)
    code, found = examine("--endpoint", "tcp://192.0.2.10:5555", "--key", key)
    assert code == 0
    assert found.keys() == {"python", "broker", "clock", "key", "settings", "libzmq"}


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda key: key.chmod(0o644), "chmod 600"),
        (lambda key: key.unlink(), "tollgate keys new"),
        (lambda key: key.write_bytes((key.parent / "k" / "broker.key").read_bytes()), "for the"),
    ],
)
def test_a_key_that_cannot_be_used(
    tmp_path: Path, spoil: Callable[[Path], object], what: str
) -> None:
    key = new_key(tmp_path)
    spoil(key)
    name, _, to_do = the_wrong("--endpoint", "tcp://192.0.2.10:5555", "--key", key)
    assert name == "key"
    assert what in to_do


def test_the_keys_of_clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new_key(tmp_path)
    monkeypatch.setenv("TOLLGATE_BROKER_KEYS", str(tmp_path / "k"))
    assert examine()[1]["keys"]["found"] == f"1 in {tmp_path / 'k'}"
    (tmp_path / "k" / "broker.next.key").touch(0o600)
    assert the_wrong()[0] == "keys"
    (tmp_path / "k" / "broker.next.key").write_text((tmp_path / "k" / "broker.key").read_text())
    rotating = examine()[1]["keys"]
    assert (rotating["state"], "--finish" in rotating["to_do"]) == ("note", True)
    (tmp_path / "k" / "broker.next.key").unlink()
    (tmp_path / "k" / "a.toml").write_text("role = 1")
    assert the_wrong()[0] == "keys"
    monkeypatch.setenv("TOLLGATE_BROKER_KEYS", str(tmp_path / "none"))
    assert the_wrong()[2] == "tollgate keys new NAME"


@pytest.mark.parametrize(
    ("properties", "state", "what"),
    [
        ("LoadState=not-found\nActiveState=inactive\n", "note", "docs/deployment.md"),
        ("LoadState=loaded\nActiveState=active\nNeedDaemonReload=no\n", "ok", "is active"),
        ("LoadState=loaded\nActiveState=failed\nNeedDaemonReload=no\n", "wrong", "journalctl -u"),
        ("LoadState=loaded\nActiveState=active\nNeedDaemonReload=yes\n", "wrong", "daemon-reload"),
    ],
)
def test_the_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, properties: str, state: str, what: str
) -> None:
    def answer(command: list[str], **_: object) -> "subprocess.CompletedProcess[str]":
        return subprocess.CompletedProcess(command, 0, properties, "")

    monkeypatch.setattr(doctor, "SYSTEMD", tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(subprocess, "run", answer)
    check = doctor.check_systemd()
    assert check.state == state
    assert what in f"{check.found} {check.to_do}"

"""Settings by environment, `tollgate config show`, and which command reads which variable."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tollgate.broker.admin import config, journal, keys
from tollgate.broker.admin.config import OF_PAYMENTS, unknown_variables
from tollgate.broker.settings import AllSettings, SettingsError, data_dir, load
from tollgate.masumi.command import main as watcher


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting in the environment, and a home directory that is empty."""
    for name in os.environ:
        if name.startswith(("TOLLGATE_", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


def show(*arguments: str) -> Result:
    return CliRunner().invoke(config.main, ["show", *arguments])


def shown(*arguments: str) -> dict[tuple[str, str], dict[str, Any]]:
    result = show("--json", *arguments)
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    return {(row["of"], row["name"]): row for row in rows}


def origin(row: dict[str, Any]) -> tuple[Any, str, str | None]:
    return row["value"], row["origin"], row["from"]


def test_each_setting_has_its_origin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "broker.toml"
    file.write_text("jobs = 10\nparked = 11\nlapses = 12\nsessions = 1000\n")
    monkeypatch.setenv("TOLLGATE_BROKER_PARKED", "21")
    monkeypatch.setenv("tollgate_broker_jobs", "20")
    monkeypatch.setenv("TOLLGATE_ENDPOINT", "ipc:///run/b.sock")
    monkeypatch.setenv("TOLLGATE_DATA_DIR", "/data")
    monkeypatch.setenv("TOLLGATE_KEY", "my.key")
    monkeypatch.setenv("TOLLGATE_LOG_FORMAT", "json")
    rows = shown("--config", str(file), "--jobs", "30", "--bind", "ipc:///typed")
    assert len(rows) == len(AllSettings.model_fields) + len(config.CLIENT_DEFAULTS)
    assert origin(rows["broker", "jobs"]) == (30, "option", "--jobs")
    assert origin(rows["broker", "bind"]) == (["ipc:///typed"], "option", "--bind")
    assert origin(rows["broker", "parked"]) == (21, "environment", "TOLLGATE_BROKER_PARKED")
    assert origin(rows["broker", "data_dir"]) == ("/data", "environment", "TOLLGATE_DATA_DIR")
    assert origin(rows["broker", "log_format"]) == ("json", "environment", "TOLLGATE_LOG_FORMAT")
    assert origin(rows["broker", "lapses"]) == (12, "file", str(file))
    assert origin(rows["broker", "fsync"]) == ("always", "default", None)
    endpoint = rows["client", "endpoint"]
    assert origin(endpoint) == ("ipc:///run/b.sock", "environment", "TOLLGATE_ENDPOINT")
    assert origin(rows["client", "key"]) == ("my.key", "environment", "TOLLGATE_KEY")
    assert origin(rows["client", "answer_timeout"]) == ("5", "default", None)


def test_the_shared_variables_reach_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLGATE_ENDPOINT", "ipc:///shared")
    monkeypatch.setenv("TOLLGATE_DATA_DIR", "/shared")
    assert load({}).bind == ["ipc:///shared"]
    assert load({}).data_dir == Path("/shared")
    monkeypatch.setenv("TOLLGATE_BROKER_BIND", "ipc:///own ipc:///second")
    monkeypatch.setenv("TOLLGATE_BROKER_DATA_DIR", "/own")
    assert load({}).bind == ["ipc:///own", "ipc:///second"]
    assert load({}).data_dir == data_dir() == Path("/own")
    assert load({"data_dir": "/typed"}).data_dir == Path("/typed")


def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TOLLGATE_ENDPOINT", "TOLLGATE_DATA_DIR", "TOLLGATE_BROKER_JOBS"):
        monkeypatch.setenv(name, "")
    assert load({}) == load({})
    assert {row["origin"] for row in shown().values()} == {"default"}


def test_an_error_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLGATE_ENDPOINT", "localhost:5555")
    with pytest.raises(SettingsError, match=r"^bind: .*localhost.* \(from TOLLGATE_ENDPOINT\)$"):
        load({})
    result = show()
    assert result.exit_code == 2
    assert "(from TOLLGATE_ENDPOINT)" in result.stderr


def test_a_client_is_shown_where_no_broker_could_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLGATE_ENDPOINT", "tcp://192.0.2.10:5555")
    result = show()
    assert result.stdout.startswith("client  endpoint ")
    assert "tcp://192.0.2.10:5555  (environment TOLLGATE_ENDPOINT)" in result.stdout
    assert "takes --keys" in result.stderr


def test_a_misspelt_variable_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLGATE_ENDPONT", "ipc:///x")
    result = show("--changed")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "TOLLGATE_ENDPONT is set, and there is no such setting" in result.stderr


def test_no_variable_of_the_watcher_is_called_misspelt(monkeypatch: pytest.MonkeyPatch) -> None:
    read = {str(each.envvar) for each in watcher.params if each.envvar}
    assert read > OF_PAYMENTS
    text = (Path(__file__).parents[3] / "docs/configuration.md").read_text()
    for name in read:
        monkeypatch.setenv(name, "x")
        assert f"`{name}`" in text
    assert list(unknown_variables()) == []


def test_changed_leaves_out_the_defaults() -> None:
    assert show("--changed", "--jobs", "7").stdout.split() == [
        "broker", "jobs", "7", "(option", "--jobs)",
    ]  # fmt: skip


def test_the_journal_commands_read_the_data_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TOLLGATE_DATA_DIR", str(tmp_path / "none"))
    monkeypatch.setenv("TOLLGATE_BROKER_FSYNC", "a mistake, and none of the journal's")
    result = CliRunner().invoke(journal.main, ["dump"])
    assert result.exit_code == 2
    assert f"'{tmp_path / 'none'}' does not exist" in result.stderr
    (tmp_path / "none").mkdir(mode=0o700)
    result = CliRunner().invoke(journal.main, ["dump"])
    assert result.exit_code == 2
    assert f"there is no journal in {tmp_path / 'none'}" in result.stderr


def test_the_keys_commands_read_the_brokers_keys(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TOLLGATE_BROKER_KEYS", str(tmp_path / "own"))
    out = str(tmp_path / "a.key")
    result = CliRunner().invoke(keys.main, ["new", "a", "--role", "admin", "--out", out])
    assert result.exit_code == 0
    assert (tmp_path / "own" / "a.toml").is_file()


@pytest.mark.parametrize("name", ["data_dir", "keys"])
def test_a_path_is_empty_or_has_no_home(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with pytest.raises(SettingsError, match=f"{name}: it is empty"):
        load({name: ""})
    assert getattr(load({name: "~/d"}), name) == Path.home() / "d"
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda _: (_ for _ in ()).throw(KeyError("uid")))
    with pytest.raises(SettingsError, match=rf"{name}: .* has no home directory"):
        load({"data_dir": "/d", name: "~/d"})


def test_without_a_home_no_directory_is_made_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda _: (_ for _ in ()).throw(KeyError("uid")))
    with pytest.raises(SettingsError, match=r"data_dir: .* has no home directory"):
        load({})
    assert load({"in_memory": True}).in_memory
    for program, command in ((journal.main, "dump"), (journal.main, "verify"), (keys.main, "list")):
        result = CliRunner().invoke(program, [command])
        assert result.exit_code == 2
        assert "has no home directory" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_empty_data_directory_option_is_refused() -> None:
    result = CliRunner().invoke(journal.main, ["dump", "--data-dir", ""])
    assert result.exit_code == 2
    assert "it is empty" in result.stderr

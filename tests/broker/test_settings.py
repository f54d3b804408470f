"""Settings: their sources, what is refused and how, and what they are checked against at start."""

import os
import resource
from contextlib import ExitStack
from pathlib import Path

import pytest
import zmq
from click.testing import CliRunner

from tollgate.broker.admin import config
from tollgate.broker.core.roles import Role
from tollgate.broker.settings import FILE_BYTES_MAX, AllSettings, SettingsError, load
from tollgate.broker.transport.binding import Binding, check_libzmq, connections_per_router
from tollgate.broker.transport.endpoints import EndpointError


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"bind": ["tcp://127.0.0.1:0"]}, "takes --keys"),
        ({"bind": ["tcp://*:0"], "keys": "k"}, "--allow-wildcard"),
        ({"bind": ["tcp://0.0.0.0:0"], "keys": "k"}, "--allow-wildcard"),
        ({"bind": ["tcp://[::]:0"], "keys": "k"}, "--allow-wildcard"),
        ({"bind": ["tcp://:0"], "keys": "k"}, "--allow-wildcard"),
        ({"bind": ["tcp://localhost:0"], "keys": "k"}, "is no address"),
        ({"bind": ["tcp://127.0.0.1"], "keys": "k"}, "tcp://address:port"),
        ({"bind": ["tcp://127.0.0.1:65536"], "keys": "k"}, "tcp://address:port"),
        ({"bind": ["inproc://x"]}, "ipc:///path"),
        ({"bind": ["ipc:///"]}, "ipc:///path"),
        ({"bind": []}, "bind"),
        ({"group_roles": "king"}, "group_roles"),
        ({"group_roles": ["worker", "king"]}, "group_roles"),
        ({"group_roles": ["worker,king"]}, "group_roles"),
        ({"group_roles": []}, "group_roles"),
        ({"group_roles": ""}, "group_roles"),
        ({"group_roles": 1}, "group_roles"),
        ({"group_role": "worker"}, "it is called group_roles now"),
        ({"bind_next": ["ipc:///a"], "keys": "k"}, "ipc has no key"),
        ({"bind_next": ["tcp://127.0.0.1:0"]}, "bind_next: tcp://127.0.0.1:0 takes --keys"),
        ({"bind_next": ["tcp://*:0"], "keys": "k"}, "--allow-wildcard"),
        ({"bind_next": ["tcp://localhost:0"], "keys": "k"}, "is no address"),
        ({"fsync": "sometimes"}, "fsync"),
        ({"log_level": "loud"}, "log_level"),
        ({"jobs": 0}, "jobs"),
        ({"parked": -1}, "parked"),
        ({"reply_bytes": 70_000}, "reply_bytes"),
        ({"unread_total_bytes": 5_000_000}, "unread_total_bytes"),
        ({"payment_grace_ms": 999_999_999_999_999_999}, "payment_grace_ms"),
        ({"pay_within_ms": 999_999_999_999_999_999}, "pay_within_ms"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line(options: dict[str, object], reason: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        load(options)
    assert reason in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("JOBZ", "1"), ("BIND", "ipc:x"), ("BIND", " "), ("JOBS", "many"), ("WATCHED", "1")],
)
def test_a_wrong_variable_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"TOLLGATE_BROKER_{name}", value)
    with pytest.raises(SettingsError) as refusal:
        load({})
    assert name.lower() in str(refusal.value).lower()
    assert "\n" not in str(refusal.value)


def test_a_group_has_one_role_or_several(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "broker.toml"
    file.write_text('group_roles = ["worker", "payments"]\n')
    both = [Role.WORKER, Role.PAYMENTS]
    assert load({}).group_roles == [Role.OBSERVER]
    assert load({}, file).group_roles == both
    assert load({"group_roles": ["worker", "payments"]}).group_roles == both
    assert load({"group_roles": ["worker,payments"]}).group_roles == both
    monkeypatch.setenv("TOLLGATE_BROKER_GROUP_ROLES", "worker, payments")
    assert load({}).group_roles == both


def test_the_old_name_of_a_setting_names_the_new(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "broker.toml"
    file.write_text('group_role = "worker"\n')
    with pytest.raises(SettingsError, match=r"^group_role: it is called group_roles now \(in .*\)"):
        load({}, file)
    typed = CliRunner().invoke(config.main, ["show", "--group-role", "worker"])
    assert (typed.exit_code, "--group-roles" in typed.stderr) == (2, True)
    monkeypatch.setenv("TOLLGATE_BROKER_GROUP_ROLE", "worker")
    with pytest.raises(SettingsError, match="GROUP_ROLE: it is called group_roles now"):
        load({})


@pytest.mark.parametrize(
    "data",
    [
        b"jobs = [", b"jobz = 1", b"jobs = 'many'", b"socket_group = '\xe9'", b"\xff\xfej\0o\0",
        b"jobs = " + b"9" * 5_000, b"a = " + b"[" * 5_000, b"# " + b"x" * FILE_BYTES_MAX,
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "broker.toml"
    file.write_bytes(data)
    with pytest.raises(SettingsError) as refusal:
        load({}, file)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["no such file", ".", "/dev/zero"])
def test_what_cannot_be_read_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match=r"^/"):
        load({}, tmp_path / name)


def test_a_file_of_another_editor_is_read(tmp_path: Path) -> None:
    file = tmp_path / "broker.toml"
    file.write_bytes(b"\xef\xbb\xbfjobs = 5\r\nlapses = 2\r\n")
    limits = load({}, file).limits()
    assert (limits.jobs, limits.lapses) == (5, 2)


def test_settings_may_come_from_a_pipe() -> None:
    """As in `tollgate broker --config <(make-settings)`: it can be read once."""
    reader, writer = os.pipe()
    os.write(writer, b"jobs = 5\n")
    os.close(writer)
    pipe = Path(f"/dev/fd/{reader}")
    rows = {each.name: each for each in config.broker_settings({}, pipe)}
    os.close(reader)
    assert rows["jobs"].value == 5
    assert rows["jobs"].origin == ("file", str(pipe))


def test_an_endpoint_is_named_once() -> None:
    with pytest.raises(SettingsError, match=r"^bind: an endpoint is named twice"):
        load({"bind": ["ipc:///b", "ipc:///a", "ipc:///b"]})


@pytest.mark.parametrize("blank", ["", " ", "\t\n"])
def test_a_blank_directory_is_refused(monkeypatch: pytest.MonkeyPatch, blank: str) -> None:
    with pytest.raises(SettingsError, match=r"^data_dir: it is empty"):
        load({"data_dir": blank})
    if blank:
        monkeypatch.setenv("TOLLGATE_DATA_DIR", blank)
        with pytest.raises(SettingsError, match=r"^data_dir: it is empty"):
            load({})


def test_options_come_before_environment_before_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "broker.toml"
    file.write_text("jobs = 1\nparked = 1\nlapses = 1\n")
    monkeypatch.setenv("TOLLGATE_BROKER_JOBS", "2")
    monkeypatch.setenv("TOLLGATE_BROKER_PARKED", "2")
    limits = load({"jobs": 3}, file).limits()
    assert (limits.jobs, limits.parked, limits.lapses) == (3, 2, 1)
    assert load({"parked": 0}).limits().parked == 0


NUMBERS = [name for name, field in AllSettings.model_fields.items() if field.annotation is int]


@pytest.mark.parametrize("name", NUMBERS)
def test_no_number_is_too_large_to_be_told(name: str) -> None:
    """A broker that cannot encode a limit would end at its first hello."""
    for number in (2**53, 10**26, -1):
        with pytest.raises(SettingsError, match=rf"^({name}|unread_total_bytes|reply_bytes): "):
            load({name: number, "in_memory": True})


def test_every_setting_says_what_it_is() -> None:
    assert all(field.description for field in AllSettings.model_fields.values())


def test_an_old_libzmq_or_one_without_curve_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zmq, "has", lambda _: False)
    check_libzmq(load({}))
    with pytest.raises(EndpointError, match="CURVE"):
        check_libzmq(load({"keys": "k"}))
    monkeypatch.setattr(zmq, "zmq_version_info", lambda: (4, 3, 4))
    with pytest.raises(EndpointError, match="too old"):
        check_libzmq(load({}))


def test_a_group_that_does_not_exist_is_refused() -> None:
    with pytest.raises(SettingsError, match="no group"):
        Binding(load({"socket_group": "no-such-group"}), 1, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("connections", "tcp", "share"), [(0, 0, 512), (0, 1, 256), (0, 2, 170), (30, 1, 15), (1, 1, 1)]
)
def test_routers_share_the_connections(
    monkeypatch: pytest.MonkeyPatch, connections: int, tcp: int, share: int
) -> None:
    limits = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1_024, 2_048))
    monkeypatch.setattr(resource, "setrlimit", lambda *arguments: limits.append(arguments))
    bind = ["ipc:///a", "ipc:///b", *["tcp://127.0.0.1:*"][:tcp]]
    bind_next = ["tcp://127.0.0.1:*"][: tcp - 1]
    options = {"bind": bind, "bind_next": bind_next, "keys": "k", "connections": connections}
    settings = load(options)
    assert connections_per_router(settings) == share
    assert limits == [(resource.RLIMIT_NOFILE, (2_048, 2_048))]


def test_more_connections_than_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1_024, 1_024))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    with pytest.raises(SettingsError, match=r"connections: 769 .* 768,"):
        connections_per_router(load({"connections": 769}))
    assert connections_per_router(load({"connections": 768})) == 768


def test_a_router_has_the_limits_that_are_set(short_dir: Path) -> None:
    changes = {"request_bytes": 5_000, "unread_total_bytes": 9_000_000, "linger_ms": 11}
    with ExitStack() as stack:
        limits = Binding(load({**changes, "bind": [f"ipc://{short_dir}/b"]}), 7, stack)._limits
    assert limits.connections == 7
    assert {name: getattr(limits, name) for name in changes} == changes

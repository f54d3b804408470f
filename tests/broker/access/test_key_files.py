"""The files of keys: what `tollgate keys` writes, and which files a broker refuses to use."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import tollgate
from tests.broker.access.key_commands import keys, new_key
from tollgate.broker.access.key_files import RETIRING_MAX, KeyRingError, new_pair
from tollgate.broker.access.keyring import KeyRing

NOBODY = 65_534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes root to be another user")


def test_keys_are_made_listed_and_revoked(tmp_path: Path) -> None:
    key = new_key(tmp_path, "alice", "worker", "producer", "worker")
    assert key.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "keys" / "broker.key").stat().st_mode & 0o777 == 0o600
    (listed,) = keys("list", "--json", "--keys", tmp_path / "keys").stdout.splitlines()
    assert json.loads(listed)["roles"] == ["producer", "worker"]
    (line,) = keys("list", "--keys", tmp_path / "keys").stdout.splitlines()
    assert line.split() == ["alice", "producer,worker", json.loads(listed)["public_key"]]
    assert keys("revoke", "alice", "--keys", tmp_path / "keys").exit_code == 0
    assert keys("list", "--keys", tmp_path / "keys").stdout == ""
    again = keys("revoke", "alice", "--keys", tmp_path / "keys")
    assert (again.exit_code, again.stderr.count("\n")) == (1, 1)


@pytest.mark.parametrize("name", ["", "../up", "-x", "a/b", "a b", "x" * 65])
def test_a_key_has_no_name_that_is_a_path(tmp_path: Path, name: str) -> None:
    done = keys("new", "--role", "admin", "--keys", tmp_path / "keys", "--", name)
    assert done.exit_code == 1
    assert not list(tmp_path.glob("**/*.toml"))


def test_no_key_is_overwritten(tmp_path: Path) -> None:
    key = new_key(tmp_path, "alice")
    before = key.read_bytes()
    for out in (key, tmp_path / "other.key"):
        args = ("--role", "admin", "--keys", tmp_path / "keys", "--out", out)
        assert keys("new", "alice", *args).exit_code == 1
    args = ("--role", "admin", "--keys", tmp_path / "keys", "--out", key)
    assert keys("new", "bob", *args).exit_code == 1
    assert key.read_bytes() == before
    assert not (tmp_path / "other.key").exists()
    assert not (tmp_path / "keys" / "bob.toml").exists()


def test_a_key_made_with_one_role_is_read(tmp_path: Path) -> None:
    new_key(tmp_path, "alice")
    path = tmp_path / "keys" / "alice.toml"
    path.write_text(path.read_text().replace('roles = ["admin"]', 'role = "worker"'))
    assert KeyRing(tmp_path / "keys").clients()["alice"].role_names == ["worker"]


def add(keys: Path, rest: str) -> None:
    """Add a client with a key of its own, and these lines."""
    (keys / "x.toml").write_text(f'public_key = "{new_pair().public_key}"\n{rest}\n')


def retiring(at: str, count: int, key: str = "") -> str:
    """Return the lines of an admin with earlier keys."""
    lines = ['roles = ["admin"]']
    for _ in range(count):
        public_key = key or new_pair().public_key
        lines += ["[[retiring]]", f'public_key = "{public_key}"', f"since = {at}", f"until = {at}"]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda keys: (keys / "broker.key").chmod(0o640), "chmod 600"),
        (lambda keys: (keys / "broker.key").unlink(), "tollgate keys new"),
        (lambda keys: keys.chmod(0o770), "chmod go-w"),
        (lambda keys: (keys / "x.toml").write_text("public_key = 1"), "x.toml"),
        (lambda keys: (keys / "x.toml").write_text('public_key = "y"\nrole = "admin"'), "Z85"),
        (lambda keys: (keys / "x.toml").write_text("role = admin"), "x.toml"),
        (lambda keys: add(keys, "roles = []"), "roles"),
        (lambda keys: add(keys, 'roles = ["worker", "king"]'), "king"),
        (lambda keys: add(keys, 'role = "worker"\nroles = ["worker"]'), "`role`"),
        (lambda keys: add(keys, retiring("2026-01-01T00:00:00", 1)), "timezone"),
        (lambda keys: add(keys, retiring("2026-01-01T00:00:00Z", RETIRING_MAX + 1)), "length <= 8"),
        (lambda keys: add(keys, retiring("2026-01-01T00:00:00Z", 1, "y")), "Z85"),
        (lambda keys: add(keys, retiring("2026-01-01T00:00:00Z", 2, "y" * 40)), "the same key"),
        (lambda keys: (keys / "x.toml").write_bytes((keys / "alice.toml").read_bytes()), "same"),
        (lambda keys: (keys / "alice.toml").chmod(0o620), "others can write"),
        (lambda keys: (keys / "alice.toml").chmod(0o602), "others can write"),
        (lambda keys: (keys / "x.toml").symlink_to(keys / "alice.toml"), "x.toml"),
        (lambda keys: os.mkfifo(keys / "x.toml"), "no file"),
        (lambda keys: (keys / "x\udcff.toml").write_text(""), "cannot be called"),
    ],
)
def test_keys_that_cannot_be_trusted_are_refused(
    tmp_path: Path, spoil: Callable[[Path], object], reason: str
) -> None:
    new_key(tmp_path, "alice")
    spoil(tmp_path / "keys")
    with pytest.raises(KeyRingError, match=reason):
        KeyRing(tmp_path / "keys")


@as_root
def test_a_key_that_another_user_owns_is_refused(tmp_path: Path) -> None:
    new_key(tmp_path, "alice")
    os.chown(tmp_path / "keys" / "alice.toml", NOBODY, NOBODY)
    with pytest.raises(KeyRingError, match="belongs to uid 65534"):
        KeyRing(tmp_path / "keys")


@pytest.mark.parametrize("spoil", ["mode", "text", "missing"])
def test_a_client_does_not_use_a_bad_key(tmp_path: Path, spoil: str) -> None:
    key = new_key(tmp_path, "alice")
    if spoil == "mode":
        key.chmod(0o644)
    elif spoil == "text":
        key.write_text("secret_key = 1\n")
    else:
        key.unlink()
    client = tollgate.Client("tcp://127.0.0.1:1", key=key)
    with client, pytest.raises(tollgate.KeyFileError, match=r"alice\.key"):
        client.ping()
    client = tollgate.Client("tcp://127.0.0.1:1")
    with client, pytest.raises(tollgate.KeyFileError, match="TOLLGATE_KEY"):
        client.ping()

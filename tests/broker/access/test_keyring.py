"""The ring of keys in a broker: it notices changes, and a fault of the system changes nothing."""

import errno
import logging
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.broker.access.key_commands import new_key, rotate
from tollgate.broker.access import keyring
from tollgate.broker.access.key_files import ClientKey, new_pair, read_client
from tollgate.broker.access.keyring import KeyRing
from tollgate.broker.core.roles import Principal, Role


def test_a_ring_notices_changes_and_drops_unreadable_keys(tmp_path: Path) -> None:
    new_key(tmp_path, "alice")
    new_key(tmp_path, "bob", "worker")
    ring = KeyRing(tmp_path / "keys")
    known = {name: client.public_key for name, client in ring.clients().items()}
    assert ring.refresh() == []
    bob = ring.principal(known["bob"])
    assert bob == Principal("key:bob", frozenset({Role.WORKER}), known["bob"])
    new_key(tmp_path, "carol")
    assert (ring.refresh(), len(ring)) == ([], 3)
    (tmp_path / "keys" / "bob.toml").write_text("?")
    assert ring.refresh() == [bob]
    assert not ring.principal(known["bob"]).roles
    assert ring.principal(known["alice"]).roles == {Role.ADMIN}


@pytest.mark.parametrize(("spoilt", "out"), [("alice.toml", {"alice"}), ("", {"alice", "bob"})])
def test_a_key_that_becomes_writable_is_skipped_and_counted(
    tmp_path: Path, spoilt: str, out: set[str]
) -> None:
    new_key(tmp_path, "alice")
    new_key(tmp_path, "bob")
    ring = KeyRing(tmp_path / "keys")
    before = ring.clients()
    path = tmp_path / "keys" / spoilt
    mode = path.stat().st_mode
    path.chmod(mode | 0o020)
    assert {each.name for each in ring.refresh()} == {f"key:{name}" for name in out}
    assert set(ring.clients()) == {"alice", "bob"} - out
    assert ring.counters == {"key_passed_over": 1}
    path.chmod(mode)
    ring.refresh()
    assert ring.clients() == before


def test_a_look_at_many_keys_takes_a_few_files_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"key-{number}" for number in range(9)]
    for name in names:
        new_key(tmp_path, name)
    ring = KeyRing(tmp_path / "keys")
    monkeypatch.setattr(keyring, "FILES_A_LOOK", 2)
    looked: list[Path] = []
    stat = Path.stat

    def counted(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        looked.append(path)
        return stat(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", counted)
    for _ in range(6):  # all nine, the broker's own key and the directory
        looked.clear()
        assert ring.refresh() == []
        assert len(looked) == 3, "the directory, and two files"
    (tmp_path / "keys" / "key-4.toml").write_text("?")
    changed = [each.name for _ in range(6) for each in ring.refresh()]
    assert changed == ["key:key-4"]
    new_key(tmp_path, "new")
    ring.refresh()
    assert "new" in ring.clients()


def test_a_refused_key_is_told_once_with_its_holder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tollgate.broker")
    new_key(tmp_path, "alice")
    new_key(tmp_path, "bob")
    ring = KeyRing(tmp_path / "keys")
    bob, stranger = ring.clients()["bob"].public_key, new_pair().public_key
    (tmp_path / "keys" / "bob.toml").unlink()
    ring.refresh()
    for _ in range(3):
        assert not any(map(ring.may_connect, (bob, stranger)))
    told = [each.getMessage() for each in caplog.records if "is refused" in each.getMessage()]
    assert [bob in told[0], "former_holder='key:bob'" in told[0]] == [True, True]
    assert [stranger in told[1], "former_holder='unknown'" in told[1]] == [True, True]
    assert len(told) == 2
    new_key(tmp_path, "carol")
    ring.refresh()
    assert not ring.may_connect(bob)
    assert caplog.text.count(bob) == 2  # told anew after a change of the keys


def test_refused_keys_do_not_fill_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tollgate.broker")
    monkeypatch.setattr(keyring, "REFUSED_TOLD", 3)
    monkeypatch.setattr(keyring, "FORMER_MAX", 1)
    for name in ("alice", "bob", "carol"):
        new_key(tmp_path, name)
    ring = KeyRing(tmp_path / "keys")
    for _ in range(9):
        assert not ring.may_connect(new_pair().public_key)
    assert caplog.text.count("a key is refused") == 3
    for name in ("alice", "bob"):
        (tmp_path / "keys" / f"{name}.toml").unlink()
    ring.refresh()
    assert len(ring._former) == 1


@contextmanager
def no_files() -> Iterator[None]:
    """Leave no file to be opened in this process."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    here = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(here + 64, limits[0]), limits[1]))
    held = []
    try:
        with suppress(OSError):
            while True:
                held.append(os.dup(0))
        yield
    finally:
        for each in held:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_ring_is_unchanged_while_no_file_can_be_opened(tmp_path: Path) -> None:
    new_key(tmp_path, "alice")
    new_key(tmp_path, "bob")
    ring = KeyRing(tmp_path / "keys")
    known = ring.clients()
    new_key(tmp_path, "carol")
    (tmp_path / "keys" / "bob.toml").unlink()
    with no_files():
        assert ring.refresh() == []
        assert not ring.may_connect(new_pair().public_key)
        assert ring.may_connect(known["alice"].public_key)
    assert [each.name for each in ring.refresh()] == ["key:bob"]  # nothing of it was noted as read
    assert set(ring.clients()) == {"alice", "carol"}


def test_an_error_of_the_system_while_reading_skips_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_key(tmp_path, "alice")
    ring = KeyRing(tmp_path / "keys")
    new_key(tmp_path, "bob")

    def no_descriptor(path: Path) -> None:
        raise OSError(errno.EMFILE, "Too many open files", str(path))

    with monkeypatch.context() as broken:
        broken.setattr("tollgate.broker.access.keyring.read_client", no_descriptor)
        assert ring.refresh() == []
        assert (set(ring.clients()), ring.counters) == ({"alice"}, {})
    ring.refresh()
    assert set(ring.clients()) == {"alice", "bob"}


def test_only_files_that_changed_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("alice", "bob", "carol"):
        new_key(tmp_path, name)
    ring, read = KeyRing(tmp_path / "keys"), list[str]()

    def noted(path: Path) -> tuple[str, ClientKey]:
        read.append(path.name)
        return read_client(path)

    monkeypatch.setattr("tollgate.broker.access.keyring.read_client", noted)
    new_key(tmp_path, "dave")
    rotate(tmp_path, "bob")
    (tmp_path / "keys" / "alice.toml").unlink()
    ring.refresh()
    assert sorted(read) == ["bob.toml", "dave.toml"]
    assert set(ring.clients()) == {"bob", "carol", "dave"}


def test_keys_that_are_all_gone_admit_no_peer(tmp_path: Path) -> None:
    new_key(tmp_path, "alice")
    ring = KeyRing(tmp_path / "keys")
    (tmp_path / "keys").rename(tmp_path / "elsewhere")
    assert [each.name for each in ring.refresh()] == ["key:alice"]
    assert len(ring) == 0

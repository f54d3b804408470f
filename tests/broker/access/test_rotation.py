"""A client's key is rotated: both keys are valid for a while, then the broker drops the old."""

import json
import os
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.broker.access.handshakes import is_accepted
from tests.broker.access.key_commands import curve, keys, new_key, rotate, wait_for
from tests.brokers import Peer, running_broker
from tests.core import HASH
from tollgate.broker.access import key_files, keyring
from tollgate.broker.access.key_files import RETIRING_MAX, SUFFIX, locked, read_client, read_pair
from tollgate.broker.access.keyring import KeyRing
from tollgate.broker.core.roles import NOBODY, Principal

HOUR_S = 3_600.0


class Clock:
    """Stands in for `datetime` and `time` of the ring."""

    def __init__(self) -> None:
        self.wall, self.mono_s = datetime.now(UTC), 1_000.0

    def now(self, _: object) -> datetime:
        return self.wall

    def monotonic(self) -> float:
        return self.mono_s

    def pass_s(self, span_s: float) -> None:
        self.mono_s += span_s
        self.wall += timedelta(seconds=span_s)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(keyring, "datetime", clock)
    monkeypatch.setattr(keyring, "time", clock)
    return clock


def public(path: Path) -> str:
    return read_pair(path).public_key


def holder(ring: KeyRing, path: Path) -> Principal:
    return ring.principal(public(path))


# --- the ring -------------------------------------------------------------------------------------


def test_both_keys_are_one_principal_until_the_overlap_ends(tmp_path: Path, clock: Clock) -> None:
    old, other = new_key(tmp_path, "alice", "worker", "producer"), new_key(tmp_path, "bob")
    ring = KeyRing(tmp_path / "keys")
    before = holder(ring, old)
    new = rotate(tmp_path, "alice")
    assert ring.refresh() == []  # no principal has lost anything
    assert holder(ring, old) == before
    assert holder(ring, new) == Principal(before.name, before.roles, public(new))
    assert before.name == "key:alice"
    clock.pass_s(HOUR_S - 1)
    assert ring.refresh() == []
    clock.pass_s(2)
    assert ring.refresh() == [before]  # the holder of the new key is another one
    assert holder(ring, old) is NOBODY
    assert not ring.may_connect(public(old))
    assert ring.may_connect(public(new))
    assert ring.may_connect(public(other))
    assert ring.refresh() == []


def test_no_overlap_ends_all_earlier_keys_at_once(tmp_path: Path) -> None:
    first = new_key(tmp_path, "alice")
    second = rotate(tmp_path, "alice", "7d", "2")
    ring = KeyRing(tmp_path / "keys")
    third = rotate(tmp_path, "alice", "0", "3")
    assert {each.key for each in ring.refresh()} == {public(first), public(second)}
    assert ring.may_connect(public(third))


def test_a_shorter_overlap_counts_for_all_earlier_keys(tmp_path: Path, clock: Clock) -> None:
    first = new_key(tmp_path, "alice")
    second = rotate(tmp_path, "alice", "7d", "2")
    ring = KeyRing(tmp_path / "keys")
    rotate(tmp_path, "alice", "10m", "3")
    assert ring.refresh() == []
    clock.pass_s(601)
    assert {each.key for each in ring.refresh()} == {public(first), public(second)}


def test_revoking_ends_all_keys(tmp_path: Path) -> None:
    paths = [new_key(tmp_path, "alice"), rotate(tmp_path, "alice")]
    ring = KeyRing(tmp_path / "keys")
    assert keys("revoke", "alice", "--keys", tmp_path / "keys").exit_code == 0
    assert {each.key for each in ring.refresh()} == set(map(public, paths))
    assert not any(map(ring.may_connect, map(public, paths)))


@pytest.mark.parametrize("restarted", [False, True])
def test_a_clock_set_back_makes_no_key_valid_for_long(
    tmp_path: Path, clock: Clock, *, restarted: bool
) -> None:
    old = new_key(tmp_path, "alice")
    ring = KeyRing(tmp_path / "keys")
    rotate(tmp_path, "alice")
    ring.refresh()
    clock.pass_s(HOUR_S / 2)
    clock.wall -= timedelta(days=365)
    if restarted:  # nothing tells then how much of the overlap has passed
        ring = KeyRing(tmp_path / "keys")
        clock.pass_s(HOUR_S / 2 - 1)
    clock.pass_s(HOUR_S / 2 - 1)
    ring.refresh()
    assert ring.may_connect(public(old))
    clock.pass_s(3)
    ring.refresh()
    assert not ring.may_connect(public(old))


def test_an_ended_key_stays_so_when_the_clock_is_set_back(tmp_path: Path, clock: Clock) -> None:
    old = new_key(tmp_path, "alice")
    ring = KeyRing(tmp_path / "keys")
    rotate(tmp_path, "alice")
    ring.refresh()
    clock.wall += timedelta(days=1)
    assert [each.key for each in ring.refresh()] == [public(old)]
    clock.wall -= timedelta(days=1)
    new_key(tmp_path, "bob")  # the files are read again
    ring.refresh()
    assert not ring.may_connect(public(old))


# --- the command ----------------------------------------------------------------------------------


def test_a_list_tells_what_retires_when(tmp_path: Path) -> None:
    old = new_key(tmp_path, "alice", "worker")
    new = rotate(tmp_path, "alice", "1d")
    assert read_pair(new).broker_public_key == KeyRing(tmp_path / "keys").own.public_key
    assert new.stat().st_mode & 0o777 == 0o600
    (line,) = keys("list", "--json", "--keys", tmp_path / "keys").stdout.splitlines()
    listed = json.loads(line)
    (retiring,) = listed["retiring"]
    assert (listed["public_key"], retiring["public_key"]) == (public(new), public(old))
    left = datetime.fromisoformat(retiring["until"]) - datetime.now(UTC)
    assert timedelta(hours=23) < left <= timedelta(days=1)
    lines = keys("list", "--keys", tmp_path / "keys").stdout.splitlines()
    assert [each.split() for each in lines] == [
        ["alice", "worker", public(new)],
        ["alice", "until", retiring["until"], public(old)],
    ]
    path = tmp_path / "keys" / "alice.toml"
    path.write_text(path.read_text().replace(str(datetime.now(UTC).year), "2001"))
    lines = keys("list", "--keys", tmp_path / "keys").stdout.splitlines()
    assert len(lines) == 1  # what has ended is left out


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("bob",), 1, "no key bob"),
        (("../alice",), 1, "no key ../alice"),
        (("alice",), 1, "already"),
        (("alice", "--overlap", "1"), 2, "such as 1h"),
        (("alice", "--overlap", "-1h"), 2, "such as 1h"),
        (("alice", "--overlap", "1w"), 2, "such as 1h"),
        (("alice", "--overlap", "91d"), 2, "at most 90d"),
        (("alice", "--overlap", "9999999999d"), 2, "such as 1h"),
        (("alice", "--out", "/nowhere/a.key"), 1, "/nowhere/a.key: No such file"),
    ],
)
def test_a_wrong_rotation_changes_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    new_key(tmp_path, "alice")
    before = contents(tmp_path)
    done = keys("rotate", *arguments, "--keys", tmp_path / "keys")
    assert (done.exit_code, reason in done.stderr) == (code, True), done.stderr
    assert contents(tmp_path) == before


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_key_has_few_earlier_ones_at_a_time(tmp_path: Path) -> None:
    new_key(tmp_path, "alice")
    for number in range(RETIRING_MAX):
        rotate(tmp_path, "alice", "1h", str(number))
    before = contents(tmp_path)
    done = keys("rotate", "alice", "--keys", tmp_path / "keys", "--out", tmp_path / "x.key")
    assert (done.exit_code, "8 earlier keys" in done.stderr) == (1, True)
    assert contents(tmp_path) == before
    assert len(KeyRing(tmp_path / "keys").clients()["alice"].retiring) == RETIRING_MAX
    rotate(tmp_path, "alice", "0", "x")
    assert KeyRing(tmp_path / "keys").clients()["alice"].retiring == ()


@pytest.mark.parametrize("command", ["new", "rotate", "revoke", "rotate-broker"])
def test_commands_wait_for_each_other_in_vain_for_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    new_key(tmp_path, "alice")
    before = contents(tmp_path)
    monkeypatch.setattr(key_files, "LOCK_S", 0.05)
    rest: dict[str, tuple[object, ...]] = {
        "new": ("bob", "--role", "worker", "--out", tmp_path / "x.key"),
        "rotate": ("alice", "--out", tmp_path / "x.key"),
        "revoke": ("alice",),
        "rotate-broker": (),
    }
    with locked(tmp_path / "keys"):
        done = keys(command, *rest[command], "--keys", tmp_path / "keys")
    assert (done.exit_code, "another command" in done.stderr) == (1, True)
    assert contents(tmp_path) == before


def test_rotations_at_the_same_time_lose_no_key(tmp_path: Path) -> None:
    first = new_key(tmp_path, "alice")
    outs = [tmp_path / f"{number}.key" for number in range(3)]
    command = [sys.executable, "-m", "tollgate.broker.admin.keys", "rotate", "alice", "--keys"]
    started = [
        subprocess.Popen([*command, str(tmp_path / "keys"), "--out", str(out)], stderr=-1)
        for out in outs
    ]
    for process in started:
        _, fault = process.communicate(timeout=60)
        assert process.returncode == 0, fault
    _, client = read_client(tmp_path / "keys" / f"alice{SUFFIX}")
    given = {public(path) for path in [first, *outs]}
    assert {client.public_key, *(key.public_key for key in client.retiring)} == given


@pytest.mark.parametrize(
    ("step", "at"),
    [
        ("open", 1),
        ("open", 2),
        *(("fsync", at) for at in (1, 2, 3, 4)),
        ("link", 1),
        ("replace", 1),
    ],
)
def test_a_failed_rotation_leaves_whole_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, at: int
) -> None:
    # The new key is written and synced, with its name; then what the broker knows is replaced.
    old = new_key(tmp_path, "alice")
    before = contents(tmp_path)
    real, calls = getattr(os, step), 0

    def failing(path: Any, *rest: Any, **named: Any) -> Any:
        nonlocal calls
        counts = step != "open" or "/." in str(path)  # of a part that is written
        calls += counts
        if counts and calls == at:
            raise OSError(5, "Input/output error", str(path))
        return real(path, *rest, **named)

    out = tmp_path / "x.key"
    with monkeypatch.context() as broken:
        broken.setattr(os, step, failing)
        done = keys("rotate", "alice", "--keys", tmp_path / "keys", "--out", out)
    assert (done.exit_code, "Input/output error" in done.stderr) == (1, True)
    ring = KeyRing(tmp_path / "keys")
    assert ring.may_connect(public(old))
    if (step, at) == ("fsync", 4):  # it may be replaced on the disk, and may not
        assert ring.may_connect(public(out))
    else:
        assert contents(tmp_path) == before


# --- a broker -------------------------------------------------------------------------------------


def test_a_broker_drops_the_old_key_by_itself(short_dir: Path) -> None:
    old = new_key(short_dir, "alice", "producer", "worker")
    create = {"type": "create", "input_hash": HASH}
    with (
        running_broker(short_dir, keys=short_dir / "keys") as broker,
        zmq.Context() as context,
        closing(Peer(context, broker.tcp, **curve(old))) as before,
    ):
        session = before.one({"type": "hello", "open_session": True})["session"]
        job = before.one(create, session=session)["job"]
        wait = {"type": "wait", "job_ids": [job["job_id"]], "timeout_ms": 60_000}
        created_at = before.seq
        new = rotate(short_dir, "alice", "2s")
        ends_at = datetime.now(UTC) + timedelta(seconds=2)
        with closing(Peer(context, broker.tcp, **curve(new))) as after:
            after.seq = created_at - 1  # the creation is repeated with the new key
            assert after.one(create, session=session)["job"] == job
            before.send(wait)
            after.send(wait)
            assert before.one({"type": "count"})["total"] == 1  # the old key is valid still
            refused = before.receive()
            assert datetime.now(UTC) > ends_at - timedelta(seconds=0.1)
            assert refused["results"][0]["message"].endswith("was taken away")
            assert "this peer has none" in before.one({"type": "count"})["message"]
            assert after.is_silent()  # its wait goes on
            assert after_wait(after, job["job_id"])["job"]["status"] == "failed"
        options = {getattr(zmq, name): value for name, value in curve(old).items()}
        assert not is_accepted(context, broker.tcp, options)
        assert keys("revoke", "alice", "--keys", short_dir / "keys").exit_code == 0
        options = {getattr(zmq, name): value for name, value in curve(new).items()}
        wait_for(lambda: not is_accepted(context, broker.tcp, options))


def after_wait(peer: Peer, job_id: str) -> dict[str, Any]:
    """Cancel a job that the peer waits for; return the result of the wait."""
    peer.send({"type": "cancel", "job_id": job_id})
    results = [peer.receive()["results"][0], peer.receive()["results"][0]]
    return dict(results[0])

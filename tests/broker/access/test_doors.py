"""Who comes in, and as what: keys, roles, connections and shares, at a real broker's doors."""

import grp
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest
import zmq

import tollgate
from tests.broker.core.test_roles import ALLOWED, command_named
from tests.brokers import PATIENCE_S, ROOT, BrokerProcess, Peer, running_broker
from tests.core import HASH, job_id
from tollgate.broker.access.keyring import KeyRing, KeyRingError, new_pair
from tollgate.broker.access.peer_credentials import Callers
from tollgate.broker.access.permissions import make_private
from tollgate.broker.core.batch import Arrival
from tollgate.broker.core.roles import Role
from tollgate.broker.settings import load
from tollgate.broker.telemetry.counters import Counters
from tollgate.broker.transport.binding import open_files
from tollgate.broker.transport.connections import Watch
from tollgate.broker.transport.endpoints import Endpoint, EndpointError
from tollgate.broker.transport.listener import Listener
from tollgate.broker.transport.router import FRAME_FACTOR, Door
from tollgate.client.connection import read_key
from tollgate.domain.commands import Hello
from tollgate.domain.messages import Request, encode_request

NOBODY = 65_534
SILENCE_S = 0.5
"""How long nothing comes to who is not let in."""
Start = Callable[..., BrokerProcess]
Connect = Callable[..., Peer]
HELLO = encode_request(Request(1, 0, 1, 0, [Hello()]))
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes root to be another user")


def keys(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tollgate.broker.admin.keys", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)


def new_key(directory: Path, name: str, role: str = "admin") -> Path:
    """Let a client in, and return the file with its key."""
    out = directory / f"{name}.key"
    done = keys("new", name, "--role", role, "--keys", directory / "keys", "--out", out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture
def house(short_dir: Path) -> Iterator[tuple[Path, BrokerProcess]]:
    """A broker at ipc and tcp, whose keys are in `keys`, alice's first of them."""
    new_key(short_dir, "alice")
    with running_broker(short_dir, keys=short_dir / "keys") as broker:
        yield short_dir, broker


def code_of(call: Callable[[], Any]) -> str:
    try:
        call()
    except tollgate.Refusal as refusal:
        return refusal.code
    return "done"


# --- keys ---------------------------------------------------------------------------------------


def test_a_key_holder_comes_in_by_tcp(house: tuple[Path, BrokerProcess]) -> None:
    directory, broker = house
    with tollgate.connect(broker.tcp, key=directory / "alice.key") as client:
        assert client.ping().role == "admin"
        job = client.create(HASH)
    with tollgate.connect(broker.endpoint) as local:
        assert local.get(job.job_id) == job


def test_the_role_that_goes_with_a_key_counts(house: tuple[Path, BrokerProcess]) -> None:
    directory, broker = house
    key = new_key(directory, "eve", "observer")  # the broker takes notice without a restart
    with tollgate.connect(broker.tcp, key=key) as client:
        assert client.ping().role == "observer"
        with pytest.raises(tollgate.NotAuthorizedError, match="create takes the role producer"):
            client.create(HASH)
    assert broker.stop()["dropped"] == {"refused_not_authorized": 1}


@pytest.mark.parametrize("role", list(Role))
def test_every_role_and_command_by_tcp(house: tuple[Path, BrokerProcess], role: Role) -> None:
    directory, broker = house
    key = new_key(directory, "somebody", role)
    with tollgate.connect(broker.endpoint) as local:
        local.create(HASH, job_id=job_id(1))
    with tollgate.connect(broker.tcp, key=key) as client:
        for name in ALLOWED[Role.ADMIN]:
            batch = client.batch()
            batch._append(command_named(name, job_id(1)))
            (value,) = batch.send()
            refused = getattr(value, "code", "") == "not_authorized"
            assert refused is (name not in ALLOWED[role]), name


def is_deaf(url: str, options: dict[int, bytes | int], context: "zmq.Context[Any]") -> bool:
    """Return whether the broker does not answer a hello that comes with these options."""
    peer = context.socket(zmq.DEALER)
    peer.setsockopt(zmq.LINGER, 0)
    for option, value in options.items():
        peer.setsockopt(option, value)
    peer.connect(url)
    peer.send(HELLO)
    answered = peer.poll(int(SILENCE_S * 1_000))
    peer.close(0)
    return not answered


def test_who_has_no_key_or_a_wrong_one_is_not_answered(house: tuple[Path, BrokerProcess]) -> None:
    directory, broker = house
    own = KeyRing(directory / "keys").own
    stranger, other = new_pair(), new_pair()
    alice = tollgate.connect(broker.tcp, key=directory / "alice.key")
    with zmq.Context() as context:
        for public, secret, server in (
            (stranger.public_key, stranger.secret_key, own.public_key),  # unknown
            (stranger.public_key, stranger.secret_key, other.public_key),  # another broker's
            (stranger.secret_key, stranger.public_key, own.public_key),  # swapped
        ):
            options: dict[int, bytes | int] = {
                zmq.CURVE_PUBLICKEY: public.encode(),
                zmq.CURVE_SECRETKEY: secret.encode(),
                zmq.CURVE_SERVERKEY: server.encode(),
            }
            assert is_deaf(broker.tcp, options, context)
        assert is_deaf(broker.tcp, {}, context)  # none
        plain: dict[int, bytes | int] = {zmq.PLAIN_USERNAME: b"alice", zmq.PLAIN_PASSWORD: b"x"}
        assert is_deaf(broker.tcp, plain, context)
    alice.ping()
    alice.close()
    dropped = broker.stop()["dropped"]
    assert dropped["handshake_key_refused"] >= 1
    assert dropped["handshake_malformed"] >= 1


def test_what_a_peer_says_it_is_counts_for_nothing(
    house: tuple[Path, BrokerProcess],
) -> None:
    directory, broker = house
    alice = KeyRing(directory / "keys").clients()["alice"].public_key
    with zmq.Context() as context:
        liar = context.socket(zmq.DEALER)
        liar.setsockopt(zmq.LINGER, 0)
        liar.setsockopt(zmq.METADATA, f"X-User-Id:{alice}".encode())
        liar.setsockopt(zmq.ROUTING_ID, b"uid:0")
        liar.connect(broker.endpoint)
        liar.send(HELLO)
        assert b"\xa4role\xa5admin" in liar.recv()  # by its uid, not by what it says
        liar.close(0)


def test_a_revoked_key_is_out_at_once_on_the_connection_it_has(
    house: tuple[Path, BrokerProcess],
) -> None:
    directory, broker = house
    with tollgate.connect(broker.tcp, key=directory / "alice.key", timeout_s=PATIENCE_S) as alice:
        alice.create(HASH)
        assert keys("revoke", "alice", "--keys", directory / "keys").returncode == 0
        with pytest.raises(tollgate.NotAuthorizedError, match="taken away"):
            alice.claim("running", lease_ms=1_000, wait_ms=20_000)
        with pytest.raises(tollgate.NotAuthorizedError, match="this peer has none"):
            alice.count()
    again = tollgate.Client(broker.tcp, key=directory / "alice.key", timeout_s=SILENCE_S)
    with again, pytest.raises(tollgate.BrokerUnreachableError, match=r"knows the key .*alice\.key"):
        again.ping()


# --- the files ----------------------------------------------------------------------------------


def test_keys_are_made_listed_and_revoked(tmp_path: Path) -> None:
    key = new_key(tmp_path, "alice", "worker")
    assert key.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "keys" / "broker.key").stat().st_mode & 0o777 == 0o600
    (listed,) = keys("list", "--json", "--keys", tmp_path / "keys").stdout.splitlines()
    assert json.loads(listed)["role"] == "worker"
    assert keys("revoke", "alice", "--keys", tmp_path / "keys").returncode == 0
    assert keys("list", "--keys", tmp_path / "keys").stdout == ""
    again = keys("revoke", "alice", "--keys", tmp_path / "keys")
    assert (again.returncode, again.stderr.count("\n")) == (1, 1)


@pytest.mark.parametrize("name", ["", "../up", "-x", "a/b", "a b", "x" * 65])
def test_a_key_is_called_nothing_that_a_path_could_be(tmp_path: Path, name: str) -> None:
    done = keys("new", "--role", "admin", "--keys", tmp_path / "keys", "--", name)
    assert done.returncode == 1
    assert not list(tmp_path.glob("**/*.toml"))


def test_no_key_is_written_over(tmp_path: Path) -> None:
    key = new_key(tmp_path, "alice")
    before = key.read_bytes()
    for out in (key, tmp_path / "other.key"):
        args = ("--role", "admin", "--keys", tmp_path / "keys", "--out", out)
        assert keys("new", "alice", *args).returncode == 1
    args = ("--role", "admin", "--keys", tmp_path / "keys", "--out", key)
    assert keys("new", "bob", *args).returncode == 1
    assert key.read_bytes() == before
    assert not (tmp_path / "other.key").exists()
    assert not (tmp_path / "keys" / "bob.toml").exists()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda keys: (keys / "broker.key").chmod(0o640), "chmod 600"),
        (lambda keys: (keys / "broker.key").unlink(), "tollgate keys new"),
        (lambda keys: keys.chmod(0o770), "chmod go-w"),
        (lambda keys: (keys / "x.toml").write_text("public_key = 1"), "x.toml"),
        (lambda keys: (keys / "x.toml").write_text('public_key = "y"\nrole = "admin"'), "Z85"),
        (lambda keys: (keys / "x.toml").write_text("role = admin"), "x.toml"),
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


def test_a_ring_notices_what_changes_and_denies_what_it_cannot_read(tmp_path: Path) -> None:
    new_key(tmp_path, "alice")
    new_key(tmp_path, "bob", "worker")
    ring = KeyRing(tmp_path / "keys")
    known = {name: client.public_key for name, client in ring.clients().items()}
    assert ring.refresh() == []
    assert ring.principal(known["bob"]) == ("key:bob", Role.WORKER)
    new_key(tmp_path, "carol")
    assert (ring.refresh(), len(ring)) == ([], 3)
    (tmp_path / "keys" / "bob.toml").write_text("?")
    assert ring.refresh() == ["key:bob"]
    assert ring.principal(known["bob"]).role is None
    assert ring.principal(known["alice"]).role is Role.ADMIN


@as_root
def test_a_key_that_somebody_else_owns_is_refused(tmp_path: Path) -> None:
    new_key(tmp_path, "alice")
    os.chown(tmp_path / "keys" / "alice.toml", NOBODY, NOBODY)
    with pytest.raises(KeyRingError, match="belongs to uid 65534"):
        KeyRing(tmp_path / "keys")


@pytest.mark.parametrize(("spoilt", "out"), [("alice.toml", {"alice"}), ("", {"alice", "bob"})])
def test_a_key_that_others_can_write_to_later_is_passed_over_and_counted(
    tmp_path: Path, spoilt: str, out: set[str]
) -> None:
    new_key(tmp_path, "alice")
    new_key(tmp_path, "bob")
    ring = KeyRing(tmp_path / "keys")
    before = ring.clients()
    path = tmp_path / "keys" / spoilt
    mode = path.stat().st_mode
    path.chmod(mode | 0o020)
    assert set(ring.refresh()) == {f"key:{name}" for name in out}
    assert set(ring.clients()) == {"alice", "bob"} - out
    assert ring.counters == {"key_passed_over": 1}
    path.chmod(mode)
    ring.refresh()
    assert ring.clients() == before


def test_a_key_passed_over_is_among_what_the_broker_counts(
    house: tuple[Path, BrokerProcess],
) -> None:
    directory, broker = house
    (directory / "keys" / "eve.toml").write_text("?")
    wait_for(lambda: "passed over" in broker.stderr)
    with tollgate.connect(broker.tcp, key=directory / "alice.key", timeout_s=PATIENCE_S) as client:
        client.ping()
    wait_for(lambda: "keys read again" in broker.stderr)
    assert left_in_order(broker) == {"key_passed_over": 1}


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


def test_a_ring_stays_as_it_is_while_no_file_can_be_opened(tmp_path: Path) -> None:
    new_key(tmp_path, "alice")
    new_key(tmp_path, "bob")
    ring = KeyRing(tmp_path / "keys")
    known = ring.clients()
    new_key(tmp_path, "carol")
    (tmp_path / "keys" / "bob.toml").unlink()
    with no_files():
        assert ring.refresh() == []
        assert not ring.lets_in(new_pair().public_key)
        assert ring.lets_in(known["alice"].public_key)
    assert ring.refresh() == ["key:bob"]  # nothing of it was noted as read
    assert set(ring.clients()) == {"alice", "carol"}


def test_keys_that_are_all_gone_let_in_nobody(tmp_path: Path) -> None:
    new_key(tmp_path, "alice")
    ring = KeyRing(tmp_path / "keys")
    (tmp_path / "keys").rename(tmp_path / "elsewhere")
    assert ring.refresh() == ["key:alice"]
    assert len(ring) == 0


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


# --- the socket file ----------------------------------------------------------------------------


def refused(short_dir: Path, *arguments: str) -> str:
    """Start a broker that does not start, and return the line that it says."""
    done = subprocess.run(
        [sys.executable, "-m", "tollgate.broker", "--in-memory", *arguments],
        cwd=ROOT, text=True, capture_output=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode in {1, 2}, done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--bind", "tcp://127.0.0.1:0"], "takes --keys"),
        (["--bind", "tcp://*:0", "--keys", "{keys}"], "--allow-wildcard"),
        (["--bind", "tcp://0.0.0.0:0", "--keys", "{keys}"], "--allow-wildcard"),
        (["--bind", "tcp://[::]:0", "--keys", "{keys}"], "--allow-wildcard"),
        (["--bind", "tcp://:0", "--keys", "{keys}"], "--allow-wildcard"),
        (["--bind", "tcp://localhost:0", "--keys", "{keys}"], "is no address"),
        (["--bind", "tcp://127.0.0.1", "--keys", "{keys}"], "tcp://address:port"),
        (["--bind", "tcp://127.0.0.1:65536", "--keys", "{keys}"], "tcp://address:port"),
        (["--bind", "inproc://x"], "ipc:///path"),
        (["--bind", "tcp://127.0.0.1:0", "--keys", "{keys}/none"], "tollgate keys new"),
        (["--socket-group", "no-such-group"], "no group"),
        (["--group-role", "king"], "king"),
    ],
)
def test_a_door_that_would_stand_open_is_not_opened(
    short_dir: Path, arguments: list[str], reason: str
) -> None:
    new_key(short_dir, "alice")
    filled = [argument.format(keys=short_dir / "keys") for argument in arguments]
    assert reason in refused(short_dir, *filled)


def test_a_directory_that_others_can_write_to_is_refused(short_dir: Path) -> None:
    place = short_dir / "open"
    place.mkdir()
    for mode in (0o720, 0o702, 0o1777):
        place.chmod(mode)
        assert "chmod go-w" in refused(short_dir, "--bind", f"ipc://{place}/b.sock")
    for mode in (0o777, 0o770):
        place.chmod(mode)
        assert "replace" in refused(short_dir, "--bind", f"ipc://{place}/under/it/b.sock")
        assert not list(place.iterdir())
    place.chmod(0o1770)  # sticky: what is there is its owner's
    make_private(place / "under")


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
def test_every_directory_that_is_made_is_private_whatever_the_umask(
    short_dir: Path, umask: int
) -> None:
    before = os.umask(umask)
    try:
        assert make_private(short_dir / "a" / "b" / "c")
    finally:
        os.umask(before)
    for made in ("a", "a/b", "a/b/c"):
        assert (short_dir / made).stat().st_mode & 0o7777 == 0o700
    assert not make_private(short_dir / "a" / "b" / "c")


@as_root
def test_a_directory_of_somebody_else_is_refused(short_dir: Path) -> None:
    place = short_dir / "theirs"
    place.mkdir(mode=0o700)
    os.chown(place, NOBODY, NOBODY)
    assert "belongs to uid 65534" in refused(short_dir, "--bind", f"ipc://{place}/b.sock")
    data = ["--bind", f"ipc://{short_dir}/b.sock", "--data-dir", str(place)]
    done = subprocess.run(
        [sys.executable, "-m", "tollgate.broker", *data],
        cwd=ROOT, text=True, capture_output=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert "belongs to uid 65534" in done.stderr


def test_the_lock_is_no_link_to_somewhere_else(short_dir: Path) -> None:
    (short_dir / "b.sock.lock").symlink_to(short_dir / "elsewhere")
    assert "symbolic link" in refused(short_dir, "--bind", f"ipc://{short_dir}/b.sock")
    assert not (short_dir / "elsewhere").exists()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_socket_and_directory_are_private_whatever_the_umask(short_dir: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with running_broker(short_dir) as process:
            assert process.path.stat().st_mode & 0o777 == 0o600
            lock = process.path.with_name(process.path.name + ".lock")
            assert lock.stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


ASK = """
import os, sys, zmq
uid, gid = int(sys.argv[2]), int(sys.argv[3])
peer = zmq.Context().socket(zmq.DEALER)
os.setgroups([])
os.setgid(gid)
os.setuid(uid)
peer.connect(sys.argv[1])
for frame in sys.argv[4:]:
    peer.send(bytes.fromhex(frame))
    print(peer.recv().hex() if peer.poll(5_000) else b"silence".hex())
"""


def ask_as(uid: int, gid: int, endpoint: str, *frames: bytes) -> list[bytes]:
    """Say something as another user, and return the answers."""
    command = [sys.executable, "-c", ASK, endpoint, str(uid), str(gid)]
    command += [frame.hex() for frame in frames or [HELLO]]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [bytes.fromhex(line) for line in said.splitlines()]


@as_root
def test_another_user_is_nobody_even_with_the_socket_in_hand(short_dir: Path) -> None:
    with running_broker(short_dir) as broker:
        short_dir.chmod(0o755)
        assert ask_as(NOBODY, NOBODY, broker.endpoint) == [b"silence"]
        broker.path.chmod(0o666)
        frames = [framed(name) for name in ALLOWED[Role.ADMIN]]
        for answer in ask_as(NOBODY, NOBODY, broker.endpoint, *frames):
            assert b"not_authorized" in answer


def framed(name: str) -> bytes:
    """Return a request with one command."""
    return encode_request(Request(1, 0, 1, 0, [command_named(name, job_id(1))]))


@as_root
@pytest.mark.parametrize("role", list(Role))
def test_every_role_and_command_by_ipc(short_dir: Path, role: Role) -> None:
    short_dir.chmod(0o755)
    group = next(each for each in grp.getgrall() if each.gr_gid not in {0, NOBODY})
    place = shared_with(short_dir, group.gr_gid)
    names = sorted(ALLOWED[Role.ADMIN])
    with running_broker(place, socket_group=group.gr_name, group_role=role) as broker:
        answers = ask_as(NOBODY, group.gr_gid, broker.endpoint, *map(framed, names))
        refused = {
            name for name, answer in zip(names, answers, strict=True) if b"not_authorized" in answer
        }
        assert refused == ALLOWED[Role.ADMIN] - ALLOWED[role]


@as_root
def test_a_group_has_the_role_that_it_was_given(short_dir: Path) -> None:
    short_dir.chmod(0o755)
    group = next(each for each in grp.getgrall() if each.gr_gid not in {0, NOBODY})
    place = shared_with(short_dir, group.gr_gid)
    with running_broker(place, socket_group=group.gr_name, group_role="worker") as broker:
        assert broker.path.stat().st_mode & 0o777 == 0o660
        assert broker.path.stat().st_gid == group.gr_gid
        (hello,) = ask_as(NOBODY, group.gr_gid, broker.endpoint)
        assert b"\xa4role\xa6worker" in hello
        assert ask_as(NOBODY, NOBODY, broker.endpoint) == [b"silence"]


def shared_with(directory: Path, group: int) -> Path:
    """Make a directory that a group may enter, as --socket-group wants it."""
    place = directory / "shared"
    place.mkdir()
    os.chown(place, -1, group)
    place.chmod(0o750)
    return place


@as_root
def test_a_group_is_let_into_a_directory_that_was_made_for_it_alone(short_dir: Path) -> None:
    group = next(each.gr_gid for each in grp.getgrall() if each.gr_gid not in {0, NOBODY})
    with Endpoint(f"ipc://{short_dir}/made/for/b.sock", group):
        for made in ("made", "made/for"):
            state = (short_dir / made).stat()
            assert (state.st_mode & 0o777, state.st_gid) == (0o750, group)
    before = short_dir.stat()
    with (
        pytest.raises(EndpointError, match=f"cannot enter {short_dir}.* chmod 750"),
        Endpoint(f"ipc://{short_dir}/b.sock", group),
    ):
        pass
    after = short_dir.stat()
    assert (after.st_mode, after.st_gid) == (before.st_mode, before.st_gid)
    assert not list(short_dir.glob("b.sock*"))


def test_who_is_put_out_of_the_group_is_out_a_second_later(monkeypatch: pytest.MonkeyPatch) -> None:
    group, now_s, asked = 7, [100.0], []

    def groups(uid: int, gid: int) -> list[int]:
        asked.append(uid)
        return [gid, group] if now_s[0] < 100.5 else [gid]

    monkeypatch.setattr("tollgate.broker.access.peer_credentials._groups", groups)
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    callers, address = Callers(group, Role.WORKER), f"localhost:{NOBODY}:{NOBODY}:1"
    for _ in range(3):
        assert callers.principal(address).role is Role.WORKER
    assert len(asked) == 1  # not at each message
    now_s[0] += 1
    assert callers.principal(address).role is None


# --- connections and shares ---------------------------------------------------------------------


def test_it_stops_accepting_before_there_are_too_many_and_goes_on_then(short_dir: Path) -> None:
    with running_broker(short_dir, connections=20) as broker:
        mine = tollgate.connect(broker.endpoint, timeout_s=PATIENCE_S)
        crowd: list[socket.socket] = []
        deadline = time.monotonic() + PATIENCE_S
        while "accepting no more" not in broker.stderr:
            assert time.monotonic() < deadline
            crowd.append(socket.socket(socket.AF_UNIX))
            with suppress(OSError):
                crowd[-1].connect(str(broker.path))
            time.sleep(0.001)
        mine.ping()  # who is in, is served
        for each in crowd:
            each.close()
        with tollgate.connect(broker.endpoint, timeout_s=PATIENCE_S) as late:
            late.ping()
        assert broker.path.stat().st_mode & 0o777 == 0o600
        mine.close()
        broker.process.terminate()
        broker.process.wait(PATIENCE_S)
        broker.checked = True
        assert broker.process.returncode == 0
        assert broker.events[-1]["dropped"]["stopped_accepting"] >= 1


def test_a_handshake_that_dawdles_is_cut_off(short_dir: Path) -> None:
    with running_broker(short_dir, handshake_ms=100) as broker:
        slow = socket.socket(socket.AF_UNIX)
        slow.connect(str(broker.path))
        slow.settimeout(PATIENCE_S)
        while slow.recv(4_096):
            pass  # its greeting, and then the end
        slow.close()
        assert broker.stop()["dropped"]["handshake_broken_off"] == 1


def test_a_flood_delays_nobody_by_more_than_a_share(short_dir: Path) -> None:
    settings = load({"share_messages": 8, "bind": [f"ipc://{short_dir}/b.sock"]})
    with zmq.Context() as context, Endpoint(settings.bind[0]) as endpoint:
        door = Door(context, b"\x01", Callers().identify, settings, Counters())
        door.open([endpoint])
        flooder, honest = Peer(context, endpoint.url), Peer(context, endpoint.url)
        honest.send_frames(b"connected")
        assert door.socket.poll(int(PATIENCE_S * 1_000))
        door.drain([])
        for _ in range(500):
            flooder.send_frames(b"flood")
        batch: list[Arrival] = []
        door.socket.poll(int(PATIENCE_S * 1_000))
        door.drain(batch)
        assert len(batch) <= settings.share_messages
        honest.send_frames(b"me")
        time.sleep(SILENCE_S)  # it has arrived by then
        batch.clear()
        door.socket.poll(0)  # as the loop does: then libzmq looks who else has come
        door.drain(batch)
        assert [b"me"] in [arrival.frames for arrival in batch]
        assert len(batch) <= 2 * settings.share_messages
        for peer in (flooder, honest):
            peer.close()
        door.close()
        door.socket.close(0)


def test_a_share_is_of_bytes_too(short_dir: Path) -> None:
    settings = load({"share_bytes": 1_000, "bind": [f"ipc://{short_dir}/b.sock"]})
    with zmq.Context() as context, Endpoint(settings.bind[0]) as endpoint:
        door = Door(context, b"\x01", Callers().identify, settings, Counters())
        door.open([endpoint])
        flooder = Peer(context, endpoint.url)
        for _ in range(20):
            flooder.send_frames(b"x" * 400)
        time.sleep(SILENCE_S)
        batch: list[Arrival] = []
        door.drain(batch)
        assert len(batch) == 3
        flooder.close()
        door.close()
        door.socket.close(0)


def test_who_comes_by_tcp_is_served_however_much_comes_by_ipc(short_dir: Path) -> None:
    key = new_key(short_dir, "alice")
    one: dict[str, Any] = {
        "batch_messages": 1,
        "share_messages": 1,
    }  # so the first door always fills a batch
    done = threading.Event()
    with (
        running_broker(short_dir, keys=short_dir / "keys", **one) as broker,
        zmq.Context() as context,
        tollgate.connect(broker.tcp, key=key, timeout_s=5) as client,
    ):
        flooder = Peer(context, broker.endpoint, SNDHWM=0)

        def flood() -> None:
            ahead = 0  # there is always something of it at the door
            while not done.is_set() or ahead:
                while ahead < 2_000 and not done.is_set():
                    flooder.send({"type": "count"})
                    ahead += 1
                flooder.receive()
                ahead -= 1

        flooding = threading.Thread(target=flood)
        flooding.start()
        try:
            for _ in range(20):
                client.ping()
        finally:
            done.set()
            flooding.join()
            flooder.close()


@pytest.mark.parametrize(("receive_bytes", "queued"), [(4_000_000, 10), (1, 4)])
def test_what_a_peer_has_queued_is_kept_in_bytes(
    short_dir: Path, receive_bytes: int, queued: int
) -> None:
    settings = load(
        {
            "request_bytes": 100_000,
            "receive_bytes": receive_bytes,
            "bind": [f"ipc://{short_dir}/b.sock"],
        }
    )
    frame = bytes(FRAME_FACTOR * settings.request_bytes)
    with zmq.Context() as context, Endpoint(settings.bind[0]) as endpoint:
        door = Door(context, b"\x01", Callers().identify, settings, Counters())
        door.open([endpoint])
        sender = Peer(context, endpoint.url, SNDHWM=1, SNDTIMEO=int(SILENCE_S * 1_000))
        sent = 0
        with suppress(zmq.Again):
            while sent < 100:
                sender.send_frames(frame)
                sent += 1
        assert queued <= sent <= queued + 4  # one in the sender, and what is on its way
        taken: list[Arrival] = []
        while len(taken) < sent:
            assert door.socket.poll(int(PATIENCE_S * 1_000))
            door.drain(taken)
        sender.close()
        door.close()
        door.socket.close(0)


def test_replies_to_a_peer_that_does_not_read_are_bounded_in_bytes(
    broker: Start, peer: Connect
) -> None:
    process = broker(unread_bytes=4_000_000, linger_ms=0)
    mute, mine = peer(process.endpoint, RCVHWM=1, RCVBUF=4_096), peer(process.endpoint)
    big = mine.one({"type": "create", "input_hash": HASH, "input": "x" * 60_000})["job"]["job_id"]
    for _ in range(100):
        mute.send(*[{"type": "get", "job_id": big}] * 16)  # a megabyte each
    for _ in range(100):  # who reads, is served however much it is
        mine.ask(*[{"type": "get", "job_id": big}] * 16)
    dropped = process.stop()["dropped"]
    assert dropped["reply_not_read"] >= 1
    assert dropped["reply_not_read"] + dropped.get("request_of_mute", 0) >= 90


def crowd_in(port: int, until: Callable[[], bool], at_once: int = 1) -> list[socket.socket]:
    """Connect by tcp, as nobody in particular, until something has come of it."""
    crowd: list[socket.socket] = []
    deadline = time.monotonic() + PATIENCE_S
    while not until():
        assert time.monotonic() < deadline
        crowd.append(socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
        with suppress(BlockingIOError):
            crowd[-1].connect(("127.0.0.1", port))
        if len(crowd) % at_once == 0:
            time.sleep(0.001)
    return crowd


def port_of(broker: BrokerProcess) -> int:
    return int(broker.tcp.rpartition(":")[2])


def left_in_order(broker: BrokerProcess) -> Counter[str]:
    """Stop a broker that had something to say; return what it dropped."""
    broker.process.terminate()
    assert broker.process.wait(PATIENCE_S) == 0, broker.stderr
    broker.checked = True
    return Counter(broker.events[-1]["dropped"])


def test_replies_to_all_peers_that_do_not_read_are_bounded_in_bytes(
    broker: Start, peer: Connect
) -> None:
    process = broker(unread_total_bytes=10_000_000, linger_ms=0)
    mute = [peer(process.endpoint, RCVHWM=1, RCVBUF=4_096) for _ in range(20)]
    mine = peer(process.endpoint)
    big = mine.one({"type": "create", "input_hash": HASH, "input": "x" * 60_000})["job"]["job_id"]
    for each in mute:  # six megabytes for each, far less than the bound of a connection
        for _ in range(6):
            each.send(*[{"type": "get", "job_id": big}] * 16)
    for _ in range(100):  # who reads, is served
        mine.one({"type": "get", "job_id": big})
    dropped = process.stop()["dropped"]
    assert dropped["reply_not_read"] >= 1
    assert dropped["reply_not_read"] + dropped.get("request_of_mute", 0) >= 80


def test_the_total_of_what_is_unread_leaves_room_for_a_reply(short_dir: Path) -> None:
    reason = refused(short_dir, "--unread-total-bytes", "5000000")
    assert "unread_total_bytes" in reason


def test_a_tcp_door_is_shut_too_and_opened_again(short_dir: Path) -> None:
    key = new_key(short_dir, "alice")
    with (
        running_broker(short_dir, keys=short_dir / "keys", connections=20) as broker,
        zmq.Context() as context,
    ):
        mine = context.socket(zmq.DEALER)
        mine.curve_publickey, mine.curve_secretkey, mine.curve_serverkey = read_key(str(key))
        left = mine.get_monitor_socket(zmq.Event.DISCONNECTED)
        mine.connect(broker.tcp)
        mine.send(HELLO)
        assert mine.recv()
        crowd = crowd_in(port_of(broker), lambda: "accepting no more" in broker.stderr)
        mine.send(HELLO)
        assert mine.recv()
        for each in crowd:
            each.close()
        with tollgate.connect(broker.tcp, key=key, timeout_s=PATIENCE_S) as client:
            client.ping()
        assert not left.poll(0)  # who is in, stayed in
        mine.disable_monitor()
        left.close(0)
        mine.close(0)
        with tollgate.connect(broker.endpoint, timeout_s=PATIENCE_S) as local:
            local.ping()
        assert left_in_order(broker)["stopped_accepting"] >= 1


def test_strangers_by_tcp_do_not_take_all_files(short_dir: Path) -> None:
    # With none left, libzmq's ipc listener ends the process as soon as somebody connects.
    new_key(short_dir, "alice")
    with few_files(1_024), running_broker(short_dir, keys=short_dir / "keys") as broker:
        turns = chain(repeat(False, 2 * 1_024), (True,))
        crowd = crowd_in(port_of(broker), turns.__next__, at_once=60)
        with tollgate.connect(broker.endpoint, timeout_s=PATIENCE_S) as local:
            local.ping()
        assert len(list(Path(f"/proc/{broker.process.pid}/fd").iterdir())) < 1_024 // 2
        for each in crowd:
            each.close()
        assert left_in_order(broker)["stopped_accepting"] >= 1


@contextmanager
def few_files(most: int) -> Iterator[None]:
    """Start brokers within that may have so many files open."""
    real = subprocess.Popen

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", partial(real, preexec_fn=bound))
        yield


@pytest.mark.parametrize("url", ["tcp://127.0.0.1:*", "tcp://[::1]:*"])
def test_a_tcp_door_can_be_shut_and_opened_as_fast_as_may_be(url: str) -> None:
    # Bound anew each time, its own address would be in use: libzmq takes a moment to give it back.
    if "::" in url and not Path("/proc/net/if_inet6").exists():
        pytest.skip("takes IPv6")
    listener = Listener(url, 10)
    with zmq.Context() as context:
        router = context.socket(zmq.ROUTER)
        router.setsockopt(zmq.USE_FD, listener.give())
        router.bind(listener.url)
        listener.opened()
        for _ in range(1_000):
            listener.shut()
            listener.reopen()
        peer = Peer(context, listener.url, IPV6=1)
        peer.send_frames(b"here")
        assert router.recv_multipart()[1:] == [b"here"]
        peer.close()
        router.close(0)
    listener.close()


@pytest.mark.parametrize(
    ("fault", "reason"), [("bind", "in use"), ("setsockopt", "cannot hold off a crowd")]
)
def test_a_tcp_address_that_cannot_be_had_is_said_so(
    monkeypatch: pytest.MonkeyPatch, fault: str, reason: str
) -> None:
    taken = Listener("tcp://127.0.0.1:*", 10)
    if fault == "setsockopt":
        monkeypatch.setattr(sys, "platform", "another")
    url = taken.url if fault == "bind" else "tcp://[::1]:*"
    with pytest.raises(EndpointError, match=reason):
        Listener(url, 10)
    taken.close()


@pytest.mark.parametrize(
    ("connections", "tcp", "share"), [(0, False, 512), (0, True, 256), (30, True, 15), (1, True, 1)]
)
def test_the_doors_share_the_connections(
    monkeypatch: pytest.MonkeyPatch, connections: int, tcp: bool, share: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1_024, 2_048))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    bind = ["ipc:///a", "ipc:///b", *["tcp://127.0.0.1:*"][:tcp]]
    settings = load({"bind": bind, "keys": "k", "connections": connections})
    assert open_files(settings).connections == share


def test_more_connections_than_files_are_refused(short_dir: Path) -> None:
    with few_files(1_024):
        reason = refused(short_dir, "--connections", "769", "--bind", f"ipc://{short_dir}/b.sock")
        assert "connections: 769" in reason
        assert "768" in reason
        with running_broker(short_dir, connections=768):
            pass


def test_a_door_stays_shut_for_a_while(short_dir: Path) -> None:
    calls: list[str] = []
    with zmq.Context() as context:
        router, url = context.socket(zmq.ROUTER), f"ipc://{short_dir}/w.sock"
        watch = Watch(router, 1, lambda: calls.append("shut"), lambda: calls.append("open"), 3_600)
        router.bind(url)
        for _ in range(2):
            peer = Peer(context, url)
            wait_for(lambda: watch.connections == 1)
            peer.close()
            wait_for(lambda: watch.connections == 0)
        time.sleep(SILENCE_S)
        assert calls == ["shut"]
        watch.close()
        router.close(0)


def test_one_socket_file_that_is_gone_keeps_no_other_open(short_dir: Path) -> None:
    settings = load({"connections": 1, "bind": [f"ipc://{short_dir}/{name}" for name in "ab"]})
    with (
        zmq.Context() as context,
        Endpoint(settings.bind[0]) as gone,
        Endpoint(settings.bind[1]) as there,
    ):
        door = Door(context, b"\x01", Callers().identify, settings, Counters())
        door.open([gone, there])
        gone.path.unlink()
        peer = Peer(context, there.url)
        wait_for(lambda: not there.path.exists())
        peer.close()
        wait_for(there.path.exists)
        door.close()
        door.socket.close(0)


def test_a_socket_file_that_somebody_removed_does_not_stop_the_count(short_dir: Path) -> None:
    calls: list[str] = []

    def gone() -> None:
        calls.append("shut")
        raise FileNotFoundError

    with zmq.Context() as context:
        router, url = context.socket(zmq.ROUTER), f"ipc://{short_dir}/w.sock"
        watch = Watch(router, 1, gone, lambda: calls.append("reopen"), shut_s=0)
        router.bind(url)
        for _ in range(2):
            peer = Peer(context, url)
            wait_for(lambda: watch.connections == 1)
            peer.close()
            wait_for(lambda: watch.connections == 0)
        assert calls == ["shut", "reopen"] * 2
        assert watch.take_failures()["socket_file_gone"] == 2
        watch.close()
        router.close(0)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


CLAIM = """
import sys, tollgate
client = tollgate.connect(sys.argv[1], key=sys.argv[2])
print("connected", flush=True)
client.claim("running", lease_ms=3_600_000, wait_ms=3_600_000, timeout_s=3_600)
"""


def test_a_tcp_peer_that_is_gone_without_a_word_is_found_out(short_dir: Path) -> None:
    key = new_key(short_dir, "alice")
    with running_broker(short_dir, keys=short_dir / "keys", heartbeat_ms=100) as broker:
        frozen = subprocess.Popen(
            [sys.executable, "-c", CLAIM, broker.tcp, str(key)], cwd=ROOT, stdout=subprocess.PIPE
        )
        try:
            assert frozen.stdout is not None
            assert frozen.stdout.readline() == b"connected\n"
            time.sleep(SILENCE_S)  # its claim is parked by now
            frozen.send_signal(signal.SIGSTOP)
            time.sleep(3 * SILENCE_S)
            with tollgate.connect(broker.endpoint, timeout_s=PATIENCE_S) as local:
                job = local.create(HASH)
                local.transition(job.job_id, "running")
                (lease,) = local.claim("running", lease_ms=1_000, wait_ms=20_000, limit=1)
                assert lease.job.job_id == job.job_id
        finally:
            frozen.kill()
            frozen.communicate()
        assert broker.stop()["dropped"]["reply_peer_gone"] == 1

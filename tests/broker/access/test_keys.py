"""Keys: files, the ring that reads them, and what their holders may do at a real broker's tcp."""

import errno
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import zmq
from click.testing import CliRunner, Result

import tollgate
from tests.broker.access.handshakes import is_accepted
from tests.broker.core.test_roles import ALLOWED, command_named
from tests.brokers import PATIENCE_S, BrokerProcess, running_broker
from tests.core import HASH, job_id
from tollgate.broker.access.keyring import KeyRing, KeyRingError, new_pair
from tollgate.broker.admin.keys import main as keys_command
from tollgate.broker.core.roles import Role
from tollgate.domain.commands import Hello
from tollgate.domain.messages import Request, encode_request

NOBODY = 65_534
HELLO = encode_request(Request(1, 0, 1, 0, [Hello()]))
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes root to be another user")


def keys(*arguments: object) -> Result:
    return CliRunner().invoke(keys_command, [*map(str, arguments)], prog_name="tollgate keys")


def new_key(directory: Path, name: str, role: str = "admin") -> Path:
    """Add a client, and return the file with its key."""
    out = directory / f"{name}.key"
    done = keys("new", name, "--role", role, "--keys", directory / "keys", "--out", out)
    assert done.exit_code == 0, done.stderr
    return out


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- a broker with keys ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Path, BrokerProcess]]:
    """A broker at ipc and tcp; its keys are in `keys`, and alice is an admin."""
    with tempfile.TemporaryDirectory(prefix="tg-") as name:
        directory = Path(name)
        new_key(directory, "alice")
        with running_broker(directory, keys=directory / "keys") as broker:
            yield directory, broker


def test_a_key_holder_connects_by_tcp(served: tuple[Path, BrokerProcess]) -> None:
    directory, broker = served
    with tollgate.connect(broker.tcp, key=directory / "alice.key") as client:
        assert client.ping().role == "admin"
        job = client.create(HASH)
    with tollgate.connect(broker.endpoint) as local:
        assert local.get(job.job_id) == job


@pytest.mark.parametrize("role", list(Role))
def test_a_role_decides_every_command_by_tcp(
    served: tuple[Path, BrokerProcess], role: Role
) -> None:
    directory, broker = served
    key = new_key(directory, f"some-{role}", role)  # the broker notices it without a restart
    with tollgate.connect(broker.endpoint) as local:
        local.create(HASH, job_id=job_id(1))
    with tollgate.connect(broker.tcp, key=key) as client:
        assert client.ping().role == role
        for name in ALLOWED[Role.ADMIN]:
            batch = client.batch()
            batch._append(command_named(name, job_id(1)))
            (value,) = batch.send()
            refused = getattr(value, "code", "") == "not_authorized"
            assert refused is (name not in ALLOWED[role]), name


def test_the_word_of_an_ipc_peer_counts_for_nothing(
    served: tuple[Path, BrokerProcess],
) -> None:
    directory, broker = served
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


def test_a_revoked_key_is_refused_on_its_open_connection(
    served: tuple[Path, BrokerProcess],
) -> None:
    directory, broker = served
    key = new_key(directory, "mallory")
    with tollgate.connect(broker.tcp, key=key, timeout_s=PATIENCE_S) as mallory:
        mallory.create(HASH)
        assert keys("revoke", "mallory", "--keys", directory / "keys").exit_code == 0
        with pytest.raises(tollgate.NotAuthorizedError, match="taken away"):
            mallory.claim("running", lease_ms=1_000, wait_ms=20_000)
        with pytest.raises(tollgate.NotAuthorizedError, match="this peer has none"):
            mallory.count()
    again = tollgate.Client(broker.tcp, key=key, timeout_s=0.3)
    with (
        again,
        pytest.raises(tollgate.BrokerUnreachableError, match=r"knows the key .*mallory\.key"),
    ):
        again.ping()


def test_peers_without_a_valid_key_are_refused_and_counted(short_dir: Path) -> None:
    key = new_key(short_dir, "alice")
    own = KeyRing(short_dir / "keys").own
    stranger, other = new_pair(), new_pair()
    with running_broker(short_dir, keys=short_dir / "keys") as broker:
        with zmq.Context() as context:
            for public, secret, server in (
                (stranger.public_key, stranger.secret_key, own.public_key),  # unknown
                (stranger.public_key, stranger.secret_key, other.public_key),  # another broker's
                (stranger.secret_key, stranger.public_key, own.public_key),  # swapped
            ):
                options: dict[int, Any] = {
                    zmq.CURVE_PUBLICKEY: public.encode(),
                    zmq.CURVE_SECRETKEY: secret.encode(),
                    zmq.CURVE_SERVERKEY: server.encode(),
                }
                assert not is_accepted(context, broker.tcp, options)
            assert not is_accepted(context, broker.tcp, {})
            plain: dict[int, Any] = {zmq.PLAIN_USERNAME: b"alice", zmq.PLAIN_PASSWORD: b"x"}
            assert not is_accepted(context, broker.tcp, plain)
        (short_dir / "keys" / "eve.toml").write_text("?")
        wait_for(lambda: "passed over" in broker.stderr)
        with tollgate.connect(broker.tcp, key=key, timeout_s=PATIENCE_S) as alice:
            alice.ping()
        broker.process.terminate()
        assert broker.process.wait(PATIENCE_S) == 0, broker.stderr
        broker.checked = True
        dropped = broker.events[-1]["dropped"]
    assert dropped["handshake_key_refused"] >= 1
    assert dropped["handshake_malformed"] >= 1
    assert dropped["key_passed_over"] == 1


# --- the files ------------------------------------------------------------------------------------


def test_keys_are_made_listed_and_revoked(tmp_path: Path) -> None:
    key = new_key(tmp_path, "alice", "worker")
    assert key.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "keys" / "broker.key").stat().st_mode & 0o777 == 0o600
    (listed,) = keys("list", "--json", "--keys", tmp_path / "keys").stdout.splitlines()
    assert json.loads(listed)["role"] == "worker"
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


@as_root
def test_a_key_that_another_user_owns_is_refused(tmp_path: Path) -> None:
    new_key(tmp_path, "alice")
    os.chown(tmp_path / "keys" / "alice.toml", NOBODY, NOBODY)
    with pytest.raises(KeyRingError, match="belongs to uid 65534"):
        KeyRing(tmp_path / "keys")


# --- the ring -------------------------------------------------------------------------------------


def test_a_ring_notices_changes_and_drops_unreadable_keys(tmp_path: Path) -> None:
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
    assert set(ring.refresh()) == {f"key:{name}" for name in out}
    assert set(ring.clients()) == {"alice", "bob"} - out
    assert ring.counters == {"key_passed_over": 1}
    path.chmod(mode)
    ring.refresh()
    assert ring.clients() == before


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
    assert ring.refresh() == ["key:bob"]  # nothing of it was noted as read
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
        broken.setattr("tollgate.broker.access.keyring._read_client", no_descriptor)
        assert ring.refresh() == []
        assert (set(ring.clients()), ring.counters) == ({"alice"}, {})
    ring.refresh()
    assert set(ring.clients()) == {"alice", "bob"}


def test_keys_that_are_all_gone_admit_no_peer(tmp_path: Path) -> None:
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

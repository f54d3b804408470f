"""Keys and their roles at a real broker's tcp: who may connect, and what it may do."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import zmq

import tollgate
from tests.broker.access.handshakes import is_accepted
from tests.broker.access.key_commands import HELLO, curve, keys, new_key, wait_for
from tests.broker.core.role_tables import framed, is_refused, new_jobs, sample
from tests.brokers import PATIENCE_S, BrokerProcess, Peer, running_broker
from tests.core import HASH
from tollgate.broker.access.key_files import new_pair
from tollgate.broker.access.keyring import KeyRing
from tollgate.broker.core.roles import Role


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


SAMPLE = [
    *((role,) for role in Role),
    (Role.PRODUCER, Role.WORKER),
    (Role.WORKER, Role.PAYMENTS),
    (Role.OBSERVER, Role.ADMIN),
]


@pytest.mark.parametrize("roles", SAMPLE, ids="+".join)
def test_roles_decide_every_command_by_tcp(
    served: tuple[Path, BrokerProcess], roles: tuple[Role, ...]
) -> None:
    directory, broker = served
    name = f"some-{'-'.join(roles)}"
    key = new_key(directory, name, *roles)  # the broker notices it without a restart
    with tollgate.connect(broker.endpoint) as local:
        tried = sample(frozenset(roles), new_jobs(local))
    with tollgate.connect(broker.tcp, key=key) as client:
        assert client.ping().roles == [role.value for role in Role if role in roles]
    with zmq.Context() as context, closing(Peer(context, broker.tcp, **curve(key))) as peer:
        for command, is_allowed in tried:
            peer.send_frames(framed(command))
            assert peer.socket.poll(int(PATIENCE_S * 1_000))
            assert is_refused(peer.socket.recv()) is not is_allowed, command


def test_a_key_of_role_worker_goes_on_working(served: tuple[Path, BrokerProcess]) -> None:
    directory, broker = served
    key = new_key(directory, "old-worker")
    known = directory / "keys" / "old-worker.toml"  # as it was written for one role
    known.write_text(known.read_text().replace('roles = ["admin"]', 'role = "worker"'))
    command = [sys.executable, "-m", "tollgate.worker", "--endpoint", broker.tcp, "--jobs", "1"]
    handler = ["--handler", "tollgate.worker.example_handler:describe"]
    with tollgate.connect(broker.endpoint) as local:
        unpaid, paid = local.create(HASH), local.create(input="some words")
        local.transition(paid.job_id, "running")
        done = subprocess.run(
            [*command, "--key", str(key), *handler, "--simulate-payments"],
            capture_output=True, text=True, check=False, timeout=PATIENCE_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "this worker does work only" in done.stderr
        assert local.get(unpaid.job_id).status == "awaiting_payment"


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
        job = mallory.create(HASH)
        assert keys("revoke", "mallory", "--keys", directory / "keys").exit_code == 0
        with pytest.raises(tollgate.NotAuthorizedError, match="taken away"):
            mallory.wait(job.job_id, timeout_s=20)
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

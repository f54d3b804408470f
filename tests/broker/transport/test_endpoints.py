"""Endpoints: permissions, locks, other users on ipc, and pauses on tcp."""

import grp
import os
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import zmq

import tollgate
from tests.broker.core.role_tables import framed, is_refused, new_jobs, sample
from tests.brokers import PATIENCE_S, Peer, running_broker
from tollgate.broker.access.peer_credentials import PeerCredentials
from tollgate.broker.access.permissions import UnsafeError, make_private
from tollgate.broker.core.roles import Role
from tollgate.broker.transport.endpoints import EndpointError, IpcEndpoint, TcpEndpoint
from tollgate.domain.commands import Hello
from tollgate.domain.messages import Request, encode_request

NOBODY = 65_534
HELLO = encode_request(Request(1, 0, 1, 0, [Hello()]))
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes root to be another user")


# --- ipc: the socket file -------------------------------------------------------------------------


def taken(url: str, group: int | None = None) -> str:
    """Return why an endpoint cannot be taken."""
    with pytest.raises(EndpointError) as refusal, IpcEndpoint(url, group):
        pass
    return str(refusal.value)


def test_an_endpoint_has_one_holder(short_dir: Path) -> None:
    url = f"ipc://{short_dir}/b.sock"
    with IpcEndpoint(url):
        assert "another broker is listening there" in taken(url)
    with IpcEndpoint(url):
        pass


def test_a_path_that_cannot_be_used_is_reported(short_dir: Path) -> None:
    (short_dir / "file").write_text("dear diary")
    assert "longer than 107 bytes" in taken(f"ipc://{short_dir}/{'x' * 120}")
    assert "File exists" in taken(f"ipc://{short_dir}/file/b.sock")
    assert "No such file" in taken("ipc:///proc/tollgate/b.sock")
    assert "no socket" in taken(f"ipc://{short_dir}/file")
    assert (short_dir / "file").read_text() == "dear diary"


def test_a_lock_file_that_is_a_link_is_refused(short_dir: Path) -> None:
    (short_dir / "b.sock.lock").symlink_to(short_dir / "elsewhere")
    assert "symbolic link" in taken(f"ipc://{short_dir}/b.sock")
    assert not (short_dir / "elsewhere").exists()


def test_a_directory_that_others_can_write_to_is_refused(short_dir: Path) -> None:
    place = short_dir / "open"
    place.mkdir()
    for mode in (0o720, 0o702, 0o1777):
        place.chmod(mode)
        assert "chmod go-w" in taken(f"ipc://{place}/b.sock")
    for mode in (0o777, 0o770):
        place.chmod(mode)
        assert "replace" in taken(f"ipc://{place}/under/it/b.sock")
        assert not list(place.iterdir())
    place.chmod(0o1770)  # sticky: what is there is its owner's
    make_private(place / "under")


@as_root
def test_a_directory_of_another_user_is_refused(short_dir: Path) -> None:
    place = short_dir / "theirs"
    place.mkdir(mode=0o700)
    os.chown(place, NOBODY, NOBODY)
    assert "belongs to uid 65534" in taken(f"ipc://{place}/b.sock")
    with pytest.raises(UnsafeError, match="belongs to uid 65534"):
        make_private(place)  # the data directory


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
def test_new_directories_are_private_whatever_the_umask(short_dir: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        assert make_private(short_dir / "a" / "b" / "c")
    finally:
        os.umask(before)
    for made in ("a", "a/b", "a/b/c"):
        assert (short_dir / made).stat().st_mode & 0o7777 == 0o700
    assert not make_private(short_dir / "a" / "b" / "c")


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_the_socket_file_is_private_whatever_the_umask(short_dir: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with (
            zmq.Context() as context,
            context.socket(zmq.ROUTER) as router,
            IpcEndpoint(f"ipc://{short_dir}/b.sock") as endpoint,
        ):
            endpoint.bind(router)
            assert endpoint.path.stat().st_mode & 0o777 == 0o600
            lock = short_dir / "b.sock.lock"
            assert lock.stat().st_mode & 0o777 == 0o600
        assert os.umask(before) == umask
    finally:
        os.umask(before)


def test_a_socket_left_behind_is_taken_over(short_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead, socket.socket(socket.AF_UNIX) as paused:
        dead.bind(str(short_dir / "s.sock"))
        paused.bind(str(short_dir / ".s.sock.full"))
    with running_broker(short_dir, "s"):
        assert stat.S_IMODE((short_dir / "s.sock").stat().st_mode) == 0o600
        assert not (short_dir / ".s.sock.full").exists()


# --- ipc: other users -----------------------------------------------------------------------------


ASK = """
import os, sys, zmq
from zmq.utils.monitor import recv_monitor_message
uid, gid = int(sys.argv[2]), int(sys.argv[3])
peer = zmq.Context().socket(zmq.DEALER)
os.setgroups([])
os.setgid(gid)
os.setuid(uid)
events = peer.get_monitor_socket(zmq.Event.HANDSHAKE_SUCCEEDED | zmq.Event.CONNECT_RETRIED)
peer.connect(sys.argv[1])
if recv_monitor_message(events)["event"] == zmq.Event.CONNECT_RETRIED:
    sys.exit("the kernel refuses")
for frame in sys.argv[4:]:
    peer.send(bytes.fromhex(frame))
    print(peer.recv().hex() if peer.poll(30_000) else b"silence".hex())
"""


def ask_as(uid: int, gid: int, endpoint: str, *frames: bytes) -> list[bytes]:
    """Send requests as another user, and return the answers; none if it cannot connect."""
    command = [sys.executable, "-c", ASK, endpoint, str(uid), str(gid)]
    command += [frame.hex() for frame in frames or [HELLO]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 0 or done.stderr == "the kernel refuses\n", done.stderr
    return [bytes.fromhex(line) for line in done.stdout.splitlines()]


@as_root
@pytest.mark.parametrize("roles", ["observer", "worker", "producer,payments"])
def test_another_user_has_no_role_and_a_group_its_own(short_dir: Path, roles: str) -> None:
    short_dir.chmod(0o755)
    group = next(each for each in grp.getgrall() if each.gr_gid not in {0, NOBODY})
    place = short_dir / "shared"
    place.mkdir()
    os.chown(place, -1, group.gr_gid)
    place.chmod(0o750)
    with running_broker(place, socket_group=group.gr_name, group_roles=roles) as broker:
        state = broker.path.stat()
        assert (state.st_mode & 0o777, state.st_gid) == (0o660, group.gr_gid)
        with tollgate.connect(broker.endpoint) as client:
            tried = sample(frozenset(map(Role, roles.split(","))), new_jobs(client))
        frames = [framed(command) for command, _ in tried]
        hello, *answers = ask_as(NOBODY, group.gr_gid, broker.endpoint, HELLO, *frames)
        assert roles.encode() in hello
        for (command, is_allowed), answer in zip(tried, answers, strict=True):
            assert is_refused(answer) is not is_allowed, command
        assert ask_as(NOBODY, NOBODY, broker.endpoint) == []
        place.chmod(0o755)
        assert ask_as(NOBODY, NOBODY, broker.endpoint) == []
        broker.path.chmod(0o666)
        answers = ask_as(NOBODY, NOBODY, broker.endpoint, *frames)
        assert len(answers) == len(frames)
        assert all(map(is_refused, answers))


@as_root
def test_a_group_can_enter_a_directory_made_for_it(short_dir: Path) -> None:
    group = next(each.gr_gid for each in grp.getgrall() if each.gr_gid not in {0, NOBODY})
    with IpcEndpoint(f"ipc://{short_dir}/made/for/b.sock", group):
        for made in ("made", "made/for"):
            state = (short_dir / made).stat()
            assert (state.st_mode & 0o777, state.st_gid) == (0o750, group)
    before = short_dir.stat()
    refusal = taken(f"ipc://{short_dir}/b.sock", group)
    assert f"cannot enter {short_dir}" in refusal
    assert "chmod 750" in refusal
    after = short_dir.stat()
    assert (after.st_mode, after.st_gid) == (before.st_mode, before.st_gid)
    assert not list(short_dir.glob("b.sock*"))


@pytest.mark.parametrize("roles", [[role] for role in Role] + [[Role.WORKER, Role.PAYMENTS]])
def test_a_user_who_leaves_the_group_loses_its_role_in_1_s(
    monkeypatch: pytest.MonkeyPatch, roles: list[Role]
) -> None:
    group, now_s, asked = 7, [100.0], []

    def groups(uid: int, gid: int) -> list[int]:
        asked.append(uid)
        return [gid, group] if now_s[0] < 100.5 else [gid]

    monkeypatch.setattr("tollgate.broker.access.peer_credentials._groups", groups)
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    credentials, address = PeerCredentials(group, roles), f"localhost:{NOBODY}:{NOBODY}:1"
    for _ in range(3):
        assert credentials.principal(address).roles == frozenset(roles)
    assert len(asked) == 1  # not for each message
    now_s[0] += 1
    assert not credentials.principal(address).roles
    assert credentials.principal(f"localhost:{os.geteuid()}:0:1").roles == {Role.ADMIN}
    assert not credentials.principal("localhost").roles


# --- tcp ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["tcp://127.0.0.1:*", "tcp://[::1]:*"])
def test_a_tcp_endpoint_pauses_and_resumes_at_any_speed(url: str) -> None:
    # Bound anew each time, its own address would be in use: libzmq takes a moment to give it back.
    if "::" in url and not Path("/proc/net/if_inet6").exists():
        pytest.skip("takes IPv6")
    endpoint = TcpEndpoint(url, 100)
    with zmq.Context() as context:
        router = context.socket(zmq.ROUTER)
        endpoint.bind(router)
        for _ in range(1_000):
            endpoint.pause()
            endpoint.resume()
        peer = Peer(context, endpoint.url, IPV6=1)
        peer.send_frames(b"here")
        assert router.recv_multipart()[1:] == [b"here"]
        peer.close()
        router.close(0)
    endpoint.close()


def test_a_tcp_endpoint_accepts_only_after_bind_and_resume() -> None:
    endpoint = TcpEndpoint("tcp://127.0.0.1:*", 100)
    port = int(endpoint.url.rpartition(":")[2])
    with pytest.raises(TimeoutError):
        socket.create_connection(("127.0.0.1", port), timeout=0.2)
    endpoint.resume()
    socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S).close()
    endpoint.close()


@pytest.mark.parametrize(
    ("fault", "reason"), [("bind", "in use"), ("setsockopt", "cannot hold off a crowd")]
)
def test_a_tcp_address_that_cannot_be_used_is_reported(
    monkeypatch: pytest.MonkeyPatch, fault: str, reason: str
) -> None:
    first = TcpEndpoint("tcp://127.0.0.1:*", 100)
    if fault == "setsockopt":
        monkeypatch.setattr(sys, "platform", "another")
    url = first.url if fault == "bind" else "tcp://[::1]:*"
    with pytest.raises(EndpointError, match=reason):
        TcpEndpoint(url, 100)
    first.close()

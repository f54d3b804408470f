"""Connections: their number, handshakes, shares of a batch, and queues, router by router."""

import resource
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import chain, repeat
from pathlib import Path

import msgspec
import pytest
import zmq

import tollgate
from tests.broker.access.key_commands import HELLO, new_key, wait_for
from tests.brokers import PATIENCE_S, ROOT, BrokerProcess, Peer, running_broker
from tests.core import HASH
from tollgate.broker.access.peer_credentials import PeerCredentials
from tollgate.broker.core.batch import Arrival, ReplyFrame
from tollgate.broker.telemetry import Counters
from tollgate.broker.transport.connections import ConnectionMonitor
from tollgate.broker.transport.endpoints import IpcEndpoint
from tollgate.broker.transport.router import FRAME_FACTOR, Router, RouterLimits
from tollgate.client.connection import read_key

SILENCE_S = 0.3
LIMITS = RouterLimits(256 * 1024, 1_000, 512 * 1024 * 1024, 0)


class Bound:
    """A router bound to ipc endpoints, and peers of it."""

    def __init__(self, stack: ExitStack, directory: Path, limits: RouterLimits, names: str) -> None:
        self.context = stack.enter_context(zmq.Context())
        self.endpoints = [
            stack.enter_context(IpcEndpoint(f"ipc://{directory}/{name}.sock")) for name in names
        ]
        self.counters = Counters()
        self.router = Router(
            self.context, b"\x01", PeerCredentials().identify, limits, self.counters
        )
        stack.callback(self.router.socket.close, 0)
        stack.callback(self.router.close)
        self._stack = stack
        self.router.bind(self.endpoints)

    def peer(self, place: int = 0, **options: int) -> Peer:
        peer = Peer(self.context, self.endpoints[place].url, **options)
        self._stack.callback(peer.close)
        return peer

    def receive(self) -> list[Arrival]:
        """Wait for input, and return one batch."""
        assert self.router.socket.poll(int(PATIENCE_S * 1_000))
        batch: list[Arrival] = []
        self.router.receive(batch)
        return batch

    def introduce(self, peer: Peer) -> bytes:
        """Return a peer's routing id, with the mark."""
        peer.send_frames(b"connected")
        (arrival,) = self.receive()
        return arrival.peer


Bind = Callable[..., Bound]


@pytest.fixture
def bind(short_dir: Path) -> Iterator[Bind]:
    with ExitStack() as stack:

        def bound(names: str = "b", **changes: int) -> Bound:
            return Bound(stack, short_dir, LIMITS._replace(**changes), names)

        yield bound


# --- shares of a batch ----------------------------------------------------------------------------


def test_a_flood_delays_no_other_by_more_than_a_share(bind: Bind) -> None:
    bound = bind(share_messages=8)
    flooder, honest = bound.peer(), bound.peer()
    bound.introduce(honest)
    for _ in range(500):
        flooder.send_frames(b"flood")
    assert len(bound.receive()) <= 8
    honest.send_frames(b"me")
    time.sleep(SILENCE_S)  # it has arrived by then
    batch = bound.receive()
    assert [b"me"] in [arrival.frames for arrival in batch]
    assert len(batch) <= 2 * 8


@pytest.mark.parametrize(
    ("changes", "size", "taken"),
    [
        ({"share_bytes": 1_000}, 400, 3),
        ({"batch_bytes": 1_000}, 400, 3),
        ({"batch_messages": 5}, 400, 5),
        ({}, 5_000, 1),
    ],
)
def test_a_batch_is_bounded(bind: Bind, changes: dict[str, int], size: int, taken: int) -> None:
    bound = bind(**changes)
    flooder = bound.peer()
    bound.introduce(flooder)
    for _ in range(20):
        flooder.send_frames(b"x" * size)
    time.sleep(SILENCE_S)
    assert len(bound.receive()) == taken


# --- queues ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("receive_bytes", "queued"), [(4_000_000, 10), (1, 4)])
def test_messages_queued_from_a_peer_are_bounded_in_bytes(
    bind: Bind, receive_bytes: int, queued: int
) -> None:
    bound = bind(request_bytes=100_000, receive_bytes=receive_bytes)
    frame = bytes(FRAME_FACTOR * 100_000)
    sender = bound.peer(SNDHWM=1, SNDTIMEO=int(SILENCE_S * 1_000))
    sent = 0
    with suppress(zmq.Again):
        while sent < 100:
            sender.send_frames(frame)
            sent += 1
    assert queued <= sent <= queued + 4  # one in the sender, and what is on its way
    taken = 0
    while taken < sent:
        taken += len(bound.receive())


@pytest.mark.parametrize("changes", [{"send_window": 2}, {"unread_bytes": 4_000_000}])
def test_replies_queued_for_a_mute_peer_are_bounded(bind: Bind, changes: dict[str, int]) -> None:
    bound = bind(**changes)
    mute = bound.peer(RCVHWM=1, RCVBUF=4_096)
    reader = bound.peer()
    to_mute, to_reader = bound.introduce(mute), bound.introduce(reader)
    reply = bytes(500_000)
    sent = [bound.router.send(ReplyFrame(to_mute, reply)) for _ in range(100)]
    assert sent[0]
    assert sum(sent) <= 12
    assert bound.counters["reply_not_read"] == 100 - sum(sent)
    mute.send_frames(b"more")
    assert bound.receive() == []  # and requests of it are not taken
    assert bound.counters["request_of_mute"] == 1
    for _ in range(100):
        wait_for(lambda: bound.router.send(ReplyFrame(to_reader, reply)))
        assert len(reader.socket.recv()) == len(reply)


def test_a_reply_to_a_peer_that_is_gone_is_reported(bind: Bind) -> None:
    bound = bind()
    gone = bound.peer()
    routing_id = bound.introduce(gone)
    gone.close()
    wait_for(lambda: not bound.router.send(ReplyFrame(routing_id, b"reply")))
    assert bound.counters == {"reply_peer_gone": 1}


def test_the_context_ends_despite_unread_replies(short_dir: Path) -> None:
    """A connection keeps the linger of the bind; libzmq's default would wait for ever."""
    with ExitStack() as stack:
        bound = Bound(stack, short_dir, LIMITS._replace(linger_ms=7), "b")
        assert bound.router.socket.getsockopt(zmq.LINGER) == 7
        mute = [bound.peer(RCVHWM=1) for _ in range(50)]
        for each in mute:
            routing_id = bound.introduce(each)
            for _ in range(10):
                bound.router.send(ReplyFrame(routing_id, bytes(100_000)))
        for each in mute:
            each.close()


# --- their number ---------------------------------------------------------------------------------


def crowd_in(port: int, until: Callable[[], bool], at_once: int = 1) -> list[socket.socket]:
    """Connect by tcp, without a handshake, until something has come of it."""
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


def dropped_by(broker: BrokerProcess) -> Counter[str]:
    """Stop a broker that has logged warnings; return what it dropped."""
    broker.process.terminate()
    assert broker.process.wait(PATIENCE_S) == 0, broker.stderr
    broker.checked = True
    return Counter(broker.events[-1]["dropped"])


def test_ipc_accepts_no_more_than_the_limit_and_resumes(bind: Bind) -> None:
    bound = bind(connections=20)
    bound.router._monitor._pause_s = 0.05
    path = bound.endpoints[0].path
    mine = bound.peer()
    bound.introduce(mine)
    crowd: list[socket.socket] = []
    while path.exists():
        crowd.append(socket.socket(socket.AF_UNIX))
        with suppress(OSError):
            crowd[-1].connect(str(path))
        time.sleep(0.001)
    assert len(crowd) >= 19
    bound.introduce(mine)  # a connected peer is served
    bound.router.housekeeping()
    assert bound.counters["stopped_accepting"] == 1
    for each in crowd:
        each.close()
    wait_for(path.exists)
    bound.introduce(bound.peer())
    assert path.stat().st_mode & 0o777 == 0o600


def test_tcp_accepts_no_more_than_the_limit_and_resumes(short_dir: Path) -> None:
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
        assert not left.poll(0)  # a connected peer stays connected
        mine.disable_monitor()
        left.close(0)
        mine.close(0)
        with tollgate.connect(broker.endpoint, timeout_s=PATIENCE_S) as local:
            local.ping()
        wait_for(lambda: "accepting again" in broker.stderr)
        assert dropped_by(broker)["stopped_accepting"] >= 1


def test_strangers_by_tcp_do_not_use_up_all_files(short_dir: Path) -> None:
    # With none left, libzmq's ipc listener ends the process at the next connection.
    new_key(short_dir, "alice")
    with few_files(1_024), running_broker(short_dir, keys=short_dir / "keys") as broker:
        turns = chain(repeat(False, 2 * 1_024), (True,))
        crowd = crowd_in(port_of(broker), turns.__next__, at_once=60)
        with tollgate.connect(broker.endpoint, timeout_s=PATIENCE_S) as local:
            local.ping()
        assert len(list(Path(f"/proc/{broker.process.pid}/fd").iterdir())) < 1_024 // 2
        for each in crowd:
            each.close()
        assert dropped_by(broker)["stopped_accepting"] >= 1


@contextmanager
def few_files(most: int) -> Iterator[None]:
    """Start brokers within that may have so many files open."""
    real = subprocess.Popen

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", partial(real, preexec_fn=bound))
        yield


def monitored(
    directory: Path, pause: Callable[[], None], resume: Callable[[], None], pause_s: float
) -> ConnectionMonitor:
    """Let two peers connect to a router with a limit of one, one after the other."""
    with zmq.Context() as context:
        router, url = context.socket(zmq.ROUTER), f"ipc://{directory}/w.sock"
        monitor = ConnectionMonitor(router, 1, pause, resume, pause_s)
        router.bind(url)
        for _ in range(2):
            peer = Peer(context, url)
            wait_for(lambda: monitor.connections == 1)
            peer.close()
            wait_for(lambda: monitor.connections == 0)
        time.sleep(SILENCE_S if pause_s else 0)
        monitor.close()
        router.close(0)
    return monitor


def test_a_pause_lasts_a_while(short_dir: Path) -> None:
    calls: list[str] = []
    monitored(short_dir, lambda: calls.append("pause"), lambda: calls.append("resume"), 3_600)
    assert calls == ["pause"]


def test_a_removed_socket_file_does_not_stop_the_count(short_dir: Path) -> None:
    calls: list[str] = []

    def pause() -> None:
        calls.append("pause")
        raise FileNotFoundError

    monitor = monitored(short_dir, pause, lambda: calls.append("resume"), 0)
    assert calls == ["pause", "resume"] * 2
    assert monitor.take_failures()["socket_file_gone"] == 2


def test_a_removed_socket_file_does_not_keep_others_open(bind: Bind) -> None:
    bound = bind("ab", connections=1)
    bound.router._monitor._pause_s = 0.05
    gone, there = bound.endpoints
    gone.path.unlink()
    peer = bound.peer(1)
    wait_for(lambda: not there.path.exists())
    peer.close()
    wait_for(there.path.exists)


# --- handshakes and heartbeats --------------------------------------------------------------------


def test_a_handshake_that_takes_too_long_is_ended(bind: Bind) -> None:
    bound = bind(handshake_ms=100)
    with socket.socket(socket.AF_UNIX) as slow:
        slow.connect(str(bound.endpoints[0].path))
        slow.settimeout(PATIENCE_S)
        while slow.recv(4_096):
            pass  # its greeting, and then the end

    def is_counted() -> bool:
        bound.router.housekeeping()
        return bound.counters["handshake_broken_off"] == 1

    wait_for(is_counted)


CLAIM = """
import sys, time, zmq
from tollgate.client.connection import read_key
peer = zmq.Context().socket(zmq.DEALER)
peer.curve_publickey, peer.curve_secretkey, peer.curve_serverkey = read_key(sys.argv[2])
peer.connect(sys.argv[1])
for frame in sys.argv[3:]:
    peer.send(bytes.fromhex(frame))
peer.recv()
print("parked", flush=True)
time.sleep(3600)
"""


def test_a_tcp_peer_that_is_gone_without_a_word_is_noticed(short_dir: Path) -> None:
    key = new_key(short_dir, "alice")
    claim = {"type": "claim", "status": "running", "lease_ms": 9_999, "wait_ms": 99_999, "limit": 1}
    frames = [
        msgspec.msgpack.encode(
            {"v": 1, "session": 0, "seq": seq, "acked": 0, "commands": [command]}
        ).hex()
        for seq, command in enumerate([claim, {"type": "count"}], 1)
    ]
    with running_broker(short_dir, keys=short_dir / "keys", heartbeat_ms=50) as broker:
        frozen = subprocess.Popen(
            [sys.executable, "-c", CLAIM, broker.tcp, str(key), *frames],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        try:
            assert frozen.stdout is not None
            assert frozen.stdout.readline() == b"parked\n"
            frozen.send_signal(signal.SIGSTOP)
            time.sleep(10 * 0.05)
            with tollgate.connect(broker.endpoint, timeout_s=PATIENCE_S) as local:
                job = local.create(HASH)
                local.transition(job.job_id, "running")
                (lease,) = local.claim("running", lease_ms=1_000, wait_ms=20_000, limit=1)
                assert lease.job.job_id == job.job_id
        finally:
            frozen.kill()
            frozen.communicate()
        assert broker.stop()["dropped"]["reply_peer_gone"] == 1

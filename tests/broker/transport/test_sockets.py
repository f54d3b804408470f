"""A real broker on a real socket: bad input, bad peers, a second broker, and how it stops."""

import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.brokers import PATIENCE_S, ROOT, BrokerProcess, Peer, Wire, running_broker
from tests.core import HASH, job_id

CREATE: Wire = {"type": "create", "input_hash": HASH}
COUNT: Wire = {"type": "count"}
HOUR_MS = 3_600_000
pack = msgspec.msgpack.encode

Start = Callable[..., BrokerProcess]
Connect = Callable[..., Peer]


def message(*commands: object, **changes: object) -> Wire:
    return {"v": 1, "session": 0, "seq": 7, "acked": 0, "commands": list(commands), **changes}


def move(job_id: str, target: str, **fields: object) -> Wire:
    return {"type": "transition", "job_id": job_id, "target": target, **fields}


def claim(status: str = "running", wait_ms: int = 0, lease_ms: int = HOUR_MS) -> Wire:
    return {
        "type": "claim", "status": status, "wait_ms": wait_ms, "lease_ms": lease_ms, "limit": 1,
    }  # fmt: skip


def wait(job_id: str, timeout_ms: int = HOUR_MS) -> Wire:
    return {"type": "wait", "job_ids": [job_id], "timeout_ms": timeout_ms}


def create(peer: Peer, **fields: object) -> str:
    result = peer.one({**CREATE, **fields})
    made: str = result["job"]["job_id"]
    return made


# --- bad input ----------------------------------------------------------------------------------

LIMITS = {"request_bytes": 100_000, "jobs": 3, "parked": 2, "text_bytes": 1_000}


@pytest.fixture(scope="module")
def small() -> Iterator[BrokerProcess]:
    """One broker with low limits for all bad input: what one test does to it, the next sees."""
    with (
        tempfile.TemporaryDirectory(prefix="tg-") as directory,
        running_broker(Path(directory), "b", **LIMITS) as process,
    ):
        yield process


@pytest.fixture(scope="module")
def plain() -> Iterator[BrokerProcess]:
    """One broker with default settings, for all tests that leave it running."""
    with (
        tempfile.TemporaryDirectory(prefix="tg-") as directory,
        running_broker(Path(directory)) as process,
    ):
        yield process


YEAR_10000 = msgspec.msgpack.Ext(-1, b"\0\0\0\0" + (253_402_300_800).to_bytes(8, "big"))
BAD: list[tuple[str, list[bytes], str, int | None]] = [
    ("no MessagePack", [b"GET / HTTP/1.1\r\n\r\n"], "malformed", None),
    ("nothing", [b""], "malformed", None),
    ("an array", [pack([1, 2, 3])], "malformed", None),
    ("a field of a wrong type", [pack(message(CREATE, acked="0"))], "malformed", 7),
    ("commands that are none", [pack(message(CREATE, 5))], "malformed", 7),
    ("two frames", [pack(message(CREATE)), pack(message(CREATE))], "malformed", None),
    ("an empty frame first, as of REQ", [b"", pack(message(CREATE))], "malformed", None),
    ("an unknown command", [pack(message(CREATE, {"type": "drop_all"}))], "malformed", 7),
    ("an unknown field", [pack(message(CREATE, {**CREATE, "colour": 1}))], "malformed", 7),
    ("an unknown field of the message", [pack(message(CREATE, user="me"))], "malformed", 7),
    ("a short hash", [pack(message(CREATE, {**CREATE, "input_hash": "ab"}))], "malformed", 7),
    ("a loud hash", [pack(message({**CREATE, "input_hash": HASH.upper()}))], "malformed", 7),
    ("an unknown target", [pack(message(CREATE, move(job_id(1), "paid")))], "malformed", 7),
    ("another version", [pack(message(CREATE, v=2))], "unsupported_version", 7),
    ("a wait among others", [pack(message(CREATE, wait(job_id(1))))], "malformed", 7),
    ("1,001 commands", [pack(message(*[COUNT] * 1_000, CREATE))], "too_large", 7),
    (
        "a message over the limit",
        [pack(message(CREATE, *[{**CREATE, "input": "x" * 900}] * 150))],
        "too_large",
        7,
    ),
    ("junk behind the message", [pack(message(CREATE)) + b"\xc0"], "malformed", None),
    ("half a message", [pack(message(CREATE))[:-9]], "malformed", None),
    ("a huge array", [pack(message())[:-1] + b"\xdd\xff\xff\xff\xff"], "malformed", None),
    ("a deep nest", [b"\x91" * 90_000], "malformed", None),
    (
        "a time beyond all calendars",
        [pack(message({**CREATE, "pay_by_time": YEAR_10000}))],
        "malformed",
        7,
    ),
    (
        "a time that UTC cannot hold",
        [pack(message({**CREATE, "pay_by_time": "0001-01-01T00:00:00+05:00"}))],
        "malformed",
        7,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("frames", "code", "seq"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_input_is_refused_as_a_whole(
    small: BrokerProcess, peer: Connect, frames: list[bytes], code: str, seq: int | None
) -> None:
    bad, other = peer(small.endpoint), peer(small.endpoint)
    before = other.one(COUNT)["total"]
    bad.send_frames(*frames)
    refused = bad.receive()
    assert (refused["type"], refused["v"]) == ("refused", 1)
    assert (refused["error"]["code"], refused["error"]["retryable"]) == (code, False)
    assert refused["seq"] == seq
    assert refused["error"]["message"]
    assert other.one(COUNT)["total"] == before
    assert bad.one(COUNT)["total"] == before  # and the sender may go on
    assert small.process.poll() is None


def test_a_text_over_its_limit_is_refused_alone(small: BrokerProcess, peer: Connect) -> None:
    mine = peer(small.endpoint)
    before = mine.one(COUNT)["total"]
    refused, counted = mine.ask({**CREATE, "input": "é" * 501}, COUNT)
    assert (refused["code"], refused["limit"]) == ("too_large", 1_000)
    assert counted["total"] == before


def test_a_full_repository_and_full_parking_say_so(small: BrokerProcess, peer: Connect) -> None:
    mine, other = peer(small.endpoint), peer(small.endpoint)
    results = mine.ask(*[CREATE] * 5)
    assert {result["code"] for result in results if result["type"] == "error"} == {
        "repository_full"
    }
    assert results[-1]["retryable"] is True
    assert mine.one(COUNT)["total"] == 3
    known = results[0]["job"]["job_id"]
    for _ in range(3):
        mine.send(wait(known, 60_000))
    refused = mine.receive()
    assert (refused["type"], refused["seq"]) == ("refused", mine.seq)
    assert (refused["error"]["code"], refused["error"]["retryable"]) == ("overloaded", True)
    other.one({"type": "cancel", "job_id": known})
    assert [mine.receive()["results"][0]["job"]["status"] for _ in range(2)] == ["failed"] * 2


def test_a_reply_that_would_grow_too_large_is_cut(broker: Start, peer: Connect) -> None:
    process = broker(reply_bytes=900_000, text_bytes=60_000, commands=400)
    mine, other = peer(process.endpoint), peer(process.endpoint)
    big = create(mine, input="x" * 60_000)
    seq = mine.send(*[{"type": "get", "job_id": big}] * 200, CREATE)
    frame = mine.socket.recv()
    assert len(frame) <= 900_000
    answer = msgspec.msgpack.decode(frame)
    assert answer["seq"] == seq
    kinds = [result.get("code", "job") for result in answer["results"]]
    shown = kinds.count("job")
    assert 8 <= shown <= 14
    assert kinds == ["job"] * shown + ["reply_full"] * (201 - shown)
    assert other.one(COUNT)["total"] == 1


def test_a_huge_frame_disconnects_only_its_sender(broker: Start, peer: Connect) -> None:
    process = broker(request_bytes=10_000)
    bad, other = peer(process.endpoint), peer(process.endpoint)
    other.send(wait(create(other)))  # parked meanwhile
    bad.send_frames(b"\x00" * 39_000)
    assert bad.receive()["error"]["code"] == "malformed"
    bad.send_frames(b"\x00" * 50_000_000)
    assert bad.is_silent(1)
    third = peer(process.endpoint)
    assert third.one(COUNT)["total"] == 1
    job = third.one({"type": "list", "limit": 1})["jobs"][0]["job_id"]
    third.one({"type": "cancel", "job_id": job})
    assert other.receive()["results"][0]["job"]["status"] == "failed"


def test_junk_instead_of_a_handshake_disturbs_no_peer(plain: BrokerProcess, peer: Connect) -> None:
    mine = peer(plain.endpoint)
    for greeting in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 5_000):
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(str(plain.path))
            stranger.sendall(greeting)
            assert mine.one(COUNT)["type"] == "count"


def test_a_crowd_of_bad_peers_disturbs_no_other(plain: BrokerProcess, peer: Connect) -> None:
    bad = [peer(plain.endpoint) for _ in range(20)]
    mine = peer(plain.endpoint)
    before = mine.one(COUNT)["total"]
    for turn in range(30):
        for place, each in enumerate(bad):
            each.send_frames(*BAD[(turn + place) % 15][1])
        assert mine.one({**CREATE})["job"]["version"] == 1
    assert mine.one(COUNT)["total"] == before + 30
    for each in bad:
        codes = {each.receive()["error"]["code"] for _ in range(30)}
        assert codes == {"malformed", "unsupported_version"}


# --- peers that do not do their part ------------------------------------------------------------


def test_a_grant_to_a_peer_that_is_gone_is_given_back(broker: Start, peer: Connect) -> None:
    process = broker()
    gone, mine = peer(process.endpoint), peer(process.endpoint)
    work = create(mine)
    gone.send(claim(wait_ms=HOUR_MS))
    gone.ask(COUNT)  # so the claim is parked by now
    gone.close()
    time.sleep(1)  # for the broker to notice; it has nothing to say about it
    mine.one(move(work, "running"))
    mine.send(claim(wait_ms=30_000))
    (lease,) = mine.receive()["results"][0]["leases"]
    assert (lease["job"]["job_id"], lease["lease"]) == (work, 2)
    assert process.stop()["dropped"] == {"reply_peer_gone": 1}


def test_a_parked_command_holds_up_no_other(plain: BrokerProcess, peer: Connect) -> None:
    mine, other = peer(plain.endpoint), peer(plain.endpoint)
    job = create(mine)
    waits = [mine.send(wait(job)) for _ in range(50)]
    claims = [mine.send(claim(wait_ms=HOUR_MS)) for _ in range(50)]
    assert mine.one(COUNT)["type"] == "count"
    assert other.one(COUNT)["type"] == "count"
    other.one(move(job, "running"))
    granted = mine.receive()
    assert granted["seq"] == claims[0]
    other.one(move(job, "failed", lease=granted["results"][0]["leases"][0]["lease"]))
    assert sorted(mine.receive()["seq"] for _ in waits) == waits


def test_time_works_by_itself(broker: Start, peer: Connect) -> None:
    process = broker(pay_within_ms=100, payment_grace_ms=0, lapses=1)
    mine = peer(process.endpoint)
    assert mine.one({"type": "hello"})["limits"]["payment_grace_ms"] == 0
    unpaid = create(mine)
    mine.send(wait(unpaid))
    assert "pay_by_time" in mine.receive()["results"][0]["job"]["error"]
    work = create(mine)
    mine.one(move(work, "running"))
    mine.one(claim(lease_ms=50))
    mine.send(wait(work))
    assert "lapsed" in mine.receive()["results"][0]["job"]["error"]
    mine.send(wait(create(mine), 20))
    assert mine.receive()["results"][0]["code"] == "wait_timeout"


# --- a second broker ----------------------------------------------------------------------------


def run_broker(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "tollgate.broker", "--in-memory", *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=PATIENCE_S,
        env={"PATH": "/usr/bin:/bin", **environment},
    )


def said(done: "subprocess.CompletedProcess[str]") -> str:
    """Return the one line that a broker that could not start has said beside its log."""
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    return line


def test_a_second_broker_on_an_endpoint_fails(plain: BrokerProcess, peer: Connect) -> None:
    mine = peer(plain.endpoint)
    before = mine.one(COUNT)["total"]
    second = run_broker("--bind", plain.endpoint)
    assert second.returncode == 1
    assert "another broker" in said(second)
    assert plain.endpoint in second.stderr
    assert mine.one(COUNT)["total"] == before
    assert peer(plain.endpoint).one(COUNT)["total"] == before


def test_the_socket_of_a_dead_broker_is_taken_over(broker: Start, peer: Connect) -> None:
    process = broker()
    mine = peer(process.endpoint)
    boot = mine.one({"type": "hello"})["boot_id"]
    process.kill()
    assert stat.S_ISSOCK(process.path.stat().st_mode)
    process.restart()
    assert peer(process.endpoint).one({"type": "hello"})["boot_id"] != boot
    assert mine.one(COUNT)["total"] == 0  # the old connection comes back by itself


# --- stopping -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("by", "spin_us"), [(signal.SIGTERM, 0), (signal.SIGINT, 10_000)])
def test_it_answers_the_parked_refuses_the_new_and_stops(
    broker: Start, peer: Connect, by: signal.Signals, spin_us: int
) -> None:
    process = broker(drain_ms=1_500, spin_us=spin_us)
    parked, late = peer(process.endpoint), peer(process.endpoint)
    job = create(parked)
    seqs = [parked.send(wait(job)), parked.send(claim(wait_ms=HOUR_MS))]
    late.one(COUNT)
    parked.one(COUNT)
    process.process.send_signal(by)
    answers = [parked.receive() for _ in seqs]
    assert sorted(answer["seq"] for answer in answers) == seqs
    for answer in answers:
        assert (answer["results"][0]["code"], answer["results"][0]["retryable"]) == (
            "draining",
            True,
        )
    seq = late.send(CREATE)
    refused = late.receive()
    assert (refused["type"], refused["seq"]) == ("refused", seq)
    assert (refused["error"]["code"], refused["error"]["retryable"]) == ("draining", True)
    process.check_left()


def test_every_request_is_answered_before_it_stops(broker: Start, peer: Connect) -> None:
    process = broker(drain_ms=1_000)
    mine = peer(process.endpoint, RCVHWM=0, SNDHWM=0)
    big = create(mine, input="x" * 60_000)
    seqs = [mine.send(CREATE, {"type": "get", "job_id": big}) for _ in range(300)]
    process.process.send_signal(signal.SIGTERM)
    answers = [mine.receive() for _ in seqs]
    assert [answer["seq"] for answer in answers] == seqs
    kinds = [answer["type"] for answer in answers]
    taken = kinds.count("reply")
    assert kinds == ["reply"] * taken + ["refused"] * (300 - taken)
    assert mine.is_silent()
    assert not [cause for cause in process.check_left()["dropped"] if cause.startswith("reply")]


def test_queued_replies_are_delivered_before_it_stops(broker: Start, peer: Connect) -> None:
    process = broker(drain_ms=0, linger_ms=2_500)
    # With a bound on what it receives, libzmq loses what it has not read when the broker leaves.
    slow = peer(process.endpoint, RCVHWM=0, SNDHWM=0, RCVBUF=4_096)
    mine = peer(process.endpoint)
    big = create(mine, input="x" * 60_000)
    seqs = [slow.send(*[{"type": "get", "job_id": big}] * 55) for _ in range(9)]
    seqs.append(slow.send({**CREATE, "job_id": job_id(1)}))
    deadline = time.monotonic() + PATIENCE_S
    while mine.one({"type": "get", "job_id": job_id(1)})["type"] == "error":
        assert time.monotonic() < deadline
    process.process.send_signal(signal.SIGTERM)
    assert [slow.receive()["seq"] for _ in seqs] == seqs
    assert not [cause for cause in process.check_left()["dropped"] if cause.startswith("reply")]


def test_a_mute_peer_does_not_keep_it_from_stopping(broker: Start, peer: Connect) -> None:
    process = broker(linger_ms=300)
    mute = peer(process.endpoint, RCVHWM=1, SNDHWM=0, RCVBUF=4_096)
    mine = peer(process.endpoint)
    big = create(mine, input="x" * 60_000)
    for _ in range(60):
        mute.send(*[{"type": "get", "job_id": big}] * 20)
    mine.one(COUNT)
    process.stop()


def test_a_second_signal_does_no_harm(broker: Start, peer: Connect) -> None:
    process = broker(drain_ms=500)
    peer(process.endpoint).one(COUNT)
    for by in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        process.process.send_signal(by)
    process.check_left()


# --- many at once -------------------------------------------------------------------------------


def test_of_racing_peers_exactly_one_wins(plain: BrokerProcess, peer: Connect) -> None:
    peers = [peer(plain.endpoint) for _ in range(8)]
    ids = [create(peers[0]) for _ in range(40)]
    won: list[list[Any]] = [[] for _ in peers]
    gate = threading.Barrier(len(peers))

    def race(place: int) -> None:
        gate.wait()
        for job in ids:
            result = peers[place].one(move(job, "running", expected_version=1))
            won[place].append(result["type"] == "job")
            assert result["type"] == "job" or result["code"] == "version_conflict"

    threads = [threading.Thread(target=race, args=[place]) for place in range(len(peers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [sum(wins) for wins in zip(*won, strict=True)] == [1] * len(ids)
    gets = [{"type": "get", "job_id": job} for job in ids]
    assert {result["job"]["status"] for result in peers[0].ask(*gets)} == {"running"}

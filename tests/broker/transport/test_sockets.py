"""A real broker on a real socket: bad input, bad peers, a second broker, and how it leaves."""

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
    """One broker with low limits for all bad input: what one does to it, the next would see."""
    with (
        tempfile.TemporaryDirectory(prefix="tg-") as directory,
        running_broker(Path(directory), "b", **LIMITS) as process,
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
    ("an unknown field", [pack(message(CREATE, {**CREATE, "priority": 1}))], "malformed", 7),
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
def test_bad_input_is_refused_and_nothing_of_it_applied(
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


def test_a_reply_that_would_grow_too_large_stops_in_time(broker: Start, peer: Connect) -> None:
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


def test_a_monstrous_frame_cuts_off_nobody_but_its_sender(broker: Start, peer: Connect) -> None:
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


def test_what_is_no_peer_at_all_disturbs_nobody(broker: Start, peer: Connect) -> None:
    process = broker()
    mine = peer(process.endpoint)
    for greeting in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 5_000):
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(str(process.path))
            stranger.sendall(greeting)
            assert mine.one(COUNT)["total"] == 0


def test_a_crowd_of_bad_peers_disturbs_nobody(broker: Start, peer: Connect) -> None:
    process = broker()
    bad = [peer(process.endpoint) for _ in range(20)]
    mine = peer(process.endpoint)
    for turn in range(30):
        for place, each in enumerate(bad):
            each.send_frames(*BAD[(turn + place) % 15][1])
        assert mine.one({**CREATE})["job"]["version"] == 1
    assert mine.one(COUNT)["total"] == 30
    for each in bad:
        codes = {each.receive()["error"]["code"] for _ in range(30)}
        assert codes == {"malformed", "unsupported_version"}


# --- peers that do not do their part ------------------------------------------------------------


def test_replies_to_a_peer_that_never_reads_are_dropped_and_counted(
    broker: Start, peer: Connect
) -> None:
    process = broker(send_window=2, linger_ms=0)
    mute = peer(process.endpoint, RCVHWM=1, SNDHWM=0, RCVBUF=4_096)
    mine = peer(process.endpoint)
    big = create(mine, input="x" * 60_000)
    work = create(mine)
    mine.one(move(work, "running"))
    for _ in range(60):
        mute.send(*[{"type": "get", "job_id": big}] * 20)
    gets = [{"type": "get", "job_id": big}] * 20
    for commands in (*[gets] * 5, [claim()], [{**CREATE, "job_id": job_id(1)}]):
        time.sleep(0.2)  # by now it is asked again what it wants; there is no room for the answer
        mute.send(*commands)
    deadline = time.monotonic() + PATIENCE_S
    while mine.one({"type": "get", "job_id": job_id(1)})["type"] == "error":
        assert time.monotonic() < deadline
    # What the mute peer was granted, it cannot have heard of.
    mine.send(claim(wait_ms=30_000))
    assert mine.receive()["results"][0]["leases"][0]["job"]["job_id"] == work
    dropped = process.stop()["dropped"]
    assert dropped["reply_not_read"] >= 3
    assert dropped["request_of_mute"] >= 30


def test_what_is_granted_to_a_peer_that_is_gone_is_free_again(broker: Start, peer: Connect) -> None:
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


def test_a_parked_command_holds_up_nobody(broker: Start, peer: Connect) -> None:
    process = broker()
    mine, other = peer(process.endpoint), peer(process.endpoint)
    job = create(mine)
    waits = [mine.send(wait(job)) for _ in range(50)]
    claims = [mine.send(claim(wait_ms=HOUR_MS)) for _ in range(50)]
    assert mine.one(COUNT)["total"] == 1
    assert other.one(COUNT)["total"] == 1
    other.one(move(job, "running"))
    granted = mine.receive()
    assert granted["seq"] == claims[0]
    other.one(move(job, "failed", lease=granted["results"][0]["leases"][0]["lease"]))
    assert sorted(mine.receive()["seq"] for _ in waits) == waits


def test_time_works_by_itself(broker: Start, peer: Connect) -> None:
    process = broker(pay_within_ms=100, payment_grace_ms=50, lapses=1)
    mine = peer(process.endpoint)
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


def test_a_second_broker_on_an_endpoint_leaves_at_once(broker: Start, peer: Connect) -> None:
    first = broker()
    mine = peer(first.endpoint)
    create(mine)
    second = run_broker("--bind", first.endpoint)
    assert second.returncode == 1
    assert "another broker" in said(second)
    assert first.endpoint in second.stderr
    assert mine.one(COUNT)["total"] == 1
    assert peer(first.endpoint).one(COUNT)["total"] == 1


def test_the_socket_of_a_dead_broker_is_taken_over(broker: Start, peer: Connect) -> None:
    process = broker()
    mine = peer(process.endpoint)
    boot = mine.one({"type": "hello"})["boot_id"]
    process.kill()
    assert stat.S_ISSOCK(process.path.stat().st_mode)
    process.restart()
    assert peer(process.endpoint).one({"type": "hello"})["boot_id"] != boot
    assert mine.one(COUNT)["total"] == 0  # the old connection comes back by itself


def test_a_file_that_is_no_socket_is_left_alone(short_dir: Path) -> None:
    file = short_dir / "diary"
    file.write_text("dear diary")
    done = run_broker("--bind", f"ipc://{file}")
    assert done.returncode == 1
    assert "no socket" in said(done)
    assert file.read_text() == "dear diary"


def test_an_endpoint_that_cannot_be_had_is_told_in_a_line(short_dir: Path) -> None:
    (short_dir / "file").write_text("")
    for path, reason in [
        (f"{short_dir}/{'x' * 120}", "longer than 107 bytes"),
        (f"{short_dir}/file/b.sock", "File exists"),
        ("/proc/tollgate/b.sock", "No such file"),
    ]:
        done = run_broker("--bind", f"ipc://{path}")
        assert done.returncode == 1
        assert reason in said(done)
    with socket.socket(socket.AF_UNIX) as taken:  # by somebody who is no broker, and long gone
        taken.bind(str(short_dir / "s"))
    with running_broker(short_dir, "s"):
        assert stat.S_IMODE((short_dir / "s.sock").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("arguments", "environment", "reason"),
    [
        (["--bind", "tcp://127.0.0.1:5555"], {}, "--keys"),
        (["--jobs", "0"], {}, "jobs"),
        (["--reply-bytes", "70000"], {}, "reply_bytes"),
        (["--parked", "-1"], {}, "parked"),
        (["--log-level", "loud"], {}, "log_level"),
        (["--bind", "ipc:///"], {}, "ipc:///path"),
        (["--payment-grace-ms", "999999999999999999"], {}, "payment_grace_ms"),
        (["--pay-within-ms", "999999999999999999"], {}, "pay_within_ms"),
        ([], {"TOLLGATE_BROKER_JOBZ": "1"}, "TOLLGATE_BROKER_JOBZ"),
        ([], {"TOLLGATE_BROKER_BIND": "ipc:///x"}, "bind"),
        ([], {"TOLLGATE_BROKER_BIND": "[]"}, "bind"),
        ([], {"TOLLGATE_BROKER_JOBS": "many"}, "jobs"),
    ],
)
def test_a_wrong_setting_is_told_in_a_line(
    arguments: list[str], environment: dict[str, str], reason: str
) -> None:
    done = run_broker(*arguments, **environment)
    assert done.returncode == 2
    assert reason in said(done)


@pytest.mark.parametrize("text", ["jobs = [", "jobz = 1", "jobs = 'many'"])
def test_a_wrong_file_is_told_in_a_line(short_dir: Path, text: str) -> None:
    file = short_dir / "broker.toml"
    file.write_text(text)
    done = run_broker("--config", str(file))
    assert done.returncode == 2
    assert said(done)


def test_a_setting_of_zero_is_a_setting(broker: Start, peer: Connect) -> None:
    process = broker(parked=0, drain_ms=0)
    mine = peer(process.endpoint)
    assert mine.one({"type": "hello"})["limits"]["parked"] == 0
    mine.send(claim(wait_ms=1_000))
    assert mine.receive()["error"]["code"] == "overloaded"


# --- leaving ------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_it_wakes_the_parked_refuses_the_new_and_leaves(
    broker: Start, peer: Connect, by: signal.Signals
) -> None:
    process = broker(drain_ms=2_000)
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


def test_one_that_spins_answers_and_leaves_as_well(broker: Start, peer: Connect) -> None:
    """However long it may look for the next message, it looks for signals too."""
    process = broker(spin_us=10_000, drain_ms=1_000)
    mine, other = peer(process.endpoint), peer(process.endpoint)
    job = create(mine)
    other.send(claim(wait_ms=20))
    assert other.receive()["results"][0]["type"] == "leases"
    process.process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + PATIENCE_S
    kinds = {"reply"}
    while "refused" not in kinds:
        assert time.monotonic() < deadline
        mine.send({"type": "get", "job_id": job})
        kinds.add(mine.receive()["type"])
    process.check_left()


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_every_request_that_was_taken_is_answered_before_it_leaves(
    broker: Start, peer: Connect, by: signal.Signals
) -> None:
    process = broker(drain_ms=1_000, send_window=2_000, receive_window=2_000)
    mine = peer(process.endpoint, RCVHWM=0, SNDHWM=0)
    big = create(mine, input="x" * 60_000)
    seqs = [mine.send(CREATE, {"type": "get", "job_id": big}) for _ in range(300)]
    process.process.send_signal(by)
    answers = [mine.receive() for _ in seqs]
    assert [answer["seq"] for answer in answers] == seqs
    kinds = [answer["type"] for answer in answers]
    taken = kinds.count("reply")
    assert kinds == ["reply"] * taken + ["refused"] * (300 - taken)
    assert mine.is_silent()
    assert not [cause for cause in process.check_left()["dropped"] if cause.startswith("reply")]


def test_replies_on_their_way_are_delivered_before_it_leaves(broker: Start, peer: Connect) -> None:
    process = broker(drain_ms=0, linger_ms=2_500)
    # With a bound on what it receives, libzmq loses what it has not read when the broker leaves.
    slow = peer(process.endpoint, RCVHWM=0, SNDHWM=0, RCVBUF=4_096)
    mine = peer(process.endpoint)
    big = create(mine, input="x" * 60_000)
    seqs = [slow.send(*[{"type": "get", "job_id": big}] * 5) for _ in range(40)]
    seqs.append(slow.send({**CREATE, "job_id": job_id(1)}))
    deadline = time.monotonic() + PATIENCE_S
    while mine.one({"type": "get", "job_id": job_id(1)})["type"] == "error":
        assert time.monotonic() < deadline
    process.process.send_signal(signal.SIGTERM)
    assert [slow.receive()["seq"] for _ in seqs] == seqs
    assert not [cause for cause in process.check_left()["dropped"] if cause.startswith("reply")]


def test_a_peer_that_never_reads_does_not_keep_it_from_leaving(
    broker: Start, peer: Connect
) -> None:
    process = broker()
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


def test_of_racing_peers_exactly_one_wins(broker: Start, peer: Connect) -> None:
    process = broker()
    peers = [peer(process.endpoint) for _ in range(8)]
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
    assert peers[0].one(COUNT)["by_status"]["running"] == len(ids)

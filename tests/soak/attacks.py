"""What an authorized peer can do to the others, and how the others are served meanwhile."""

import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, Final

import msgspec
import zmq

from tests.core import HASH
from tests.soak.target import (
    MIB,
    Broker,
    Observation,
    broker,
    in_process,
    missing,
    observe,
    processes,
)

encode = msgspec.msgpack.encode
GREETING: Final = b"\xff" + bytes(8) + b"\x7f\x03\x01NULL" + bytes(16) + b"\0" + bytes(31)
READY: Final = b"\x04\x29\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\0"
MUTE: Final = 10
STUCK: Final = 200
FILES: Final = 1_024
"""How many files the broker may have open during the attack that connects in a loop."""
CONNECTED_S: Final = 0.3
"""Time for the honest client to connect before the attack begins."""
CAP_BYTES: Final = 1024 * MIB
"""Resident memory that the broker may use. The limit in deploy/ is four times that."""

Attack = Callable[[str, Event, int], int]


def pack(*commands: dict[str, Any], seq: int = 1, session: int = 0, acked: int = 0) -> bytes:
    return encode(
        {"v": 1, "session": session, "seq": seq, "acked": acked, "commands": list(commands)}
    )


def dealer(context: "zmq.Context[Any]", endpoint: str, **options: int) -> "zmq.Socket[Any]":
    made: zmq.Socket[Any] = context.socket(zmq.DEALER)
    made.setsockopt(zmq.LINGER, 0)
    for name, value in options.items():
        made.setsockopt(getattr(zmq, name), value)
    made.connect(endpoint)
    return made


def never_read(endpoint: str, stop: Event, _: int) -> int:
    """Ask for megabytes on ten connections, and never read a reply."""
    with zmq.Context() as context:
        asking = dealer(context, endpoint)
        create = {"type": "create", "input_hash": HASH, "input": "x" * 60_000}
        asking.send(pack(create))
        job = msgspec.msgpack.decode(asking.recv())["results"][0]["job"]["job_id"]
        wish = pack(*[{"type": "get", "job_id": job}] * 60)
        mute = [dealer(context, endpoint, RCVHWM=1, SNDHWM=100) for _ in range(MUTE)]
        sent = 0
        while not stop.is_set():
            for each in mute:
                try:
                    each.send(wish, zmq.DONTWAIT)
                    sent += 1
                except zmq.Again:
                    time.sleep(0.001)
        for done in (asking, *mute):
            done.close(0)
    return sent


def tiny_frames(endpoint: str, stop: Event, count: int) -> int:
    """Send frames of one byte as fast as possible, and read nothing."""
    with zmq.Context() as context:
        flooding = dealer(context, endpoint, SNDHWM=10_000, RCVHWM=1)
        sent = 0
        while sent < count and not stop.is_set():
            try:
                flooding.send(b"x", zmq.DONTWAIT)
                sent += 1
            except zmq.Again:
                time.sleep(0.0005)
        flooding.close(0)
    return sent


def connect_in_a_loop(endpoint: str, stop: Event, _: int) -> int:
    """Connect until the broker accepts no more, close all connections, and start again."""
    path = endpoint.removeprefix("ipc://")
    made = 0
    while not stop.is_set():
        held: list[socket.socket] = []
        for _ in range(4 * FILES):
            each = socket.socket(socket.AF_UNIX)
            held.append(each)
            try:
                each.connect(path)
                made += 1
            except OSError:
                break
        time.sleep(0.05)
        for each in held:
            each.close()
    return made


def stop_in_the_middle(endpoint: str, stop: Event, _: int) -> int:
    """Stop in the middle of a handshake or a message, on many connections."""
    path = endpoint.removeprefix("ipc://")
    held = []
    for number in range(STUCK):
        each = socket.socket(socket.AF_UNIX)
        half = (
            GREETING[:20],
            GREETING,
            GREETING + READY,
            GREETING + READY + b"\x02" + struct.pack(">Q", 200_000) + b"x" * 1_000,
        )[number % 4]
        with suppress(OSError):  # the broker may have closed it already
            each.connect(path)
            each.sendall(half)
        held.append(each)
    stop.wait()
    for each in held:
        each.close()
    return STUCK


def replay_old_requests(endpoint: str, stop: Event, _: int) -> int:
    """Repeat requests: answered ones, acknowledged ones, and those of another session."""
    with zmq.Context() as context:
        peer = dealer(context, endpoint)
        peer.send(pack({"type": "hello", "open_session": True}))
        session = msgspec.msgpack.decode(peer.recv())["results"][0]["session"]
        create = {"type": "create", "input_hash": HASH}
        old: list[bytes] = [pack(create, seq=seq, session=session) for seq in range(1, 33)]
        old += [pack(create, seq=40, session=session, acked=16)]
        old += [pack(create, seq=seq, session=session - 1) for seq in range(1, 33)]
        sent = 0
        while not stop.is_set():
            for request in old:
                peer.send(request)
            for _request in old:
                if peer.poll(1_000):
                    peer.recv()
            sent += len(old)
        peer.close(0)
    return sent


ATTACKS: Final[dict[str, Attack]] = {
    "10 clients never read": never_read,
    "tiny frames": tiny_frames,
    "connecting in a loop": connect_in_a_loop,
    "stopping in the middle": stop_in_the_middle,
    "replaying old requests": replay_old_requests,
}


@dataclass
class Impact:
    """The result of one attack, beside the same broker without load just before."""

    name: str
    done: int
    calm: Observation
    disturbed: Observation
    peak_bytes: int
    missing: int
    lives: bool
    dropped: dict[str, int]

    @property
    def stood(self) -> bool:
        served = len(self.disturbed.jobs) > 0 and not self.disturbed.failures
        return self.lives and served and not self.missing and self.peak_bytes < CAP_BYTES


def attack(name: str, home: Path, for_s: float, count: int, calm_s: float | None = None) -> Impact:
    """Measure a broker without load, then under an attack, then count the jobs it still has."""
    low = FILES if ATTACKS[name] is connect_in_a_loop else None
    with broker(home, files=low) as target:
        calm = observe(target.endpoint, for_s if calm_s is None else calm_s)()
        disturbed, done = _under(ATTACKS[name], target, for_s, count)
        lost = missing(target.endpoint, calm.jobs + disturbed.jobs) if target.lives else -1
        peak, lives = target.memory("VmHWM"), target.lives
        return Impact(
            name, done, calm, disturbed, peak, lost, lives, target.leave() if lives else {}
        )


def _under(program: Attack, target: Broker, for_s: float, count: int) -> tuple[Observation, int]:
    """Run the attack beside an honest client that is connected before, for `for_s` in all."""
    stop = processes.Event()
    observing = observe(target.endpoint, for_s)
    time.sleep(CONNECTED_S)
    done, _ = in_process(program, target.endpoint, stop, count)
    disturbed: Observation = observing()
    stop.set()
    return disturbed, done()

"""Damaged greetings, handshakes and frames, sent to a broker through raw sockets."""

import socket
from collections import Counter
from contextlib import suppress
from random import Random
from typing import Final

from tests.fuzz.mutate import Mutator
from tests.soak.attacks import GREETING, READY

PER_CONNECTION: Final = 40
"""Frames sent over one connection, unless the broker closes it earlier."""


def fuzz(path: str, inputs: int, seed: int) -> Counter[str]:
    """Send `inputs` damaged inputs to the Unix socket at `path`. Return their number by kind."""
    random, frames = Random(seed), Mutator(seed)
    seen: Counter[str] = Counter()
    while sum(seen.values()) < inputs:
        kind = random.random()
        with socket.socket(socket.AF_UNIX) as peer, suppress(OSError):
            peer.settimeout(5)
            peer.connect(path)
            if kind < 0.3:
                seen["greeting"] += 1
                peer.sendall(_damaged(GREETING, random))
            elif kind < 0.5:
                seen["handshake"] += 1
                peer.sendall(GREETING + _damaged(READY, random))
            elif kind < 0.6:
                seen["frame"] += 1
                frame = bytes([random.randrange(256)]) + random.randbytes(random.randrange(40))
                peer.sendall(GREETING + READY + frame)
            else:
                peer.sendall(GREETING + READY)
                for _ in range(PER_CONNECTION):
                    seen["envelope"] += 1
                    peer.sendall(framed(frames.frame()))
            with suppress(TimeoutError):
                peer.setblocking(False)
                peer.recv(65_536)
    return seen


def framed(body: bytes, flags: int = 0) -> bytes:
    """Return a ZMTP frame with this body."""
    if len(body) < 256:
        return bytes([flags, len(body)]) + body
    return bytes([flags | 2]) + len(body).to_bytes(8, "big") + body


def _damaged(good: bytes, random: Random) -> bytes:
    damaged = bytearray(good)
    for _ in range(random.randrange(1, 6)):
        damaged[random.randrange(len(damaged))] = random.randrange(256)
    return bytes(damaged[: random.randrange(1, len(damaged) + 1)])

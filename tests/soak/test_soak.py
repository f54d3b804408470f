"""The soak suite in short: attacks, a crowd of clients, and memory over many commands."""

import socket
from pathlib import Path

import pytest

from tests.brokers import PATIENCE_S
from tests.sizes import sample
from tests.soak.attacks import ATTACKS, CAP_BYTES, GREETING, READY, attack, pack
from tests.soak.clients import churn, crowd
from tests.soak.marathon import marathon
from tests.soak.target import MIB, broker

ATTACK_S, CALM_S = sample((0.8, 0.1), (1.3, 1.3))
FRAMES = sample(10_000, 20_000)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_harms_no_other_client(short_dir: Path, name: str) -> None:
    impact = attack(name, short_dir, ATTACK_S, FRAMES, CALM_S)
    assert impact.done
    assert impact.lives
    assert impact.disturbed.jobs
    assert not impact.disturbed.failures
    assert impact.missing == 0
    assert impact.peak_bytes < CAP_BYTES
    assert impact.stood


def test_the_attacks_handshake_is_accepted(short_dir: Path) -> None:
    # An attack with a handshake that the broker rejects would never send a message.
    request = pack({"type": "hello"})
    with broker(short_dir, "--in-memory") as target, socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(PATIENCE_S)
        raw.connect(str(target.path))
        raw.sendall(GREETING + READY)
        read_until(raw, b"READY")
        raw.sendall(b"\0" + bytes([len(request)]) + request)
        read_until(raw, b"limits")


def read_until(raw: socket.socket, words: bytes) -> None:
    received = b""
    while words not in received:
        more = raw.recv(4_096)
        assert more
        received += more


def test_a_crowd_is_answered(short_dir: Path) -> None:
    assert crowd(short_dir, 200).answered == 200


def test_clients_that_leave_keep_no_file_open(short_dir: Path) -> None:
    left = churn(short_dir, 400)
    assert left.answered == 400
    assert left.grown_files <= 0


def test_memory_is_bounded_when_finished_jobs_are_pruned(short_dir: Path) -> None:
    commands, kept, grown_mib = sample((400_000, 2_000, 4), (400_000, 20_000, 8))
    ran = marathon(short_dir, commands, durable=False, kept=kept)
    full = 6  # by then the feed holds as many events as it may
    assert ran.samples[-1] - ran.samples[full] < grown_mib * MIB

"""The attacks, the crowd and the marathon in short."""

import socket
from pathlib import Path

import pytest

from tests.brokers import PATIENCE_S
from tests.soak.attacks import ATTACKS, CAP_BYTES, GREETING, READY, attack, pack
from tests.soak.crowd import churn, crowd
from tests.soak.house import broker
from tests.soak.marathon import marathon


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_stood(short_dir: Path, name: str) -> None:
    felt = attack(name, short_dir, 1.0, 20_000)
    assert felt.done
    assert felt.lives
    assert felt.disturbed.jobs
    assert not felt.disturbed.failures
    assert felt.missing == 0
    assert felt.peak_bytes < CAP_BYTES
    assert felt.stood


def test_what_stops_in_the_middle_of_a_message_had_come_so_far(short_dir: Path) -> None:
    # A handshake that the broker does not take would never get to a message.
    request = pack({"type": "hello"})
    with broker(short_dir, "--in-memory") as house, socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(PATIENCE_S)
        raw.connect(str(house.path))
        raw.sendall(GREETING + READY)
        until(raw, b"READY")
        raw.sendall(b"\0" + bytes([len(request)]) + request)
        until(raw, b"limits")


def until(raw: socket.socket, words: bytes) -> None:
    """Read until the broker has said something."""
    said = b""
    while words not in said:
        more = raw.recv(4_096)
        assert more
        said += more


def test_a_crowd_is_answered(short_dir: Path) -> None:
    assert crowd(short_dir, 200).answered == 200


def test_who_comes_and_goes_leaves_no_file_open(short_dir: Path) -> None:
    left = churn(short_dir, 400)
    assert left.answered == 400
    assert left.grown_files <= 0


def test_a_broker_that_forgets_what_is_finished_does_not_grow_for_ever(short_dir: Path) -> None:
    ran = marathon(short_dir, 400_000, durable=False)
    assert ran.samples[-1] - ran.samples[4] < 8 * 1024 * 1024

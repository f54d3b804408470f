"""Whoever waits sees what has come, and sleeps when nothing does."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from tollgate.broker.transport.poller import Lookout

LONG_US = 10_000_000


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


@pytest.fixture
def patiences(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how long each look at the sockets was told to last, as they come."""
    told: list[int] = []
    poll = zmq.zmq_poll

    def spy(items: Any, patience_ms: int) -> Any:
        told.append(patience_ms)
        return poll(items, patience_ms)

    monkeypatch.setattr(zmq, "zmq_poll", spy)
    return told


@pytest.mark.parametrize("spin_us", [0, 100])
def test_what_can_be_read_is_told_and_nothing_else(pipe: tuple[int, int], spin_us: int) -> None:
    other = os.pipe()
    lookout = Lookout([pipe[0], other[0]], spin_us)
    assert lookout.wait(0) == []
    for _ in range(3):
        os.write(pipe[1], b"x")
        assert lookout.wait(1) == [pipe[0]]
        os.read(pipe[0], 1)
        assert lookout.wait(1) == []
    os.write(pipe[1], b"x")
    os.write(other[1], b"x")
    assert sorted(lookout.wait(1)) == [pipe[0], other[0]]
    lookout.forget(pipe[0])
    assert lookout.wait(1) == [other[0]]
    for end in other:
        os.close(end)


def test_without_a_spin_it_sleeps_at_once(pipe: tuple[int, int], patiences: list[int]) -> None:
    lookout = Lookout([pipe[0]])
    os.write(pipe[1], b"x")
    for _ in range(3):
        lookout.wait(7)
    assert patiences == [7, 7, 7]


def test_it_stays_awake_after_a_message_and_sleeps_after_none(
    pipe: tuple[int, int], patiences: list[int]
) -> None:
    lookout = Lookout([pipe[0]], LONG_US)
    os.write(pipe[1], b"x")
    lookout.wait(5)
    assert patiences == [5]  # nothing had come before
    patiences.clear()
    lookout.wait(5)
    assert patiences == [0]  # and now it looks first
    os.read(pipe[0], 1)
    lookout.wait(5)
    assert set(patiences) == {0}  # no longer than it has patience, however long the spin
    patiences.clear()
    lookout.wait(5)
    assert patiences == [5]  # whoever has nothing to do keeps no core busy

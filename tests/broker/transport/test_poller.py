"""The poller reports what can be read, and sleeps while there is nothing."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from tollgate.broker.transport.poller import Poller

LONG_US = 10_000_000


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


@pytest.fixture
def timeouts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the timeout of each poll, in order."""
    told: list[int] = []
    poll = zmq.zmq_poll

    def spy(items: Any, timeout_ms: int) -> Any:
        told.append(timeout_ms)
        return poll(items, timeout_ms)

    monkeypatch.setattr(zmq, "zmq_poll", spy)
    return told


@pytest.mark.parametrize("spin_us", [0, 100])
def test_only_readable_sources_are_returned(pipe: tuple[int, int], spin_us: int) -> None:
    other = os.pipe()
    poller = Poller([pipe[0], other[0]], spin_us)
    assert poller.wait(0) == []
    for _ in range(3):
        os.write(pipe[1], b"x")
        assert poller.wait(1) == [(pipe[0], zmq.POLLIN)]
        os.read(pipe[0], 1)
        assert poller.wait(1) == []
    os.write(pipe[1], b"x")
    os.write(other[1], b"x")
    assert sorted(dict(poller.wait(1))) == [pipe[0], other[0]]
    poller.unregister(pipe[0])
    assert dict(poller.wait(1)).keys() == {other[0]}
    for end in other:
        os.close(end)


def test_without_spin_it_sleeps_at_once(pipe: tuple[int, int], timeouts: list[int]) -> None:
    poller = Poller([pipe[0]])
    os.write(pipe[1], b"x")
    for _ in range(3):
        poller.wait(7)
    assert timeouts == [7, 7, 7]


def test_it_spins_after_a_message_and_sleeps_after_none(
    pipe: tuple[int, int], timeouts: list[int]
) -> None:
    poller = Poller([pipe[0]], LONG_US)
    os.write(pipe[1], b"x")
    poller.wait(5)
    assert timeouts == [5]  # nothing had come before
    timeouts.clear()
    poller.wait(5)
    assert timeouts == [0]  # now it polls first
    os.read(pipe[0], 1)
    poller.wait(5)
    assert set(timeouts) == {0}  # no longer than the timeout, however long the spin
    timeouts.clear()
    poller.wait(5)
    assert timeouts == [5]  # an idle broker keeps no core busy

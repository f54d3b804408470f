"""The broker's absence is said once, its return once, each in one line."""

import asyncio
from time import monotonic

import pytest

from tollgate.client.errors import BrokerUnreachableError, OutcomeUnknown, may_pass
from tollgate.domain.exceptions import (
    DrainingError,
    ExpiredError,
    Refusal,
    SessionEvictedError,
    TollgateError,
)
from tollgate.worker import broker_status
from tollgate.worker.broker_status import Backoff, BrokerStatus, one_line


def test_losing_the_broker_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    broker = BrokerStatus("ipc:///somewhere")
    broker.back()
    for _ in range(3):
        broker.lost(BrokerUnreachableError("nobody\nthere"), monotonic())
    broker.back()
    broker.back()
    assert [record.getMessage() for record in caplog.records] == [
        "the broker at ipc:///somewhere takes no requests (nobody there): waiting for it",
        "the broker at ipc:///somewhere is back",
    ]


def test_another_reason_of_a_long_outage_is_said(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that left in order is back, and does not know the key of this worker."""
    broker = BrokerStatus("tcp://somewhere")
    draining, unknown = DrainingError("about to leave"), BrokerUnreachableError("no such key")
    faults: list[TollgateError] = [draining, unknown]
    for fault in faults:
        broker.lost(fault, monotonic())
    monkeypatch.setattr(broker_status, "AGAIN_S", 0.0)
    for fault in [draining, OutcomeUnknown("no answer"), unknown, draining, unknown]:
        broker.lost(fault, monotonic())
    broker.back()
    broker.lost(draining, monotonic())
    told = [record.getMessage().split("(")[1] for record in caplog.records]
    assert told == [
        f"{why}): waiting for it" for why in ("about to leave", "no such key", "about to leave")
    ]


def test_an_older_request_says_nothing_of_a_broker_that_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = BrokerStatus("ipc:///somewhere")
    asked_at = monotonic()
    broker.lost(BrokerUnreachableError("gone"), asked_at)
    broker.back()
    broker.lost(BrokerUnreachableError("silent"), asked_at)
    assert len(caplog.records) == 1
    broker.lost(BrokerUnreachableError("gone again"), monotonic())
    assert len(caplog.records) == 2


@pytest.mark.parametrize("kind", [SessionEvictedError, ExpiredError])
def test_forgotten_sessions_and_set_clocks_pass(kind: type[Refusal]) -> None:
    assert may_pass(kind("gone"))


def test_a_line_is_short_and_harmless() -> None:
    assert one_line("a\x1b[2J\nb") == "a�[2J b"
    assert len(one_line("long " * 1_000)) == 200


async def test_pauses_grow_to_their_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(pause_s: float) -> None:
        slept.append(pause_s)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(broker_status, "PAUSE_S_MIN", 1.0)
    monkeypatch.setattr(broker_status, "PAUSE_S_MAX", 3.0)
    pauses = Backoff()
    for most_s in (1, 2, 3, 3):
        await pauses.wait()
        assert most_s / 2 <= slept[-1] <= most_s


def test_pauses_of_workers_differ() -> None:
    """Those that lost the same broker do not return all at once."""
    assert len({Backoff().next_s() for _ in range(20)}) > 1

"""A sample of `python -m tests.feed`: replicas made from events, held against the broker."""

import tempfile
from pathlib import Path

import pytest

from tests.feed.harness import Run
from tests.feed.replica import Replica, differences
from tests.sizes import sample
from tollgate.domain.results import JobEvent

EVENTS = sample(15_000, 200_000)
KILLS = sample(2, 10)


@pytest.mark.timeout(sample(60, 900))  # more than the run takes at most
def test_replicas_are_what_the_broker_lists() -> None:
    """Under load, over kills, and although some readers list anew and others never read."""
    with tempfile.TemporaryDirectory(prefix="tg") as scratch:
        outcome = Run(Path(scratch), EVENTS, KILLS, 1).run(lambda *_: None, sample(60.0, 600.0))
    assert outcome.wrong == []
    assert outcome.events >= EVENTS
    assert outcome.kills == KILLS
    assert outcome.gone > 0
    assert outcome.compared > 500


def event(what: str, version: int, **fields: object) -> JobEvent:
    return JobEvent("p", None, what, "j", "default", "running", version, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("events", [[event("created", 1)] * 2, [event("moved", 2)],
                                    [event("created", 1), event("held", 2)]])  # fmt: skip
def test_a_replica_notices_what_is_missing_or_doubled(events: list[JobEvent]) -> None:
    with pytest.raises(AssertionError):
        Replica().apply_all(events)


def test_differences_are_named() -> None:
    mine = {"a": {"version": 1}, "b": {"version": 1}}
    true = {"a": {"version": 2}, "c": {"version": 1}}
    assert differences(mine, true) == [
        "c is missing", "b is there no longer", "a: version is 1, not 2",
    ]  # fmt: skip

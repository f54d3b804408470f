"""Many queues together hold no more stale entries than one: each keeps a removed job's slot."""

import pytest

from tests.broker.repository.test_queues import Stored
from tollgate.broker.repository import lines

QUEUES = 60
ROUNDS = 40


def stale_entries(stored: Stored) -> int:
    """Return how many entries the lines of all queues hold; hardly a job is stored."""
    queues = stored.queues.by_name.values()
    entered = sum(len(line) for queue in queues for line in queue._entered.values())
    ready = sum(len(line) for queue in queues for some in queue.lines.values() for line in some)
    return entered + ready


def test_many_queues_share_the_slack_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "SLACK", 120)
    stored = Stored()
    for number in range(QUEUES):
        stored.add(f"q{number}")  # stays, so that the queue lives
    for _ in range(ROUNDS):
        for number in range(QUEUES):
            stored.add(f"q{number}")
            stored.remove(len(stored.slots) - 1)
    # In four lines of each queue: two true entries for each job, a share of the slack, and what has
    # come since the last check.
    assert stale_entries(stored) <= 4 * QUEUES * (2 + 120 // QUEUES + 16)

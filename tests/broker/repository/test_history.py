"""Histories as packed bytes: their entries, their bounds, and who is named in them."""

from datetime import timedelta
from itertools import pairwise

import pytest

from tests.core import EPOCH, HASH
from tollgate.broker.core.events import JobTransitioned, Origin
from tollgate.broker.repository import history
from tollgate.broker.repository.history import (
    ANNOTATED,
    CLAIMED,
    FIRST_MAX,
    LAPSED,
    LAST_MAX,
    MOVED,
    REASON_CHARACTERS_MAX,
    SETTLED,
    TRIM_BYTES,
    TRIM_SLACK,
    Origins,
    grown,
)
from tollgate.broker.repository.job_repo import InMemoryJobRepository
from tollgate.domain.results import HistoryEntry
from tollgate.domain.settlement import SettlementState
from tollgate.domain.status import AWAITING_INPUT, AWAITING_PAYMENT, RUNNING, JobStatus

ALICE = Origin(EPOCH, "key:alice", "shop@host:1")
MOST = FIRST_MAX + LAST_MAX


def later(number: int) -> Origin:
    return Origin(EPOCH + timedelta(seconds=number), ALICE.by, ALICE.client)


def of_entries(origins: Origins, count: int, first: int = 0) -> bytes | None:
    """Return a history of entries whose attempts are their numbers."""
    packed: bytes | None = None
    for number in range(first, first + count):
        entry = origins.entry(ANNOTATED, later(number), attempt=number)
        packed = grown(packed, entry)
    return packed


def test_a_history_begins_with_the_creation() -> None:
    assert Origins().read(EPOCH, None) == ([HistoryEntry(EPOCH, "created")], 0)


def test_each_field_of_an_entry_is_shown() -> None:
    origins = Origins()
    entries = [
        origins.entry(MOVED, ALICE, AWAITING_PAYMENT, RUNNING),
        origins.entry(CLAIMED, Origin(EPOCH, "key:w"), attempt=2),
        origins.entry(LAPSED, Origin(EPOCH), attempt=2, reason="key:w"),
        origins.entry(SETTLED, ALICE, SettlementState.WANTED, SettlementState.MANUAL, reason="no"),
    ]
    shown, left_out = origins.read(EPOCH, b"".join(entries))
    assert left_out == 0
    assert shown[1:] == [
        HistoryEntry(EPOCH, "moved", "awaiting_payment", "running", "key:alice", "shop@host:1"),
        HistoryEntry(EPOCH, "claimed", by="key:w", attempt=2),
        HistoryEntry(EPOCH, "lapsed", attempt=2, reason="key:w"),
        HistoryEntry(EPOCH, "settled", "wanted", "manual", "key:alice", "shop@host:1", None, "no"),
    ]


@pytest.mark.parametrize("what", [JobStatus, SettlementState])
def test_every_status_and_state_is_named(what: type[JobStatus | SettlementState]) -> None:
    origins = Origins()
    code = MOVED if what is JobStatus else SETTLED
    for before in what:
        for after in what:
            packed = origins.entry(code, ALICE, before, after)
            ((_, shown), _) = origins.read(EPOCH, packed)
            assert (shown.from_, shown.to) == (before.value, after.value)


@pytest.mark.parametrize("count", [1, MOST - 1, MOST, MOST + 1, MOST + TRIM_SLACK + 1, 500])
def test_the_first_and_the_last_entries_are_kept(count: int) -> None:
    origins = Origins()
    entries, left_out = origins.read(EPOCH, of_entries(origins, count))
    numbers = [entry.attempt for entry in entries[1:]]
    every = [*range(count)]
    assert numbers == (every if count <= MOST else every[:FIRST_MAX] + every[-LAST_MAX:])
    assert left_out == max(0, count - MOST)
    assert all(before.at < after.at for before, after in pairwise(entries[1:]))


def test_a_stored_history_has_a_bound() -> None:
    origins = Origins()
    reason = "x" * 2 * REASON_CHARACTERS_MAX
    packed = b""
    for number in range(1_000):
        packed = grown(packed, origins.entry(ANNOTATED, later(number), reason=reason))
        entry_max = REASON_CHARACTERS_MAX + 64
        assert len(packed) <= (MOST + TRIM_SLACK + 1) * entry_max
    entries, left_out = origins.read(EPOCH, packed)
    assert (len(entries), left_out) == (1 + MOST, 1_000 - MOST)
    assert {entry.reason for entry in entries[1:]} == {reason[:REASON_CHARACTERS_MAX]}


def test_short_histories_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """They cannot have too many entries, and most histories are short."""
    looked: list[int] = []
    spans = history._spans

    def look(packed: bytes) -> list[tuple[int, int, int]]:
        looked.append(len(packed))
        return spans(packed)

    monkeypatch.setattr(history, "_spans", look)
    origins = Origins()
    shortest = origins.entry(MOVED, Origin(EPOCH), AWAITING_PAYMENT, RUNNING)
    packed: bytes | None = None
    for _ in range(TRIM_BYTES // len(shortest)):
        packed = grown(packed, shortest)
    assert not looked
    grown(packed, shortest)
    assert looked


def test_jobs_that_move_together_share_the_bytes_of_their_entry() -> None:
    jobs = InMemoryJobRepository()
    ids = [jobs.create(HASH, at=EPOCH).job_id for _ in range(3)]
    jobs.update_all([JobTransitioned(each, 1, RUNNING, EPOCH) for each in ids], ALICE)
    first, *others = [slot.history for slot in jobs.slots()]
    assert first is not None
    assert all(other is first for other in others)


@pytest.mark.parametrize("answers", [("yes", None), (None, "yes")], ids=str)
def test_an_answer_is_told_from_a_move_without_one(answers: tuple[str | None, ...]) -> None:
    jobs = InMemoryJobRepository()
    ids = [jobs.create(HASH, at=EPOCH).job_id for _ in answers]
    jobs.update_all([JobTransitioned(each, 1, RUNNING, EPOCH) for each in ids], ALICE)
    jobs.update_all([JobTransitioned(each, 2, AWAITING_INPUT, EPOCH) for each in ids], ALICE)
    moves = [
        JobTransitioned(each, 3, RUNNING, EPOCH, provided_input=answer)
        for each, answer in zip(ids, answers, strict=True)
    ]
    assert not jobs.update_all(moves, ALICE).refused
    last = [jobs.origins.read(EPOCH, slot.history)[0][-1].what for slot in jobs.slots()]
    assert last == ["input_provided" if answer else "moved" for answer in answers]


def test_origins_are_numbered_once() -> None:
    origins = Origins()
    assert origins.number("", "") == 0  # the broker itself
    assert [origins.number("a", "1"), origins.number("a", "2"), origins.number("a", "1")] == [
        1, 2, 1,
    ]  # fmt: skip
    copy = Origins()
    copy.restore([*origins.pairs])
    assert copy.number("a", "2") == 2
    assert copy.number("b", "") == 3


def test_origins_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "ORIGINS_MAX", 3)
    origins = Origins()
    packed: bytes | None = None
    for number in range(9):
        packed = grown(packed, origins.entry(CLAIMED, Origin(EPOCH, f"key:{number}", "c@h:1")))
    assert len(origins.pairs) == 3
    entries, _ = origins.read(EPOCH, packed)
    assert [entry.by for entry in entries[1:]] == [f"key:{number}" for number in range(9)]
    assert {entry.client for entry in entries[1:]} == {"c@h:1"}

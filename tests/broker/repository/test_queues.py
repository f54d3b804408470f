"""Queues: which jobs a claim takes from which of them, and how they come to life and die."""

from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest

from tests.broker.repository.slots import SECOND, places
from tests.core import EPOCH, HASH
from tollgate.broker.core.events import JobCreated, JobTransitioned, NewRest, Origin
from tollgate.broker.core.timers import NEVER, SLACK, Timeline
from tollgate.broker.repository import lines
from tollgate.broker.repository.job import Claimed, Slot, StandingLease
from tollgate.broker.repository.job_repo import InMemoryJobRepository
from tollgate.broker.repository.queues import CHECK_EVERY, CLAIMED
from tollgate.domain.exceptions import JobConflictError
from tollgate.domain.results import DEFAULT_QUEUE, Settlement
from tollgate.domain.settlement import SettlementState
from tollgate.domain.status import (
    AWAITING_INPUT,
    AWAITING_PAYMENT,
    COMPLETED,
    FAILED,
    RUNNING,
    JobStatus,
)

ORIGIN = Origin(EPOCH)


class Stored:
    """A repository whose jobs are named by the numbers of their places."""

    def __init__(self) -> None:
        self.wall: Timeline[datetime] = Timeline(NEVER)
        self.jobs = InMemoryJobRepository(timeline=self.wall)
        self.queues = self.jobs.queues
        self.slots: list[Slot] = []

    def add(self, queue: str | None = None, count: int = 1, **fields: Any) -> None:
        for _ in range(count):
            new = JobCreated(f"job {len(self.slots)}", EPOCH, HASH, rest=NewRest(queue, **fields))
            self.slots += self.jobs.create_all([new]).slots

    def move(self, number: int, *targets: JobStatus, at: datetime = EPOCH) -> None:
        for target in targets:
            job = self.slots[number].job
            moved = JobTransitioned(job.job_id, job.version, target, at)
            assert not self.jobs.update_all([moved], Origin(at)).refused

    def lease(self, *numbers: int) -> None:
        some = [self.slots[number] for number in numbers]
        self.jobs.lease(some, [StandingLease(slot, 1, 9, 9) for slot in some], ORIGIN)

    def remove(self, number: int) -> None:
        self.move(number, FAILED)
        self.jobs.remove(self.slots[number].job.job_id)

    def ready(
        self, *names: str, state: Claimed = AWAITING_PAYMENT, at: datetime = EPOCH, limit: int = 99
    ) -> list[int]:
        """Return what a claim would take, and put it back."""
        taken = self.queues.take(state, names, limit, at)
        self.queues.put_back(state, taken)
        return places(taken)

    def serve(self, *names: str, limit: int = 1) -> list[int]:
        """Let a claim have jobs."""
        taken = places(self.queues.take(AWAITING_PAYMENT, names, limit, EPOCH))
        self.lease(*taken)
        return taken


# --- which job is next --------------------------------------------------------------------------


def test_a_claim_takes_the_queues_in_the_order_named() -> None:
    stored = Stored()
    for queue in ("a", "b", "a", "c"):
        stored.add(queue)
    assert stored.ready("b", "a") == [1, 0, 2]
    assert stored.ready("c", "nothing", "b") == [3, 1]
    assert stored.ready("b", "a", limit=2) == [1, 0]
    assert stored.ready("b", "a") == [1, 0, 2]  # what was put back is where it was
    assert stored.ready("default") == []


def test_a_better_priority_comes_first_in_its_queue() -> None:
    stored = Stored()
    for queue, priority in (("a", 9), ("a", 0), ("b", 0), ("a", 3), ("a", 0)):
        stored.add(queue, priority=priority)
    assert stored.ready("a", "b") == [1, 4, 3, 0, 2]
    stored.lease(1)
    assert stored.ready("a", "b") == [4, 3, 0, 2]


def test_all_queues_take_turns() -> None:
    stored = Stored()
    for queue in ("a", "b", "c"):
        stored.add(queue, 3)
    served = [stored.slots[place].job.queue for _ in range(7) for place in stored.serve("*")]
    assert served == ["a", "b", "c", "a", "b", "c", "a"]
    stored.serve("c")  # also by its name
    assert [stored.slots[place].job.queue for place in stored.ready("*")] == ["b"]
    stored.add("d")  # was never served
    assert [stored.slots[place].job.queue for place in stored.ready("*")] == ["d", "b"]


def test_turns_are_taken_by_status() -> None:
    stored = Stored()
    for queue in ("a", "b"):
        stored.add(queue, 2)
    stored.serve("*")
    for number in (1, 3):
        stored.move(number, RUNNING)
    assert stored.ready("*", state=RUNNING) == [1, 3]
    assert stored.ready("*") == [2]


def test_leases_on_jobs_of_many_queues_serve_each() -> None:
    stored = Stored()
    for queue in ("a", "b", "c"):
        stored.add(queue, 2)
    stored.lease(0, 2)
    assert stored.ready("*") == [4, 5, 1, 3]


def test_leases_on_jobs_of_many_statuses_serve_each() -> None:
    stored = Stored()
    for queue in ("a", "b"):
        stored.add(queue, 4)
    for number in (0, 1, 4, 5):
        stored.move(number, RUNNING)
    stored.lease(0, 2)  # a replay may apply the grants of several claims at once
    assert stored.ready("*", state=RUNNING) == [4, 5, 1]
    assert stored.ready("*") == [6, 7, 3]


def test_leases_on_settlements_serve_each_state() -> None:
    stored = Stored()
    for queue in ("a", "b"):
        stored.add(queue, 4, settle=True)
    for number in range(8):
        stored.move(number, RUNNING, COMPLETED)
    for number in (2, 3, 6, 7):
        slot = stored.slots[number]
        settlement = Settlement(SettlementState.SUBMITTED, EPOCH)
        stored.jobs.set_settlement(slot, settlement, EPOCH)
    stored.lease(0, 2)
    assert stored.ready("*", state=SettlementState.WANTED) == [4, 5, 1]
    assert stored.ready("*", state=SettlementState.SUBMITTED) == [6, 7, 3]


def test_a_queue_that_had_nothing_keeps_its_turn() -> None:
    stored = Stored()
    stored.add("a")
    stored.add("b", 2)
    stored.lease(0)  # a was served, and has nothing left
    stored.serve("*")
    stored.add("a")
    assert stored.ready("*") == [3, 2]


def test_a_paused_queue_gives_nothing() -> None:
    stored = Stored()
    stored.add("a")
    stored.add("b")
    stored.queues.pause("a")
    with pytest.raises(JobConflictError):
        stored.queues.pause("a")
    assert stored.ready("a", "b") == stored.ready("*") == [1]
    assert not stored.queues.has_ready(AWAITING_PAYMENT, "a", EPOCH)
    assert stored.queues.has_ready(AWAITING_PAYMENT, "b", EPOCH)
    stored.queues.changed.clear()
    stored.queues.unpause("a")
    with pytest.raises(JobConflictError):
        stored.queues.unpause("a")
    assert set(stored.queues.changed) == {(state, "a") for state in CLAIMED}
    assert stored.ready("*") == [0, 1]


def test_settlements_are_claimed_by_their_state() -> None:
    stored = Stored()
    stored.add("a", 3, settle=True)
    for number in (2, 0):
        stored.move(number, RUNNING, COMPLETED)
    assert stored.ready("*", state=SettlementState.WANTED) == [2, 0]
    assert stored.ready("*", state=SettlementState.SUBMITTED) == []
    later = Settlement(SettlementState.SUBMITTED, EPOCH, not_before=EPOCH + SECOND)
    stored.jobs.bar(stored.slots[2])
    stored.jobs.set_settlement(stored.slots[2], later, EPOCH)
    assert stored.ready("*", state=SettlementState.WANTED) == [0]
    assert stored.ready("*", state=SettlementState.SUBMITTED) == []
    assert stored.ready("*", state=SettlementState.SUBMITTED, at=EPOCH + SECOND) == [2]
    queue = stored.queues.by_name["a"]
    settled = {state.value: number for state, number in queue.settled.items() if number}
    assert settled == {"pending": 1, "wanted": 1, "submitted": 1}


# --- jobs that become due -----------------------------------------------------------------------


def test_a_queue_is_noted_when_its_delayed_job_is_due() -> None:
    stored = Stored()
    for seconds in (3, 1, 2):
        stored.add("a", not_before=EPOCH + seconds * SECOND)
        stored.move(len(stored.slots) - 1, RUNNING)
    queues_, key = stored.queues, (RUNNING, "a")
    for number in range(1, 4):
        at = EPOCH + number * SECOND
        stored.wall.refresh()
        assert stored.wall.next_at == at
        queues_.changed.clear()
        queues_.wake(at - SECOND / 1_000)
        assert key not in queues_.changed
        queues_.wake(at)
        assert key in queues_.changed
        taken = queues_.take(RUNNING, ["a"], 9, at)
        stored.lease(*places(taken))
        assert places(taken) == [[1], [2], [0]][number - 1]
    queues_.changed.clear()
    queues_.wake(EPOCH + 99 * SECOND)
    assert not queues_.changed


def test_wakes_do_not_pile_up() -> None:
    """Each earlier time adds one, and makes the one before it settled."""
    stored = Stored()
    stored.add("a", 2_000, not_before=EPOCH + SECOND)
    for number in range(2_000):
        slot = stored.slots[number]
        slot.extend().not_before = EPOCH + (5_000 - number) * SECOND
        stored.move(number, RUNNING)
    assert len(stored.queues._wakes) <= 2 + SLACK
    assert stored.wall.next_at == EPOCH + 3_001 * SECOND


def test_lines_are_plain_until_a_job_is_barred() -> None:
    stored = Stored()
    stored.add()
    stored.move(0, RUNNING)
    assert not stored.queues.are_barred
    stored.jobs.bar(stored.slots[0])
    assert stored.queues.are_barred


# --- queues that come and go --------------------------------------------------------------------


def test_a_queue_lives_as_long_as_its_jobs() -> None:
    stored = Stored()
    stored.add("a", 2)
    stored.add("b")
    assert [*stored.queues.by_name] == ["a", "b"]
    stored.remove(0)
    assert [*stored.queues.by_name] == ["a", "b"]
    stored.remove(1)
    assert [*stored.queues.by_name] == ["b"]
    assert [*stored.queues._orders[RUNNING]] == ["b"]
    stored.add("a")
    assert stored.ready("*") == [2, 3]


def test_a_queue_that_comes_back_was_never_served() -> None:
    stored = Stored()
    stored.add("a")
    stored.add("b", 2)
    assert stored.serve("a") == [0]
    stored.remove(0)
    stored.serve("b")
    stored.add("a")
    assert stored.ready("*") == [3, 2]


def test_a_paused_queue_lives_without_jobs() -> None:
    stored = Stored()
    stored.queues.pause("a")
    assert [*stored.queues.by_name] == ["a"]
    stored.add("a")
    stored.remove(0)
    assert stored.queues.is_paused("a")
    stored.queues.unpause("a")
    assert (stored.queues.by_name, stored.queues.is_paused("a")) == ({}, False)


def test_queues_that_have_died_leave_nothing() -> None:
    """Not even what would have looked at their delayed jobs in a year."""
    stored = Stored()
    for number in range(3 * SLACK):
        stored.add(f"queue {number}", priority=number % 10, not_before=EPOCH + 10**7 * SECOND)
        stored.move(number, RUNNING)
        stored.remove(number)
    assert stored.queues.by_name == {}
    assert [[*order] for order in stored.queues._orders.values()] == [[]] * len(CLAIMED)
    assert len(stored.queues._wakes) <= 2 + SLACK
    stored.add("queue 7", priority=3)
    level = stored.queues.level_of(stored.slots[-1].job)
    assert (level.queue.name, level.priority) == ("queue 7", 3)
    assert stored.ready("*") == [3 * SLACK]  # and nothing of the jobs before it


def test_names_of_queues_are_one_object() -> None:
    stored = Stored()
    for name in (b"default", None, b"ab", b"ab"):  # each as it is decoded from a frame
        stored.add(None if name is None else name.decode())
    first, second, third, fourth = (slot.job.queue for slot in stored.slots)
    assert first is second is DEFAULT_QUEUE
    assert third is fourth


# --- counts and bounds --------------------------------------------------------------------------


def test_the_oldest_job_entered_first_and_is_still_there() -> None:
    stored = Stored()
    stored.add("a", 3)
    queue = stored.queues.by_name["a"]

    def oldest(state: Claimed) -> int | None:
        since = queue.oldest(state)
        return None if since is None else int((since - EPOCH) / SECOND)

    assert (oldest(AWAITING_PAYMENT), oldest(RUNNING)) == (0, None)
    for second, number in enumerate((2, 0, 1), 1):
        stored.move(number, RUNNING, at=EPOCH + second * SECOND)
    assert (oldest(AWAITING_PAYMENT), oldest(RUNNING)) == (None, 1)
    stored.move(2, AWAITING_INPUT, at=EPOCH + 4 * SECOND)
    assert (oldest(RUNNING), oldest(AWAITING_INPUT)) == (2, 4)
    stored.move(2, RUNNING, at=EPOCH + 5 * SECOND)  # comes back as the last
    assert oldest(RUNNING) == 2
    stored.move(0, FAILED, at=EPOCH + 6 * SECOND)
    stored.move(1, FAILED, at=EPOCH + 7 * SECOND)
    assert (oldest(RUNNING), oldest(FAILED)) == (5, 6)
    assert {status: queue.counts[status] for status in JobStatus if queue.counts[status]} == {
        RUNNING: 1, FAILED: 2,
    }  # fmt: skip


def test_to_ask_for_the_oldest_makes_no_lines() -> None:
    """A count asks each of a thousand queues for every status."""
    stored = Stored()
    stored.add("a")
    queue = stored.queues.by_name["a"]
    oldest = [queue.oldest(state) for state in [*JobStatus, *SettlementState]]
    assert [each for each in oldest if each] == [EPOCH]
    assert [*queue._entered] == [AWAITING_PAYMENT]


@pytest.mark.parametrize("state", [SettlementState.WANTED, SettlementState.MANUAL])
def test_the_oldest_settlement_is_told(state: SettlementState) -> None:
    stored = Stored()
    stored.add("a", 3, settle=True)
    for number in range(3):
        stored.move(number, RUNNING, COMPLETED, at=EPOCH)
    queue = stored.queues.by_name["a"]
    assert queue.oldest(SettlementState.WANTED) == EPOCH
    for number in (1, 0):
        settled = Settlement(SettlementState.MANUAL, EPOCH + (9 - number) * SECOND)
        stored.jobs.set_settlement(stored.slots[number], settled, settled.updated_at)
    expected = {SettlementState.WANTED: EPOCH, SettlementState.MANUAL: EPOCH + 8 * SECOND}
    assert queue.oldest(state) == expected[state]
    assert queue.oldest(SettlementState.PENDING) is None
    assert queue.oldest(SettlementState.CONFIRMED) is None


def test_lines_stay_small_after_many_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "SLACK", 512)
    stored = Stored()
    stored.add("a", 3)
    stored.jobs.bar(stored.slots[0])  # from now on every job is looked at when it is offered
    stored.jobs.free(stored.slots[0], EPOCH)
    for number in range(3):
        stored.move(number, RUNNING)
    for turn in range(6_000):
        number = turn % 2  # the third stays, at the head of its lines
        stored.move(number, AWAITING_INPUT)
        stored.lease(number)
        stored.jobs.free(stored.slots[number], EPOCH)
        stored.move(number, RUNNING)
        stored.lease(number)
        stored.jobs.free(stored.slots[number], EPOCH)
    queue = stored.queues.by_name["a"]
    bound = 2 * 3 + 512 + 4 * CHECK_EVERY
    assert all(len(queue.entered(status)) <= bound for status in JobStatus)
    assert all(len(line) <= bound for some in queue.lines.values() for line in some)
    assert stored.ready("a", state=RUNNING) == [2, 0, 1]


def test_a_change_checks_a_bounded_number_of_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when all jobs of a large queue have moved on, and nothing is claimed."""
    monkeypatch.setattr(lines, "SLACK", 0)
    stored = Stored()
    stored.add("a", 4_000)
    stored.lease(0)
    queue = stored.queues.by_name["a"]
    sizes = []
    for number in range(1, 4_000):
        stored.move(number, FAILED)
        (line,) = queue.lines[AWAITING_PAYMENT]
        sizes.append((len(line), len(queue.entered(AWAITING_PAYMENT))))
    for before, after in pairwise(sizes):
        for was, now in zip(before, after, strict=True):
            assert was - now <= lines.CHECKS * (CHECK_EVERY + 1)
    assert sizes[-1][0] <= 2 + 2 * CHECK_EVERY
    assert sizes[-1][1] <= 2 + 2 * CHECK_EVERY


def test_the_order_of_service_can_be_set_again() -> None:
    stored, copy = Stored(), Stored()
    for queue in ("a", "b", "c"):
        stored.add(queue, 2)
    stored.serve("b")
    for queue in ("c", "b", "a"):
        copy.add(queue, 2)
    for state, never, served in stored.queues.orders():
        copy.queues.restore_order(state, never, served)
    assert copy.queues.orders() == stored.queues.orders()
    assert copy.ready("*") == [4, 5, 0, 1, 2, 3]


@pytest.mark.parametrize("state", CLAIMED)
def test_entries_that_are_gone_are_stale_by_any_check(state: Claimed) -> None:
    stored = Stored()
    stored.add()
    (slot,) = stored.slots
    level = stored.queues.level_of(slot.job)
    queue = level.queue
    for line in (level.line(state), queue.entered(state)):
        for status in line._gone:
            for version in range(4):  # 0: the job was removed
                slot.job.status, slot.job.version = status, version
                before = slot.entries
                assert not line.is_true(slot), status
                assert slot.entries == before, "its entries are counted"

"""The repository against a naive model, and what a run of moves leaves and refuses."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.core import EPOCH, HASH, job_ids
from tests.sizes import sample
from tollgate.broker.core.events import JobCreated, JobTransitioned, NewRest, Origin
from tollgate.broker.core.snapshot import JobRow
from tollgate.broker.repository import indexes, lines, queues
from tollgate.broker.repository.job import (
    ROUND_BYTES,
    ExtendedJob,
    PlainStoredJob,
    Slot,
    StandingLease,
)
from tollgate.broker.repository.job_repo import InMemoryJobRepository
from tollgate.broker.repository.lines import FIRST
from tollgate.broker.repository.listing import Wanted
from tollgate.broker.repository.queues import CLAIMED
from tollgate.domain.exceptions import (
    InvalidStateTransitionError,
    JobConflictError,
    JobNotFoundError,
    VersionConflictError,
)
from tollgate.domain.models import Job
from tollgate.domain.results import JobFields
from tollgate.domain.status import (
    AWAITING_INPUT,
    AWAITING_PAYMENT,
    COMPLETED,
    FAILED,
    LEGAL_TRANSITIONS,
    RUNNING,
    TERMINAL,
    JobStatus,
)


def made() -> InMemoryJobRepository:
    return InMemoryJobRepository(new_id=job_ids(), clock=lambda: EPOCH)


def test_each_illegal_move_of_a_run_is_refused() -> None:
    jobs = made()
    ids = [jobs.create(HASH).job_id for _ in range(4)]
    jobs.update_status(ids[1], RUNNING)
    done = jobs.update_all(
        [
            JobTransitioned(ids[0], 1, COMPLETED, EPOCH),
            JobTransitioned(ids[2], 1, COMPLETED, EPOCH),  # as the one before
            JobTransitioned(ids[1], 2, COMPLETED, EPOCH),
            JobTransitioned(ids[2], 1, COMPLETED, EPOCH),
            JobTransitioned(ids[3], 1, FAILED, EPOCH),
        ],
        Origin(EPOCH),
    )
    assert [slot.job.job_id for slot in done.slots] == [ids[1], ids[3]]
    assert [*done.refused] == [0, 1, 3]
    assert {type(refusal) for refusal in done.refused.values()} == {InvalidStateTransitionError}
    assert [jobs.require(job_id).job.version for job_id in ids] == [1, 3, 1, 2]
    assert {status: jobs.count(status) for status in JobStatus if jobs.count(status)} == {
        AWAITING_PAYMENT: 2, COMPLETED: 1, FAILED: 1,
    }  # fmt: skip


def test_a_run_of_moves_over_several_queues_counts_each() -> None:
    jobs = made()
    names = ["a", "a", "b", "a", "b", None]
    ids = [jobs.create(HASH, queue=name, priority=n % 2).job_id for n, name in enumerate(names)]
    moves = [JobTransitioned(job_id, 1, RUNNING, EPOCH) for job_id in ids]
    assert not jobs.update_all(moves, Origin(EPOCH)).refused
    counts = {name: queue.counts[RUNNING] for name, queue in jobs.queues.by_name.items()}
    assert counts == {"a": 3, "b": 2, "default": 1}
    taken = jobs.queues.take(RUNNING, ["*"], 9, EPOCH)
    assert [slot.index for slot in taken] == [0, 1, 3, 2, 4, 5]


def test_jobs_finish_in_order_with_and_without_settlement() -> None:
    orders = []
    for size in (1, 4):
        jobs = made()
        news = [JobCreated(str(n), EPOCH, HASH, rest=NewRest(settle=n % 2 == 0)) for n in range(4)]
        jobs.create_all(news)
        moves = [JobTransitioned(str(n), 1, FAILED, EPOCH) for n in range(4)]
        for start in range(0, 4, size):
            jobs.update_all(moves[start : start + size], Origin(EPOCH))
        orders.append(jobs.finished.order())
    assert orders == [[0, 1, 2, 3]] * 2


def test_two_jobs_of_one_payment_are_not_restored() -> None:
    jobs, copy = made(), made()
    first = jobs.create(HASH, blockchain_identifier="pay")
    copy.queues.level(None, 0)
    stored = jobs.require(first.job_id).job
    copy.restore(Slot(0, stored, FIRST), is_named=True)
    other = msgspec.structs.replace(stored, job_id="other")
    with pytest.raises(JobConflictError) as caught:
        copy.restore(Slot(1, other, FIRST), is_named=True)
    assert caught.value.job_id == first.job_id


def test_a_job_is_claimed_neither_under_a_lease_nor_on_hold() -> None:
    jobs = made()
    first, second, third = (jobs.require(jobs.create(HASH).job_id) for _ in range(3))

    def free() -> list[Slot]:
        taken = jobs.queues.take(AWAITING_PAYMENT, ["*"], 9, EPOCH)
        jobs.queues.put_back(AWAITING_PAYMENT, taken)
        return taken

    assert free() == free() == [first, second, third]  # looking takes nothing
    jobs.lease([first], [StandingLease(first, 1, 9, 9)], Origin(EPOCH))
    assert free() == [second, third]
    second.extend().on_hold = True
    jobs.bar(second)
    assert free() == [third]
    jobs.free(first, EPOCH)
    jobs.free(first, EPOCH)
    assert free() == [third, first]
    jobs.free(second, EPOCH)  # a lease ended; it is on hold all the same
    assert free() == [third, first]
    second.extend().on_hold = False
    jobs.free(second, EPOCH)
    assert free() == [third, first, second]


def test_a_job_that_is_freed_waits_for_its_time() -> None:
    jobs = made()
    slot = jobs.require(jobs.create(HASH).job_id)
    jobs.update_status(slot.job.job_id, RUNNING)
    (taken,) = jobs.queues.take(RUNNING, ["*"], 9, EPOCH)
    assert taken is slot
    jobs.lease([slot], [StandingLease(slot, 1, 9, 9)], Origin(EPOCH))
    due = slot.extend().not_before = EPOCH + timedelta(seconds=1)
    jobs.free(slot, EPOCH)
    assert jobs.queues.take(RUNNING, ["*"], 9, EPOCH) == []
    assert jobs.queues.take(RUNNING, ["*"], 9, due) == [slot]


def test_only_a_finished_job_is_removed() -> None:
    jobs = made()
    job_id = jobs.create(HASH).job_id
    with pytest.raises(JobConflictError):
        jobs.remove(job_id)
    with pytest.raises(JobNotFoundError):
        jobs.remove("nobody")
    jobs.update_status(job_id, FAILED)
    jobs.remove(job_id)
    assert (jobs.count(), jobs.stored, jobs.queues.by_name) == (0, 0, {})


def test_all_structs_of_a_job_have_the_same_fields() -> None:
    fields = tuple(Job.model_fields)
    assert fields == JobFields.__struct_fields__ == (*ExtendedJob.__struct_fields__, "lease")
    first = fields[: fields.index("queue")]  # the rest stands in a struct of its own
    assert PlainStoredJob.__struct_fields__ == (*first, "queue")
    assert JobRow.__struct_fields__[: len(first)] == first


def test_a_refused_job_brings_no_queue_to_life() -> None:
    jobs = made()
    jobs.create(HASH, blockchain_identifier="pay")
    news = [
        JobCreated(job_id, EPOCH, HASH, None, None, payment, rest=NewRest(queue))
        for job_id, payment, queue in [
            ("1", "pay", "a"), ("2", None, "b"), ("2", None, "c"), ("3", None, "a"),
            ("4", "pay", "d"), ("5", None, "b"), ("6", "pay", "a"),
        ]
    ]  # fmt: skip
    changes = jobs.create_all(news)
    assert [*changes.refused] == [0, 2, 4, 6]
    assert [*jobs.queues.by_name] == ["default", "b", "a"]
    assert jobs.queues.orders()[0][1] == ["default", "b", "a"]
    assert [queue.jobs for queue in jobs.queues.by_name.values()] == [1, 2, 1]


# --- against a naive model ----------------------------------------------------------------------


class Naive:
    """The jobs as lists that are searched from end to end."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.ready: dict[JobStatus, list[dict[str, Any]]] = {status: [] for status in JobStatus}
        """The jobs that may be claimed, in the order in which they became ready."""
        self.never: dict[JobStatus, list[str]] = {status: [] for status in JobStatus}
        self.served: dict[JobStatus, list[str]] = {status: [] for status in JobStatus}
        self.entries = 0

    def row(self, job_id: str) -> dict[str, Any] | None:
        return next((row for row in self.rows if row["job_id"] == job_id), None)

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        for status in JobStatus:
            if row["queue"] not in self.never[status] + self.served[status]:
                self.never[status].append(row["queue"])

    def enter(self, row: dict[str, Any], status: JobStatus) -> None:
        self.leave(row)
        self.entries += 1
        row.update(status=status, entered=self.entries, leased=False, version=row["version"] + 1)
        self.offer(row)

    def offer(self, row: dict[str, Any]) -> None:
        line = self.ready[row["status"]]
        if row not in line and not row["leased"] and not row["held"]:
            line.append(row)

    def leave(self, row: dict[str, Any]) -> None:
        if row.get("status") and row in self.ready[row["status"]]:
            self.ready[row["status"]].remove(row)

    def remove(self, row: dict[str, Any]) -> None:
        self.leave(row)
        self.rows.remove(row)
        if not any(each["queue"] == row["queue"] for each in self.rows):
            for order in (*self.never.values(), *self.served.values()):
                if row["queue"] in order:
                    order.remove(row["queue"])

    def serve(self, row: dict[str, Any]) -> None:
        never, served = self.never[row["status"]], self.served[row["status"]]
        (never if row["queue"] in never else served).remove(row["queue"])
        served.append(row["queue"])

    def claimable(self, status: JobStatus) -> list[str]:
        order = self.never[status] + self.served[status]
        rows = sorted(
            self.ready[status], key=lambda row: (order.index(row["queue"]), row["priority"])
        )
        return [row["job_id"] for row in rows]


class JobsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = EPOCH
        self.jobs = InMemoryJobRepository(new_id=job_ids(), clock=lambda: self.now)
        self.naive = Naive()

    def any_id(self, number: int) -> str:
        rows = self.naive.rows
        return rows[number % len(rows)]["job_id"] if rows else "nobody"

    @rule(seconds=st.integers(-5, 5))
    def set_clock(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(
        payment=st.none() | st.sampled_from("abc"),
        queue=st.sampled_from([None, None, "a", "b"]),
        priority=st.sampled_from([0, 0, 1]),
    )
    def create(self, payment: str | None, queue: str | None, priority: int) -> None:
        taken = payment is not None and any(r["payment"] == payment for r in self.naive.rows)
        fields: dict[str, Any] = {
            "blockchain_identifier": payment, "queue": queue, "priority": priority,
        }  # fmt: skip
        if taken:
            with pytest.raises(JobConflictError):
                self.jobs.create(HASH, **fields)
            return
        job = self.jobs.create(HASH, **fields)
        row = {
            "job_id": job.job_id, "payment": payment, "version": 0, "at": self.now,
            "queue": queue or "default", "priority": priority,
            "held": False, "leased": False, "rounds": 0,
        }  # fmt: skip
        self.naive.add(row)
        self.naive.enter(row, AWAITING_PAYMENT)

    @rule(
        number=st.integers(0, 99),
        to=st.sampled_from(JobStatus),
        version=st.none() | st.integers(1, 5),
    )
    def move(self, number: int, to: JobStatus, version: int | None) -> None:
        job_id = self.any_id(number)
        row = self.naive.row(job_id)
        wrong: type[Exception] | None = None
        if row is None:
            wrong = JobNotFoundError
        elif version not in (None, row["version"]):
            wrong = VersionConflictError
        elif to not in LEGAL_TRANSITIONS[row["status"]]:
            wrong = InvalidStateTransitionError
        if wrong is not None or row is None:
            with pytest.raises(wrong or Exception):
                self.jobs.update_status(job_id, to, expected_version=version)
            return
        job = self.jobs.update_status(job_id, to, expected_version=version)
        self.naive.enter(row, to)
        row["rounds"] += to is AWAITING_INPUT
        row["at"] = max(row["at"], self.now)
        assert (job.version, job.updated_at) == (row["version"], row["at"])

    @precondition(lambda self: self.naive.rows)
    @rule(number=st.integers(0, 99), what=st.sampled_from(["lease", "free", "hold", "resume"]))
    def bar_or_free(self, number: int, what: str) -> None:
        row = self.naive.row(self.any_id(number))
        assert row is not None
        if row["status"] in TERMINAL:
            return
        slot = self.jobs.require(row["job_id"])
        if what == "lease" and not row["leased"]:
            self.jobs.lease([slot], [StandingLease(slot, 1, 9, 9)], Origin(self.now))
            self.naive.leave(row)
            self.naive.serve(row)
            row["leased"] = True
        elif what == "free":
            self.jobs.free(slot, self.now)
            row["leased"] = False
            self.naive.offer(row)
        elif what == "hold":
            slot.extend().on_hold = row["held"] = True
            self.jobs.bar(slot)
            self.naive.leave(row)
        elif what == "resume":
            slot.extend().on_hold = row["held"] = False
            if slot.lease is None:
                self.jobs.free(slot, self.now)
            self.naive.offer(row)

    @precondition(lambda self: self.naive.rows)
    @rule(number=st.integers(0, 99))
    def remove(self, number: int) -> None:
        row = self.naive.row(self.any_id(number))
        assert row is not None
        if row["status"] in TERMINAL:
            self.jobs.remove(row["job_id"])
            self.naive.remove(row)
            with pytest.raises(JobNotFoundError):
                self.jobs.require(row["job_id"])
        else:
            with pytest.raises(JobConflictError):
                self.jobs.remove(row["job_id"])

    @invariant()
    def same(self) -> None:
        rows, stored = self.naive.rows, self.jobs.queues
        texts = sum(len(row["payment"] or "") + ROUND_BYTES * row["rounds"] for row in rows)
        assert self.jobs.texts.total_bytes == texts
        assert self.jobs.count() == len(rows)
        assert self.jobs.leased == sum(row["leased"] for row in rows)
        assert set(stored.by_name) == {row["queue"] for row in rows}
        for newest in (False, True):
            shown = self.jobs.page(Wanted(newest=newest), None, 1_000, 1_000).slots
            assert [(s.job.job_id, s.job.status, s.job.version) for s in shown] == [
                (r["job_id"], r["status"], r["version"]) for r in (rows[::-1] if newest else rows)
            ]
        for row in rows:
            assert self.jobs.require(row["job_id"]).job.status is row["status"]
            if row["payment"] is not None:
                paid = self.jobs.find_by_payment(row["payment"])
                assert paid is not None
                assert paid.job.job_id == row["job_id"]
        for status in JobStatus:
            there = [row for row in rows if row["status"] is status]
            assert self.jobs.count(status) == len(there)
            self.same_in_queues(status, there)
            listed = self.jobs.page(Wanted(status), None, 1_000, 1_000).slots
            assert [slot.job.job_id for slot in listed] == [row["job_id"] for row in there]
            if status in CLAIMED:
                taken = stored.take(status, ["*"], 1_000, self.now)
                assert [slot.job.job_id for slot in taken] == self.naive.claimable(status)
                stored.put_back(status, taken)

    def same_in_queues(self, status: JobStatus, there: list[dict[str, Any]]) -> None:
        for name, queue in self.jobs.queues.by_name.items():
            mine = [row for row in there if row["queue"] == name]
            assert queue.counts[status] == len(mine)
            first = min(mine, key=lambda row: row["entered"], default=None)
            assert queue.oldest(status) == (first and first["at"])


class SmallIndexMachine(JobsMachine):
    """The same with lines that are checked at each change, and blocks of two."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(lines, "SLACK", 0)
        self.patch.setattr(queues, "CHECK_EVERY", 1)
        self.patch.setattr(indexes, "BLOCK", 2)

    def teardown(self) -> None:
        self.patch.undo()


TestJobs = JobsMachine.TestCase
TestJobs.settings = settings(max_examples=sample(20, 60), stateful_step_count=40, deadline=None)
TestJobsChecked = SmallIndexMachine.TestCase
TestJobsChecked.settings = TestJobs.settings

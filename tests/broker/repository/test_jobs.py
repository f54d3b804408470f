"""The indexes of the repository: pages, statuses, texts; and all of them against a naive model."""

from datetime import timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.core import EPOCH, HASH, job_ids
from tests.sizes import sample
from tollgate.broker.core.events import JobTransitioned
from tollgate.broker.core.snapshot import JobRow
from tollgate.broker.repository import indexes
from tollgate.broker.repository.indexes import SLACK
from tollgate.broker.repository.job import StoredJob
from tollgate.broker.repository.job_repo import InMemoryJobRepository
from tollgate.domain.exceptions import (
    InvalidStateTransitionError,
    JobConflictError,
    JobNotFoundError,
    VersionConflictError,
)
from tollgate.domain.models import LEGAL_TRANSITIONS, Job, JobStatus
from tollgate.domain.results import JobFields

AWAITING_PAYMENT, AWAITING_INPUT, RUNNING, COMPLETED, FAILED = (
    JobStatus("awaiting_payment"),
    JobStatus("awaiting_input"),
    JobStatus("running"),
    JobStatus("completed"),
    JobStatus("failed"),
)


def made() -> InMemoryJobRepository:
    return InMemoryJobRepository(new_id=job_ids(), clock=lambda: EPOCH)


def test_each_illegal_move_of_a_run_is_refused() -> None:
    repository = jobs = made()
    ids = [repository.create(HASH).job_id for _ in range(4)]
    repository.update_status(ids[1], RUNNING)
    done = jobs.update_all(
        [
            JobTransitioned(ids[0], 1, COMPLETED, EPOCH),
            JobTransitioned(ids[2], 1, COMPLETED, EPOCH),  # as the one before
            JobTransitioned(ids[1], 2, COMPLETED, EPOCH),
            JobTransitioned(ids[2], 1, COMPLETED, EPOCH),
            JobTransitioned(ids[3], 1, FAILED, EPOCH),
        ]
    )
    assert [job.job_id for job in done.jobs] == [ids[1], ids[3]]
    assert [*done.refused] == [0, 1, 3]
    assert {type(refusal) for refusal in done.refused.values()} == {InvalidStateTransitionError}
    assert [jobs.require(job_id).version for job_id in ids] == [1, 3, 1, 2]
    assert {status: jobs.count(status) for status in JobStatus if jobs.count(status)} == {
        AWAITING_PAYMENT: 2, COMPLETED: 1, FAILED: 1,
    }  # fmt: skip


def test_two_jobs_of_one_payment_are_not_restored() -> None:
    repository = jobs = made()
    first = repository.create(HASH, blockchain_identifier="pay")
    copy = made()
    other = made().create(HASH, job_id="other", blockchain_identifier="pay")
    slots = [*jobs.slots(), (1, StoredJob(**other.model_dump()))]
    with pytest.raises(JobConflictError) as caught:
        copy.restore(slots, [], [first.job_id, "other"])
    assert caught.value.job_id == first.job_id


def test_pages_show_each_matching_job_once() -> None:
    random = Random(1)
    repository = jobs = made()
    steady = [repository.create(HASH).job_id for _ in range(60)]
    restless = [repository.create(HASH).job_id for _ in range(60)]
    after, seen, pages = -1, [], 0
    while True:
        page, cursors = jobs.creation.page(after, 5, AWAITING_PAYMENT, scan_max=7)
        assert len(page) <= 5
        assert len(cursors) in (len(page), len(page) + 1)
        seen += [job.job_id for job in page]
        pages += 1
        if restless:
            repository.update_status(restless.pop(random.randrange(len(restless))), FAILED)
        repository.create(HASH)
        if len(cursors) == len(page) or pages > 200:
            break
        after = cursors[-1]
        if pages == 100:
            break
    assert len(seen) == len(set(seen))
    assert set(steady) <= set(seen)


def test_a_page_may_be_short_or_empty_and_still_go_on() -> None:
    repository = jobs = made()
    ids = [repository.create(HASH).job_id for _ in range(7)]
    repository.update_status(ids[6], FAILED)
    assert jobs.creation.page(-1, 9, FAILED, scan_max=3) == ([], [2])
    assert jobs.creation.page(2, 9, FAILED, scan_max=3) == ([], [5])
    assert jobs.creation.scanned == 6
    page, cursors = jobs.creation.page(5, 9, FAILED, scan_max=3)
    assert ([job.job_id for job in page], cursors) == ([ids[6]], [6])
    assert jobs.creation.page(6, 9, FAILED) == ([], [])
    assert jobs.creation.page(10**14, 9) == ([], [])
    assert made().creation.page(-1, 9) == ([], [])


def test_every_job_of_a_page_has_its_cursor() -> None:
    repository = jobs = made()
    ids = [repository.create(HASH).job_id for _ in range(6)]
    page, cursors = jobs.creation.page(-1, 4)
    assert [job.job_id for job in page] == ids[:4]
    for place, cursor in enumerate(cursors[:4]):
        rest, _ = jobs.creation.page(cursor, 9)
        assert [job.job_id for job in rest] == ids[place + 1 :]
    assert len(cursors) == 5
    page, cursors = jobs.creation.page(cursors[-1], 2)
    assert ([job.job_id for job in page], len(cursors)) == (ids[4:], 2)  # nothing behind it


def test_the_first_ready_job_is_the_one_created_first() -> None:
    repository = jobs = made()
    first, second, third = (repository.create(HASH).job_id for _ in range(3))

    def free(status: JobStatus = AWAITING_PAYMENT) -> str | None:
        job = jobs.statuses.first_ready(status)
        return None if job is None else job.job_id

    assert free() == first
    assert free() == first  # looking takes nothing
    jobs.lease(first)
    assert free() == second
    jobs.lease(second)
    jobs.free(first)
    jobs.free(first)
    assert free() == first
    repository.update_status(third, RUNNING)
    repository.update_status(first, RUNNING)
    assert free() is None
    assert free(RUNNING) == first  # by creation, not by entry
    jobs.lease(first)
    repository.update_status(first, AWAITING_INPUT)  # a change of status frees
    assert free(AWAITING_INPUT) == first
    repository.update_status(first, RUNNING)
    assert free(RUNNING) == first
    repository.update_status(first, COMPLETED)
    assert free(RUNNING) == third


def test_a_taken_job_is_gone_until_put_back_or_freed() -> None:
    repository = jobs = made()
    ids = [repository.create(HASH).job_id for _ in range(5)]
    jobs.lease(ids[1])
    jobs.lease(ids[0])
    jobs.free(ids[0])  # so it is offered twice
    taken = jobs.statuses.take_ready(AWAITING_PAYMENT, 3)
    assert [job.job_id for _, job in taken] == [ids[0], ids[2], ids[3]]
    jobs.statuses.put_back(taken[1:])
    jobs.lease(ids[0])
    assert [job.job_id for _, job in jobs.statuses.take_ready(AWAITING_PAYMENT, 9)] == ids[2:]
    assert jobs.statuses.take_ready(AWAITING_PAYMENT, 9) == []
    jobs.free(ids[0])
    assert [job.job_id for _, job in jobs.statuses.take_ready(AWAITING_PAYMENT, 9)] == ids[:1]


def test_an_unknown_job_is_neither_leased_nor_freed() -> None:
    for method in (made().lease, made().free):
        with pytest.raises(JobNotFoundError):
            method("nobody")


def test_the_oldest_job_entered_first_and_is_still_there() -> None:
    repository = jobs = made()
    a, b, c = (repository.create(HASH).job_id for _ in range(3))

    def oldest(status: JobStatus) -> str | None:
        job = jobs.statuses.oldest(status)
        return None if job is None else job.job_id

    assert oldest(AWAITING_PAYMENT) == a
    for job_id in (c, a, b):
        repository.update_status(job_id, RUNNING)
    assert oldest(AWAITING_PAYMENT) is None
    assert oldest(RUNNING) == c
    repository.update_status(c, AWAITING_INPUT)
    assert oldest(RUNNING) == a
    repository.update_status(c, RUNNING)  # comes back as the last
    assert oldest(RUNNING) == a
    repository.update_status(a, FAILED)
    repository.update_status(b, FAILED)
    assert oldest(RUNNING) == c
    assert oldest(FAILED) == a


@pytest.mark.slow
def test_indexes_stay_small_after_many_moves() -> None:
    repository = jobs = made()
    live = [repository.create(HASH).job_id for _ in range(3)]
    for job_id in live:
        repository.update_status(job_id, RUNNING)
    for turn in range(sample(3 * SLACK, 60_000)):
        job_id = live[turn % 3]
        repository.update_status(job_id, AWAITING_INPUT)
        jobs.lease(job_id)
        jobs.free(job_id)
        repository.update_status(job_id, RUNNING)
        jobs.lease(job_id)
        jobs.free(job_id)
    bound = 2 * len(live) + SLACK
    assert all(len(queue.entered) <= bound for queue in jobs.statuses._by_status.values())
    assert all(len(queue.ready) <= bound for queue in jobs.statuses._by_status.values())
    assert len(jobs.creation._slots) == jobs.count() == 3
    assert {job.job_id for job in jobs.creation.page(-1, 9)[0]} == set(live)
    first = jobs.statuses.first_ready(RUNNING)
    assert first is not None
    assert first.job_id == live[0]


def test_places_of_removed_jobs_are_dropped_and_not_reused() -> None:
    repository = jobs = made()
    first = repository.create(HASH).job_id
    for _ in range(2 * SLACK):
        job_id = repository.create(HASH).job_id
        repository.update_status(job_id, FAILED)
        jobs.remove(job_id)
        assert len(jobs.creation._slots) <= 2 + SLACK
    last = repository.create(HASH).job_id
    page, cursors = jobs.creation.page(-1, 9)
    assert [job.job_id for job in page] == [first, last]
    assert cursors == [0, 2 * SLACK + 1]


def test_text_totals_are_those_of_the_stored_jobs() -> None:
    repository = jobs = made()

    def counted() -> int:
        texts = ("input", "result", "error", "input_schema", "provided_input",
                 "identifier_from_purchaser")  # fmt: skip
        return sum(
            len((getattr(job, text) or "").encode())
            for job in jobs.creation.page(-1, 9)[0]
            for text in texts
        )

    one = repository.create(HASH, input="ä", identifier_from_purchaser="abc").job_id
    assert jobs.texts.total_bytes == counted() == 5
    repository.update_status(one, RUNNING)
    repository.update_status(one, AWAITING_INPUT, input_schema="schema")
    assert jobs.texts.total_bytes == counted() == 11
    repository.update_status(one, RUNNING, provided_input="given")
    assert jobs.texts.total_bytes == counted() == 16
    repository.update_status(one, AWAITING_INPUT, input_schema="ß")
    assert jobs.texts.total_bytes == counted() == 7
    repository.update_status(one, RUNNING, "r" * 10)
    repository.update_status(one, FAILED, error="e" * 20)
    assert jobs.texts.total_bytes == counted() == 27
    named = repository.create(HASH, blockchain_identifier="pay").job_id
    assert jobs.texts.total_bytes == 30
    copy = made()
    copy.restore(list(jobs.slots()), [], [named])
    assert copy.texts.total_bytes == 30
    assert copy.texts.longest_bytes >= jobs.texts.longest_bytes == 20
    jobs.remove(one)
    assert jobs.texts.total_bytes == 3


def test_all_structs_of_a_job_have_the_same_fields() -> None:
    fields = tuple(Job.model_fields)
    assert fields == StoredJob.__struct_fields__
    assert fields == JobFields.__struct_fields__
    assert (*fields, "index", "leased") == JobRow.__struct_fields__


# --- against a naive model ----------------------------------------------------------------------


class Naive:
    """The jobs as lists that are searched from end to end."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.entries = 0

    def row(self, job_id: str) -> dict[str, Any] | None:
        return next((row for row in self.rows if row["job_id"] == job_id), None)

    def enter(self, row: dict[str, Any], status: JobStatus) -> None:
        self.entries += 1
        row.update(status=status, entered=self.entries, held=False, version=row["version"] + 1)

    def in_status(self, status: JobStatus) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["status"] is status]


class JobsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = EPOCH
        self.repository = InMemoryJobRepository(new_id=job_ids(), clock=lambda: self.now)
        self.jobs = self.repository
        self.naive = Naive()

    def any_id(self, number: int) -> str:
        rows = self.naive.rows
        return rows[number % len(rows)]["job_id"] if rows else "nobody"

    @rule(seconds=st.integers(-5, 5))
    def set_clock(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(payment=st.none() | st.sampled_from("abc"))
    def create(self, payment: str | None) -> None:
        taken = payment is not None and any(r["payment"] == payment for r in self.naive.rows)
        if taken:
            with pytest.raises(JobConflictError):
                self.repository.create(HASH, blockchain_identifier=payment)
            return
        job = self.repository.create(HASH, blockchain_identifier=payment)
        row = {"job_id": job.job_id, "payment": payment, "version": 0, "at": self.now}
        self.naive.rows.append(row)
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
                self.repository.update_status(job_id, to, expected_version=version)
            return
        job = self.repository.update_status(job_id, to, expected_version=version)
        self.naive.enter(row, to)
        row["at"] = max(row["at"], self.now)
        assert (job.version, job.updated_at) == (row["version"], row["at"])

    @precondition(lambda self: self.naive.rows)
    @rule(number=st.integers(0, 99), held=st.booleans())
    def hold_or_free(self, number: int, held: bool) -> None:
        row = self.naive.row(self.any_id(number))
        assert row is not None
        if row["status"] in (COMPLETED, FAILED):
            return
        (self.jobs.lease if held else self.jobs.free)(row["job_id"])
        row["held"] = held

    @precondition(lambda self: self.naive.rows)
    @rule(number=st.integers(0, 99))
    def remove(self, number: int) -> None:
        row = self.naive.row(self.any_id(number))
        assert row is not None
        if row["status"] in (COMPLETED, FAILED):
            self.jobs.remove(row["job_id"])
            self.naive.rows.remove(row)
            with pytest.raises(JobNotFoundError):
                self.jobs.require(row["job_id"])
        else:
            with pytest.raises(JobConflictError):
                self.jobs.remove(row["job_id"])

    @invariant()
    def same(self) -> None:
        rows = self.naive.rows
        assert self.jobs.texts.total_bytes == sum(len(row["payment"] or "") for row in rows)
        assert self.jobs.count() == len(rows)
        page, _ = self.jobs.creation.page(-1, 1_000)
        assert [(j.job_id, j.status, j.version) for j in page] == [
            (r["job_id"], r["status"], r["version"]) for r in rows
        ]
        for row in rows:
            assert self.jobs.require(row["job_id"]).status is row["status"]
            if row["payment"] is not None:
                paid = self.jobs.find_by_payment(row["payment"])
                assert paid is not None
                assert paid.job_id == row["job_id"]
        for status in JobStatus:
            there = self.naive.in_status(status)
            assert self.jobs.count(status) == len(there)
            oldest = self.jobs.statuses.oldest(status)
            expected = min(there, key=lambda row: row["entered"], default=None)
            assert (oldest and oldest.job_id) == (expected and expected["job_id"])
            if status in (COMPLETED, FAILED):
                continue
            free = self.jobs.statuses.first_ready(status)
            first = next((row for row in there if not row["held"]), None)
            assert (free and free.job_id) == (first and first["job_id"])


class SmallIndexMachine(JobsMachine):
    """The same with indexes that are swept often, and pages that end early."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(indexes, "SLACK", 0)

    def teardown(self) -> None:
        self.patch.undo()


TestJobs = JobsMachine.TestCase
TestJobs.settings = settings(max_examples=sample(20, 60), stateful_step_count=40)
TestJobsSwept = SmallIndexMachine.TestCase
TestJobsSwept.settings = settings(
    max_examples=sample(20, 60), stateful_step_count=40, deadline=None
)

"""The repository: what its plan promises, a hundred threads, and its indexes by a naive model."""

import inspect
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from broker import lane, repository
from broker.events import JobCreated, JobTransitioned
from broker.image import JobRow
from broker.lane import SLACK
from broker.repository import InMemoryJobRepository
from broker.stored import StoredJob
from domain.exceptions import (
    InvalidStateTransitionError,
    JobConflictError,
    JobNotFoundError,
    VersionConflictError,
)
from domain.models import LEGAL_TRANSITIONS, Job, JobStatus
from domain.results import JobFields
from tests.core import EPOCH, HASH, job_ids

AWAITING_PAYMENT, AWAITING_INPUT, RUNNING, COMPLETED, FAILED = (
    JobStatus("awaiting_payment"),
    JobStatus("awaiting_input"),
    JobStatus("running"),
    JobStatus("completed"),
    JobStatus("failed"),
)
THREADS = 100


def fixed(start: datetime = EPOCH) -> InMemoryJobRepository[Job]:
    return InMemoryJobRepository(new_id=job_ids(), clock=lambda: start)


# --- the plan -----------------------------------------------------------------------------------


def test_the_plans_signatures() -> None:
    def names(method: Callable[..., object]) -> list[str]:
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
        parameters = inspect.signature(method).parameters.values()
        return [parameter.name for parameter in parameters if parameter.kind in kinds]

    assert names(InMemoryJobRepository.create) == ["self", "input_hash"]
    assert names(InMemoryJobRepository.get) == ["self", "job_id"]
    assert names(InMemoryJobRepository.update_status) == [
        "self", "job_id", "target", "result", "error",
    ]  # fmt: skip
    assert not [p for p in inspect.signature(InMemoryJobRepository).parameters.values()
                if p.kind is not inspect.Parameter.KEYWORD_ONLY]  # fmt: skip


def test_create_positionally_and_by_name() -> None:
    jobs = InMemoryJobRepository()
    before = datetime.now(UTC)
    for job in (jobs.create(HASH), jobs.create(input_hash=HASH)):
        assert type(job) is Job
        assert job.status is AWAITING_PAYMENT
        assert job.input_hash == HASH
        assert job.blockchain_identifier == "mock_bc_" + job.job_id[:8]
        assert uuid.UUID(job.job_id).version == 4
        assert str(uuid.UUID(job.job_id)) == job.job_id
        assert before <= job.created_at == job.updated_at <= datetime.now(UTC)
        assert job.created_at.utcoffset() == timedelta(0)
        assert (job.version, job.result, job.error) == (1, None, None)
        assert jobs.get(job.job_id) == job
        assert jobs.get(job_id=job.job_id) == job
    assert jobs.count() == 2


def test_update_status_positionally_and_by_name() -> None:
    jobs = InMemoryJobRepository()
    job = jobs.create(HASH)
    running = jobs.update_status(job.job_id, RUNNING)
    assert (running.status, running.version) == (RUNNING, 2)
    assert running.created_at == job.created_at <= running.updated_at
    done = jobs.update_status(job_id=job.job_id, target=COMPLETED, result="r", error="e")
    assert (done.status, done.result, done.error, done.version) == (COMPLETED, "r", "e", 3)
    other = jobs.create(HASH)
    failed = jobs.update_status(other.job_id, FAILED, "r", "e")
    assert (failed.result, failed.error) == ("r", "e")
    assert jobs.get(other.job_id) == failed


def test_a_job_shown_once_stays_as_it_was() -> None:
    jobs = fixed()
    job = jobs.create(HASH)
    shown = jobs.get(job.job_id)
    jobs.update_status(job.job_id, RUNNING, result="r")
    assert job == shown
    assert (shown.status, shown.result, shown.version) == (AWAITING_PAYMENT, None, 1)


@pytest.mark.parametrize("call", ["get", "update_status"])
def test_what_is_not_there_is_not_found(call: str) -> None:
    jobs = InMemoryJobRepository()
    jobs.create(HASH)
    arguments = (RUNNING,) if call == "update_status" else ()
    with pytest.raises(JobNotFoundError) as caught:
        getattr(jobs, call)("nonexistent", *arguments)
    assert caught.value.job_id == "nonexistent"
    assert jobs.find("nonexistent") is None


PATHS = {
    AWAITING_PAYMENT: [],
    RUNNING: [RUNNING],
    AWAITING_INPUT: [RUNNING, AWAITING_INPUT],
    COMPLETED: [RUNNING, COMPLETED],
    FAILED: [FAILED],
}


@pytest.mark.parametrize("target", JobStatus)
@pytest.mark.parametrize("current", JobStatus)
def test_nobody_gets_past_the_state_machine(current: JobStatus, target: JobStatus) -> None:
    jobs = fixed()
    job = jobs.create(HASH)
    for step in PATHS[current]:
        job = jobs.update_status(job.job_id, step)
    if target in LEGAL_TRANSITIONS[current]:
        assert jobs.update_status(job.job_id, target).status is target
        assert (jobs.count(current), jobs.count(target)) == (0, 1)
        return
    with pytest.raises(InvalidStateTransitionError):
        jobs.update_status(job.job_id, target, result="r", error="e")
    assert jobs.get(job.job_id) == job
    assert jobs.count(current) == 1


def test_only_the_expected_version_moves() -> None:
    jobs = fixed()
    job = jobs.create(HASH)
    for wrong in (0, 2, 99):
        with pytest.raises(VersionConflictError) as caught:
            jobs.update_status(job.job_id, RUNNING, expected_version=wrong)
        refusal = caught.value
        assert (refusal.status, refusal.version) == ("awaiting_payment", 1)
        assert refusal.job_id == job.job_id
    with pytest.raises(VersionConflictError):  # comes before what is legal
        jobs.update_status(job.job_id, COMPLETED, expected_version=2)
    assert jobs.get(job.job_id) == job
    assert jobs.update_status(job.job_id, RUNNING, expected_version=1).version == 2


def test_updated_at_never_goes_back() -> None:
    times = iter([EPOCH, EPOCH - timedelta(hours=1), EPOCH + timedelta(seconds=1), EPOCH])
    jobs = InMemoryJobRepository(clock=lambda: next(times))
    job = jobs.create(HASH)
    seen = [jobs.update_status(job.job_id, s).updated_at for s in (RUNNING, AWAITING_INPUT, FAILED)]
    assert seen == [EPOCH, EPOCH + timedelta(seconds=1), EPOCH + timedelta(seconds=1)]
    other = fixed()
    job = other.create(HASH, at=EPOCH)
    moved = other.update_status(job.job_id, FAILED, at=EPOCH - timedelta(days=1))
    assert (moved.updated_at, moved.created_at) == (EPOCH, EPOCH)


def test_what_is_supplied_is_kept() -> None:
    jobs = InMemoryJobRepository()
    supplied: dict[str, Any] = {
        "job_id": str(uuid.UUID(int=5)),
        "input": "{}",
        "identifier_from_purchaser": "aa",
        "blockchain_identifier": "pay",
        "pay_by_time": EPOCH,
        "submit_result_time": EPOCH + timedelta(days=1),
    }
    job = jobs.create(HASH, at=EPOCH, **supplied)
    assert {name: getattr(job, name) for name in supplied} == supplied
    assert job.created_at == job.updated_at == EPOCH
    assert jobs.get_by_payment("pay") == job


def test_questions_and_answers_of_a_job() -> None:
    jobs = fixed()
    job_id = jobs.create(HASH).job_id
    jobs.update_status(job_id, RUNNING)
    for round_ in ("1", "2"):
        asked = jobs.update_status(job_id, AWAITING_INPUT, input_schema="which " + round_)
        assert (asked.input_schema, asked.provided_input) == ("which " + round_, None)
        answered = jobs.update_status(job_id, RUNNING, provided_input="this " + round_)
        assert (answered.input_schema, answered.provided_input) == (
            "which " + round_,
            "this " + round_,
        )
    done = jobs.update_status(job_id, COMPLETED, "r")
    assert (done.input_schema, done.provided_input) == ("which 2", "this 2")


def test_an_id_and_a_payment_belong_to_one_job() -> None:
    jobs = fixed()
    first = jobs.create(HASH, blockchain_identifier="pay")
    with pytest.raises(JobConflictError):
        jobs.create(HASH, job_id=first.job_id)
    with pytest.raises(JobConflictError) as caught:
        jobs.create(HASH, blockchain_identifier="pay")
    assert caught.value.job_id == first.job_id
    with pytest.raises(JobConflictError):  # and a refused creation claims no payment
        jobs.create(HASH, job_id=first.job_id, blockchain_identifier="other")
    with pytest.raises(JobNotFoundError):
        jobs.get_by_payment("other")
    assert jobs.count() == 1
    assert jobs.get_by_payment("pay") == first
    assert jobs.create(HASH, blockchain_identifier="other").blockchain_identifier == "other"


# --- a hundred threads --------------------------------------------------------------------------


@pytest.fixture
def crowd() -> Iterator[Callable[[Callable[[int], Any]], list[Any]]]:
    """Call a function by a hundred threads at once, and return what each got."""
    patience_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so that threads meet in the middle of things
    with ThreadPoolExecutor(THREADS) as pool:

        def call(work: Callable[[int], Any]) -> list[Any]:
            gate = threading.Barrier(THREADS)

            def one(number: int) -> Any:
                gate.wait(timeout=30)
                return work(number)

            return [future.result() for future in [pool.submit(one, n) for n in range(THREADS)]]

        yield call
    sys.setswitchinterval(patience_s)


class WatchedLock:
    """A lock that knows whether it is held, and how often it was taken."""

    def __init__(self) -> None:
        self.held = False
        self.taken = 0

    def __enter__(self) -> None:
        assert not self.held
        self.held = True
        self.taken += 1

    def __exit__(self, *_: object) -> None:
        self.held = False


class GuardedStore(dict[str, Any]):
    """A store that may be touched by whoever holds the lock, and by nobody else."""

    lock: WatchedLock

    def _guarded(name: str) -> Any:  # type: ignore[misc]  # noqa: N805 - makes methods
        def method(self: Any, *arguments: Any) -> Any:
            assert self.lock.held, name
            return getattr(dict, name)(self, *arguments)

        return method

    __getitem__ = _guarded("__getitem__")
    __setitem__ = _guarded("__setitem__")
    __delitem__ = _guarded("__delitem__")
    __contains__ = _guarded("__contains__")
    __len__ = _guarded("__len__")
    __iter__ = _guarded("__iter__")
    get = _guarded("get")
    pop = _guarded("pop")
    setdefault = _guarded("setdefault")
    values = _guarded("values")
    items = _guarded("items")


def test_every_public_call_holds_the_one_lock_once() -> None:
    jobs = fixed()
    lock, store = WatchedLock(), GuardedStore()
    store.lock = lock
    jobs._lock, jobs._store = lock, store  # type: ignore[assignment]
    job_id = jobs.create(HASH, blockchain_identifier="pay").job_id
    calls: list[Callable[[], object]] = [
        lambda: jobs.create(HASH),
        lambda: jobs.get(job_id),
        lambda: jobs.find(job_id),
        lambda: jobs.get_by_payment("pay"),
        jobs.count,
        lambda: jobs.count(RUNNING),
        lambda: jobs.oldest(AWAITING_PAYMENT),
        lambda: jobs.page(-1, 9),
        lambda: jobs.first_free(AWAITING_PAYMENT),
        lambda: jobs.take_free(RUNNING, 1),
        lambda: jobs.put_back([]),
        lambda: jobs.find_all([job_id]),
        lambda: jobs.create_all([JobCreated(job_id, EPOCH, HASH)]),
        lambda: jobs.update_all([JobTransitioned(job_id, 9, RUNNING, EPOCH)]),
        lambda: jobs.hold(job_id),
        lambda: jobs.free(job_id),
        lambda: jobs.update_status(job_id, RUNNING, expected_version=1),
        lambda: jobs.update_status(job_id, FAILED),
    ]
    for call in calls:
        before = lock.taken
        call()
        assert lock.taken == before + 1
        assert not lock.held


def test_a_hundred_threads_create_and_lose_nothing(crowd: Any) -> None:
    jobs = InMemoryJobRepository()
    made = crowd(lambda _: [jobs.create(HASH).job_id for _ in range(50)])
    ids = {job_id for some in made for job_id in some}
    assert len(ids) == jobs.count() == jobs.count(AWAITING_PAYMENT) == 50 * THREADS
    assert all(jobs.get(job_id).job_id == job_id for job_id in ids)
    seen, _ = jobs.page(-1, 10_000)
    assert {job.job_id for job in seen} == ids


def test_of_a_hundred_racing_transitions_exactly_one_wins(crowd: Any) -> None:
    jobs = InMemoryJobRepository()
    for _ in range(20):
        job_id = jobs.create(HASH).job_id

        def start(number: int, job_id: str = job_id) -> str:
            try:
                return jobs.update_status(job_id, RUNNING, f"by {number}").result or ""
            except InvalidStateTransitionError:
                return ""

        winners = [result for result in crowd(start) if result]
        job = jobs.get(job_id)
        assert winners == [job.result]
        assert job.version == 2
    assert jobs.count(RUNNING) == jobs.count() == 20


def test_of_a_hundred_at_the_same_version_exactly_one_wins(crowd: Any) -> None:
    jobs = InMemoryJobRepository()
    job_id = jobs.create(HASH).job_id
    jobs.update_status(job_id, RUNNING)

    def step(number: int) -> bool:
        version = jobs.get(job_id).version
        target = AWAITING_INPUT if jobs.get(job_id).status is RUNNING else RUNNING
        try:
            jobs.update_status(job_id, target, expected_version=version)
        except (VersionConflictError, InvalidStateTransitionError):
            return False
        return True

    won = sum(sum(crowd(step)) for _ in range(5))
    assert jobs.get(job_id).version == 2 + won


def test_a_hundred_threads_take_the_same_payment_and_one_gets_it(crowd: Any) -> None:
    jobs = InMemoryJobRepository()

    def pay(number: int) -> str | None:
        try:
            return jobs.create(HASH, blockchain_identifier="pay").job_id
        except JobConflictError:
            return None

    assert [job_id for job_id in crowd(pay) if job_id] == [jobs.get_by_payment("pay").job_id]
    assert jobs.count() == 1


def test_a_hundred_threads_do_everything_at_once(crowd: Any) -> None:
    jobs = InMemoryJobRepository()

    def live(number: int) -> Counter[str]:
        done: Counter[str] = Counter()
        random = Random(number)
        for _ in range(20):
            job = jobs.create(HASH)
            assert jobs.get(job.job_id).version == 1
            jobs.update_status(job.job_id, RUNNING)
            target = random.choice([COMPLETED, FAILED, AWAITING_INPUT])
            assert jobs.update_status(job.job_id, target).version == 3
            done[target] += 1
            assert 0 <= jobs.count(target) <= jobs.count() <= 20 * THREADS
            jobs.page(-1, 5)
            jobs.oldest(target)
            jobs.first_free(AWAITING_INPUT)
        return done

    total = sum(crowd(live), Counter[str]())
    assert {status.value: jobs.count(status) for status in JobStatus if jobs.count(status)} == total
    assert sum(total.values()) == jobs.count() == 20 * THREADS


# --- indexes ------------------------------------------------------------------------------------


def test_pages_show_each_job_that_matches_throughout_once() -> None:
    random = Random(1)
    jobs = fixed()
    steady = [jobs.create(HASH).job_id for _ in range(60)]
    restless = [jobs.create(HASH).job_id for _ in range(60)]
    after, seen, pages = -1, [], 0
    while True:
        page, cursors = jobs.page(after, 5, AWAITING_PAYMENT, scan_max=7)
        assert len(page) <= 5
        assert len(cursors) in (len(page), len(page) + 1)
        seen += [job.job_id for job in page]
        pages += 1
        if restless:
            jobs.update_status(restless.pop(random.randrange(len(restless))), FAILED)
        jobs.create(HASH)
        if len(cursors) == len(page) or pages > 200:
            break
        after = cursors[-1]
        if pages == 100:
            break
    assert len(seen) == len(set(seen))
    assert set(steady) <= set(seen)


def test_a_page_may_be_short_or_empty_and_still_go_on() -> None:
    jobs = fixed()
    ids = [jobs.create(HASH).job_id for _ in range(7)]
    jobs.update_status(ids[6], FAILED)
    assert jobs.page(-1, 9, FAILED, scan_max=3) == ([], [2])
    assert jobs.page(2, 9, FAILED, scan_max=3) == ([], [5])
    assert jobs.scanned == 6
    page, cursors = jobs.page(5, 9, FAILED, scan_max=3)
    assert ([job.job_id for job in page], cursors) == ([ids[6]], [6])
    assert jobs.page(6, 9, FAILED) == ([], [])
    assert jobs.page(10**14, 9) == ([], [])
    assert fixed().page(-1, 9) == ([], [])


def test_every_job_of_a_page_has_its_cursor() -> None:
    jobs = fixed()
    ids = [jobs.create(HASH).job_id for _ in range(6)]
    page, cursors = jobs.page(-1, 4)
    assert [job.job_id for job in page] == ids[:4]
    for place, cursor in enumerate(cursors[:4]):
        rest, _ = jobs.page(cursor, 9)
        assert [job.job_id for job in rest] == ids[place + 1 :]
    assert len(cursors) == 5
    page, cursors = jobs.page(cursors[-1], 2)
    assert ([job.job_id for job in page], len(cursors)) == (ids[4:], 2)  # nothing behind it


def test_the_first_free_job_is_the_one_created_first() -> None:
    jobs = fixed()
    first, second, third = (jobs.create(HASH).job_id for _ in range(3))

    def free(status: JobStatus = AWAITING_PAYMENT) -> str | None:
        job = jobs.first_free(status)
        return None if job is None else job.job_id

    assert free() == first
    assert free() == first  # looking takes nothing
    jobs.hold(first)
    assert free() == second
    jobs.hold(second)
    jobs.free(first)
    jobs.free(first)
    assert free() == first
    jobs.update_status(third, RUNNING)
    jobs.update_status(first, RUNNING)
    assert free() is None
    assert free(RUNNING) == first  # by creation, not by entry
    jobs.hold(first)
    jobs.update_status(first, AWAITING_INPUT)  # a change of status frees
    assert free(AWAITING_INPUT) == first
    jobs.update_status(first, RUNNING)
    assert free(RUNNING) == first
    jobs.update_status(first, COMPLETED)
    assert free(RUNNING) == third


def test_what_is_taken_is_gone_until_it_is_put_back_or_freed() -> None:
    jobs = InMemoryJobRepository(as_stored=True)
    ids = [jobs.create(HASH).job_id for _ in range(5)]
    jobs.hold(ids[1])
    jobs.hold(ids[0])
    jobs.free(ids[0])  # so it is offered twice
    taken = jobs.take_free(AWAITING_PAYMENT, 3)
    assert [job.job_id for _, job in taken] == [ids[0], ids[2], ids[3]]
    jobs.put_back(taken[1:])
    jobs.hold(ids[0])
    assert [job.job_id for _, job in jobs.take_free(AWAITING_PAYMENT, 9)] == ids[2:]
    assert jobs.take_free(AWAITING_PAYMENT, 9) == []
    jobs.free(ids[0])
    assert [job.job_id for _, job in jobs.take_free(AWAITING_PAYMENT, 9)] == ids[:1]


def test_what_is_not_there_is_neither_held_nor_freed() -> None:
    for method in (fixed().hold, fixed().free):
        with pytest.raises(JobNotFoundError):
            method("nobody")


def test_the_oldest_is_the_first_that_entered_and_is_still_there() -> None:
    jobs = fixed()
    a, b, c = (jobs.create(HASH).job_id for _ in range(3))

    def oldest(status: JobStatus) -> str | None:
        job = jobs.oldest(status)
        return None if job is None else job.job_id

    assert oldest(AWAITING_PAYMENT) == a
    for job_id in (c, a, b):
        jobs.update_status(job_id, RUNNING)
    assert oldest(AWAITING_PAYMENT) is None
    assert oldest(RUNNING) == c
    jobs.update_status(c, AWAITING_INPUT)
    assert oldest(RUNNING) == a
    jobs.update_status(c, RUNNING)  # comes back as the last
    assert oldest(RUNNING) == a
    jobs.update_status(a, FAILED)
    jobs.update_status(b, FAILED)
    assert oldest(RUNNING) == c
    assert oldest(FAILED) == a


@pytest.mark.slow
def test_indexes_stay_small_however_much_happens() -> None:
    jobs = fixed()
    live = [jobs.create(HASH).job_id for _ in range(3)]
    for job_id in live:
        jobs.update_status(job_id, RUNNING)
    for turn in range(60_000):
        job_id = live[turn % 3]
        jobs.update_status(job_id, AWAITING_INPUT)
        jobs.hold(job_id)
        jobs.free(job_id)
        jobs.update_status(job_id, RUNNING)
        jobs.hold(job_id)
        jobs.free(job_id)
    bound = 2 * len(live) + SLACK
    assert all(len(lane.entered) <= bound for lane in jobs._lanes.values())
    assert all(len(lane.free) <= bound for lane in jobs._lanes.values())
    assert len(jobs._created) == jobs.count() == 3
    assert {job.job_id for job in jobs.page(-1, 9)[0]} == set(live)
    first = jobs.first_free(RUNNING)
    assert first is not None
    assert first.job_id == live[0]


def test_the_bytes_of_all_texts_are_those_of_the_jobs_that_are_stored() -> None:
    jobs = fixed()

    def counted() -> int:
        texts = ("input", "result", "error", "input_schema", "provided_input",
                 "identifier_from_purchaser")  # fmt: skip
        return sum(
            len((getattr(job, text) or "").encode())
            for job in jobs.page(-1, 9)[0]
            for text in texts
        )

    one = jobs.create(HASH, input="ä", identifier_from_purchaser="abc").job_id
    assert jobs.text_bytes == counted() == 5
    jobs.update_status(one, RUNNING)
    jobs.update_status(one, AWAITING_INPUT, input_schema="schema")
    assert jobs.text_bytes == counted() == 11
    jobs.update_status(one, RUNNING, provided_input="given")
    assert jobs.text_bytes == counted() == 16
    jobs.update_status(one, AWAITING_INPUT, input_schema="ß")
    assert jobs.text_bytes == counted() == 7
    jobs.update_status(one, RUNNING, "r" * 10)
    jobs.update_status(one, FAILED, error="e" * 20)
    assert jobs.text_bytes == counted() == 27
    copy = fixed()
    image = jobs.image()
    copy.restore(image.slots, image.held, image.named)
    assert copy.text_bytes == 27
    jobs.create(HASH, blockchain_identifier="pay")
    assert jobs.text_bytes == 30
    jobs.remove(one)
    assert jobs.text_bytes == 3


def test_a_job_has_the_same_fields_in_the_same_order_wherever_it_is_written_down() -> None:
    fields = tuple(Job.model_fields)
    assert fields == StoredJob.__struct_fields__
    assert fields == JobFields.__struct_fields__
    assert (*fields, "index", "held") == JobRow.__struct_fields__


# --- against a naive model ----------------------------------------------------------------------


class Naive:
    """The repository as lists that are searched from end to end."""

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


class RepositoryMachine(RuleBasedStateMachine):
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

    @rule(payment=st.none() | st.sampled_from("abc"))
    def create(self, payment: str | None) -> None:
        taken = payment is not None and any(r["payment"] == payment for r in self.naive.rows)
        if taken:
            with pytest.raises(JobConflictError):
                self.jobs.create(HASH, blockchain_identifier=payment)
            return
        job = self.jobs.create(HASH, blockchain_identifier=payment)
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
                self.jobs.update_status(job_id, to, expected_version=version)
            return
        job = self.jobs.update_status(job_id, to, expected_version=version)
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
        (self.jobs.hold if held else self.jobs.free)(row["job_id"])
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
                self.jobs.get(row["job_id"])
        else:
            with pytest.raises(JobConflictError):
                self.jobs.remove(row["job_id"])

    @invariant()
    def same(self) -> None:
        rows = self.naive.rows
        assert self.jobs.text_bytes == sum(len(row["payment"] or "") for row in rows)
        assert self.jobs.count() == len(rows)
        page, _ = self.jobs.page(-1, 1_000)
        assert [(j.job_id, j.status, j.version) for j in page] == [
            (r["job_id"], r["status"], r["version"]) for r in rows
        ]
        for row in rows:
            assert self.jobs.get(row["job_id"]).status is row["status"]
            if row["payment"] is not None:
                assert self.jobs.get_by_payment(row["payment"]).job_id == row["job_id"]
        for status in JobStatus:
            there = self.naive.in_status(status)
            assert self.jobs.count(status) == len(there)
            oldest = self.jobs.oldest(status)
            expected = min(there, key=lambda row: row["entered"], default=None)
            assert (oldest and oldest.job_id) == (expected and expected["job_id"])
            if status in (COMPLETED, FAILED):
                continue
            free = self.jobs.first_free(status)
            first = next((row for row in there if not row["held"]), None)
            assert (free and free.job_id) == (first and first["job_id"])


class SmallIndexMachine(RepositoryMachine):
    """The same with indexes that are swept all the time, and pages that are cut short."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        for module in (lane, repository):
            self.patch.setattr(module, "SLACK", 0)

    def teardown(self) -> None:
        self.patch.undo()


TestRepository = RepositoryMachine.TestCase
TestRepository.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestRepositorySwept = SmallIndexMachine.TestCase
TestRepositorySwept.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

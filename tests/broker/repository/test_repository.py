"""The repository: what its plan promises, and a hundred threads."""

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

import msgspec
import pytest

from tests.core import EPOCH, HASH, Driver, job_ids
from tollgate.broker.core.events import JobCreated, JobTransitioned
from tollgate.broker.repository.job import StoredJob
from tollgate.broker.repository.job_repo import InMemoryJobRepository
from tollgate.domain.commands import Cancel, Claim, Count, Create, Get, List, Transition
from tollgate.domain.exceptions import (
    InvalidStateTransitionError,
    JobConflictError,
    JobNotFoundError,
    VersionConflictError,
)
from tollgate.domain.models import LEGAL_TRANSITIONS, Job, JobStatus

AWAITING_PAYMENT, AWAITING_INPUT, RUNNING, COMPLETED, FAILED = (
    JobStatus("awaiting_payment"),
    JobStatus("awaiting_input"),
    JobStatus("running"),
    JobStatus("completed"),
    JobStatus("failed"),
)
THREADS = 100


def fixed(start: datetime = EPOCH) -> InMemoryJobRepository:
    return InMemoryJobRepository(new_id=job_ids(), clock=lambda: start)


# --- the plan -----------------------------------------------------------------------------------


def test_the_signatures_are_those_of_the_plan() -> None:
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


def test_a_returned_job_never_changes() -> None:
    jobs = fixed()
    job = jobs.create(HASH)
    shown = jobs.get(job.job_id)
    jobs.update_status(job.job_id, RUNNING, result="r")
    assert job == shown
    assert (shown.status, shown.result, shown.version) == (AWAITING_PAYMENT, None, 1)


@pytest.mark.parametrize("call", ["get", "update_status"])
def test_an_unknown_job_is_not_found(call: str) -> None:
    jobs = InMemoryJobRepository()
    jobs.create(HASH)
    arguments = (RUNNING,) if call == "update_status" else ()
    with pytest.raises(JobNotFoundError) as caught:
        getattr(jobs, call)("nonexistent", *arguments)
    assert caught.value.job_id == "nonexistent"


PATHS = {
    AWAITING_PAYMENT: [],
    RUNNING: [RUNNING],
    AWAITING_INPUT: [RUNNING, AWAITING_INPUT],
    COMPLETED: [RUNNING, COMPLETED],
    FAILED: [FAILED],
}


@pytest.mark.parametrize("target", JobStatus)
@pytest.mark.parametrize("current", JobStatus)
def test_illegal_transitions_are_refused(current: JobStatus, target: JobStatus) -> None:
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


def test_only_the_expected_version_is_moved() -> None:
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


def test_supplied_fields_are_stored() -> None:
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
    assert paid_by(jobs, "pay") == job


def test_input_schemas_and_inputs_are_stored() -> None:
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
    assert jobs.find_by_payment("other") is None
    assert jobs.count() == 1
    assert paid_by(jobs, "pay") == first
    assert jobs.create(HASH, blockchain_identifier="other").blockchain_identifier == "other"


def paid_by(jobs: InMemoryJobRepository, blockchain_identifier: str) -> Job:
    job = jobs.find_by_payment(blockchain_identifier)
    assert job is not None
    return job.job()


# --- a hundred threads --------------------------------------------------------------------------


@pytest.fixture
def crowd() -> Iterator[Callable[[Callable[[int], Any]], list[Any]]]:
    """Call a function in a hundred threads at once, and return each result."""
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
    """A reentrant lock that counts how often it was acquired while free."""

    def __init__(self) -> None:
        self.depth = 0
        self.taken = 0

    def acquire(self) -> None:
        self.depth += 1
        self.taken += self.depth == 1

    def release(self) -> None:
        self.depth -= 1

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class GuardedStore(dict[str, Any]):
    """A store that raises if it is accessed without the lock."""

    lock: WatchedLock

    def _guarded(name: str) -> Any:  # type: ignore[misc]  # noqa: N805 - makes methods
        def method(self: Any, *arguments: Any) -> Any:
            assert self.lock.depth, name
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
    update = _guarded("update")


class GuardedIndex:
    """An index that raises if it is accessed without the lock."""

    def __init__(self, index: object, lock: WatchedLock) -> None:
        self._index = index
        self._lock = lock

    def __getattr__(self, name: str) -> Any:
        assert self._lock.depth, name
        return getattr(self._index, name)

    def __setattr__(self, name: str, value: object) -> None:
        if name in {"_index", "_lock"}:
            super().__setattr__(name, value)
        else:
            assert self._lock.depth, name
            setattr(self._index, name, value)


def guarded(jobs: InMemoryJobRepository) -> WatchedLock:
    """Replace the lock, the empty store and the indexes by watched ones; return the lock."""
    lock, store = WatchedLock(), GuardedStore()
    store.lock = lock
    jobs._lock, jobs._store = lock, store  # type: ignore[assignment]
    for name in ("creation", "statuses", "texts"):
        setattr(jobs, name, GuardedIndex(getattr(jobs, name), lock))
    return lock


def test_every_public_call_takes_the_lock_once() -> None:
    jobs = fixed()
    lock = guarded(jobs)
    job_id = jobs.create(HASH, blockchain_identifier="pay").job_id
    copy = StoredJob(**{**jobs.get(job_id).model_dump(), "job_id": "copy", "version": 9})
    done = JobTransitioned(job_id, 3, FAILED, EPOCH)
    calls: list[tuple[str, Callable[[], object]]] = [
        ("create", lambda: jobs.create(HASH)),
        ("create_all", lambda: jobs.create_all([JobCreated("new", EPOCH, HASH)])),
        ("get", lambda: jobs.get(job_id)),
        ("get_all", lambda: jobs.get_all([job_id])),
        ("find", lambda: jobs.find(job_id)),
        ("require", lambda: jobs.require(job_id)),
        ("find_by_payment", lambda: jobs.find_by_payment("pay")),
        ("lease", lambda: jobs.lease(job_id)),
        ("free", lambda: jobs.free(job_id)),
        ("update_status", lambda: jobs.update_status(job_id, RUNNING, expected_version=1)),
        ("update_status", lambda: jobs.update_status(job_id, AWAITING_INPUT)),
        ("update_all", lambda: jobs.update_all([done])),
        ("remove", lambda: jobs.remove(job_id)),
        ("count", jobs.count),
        ("count", lambda: jobs.count(RUNNING)),
        ("page", lambda: jobs.page(-1, 9)),
        ("slots", jobs.slots),
        ("named", jobs.named),
        ("restore", lambda: jobs.restore([(9, copy)], [], [])),
        ("restore_entered", lambda: jobs.restore_entered(FAILED, [9])),
    ]
    public = {name for name in vars(InMemoryJobRepository) if not name.startswith("_")}
    assert {name for name, _ in calls} == public
    for name, call in calls:
        before = lock.taken
        call()
        assert (lock.taken, lock.depth) == (before + 1, 0), name


def test_a_job_is_copied_under_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = fixed()
    lock = guarded(jobs)
    copy_of = StoredJob.job

    def job(stored: StoredJob) -> Job:
        assert lock.depth, "another thread may change the job while it is copied"
        return copy_of(stored)

    monkeypatch.setattr(StoredJob, "job", job)
    job_id = jobs.create(HASH).job_id
    jobs.get(job_id)
    jobs.update_status(job_id, RUNNING, expected_version=1)


def test_the_broker_takes_the_lock_once_a_batch() -> None:
    driver = Driver(keep_finished_ms=1_000)
    lock = guarded(driver.engine.context.state.jobs)
    job_id = driver.job(Create(input_hash=HASH)).job_id
    one = driver.job(Transition(job_id=job_id, target=RUNNING)).job_id
    driver.ask(*[Create(input_hash=HASH)] * 9, Get(job_id=one), Count(), List(limit=5))
    driver.ask(Claim(status=RUNNING, lease_ms=9, wait_ms=0, limit=1))
    driver.ask(Transition(job_id=job_id, target=FAILED, lease=1), Cancel(job_id=job_id))
    assert lock.taken == len(driver.inbox) == 5
    driver.pass_ms(1_000)  # removes the job, and looks at the rest
    assert (lock.taken, lock.depth) == (6, 0)


def test_a_holder_of_the_lock_keeps_other_threads_out() -> None:
    jobs = fixed()
    job = jobs.create(HASH)
    other = threading.Thread(target=jobs.create, args=[HASH], daemon=True)
    with jobs as held:
        moved = held.update_all([JobTransitioned(job.job_id, 1, RUNNING, EPOCH)]).only()
        assert type(moved) is StoredJob
        other.start()
        other.join(timeout=0.1)
        assert other.is_alive()
        assert jobs.get(job.job_id) == moved.job()
        assert jobs.count() == 1
    other.join(timeout=30)
    assert jobs.count() == 2


def test_the_broker_works_through_the_repository() -> None:
    driver = Driver()
    shown = driver.job(Create(input_hash=HASH))
    repository = driver.engine.context.state.jobs
    assert type(repository) is InMemoryJobRepository
    job = repository.get(shown.job_id)
    assert type(job) is Job
    assert job.model_dump() == msgspec.structs.asdict(shown)
    repository.update_status(shown.job_id, RUNNING)
    assert driver.job(Get(job_id=shown.job_id)).status is RUNNING


def test_a_hundred_threads_create_and_lose_no_job(crowd: Any) -> None:
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


def test_one_of_a_hundred_threads_gets_a_payment(crowd: Any) -> None:
    jobs = InMemoryJobRepository()

    def pay(number: int) -> str | None:
        try:
            return jobs.create(HASH, blockchain_identifier="pay").job_id
        except JobConflictError:
            return None

    assert [job_id for job_id in crowd(pay) if job_id] == [paid_by(jobs, "pay").job_id]
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
        return done

    total = sum(crowd(live), Counter[str]())
    assert {status.value: jobs.count(status) for status in JobStatus if jobs.count(status)} == total
    assert sum(total.values()) == jobs.count() == 20 * THREADS
    stored, _ = jobs.page(-1, 20 * THREADS)
    assert Counter(job.status.value for job in stored) == total
    entered = jobs.statuses.entered(jobs.slots())
    assert {status.value: len(set(places)) for status, places in entered.items() if places} == total
    asking = jobs.statuses.take_ready(AWAITING_INPUT, 20 * THREADS)
    assert len(asking) == total[AWAITING_INPUT]

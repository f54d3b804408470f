"""The lock of the repository: every access to the jobs is under it."""

import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.core import EPOCH, HASH, Driver, job_ids
from tollgate.broker.core.events import JobCreated, JobTransitioned, Origin
from tollgate.broker.repository.history import HELD
from tollgate.broker.repository.job import PlainStoredJob, Slot, StandingLease
from tollgate.broker.repository.job_repo import InMemoryJobRepository
from tollgate.broker.repository.lines import FIRST
from tollgate.broker.repository.listing import Wanted
from tollgate.domain.commands import Cancel, Claim, Count, Create, Get, List, Transition
from tollgate.domain.models import Job
from tollgate.domain.results import Settlement
from tollgate.domain.settlement import SettlementState
from tollgate.domain.status import AWAITING_INPUT, FAILED, RUNNING


def fixed() -> InMemoryJobRepository:
    return InMemoryJobRepository(new_id=job_ids(), clock=lambda: EPOCH)


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


class GuardedShard(dict[str, Any]):
    """A dict of a table that raises if it is accessed without the lock."""

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
    """Replace the lock, the empty tables and the indexes by watched ones; return the lock."""
    lock = WatchedLock()
    jobs._lock = lock  # type: ignore[assignment]
    for table in (jobs._store, jobs._by_payment):
        table.first = shard = GuardedShard()
        shard.lock = lock
    for name in ("queues", "finished", "texts", "origins"):
        setattr(jobs, name, GuardedIndex(getattr(jobs, name), lock))
    return lock


def test_every_public_call_takes_the_lock_once() -> None:
    jobs = fixed()
    lock = guarded(jobs)
    jobs.create(HASH, job_id="job", blockchain_identifier="pay")
    with jobs:
        slot = jobs.require("job")
    stored = msgspec.structs.replace(slot.job, job_id="copy")
    copy = Slot(9, stored, FIRST)
    lease = StandingLease(slot, 1, 9, 9)
    failed = JobTransitioned("job", 3, FAILED, EPOCH)
    settled = Settlement(SettlementState.CONFIRMED, EPOCH)
    origin = Origin(EPOCH)
    calls: list[tuple[str, Callable[[], object]]] = [
        ("create", lambda: jobs.create(HASH)),
        ("create_all", lambda: jobs.create_all([JobCreated("new", EPOCH, HASH)])),
        ("get", lambda: jobs.get("job")),
        ("get_all", lambda: jobs.get_all(["job"])),
        ("find", lambda: jobs.find("job")),
        ("require", lambda: jobs.require("job")),
        ("find_by_payment", lambda: jobs.find_by_payment("pay")),
        ("is_named", lambda: jobs.is_named(slot.job)),
        ("lease", lambda: jobs.lease([slot], [lease], origin)),
        ("free", lambda: jobs.free(slot, EPOCH)),
        ("bar", lambda: jobs.bar(slot)),
        ("note", lambda: jobs.note(slot, HELD, origin)),
        ("update_status", lambda: jobs.update_status("job", RUNNING, expected_version=1)),
        ("update_status", lambda: jobs.update_status("job", AWAITING_INPUT)),
        ("update_all", lambda: jobs.update_all([failed], origin)),
        ("remove", lambda: jobs.remove("job")),
        ("count", jobs.count),
        ("count", lambda: jobs.count(RUNNING)),
        ("page", lambda: jobs.page(Wanted(), None, 9, 99)),
        ("slots", jobs.slots),
        ("restore", lambda: jobs.restore(copy, is_named=False)),
        ("set_settlement", lambda: jobs.set_settlement(copy, settled, EPOCH)),
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
    copy_of = PlainStoredJob.job

    def job(stored: PlainStoredJob) -> Job:
        assert lock.depth, "another thread may change the job while it is copied"
        return copy_of(stored)

    monkeypatch.setattr(PlainStoredJob, "job", job)
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
        moved = held.update_all(
            [JobTransitioned(job.job_id, 1, RUNNING, EPOCH)], Origin(EPOCH)
        ).only()
        assert type(moved) is PlainStoredJob
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

"""Pages of jobs: over several queues, in both directions, and of jobs that are rare among many."""

from collections.abc import Callable
from random import Random

import pytest

from tests.broker.repository.slots import places
from tests.core import EPOCH, HASH
from tollgate.broker.core.events import JobCreated, JobTransitioned, NewRest, Origin
from tollgate.broker.repository import listing
from tollgate.broker.repository.job import Claimed, Slot
from tollgate.broker.repository.job_repo import InMemoryJobRepository
from tollgate.broker.repository.listing import GATHER_COST, Page, Wanted, is_in
from tollgate.domain.settlement import SettlementState
from tollgate.domain.status import (
    AWAITING_INPUT,
    AWAITING_PAYMENT,
    COMPLETED,
    FAILED,
    RUNNING,
    JobStatus,
)

FEW = 7
"""As many jobs as a page looks at in these tests."""
MANY = 10_000


def stored(count: int, *queues: str | None, settle: bool = False) -> InMemoryJobRepository:
    """Return a repository with jobs, in turns of these queues."""
    jobs = InMemoryJobRepository()
    names = queues or (None,)
    jobs.create_all(
        [
            JobCreated(f"job {n}", EPOCH, HASH, rest=NewRest(names[n % len(names)], settle=settle))
            for n in range(count)
        ]
    )
    return jobs


def move(jobs: InMemoryJobRepository, number: int, *targets: JobStatus) -> None:
    for target in targets:
        jobs.update_status(f"job {number}", target, at=EPOCH)


def pages(
    jobs: InMemoryJobRepository,
    wanted: Wanted,
    limit: int,
    scan_max: int = MANY,
    between: Callable[[], object] = lambda: None,
) -> list[list[int]]:
    """Return all pages, as the places of their jobs; call `between` after each."""
    seen: list[list[int]] = []
    after: int | None = None
    while True:
        page = jobs.page(wanted, after, limit, scan_max)
        assert len(page.slots) <= limit
        assert page.scanned <= scan_max
        seen.append(places(page.slots))
        assert len(seen) < 1_000
        if page.more is None:
            return seen
        after = page.more
        between()


def joined(seen: list[list[int]]) -> list[int]:
    return [place for page in seen for place in page]


@pytest.mark.parametrize("newest", [False, True])
@pytest.mark.parametrize("queue", [None, "a", "b"])
@pytest.mark.parametrize("scan_max", [1, FEW, MANY])
def test_pages_of_several_queues_are_in_order(
    queue: str | None, newest: bool, scan_max: int
) -> None:
    jobs = stored(50, "a", "b", "a", "c")
    expected = [n for n in range(50) if queue in (None, ["a", "b", "a", "c"][n % 4])]
    seen = pages(jobs, Wanted(queue=queue, newest=newest), 3, scan_max)
    assert joined(seen) == (expected[::-1] if newest else expected)
    assert all(seen)


@pytest.mark.parametrize("newest", [False, True])
def test_the_last_page_has_nothing_behind_it(newest: bool) -> None:
    jobs = stored(6, "a", "b")
    assert [len(page) for page in pages(jobs, Wanted(newest=newest), 3)] == [3, 3]
    assert [len(page) for page in pages(jobs, Wanted(newest=newest), 4)] == [4, 2]
    assert [len(page) for page in pages(jobs, Wanted(FAILED, newest=newest), 3)] == [0]
    assert jobs.page(Wanted(queue="nothing"), None, 9, 9) == Page([], None, 0)
    assert stored(0).page(Wanted(newest=newest), None, 9, 9) == Page([], None, 0)


def test_a_place_need_not_be_that_of_a_job() -> None:
    jobs = stored(6, "a", "b")
    assert places(jobs.page(Wanted(queue="b"), 2, 9, 9).slots) == [3, 5]
    assert places(jobs.page(Wanted(queue="b", newest=True), 2, 9, 9).slots) == [1]
    assert places(jobs.page(Wanted(), 10**14, 9, 9).slots) == []
    assert places(jobs.page(Wanted(newest=True), 10**14, 9, 9).slots) == [*range(6)][::-1]
    assert places(jobs.page(Wanted(newest=True), 0, 9, 9).slots) == []


@pytest.mark.parametrize("newest", [False, True])
@pytest.mark.parametrize("state", [None, AWAITING_PAYMENT, FAILED])
def test_pages_show_each_job_that_stays_once(state: Claimed | None, newest: bool) -> None:
    """Others move, are removed, and come meanwhile."""
    random = Random(1)
    jobs = stored(120, "a", None, "b")
    steady = [n for n in range(120) if n % 2]
    if state is FAILED:
        for number in steady:
            move(jobs, number, FAILED)
    restless = [n for n in range(120) if n % 2 == 0]

    def change() -> None:
        number = restless.pop(random.randrange(len(restless)))
        move(jobs, number, FAILED)
        if random.random() < 0.5:
            jobs.remove(f"job {number}")
        jobs.create(HASH, queue=random.choice(["a", "c"]))

    seen = joined(pages(jobs, Wanted(state, newest=newest), 5, FEW, change))
    assert len(seen) == len(set(seen))
    assert seen == sorted(seen, reverse=newest)
    assert set(steady) <= set(seen)


def test_a_rare_status_among_many_is_one_page(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = stored(3_000, None, "a", "b")
    rare = [n for n in range(3_000) if n % 311 == 5]
    for number in rare:
        move(jobs, number, RUNNING, AWAITING_INPUT)
    asked: list[Slot] = []

    def look(slot: Slot, state: Claimed | None) -> bool:
        asked.append(slot)
        return is_in(slot, state)

    monkeypatch.setattr(listing, "is_in", look)
    for newest in (False, True):
        asked.clear()
        page = jobs.page(Wanted(AWAITING_INPUT, newest=newest), None, 100, 10)
        assert places(page.slots) == (rare[::-1] if newest else rare)
        assert page.more is None
        assert len(asked) == len(rare)  # no other job was looked at
    assert places(jobs.page(Wanted(AWAITING_INPUT, "a"), None, 100, 10).slots) == [
        number for number in rare if number % 3 == 1
    ]
    assert [len(page) for page in pages(jobs, Wanted(AWAITING_INPUT), 4)] == [4, 4, 2]


def test_a_job_that_came_back_to_a_status_is_listed_once() -> None:
    jobs = stored(3)
    for _ in range(4):
        move(jobs, 1, RUNNING, AWAITING_INPUT)
    move(jobs, 0, RUNNING, AWAITING_INPUT)
    assert pages(jobs, Wanted(AWAITING_INPUT), 9) == [[0, 1]]
    assert pages(jobs, Wanted(RUNNING), 9) == [[]]


def test_settlements_that_wait_for_somebody_are_gathered() -> None:
    jobs = stored(300, "a", "b", settle=True)
    for number in (299, 5):
        move(jobs, number, RUNNING, COMPLETED)
    wanted = jobs.page(Wanted(SettlementState.WANTED), None, 9, 10)
    assert (places(wanted.slots), wanted.more, wanted.scanned) == ([5, 299], None, 2 // GATHER_COST)
    pending = jobs.page(Wanted(SettlementState.PENDING), None, 9, 10)  # of most jobs
    assert (places(pending.slots), pending.more) == ([0, 1, 2, 3, 4, 6, 7, 8, 9], 9)


def test_a_page_may_be_short_or_empty_and_still_go_on() -> None:
    jobs = stored(7, settle=True)
    move(jobs, 6, FAILED)
    closed = Wanted(SettlementState.CLOSED)  # of which there is no index
    assert jobs.page(closed, None, 9, 3) == Page([], 2, 3)
    assert jobs.page(closed, 2, 9, 3) == Page([], 5, 3)
    last = jobs.page(closed, 5, 9, 3)
    assert (places(last.slots), last.more, last.scanned) == ([6], None, 1)


def test_a_common_status_is_read_in_order_of_creation() -> None:
    """To gather all of them for each page would cost more with each job."""
    jobs = stored(GATHER_COST * 10 + 31)
    page = jobs.page(Wanted(AWAITING_PAYMENT), None, 3, 10)
    assert (places(page.slots), page.more, page.scanned) == ([0, 1, 2], 2, 3)
    page = jobs.page(Wanted(AWAITING_PAYMENT), 2, 100, 10)
    assert (places(page.slots), page.more, page.scanned) == ([*range(3, 13)], 12, 10)
    moves = [JobTransitioned("job 0", 1, RUNNING, EPOCH)]
    jobs.update_all(moves, Origin(EPOCH))
    assert places(jobs.page(Wanted(AWAITING_PAYMENT), None, 2, 10).slots) == [1, 2]
    assert places(jobs.page(Wanted(RUNNING), None, 2, 1).slots) == [0]


def test_a_gathered_page_tells_what_it_cost() -> None:
    jobs = stored(GATHER_COST * 10)
    page = jobs.page(Wanted(AWAITING_PAYMENT), None, 3, 10)
    assert (places(page.slots), page.more, page.scanned) == ([0, 1, 2], 2, 10)

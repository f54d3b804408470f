"""The standing leases, their tokens and their lapses."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from tests.core import EPOCH, HASH, Driver, claim, job_ids, running
from tollgate.broker.core.events import (
    JobTransitioned,
    LeaseGranted,
    LeaseLapsed,
    LeaseReleased,
    LogBegan,
    Origin,
)
from tollgate.broker.core.leases import Leases, info
from tollgate.broker.core.records import Record
from tollgate.broker.core.state import NUMBERS_A_MS, RESTORE_GAP, State, restored_number
from tollgate.broker.core.timers import SLACK
from tollgate.broker.repository.job import Slot
from tollgate.broker.repository.job_repo import InMemoryJobRepository
from tollgate.domain.commands import UINT_LIMIT, Create, Hello
from tollgate.domain.exceptions import LeaseHeldError, LeaseLostError, Refusal
from tollgate.domain.results import HelloResult, LeaseInfo
from tollgate.domain.status import AWAITING_INPUT, COMPLETED, RUNNING, JobStatus

ORIGIN = Origin(EPOCH, "key:w", "worker@host:1")


class Held:
    """Leases on two jobs in `running`, A and B."""

    def __init__(self) -> None:
        self.state = State()
        self.jobs: InMemoryJobRepository = self.state.jobs
        self.leases: Leases = self.state.leases
        new_id = job_ids()
        for _ in range(2):
            job_id = new_id()
            self.jobs.create(HASH, job_id=job_id, at=EPOCH)
            self.jobs.update_status(job_id, RUNNING, at=EPOCH)
        self.a, self.b = self.jobs.slots()

    def grant(self, slot: Slot, token: int, lease_ms: int = 100, now_ms: int = 0) -> None:
        granted = LeaseGranted(slot.job.job_id, token, lease_ms)
        self.state.apply(Record([granted], by=ORIGIN.by, at=EPOCH, client=ORIGIN.client), now_ms)

    def release(self, slot: Slot, token: int) -> None:
        self.state.apply(Record([LeaseReleased(slot.job.job_id, token)], at=EPOCH), 0)

    def lapse(self, slot: Slot, token: int) -> None:
        self.state.apply(Record([LeaseLapsed(slot.job.job_id, token)], at=EPOCH), 0)

    def move(self, slot: Slot, target: JobStatus) -> None:
        self.jobs.update_status(slot.job.job_id, target, at=EPOCH)


def test_a_job_has_one_lease_at_a_time() -> None:
    held = Held()
    leases, a, b = held.leases, held.a, held.b
    assert leases.check(a, None) is None
    held.grant(a, 1)
    assert leases.check(a, 1) is a.lease is not None
    with pytest.raises(LeaseHeldError):
        leases.check(a, None)
    with pytest.raises(LeaseLostError, match="was never granted"):
        leases.check(a, 2)
    with pytest.raises(LeaseHeldError):
        held.grant(a, leases.next_token)
    with pytest.raises(LeaseLostError):  # that of another job
        leases.check(b, 1)
    assert leases.check(b, None) is None
    assert held.jobs.leased == 1


def test_tokens_only_grow() -> None:
    held = Held()
    seen = []
    for turn in range(30):
        token = held.leases.next_token
        held.grant(held.a, token)
        seen.append(token)
        if turn % 3 == 0:
            held.release(held.a, token)
        elif turn % 3 == 1:
            held.lapse(held.a, token)
        else:
            held.move(held.a, AWAITING_INPUT)
            held.move(held.a, RUNNING)
    assert seen == sorted(set(seen))
    with pytest.raises(LeaseHeldError):
        held.grant(held.b, seen[-1])
    held.grant(held.b, seen[-1] + 10)
    assert held.leases.next_token == seen[-1] + 11


def test_a_refused_grant_changes_nothing() -> None:
    held = Held()
    held.grant(held.a, 5)
    for slot, token in ((held.a, 6), (held.b, 5), (held.b, 4)):
        with pytest.raises(LeaseHeldError):
            held.grant(slot, token)
    assert (held.leases.last_token, held.jobs.leased, held.b.lease) == (5, 1, None)
    held.move(held.b, COMPLETED)
    with pytest.raises(Refusal):
        held.grant(held.b, 6)
    assert held.jobs.leased == 1


def test_an_ended_lease_is_lost() -> None:
    held = Held()
    ends: list[Callable[[Slot, int], None]] = [
        held.release,
        held.lapse,
        lambda slot, _: held.move(slot, AWAITING_INPUT),
    ]
    for end in ends:
        token = held.leases.next_token
        held.grant(held.a, token)
        end(held.a, token)
        uses: list[Callable[[Slot, int], object]] = [
            held.leases.check,
            held.release,
            held.lapse,
            lambda slot, token: held.leases.touch(slot, token, 1, 0),
        ]
        for use in uses:
            with pytest.raises(LeaseLostError, match="is over"):
                use(held.a, token)
        held.leases.check(held.a, None)
        assert held.jobs.leased == 0


def test_an_old_token_does_not_end_a_new_lease() -> None:
    held = Held()
    held.grant(held.a, 1)
    held.release(held.a, 1)
    held.grant(held.a, 2)
    for use in (held.release, held.lapse):
        with pytest.raises(LeaseLostError):
            use(held.a, 1)
    held.leases.check(held.a, 2)


def test_a_lease_lapses_once_at_its_time() -> None:
    held = Held()
    held.grant(held.a, 1, 100)
    held.grant(held.b, 2, 50)
    assert held.leases.timers.first_due() == 50
    assert list(held.leases.lapsed(49)) == []
    lapsed = []
    for lease in held.leases.lapsed(100):
        held.lapse(lease.slot, lease.token)
        lapsed.append((lease.slot, lease.token))
    assert lapsed == [(held.b, 2), (held.a, 1)]
    assert list(held.leases.lapsed(10**9)) == []
    assert dict(held.leases.lapses.items()) == {held.a.job.job_id: 1, held.b.job.job_id: 1}
    assert (held.a.job.attempts, held.b.job.attempts) == (1, 1)


def test_a_touch_moves_the_end_of_a_lease_either_way() -> None:
    held = Held()
    held.grant(held.a, 1, 100)
    held.leases.touch(held.a, 1, 100, 90)
    assert list(held.leases.lapsed(189)) == []
    held.leases.touch(held.a, 1, 5, 100)  # earlier than before
    assert list(held.leases.lapsed(104)) == []
    assert [(lease.slot, lease.token) for lease in held.leases.lapsed(105)] == [(held.a, 1)]


def test_lapses_count_within_a_status_and_across_leases() -> None:
    held = Held()
    job_id = held.a.job.job_id
    for number in range(1, 4):
        held.grant(held.a, held.leases.next_token)
        held.lapse(held.a, held.leases.last_token)
        assert held.leases.lapses[job_id] == number
    held.grant(held.a, held.leases.next_token)
    held.release(held.a, held.leases.last_token)
    assert held.leases.lapses[job_id] == 3
    asks = JobTransitioned(job_id, held.a.job.version, AWAITING_INPUT, EPOCH)
    held.state.apply(Record([asks], at=EPOCH), 0)
    assert job_id not in held.leases.lapses
    assert held.a.job.attempts == 3  # of its whole life


def test_a_million_touches_leave_few_timers() -> None:
    held = Held()
    held.grant(held.a, 1, 100)
    for now_ms in range(20 * SLACK):
        held.leases.touch(held.a, 1, 100, now_ms // 7)
    assert len(held.leases.timers) <= 2 + SLACK


def test_a_restart_runs_each_standing_lease_anew() -> None:
    held = Held()
    held.grant(held.a, 1, 100)
    held.grant(held.b, 2, 50)
    held.release(held.b, 2)
    held.leases.touch(held.a, 1, 900, 0)
    held.leases.restart(1_000)
    assert info(held.b, 1_000) is None
    assert info(held.a, 1_030) == LeaseInfo("key:w", "worker@host:1", 70)  # as it was granted
    assert info(held.a, 9_999) == LeaseInfo("key:w", "worker@host:1", 0)
    assert [lease.token for lease in held.leases.lapsed(1_100)] == [1]


def test_no_number_comes_twice_over_any_restores() -> None:
    last, later = 5, timedelta(milliseconds=1)
    first = restored_number(last, EPOCH)
    assert first + NUMBERS_A_MS <= restored_number(last, EPOCH + later), "of the same backup"
    assert first + NUMBERS_A_MS <= restored_number(first + 7, EPOCH + later), "of one another"
    assert restored_number(first, EPOCH - timedelta(days=1)) == first + RESTORE_GAP, (
        "the clock was set back"
    )
    assert restored_number(last, EPOCH + timedelta(days=60 * 365)) < UINT_LIMIT


def test_a_restore_raises_all_numbers_and_ends_all_leases() -> None:
    driver = Driver()
    (opened,) = driver.ask(Hello(open_session=True))
    assert isinstance(opened, HelloResult)
    running(driver)
    (grant,) = driver.grants_of(claim())
    state = driver.engine.context.state
    at = EPOCH + timedelta(seconds=1)
    number = restored_number(grant.lease, at)
    state.apply(Record([LogBegan("other", is_restore=True, number=number)], at=at), 0)
    assert (state.log_id, state.jobs.leased) == ("other", 0)
    assert state.leases.next_token == number + 1 > grant.lease
    assert not state.requests.knows(opened.session or 0)
    (again,) = driver.grants_of(claim())  # the job is ready
    assert again.lease == number + 1
    (opened_again,) = driver.ask(Hello(open_session=True))
    assert isinstance(opened_again, HelloResult)
    assert opened_again.session == number + 1
    assert driver.ask(Create(input_hash=HASH))

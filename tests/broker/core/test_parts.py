"""The small parts of the engine, each alone: timers, leases, waiters."""

from collections.abc import Callable
from operator import itemgetter
from random import Random

import pytest

from tests.core import ADMIN, EPOCH, HASH, OTHER, PEER, job_id
from tollgate.broker.core.leases import Leases
from tollgate.broker.core.roles import Principal, Role
from tollgate.broker.core.timers import (
    ADDED_MAX,
    CHECKS,
    NEVER_MS,
    SLACK,
    Timeline,
    Timers,
)
from tollgate.broker.core.waiters import Ticket, Waiters
from tollgate.domain.commands import Claim, Wait
from tollgate.domain.exceptions import LeaseHeldError, LeaseLostError, OverloadedError
from tollgate.domain.models import Job, JobStatus

RUNNING = JobStatus.RUNNING
AWAITING_PAYMENT = JobStatus.AWAITING_PAYMENT
A, B, C = job_id(1), job_id(2), job_id(3)
OBSERVER = Principal("key:observer", Role.OBSERVER)


def shown(job_id: str, status: JobStatus) -> Job:
    return Job(
        job_id=job_id, status=status, input_hash=HASH, blockchain_identifier="x",
        created_at=EPOCH, updated_at=EPOCH,
    )  # fmt: skip


# --- timers -------------------------------------------------------------------------------------


Item = tuple[int, str]


def timers_of(live: Callable[[Item], bool], count: Callable[[], int]) -> Timers[int, Item]:
    return Timers(Timeline(NEVER_MS), itemgetter(0), live, count)


def test_timers_give_what_is_due_earliest_first_once() -> None:
    timers = timers_of(lambda item: True, lambda: 4)
    for item in [(5, "e"), (1, "a"), (3, "c"), (3, "b")]:
        timers.add(item)
    assert timers.first_due() == 1
    assert list(timers.due(0)) == []
    assert list(timers.due(3)) == [(1, "a"), (3, "c"), (3, "b")]  # as they were added
    assert list(timers.due(3)) == []
    assert timers.first_due() == 5
    assert list(timers.due(9)) == [(5, "e")]
    assert timers.first_due() is None


def test_items_of_a_time_come_as_they_were_added_in_order_or_not() -> None:
    timers = timers_of(lambda item: True, lambda: 9)
    for item in [(9, "z"), (3, "a"), (3, "b"), (9, "y"), (3, "c"), (1, "d"), (9, "x")]:
        timers.add(item)
    assert [key for _, key in timers.due(9)] == ["d", "a", "b", "c", "z", "y", "x"]


def test_timers_drop_what_is_settled() -> None:
    timers = timers_of(lambda item: item == (2, "b"), lambda: 1)
    timers.add((1, "a"))
    timers.add((2, "b"))
    assert list(timers.due(9)) == [(2, "b")]


def test_what_is_settled_between_two_that_are_due_does_not_come_up() -> None:
    live = {(1, "a"), (1, "b")}
    timers = timers_of(live.__contains__, live.__len__)
    timers.add((1, "a"))
    timers.add((1, "b"))
    due = timers.due(1)
    assert next(due) == (1, "a")
    live.clear()
    assert list(due) == []


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("one_in", [1_000, 3])
def test_settled_timers_do_not_pile_up(in_order: bool, one_in: int) -> None:
    live: dict[Item, None] = {}
    timers = timers_of(live.__contains__, live.__len__)
    random = Random(1)
    for number in range(20 * SLACK):
        item = (number if in_order else random.randrange(10**6), str(number))
        if number % one_in == 0:
            live[item] = None
        timers.add(item)
        assert len(timers) <= 2.25 * len(live) + SLACK
    assert list(timers.due(10**7)) == sorted(live, key=itemgetter(0))


def test_no_add_pays_for_all_that_is_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = [0]

    def is_live(item: Item) -> bool:
        looked[0] += 1
        return False

    count = [10**9]
    timers = timers_of(is_live, lambda: count[0])
    timers.add_all([(number, "") for number in range(50 * SLACK)])
    assert looked == [0]
    count[0] = 0  # all of them are settled now
    most = 0
    while len(timers) > SLACK:
        before = looked[0]
        timers.add((10**6, ""))
        most = max(most, looked[0] - before)
    assert 0 < most <= CHECKS * ADDED_MAX


def test_the_head_skips_what_is_settled() -> None:
    live = {(5, "a")}
    timeline = Timeline(NEVER_MS)
    timers: Timers[int, Item] = Timers(timeline, itemgetter(0), live.__contains__, live.__len__)
    timers.add_all([(1, "x"), (2, "y")])
    timers.add((5, "a"))
    assert timeline.next_at == 1
    timeline.refresh()
    assert timeline.next_at == 5
    assert len(timers) == 1
    live.clear()
    timeline.refresh()
    assert timeline.next_at == NEVER_MS


def test_sweeping_keeps_what_is_live_in_order() -> None:
    live = {(-key, str(key)) for key in range(0, 4 * SLACK, 4)}
    timers = timers_of(live.__contains__, lambda: 0)
    for key in range(4 * SLACK):
        timers.add((-key, str(key)))
    assert list(timers.due(0)) == sorted(live)


# --- leases -------------------------------------------------------------------------------------


def test_a_lease_is_for_one_at_a_time() -> None:
    leases = Leases()
    leases.check(A, None)
    leases.grant(A, leases.next_token, 100, 0)
    leases.check(A, 1)
    with pytest.raises(LeaseHeldError):
        leases.check(A, None)
    with pytest.raises(LeaseLostError):
        leases.check(A, 2)
    with pytest.raises(LeaseHeldError):
        leases.grant(A, leases.next_token, 100, 0)
    with pytest.raises(LeaseLostError):  # never given
        leases.check(B, 1)
    leases.check(B, None)


def test_tokens_only_grow_whatever_happens() -> None:
    leases = Leases()
    seen = []
    for turn in range(30):
        token = leases.next_token
        leases.grant(A, token, 1, turn)
        seen.append(token)
        if turn % 3 == 0:
            leases.end(A, token)
        elif turn % 3 == 1:
            leases.lapse(A, token)
        else:
            leases.forget(A)
    assert seen == sorted(set(seen))
    with pytest.raises(LeaseHeldError):
        leases.grant(B, seen[-1], 1, 0)
    leases.grant(B, seen[-1] + 10, 1, 0)
    assert leases.next_token == seen[-1] + 11


def test_a_lease_that_ended_is_lost() -> None:
    leases = Leases()
    ends: list[Callable[[str, int], None]] = [
        leases.end,
        leases.lapse,
        lambda job, _: leases.forget(job),
    ]
    for end in ends:
        token = leases.next_token
        leases.grant(A, token, 100, 0)
        end(A, token)
        uses: list[Callable[[str, int], None]] = [
            leases.check,
            leases.end,
            leases.lapse,
            lambda job, token: leases.touch(job, token, 1, 0),
        ]
        for use in uses:
            with pytest.raises(LeaseLostError):
                use(A, token)
        leases.check(A, None)


def test_an_old_token_does_not_end_a_new_lease() -> None:
    leases = Leases()
    leases.grant(A, 1, 100, 0)
    leases.end(A, 1)
    leases.grant(A, 2, 100, 0)
    for use in (leases.end, leases.lapse):
        with pytest.raises(LeaseLostError):
            use(A, 1)
    leases.check(A, 2)


def test_leases_lapse_at_their_time_once() -> None:
    leases = Leases()
    leases.grant(A, 1, 100, 0)
    leases.grant(B, 2, 50, 0)
    assert leases._timers.first_due() == 50
    assert list(leases.lapsed(49)) == []
    lapsed = []
    for lapsing, token in leases.lapsed(100):
        leases.lapse(lapsing, token)
        lapsed.append((lapsing, token))
    assert lapsed == [(B, 2), (A, 1)]
    assert list(leases.lapsed(10**9)) == []
    assert leases.lapses == {A: 1, B: 1}


def test_a_touch_moves_the_end_either_way() -> None:
    leases = Leases()
    leases.grant(A, 1, 100, 0)
    leases.touch(A, 1, 100, 90)
    assert list(leases.lapsed(189)) == []
    leases.touch(A, 1, 5, 100)  # earlier than before
    assert list(leases.lapsed(104)) == []
    assert list(leases.lapsed(105)) == [(A, 1)]


def test_lapses_count_within_a_status_and_across_leases() -> None:
    leases = Leases()
    for number in range(1, 4):
        leases.grant(A, leases.next_token, 1, 0)
        leases.lapse(A, leases.next_token - 1)
        assert leases.lapses[A] == number
    leases.grant(A, leases.next_token, 1, 0)
    leases.end(A, leases.next_token - 1)
    assert leases.lapses[A] == 3
    leases.forget(A)
    assert A not in leases.lapses


def test_a_million_touches_leave_nothing_behind() -> None:
    leases = Leases()
    leases.grant(A, 1, 100, 0)
    for now_ms in range(20 * SLACK):
        leases.touch(A, 1, 100, now_ms // 7)
    assert len(leases._timers) <= 2 + SLACK


# --- waiters ------------------------------------------------------------------------------------


def claim(status: JobStatus = RUNNING, limit: int = 1) -> Claim:
    return Claim(status=status, lease_ms=1, wait_ms=1, limit=limit)


def wait(*job_ids: str, statuses: list[JobStatus] | None = None) -> Wait:
    return Wait(job_ids=list(job_ids), timeout_ms=1, statuses=statuses)


def ticket(seq: int, peer: bytes = PEER, session: int = 0) -> Ticket:
    return Ticket(peer, ADMIN, session, seq)


def test_a_wait_is_found_by_each_of_its_jobs_in_its_statuses() -> None:
    waiters = Waiters(9, 9, 99)
    waiters.park(ticket(1), wait(A, B), 5)
    waiters.park(ticket(2), wait(B, B, statuses=[RUNNING]), 5)

    def woken(job_id: str, status: JobStatus) -> list[int]:
        return [parked.ticket.seq for parked in waiters.awaiting(job_id, status)]

    assert woken(A, JobStatus.FAILED) == [1]
    assert woken(A, RUNNING) == []
    assert woken(B, RUNNING) == [2]
    assert woken(B, JobStatus.COMPLETED) == [1, 2]
    assert woken(C, JobStatus.COMPLETED) == []
    for parked in waiters.awaiting(B, JobStatus.COMPLETED):
        waiters.remove(parked)
    assert len(waiters.parked) == 0
    assert woken(A, JobStatus.FAILED) == []
    assert not waiters._waits
    assert waiters.watched == 0


def test_claims_are_served_first_come_first_served_by_status() -> None:
    waiters = Waiters(9, 9, 99)
    assert waiters.first_claim(RUNNING) is None
    waiters.park(ticket(1), claim(), 5)
    waiters.park(ticket(2), claim(), 5)
    waiters.park(ticket(3), claim(AWAITING_PAYMENT), 5)
    assert set(waiters.claims()) == {RUNNING, AWAITING_PAYMENT}
    first = waiters.first_claim(RUNNING)
    assert first is not None
    assert first.ticket.seq == 1
    waiters.remove(first)
    second = waiters.first_claim(RUNNING)
    assert second is not None
    assert second.ticket.seq == 2
    waiters.remove(second)
    assert list(waiters.claims()) == [AWAITING_PAYMENT]


def test_a_repeat_takes_the_place_of_the_parked_one() -> None:
    waiters = Waiters(2, 2, 99)
    waiters.park(ticket(1, session=7), claim(), 5)
    waiters.park(ticket(2, session=8), claim(), 5)
    waiters.park(ticket(1, OTHER, session=7), claim(), 9)  # full, but nothing is added
    assert len(waiters.parked) == 2
    first = waiters.first_claim(RUNNING)
    assert first is not None
    assert (first.ticket.peer, first.ticket.seq, first.due_ms) == (OTHER, 1, 5)
    assert [parked.ticket.seq for parked in waiters.due(5)] == [1, 2]


def test_requests_without_a_session_are_told_apart_by_their_connection() -> None:
    waiters = Waiters(9, 9, 99)
    waiters.park(ticket(1), wait(A), 5)
    waiters.park(ticket(1, OTHER), wait(A), 5)
    waiters.park(ticket(1, session=1), wait(A), 5)
    waiters.park(ticket(1, session=2), wait(A), 5)
    waiters.park(ticket(1), wait(A), 5)
    assert len(waiters.parked) == 4
    due = list(waiters.due(5))
    assert len({parked.ticket.key for parked in due}) == 4


def test_another_command_by_the_same_number_replaces_the_first() -> None:
    waiters = Waiters(1, 1, 3)
    waiters.park(ticket(1), wait(A, B, C), 5)
    waiters.park(ticket(1), wait(A), 5)
    assert len(waiters.parked) == 1
    assert waiters.watched == 1
    waiters.park(ticket(1), claim(), 5)
    assert waiters.watched == 0
    assert waiters.awaiting(A, JobStatus.FAILED) == []


def test_no_more_commands_than_there_is_room_for() -> None:
    waiters = Waiters(2, 2, 99)
    waiters.park(ticket(1), wait(A), 5)
    waiters.park(ticket(2), claim(), 5)
    for command in (wait(A), claim()):
        with pytest.raises(OverloadedError) as caught:
            waiters.park(ticket(3), command, 5)
        assert caught.value.limit == 2
    assert len(waiters.parked) == 2
    waiters.remove(waiters.all_parked()[0])
    waiters.park(ticket(3), wait(A), 5)
    none = Waiters(0, 0, 9)
    with pytest.raises(OverloadedError):
        none.park(ticket(1), claim(), 5)


def test_no_more_commands_of_one_connection_than_its_share() -> None:
    waiters = Waiters(9, 2, 99)
    waiters.park(ticket(1), wait(A), 5)
    waiters.park(ticket(2), claim(), 5)
    with pytest.raises(OverloadedError) as refused:
        waiters.park(ticket(3), wait(A), 5)
    assert refused.value.limit == 2
    waiters.park(ticket(3, OTHER), wait(A), 5)  # another's share is its own
    waiters.remove(waiters.awaiting(A, JobStatus.FAILED)[0])
    waiters.park(ticket(4), wait(B), 5)
    for parked in waiters.all_parked():
        waiters.remove(parked)
    for counter in (waiters._by_peer, waiters._by_name, waiters._watched_by_name):
        assert not counter  # nothing is kept of who has left


def test_no_principal_takes_all_there_is_on_however_many_connections() -> None:
    waiters = Waiters(8, 9, 8)
    for seq in range(6):
        waiters.park(ticket(seq, peer=bytes([seq])), claim(), 5)
    with pytest.raises(OverloadedError) as refused:
        waiters.park(ticket(6, peer=b"6"), claim(), 5)
    assert refused.value.limit == 6
    waiters.park(Ticket(b"7", OBSERVER, 0, 7), claim(), 5)  # another's share is its own
    for parked in waiters.all_parked():
        waiters.remove(parked)
    waiters.park(ticket(1, peer=b"1"), wait(A, B, C), 5)
    waiters.park(ticket(1, peer=b"2"), wait(A, B, C), 5)
    with pytest.raises(OverloadedError) as refused:
        waiters.park(ticket(1, peer=b"3"), wait(A), 5)
    assert refused.value.limit == 6
    waiters.park(Ticket(b"4", OBSERVER, 0, 1), wait(A), 5)


def test_a_job_that_is_named_many_times_is_waited_for_once() -> None:
    waiters = Waiters(9, 9, 4)
    waiters.park(ticket(1), wait(*[A] * 1_000), 5)
    assert waiters.watched == 1
    waiters.remove(waiters.awaiting(A, JobStatus.FAILED)[0])
    assert waiters.watched == 0


def test_a_repeat_on_another_connection_is_of_that_ones_share() -> None:
    waiters = Waiters(9, 1, 99)
    waiters.park(ticket(1, PEER, session=7), wait(A), 5)
    waiters.park(ticket(1, OTHER, session=7), wait(A), 5)
    waiters.park(ticket(2), wait(B), 5)
    with pytest.raises(OverloadedError):
        waiters.park(ticket(3, OTHER), wait(B), 5)


def test_no_more_jobs_waited_for_than_there_is_room_for() -> None:
    waiters = Waiters(9, 9, 3)
    waiters.park(ticket(1), wait(A, B), 5)
    with pytest.raises(OverloadedError) as caught:
        waiters.park(ticket(2), wait(A, B), 5)
    assert caught.value.limit == 3
    assert len(waiters.parked) == 1
    assert len(waiters.awaiting(A, JobStatus.FAILED)) == 1
    waiters.park(ticket(3), wait(C), 5)
    waiters.park(ticket(4), claim(), 5)  # watches no job
    for parked in waiters.all_parked():
        waiters.remove(parked)
    waiters.park(ticket(5), wait(A, B, C), 5)


def test_what_waits_comes_up_when_its_time_is_over() -> None:
    waiters = Waiters(9, 9, 99)
    waiters.park(ticket(1), wait(A), 10)
    waiters.park(ticket(2), claim(), 5)
    assert waiters.next_due_ms() == 5
    for parked in waiters.due(5):
        waiters.remove(parked)
    assert waiters.next_due_ms() == 10
    assert [parked.ticket.seq for parked in waiters.due(10)] == [1]


def test_a_million_waits_leave_nothing_behind() -> None:
    waiters = Waiters(9, 9, 99)
    for turn in range(5 * SLACK):
        waiters.park(ticket(turn), wait(A), 1_000_000 + turn)
        waiters.remove(waiters.awaiting(A, JobStatus.FAILED)[0])
        waiters.park(ticket(0), claim(), 2_000_000)
    assert len(waiters.parked) == 1
    assert len(waiters._timers) <= 2 + SLACK
    assert not waiters._waits


@pytest.mark.parametrize(
    "whens", [[5, 1, 3], [5, 5, 1], [1, 5, 3], [5, 5, 5], [5, None, 1], [None, 5]], ids=str
)
def test_items_added_together_come_up_each_at_its_time(whens: list[int | None]) -> None:
    timers: Timers[int, int | None] = Timers(
        Timeline(NEVER_MS), lambda when: when, lambda _: True, lambda: 99
    )
    timers.add_all(whens)
    timers.add_all(whens)
    due = sorted([when for when in whens if when is not None] * 2)
    assert [*timers.due(2)] == [when for when in due if when <= 2]
    assert [*timers.due(9)] == [when for when in due if when > 2]

"""The standing leases, their tokens and their lapses."""

from collections.abc import Callable

import pytest

from tests.core import job_id
from tollgate.broker.core.leases import Leases
from tollgate.broker.core.timers import (
    SLACK,
)
from tollgate.domain.exceptions import LeaseHeldError, LeaseLostError
from tollgate.domain.models import JobStatus

RUNNING = JobStatus.RUNNING


AWAITING_PAYMENT = JobStatus.AWAITING_PAYMENT


A, B, C = job_id(1), job_id(2), job_id(3)


def test_a_job_has_one_lease_at_a_time() -> None:
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


def test_tokens_only_grow() -> None:
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


def test_an_ended_lease_is_lost() -> None:
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


def test_a_lease_lapses_once_at_its_time() -> None:
    leases = Leases()
    leases.grant(A, 1, 100, 0)
    leases.grant(B, 2, 50, 0)
    assert leases.timers.first_due() == 50
    assert list(leases.lapsed(49)) == []
    lapsed = []
    for lapsing, token in leases.lapsed(100):
        leases.lapse(lapsing, token)
        lapsed.append((lapsing, token))
    assert lapsed == [(B, 2), (A, 1)]
    assert list(leases.lapsed(10**9)) == []
    assert leases.lapses == {A: 1, B: 1}


def test_a_touch_moves_the_end_of_a_lease_either_way() -> None:
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


def test_a_million_touches_leave_few_timers() -> None:
    leases = Leases()
    leases.grant(A, 1, 100, 0)
    for now_ms in range(20 * SLACK):
        leases.touch(A, 1, 100, now_ms // 7)
    assert len(leases.timers) <= 2 + SLACK

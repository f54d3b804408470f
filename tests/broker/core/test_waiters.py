"""Parked commands: how they are found, replaced, bounded and ended."""

import pytest

from tests.core import ADMIN, EPOCH, HASH, OTHER, PEER, job_id
from tollgate.broker.core.roles import Principal, Role
from tollgate.broker.core.timers import (
    SLACK,
)
from tollgate.broker.core.waiters import Ticket, Waiters
from tollgate.domain.commands import Claim, Wait
from tollgate.domain.exceptions import OverloadedError
from tollgate.domain.models import Job, JobStatus

RUNNING = JobStatus.RUNNING


AWAITING_PAYMENT = JobStatus.AWAITING_PAYMENT


A, B, C = job_id(1), job_id(2), job_id(3)


OBSERVER = Principal("key:observer", frozenset({Role.OBSERVER}))


def shown(job_id: str, status: JobStatus) -> Job:
    return Job(
        job_id=job_id, status=status, input_hash=HASH, blockchain_identifier="x",
        created_at=EPOCH, updated_at=EPOCH,
    )  # fmt: skip


def claim(status: JobStatus = RUNNING, limit: int = 1) -> Claim:
    return Claim(status=status, lease_ms=1, wait_ms=1, limit=limit)


def wait(*job_ids: str, statuses: list[JobStatus] | None = None) -> Wait:
    return Wait(job_ids=list(job_ids), timeout_ms=1, statuses=statuses)


def ticket(seq: int, peer: bytes = PEER, session: int = 0) -> Ticket:
    return Ticket(peer, ADMIN, session, seq)


def test_a_wait_is_found_by_each_job_and_status() -> None:
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


def test_claims_of_a_status_are_served_first_come_first() -> None:
    waiters = Waiters(9, 9, 99)
    assert waiters.first_claim(RUNNING, "default") is None
    waiters.park(ticket(1), claim(), 5)
    waiters.park(ticket(2), claim(), 5)
    waiters.park(ticket(3), claim(AWAITING_PAYMENT), 5)
    assert set(waiters.claims) == {(RUNNING, "default"), (AWAITING_PAYMENT, "*")}
    first = waiters.first_claim(RUNNING, "default")
    assert first is not None
    assert first.ticket.seq == 1
    waiters.remove(first)
    second = waiters.first_claim(RUNNING, "default")
    assert second is not None
    assert second.ticket.seq == 2
    waiters.remove(second)
    assert list(waiters.claims) == [(AWAITING_PAYMENT, "*")]


def test_a_repeat_takes_the_place_of_its_parked_command() -> None:
    waiters = Waiters(2, 2, 99)
    waiters.park(ticket(1, session=7), claim(), 5)
    waiters.park(ticket(2, session=8), claim(), 5)
    waiters.park(ticket(1, OTHER, session=7), claim(), 9)  # full, but nothing is added
    assert len(waiters.parked) == 2
    first = waiters.first_claim(RUNNING, "default")
    assert first is not None
    assert (first.ticket.peer, first.ticket.seq, first.due_ms) == (OTHER, 1, 5)
    assert [parked.ticket.seq for parked in waiters.due(5)] == [1, 2]


def test_without_a_session_the_connection_is_in_the_key() -> None:
    waiters = Waiters(9, 9, 99)
    waiters.park(ticket(1), wait(A), 5)
    waiters.park(ticket(1, OTHER), wait(A), 5)
    waiters.park(ticket(1, session=1), wait(A), 5)
    waiters.park(ticket(1, session=2), wait(A), 5)
    waiters.park(ticket(1), wait(A), 5)
    assert len(waiters.parked) == 4
    due = list(waiters.due(5))
    assert len({parked.ticket.key for parked in due}) == 4


def test_another_command_of_the_same_seq_replaces_it() -> None:
    waiters = Waiters(1, 1, 3)
    waiters.park(ticket(1), wait(A, B, C), 5)
    waiters.park(ticket(1), wait(A), 5)
    assert len(waiters.parked) == 1
    assert waiters.watched == 1
    waiters.park(ticket(1), claim(), 5)
    assert waiters.watched == 0
    assert waiters.awaiting(A, JobStatus.FAILED) == []


def test_parked_commands_have_a_limit() -> None:
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


def test_parked_commands_of_several_principals_have_a_limit() -> None:
    waiters = Waiters(4, 9, 99)
    for seq in range(4):
        waiters.park(Ticket(PEER, ADMIN if seq % 2 else OBSERVER, 0, seq), claim(), 5)
    with pytest.raises(OverloadedError, match="4 commands are parked already") as caught:
        waiters.park(Ticket(OTHER, ADMIN, 0, 9), claim(), 5)
    assert caught.value.limit == 4


def test_parked_commands_of_a_connection_have_a_limit() -> None:
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
        assert not counter  # no entry is left of a peer without commands


def test_a_principal_gets_three_quarters_of_the_room() -> None:
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


def test_a_job_named_twice_by_a_wait_counts_once() -> None:
    waiters = Waiters(9, 9, 4)
    waiters.park(ticket(1), wait(*[A] * 1_000), 5)
    assert waiters.watched == 1
    waiters.remove(waiters.awaiting(A, JobStatus.FAILED)[0])
    assert waiters.watched == 0


def test_jobs_awaited_by_several_principals_have_a_limit() -> None:
    waiters = Waiters(9, 9, 4)
    waiters.park(Ticket(PEER, ADMIN, 0, 1), wait(A, B), 5)
    waiters.park(Ticket(PEER, OBSERVER, 0, 2), wait(A, B), 5)
    with pytest.raises(OverloadedError, match="4 jobs are waited for already") as caught:
        waiters.park(Ticket(OTHER, ADMIN, 0, 3), wait(C), 5)
    assert caught.value.limit == 4


def test_a_repeat_counts_for_its_new_connection() -> None:
    waiters = Waiters(9, 1, 99)
    waiters.park(ticket(1, PEER, session=7), wait(A), 5)
    waiters.park(ticket(1, OTHER, session=7), wait(A), 5)
    waiters.park(ticket(2), wait(B), 5)
    with pytest.raises(OverloadedError):
        waiters.park(ticket(3, OTHER), wait(B), 5)


def test_awaited_jobs_have_a_limit() -> None:
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


def test_a_parked_command_comes_up_at_its_end() -> None:
    waiters = Waiters(9, 9, 99)
    waiters.park(ticket(1), wait(A), 10)
    waiters.park(ticket(2), claim(), 5)
    assert waiters.next_due_ms() == 5
    for parked in waiters.due(5):
        waiters.remove(parked)
    assert waiters.next_due_ms() == 10
    assert [parked.ticket.seq for parked in waiters.due(10)] == [1]


def test_a_million_waits_leave_few_timers() -> None:
    waiters = Waiters(9, 9, 99)
    for turn in range(5 * SLACK):
        waiters.park(ticket(turn), wait(A), 1_000_000 + turn)
        waiters.remove(waiters.awaiting(A, JobStatus.FAILED)[0])
        waiters.park(ticket(0), claim(), 2_000_000)
    assert len(waiters.parked) == 1
    assert len(waiters.timers) <= 2 + SLACK
    assert not waiters._waits

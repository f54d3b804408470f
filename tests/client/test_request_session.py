"""A client session with a broker that remembers requests."""

import itertools

import pytest

from tollgate.client.errors import OutcomeUnknown
from tollgate.client.inflight import Call
from tollgate.client.sending import CHANGES_FIRST_SEQ, CLAIMS_FIRST_SEQ
from tollgate.domain.commands import Claim, Get, Hello, Release, Touch, Transition
from tollgate.domain.exceptions import (
    DrainingError,
    ExpiredError,
    JobNotFoundError,
    OverloadedError,
    Refusal,
    RequestConflictError,
    SessionEvictedError,
    StorageFullError,
    TollgateError,
)
from tollgate.domain.messages import Request
from tollgate.domain.results import Grant, HelloResult, LeasesResult, error_of
from tollgate.domain.status import JobStatus

from .peers import hello_result, job_fields, job_id, job_result, refused, reply
from .talk import Talk

MOVE = Transition(job_id=job_id(1), target=JobStatus.RUNNING)
READ = Get(job_id=job_id(1))
CLAIM = Claim(status=JobStatus.RUNNING, lease_ms=1_000, wait_ms=1_000, limit=1)


def greeting(session: int | None) -> HelloResult:
    hello = hello_result()
    hello.session, hello.remembers = session, session is not None
    return hello


@pytest.fixture
def talk() -> Talk:
    return Talk(remembers=True)


def open_session(talk: Talk, requests: list[Request], number: int = 7) -> list[Request]:
    """Answer the request that opens a session, and return what is sent then."""
    (request,) = requests
    assert request.commands == [Hello(open_session=True)]
    assert request.session == 0
    talk.hear(reply(request.seq, greeting(number)))
    return talk.requests()


def test_a_failed_opening_fails_the_waiting_requests(talk: Talk) -> None:
    moving, again, reading = talk.ask(MOVE), talk.ask(MOVE, READ), talk.ask(READ)
    hello, read = talk.requests()
    full = StorageFullError("the disk has no room for another session")
    talk.hear(reply(hello.seq, error_of(full)))
    assert [type(value) for value in moving.values + again.values] == [StorageFullError] * 3
    assert moving.done
    assert again.done
    talk.hear(reply(read.seq, job_result(1)))
    assert reading.done
    assert talk.session.idle
    later = talk.ask(MOVE)  # asks for one again
    (move,) = open_session(talk, talk.requests())
    talk.hear(reply(move.seq, job_result(1)))
    assert later.done
    assert not isinstance(later.values[0], TollgateError)


def test_only_changes_are_sent_in_a_session(talk: Talk) -> None:
    moving, reading = talk.ask(MOVE), talk.ask(READ)
    hello, read = talk.requests()
    assert (read.session, read.commands) == (0, [READ])
    (move,) = open_session(talk, [hello])
    assert (move.session, move.seq, move.acked) == (7, CHANGES_FIRST_SEQ, CHANGES_FIRST_SEQ - 1)
    talk.hear(reply(move.seq, job_result(1)))
    talk.hear(reply(read.seq, job_result(1)))
    assert moving.done
    assert reading.done


def test_a_session_request_is_repeated_unchanged(talk: Talk) -> None:
    call = talk.ask(MOVE, timeout_s=60)
    (first,) = open_session(talk, talk.requests())
    repeats = [*talk.wake(), *talk.wake()]
    assert repeats == [first, first]
    talk.hear(reply(first.seq, error_of(JobNotFoundError("x"))))
    assert isinstance(call.values[0], JobNotFoundError)


def test_finished_requests_are_acknowledged(talk: Talk) -> None:
    talk.ask(MOVE)
    (first,) = open_session(talk, talk.requests())
    talk.ask(MOVE)
    (second,) = talk.requests()
    assert second.acked == CHANGES_FIRST_SEQ - 1  # the first is still in flight
    talk.hear(reply(second.seq, job_result(1)))
    talk.hear(reply(first.seq, job_result(1)))
    talk.ask(MOVE)
    (third,) = talk.requests()
    assert third.acked == second.seq == third.seq - 1


def test_a_session_request_times_out_as_unknown(talk: Talk) -> None:
    call = talk.ask(MOVE, timeout_s=3)
    open_session(talk, talk.requests())
    talk.times_of_requests(talk.now + 10)
    assert isinstance(call.values[0], OutcomeUnknown)
    talk.ask(MOVE)
    (later,) = talk.requests()
    assert later.acked == CHANGES_FIRST_SEQ  # its caller has left: it must not come late


def test_requests_beyond_the_window_wait_in_order(
    talk: Talk,
) -> None:
    talk.ask(MOVE)
    first, *_ = open_session(talk, talk.requests())
    for _ in range(63):
        talk.ask(MOVE)
    assert len(talk.requests()) == 63
    late = talk.session.submit(itertools.chain([MOVE] * 1_000, [READ]), deadline=talk.now + 10)
    talk.session.pull(late)
    assert talk.requests() == []
    talk.hear(reply(first.seq, job_result(1)))
    move, read = talk.requests()
    assert move.seq == first.seq + 64
    assert move.acked == first.seq
    assert read.commands == [READ]


def test_a_waiting_claim_has_its_own_session(talk: Talk) -> None:
    talk.ask(CLAIM)
    (claim,) = open_session(talk, talk.requests(), number=8)
    assert (claim.session, claim.seq) == (8, CLAIMS_FIRST_SEQ)
    talk.ask(MOVE)
    (move,) = open_session(talk, talk.requests(), number=9)
    assert (move.session, move.seq) == (9, CHANGES_FIRST_SEQ)
    assert claim in talk.wake()


def test_an_evicted_session_is_replaced(talk: Talk) -> None:
    call = talk.ask(MOVE)
    (first,) = open_session(talk, talk.requests())
    talk.hear(refused(first.seq, SessionEvictedError("gone")))
    (again,) = open_session(talk, talk.wake(), number=8)
    assert again.session == 8
    assert again.seq > first.seq
    talk.hear(reply(again.seq, job_result(1)))
    assert call.done


def test_eviction_makes_a_repeated_request_unknown(talk: Talk) -> None:
    call = talk.ask(MOVE)
    (first,) = open_session(talk, talk.requests())
    assert talk.wake() == [first]
    talk.hear(refused(first.seq, SessionEvictedError("gone")))
    assert isinstance(call.values[0], OutcomeUnknown)


def test_a_parked_claim_is_sent_again_after_eviction(talk: Talk) -> None:
    call = talk.ask(CLAIM)
    (first,) = open_session(talk, talk.requests())
    talk.hear(reply(first.seq, error_of(SessionEvictedError("gone"))))
    (again,) = open_session(talk, talk.wake(), number=8)
    talk.hear(reply(again.seq, LeasesResult([])))
    assert call.values == [[]]


def test_an_expired_repeat_is_unknown(talk: Talk) -> None:
    call = talk.ask(MOVE)
    (first,) = open_session(talk, talk.requests())
    assert talk.wake() == [first]
    talk.now += 10
    talk.hear(refused(first.seq, ExpiredError("late")))
    assert isinstance(call.values[0], OutcomeUnknown)


def test_an_expired_first_copy_did_nothing(talk: Talk) -> None:
    call = talk.ask(MOVE)
    (first,) = open_session(talk, talk.requests())
    talk.now += 10
    talk.hear(refused(first.seq, ExpiredError("late")))
    assert isinstance(call.values[0], ExpiredError)


def test_a_conflict_of_requests_is_raised(talk: Talk) -> None:
    call = talk.ask(MOVE)
    (first,) = open_session(talk, talk.requests())
    talk.hear(refused(first.seq, RequestConflictError("another")))
    assert isinstance(call.values[0], RequestConflictError)


def test_without_memory_a_session_is_asked_for_once(talk: Talk) -> None:
    talk.ask(MOVE)
    (hello,) = talk.requests()
    talk.hear(reply(hello.seq, greeting(None)))
    (move,) = talk.requests()
    assert move.session == 0
    talk.ask(MOVE)
    (another,) = talk.requests()
    assert another.session == 0


def test_an_unneeded_session_is_not_opened(talk: Talk) -> None:
    call = talk.ask(MOVE)
    (hello,) = talk.requests()
    talk.session.abandon(call)
    assert talk.session.next_wakeup() is None
    talk.hear(reply(hello.seq, greeting(7)))  # too late, and no harm
    talk.ask(MOVE)
    assert open_session(talk, talk.requests(), number=8)[0].session == 8


def test_a_touch_needs_no_memory(talk: Talk) -> None:
    talk.ask(Touch(job_id=job_id(1), lease=1, lease_ms=1_000))
    (touch,) = talk.requests()
    assert touch.session == 0
    assert len(talk.wake()) == 1


def test_many_retried_calls_all_finish(talk: Talk) -> None:
    # More than the window holds, and woken in any order.
    jitters = itertools.cycle([0.9, 0.1, 0.5, 0.0, 1.0, 0.3])
    talk.session._jitter = lambda: next(jitters)
    calls = [talk.ask(MOVE, timeout_s=60) for _ in range(150)]
    requests = open_session(talk, talk.requests())
    refusals = len(calls)
    for _ in range(2_000):
        for request in requests:
            if refusals:
                refusals -= 1
                talk.hear(refused(request.seq, DrainingError("bye")))
            else:
                talk.hear(reply(request.seq, job_result(1)))
        requests = talk.requests()
        if not requests and not all(call.done for call in calls):
            requests = talk.wake()
    assert all(call.done for call in calls)
    assert not any(isinstance(call.values[0], Exception) for call in calls)


def test_repeats_keep_the_order_of_a_call(talk: Talk) -> None:
    talk.session._jitter = iter([0.5, 1.0, 0.0, *[0.5] * 100]).__next__  # the later wakes first
    moves = talk.session.submit([MOVE] * 2_000, deadline=talk.now + 60)
    talk.session.pull(moves)
    first, second = open_session(talk, talk.requests())
    assert [request.seq for request in talk.wake()] == [first.seq, second.seq]


def test_leases_of_a_late_claim_copy_are_released(talk: Talk) -> None:
    talk.ask(CLAIM)
    (claim,) = open_session(talk, talk.requests())
    assert talk.wake() == [claim]
    talk.hear(reply(claim.seq, LeasesResult([])))  # the first copy; now the second one is parked
    talk.hear(reply(claim.seq, LeasesResult([Grant(job_fields(1), 5)])))
    (release,) = open_session(talk, talk.requests())
    assert release.commands == [Release(job_id=job_id(1), lease=5)]


# --- refused copies -------------------------------------------------------------------------------


def sent_twice(talk: Talk, command: Claim | Transition) -> tuple[Call, Request]:
    """Return a call whose request was sent twice, and the request."""
    call = talk.ask(command)
    (first,) = open_session(talk, talk.requests())
    (again,) = talk.wake()
    assert (again.session, again.seq) == (first.session, first.seq)
    return call, first


@pytest.mark.parametrize("refusal", [OverloadedError("full"), DrainingError("bye")])
def test_a_copy_under_way_keeps_its_number(talk: Talk, refusal: Refusal) -> None:
    """The broker refused the first copy, and may still execute the second one."""
    call, first = sent_twice(talk, MOVE)
    talk.hear(refused(first.seq, refusal))
    (again,) = talk.wake()
    assert (again.session, again.seq, again.commands) == (7, first.seq, [MOVE])
    talk.hear(reply(first.seq, job_result(1)))
    assert call.done
    assert not isinstance(call.values[0], TollgateError)
    assert talk.session.idle


def test_leases_of_a_copy_behind_a_refused_one(talk: Talk) -> None:
    """There was no place for the claim; then a job was ready, and its copy got it."""
    call, first = sent_twice(talk, CLAIM)
    talk.hear(refused(first.seq, OverloadedError("1 commands are parked already")))
    talk.hear(reply(first.seq, LeasesResult([Grant(job_fields(1), 5)])))
    (leases,) = call.values
    assert [lease.token for lease in leases] == [5]


@pytest.mark.parametrize("refusal", [DrainingError("bye"), OverloadedError("full")])
def test_a_request_is_new_once_all_copies_are_refused(talk: Talk, refusal: Refusal) -> None:
    call, first = sent_twice(talk, MOVE)
    for _ in range(2):
        talk.hear(refused(first.seq, refusal))
    (new,) = talk.wake()
    assert (new.session, new.seq, new.acked) == (7, first.seq + 1, first.seq)
    talk.hear(reply(new.seq, job_result(1)))
    assert call.done


@pytest.mark.parametrize("left_after", ["sent", "refused"])
def test_leases_of_a_copy_are_released_if_nobody_waits(talk: Talk, left_after: str) -> None:
    """An answer to one copy says nothing about the other one."""
    call, first = sent_twice(talk, CLAIM)
    if left_after == "sent":
        talk.session.abandon(call)
    talk.hear(refused(first.seq, OverloadedError("1 commands are parked already")))
    if left_after == "refused":
        talk.session.abandon(call)
    talk.hear(reply(first.seq, LeasesResult([Grant(job_fields(1), 5)])))
    (release,) = open_session(talk, talk.requests(), number=8)
    assert release.commands == [Release(job_id=job_id(1), lease=5)]


def test_a_third_copy_of_a_claim_may_be_granted(talk: Talk) -> None:
    call, first = sent_twice(talk, CLAIM)
    assert [each.seq for each in talk.wake()] == [first.seq]
    talk.hear(reply(first.seq, LeasesResult([])))
    assert call.values == [[]]
    talk.hear(reply(first.seq, LeasesResult([])))
    assert not talk.session.idle
    talk.hear(reply(first.seq, LeasesResult([Grant(job_fields(1), 5)])))
    (release,) = open_session(talk, talk.requests(), number=8)
    assert release.commands == [Release(job_id=job_id(1), lease=5)]


def test_an_eviction_behind_a_refusal_did_nothing(talk: Talk) -> None:
    call, first = sent_twice(talk, MOVE)
    talk.hear(refused(first.seq, DrainingError("bye")))
    talk.hear(refused(first.seq, SessionEvictedError("another broker")))
    (again,) = open_session(talk, talk.wake(), number=8)
    assert (again.session, again.commands) == (8, [MOVE])
    talk.hear(reply(again.seq, job_result(1)))
    assert not isinstance(call.values[0], TollgateError)


def test_a_late_answer_says_what_was_refused(talk: Talk) -> None:
    call, first = sent_twice(talk, MOVE)
    talk.hear(refused(first.seq, OverloadedError("full")))
    while not call.done:
        talk.wake()
    (fault,) = call.values
    assert isinstance(fault, OutcomeUnknown)
    assert "it has refused a copy: full" in str(fault)


def test_a_refused_copy_acknowledges_what_was_answered_since(talk: Talk) -> None:
    """Otherwise a window that was closed for it would stay closed."""
    answered, waits = (
        talk.ask(MOVE),
        talk.ask(Transition(job_id=job_id(2), target=JobStatus.RUNNING)),
    )
    first, second = open_session(talk, talk.requests())
    while talk.session._requests[second.seq].sends < 2:
        talk.wake()
    talk.hear(reply(first.seq, job_result(1)))
    assert answered.done
    talk.hear(refused(second.seq, OverloadedError("full")))
    (again,) = talk.wake()
    assert (again.seq, again.acked) == (second.seq, first.seq)
    talk.hear(reply(again.seq, job_result(2)))
    assert waits.done

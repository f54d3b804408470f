"""Callers that leave, and the answers that come after that."""

import sys

import pytest

from tollgate.client.errors import ClientClosedError, ClosedOutcomeUnknown, OutcomeUnknown
from tollgate.client.session import OPENING
from tollgate.domain.commands import Claim, Count, Get, Release, Transition
from tollgate.domain.exceptions import DrainingError
from tollgate.domain.results import Grant, JobsResult, LeasesResult, OkResult
from tollgate.domain.status import JobStatus

from .peers import WALL_S, job_fields, job_id, job_result, refused, reply
from .talk import Talk

CLAIM = Claim(status=JobStatus.RUNNING, lease_ms=1_000, wait_ms=5_000, limit=1)
TRANSITION = Transition(job_id="a", target=JobStatus.RUNNING)


def test_an_abandoned_call_is_not_sent_or_repeated(talk: Talk) -> None:
    sent, unsent = talk.ask(Count()), talk.ask(Count())
    assert talk.session.next_frame(talk.now, WALL_S) is not None
    talk.session.sent(talk.now)
    talk.session.abandon(sent)
    talk.session.abandon(unsent)
    talk.session.abandon(unsent)
    assert talk.times_of_requests(talk.now + 30) == []
    talk.hear(reply(1, job_result(1)))
    assert talk.session.next_wakeup() is None


def test_a_call_abandoned_at_once_leaves_nothing(talk: Talk) -> None:
    talk.session.abandon(talk.ask(Count()))
    assert talk.requests() == []
    assert talk.session.next_wakeup() is None


def test_leases_of_an_abandoned_claim_are_released(talk: Talk) -> None:
    talk.session.abandon(talk.ask(CLAIM))
    abandoned = talk.ask(CLAIM)
    (request,) = talk.requests()
    talk.session.abandon(abandoned)
    grants = [Grant(job_fields(4), 40), Grant(job_fields(5), 50)]
    talk.hear(reply(request.seq, LeasesResult(grants)))

    (request,) = talk.requests()
    assert request.commands == [
        Release(job_id=job_id(4), lease=40),
        Release(job_id=job_id(5), lease=50),
    ]
    talk.hear(reply(request.seq, OkResult(), OkResult()))
    assert talk.session.next_wakeup() is None


def test_leases_of_an_expired_claim_are_released(talk: Talk) -> None:
    call = talk.ask(CLAIM)
    (request,) = talk.requests()
    talk.wake()
    assert type(call.values[0]) is OutcomeUnknown
    late = reply(request.seq, LeasesResult([Grant(job_fields(4), 40)]))
    talk.hear(late)
    assert [type(command) for sent in talk.requests() for command in sent.commands] == [Release]
    talk.hear(late)
    assert talk.requests() == []


@pytest.mark.parametrize("empty", [reply(1, LeasesResult([])), refused(1, DrainingError("no"))])
def test_an_empty_late_claim_releases_nothing(talk: Talk, empty: bytes) -> None:
    call = talk.ask(CLAIM)
    talk.requests()
    talk.session.abandon(call)
    talk.hear(empty)
    assert talk.requests() == []


def test_the_number_of_abandoned_claims_is_limited(talk: Talk) -> None:
    calls = [talk.ask(CLAIM) for _ in range(1_001)]
    talk.requests()
    for call in calls:
        talk.session.abandon(call)
    talk.hear(reply(1, LeasesResult([Grant(job_fields(1), 1)])))
    assert talk.requests() == []
    talk.hear(reply(2, LeasesResult([Grant(job_fields(2), 2)])))
    assert len(talk.requests()) == 1


def test_closing_fails_the_calls_in_flight(talk: Talk) -> None:
    read, change = talk.ask(Count()), talk.ask(TRANSITION)
    talk.requests()
    unsent = talk.ask(TRANSITION)
    talk.session.fail(ClientClosedError("closed"))
    outcomes = [type(call.values[0]) for call in (unsent, read, change)]
    assert outcomes == [ClientClosedError, ClientClosedError, ClosedOutcomeUnknown]
    assert unsent.done
    assert talk.session.next_wakeup() is None


def test_closing_fails_a_change_that_waits_for_its_session() -> None:
    talk = Talk(remembers=True)
    waits = talk.ask(TRANSITION)
    assert [request.commands for request in talk.requests()] == [[OPENING]]
    closed = ClientClosedError("closed")
    talk.session.fail(closed)
    assert waits.values == [closed]
    assert talk.session.idle


def test_an_unsendable_request_delays_no_others(talk: Talk) -> None:
    waits = talk.ask(Count())
    assert len(talk.requests()) == 1
    interrupted = talk.ask(Count())
    assert talk.session.next_frame(talk.now, WALL_S) is not None
    talk.session.abandon(interrupted)
    assert talk.times_of_requests(talk.now + 0.5) == [talk.now]
    assert not waits.done


def test_finished_requests_are_freed(talk: Talk) -> None:
    talk.ask(Count(), timeout_s=0.1)  # the first to be due, so ahead of the finished ones
    talk.requests()
    command = Get(job_id="a")
    before = sys.getrefcount(command)
    call = talk.ask(command)
    (request,) = talk.requests()
    assert sys.getrefcount(command) > before
    talk.hear(reply(request.seq, job_result(1)))
    assert call.done
    del call
    assert sys.getrefcount(command) == before


def test_timers_do_not_grow_with_finished_requests(talk: Talk) -> None:
    talk.ask(Count(), timeout_s=0.1)  # the first to be due, and so in front of all that is done
    talk.requests()
    for number in range(2, 1_002):
        talk.ask(Count())
        talk.requests()
        talk.hear(reply(number, JobsResult([], None)))
    assert len(talk.session._timers) < 100


def test_a_sent_request_is_repeated_whole(talk: Talk) -> None:
    asked = [Get(job_id="1"), Get(job_id="2")]
    call = talk.ask(*asked)
    assert [request.commands for request in talk.requests()] == [asked]
    talk.session.withdraw(call, {0})
    assert [request.commands for request in talk.wake()] == [asked]


def test_a_withdrawn_held_command_is_not_sent(talk: Talk) -> None:
    talk.session._bytes_max = 512  # a few commands a message, four messages at a time
    call = talk.ask(*(Get(job_id=str(number)) for number in range(90)))
    talk.session.withdraw(call, {89})
    sent = []
    while requests := talk.requests():
        for request in requests:
            sent += request.commands
            talk.hear(reply(request.seq, *(job_result(1) for _ in request.commands)))
        talk.session.pull(call)
    assert sent == [Get(job_id=str(number)) for number in range(89)]
    assert call.done

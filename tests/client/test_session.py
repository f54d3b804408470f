"""A session sends, repeats and gives up by its rules, without a socket or a clock."""

from collections.abc import Iterable
from datetime import timedelta

import pytest

from tollgate.client.errors import (
    BrokerUnreachableError,
    ClientClosedError,
    ClosedOutcomeUnknown,
    OutcomeUnknown,
)
from tollgate.domain.commands import (
    AnyCommand,
    Cancel,
    Claim,
    Count,
    Create,
    Get,
    Hello,
    List,
    Release,
    Transition,
    Wait,
)
from tollgate.domain.exceptions import (
    DrainingError,
    ExpiredError,
    JobNotFoundError,
    MalformedError,
    OverloadedError,
    ReplyFullError,
    RepositoryFullError,
    TollgateError,
    WaitTimeoutError,
)
from tollgate.domain.models import Job
from tollgate.domain.results import LeasesResult, OkResult, error_of
from tollgate.domain.status import JobStatus

from .peers import HASH, WALL, WALL_S, hello_result, job_id, job_result, refused, reply, wire_job
from .talk import Talk

CLAIM = Claim(status=JobStatus.RUNNING, lease_ms=1_000, wait_ms=5_000, limit=1)
TRANSITION = Transition(job_id="a", target=JobStatus.RUNNING)
READS = [
    Hello(),
    Get(job_id="a"),
    Count(),
    List(limit=1),
    Wait(job_ids=["a"], timeout_ms=1_000),
    Create(input_hash=HASH, job_id=job_id(1)),
]
CHANGES = [
    Create(input_hash=HASH),
    TRANSITION,
    Cancel(job_id="a"),
    Release(job_id="a", lease=1),
    CLAIM,
]


def test_a_reply_is_the_value_of_a_call(talk: Talk) -> None:
    call = talk.ask(Get(job_id="a"))
    (request,) = talk.requests()

    assert (request.v, request.session, request.seq, request.acked) == (1, 0, 1, 0)
    assert request.commands == [Get(job_id="a")]
    assert call.answered == 0

    talk.hear(reply(1, job_result(7)))

    assert call.done
    assert call.values == [Job(**wire_job(7))]
    assert talk.requests() == []
    assert talk.session.next_wakeup() is None


def test_a_request_is_valid_until_its_deadline(talk: Talk) -> None:
    talk.ask(Count(), timeout_s=7.5)
    (request,) = talk.requests()
    assert request.valid_until == WALL + timedelta(seconds=7.5)


def test_an_endless_request_is_valid_for_a_year(talk: Talk) -> None:
    talk.ask(Count(), timeout_s=float("inf"))
    (request,) = talk.requests()
    assert request.valid_until == WALL + timedelta(days=366)


def test_replies_may_come_in_any_order(talk: Talk) -> None:
    first, second = talk.ask(Get(job_id="a")), talk.ask(Get(job_id="b"))
    assert [request.seq for request in talk.requests()] == [1, 2]

    talk.hear(reply(2, job_result(2)))
    assert second.done
    assert not first.done
    talk.hear(reply(1, job_result(1)))

    assert [first.values[0].job_id, second.values[0].job_id] == [job_id(1), job_id(2)]


def test_a_second_reply_changes_nothing(talk: Talk) -> None:
    call = talk.ask(Get(job_id="a"))
    talk.requests()
    talk.hear(reply(1, job_result(1)))
    talk.hear(reply(1, job_result(2)))
    assert call.values == [Job(**wire_job(1))]
    assert talk.session.strays == 1


def test_a_reply_to_an_unsent_request_is_ignored(talk: Talk) -> None:
    call = talk.ask(Get(job_id="a"))
    talk.hear(reply(1, job_result(1)))
    talk.hear(b"\x82\xa1v\x01\xa3seq\x01")
    assert not call.done
    assert talk.session.strays == 2


def test_a_frame_stays_until_it_is_sent(talk: Talk) -> None:
    talk.ask(TRANSITION)
    frame = talk.session.next_frame(talk.now, WALL_S)
    assert frame is not None
    assert talk.session.next_frame(talk.now, WALL_S) == frame
    talk.session.sent(talk.now)
    assert talk.session.next_frame(talk.now, WALL_S) is None


def test_sent_returns_whether_there_are_more_frames(talk: Talk) -> None:
    talk.ask(Get(job_id="a"))
    talk.ask(Get(job_id="b"))
    more = []
    while talk.session.next_frame(talk.now, WALL_S) is not None:
        more.append(talk.session.sent(talk.now))
    assert more == [True, False]


def test_a_session_is_idle_once_all_is_answered(talk: Talk) -> None:
    seen = [talk.session.idle]
    talk.ask(Get(job_id="a"))
    seen.append(talk.session.idle)
    talk.requests()
    talk.hear(reply(1, job_result(1)))
    assert [*seen, talk.session.idle] == [True, False, True]


def test_an_abandoned_claim_keeps_a_session_busy(talk: Talk) -> None:
    call = talk.ask(CLAIM)
    talk.requests()
    talk.session.abandon(call)
    before = talk.session.idle
    talk.hear(reply(1, LeasesResult([])))
    assert [before, talk.session.idle] == [False, True]


# --- silence --------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", READS, ids=lambda command: type(command).__name__)
def test_safe_requests_are_repeated_with_backoff(talk: Talk, command: AnyCommand) -> None:
    call = talk.ask(command, timeout_s=20)
    assert len(talk.requests()) == 1
    start = talk.now

    times = talk.times_of_requests(start + 30)

    assert times == [start + after for after in (0.5, 1.5, 3.5, 7.5, 12.5, 17.5)]
    (error,) = call.values
    assert type(error) is (OutcomeUnknown if command.changes else BrokerUnreachableError)
    assert "nowhere did not answer in time" in str(error)


@pytest.mark.parametrize("command", READS + CHANGES, ids=lambda each: type(each).__name__)
def test_closing_says_what_may_have_been_changed(talk: Talk, command: AnyCommand) -> None:
    call = talk.ask(command)
    talk.requests()
    talk.session.fail(ClientClosedError("closed"))
    expected = ClosedOutcomeUnknown if command.changes else ClientClosedError
    assert type(call.values[0]) is expected


@pytest.mark.parametrize("command", CHANGES, ids=lambda command: type(command).__name__)
def test_unsafe_requests_are_sent_once(talk: Talk, command: AnyCommand) -> None:
    call = talk.ask(command)
    assert len(talk.requests()) == 1
    assert talk.times_of_requests(talk.now + 30) == []
    assert type(call.values[0]) is OutcomeUnknown


def test_an_overdue_request_is_not_sent(talk: Talk) -> None:
    call = talk.ask(Count(), timeout_s=0)
    assert talk.requests() == []
    assert type(call.values[0]) is BrokerUnreachableError


@pytest.mark.parametrize("command", [*READS, *CHANGES], ids=lambda command: type(command).__name__)
def test_an_unsent_request_has_a_known_outcome(talk: Talk, command: AnyCommand) -> None:
    call = talk.ask(command, timeout_s=10)
    assert talk.session.next_frame(talk.now, WALL_S) is not None  # and nothing takes it
    assert talk.session.next_wakeup() == talk.now + 10
    assert talk.session.next_frame(talk.now + 9.99, WALL_S) is not None

    assert talk.session.next_frame(talk.now + 10, WALL_S) is None

    assert type(call.values[0]) is BrokerUnreachableError
    assert str(call.values[0]) == "no broker at nowhere"


def test_one_unsafe_command_makes_its_request_unsafe(talk: Talk) -> None:
    call = talk.ask(Get(job_id="a"), TRANSITION)
    talk.requests()
    assert talk.times_of_requests(talk.now + 30) == []
    assert [type(value) for value in call.values] == [OutcomeUnknown] * 2


def test_a_repeat_is_the_same_request_again(talk: Talk) -> None:
    talk.ask(Create(input_hash=HASH, job_id=job_id(1)))
    (first,) = [*talk.frames()]
    talk.now += 0.5
    (second,) = [*talk.frames()]
    assert first == second


def test_a_repeated_wait_asks_for_the_time_left(talk: Talk) -> None:
    talk.ask(Wait(job_ids=["a"], timeout_ms=1_000), timeout_s=20)
    requests = talk.requests()
    for _ in range(3):
        requests += talk.wake()
    assert [request.seq for request in requests] == [1, 1, 1, 1]
    waits = [request.commands[0] for request in requests]
    assert [wait.timeout_ms for wait in waits if isinstance(wait, Wait)] == [1_000, 500, 0, 0]


def test_a_repeat_is_not_sent_after_the_answer(talk: Talk) -> None:
    call = talk.ask(Get(job_id="a"))
    talk.requests()
    talk.now += 0.5
    assert talk.session.next_frame(talk.now, WALL_S) is not None
    talk.hear(reply(1, job_result(1)))
    assert call.done
    assert talk.requests() == []


def test_an_answer_taken_after_the_deadline_counts(talk: Talk) -> None:
    call = talk.ask(TRANSITION)
    talk.requests()
    talk.now += 60
    talk.hear(reply(1, job_result(1)))
    assert talk.requests() == []
    assert isinstance(call.values[0], Job)


# --- refusals of whole messages -------------------------------------------------------------------


@pytest.mark.parametrize("refusal", [OverloadedError("full"), DrainingError("leaving")])
def test_a_retryable_refusal_makes_a_new_request(talk: Talk, refusal: TollgateError) -> None:
    call = talk.ask(TRANSITION)
    start = talk.now
    talk.requests()
    talk.hear(refused(1, refusal))
    assert talk.requests() == []

    (request,) = talk.wake()
    assert talk.now == start + 0.5
    assert request.seq == 2
    assert request.commands == [TRANSITION]
    talk.hear(refused(2, refusal))
    (request,) = talk.wake()
    assert talk.now == start + 1.5
    assert request.seq == 3
    talk.hear(reply(1, job_result(1)))  # a broken broker: it had refused this one
    assert not call.done
    talk.hear(reply(3, job_result(3)))

    assert call.values == [Job(**wire_job(3))]


def test_a_refusal_until_the_deadline_is_raised(talk: Talk) -> None:
    call = talk.ask(TRANSITION, timeout_s=1)
    talk.requests()
    talk.hear(refused(1, OverloadedError("full", limit=5)))
    (request,) = talk.wake()
    talk.hear(refused(request.seq, OverloadedError("full", limit=6)))
    assert talk.wake() == []
    (error,) = call.values
    assert isinstance(error, OverloadedError)
    assert error.limit == 6


def test_an_unanswered_new_request_is_unknown(talk: Talk) -> None:
    call = talk.ask(TRANSITION)
    talk.requests()
    talk.hear(refused(1, OverloadedError("full")))
    assert len(talk.wake()) == 1
    talk.wake()
    assert type(call.values[0]) is OutcomeUnknown


def test_a_refused_request_with_a_queued_repeat_goes_once(
    talk: Talk,
) -> None:
    call = talk.ask(Count())
    talk.requests()
    talk.now += 0.5
    assert talk.session.next_frame(talk.now, WALL_S) is not None  # the repeat, not taken yet
    talk.hear(refused(1, OverloadedError("full")))
    assert talk.requests() == []
    assert [request.seq for request in talk.wake()] == [2]
    assert not call.done


@pytest.mark.parametrize("refusal", [MalformedError("no"), ExpiredError("late")])
def test_a_refused_request_refuses_all_its_commands(talk: Talk, refusal: TollgateError) -> None:
    call = talk.ask(TRANSITION, Count())
    talk.requests()
    talk.now += 10
    talk.hear(refused(1, refusal))
    assert [type(value) for value in call.values] == [type(refusal)] * 2


# --- refusals of commands -------------------------------------------------------------------------


def test_refusals_of_commands_are_values(talk: Talk) -> None:
    call = talk.ask(Get(job_id="a"), Create(input_hash=HASH), Release(job_id="a", lease=1))
    talk.requests()
    talk.hear(
        reply(
            1,
            error_of(JobNotFoundError("a")),
            error_of(RepositoryFullError("full", limit=3)),
            OkResult(),
        )
    )
    missing, full, nothing = call.values
    assert isinstance(missing, JobNotFoundError)
    assert missing.job_id == "a"
    assert isinstance(full, RepositoryFullError)
    assert full.limit == 3
    assert nothing is None


def test_a_wait_timeout_is_not_retried(talk: Talk) -> None:
    call = talk.ask(Wait(job_ids=["a"], timeout_ms=10))
    talk.requests()
    talk.hear(reply(1, error_of(WaitTimeoutError("none"))))
    assert isinstance(call.values[0], WaitTimeoutError)


def test_results_without_room_are_asked_for_again(talk: Talk) -> None:
    call = talk.ask(*(Get(job_id=str(number)) for number in range(5)))
    talk.requests()
    full = error_of(ReplyFullError("no room"))
    talk.hear(reply(1, job_result(0), job_result(1), full, full, full))
    assert call.answered == 2

    (request,) = talk.requests()
    assert request.seq == 2
    assert request.commands == [Get(job_id=str(number)) for number in (2, 3, 4)]
    talk.hear(reply(2, job_result(2), error_of(JobNotFoundError("3")), full))
    (request,) = talk.requests()
    talk.hear(reply(3, full))  # alone, and still no room: there never will be

    kinds = [Job, Job, Job, JobNotFoundError, ReplyFullError]
    assert [type(value) for value in call.values] == kinds
    assert [value.job_id for value in call.values[:3]] == [job_id(n) for n in range(3)]
    assert call.done


def test_a_wait_ended_by_draining_is_sent_again(talk: Talk) -> None:
    call = talk.ask(Wait(job_ids=["a"], timeout_ms=10_000), timeout_s=20)
    talk.requests()
    talk.now += 0.2
    talk.hear(reply(1, error_of(DrainingError("leaving"))))
    (request,) = talk.wake()
    assert request.seq == 2
    (wait,) = request.commands
    assert isinstance(wait, Wait)
    assert wait.timeout_ms == 9_300
    talk.hear(reply(2, job_result(1)))
    assert isinstance(call.values[0], Job)


def test_a_claim_ended_by_draining_is_not_retried(talk: Talk) -> None:
    call = talk.ask(CLAIM)
    talk.requests()
    talk.hear(reply(1, error_of(DrainingError("leaving"))))
    assert isinstance(call.values[0], DrainingError)


# --- many messages --------------------------------------------------------------------------------


def test_a_call_has_a_limit_of_requests_in_flight(talk: Talk) -> None:
    pulled = []

    def commands() -> Iterable[AnyCommand]:
        for number in range(10_000):
            pulled.append(number)
            yield Get(job_id=str(number))

    call = talk.session.submit(commands(), deadline=0.0, each_s=10)
    talk.session.pull(call)

    requests = talk.requests()
    assert [len(request.commands) for request in requests] == [1_000] * 4
    assert len(pulled) == 4_000
    talk.hear(reply(2, *map(job_result, range(1_000))))
    assert call.answered == 1_000
    assert talk.requests() == []
    talk.session.pull(call)
    assert len(talk.requests()) == 1
    assert len(pulled) == 5_000


def test_hello_sets_the_limits_of_a_request(talk: Talk) -> None:
    talk.ask(Hello())
    talk.requests()
    greeting = hello_result(commands=3)
    talk.hear(reply(1, greeting))
    assert talk.session.greeting == greeting

    talk.ask(*(Get(job_id=str(number)) for number in range(7)))
    assert [len(request.commands) for request in talk.requests()] == [3, 3, 1]


def test_each_request_of_a_bulk_call_has_its_deadline(talk: Talk) -> None:
    call = talk.ask(Get(job_id="a"), each_s=10, timeout_s=-50)
    talk.requests()
    assert not call.done
    deadline = talk.now + 10
    talk.times_of_requests(deadline)
    assert talk.now == deadline
    assert type(call.values[0]) is BrokerUnreachableError


def test_nothing_is_sent_after_a_timeout(talk: Talk) -> None:
    talk.ask(Hello())
    talk.requests()
    talk.hear(reply(1, hello_result(commands=2)))
    call = talk.ask(*(TRANSITION for _ in range(20)), each_s=10)
    assert [len(request.commands) for request in talk.requests()] == [2] * 4
    talk.hear(reply(2, job_result(0), job_result(1)))
    talk.now += 5
    talk.session.pull(call)
    assert len(talk.requests()) == 1
    talk.now += 5
    assert talk.requests() == []  # messages 3 to 5 have had their time, message 6 has not
    assert call.answered == 8
    talk.session.pull(call)
    assert talk.requests() == []
    talk.hear(reply(6, job_result(8), job_result(9)))

    assert call.done
    kinds = [Job] * 2 + [OutcomeUnknown] * 6 + [Job] * 2
    assert [type(value) for value in call.values] == kinds


def test_a_held_command_gets_a_value_after_a_timeout(
    talk: Talk,
) -> None:
    wait = Wait(job_ids=["a"], timeout_ms=0)
    call = talk.session.submit([*[wait] * 4, TRANSITION, wait], deadline=talk.now + 10)
    talk.session.pull(call)
    for request in talk.requests()[:1]:
        talk.hear(reply(request.seq, job_result(1)))
    talk.session.pull(call)
    assert call.answered == 1
    assert len(talk.requests()) == 1
    talk.now += 10
    assert talk.requests() == []

    assert call.done
    assert [type(value) for value in call.values] == [
        Job,
        *[BrokerUnreachableError] * 3,
        OutcomeUnknown,
        BrokerUnreachableError,
    ]


def test_an_exception_among_the_commands_is_its_own_value(talk: Talk) -> None:
    bad = MalformedError("a bad row")
    call = talk.ask(bad, Get(job_id="a"), bad)
    (request,) = talk.requests()
    assert len(request.commands) == 1
    assert call.answered == 2
    talk.hear(reply(1, job_result(1)))
    assert call.values == [bad, Job(**wire_job(1)), bad]


def test_a_call_of_nothing_is_done_at_once(talk: Talk) -> None:
    call = talk.ask()
    assert call.done
    assert call.values == []
    assert talk.requests() == []


def test_callers_are_notified_of_values(talk: Talk) -> None:
    news: list[str] = []
    call = talk.session.submit(
        [Count()], deadline=talk.now + 10, notify=lambda: news.append("news")
    )
    talk.session.pull(call)
    talk.requests()
    assert news == []
    talk.now += 10
    talk.requests()
    assert news == ["news"]

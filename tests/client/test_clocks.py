"""The clocks of client and broker differ, or are set while both run: calls succeed all the same."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from time import time
from typing import Any

import pytest

from tollgate.client import connection
from tollgate.client.clock import UNTOLD_S
from tollgate.client.errors import OutcomeUnknown
from tollgate.domain.commands import AnyCommand, Count, Create, Hello, Release, date_of
from tollgate.domain.exceptions import ArgumentError, ExpiredError
from tollgate.domain.messages import Request
from tollgate.domain.results import AnyResult, HelloResult, OkResult

from .peers import (
    HASH,
    PATIENCE_S,
    WALL,
    WALL_S,
    BrokerProcess,
    ScriptedRouter,
    greeting,
    job_id,
    job_result,
    obliging,
    refused,
    reply,
)
from .talk import Talk
from .test_request_session import MOVE, open_session

LATE = ExpiredError("the request came after its valid_until")
FIRST = datetime.min.replace(tzinfo=UTC)
LAST = datetime.max.replace(tzinfo=UTC)
YEAR_S = 366 * 86_400.0


def valid_s(request: Request) -> float:
    assert request.valid_until is not None
    return request.valid_until.timestamp() - WALL_S


def at(offset_s: float, *, remembers: bool = False) -> HelloResult:
    """Return the greeting of a broker whose clock is that far ahead."""
    return greeting(time=WALL + timedelta(seconds=offset_s), remembers=remembers)


@pytest.mark.parametrize("offset_s", [0.0, 0.25, 3.0, -4.0, 7_200.0, -YEAR_S])
def test_requests_are_valid_by_the_brokers_clock(talk: Talk, offset_s: float) -> None:
    talk.greet(at(offset_s))
    talk.ask(Count())
    (request,) = talk.requests()
    assert valid_s(request) == pytest.approx(10 + offset_s)
    assert len(talk.warnings) == (abs(offset_s) > 5)


@pytest.mark.parametrize("told", [FIRST, datetime(1969, 12, 31, tzinfo=UTC), LAST])
def test_a_broker_at_the_end_of_all_dates(talk: Talk, told: datetime) -> None:
    """A deadline cannot be later than the last date: then the request is valid until that."""
    talk.greet(greeting(time=told))
    talk.ask(Count(), timeout_s=10)
    (request,) = talk.requests()
    assert request.valid_until is not None
    expected = LAST if told == LAST else told + timedelta(seconds=10)
    assert abs(request.valid_until - expected) < timedelta(milliseconds=1)


@pytest.mark.parametrize("unix_s", [-1e12, -62_135_596_801.0, 253_402_300_800.0, 1e12, 1e300])
def test_a_time_beyond_all_dates_is_the_first_or_the_last(unix_s: float) -> None:
    assert date_of(unix_s) == (FIRST if unix_s < 0 else LAST)


def test_half_of_the_round_trip_is_taken_off(talk: Talk) -> None:
    talk.greet(at(60), later_s=2)
    talk.ask(Count())
    (request,) = talk.requests()
    assert valid_s(request) == pytest.approx(10 + 59)


def test_a_slow_greeting_does_not_spoil_what_is_known(talk: Talk) -> None:
    talk.greet(at(60))
    talk.greet(at(60), later_s=8)  # the broker's clock may be 52 to 60 s ahead
    talk.ask(Count())
    (request,) = talk.requests()
    assert valid_s(request) == pytest.approx(10 + 60)


def test_a_difference_is_told_once(talk: Talk) -> None:
    for offset_s in (4, -600, 7_200, 0, 90):
        talk.greet(at(offset_s))
    assert len(talk.warnings) == 1
    assert "the clock of the broker at nowhere is 600 s behind this machine's" in talk.warnings[0]


def test_a_hello_is_valid_at_any_time(talk: Talk) -> None:
    talk.session.submit_one(talk.session.hello(), deadline=talk.now + 10)
    (request,) = talk.requests()
    assert request.valid_until is None


def test_an_early_expiry_asks_for_the_time_first(talk: Talk) -> None:
    talk.greet(at(0))
    call = talk.ask(Count())
    (first,) = talk.requests()
    talk.hear(refused(first.seq, LATE))
    (hello,) = talk.requests()
    assert hello.commands == [Hello()]
    talk.hear(reply(hello.seq, at(7_200)))
    (again,) = talk.requests()
    assert (again.seq, again.commands) == (first.seq, first.commands)
    assert valid_s(again) == pytest.approx(10 + 7_200)
    talk.hear(refused(first.seq, LATE))
    assert isinstance(call.values[0], ExpiredError)  # once only
    assert talk.requests() == []


def test_expiries_of_one_turn_ask_once(talk: Talk) -> None:
    talk.greet(at(0))
    calls = [talk.ask(Count()) for _ in range(5)]
    for request in talk.requests():
        talk.hear(refused(request.seq, LATE))
    (hello,) = talk.requests()
    talk.session.abandon(calls[0])
    talk.hear(reply(hello.seq, at(60)))
    assert [valid_s(again) for again in talk.requests()] == [pytest.approx(70)] * 4


def test_nothing_is_repeated_before_the_time_is_known(talk: Talk) -> None:
    talk.greet(at(0))
    call = talk.ask(Count(), timeout_s=10)
    (first,) = talk.requests()
    talk.hear(refused(first.seq, LATE))
    talk.hear(refused(first.seq, LATE))  # of a second copy
    while not call.done:
        assert {type(each.commands[0]) for each in talk.requests()} <= {Hello}
        talk.wake()
    assert talk.now == pytest.approx(110)


def test_a_broker_without_a_time_is_outrun(talk: Talk) -> None:
    talk.greet(greeting(time=None, revision=1))
    call = talk.ask(Count())
    (first,) = talk.requests()
    talk.hear(refused(first.seq, LATE))
    (again,) = talk.requests()
    assert valid_s(again) == pytest.approx(10 + UNTOLD_S)
    talk.hear(refused(first.seq, LATE))
    assert isinstance(call.values[0], ExpiredError)
    assert "is ahead of this machine's" in talk.warnings[0]
    assert len(talk.warnings) == 1


def test_a_change_keeps_its_number_in_its_session() -> None:
    talk = Talk(remembers=True)
    talk.greet(at(0, remembers=True))
    call = talk.ask(MOVE)
    (opening,) = talk.requests()
    talk.hear(reply(opening.seq, greeting(7)))
    (first,) = talk.requests()
    assert talk.wake() == [first]
    talk.hear(refused(first.seq, LATE))  # the first copy may have been executed: ask for its answer
    (hello,) = talk.requests()
    talk.hear(reply(hello.seq, at(60)))
    (again,) = talk.requests()
    assert (again.session, again.seq) == (first.session, first.seq)
    talk.hear(reply(again.seq, job_result(1)))
    assert call.done


def test_a_refusal_after_the_deadline_is_no_clocks() -> None:
    talk = Talk(remembers=True)
    talk.greet(at(0, remembers=True))
    call = talk.ask(MOVE)
    (first,) = open_session(talk, talk.requests())
    assert talk.wake() == [first]
    talk.now += 10
    talk.hear(refused(first.seq, LATE))
    assert isinstance(call.values[0], OutcomeUnknown)


def test_a_new_connection_measures_again_first(talk: Talk) -> None:
    talk.session.blocked(talk.now)  # before any greeting: there is nothing to measure again
    talk.greet(at(0))
    talk.ask(Count())
    assert talk.session.next_frame(talk.now, WALL_S) is not None
    for _ in range(3):
        talk.now += 0.5
        talk.session.blocked(talk.now)
    hello, count = talk.requests()
    assert (hello.commands, count.commands) == ([Hello()], [Count()])
    talk.hear(reply(hello.seq, at(60)))
    talk.ask(Count())
    (later,) = talk.requests()
    assert valid_s(later) == pytest.approx(70)


def test_a_busy_socket_is_no_new_connection(talk: Talk) -> None:
    talk.greet(at(0))
    talk.ask(Count())
    talk.now += 0.5
    talk.session.blocked(talk.now)
    assert [each.commands for each in talk.requests()] == [[Count()]]


def test_a_blocked_request_still_ends_in_time(talk: Talk) -> None:
    talk.greet(at(0))
    call = talk.ask(Count(), timeout_s=3)
    while not call.done:
        assert talk.session.next_frame(talk.now, WALL_S) is not None
        talk.session.blocked(talk.now)
        wakeup = talk.session.next_wakeup()
        assert wakeup is not None
        talk.now = wakeup
        talk.session.next_frame(talk.now, WALL_S)
    assert talk.now == 103


@pytest.mark.parametrize("offset_s", [0.0, 7_200.0])
def test_delays_are_by_the_brokers_clock(
    make_client: Callable[..., Any], endpoint: str, offset_s: float
) -> None:
    def answer(command: AnyCommand) -> AnyResult:
        return OkResult() if isinstance(command, Release) else job_result(1)

    def answer_all(request: Any) -> list[bytes]:
        now = WALL + timedelta(seconds=time() + offset_s - WALL_S)
        if isinstance(request.commands[0], Hello):
            return [reply(request.seq, greeting(time=now))]
        return obliging(answer)(request)

    with ScriptedRouter(endpoint, answer_all) as router:
        client = make_client(timeout_s=PATIENCE_S)
        client.create(HASH, job_id=job_id(1), delay_s=60)
        batch = client.batch()
        batch.create(HASH)
        batch.create(HASH, delay_s=timedelta(minutes=1))
        batch.send()
        client.create_many([{"input_hash": HASH, "delay_s": 60.0}, {"input_hash": HASH}])
        client.release("a", 1, delay_s=0.5)
    *creates, release = (each for each in router.commands() if not isinstance(each, Hello))
    delays = []
    for create in creates:
        assert isinstance(create, Create)
        if create.not_before is not None:
            delays.append(create.not_before.timestamp() - offset_s - time())
    assert delays == [pytest.approx(60, abs=PATIENCE_S / 2)] * 3
    assert release == Release(job_id="a", lease=1, delay_ms=500)


def test_a_delay_beyond_the_jobs_time_fails_alone(
    make_client: Callable[..., Any], endpoint: str
) -> None:
    with ScriptedRouter(endpoint, obliging(lambda _: job_result(1))):
        client = make_client(timeout_s=PATIENCE_S)
        batch = client.batch()
        batch.create(HASH, delay_s=60, submit_result_time=int(time()) + 5)
        batch.create(HASH)
        refusal, job = batch.send()
        assert isinstance(refusal, ArgumentError)
        assert job.job_id == job_id(1)


@pytest.mark.parametrize(
    "offsets",
    [(-30, 0), (-7_200, 7_200), (7_200, -7_200), (-56 * YEAR_S, 0), (0, -90_000, 90_000, 0)],
)
def test_clocks_may_differ_and_be_set(
    make_client: Callable[..., Any],
    broker: BrokerProcess,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    offsets: tuple[float, ...],
) -> None:
    client = make_client(broker.endpoint, timeout_s=PATIENCE_S / 2)
    for offset in offsets:
        monkeypatch.setattr(connection, "time", lambda offset=offset: time() + offset)
        job = client.create(input="a")
        assert client.get(job.job_id) == job
        assert client.wait(client.cancel(job.job_id).job_id).status == "failed"
        assert len(client.create_many(["0" * 64] * 3)) == 3
    told = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == 1

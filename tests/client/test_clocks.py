"""The clocks of client and broker differ, or are set while both run: calls succeed all the same."""

import logging
from collections.abc import Callable
from time import time
from typing import Any

import pytest

from tollgate.client import connection
from tollgate.client.errors import OutcomeUnknown
from tollgate.client.session import CLOCK_MARGINS_S
from tollgate.domain.commands import Count
from tollgate.domain.exceptions import ExpiredError
from tollgate.domain.messages import Request

from .peers import PATIENCE_S, WALL_S, BrokerProcess, job_result, refused, reply
from .talk import Talk
from .test_request_session import MOVE, open_session

LATE = ExpiredError("the request came after its valid_until")
YEAR_S = 366 * 86_400.0


def valid_s(request: Request) -> float:
    assert request.valid_until is not None
    return request.valid_until.timestamp() - WALL_S


def test_a_refusal_before_the_deadline_is_the_clocks(talk: Talk) -> None:
    call = talk.ask(Count())
    (first,) = talk.requests()
    assert valid_s(first) == 10
    for margin_s in CLOCK_MARGINS_S:
        talk.hear(refused(first.seq, LATE))
        (again,) = talk.requests()
        assert (again.seq, again.commands) == (first.seq, first.commands)
        assert valid_s(again) == pytest.approx(10 + margin_s)
    talk.hear(refused(first.seq, LATE))
    assert isinstance(call.values[0], ExpiredError)
    assert len(talk.warnings) == len(CLOCK_MARGINS_S)
    assert "the clock of the broker at nowhere is ahead" in talk.warnings[0]


def test_a_margin_holds_for_later_requests(talk: Talk) -> None:
    talk.ask(Count())
    (first,) = talk.requests()
    talk.hear(refused(first.seq, LATE))
    talk.requests()
    talk.ask(Count())
    (later,) = talk.requests()
    assert valid_s(later) == 70


def test_refusals_of_one_turn_raise_the_margin_once(talk: Talk) -> None:
    for _ in range(5):
        talk.ask(Count())
    for request in talk.requests():
        talk.hear(refused(request.seq, LATE))
    assert [valid_s(again) for again in talk.requests()] == [70.0] * 5


def test_a_change_keeps_its_number_in_its_session() -> None:
    talk = Talk(remembers=True)
    call = talk.ask(MOVE)
    (first,) = open_session(talk, talk.requests())
    assert talk.wake() == [first]
    talk.hear(refused(first.seq, LATE))  # the first copy may have been executed: ask for its answer
    (again,) = talk.requests()
    assert (again.session, again.seq) == (first.session, first.seq)
    talk.hear(reply(again.seq, job_result(1)))
    assert call.done


def test_a_refusal_after_the_deadline_is_no_clocks() -> None:
    talk = Talk(remembers=True)
    call = talk.ask(MOVE)
    (first,) = open_session(talk, talk.requests())
    assert talk.wake() == [first]
    talk.now += 10
    talk.hear(refused(first.seq, LATE))
    assert isinstance(call.values[0], OutcomeUnknown)


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
    assert bool(told) == (min(offsets) < -PATIENCE_S / 2)

"""Invalid answers of a broker, or of another service, are detected and never block a caller."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollgate.client.errors import BrokerUnreachableError, OutcomeUnknown, ProtocolError
from tollgate.domain.commands import Count, Get, Transition
from tollgate.domain.exceptions import MalformedError, Refusal
from tollgate.domain.models import Job
from tollgate.domain.results import ErrorResult, OkResult
from tollgate.domain.status import JobStatus

from .peers import encode, job_result, refused, reply, wire_job
from .talk import Talk

TRANSITION = Transition(job_id="a", target=JobStatus.RUNNING)


def error_of_the_answer(talk: Talk, frame: bytes) -> Any:
    call = talk.ask(Get(job_id="a"), Count())
    talk.requests()
    talk.hear(frame)
    assert call.done
    first, second = call.values
    assert first is second
    return first


@pytest.mark.parametrize(
    "results",
    [
        [{"type": "job", "job": wire_job()}],  # one for two
        [{"type": "ok"}] * 3,
        [],
        [{"type": "ok"}, {"type": "riddle"}],
        [{"type": "job", "job": {}}, {"type": "ok"}],
        [{"type": "job", "job": {**wire_job(), "status": "lost"}}, {"type": "ok"}],
        [{}, 7],
        "results",
        None,
    ],
    ids=str,
)
def test_results_that_do_not_fit(talk: Talk, results: Any) -> None:
    frame = encode({"type": "reply", "v": 1, "seq": 1, "results": results})
    assert type(error_of_the_answer(talk, frame)) is ProtocolError


@pytest.mark.parametrize(
    "frame",
    [
        encode({"type": "reply", "v": 2, "seq": 1, "results": [{"type": "ok"}] * 2}),
        encode({"type": "answer", "v": 1, "seq": 1}),
        encode({"v": 1, "seq": 1}),
        encode({"type": "refused", "v": 1, "seq": 1, "error": "no"}),
        reply(1, OkResult(), OkResult())[:-1] + b"\xc1",
    ],
    ids=str,
)
def test_envelopes_that_do_not_fit(talk: Talk, frame: bytes) -> None:
    call = talk.ask(Get(job_id="a"), Count())
    talk.requests()
    talk.hear(frame)
    talk.times_of_requests(talk.now + 10)
    assert {type(value) for value in call.values} <= {ProtocolError, BrokerUnreachableError}
    assert call.done


def test_a_wrong_result_is_an_error_of_its_command(talk: Talk) -> None:
    call = talk.ask(Get(job_id="a"), Count())
    talk.requests()
    talk.hear(reply(1, job_result(1), job_result(2)))
    job, error = call.values
    assert isinstance(job, Job)
    assert type(error) is ProtocolError
    assert str(error) == "a count was answered with a job"


def test_unknown_fields_of_a_reply_are_ignored(talk: Talk) -> None:
    call = talk.ask(Get(job_id="a"))
    talk.requests()
    job = {**wire_job(3), "colour": "green"}
    result = {"type": "job", "job": job, "mood": "fine"}
    talk.hear(encode({"type": "reply", "v": 1, "seq": 1, "results": [result], "age": 3}))
    assert call.values == [Job(**wire_job(3))]


def refused_with_an_unknown_code(retryable: bool) -> bytes:
    error = ErrorResult("tired", "not today", retryable)
    return encode({"type": "refused", "v": 1, "seq": 1, "error": error})


def test_an_unknown_retryable_code_is_retried(talk: Talk) -> None:
    call = talk.ask(TRANSITION)
    talk.requests()
    talk.hear(refused_with_an_unknown_code(retryable=True))
    assert not call.done
    assert len(talk.wake()) == 1


def test_an_unknown_code_is_a_plain_refusal(talk: Talk) -> None:
    call = talk.ask(TRANSITION)
    talk.requests()
    talk.hear(refused_with_an_unknown_code(retryable=False))
    (refusal,) = call.values
    assert type(refusal) is Refusal
    assert (refusal.code, refusal.retryable, str(refusal)) == ("tired", False, "not today")


@pytest.mark.parametrize(
    ("frame", "complaint"),
    [
        (b"HTTP/1.1 400 Bad Request", "not a TG/1 reply"),
        (b"", "not a TG/1 reply"),
        (refused(None, MalformedError("speak up")), "speak up"),
    ],
)
def test_a_timeout_error_quotes_a_stray_answer(talk: Talk, frame: bytes, complaint: str) -> None:
    call = talk.ask(TRANSITION)
    talk.requests()
    talk.hear(frame)
    assert not call.done
    assert talk.session.strays == 1
    talk.wake()
    (error,) = call.values
    assert type(error) is OutcomeUnknown
    assert complaint in str(error)


def test_a_valid_answer_clears_the_complaint(talk: Talk) -> None:
    talk.ask(Count())
    talk.requests()
    talk.hear(b"junk")
    talk.hear(reply(1, OkResult()))
    call = talk.ask(TRANSITION)
    talk.requests()
    talk.wake()
    assert "TG/1" not in str(call.values[0])


@given(st.binary(max_size=200))
def test_no_frame_raises_or_hangs(frame: bytes) -> None:
    talk = Talk()
    call = talk.ask(TRANSITION, Get(job_id="a"))
    talk.requests()
    talk.hear(frame)
    talk.times_of_requests(talk.now + 10)
    assert call.done


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(["reply", "job", "ok"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["type", "v", "seq", "results", "error", "job"]), inner, max_size=6
            )
        ),
    )
)
def test_no_messagepack_raises_or_hangs(message: Any) -> None:
    talk = Talk()
    call = talk.ask(TRANSITION, Get(job_id="a"))
    talk.requests()
    talk.hear(encode(message))
    talk.times_of_requests(talk.now + 10)
    assert call.done


def test_a_frame_nested_too_deeply_is_junk(talk: Talk) -> None:
    talk.ask(Count())
    talk.requests()
    talk.hear(b"\x82\xa1v\x01\xa3seq" + b"\x91" * 100_000)
    assert talk.session.strays == 1

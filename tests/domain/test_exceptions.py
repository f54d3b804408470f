"""Refusals: their attributes, and that these survive the wire and pickling."""

import copy
import pickle

import pytest

from tollgate.domain import exceptions
from tollgate.domain.exceptions import (
    REFUSALS,
    ArgumentError,
    InvalidStateTransitionError,
    JobNotFoundError,
    Refusal,
    TollgateError,
)
from tollgate.domain.results import ErrorResult, error_of, refusal_of

DETAILS: dict[str, object] = {
    "job_id": "11111111-2222-4333-8444-555555555555",
    "status": "running",
    "target": "completed",
    "version": 7,
    "allowed": ["completed", "failed"],
    "limit": 1_000,
    "oldest": "log-1-0",
    "newest": "log-9-0",
}
# From the design: the codes, and which of them may be tried again.
RETRYABLE = {
    "overloaded",
    "draining",
    "repository_full",
    "storage_full",
    "reply_full",
    "wait_timeout",
}
FINAL = {
    "unsupported_version",
    "malformed",
    "too_large",
    "expired",
    "session_evicted",
    "stale_request",
    "request_conflict",
    "not_authorized",
    "job_not_found",
    "job_conflict",
    "version_conflict",
    "lease_lost",
    "lease_held",
    "illegal_transition",
    "events_gone",
    "internal",
}


def test_every_refusal_has_its_own_documented_code() -> None:
    assert set(REFUSALS) <= RETRYABLE | FINAL
    assert all(refusal.code == code for code, refusal in REFUSALS.items())
    classes = {
        thing
        for thing in vars(exceptions).values()
        if isinstance(thing, type) and issubclass(thing, Refusal) and thing is not Refusal
    }
    assert classes - {ArgumentError} == set(REFUSALS.values())  # which no broker sends


@pytest.mark.parametrize("code", list(REFUSALS))
def test_which_refusals_are_retryable(code: str) -> None:
    assert REFUSALS[code].retryable == (code in RETRYABLE)


@pytest.mark.parametrize("code", list(REFUSALS))
def test_a_refusal_survives_the_wire(code: str) -> None:
    refusal = REFUSALS[code].rebuilt("no, because", dict(DETAILS))
    error = error_of(refusal)
    assert (error.code, error.retryable) == (code, code in RETRYABLE)
    again = refusal_of(error)
    assert type(again) is REFUSALS[code]
    assert str(again) == "no, because"
    assert {name: getattr(again, name) for name in DETAILS} == DETAILS
    assert error_of(again) == error


@pytest.mark.parametrize("retryable", [True, False])
def test_an_unknown_code_keeps_its_fields(retryable: bool) -> None:
    refusal = refusal_of(ErrorResult("too_tired", "zzz", retryable, version=3))
    assert type(refusal) is Refusal
    assert (refusal.code, refusal.retryable, refusal.version) == ("too_tired", retryable, 3)
    assert Refusal.code == "internal"  # the class is as it was
    assert Refusal.retryable is False
    assert error_of(refusal) == ErrorResult("too_tired", "zzz", retryable, version=3)
    again = pickle.loads(pickle.dumps(refusal))  # noqa: S301 - our own bytes
    assert (again.code, again.retryable) == ("too_tired", retryable)


@pytest.mark.parametrize("code", list(REFUSALS))
def test_a_refusal_passes_between_processes(code: str) -> None:
    refusal = REFUSALS[code].rebuilt("no, because", dict(DETAILS))
    for again in (
        pickle.loads(pickle.dumps(refusal)),  # noqa: S301 - our own bytes
        copy.copy(refusal),
        copy.deepcopy(refusal),
    ):
        assert type(again) is type(refusal)
        assert str(again) == str(refusal)
        assert vars(again) == vars(refusal)


def test_the_seeds_exceptions_keep_their_signatures() -> None:
    missing = JobNotFoundError("abc")
    assert missing.job_id == "abc"
    assert "abc" in str(missing)
    illegal = InvalidStateTransitionError("failed", "running")
    assert (illegal.from_state, illegal.to_state) == ("failed", "running")
    assert "failed" in str(illegal)
    assert "running" in str(illegal)
    by_name = InvalidStateTransitionError(from_state="failed", to_state="running", allowed=[])
    assert (by_name.status, by_name.target, by_name.allowed) == ("failed", "running", [])
    for refusal in (missing, illegal, by_name):
        again = pickle.loads(pickle.dumps(refusal))  # noqa: S301 - our own bytes
        assert (str(again), vars(again)) == (str(refusal), vars(refusal))


def test_from_and_to_state_are_always_text() -> None:
    refusal = InvalidStateTransitionError.rebuilt("no", {})
    assert (refusal.from_state, refusal.to_state) == ("", "")


def test_one_base_class_catches_all() -> None:
    assert all(issubclass(refusal, TollgateError) for refusal in REFUSALS.values())

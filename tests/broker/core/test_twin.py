"""The core against its naive twin: both answer every script alike, restarts included."""

from collections import Counter

import pytest

from tests.broker.core.pair import Pair, Script, fault_of, smallest
from tests.broker.core.scripts import written
from tests.broker.core.twin_commands import KINDS
from tests.sizes import sample
from tollgate.domain.exceptions import REFUSALS

LOTS = sample(1, 8)
SCRIPTS = sample(130, 250)
"""How many scripts a test plays, each from its own seed."""
STEPS = 70
OUTCOMES = {
    "annotate": "job, job_not_found, not_authorized, storage_full, too_large 8, version_conflict",
    "cancel": (
        "illegal_transition, job, job_not_found, not_authorized, storage_full, version_conflict"
    ),
    "claim": "leases, not_authorized, storage_full",
    "count": "count",
    "create": (
        "job, job_conflict, not_authorized, repository_full 10, repository_full 3, "
        "storage_full, too_large 10, too_large 6, too_large 8"
    ),
    "explain": "explained, job_not_found",
    "get": "job, job_not_found",
    "hello": "hello",
    "history": "history, job_not_found",
    "hold": (
        "illegal_transition, job, job_not_found, not_authorized, storage_full, too_large 8, "
        "version_conflict"
    ),
    "list": "jobs",
    "message": (
        "draining, "
        "expired, malformed, overloaded 3, overloaded 4, overloaded 2, overloaded 6, "
        "overloaded 64, overloaded 8, request_conflict, session_evicted, stale_request, "
        "too_large 6, unsupported_version"
    ),
    "pause_queue": "not_authorized, ok, repository_full 3, storage_full",
    "provide_input": (
        "illegal_transition, job, job_not_found, not_authorized, storage_full, too_large 10, "
        "too_large 32, version_conflict"
    ),
    "release": (
        "illegal_transition, job_not_found, lease_lost, not_authorized, ok, storage_full, "
        "too_large 8, too_large left"
    ),
    "request_stop": (
        "illegal_transition, job, job_not_found, not_authorized, storage_full, too_large 8, "
        "version_conflict"
    ),
    "resume": "job, job_not_found, not_authorized, storage_full, version_conflict",
    "resume_queue": "not_authorized, ok, storage_full",
    "settle": (
        "illegal_transition, job, job_not_found, lease_held, lease_lost, not_authorized, "
        "storage_full, too_large 8"
    ),
    "stats": "stats",
    "stop_waiting": "not_authorized, ok",
    "touch": "job_not_found, lease, lease_lost, not_authorized, too_large 8",
    "transition": (
        "illegal_transition, job, job_not_found, lease_held, lease_lost, not_authorized, "
        "storage_full, too_large 10, too_large 3, too_large 32, version_conflict"
    ),
    "wait": "job, job_not_found, wait_timeout",
}
"""What each command must come to in every lot of scripts, with the limits that it runs into.

`message` has what is refused as a whole.
"""
HAPPENS = {
    "a delayed job is due", "a history is too long", "a job fails by lapses",
    "a job fails by pay_by_time", "a job fails by submit_result_time", "a job is old",
    "a kept lease lapses", "a queue ends", "progress comes too soon", "too many are finished",
}  # fmt: skip
"""What must happen without a command of its own."""
NOT_REACHED = {"internal", "reply_full", "events_gone"}
"""Codes of which the twin knows nothing: faults, the room in a reply, and the feed."""
IN_TWIN = {name: kind for name, kind in KINDS.items() if name != "events"}
"""The feed of events is held against the jobs themselves: see test_feed."""


@pytest.mark.parametrize("lot", range(LOTS))
def test_the_core_answers_as_its_twin_does(lot: int) -> None:
    seen = play(lot * 10_000, SCRIPTS)
    missing = sorted(must_be_reached() - set(seen))
    assert not missing, f"no script reaches {missing}"


def play(first_seed: int, number: int) -> Counter[str]:
    """Play so many scripts; return how often each command had each outcome, and each option."""
    seen: Counter[str] = Counter()
    for seed in range(first_seed, first_seed + number):
        pair = Pair()
        script = Script()
        try:
            written(seed, pair, STEPS if seed % 10 else 5 * STEPS, script)
        except Exception as fault:  # noqa: BLE001 - of any kind: the real one is under test
            tell(seed, script, fault)
        seen += pair.seen + pair.twin.happened
    return seen


def tell(seed: int, script: Script, fault: Exception) -> None:
    """Fail, and show the shortest script with this fault."""
    first = fault_of(script, {}) or f"{type(fault).__name__} when it was written: {fault}"
    short = smallest(script, {}, first)
    steps = "\n".join(f"    {step}" for step in short)
    pytest.fail(f"seed {seed}: {fault_of(short, {}) or first}\nafter\n{steps}")


def must_be_reached() -> set[str]:
    outcomes = {f"{kind} {each}" for kind, told in OUTCOMES.items() for each in told.split(", ")}
    options = {
        f"{name} with {field}"
        for name, kind in IN_TWIN.items()
        for field in set(kind.__struct_fields__) - {"job_id"}
    }
    return outcomes | options | HAPPENS


def test_the_scripts_reach_every_kind_and_every_code() -> None:
    codes = {each.split()[0] for told in OUTCOMES.values() for each in told.split(", ")}
    assert codes >= REFUSALS.keys() - NOT_REACHED
    assert {*OUTCOMES} == {*IN_TWIN, "message"}


def test_a_script_with_a_fault_is_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    def forget(pair: Pair, _: object) -> None:
        if pair.twin.jobs:
            raise AssertionError("there is a job")

    monkeypatch.setattr(Pair, "do_audit", forget)
    script = Script()
    with pytest.raises(AssertionError):
        written(1, Pair(), STEPS, script)
    short = smallest(script, {}, fault_of(script, {}))
    assert [step["do"] for step in short] == ["say", "audit"]

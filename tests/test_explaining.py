"""The words for a job: each reason is named by its facts, and by nothing else."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from tests.brokers import ROOT
from tollgate.client.results import Explanation
from tollgate.domain.figures import ClientFigures, Coming, LastClaim, Legal
from tollgate.domain.models import Job
from tollgate.domain.results import (
    ExplainedResult,
    HistoryEntry,
    JobFields,
    LeaseInfo,
    Progress,
    Settlement,
)
from tollgate.domain.settlement import SettlementState
from tollgate.domain.status import JobStatus
from tollgate.explaining import in_words, reasons

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
HOUR = timedelta(hours=1)
WORKER = ClientFigures("key:gpu", "gpu@1", ["worker"], NOW - timedelta(seconds=9))
WAITING = msgspec.structs.replace(WORKER, parked_claims=1)
BUSY = msgspec.structs.replace(WORKER, leases=2)
GONE = msgspec.structs.replace(
    WORKER, seen=NOW - HOUR, last_claim=LastClaim("running", ["default"], NOW - HOUR)
)
LEASE = LeaseInfo("key:gpu", "gpu@1", 25_000)


def entry(what: str, ago: timedelta = HOUR, **fields: Any) -> HistoryEntry:
    return HistoryEntry(NOW - ago, what, **fields)


def settled(state: str, **fields: Any) -> Settlement:
    return Settlement(SettlementState(state), NOW - HOUR, **fields)


def explained(status: str = "running", *, job: Any = None, **facts: Any) -> Explanation:
    made = JobFields(
        job_id="id",
        status=JobStatus(status),
        input_hash="0" * 64,
        blockchain_identifier="pay",
        created_at=NOW - 2 * HOUR,
        updated_at=NOW - HOUR,
        version=2,
        **(job or {}),
    )
    known = {
        "as_of": "p", "time": NOW, "writable": True, "entries": [entry("created", 2 * HOUR)],
        "claimed_for": status, "lapses_max": 5,
    }  # fmt: skip
    told = ExplainedResult(**{"job": made, **known, **facts})
    return Explanation(Job.from_checked(made), told)


HELD: dict[str, Any] = {"job": {"lease": LEASE}, "lease_ms": 30_000}
TABLE: dict[str, tuple[Explanation, list[str], str]] = {
    "unpaid": (explained("awaiting_payment", claimable=True), ["unpaid"], "not confirmed"),
    "unpaid too long": (
        explained("awaiting_payment", job={"pay_by_time": NOW - HOUR}),
        ["unpaid"],
        "was due 1 h ago",
    ),
    "asks": (explained("awaiting_input"), ["needs_input"], "not been answered"),
    "completed": (explained("completed"), ["completed"], "completed"),
    "failed": (
        explained("failed", job={"error": "KeyError: 'x'\nlines"}),
        ["failed"],
        "KeyError: 'x' lines",
    ),
    "disk full": (
        explained(claimable=True, writable=False, parked_claims=1),
        ["not_writable", "next"],
        "disk is full",
    ),
    "on hold": (
        explained(
            job={"on_hold": True},
            entries=[entry("held", by="uid:1", client="ops", reason="a bug")],
        ),
        ["on_hold"],
        "put on hold 1 h ago, by ops (uid:1): a bug",
    ),
    "stop requested": (
        explained(**(HELD | {"job": {"lease": LEASE, "stop_requested": True}})),
        ["stop_requested", "held"],
        "asked to stop",
    ),
    "queue paused": (explained(paused=True), ["queue_paused"], "queue default is paused"),
    "delayed": (
        explained(
            job={"not_before": NOW + HOUR}, coming=[Coming("not_before", NOW + HOUR, "it ends")]
        ),
        ["delayed"],
        "can be claimed in 1 h",
    ),
    "the clock was set back": (
        explained(
            job={"not_before": NOW + 24 * HOUR},
            coming=[Coming("not_before", NOW + HOUR, "it ends")],
            time=NOW - 2 * HOUR,
        ),
        ["clock_set_back", "delayed"],
        "its last change is 1 h ahead of that clock",
    ),
    "the delay is over": (
        explained(job={"not_before": NOW - HOUR}, claimable=True, parked_claims=2),
        ["next"],
        "next for 2 claims",
    ),
    "held": (
        explained(**HELD, entries=[entry("claimed", timedelta(minutes=3))]),
        ["held"],
        "gpu@1 (key:gpu) has held it for 3 min; the lease lapses in 25 s",
    ),
    "a lost worker": (
        explained(
            job={"lease": msgspec.structs.replace(LEASE, left_ms=4_000)},
            lease_ms=30_000,
            entries=[entry("claimed", timedelta(seconds=26))],
        ),
        ["held", "holder_silent"],
        "has not touched the lease for 26 s",
    ),
    "a handler that hangs": (
        explained(**HELD, entries=[entry("claimed")]),
        ["held", "no_progress"],
        "no progress for 1 h",
    ),
    "old progress": (
        explained(
            **(HELD | {"job": {"lease": LEASE, "progress": Progress("x", None, NOW - HOUR / 2)}}),
            entries=[entry("claimed")],
        ),
        ["held", "no_progress"],
        "no progress for 30 min",
    ),
    "new progress": (
        explained(
            **(HELD | {"job": {"lease": LEASE, "progress": Progress("x", None, NOW)}}),
            entries=[entry("claimed")],
        ),
        ["held"],
        "has held it for 1 h",
    ),
    "no worker": (
        explained(claimable=True),
        ["no_claims"],
        "no client has claimed jobs of queue default since the broker started",
    ),
    "workers that left": (
        explained(claimable=True, claimants=[GONE]),
        ["claimants_gone"],
        "gpu@1 (key:gpu), seen 1 h ago",
    ),
    "busy workers": (
        explained(claimable=True, before=3, claimants=[BUSY, GONE], claimants_left_out=4),
        ["behind", "claimants_busy"],
        "3 ready jobs of this or a better priority come before it",
    ),
    "busy workers by name": (
        explained(claimable=True, claimants=[BUSY, GONE], claimants_left_out=4),
        ["claimants_busy"],
        "gpu@1 (key:gpu), holds 2 jobs",
    ),
    "a long line": (
        explained(claimable=True, before=5_000, before_at_least=True, parked_claims=1),
        ["behind"],
        "at least 5,000 ready jobs",
    ),
    "poison": (
        explained(
            job={"attempts": 2},
            claimable=True,
            claimants=[WAITING],
            parked_claims=1,
            entries=[
                entry("released", attempt=1, reason="first"),
                entry("released", attempt=2, reason="ValueError: bad"),
            ],
        ),
        ["next", "tried"],
        "2 tries have ended without an outcome; the last said: ValueError: bad",
    ),
    "lapses": (
        explained(
            claimable=True,
            parked_claims=1,
            lapses=4,
            entries=[entry("lapsed", attempt=4, reason="gpu@1")],
        ),
        ["next", "lapsed"],
        "4 leases of it lapsed, last of gpu@1; at 5 it fails",
    ),
    "a settlement without a watcher": (
        explained(
            "completed", job={"settlement": settled("wanted")}, claimed_for="wanted", claimable=True
        ),
        ["completed", "no_claims"],
        "no client has claimed settlements that are wanted",
    ),
    "a settlement tried later": (
        explained(
            "completed",
            job={"settlement": settled("submitted", not_before=NOW + HOUR)},
            claimed_for="submitted",
            coming=[Coming("settlement.not_before", NOW + HOUR, "it ends")],
        ),
        ["completed", "delayed"],
        "can be claimed in 1 h",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_a_reason_is_named(name: str) -> None:
    explanation, codes, text = TABLE[name]
    found = reasons(explanation)
    assert [reason.code for reason in found] == codes
    assert any(text in reason.text for reason in found)


def test_every_code_has_a_row() -> None:
    named = {code for _, codes, _ in TABLE.values() for code in codes}
    assert named == {
        "not_writable", "clock_set_back", "completed", "failed", "unpaid", "needs_input", "on_hold",
        "stop_requested", "queue_paused", "delayed", "held", "holder_silent", "no_progress",
        "behind", "next", "no_claims", "claimants_gone", "claimants_busy", "lapsed", "tried",
    }  # fmt: skip
    guide = (ROOT / "docs" / "guides" / "operations.md").read_text()
    stuck = guide.partition("## A stuck job")[2].partition("\n## ")[0]
    assert all(f"`{code}`" in stuck for code in named)


@pytest.mark.parametrize("state", SettlementState)
def test_a_settlement_says_what_happens_next(state: SettlementState) -> None:
    settlement = settled(state, reason="no\nway", on_chain_state="Disputed")
    status = "failed" if state is SettlementState.CLOSED else "completed"
    words = in_words(explained(status, job={"settlement": settlement}, claimed_for=state.value))
    assert words.settlement[0].startswith(f"{state.value} for 1 h: ")
    assert words.settlement[1:] == ["reason: no way", "on chain: Disputed"]


def test_a_settlement_that_is_tried_again_says_when() -> None:
    settlement = settled("wanted", not_before=NOW + HOUR)
    coming = [Coming("settlement.not_before", NOW + HOUR, "it ends")]
    job = {"settlement": settlement}
    words = in_words(explained("completed", job=job, claimed_for="wanted", coming=coming))
    assert words.settlement[-1] == "it is tried again in 1 h"


def test_words_tell_where_what_comes_and_what_is_legal() -> None:
    words = in_words(
        explained(
            job={"queue": "mail", "priority": 2},
            coming=[Coming("submit_result_time", NOW + HOUR, "the job fails")],
            legal=[Legal("transition", ["worker"], "failed"), Legal("claim", [])],
        )
    )
    assert words.where == "running for 1 h, queue mail, priority 2"
    assert words.next == ["in 1 h: the job fails"]
    assert words.legal == ["transition to failed: worker", "claim: no role"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda facts: facts.entries.clear(),
        lambda facts: setattr(facts, "time", NOW - 5 * HOUR),  # a clock that was set back
    ],
)
def test_missing_facts_make_no_fault(spoil: Callable[[ExplainedResult], object]) -> None:
    for explanation, _, _ in TABLE.values():
        facts = msgspec.structs.replace(explanation.facts, entries=[*explanation.facts.entries])
        spoil(facts)
        assert in_words(Explanation(explanation.job, facts)).reasons

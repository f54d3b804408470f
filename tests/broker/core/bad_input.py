"""Bad input, one row each: docs/protocol.md has a table of the same names.

A row has what is done before, the bad command, and the code of its refusal, with the `limit` that
comes with it. `malformed` refuses the whole message. Every bound has a row on either side of it:
the last value that is taken is in `GOOD`.
"""

from datetime import timedelta
from typing import Any, NamedTuple

from tests.core import EPOCH, HASH, job_id

Wire = dict[str, Any]
J, K, UNKNOWN = job_id(901), job_id(902), job_id(999)
DAY_MS, HOUR_MS, YEAR_MS = 86_400_000, 3_600_000, 31_536_000_000
TRACE = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
LEASE = 1
"""The token of the first claim."""


def create(**fields: Any) -> Wire:
    return {"type": "create", "input_hash": HASH, "job_id": J, **fields}


def move(target: str, **fields: Any) -> Wire:
    return {"type": "transition", "job_id": J, "target": target, **fields}


def claim(**fields: Any) -> Wire:
    return {"type": "claim", "lease_ms": 1_000, "wait_ms": 0, "limit": 1, **fields}


def about(kind: str, **fields: Any) -> Wire:
    return {"type": kind, "job_id": J, **fields}


def release(**fields: Any) -> Wire:
    return about("release", lease=LEASE, **fields)


def touch(**fields: Any) -> Wire:
    return about("touch", lease=LEASE, lease_ms=1_000, **fields)


def answer(**fields: Any) -> Wire:
    return about("provide_input", **{"input": "x", **fields})


def settle(**fields: Any) -> Wire:
    return about("settle", **fields)


def _questions(number: int, text: str = "") -> list[Wire]:
    """Ask and answer so often: each answer has this text."""
    rounds: list[Wire] = []
    for version in range(2, 2 + 2 * number, 2):
        rounds += [move("awaiting_input"), answer(input=text, expected_version=version + 1)]
    return rounds


_PAID = [create(), move("running")]
_LEASED = [*_PAID, claim(status="running")]
_TO_SETTLE = [create(settle=True), move("running"), move("completed")]
_SUBMITTED = [*_TO_SETTLE, settle(to="submitted")]
_PART = "x" * 65_536
STARTS: dict[str, list[Wire]] = {
    "nothing": [],
    "unpaid": [create()],
    "running": _PAID,
    "leased": _LEASED,
    "on hold": [*_PAID, about("hold")],
    "asking": [*_PAID, move("awaiting_input")],
    "completed": [*_PAID, move("completed")],
    "failed": [create(), about("cancel")],
    "due": [
        create(submit_result_time=EPOCH + timedelta(seconds=10)), move("running"),
        claim(status="running"),
    ],
    "no meta": [create(meta="")],
    "described": [create(queue="a", priority=3, meta="m", settle=True)],
    "pending": [create(settle=True), move("running")],
    "wanted": _TO_SETTLE,
    "wanted, leased": [*_TO_SETTLE, claim(settlement="wanted")],
    "submitted": _SUBMITTED,
    "manual": [*_TO_SETTLE, settle(to="manual")],
    "confirmed": [*_SUBMITTED, settle(to="confirmed")],
    "full of queues": [create(job_id=job_id(2_000 + n), queue=f"q{n}") for n in range(1_000)],
    "paused queues": [{"type": "pause_queue", "queue": f"q{n}"} for n in range(1_000)],
    "32 questions": [*_PAID, *_questions(32)],
    "full of answers": [*_PAID, *_questions(4, _PART)],
    "full, asking": [*_PAID, *_questions(3, _PART), move("awaiting_input", input_schema=_PART)],
}  # fmt: skip


class Row(NamedTuple):
    start: str
    command: Wire
    code: str = ""
    limit: int | None = None
    role: str = "admin"


M = "malformed"
BAD: dict[str, Row] = {
    # hello
    "hello-client-empty": Row("nothing", {"type": "hello", "client": ""}, M),
    "hello-client-long": Row("nothing", {"type": "hello", "client": "c" * 65}, M),
    "hello-client-form": Row("nothing", {"type": "hello", "client": "two words"}, M),
    # create
    "create-queue-empty": Row("nothing", create(queue=""), M),
    "create-queue-long": Row("nothing", create(queue="q" * 65), M),
    "create-queue-form": Row("nothing", create(queue="a/b"), M),
    "create-queue-line-break": Row("nothing", create(queue="a\n"), M),
    "create-queue-star": Row("nothing", create(queue="*"), M),
    "create-queue-1001st": Row("full of queues", create(queue="new"), "repository_full", 1_000),
    "create-priority-low": Row("nothing", create(priority=10), M),
    "create-priority-negative": Row("nothing", create(priority=-1), M),
    "create-priority-float": Row("nothing", create(priority=1.0), M),
    "create-not-before-naive": Row("nothing", create(not_before="2026-01-01T00:00:00"), M),
    "create-not-before-past-deadline": Row(
        "nothing", create(not_before=EPOCH, submit_result_time=EPOCH), M
    ),
    "create-meta-long": Row("nothing", create(meta="é" * 2_049), "too_large", 4_096),
    "create-traceparent-short": Row("nothing", create(traceparent=TRACE[:-1]), M),
    "create-traceparent-form": Row("nothing", create(traceparent=TRACE.upper()), M),
    "create-settle-text": Row("nothing", create(settle="yes"), M),
    "create-identifier-long": Row(
        "nothing", create(blockchain_identifier="b" * 8_001), "too_large", 8_000
    ),
    "create-again-queue": Row("described", create(queue="b"), "job_conflict"),
    "create-again-priority": Row("described", create(priority=4), "job_conflict"),
    "create-again-meta": Row("described", create(meta="n"), "job_conflict"),
    "create-again-settle": Row("unpaid", create(settle=True), "job_conflict"),
    # get, count, list, history
    "get-lease-number": Row("unpaid", about("get", lease=1), M),
    "count-status-and-settlement": Row(
        "nothing", {"type": "count", "status": "running", "settlement": "wanted"}, M
    ),
    "count-queue-form": Row("nothing", {"type": "count", "queue": "*"}, M),
    "count-settlement-unknown": Row("nothing", {"type": "count", "settlement": "done"}, M),
    "list-status-and-settlement": Row(
        "nothing", {"type": "list", "limit": 1, "status": "running", "settlement": "wanted"}, M
    ),
    "list-queue-form": Row("nothing", {"type": "list", "limit": 1, "queue": "a b"}, M),
    "list-limit": Row("nothing", {"type": "list", "limit": 1_001}, M),
    "list-after-form": Row("nothing", {"type": "list", "limit": 1, "after": "x"}, M),
    "history-unknown": Row("nothing", about("history"), "job_not_found"),
    "explain-unknown": Row("nothing", about("explain"), "job_not_found"),
    "explain-no-id": Row("nothing", {"type": "explain"}, M),
    "stats-queue-form": Row("nothing", {"type": "stats", "queue": "a b"}, M),
    "history-no-id": Row("nothing", {"type": "history"}, M),
    # events
    "events-limit": Row("nothing", {"type": "events", "limit": 1_001}, M),
    "events-queue-form": Row("nothing", {"type": "events", "queues": ["*"]}, M),
    "events-no-queue": Row("nothing", {"type": "events", "queues": []}, M),
    "events-status-unknown": Row("nothing", {"type": "events", "statuses": ["paid"]}, M),
    "events-after-empty": Row("nothing", {"type": "events", "after": ""}, M),
    "events-after-elsewhere": Row(
        "nothing", {"type": "events", "after": "elsewhere-1-0"}, "events_gone"
    ),
    "events-after-form": Row("nothing", {"type": "events", "after": "x"}, "events_gone"),
    # transition
    "transition-keep-lease-target": Row("leased", move("completed", lease=1, keep_lease=True), M),
    "transition-keep-lease-no-lease": Row("running", move("awaiting_input", keep_lease=True), M),
    "transition-keep-lease-lost": Row(
        "leased", move("awaiting_input", lease=9, keep_lease=True), "lease_lost"
    ),
    "transition-held": Row("leased", move("completed"), "lease_held"),
    "transition-force-lease": Row(
        "leased", move("failed", force=True, lease=1, expected_version=2), M
    ),
    "transition-force-no-version": Row("leased", move("failed", force=True), M),
    "transition-force-version": Row(
        "leased", move("failed", force=True, expected_version=1), "version_conflict"
    ),
    "transition-force-illegal": Row(
        "leased", move("awaiting_payment", force=True, expected_version=2), "illegal_transition"
    ),
    "transition-force-role": Row(
        "leased", move("failed", force=True, expected_version=2), "not_authorized", role="worker"
    ),
    "transition-force-role-unknown": Row(
        "nothing", move("failed", force=True, expected_version=2), "not_authorized", role="worker"
    ),
    "transition-gate-role": Row("unpaid", move("running"), "not_authorized", role="worker"),
    "transition-work-role": Row("running", move("completed"), "not_authorized", role="payments"),
    "transition-33rd-question": Row("32 questions", move("awaiting_input"), "too_large", 32),
    "transition-inputs-long": Row(
        "full of answers", move("awaiting_input", input_schema="x"), "too_large", 262_144
    ),
    # provide_input
    "provide-input-hash-form": Row(
        "asking", answer(expected_version=3, input_hash=HASH.upper()), M
    ),
    "provide-input-hash-short": Row("asking", answer(expected_version=3, input_hash="ab"), M),
    "provide-input-no-version": Row("asking", answer(), M),
    "provide-input-version": Row("asking", answer(expected_version=2), "version_conflict"),
    "provide-input-not-asked": Row("running", answer(expected_version=2), "illegal_transition"),
    "provide-input-inputs-long": Row(
        "full, asking", answer(expected_version=9), "too_large", 262_144
    ),
    # claim
    "claim-nothing": Row("nothing", claim(), M),
    "claim-status-and-settlement": Row("nothing", claim(status="running", settlement="wanted"), M),
    "claim-final": Row("nothing", claim(status="completed"), M),
    "claim-settlement-pending": Row("nothing", claim(settlement="pending"), M),
    "claim-settlement-manual": Row("manual", claim(settlement="manual"), M),
    "claim-settlement-final": Row("nothing", claim(settlement="confirmed"), M),
    "claim-queues-and-jobs": Row("running", claim(status="running", queues=["a"], job_ids=[J]), M),
    "claim-star-and-queue": Row("nothing", claim(status="running", queues=["*", "a"]), M),
    "claim-queues-empty": Row("nothing", claim(status="running", queues=[]), M),
    "claim-queues-65": Row("nothing", claim(status="running", queues=["a"] * 65), M),
    "claim-queue-form": Row("nothing", claim(status="running", queues=["a*"]), M),
    "claim-queue-long": Row("nothing", claim(status="running", queues=["q" * 65]), M),
    "claim-jobs-empty": Row("nothing", claim(status="running", job_ids=[]), M),
    "claim-jobs-1001": Row("nothing", claim(status="running", job_ids=[J] * 1_001), M),
    "claim-jobs-wait": Row("running", claim(status="running", job_ids=[J]) | {"wait_ms": 1}, M),
    "claim-lease-0": Row("running", claim(status="running") | {"lease_ms": 0}, M),
    "claim-lease-long": Row("running", claim(status="running") | {"lease_ms": DAY_MS + 1}, M),
    "claim-wait-long": Row("running", claim(status="running") | {"wait_ms": HOUR_MS + 1}, M),
    "claim-limit-0": Row("running", claim(status="running") | {"limit": 0}, M),
    "claim-limit-1001": Row("running", claim(status="running") | {"limit": 1_001}, M),
    "claim-gate-role": Row(
        "unpaid", claim(status="awaiting_payment"), "not_authorized", role="worker"
    ),
    "claim-work-role": Row("running", claim(status="running"), "not_authorized", role="payments"),
    "claim-settlement-role": Row(
        "wanted", claim(settlement="wanted"), "not_authorized", role="worker"
    ),
    # touch
    "touch-progress-long": Row("leased", touch(progress={"text": "p" * 1_025}), "too_large", 1_024),
    "touch-progress-text": Row("leased", touch(progress="half"), M),
    "touch-progress-no-text": Row("leased", touch(progress={"fraction": 0.5}), M),
    "touch-progress-field": Row("leased", touch(progress={"text": "", "percent": 5}), M),
    "touch-fraction-above": Row("leased", touch(progress={"text": "", "fraction": 1.001}), M),
    "touch-fraction-below": Row("leased", touch(progress={"text": "", "fraction": -0.1}), M),
    "touch-fraction-nan": Row("leased", touch(progress={"text": "", "fraction": float("nan")}), M),
    "touch-lost": Row("running", touch(), "lease_lost"),
    # release
    "release-delay-negative": Row("leased", release(delay_ms=-1), M),
    "release-delay-long": Row("leased", release(delay_ms=YEAR_MS + 1), M),
    "release-delay-past-deadline": Row("due", release(delay_ms=10_000), "too_large", 10_000),
    "release-delay-not-running": Row("wanted, leased", release(delay_ms=1), "illegal_transition"),
    "release-reason-long": Row("leased", release(reason="r" * 1_025), "too_large", 1_024),
    "release-lost": Row("running", release(), "lease_lost"),
    # hold, resume, request_stop, annotate
    "hold-finished": Row("completed", about("hold"), "illegal_transition"),
    "hold-settled": Row("confirmed", about("hold"), "illegal_transition"),
    "hold-reason-long": Row("running", about("hold", reason="r" * 1_025), "too_large", 1_024),
    "hold-version": Row("running", about("hold", expected_version=1), "version_conflict"),
    "hold-unknown": Row("nothing", about("hold"), "job_not_found"),
    "hold-role": Row("running", about("hold"), "not_authorized", role="payments"),
    "resume-version": Row("running", about("resume", expected_version=1), "version_conflict"),
    "resume-unknown": Row("nothing", about("resume"), "job_not_found"),
    "request-stop-finished": Row("failed", about("request_stop"), "illegal_transition"),
    "request-stop-reason-long": Row(
        "running", about("request_stop", reason="é" * 513), "too_large", 1_024
    ),
    "request-stop-version": Row(
        "running", about("request_stop", expected_version=3), "version_conflict"
    ),
    "request-stop-role": Row("running", about("request_stop"), "not_authorized", role="worker"),
    "annotate-long": Row("unpaid", about("annotate", meta="m" * 4_097), "too_large", 4_096),
    "annotate-no-meta": Row("unpaid", about("annotate"), M),
    "annotate-version": Row(
        "unpaid", about("annotate", meta="m", expected_version=2), "version_conflict"
    ),
    "annotate-unknown": Row("nothing", about("annotate", meta=None), "job_not_found"),
    # queues
    "pause-queue-star": Row("nothing", {"type": "pause_queue", "queue": "*"}, M),
    "pause-queue-1001st": Row(
        "paused queues", {"type": "pause_queue", "queue": "new"}, "repository_full", 1_000
    ),
    "create-beside-paused-queues": Row("paused queues", create(), "repository_full", 1_000),
    "pause-queue-role": Row(
        "running", {"type": "pause_queue", "queue": "a"}, "not_authorized", role="worker"
    ),
    "resume-queue-role": Row(
        "running", {"type": "resume_queue", "queue": "a"}, "not_authorized", role="producer"
    ),
    "resume-queue-form": Row("nothing", {"type": "resume_queue", "queue": ""}, M),
    # settle
    "settle-none": Row("completed", settle(to="submitted"), "illegal_transition"),
    "settle-none-noted": Row("completed", settle(on_chain_state="x"), "illegal_transition"),
    "settle-pending": Row("pending", settle(to="wanted"), "illegal_transition"),
    "settle-pending-closed": Row("pending", settle(to="closed"), "illegal_transition"),
    "settle-unsubmitted": Row("wanted", settle(to="confirmed"), "illegal_transition"),
    "settle-submitted-again": Row("submitted", settle(to="submitted"), "illegal_transition"),
    "settle-final": Row("confirmed", settle(to="manual"), "illegal_transition"),
    "settle-state-unknown": Row("wanted", settle(to="done"), M),
    "settle-hash-form": Row("wanted", settle(result_hash="x" * 64), M),
    "settle-on-chain-state-empty": Row("wanted", settle(on_chain_state=""), M),
    "settle-reason-long": Row("wanted", settle(reason="r" * 1_025), "too_large", 1_024),
    "settle-retry-long": Row("wanted", settle(retry_after_ms=YEAR_MS + 1), M),
    "settle-held": Row("wanted, leased", settle(to="submitted"), "lease_held"),
    "settle-lost": Row("wanted, leased", settle(to="submitted", lease=9), "lease_lost"),
    "settle-lost-noted": Row("wanted", settle(on_chain_state="x", lease=9), "lease_lost"),
    "settle-manual-role": Row("manual", settle(to="wanted"), "not_authorized", role="payments"),
    "settle-role": Row("wanted", settle(to="submitted"), "not_authorized", role="worker"),
    "settle-unknown": Row("nothing", settle(to="submitted"), "job_not_found"),
    # stop_waiting
    "stop-waiting-empty": Row("nothing", {"type": "stop_waiting", "seqs": []}, M),
    "stop-waiting-1001": Row("nothing", {"type": "stop_waiting", "seqs": [1] * 1_001}, M),
    "stop-waiting-text": Row("nothing", {"type": "stop_waiting", "seqs": ["1"]}, M),
}

GOOD: dict[str, Row] = {
    "hello-client": Row("nothing", {"type": "hello", "client": "aZ09._:@-" + "c" * 55}),
    "create-queue": Row("nothing", create(queue="A.z_0-" + "q" * 58)),
    "create-queue-1000th": Row("full of queues", create(queue="q7")),
    "create-priority": Row("nothing", create(priority=9)),
    "create-not-before": Row(
        "nothing",
        create(not_before=EPOCH, submit_result_time=EPOCH + timedelta(microseconds=1)),
    ),
    "create-meta-empty": Row("no meta", create(meta="")),
    "create-meta": Row("nothing", create(meta="é" * 2_048)),
    "create-traceparent": Row("nothing", create(traceparent=TRACE)),
    "create-identifier": Row("nothing", create(blockchain_identifier="b" * 8_000)),
    "create-again": Row("described", create(queue="a", priority=3, meta="m", settle=True)),
    "create-again-times": Row("described", create(not_before=EPOCH, traceparent=TRACE)),
    "list": Row("nothing", {"type": "list", "limit": 1_000, "settlement": "closed"}),
    "transition-keep-lease": Row("leased", move("awaiting_input", lease=1, keep_lease=True)),
    "transition-force": Row("leased", move("failed", force=True, expected_version=2)),
    "transition-32nd-question": Row("running", move("awaiting_input")),
    "transition-inputs": Row("full of answers", move("awaiting_input", input_schema="")),
    "provide-input": Row("asking", answer(expected_version=3, input_hash=HASH)),
    "provide-input-inputs": Row("full, asking", answer(input="", expected_version=9)),
    "claim-queues": Row("running", claim(status="running", queues=["a"] * 63 + ["default"])),
    "claim-jobs": Row("running", claim(status="running", job_ids=[UNKNOWN] * 999 + [J])),
    "claim-times": Row("running", claim(status="running") | {"lease_ms": DAY_MS, "limit": 1_000}),
    "touch": Row("leased", touch(progress={"text": "p" * 1_024, "fraction": 1.0})),
    "release-delay": Row("due", release(delay_ms=9_999)),
    "release-delay-year": Row("leased", release(delay_ms=YEAR_MS)),
    "release-reason": Row("leased", release(reason="é" * 512)),
    "release-hold": Row("wanted, leased", release(hold=True, reason="r")),
    "cancel": Row("unpaid", about("cancel", expected_version=1)),
    "request-stop": Row("leased", about("request_stop", reason="")),
    "resume": Row("on hold", about("resume", expected_version=2)),
    "resume-queue": Row("paused queues", {"type": "resume_queue", "queue": "q7"}),
    "hold-held": Row("on hold", about("hold")),
    "hold": Row("wanted", about("hold", reason="r" * 1_024)),
    "annotate": Row("confirmed", about("annotate", meta="m" * 4_096)),
    "annotate-nil": Row("described", about("annotate", meta=None)),
    "pause-queue-1000th": Row("full of queues", {"type": "pause_queue", "queue": "q7"}),
    "settle-noted": Row("wanted, leased", settle(on_chain_state="x")),
    "settle-noted-late": Row("confirmed", settle(on_chain_state="x"), role="payments"),
    "settle-retry": Row("wanted", settle(retry_after_ms=YEAR_MS)),
    "settle-manual": Row("manual", settle(to="wanted")),
    "stop-waiting": Row("nothing", {"type": "stop_waiting", "seqs": list(range(1_000))}),
}

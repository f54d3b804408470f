"""Commands are made from what users pass; invalid arguments are refused."""

import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from tollgate.client import commands as calls
from tollgate.client.inputs import hash_of_input
from tollgate.client.rows import creates
from tollgate.client.waits import SlicedWait
from tollgate.domain.commands import AnyCommand, Create, Transition
from tollgate.domain.exceptions import ArgumentError
from tollgate.domain.hashing import input_hash
from tollgate.domain.messages import Request, decode_request, encode_request
from tollgate.domain.status import JobStatus

from .peers import HASH, WALL, job_id

NAIVE = datetime(2026, 1, 1)  # noqa: DTZ001 - what users pass by mistake


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"prompt": "Cardano payments"}', {"prompt": "Cardano payments"}),
        ('{"b":1,"a":1.0}', {"a": 1, "b": 1}),
        ("[1, 2]", [1, 2]),
        ('"text"', "text"),
        ("text", "text"),
        ("ein Prüfstück", "ein Prüfstück"),
    ],
    ids=lambda value: str(value)[:30],
)
@pytest.mark.parametrize("purchaser", [None, "", "aabbccddeeff0011"])
def test_json_is_parsed_and_other_text_hashed_as_a_string(
    text: str, value: Any, purchaser: str | None
) -> None:
    assert hash_of_input(text, purchaser) == input_hash(purchaser or "", value)


@pytest.mark.parametrize("text", ["9007199254740993", '{"a": 1e400}', '"\\ud800"'])
def test_an_input_without_canonical_form_is_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match="the input has no hash"):
        hash_of_input(text, None)


def test_ids_are_uuids_of_version_4_and_differ() -> None:
    ids = [calls.new_job_id() for _ in range(100)]
    rows = [row for row in creates([HASH] * 1_000) if isinstance(row, Create)]
    ids += [str(row.job_id) for row in rows]
    assert len(set(ids)) == 1_100
    for text in ids:
        parsed = uuid.UUID(text)
        assert str(parsed) == text
        assert (parsed.version, parsed.variant) == (4, uuid.RFC_4122)
    assert {text[19] for text in ids} == set("89ab")


def test_a_create_without_a_hash_gets_that_of_its_input() -> None:
    command = calls.create(input='{"a":1.0}', identifier_from_purchaser="aabbccddeeff0011")
    assert command.input_hash == "cc4551ee1dab061c489e8f6c3eb3a531e8b7003d9c6f89807463f723e19fb6f7"
    assert command.job_id is not None


ROWS: list[Any] = [
    HASH,
    Create(input_hash=HASH),
    Create(input_hash=HASH, job_id=job_id(1)),
    {"input_hash": HASH, "input": "text"},
    {"input": "text", "job_id": job_id(2), "pay_by_time": WALL},
]


def test_rows_of_every_kind_become_creates_with_ids() -> None:
    made = [*creates(ROWS)]
    assert all(isinstance(command, Create) and command.job_id for command in made)
    assert [command.job_id for command in made[2:5:2] if isinstance(command, Create)] == [
        job_id(1),
        job_id(2),
    ]
    commands: list[AnyCommand] = [command for command in made if isinstance(command, Create)]
    request = Request(v=1, session=0, seq=1, acked=0, commands=commands)
    assert decode_request(encode_request(request)) == request


@pytest.mark.parametrize(
    "row",
    [
        "a" * 63,
        "A" * 64,
        "g" * 64,
        HASH + "\n",
        "",
        None,
        7,
        {},
        {"input": 7},
        {"inputs": "text"},
        {"input_hash": HASH, "job_id": "seven"},
        {"input_hash": HASH, "identifier_from_purchaser": ""},
        {"input_hash": HASH, "pay_by_time": NAIVE},
        {"input_hash": HASH, "submit_result_time": 1_700},
        {"input_hash": HASH, "pay_by_time": "2026-01-01T00:00:00Z"},  # a text is not a time
        {"input_hash": HASH, "input": "\ud800"},
        {"input_hash": "a"},
        Create(input_hash=HASH, identifier_from_purchaser=""),
    ],
    ids=lambda row: repr(row)[:40],
)
def test_a_bad_row_is_refused_alone(row: Any) -> None:
    before, refusal, after = creates([HASH, row, HASH])
    assert isinstance(before, Create)
    assert isinstance(refusal, ArgumentError)
    assert isinstance(after, Create)


@pytest.mark.parametrize(
    "call",
    [
        calls.create,
        lambda: calls.create("short"),
        calls.get,
        lambda: calls.get("a", "b"),
        lambda: calls.get(""),
        lambda: calls.get("a" * 65),
        lambda: calls.transition("a", "paid"),
        lambda: calls.transition("a", "running", result="text"),
        lambda: calls.transition("a", "completed", error="text"),
        lambda: calls.transition("a", "running", error="text"),
        lambda: calls.transition("a", "failed", result="text"),
        lambda: calls.transition("a", "failed", error="\ud800"),
        lambda: calls.transition("a", "completed", result=7),  # type: ignore[arg-type]
        lambda: calls.transition("a", "running", input_schema="{}"),
        lambda: calls.transition("a", "running", expected_version=0),
        lambda: calls.transition("a", "running", lease=-1),
        lambda: calls.transition("a", JobStatus.RUNNING, expected_version=0),
        lambda: calls.transition("a", JobStatus.RUNNING, expected_version=2**53),
        lambda: calls.transition("a", JobStatus.RUNNING, lease=2**53),
        lambda: calls.transition("a", JobStatus.RUNNING, lease=True, expected_version=1.0),  # type: ignore[arg-type]
        lambda: calls.provide_input("a", 7, 1),  # type: ignore[arg-type]
        lambda: calls.cancel("a", 1.5),  # type: ignore[arg-type]
        lambda: calls.count("paid"),
        lambda: calls.list_page(None, None, 0),
        lambda: calls.list_page(None, None, 1_001),
        lambda: calls.list_page(None, "yesterday", 1),
        lambda: calls.claim("failed", lease_ms=1, wait_ms=0, limit=1),
        calls.claim,
        lambda: calls.claim("running", settlement="wanted"),
        lambda: calls.claim(settlement="manual"),
        lambda: calls.claim("running", queues="a", job_ids="b"),
        lambda: calls.claim("running", queues=["*", "a"]),
        lambda: calls.claim("running", queues=[]),
        lambda: calls.claim("running", queues=["a"] * 65),
        lambda: calls.claim("running", queues="no blanks"),
        lambda: calls.claim("running", job_ids=[]),
        lambda: calls.claim("running", job_ids=[""]),
        lambda: calls.claim("running", job_ids=["a"], wait_ms=1),
        lambda: calls.create(HASH, queue="no blanks"),
        lambda: calls.create(HASH, queue="*"),
        lambda: calls.create(HASH, queue="a" * 65),
        lambda: calls.create(HASH, priority=10),
        lambda: calls.create(HASH, traceparent="00-1-2-3"),
        lambda: calls.create(HASH, not_before=WALL, submit_result_time=WALL),
        lambda: calls.create(HASH, not_before=WALL, delay_s=1),
        lambda: calls.create(HASH, delay_s=-1),
        lambda: calls.create(HASH, delay_s=366 * 86_400),
        lambda: calls.transition("a", "running", keep_lease=True, lease=1),
        lambda: calls.transition("a", "awaiting_input", keep_lease=True),
        lambda: calls.transition("a", "failed", force=True),
        lambda: calls.transition("a", "failed", force=True, expected_version=1, lease=1),
        lambda: calls.provide_input("a", "b", 1, input_hash="short"),
        lambda: calls.count("running", settlement="wanted"),
        lambda: calls.count(settlement="paid"),
        lambda: calls.list_page("running", settlement="wanted"),
        lambda: calls.list_page(queue=""),
        lambda: calls.settle("a", to="paid"),
        lambda: calls.settle("a", result_hash="g" * 64),
        lambda: calls.settle("a", retry_after_s=-1),
        lambda: calls.pause_queue("*"),
        lambda: calls.resume_queue(""),
        lambda: calls.touch("a", 1, fraction=0.5),
        lambda: calls.touch("a", 1, progress="x", fraction=1.5),
        lambda: calls.release("a", 1, delay_s=float("nan")),
        lambda: calls.annotate("a", "\ud800"),
        lambda: calls.history("a" * 65),
        lambda: calls.explain(""),
        lambda: calls.stats("a b"),
        lambda: calls.claim("running", lease_ms=0, wait_ms=0, limit=1),
        lambda: calls.claim("running", lease_ms=1, wait_ms=3_600_001, limit=1),
        lambda: calls.touch("a", 1, 0),
        lambda: calls.release("a", 2**53),
        lambda: SlicedWait([], None, None, 1),
        lambda: SlicedWait(["a"] * 1_001, None, None, 1),
        lambda: SlicedWait("a", ["paid"], None, 1),
    ],
)
def test_invalid_arguments_are_refused(call: Callable[[], object]) -> None:
    with pytest.raises(ArgumentError):
        call()


def test_a_refusal_names_command_and_field() -> None:
    with pytest.raises(ArgumentError, match=r"create: job_id must be a UUID, as text in lowercase"):
        calls.create(HASH, job_id="seven")
    with pytest.raises(ArgumentError, match="pay_by_time must be a datetime with a time zone"):
        calls.create(HASH, pay_by_time=NAIVE)
    with pytest.raises(ArgumentError, match="no status 'paid'; there are awaiting_payment, "):
        calls.count("paid")


def test_statuses_may_be_given_by_name() -> None:
    assert calls.transition("a", "running").target is JobStatus.RUNNING
    assert calls.count(JobStatus.FAILED).status is JobStatus.FAILED
    assert calls.count("failed").status is JobStatus.FAILED
    waiting, _ = SlicedWait("a", ["running", JobStatus.FAILED], None, 1).slice(0)
    assert waiting.job_ids == ["a"]
    assert waiting.statuses == [JobStatus.RUNNING, JobStatus.FAILED]


@pytest.mark.parametrize(
    ("target", "name", "text"),
    [
        (JobStatus.COMPLETED, "result", "done"),
        (JobStatus.COMPLETED, "result", "schön"),  # the long way: the encoder has the say
        (JobStatus.FAILED, "error", "broken"),
        (JobStatus.FAILED, "error", "größer"),
        (JobStatus.AWAITING_INPUT, "input_schema", "{}"),
    ],
)
def test_both_paths_make_the_same_transition(target: JobStatus, name: str, text: str) -> None:
    fields: dict[str, Any] = {name: text, "expected_version": 2, "lease": 7}
    for given in (target, target.value):
        made = calls.transition("a", given, **fields)
        assert made == Transition(job_id="a", target=target, **fields)
        assert made.target is target


@pytest.mark.parametrize("status", [None, 7, [], {}, "", "RUNNING", b"running"], ids=repr)
def test_an_unknown_status_is_refused(status: Any) -> None:
    with pytest.raises(ArgumentError, match="no status"):
        calls.transition("a", status)


def test_a_wait_for_ever_is_made_of_slices() -> None:
    waiting = SlicedWait("a", None, None, patience_s=10)
    for now in (0.0, 15.0, 1e9):
        command, deadline = waiting.slice(now)
        assert command.timeout_ms == 15_000
        assert deadline == now + 15 + 10
        assert not waiting.over(now)


def test_a_wait_ends_when_its_time_is_over() -> None:
    waiting = SlicedWait("a", None, 20.0, patience_s=10)
    timeouts = [waiting.slice(now)[0].timeout_ms for now in (0.0, 15.0, 19.9995, 25.0)]
    assert timeouts == [15_000, 5_000, 0, 0]
    assert waiting.slice(15.0)[1] == 30
    assert [waiting.over(now) for now in (0.0, 19.9, 20.0, 25.0)] == [False, False, True, True]


def test_times_with_a_zone_pass() -> None:
    assert calls.create(HASH, pay_by_time=datetime(2030, 1, 1, tzinfo=UTC)).pay_by_time


@pytest.mark.parametrize("fields", [{"input_hash": "A" * 64}, {"job_id": "SEVEN" * 7 + "x"}])
def test_a_create_checks_the_form_of_hash_and_id(fields: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"hexadecimal|UUID"):
        Create(**{"input_hash": HASH, **fields})  # type: ignore[arg-type]

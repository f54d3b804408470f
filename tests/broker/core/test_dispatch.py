"""Commands decided in runs give the same bytes as the same commands decided one by one."""

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core import (
    ADMIN,
    EPOCH,
    HASH,
    HOUR,
    OTHER,
    PEER,
    Driver,
    error_of_result,
    job_id,
    job_of,
)
from tests.sizes import sample
from tollgate.broker.core import dispatch
from tollgate.broker.core.batch import Arrival
from tollgate.broker.core.roles import Principal, Role
from tollgate.domain.commands import (
    Annotate,
    AnyCommand,
    Cancel,
    Claim,
    Count,
    Create,
    Get,
    Hello,
    History,
    Hold,
    List,
    PauseQueue,
    ProvideInput,
    Release,
    RequestStop,
    Resume,
    ResumeQueue,
    Settle,
    StopWaiting,
    Touch,
    Transition,
    Wait,
)
from tollgate.domain.messages import encode_request
from tollgate.domain.results import ErrorResult, JobResult, Progress
from tollgate.domain.settlement import SettlementState
from tollgate.domain.status import JobStatus

encode = msgspec.msgpack.Encoder().encode

ids = st.sampled_from([1, 2, 3, 101, 102, 103]).map(job_id)
texts = st.sampled_from([None, "", "x", "é" * 30, "y" * 200])
creates = st.builds(
    Create,
    input_hash=st.just(HASH),
    job_id=st.integers(101, 103).map(job_id) | st.none(),  # none that the broker will make
    input=texts,
    identifier_from_purchaser=st.sampled_from([None, None, "p", "q" * 20]),
    blockchain_identifier=st.sampled_from([None, None, None, "pay", "pay2", "z" * 40]),
    pay_by_time=st.sampled_from([None, EPOCH]),
    submit_result_time=st.sampled_from([None, None, EPOCH]),
    queue=st.sampled_from([None, None, None, "default", "b", "c"]),
    priority=st.sampled_from([0, 0, 0, 9]),
    not_before=st.sampled_from([None, None, None, EPOCH - HOUR]),
    meta=st.sampled_from([None, None, None, "", "meta"]),
    settle=st.booleans(),
)
gets = st.builds(Get, job_id=ids) | st.builds(
    Get, blockchain_identifier=st.sampled_from(["pay", "pay2", "nothing"])
)


@st.composite
def transitions(draw: Any) -> Transition:
    target = draw(st.sampled_from(JobStatus))
    fields: dict[str, Any] = {}
    match target:
        case JobStatus.COMPLETED:
            fields["result"] = draw(texts)
        case JobStatus.FAILED:
            fields["error"] = draw(texts)
        case JobStatus.AWAITING_INPUT:
            fields["input_schema"] = draw(texts)
        case _:
            pass
    lease = draw(st.sampled_from([None, None, None, 1, 2]))
    version = draw(st.sampled_from([None, None, None, 1, 2, 3]))
    if lease is not None and target is JobStatus.AWAITING_INPUT:
        fields["keep_lease"] = draw(st.booleans())
    if lease is None and version is not None:
        fields["force"] = draw(st.booleans())
    return Transition(
        job_id=draw(ids), target=target, expected_version=version, lease=lease, **fields
    )


tokens = st.integers(1, 3)
short = st.sampled_from([None, None, "", "why", "r" * 2_000])
versions = st.sampled_from([None, None, 1, 2])
lease_ends = st.builds(
    Release, job_id=ids, lease=tokens, delay_ms=st.sampled_from([None, None, 0, 30]), reason=short,
    hold=st.booleans(),
)  # fmt: skip
progresses = st.none() | st.builds(Progress, text=st.sampled_from(["", "half"]))
touches = st.builds(Touch, job_id=ids, lease=tokens, lease_ms=st.just(30), progress=progresses)
claims = st.builds(
    Claim,
    status=st.sampled_from([JobStatus.AWAITING_PAYMENT, JobStatus.RUNNING]),
    lease_ms=st.just(50),
    wait_ms=st.just(0),
    limit=st.integers(1, 3),
    queues=st.sampled_from([None, ["*"], ["b", "default"]]),
)
settlement_claims = st.builds(
    Claim, settlement=st.just(SettlementState.WANTED), lease_ms=st.just(50), wait_ms=st.just(0),
    limit=st.just(1), job_ids=st.none() | st.lists(ids, min_size=1, max_size=2),
)  # fmt: skip
queues = st.sampled_from(["default", "b", "c"])
others = st.one_of(
    st.builds(ProvideInput, job_id=ids, input=texts.filter(bool), expected_version=st.just(3)),
    st.builds(Cancel, job_id=ids, expected_version=versions),
    st.builds(Hold, job_id=ids, reason=short, expected_version=versions),
    st.builds(Resume, job_id=ids, expected_version=versions),
    st.builds(RequestStop, job_id=ids, reason=short, expected_version=versions),
    st.builds(Annotate, job_id=ids, meta=texts, expected_version=versions),
    st.builds(
        Settle, job_id=ids, to=st.none() | st.sampled_from(SettlementState), reason=short,
        lease=st.none() | tokens, retry_after_ms=st.sampled_from([None, None, 30]),
    ),
    st.builds(PauseQueue, queue=queues),
    st.builds(ResumeQueue, queue=queues),
    st.builds(History, job_id=ids),
    st.builds(Count, queue=st.none() | queues),
    st.builds(List, limit=st.just(2), newest=st.booleans(), lease=st.booleans()),
    st.builds(StopWaiting, seqs=st.just([1])),
)  # fmt: skip
several = (
    st.lists(creates, min_size=1, max_size=8)
    | st.lists(gets, min_size=1, max_size=8)
    | st.lists(transitions(), min_size=1, max_size=8)
    | st.lists(touches, min_size=1, max_size=4)
    | st.lists(lease_ends, min_size=1, max_size=4)
    | st.lists(claims | settlement_claims, max_size=2)
    | st.lists(others, min_size=1, max_size=4)
)
messages = st.lists(several, max_size=4).map(
    lambda parts: [each for part in parts for each in part]
)
limits = st.fixed_dictionaries(
    {},
    optional={
        "jobs": st.integers(1, 6),
        "stored_bytes": st.integers(1, 600),
        "reply_bytes": st.integers(1_500, 12_000),
        "text_bytes": st.sampled_from([8, 64]),
        "identifier_from_purchaser_bytes": st.just(10),
        "blockchain_identifier_bytes": st.just(20),
        "outcomes": st.integers(1, 30),
        "queues": st.integers(1, 2),
        "input_rounds": st.just(1),
    },
)
lots = st.lists(
    st.tuples(messages, st.sampled_from([*[Role.ADMIN] * 4, *Role])),
    min_size=1,
    max_size=6,
)


def bytes_of(
    lot: list[tuple[list[AnyCommand], Role]], bounds: dict[str, int], *, writable: bool = True
) -> list[Any]:
    """Return all that a pipeline writes and sends for messages in a session, one after another."""
    driver = Driver(**bounds)
    driver.ask(Hello(open_session=True))
    driver.post(
        Wait(job_ids=[job_id(1)], timeout_ms=9_000, statuses=[JobStatus.RUNNING]), peer=OTHER
    )
    seen: list[Any] = []
    for commands, role in lot:
        driver.mono_ms += 20
        request = driver.request(*commands, session=1)
        principal = Principal(ADMIN.name, frozenset({role}))
        arrival = Arrival(PEER, [encode_request(request)], principal)
        for _ in range(2):  # and a repeat
            outcome = driver.pipeline.run([arrival], driver.now, writable=writable)
            seen += [*map(encode, outcome.records), *outcome.replies]
    seen += [driver.engine.context.state.jobs.texts.total_bytes, *driver.pipeline.drain().replies]
    return seen


@settings(max_examples=sample(60, 300))
@given(lots, limits, st.booleans())
def test_runs_give_the_same_bytes_as_single_commands(
    lot: list[tuple[list[AnyCommand], Role]], bounds: dict[str, int], writable: bool
) -> None:
    together = bytes_of(lot, bounds, writable=writable)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "IN_RUNS", frozenset())
        alone = bytes_of(lot, bounds, writable=writable)
    assert together == alone


def test_a_message_of_one_kind_is_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    sizes = spy_on_runs(monkeypatch)
    driver.ask(*[Create(input_hash=HASH) for _ in range(5)])
    driver.ask(*[Get(job_id=job_id(1))] * 3, *[Create(input_hash=HASH)] * 2)
    driver.ask(*[Transition(job_id=job_id(n), target=JobStatus.RUNNING) for n in (1, 2, 3)])
    assert sizes == [5, 3, 2, 3]


def test_a_run_ends_before_a_job_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    driver.ask(*[Create(input_hash=HASH)] * 3)
    sizes = spy_on_runs(monkeypatch)
    results = driver.ask(
        Transition(job_id=job_id(1), target=JobStatus.RUNNING),
        Transition(job_id=job_id(2), target=JobStatus.RUNNING),
        Transition(job_id=job_id(1), target=JobStatus.COMPLETED),
        Transition(job_id=job_id(3), target=JobStatus.RUNNING),
    )
    assert sizes == [2, 2]
    assert [job_of(result).version for result in results] == [2, 2, 3, 2]


def test_a_refusal_does_not_split_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    driver.ask(*[Create(input_hash=HASH)] * 3)
    sizes = spy_on_runs(monkeypatch)
    targets = {
        1: JobStatus.RUNNING,
        2: JobStatus.COMPLETED,
        9: JobStatus.RUNNING,
        3: JobStatus.RUNNING,
    }
    results = driver.ask(*[Transition(job_id=job_id(n), target=to) for n, to in targets.items()])
    assert sizes == [4]
    codes = [
        "ok" if isinstance(each, JobResult) else error_of_result(each).code for each in results
    ]
    assert codes == ["ok", "illegal_transition", "job_not_found", "ok"]
    assert [len(record.events) for record in driver.records][-1] == 2


@pytest.mark.parametrize("kind", [Release, partial(Touch, lease_ms=9)])
def test_runs_release_and_touch_in_order_despite_refusals(
    kind: Callable[..., AnyCommand], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver()
    driver.ask(*[Create(input_hash=HASH)] * 3)
    driver.ask(Claim(status=JobStatus.AWAITING_PAYMENT, lease_ms=50, wait_ms=0, limit=3))
    sizes = spy_on_runs(monkeypatch)
    results = driver.ask(
        *[kind(job_id=job_id(n), lease=lease) for n, lease in ((1, 1), (2, 9), (3, 3))]
    )
    assert sizes == [3]
    refused = [each.code if isinstance(each, ErrorResult) else None for each in results]
    assert refused == [None, "lease_lost", None]
    left = {2} if kind is Release else {1, 2, 3}
    slots = driver.engine.context.state.jobs.slots()
    leased = {slot.job.job_id for slot in slots if slot.lease is not None}
    assert leased == {job_id(n) for n in left}


@pytest.mark.parametrize(
    "bounds",
    [{"jobs": 4}, {"stored_bytes": 200}, {"reply_bytes": 6_000}, {"queues": 4}],
    ids=str,
)
def test_near_a_limit_commands_are_decided_one_by_one(
    bounds: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(**bounds)
    sizes = spy_on_runs(monkeypatch)
    driver.ask(*[Create(input_hash=HASH, input="x", queue=queue) for queue in "abcde"])
    assert sizes == [1] * 5


def test_one_long_text_does_not_split_runs_of_other_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    driver.ask(Create(input_hash=HASH, input="x" * 60_000))
    driver.ask(*[Create(input_hash=HASH) for _ in range(20)])
    sizes = spy_on_runs(monkeypatch)
    driver.ask(*[Transition(job_id=job_id(n), target=JobStatus.RUNNING) for n in range(2, 22)])
    driver.ask(*[Get(job_id=job_id(n)) for n in range(1, 22)])
    assert sizes == [20, 21]


def spy_on_runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    sizes: list[int] = []
    monkeypatch.setattr("tollgate.broker.core.engine.runs", _spy(sizes))
    return sizes


def _spy(sizes: list[int]) -> Any:
    real = dispatch.runs

    def spied(*arguments: Any) -> Any:
        for run in real(*arguments):
            sizes.append(len(run))
            yield run

    return spied

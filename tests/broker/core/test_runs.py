"""Commands decided in runs give the same bytes as the same commands decided one by one."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.broker.core.any_commands import messages, role_sets
from tests.broker.core.restarts import live_chunks
from tests.core import (
    ADMIN,
    HASH,
    OTHER,
    PEER,
    Driver,
    error_of_result,
    job_id,
    job_of,
)
from tests.sizes import sample
from tollgate.broker.core import runs
from tollgate.broker.core.batch import Arrival
from tollgate.broker.core.roles import Principal, Role
from tollgate.domain.commands import (
    AnyCommand,
    Claim,
    Create,
    Get,
    Hello,
    Release,
    Touch,
    Transition,
    Wait,
)
from tollgate.domain.messages import encode_request
from tollgate.domain.results import ErrorResult, JobResult
from tollgate.domain.status import JobStatus

encode = msgspec.msgpack.Encoder().encode

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
        "queues": st.integers(1, 3),
        "input_rounds": st.integers(1, 2),
        "inputs_bytes": st.integers(1, 300),
        "meta_bytes": st.just(10),
        "progress_bytes": st.just(10),
        "reason_bytes": st.just(10),
        "lapses": st.integers(1, 3),
    },
)
lots = st.lists(st.tuples(messages, role_sets), min_size=1, max_size=6)


def begin(driver: Driver) -> None:
    """Make four jobs, as far as there is room: leased, settled, asking, and paid."""
    for _ in range(4):
        driver.post(Create(input_hash=HASH, settle=True))
    for number in (1, 2, 3, 4):
        driver.post(Transition(job_id=job_id(number), target=JobStatus.RUNNING))
    driver.post(Claim(status=JobStatus.RUNNING, lease_ms=50, wait_ms=0, limit=1))
    driver.post(Transition(job_id=job_id(2), target=JobStatus.COMPLETED, result="r"))
    driver.post(Transition(job_id=job_id(3), target=JobStatus.AWAITING_INPUT, input_schema="s"))


def bytes_of(
    lot: list[tuple[list[AnyCommand], set[Role]]], bounds: dict[str, int], *, writable: bool = True
) -> list[Any]:
    """Return all that a pipeline writes and sends for messages in a session, and its state."""
    driver = Driver(**bounds)
    driver.ask(Hello(open_session=True))
    driver.post(
        Wait(job_ids=[job_id(1)], timeout_ms=9_000, statuses=[JobStatus.RUNNING]), peer=OTHER
    )
    begin(driver)
    seen: list[Any] = []
    for commands, roles in lot:
        driver.mono_ms += 20
        driver.wall += timedelta(milliseconds=20)
        request = driver.request(*commands, session=1)
        peer = Principal(ADMIN.name, frozenset(roles))
        arrival = Arrival(PEER, [encode_request(request)], peer)
        for _ in range(2):  # and a repeat
            outcome = driver.pipeline.run([arrival], driver.now, writable=writable)
            seen += [*map(encode, outcome.records), *outcome.replies]
    seen += [driver.engine.context.state.jobs.texts.total_bytes, *live_chunks(driver)]
    return [*seen, *driver.pipeline.drain().replies]


@settings(max_examples=sample(80, 300), suppress_health_check=[HealthCheck.too_slow])
@given(lots, limits, st.booleans())
def test_runs_give_the_same_bytes_as_single_commands(
    lot: list[tuple[list[AnyCommand], set[Role]]], bounds: dict[str, int], writable: bool
) -> None:
    together = bytes_of(lot, bounds, writable=writable)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "IN_RUNS", frozenset())
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
    left = [2] if kind is Release else [1, 2, 3]
    slots = driver.engine.context.state.jobs.slots()
    assert [slot.job.job_id for slot in slots if slot.lease] == [job_id(n) for n in left]


@pytest.mark.parametrize(
    "bounds", [{"jobs": 4}, {"stored_bytes": 200}, {"reply_bytes": 6_000}], ids=str
)
def test_near_a_limit_commands_are_decided_one_by_one(
    bounds: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(**bounds)
    sizes = spy_on_runs(monkeypatch)
    driver.ask(*[Create(input_hash=HASH, input="x") for _ in range(5)])
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
    real = runs.runs

    def spied(*arguments: Any) -> Any:
        for run in real(*arguments):
            sizes.append(len(run))
            yield run

    return spied

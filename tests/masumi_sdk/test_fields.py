"""What is written is what is read, for every field and every type."""

import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.masumi_sdk.jobs import INPUT, PURCHASER, hash_of, new_job
from tollgate import Job, JobStatus
from tollgate.masumi import TollgateJobStorage
from tollgate.masumi.sdk.fields import (
    META_BYTES,
    SPARE,
    answer_in,
    beside,
    canonical,
    columns_of,
    is_same,
    meta_with,
    read,
)

ALWAYS = {"awaiting_input_schema": None, "awaiting_input_message": None}


async def written_and_read(storage: TollgateJobStorage, job: dict[str, Any]) -> dict[str, Any]:
    await storage.create_job(job["job_id"], job)
    found = await storage.get_job(job["job_id"])
    assert found is not None
    return found


async def test_all_fields_come_back_as_written(storage: TollgateJobStorage) -> None:
    job = new_job()
    found = await written_and_read(storage, job)
    assert found == {**job, **ALWAYS}
    assert is_same(found, {**job, **ALWAYS})  # 1.0 is no 1
    assert not storage.dropped
    assert not storage.refused


async def test_the_broker_has_the_fields_it_knows(storage: TollgateJobStorage) -> None:
    job = new_job()
    await storage.create_job(job["job_id"], job)
    stored = await storage.client().get(blockchain_identifier=job["payment_id"])
    assert stored.job_id == job["job_id"]
    assert stored.queue == "sdk"
    assert stored.input is not None
    assert hash_of(PURCHASER, INPUT) == stored.input_hash
    assert stored.input == canonical(INPUT)
    assert stored.settlement is None
    assert stored.submit_result_time is not None
    assert stored.submit_result_time.timestamp() == pytest.approx(1_900_043_200.456)


@pytest.mark.parametrize(
    "changes",
    [
        {"input_hash": None},
        {"input_hash": "ABC"},
        {"input_data": {}},
        {"input_data": None},
        {"input_data": {"big": 2**60, "lone": "\ud800"}},
        {"payment_id": None},
        {"identifier_from_purchaser": ""},
        {"pay_by_time": None, "submit_result_time": None},
        {"pay_by_time": 1_900_000_000},  # seconds
        {"submit_result_time": 10**18},
        {"submit_result_time": "1900000000000"},
        {"pay_by_time": True},
        {"created_at": "2026-01-01T00:00:00Z", "something": {"new": [1.5, None]}},
        {"unlock_time": None},
    ],
)
async def test_odd_values_come_back_too(
    storage: TollgateJobStorage, changes: dict[str, Any]
) -> None:
    job = new_job(**changes)
    assert is_same(await written_and_read(storage, job), {**job, **ALWAYS})
    assert not storage.dropped


async def test_a_field_that_does_not_fit_is_counted(
    storage: TollgateJobStorage, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        job = new_job(notes="x" * META_BYTES, label="short")
        found = await written_and_read(storage, job)
        assert "notes" not in found
        assert found["label"] == "short"
        assert found["unlock_time"] == job["unlock_time"]
    assert storage.dropped == {"notes": 2}
    assert len([each for each in caplog.records if "notes" in each.message]) == 1


@pytest.mark.parametrize("value", [math.nan, {1, 2}, object()])
async def test_what_is_no_json_is_counted(storage: TollgateJobStorage, value: object) -> None:
    found = await written_and_read(storage, new_job(odd=value))
    assert "odd" not in found
    assert storage.dropped == {"odd": 1}


async def test_an_input_that_is_no_json_is_refused(storage: TollgateJobStorage) -> None:
    job = new_job(input_data={"a": math.nan})
    with pytest.raises(ValueError, match="JSON"):
        await storage.create_job(job["job_id"], job)
    assert await storage.get_job(job["job_id"]) is None


async def test_jobs_of_other_programs_can_be_read(storage: TollgateJobStorage) -> None:
    stored = await storage.client().create(input="plain", as_text=True, meta="{odd", queue="sdk")
    found = read(stored)
    assert (found["job_id"], found["payment_id"]) == (stored.job_id, None)
    assert found["input_data"] is None
    assert (await storage.get_job(stored.job_id)) == found


def test_meta_of_others_stays() -> None:
    meta, left_out = meta_with('{"invoice":17}', {"a": 1})
    assert (meta, left_out) == ('{"invoice":17,"sdk":{"a":1}}', [])
    assert meta_with(meta, {"b": 2}) == ('{"invoice":17,"sdk":{"a":1,"b":2}}', [])
    assert meta_with("no object", {"b": 2}) == ("no object", ["b"])


def test_the_longest_field_is_left_out_first() -> None:
    meta, left_out = meta_with(None, {"a": "x" * 3_000, "b": "y" * 2_000, "c": 1})
    assert left_out == ["a"]
    assert meta == canonical({"sdk": {"b": "y" * 2_000, "c": 1}})
    assert len(meta.encode()) <= META_BYTES


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(data=JSON, times=st.lists(JSON, min_size=2, max_size=2), extra=JSON)
def test_any_json_comes_back(data: Any, times: list[Any], extra: Any) -> None:
    job = new_job(input_data=data, pay_by_time=times[0], submit_result_time=times[1], extra=extra)
    columns = columns_of(job["job_id"], job, spare=SPARE)
    meta, left_out = meta_with(None, beside(columns, job))
    stored = Job(
        **columns,
        meta=meta,
        status=JobStatus.AWAITING_PAYMENT,
        created_at=datetime.now(UTC),
        updated_at=datetime.now(UTC),
    )
    if not left_out:
        assert is_same(read(stored), {**job, **ALWAYS})


async def test_an_answer_is_what_is_new_or_asked_for(storage: TollgateJobStorage) -> None:
    job = new_job(input_data={"approve": True, "topic": "a", "tone": "b"})
    await storage.create_job(job["job_id"], job)
    stored = await storage.client().get(job["job_id"])
    merged = {"approve": True, "topic": "a", "tone": "c", "more": 1}
    assert answer_in(stored, merged) == {"tone": "c", "more": 1}
    schema = canonical({"input_groups": [{"input_data": [{"id": "approve"}]}]})
    asked = stored.model_copy(update={"input_schema": schema})
    assert answer_in(asked, merged) == {"approve": True, "tone": "c", "more": 1}
    assert answer_in(asked, None) == {}

"""The storage over a real broker: what the SDK asks of it, repeats, races, faults and forks."""

import asyncio
import multiprocessing
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.brokers import ROOT, BrokerProcess
from tests.masumi_sdk.jobs import INPUT, QUESTION, new_job
from tollgate import AsyncClient, BrokerUnreachableError, LeaseHeldError
from tollgate.masumi import TollgateJobStorage
from tollgate.masumi.sdk.storage import ERROR_CHARACTERS

UNKNOWN = "00000000-0000-4000-8000-000000000000"


async def created(storage: TollgateJobStorage, *moves: dict[str, Any]) -> str:
    job = new_job()
    job_id: str = job["job_id"]
    await storage.create_job(job_id, job)
    for each in moves:
        await storage.update_job(job_id, each)
    return job_id


RUNS: dict[str, Any] = {"status": "running"}
ASKS: dict[str, Any] = {
    "status": "awaiting_input",
    "awaiting_input_schema": QUESTION,
    "awaiting_input_message": "Shall I?",
}
ENDS: dict[str, Any] = {"status": "completed", "result": "done"}
FAILS: dict[str, Any] = {"status": "failed", "error": "broken"}


async def shown(storage: TollgateJobStorage, job_id: str) -> dict[str, Any]:
    found = await storage.get_job(job_id)
    assert found is not None
    return found


async def test_a_job_lives_as_the_sdk_moves_it(storage: TollgateJobStorage) -> None:
    job_id = await created(storage, RUNS, ASKS)
    found = await shown(storage, job_id)
    assert found["status"] == "awaiting_input"
    assert found["awaiting_input_schema"] == QUESTION
    assert found["awaiting_input_message"] == "Shall I?"
    merged = {**found["input_data"], "approve": True}
    await storage.update_job(job_id, {"status": "running", "input_data": merged})
    stored = await storage.client().get(job_id)
    assert stored.provided_input == '{"approve":true}'
    await storage.update_job(job_id, ENDS)
    found = await shown(storage, job_id)
    assert (found["status"], found["result"]) == ("completed", "done")
    assert found["input_data"] == {**INPUT, "approve": True}
    assert not storage.dropped
    assert not storage.refused


async def test_answers_of_two_questions_are_merged(storage: TollgateJobStorage) -> None:
    job_id = await created(storage, RUNS)
    for answer in ({"approve": True, "x": 1, "y": 1}, {"approve": True, "x": 2}):
        await storage.update_job(job_id, ASKS)
        merged = {**(await shown(storage, job_id))["input_data"], **answer}
        await storage.update_job(job_id, {"status": "running", "input_data": merged})
    stored = await storage.client().get(job_id)
    assert [each.text for each in stored.inputs or ()] == [
        '{"approve":true,"x":1,"y":1}',
        '{"approve":true,"x":2}',  # the same approval again is an answer too
    ]
    listed = {each["job_id"]: each for each in await storage.list_jobs("running")}
    assert listed[job_id]["input_data"] == {**INPUT, "approve": True, "x": 2, "y": 1}


@pytest.mark.parametrize("last", [RUNS, ENDS, FAILS])
async def test_a_repeat_of_a_change_is_taken(
    storage: TollgateJobStorage, last: dict[str, Any]
) -> None:
    job_id = await created(storage, RUNS, last)
    before = await storage.client().get(job_id)
    await storage.update_job(job_id, last)
    assert await storage.client().get(job_id) == before
    assert not storage.dropped


async def test_a_creation_may_be_repeated(storage: TollgateJobStorage) -> None:
    job = new_job()
    for _ in range(2):
        await storage.create_job(job["job_id"], job)
    with pytest.raises(ValueError, match="cannot be stored"):
        await storage.create_job(job["job_id"], {**job, "payment_id": "another"})


async def test_a_job_can_be_created_in_a_later_status(storage: TollgateJobStorage) -> None:
    job = new_job(status="failed", error="no credit")
    await storage.create_job(job["job_id"], job)
    found = await shown(storage, job["job_id"])
    assert (found["status"], found["error"]) == ("failed", "no credit")


async def test_another_result_does_not_replace_the_first(
    storage: TollgateJobStorage, caplog: pytest.LogCaptureFixture
) -> None:
    job_id = await created(storage, RUNS, ENDS)
    for _ in range(2):
        await storage.update_job(job_id, {"status": "completed", "result": "other"})
    assert (await shown(storage, job_id))["result"] == "done"
    assert storage.dropped == {"result": 2}
    assert len([each for each in caplog.records if "result" in each.message]) == 1


@pytest.mark.parametrize(
    ("moves", "last"),
    [
        ([], ENDS),
        ([], ASKS),
        ([RUNS, ENDS], RUNS),
        ([RUNS, FAILS], RUNS),
        ([FAILS], RUNS),
        ([RUNS, FAILS], ENDS),
        ([RUNS, ENDS], ASKS),
    ],
)
async def test_progress_that_is_illegal_is_an_error(
    storage: TollgateJobStorage, moves: list[dict[str, Any]], last: dict[str, Any]
) -> None:
    job_id = await created(storage, *moves)
    before = await shown(storage, job_id)
    with pytest.raises(ValueError, match="cannot become"):
        await storage.update_job(job_id, last)
    assert await shown(storage, job_id) == before
    assert storage.refused == {f"{before['status']} -> {last['status']}": 1}


@pytest.mark.parametrize(
    ("moves", "last"),
    [
        ([RUNS, ENDS], FAILS),
        ([RUNS], {"status": "awaiting_payment"}),
        ([RUNS, ASKS], {"status": "awaiting_payment"}),
        ([RUNS], {"status": "unknown"}),
    ],
)
async def test_other_changes_are_counted_and_nothing_more(
    storage: TollgateJobStorage, moves: list[dict[str, Any]], last: dict[str, Any]
) -> None:
    job_id = await created(storage, *moves)
    before = await shown(storage, job_id)
    await storage.update_job(job_id, last)
    assert await shown(storage, job_id) == before
    assert storage.refused == {f"{before['status']} -> {last['status']}": 1}


async def test_a_job_that_asks_can_be_completed(storage: TollgateJobStorage) -> None:
    job_id = await created(storage, RUNS, ASKS, ENDS)
    found = await shown(storage, job_id)
    assert (found["status"], found["result"]) == ("completed", "done")
    assert found["input_data"] == INPUT


async def test_fields_without_a_place_are_kept(storage: TollgateJobStorage) -> None:
    job_id = await created(storage)
    await storage.update_job(job_id, {"created_at": "now", "progress": 0.5, "unlock_time": 1})
    await storage.update_job(job_id, {"payment_id": "another", "input_data": {"a": 1}})
    found = await shown(storage, job_id)
    assert (found["created_at"], found["progress"], found["unlock_time"]) == ("now", 0.5, 1)
    assert found["payment_id"] == f"payment-{job_id}"
    assert found["input_data"] == INPUT
    assert storage.dropped == {"payment_id": 1, "input_data": 1}


async def test_an_unknown_job_is_as_in_the_sdk(storage: TollgateJobStorage) -> None:
    for job_id in (UNKNOWN, "no uuid", "ü" * 500, ""):
        assert await storage.get_job(job_id) is None
        with pytest.raises(ValueError, match="not found"):
            await storage.update_job(job_id, RUNS)
    with pytest.raises(ValueError, match="no uuid"):
        await storage.create_job("no uuid", new_job())


async def test_a_deletion_is_counted(storage: TollgateJobStorage) -> None:
    job_id = await created(storage)
    await storage.delete_job(job_id)
    assert await storage.get_job(job_id) is not None
    assert storage.refused == {"any -> deleted": 1}


async def test_lists_have_all_pages_of_the_queue(shared_broker: BrokerProcess) -> None:
    storage = TollgateJobStorage(shared_broker.endpoint, queue="pages", timeout_s=10)
    other = TollgateJobStorage(shared_broker.endpoint, queue="other", timeout_s=10)
    await created(other)
    jobs = [await created(storage) for _ in range(205)]
    await storage.update_job(jobs[7], RUNS)
    assert [each["job_id"] for each in await storage.list_jobs()] == jobs
    assert [each["job_id"] for each in await storage.list_jobs("running")] == [jobs[7]]
    assert await storage.list_jobs("unknown") == []
    await storage.close()
    await other.close()


async def test_texts_beyond_the_limit(storage: TollgateJobStorage) -> None:
    job_id, long = await created(storage, RUNS), "x" * 70_000
    with pytest.raises(ValueError, match="cannot be completed"):
        await storage.update_job(job_id, {"status": "completed", "result": long})
    await storage.update_job(job_id, {"status": "failed", "error": long})  # it must end
    assert (await shown(storage, job_id))["error"] == long[:ERROR_CHARACTERS]
    assert storage.dropped == {"error": 1}
    job = new_job(input_data={"a": long})
    with pytest.raises(ValueError, match="cannot be stored"):
        await storage.create_job(job["job_id"], job)


async def test_a_result_that_is_no_text_becomes_one(storage: TollgateJobStorage) -> None:
    job_id = await created(storage, RUNS, {"status": "completed", "result": {"b": 1, "a": 2}})
    assert (await shown(storage, job_id))["result"] == '{"a":2,"b":1}'
    assert storage.dropped == {"result": 1}


async def test_an_answer_of_two_humans_is_taken_once(storage: TollgateJobStorage) -> None:
    job_id = await created(storage, RUNS, ASKS)
    ends = await asyncio.gather(
        *(storage.answer(job_id, {"approve": each}) for each in (True, False)),
        return_exceptions=True,
    )
    assert sorted(type(each).__name__ for each in ends) == ["NoneType", "ValueError"]


async def test_an_answer_may_be_repeated_and_not_changed(storage: TollgateJobStorage) -> None:
    job_id = await created(storage, RUNS, ASKS)
    for _ in range(2):
        await storage.answer(job_id, {"approve": True})
    with pytest.raises(ValueError, match="does not ask"):
        await storage.answer(job_id, {"approve": False})
    with pytest.raises(ValueError, match="cannot be taken"):
        await storage.answer(UNKNOWN, {"approve": False})
    assert (await shown(storage, job_id))["input_data"] == {**INPUT, "approve": True}


async def test_racing_changes_are_decided_anew(storage: TollgateJobStorage) -> None:
    job_id = await created(storage)
    await asyncio.gather(*(storage.update_job(job_id, RUNS) for _ in range(8)))
    await asyncio.gather(*(storage.update_job(job_id, ENDS) for _ in range(8)))
    assert (await storage.client().get(job_id)).version == 3
    assert not storage.dropped
    assert not storage.refused


async def test_a_lease_of_others_is_respected(storage: TollgateJobStorage) -> None:
    job_id = await created(storage, RUNS)
    (lease,) = await storage.client().claim("running", job_ids=job_id)
    with pytest.raises(LeaseHeldError):
        await storage.update_job(job_id, ENDS)
    storage.tokens = {job_id: lease.token}
    await storage.update_job(job_id, ASKS)
    await storage.answer(job_id, {"approve": True})
    await storage.client().touch(job_id, lease.token)  # it was kept through the question
    await storage.update_job(job_id, ENDS)


async def test_a_broker_that_is_away_is_waited_for(
    broker: Callable[..., BrokerProcess], tmp_path: Any
) -> None:
    process = broker(data_dir=tmp_path / "data")
    storage = TollgateJobStorage(process.endpoint, timeout_s=30)
    job_id = await created(storage)
    process.process.kill()
    moving = asyncio.create_task(storage.update_job(job_id, RUNS))
    reading = asyncio.create_task(storage.get_job(job_id))
    await asyncio.sleep(0.2)
    assert not moving.done()
    await asyncio.to_thread(process.restart)
    await moving
    assert (await reading or {})["job_id"] == job_id
    assert (await shown(storage, job_id))["status"] == "running"
    await storage.close()


async def test_a_broker_that_stays_away_is_an_error(short_dir: Any) -> None:
    storage = TollgateJobStorage(f"ipc://{short_dir}/none.sock", timeout_s=0.3)
    with pytest.raises(BrokerUnreachableError, match=r"within 0\.3 s"):
        await storage.get_job(UNKNOWN)
    with pytest.raises(BrokerUnreachableError):
        await storage.create_job(UNKNOWN, new_job(job_id=UNKNOWN))
    await storage.close()


def test_each_event_loop_has_its_own_client(shared_broker: BrokerProcess) -> None:
    storage = TollgateJobStorage(shared_broker.endpoint, timeout_s=10)
    clients: list[AsyncClient] = []

    async def use(*, closes: bool) -> None:
        await created(storage)
        clients.append(storage.client())
        if closes:
            await storage.close()

    asyncio.run(use(closes=False))  # as a program that never closes it
    thread = threading.Thread(target=lambda: asyncio.run(use(closes=True)))
    thread.start()
    thread.join(30)
    asyncio.run(use(closes=True))
    assert len(set(map(id, clients))) == 3


def _in_a_child(storage: TollgateJobStorage, job_id: str) -> None:
    async def run() -> bool:
        found = await storage.get_job(job_id)
        await storage.update_job(job_id, RUNS)
        await storage.close()
        return found is not None

    sys.exit(0 if asyncio.run(run()) else 1)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_storage_survives_a_fork(shared_broker: BrokerProcess) -> None:
    storage = TollgateJobStorage(shared_broker.endpoint, timeout_s=10)

    async def run() -> None:
        job_id = await created(storage)
        child = multiprocessing.get_context("fork").Process(
            target=_fork_main, args=(storage, job_id)
        )
        child.start()
        await asyncio.to_thread(child.join, 30)
        assert child.exitcode == 0
        assert (await shown(storage, job_id))["status"] == "running"
        await storage.close()

    asyncio.run(run())


def _fork_main(storage: TollgateJobStorage, job_id: str) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    asyncio.events._set_running_loop(None)  # the parent's
    _in_a_child(storage, job_id)


def test_importing_the_package_loads_no_library() -> None:
    code = (
        "import sys, tollgate.masumi as m; from tollgate.masumi import TollgateJobStorage;"
        "TollgateJobStorage(); print(sorted({'httpx', 'masumi', 'aiohttp'} & set(sys.modules)));"
        "print(dir(m))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.splitlines()[0] == "[]"
    assert "resume" in found.stdout.splitlines()[1]


def test_an_unknown_name_is_an_attribute_error() -> None:
    import tollgate.masumi as package  # noqa: PLC0415

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing  # type: ignore[attr-defined]


def test_it_is_a_job_storage_of_the_sdk() -> None:
    """Also without the SDK: its base class is a plain ABC."""
    code = (
        "import abc, sys, types; Base = abc.ABCMeta('JobStorage', (), {});"
        "sys.modules['masumi.job_manager'] = types.SimpleNamespace(JobStorage=Base);"
        "from tollgate.masumi import TollgateJobStorage as S;"
        "assert isinstance(S(), Base) and issubclass(S, Base)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)

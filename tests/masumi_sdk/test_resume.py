"""Several web processes of an agent, over a real broker; each is an `Sdk` of the stand-in.

`python -m tests.masumi_sdk` does the same with real processes and the real SDK.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from tests.brokers import PATIENCE_S, BrokerProcess
from tests.masumi_sdk.jobs import INPUT, PURCHASER, QUESTION, new_job
from tests.masumi_sdk.stand_in import Funds, Handler, Sdk
from tests.payment_service.server import Server
from tests.payment_service.service import PaymentService
from tollgate import AsyncClient, BrokerUnreachableError, InternalError, Job
from tollgate.domain.hashing import output_hash_as_deployed
from tollgate.masumi import Resumer, TollgateJobStorage, resume
from tollgate.masumi.sdk.fields import canonical
from tollgate.masumi.sdk.leases import STOPPED

LEASE_MS = 1_000
Agent = Callable[[Sdk, dict[str, Any]], Awaitable[Any]]


class Process:
    """One web process."""

    def __init__(self, sdk: Sdk, resumer: Resumer, storage: TollgateJobStorage) -> None:
        self.sdk, self.resumer, self.storage = sdk, resumer, storage

    async def die(self) -> None:
        """End as after a kill -9: nothing is given back, no message is sent."""
        resumer = self.resumer
        if resumer._process.keeper is not None:
            resumer._process.keeper.close()
        payments = self.sdk.job_manager._payment_instances.values()
        runs = list(resumer._runs.values())
        tasks = [
            *resumer._tasks,
            *(run.task for run in runs),
            *(payment._status_check_task for payment in payments),
        ]
        for task in [each for each in tasks if each is not None]:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        if resumer._service is not None:
            await resumer._service.close()
        await self.storage.close()
        resumer._loop = None


class Site:
    """An agent with any number of web processes."""

    def __init__(self, endpoint: str, queue: str) -> None:
        self.endpoint, self.queue = endpoint, queue
        self.funds = Funds()
        self.client = AsyncClient(endpoint)
        self.processes: list[Process] = []

    async def process(
        self, agent: Agent, answer: Handler | None = None, *, starts: bool = True, **options: Any
    ) -> Process:
        timeout_s = options.pop("timeout_s", 5)
        storage = TollgateJobStorage(self.endpoint, queue=self.queue, timeout_s=timeout_s)
        config = {name: options.pop(name) for name in list(options) if name.startswith("payment_s")}
        config["payment_api_key"] = options.pop("payment_api_key", "")
        sdk = Sdk(storage, agent, self.funds, answer, **config)
        settings: dict[str, Any] = {"lease_ms": LEASE_MS, "poll_s": 0.1, "prove": False}
        with sdk.imported():
            resumer = resume(sdk, **settings | options)
        made = Process(sdk, resumer, storage)
        self.processes.append(made)
        if starts:
            await resumer.start()
        return made

    async def hire(self, process: Process, *, pays: bool = True, **changes: Any) -> str:
        job = new_job(**changes)
        await process.sdk.start_job(job)
        if pays:
            self.funds.lock(job["payment_id"])
        return str(job["job_id"])

    async def until(self, job_id: str, *statuses: str) -> Job:
        return await self.client.wait(job_id, statuses=statuses or None, timeout_s=PATIENCE_S)

    async def close(self) -> None:
        for each in self.processes:
            await each.resumer.stop()
            await each.die()
        await self.client.close()


@pytest.fixture
async def site(shared_broker: BrokerProcess, request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    site = Site(shared_broker.endpoint, request.node.name.replace("[", ".").replace("]", "")[:64])
    yield site
    await site.close()


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def agree(sdk: Sdk, input_data: dict[str, Any]) -> str:
    return f"done: {input_data['prompt']}"


async def ask(sdk: Sdk, input_data: dict[str, Any]) -> str:
    answer = await sdk.hitl.request_input(QUESTION, "Shall I?")
    return f"the answer is {answer}"


async def hang(sdk: Sdk, input_data: dict[str, Any]) -> str:
    await asyncio.sleep(2 * PATIENCE_S)
    return "late"


def has_asked(process: Process, job_id: str, count: int) -> bool:
    """Return whether a job has asked more than `count` questions, or has ended."""
    run = process.resumer._runs.get(job_id)
    return run is None or run.questions > count


# --- without faults -------------------------------------------------------------------------------


async def test_a_job_is_paid_and_done(site: Site) -> None:
    process = await site.process(agree)
    job = await site.until(await site.hire(process))
    assert job.result == "done: Cardano payments"
    assert job.settlement is not None
    assert job.settlement.state == "wanted"
    assert process.sdk.job_manager._payment_instances == {}
    await until(lambda: process.resumer._process.leases().all() == [])


async def test_the_app_starts_and_stops_it(site: Site) -> None:
    process = await site.process(agree, starts=False)
    async with process.sdk.app.router.lifespan_context(process.sdk.app):
        job = await site.until(await site.hire(process))
    assert job.status == "completed"
    assert process.resumer._loop is None


async def test_an_app_is_moved_to_a_broker(site: Site) -> None:
    storage = TollgateJobStorage(site.endpoint, queue=site.queue)
    sdk = Sdk(object(), agree, site.funds)
    with sdk.imported():
        resumer = resume(sdk.app, storage, lease_ms=LEASE_MS, poll_s=0.1, prove=False)
    process = Process(sdk, resumer, storage)
    site.processes.append(process)
    async with sdk.app.router.lifespan_context(sdk.app):
        assert (await site.until(await site.hire(process))).status == "completed"


async def test_it_starts_with_the_first_job_at_latest(site: Site) -> None:
    process = await site.process(agree, starts=False)
    with pytest.raises(RuntimeError, match="has not started"):
        process.resumer._process.leases()
    assert (await site.until(await site.hire(process))).status == "completed"


async def test_no_work_begins_without_a_payment(site: Site) -> None:
    process = await site.process(agree)
    job_id = await site.hire(process, pays=False)
    await asyncio.sleep(0.5)
    assert process.sdk.calls == 0
    assert (await site.client.get(job_id)).status == "awaiting_payment"


async def test_a_handler_that_raises_fails_its_job(site: Site) -> None:
    async def fail(sdk: Sdk, input_data: dict[str, Any]) -> str:
        raise ValueError("no such page")

    process = await site.process(fail)
    assert (await site.until(await site.hire(process))).error == "no such page"


async def test_a_handler_that_is_cancelled_from_within_fails(site: Site) -> None:
    async def lose_a_part(sdk: Sdk, input_data: dict[str, Any]) -> str:
        part = asyncio.ensure_future(hang(sdk, input_data))
        part.cancel()
        return await part

    process = await site.process(lose_a_part)
    job = await site.until(await site.hire(process))
    assert job.error == "the handler awaited something that was cancelled"
    await until(lambda: process.resumer._process.leases().all() == [])


async def test_a_result_that_is_too_long_fails_the_job(site: Site) -> None:
    async def write(sdk: Sdk, input_data: dict[str, Any]) -> str:
        return "x" * 70_000

    process = await site.process(write)
    job = await site.until(await site.hire(process))
    assert job.error is not None
    assert job.error.startswith("Job completion failed")


async def test_only_so_many_handlers_run_in_a_process(site: Site) -> None:
    now, most, done = 0, 0, asyncio.Event()

    async def count(sdk: Sdk, input_data: dict[str, Any]) -> str:
        nonlocal now, most
        now, most = now + 1, max(most, now + 1)
        await done.wait()
        now -= 1
        return "done"

    process = await site.process(count, concurrency=2)
    jobs = [await site.hire(process) for _ in range(4)]
    await until(lambda: now == 2)
    await asyncio.sleep(0.3)
    done.set()
    for job_id in jobs:
        await site.until(job_id)
    assert most == 2


# --- one process dies -----------------------------------------------------------------------------


async def test_a_watched_payment_is_taken_over(site: Site) -> None:
    first = await site.process(agree)
    job_id = await site.hire(first, pays=False)
    second = await site.process(agree)
    await asyncio.sleep(2 * LEASE_MS / 1_000)
    assert second.sdk.job_manager._payment_instances == {}
    await first.die()
    await until(lambda: job_id in second.sdk.job_manager._payment_instances)
    site.funds.lock(f"payment-{job_id}")
    assert (await site.until(job_id)).status == "completed"
    assert second.sdk.calls == 1


async def test_a_running_job_is_taken_over(site: Site) -> None:
    first = await site.process(hang)
    job_id = await site.hire(first)
    await until(lambda: first.sdk.calls)
    second = await site.process(agree)
    await asyncio.sleep(2 * LEASE_MS / 1_000)
    assert second.sdk.calls == 0  # the first one still runs
    await first.die()
    assert (await site.until(job_id)).result == "done: Cardano payments"


async def test_a_question_outlives_its_process(site: Site) -> None:
    first = await site.process(ask)
    job_id = await site.hire(first)
    await site.until(job_id, "awaiting_input")
    await first.die()
    second = await site.process(ask)
    await second.sdk.provide_input(job_id, {"approve": True})
    job = await site.until(job_id)
    assert job.result == "the answer is {'approve': True}"
    assert (first.sdk.calls, second.sdk.calls) == (1, 1)
    assert len(job.inputs or ()) == 1  # the human was asked once
    assert second.storage.dropped == {}


async def test_answers_before_a_death_are_not_asked_again(site: Site) -> None:
    async def ask_thrice(sdk: Sdk, input_data: dict[str, Any]) -> str:
        answers = [await sdk.hitl.request_input(QUESTION) for _ in range(3)]
        return str([each["approve"] for each in answers])

    first = await site.process(ask_thrice)
    job_id = await site.hire(first)
    for number in (1, 2):
        job = await site.until(job_id, "awaiting_input")
        await first.sdk.provide_input(job_id, {"approve": number})
        await until(partial(has_asked, first, job_id, number))
    await site.until(job_id, "awaiting_input")
    await first.die()
    second = await site.process(ask_thrice)
    await second.sdk.provide_input(job_id, {"approve": 3})
    job = await site.until(job_id)
    assert job.result == "[1, 2, 3]"
    assert len(job.inputs or ()) == 3


async def test_a_call_after_a_death_has_the_input_of_the_first(site: Site) -> None:
    question = {"input_data": [{"id": "prompt", "type": "string", "name": "What else?"}]}
    seen = []

    async def refine(sdk: Sdk, input_data: dict[str, Any]) -> str:
        seen.append(input_data)
        return str([await sdk.hitl.request_input(question) for _ in range(2)])

    first = await site.process(refine)
    job_id = await site.hire(first)
    await site.until(job_id, "awaiting_input")
    await first.sdk.provide_input(job_id, {"prompt": "shorter"})
    await until(partial(has_asked, first, job_id, 1))
    await site.until(job_id, "awaiting_input")
    await first.die()
    second = await site.process(refine)
    await second.sdk.provide_input(job_id, {"prompt": "in German"})
    assert (await site.until(job_id)).result == str(
        [{"prompt": "shorter"}, {"prompt": "in German"}]
    )
    assert seen == [INPUT, INPUT]


async def test_another_question_than_before_is_asked(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    other = {"input_data": [{"id": "tone", "type": "string", "name": "Tone?"}]}

    async def ask_other(sdk: Sdk, input_data: dict[str, Any]) -> str:
        return str(await sdk.hitl.request_input(other))

    first = await site.process(ask)
    job_id = await site.hire(first)
    await site.until(job_id, "awaiting_input")
    await first.die()
    second = await site.process(ask_other)
    await second.sdk.provide_input(job_id, {"approve": True})
    await until(lambda: "asks something else" in caplog.text)
    await site.until(job_id, "awaiting_input")
    await second.sdk.provide_input(job_id, {"tone": "warm"})
    assert (await site.until(job_id)).result == "{'tone': 'warm'}"


async def test_a_stop_gives_back_what_no_handler_runs_for(site: Site) -> None:
    first = await site.process(ask)
    asking, unpaid = await site.hire(first), await site.hire(first, pays=False)
    await site.until(asking, "awaiting_input")
    await first.resumer.stop()
    for job_id in (asking, unpaid):
        assert (await site.client.get(job_id, lease=True)).lease is None
    second = await site.process(ask)
    await second.sdk.provide_input(asking, {"approve": True})
    site.funds.lock(f"payment-{unpaid}")
    assert (await site.until(asking)).status == "completed"
    await site.until(unpaid, "awaiting_input")


async def test_a_stop_gives_back_what_follows_a_lost_lease(site: Site) -> None:
    process = await site.process(agree, lease_ms=20_000)
    lost, kept = [await site.hire(process, pays=False) for _ in range(2)]
    await site.client.release(lost, process.resumer._process.leases().tokens[lost])
    await site.client.claim("awaiting_payment", job_ids=lost)
    await process.resumer.stop()
    assert (await site.client.get(kept, lease=True)).lease is None


async def test_a_stopped_app_keeps_its_jobs_from_others(site: Site) -> None:
    """A handler may have left a thread behind."""
    first = await site.process(hang)
    job_id = await site.hire(first)
    await until(lambda: first.sdk.calls)
    await first.resumer.stop()
    second = await site.process(agree)
    await asyncio.sleep(3 * LEASE_MS / 1_000)
    assert second.sdk.calls == 0
    await first.die()
    assert (await site.until(job_id)).status == "completed"


async def test_stops_in_order_do_not_count_as_lapses(site: Site) -> None:
    process = await site.process(hang)
    job_id = await site.hire(process)
    for _ in range(6):  # the broker fails a job at the fifth lapse
        await until(partial(getattr, process.sdk, "calls"))
        await process.resumer.stop()
        await process.die()
        process = await site.process(hang)
    await until(partial(getattr, process.sdk, "calls"))
    assert (await site.client.get(job_id)).status == "running"
    entries = (await site.client.history(job_id)).entries
    assert {each.reason for each in entries if each.what == "released"} == {STOPPED}
    assert "lapsed" not in {each.what for each in entries}


async def test_a_claim_that_a_stop_meets_is_given_back(site: Site) -> None:
    process = await site.process(agree)
    client = process.storage.client()
    claim, granted, stops = client.claim, asyncio.Event(), asyncio.Event()

    async def hold_up(status: Any, **options: Any) -> Any:
        leases = await claim(status, **options)
        if status == "running" and leases:
            granted.set()
            await stops.wait()
        return leases

    client.claim = hold_up  # type: ignore[assignment, method-assign]
    job_id = await site.hire(process)
    await granted.wait()
    stopping = asyncio.create_task(process.resumer.stop())
    await until(process.resumer._jobs._stopping.is_set)
    stops.set()
    await stopping
    job = await site.client.get(job_id, lease=True)
    assert (job.status, job.lease, job.attempts) == ("running", None, 0)
    assert process.sdk.calls == 0


async def test_an_app_runs_its_jobs_after_a_second_start(site: Site) -> None:
    async def hang_first(sdk: Sdk, input_data: dict[str, Any]) -> str:
        return await (hang if sdk.calls == 1 else agree)(sdk, input_data)

    process = await site.process(hang_first)
    running, unpaid = await site.hire(process), await site.hire(process, pays=False)
    await until(lambda: process.sdk.calls)
    await process.resumer.stop()
    await process.resumer.start()
    assert (await site.until(running)).result == "done: Cardano payments"
    site.funds.lock(f"payment-{unpaid}")
    assert (await site.until(unpaid)).status == "completed"


async def test_a_second_start_waits_for_a_call_that_goes_on(site: Site) -> None:
    calls, now, most, done = 0, 0, 0, asyncio.Event()

    async def go_on(sdk: Sdk, input_data: dict[str, Any]) -> str:
        nonlocal calls, now, most
        calls, now = calls + 1, now + 1
        is_first, most = calls == 1, max(most, now)
        while not done.is_set():
            with suppress(asyncio.CancelledError):
                await done.wait()
        now -= 1
        if is_first:
            raise asyncio.CancelledError
        return "done"

    first = await site.process(go_on, stop_grace_s=0.1)
    job_id = await site.hire(first)
    await until(lambda: now)
    await site.process(go_on)
    await first.resumer.stop()
    await first.resumer.start()
    await asyncio.sleep(2.5 * LEASE_MS / 1_000)
    calls_meanwhile = calls
    done.set()
    assert calls_meanwhile == 1
    assert (await site.until(job_id)).result == "done"
    assert (calls, most) == (2, 1)


async def test_a_result_after_a_stop_is_stored(site: Site) -> None:
    done = asyncio.Event()

    async def finish(sdk: Sdk, input_data: dict[str, Any]) -> str:
        while not done.is_set():
            with suppress(asyncio.CancelledError):
                await done.wait()
        return "late"

    process = await site.process(finish, stop_grace_s=0.1)
    job_id = await site.hire(process)
    await until(lambda: process.sdk.calls)
    await process.resumer.stop()
    done.set()
    assert (await site.until(job_id)).result == "late"


# --- leases ---------------------------------------------------------------------------------------


async def test_no_claim_is_under_way_while_a_handler_begins(site: Site) -> None:
    """Else the job that it is granted waits until the handler lets the event loop go on."""
    claims, seen = 0, []

    async def look(sdk: Sdk, input_data: dict[str, Any]) -> str:
        seen.append(claims)
        await asyncio.sleep(0.05)
        return "done"

    process = await site.process(look)
    client = process.storage.client()
    claim = client.claim

    async def counted(status: Any, **options: Any) -> Any:
        nonlocal claims
        claims += status == "running"
        try:
            return await claim(status, **options)
        finally:
            claims -= status == "running"

    client.claim = counted  # type: ignore[assignment, method-assign]
    for job_id in [await site.hire(process) for _ in range(20)]:
        await site.until(job_id)
    assert seen == [0] * 20


async def test_a_grant_that_comes_late_is_given_back(site: Site) -> None:
    process = await site.process(agree)
    client = process.storage.client()
    claim, late = client.claim, [True]

    async def delayed(status: Any, **options: Any) -> Any:
        granted = await claim(status, **options)
        if status == "running" and granted and late:
            late.clear()
            await asyncio.sleep(2 * LEASE_MS / 1_000)  # as a handler that blocks
        return granted

    client.claim = delayed  # type: ignore[assignment, method-assign]
    job_id = await site.hire(process)
    await until(lambda: not late)
    (other,) = await site.client.claim(
        "running", queue=site.queue, lease_ms=2 * LEASE_MS, wait_ms=int(PATIENCE_S * 1_000)
    )
    await asyncio.sleep(1.5 * LEASE_MS / 1_000)
    assert process.sdk.calls == 0  # it is the other one's now
    await site.client.release(job_id, other.token)
    assert (await site.until(job_id)).status == "completed"
    assert process.sdk.calls == 1


async def test_a_lease_lost_before_the_handler_ends_the_run(site: Site) -> None:
    process = await site.process(agree)
    get_job = process.storage.job

    async def get_and_lose(job_id: str) -> Any:
        held = process.resumer._process.leases().holder(job_id)
        if held is not None and held.works:
            process.resumer._jobs.stop()
            process.resumer._process.leases().drop(held)
        return await get_job(job_id)

    process.storage.job = get_and_lose  # type: ignore[method-assign]
    job_id = await site.hire(process)
    await site.until(job_id, "running")
    await until(lambda: process.resumer._jobs._stopping.is_set() and not process.resumer._runs)
    assert process.sdk.calls == 0


async def test_a_lapse_at_the_end_loses_no_result(site: Site) -> None:
    done = asyncio.Event()

    async def wait(sdk: Sdk, input_data: dict[str, Any]) -> str:
        await done.wait()
        return "done"

    process = await site.process(wait, lease_ms=20_000)  # so that no touch finds the lapse before
    job_id = await site.hire(process)
    await until(lambda: process.sdk.calls)
    process.resumer._jobs.stop()
    await site.client.release(job_id, process.resumer._process.leases().tokens[job_id])
    done.set()
    assert (await site.until(job_id)).result == "done"


async def test_a_job_claimed_again_by_its_own_process_runs_once(site: Site) -> None:
    done = asyncio.Event()

    async def wait(sdk: Sdk, input_data: dict[str, Any]) -> str:
        await done.wait()
        return "done"

    process = await site.process(wait, lease_ms=20_000)
    job_id = await site.hire(process)
    await until(lambda: process.sdk.calls)
    token = process.resumer._process.leases().tokens[job_id]
    await site.client.release(job_id, token)
    await until(lambda: process.resumer._process.leases().tokens[job_id] != token)
    done.set()
    assert (await site.until(job_id)).result == "done"
    await until(lambda: not process.resumer._runs)
    assert process.sdk.calls == 1


async def test_a_question_whose_job_is_claimed_again_goes_on(site: Site) -> None:
    process = await site.process(ask, lease_ms=20_000)
    job_id = await site.hire(process)
    job = await site.until(job_id, "awaiting_input")
    look, begins = process.storage.job, process.resumer._begin
    begun = asyncio.Event()

    async def look_after_the_claim(job_id: str) -> Any:
        await begun.wait()
        return await look(job_id)

    async def begin(lease: Any) -> None:
        await begins(lease)
        begun.set()

    process.storage.job = look_after_the_claim  # type: ignore[method-assign]
    process.resumer._begin = begin  # type: ignore[method-assign]
    await site.client.release(job_id, process.resumer._process.leases().tokens[job_id])
    await site.client.provide_input(job_id, '{"approve":1}', expected_version=job.version)
    assert (await site.until(job_id)).result == "the answer is {'approve': 1}"
    assert process.sdk.calls == 1


async def test_a_lapse_while_a_job_asks_starts_no_second_call(site: Site) -> None:
    """The lease that is granted anew ends with the answer, as the broker has it."""
    now, most = 0, 0

    async def ask_and_work(sdk: Sdk, input_data: dict[str, Any]) -> str:
        nonlocal now, most
        await sdk.hitl.request_input(QUESTION)
        now, most = now + 1, max(most, now + 1)
        try:
            await asyncio.sleep(1)
        finally:
            now -= 1
        return "done"

    first = await site.process(ask_and_work, lease_ms=3_000, poll_s=60)
    job_id = await site.hire(first)
    job = await site.until(job_id, "awaiting_input")
    second = await site.process(ask_and_work, lease_ms=3_000, poll_s=0.05)
    token = first.resumer._process.leases().tokens[job_id]
    await site.client.release(job_id, token)
    await until(lambda: first.resumer._process.leases().tokens[job_id] != token)
    await site.client.provide_input(job_id, '{"approve":1}', expected_version=job.version)
    assert (await site.until(job_id)).result == "done"
    assert most == 1
    assert second.sdk.calls <= 1


async def test_a_lapse_while_a_question_is_on_its_way(site: Site) -> None:
    process = await site.process(ask, lease_ms=20_000)
    change, lapses = process.storage.change, [True]

    async def lapse_and_change(job_id: str, updates: Any, **options: Any) -> None:
        if updates["status"] == "awaiting_input" and lapses:
            lapses.clear()
            process.resumer._jobs.stop()
            await site.client.release(job_id, process.resumer._process.leases().tokens[job_id])
        await change(job_id, updates, **options)

    process.storage.change = lapse_and_change  # type: ignore[method-assign]
    job_id = await site.hire(process)
    await site.until(job_id, "awaiting_input")
    await process.sdk.provide_input(job_id, {"approve": 1})
    assert (await site.until(job_id)).result == "the answer is {'approve': 1}"
    assert process.sdk.calls == 1


async def test_a_job_claimed_again_gets_no_old_answer(site: Site) -> None:
    pauses, go_on = asyncio.Event(), asyncio.Event()

    async def ask_and_pause(sdk: Sdk, input_data: dict[str, Any]) -> str:
        first = await sdk.hitl.request_input(QUESTION)
        pauses.set()
        await go_on.wait()
        return str([first, await sdk.hitl.request_input(QUESTION)])

    process = await site.process(ask_and_pause, lease_ms=20_000)
    job_id = await site.hire(process)
    await site.until(job_id, "awaiting_input")
    await process.sdk.provide_input(job_id, {"approve": 1})
    await pauses.wait()
    token = process.resumer._process.leases().tokens[job_id]
    await site.client.release(job_id, token)
    await until(lambda: process.resumer._process.leases().tokens[job_id] != token)
    go_on.set()
    await site.until(job_id, "awaiting_input")
    await process.sdk.provide_input(job_id, {"approve": 2})
    assert (await site.until(job_id)).result == "[{'approve': 1}, {'approve': 2}]"


async def test_a_job_that_another_moved_on_begins_anew(site: Site) -> None:
    async def hang_first(sdk: Sdk, input_data: dict[str, Any]) -> str:
        return await (hang if sdk.calls == 1 else ask)(sdk, input_data)

    process = await site.process(hang_first, lease_ms=20_000)
    job_id = await site.hire(process)
    await until(lambda: process.sdk.calls)
    client = process.storage.client()
    claim, others = client.claim, asyncio.Event()

    async def claim_after_the_other(status: Any, **options: Any) -> Any:
        await others.wait()
        return await claim(status, **options)

    client.claim = claim_after_the_other  # type: ignore[assignment, method-assign]
    await asyncio.sleep(0.3)
    await site.client.release(job_id, process.resumer._process.leases().tokens[job_id])
    (lease,) = await site.client.claim("running", job_ids=job_id)
    job = await site.client.transition(
        job_id, "awaiting_input", input_schema=canonical(QUESTION), lease=lease.token,
        keep_lease=True, expected_version=lease.job.version,
    )  # fmt: skip
    await site.client.provide_input(job_id, '{"approve":1}', expected_version=job.version)
    await site.client.release(job_id, lease.token)
    others.set()
    assert (await site.until(job_id)).result == "the answer is {'approve': 1}"
    assert process.sdk.calls == 2


async def test_a_lease_that_lapsed_is_not_claimed_beside(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """After a freeze, the lease thread claims it again: its handler goes on."""
    thaws, done = threading.Event(), asyncio.Event()

    async def wait(sdk: Sdk, input_data: dict[str, Any]) -> str:
        await done.wait()
        return "done"

    process = await site.process(wait)
    job_id = await site.hire(process)
    await until(lambda: process.sdk.calls)
    keeper = process.resumer._process.leases()
    touch, token = keeper._touch, keeper.tokens[job_id]

    def touch_when_thawed(client: Any) -> None:
        thaws.wait(PATIENCE_S)
        touch(client)

    keeper._touch = touch_when_thawed  # type: ignore[method-assign]
    await asyncio.sleep(1.5 * LEASE_MS / 1_000)
    assert (await site.client.get(job_id, lease=True)).lease is None
    assert keeper.tokens[job_id] == token
    thaws.set()
    await until(lambda: "was granted again" in caplog.text)
    done.set()
    assert (await site.until(job_id)).result == "done"
    assert process.sdk.calls == 1


async def test_a_job_that_cannot_be_ended_is_given_back(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    process = await site.process(agree)
    change = process.storage.change

    async def refuse(job_id: str, updates: Any, **options: Any) -> None:
        if updates["status"] in {"completed", "failed"}:
            raise ValueError("refused")
        await change(job_id, updates, **options)

    process.storage.change = refuse  # type: ignore[method-assign]
    job_id = await site.hire(process)
    await until(lambda: "could not be ended" in caplog.text)
    await until(lambda: not process.resumer._runs)
    job = await site.client.get(job_id, lease=True)
    assert (job.status, job.lease, job.attempts) == ("running", None, 1)
    assert job.not_before is not None


async def test_work_goes_on_after_an_unexpected_error(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tollgate.masumi.sdk.resumer.FAULT_S", 0.05)
    process = await site.process(agree, starts=False)
    claim, faults = process.resumer._claim_running, [True]

    async def fail_once() -> bool:
        if faults:
            faults.clear()
            raise ZeroDivisionError
        return await claim()

    monkeypatch.setattr(process.resumer, "_claim_running", fail_once)
    assert (await site.until(await site.hire(process))).status == "completed"
    assert "trying again in 0.05 s" in caplog.text


async def test_a_handler_may_go_on_without_an_answer(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    async def give_up(sdk: Sdk, input_data: dict[str, Any]) -> str:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.3):
                await sdk.hitl.request_input(QUESTION)
        return "without"

    caplog.set_level("WARNING")

    process = await site.process(give_up)
    look = process.storage.job

    async def look_slowly(job_id: str) -> Any:
        await asyncio.sleep(0.2)  # so that the wait for the answer ends before the run
        return await look(job_id)

    process.storage.job = look_slowly  # type: ignore[method-assign]
    job = await site.until(await site.hire(process))
    assert job.result == "without"
    await until(lambda: not process.resumer._runs)
    assert "ended while it asked" not in caplog.text
    assert process.resumer._process.leases().all() == []


async def test_no_job_fails_since_the_broker_is_away_at_its_begin(site: Site) -> None:
    """The SDK would fail a job that it cannot read."""
    process = await site.process(agree)
    get_job = process.storage.get_job

    async def be_away(job_id: str) -> Any:
        held = process.resumer._process.leases().holder(job_id)
        if held is not None and held.works:
            raise BrokerUnreachableError("no answer of the broker within 30 s")
        return await get_job(job_id)

    process.storage.get_job = be_away  # type: ignore[method-assign]
    assert (await site.until(await site.hire(process))).status == "completed"


async def test_a_broker_that_refuses_to_tell_is_no_end(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    process = await site.process(agree)
    get, faults = process.storage.job, [True]

    async def fail_once(job_id: str) -> Any:
        if faults:
            faults.clear()
            raise InternalError("a defect")
        return await get(job_id)

    process.storage.job = fail_once  # type: ignore[method-assign]
    assert (await site.until(await site.hire(process))).status == "completed"
    assert "its lease is left to lapse" in caplog.text


# --- between processes ----------------------------------------------------------------------------


async def test_an_answer_reaches_the_handler_elsewhere(site: Site) -> None:
    first, second = await site.process(ask), await site.process(ask)
    job_id = await site.hire(first)
    await site.until(job_id, "awaiting_input")
    answerer = second if first.sdk.calls else first
    await answerer.sdk.provide_input(job_id, {"approve": INPUT["prompt"]})
    job = await site.until(job_id)
    assert job.result == f"the answer is {{'approve': '{INPUT['prompt']}'}}"
    assert first.sdk.calls + second.sdk.calls == 1


async def test_each_answer_is_for_its_question(site: Site) -> None:
    async def ask_often(sdk: Sdk, input_data: dict[str, Any]) -> str:
        return str([await sdk.hitl.request_input(QUESTION) for _ in range(6)])

    first, second = await site.process(ask_often), await site.process(hang)
    second.resumer._jobs.stop()
    job_id = await site.hire(first)
    for number in range(6):
        await site.until(job_id, "awaiting_input")
        process = (second, first)[number % 2]  # in the handler's process, and in another
        await process.sdk.provide_input(job_id, {"approve": number})
        await until(partial(has_asked, first, job_id, number + 1))
    job = await site.until(job_id)
    assert job.result == str([{"approve": number} for number in range(6)])
    for process in (first, second):
        assert process.sdk.hitl._input_data_store == {}


async def test_a_second_answer_is_refused(site: Site) -> None:
    process = await site.process(ask)
    job_id = await site.hire(process)
    await site.until(job_id, "awaiting_input")
    ends = await asyncio.gather(
        *(process.sdk.provide_input(job_id, {"approve": each}) for each in (1, 2)),
        return_exceptions=True,
    )
    assert sorted(type(each).__name__ for each in ends) == ["NoneType", "ValueError"]


async def test_the_agents_own_handler_of_answers(site: Site) -> None:
    seen = []

    async def look(job_id: str, input_data: dict[str, Any]) -> None:
        seen.append(input_data)

    first, second = await site.process(ask, look), await site.process(hang, look)
    second.resumer._jobs.stop()
    job_id = await site.hire(first)
    await site.until(job_id, "awaiting_input")
    await second.sdk.provide_input(job_id, {"approve": 1})
    assert (await site.until(job_id)).result == "the answer is {'approve': 1}"
    assert seen == [{"approve": 1}]


async def ask_twice(sdk: Sdk, input_data: dict[str, Any]) -> str:
    return str([(await sdk.hitl.request_input(QUESTION))["approve"] for _ in range(2)])


async def test_an_own_handler_may_resume_the_job_itself(site: Site) -> None:
    async def resume_and_linger(job_id: str, input_data: dict[str, Any]) -> None:
        await process.sdk.job_manager.resume_job_with_input(job_id, input_data)
        await until(partial(has_asked, process, job_id, 1))
        await site.until(job_id, "awaiting_input", "completed")

    process = await site.process(ask_twice, resume_and_linger)
    job_id = await site.hire(process)
    await site.until(job_id, "awaiting_input")
    await process.sdk.provide_input(job_id, {"approve": 1})
    assert (await site.client.get(job_id)).status == "awaiting_input"
    job = await site.client.get(job_id)
    await site.client.provide_input(job_id, '{"approve":2}', expected_version=job.version)
    assert (await site.until(job_id)).result == "[1, 2]"


async def test_an_answer_whose_reply_is_lost_is_given_once(site: Site) -> None:
    first, second = await site.process(ask_twice), await site.process(hang)
    second.resumer._jobs.stop()
    client = second.storage.client()
    provide, lost = client.provide_input, [True]

    async def lose_the_reply(job_id: str, *args: Any, **fields: Any) -> Job:
        job = await provide(job_id, *args, **fields)
        if lost:
            lost.clear()
            await until(partial(has_asked, first, job_id, 1))
            await site.until(job_id, "awaiting_input")
            raise BrokerUnreachableError("the reply is lost")
        return job

    client.provide_input = lose_the_reply  # type: ignore[assignment, method-assign]
    job_id = await site.hire(first)
    await site.until(job_id, "awaiting_input")
    await second.sdk.provide_input(job_id, {"approve": 1})
    assert (await site.client.get(job_id)).status == "awaiting_input"
    await second.sdk.provide_input(job_id, {"approve": 2})
    assert (await site.until(job_id)).result == "[1, 2]"


async def test_a_question_whose_reply_is_lost_is_asked_once(site: Site) -> None:
    process = await site.process(ask_twice)
    client = process.storage.client()
    transition, lost = client.transition, [True]

    async def lose_the_reply(job_id: str, to: Any, **fields: Any) -> Job:
        job = await transition(job_id, to, **fields)
        if to == "awaiting_input" and lost:
            lost.clear()
            await site.client.provide_input(job_id, '{"approve":1}', expected_version=job.version)
            raise BrokerUnreachableError("the reply is lost")
        return job

    client.transition = lose_the_reply  # type: ignore[assignment, method-assign]
    job_id = await site.hire(process)
    await until(lambda: not lost)
    await until(partial(has_asked, process, job_id, 1))
    await site.until(job_id, "awaiting_input")
    await process.sdk.provide_input(job_id, {"approve": 2})
    job = await site.until(job_id)
    assert job.result == "[1, 2]"
    assert len(job.inputs or ()) == 2


async def test_a_job_that_another_claimed_is_watched_there(site: Site) -> None:
    process = await site.process(agree)
    process.resumer._rounds[1].stop()  # its own claims
    create_job = process.storage.create_job

    async def create_and_lose(job_id: str, job_data: Any) -> None:
        await create_job(job_id, job_data)
        assert await site.client.claim("awaiting_payment", job_ids=job_id, lease_ms=60_000)

    process.storage.create_job = create_and_lose  # type: ignore[method-assign]
    job = new_job()
    await process.sdk.start_job(job)
    assert process.sdk.config.monitored == []
    assert process.sdk.job_manager._payment_instances == {}
    await process.sdk._handle_payment_confirmed(job["job_id"], job["payment_id"])
    assert (await site.client.get(job["job_id"])).status == "awaiting_payment"


async def test_a_job_is_watched_once_if_a_claim_comes_first(site: Site) -> None:
    process = await site.process(agree)
    create_job = process.storage.create_job
    begun = asyncio.Event()

    async def create_and_wait(job_id: str, job_data: Any) -> None:
        await create_job(job_id, job_data)
        await until(lambda: process.resumer._process.leases().holder(job_id))
        begun.set()

    process.storage.create_job = create_and_wait  # type: ignore[method-assign]
    job = new_job()
    payment = await process.sdk.start_job(job)
    assert begun.is_set()
    await asyncio.sleep(0.2)
    assert process.sdk.config.monitored == [payment]
    assert process.sdk.job_manager._payment_instances == {job["job_id"]: payment}
    site.funds.lock(job["payment_id"])
    assert (await site.until(job["job_id"])).status == "completed"


# --- the broker, and operators --------------------------------------------------------------------


async def force_failed(site: Site, job_id: str) -> None:
    job = await site.client.get(job_id)
    await site.client.transition(
        job_id, "failed", error="by hand", expected_version=job.version, force=True
    )


@pytest.mark.parametrize("agent", [hang, ask])
async def test_a_job_ended_by_an_operator_ends_its_handler(site: Site, agent: Agent) -> None:
    process = await site.process(agent)
    job_id = await site.hire(process)
    await until(lambda: process.sdk.calls)
    if agent is ask:
        await site.until(job_id, "awaiting_input")
    await force_failed(site, job_id)
    await until(lambda: not process.resumer._runs)
    job = await site.client.get(job_id)
    assert (job.status, job.error) == ("failed", "by hand")


async def test_an_unpaid_job_that_ended_is_not_watched(site: Site) -> None:
    process = await site.process(agree)
    job_id = await site.hire(process, pays=False)
    await force_failed(site, job_id)
    await until(lambda: process.sdk.job_manager._payment_instances == {})
    site.funds.lock(f"payment-{job_id}")
    assert process.resumer._process.leases().all() == []


async def test_a_broker_that_is_killed_loses_nothing(short_dir: Any, tmp_path: Any) -> None:
    broker = BrokerProcess(short_dir, data_dir=tmp_path / "data")
    broker.wait_until_ready()
    site = Site(broker.endpoint, "agent")
    down = asyncio.Event()

    async def work(sdk: Sdk, input_data: dict[str, Any]) -> str:
        if input_data["prompt"] == "waits":
            await down.wait()
            return "done"
        return await ask(sdk, input_data)

    try:
        process = await site.process(work, timeout_s=0.5)
        waits = await site.hire(process, input_data={"prompt": "waits"})
        asks, unpaid = await site.hire(process), await site.hire(process, pays=False)
        await site.until(asks, "awaiting_input")
        broker.kill()
        down.set()  # its result comes while the broker is away
        site.funds.lock(f"payment-{unpaid}")
        await asyncio.sleep(1.5 * LEASE_MS / 1_000)
        await asyncio.to_thread(broker.restart)
        assert (await site.until(waits)).result == "done"
        await process.sdk.provide_input(asks, {"approve": 1})
        assert (await site.until(asks)).result == "the answer is {'approve': 1}"
        await site.until(unpaid, "awaiting_input")
        assert process.sdk.calls == 3
    finally:
        await site.close()
        broker.kill()


# --- proofs ---------------------------------------------------------------------------------------


async def test_a_result_is_proved_after_it_is_stored(site: Site) -> None:
    service = PaymentService(cooldown_ms=0)
    with Server(service) as server:
        first = await site.process(hang)
        made = service.create(identifierFromPurchaser=PURCHASER)
        identifier = made["blockchainIdentifier"]
        service.lock_funds(identifier)
        job_id = await site.hire(first, payment_id=identifier)
        await until(lambda: first.sdk.calls)
        await first.die()
        await site.process(
            agree, prove=True, proof_poll_s=0.1,
            payment_service_url=server.url, payment_api_key=server.token,
        )  # fmt: skip
        await site.until(job_id)
        deadline = time.monotonic() + PATIENCE_S
        while True:
            service.tick()
            settlement = (await site.client.get(job_id)).settlement
            assert settlement is not None
            if settlement.state == "confirmed":
                break
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
    result_hash = output_hash_as_deployed(PURCHASER, "done: Cardano payments")
    assert service.accepted == [(identifier, result_hash)]


async def test_a_job_from_before_is_proved_as_the_sdk_does(site: Site) -> None:
    process = await site.process(agree, starts=False)
    process.storage.settles = False
    job = new_job()
    await process.storage.create_job(job["job_id"], job)
    await process.storage.update_job(job["job_id"], {"status": "running"})
    await process.resumer.start()
    await site.until(job["job_id"])
    payments = process.sdk.job_manager._payment_instances
    await until(lambda: job["job_id"] in payments and payments[job["job_id"]].completed)
    assert payments[job["job_id"]].completed == [(job["payment_id"], "done: Cardano payments")]


async def test_a_touch_after_the_end_stops_no_proof(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of a job ends its lease: the lease thread may hear of that before the handler."""
    process = await site.process(agree, starts=False)
    process.storage.settles = False
    job = new_job()
    job_id = job["job_id"]
    await process.storage.create_job(job_id, job)
    await process.storage.update_job(job_id, {"status": "running"})
    change = process.storage.change

    async def changed(changed_id: str, updates: Any, **fields: Any) -> None:
        held = process.resumer._process.leases().holder(changed_id)
        await change(changed_id, updates, **fields)
        if held is not None and updates["status"] == "completed":
            process.resumer._lose(held)
            await asyncio.sleep(0)

    monkeypatch.setattr(process.storage, "change", changed)
    await process.resumer.start()
    await site.until(job_id)
    payments = process.sdk.job_manager._payment_instances
    await until(lambda: job_id in payments and payments[job_id].completed)


async def test_a_job_ends_before_its_payment_does(site: Site) -> None:
    process = await site.process(agree)
    job_id = await site.hire(process, pays=False)
    job, shown = await site.client.get(job_id), await process.storage.get_job(job_id)
    assert job.submit_result_time is not None
    assert shown is not None
    milliseconds = shown["submit_result_time"] - job.submit_result_time.timestamp() * 1_000
    assert milliseconds == pytest.approx(600_000)


# --- mistakes -------------------------------------------------------------------------------------


async def test_another_storage_is_an_error() -> None:
    sdk = Sdk(object(), agree, Funds())
    with sdk.imported(), pytest.raises(TypeError, match="are in a object"):
        resume(sdk)
    with pytest.raises(ValueError, match="lease_ms"):
        resume(sdk, lease_ms=10)


async def test_what_is_no_agent_is_an_error() -> None:
    app = SimpleNamespace(routes=[SimpleNamespace(endpoint=agree), SimpleNamespace(endpoint=Sdk)])
    with pytest.raises(TypeError, match="not a SimpleNamespace"):
        resume(app, TollgateJobStorage())


async def test_a_second_call_is_an_error() -> None:
    sdk = Sdk(TollgateJobStorage(), agree, Funds())
    with sdk.imported():
        resume(sdk)
        with pytest.raises(ValueError, match="called for this agent before"):
            resume(sdk.app)

"""The watcher as it runs: rounds that repeat, hints, trouble that passes, and the end."""

import asyncio
import logging

import pytest

from tests.masumi.conftest import Town, hash_of
from tests.payment_service.faults import Fault
from tollgate import Job, NotAuthorizedError
from tollgate.masumi import rounds
from tollgate.masumi import watcher as module
from tollgate.masumi.api import ServiceFailedError, ServiceRefusedError
from tollgate.masumi.rounds import Trouble
from tollgate.masumi.watcher import Watcher


async def until(town: Town, job: Job, status: str) -> None:
    await town.client.wait(job.job_id, statuses=[status], timeout_s=20)


async def stopped(watcher: Watcher, running: "asyncio.Task[None]") -> None:
    watcher.stop()
    async with asyncio.timeout(20):
        await running


async def test_a_running_watcher_opens_and_proves(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SETTLEMENT_WAIT_S", 0.02)
    watcher = town.new_watcher(poll_s=0.05)
    running = asyncio.create_task(watcher.run())
    job = await town.hire()
    town.service.lock_funds(job.blockchain_identifier)
    await until(town, job, "running")
    job = await town.client.transition(job.job_id, "completed", result="done")
    async with asyncio.timeout(20):
        while await town.state(job) != "confirmed":
            town.service.tick()
            town.broker.advance(1)
            await asyncio.sleep(0.02)
    await stopped(watcher, running)
    assert town.service.accepted == [(job.blockchain_identifier, hash_of(job))]


async def test_a_hint_ends_the_pause(town: Town) -> None:
    watcher = town.new_watcher(poll_s=3_600.0)
    running = asyncio.create_task(watcher.run())
    job = await town.hire()
    town.service.lock_funds(job.blockchain_identifier)
    async with asyncio.timeout(20):
        while await town.status(job) != "running":
            watcher.hint()
            await asyncio.sleep(0.02)
    await stopped(watcher, running)


async def test_trouble_passes_and_is_told_once(
    town: Town, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "BACKOFF_S_MIN", 0.01)
    caplog.set_level(logging.INFO, "tollgate.payments")
    town.service.faults.plan("diff", *[Fault.ERROR_BEFORE] * 3)
    watcher = town.new_watcher(poll_s=0.05)
    running = asyncio.create_task(watcher.run())
    job = await town.hire()
    town.service.lock_funds(job.blockchain_identifier)
    await until(town, job, "running")  # whatever fails, new jobs are looked at
    async with asyncio.timeout(20):
        while "all is well again" not in caplog.text:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    await stopped(watcher, running)
    assert caplog.text.count("trying again") == 1
    assert caplog.text.count("all is well again") == 1


async def test_a_token_that_is_refused_ends_it(town: Town) -> None:
    town.service.keys.clear()
    with pytest.raises(ExceptionGroup) as raised:
        await town.watcher.run()
    assert raised.value.subgroup(ServiceRefusedError) is not None


def test_pauses_grow_and_have_a_limit() -> None:
    trouble = Trouble("payments")
    fault = ServiceFailedError("x")
    pauses = [trouble.after(fault) for _ in range(20)]
    assert all(0.5 <= pause <= 60 for pause in pauses)
    assert pauses[0] <= 1.0
    assert pauses[-1] >= 30.0
    assert trouble.after(ServiceFailedError("x", 100.0)) == 100.0
    trouble.over()
    assert trouble.after(fault) <= 1.0


async def test_a_refusal_of_the_broker_ends_it(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(**_: object) -> list[object]:
        raise NotAuthorizedError("no role of this peer may claim")

    monkeypatch.setattr(town.client, "claim", refused)
    with pytest.raises(ExceptionGroup) as raised:
        await town.watcher.run()
    assert raised.value.subgroup(NotAuthorizedError) is not None

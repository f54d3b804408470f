"""No payment and no refund is missed, whatever one part of the service does."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.masumi.conftest import INPUT_HASH, Town
from tests.payment_service.faults import Fault
from tests.payment_service.server import Server
from tests.payment_service.service import PaymentService as StandIn
from tests.payment_service.states import OnChainState
from tollgate import Job
from tollgate.masumi import payment_sync
from tollgate.masumi.api import ServiceFailedError
from tollgate.testing import Broker

UNREADABLE = 10**18
HOUR_MS = 3_600_000


# --- new jobs -------------------------------------------------------------------------------------


async def test_unreadable_payments_stop_no_new_job(town: Town) -> None:
    await town.watcher.open_gates()
    for _ in range(12):
        bad = await town.hire()
        town.service.payments[bad.blockchain_identifier].submit_by = UNREADABLE
    await town.rounds(3)
    job = await town.hire_paid_before()
    bad = await town.hire()  # both are asked about at once
    town.service.payments[bad.blockchain_identifier].submit_by = UNREADABLE
    assert not await town.watcher.open_gates()  # and no part fails
    assert await town.status(job) == "running"


async def test_a_service_that_is_away_is_one_line(
    town: Town, caplog: pytest.LogCaptureFixture
) -> None:
    await town.watcher.open_gates()
    for _ in range(40):
        await town.hire()
    town.service.faults.plan("resolve", *[Fault.ERROR_BEFORE] * 100)
    asked = 0
    for _ in range(5):
        with pytest.raises(ServiceFailedError, match="500"):
            await town.watcher.open_gates()
        before, asked = asked, town.service.faults.counts["resolve", Fault.ERROR_BEFORE]
        # Of the new ones, and of the others, some are tried. If all of them fail, the rest is left.
        assert asked - before == 2 * payment_sync.RESOLVED_AT_ONCE
    await town.watcher.open_gates()  # none is new any more: what can wait fails no round
    assert not caplog.records


async def test_what_can_wait_has_its_turn_while_a_feed_fails(town: Town) -> None:
    job = await town.hire_paid_before()
    payment = town.service.payments[job.blockchain_identifier]
    submit_by, payment.submit_by = payment.submit_by, UNREADABLE
    await town.rounds(1)
    payment.submit_by = submit_by
    town.service.faults.plan("diff", *[Fault.ERROR_BEFORE] * 2)
    with pytest.raises(ServiceFailedError):
        await town.watcher.open_gates()
    assert await town.status(job) == "running"


async def test_a_payment_becomes_readable(town: Town) -> None:
    job = await town.hire_paid_before()
    payment = town.service.payments[job.blockchain_identifier]
    submit_by, payment.submit_by = payment.submit_by, UNREADABLE
    await town.rounds(2)
    payment.submit_by = submit_by
    await town.rounds(1)
    assert await town.status(job) == "running"


async def test_new_jobs_are_looked_at_while_the_feed_fails(town: Town) -> None:
    job = await town.hire_paid_before()
    town.service.faults.plan("diff", *[Fault.ERROR_BEFORE] * 2)
    with pytest.raises(ServiceFailedError):
        await town.watcher.open_gates()
    assert await town.status(job) == "running"


async def test_the_longest_pause_asked_for_is_kept(town: Town) -> None:
    await town.watcher.open_gates()
    town.service.faults.retry_after_s = 7
    town.service.faults.plan("diff", Fault.ERROR_BEFORE, Fault.TOO_MANY)
    with pytest.raises(ServiceFailedError) as failed:
        await town.watcher.open_gates()
    assert failed.value.retry_after_s == 7.0


async def test_an_unknown_payment_is_asked_about_again(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payment_sync, "SWEEP_S", 0.0)
    town.watcher = town.new_watcher()
    job = await town.hire_paid_before()
    payment = town.service.payments.pop(job.blockchain_identifier)
    await town.watcher.open_gates()
    payment.changed -= HOUR_MS  # the feed is past it
    town.service.payments[job.blockchain_identifier] = payment
    await town.watcher.open_gates()
    assert await town.status(job) == "running"


async def test_all_unpaid_jobs_are_looked_at_again(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payment_sync, "SWEEP_S", 0.0)
    town.watcher = town.new_watcher()
    jobs = [await town.hire() for _ in range(20)]
    await town.watcher.open_gates()
    asked: list[str] = []

    def counted(data: dict[str, Any]) -> dict[str, Any]:
        asked.append(data["blockchainIdentifier"])
        return data

    town.server.proxy.changes["resolve"] = counted
    for number in range(1, 4):  # a few in each round
        await town.watcher.open_gates()
        assert len(asked) <= number * payment_sync.RESOLVED_AT_ONCE
    assert {*asked} == {job.blockchain_identifier for job in jobs}


# --- changes --------------------------------------------------------------------------------------


async def test_an_older_service_is_read_all_the_same(
    town: Town, caplog: pytest.LogCaptureFixture
) -> None:
    town.service.source_types = ("Web3CardanoV1",)
    job, early = await town.hire(), await town.hire_paid_before()
    town.service.lock_funds(job.blockchain_identifier)
    for _ in range(3):
        assert not await town.watcher.open_gates()  # no round fails
    assert (await town.status(job), await town.status(early)) == ("running", "running")
    assert caplog.text.count("Web3CardanoV2 is not read") == 1


async def test_one_source_that_fails_does_not_stop_the_other(town: Town) -> None:
    town.watcher = town.new_watcher(source_types=("Web3CardanoV2", "Web3CardanoV1"))
    job = await town.hire()
    await town.watcher.open_gates()
    town.service.lock_funds(job.blockchain_identifier)
    town.service.faults.plan("diff", Fault.ERROR_BEFORE)
    with pytest.raises(ServiceFailedError):
        await town.watcher.open_gates()
    assert await town.status(job) == "running"


async def test_a_page_of_unreadable_payments_hides_none(town: Town) -> None:
    job = await town.hire()
    await town.watcher.open_gates()
    for _ in range(110):
        odd = town.service.create()["blockchainIdentifier"]
        town.service.payments[odd].submit_by = UNREADABLE
    town.service.lock_funds(job.blockchain_identifier)
    town.service.payments[job.blockchain_identifier].changed += 1_000  # it comes last
    await town.watcher.open_gates()
    assert await town.status(job) == "running"


async def test_pages_shorter_than_asked_for(town: Town) -> None:
    jobs = [await town.hire() for _ in range(60)]
    await town.watcher.open_gates()
    town.server.proxy.changes["diff"] = lambda data: {"Payments": data["Payments"][:20]}
    for job in jobs:
        town.service.lock_funds(job.blockchain_identifier)
    await town.watcher.open_gates()
    assert (await town.client.count("running")).total == len(jobs)


async def test_a_change_that_shows_late_in_a_long_reading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is dated before what was read already, and the reading then takes ten minutes."""
    monkeypatch.setattr(payment_sync, "PAGES_MAX", 1)
    ahead_s = 0
    with Server(StandIn(clock=lambda: time.time() + ahead_s)) as server, Broker() as broker:
        async with broker.connect_async() as client:
            town = Town(broker, server, client)
            job = await town.hire()
            await town.watcher.open_gates()
            for _ in range(350):
                town.service.create()
            assert await town.watcher.open_gates()
            town.service.lock_funds(job.blockchain_identifier)
            town.service.payments[job.blockchain_identifier].changed -= 5_000
            ahead_s = 600
            town.service.create()
            while await town.watcher.open_gates():
                pass
            await town.watcher.open_gates()
            assert await town.status(job) == "running"
            await town.close()


async def test_two_changes_in_one_millisecond(town: Town) -> None:
    job = await town.hire()
    payment = town.service.payments[job.blockchain_identifier]
    town.service.lock_funds(job.blockchain_identifier)
    changed = payment.changed
    await town.watcher.open_gates()
    town.service.request_refund(job.blockchain_identifier)
    payment.changed = changed
    await town.watcher.open_gates()
    assert (await town.client.get(job.job_id)).stop_requested


@pytest.mark.parametrize("ahead_s", [-7_500, 7_500])
async def test_the_clock_of_the_watcher_decides_nothing(ahead_s: int) -> None:
    with Server(StandIn(clock=lambda: time.time() + ahead_s)) as server, Broker() as broker:
        async with broker.connect_async() as client:
            town = Town(broker, server, client)
            await town.watcher.open_gates()
            job = await town.hire()
            await town.watcher.open_gates()
            town.service.lock_funds(job.blockchain_identifier)
            await town.watcher.open_gates()
            assert await town.status(job) == "running"
            await town.close()


# --- refunds --------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["running", "awaiting_input"])
async def test_a_refund_reaches_a_job_without_settlement(status: str) -> None:
    """The watcher was away for two hours, in which the buyer of an older job asked for a refund."""
    start = datetime.now(UTC) - timedelta(hours=3)
    with Server(StandIn(clock=time.time)) as server, Broker(start=start) as broker:
        async with broker.connect_async() as client:
            town = Town(broker, server, client)
            job = await town.hire(settle=False)
            town.service.lock_funds(job.blockchain_identifier)
            await town.watcher.open_gates()
            if status == "awaiting_input":
                await client.transition(job.job_id, status, input_schema="{}")
            town.service.request_refund(job.blockchain_identifier)
            town.service.payments[job.blockchain_identifier].changed -= 2 * HOUR_MS
            await town.new_watcher().open_gates()
            assert (await client.get(job.job_id)).stop_requested
            await town.close()


async def test_a_settlement_left_to_a_person_is_not_read_for() -> None:
    start = datetime.now(UTC) - timedelta(days=30)
    with Server(StandIn(clock=time.time)) as server, Broker(start=start) as broker:
        async with broker.connect_async() as client:
            town = Town(broker, server, client)
            job = await town.completed()
            town.service.payments.pop(job.blockchain_identifier)
            assert await town.settled(job) == "manual"
            old = town.service.create(inputHash=INPUT_HASH)["blockchainIdentifier"]
            town.service.payments[old].changed -= 48 * HOUR_MS
            read: list[int] = []

            def counted(data: dict[str, Any]) -> dict[str, Any]:
                read.append(len(data["Payments"]))
                return data

            town.server.proxy.changes["diff"] = counted
            await town.new_watcher().open_gates()
            assert sum(read) == 0
            await town.close()


@pytest.mark.parametrize("state", ["RefundAuthorized", "RefundWithdrawn"])
async def test_a_holder_hears_that_the_money_is_gone(town: Town, state: str) -> None:
    job = await town.hire()
    town.service.lock_funds(job.blockchain_identifier)
    await town.watcher.open_gates()
    town.service.request_refund(job.blockchain_identifier)  # it was not seen
    town.service.move(job.blockchain_identifier, OnChainState(state))
    await town.watcher.open_gates()
    assert (await town.client.get(job.job_id)).stop_requested


async def test_a_refund_is_seen_while_another_opens_the_gate(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This watcher wants to end the job; another one, which knows less, lets it run before."""
    job = await town.hire()
    await town.watcher.open_gates()
    town.service.lock_funds(job.blockchain_identifier)
    town.service.request_refund(job.blockchain_identifier)
    get = town.client.get

    async def then_opened(*given: Any, **others: Any) -> Job:
        found = await get(*given, **others)
        if found.status.value == "awaiting_payment":
            await town.client.transition(job.job_id, "running", expected_version=found.version)
        return found

    monkeypatch.setattr(town.client, "get", then_opened)
    await town.watcher.open_gates()
    assert (await get(job.job_id)).stop_requested


async def test_held_jobs_do_not_keep_a_round_going(
    town: Town, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(payment_sync, "RESOLVED_MAX", 8)
    town.newest._timeout_s = 20.0  # a call that takes too long is told of as well
    jobs = [await town.hire() for _ in range(20)]
    leases = await town.client.claim("awaiting_payment", limit=len(jobs))
    for job in jobs:
        town.service.lock_funds(job.blockchain_identifier)
    for _ in range(10):
        has_more = await town.watcher.open_gates()
    assert not has_more
    assert caplog.text.count("is held by another program") == len(jobs)
    await asyncio.gather(*[town.client.release(each.job.job_id, each.token) for each in leases])
    await town.rounds(3)
    assert (await town.client.count("running")).total == len(jobs)

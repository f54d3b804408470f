"""Paid in the last second, late, or after the end, with clocks that differ by minutes."""

import time
from collections.abc import AsyncIterator

import pytest

from tests.masumi.conftest import INPUT_HASH, PURCHASER, Town
from tests.payment_service.server import Server
from tests.payment_service.service import PaymentService as StandIn
from tollgate import Job
from tollgate.masumi.gate import LAST_MINUTES
from tollgate.testing import Broker

MINUTE_MS = 60_000
LAST_MS = int(LAST_MINUTES.total_seconds() * 1_000)


@pytest.fixture(params=[-600, 0, 600], ids=["service behind", "same time", "service ahead"])
async def town(request: pytest.FixtureRequest) -> AsyncIterator[Town]:
    ahead_s = request.param
    with Server(StandIn(clock=lambda: time.time() + ahead_s)) as server, Broker() as broker:
        async with broker.connect_async() as client:
            town = Town(broker, server, client)
            yield town
            await town.close()


async def hired(town: Town, *, pay_in_ms: int, submit_in_ms: int) -> Job:
    """Hire as a gateway does: the deadlines of the job are those of its payment."""
    now = town.service.now_ms
    payment = town.service.create(
        inputHash=INPUT_HASH,
        identifierFromPurchaser=PURCHASER,
        payByTime=now + pay_in_ms,
        submitResultTime=now + submit_in_ms,
        unlockTime=now + submit_in_ms + 20 * MINUTE_MS,
        externalDisputeUnlockTime=now + submit_in_ms + 40 * MINUTE_MS,
    )
    return await town.client.create(
        INPUT_HASH,
        blockchain_identifier=payment["blockchainIdentifier"],
        identifier_from_purchaser=PURCHASER,
        settle=True,
    )


def later(town: Town, by_ms: int) -> None:
    """Let time pass at the service: its payments are that much older."""
    for payment in town.service.payments.values():
        payment.pay_by -= by_ms
        payment.submit_by -= by_ms


async def test_paid_in_the_last_second_is_paid(town: Town) -> None:
    job = await hired(town, pay_in_ms=20 * MINUTE_MS, submit_in_ms=60 * MINUTE_MS)
    later(town, 20 * MINUTE_MS - 10_000)
    town.service.lock_funds(job.blockchain_identifier)
    await town.watcher.open_gates()
    assert await town.status(job) == "running"


async def test_paid_late_is_no_payment(town: Town) -> None:
    job = await hired(town, pay_in_ms=20 * MINUTE_MS, submit_in_ms=60 * MINUTE_MS)
    later(town, 20 * MINUTE_MS + 1_000)
    town.service.lock_funds(job.blockchain_identifier)  # the chain took it, and it is invalid
    await town.watcher.open_gates()
    assert await town.status(job) == "failed"


async def test_paid_after_the_end_of_the_job_is_reported(
    town: Town, caplog: pytest.LogCaptureFixture
) -> None:
    job = await hired(town, pay_in_ms=20 * MINUTE_MS, submit_in_ms=60 * MINUTE_MS)
    await town.client.cancel(job.job_id)
    town.service.lock_funds(job.blockchain_identifier)
    await town.watcher.open_gates()
    job = await town.client.get(job.job_id)
    assert job.status.value == "failed"
    assert job.settlement is not None
    assert job.settlement.on_chain_state == "FundsLocked"
    assert "the buyer gets a refund" in caplog.text


async def test_seen_when_no_result_can_be_submitted(town: Town) -> None:
    job = await hired(town, pay_in_ms=20 * MINUTE_MS, submit_in_ms=30 * MINUTE_MS)
    town.service.lock_funds(job.blockchain_identifier)
    later(town, 30 * MINUTE_MS - LAST_MS + 1_000)
    await town.watcher.open_gates()
    job = await town.client.get(job.job_id)
    assert job.status.value == "failed"
    assert "so late" in str(job.error)


async def test_seen_just_in_time(town: Town) -> None:
    job = await hired(town, pay_in_ms=20 * MINUTE_MS, submit_in_ms=30 * MINUTE_MS)
    town.service.lock_funds(job.blockchain_identifier)
    later(town, 30 * MINUTE_MS - LAST_MS - 30_000)
    await town.watcher.open_gates()
    assert await town.status(job) == "running"


async def test_completed_when_no_result_can_be_submitted(town: Town) -> None:
    job = await hired(town, pay_in_ms=20 * MINUTE_MS, submit_in_ms=30 * MINUTE_MS)
    town.service.lock_funds(job.blockchain_identifier)
    await town.watcher.open_gates()
    await town.client.transition(job.job_id, "completed", result="late")
    later(town, 30 * MINUTE_MS - LAST_MS + 1_000)
    await town.watcher.submit_results()
    assert await town.state(job) == "refused"
    assert not town.service.accepted

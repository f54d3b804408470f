"""What happens to payments reaches their jobs once, with any number of watchers, at any time."""

import asyncio
import logging
from datetime import timedelta
from typing import Any

import pytest

from tests.masumi.conftest import INPUT_HASH, PURCHASER, Town
from tests.payment_service.faults import Fault
from tollgate import BrokerUnreachableError, Job
from tollgate.masumi.api import ServiceFailedError, ServiceRefusedError
from tollgate.masumi.payment_sync import PaymentSync

OLD = "1970-01-01T00:00:00.000Z"


async def test_locked_funds_let_a_job_run(town: Town) -> None:
    job, other = await town.hire(), await town.hire()
    await town.watcher.open_gates()
    assert await town.status(job) == "awaiting_payment"
    town.service.lock_funds(job.blockchain_identifier)
    await town.watcher.open_gates()
    assert await town.status(job) == "running"
    assert await town.status(other) == "awaiting_payment"


async def test_lines_about_a_job_carry_its_trace(
    town: Town, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tollgate.payments")
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    jobs = [await town.hire(traceparent=each) for each in (trace, None)]
    for job in jobs:
        town.service.lock_funds(job.blockchain_identifier)
    await town.watcher.open_gates()
    lines = {vars(each)["job_id"]: each for each in caplog.records if "is paid" in each.msg}
    assert vars(lines[jobs[0].job_id])["traceparent"] == trace
    assert not hasattr(lines[jobs[1].job_id], "traceparent")


async def test_funds_that_were_locked_before_the_job_was_stored(town: Town) -> None:
    await town.watcher.open_gates()  # the watcher has read the feed up to here
    payment = town.service.create(inputHash=INPUT_HASH, identifierFromPurchaser=PURCHASER)
    identifier = payment["blockchainIdentifier"]
    town.service.lock_funds(identifier)
    await town.watcher.open_gates()
    job = await town.client.create(INPUT_HASH, blockchain_identifier=identifier)
    await town.watcher.open_gates()
    assert await town.status(job) == "running"


async def test_a_watcher_that_starts_late_finds_what_has_happened(town: Town) -> None:
    jobs = [await town.hire() for _ in range(3)]
    for job in jobs:
        town.service.lock_funds(job.blockchain_identifier)
    await town.new_watcher().open_gates()
    assert [await town.status(job) for job in jobs] == ["running"] * 3


async def test_invalid_funds_end_the_job(town: Town) -> None:
    job = await town.hire()
    town.service.lock_funds(job.blockchain_identifier, valid=False)
    await town.watcher.open_gates()
    job = await town.client.get(job.job_id)
    assert job.status.value == "failed"
    assert "FundsOrDatumInvalid" in str(job.error)


async def test_a_payment_for_another_input_ends_the_job(town: Town) -> None:
    payment = town.service.create(inputHash="ab" * 32, identifierFromPurchaser=PURCHASER)
    job = await town.client.create(
        INPUT_HASH, blockchain_identifier=payment["blockchainIdentifier"]
    )
    town.service.lock_funds(job.blockchain_identifier)
    await town.watcher.open_gates()
    assert "another input" in str((await town.client.get(job.job_id)).error)


@pytest.mark.parametrize("objection", ["RefundRequested", "Disputed"])
async def test_an_objection_is_shown_and_asks_to_stop(town: Town, objection: str) -> None:
    job = await town.hire()
    town.service.lock_funds(job.blockchain_identifier)
    await town.watcher.open_gates()
    (lease,) = await town.client.claim("running")
    town.service.request_refund(job.blockchain_identifier)
    if objection == "Disputed":
        await town.watcher.open_gates()
        town.service.dispute(job.blockchain_identifier)
    await town.watcher.open_gates()
    job = await town.client.get(job.job_id)
    assert job.stop_requested
    assert job.settlement is not None
    assert job.settlement.on_chain_state == objection
    assert job.status.value == "running"
    assert (await town.client.touch(job.job_id, lease.token)).stop_requested


async def test_money_for_a_job_that_has_failed_moves_nothing(
    town: Town, caplog: pytest.LogCaptureFixture
) -> None:
    job = await town.hire(pay_by_time=town.broker.now + timedelta(seconds=1))
    await town.watcher.open_gates()
    town.broker.advance(3_600)
    assert await town.status(job) == "failed"
    town.service.lock_funds(job.blockchain_identifier)
    await town.watcher.open_gates()
    assert await town.status(job) == "failed"
    assert "the buyer gets a refund" in caplog.text


async def test_several_watchers_move_each_job_once(town: Town) -> None:
    jobs = [await town.hire() for _ in range(20)]
    for job in jobs:
        town.service.lock_funds(job.blockchain_identifier)
    watchers = [town.new_watcher() for _ in range(3)]
    await asyncio.gather(*[each.open_gates() for each in watchers])
    for job in jobs:
        assert (await town.client.get(job.job_id)).version == 2


async def test_a_job_that_another_program_decides_is_tried_again(town: Town) -> None:
    job = await town.hire()
    (lease,) = await town.client.claim("awaiting_payment")
    town.service.lock_funds(job.blockchain_identifier)
    await town.watcher.open_gates()
    assert await town.status(job) == "awaiting_payment"
    await town.client.release(job.job_id, lease.token)
    await town.watcher.open_gates()
    assert await town.status(job) == "running"


@pytest.mark.parametrize("fault", [each for each in Fault if each is not Fault.CONFLICT])
@pytest.mark.parametrize("call", ["diff", "resolve"])
async def test_no_change_is_missed_by_a_failed_call(town: Town, call: str, fault: Fault) -> None:
    town.expect(fault)
    payment = town.service.create(inputHash=INPUT_HASH, identifierFromPurchaser=PURCHASER)
    identifier = payment["blockchainIdentifier"]
    town.service.lock_funds(identifier)
    await town.watcher.open_gates()
    job = await town.client.create(INPUT_HASH, blockchain_identifier=identifier)
    town.service.faults.plan(call, fault)
    with pytest.raises(ServiceFailedError):
        await town.watcher.open_gates()
    await town.watcher.open_gates()
    assert await town.status(job) == "running"


async def test_a_change_is_read_again_if_the_broker_was_away(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await town.hire()
    await town.watcher.open_gates()
    town.service.lock_funds(job.blockchain_identifier)

    async def away(*_: object, **__: object) -> Job:
        raise BrokerUnreachableError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(town.client, "transition", away)
        for _ in range(2):
            with pytest.raises(BrokerUnreachableError):
                await town.watcher.open_gates()
    await town.watcher.open_gates()
    assert await town.status(job) == "running"


async def test_a_page_with_an_unreadable_payment_hides_no_other(town: Town) -> None:
    jobs = [await town.hire() for _ in range(3)]
    await town.watcher.open_gates()
    for job in jobs:
        town.service.lock_funds(job.blockchain_identifier)
    town.service.payments[jobs[1].blockchain_identifier].submit_by = 10**18
    await town.watcher.open_gates()
    assert [await town.status(job) for job in jobs] == ["running", "awaiting_payment", "running"]


async def test_pages_that_change_while_they_are_read(town: Town) -> None:
    jobs = [await town.hire() for _ in range(250)]
    await town.watcher.open_gates()

    async def pay() -> None:
        for job in jobs:
            town.service.lock_funds(job.blockchain_identifier)
            await asyncio.sleep(0)

    paying = asyncio.create_task(pay())
    while not paying.done():
        await town.watcher.open_gates()
    await town.watcher.open_gates()
    counts = await town.client.count()
    assert counts.by_status["running"] == len(jobs)


async def test_a_wrong_token_ends_the_watcher(town: Town) -> None:
    await town.hire()
    town.service.keys.clear()
    with pytest.raises(ServiceRefusedError) as refused:
        await town.watcher.open_gates()
    assert refused.value.is_ours


async def test_a_decision_about_an_older_version_moves_nothing(town: Town) -> None:
    old = await town.hire()
    town.service.lock_funds(old.blockchain_identifier)
    sync = PaymentSync(town.client, town.new_service(), ["Web3CardanoV1"])
    payment = (await sync._service.changes("Web3CardanoV1", OLD)).payments[0]
    await town.watcher.open_gates()
    await town.client.transition(old.job_id, "awaiting_input", input_schema="{}")
    await sync._act(old, payment)
    assert await town.status(old) == "awaiting_input"


async def test_a_change_that_shows_later_than_it_is_dated(town: Town) -> None:
    job, other = await town.hire(), await town.hire()
    town.service.lock_funds(other.blockchain_identifier)
    await town.watcher.open_gates()
    town.service.lock_funds(job.blockchain_identifier)
    town.service.payments[job.blockchain_identifier].changed -= 30_000
    await town.watcher.open_gates()
    assert await town.status(job) == "running"


async def test_what_was_handled_is_not_read_for_ever(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(150):
        town.service.create()
    for payment in town.service.payments.values():
        payment.changed -= 1_800_000
    town.service.create()  # now
    await town.watcher.open_gates()
    read: list[int] = []
    diff = town.service.diff

    def counted(query: Any, key: Any, **others: Any) -> Any:
        page = diff(query, key, **others)
        read.append(len(page["Payments"]))
        return page

    monkeypatch.setattr(town.service, "diff", counted)
    await town.watcher.open_gates()
    assert sum(read) == 2  # its own page, and a look behind it

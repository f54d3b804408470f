"""What failed at the service, and what a person has decided there: which of it is tried again."""

from dataclasses import replace

import pytest

from tests.masumi.conftest import Town, hash_of
from tests.payment_service.faults import Fault
from tests.payment_service.payment import V2
from tests.payment_service.states import Action, OnChainState
from tollgate.masumi.submissions import IN_VAIN_MAX

OTHER = "ab" * 32


async def reason(town: Town) -> str:
    """Return why the settlement of the only job is in its state."""
    (job,) = [job async for job in town.client.list()]
    assert job.settlement is not None
    return str(job.settlement.reason)


@pytest.mark.parametrize("steps", [0, 1], ids=["refused", "timed out"])
async def test_a_foreign_hash_that_failed_is_for_a_person(town: Town, steps: int) -> None:
    job = await town.completed()
    town.submit(job, OTHER)
    for _ in range(steps):
        town.service.tick()
    town.service.fail_next(job.blockchain_identifier)
    town.service.tick()
    if not steps:  # the service then notes the error anew, without the hash
        town.service.request_refund(job.blockchain_identifier)
        assert town.payment(job).next_action.result_hash is None
    assert await town.settled(job) == "manual"
    assert OTHER in await reason(town)
    assert town.service.accepted == [(job.blockchain_identifier, OTHER)]
    assert not town.payment(job).result_hash


@pytest.mark.parametrize("steps", [0, 1], ids=["refused", "timed out"])
async def test_a_refund_that_failed_is_left_to_its_person(town: Town, steps: int) -> None:
    job = await town.completed(source_type=V2)
    town.service.request_refund(job.blockchain_identifier)
    town.grant_refund(job)
    for _ in range(steps):
        town.service.tick()
    town.service.fail_next(job.blockchain_identifier)
    town.service.tick()
    left = town.payment(job).next_action
    assert left.error_type is not None
    assert await town.settled(job) == "manual"
    assert town.payment(job).next_action is left
    assert not town.service.accepted
    assert "granted" in await reason(town)


async def test_a_refund_that_was_granted_stays(town: Town) -> None:
    job = await town.completed()
    await town.watcher.submit_results()
    town.service.tick()
    town.service.tick()
    assert town.payment(job).result_hash == hash_of(job)
    town.service.request_refund(job.blockchain_identifier)
    town.payment(job).seller_cooldown = 0
    town.grant_refund(job)
    town.service.tick()
    town.service.tick()
    town.payment(job).seller_cooldown = 0
    assert town.payment(job).on_chain_state is OnChainState.REFUND_REQUESTED
    assert town.payment(job).next_action.action is Action.WAITING_FOR_EXTERNAL_ACTION
    assert await town.settled(job) == "manual"
    assert len(town.service.accepted) == 1
    assert town.payment(job).on_chain_state is OnChainState.REFUND_REQUESTED


async def test_a_call_that_came_to_nothing_is_no_recovery(town: Town) -> None:
    job = await town.completed()
    await town.watcher.submit_results()
    town.service.fail_next(job.blockchain_identifier)
    town.service.tick()
    town.service.faults.plan("error-state-recovery", *[Fault.ERROR_BEFORE] * 5)
    for _ in range(20):
        town.broker.advance(100)
        await town.step()
    assert await town.state(job) == "confirmed"
    history = await town.client.history(job.job_id)
    assert sum("recovery 1 of 3" in str(entry.reason) for entry in history.entries) == 1
    assert not any("recovery 2 of 3" in str(entry.reason) for entry in history.entries)


async def test_a_payment_that_lost_its_transaction_is_for_a_person(town: Town) -> None:
    town.service.loses_transaction = True
    job = await town.completed()
    await town.watcher.submit_results()
    town.service.fail_next(job.blockchain_identifier)
    assert await town.settled(job, steps=IN_VAIN_MAX + 3) == "manual"
    assert "invalid state" in await reason(town)


async def test_an_error_of_any_text_is_noted(town: Town) -> None:
    job = await town.completed()
    await town.watcher.submit_results()
    town.service.fail_next(job.blockchain_identifier)
    town.service.tick()
    payment = town.payment(job)
    payment.next_action = replace(payment.next_action, error_note="a\0b\x1b[2J\nc" + "\ufffd" * 999)
    assert await town.settled(job) == "confirmed"
    assert "recovery 1 of 3" in await reason(town)


async def test_a_hash_that_timed_out_is_sent_again(town: Town) -> None:
    job = await town.completed()
    await town.watcher.submit_results()
    town.service.tick()
    town.service.fail_next(job.blockchain_identifier)
    assert await town.settled(job) == "confirmed"
    assert {*town.service.accepted} == {(job.blockchain_identifier, hash_of(job))}

"""The hash of every result comes on chain once, whatever the service answers and who looks."""

import asyncio
from typing import Any

import pytest

from tests.masumi.conftest import Town, hash_of
from tests.payment_service.faults import Fault
from tests.payment_service.states import OnChainState
from tollgate.domain.hashing import output_hash
from tollgate.masumi.api import ServiceRefusedError
from tollgate.masumi.watcher import Watcher, WatcherSettings

OTHER = "ab" * 32
FAULTS = [*Fault]


async def test_a_result_is_proved_on_chain(town: Town) -> None:
    job = await town.completed()
    assert await town.state(job) == "wanted"
    assert await town.settled(job) == "confirmed"
    assert town.service.accepted == [(job.blockchain_identifier, hash_of(job))]
    settlement = (await town.client.get(job.job_id)).settlement
    assert settlement is not None
    assert (settlement.result_hash, settlement.on_chain_state) == (hash_of(job), "ResultSubmitted")


async def test_the_raw_form_is_a_setting(town: Town) -> None:
    town.watcher = town.new_watcher(hash_form="raw")
    job = await town.completed("Line 1\nLine 2")
    assert await town.settled(job) == "confirmed"
    assert town.service.accepted[0][1] == output_hash("aabbccddeeff0011", "Line 1\nLine 2")


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("call", ["submit-result", "resolve"])
async def test_a_fault_of_the_service_changes_nothing(town: Town, call: str, fault: Fault) -> None:
    job = await town.completed()
    town.service.faults.slow_s = 2.0
    town.service.faults.plan(call, fault, fault)
    assert await town.settled(job) == "confirmed"
    assert town.service.accepted == [(job.blockchain_identifier, hash_of(job))]


async def test_two_watchers_submit_a_hash_once(town: Town) -> None:
    jobs = [await town.completed(f"result {number}") for number in range(10)]
    watchers = [town.new_watcher() for _ in range(3)]
    for _ in range(8):
        await asyncio.gather(*[each.submit_results() for each in watchers])
        town.service.tick()
        town.broker.advance(2)
    assert sorted(town.service.accepted) == sorted(
        (job.blockchain_identifier, hash_of(job)) for job in jobs
    )
    assert {await town.state(job) for job in jobs} == {"confirmed"}


@pytest.mark.parametrize("ticks", [0, 1, 2])
async def test_a_watcher_that_died_after_submitting_is_continued(town: Town, ticks: int) -> None:
    job = await town.completed()
    (lease,) = await town.client.claim(settlement="wanted", lease_ms=1_000)
    body = {
        "blockchainIdentifier": job.blockchain_identifier,
        "network": "Preprod",
        "submitResultHash": hash_of(job),
    }
    town.service.submit_result(body, town.service.key)
    for _ in range(ticks):
        town.service.tick()
    town.broker.advance(2)  # the lease lapses
    await town.watcher.submit_results()
    assert await town.settled(job) == "confirmed"
    assert len(town.service.accepted) == 1
    assert lease.job.job_id == job.job_id


@pytest.mark.parametrize("ticks", [0, 1, 2])
async def test_a_foreign_hash_is_left_to_a_person(town: Town, ticks: int) -> None:
    job = await town.completed()
    body = {
        "blockchainIdentifier": job.blockchain_identifier,
        "network": "Preprod",
        "submitResultHash": OTHER,
    }
    town.service.submit_result(body, town.service.key)
    for _ in range(ticks):
        town.service.tick()
    await town.watcher.submit_results()
    assert await town.state(job) == "manual"
    settlement = (await town.client.get(job.job_id)).settlement
    assert settlement is not None
    assert OTHER in str(settlement.reason)
    assert len(town.service.accepted) == 1


async def test_what_failed_on_chain_is_recovered(town: Town) -> None:
    job = await town.completed()
    await town.watcher.submit_results()
    town.service.fail_next(job.blockchain_identifier)
    assert await town.settled(job) == "confirmed"
    history = await town.client.history(job.job_id)
    assert any("recovery 1 of 3" in str(entry.reason) for entry in history.entries)


async def test_recoveries_are_bounded_over_restarts(town: Town) -> None:
    job = await town.completed()
    for _ in range(20):
        town.watcher = town.new_watcher(recoveries_max=2)
        await town.watcher.submit_results()
        town.service.fail_next(job.blockchain_identifier)
        await town.step()
        if await town.state(job) == "manual":
            break
    settlement = (await town.client.get(job.job_id)).settlement
    assert settlement is not None
    assert "2 recoveries did not help" in str(settlement.reason)
    assert await town.state(job) == "manual"


async def test_a_person_can_have_it_tried_again(town: Town) -> None:
    job = await town.completed()
    town.watcher = town.new_watcher(recoveries_max=0)
    await town.watcher.submit_results()
    town.service.fail_next(job.blockchain_identifier)
    assert await town.settled(job) == "manual"
    await town.client.settle(job.job_id, to="wanted", reason="the node is repaired")
    town.watcher = town.new_watcher()
    assert await town.settled(job) == "confirmed"


@pytest.mark.parametrize("state", [OnChainState.REFUND_REQUESTED, OnChainState.DISPUTED])
async def test_an_objection_does_not_stop_the_proof(town: Town, state: OnChainState) -> None:
    job = await town.completed()
    town.service.request_refund(job.blockchain_identifier)
    if state is OnChainState.DISPUTED:
        town.service.dispute(job.blockchain_identifier)
    assert await town.settled(job) == "confirmed"
    settlement = (await town.client.get(job.job_id)).settlement
    assert settlement is not None
    assert settlement.on_chain_state == "Disputed"


async def test_too_late_is_refused(town: Town) -> None:
    job = await town.completed()
    town.service.payments[job.blockchain_identifier].submit_by = town.service.now_ms + 60_000
    await town.watcher.submit_results()
    assert await town.state(job) == "refused"
    assert not town.service.accepted


async def test_a_hash_that_the_service_never_sends_is_for_a_person(town: Town) -> None:
    job = await town.completed()
    await town.watcher.submit_results()
    town.service.payments[job.blockchain_identifier].submit_by = town.service.now_ms - 3_600_000
    assert await town.settled(job) == "manual"


async def test_a_watcher_of_one_contract_proves_for_all(town: Town) -> None:
    job = await town.completed()
    service = town.new_service(smart_contract_address="addr_test1other")
    town.watcher = Watcher(town.client, service, WatcherSettings(poll_s=1.0))
    assert await town.settled(job) == "confirmed"


async def test_a_payment_that_the_service_does_not_know(town: Town) -> None:
    job = await town.completed()
    town.service.payments.pop(job.blockchain_identifier)
    assert await town.settled(job) == "manual"


@pytest.mark.parametrize("fields", [{"identifier_from_purchaser": None}])
async def test_what_cannot_be_hashed_is_for_a_person(town: Town, fields: dict[str, Any]) -> None:
    job = await town.hire(**fields)
    town.service.lock_funds(job.blockchain_identifier)
    await town.watcher.open_gates()
    await town.client.transition(job.job_id, "completed", result="r")
    await town.watcher.submit_results()
    settlement = (await town.client.get(job.job_id)).settlement
    assert settlement is not None
    assert "identifier_from_purchaser" in str(settlement.reason)
    assert await town.state(job) == "manual"


async def test_a_foreign_key_is_left_to_a_person(town: Town) -> None:
    job = await town.completed()
    town.service.payments[job.blockchain_identifier].key_id = "another key"
    await town.watcher.submit_results()
    assert await town.state(job) == "manual"
    assert not town.service.accepted


async def test_a_token_that_is_refused_is_no_fault_of_a_job(town: Town) -> None:
    job = await town.completed()
    town.service.keys.clear()
    with pytest.raises(ServiceRefusedError) as refused:
        await town.watcher.submit_results()
    assert refused.value.is_ours
    assert await town.state(job) == "wanted"

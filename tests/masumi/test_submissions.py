"""The hash of every result comes on chain once, whatever the service answers and who looks."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from tests.masumi.conftest import POLL_S, Town, hash_of
from tests.payment_service.faults import Fault
from tests.payment_service.states import Action, OnChainState
from tollgate import JobNotFoundError
from tollgate.domain.hashing import output_hash
from tollgate.masumi.api import ServiceRefusedError
from tollgate.masumi.payment import Payment
from tollgate.masumi.submissions import IN_VAIN_MAX
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
    town.expect(fault)
    job = await town.completed()
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
    town.submit(job, hash_of(job))
    for _ in range(ticks):
        town.service.tick()
    town.broker.advance(2)  # the lease lapses
    await town.watcher.submit_results()
    assert await town.settled(job) == "confirmed"
    assert len(town.service.accepted) == 1
    assert lease.job.job_id == job.job_id


async def test_no_state_makes_the_other_wait(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    on_their_way = [await town.completed(f"result {number}") for number in range(6)]
    for _ in range(2):
        await town.watcher.submit_results()
        town.broker.advance(2 * POLL_S)
    assert {await town.state(job) for job in on_their_way} == {"submitted"}
    late = [await town.completed(f"late result {number}") for number in range(6)]
    town.service.tick()
    town.service.tick()
    monkeypatch.setattr("tollgate.masumi.submissions.CLAIMED", 2)
    await town.watcher.submit_results()
    assert sum([await town.state(job) == "confirmed" for job in on_their_way]) == 2
    submitted = {identifier for identifier, _ in town.service.accepted}
    assert sum(job.blockchain_identifier in submitted for job in late) == 2


async def test_a_watcher_that_was_frozen_submits_nothing(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await town.completed()

    watcher = town.new_watcher()
    resolve = town.newest.resolve

    async def frozen(identifier: str) -> Payment | None:
        """Look; meanwhile another watcher proves the result, and its buyer disputes it."""
        seen = await resolve(identifier)
        town.broker.advance(60)
        assert await town.settled(job) == "confirmed"
        town.service.request_refund(identifier)
        return seen

    monkeypatch.setattr(town.newest, "resolve", frozen)
    await watcher.submit_results()
    assert len(town.service.accepted) == 1
    assert town.payment(job).next_action.action is Action.WAITING_FOR_EXTERNAL_ACTION


@pytest.mark.parametrize("frozen_after", ["look", "renewal"])
async def test_a_watcher_that_was_frozen_recovers_nothing(
    town: Town, monkeypatch: pytest.MonkeyPatch, frozen_after: str
) -> None:
    job = await town.completed()
    await town.watcher.submit_results()
    town.service.fail_next(job.blockchain_identifier)
    town.service.tick()
    town.broker.advance(60)

    watcher = town.new_watcher()
    calls, name = (town.client, "touch") if frozen_after == "renewal" else (town.newest, "resolve")
    call = getattr(calls, name)

    async def frozen(*given: Any, **others: Any) -> Any:
        seen = await call(*given, **others)
        town.broker.advance(60)
        await town.client.settle(job.job_id, to="manual", reason="a person looks")
        return seen

    monkeypatch.setattr(calls, name, frozen)
    await watcher.submit_results()
    settlement = (await town.client.get(job.job_id)).settlement
    assert settlement is not None
    assert settlement.reason == "a person looks"
    assert town.payment(job).next_action.action is Action.WAITING_FOR_MANUAL_ACTION


async def test_a_job_removed_meanwhile_ends_no_watcher(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    await town.completed()

    async def gone(job_id: str, *_: object, **__: object) -> None:
        raise JobNotFoundError(job_id)

    monkeypatch.setattr(town.client, "touch", gone)
    monkeypatch.setattr(town.client, "settle", gone)
    await town.watcher.submit_results()
    assert not town.service.accepted


@pytest.mark.parametrize("ticks", [0, 1, 2])
async def test_a_foreign_hash_is_left_to_a_person(town: Town, ticks: int) -> None:
    job = await town.completed()
    town.submit(job, OTHER)
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


async def test_a_hash_that_the_service_lost_is_for_a_person(town: Town) -> None:
    job = await town.completed()
    await town.watcher.submit_results()
    town.service.request_refund(job.blockchain_identifier)  # before the hash was sent
    assert town.payment(job).next_action.action is Action.SUBMIT_RESULT_REQUESTED
    assert await town.settled(job, steps=1) == "manual"
    settlement = (await town.client.get(job.job_id)).settlement
    assert settlement is not None
    assert "has lost the hash" in str(settlement.reason)


@pytest.mark.parametrize("action", [Action.NONE, Action.IGNORE])
async def test_a_deadline_ends_the_waiting(town: Town, action: Action) -> None:
    job = await town.completed()
    town.payment(job).next_action = replace(town.payment(job).next_action, action=action)
    assert await town.settled(job, steps=3) == "wanted"
    town.payment(job).submit_by = town.service.now_ms - 86_400_000
    assert await town.settled(job, steps=1) == "manual"


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
    assert await town.settled(job, steps=IN_VAIN_MAX) == "manual"


@pytest.mark.parametrize("odd", [{"submitResultTime": "soon"}, {"NextAction": None}])
async def test_a_payment_that_cannot_be_read(town: Town, odd: dict[str, Any]) -> None:
    job = await town.completed()
    town.service.show = lambda shape: shape | odd
    assert await town.settled(job, steps=IN_VAIN_MAX - 1) == "wanted"
    town.service.show = lambda shape: shape
    await town.step()
    town.service.show = lambda shape: shape | odd
    assert await town.settled(job, steps=IN_VAIN_MAX - 1) == "wanted"  # counted in a row
    assert await town.settled(job, steps=1) == "manual"
    settlement = (await town.client.get(job.job_id)).settlement
    assert settlement is not None
    assert "cannot be read" in str(settlement.reason)


async def test_a_submission_that_is_always_refused_is_for_a_person(town: Town) -> None:
    job = await town.completed()
    town.payment(job).transaction = None
    assert await town.settled(job, steps=IN_VAIN_MAX) == "manual"
    settlement = (await town.client.get(job.job_id)).settlement
    assert settlement is not None
    assert "404" in str(settlement.reason)


async def test_a_service_that_is_away_for_long_asks_no_person(town: Town) -> None:
    job = await town.completed()
    town.service.faults.plan("resolve", *[Fault.ERROR_BEFORE] * 3 * IN_VAIN_MAX)
    for _ in range(3 * IN_VAIN_MAX):
        town.broker.advance(100)
        await town.step()
    town.service.payments.pop(job.blockchain_identifier)
    town.broker.advance(100)
    assert await town.settled(job, steps=IN_VAIN_MAX - 1) == "wanted"


async def test_failures_of_so_many_jobs_are_counted(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tollgate.masumi.submissions.COUNTED_MAX", 1)
    jobs = [await town.completed(f"result {number}") for number in range(2)]
    identifiers = [job.blockchain_identifier for job in jobs]
    for identifier in identifiers:
        town.service.payments.pop(identifier)
    for _ in range(2 * IN_VAIN_MAX):
        await town.step()
    assert {await town.state(job) for job in jobs} == {"wanted"}  # each forgets the other


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

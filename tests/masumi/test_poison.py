"""One bad payment, a failed call, or a flood of hints must not stop or slow all the others."""

import asyncio
import logging
from dataclasses import replace
from typing import Any

import pytest

from tests.masumi.conftest import INPUT_HASH, PURCHASER, Town
from tests.payment_service.faults import Fault
from tests.payment_service.payment import shape_of
from tests.payment_service.server import Server
from tests.payment_service.values import ServiceError
from tollgate import BrokerUnreachableError, Job
from tollgate.masumi import api, rounds
from tollgate.masumi.watcher import Watcher
from tollgate.testing import Broker

EMOJI = "\U0001f600"


async def test_a_job_whose_move_failed_is_looked_at_again(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    payment = town.service.create(inputHash=INPUT_HASH, identifierFromPurchaser=PURCHASER)
    town.service.lock_funds(payment["blockchainIdentifier"])
    await town.watcher.open_gates()  # the feed is past this payment
    job = await town.client.create(
        INPUT_HASH, blockchain_identifier=payment["blockchainIdentifier"]
    )

    async def away(*_: object, **__: object) -> Job:
        raise BrokerUnreachableError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(town.client, "transition", away)
        with pytest.raises(BrokerUnreachableError):
            await town.watcher.open_gates()
    await town.watcher.open_gates()
    assert await town.status(job) == "running"


async def test_many_new_jobs_are_all_looked_at(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tollgate.masumi.payment_sync.LISTED", 5)
    monkeypatch.setattr("tollgate.masumi.payment_sync.RESOLVED_MAX", 3)
    identifiers = []
    for _ in range(30):
        payment = town.service.create(inputHash=INPUT_HASH, identifierFromPurchaser=PURCHASER)
        identifiers.append(payment["blockchainIdentifier"])
        town.service.lock_funds(identifiers[-1])
    await town.watcher.open_gates()  # the feed is past these payments
    for identifier in identifiers:
        await town.client.create(INPUT_HASH, blockchain_identifier=identifier)
    rounds_left = 40
    while await town.watcher.open_gates() and rounds_left:
        rounds_left -= 1
    assert (await town.client.count("running")).total == 30


async def test_a_job_held_by_another_is_tried_again_behind_newer_ones(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tollgate.masumi.payment_sync.LISTED", 2)
    job = await town.hire()
    (lease,) = await town.client.claim("awaiting_payment")
    town.service.lock_funds(job.blockchain_identifier)
    await town.watcher.open_gates()
    for _ in range(4):
        await town.hire()
    await town.watcher.open_gates()
    await town.client.release(job.job_id, lease.token)
    await town.watcher.open_gates()
    assert await town.status(job) == "running"


async def test_jobs_of_no_payment_service_are_not_listed_for_ever(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tollgate.masumi.payment_sync.LISTED", 10)
    for _ in range(100):
        await town.client.create(INPUT_HASH)
    await town.watcher.open_gates()
    pages: list[str | None] = []
    list_page = town.client.list_page

    async def counted(*args: Any, **given: Any) -> Any:
        pages.append(given.get("after"))
        return await list_page(*args, **given)

    monkeypatch.setattr(town.client, "list_page", counted)
    await town.watcher.open_gates()
    assert len(pages) == 1


async def test_a_change_dated_in_the_future_hides_none_after_it(town: Town) -> None:
    odd, job = await town.hire(), await town.hire()
    town.service.lock_funds(odd.blockchain_identifier)
    town.service.payments[odd.blockchain_identifier].changed += 86_400_000
    await town.watcher.open_gates()
    town.service.lock_funds(job.blockchain_identifier)
    await town.watcher.open_gates()
    assert await town.status(job) == "running"


async def test_a_reason_longer_than_the_broker_takes_is_cut(town: Town) -> None:
    job = await town.completed()
    await town.watcher.submit_results()
    town.service.fail_next(job.blockchain_identifier)
    town.service.tick()
    payment = town.service.payments[job.blockchain_identifier]
    payment.next_action = replace(payment.next_action, error_note=EMOJI * 5_000)
    town.broker.advance(3)
    await town.watcher.submit_results()
    history = await town.client.history(job.job_id)
    assert any("recovery 1 of 3" in str(each.reason) for each in history.entries)


async def test_trouble_of_many_jobs_is_one_line(
    town: Town, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    jobs = [await town.completed(f"result {number}") for number in range(8)]
    caplog.clear()
    town.service.faults.plan("resolve", *[Fault.ERROR_BEFORE] * len(jobs) * 6)
    for _ in range(6):
        town.broker.advance(100)
        await town.watcher.submit_results()
    assert len(caplog.records) == 1
    assert "500" in caplog.text
    assert "in this round: 8" in caplog.text


async def test_one_job_in_trouble_floods_no_log(
    town: Town, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = [await town.completed(f"result {number}") for number in range(2)]

    def odd(shape: dict[str, Any]) -> dict[str, Any]:
        if shape["blockchainIdentifier"] == jobs[0].blockchain_identifier:
            raise ServiceError(500, "Internal Server Error")
        return shape

    town.service.show = odd
    caplog.set_level(logging.WARNING)
    for _ in range(20):
        town.broker.advance(100)
        await town.watcher.submit_results()
    assert await town.state(jobs[0]) == "wanted"
    assert len(caplog.records) == 1
    assert jobs[0].job_id in caplog.text


async def test_trouble_of_many_jobs_makes_no_pause_longer(town: Town) -> None:
    jobs = [await town.completed(f"result {number}") for number in range(8)]
    town.service.faults.plan("resolve", *[Fault.ERROR_BEFORE] * len(jobs))
    await town.watcher.submit_results()
    settlements = [(await town.client.get(job.job_id)).settlement for job in jobs]
    for each in settlements:  # the pause has grown once, not once for each job
        assert each is not None
        assert each.not_before is not None
        assert (each.not_before - town.broker.now).total_seconds() < 2


async def test_pauses_are_short_again_after_a_success(town: Town) -> None:
    job = await town.completed()
    for _ in range(5):
        town.service.faults.plan("resolve", Fault.ERROR_BEFORE)
        await town.watcher.submit_results()
        town.broker.advance(100)
    await town.watcher.submit_results()
    town.broker.advance(100)
    town.service.faults.plan("resolve", Fault.ERROR_BEFORE)
    await town.watcher.submit_results()
    settlement = (await town.client.get(job.job_id)).settlement
    assert settlement is not None
    assert settlement.not_before is not None
    assert (settlement.not_before - town.broker.now).total_seconds() < 2


async def test_a_settlement_waits_as_long_as_the_service_asks(town: Town) -> None:
    job = await town.completed()
    town.service.faults.retry_after_s = 30
    town.service.faults.plan("resolve", Fault.TOO_MANY)
    await town.watcher.submit_results()
    settlement = (await town.client.get(job.job_id)).settlement
    assert settlement is not None
    assert settlement.not_before is not None
    assert (settlement.not_before - town.broker.now).total_seconds() > 25


async def test_pauses_of_settlements_grow(town: Town) -> None:
    job = await town.completed()
    pauses = []
    for _ in range(6):
        town.service.faults.plan("resolve", Fault.ERROR_BEFORE)
        await town.watcher.submit_results()
        settlement = (await town.client.get(job.job_id)).settlement
        assert settlement is not None
        assert settlement.not_before is not None
        pauses.append((settlement.not_before - town.broker.now).total_seconds())
        town.broker.advance(pauses[-1] + 0.1)
    assert pauses[-1] > 10 > pauses[0]
    assert max(pauses) <= rounds.BACKOFF_S_MAX


async def spin(claims: list[str], count: int) -> None:
    """Let all tasks run, until there were so many claims and a good while after."""
    async with asyncio.timeout(20):
        while len(claims) < count:  # noqa: ASYNC110
            await asyncio.sleep(0)
    for _ in range(2_000):
        await asyncio.sleep(0)


@pytest.mark.parametrize(("hint_s", "claims_after"), [(0.0, 4), (3_600.0, 2)])
async def test_a_hint_is_one_round_and_not_too_soon(
    town: Town, monkeypatch: pytest.MonkeyPatch, hint_s: float, claims_after: int
) -> None:
    claims: list[str] = []
    claim = town.client.claim

    async def counted(**given: Any) -> Any:
        claims.append(str(given["settlement"]))
        return await claim(**given)

    monkeypatch.setattr(town.client, "claim", counted)
    monkeypatch.setattr(rounds, "HINT_S", hint_s)
    monkeypatch.setattr("tollgate.masumi.watcher.SETTLEMENT_WAIT_S", 7_200.0)
    town.service.faults.plan("diff", *[Fault.ERROR_BEFORE] * 100)
    watcher: Watcher = town.new_watcher(poll_s=7_200.0)
    running = asyncio.create_task(watcher.run())
    await spin(claims, 2)
    watcher.hint()
    await spin(claims, claims_after)
    assert len(claims) == claims_after  # though the other rounds are in trouble
    watcher.stop()
    async with asyncio.timeout(20):
        await running


async def test_the_service_is_not_asked_about_made_up_identifiers(town: Town) -> None:
    await town.watcher.open_gates()
    await town.client.create(INPUT_HASH)
    town.service.faults.plan("resolve", Fault.ERROR_BEFORE)
    await town.watcher.open_gates()  # would raise
    assert not town.service.faults.counts


def test_each_call_is_no_line_in_the_log() -> None:
    assert not logging.getLogger("httpx").isEnabledFor(logging.INFO)


async def test_a_state_longer_than_the_broker_takes_is_cut(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await town.completed()

    def odd(*given: Any, **others: Any) -> dict[str, Any]:
        return shape_of(*given, **others) | {"onChainState": EMOJI * 3_000}

    monkeypatch.setattr("tests.payment_service.service.shape_of", odd)
    await town.watcher.submit_results()
    settlement = (await town.client.get(job.job_id)).settlement
    assert settlement is not None
    assert settlement.on_chain_state == EMOJI * 100


CHANGED_AT = "nextActionOrOnChainStateOrResultLastChangedAt"
ODD: list[dict[str, Any]] = [
    {"submitResultTime": "1" * 400},
    {"submitResultTime": "-62135596800000"},
    {"blockchainIdentifier": ""},
    {"blockchainIdentifier": "a\0b"},
    {"blockchainIdentifier": "x" * 2_000_000},
    {"inputHash": "ab" * 1_000_000},
    {"onChainState": "a\0b"},
    {CHANGED_AT: "2100-01-01T00:00:99.000Z"},
    {"id": None},
]


@pytest.mark.parametrize("fields", ODD, ids=[f"{each}"[:40] for each in ODD])
@pytest.mark.parametrize("call", ["diff", "resolve"])
async def test_an_odd_payment_stops_no_round(town: Town, call: str, fields: dict[str, Any]) -> None:
    odd, job = await town.hire(), await town.hire()
    for each in (odd, job):
        town.service.lock_funds(each.blockchain_identifier)
    town.change(call, odd.blockchain_identifier, **fields)
    for _ in range(3):
        await town.watcher.open_gates()
    assert await town.status(job) == "running"


async def test_a_deadline_at_the_end_of_time_stops_no_proof(town: Town) -> None:
    odd, job = await town.completed("odd"), await town.completed("job")
    town.change("resolve", odd.blockchain_identifier, submitResultTime="253402300799000")
    assert await town.settled(job) == "confirmed"
    town.server.proxy.changes.clear()
    town.broker.advance(100)
    assert await town.settled(odd) == "confirmed"


async def test_a_text_that_the_broker_refuses_stops_no_other(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with Broker(text_bytes=30) as broker:
        async with broker.connect_async() as client:
            town = Town(broker, server, client)
            odd, job = await town.hire(), await town.hire()
            town.service.lock_funds(odd.blockchain_identifier, valid=False)
            town.service.lock_funds(job.blockchain_identifier)
            await town.watcher.open_gates()
            assert await town.status(job) == "running"
            assert f"job {odd.job_id} is left as it is" in caplog.text
            await town.close()


async def test_pages_that_never_end_keep_no_job_waiting(town: Town) -> None:
    job = await town.hire_paid_before()
    sample = town.service.diff({"network": "Preprod"}, town.service.key)["Payments"][0]
    count = 0

    def endless(_: dict[str, Any]) -> dict[str, Any]:
        nonlocal count
        count += 100
        ids = [f"c{count + number:09d}" for number in range(100)]
        return {"Payments": [sample | {"id": each, "blockchainIdentifier": each} for each in ids]}

    town.server.proxy.changes["diff"] = endless
    async with asyncio.timeout(60):
        assert await town.watcher.open_gates()
        late = await town.hire()
        town.service.lock_funds(late.blockchain_identifier)
        assert await town.watcher.open_gates()
    assert [await town.status(each) for each in (job, late)] == ["running", "running"]


async def test_an_unreadable_payment_is_one_line(
    town: Town, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        odd = town.service.create()["blockchainIdentifier"]
        town.service.payments[odd].submit_by = 10**18
    for _ in range(5):
        await town.watcher.open_gates()
    assert caplog.text.count("is left out") == 2


async def test_pages_that_are_too_large_are_read_in_parts(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [await town.hire() for _ in range(40)]
    await town.watcher.open_gates()
    for job in jobs:
        town.service.lock_funds(job.blockchain_identifier)
    monkeypatch.setattr(api, "ANSWER_BYTES", 20_000)
    await town.rounds(4)
    assert (await town.client.count("running")).total == len(jobs)

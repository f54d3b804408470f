"""Simulated payments: repeatable, true to their shares, and told to the broker as drawn."""

import asyncio
from collections import Counter
from typing import Any
from uuid import UUID

import pytest

from tests.worker.at_work import Start
from tests.worker.script import ScriptedLink, make_job, make_lease, turns, until
from tollgate.domain.exceptions import LeaseLostError
from tollgate.domain.status import FAILED, RUNNING, JobStatus
from tollgate.worker import runner as runner_module
from tollgate.worker.payments import Kind, PaymentSimulator, PaymentStage, Verdict

UNPAID: dict[str, Any] = {"status": JobStatus.AWAITING_PAYMENT, "version": 1}
CREATED_AT = make_job().created_at.timestamp
HOUR = PaymentSimulator(delay_ms_min=3_600_000, delay_ms_max=3_600_000)

IDS = [str(UUID(int=number)) for number in range(10_000)]


def simulator(seed: int = 7) -> PaymentSimulator:
    return PaymentSimulator(
        seed, refused_share=0.1, never_share=0.05, delay_ms_min=100, delay_ms_max=200
    )


def test_a_draw_repeats_whatever_was_drawn_before() -> None:
    first = simulator()
    forwards = {job_id: first.draw(job_id) for job_id in IDS[:500]}
    second = simulator()
    backwards = {job_id: second.draw(job_id) for job_id in reversed(IDS[:500])}
    assert forwards == backwards
    assert [first.draw(IDS[3]) for _ in range(3)] == [forwards[IDS[3]]] * 3


def test_draws_stay_the_same_from_one_release_to_the_next() -> None:
    verdicts = [simulator().draw(job_id) for job_id in IDS[:4]]
    assert verdicts == [
        Verdict(Kind.CONFIRMED, 108),
        Verdict(Kind.CONFIRMED, 184),
        Verdict(Kind.CONFIRMED, 148),
        Verdict(Kind.REFUSED, 176),
    ]


def test_another_seed_draws_otherwise() -> None:
    mine, other = simulator(7), simulator(8)
    assert sum(mine.draw(job_id) != other.draw(job_id) for job_id in IDS[:1_000]) > 900


def test_shares_hold_over_many_draws() -> None:
    kinds = Counter(simulator().draw(job_id).kind for job_id in IDS)
    assert kinds == {Kind.CONFIRMED: 8_512, Kind.REFUSED: 1_005, Kind.NEVER: 483}


def test_delays_spread_over_their_whole_range() -> None:
    drawn = PaymentSimulator(1, delay_ms_min=3, delay_ms_max=6)
    delays = Counter(drawn.draw(job_id).delay_ms for job_id in IDS)
    assert delays.keys() == {3, 4, 5, 6}
    assert min(delays.values()) > 2_300


def test_kind_and_delay_are_independent() -> None:
    drawn = PaymentSimulator(1, refused_share=0.5, delay_ms_min=0, delay_ms_max=999)
    refused = [v.delay_ms for v in map(drawn.draw, IDS) if v.kind is Kind.REFUSED]
    assert 480 < sum(refused) / len(refused) < 520


@pytest.mark.parametrize(
    ("shares", "kind"),
    [
        ({}, Kind.CONFIRMED),
        ({"refused_share": 1.0}, Kind.REFUSED),
        ({"never_share": 1.0}, Kind.NEVER),
    ],
)
def test_a_whole_share_leaves_nothing_else(shares: dict[str, Any], kind: Kind) -> None:
    drawn = PaymentSimulator(3, **shares)
    assert {drawn.draw(job_id).kind for job_id in IDS[:1_000]} == {kind}


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"refused_share": -0.1}, "refused_share"),
        ({"refused_share": 1.1}, "refused_share"),
        ({"never_share": float("nan")}, "never_share"),
        ({"refused_share": 0.6, "never_share": 0.6}, "add up to more than 1"),
        ({"delay_ms_min": -1}, "-1 to 0 ms"),
        ({"delay_ms_min": 5, "delay_ms_max": 4}, "5 to 4 ms"),
    ],
)
def test_what_is_no_share_or_range_is_refused(settings: dict[str, float], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        PaymentSimulator(1, **settings)  # type: ignore[arg-type]


# --- what the worker makes of it ------------------------------------------------------------------


async def test_payments_are_told_as_drawn(link: ScriptedLink, start: Start) -> None:
    simulator = PaymentSimulator(7, refused_share=0.5, never_share=0.2, delay_ms_max=2)
    leases = [make_lease(number, **UNPAID) for number in range(1, 31)]
    kinds = {number: simulator.draw(make_job(number).job_id).kind for number in range(1, 31)}
    paid = [kind for kind in kinds.values() if kind != Kind.NEVER]
    assert len(set(kinds.values())) == 3
    link.grant(*leases)
    await start(simulator=simulator, jobs=len(paid)).ended()
    told = {each.job: (each.target, each.text) for each in link.script.all("transition")}
    expected = {Kind.CONFIRMED: (RUNNING, None), Kind.REFUSED: (FAILED, "payment refused")}
    assert told == {job: expected[kind] for job, kind in kinds.items() if kind != Kind.NEVER}
    assert {each.job for each in link.script.all("release")} == kinds.keys() - told.keys()


async def test_payments_of_all_queues_are_decided(link: ScriptedLink, start: Start) -> None:
    start(simulator=HOUR, payments_max=3)
    await link.script.until_said("claim")
    (claim,) = link.script.all("claim")
    assert (claim.target, claim.limit) == (JobStatus.AWAITING_PAYMENT, 3)
    assert claim.fields["queues"] is None


async def test_unpaid_jobs_leave_room_for_others(link: ScriptedLink, start: Start) -> None:
    for number in range(1, 6):
        link.grant(make_lease(number, **UNPAID))
    worker = start(simulator=PaymentSimulator(never_share=1), payments_max=1, unpaid_max=3)
    await link.script.until_said("claim", 6)
    await worker.stopped()
    # The first two were forgotten: no more than `unpaid_max` are remembered.
    assert {each.token for each in link.script.all("release")} == {103, 104, 105}
    assert not link.script.all("touch")


async def test_a_pending_payment_is_touched_and_given_back(
    link: ScriptedLink, start: Start
) -> None:
    worker = start(simulator=HOUR, clock=CREATED_AT, lease_ms=15)
    link.grant(make_lease(**UNPAID))
    await link.script.until_said("touch", 2)
    assert await worker.stopped() == [("release", 1, None)]


async def test_a_lost_payment_is_left_to_its_holder(link: ScriptedLink, start: Start) -> None:
    link.script.answers["touch"] = [LeaseLostError("granted anew")]
    worker = start(simulator=HOUR, clock=CREATED_AT, lease_ms=15)
    link.grant(make_lease(1, **UNPAID), make_lease(2, **UNPAID))
    await until(lambda: len(worker.payments._pending) == 1)
    assert await worker.stopped() == [("release", 2, None)]


async def test_no_more_payments_pend_than_may(link: ScriptedLink, start: Start) -> None:
    worker = start(simulator=HOUR, clock=CREATED_AT, payments_max=1)
    link.grant(make_lease(1, **UNPAID))
    await until(lambda: worker.payments._pending)
    worker.runner.check_again()
    await turns()
    assert len(link.script.all("claim")) == 1
    assert worker.payments.room() == 0
    assert await worker.stopped() == [("release", 1, None)]


def test_payments_being_told_keep_their_places() -> None:
    owner: Any = None
    assert PaymentStage(HOUR, 5, owner).room(settling=2) == 3


async def test_a_lost_payment_is_never_decided(
    link: ScriptedLink, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """Its time comes all the same, but another worker tells the broker. Its place is free."""
    worker = start(simulator=HOUR, clock=CREATED_AT, payments_max=1)
    link.grant(make_lease(1, **UNPAID))
    await until(lambda: worker.payments._pending)
    (held,) = worker.payments._pending
    timer = held.timer
    assert timer is not None
    for _ in range(2):  # two touches of it may be under way
        worker.runner.lease_lost(held, held.token, LeaseLostError("granted anew"))
    await link.script.until_said("claim", 2)
    assert timer.cancelled()
    assert caplog.text.count("the lease is lost") == 1
    assert await worker.stopped() == []


async def test_a_payment_given_back_is_not_decided(link: ScriptedLink, start: Start) -> None:
    worker = start(simulator=HOUR, clock=CREATED_AT)
    link.grant(make_lease(1, **UNPAID))
    await until(lambda: worker.payments._pending)
    (held,) = worker.payments._pending
    timer = held.timer
    assert timer is not None
    assert await worker.stopped() == [("release", 1, None)]
    assert timer.cancelled()


async def test_a_stop_waits_for_a_payment_being_settled(link: ScriptedLink, start: Start) -> None:
    gate = asyncio.Event()
    link.script.answers["post"] = [gate.wait]
    worker = start(simulator=PaymentSimulator())
    link.grant(make_lease(**UNPAID))
    await link.script.until_said("transition")
    worker.runner.stop()
    await turns()
    gate.set()
    assert await worker.ended() == [("transition", 1, RUNNING)]
    assert worker.runner.finished == 1


async def test_an_unanswered_release_of_the_unpaid_ends(
    link: ScriptedLink, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "LAST_S", 0.01)
    link.script.answers["release"] = [asyncio.Event().wait]
    worker = start(simulator=PaymentSimulator(never_share=1))
    link.grant(make_lease(**UNPAID))
    await link.script.until_said("claim", 2)
    assert await worker.stopped() == [("release", 1, None)]


@pytest.mark.parametrize(
    ("late_s", "pause_s"), [(0, 2.0), (1.5, 0.5), (2, 0.0), (100, 0.0), (-100, 2.0)]
)
async def test_a_payment_is_known_a_time_after_creation(
    start: Start, monkeypatch: pytest.MonkeyPatch, late_s: float, pause_s: float
) -> None:
    """A worker that takes over does not wait anew; its clock may be wrong."""
    paused: list[float] = []
    created_at = make_job().created_at.timestamp()
    simulator = PaymentSimulator(delay_ms_min=2_000, delay_ms_max=2_000)
    worker = start(simulator=simulator, clock=lambda: created_at + late_s)
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "call_later", lambda pause_s, *_: paused.append(pause_s))
    job = make_job(**UNPAID)
    held: Any = type("Held", (), {"job": job, "job_id": job.job_id})()
    worker.payments.take(held)
    monkeypatch.undo()
    worker.payments._pending.clear()
    assert paused == pytest.approx([pause_s])

"""The payment simulator: repeatable, independent of order, and true to its shares."""

from collections import Counter
from typing import Any
from uuid import UUID

import pytest

from tollgate.worker.payments import Kind, PaymentSimulator, Verdict

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

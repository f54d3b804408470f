"""Faults are drawn by seed, in the shares asked for."""

import pytest

from tests.payment_service.faults import CHANGING, Fault, Faults


def drawn(faults: Faults, calls: int = 2_000, call: str = "submit-result") -> list[Fault | None]:
    return [faults.draw(call) for _ in range(calls)]


def test_the_same_seed_gives_the_same_faults() -> None:
    assert drawn(Faults.all(3, 0.4)) == drawn(Faults.all(3, 0.4))
    assert drawn(Faults.all(3, 0.4)) != drawn(Faults.all(4, 0.4))


def test_all_kinds_happen_in_their_share() -> None:
    faults = drawn(Faults.all(3, 0.4))
    assert set(faults) == {None, *Fault}
    assert 0.3 < sum(fault is not None for fault in faults) / len(faults) < 0.5


def test_none_never_happens_unless_planned() -> None:
    faults = Faults.none()
    assert drawn(faults) == [None] * 2_000
    faults.plan("diff", Fault.SLOW, Fault.HALF)
    assert drawn(faults, 3) == [None] * 3
    assert drawn(faults, 3, "diff") == [Fault.SLOW, Fault.HALF, None]


def test_a_share_of_one_is_every_call() -> None:
    faults = Faults(shares={Fault.TOO_MANY: 1.0})
    assert drawn(faults, 100) == [Fault.TOO_MANY] * 100
    assert faults.counts["submit-result", Fault.TOO_MANY] == 100


def test_reading_has_no_conflict() -> None:
    faults = Faults(shares={Fault.CONFLICT: 1.0})
    assert drawn(faults, 10, "diff") == [None] * 10
    for call in CHANGING:
        assert drawn(faults, 10, call) == [Fault.CONFLICT] * 10


def test_faults_can_be_switched_off() -> None:
    faults = Faults.all(1, 1.0)
    faults.enabled = False
    assert drawn(faults) == [None] * 2_000


@pytest.mark.parametrize("shares", [{Fault.SLOW: -0.1}, {Fault.SLOW: 0.6, Fault.HALF: 0.6}])
def test_impossible_shares_are_refused(shares: dict[Fault, float]) -> None:
    with pytest.raises(ValueError, match="shares"):
        Faults(shares=shares)

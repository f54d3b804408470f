"""How much one caller may ask for, with a clock of the test's."""

import pytest

from tollgate.gateway.agent import HttpSettings
from tollgate.gateway.limits import ADDRESSES, OTHERS, Limits, network_of
from tollgate.gateway.request import HttpError


def limits(**settings: float) -> Limits:
    return Limits(HttpSettings.model_validate(settings))


def refused(limits: Limits, address: str, now: float, *, is_hire: bool = False) -> HttpError:
    with pytest.raises(HttpError) as caught:
        limits.enter(address, now, is_hire=is_hire)
    return caught.value


def enter_and_leave(limits: Limits, address: str, now: float, *, is_hire: bool = False) -> None:
    limits.leave(limits.enter(address, now, is_hire=is_hire))


def test_burst_then_rate() -> None:
    few = limits(requests_per_s=2)
    for _ in range(4):
        enter_and_leave(few, "a", 0)
    assert refused(few, "a", 0.4).retry_after_s == 1
    enter_and_leave(few, "a", 0.6)
    assert refused(few, "a", 0.7).status == 429
    for _ in range(4):
        enter_and_leave(few, "a", 1_000)
    assert refused(few, "a", 1_000).status == 429


def test_other_address_is_served() -> None:
    few = limits(requests_per_s=1)
    for _ in range(2):
        enter_and_leave(few, "a", 0)
    refused(few, "a", 0)
    enter_and_leave(few, "b", 0)


def test_hires_have_a_rate_of_their_own() -> None:
    few = limits(hires_per_s=0.1)
    enter_and_leave(few, "a", 0, is_hire=True)
    assert refused(few, "a", 0, is_hire=True).retry_after_s == 10
    enter_and_leave(few, "a", 0)
    enter_and_leave(few, "a", 10, is_hire=True)


@pytest.mark.parametrize("is_hire", [False, True])
def test_low_rate_lets_one_in(is_hire: bool) -> None:
    """Fewer than one in the seconds of a burst would be none at all, for ever."""
    few = limits(requests_per_s=1 / 64, hires_per_s=1 / 64)
    for now in (0, 64, 128):
        enter_and_leave(few, "a", now, is_hire=is_hire)
        assert refused(few, "a", now + 1, is_hire=is_hire).retry_after_s == 63


def test_busy_gateway_counts_no_hire() -> None:
    few = limits(concurrency=1, hires_per_s=0.1)
    other = few.enter("b", 0)
    assert refused(few, "a", 0, is_hire=True).status == 503
    few.leave(other)
    enter_and_leave(few, "a", 0, is_hire=True)


def test_clock_that_goes_back_adds_nothing() -> None:
    few = limits(requests_per_s=1)
    for _ in range(2):
        enter_and_leave(few, "a", 100)
    assert refused(few, "a", 50).status == 429
    enter_and_leave(few, "a", 51)


def test_one_address_at_the_same_time() -> None:
    few = limits(concurrency_per_address=2)
    first = few.enter("a", 0)
    few.enter("a", 0)
    assert refused(few, "a", 0).status == 429
    few.enter("b", 0)
    few.leave(first)
    few.enter("a", 0)


def test_all_at_the_same_time() -> None:
    few = limits(concurrency=2)
    few.enter("a", 0)
    few.enter("b", 0)
    assert refused(few, "c", 0).status == 503
    few.leave("a")
    few.enter("c", 0)
    assert few.open == 2


def fill(few: Limits, now: float, *, is_hire: bool = False) -> None:
    """Let as many callers as are remembered ask once."""
    for number in range(ADDRESSES - len(few._callers)):
        enter_and_leave(few, f"10.0.{number // 250}.{number % 250}", now, is_hire=is_hire)


def test_callers_with_their_whole_burst_are_forgotten() -> None:
    few = limits(requests_per_s=1)
    few.enter("busy", 0)
    fill(few, 0)
    for number in range(100):
        enter_and_leave(few, f"new {number}", 1)
    assert len(few._callers) == ADDRESSES
    assert "busy" in few._callers
    assert OTHERS not in few._callers


@pytest.mark.parametrize(("is_hire", "later"), [(False, 0), (True, 5)])
def test_other_addresses_renew_no_burst(is_hire: bool, later: int) -> None:
    few = limits(requests_per_s=2, hires_per_s=0.1)
    while True:
        try:
            enter_and_leave(few, "a", 0, is_hire=is_hire)
        except HttpError:
            break
    fill(few, later, is_hire=is_hire)
    enter_and_leave(few, "new", later)
    assert refused(few, "a", later, is_hire=is_hire).status == 429


def test_new_callers_share_when_none_can_be_forgotten() -> None:
    few = limits(requests_per_s=1)
    fill(few, 0)
    for number in range(2):
        enter_and_leave(few, f"new {number}", 0)
    assert refused(few, "new 2", 0).status == 429
    assert len(few._callers) == ADDRESSES + 1
    enter_and_leave(few, "new 2", 1)
    assert "new 2" in few._callers


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("2001:db8::1", "2001:db8::ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("fe80::1%eth0", "fe80::2", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("", "unix:", False),
    ],
)
def test_network_of_an_address(one: str, other: str, is_same: bool) -> None:
    assert (network_of(one) == network_of(other)) is is_same

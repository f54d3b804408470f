"""What an answer tells is a payment that broker, log and calendar can take, or none."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from tests.payment_service.service import PaymentService as StandIn
from tollgate.masumi.payment import ToldNewPayment, ToldPayment, milliseconds

CHANGED_AT = "nextActionOrOnChainStateOrResultLastChangedAt"


@pytest.fixture
def shown() -> dict[str, Any]:
    """Return a payment as the service shows it."""
    service = StandIn()
    service.create()
    (payment,) = service.diff({"network": "Preprod"}, service.key)["Payments"]
    return dict(payment)


def told(shown: dict[str, Any], **fields: Any) -> ToldPayment:
    return msgspec.convert(shown | fields, ToldPayment)


def test_what_the_service_shows_can_be_read(shown: dict[str, Any]) -> None:
    payment = told(shown, submitResultTime="1767225600000").payment()
    assert payment.submit_by == datetime(2026, 1, 1, tzinfo=UTC)
    assert payment.changed_at == shown[CHANGED_AT]
    assert (payment.error, payment.result_hash) == (None, None)


@pytest.mark.parametrize("name", ["resultHash", "inputHash", "blockchainIdentifier", "id"])
@pytest.mark.parametrize("value", ["a\0b", "a\nb", "é", "\x1b[2J", "x" * 2_000_000])
def test_an_odd_text_is_no_payment(shown: dict[str, Any], name: str, value: str) -> None:
    with pytest.raises(ValueError, match="odd ones"):
        told(shown, **{name: value}).payment()


@pytest.mark.parametrize("name", ["blockchainIdentifier", "id"])
def test_an_empty_identifier_is_no_payment(shown: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match="is empty"):
        told(shown, **{name: ""}).payment()


@pytest.mark.parametrize(
    "value", ["soon", "", "-62135596800000", 0, "253402300799000", 10**18, "1" * 400, "9" * 9_000]
)
def test_a_time_out_of_all_calendars_is_no_payment(shown: dict[str, Any], value: str | int) -> None:
    with pytest.raises(ValueError, match="no time in milliseconds"):
        told(shown, submitResultTime=value).payment()


@pytest.mark.parametrize("name", [CHANGED_AT, "updatedAt"])
@pytest.mark.parametrize(
    "value", ["2026-11-29T11:00:99.000Z", "2026-11-29T11:00:00Z", "2026-11-29 11:00:00.000Z", "now"]
)
def test_a_change_at_no_time_is_no_payment(shown: dict[str, Any], name: str, value: str) -> None:
    with pytest.raises(ValueError, match=r"is no time|must be in"):
        told(shown, **{name: value}).payment()


@pytest.mark.parametrize("state", ["Funds\0Locked", "FundsLocked\n", "\x1bFundsLocked"])
def test_an_odd_state_is_no_state_that_is_known(shown: dict[str, Any], state: str) -> None:
    seen = told(shown, onChainState=state).payment().on_chain_state
    assert seen is not None
    assert seen.isprintable()
    assert seen.replace("\N{REPLACEMENT CHARACTER}", "") == "FundsLocked" != seen


def test_an_error_is_a_line(shown: dict[str, Any]) -> None:
    action = shown["NextAction"] | {
        "errorType": "Unknown",
        "errorNote": "a\n\x1b[2Jb\0" + "c" * 9_999,
    }
    error = told(shown, NextAction=action).payment().error
    assert error is not None
    assert error.isprintable()
    assert len(error) == 1_000


@pytest.mark.parametrize("name", ["payByTime", "externalDisputeUnlockTime"])
def test_a_new_payment_with_an_odd_time_is_none(shown: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match="no time in milliseconds"):
        msgspec.convert(shown | {name: "1" * 400}, ToldNewPayment).payment()


def test_the_years_2000_to_2200_are_times() -> None:
    for year in (2000, 2200):
        at = int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) * 1_000
        assert milliseconds(at) == milliseconds(str(at)) == at

"""Decides the next step that brings the hash of a result on chain. Pure: no socket, no clock."""

import re
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

import msgspec

from tollgate.masumi.gate import is_too_late
from tollgate.masumi.payment import (
    ENDED,
    FOR_PEOPLE,
    FOR_US,
    FUNDS_LOCKED,
    SUBMITTING,
    TAKES_RESULT,
    Payment,
)

OVERDUE: Final = timedelta(minutes=10)
"""How long after its deadline a hash that the service took may still appear on chain."""
_RECOVERY: Final = re.compile(r"recovery (\d{1,4}) of")


class Step(StrEnum):
    """What to do next."""

    SUBMIT = "submit"
    RECOVER = "recover"
    """Ask the service to try again what failed."""
    WAIT = "wait"
    """Look again later."""
    SUBMITTED = "submitted"
    """The service is putting our hash on chain: look again later."""
    CONFIRMED = "confirmed"
    REFUSED = "refused"
    MANUAL = "manual"


class Next(msgspec.Struct, frozen=True):
    """The next step, and why."""

    step: Step
    reason: str | None = None


def decide(payment: Payment, result_hash: str, now: datetime) -> Next:
    """Return the next step for a payment and the hash of the job's stored result.

    `now` is the payment service's time. A hash that is there already is compared and never
    replaced: this is what makes a lost answer, a second watcher and a restart harmless.
    """
    for where, there in (("on chain", payment.result_hash), _being_submitted(payment)):
        if there is not None and there != result_hash:
            return Next(Step.MANUAL, f"another hash is {where}: {there}")
    if payment.result_hash is not None:
        is_on_chain = payment.on_chain_state != FUNDS_LOCKED
        return Next(Step.CONFIRMED if is_on_chain else Step.SUBMITTED)
    if payment.on_chain_state in ENDED:
        return Next(Step.REFUSED, f"the payment is {payment.on_chain_state}")
    if payment.action in SUBMITTING:
        return _while_submitting(payment, now)
    if payment.on_chain_state is None:
        return Next(Step.MANUAL, "the job ran, and nothing of its payment is on chain")
    return _without_hash(payment, now)


def _without_hash(payment: Payment, now: datetime) -> Next:
    if payment.on_chain_state not in TAKES_RESULT:
        return Next(Step.WAIT, f"the payment is {payment.on_chain_state}")
    if payment.action == FOR_PEOPLE:
        return Next(Step.RECOVER, payment.error or "no reason told")
    if payment.action != FOR_US:
        return Next(Step.WAIT, f"the service is at {payment.action}")
    if is_too_late(payment, now):
        return Next(Step.REFUSED, "too late: the time to submit a result is over")
    return Next(Step.SUBMIT)


def _being_submitted(payment: Payment) -> tuple[str, str | None]:
    is_our_turn = payment.action in SUBMITTING or payment.action == FOR_PEOPLE
    return "at the service", payment.action_hash if is_our_turn else None


def _while_submitting(payment: Payment, now: datetime) -> Next:
    if payment.submit_by is not None and now >= payment.submit_by + OVERDUE:
        return Next(Step.MANUAL, "the service took the hash, and its deadline passed")
    return Next(Step.SUBMITTED)


def recovery_reason(number: int, most: int, why: str) -> str:
    """Return the reason that a settlement keeps of a recovery: the next watcher counts on."""
    return f"recovery {number} of {most}: {why}"


def recoveries(reason: str | None) -> int:
    """Return how many recoveries the reason of a settlement counts."""
    found = _RECOVERY.match(reason or "")
    return int(found[1]) if found else 0

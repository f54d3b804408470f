"""Decides what a payment means for a job that waits for it. Pure: no socket, no clock."""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

import msgspec

from tollgate.domain.models import Job
from tollgate.domain.status import AWAITING_PAYMENT, TERMINAL
from tollgate.masumi.payment import (
    ENDED,
    FUNDS_INVALID,
    FUNDS_LOCKED,
    OBJECTIONS,
    RESULT_SUBMITTED,
    Payment,
)

LAST_MINUTES: Final = timedelta(minutes=5)
"""The service sends nothing to the chain in the last minutes before a deadline."""


WITHOUT_US: Final = OBJECTIONS | ENDED
"""The buyer wants the money back, or nothing is locked any more: the work is for nothing."""


class Act(StrEnum):
    """What to do with the job of a payment."""

    NOTHING = "nothing"
    OPEN = "open"
    """Let it run."""
    END = "end"
    """Let it fail."""
    ASK_TO_STOP = "ask to stop"
    REPORT = "report"
    """Money was paid for a job that has failed: say so."""


class Decision(msgspec.Struct, frozen=True):
    """What to do, and why."""

    act: Act
    reason: str | None = None


NOTHING: Final = Decision(Act.NOTHING)
OPEN: Final = Decision(Act.OPEN)


def decide(job: Job, payment: Payment, now: datetime) -> Decision:
    """Return what to do with a job. `now` is the payment service's time."""
    state = payment.on_chain_state
    if state is None:
        return NOTHING
    if job.status == AWAITING_PAYMENT:
        return _for_unpaid(job, payment, state, now)
    if job.status in TERMINAL:
        if job.status.value == "failed" and state == FUNDS_LOCKED:
            return Decision(
                Act.REPORT, f"paid, but the job has failed ({job.error}): the buyer gets a refund"
            )
        return NOTHING
    if state in WITHOUT_US and not job.stop_requested:
        return Decision(Act.ASK_TO_STOP, f"the payment is {state}")
    return NOTHING


def _for_unpaid(job: Job, payment: Payment, state: str, now: datetime) -> Decision:
    if state == FUNDS_INVALID:
        return Decision(Act.END, f"the payment is {state}")
    if state in WITHOUT_US or state == RESULT_SUBMITTED:
        return Decision(Act.END, f"the payment was {state} before the work began")
    if state != FUNDS_LOCKED:
        return NOTHING
    if payment.input_hash is not None and payment.input_hash != job.input_hash:
        return Decision(Act.END, f"the payment is for another input, {payment.input_hash}")
    if is_too_late(payment, now):
        return Decision(Act.END, "paid so late that no result can be submitted")
    return OPEN


def is_too_late(payment: Payment, now: datetime) -> bool:
    """Return whether the service would not put a result on chain any more."""
    return payment.submit_by is not None and now >= payment.submit_by - LAST_MINUTES

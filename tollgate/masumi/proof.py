"""Decides the next step that brings the hash of a result on chain. Pure: no socket, no clock."""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import dropwhile
from typing import Final

import msgspec

from tollgate.masumi.gate import is_too_late
from tollgate.masumi.payment import (
    ENDED,
    FOR_PEOPLE,
    FOR_US,
    FUNDS_LOCKED,
    REFUNDING,
    SUBMIT_INITIATED,
    SUBMIT_REQUESTED,
    SUBMITTING,
    TAKES_RESULT,
    PastAction,
    Payment,
)

OVERDUE: Final = timedelta(minutes=10)
"""How long after the time to submit a person is asked, if nothing has ended until then."""
_RECOVERY: Final = re.compile(r"recovery (\d{1,9}) of \d+, after failure (\d{1,9}):")


class Step(StrEnum):
    """What to do next."""

    SUBMIT = "submit"
    RECOVER = "recover"
    """Have the service clear the error of what failed."""
    WAIT = "wait"
    """Look again later."""
    SUBMITTED = "submitted"
    """The service is putting our hash on chain: look again later."""
    CONFIRMED = "confirmed"
    REFUSED = "refused"
    MANUAL = "manual"


UNDECIDED: Final = frozenset({Step.RECOVER, Step.WAIT, Step.SUBMITTED})


class Next(msgspec.Struct, frozen=True):
    """The next step, and why."""

    step: Step
    reason: str | None = None


def decide(payment: Payment, result_hash: str, now: datetime) -> Next:
    """Return the next step for a payment and the hash of the job's stored result.

    `now` is the payment service's time. A hash that is there already is compared and never
    replaced: this is what makes a lost answer, a second watcher and a restart harmless.
    """
    found = _next(payment, result_hash)
    if payment.submit_by is None:
        return found
    if found.step is Step.SUBMIT and is_too_late(payment, now):
        return Next(Step.REFUSED, "too late: the time to submit a result is over")
    if found.step in UNDECIDED and now >= payment.submit_by + OVERDUE:
        return Next(Step.MANUAL, f"the time to submit a result is over: {found.reason}")
    return found


def _next(payment: Payment, result_hash: str) -> Next:
    """Return the next step while there is time for it."""
    for where, there in _hashes(payment):
        if there not in {None, result_hash}:
            return Next(Step.MANUAL, f"another hash {where}: {there}")
    if payment.result_hash is not None:
        return _with_hash(payment)
    if payment.on_chain_state in ENDED:
        return Next(Step.REFUSED, f"the payment is {payment.on_chain_state}")
    if payment.action in SUBMITTING:
        return _while_submitting(payment)
    if payment.on_chain_state is None:
        return Next(Step.MANUAL, "the job ran, and nothing of its payment is on chain")
    return _without_hash(payment)


def _with_hash(payment: Payment) -> Next:
    if payment.on_chain_state == FUNDS_LOCKED:
        return Next(Step.SUBMITTED, "the service shows the hash, but not yet its state")
    return Next(Step.CONFIRMED)


def _while_submitting(payment: Payment) -> Next:
    if _hash_of(_actions(payment)) is None:
        return Next(Step.MANUAL, "the service has lost the hash that it took")
    return Next(Step.SUBMITTED, f"the service is at {payment.action}")


def _without_hash(payment: Payment) -> Next:
    if payment.on_chain_state not in TAKES_RESULT:
        return Next(Step.WAIT, f"the payment is {payment.on_chain_state}")
    if payment.action not in {FOR_US, FOR_PEOPLE}:
        return Next(Step.WAIT, f"the service is at {payment.action}")
    # The hash may have been on chain before: a new one would take back what a person has granted.
    if any(each.action in REFUNDING for each in payment.history):
        return Next(Step.MANUAL, "a person has granted the buyer a refund")
    if payment.action == FOR_PEOPLE:
        return _after_failure(payment)
    return Next(Step.SUBMIT)


def _after_failure(payment: Payment) -> Next:
    why, failed = payment.error or "no reason told", _failed(payment)
    if failed and failed[0].action in SUBMITTING:
        return Next(Step.RECOVER, why)
    return Next(Step.MANUAL, f"what failed is not the submission of a result: {why}")


def _hashes(payment: Payment) -> Iterator[tuple[str, str | None]]:
    """Yield each hash that is on chain, on its way, or was on its way when it failed."""
    yield "is on chain", payment.result_hash
    if payment.action in SUBMITTING or payment.action == FOR_PEOPLE:
        yield "is at the service", _hash_of(_actions(payment))
    if payment.error is not None:
        yield "has failed at the service", _hash_of(_failed(payment))


def _actions(payment: Payment) -> Sequence[PastAction]:
    return [PastAction(payment.action, payment.action_hash), *payment.history]


def _failed(payment: Payment) -> Sequence[PastAction]:
    """Return the history from the action on that failed, newest first."""
    # The chain may have moved since: then the service notes anew that it waits for a person.
    return list(dropwhile(lambda each: each.action == FOR_PEOPLE, payment.history))


def _hash_of(actions: Sequence[PastAction]) -> str | None:
    """Return the hash of the first of these; the rest came before it."""
    if not actions:
        return None
    first, *before = actions
    if first.result_hash is None and first.action == SUBMIT_INITIATED and before:
        # Some services note it only with the request.
        return before[0].result_hash if before[0].action == SUBMIT_REQUESTED else None
    return first.result_hash


def next_recovery(payment: Payment, noted: str | None, most: int, why: str) -> str | None:
    """Return the reason that a settlement keeps of the next recovery, or None after `most`.

    `noted` is the reason that it keeps now: it counts over restarts, until a person gives another.
    A failure has a number in the history of its payment. To recover it again, after a call that
    came to nothing or a watcher that died, is the same recovery.
    """
    failure = 1 + sum(each.action == FOR_PEOPLE for each in payment.history)
    found = _RECOVERY.match(noted or "")
    number, last = (int(found[1]), int(found[2])) if found else (0, 0)
    if failure != last:
        number += 1
    if number > most:
        return None
    return f"recovery {number} of {most}, after failure {failure}: {why}"

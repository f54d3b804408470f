"""Compares what became of a job with what the payment service accepted for it."""

from collections.abc import Sequence
from typing import Final

from tests.payment_service.payment import Payment
from tollgate import Job, JobStatus
from tollgate.client.results import History
from tollgate.domain.hashing import output_hash_as_deployed
from tollgate.domain.settlement import SettlementState

PURCHASER: Final = "aabbccddeeff0011"


def failures_of(payment: Payment) -> int:
    """Return how often the service or its chain failed with a payment."""
    return sum(entry.error_type is not None for entry in payment.actions)


def faults_of(job: Job, history: History, payment: Payment, accepted: Sequence[str]) -> list[str]:
    """Return what is wrong with a job. `accepted` are the hashes taken for it, in order.

    A hash may be taken again after each failure of the service or its chain.
    """
    if job.status is not JobStatus.COMPLETED or job.result is None:
        return [f"{job.job_id}: not completed: it is {job.status}: {job.error}"]
    stored = output_hash_as_deployed(job.identifier_from_purchaser or "", job.result)
    found = []
    ends = sum(entry.to == JobStatus.COMPLETED for entry in history.entries)
    if ends != 1:
        found.append(f"completed {ends} times")
    if job.settlement is None or job.settlement.state is not SettlementState.CONFIRMED:
        found.append(f"not confirmed: its settlement is {job.settlement}")
    if not accepted:
        found.append("lost: no hash was accepted")
    failures = failures_of(payment)
    if len(accepted) > 1 + failures:
        found.append(f"twice: {len(accepted)} hashes were accepted, and {failures} failed")
    foreign = {*accepted, payment.result_hash or stored} - {stored}
    if foreign:
        found.append(f"foreign: {sorted(foreign)}, and the stored result has {stored}")
    if payment.result_hash != stored:
        found.append(f"not on chain: {stored}; there is {payment.result_hash or 'nothing'}")
    return [f"{job.job_id}: {fault}" for fault in found]

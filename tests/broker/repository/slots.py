"""Slots for tests of lines and indexes, without a repository."""

from datetime import timedelta
from typing import Any

from tests.core import EPOCH, HASH, job_id
from tollgate.broker.repository.job import ExtendedJob, Slot
from tollgate.domain.status import AWAITING_PAYMENT, JobStatus

SECOND = timedelta(seconds=1)


def slot(number: int, status: JobStatus = AWAITING_PAYMENT, **fields: Any) -> Slot:
    """Return the `number`th job, in `status`, in no line."""
    job = ExtendedJob(job_id(number), status, HASH, "pay", EPOCH, EPOCH, version=1)
    for name, value in fields.items():
        setattr(job, name, value)
    return Slot(number, job, 0)


def slots(count: int, status: JobStatus = AWAITING_PAYMENT, **fields: Any) -> list[Slot]:
    return [slot(number, status, **fields) for number in range(count)]


def places(some: Any) -> list[int]:
    """Return the places of slots in the order of creation."""
    return [each.index for each in some]


class Counted:
    """A predicate that counts how often it is asked."""

    def __init__(self, is_true: Any) -> None:
        self.is_true = is_true
        self.asked = 0

    def __call__(self, *arguments: Any) -> bool:
        self.asked += 1
        return bool(self.is_true(*arguments))

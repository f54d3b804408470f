"""Answers and remembered outcomes in one form, so that what was said can be compared."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from tollgate.broker.core.records import AnyOutcome, DoneOutcome, JobOutcome, LeasesOutcome
from tollgate.domain.results import (
    AnyResult,
    ErrorResult,
    JobFields,
    JobResult,
    JobsResult,
    LeasesResult,
    OkResult,
)

Compact = list[Any]
"""A kind, and what counts of it; in the form in which JSON gives it back."""

NOTHING: Final[Compact] = ["leases", []]
"""A claim that got nothing: the one outcome that is not remembered, since nothing has happened."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def microseconds(time: datetime) -> int:
    return (time - _EPOCH) // _MICROSECOND


def of_job(job: JobFields) -> Compact:
    at = microseconds(job.updated_at)
    return ["job", job.job_id, job.version, str(job.status), at]


def of_result(result: AnyResult) -> Compact:
    """What must be the same whenever a request is answered; the words of a refusal may differ."""
    match result:
        case JobResult():
            return of_job(result.job)
        case LeasesResult():
            return ["leases", [[grant.job.job_id, grant.lease] for grant in result.leases]]
        case ErrorResult():
            return ["error", result.code, result.job_id, result.status, result.version]
        case OkResult():
            return ["ok"]
        case _:
            raise TypeError(f"nothing that changes something is answered by {result}")


def of_outcome(outcome: AnyOutcome) -> Compact:
    """The same of what the broker has written down."""
    match outcome:
        case JobOutcome():
            at = microseconds(outcome.at)
            return ["job", outcome.job_id, outcome.version, str(outcome.status), at]
        case LeasesOutcome():
            return ["leases", [list(lease) for lease in outcome.leases]]
        case DoneOutcome():
            return ["ok"]
        case _:
            return ["error", outcome.code, outcome.job_id, outcome.status, outcome.version]


def shown_by(result: AnyResult) -> list[Compact]:
    """The jobs that a reader has seen."""
    if isinstance(result, JobResult):
        return [of_job(result.job)]
    if isinstance(result, JobsResult):
        return [of_job(job) for job in result.jobs]
    if isinstance(result, LeasesResult):
        return [of_job(grant.job) for grant in result.leases]
    return []


class Logged(msgspec.Struct, array_like=True):
    """One request, as its producer saw it, and each answer that it got."""

    session: int
    seq: int
    life: int
    """In which life of the broker the first answer came; 0 if none ever did."""
    first: list[Compact] | None
    """Of the commands that could change something."""
    again: list[list[Compact]]
    """Answers to repeats that differ from the first: leases that are over are left out there."""
    same: int
    """How many answers to repeats were as the first."""
    seen: list[Compact]
    """Jobs that a read has shown."""
    refused: list[str]
    """Codes with which the request was refused whole, but for `draining`."""

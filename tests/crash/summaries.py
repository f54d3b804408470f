"""Answers and journal outcomes in one form, so that they can be compared."""

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

Summary = list[Any]
"""A kind and the fields to compare, as JSON returns them."""

NOTHING: Final[Summary] = ["leases", []]
"""A claim without leases: the one outcome that is not remembered, because it changed nothing."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def microseconds(time: datetime) -> int:
    return (time - _EPOCH) // _MICROSECOND


def of_job(job: JobFields) -> Summary:
    at = microseconds(job.updated_at)
    return ["job", job.job_id, job.version, str(job.status), at]


def of_result(result: AnyResult) -> Summary:
    """Return what every answer to a request must repeat. Error messages may differ."""
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
            raise TypeError(f"no command that changes state returns {result}")


def of_outcome(outcome: AnyOutcome) -> Summary:
    """Return the same for an outcome from the journal."""
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


def shown_by(result: AnyResult) -> list[Summary]:
    """Return the jobs that a read command returned."""
    if isinstance(result, JobResult):
        return [of_job(result.job)]
    if isinstance(result, JobsResult):
        return [of_job(job) for job in result.jobs]
    if isinstance(result, LeasesResult):
        return [of_job(grant.job) for grant in result.leases]
    return []


class Logged(msgspec.Struct, array_like=True):
    """One request and all answers that its producer got."""

    session: int
    seq: int
    life: int
    """Number of the broker that answered first; 0 if none did."""
    first: list[Summary] | None
    """The first answer, for the commands that change state."""
    again: list[list[Summary]]
    """Later answers that differ from the first: they leave out leases that ended."""
    same: int
    """How many later answers equal the first."""
    seen: list[Summary]
    """Jobs that read commands returned."""
    refused: list[str]
    """Error codes of refusals of the whole request, without `draining`."""

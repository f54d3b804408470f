"""Answers and journal outcomes in one form, so that they can be compared."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec

from tollgate.broker.core.records import AnyOutcome, DoneOutcome, JobOutcome, LeasesOutcome
from tollgate.domain.results import (
    AnyResult,
    ErrorResult,
    HistoryResult,
    JobFields,
    JobResult,
    JobsResult,
    LeasesResult,
    OkResult,
)

Summary = list[Any]
"""A kind and the fields to compare, as JSON returns them."""

PLAIN: Final[Summary] = ["default", 0, False, False, None, 0, None, None]
"""What `extras_of` has of most jobs; written as an empty list."""
NOTHING: Final[Summary] = ["leases", []]
"""A claim without leases: the one outcome that is not remembered, because it changed nothing."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def microseconds(time: datetime) -> int:
    return (time - _EPOCH) // _MICROSECOND


def of_job(job: JobFields) -> Summary:
    at = microseconds(job.updated_at)
    return ["job", job.job_id, job.version, str(job.status), at]


def extras_of(job: JobFields) -> Summary:
    """Return what can change without the version of a job. The summary of it is compared apart.

    A repeated answer shows the job as it was, but these as they are now.
    """
    settlement, progress = job.settlement, job.progress
    extras = [
        job.queue, job.priority, job.on_hold, job.stop_requested, job.meta, job.attempts,
        settlement and [
            str(settlement.state), settlement.result_hash, settlement.on_chain_state,
            settlement.reason,
        ],
        progress and progress.text,
    ]  # fmt: skip
    return [] if extras == PLAIN else extras


def rounds_of(job: JobFields) -> Summary:
    """Return its rounds of input. They follow from the version, in a repeated answer too."""
    return [[each.version, each.hash] for each in job.inputs or ()]


def shown_of(job: JobFields) -> list[Any]:
    """Return what a job shows beside its status."""
    return [job.job_id, extras_of(job), job.version, rounds_of(job)]


def extras_in(results: Sequence[AnyResult]) -> list[list[Any]]:
    """Return what jobs in these results show, and what histories hold.

    Of a job: id, extras, version and rounds; of a history: job id, entries, and how many it left
    out.
    """
    found: list[list[Any]] = []
    for result in results:
        match result:
            case JobResult():
                found.append(shown_of(result.job))
            case JobsResult():
                found += map(shown_of, result.jobs)
            case LeasesResult():
                found += [shown_of(grant.job) for grant in result.leases]
            case HistoryResult():
                entries = [[entry.what, entry.attempt] for entry in result.entries]
                found.append([result.job_id, entries, result.left_out])
            case _:
                pass
    return found


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


class Seen(msgspec.Struct, array_like=True):
    """The jobs in one answer, in the order in which a producer read its answers."""

    session: int
    seq: int
    found: list[list[Any]]
    has_effect: bool = False
    """Whether this answer tells of an effect: then it is not older than the request's record."""


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
    is_named: bool = False
    """Whether it claims jobs by their ids, out of turn."""


def seen_log(log: Path) -> Path:
    """Return the file of what was seen, in order, beside the log of a producer."""
    return log.with_suffix(".seen")

"""What a command came to, in few bytes: enough to answer it again, not the answer itself."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from tollgate.broker.core.events import AnyEvent
from tollgate.broker.repository.job import StoredJob
from tollgate.domain.exceptions import REFUSALS, JobNotFoundError, Refusal
from tollgate.domain.results import (
    ErrorResult,
    Grant,
    JobResult,
    LeasesResult,
    OkResult,
    Result,
    error_of,
)
from tollgate.domain.status import TERMINAL, JobStatus

JOBS_ALONE: Final = frozenset({JobResult})
"""The kind of result that most messages come to, without any other."""
Digest = int | bytes
"""What tells the commands of a request from others; a number before 0.2."""


class Outcome(msgspec.Struct, tag_field="o", array_like=True, gc=False):
    """The base of all outcomes."""


class JobOutcome(Outcome, tag=1):
    """A job, as it was then: what has not changed since is read from the job itself."""

    job_id: str
    version: int
    status: JobStatus
    at: datetime


class LeasesOutcome(Outcome, tag=2):
    """Jobs and the tokens granted on them."""

    leases: list[tuple[str, int]]


class DoneOutcome(Outcome, tag=3):
    """Done, with nothing to say."""


class RefusedOutcome(Outcome, tag=4):
    """A refusal: its code, and what it told."""

    code: str
    job_id: str | None = None
    status: str | None = None
    target: str | None = None
    version: int | None = None
    limit: int | None = None


AnyOutcome = JobOutcome | LeasesOutcome | DoneOutcome | RefusedOutcome


def weight(outcomes: Sequence[int | AnyOutcome]) -> int:
    """Return how much outcomes take up: each counts as one, and each lease in it as one more."""
    if LeasesOutcome not in set(map(type, outcomes)):  # the common case, at the speed of C
        return len(outcomes)
    leases = sum(len(each.leases) for each in outcomes if isinstance(each, LeasesOutcome))
    return len(outcomes) + leases


def outcome_of(result: Result) -> AnyOutcome:
    """Return what is to be remembered of a result."""
    if type(result) is JobResult:
        job: Any = result.job  # the broker's own results hold the StoredJob
        return JobOutcome(job.job_id, job.version, job.status, job.updated_at)
    if type(result) is ErrorResult:
        return RefusedOutcome(
            result.code, result.job_id, result.status, result.target, result.version, result.limit
        )
    if type(result) is LeasesResult:
        return LeasesOutcome(grants_of(result))
    return DoneOutcome()


def outcomes_of(
    results: Sequence[Result], events: Sequence[AnyEvent], place: int
) -> Sequence[int | AnyOutcome]:
    """Return what is to be remembered of a run's results: the place of its event, where it has one.

    Those of the run are the `events` from `place` on, in the order of the results.
    """
    end = len(events)
    if end - place == len(results) and JOBS_ALONE.issuperset(map(type, results)):
        return range(place, end)
    outcomes: list[int | AnyOutcome] = []
    for result in results:
        if place < end and type(result) is JobResult and _is_of(events[place], result):
            outcomes.append(place)
            place += 1
        else:
            outcomes.append(outcome_of(result))
    return outcomes


def _is_of(event: Any, result: Any) -> bool:  # noqa: ANN401 - the broker's own, with a job's id
    return bool(event.job_id == result.job.job_id)


def grants_of(result: LeasesResult) -> list[tuple[str, int]]:
    """Return job and token of each lease granted."""
    grants: Any = result.leases  # of a StoredJob each
    return [(grant.job.job_id, grant.lease) for grant in grants]


def written_out(outcomes: list[int | AnyOutcome], events: list[Any]) -> list[AnyOutcome]:
    """Return outcomes, those given as the place of the event that created or moved a job too.

    Raises AttributeError or IndexError for an event that did neither, or that there is none of.
    """
    return [
        JobOutcome((event := events[outcome]).job_id, event.version + 1, event.target, event.at)
        if isinstance(outcome, int)
        else outcome
        for outcome in outcomes
    ]


def result_again(
    outcome: AnyOutcome, find: Callable[[str], StoredJob | None], stands: Callable[[str, int], bool]
) -> Result:
    """Build the result anew from what was remembered of it.

    `find` gives jobs as they are now; `stands` tells whether a lease (job, token) is not over:
    of what a claim got, only that is shown again.
    """
    if type(outcome) is JobOutcome:
        job = find(outcome.job_id)
        if job is None:  # pruned since
            return error_of(JobNotFoundError(outcome.job_id))
        return JobResult(_as_it_was(outcome, job))  # type: ignore[arg-type]  # encoded, JobFields
    if type(outcome) is LeasesOutcome:
        return LeasesResult(
            [
                Grant(job, token)  # type: ignore[arg-type]  # encoded, JobFields
                for job_id, token in outcome.leases
                if stands(job_id, token) and (job := find(job_id)) is not None
            ]
        )
    if type(outcome) is RefusedOutcome:
        refusal = REFUSALS[outcome.code]
        details = {name: getattr(outcome, name) for name in _REFUSED_DETAILS}
        return error_of(refusal.rebuilt(_said_again(refusal), details))
    return OkResult()


def without_texts(result: Result) -> Result:
    """Return the result with jobs that show none of their texts: as short as it can be."""
    shown: Any = result
    if type(result) is JobResult:
        return JobResult(_bare(shown.job))  # type: ignore[arg-type]  # encoded, JobFields
    if type(result) is LeasesResult:
        return LeasesResult([Grant(_bare(grant.job), grant.lease) for grant in shown.leases])  # type: ignore[arg-type]
    return result


def _bare(job: StoredJob) -> StoredJob:
    return msgspec.structs.replace(
        job, input=None, result=None, error=None, input_schema=None, provided_input=None
    )


def _as_it_was(outcome: JobOutcome, job: StoredJob) -> StoredJob:
    if job.version == outcome.version:
        return job
    then: dict[str, object] = {
        "version": outcome.version, "status": outcome.status, "updated_at": outcome.at,
    }  # fmt: skip
    if outcome.status not in TERMINAL:
        then |= {"result": None, "error": None}
    if outcome.version <= BEFORE_INPUT:
        then |= {"input_schema": None, "provided_input": None}
    elif outcome.status is JobStatus.AWAITING_INPUT:
        then |= {"provided_input": None}
    return msgspec.structs.replace(job, **then)


def _said_again(refusal: type[Refusal]) -> str:
    return f"as answered before: {(refusal.__doc__ or '').splitlines()[0]}"


BEFORE_INPUT: Final = 2
"""Up to this version, created and running, a job cannot have been asked for input yet."""
_REFUSED_DETAILS: Final = ("job_id", "status", "target", "version", "limit")

"""Turns results into what the caller gets: a job, a page, leases, or an exception as a value."""

from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tollgate.client.errors import ProtocolError
from tollgate.domain import commands, results
from tollgate.domain.commands import AnyCommand
from tollgate.domain.results import (
    AnyResult,
    ErrorResult,
    HistoryEntry,
    JobResult,
    LeaseInfo,
    PlainFields,
    refusal_of,
)

if TYPE_CHECKING:
    from tollgate.domain.models import Job


class Lease(msgspec.Struct, frozen=True):
    """A job that only the holder of `token` may move, until `lease_ms` after the grant."""

    job: "Job"
    token: int
    """Proves the lease; pass it to `transition`, `touch` and `release`."""
    lease_ms: int


class Page(msgspec.Struct, frozen=True):
    """Some jobs in the order asked for; `next` continues after them and is None at the end."""

    jobs: "list[Job]"
    next: str | None
    as_of: str | None = None
    """The position in the broker's log that the page is from, as an opaque text."""


class Touched(msgspec.Struct, frozen=True):
    """What the broker says to the holder of a lease that was extended."""

    stop_requested: bool
    """Whether somebody has asked for a stop; what that means is yours to decide."""


class History(msgspec.Struct, frozen=True):
    """What happened to a job, by whom, and who holds it now."""

    job_id: str
    entries: "list[HistoryEntry]"
    """Oldest first: the first 16, and the last 48."""
    left_out: int
    """How many entries are missing in the middle."""
    lease: LeaseInfo | None
    """The holder of the job; None if it is free."""
    as_of: str
    """The position in the broker's log that this is from, as an opaque text."""


class Explanation(msgspec.Struct, frozen=True):
    """Why a job is where it is, and what comes next: facts of one moment.

    `tollgate.explaining` puts them into words.
    """

    job: "Job"
    """With its lease, without the texts of `inputs`."""
    facts: results.ExplainedResult
    """What else is known; see its fields."""


@cache
def _job_parts() -> "tuple[type[Job], Callable[[Job, PlainFields], None]]":
    """Return `Job`, and what gives a new one its fields.

    This loads pydantic, so it is called when a job is first needed.
    """
    from tollgate.domain.lazy import set_struct  # noqa: PLC0415 - a ping does without
    from tollgate.domain.models import Job  # noqa: PLC0415

    return Job, set_struct


def jobs_from(fields: Sequence[PlainFields]) -> "list[Job]":
    """Make jobs of structs that a decoder has checked; many without Python code for each."""
    job_class, set_struct = _job_parts()
    if len(fields) == 1:
        job = object.__new__(job_class)
        set_struct(job, fields[0])
        return [job]
    jobs = [*map(object.__new__, repeat(job_class, len(fields)))]
    _exhaust(map(set_struct, jobs, fields))
    return jobs


def _job_from(fields: PlainFields) -> "Job":
    return jobs_from([fields])[0]


def _page(_: AnyCommand, result: results.JobsResult) -> Page:
    return Page(jobs_from(result.jobs), result.next, result.as_of)


def _history(_: AnyCommand, result: results.HistoryResult) -> History:
    return History(result.job_id, result.entries, result.left_out, result.lease, result.as_of)


def _explanation(_: AnyCommand, result: results.ExplainedResult) -> Explanation:
    return Explanation(_job_from(result.job), result)


def _leases(command: commands.Claim, result: results.LeasesResult) -> list[Lease]:
    jobs = jobs_from([grant.job for grant in result.leases])
    return [
        Lease(job, grant.lease, command.lease_ms)
        for job, grant in zip(jobs, result.leases, strict=True)
    ]


_Answer = tuple[type[AnyResult], Callable[[Any, Any], Any]]
_JOB: Final[_Answer] = (JobResult, lambda _, result: _job_from(result.job))
_OK: Final[_Answer] = (results.OkResult, lambda *_: None)
_ANSWERS: Final[dict[type[AnyCommand], _Answer]] = {
    commands.Hello: (results.HelloResult, lambda _, result: result),
    commands.Create: _JOB,
    commands.Get: _JOB,
    commands.Transition: _JOB,
    commands.ProvideInput: _JOB,
    commands.Cancel: _JOB,
    commands.Count: (results.CountResult, lambda _, result: result),
    commands.List: (results.JobsResult, _page),
    commands.Wait: _JOB,
    commands.Claim: (results.LeasesResult, _leases),
    commands.Touch: (results.LeaseResult, lambda _, result: Touched(result.stop_requested)),
    commands.Release: _OK,
    commands.Hold: _JOB,
    commands.Resume: _JOB,
    commands.RequestStop: _JOB,
    commands.Annotate: _JOB,
    commands.Settle: _JOB,
    commands.PauseQueue: _OK,
    commands.ResumeQueue: _OK,
    commands.History: (results.HistoryResult, _history),
    commands.Events: (results.EventsResult, lambda _, result: result),
    commands.StopWaiting: _OK,
    commands.Stats: (results.StatsResult, lambda _, result: result),
    commands.Explain: (results.ExplainedResult, _explanation),
}
"""For each command, the result that answers it and what the caller gets of that."""
_GIVES_JOB: Final = frozenset(kind for kind, answer in _ANSWERS.items() if answer is _JOB)
_exhaust = deque[None](maxlen=0).extend
"""Consumes an iterator in C and keeps nothing of it."""


def jobs_of(kinds: set[type], answered: list[AnyResult]) -> "list[Job] | None":
    """Return the jobs in the results of commands of these kinds, or None if they are not all jobs.

    This is `values_of` for the usual case, in a third of the time.
    """
    if not _GIVES_JOB.issuperset(kinds):
        return None
    try:
        return jobs_from([result.job for result in answered])  # type: ignore[union-attr] # see below
    except AttributeError:  # no other result has a `job`
        return None


def values_of(asked: list[AnyCommand], answered: list[AnyResult]) -> list[Any]:
    """Return what the caller gets for the results of commands; refusals are values."""
    return [*map(_value_of, asked, answered)]


def _value_of(command: AnyCommand, result: AnyResult) -> Any:  # noqa: ANN401 - one type a command
    expected, convert = _ANSWERS[type(command)]
    if isinstance(result, expected):
        return convert(command, result)
    if isinstance(result, ErrorResult):
        return refusal_of(result)
    return ProtocolError(f"a {_tag(command)} was answered with a {_tag(result)}")


def _tag(struct: msgspec.Struct) -> str:
    return str(struct.__struct_config__.tag)


def value(values: list[Any]) -> Any:  # noqa: ANN401 - one type a command
    """Return the only value of a call, or raise it."""
    only = values[0]
    if isinstance(only, BaseException):
        raise only
    return only

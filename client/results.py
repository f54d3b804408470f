"""What an answer is worth to the caller: a job, a page, leases, or an exception as a value."""

from collections.abc import Callable
from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tollgate.client.errors import ProtocolError
from tollgate.domain.commands import (
    AnyCommand,
    Cancel,
    Claim,
    Count,
    Create,
    Get,
    Hello,
    List,
    ProvideInput,
    Release,
    Touch,
    Transition,
    Wait,
)
from tollgate.domain.results import (
    AnyResult,
    CountResult,
    ErrorResult,
    HelloResult,
    JobFields,
    JobResult,
    JobsResult,
    LeaseResult,
    LeasesResult,
    OkResult,
    refusal_of,
)

if TYPE_CHECKING:
    from tollgate.domain.models import Job


class Lease(msgspec.Struct, frozen=True):
    """A job that nobody else may move while the lease stands: `lease_ms` from its grant."""

    job: "Job"
    token: int
    """Proves the lease; goes with `transition`, `touch` and `release`."""
    lease_ms: int


class Page(msgspec.Struct, frozen=True):
    """Some of the jobs, by creation; `next` continues after them and is None at the end."""

    jobs: "list[Job]"
    next: str | None


_EXPECTED: Final[dict[type[AnyCommand], type[AnyResult]]] = {
    Hello: HelloResult,
    Create: JobResult,
    Get: JobResult,
    Transition: JobResult,
    ProvideInput: JobResult,
    Cancel: JobResult,
    Count: CountResult,
    List: JobsResult,
    Wait: JobResult,
    Claim: LeasesResult,
    Touch: LeaseResult,
    Release: OkResult,
}
_GIVES_JOB: Final = frozenset(kind for kind, gives in _EXPECTED.items() if gives is JobResult)
_job_in = attrgetter("job")


def jobs_of(kinds: set[type], results: list[AnyResult]) -> "list[Job] | None":
    """Return the results of commands of these kinds if they are jobs all, as most often; or None.

    They are `values_of` the same, at the speed of C.
    """
    if not _GIVES_JOB.issuperset(kinds):
        return None
    try:
        return _job_class().all_from_checked([*map(_job_in, results)])
    except AttributeError:  # no other result has a `job`
        return None


def values_of(commands: list[AnyCommand], results: list[AnyResult]) -> list[Any]:
    """Return what the results of commands, as many, are worth."""
    return [*map(value_of, commands, results)]


def value_of(command: AnyCommand, result: AnyResult) -> Any:  # noqa: ANN401 - one kind a command
    """Return what the result of `command` is worth; a refusal is returned, not raised."""
    kind = type(result)
    if kind is ErrorResult:
        return refusal_of(result)  # type: ignore[arg-type] # told by its type
    if kind is not _EXPECTED[type(command)]:
        return ProtocolError(f"a {_tag(command)} was answered with a {_tag(result)}")
    convert = _CONVERSIONS.get(kind)
    return result if convert is None else convert(command, result)


def _tag(struct: msgspec.Struct) -> str:
    return str(struct.__struct_config__.tag)


@cache
def _job_class() -> "type[Job]":
    """Return `Job`; pydantic is loaded here, when first needed."""
    from tollgate.domain.models import Job  # noqa: PLC0415 - a ping does without

    return Job


def _jobs(fields: list[JobFields]) -> "list[Job]":
    return _job_class().all_from_checked(fields)


def _job(_: AnyCommand, result: Any) -> "Job":  # noqa: ANN401 - told by its type
    return _job_class().from_checked(result.job)


def _page(_: AnyCommand, result: Any) -> Page:  # noqa: ANN401 - told by its type
    return Page(_jobs(result.jobs), result.next)


def _leases(command: Any, result: Any) -> list[Lease]:  # noqa: ANN401 - told by its type
    jobs = _jobs([grant.job for grant in result.leases])
    return [
        Lease(job, grant.lease, command.lease_ms)
        for job, grant in zip(jobs, result.leases, strict=True)
    ]


def _nothing(_: AnyCommand, __: AnyResult) -> None:
    return None


_CONVERSIONS: Final[dict[type[AnyResult], Callable[[Any, Any], Any]]] = {
    JobResult: _job,
    JobsResult: _page,
    LeasesResult: _leases,
    LeaseResult: _nothing,
    OkResult: _nothing,
}


def value(values: list[Any]) -> Any:  # noqa: ANN401 - as the command has it
    """Return the only value of a call, or raise it."""
    only = values[0]
    if isinstance(only, BaseException):
        raise only
    return only

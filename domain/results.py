"""The results of TG/1, which the broker answers to commands; refusals on the wire."""

from datetime import datetime
from typing import Any

import msgspec

from tollgate.domain.exceptions import REFUSALS, Refusal
from tollgate.domain.status import JobStatus


class JobFields(msgspec.Struct, omit_defaults=True, gc=False):
    """A job on the wire: the fields of `domain.models.Job`; those that are nil are left out."""

    job_id: str
    status: JobStatus
    input_hash: str
    blockchain_identifier: str
    created_at: datetime
    updated_at: datetime
    result: str | None = None
    error: str | None = None
    version: int = 0
    """From 1 in every stored job; the default only lets the fields stand in their order."""
    input: str | None = None
    identifier_from_purchaser: str | None = None
    pay_by_time: datetime | None = None
    submit_result_time: datetime | None = None
    input_schema: str | None = None
    provided_input: str | None = None


class Result(msgspec.Struct, tag_field="type", gc=False):
    """The base class of all results. Clients ignore fields that they do not know."""


class HelloResult(Result, tag="hello"):
    """The broker's identity and limits, and the client's role.

    `remembers` says whether a repeated request is executed once. `limits` are in the units of their
    names, such as `request_bytes`; `session` is the number of the session that was opened.
    """

    protocol: int
    server: str
    boot_id: str
    session: int | None
    remembers: bool
    role: str
    limits: dict[str, int]


class JobResult(Result, tag="job"):
    """One job as it is now."""

    job: JobFields


class CountResult(Result, tag="count"):
    """The number of jobs, and since when the oldest of each status has been in it."""

    total: int
    by_status: dict[str, int]
    oldest: dict[str, datetime | None]


class JobsResult(Result, tag="jobs"):
    """A page of jobs; `next` continues after it, and is nil at the end."""

    jobs: list[JobFields]
    next: str | None


class Grant(msgspec.Struct, gc=False):
    """A job and the token of the lease on it."""

    job: JobFields
    lease: int


class LeasesResult(Result, tag="leases"):
    """The leases that a claim was granted; empty if no job came in time."""

    leases: list[Grant]


class LeaseResult(Result, tag="lease"):
    """A lease that was extended: it ends `lease_ms` from now."""

    job_id: str
    lease: int
    lease_ms: int


class OkResult(Result, tag="ok"):
    """The command was executed; there is nothing to return."""


class ErrorResult(Result, tag="error", omit_defaults=True):
    """A refusal; for the optional fields see `Refusal`."""

    code: str
    message: str
    retryable: bool
    job_id: str | None = None
    status: str | None = None
    target: str | None = None
    version: int | None = None
    allowed: list[str] | None = None
    limit: int | None = None


AnyResult = (
    HelloResult
    | JobResult
    | CountResult
    | JobsResult
    | LeasesResult
    | LeaseResult
    | OkResult
    | ErrorResult
)

_DETAILS = ("job_id", "status", "target", "version", "allowed", "limit")


def error_of(refusal: Refusal) -> ErrorResult:
    """Return the wire form of a refusal."""
    details: dict[str, Any] = {name: getattr(refusal, name) for name in _DETAILS}
    return ErrorResult(refusal.code, refusal.message, refusal.retryable, **details)


def refusal_of(error: ErrorResult) -> Refusal:
    """Return the refusal of a wire form: of the class of its code, or `Refusal` if unknown."""
    details: dict[str, Any] = {name: getattr(error, name) for name in _DETAILS}
    known = REFUSALS.get(error.code)
    if known is not None:
        return known.rebuilt(error.message, details)
    return Refusal.rebuilt(
        error.message, {**details, "code": error.code, "retryable": error.retryable}
    )

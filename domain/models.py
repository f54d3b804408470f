"""The job as users see it: a frozen pydantic model."""

from datetime import datetime

from pydantic import ConfigDict

from tollgate.domain.lazy import LazyModel
from tollgate.domain.results import (
    DEFAULT_QUEUE,
    InputRound,
    LeaseInfo,
    Progress,
    Settlement,
)
from tollgate.domain.status import LEGAL_TRANSITIONS, TERMINAL, JobStatus, validate_transition

__all__ = ["LEGAL_TRANSITIONS", "TERMINAL", "Job", "JobStatus", "validate_transition"]


class Job(LazyModel):
    """One job as it was at `version`. Immutable: a change makes another `Job`.

    Fields that MIP-003 has carry its names. All times are aware and in UTC.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    job_id: str
    """UUID4 as text."""
    status: JobStatus
    input_hash: str
    """MIP-004 hash of the input: 64 lowercase hexadecimal digits."""
    blockchain_identifier: str
    """The identifier of its payment on chain."""
    created_at: datetime
    updated_at: datetime
    """When the job entered its status; never earlier than before."""
    result: str | None = None
    error: str | None = None
    version: int = 1
    """1 at creation, one more with every transition."""
    input: str | None = None
    """The input itself, usually JSON."""
    identifier_from_purchaser: str | None = None
    """Part of the text that is hashed, see `domain.hashing`."""
    pay_by_time: datetime | None = None
    submit_result_time: datetime | None = None
    input_schema: str | None = None
    """The input that a job in `awaiting_input` asks for."""
    provided_input: str | None = None
    """The input that it got."""
    queue: str = DEFAULT_QUEUE
    priority: int = 0
    """From 0, which comes first, to 9."""
    not_before: datetime | None = None
    """In `running` no claim gets the job before this time."""
    attempts: int = 0
    """How many tries have ended: leases that lapsed, releases with a delay or a reason."""
    inputs: tuple[InputRound, ...] | None = None
    """Its questions and their answers, in order; without the texts after a claim or list."""
    progress: Progress | None = None
    on_hold: bool = False
    """No claim gets the job until `resume`."""
    stop_requested: bool = False
    """Somebody has asked the holder of the lease to stop."""
    meta: str | None = None
    """What a caller needs beside the hashed input."""
    traceparent: str | None = None
    """W3C Trace Context of the creator."""
    settlement: Settlement | None = None
    """How the result gets on chain; None for a job without a settlement."""
    lease: LeaseInfo | None = None
    """Who holds the job, in answers to calls that ask for it."""

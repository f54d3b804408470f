"""The job as everybody sees it: a frozen pydantic model."""

from datetime import datetime

from pydantic import ConfigDict

from tollgate.domain.lazy import LazyModel
from tollgate.domain.status import LEGAL_TRANSITIONS, TERMINAL, JobStatus, validate_transition

__all__ = ["LEGAL_TRANSITIONS", "TERMINAL", "Job", "JobStatus", "validate_transition"]


class Job(LazyModel):
    """One job, as it was at `version`. Immutable: a change makes another `Job`.

    The names are MIP-003's where it has them. All times are aware and in UTC.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    job_id: str
    """UUID4 as text."""
    status: JobStatus
    input_hash: str
    """MIP-004 hash of the input: 64 lowercase hexadecimal digits."""
    blockchain_identifier: str
    """What the payment is known by on chain."""
    created_at: datetime
    updated_at: datetime
    """When the job entered its status; never goes back."""
    result: str | None = None
    error: str | None = None
    version: int = 1
    """1 at creation, one more with every transition."""
    input: str | None = None
    """The input itself, usually JSON."""
    identifier_from_purchaser: str | None = None
    """Part of the hashed text, see `domain.hashing`."""
    pay_by_time: datetime | None = None
    submit_result_time: datetime | None = None
    input_schema: str | None = None
    """What a job in `awaiting_input` asks for."""
    provided_input: str | None = None
    """What it got."""

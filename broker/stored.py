"""A job as the broker holds it."""

from datetime import datetime

import msgspec

from domain.models import Job
from domain.results import JobFields
from domain.status import JobStatus


class StoredJob(msgspec.Struct, gc=False):
    """A job as it is held, and as it goes on the wire: the fields of `Job`, changed in place."""

    job_id: str
    status: JobStatus
    input_hash: str
    blockchain_identifier: str
    created_at: datetime
    updated_at: datetime
    result: str | None
    error: str | None
    version: int  # 0 once the job is no longer stored
    input: str | None
    identifier_from_purchaser: str | None
    pay_by_time: datetime | None
    submit_result_time: datetime | None
    input_schema: str | None
    provided_input: str | None

    def job(self) -> Job:
        """Return the job as it is now; it does not change any more."""
        return Job.from_checked(JobFields(*msgspec.structs.astuple(self)))


Slot = tuple[int, StoredJob]
"""A job behind its place in the order of creation, which is never given twice."""


def mock_identifier(job_id: str) -> str:
    """Return the blockchain identifier of a job whose creator has supplied none."""
    return "mock_bc_" + job_id[:8]

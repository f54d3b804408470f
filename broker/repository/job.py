"""A job as the broker holds it."""

from datetime import datetime

import msgspec

from tollgate.domain.exceptions import Refusal
from tollgate.domain.models import Job
from tollgate.domain.results import JobFields
from tollgate.domain.status import JobStatus


class StoredJob(msgspec.Struct, omit_defaults=True, gc=False):
    """A job as it is held, and as it goes on the wire: the fields of `Job`, changed in place."""

    job_id: str
    status: JobStatus
    input_hash: str
    blockchain_identifier: str
    created_at: datetime
    updated_at: datetime
    result: str | None = None
    error: str | None = None
    version: int = 0  # while it is stored, from 1
    input: str | None = None
    identifier_from_purchaser: str | None = None
    pay_by_time: datetime | None = None
    submit_result_time: datetime | None = None
    input_schema: str | None = None
    provided_input: str | None = None

    def job(self) -> Job:
        """Return the job as it is now; it does not change any more."""
        return Job.from_checked(JobFields(**msgspec.structs.asdict(self)))


Slot = tuple[int, StoredJob]
"""A job behind its place in the order of creation, which is never given twice."""


class Done(msgspec.Struct):
    """What came of many changes: the jobs, in order, and by its place what was refused instead."""

    jobs: list[StoredJob] = msgspec.field(default_factory=list)
    refused: dict[int, Refusal] = msgspec.field(default_factory=dict)

    def refuse(self, refusal: Refusal) -> None:
        """Note that the next one was refused."""
        # Its traceback may have the frame that has this: they would hold each other.
        self.refused[len(self.jobs) + len(self.refused)] = refusal.with_traceback(None)

    def only(self) -> StoredJob:
        """Return the one job, or raise its Refusal."""
        if self.refused:
            raise self.refused.pop(0)
        return self.jobs[0]


def mock_identifier(job_id: str) -> str:
    """Return the blockchain identifier of a job whose creator has supplied none."""
    return "mock_bc_" + job_id[:8]

"""A job on its way to the wire."""

from datetime import datetime

import msgspec

from domain.status import JobStatus


class ShownJob(msgspec.Struct, frozen=True, gc=False):
    """A job as it goes on the wire: the fields of a `Job`, in a fifth of the time."""

    job_id: str
    status: JobStatus
    input_hash: str
    blockchain_identifier: str
    created_at: datetime
    updated_at: datetime
    result: str | None
    error: str | None
    version: int
    input: str | None
    identifier_from_purchaser: str | None
    pay_by_time: datetime | None
    submit_result_time: datetime | None
    input_schema: str | None
    provided_input: str | None

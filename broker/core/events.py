"""Events: the only things that change the state, live and in replay alike."""

from datetime import datetime
from typing import ClassVar

import msgspec

from tollgate.domain.commands import Hash
from tollgate.domain.status import JobStatus


class Event(msgspec.Struct, tag_field="e", array_like=True, gc=False):
    """The base of all events. Each holds all that its effect depends on, also times and ids."""


class JobCreated(Event, tag=1):
    """A job was stored."""

    version: ClassVar[int] = 0
    target: ClassVar[JobStatus] = JobStatus.AWAITING_PAYMENT

    job_id: str
    at: datetime
    input_hash: Hash
    input: str | None = None
    identifier_from_purchaser: str | None = None
    blockchain_identifier: str | None = None
    pay_by_time: datetime | None = None
    submit_result_time: datetime | None = None


class JobTransitioned(Event, tag=2):
    """A job moved from `version` to the next one, and to `target`; a lease on it ended."""

    job_id: str
    version: int
    target: JobStatus
    at: datetime
    result: str | None = None
    error: str | None = None
    input_schema: str | None = None
    provided_input: str | None = None


class LeaseGranted(Event, tag=3):
    """A lease began."""

    job_id: str
    lease: int
    lease_ms: int


class LeaseReleased(Event, tag=4):
    """A lease was released, or could not be delivered."""

    job_id: str
    lease: int


class LeaseLapsed(Event, tag=5):
    """A lease ended by its time."""

    job_id: str
    lease: int


class SessionOpened(Event, tag=6):
    """A session was opened by the principal `owner`."""

    session: int
    owner: str


class SessionEvicted(Event, tag=7):
    """A session was evicted, to make room."""

    session: int


class JobPruned(Event, tag=8):
    """A finished job was removed, for its age or to make room."""

    job_id: str


AnyEvent = (
    JobCreated
    | JobTransitioned
    | LeaseGranted
    | LeaseReleased
    | LeaseLapsed
    | SessionOpened
    | SessionEvicted
    | JobPruned
)

"""Events: the only things that change the state, live and in replay alike."""

from datetime import datetime
from typing import ClassVar

import msgspec

from tollgate.domain.commands import Hash
from tollgate.domain.settlement import SettlementState
from tollgate.domain.status import JobStatus


class Origin(msgspec.Struct, frozen=True, gc=False):
    """When the events of a record happened, and who caused them; `by` is "" for the broker."""

    at: datetime
    """Never before the record before it."""
    by: str = ""
    client: str = ""


class Event(msgspec.Struct, tag_field="e", array_like=True, gc=False):
    """The base of all events. Each holds all that its effect depends on, also times and ids.

    Fields are added at the end alone, with a default: so records of format 1 are read as well.
    """


class NewRest(msgspec.Struct, array_like=True, gc=False):
    """The fields that most new jobs do not have."""

    queue: str | None = None
    priority: int = 0
    not_before: datetime | None = None
    meta: str | None = None
    traceparent: str | None = None
    settle: bool = False

    @property
    def place(self) -> tuple[str | None, int]:
        """Its queue and priority."""
        return self.queue, self.priority


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
    rest: NewRest | None = None


class JobTransitioned(Event, tag=2):
    """A job moved from `version` to the next one, and to `target`.

    A lease on it ended, unless `keep_lease` says otherwise.
    """

    job_id: str
    version: int
    target: JobStatus
    at: datetime
    result: str | None = None
    error: str | None = None
    input_schema: str | None = None
    provided_input: str | None = None
    input_hash: str | None = None
    keep_lease: bool = False
    forced: bool = False


class LeaseGranted(Event, tag=3):
    """A lease began."""

    job_id: str
    lease: int
    lease_ms: int


class LeaseReleased(Event, tag=4):
    """A lease was released, or could not be delivered.

    `is_attempt` counts it as a try that ended; `not_before` delays the next one.
    """

    job_id: str
    lease: int
    not_before: datetime | None = None
    reason: str | None = None
    hold: bool = False
    is_attempt: bool = False


class LeaseLapsed(Event, tag=5):
    """A lease ended by its time."""

    job_id: str
    lease: int


class SessionOpened(Event, tag=6):
    """A session was opened by the principal `owner`."""

    session: int
    owner: str
    client: str = ""


class SessionEvicted(Event, tag=7):
    """A session was evicted, to make room."""

    session: int


class JobPruned(Event, tag=8):
    """A finished job was removed, for its age or to make room."""

    job_id: str


class JobHeld(Event, tag=9):
    """A job was put on hold: no claim gets it."""

    job_id: str
    reason: str | None = None


class JobResumed(Event, tag=10):
    """A job is no longer on hold."""

    job_id: str


class StopRequested(Event, tag=11):
    """The holder of a job was asked to stop."""

    job_id: str
    reason: str | None = None


class JobAnnotated(Event, tag=12):
    """The `meta` of a job was replaced."""

    job_id: str
    meta: str | None = None


class JobProgressed(Event, tag=13):
    """The holder of a job told how far it is."""

    job_id: str
    text: str
    fraction: float | None = None


class JobSettled(Event, tag=14):
    """The settlement of a job moved to the state `to`, or has other details; nil leaves one as is.

    A lease on the job ended if `ends_lease`.
    """

    job_id: str
    to: SettlementState | None = None
    result_hash: str | None = None
    on_chain_state: str | None = None
    reason: str | None = None
    not_before: datetime | None = None
    ends_lease: bool = False


class QueuePaused(Event, tag=15):
    """A queue was paused: no claim gets a job of it."""

    queue: str


class QueueResumed(Event, tag=16):
    """A queue is no longer paused."""

    queue: str


class LogBegan(Event, tag=17):
    """The log got its id. After a restore leases and sessions have numbers above `number`.

    Without a number theirs are raised by 2^32.
    """

    log_id: str
    is_restore: bool = False
    number: int = 0


AnyEvent = (
    JobCreated
    | JobTransitioned
    | LeaseGranted
    | LeaseReleased
    | LeaseLapsed
    | SessionOpened
    | SessionEvicted
    | JobPruned
    | JobHeld
    | JobResumed
    | StopRequested
    | JobAnnotated
    | JobProgressed
    | JobSettled
    | QueuePaused
    | QueueResumed
    | LogBegan
)

"""A job as the repository stores it, how large its texts are, and what a change did."""

from collections.abc import Callable
from copy import copy
from datetime import datetime
from operator import attrgetter
from typing import ClassVar, Final, cast

import msgspec

from tollgate.domain.exceptions import Refusal
from tollgate.domain.models import Job
from tollgate.domain.results import (
    DEFAULT_QUEUE,
    MOCK_PREFIX,
    Grant,
    InputRound,
    JobFields,
    JobRecord,
    JobResult,
    LeaseInfo,
    PlainFields,
    Progress,
    Settlement,
)
from tollgate.domain.settlement import OPEN, SettlementState
from tollgate.domain.status import TERMINAL, JobStatus

Claimed = JobStatus | SettlementState
"""What a claim is for: jobs in a status, or settlements in a state."""

TEXT_FIELDS: Final = (
    "input", "result", "error", "input_schema", "provided_input", "meta", "traceparent",
    "blockchain_identifier", "identifier_from_purchaser",
)  # fmt: skip
"""The fields of a job that hold a text of its users."""
ROUND_BYTES: Final = 128
"""More than a round of input takes without its texts."""
PART_BYTES: Final = 256
"""More than progress or settlement take without their texts: states, times and a hash."""
SHORT_HISTORY: Final = 1_024
"""A history up to this length is not counted with the texts of its job: it has few reasons."""


class _Shown:
    """What both kinds of stored jobs can do."""

    __slots__ = ()

    def shown(self, lease: LeaseInfo | None = None) -> JobFields:
        """Return a copy that can show who holds the job."""
        return JobFields(**msgspec.structs.asdict(cast("msgspec.Struct", self)), lease=lease)

    def job(self) -> Job:
        """Return the job as it is now, frozen."""
        return Job.from_checked(self.shown())


class PlainStoredJob(PlainFields, _Shown, gc=False):
    """A job as it is stored, and as it goes on the wire. Only the repository changes one.

    Most jobs need no other fields: those have these values. `Slot.extend` gives a job all fields.
    With 16 fields or more, the header of a job on the wire is the same for both kinds.
    """

    queue: str = DEFAULT_QUEUE
    priority: ClassVar[int] = 0
    not_before: ClassVar[datetime | None] = None
    attempts: ClassVar[int] = 0
    inputs: ClassVar[tuple[InputRound, ...] | None] = None
    progress: ClassVar[Progress | None] = None
    on_hold: ClassVar[bool] = False
    stop_requested: ClassVar[bool] = False
    meta: ClassVar[str | None] = None
    traceparent: ClassVar[str | None] = None
    settlement: ClassVar[Settlement | None] = None


class ExtendedJob(JobRecord, _Shown, gc=False):
    """A stored job with all fields."""


StoredJob = PlainStoredJob | ExtendedJob


class StandingLease(msgspec.Struct, gc=False):
    """A lease: its token, the time granted, its end on the monotonic clock, and who holds it."""

    slot: "Slot"
    token: int
    lease_ms: int
    ends_ms: int
    by: str = ""
    client: str = ""
    is_kept: bool = False
    """Whether it stands while the job waits for input, and after that."""


class Slot(msgspec.Struct, eq=False, gc=False):
    """A job's place in the repository: its number in the order of creation, and what is its own."""

    index: int
    job: StoredJob
    entries: int
    """Its entries in ready lines, and whether it is ready: see `queues`."""
    lease: StandingLease | None = None
    history: bytes | None = None
    """What has happened to the job since it was created: see `history`."""
    rounds: tuple[InputRound, ...] | None = None
    """The rounds of input with their texts; those in the job are without."""

    def extend(self) -> ExtendedJob:
        """Return the job with all fields; do not use its former struct after that."""
        job = self.job
        if isinstance(job, PlainStoredJob):
            self.job = job = ExtendedJob(*msgspec.structs.astuple(job))
        return job

    def whole(self) -> StoredJob:
        """Return the job, with the texts of its rounds of input."""
        if self.rounds is None:
            return self.job
        job = copy(self.extend())
        job.inputs = self.rounds
        return job


class Changes(msgspec.Struct):
    """What a run of events did: the jobs, in order, and the refusals by the place of the event."""

    slots: list[Slot] = msgspec.field(default_factory=list)
    refused: dict[int, Refusal] = msgspec.field(default_factory=dict)

    def refuse(self, refusal: Refusal) -> None:
        """Note that the next event was refused."""
        # The traceback can hold the frame that holds this object: a reference cycle.
        self.refused[len(self.slots) + len(self.refused)] = refusal.with_traceback(None)

    def only(self) -> StoredJob:
        """Return the whole job of a run of one event, or raise its Refusal."""
        if self.refused:
            raise self.refused.pop(0)
        return self.slots[0].whole()


def claimed_for(job: StoredJob) -> Claimed:
    """Return what a job is claimed for: its status, or the state of its settlement at its end."""
    if job.status in TERMINAL and job.settlement is not None:
        return job.settlement.state
    return job.status


def is_finished(job: StoredJob) -> bool:
    """Return whether a job has ended, and its settlement too, if it has one."""
    if job.status not in TERMINAL:
        return False
    return job.settlement is None or job.settlement.state not in OPEN


def mock_identifier(job_id: str) -> str:
    """Return the blockchain identifier of a job whose creator supplied none."""
    return MOCK_PREFIX + job_id[:8]


def text_bytes(text: str | None) -> int:
    """Return the length of a text in bytes of UTF-8."""
    if text is None:
        return 0
    return len(text) if text.isascii() else len(text.encode())


def job_text_bytes(job: StoredJob) -> int:
    """Return how many bytes the texts of a job have, without those of its rounds of input."""
    return sum([text_bytes(text) for text in _texts_of(job) if text is not None])


def parts_bytes(job: StoredJob) -> int:
    """Return a bound on what the progress, settlement and rounds of a job take on the wire."""
    size = 0
    if job.inputs is not None:
        size += ROUND_BYTES * len(job.inputs)
    if job.progress is not None:
        size += PART_BYTES + text_bytes(job.progress.text)
    if job.settlement is not None:
        settlement = job.settlement
        size += PART_BYTES + text_bytes(settlement.on_chain_state) + text_bytes(settlement.reason)
    return size


def history_bytes(history: bytes | None) -> int:
    """Return what a history takes beyond the length that most have."""
    return 0 if history is None else max(0, len(history) - SHORT_HISTORY)


def rounds_bytes(rounds: tuple[InputRound, ...] | None) -> int:
    """Return how many bytes the texts of rounds of input have."""
    size = 0
    for each in rounds or ():  # without a call for each: there may be many rounds
        if (text := each.schema) is not None:
            size += len(text) if text.isascii() else len(text.encode())
        if (text := each.text) is not None:
            size += len(text) if text.isascii() else len(text.encode())
    return size


_texts_of: Callable[[StoredJob], tuple[str | None, ...]] = attrgetter(*TEXT_FIELDS)
job_result: Final = cast("Callable[[StoredJob | JobFields], JobResult]", JobResult)
"""Makes the result that shows a job, also as it is stored: on the wire its `lease` is missing."""
grant: Final = cast("Callable[[StoredJob | JobFields, int], Grant]", Grant)
"""The same for a job with the token of a lease on it."""

"""The commands of TG/1, which clients send to the broker, and the form of every field."""

from datetime import UTC, datetime
from typing import Annotated, ClassVar, Final

import msgspec
from msgspec import Meta

from tollgate.domain.results import Progress
from tollgate.domain.settlement import CLAIMABLE, SettlementState
from tollgate.domain.status import AWAITING_INPUT, COMPLETED, FAILED, TERMINAL, JobStatus

UINT_LIMIT: Final = 2**53
"""Integers are below this, so that every language can represent them."""

Uint = Annotated[int, Meta(ge=0, lt=UINT_LIMIT)]
Positive = Annotated[int, Meta(ge=1, lt=UINT_LIMIT)]
Time = Annotated[datetime, Meta(tz=True)]
# `Create` checks the digits of hash and UUID itself, in half the time of a pattern.
Hash = Annotated[str, Meta(min_length=64, max_length=64)]
Uuid = Annotated[str, Meta(min_length=36, max_length=36)]
JobId = Annotated[str, Meta(min_length=1, max_length=64)]
"""An id to look up. It may have any form: an id that is not a UUID is not found."""
Identifier = Annotated[str, Meta(min_length=1, pattern=r"^[^\x00]*\Z")]
Cursor = Annotated[str, Meta(pattern=r"^[0-9]{1,15}\Z")]
PageLimit = Annotated[int, Meta(ge=1, le=1_000)]
LeaseMs = Annotated[int, Meta(ge=1, le=86_400_000)]
"""At most a day: `touch` extends a lease for longer work."""
WaitMs = Annotated[int, Meta(ge=0, le=3_600_000)]
"""At most an hour: a client repeats the command for a longer wait."""
JobIds = Annotated[list[JobId], Meta(min_length=1, max_length=1_000)]
Queue = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+\Z")]
# Lists of queues: the commands check the characters themselves, in a tenth of a pattern's time.
Queues = Annotated[
    list[Annotated[str, Meta(min_length=1, max_length=64)]], Meta(min_length=1, max_length=64)
]
"""Names of queues; in a claim also `["*"]`, which is all of them."""
ALL_QUEUES: Final = "*"
Statuses = Annotated[list[JobStatus], Meta(min_length=1, max_length=5)]
Position = Annotated[str, Meta(min_length=1, max_length=128)]
"""A place in the log, as results tell it. It is opaque: one that the broker never gave is gone."""
Priority = Annotated[int, Meta(ge=0, le=9)]
"""0 comes first."""
ClientName = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._:@-]+\Z")]
TraceParent = Annotated[
    str,
    Meta(
        min_length=55,
        max_length=55,
        pattern=r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z",
    ),
]
"""The header of W3C Trace Context."""
DelayMs = Annotated[int, Meta(ge=0, le=31_536_000_000)]
"""At most a year."""
Seqs = Annotated[list[Uint], Meta(min_length=1, max_length=1_000)]


_FIRST_DATE: Final = datetime.min.replace(tzinfo=UTC)
_LAST_DATE: Final = datetime.max.replace(tzinfo=UTC)
_OF_NAMES: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"
_AS_ZERO: Final = bytes.maketrans(b"123456789abcdef", b"0" * 15)
_HASH_FORM: Final = b"0" * 64
_A_UUID: Final = "00000000-0000-0000-0000-000000000000"
_HASH_UUID_FORM: Final = _HASH_FORM + b" " + _A_UUID.encode()
"""With a space between them, so that a short hash and a long id do not match."""


def check_queue_names(names: list[str]) -> None:
    """Raise ValueError if a name of a queue has other characters than `A-Za-z0-9._-`."""
    if "".join(names).encode().translate(None, _OF_NAMES):
        raise ValueError("the name of a queue has other characters than A-Z a-z 0-9 . _ -")


def in_utc(time: datetime) -> datetime:
    """Return an aware time in UTC. Raises ValueError if it is naive or outside UTC's years."""
    try:
        if time.tzinfo is UTC:
            return time
        if time.utcoffset() is None:
            raise ValueError("a time must be aware: it needs a time zone")
        return time.astimezone(UTC)
    except AttributeError:  # users make commands, too
        raise ValueError(f"a time must be a datetime, not a {type(time).__name__}") from None
    except OverflowError:
        raise ValueError("a time must lie in the years 1 to 9999 of UTC") from None


def date_of(unix_s: float) -> datetime:
    """Return a Unix time as a date; the first or the last date there is for one beyond all dates.

    A broker's clock may show any time, and a deadline is counted from it.
    """
    try:
        return datetime.fromtimestamp(unix_s, UTC)
    except (ValueError, OverflowError, OSError):
        return _FIRST_DATE if unix_s < 0 else _LAST_DATE


class Command(
    msgspec.Struct,
    tag_field="type",
    forbid_unknown_fields=True,
    omit_defaults=True,
    kw_only=True,
    gc=False,
):
    """The base class of all commands."""

    changes: ClassVar[bool] = False
    """Whether it can change something durable, and so must not be executed twice."""

    @property
    def parks(self) -> bool:
        """Whether the broker may hold this command and answer it later."""
        return False


class Hello(Command, tag="hello"):
    """Ask for the broker's identity and limits; with `open_session`, open a session.

    `client` names the program that asks; it is kept with the session and shown in histories.
    """

    open_session: bool = False
    client: ClientName | None = None


class Create(Command, tag="create"):
    """Store a job in `awaiting_payment`."""

    changes = True

    input_hash: Hash
    input: str | None = None
    identifier_from_purchaser: Identifier | None = None
    job_id: Uuid | None = None
    blockchain_identifier: Identifier | None = None
    pay_by_time: Time | None = None
    submit_result_time: Time | None = None
    queue: Queue | None = None
    priority: Priority = 0
    not_before: Time | None = None
    meta: str | None = None
    traceparent: TraceParent | None = None
    settle: bool = False

    def __post_init__(self) -> None:
        """Check the digits of hash and id, and convert times to UTC."""
        if (
            f"{self.input_hash} {self.job_id or _A_UUID}".encode().translate(_AS_ZERO)
            != _HASH_UUID_FORM
        ):
            if f"{self.input_hash}".encode().translate(_AS_ZERO) != _HASH_FORM:
                raise ValueError("input_hash is not 64 lowercase hexadecimal digits")
            raise ValueError("job_id is no UUID in lowercase with hyphens")
        if self.pay_by_time is not None:
            self.pay_by_time = in_utc(self.pay_by_time)
        if self.submit_result_time is not None:
            self.submit_result_time = in_utc(self.submit_result_time)
        if self.not_before is not None:
            self.not_before = in_utc(self.not_before)
            if self.submit_result_time is not None and self.not_before >= self.submit_result_time:
                raise ValueError("not_before must lie before submit_result_time")


class Get(Command, tag="get"):
    """Read one job by its id, or by the identifier of its payment on chain.

    With `lease`, the result tells who holds it.
    """

    job_id: JobId | None = None
    blockchain_identifier: Identifier | None = None
    lease: bool = False

    def __post_init__(self) -> None:
        """Check that the fields fit together."""
        if (self.job_id is None) == (self.blockchain_identifier is None):
            raise ValueError("get takes one of job_id and blockchain_identifier")


class Transition(Command, tag="transition"):
    """Move a job to the status `target`, if the state machine has that transition.

    `keep_lease` keeps the lease while the job waits for input. `force` ends the lease of another.
    """

    changes = True

    job_id: JobId
    target: JobStatus
    result: str | None = None
    error: str | None = None
    input_schema: str | None = None
    expected_version: Positive | None = None
    lease: Uint | None = None
    keep_lease: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        """Check that the fields fit together."""
        if self.keep_lease and (self.target != AWAITING_INPUT or self.lease is None):
            raise ValueError("keep_lease requires the target awaiting_input, and a lease")
        if self.force and (self.lease is not None or self.expected_version is None):
            raise ValueError("force requires expected_version, and goes without a lease")
        if self.result is not None and self.target != COMPLETED:
            raise ValueError("result requires the target completed")
        if self.error is not None and self.target != FAILED:
            raise ValueError("error requires the target failed")
        if self.input_schema is not None and self.target != AWAITING_INPUT:
            raise ValueError("input_schema requires the target awaiting_input")


class ProvideInput(Command, tag="provide_input"):
    """Give a job in `awaiting_input` its input; the job is `running` again."""

    changes = True

    job_id: JobId
    input: str
    expected_version: Positive
    input_hash: Hash | None = None

    def __post_init__(self) -> None:
        """Check the digits of the hash."""
        if self.input_hash and self.input_hash.encode().translate(_AS_ZERO) != _HASH_FORM:
            raise ValueError("input_hash is not 64 lowercase hexadecimal digits")


class Cancel(Command, tag="cancel"):
    """Fail a job in `awaiting_payment`."""

    changes = True

    job_id: JobId
    expected_version: Positive | None = None


class Hold(Command, tag="hold"):
    """Grant a job to no claim until `resume`."""

    changes = True

    job_id: JobId
    reason: str | None = None
    expected_version: Positive | None = None


class Resume(Command, tag="resume"):
    """Let claims have a job again that was on hold."""

    changes = True

    job_id: JobId
    expected_version: Positive | None = None


class RequestStop(Command, tag="request_stop"):
    """Ask the holder of a job to stop; the holder decides what that means."""

    changes = True

    job_id: JobId
    reason: str | None = None
    expected_version: Positive | None = None


class Annotate(Command, tag="annotate"):
    """Replace the `meta` of a job; nil removes it."""

    changes = True

    job_id: JobId
    meta: str | None
    expected_version: Positive | None = None


class Settle(Command, tag="settle"):
    """Move the settlement of a job to the state `to`, or note what the payment service says."""

    changes = True

    job_id: JobId
    lease: Uint | None = None
    to: SettlementState | None = None
    result_hash: Hash | None = None
    on_chain_state: Identifier | None = None
    reason: str | None = None
    retry_after_ms: DelayMs | None = None

    def __post_init__(self) -> None:
        """Check that the fields fit together."""
        if self.result_hash and self.result_hash.encode().translate(_AS_ZERO) != _HASH_FORM:
            raise ValueError("result_hash is not 64 lowercase hexadecimal digits")


class PauseQueue(Command, tag="pause_queue"):
    """Grant no job of a queue until `resume_queue`."""

    changes = True

    queue: Queue


class ResumeQueue(Command, tag="resume_queue"):
    """Let claims have the jobs of a paused queue again."""

    changes = True

    queue: Queue


class Count(Command, tag="count"):
    """Count the stored jobs by status, or those with a `settlement` in one state."""

    status: JobStatus | None = None
    queue: Queue | None = None
    settlement: SettlementState | None = None

    def __post_init__(self) -> None:
        """Check that the fields fit together."""
        if self.status is not None and self.settlement is not None:
            raise ValueError("count takes one of status and settlement")


class List(Command, tag="list"):
    """Read jobs in order of creation, one page at a time; with `newest`, the newest first."""

    limit: PageLimit
    status: JobStatus | None = None
    after: Cursor | None = None
    queue: Queue | None = None
    settlement: SettlementState | None = None
    newest: bool = False
    lease: bool = False

    def __post_init__(self) -> None:
        """Check that the fields fit together."""
        if self.status is not None and self.settlement is not None:
            raise ValueError("list takes one of status and settlement")


class History(Command, tag="history"):
    """Read what has happened to a job, and by whom."""

    job_id: JobId


class Events(Command, tag="events"):
    """Read what happened after a position in the log, from now on if there is none.

    Show the events of jobs in `queues`, of jobs that are in one of `statuses` or have just left it,
    and of `job_ids`; all of these must fit. With `wait_ms`, wait for an event if there is none.
    """

    after: Position | None = None
    limit: PageLimit = 1_000
    wait_ms: WaitMs = 0
    queues: Queues | None = None
    statuses: Statuses | None = None
    job_ids: JobIds | None = None
    texts: bool = False

    def __post_init__(self) -> None:
        """Check the names of queues."""
        if self.queues is not None:
            check_queue_names(self.queues)

    @property
    def parks(self) -> bool:
        """Whether it may wait for an event."""
        return self.wait_ms > 0


class Stats(Command, tag="stats"):
    """Read figures of the broker; with `queue` only that queue is shown among the queues."""

    queue: Queue | None = None


class Explain(Command, tag="explain"):
    """Read why a job is where it is, and what comes next, all of one moment."""

    job_id: JobId


class Wait(Command, tag="wait"):
    """Wait until one of `job_ids` is in one of `statuses`, or in a terminal status."""

    job_ids: JobIds
    timeout_ms: WaitMs
    statuses: list[JobStatus] | None = None

    @property
    def parks(self) -> bool:
        """Always true: a wait is alone in its request."""
        return True

    @property
    def awaited(self) -> frozenset[JobStatus]:
        """The statuses that end the wait: those asked for and the terminal ones."""
        return TERMINAL.union(self.statuses) if self.statuses else TERMINAL


class Claim(Command, tag="claim"):
    """Claim free jobs in `status`, or with a `settlement` in that state, each with a lease.

    Take them from `queues`, in the order in which they became ready, and wait if there is none; or
    take the `job_ids`.
    """

    changes = True

    lease_ms: LeaseMs
    wait_ms: WaitMs
    limit: PageLimit
    status: JobStatus | None = None
    settlement: SettlementState | None = None
    queues: Queues | None = None
    job_ids: JobIds | None = None

    def __post_init__(self) -> None:
        """Check that the fields fit together."""
        if (self.status is None) == (self.settlement is None):
            raise ValueError("claim takes one of status and settlement")
        if self.status in TERMINAL:
            raise ValueError(f"a job that has {self.status} cannot be claimed")
        if self.settlement is not None and self.settlement not in CLAIMABLE:
            raise ValueError(f"a settlement that is {self.settlement} cannot be claimed")
        if self.queues is not None and self.job_ids is not None:
            raise ValueError("claim takes one of queues and job_ids")
        if self.queues is not None and ALL_QUEUES in self.queues and len(self.queues) > 1:
            raise ValueError('["*"] is all queues: no other queue can stand beside it')
        if self.queues is not None and self.queues != [ALL_QUEUES]:
            check_queue_names(self.queues)
        if self.job_ids is not None and self.wait_ms:
            raise ValueError("a claim of job_ids does not wait: wait_ms must be 0")

    @property
    def parks(self) -> bool:
        """Whether it may wait for a job."""
        return self.wait_ms > 0


class Touch(Command, tag="touch"):
    """Extend a lease: it ends `lease_ms` from now. `progress` is shown with the job."""

    job_id: JobId
    lease: Uint
    lease_ms: LeaseMs
    progress: Progress | None = None


class Release(Command, tag="release"):
    """Give a lease back.

    With `delay_ms` or `reason` it counts as a try that ended: the job is claimed again after that
    time at the earliest. With `hold` it is not claimed until `resume`.
    """

    changes = True

    job_id: JobId
    lease: Uint
    delay_ms: DelayMs | None = None
    reason: str | None = None
    hold: bool = False


class StopWaiting(Command, tag="stop_waiting"):
    """Answer parked commands of the same session now, by their `seq`."""

    seqs: Seqs


AnyCommand = (
    Hello
    | Create
    | Get
    | Transition
    | ProvideInput
    | Cancel
    | Count
    | List
    | Wait
    | Claim
    | Touch
    | Release
    | Hold
    | Resume
    | RequestStop
    | Annotate
    | Settle
    | PauseQueue
    | ResumeQueue
    | History
    | Events
    | StopWaiting
    | Stats
    | Explain
)

"""The results of TG/1, which the broker answers to commands; refusals on the wire."""

from datetime import datetime
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from tollgate.domain.exceptions import REFUSALS, Refusal
from tollgate.domain.figures import (
    ClientFigures,
    Coming,
    CommandFigures,
    Denied,
    Histogram,
    JournalFigures,
    Legal,
    LoopFigures,
    QueueFigures,
    StateFigures,
)
from tollgate.domain.settlement import SettlementState
from tollgate.domain.status import JobStatus

DEFAULT_QUEUE: Final = "default"
MOCK_PREFIX: Final = "mock_bc_"
"""How the blockchain identifier of a job begins whose creator supplied none."""


class Part(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The base of the structures in a job. In a pydantic model they are dumped as mappings."""

    @classmethod
    def __get_pydantic_core_schema__(cls, _: object, handler: Any) -> Any:  # noqa: ANN401 - pydantic's
        """Return how pydantic validates and dumps one."""
        import pydantic  # noqa: PLC0415 - a ping does without

        dumped = pydantic.PlainSerializer(
            lambda part: msgspec.to_builtins(part, builtin_types=(datetime,)),
            return_type=dict[str, Any],
        )
        checked = pydantic.PlainValidator(lambda value: msgspec.convert(value, cls))
        return handler.generate_schema(Annotated[Any, checked, dumped])

    @classmethod
    def __get_pydantic_json_schema__(cls, *_: object) -> dict[str, Any]:
        """Return its JSON schema, with those of its fields in it."""
        _, parts = msgspec.json.schema_components([cls])
        schema: dict[str, Any] = parts[cls.__name__]
        fields = schema["properties"]
        for name, field in fields.items():
            if "$ref" in field:
                fields[name] = parts[field["$ref"].rpartition("/")[2]]
        return schema


class Progress(Part, frozen=True, forbid_unknown_fields=True):
    """How far the holder of a lease is: a text, and the part that is done."""

    text: str
    fraction: Annotated[float, Meta(ge=0, le=1)] | None = None
    at: datetime | None = None
    """When the broker heard of it; only the broker sets this."""


class InputRound(Part, frozen=True):
    """One question of a job and its answer. Claims and lists show no texts."""

    version: int
    """The version of the job at which it asked."""
    schema: str | None = None
    text: str | None = None
    hash: str | None = None
    """The hash of the answer, if the client that answered sent one."""


class Settlement(Part, frozen=True):
    """How the result of a paid job gets on chain."""

    state: SettlementState
    updated_at: datetime
    """When it entered its state."""
    result_hash: str | None = None
    on_chain_state: str | None = None
    """The state of the payment, in the words of the payment service."""
    reason: str | None = None
    not_before: datetime | None = None
    """It is not claimed again before this time."""


class LeaseInfo(Part, frozen=True):
    """Who holds a lease, by principal and by the name of its client, and how long it lasts."""

    by: str
    client: str
    left_ms: int


class PlainFields(msgspec.Struct, omit_defaults=True, gc=False):
    """The fields that any job may have; those that are nil are left out on the wire."""

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


class PlainJob(PlainFields, forbid_unknown_fields=True):
    """A job that has no other field: most jobs. A client reads it in less time and memory."""


class JobRecord(PlainFields):
    """The fields of a job that the broker stores."""

    queue: str = DEFAULT_QUEUE
    priority: int = 0
    not_before: datetime | None = None
    attempts: int = 0
    inputs: tuple[InputRound, ...] | None = None
    progress: Progress | None = None
    on_hold: bool = False
    stop_requested: bool = False
    meta: str | None = None
    traceparent: str | None = None
    settlement: Settlement | None = None


class JobFields(JobRecord):
    """A job on the wire: the fields of `domain.models.Job`."""

    lease: LeaseInfo | None = None
    """Who holds the job, in answers to commands that ask for it."""


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
    roles: list[str] = []
    time: datetime | None = None
    """The broker's time; `valid_until` is judged by it."""
    revision: int = 1
    """Which commands and fields the broker knows; 3 is the newest."""


class JobResult(Result, tag="job"):
    """One job as it is now."""

    job: JobFields


class PlainJobResult(JobResult, tag="job"):
    """The same for a job without the fields that most jobs do not have."""

    job: PlainJob  # type: ignore[assignment]  # has the fields that `JobFields` has without default


class CountResult(Result, tag="count"):
    """The number of jobs, and since when the oldest of each status has been in it.

    `by_settlement` has the states in which there are jobs, or the one that was asked for.
    """

    total: int
    by_status: dict[str, int]
    oldest: dict[str, datetime | None]
    by_settlement: dict[str, int] = {}
    as_of: str | None = None
    """The position in the log that the figures are from."""


class JobsResult(Result, tag="jobs"):
    """A page of jobs; `next` continues after it, and is nil at the end."""

    jobs: list[JobFields]
    next: str | None
    as_of: str | None = None
    """The position in the log that the page is from; of several pages the first one counts."""


class HistoryEntry(msgspec.Struct, omit_defaults=True, rename={"from_": "from"}, gc=False):
    """One thing that happened to a job; `by` is nil if the broker did it by itself."""

    at: datetime
    what: str
    from_: str | None = None
    to: str | None = None
    by: str | None = None
    client: str | None = None
    attempt: int | None = None
    reason: str | None = None


class HistoryResult(Result, tag="history"):
    """What happened to a job, oldest first; `left_out` entries are missing in the middle."""

    job_id: str
    entries: list[HistoryEntry]
    left_out: int
    lease: LeaseInfo | None
    as_of: str


class ChangedFields(msgspec.Struct, gc=False):
    """The fields of a job that an event has changed, with their new values; others are left out.

    Those of texts are there only for a reader that asked for texts: `input`, `result`, `error`,
    `input_schema` and `provided_input`.
    """

    input_hash: str | UnsetType = UNSET
    blockchain_identifier: str | UnsetType = UNSET
    created_at: datetime | UnsetType = UNSET
    updated_at: datetime | UnsetType = UNSET
    result: str | UnsetType = UNSET
    error: str | UnsetType = UNSET
    input: str | UnsetType = UNSET
    identifier_from_purchaser: str | UnsetType = UNSET
    pay_by_time: datetime | UnsetType = UNSET
    submit_result_time: datetime | UnsetType = UNSET
    input_schema: str | UnsetType | None = UNSET
    provided_input: str | UnsetType | None = UNSET
    priority: int | UnsetType = UNSET
    not_before: datetime | UnsetType = UNSET
    attempts: int | UnsetType = UNSET
    inputs: tuple[InputRound, ...] | UnsetType = UNSET
    """All rounds of input, without their texts."""
    progress: Progress | UnsetType = UNSET
    on_hold: bool | UnsetType = UNSET
    stop_requested: bool | UnsetType = UNSET
    meta: str | UnsetType | None = UNSET
    traceparent: str | UnsetType = UNSET
    settlement: Settlement | UnsetType = UNSET


class JobEvent(msgspec.Struct, omit_defaults=True, rename={"from_": "from"}, gc=False):
    """One thing that happened: to a job, or to a queue.

    `queue`, `status` and `version` are those of the job after it. `by` is nil if the broker did it
    by itself.
    """

    position: str
    """The position in the log after this event."""
    at: datetime
    what: str
    job_id: str | None = None
    queue: str | None = None
    status: JobStatus | None = None
    version: int | None = None
    from_: JobStatus | None = None
    """The status before it, if the job has moved."""
    by: str | None = None
    client: str | None = None
    attempt: int | None = None
    """The number of the try that ended with it."""
    reason: str | None = None
    changed: ChangedFields | None = None

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of the job that are new, as those of a `Job`; without `job_id`."""
        changed: dict[str, Any] = {}
        if self.status is not None:
            changed = {"status": self.status, "version": self.version, "queue": self.queue}
        if self.changed is not None:
            for name, value in msgspec.structs.asdict(self.changed).items():
                if value is not UNSET:
                    changed[name] = value
        return changed


class EventsResult(Result, tag="events"):
    """Events in order; `next` continues after them, and after those that the filter left out.

    The reader has seen everything if `next` is `as_of`, the position of this answer.
    """

    events: list[JobEvent]
    next: str
    as_of: str


class StatsResult(Result, tag="stats", omit_defaults=True, kw_only=True):
    """Figures of the broker. What is counted is counted since its start."""

    as_of: str
    """The position in the log that the figures of jobs are from."""
    time: datetime
    """When the broker decided the command, by its clock."""
    server: str
    boot_id: str
    writable: bool
    """Whether changes are accepted; if not, the disk is full or a file of the journal missing."""
    jobs: int
    stored_bytes: int
    """Bytes of the texts of all jobs."""
    statuses: dict[str, StateFigures]
    """By status, all statuses."""
    settlements: dict[str, StateFigures] = {}
    """By settlement state, those with jobs."""
    queues: list[QueueFigures]
    """The queues with the most jobs first."""
    queues_left_out: int = 0
    estimated: bool = False
    """Whether ready, on_hold and delayed are estimates: there are too many jobs to look at."""
    sessions: int
    outcomes: int
    """Outcomes of requests that are remembered."""
    parked_claims: int
    parked_waits: int
    clients: list[ClientFigures]
    """Those seen last first."""
    clients_left_out: int = 0
    leases_left_out: int = 0
    """How many leases are not counted at their clients: there are too many to look at."""
    commands: dict[str, CommandFigures] = {}
    """By the name of the command."""
    attempts: int = 0
    """Tries that ended without an outcome: lapses in `running`, and releases with a reason."""
    lapses: int = 0
    repeats: int = 0
    """Requests that came again and were answered from memory."""
    in_status_s: dict[str, Histogram] = {}
    """By the status that a job left: how long it was there."""
    to_claim_s: dict[str, Histogram] = {}
    """By what was claimed: the time from its beginning to the first claim of a job."""
    since: datetime | None = None
    """When this broker started."""
    starts: list[datetime] = []
    """Earlier starts that its sessions tell of, oldest first."""
    loop: LoopFigures | None = None
    journal: JournalFigures | None = None
    """Nil for a broker that keeps jobs in memory only."""
    connections: int | None = None
    unread_bytes: int | None = None
    """Bytes of replies that wait for peers to read them."""
    dropped: dict[str, int] = {}
    """What was refused, dropped or cut off, by cause."""
    last_denied: Denied | None = None
    """The last command that was refused because its sender lacks the role for it."""


class ExplainedResult(Result, tag="explained", omit_defaults=True, kw_only=True):
    """What is known of why a job is where it is, and of what comes next: one moment's answer."""

    job: JobFields
    """With its lease, and without the texts of rounds of input, as `list` shows it."""
    as_of: str
    time: datetime
    """When the broker decided the command, by its clock."""
    writable: bool
    """Whether changes are accepted; if not, the disk is full or a file of the journal missing."""
    entries: list[HistoryEntry]
    left_out: int = 0
    """As `history` shows them."""
    claimed_for: str
    """What a claim of this job names: its status, or the state of its settlement at its end."""
    claimable: bool = False
    """Whether a claim could have it now."""
    paused: bool = False
    """Whether its queue is paused."""
    before: int = 0
    """How many ready jobs of its queue come before it: of a better priority, or in its line."""
    before_at_least: bool = False
    """Whether there may be more than `before`: the line is too long to look at all of it."""
    parked_claims: int = 0
    """How many claims wait for jobs as this one."""
    claimants: list[ClientFigures] = []
    """Clients whose last claim was for jobs as this one, or that hold this one; seen last first."""
    claimants_left_out: int = 0
    lapses: int = 0
    """How often a lease of it has lapsed since it entered its status."""
    lapses_max: int
    """At so many lapses in `running` it fails."""
    lease_ms: int | None = None
    """For how long its lease was granted."""
    coming: list[Coming] = []
    """What happens by itself, earliest first."""
    legal: list[Legal] = []
    """Which commands are legal next, and for which roles."""


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
    stop_requested: bool = False
    """Whether somebody has asked the holder to stop."""


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
    oldest: str | None = None
    newest: str | None = None


AnyResult = (
    HelloResult
    | JobResult
    | CountResult
    | JobsResult
    | LeasesResult
    | LeaseResult
    | HistoryResult
    | EventsResult
    | StatsResult
    | ExplainedResult
    | OkResult
    | ErrorResult
)

_DETAILS = ("job_id", "status", "target", "version", "allowed", "limit", "oldest", "newest")


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

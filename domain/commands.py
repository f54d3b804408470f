"""The commands of TG/1: what a client may ask of the broker, and the shape of every field."""

from datetime import UTC, datetime
from typing import Annotated, ClassVar, Final

import msgspec
from msgspec import Meta

from tollgate.domain.status import AWAITING_INPUT, COMPLETED, FAILED, TERMINAL, JobStatus

UINT_LIMIT: Final = 2**53
"""Integers stay below this, so that every language can hold them."""

Uint = Annotated[int, Meta(ge=0, lt=UINT_LIMIT)]
Positive = Annotated[int, Meta(ge=1, lt=UINT_LIMIT)]
Time = Annotated[datetime, Meta(tz=True)]
# What a hash and a UUID look like besides, `Create` checks itself: in half the time of a pattern.
Hash = Annotated[str, Meta(min_length=64, max_length=64)]
Uuid = Annotated[str, Meta(min_length=36, max_length=36)]
JobId = Annotated[str, Meta(min_length=1, max_length=64)]
"""An id that is looked up: whatever was never given is simply not found."""
Identifier = Annotated[str, Meta(min_length=1, pattern=r"^[^\x00]*\Z")]
Cursor = Annotated[str, Meta(pattern=r"^[0-9]{1,15}\Z")]
PageLimit = Annotated[int, Meta(ge=1, le=1_000)]
LeaseMs = Annotated[int, Meta(ge=1, le=86_400_000)]
"""At most a day: longer work touches its lease."""
WaitMs = Annotated[int, Meta(ge=0, le=3_600_000)]
"""At most an hour: a longer wait is asked for again."""
JobIds = Annotated[list[JobId], Meta(min_length=1, max_length=1_000)]


_AS_ZERO: Final = bytes.maketrans(b"123456789abcdef", b"0" * 15)
_HASH_FORM: Final = b"0" * 64
_A_UUID: Final = "00000000-0000-0000-0000-000000000000"
_HASH_UUID_FORM: Final = _HASH_FORM + b" " + _A_UUID.encode()
"""With one space, so that neither can be longer at the cost of the other."""


def _has_form(text: str, form: bytes) -> bool:
    """Return whether a text has lowercase hexadecimal digits where `form` has zeros."""
    return text.encode().translate(_AS_ZERO) == form  # a third of what patterns take


def in_utc(time: datetime) -> datetime:
    """Return an aware time in UTC. Raises ValueError for one that UTC cannot hold, or naive."""
    if time.tzinfo is UTC:
        return time
    if time.utcoffset() is None:
        raise ValueError("a time must be aware: it needs a time zone")
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise ValueError("a time must lie in the years 1 to 9999 of UTC") from None


class Command(
    msgspec.Struct,
    tag_field="type",
    forbid_unknown_fields=True,
    omit_defaults=True,
    kw_only=True,
    gc=False,
):
    """The base of all commands."""

    changes: ClassVar[bool] = False
    """Whether it could change something that outlives the broker: then it must not happen twice."""

    @property
    def parks(self) -> bool:
        """Whether the broker may keep this command and answer it later."""
        return False


class Hello(Command, tag="hello"):
    """Ask who is there, and what its limits are; with `open_session`, for a session's number."""

    open_session: bool = False


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

    def __post_init__(self) -> None:
        """Refuse what the fields' types allow, and take times in UTC."""
        both = f"{self.input_hash} {self.job_id or _A_UUID}".encode().translate(_AS_ZERO)
        if both != _HASH_UUID_FORM:
            if not _has_form(self.input_hash, _HASH_FORM):
                raise ValueError("input_hash is not 64 lowercase hexadecimal digits")
            raise ValueError("job_id is no UUID in lowercase with hyphens")
        if self.pay_by_time is not None:
            self.pay_by_time = in_utc(self.pay_by_time)
        if self.submit_result_time is not None:
            self.submit_result_time = in_utc(self.submit_result_time)


class Get(Command, tag="get"):
    """Read one job, by its id or by the identifier of its payment."""

    job_id: JobId | None = None
    blockchain_identifier: Identifier | None = None

    def __post_init__(self) -> None:
        """Refuse what the fields allow one by one, but not together."""
        if (self.job_id is None) == (self.blockchain_identifier is None):
            raise ValueError("get takes one of job_id and blockchain_identifier")


class Transition(Command, tag="transition"):
    """Move a job to `target`, if the state machine has that transition."""

    changes = True

    job_id: JobId
    target: JobStatus
    result: str | None = None
    error: str | None = None
    input_schema: str | None = None
    expected_version: Positive | None = None
    lease: Uint | None = None

    def __post_init__(self) -> None:
        """Refuse what the fields allow one by one, but not together."""
        if self.result is not None and self.target != COMPLETED:
            raise ValueError("result goes with the target completed alone")
        if self.error is not None and self.target != FAILED:
            raise ValueError("error goes with the target failed alone")
        if self.input_schema is not None and self.target != AWAITING_INPUT:
            raise ValueError("input_schema goes with the target awaiting_input alone")


class ProvideInput(Command, tag="provide_input"):
    """Answer a job in `awaiting_input`; it runs again."""

    changes = True

    job_id: JobId
    input: str
    expected_version: Positive


class Cancel(Command, tag="cancel"):
    """Fail a job that nobody has paid for yet."""

    changes = True

    job_id: JobId
    expected_version: Positive | None = None


class Count(Command, tag="count"):
    """Count the jobs stored, by status."""

    status: JobStatus | None = None


class List(Command, tag="list"):
    """Read jobs by creation, a page at a time."""

    limit: PageLimit
    status: JobStatus | None = None
    after: Cursor | None = None


class Wait(Command, tag="wait"):
    """Wait until one of `job_ids` is in one of `statuses`, or terminal."""

    job_ids: JobIds
    timeout_ms: WaitMs
    statuses: list[JobStatus] | None = None

    @property
    def parks(self) -> bool:
        """A wait always stands alone."""
        return True

    @property
    def awaited(self) -> frozenset[JobStatus]:
        """The statuses that end the wait."""
        return TERMINAL.union(self.statuses) if self.statuses else TERMINAL


class Claim(Command, tag="claim"):
    """Take the oldest free jobs in `status`, each under a lease; wait for one if there is none."""

    changes = True

    status: JobStatus
    lease_ms: LeaseMs
    wait_ms: WaitMs
    limit: PageLimit

    def __post_init__(self) -> None:
        """Refuse what the fields allow one by one, but not together."""
        if self.status in TERMINAL:
            raise ValueError(f"there is nothing to do for a job that has {self.status}")

    @property
    def parks(self) -> bool:
        """Only a claim that may wait is kept."""
        return self.wait_ms > 0


class Touch(Command, tag="touch"):
    """Keep a lease for another `lease_ms` from now."""

    job_id: JobId
    lease: Uint
    lease_ms: LeaseMs


class Release(Command, tag="release"):
    """Give a lease back unused."""

    changes = True

    job_id: JobId
    lease: Uint


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
)

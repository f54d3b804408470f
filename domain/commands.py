"""The commands of TG/1, which clients send to the broker, and the form of every field."""

from datetime import UTC, datetime
from typing import Annotated, ClassVar, Final

import msgspec
from msgspec import Meta

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


_AS_ZERO: Final = bytes.maketrans(b"123456789abcdef", b"0" * 15)
_HASH_FORM: Final = b"0" * 64
_A_UUID: Final = "00000000-0000-0000-0000-000000000000"
_HASH_UUID_FORM: Final = _HASH_FORM + b" " + _A_UUID.encode()
"""With a space between them, so that a short hash and a long id do not match."""


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
    """Ask for the broker's identity and limits; with `open_session`, open a session."""

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
        """Check the digits of hash and id, and convert times to UTC."""
        both = f"{self.input_hash} {self.job_id or _A_UUID}".encode().translate(_AS_ZERO)
        if both != _HASH_UUID_FORM:
            if f"{self.input_hash}".encode().translate(_AS_ZERO) != _HASH_FORM:
                raise ValueError("input_hash is not 64 lowercase hexadecimal digits")
            raise ValueError("job_id is no UUID in lowercase with hyphens")
        if self.pay_by_time is not None:
            self.pay_by_time = in_utc(self.pay_by_time)
        if self.submit_result_time is not None:
            self.submit_result_time = in_utc(self.submit_result_time)


class Get(Command, tag="get"):
    """Read one job by its id, or by the identifier of its payment on chain."""

    job_id: JobId | None = None
    blockchain_identifier: Identifier | None = None

    def __post_init__(self) -> None:
        """Check that the fields fit together."""
        if (self.job_id is None) == (self.blockchain_identifier is None):
            raise ValueError("get takes one of job_id and blockchain_identifier")


class Transition(Command, tag="transition"):
    """Move a job to the status `target`, if the state machine has that transition."""

    changes = True

    job_id: JobId
    target: JobStatus
    result: str | None = None
    error: str | None = None
    input_schema: str | None = None
    expected_version: Positive | None = None
    lease: Uint | None = None

    def __post_init__(self) -> None:
        """Check that the fields fit together."""
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


class Cancel(Command, tag="cancel"):
    """Fail a job in `awaiting_payment`."""

    changes = True

    job_id: JobId
    expected_version: Positive | None = None


class Count(Command, tag="count"):
    """Count the stored jobs by status."""

    status: JobStatus | None = None


class List(Command, tag="list"):
    """Read jobs in order of creation, one page at a time."""

    limit: PageLimit
    status: JobStatus | None = None
    after: Cursor | None = None


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
    """Claim the oldest free jobs in `status`, each with a lease; wait if there is none."""

    changes = True

    status: JobStatus
    lease_ms: LeaseMs
    wait_ms: WaitMs
    limit: PageLimit

    def __post_init__(self) -> None:
        """Check that the fields fit together."""
        if self.status in TERMINAL:
            raise ValueError(f"a job that has {self.status} cannot be claimed")

    @property
    def parks(self) -> bool:
        """Whether it may wait for a job."""
        return self.wait_ms > 0


class Touch(Command, tag="touch"):
    """Extend a lease: it ends `lease_ms` from now."""

    job_id: JobId
    lease: Uint
    lease_ms: LeaseMs


class Release(Command, tag="release"):
    """Give a lease back."""

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

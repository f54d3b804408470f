"""The broker's refusals: one class for each wire code, with whether a retry may succeed."""

from collections.abc import Sequence
from typing import ClassVar, Self


class TollgateError(Exception):
    """The base class of all exceptions that tollgate raises."""


class Refusal(TollgateError):  # noqa: N818 - a refusal is an answer
    """The broker refused a command or a whole request.

    `code` is the wire code; `retryable` says whether the same command may succeed later. The other
    attributes are None where they do not apply: `job_id`; `status` and `version` of the job as it
    is now; `target`, the requested status; `allowed`, the legal ones; `limit`, what was exceeded;
    `oldest` and `newest`, the positions between which there are events.
    """

    code: str = "internal"
    retryable: bool = False
    refuses_message: ClassVar[bool] = False
    """Whether it refuses a whole request: then nothing of it was applied."""

    def __init__(  # noqa: PLR0913 - one argument a wire field, all but one by name
        self,
        message: str,
        *,
        job_id: str | None = None,
        status: str | None = None,
        target: str | None = None,
        version: int | None = None,
        allowed: Sequence[str] | None = None,
        limit: int | None = None,
        oldest: str | None = None,
        newest: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.job_id = job_id
        self.status = status
        self.target = target
        self.version = version
        self.allowed = allowed
        self.limit = limit
        self.oldest = oldest
        self.newest = newest

    @classmethod
    def rebuilt(cls, message: str, attributes: dict[str, object]) -> Self:
        """Make one from a message and its attributes, whatever the signature of the subclass."""
        refusal = cls.__new__(cls)
        Refusal.__init__(refusal, message)
        vars(refusal).update(attributes)
        return refusal

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by value, so that a refusal can be sent to another process."""
        return type(self).rebuilt, (self.message, vars(self))


class UnsupportedVersionError(Refusal):
    """The message has another version of the protocol."""

    code = "unsupported_version"
    refuses_message = True


class MalformedError(Refusal):
    """The message is not valid TG/1: not MessagePack, or with wrong fields."""

    code = "malformed"
    refuses_message = True


class ArgumentError(MalformedError, ValueError):
    """An argument has a wrong type or value; the message names it. Nothing was sent."""


class NotAuthorizedError(Refusal):
    """The client's role does not allow this command; no job was looked up."""

    code = "not_authorized"


class TooLargeError(Refusal):
    """The message, or a text in a command, is longer than its limit."""

    code = "too_large"


class ExpiredError(Refusal):
    """The message arrived after its `valid_until`."""

    code = "expired"
    refuses_message = True


class SessionEvictedError(Refusal):
    """The broker has forgotten this session, or never opened it."""

    code = "session_evicted"
    refuses_message = True


class StaleRequestError(Refusal):
    """The request was acknowledged before; its reply is forgotten."""

    code = "stale_request"
    refuses_message = True


class RequestConflictError(Refusal):
    """Another request with this number was executed in this session; this one was not."""

    code = "request_conflict"
    refuses_message = True


class OverloadedError(Refusal):
    """The broker's queues are full; later there may be room."""

    code = "overloaded"
    retryable = True
    refuses_message = True


class DrainingError(Refusal):
    """The broker is stopping and accepts no further commands."""

    code = "draining"
    retryable = True
    refuses_message = True


class RepositoryFullError(Refusal):
    """The broker stores as many jobs as its settings allow."""

    code = "repository_full"
    retryable = True


class StorageFullError(Refusal):
    """The broker's disk is full: changes are refused, reads are answered."""

    code = "storage_full"
    retryable = True


class ReplyFullError(Refusal):
    """The result does not fit in this reply; the command was not executed."""

    code = "reply_full"
    retryable = True


class JobNotFoundError(Refusal):
    """No job has this id, or this blockchain identifier."""

    code = "job_not_found"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"no job {job_id}", job_id=job_id)


class JobConflictError(Refusal):
    """The id or the blockchain identifier belongs to a job with different fields."""

    code = "job_conflict"


class VersionConflictError(Refusal):
    """The job is not at `expected_version`; see `status` and `version` for where it is."""

    code = "version_conflict"


class LeaseLostError(Refusal):
    """The lease has lapsed or ended, or is not one: its holder must stop working."""

    code = "lease_lost"


class LeaseHeldError(Refusal):
    """Another client holds a lease on the job."""

    code = "lease_held"


class InvalidStateTransitionError(Refusal):
    """The state machine has no such transition."""

    code = "illegal_transition"

    def __init__(
        self, from_state: str, to_state: str, *, allowed: Sequence[str] | None = None
    ) -> None:
        legal = ", ".join(allowed) if allowed else "nothing, it is final"
        super().__init__(
            f"a job cannot go from {from_state} to {to_state}; from there it can go to: {legal}"
            if allowed is not None
            else f"a job cannot go from {from_state} to {to_state}",
            status=from_state,
            target=to_state,
            allowed=allowed,
        )

    @property
    def from_state(self) -> str:
        """The status that the job is in."""
        return self.status or ""

    @property
    def to_state(self) -> str:
        """The requested status."""
        return self.target or ""


class WaitTimeoutError(Refusal):
    """None of the jobs reached one of the statuses in time."""

    code = "wait_timeout"
    retryable = True


class EventsGoneError(Refusal):
    """The events after this position are not kept: list the jobs anew, and go on from there."""

    code = "events_gone"


class InternalError(Refusal):
    """The broker has a defect; nothing of the command was applied."""

    code = "internal"


REFUSALS: dict[str, type[Refusal]] = {refusal.code: refusal for refusal in Refusal.__subclasses__()}
"""The class of each wire code."""

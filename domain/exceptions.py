"""Every refusal: one class a wire code, with whether the same thing may be tried again."""

from collections.abc import Sequence
from typing import ClassVar, Self


class TollgateError(Exception):
    """The base of all that tollgate raises."""


class Refusal(TollgateError):  # noqa: N818 - a refusal is an answer, not a fault
    """The broker's no. `code` and `retryable` say which no; the attributes, what to do next.

    Attributes that do not apply are None: `job_id`; `status` and `version`, the job's as they are;
    `target`, the status asked for; `allowed`, where it may go; `limit`, what was exceeded.
    """

    code: str = "internal"
    retryable: bool = False
    refuses_message: ClassVar[bool] = False
    """True for what is said of a whole message: then nothing of it was applied."""

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
    ) -> None:
        super().__init__(message)
        self.message = message
        self.job_id = job_id
        self.status = status
        self.target = target
        self.version = version
        self.allowed = allowed
        self.limit = limit

    @classmethod
    def rebuilt(cls, message: str, attributes: dict[str, object]) -> Self:
        """Make one from a message and its attributes, past the signatures of subclasses."""
        refusal = cls.__new__(cls)
        Refusal.__init__(refusal, message)
        vars(refusal).update(attributes)
        return refusal

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by value, so that a refusal passes between processes."""
        return type(self).rebuilt, (self.message, vars(self))


class UnsupportedVersionError(Refusal):
    """The message speaks another version of the protocol."""

    code = "unsupported_version"
    refuses_message = True


class MalformedError(Refusal):
    """The message is not one of TG/1: no MessagePack, or of a wrong shape."""

    code = "malformed"
    refuses_message = True


class NotAuthorizedError(Refusal):
    """This peer's role does not take in this command; nothing was looked up."""

    code = "not_authorized"


class TooLargeError(Refusal):
    """The message, or a text in a command, is over its limit."""

    code = "too_large"


class ExpiredError(Refusal):
    """The message arrived after its `valid_until`."""

    code = "expired"
    refuses_message = True


class SessionEvictedError(Refusal):
    """The broker knows nothing of this session any more, or never gave its number."""

    code = "session_evicted"
    refuses_message = True


class StaleRequestError(Refusal):
    """The request was acknowledged long ago; its outcome is forgotten."""

    code = "stale_request"
    refuses_message = True


class RequestConflictError(Refusal):
    """Another request had this number in this session; it, and not this one, was executed."""

    code = "request_conflict"
    refuses_message = True


class OverloadedError(Refusal):
    """More is waiting than the broker holds; later there may be room."""

    code = "overloaded"
    retryable = True
    refuses_message = True


class DrainingError(Refusal):
    """The broker is about to leave and takes nothing new."""

    code = "draining"
    retryable = True
    refuses_message = True


class RepositoryFullError(Refusal):
    """As many jobs are stored as the settings allow."""

    code = "repository_full"
    retryable = True


class StorageFullError(Refusal):
    """The broker's disk has no room to write this down; reads are answered."""

    code = "storage_full"
    retryable = True


class ReplyFullError(Refusal):
    """The result would not fit in this reply any more; the command was not executed."""

    code = "reply_full"
    retryable = True


class JobNotFoundError(Refusal):
    """No job has this id (or this blockchain identifier)."""

    code = "job_not_found"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"no job {job_id}", job_id=job_id)


class JobConflictError(Refusal):
    """The id or the blockchain identifier belongs to a job with other fields."""

    code = "job_conflict"


class VersionConflictError(Refusal):
    """The job is not at `expected_version`; `status` and `version` say where it is."""

    code = "version_conflict"


class LeaseLostError(Refusal):
    """The lease lapsed, ended or was granted anew: whoever holds this token must stop."""

    code = "lease_lost"


class LeaseHeldError(Refusal):
    """Somebody else holds the job's lease."""

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
        """The status that was asked for."""
        return self.target or ""


class WaitTimeoutError(Refusal):
    """None of the jobs waited for came to a status waited for in time."""

    code = "wait_timeout"
    retryable = True


class InternalError(Refusal):
    """The broker failed in a way that it should not; nothing of the command was applied."""

    code = "internal"


REFUSALS: dict[str, type[Refusal]] = {refusal.code: refusal for refusal in Refusal.__subclasses__()}
"""The class of each wire code."""

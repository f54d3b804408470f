"""What a worker tells the broker about a job: that it moved, or that the lease is given back."""

from typing import Final, Self

import msgspec

from tollgate.domain.commands import AnyCommand, Release, Transition
from tollgate.domain.models import Job
from tollgate.domain.status import AWAITING_INPUT, COMPLETED, FAILED, RUNNING, JobStatus

TEXT_BYTES: Final = 64 * 1024
"""Largest result or error until the broker has told its own limit."""
REASON_BYTES: Final = 1024
"""Largest reason of a release, likewise."""


class Move(msgspec.Struct, frozen=True, gc=False):
    """The job moves to another status."""

    target: JobStatus
    result: str | None = None
    error: str | None = None
    input_schema: str | None = None
    keeps_lease: bool = False

    def command(self, job_id: str, version: int, token: int) -> AnyCommand:
        """Return the command that says so, for the holder of the lease `token`."""
        return Transition(
            job_id=job_id,
            target=self.target,
            result=self.result,
            error=self.error,
            input_schema=self.input_schema,
            keep_lease=self.keeps_lease,
            expected_version=version,
            lease=token,
        )

    def made(self, job: Job, version: int) -> bool:
        """Return whether the job is as this move, to `version`, leaves it.

        A question may be answered already.
        """
        for each in job.inputs or ():
            if self.input_schema is not None and each.version == version:
                return each.schema == self.input_schema
        sent = (version, self.target, self.result, self.error)
        return (job.version, job.status, job.result, job.error) == sent

    @classmethod
    def paid(cls) -> Self:
        """The payment is confirmed: the job is running."""
        return cls(RUNNING)

    @classmethod
    def completed(cls, result: str) -> Self:
        """The handler returned `result`."""
        return cls(COMPLETED, result=result)

    @classmethod
    def failed(cls, error: str, limit_bytes: int = TEXT_BYTES) -> Self:
        """The job has failed; the text is cut to `limit_bytes`."""
        return cls(FAILED, error=cut(error, limit_bytes))

    @classmethod
    def asks(cls, schema: str, *, keeps_lease: bool) -> Self:
        """The job waits for the answer to a question."""
        return cls(AWAITING_INPUT, input_schema=schema, keeps_lease=keeps_lease)


class GiveBack(msgspec.Struct, frozen=True, gc=False):
    """The lease ends, and the job stays where it is.

    With a delay or a reason it counts as a try that has ended. With `hold` the job waits until
    `resume`.
    """

    delay_ms: int | None = None
    reason: str | None = None
    hold: bool = False

    def command(self, job_id: str, version: int, token: int) -> AnyCommand:  # noqa: ARG002 - as Move
        """Return the command that says so, for the holder of the lease `token`."""
        return Release(
            job_id=job_id, lease=token, delay_ms=self.delay_ms, reason=self.reason, hold=self.hold
        )


Outcome = Move | GiveBack


def cut(text: str, limit_bytes: int) -> str:
    """Return a text cut to `limit_bytes` of UTF-8; what UTF-8 cannot hold is replaced."""
    return text.encode(errors="replace")[:limit_bytes].decode(errors="ignore")


def text_of(value: object) -> tuple[str | None, str | None]:
    """Return what a handler returned as a plain text, or else None and why it cannot be stored."""
    if not issubclass(type(value), str):  # a mock says of itself that it is an instance
        return None, f"the handler returned {type(value).__name__} instead of a str"
    text = str.__str__(value)  # the encoder refuses subclasses of str
    try:
        if not text.isascii():
            text.encode()
    except UnicodeEncodeError:
        return None, "the handler's result is not valid text: it has a lone surrogate"
    return text, None


def shortened(move: Move, limit_bytes: int) -> Move:
    """Return a failure whose error has at most `limit_bytes`."""
    return msgspec.structs.replace(move, error=cut(move.error or "", limit_bytes))

"""What a worker says about a job when it is done with it, within what the broker takes."""

from dataclasses import dataclass
from typing import Final, Self

from tollgate.domain.exceptions import TooLargeError
from tollgate.domain.status import JobStatus

TEXT_LIMIT_BYTES: Final = 64 * 1024
"""The most that a result or an error may hold (docs/protocol.md, "Sizes"), in bytes of UTF-8."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A target status, and the text that goes with it. Hand it over with `worker.lease.Held`."""

    target: JobStatus
    result: str | None = None
    error: str | None = None

    @classmethod
    def paid(cls) -> Self:
        """Open the gate."""
        return cls(JobStatus.RUNNING)

    @classmethod
    def failed(cls, message: str, limit_bytes: int = TEXT_LIMIT_BYTES) -> Self:
        """Fail with `message`, cut to `limit_bytes`; what is no text in it is replaced."""
        whole = message.encode(errors="replace")[:limit_bytes]
        return cls(JobStatus.FAILED, error=whole.decode(errors="ignore"))

    @classmethod
    def of_exception(cls, fault: BaseException) -> Self:
        """Fail with the message of what a handler raised, or its type's name if it says nothing."""
        name = type(fault).__name__
        try:
            return cls.failed(str(fault).strip() or name)
        except Exception:  # noqa: BLE001 - the __str__ of a user's exception may raise anything
            return cls.failed(name)

    @classmethod
    def of_result(cls, result: object) -> Self:
        """Complete with what a handler returned; fail if that is nothing to be kept as text."""
        if not isinstance(result, str):
            return cls.failed(f"the handler returned {type(result).__name__} instead of a str")
        try:
            size_bytes = len(result.encode())
        except UnicodeEncodeError:
            return cls.failed("the handler's result is not valid text: it has a lone surrogate")
        if size_bytes > TEXT_LIMIT_BYTES:
            return cls._too_large(size_bytes, TEXT_LIMIT_BYTES)
        # A subclass of str would not be taken by the encoder.
        return cls(JobStatus.COMPLETED, result=str.__str__(result))

    def shortened(self, refusal: TooLargeError) -> "Outcome":
        """Return what to say instead to a broker that takes only texts shorter than this one."""
        limit_bytes = refusal.limit or 0
        if self.result is not None:
            return self._too_large(len(self.result.encode()), limit_bytes)
        return self.failed(self.error or "", limit_bytes)

    @classmethod
    def _too_large(cls, size_bytes: int, limit_bytes: int) -> Self:
        return cls.failed(
            f"the handler's result has {size_bytes} bytes, and a text may have {limit_bytes}"
        )

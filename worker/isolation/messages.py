"""What a worker and the processes of its handlers say to each other: messages, and their frames.

A frame is the length of a message in 4 bytes, the highest first, and the message in MessagePack.
"""

from typing import Final, Literal

import msgspec

from tollgate.domain.models import Job
from tollgate.domain.results import JobFields
from tollgate.worker.call import CallResult

MESSAGE_BYTES_MAX: Final = 1 << 28
"""Longest message. What is longer does not come from our own encoder, or must not be sent."""
_LENGTH_BYTES: Final = 4


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """The base of all messages."""


class Setup(_Message, frozen=True):
    """First message to a process: what it calls, and how."""

    handler: str
    argv: list[str]
    log_level: int
    recycle_jobs: int | None
    recycle_memory_bytes: int | None


class Begin(_Message, frozen=True):
    """Call the handler."""

    call: int
    """The number of the call: a thread that outlives its call may still speak of it."""
    job: JobFields
    attempt: int
    stop_requested: bool
    is_stopping: bool


class Flags(_Message, frozen=True):
    """`stop_requested` or `is_stopping` of the call has changed."""

    stop_requested: bool
    is_stopping: bool


class Answer(_Message, frozen=True):
    """How a question ended: with its answer, or with an exception."""

    question: int
    kind: Literal["text", "suspended", "fail", "argument", "error"]
    text: str = ""


class Ready(_Message, frozen=True):
    """The handler is loaded."""


class Broken(_Message, frozen=True):
    """The handler cannot be loaded."""

    reason: str


class Logged(_Message, frozen=True):
    """A line for the log of the worker."""

    name: str
    level: int
    text: str
    created: float
    path: str
    line: int
    function: str
    thread: str
    trace: str | None
    stack: str | None
    fields: bytes
    """The fields given as `extra`, as JSON."""


class Reported(_Message, frozen=True):
    """`ctx.progress`."""

    call: int
    text: str
    fraction: float | None


class Asked(_Message, frozen=True):
    """`ctx.ask`. The schema travels as JSON, and arrives as the handler gave it."""

    call: int
    question: int
    schema: str
    is_text: bool
    key: int | str | None


class Withdrawn(_Message, frozen=True):
    """The handler does not wait for the answer to this question anymore."""

    question: int


class Ended(_Message, frozen=True):
    """How a call ended. `is_last` says that the process leaves, to be replaced."""

    is_last: bool
    text: bytes | None
    """What the handler returned, if it is text; lone surrogates stay what they are."""
    type_name: str | None
    """Of what type it is otherwise."""
    error: str | None
    trace: str | None
    is_final: bool
    is_retry: bool
    after_s: float | None
    is_suspended: bool

    @classmethod
    def of(cls, result: CallResult, *, is_last: bool) -> "Ended":
        """Return the message about a call that ended with `result`."""
        value, text, type_name = result.value, None, None
        if isinstance(value, str):
            text = str.encode(value, errors="surrogatepass")
        elif result.error is None:
            type_name = type(value).__name__
        if text is not None and len(text) > MESSAGE_BYTES_MAX // 2:
            error = f"the handler's result has {len(text)} bytes, too many to leave its process"
            return cls.of(CallResult(error=error), is_last=is_last)
        return cls(
            is_last,
            text,
            type_name,
            None if result.error is None else printable(result.error),
            None if result.trace is None else printable(result.trace),
            result.is_final,
            result.is_retry,
            result.after_s,
            result.is_suspended,
        )

    def result(self) -> CallResult:
        """Return what `of` was given.

        A value that is no text stays in its process. In its place comes an object whose type has
        the same name: no more of it is ever shown.
        """
        value: object = None
        if self.text is not None:
            value = self.text.decode(errors="surrogatepass")
        elif self.type_name not in {None, "NoneType"}:
            value = type(self.type_name, (), {})()
        return CallResult(
            value,
            self.error,
            self.trace,
            self.is_final,
            self.is_retry,
            self.after_s,
            self.is_suspended,
        )


ToChild = Setup | Begin | Flags | Answer
FromChild = Ready | Broken | Logged | Reported | Asked | Withdrawn | Ended

encoder: Final = msgspec.msgpack.Encoder()
to_child: Final = msgspec.msgpack.Decoder(ToChild)
from_child: Final = msgspec.msgpack.Decoder(FromChild)


def frame(message: ToChild | FromChild) -> bytes:
    """Return a message as it is sent."""
    body = encoder.encode(message)
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


class Frames:
    """Takes messages out of a stream of bytes."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Return the messages that `data` completes.

        Raises:
            ValueError: a length that no message has. Nothing after it can be read.

        """
        self._data += data
        messages: list[bytes] = []
        at = 0
        while len(self._data) - at >= _LENGTH_BYTES:
            begin = at + _LENGTH_BYTES
            size = int.from_bytes(self._data[at:begin], "big")
            if size > MESSAGE_BYTES_MAX:
                raise ValueError(f"a message of {size} bytes")
            if len(self._data) - begin < size:
                break
            at = begin + size
            messages.append(bytes(self._data[begin:at]))
        del self._data[:at]
        return messages


def fields_of(job: Job) -> JobFields:
    """Return a job as it is sent."""
    return msgspec.convert(job, JobFields, from_attributes=True)


def printable(text: str) -> str:
    """Return `text` without what UTF-8 cannot hold."""
    return text.encode(errors="backslashreplace").decode()

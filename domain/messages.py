"""TG/1 on the wire: the envelopes of commands and results, encoded and decoded."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final, get_args

import msgspec

from tollgate.domain.commands import UINT_LIMIT, AnyCommand, Claim, Events, Time, Uint, Wait, in_utc
from tollgate.domain.exceptions import MalformedError, Refusal, UnsupportedVersionError
from tollgate.domain.results import AnyResult, ErrorResult, PlainJobResult, Result, error_of

PROTOCOL_VERSION: Final = 1
WINDOW: Final = 64
"""How far the number of a request may be beyond the last acknowledged one of its session."""
DIGEST_BYTES: Final = 16
REFUSAL_BYTES: Final = 192
"""More than a command takes in a reply if it is refused before it is executed."""


class _Frame(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A request whose commands are still encoded: a repeat must have the same bytes."""

    v: int
    session: Uint
    seq: Uint
    acked: Uint
    commands: msgspec.Raw
    valid_until: Time | None = None


class Request(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """What a client sends in one frame: commands, to be executed in order."""

    v: int
    session: Uint
    seq: Uint
    acked: Uint
    commands: list[AnyCommand]
    valid_until: Time | None = None

    def __post_init__(self) -> None:
        """Convert the time to UTC."""
        if self.valid_until is not None:
            self.valid_until = in_utc(self.valid_until)


class Reply(msgspec.Struct, tag_field="type", tag="reply", gc=False):
    """The results of a request's commands, in the order of the commands."""

    v: int
    seq: int
    results: list[AnyResult]


class _PlainReply(Reply, tag="reply"):
    results: list[PlainJobResult]  # type: ignore[assignment]  # these are results, too


class Refused(msgspec.Struct, tag_field="type", tag="refused", gc=False):
    """The answer to a request that was refused as a whole: nothing of it was applied."""

    v: int
    seq: int | None
    error: ErrorResult


class _Envelope(msgspec.Struct):
    v: Any = None
    seq: Any = None


_encoder = msgspec.msgpack.Encoder()
_frame_decoder = msgspec.msgpack.Decoder(_Frame)
_commands_decoder = msgspec.msgpack.Decoder(list[AnyCommand])
_envelope_decoder = msgspec.msgpack.Decoder(_Envelope)
_answer_decoder = msgspec.msgpack.Decoder(Reply | Refused)
_plain_decoder = msgspec.msgpack.Decoder(_PlainReply)
_A_JOB: Final = b"\xa4type\xa3job"
_A_JOB_WITHIN: Final = 64
"""A reply whose first result is a job has its type within so many bytes."""
_MAY_PARK = frozenset({Wait, Claim, Events})
_DIGESTED = frozenset(kind for kind in get_args(AnyCommand) if kind.changes) | _MAY_PARK
"""The kinds of commands for which a repeat must be distinguished from another request."""
# ValueError: text that is not UTF-8, and a timestamp that rounds up to the year 10000.
_UNREADABLE = (msgspec.MsgspecError, RecursionError, ValueError)


def encode_request(request: Request) -> bytes:
    """Return the frame of a request."""
    return _encoder.encode(request)


encode_command: Final[Callable[[AnyCommand], bytes]] = _encoder.encode
"""Return the bytes of a command as they stand in a request's frame."""


def encode_commands(commands: list[AnyCommand]) -> memoryview:
    """Return the bytes of several commands, without the array's header."""
    return memoryview(_encoder.encode(commands))[len(_array_header(len(commands))) :]


def encode_frame(  # noqa: PLR0913, PLR0917 - one argument a field
    session: int,
    seq: int,
    acked: int,
    count: int,
    pieces: Sequence[bytes | memoryview],
    valid_until: datetime | None,
) -> bytes:
    """Return the frame of a request of `count` commands, which `pieces` holds encoded in order."""
    commands = msgspec.Raw(b"".join((_array_header(count), *pieces)))
    return _encoder.encode(_Frame(PROTOCOL_VERSION, session, seq, acked, commands, valid_until))


def decode_request(frame: bytes) -> Request:
    """Decode a request strictly; see `read_request`."""
    return read_request(frame)[0]


def read_request(frame: bytes) -> tuple[Request, bytes]:
    """Decode a request strictly; return it with a digest of its commands.

    The digest is the first 16 bytes of SHA-256 over the bytes of the commands. It is empty if the
    request has no session, or if it neither changes anything nor waits.

    Raises:
        UnsupportedVersionError: its version is not 1.
        MalformedError: it is not a request; the message says at which field.

    """
    try:
        read = _frame_decoder.decode(frame)
        commands = _commands_decoder.decode(read.commands)
        request = Request(
            read.v, read.session, read.seq, read.acked, commands, read.valid_until
        )  # fmt: skip
    except _UNREADABLE as fault:
        version = read_envelope(frame)[0]
        if version not in (None, PROTOCOL_VERSION):
            raise _unsupported(version) from None
        where = str(fault).replace("`$[", "`$.commands[")
        raise MalformedError(f"not a TG/1 request: {where:.500}") from None
    if read.v != PROTOCOL_VERSION:
        raise _unsupported(read.v)
    if len(commands) > 1 and _parks(commands):
        raise MalformedError("a wait, or a claim or events with wait_ms, is alone in its message")
    if read.session and not _DIGESTED.isdisjoint(map(type, commands)):
        return request, _sha256()(read.commands).digest()[:DIGEST_BYTES]
    return request, b""


@cache
def _sha256() -> Callable[..., Any]:
    """Return the hash function; only a broker reads requests, and a client starts without it."""
    from hashlib import sha256  # noqa: PLC0415 - takes two milliseconds

    return sha256


def _parks(commands: list[AnyCommand]) -> bool:
    if _MAY_PARK.isdisjoint(map(type, commands)):  # the usual case
        return False
    return any(command.parks for command in commands)


def read_envelope(frame: bytes) -> tuple[int | None, int | None]:
    """Return `v` and `seq` of a message; None for each that is missing or not a uint."""
    try:
        envelope = _envelope_decoder.decode(frame)
    except _UNREADABLE:
        return None, None
    return _uint(envelope.v), _uint(envelope.seq)


def _uint(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < UINT_LIMIT else None


def _unsupported(version: int | None) -> UnsupportedVersionError:
    return UnsupportedVersionError(
        f"this broker speaks version {PROTOCOL_VERSION} of the protocol, not {version}"
    )


def encode_refused(seq: int | None, refusal: Refusal) -> bytes:
    """Return the frame that refuses a whole request."""
    return _encoder.encode(Refused(PROTOCOL_VERSION, seq, error_of(refusal)))


def decode_answer(frame: bytes) -> Reply | Refused:
    """Decode what a broker sent; unknown fields are ignored. Raises MalformedError."""
    try:
        answer: Reply | Refused = _answer_decoder.decode(frame)
    except _UNREADABLE as fault:
        raise MalformedError(f"not a TG/1 reply: {fault}") from None
    return answer


def decode_plain(frame: bytes) -> Reply | Refused:
    """Decode what a broker sent, as `decode_answer` does; plain jobs alone in less time.

    Those jobs are `PlainJob`s.
    """
    if _A_JOB in frame[:_A_JOB_WITHIN]:
        try:
            return _plain_decoder.decode(frame)
        except _UNREADABLE:  # another result is among them, or a job with other fields
            pass
    return decode_answer(frame)


def begin_reply(seq: int, results: int) -> bytes:
    """Return the beginning of the reply to request `seq`, before its `results` results."""
    return _encoder.encode(Reply(PROTOCOL_VERSION, seq, []))[:-1] + _array_header(results)


def encode_reply(seq: int, results: list[Any]) -> bytes:
    """Return the frame of a complete reply."""
    return _encoder.encode(Reply(PROTOCOL_VERSION, seq, results))


encode_result: Final[Callable[[Result], bytes]] = _encoder.encode
"""Return the bytes of a result as they stand in a reply."""


def encode_results(results: list[Result]) -> bytes:
    """Return the bytes of several results, without the array's header."""
    if len(results) == 1:
        return encode_result(results[0])
    return _encoder.encode(results)[len(_array_header(len(results))) :]


def _array_header(length: int) -> bytes:
    if length < len(_FIXARRAY):
        return _FIXARRAY[length]
    return b"\xdc" + length.to_bytes(2, "big")


_FIXARRAY: Final = [bytes([0x90 | length]) for length in range(16)]
"""The headers of MessagePack's short arrays."""
REPLY_BYTES_MAX: Final = len(begin_reply(UINT_LIMIT - 1, 2**16 - 1))
"""The most bytes that a reply has beside its results."""
_LAST_TIME: Final = datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC)
REQUEST_ENVELOPE_BYTES_MAX: Final = len(
    encode_frame(UINT_LIMIT - 1, UINT_LIMIT - 1, UINT_LIMIT - 1, 2**16 - 1, [], _LAST_TIME)
)
"""The most bytes that a request has beside its commands."""

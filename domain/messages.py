"""TG/1 on the wire: the envelopes around commands and results, and their bytes both ways."""

from collections.abc import Callable
from hashlib import sha256
from typing import Any, Final, get_args

import msgspec

from tollgate.domain.commands import UINT_LIMIT, AnyCommand, Claim, Time, Uint, Wait, in_utc
from tollgate.domain.exceptions import MalformedError, Refusal, UnsupportedVersionError
from tollgate.domain.results import AnyResult, ErrorResult, Result, error_of

PROTOCOL_VERSION: Final = 1
DIGEST_BYTES: Final = 16
REFUSAL_BYTES: Final = 192
"""More than a command takes in a reply that is refused before it is looked at."""


class _Frame(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A request whose commands are bytes still: those are what a repeat must have again."""

    v: int
    session: Uint
    seq: Uint
    acked: Uint
    commands: msgspec.Raw
    valid_until: Time | None = None


class Request(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """What a DEALER sends, in one frame: commands, to be executed in order."""

    v: int
    session: Uint
    seq: Uint
    acked: Uint
    commands: list[AnyCommand]
    valid_until: Time | None = None

    def __post_init__(self) -> None:
        """Take the time in UTC, as all times are."""
        if self.valid_until is not None:
            self.valid_until = in_utc(self.valid_until)


class Reply(msgspec.Struct, tag_field="type", tag="reply", gc=False):
    """The results of a request's commands, in their order."""

    v: int
    seq: int
    results: list[AnyResult]


class Refused(msgspec.Struct, tag_field="type", tag="refused", gc=False):
    """The answer to a message that was not accepted: nothing of it was applied."""

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
_MAY_PARK = frozenset({Wait, Claim})
_TOLD_APART = frozenset(kind for kind in get_args(AnyCommand) if kind.changes) | _MAY_PARK
"""The kinds of commands for which a repeat must be told from another request."""
# ValueError: text that is no UTF-8, and a timestamp that rounds up to the year 10000.
_UNREADABLE = (msgspec.MsgspecError, RecursionError, ValueError)


def encode_request(request: Request) -> bytes:
    """Return the one frame of a request."""
    return _encoder.encode(request)


def encode_command(command: AnyCommand) -> bytes:
    """Return a command's share of a request's frame; its length is what it adds to it."""
    return _encoder.encode(command)


def encode_commands(commands: list[AnyCommand]) -> memoryview:
    """Return the shares of several commands, one behind the other."""
    return memoryview(_encoder.encode(commands))[len(_array_header(len(commands))) :]


def decode_request(frame: bytes) -> Request:
    """Read a request strictly; see `read_request`."""
    return read_request(frame)[0]


def read_request(frame: bytes) -> tuple[Request, bytes]:
    """Read a request strictly; return it with what tells its commands from others.

    That is the beginning of a SHA-256 digest of their bytes: nobody can make two lists of commands
    that have the same. It is empty if the request is of no session, or neither changes anything nor
    waits.

    Raises:
        UnsupportedVersionError: it speaks another version than 1.
        MalformedError: it is no request; the message says where it goes wrong.

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
        raise MalformedError("a wait, or a claim with wait_ms, must be alone in its message")
    if read.session and not _TOLD_APART.isdisjoint(map(type, commands)):
        return request, sha256(read.commands).digest()[:DIGEST_BYTES]
    return request, b""


def _parks(commands: list[AnyCommand]) -> bool:
    if _MAY_PARK.isdisjoint(map(type, commands)):  # the common case, at the speed of C
        return False
    return any(command.parks for command in commands)


def read_envelope(frame: bytes) -> tuple[int | None, int | None]:
    """Return `v` and `seq` of a request, read leniently: None for what is not there or no uint."""
    try:
        envelope = _envelope_decoder.decode(frame)
    except _UNREADABLE:
        return None, None
    return _uint(envelope.v), _uint(envelope.seq)


def _uint(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < 2**53 else None


def _unsupported(version: int | None) -> UnsupportedVersionError:
    return UnsupportedVersionError(
        f"this broker speaks version {PROTOCOL_VERSION} of the protocol, not {version}"
    )


def encode_refused(seq: int | None, refusal: Refusal) -> bytes:
    """Return the frame that refuses a whole message."""
    return _encoder.encode(Refused(PROTOCOL_VERSION, seq, error_of(refusal)))


def decode_answer(frame: bytes) -> Reply | Refused:
    """Read what a broker sent; unknown fields are ignored. Raises MalformedError."""
    try:
        answer: Reply | Refused = _answer_decoder.decode(frame)
    except _UNREADABLE as fault:
        raise MalformedError(f"not a TG/1 reply: {fault}") from None
    return answer


def begin_reply(seq: int, results: int) -> bytes:
    """Return the beginning of the reply to request `seq`, before its `results` results."""
    return _encoder.encode(Reply(PROTOCOL_VERSION, seq, []))[:-1] + _array_header(results)


def encode_reply(seq: int, results: list[Any]) -> bytes:
    """Return the frame of a reply whose results are all there; they are shown as they are now."""
    return _encoder.encode(Reply(PROTOCOL_VERSION, seq, results))


encode_result: Final[Callable[[Result], bytes]] = _encoder.encode
"""Return a result's share of a reply, which shows it as it is now."""


def encode_results(results: list[Result]) -> bytes:
    """Return the shares of several results, one behind the other."""
    if len(results) == 1:
        return encode_result(results[0])
    return _encoder.encode(results)[len(_array_header(len(results))) :]


def _array_header(length: int) -> bytes:
    if length < 16:  # noqa: PLR2004 - MessagePack's fixarray ends here
        return bytes([0x90 | length])
    return b"\xdc" + length.to_bytes(2, "big")


REPLY_BYTES_MAX: Final = len(begin_reply(UINT_LIMIT - 1, 2**16 - 1))
"""The most that a reply takes beside its results."""

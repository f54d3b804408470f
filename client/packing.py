"""Packs commands into the frames of requests, each command encoded once and each limit kept."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final, cast

import msgspec

from domain.commands import UINT_LIMIT, AnyCommand, Claim, Create, Wait
from domain.exceptions import MalformedError, TollgateError, TooLargeError
from domain.messages import PROTOCOL_VERSION, Request, encode_command, encode_request

UNFIT: Final = (
    AttributeError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,  # lone surrogates among others
    msgspec.MsgspecError,
)
"""What making or encoding a command of wrong contents may raise."""

_MAY_PARK: Final = frozenset({Wait, Claim})
_FIXARRAY: Final = 16
_ARRAY16: Final = 2**16


class Pending:
    """The place of a value that has not come yet."""


PENDING: Final = Pending()


class Parcel:
    """The commands of one message: their places in the call's values, and their bytes."""

    __slots__ = ("commands", "encoded", "slots")

    def __init__(self) -> None:
        self.slots: list[int] = []
        self.commands: list[AnyCommand] = []
        self.encoded: list[bytes] = []

    def add(self, slot: int, command: AnyCommand, encoded: bytes) -> None:
        """Append a command."""
        self.slots.append(slot)
        self.commands.append(command)
        self.encoded.append(encoded)

    def only(self, positions: list[int]) -> "Parcel":
        """Return a parcel of the commands at these positions alone."""
        part = Parcel()
        for position in positions:
            part.add(self.slots[position], self.commands[position], self.encoded[position])
        return part

    @property
    def repeatable(self) -> bool:
        """Whether all of it may be asked twice without being done twice."""
        return all(
            not command.changes or (type(command) is Create and command.job_id is not None)
            for command in self.commands
        )

    @property
    def changes(self) -> bool:
        """Whether any of it could change something."""
        return any(command.changes for command in self.commands)

    @property
    def parks(self) -> bool:
        """Whether its answer may take its time."""
        return len(self.commands) == 1 and self.commands[0].parks


class Packer:
    """Takes commands off an iterator and makes parcels of them, as large as the limits allow.

    Every command gets the next place in `values`: PENDING, or at once the reason why it cannot be
    sent. An exception among the commands stands for a row that was refused before it got here.
    """

    def __init__(
        self, commands: Iterator[AnyCommand | TollgateError], commands_max: int, bytes_max: int
    ) -> None:
        """Keep to `commands_max` commands and `bytes_max` bytes a frame."""
        self.values: list[Any] = []
        self.exhausted = False
        self._commands = commands
        self._commands_max = min(commands_max, _ARRAY16 - 1)
        self._bytes_max = bytes_max
        self._room_max = bytes_max - ENVELOPE_BYTES_MAX
        self._held: tuple[int, AnyCommand, bytes] | None = None

    @property
    def held(self) -> int:
        """How many commands are taken and wait for the next parcel: one or none."""
        return self._held is not None

    def next(self) -> Parcel | None:
        """Return the next parcel, or None when there are no more commands."""
        parcel = Parcel()
        room = self._room_max
        if self._held is not None:
            parcel.add(*self._held)
            room -= len(self._held[2])
            self._held = None
        if not parcel.parks:
            self._fill(parcel, room)
        return parcel if parcel.commands else None

    def _fill(self, parcel: Parcel, room: int) -> None:
        values, encode = self.values, self._encode
        slots, kept, encodings = parcel.slots, parcel.commands, parcel.encoded  # a hot loop
        for command in self._commands:
            slot = len(values)
            if isinstance(command, TollgateError):
                values.append(command)
                continue
            values.append(PENDING)
            encoded = encode(command, slot)
            if encoded is None:
                continue
            room -= len(encoded)
            parks = type(command) in _MAY_PARK and command.parks
            if room < 0 or (parks and slots):
                self._held = (slot, command, encoded)
                return
            slots.append(slot)
            kept.append(command)
            encodings.append(encoded)
            if parks or len(slots) >= self._commands_max:
                return
        self.exhausted = True

    def _encode(self, command: AnyCommand, slot: int) -> bytes | None:
        try:
            encoded = encode_command(command)
        except UNFIT as fault:
            self.values[slot] = MalformedError(f"the command cannot be encoded: {fault}")
            return None
        if len(encoded) > self._room_max:
            self.values[slot] = TooLargeError(
                f"the command takes {len(encoded)} bytes, a request holds {self._bytes_max}",
                limit=self._bytes_max,
            )
            return None
        return encoded


def frame_of(
    session: int, seq: int, acked: int, encoded: list[bytes], valid_until: datetime | None
) -> bytes:
    """Return a request's one frame, made of commands that are encoded already."""
    commands = msgspec.Raw(_array_header(len(encoded)) + b"".join(encoded))
    return encode_request(
        Request(
            PROTOCOL_VERSION,
            session,
            seq,
            acked,
            cast("list[AnyCommand]", commands),  # bytes that stand for them
            valid_until,
        )
    )


def _array_header(length: int) -> bytes:
    return bytes([0x90 | length]) if length < _FIXARRAY else b"\xdc" + length.to_bytes(2, "big")


ENVELOPE_BYTES_MAX: Final = 2 + len(
    frame_of(
        UINT_LIMIT - 1,
        UINT_LIMIT - 1,
        UINT_LIMIT - 1,
        [],
        datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC),
    )
)
"""The most that a frame takes beyond its commands: 2 for the header of a longer list."""

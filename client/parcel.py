"""The commands of one message, encoded, and the frame that is made of them."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final, get_args

import msgspec

from tollgate.domain.commands import UINT_LIMIT, AnyCommand, Create
from tollgate.domain.messages import PROTOCOL_VERSION, encode_command

Piece = bytes | memoryview
"""Some commands, encoded."""

_FIXARRAY: Final = 16
_HEADERS: Final = [bytes([0x90 | count]) for count in range(_FIXARRAY)]
_CHANGING: Final = frozenset(kind for kind in get_args(AnyCommand) if kind.changes)


def is_repeatable(command: AnyCommand) -> bool:
    """Return whether a command may be asked twice without being done twice."""
    return not command.changes or (type(command) is Create and command.job_id is not None)


class Parcel(msgspec.Struct, eq=False):
    """The commands of one message: their places in the call's values, and their bytes."""

    slots: list[int] = []
    commands: list[AnyCommand] = []
    kinds: set[type] = set()
    """What kinds of commands there are among them."""
    pieces: list[Piece] = []
    """The commands encoded, in order; a piece is one of them or many."""

    def add(self, slot: int, command: AnyCommand, encoded: Piece) -> None:
        """Append a command."""
        self.slots.append(slot)
        self.commands.append(command)
        self.kinds.add(type(command))
        self.pieces.append(encoded)

    def extend(
        self, slot: int, commands: list[AnyCommand], kinds: set[type], encoded: Piece
    ) -> None:
        """Append commands of these kinds that stand side by side, the first of them at `slot`."""
        self.slots.extend(range(slot, slot + len(commands)))
        self.commands.extend(commands)
        self.kinds.update(kinds)
        self.pieces.append(encoded)

    def only(self, positions: list[int]) -> "Parcel":
        """Return a parcel of the commands at these positions alone."""
        part = Parcel()
        for position in positions:
            command = self.commands[position]
            part.add(self.slots[position], command, encode_command(command))
        return part

    @property
    def changes(self) -> bool:
        """Whether any of it could change something."""
        return not _CHANGING.isdisjoint(self.kinds)

    @property
    def repeatable(self) -> bool:
        """Whether all of it may be asked twice without being done twice."""
        return not self.changes or all(map(is_repeatable, self.commands))

    @property
    def parks(self) -> bool:
        """Whether its answer may take its time."""
        return len(self.commands) == 1 and self.commands[0].parks


class _Frame(msgspec.Struct, omit_defaults=True, gc=False):
    """A `Request` whose commands are encoded already, and whose time is in UTC."""

    v: int
    session: int
    seq: int
    acked: int
    commands: msgspec.Raw
    valid_until: datetime | None = None


_encode: Final[Callable[[_Frame], bytes]] = msgspec.msgpack.Encoder().encode


def frame_of(  # noqa: PLR0913, PLR0917 - one argument a field
    session: int, seq: int, acked: int, count: int, pieces: Sequence[Piece], valid_until: datetime
) -> bytes:
    """Return a request's one frame, made of `count` commands that are encoded already."""
    header = _HEADERS[count] if count < _FIXARRAY else b"\xdc" + count.to_bytes(2, "big")
    commands = msgspec.Raw(b"".join((header, *pieces)))
    return _encode(_Frame(PROTOCOL_VERSION, session, seq, acked, commands, valid_until))


ENVELOPE_BYTES_MAX: Final = 2 + len(
    frame_of(
        UINT_LIMIT - 1,
        UINT_LIMIT - 1,
        UINT_LIMIT - 1,
        0,
        [],
        datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC),
    )
)
"""The most that a frame takes beyond its commands: 2 for the header of a longer list."""

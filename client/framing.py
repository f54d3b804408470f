"""Takes the commands of a call and makes parcels of them, encoded, with each limit kept."""

from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Any, Final, get_args

import msgspec

from tollgate.client.parcel import ENVELOPE_BYTES_MAX, Parcel
from tollgate.domain.commands import AnyCommand, Claim, Wait
from tollgate.domain.exceptions import MalformedError, TollgateError, TooLargeError
from tollgate.domain.messages import encode_command, encode_commands

UNFIT: Final = (
    AttributeError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,  # lone surrogates among others
    msgspec.MsgspecError,
)
"""What making or encoding a command of wrong contents may raise."""

_PLAIN: Final = frozenset(get_args(AnyCommand)) - {Wait, Claim}
"""The kinds of commands that never have to stand alone."""
_TAKEN_AT_ONCE: Final = 100
"""How many commands to take off a call's iterator at once: it may be slow, or they large."""
_ARRAY16: Final = 2**16


class Pending:
    """The place of a value that has not come yet."""


PENDING: Final = Pending()


class Packer:
    """Takes commands off an iterator and makes parcels of them, as large as the limits allow.

    Every command gets the next place in `values`: PENDING, or at once the reason why it cannot be
    sent. An exception among the commands stands for a row that was refused before it got here.

    Commands are taken and encoded many at once; one by one only where that will not do: a bad one
    is among them, or one that may have to stand alone, or they do not all fit.
    """

    def __init__(
        self, commands: Iterable[AnyCommand | TollgateError], commands_max: int, bytes_max: int
    ) -> None:
        """Keep to `commands_max` commands and `bytes_max` bytes a frame."""
        self.values: list[Any] = []
        self.exhausted = False
        """Whether there are no more parcels."""
        self._commands = iter(commands)
        self._ended = False
        self._commands_max = min(commands_max, _ARRAY16 - 1)
        self._bytes_max = bytes_max
        self._room_max = bytes_max - ENVELOPE_BYTES_MAX
        self._held: deque[tuple[int, AnyCommand, bytes]] = deque()

    @property
    def held(self) -> int:
        """How many commands are taken and wait for the next parcel."""
        return len(self._held)

    def next(self) -> Parcel | None:
        """Return the next parcel, or None when there are no more commands."""
        parcel = Parcel()
        room = self._room_max
        while True:
            if self._held:
                room = self._add_held(parcel, room)
                if self._held or parcel.parks:
                    break
            wanted = min(self._commands_max - len(parcel.commands), _TAKEN_AT_ONCE)
            if self._ended or not wanted:
                break
            taken = [*islice(self._commands, wanted)]
            self._ended = len(taken) < wanted
            if taken:
                room = self._add_together(parcel, taken, room)
        self.exhausted = self._ended and not self._held
        return parcel if parcel.commands else None

    def forget(self, places: set[int]) -> None:
        """Make no parcel of the commands at these places, as far as they are taken already."""
        self._held = deque(entry for entry in self._held if entry[0] not in places)

    def _add_together(
        self, parcel: Parcel, taken: list[AnyCommand | TollgateError], room: int
    ) -> int:
        """Add what was taken in one piece, or hold all of it; return the room that is left."""
        kinds: set[type] = set(map(type, taken))
        try:
            encoded = encode_commands(taken) if kinds <= _PLAIN else None  # type: ignore[arg-type]
        except UNFIT:
            encoded = None
        if encoded is None or len(encoded) > room:
            self._hold(taken)
            return room
        slot = len(self.values)
        self.values.extend([PENDING] * len(taken))
        parcel.extend(slot, taken, kinds, encoded)  # type: ignore[arg-type] # told by their kinds
        return room - len(encoded)

    def _hold(self, taken: list[AnyCommand | TollgateError]) -> None:
        for slot, command in enumerate(taken, len(self.values)):
            if isinstance(command, TollgateError):
                self.values.append(command)
                continue
            self.values.append(PENDING)
            encoded = _encoded(command, self._bytes_max)
            if isinstance(encoded, TollgateError):
                self.values[slot] = encoded
            else:
                self._held.append((slot, command, encoded))

    def _add_held(self, parcel: Parcel, room: int) -> int:
        """Add of the commands held what fits; return the room that is left."""
        held = self._held
        while held and len(parcel.commands) < self._commands_max and not parcel.parks:
            slot, command, encoded = held[0]
            if len(encoded) > room or (command.parks and parcel.commands):
                break
            held.popleft()
            parcel.add(slot, command, encoded)
            room -= len(encoded)
        return room


def pack_one(command: AnyCommand, bytes_max: int) -> Parcel | TollgateError:
    """Return what a `Packer` would make of this command alone: its parcel, or its value."""
    encoded = _encoded(command, bytes_max)
    if isinstance(encoded, TollgateError):
        return encoded
    return Parcel([0], [command], {type(command)}, [encoded])


def _encoded(command: AnyCommand, bytes_max: int) -> bytes | TollgateError:
    """Return the bytes of a command, or why it cannot be sent in a frame of `bytes_max`."""
    try:
        encoded = encode_command(command)
    except UNFIT as fault:
        return MalformedError(f"the command cannot be encoded: {fault}")
    if len(encoded) > bytes_max - ENVELOPE_BYTES_MAX:
        return TooLargeError(
            f"the command takes {len(encoded)} bytes, a request holds {bytes_max}",
            limit=bytes_max,
        )
    return encoded

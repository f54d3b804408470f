"""Encodes the commands of a call and divides them into payloads that keep the broker's limits."""

from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Final, get_args

import msgspec

from tollgate.domain.commands import AnyCommand, Claim, Command, Create, Events, Hello, Wait
from tollgate.domain.exceptions import ArgumentError, TollgateError, TooLargeError
from tollgate.domain.messages import REQUEST_ENVELOPE_BYTES_MAX, encode_command, encode_commands

UNFIT: Final = (
    AttributeError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,  # lone surrogates among others
    msgspec.MsgspecError,
)
"""What making or encoding a command with invalid fields may raise."""

_CHANGING: Final = frozenset(kind for kind in get_args(AnyCommand) if kind.changes)
_NEVER_ALONE: Final = frozenset(get_args(AnyCommand)) - {Wait, Claim, Events}
"""The kinds of commands that never need a request of their own."""
_COMMANDS_AT_ONCE: Final = 100
"""How many commands to take from a call's iterator at once: it may be slow, or they are large."""
_ARRAY16_MAX: Final = 2**16 - 1
PENDING: Final = object()
"""The place of a value that has not come yet."""


def is_repeatable(command: AnyCommand) -> bool:
    """Return whether a command may be sent twice without being done twice."""
    return not command.changes or (type(command) is Create and command.job_id is not None)


class Payload(msgspec.Struct, eq=False):
    """The commands of one request: their positions in the call, and their bytes."""

    slots: list[int] = []
    """For each command, the index of its value in the call."""
    commands: list[AnyCommand] = []
    kinds: set[type] = set()
    pieces: list[bytes | memoryview] = []
    """The encoded commands in order; a piece holds one or several of them."""

    def add(self, slot: int, command: AnyCommand, encoded: bytes) -> None:
        """Append a command."""
        self.slots.append(slot)
        self.commands.append(command)
        self.kinds.add(type(command))
        self.pieces.append(encoded)

    def only(self, positions: list[int]) -> "Payload":
        """Return a payload with the commands at these positions only."""
        part = Payload()
        for position in positions:
            command = self.commands[position]
            part.add(self.slots[position], command, encode_command(command))
        return part

    def replaced(self, command: AnyCommand) -> "Payload":
        """Return a payload with another command in place of its only one."""
        part = Payload()
        part.add(self.slots[0], command, encode_command(command))
        return part

    @property
    def opens_session(self) -> bool:
        """Whether its first command is a `hello` that opens a session."""
        first = self.commands[0]
        return isinstance(first, Hello) and first.open_session

    @property
    def changes(self) -> bool:
        """Whether any of its commands could change something."""
        return not _CHANGING.isdisjoint(self.kinds)

    @property
    def repeatable(self) -> bool:
        """Whether all of its commands may be sent twice without being done twice."""
        return _CHANGING.isdisjoint(self.kinds) or all(map(is_repeatable, self.commands))

    @property
    def only_leases(self) -> bool:
        """Whether leases, which lapse, are all that it could be granted twice."""
        return all(type(command) is Claim or is_repeatable(command) for command in self.commands)

    @property
    def parks(self) -> bool:
        """Whether the broker may hold the request and answer later."""
        return len(self.commands) == 1 and self.commands[0].parks

    @property
    def waits_s(self) -> float:
        """How long the broker may hold the request, before it answers."""
        if not self.parks:
            return 0.0
        command: Any = self.commands[0]
        waits_ms: int = command.timeout_ms if isinstance(command, Wait) else command.wait_ms
        return waits_ms / 1_000


class Framer:
    """Takes commands from an iterator and makes payloads as large as the limits allow.

    Every command gets the next place in `values`: PENDING, or the reason why it cannot be sent. An
    exception among the commands stands for a row that was refused before; it is its own value.

    Commands are taken and encoded many at once. They are encoded one by one only if one of them is
    invalid or may need a request of its own, or if they do not all fit.
    """

    def __init__(
        self, commands: Iterable[AnyCommand | TollgateError], commands_max: int, bytes_max: int
    ) -> None:
        """Keep to `commands_max` commands and `bytes_max` bytes in a frame."""
        self.values: list[Any] = []
        self.exhausted = False
        """Whether there are no further payloads."""
        try:
            self._commands = iter(commands)
        except TypeError:
            kind = type(commands).__name__
            raise ArgumentError(f"commands must be a list or an iterable, not a {kind}") from None
        self._ended = False
        self._commands_max = min(commands_max, _ARRAY16_MAX)
        self._bytes_max = bytes_max
        self._held: deque[tuple[int, AnyCommand, bytes]] = deque()

    def check(self, supported: Callable[[Any], Any]) -> None:
        """Take each command as what `supported` returns for it: the command, or an exception."""
        self._commands = map(supported, self._commands)

    @property
    def held(self) -> int:
        """How many commands are taken and wait for the next payload."""
        return len(self._held)

    def next(self) -> Payload | None:
        """Return the next payload, or None when there are no further commands."""
        payload = Payload()
        room = self._bytes_max - REQUEST_ENVELOPE_BYTES_MAX
        while True:
            if self._held:
                room = self._add_held(payload, room)
                if self._held or payload.parks:
                    break
            wanted = min(self._commands_max - len(payload.commands), _COMMANDS_AT_ONCE)
            if self._ended or not wanted:
                break
            taken = [*islice(self._commands, wanted)]
            self._ended = len(taken) < wanted
            if taken:
                room = self._add_together(payload, taken, room)
        self.exhausted = self._ended and not self._held
        return payload if payload.commands else None

    def forget(self, slots: set[int]) -> None:
        """Drop the commands of these slots that are taken but in no payload yet."""
        self._held = deque(entry for entry in self._held if entry[0] not in slots)

    def _add_together(
        self, payload: Payload, taken: list[AnyCommand | TollgateError], room: int
    ) -> int:
        """Add `taken` in one piece, or hold all of it; return the room that is left."""
        kinds: set[type] = set(map(type, taken))
        try:
            encoded = encode_commands(taken) if kinds <= _NEVER_ALONE else None  # type: ignore[arg-type]
        except UNFIT:
            encoded = None
        if encoded is None or len(encoded) > room:
            self._hold(taken)
            return room
        slot = len(self.values)
        self.values.extend([PENDING] * len(taken))
        payload.slots.extend(range(slot, slot + len(taken)))
        payload.commands.extend(taken)  # type: ignore[arg-type] # `kinds` shows that all are commands
        payload.kinds.update(kinds)
        payload.pieces.append(encoded)
        return room - len(encoded)

    def _hold(self, taken: list[AnyCommand | TollgateError]) -> None:
        for slot, command in enumerate(taken, len(self.values)):
            encoded = (
                command if isinstance(command, TollgateError) else _encode(command, self._bytes_max)
            )
            if isinstance(encoded, TollgateError):
                self.values.append(encoded)
            else:
                self.values.append(PENDING)
                self._held.append((slot, command, encoded))  # type: ignore[arg-type] # encoded

    def _add_held(self, payload: Payload, room: int) -> int:
        """Add as many of the held commands as fit; return the room that is left."""
        held = self._held
        while held and len(payload.commands) < self._commands_max and not payload.parks:
            slot, command, encoded = held[0]
            if len(encoded) > room or (command.parks and payload.commands):
                break
            held.popleft()
            payload.add(slot, command, encoded)
            room -= len(encoded)
        return room


def payload_of(command: AnyCommand, bytes_max: int) -> Payload | TollgateError:
    """Return the payload of one command, or why it does not fit in a frame of `bytes_max` bytes."""
    encoded = _encode(command, bytes_max)
    if isinstance(encoded, TollgateError):
        return encoded
    return Payload([0], [command], {type(command)}, [encoded])


def _encode(command: object, bytes_max: int) -> bytes | TollgateError:
    if not isinstance(command, Command):
        return ArgumentError(
            f"a command must be made by tollgate.commands; a {type(command).__name__} is none"
        )
    try:
        encoded = encode_command(command)  # type: ignore[arg-type] # any command
    except UNFIT:
        return ArgumentError(
            f"{command.__struct_config__.tag}: a field has a wrong type, or a lone surrogate; "
            "tollgate.commands checks and converts arguments"
        )
    if len(encoded) > bytes_max - REQUEST_ENVELOPE_BYTES_MAX:
        return TooLargeError(
            f"the command takes {len(encoded)} bytes, a request holds {bytes_max}",
            limit=bytes_max,
        )
    return encoded

"""Counters in memory shared by the harness and its producers."""

import mmap
import struct
from pathlib import Path
from typing import Final

_NUMBER = struct.Struct("<Q")
_SLOTS: Final = 4
_LEFT: Final = 3
"""The slot with the number of the broker to which a producer connects next."""


class Counters:
    """The number of the current broker, the stop flag, and the progress of each producer."""

    def __init__(self, path: Path, producers: int) -> None:
        size = _NUMBER.size * (2 + _SLOTS * producers)
        if not path.exists():
            path.write_bytes(bytes(size))
        self._producers = producers
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), size)

    @property
    def life(self) -> int:
        return self._get(0)

    @life.setter
    def life(self, life: int) -> None:
        self._set(0, life)

    @property
    def stopping(self) -> bool:
        return bool(self._get(1))

    def stop(self) -> None:
        self._set(1, 1)

    def report(self, producer: int, commands: int, repeats: int, answers: int) -> None:
        for slot, value in enumerate((commands, repeats, answers)):
            self._set(2 + _SLOTS * producer + slot, value)

    def leave(self, producer: int, life: int) -> None:
        """Tell that a producer has read all that the broker before this one has sent it."""
        self._set(2 + _SLOTS * producer + _LEFT, life)

    def have_all_left(self) -> bool:
        """Return whether no producer has a connection to the broker before this one."""
        left = (self._get(2 + _SLOTS * each + _LEFT) for each in range(self._producers))
        return all(life == self.life for life in left)

    def commands(self) -> int:
        """Return how many commands were sent, each counted once."""
        return self._sum(0)

    def repeats(self) -> int:
        """Return how many commands were sent again."""
        return self._sum(1)

    def answers(self) -> int:
        """Return how many messages were answered."""
        return self._sum(2)

    def _sum(self, slot: int) -> int:
        return sum(self._get(2 + _SLOTS * producer + slot) for producer in range(self._producers))

    def _get(self, place: int) -> int:
        number: int = _NUMBER.unpack_from(self._memory, place * _NUMBER.size)[0]
        return number

    def _set(self, place: int, value: int) -> None:
        _NUMBER.pack_into(self._memory, place * _NUMBER.size, value)

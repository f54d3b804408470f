"""A clock of each process that a run can set, and the program that runs a module by it.

`python -m tests.torture.clocks FILE MODULE ARGUMENT...` runs the module with a time of day that is
off by what the file holds, at any moment. Only the time of day is: an administrator or ntpd cannot
set the monotonic clock of a machine either.
"""

import mmap
import runpy
import struct
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

_OFFSET = struct.Struct("<d")
MODULE: Final = "tests.torture.clocks"


class Clock:
    """How far the time of day of one process is off, in seconds, shared through a file."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(_OFFSET.size))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _OFFSET.size)

    @property
    def offset_s(self) -> float:
        offset_s: float = _OFFSET.unpack_from(self._memory)[0]
        return offset_s

    @offset_s.setter
    def offset_s(self, offset_s: float) -> None:
        _OFFSET.pack_into(self._memory, 0, offset_s)


def install(clock: Clock) -> None:
    """Shift the time of day in this process, before the modules that read it are imported."""
    true_s, true_ns = time.time, time.time_ns
    time.time = lambda: true_s() + clock.offset_s
    time.time_ns = lambda: true_ns() + round(clock.offset_s * 1e9)

    from tollgate.broker import clock as broker_clock  # noqa: PLC0415

    def wall() -> datetime:
        return datetime.fromtimestamp(time.time(), UTC)

    broker_clock.LoopClock.__init__.__defaults__ = (time.monotonic_ns, wall)


def main() -> None:
    path, module, *arguments = sys.argv[1:]
    install(Clock(Path(path)))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()

"""How much address space is left under `ulimit -v`.

Without any, an allocation fails wherever it happens to be. Python raises MemoryError, but libzmq
aborts the process, and other libraries in C crash it. So the broker refuses changes before that.
"""

import ctypes
import resource
from contextlib import suppress
from pathlib import Path
from typing import Final

RESERVE_BYTES: Final = 64 * 1024 * 1024
"""More than one batch takes, with the messages of it, its records and its replies."""
_ARENA_MAX: Final = -8
"""M_ARENA_MAX of glibc's malloc.h."""
_SIZES: Final = Path("/proc/self/statm")


class AddressSpace:
    """The address space of this process, which has a limit."""

    def __init__(self, limit_bytes: int) -> None:
        """Take the limit."""
        self._pages_max = (limit_bytes - RESERVE_BYTES) // resource.getpagesize()

    def has_room(self) -> bool:
        """Return whether there is room for any batch. There is, where nothing tells."""
        try:
            pages = int(_SIZES.read_bytes().split()[0])
        except OSError:  # /proc is not mounted
            return True
        return pages <= self._pages_max


def limited_memory() -> AddressSpace | None:
    """Return the address space of this process; None if it has no limit."""
    limit = _limit()
    return None if limit is None else AddressSpace(limit)


def share_one_arena() -> None:
    """Let all threads allocate from one arena, if address space is limited; call it before them.

    As a rule glibc gives each thread an arena of 64 MiB of address space.
    """
    if _limit() is not None:
        with suppress(AttributeError):  # another libc
            ctypes.CDLL(None).mallopt(_ARENA_MAX, 1)


def _limit() -> int | None:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else limit

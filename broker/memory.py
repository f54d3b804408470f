"""How much address space is left under `ulimit -v`.

Without any, an allocation fails wherever it happens to be. Python raises MemoryError, but libzmq
aborts the process, and other libraries in C crash it. So the broker refuses changes before that.
What happens by itself goes on for longer: it takes little, and removing jobs gives memory back.
"""

import ctypes
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

RESERVE_BYTES: Final = 64 * 1024 * 1024
"""More than one batch takes, with the messages of it, its records and its replies."""
OWN_BYTES: Final = RESERVE_BYTES // 4
"""More than a batch without messages takes."""
AGAIN_BYTES: Final = RESERVE_BYTES // 32
"""How much more must be free than that, once there was no room: else it changes at each batch."""
HEAP_BYTES: Final = RESERVE_BYTES // 2
"""How much of the reserve may be in pieces in the heap. Messages take whole pieces beside it."""
_ARENA_MAX: Final = -8
"""M_ARENA_MAX of glibc's malloc.h."""
_SIZES: Final = Path("/proc/self/statm")


class _Mallinfo(ctypes.Structure):
    """`struct mallinfo2` of glibc's malloc.h."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
            "fordblks", "keepcost",
        )
    ]  # fmt: skip


class AddressSpace:
    """The address space of this process, which has a limit. It may be changed with `prlimit`."""

    def __init__(self) -> None:
        self._heap_info = _heap_info()
        self._is_full = False

    def has_room(self) -> bool:
        """Return whether there is room for any batch. There is, where nothing tells."""
        needed, free = RESERVE_BYTES, self._free_bytes()
        if self._is_full:
            needed += AGAIN_BYTES
        if free < needed:
            # What was freed stays in the heap, as a rule, and the address space does not shrink.
            free += min(self._free_in_heap(), HEAP_BYTES)
        self._is_full = free < needed
        return not self._is_full

    def has_room_for_own(self) -> bool:
        """Return whether there is room for what happens by itself, such as the end of leases."""
        return self._free_bytes() >= OWN_BYTES

    def _free_bytes(self) -> int:
        limit = _limit()
        if limit is None:
            return sys.maxsize
        try:
            pages = int(_SIZES.read_bytes().split()[0])
        except OSError:  # /proc is not mounted
            return sys.maxsize
        return limit - pages * resource.getpagesize()

    def _free_in_heap(self) -> int:
        return 0 if self._heap_info is None else self._heap_info().fordblks


def limited_memory() -> AddressSpace | None:
    """Return the address space of this process; None if it has no limit."""
    return None if _limit() is None else AddressSpace()


def share_one_arena() -> None:
    """Let all threads allocate from one arena, if address space is limited; call it before them.

    As a rule glibc gives each thread an arena of 64 MiB of address space.
    """
    if _limit() is not None:
        with suppress(AttributeError):  # another libc
            ctypes.CDLL(None).mallopt(_ARENA_MAX, 1)


def _heap_info() -> Callable[[], _Mallinfo] | None:
    try:
        asked = ctypes.CDLL(None).mallinfo2
    except AttributeError:  # another libc, or an old one
        return None
    asked.restype = _Mallinfo
    told: Callable[[], _Mallinfo] = asked
    return told


def _limit() -> int | None:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else limit

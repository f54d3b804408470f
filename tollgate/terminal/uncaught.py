"""What a program says when it ends before it can report errors: one line, instead of a traceback.

Imported first of all by each program, so it imports next to nothing.
"""

import math
import os
import resource
import sys
from types import TracebackType
from typing import Final

OUT_OF_MEMORY: Final = "out of memory: see ulimit -v, and the memory limit of the container"
STDERR: Final = 2
LEAST_BYTES: Final = 12 * 1024 * 1024
"""Less than any program takes for what it imports; the command line alone takes less."""
_FOR_WANT_OF_MEMORY: Final = (ImportError, OSError, SyntaxError, SystemError)
"""What libraries raise, too, if they cannot be loaded into the memory that is left."""


def is_out_of_memory(kind: type[BaseException]) -> bool:
    """Return whether an exception of this kind means that memory ran out."""
    if issubclass(kind, MemoryError):
        return True
    is_limited = resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
    return is_limited and issubclass(kind, _FOR_WANT_OF_MEMORY)


def install(program: str, *, least_bytes: int = LEAST_BYTES) -> None:
    """Have exceptions that nothing catches reported in one line, if a line says all there is.

    Python's exit codes stay: 1, and the end by SIGINT after an interrupt. Without `least_bytes` of
    address space the program ends here. Further on, where it ends depends on the length of paths,
    and `hashlib` logs tracebacks of its own.
    """
    line = f"{program}: {OUT_OF_MEMORY}\n".encode()  # now: later there may be no memory for it
    if _left_bytes() < least_bytes:
        os.write(STDERR, line)
        os._exit(1)

    def report(
        kind: type[BaseException], fault: BaseException, trace: TracebackType | None
    ) -> None:
        if is_out_of_memory(kind):
            os.write(STDERR, line)
        elif not issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, fault, trace)

    sys.excepthook = report


def _left_bytes() -> float:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return math.inf
    try:
        statm = os.open("/proc/self/statm", os.O_RDONLY)
    except OSError:  # not mounted
        return math.inf
    pages = os.read(statm, 20).split()[0]
    os.close(statm)
    return limit - int(pages) * resource.getpagesize()

"""Standard output of a command: its data, which is flushed, or dropped when it cannot be read."""

import os
import sys
from contextlib import suppress


def flush() -> None:
    """Flush standard output while a full disk or a closed pipe can still be reported."""
    if sys.stdout is not None:
        sys.stdout.flush()


def reader_left() -> int:
    """Handle a closed pipe on standard output, which is no error; return the exit code."""
    drop_output()
    return 0


def drop_output() -> None:
    """Drop what standard output still holds.

    Python flushes it once more at exit. That would raise without a reader, and would block if the
    reader does not read.
    """
    with suppress(OSError, ValueError, AttributeError):  # a stand-in without a file, or None
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def reason(fault: Exception) -> str:
    """Return what went wrong; of the system's errors without a number, and with the file."""
    said = (fault.strerror if isinstance(fault, OSError) else None) or str(fault)
    filename = getattr(fault, "filename", None)
    return said if filename is None else f"{filename}: {said}"

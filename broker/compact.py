"""Folds the closed segments of a journal into a snapshot, in a process of its own.

`python -m tollgate.broker.compact DIRECTORY` prints, as JSON, the names of the files that the new
snapshot replaces. It deletes nothing: only the process that holds the directory's lock may.
"""

import os
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from tollgate.broker.core.replay import replay
from tollgate.broker.core.snapshot import snapshot_chunks
from tollgate.broker.core.state import State
from tollgate.broker.journal import Entry
from tollgate.broker.journal.compaction import fold
from tollgate.broker.journal.files import Files
from tollgate.broker.journal.segment import closed_segments


def folded(entries: Iterator[Entry]) -> Iterable[bytes]:
    """Return the chunks of the state that the entries make."""
    state = State()
    replay(entries, state)
    return snapshot_chunks(state)


def fold_directory(directory: Path) -> list[str]:
    """Write a snapshot of all closed segments; return what may be deleted then."""
    closed = closed_segments(Files(), directory)
    return fold(directory, closed[-1], folded) if closed else []


def _die_with_parent() -> None:
    """End at once when the broker does, however that ends: it holds the other end of stdin."""
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_die_with_parent, daemon=True).start()
    with suppress(OSError):  # a service manager may forbid it; then it is as nice as the broker
        os.nice(10)  # the broker that goes on beside this comes first
    sys.stdout.buffer.write(msgspec.json.encode(fold_directory(Path(sys.argv[1]))))

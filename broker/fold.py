"""Folds the closed segments of a journal into a snapshot, in a process of its own.

`python -m broker.fold DIRECTORY` prints, as JSON, the names of the files that the new snapshot
makes superfluous; it deletes nothing, since that is for the holder of the directory's lock.
"""

import os
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from broker.image import image
from broker.journal import Entry
from broker.journal.compaction import fold
from broker.journal.files import Files
from broker.journal.segment import closed_segments
from broker.replay import replay
from broker.state import State


def folded(entries: Iterator[Entry]) -> Iterable[bytes]:
    """Return the chunks of the state that the entries make."""
    state = State()
    replay(entries, state)
    return image(state)


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

"""How data/format-1 and data/format-2 were made, each once, by the tree that wrote that format.

The files of a format are never made again, only read. Run as a module from the repository's root,
with an empty directory as the argument.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tollgate.broker.compaction import compact, delete
from tollgate.broker.journal.file import FileJournal

PAYLOADS = [
    b"first",
    b"",
    bytes(range(256)),
    bytes(100),
    "Übertrag \N{SNOWMAN}".encode(),
    b"x" * 700,
    b"y" * 300,
    b"last",
]


def make(directory: Path) -> None:
    """Two records in a snapshot, four in a closed segment, two and a torn write in the last one."""
    journal = FileJournal(directory, segment_bytes=1536)
    for _ in journal.replay():
        pass
    journal.append(PAYLOADS[:2])
    journal.sync()
    journal.close_segment()
    delete(
        directory,
        compact(
            directory, journal.closed_segments()[0], lambda entries: [e.payload for e in entries]
        ),
    )
    journal.append(PAYLOADS[2:4])
    journal.append(PAYLOADS[4:6])
    journal.sync()
    journal.append(PAYLOADS[6:8])
    journal.append([b"torn " * 100])
    journal.close()
    (directory / "lock").unlink()
    last = directory / "segment-0000000003"
    content = last.read_bytes().rstrip(b"\0")
    last.write_bytes(content[:-300].ljust(1536, b"\0"))


if __name__ == "__main__":
    make(Path(sys.argv[1]))

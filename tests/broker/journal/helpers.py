"""Helpers for the tests of the journal: journals made quickly, and files that fail on demand."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from tollgate.broker.journal import format as journal_format
from tollgate.broker.journal.file import FileJournal
from tollgate.broker.journal.files import Files
from tollgate.broker.journal.recovery import Replay

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

SEGMENT_BYTES = 2048

FULL = bool(os.environ.get("TOLLGATE_FULL_TESTS"))
"""Whether the long suites try every case, not a sample that has every kind of case."""


@contextmanager
def knowing_format(version: int) -> Iterator[None]:
    """Write this format, and read no newer one, as the tollgate of that format did."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal_format, "VERSION", version)
        yield


def opened(directory: Path, **options: object) -> FileJournal:
    """Return a journal that has been replayed."""
    options.setdefault("segment_bytes", SEGMENT_BYTES)
    journal = FileJournal(directory, **options)  # type: ignore[arg-type]
    for _ in journal.replay():
        pass
    return journal


def written(directory: Path, batches: Iterable[Sequence[bytes]], **options: object) -> None:
    """Append the batches, each synced, and close."""
    with closing(opened(directory, **options)) as journal:
        for batch in batches:
            journal.append(batch)
            journal.sync()


def restarted(directory: Path) -> list[bytes]:
    """Return what a start finds; the journal is closed again."""
    with closing(FileJournal(directory)) as journal:
        return [entry.payload for entry in journal.replay()]


def stored(directory: Path, files: Files | None = None) -> list[bytes]:
    """Return what can be read, without a lock and without a change."""
    return [entry.payload for entry in Replay(directory, files or Files())]


def numbered(count: int) -> list[bytes]:
    return [b"payload %d" % number for number in range(1, count + 1)]


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("segment-*"))


class FaultyFiles(Files):
    """Real files; `fail(name, nth, error)` makes the nth call of a method from now on fail once.

    `calls` counts the calls of each method. `most_bytes` limits what one write takes.
    """

    def __init__(self, most_bytes: int | None = None) -> None:
        self.calls: Counter[str] = Counter()
        self.most_bytes = most_bytes
        self._faults: dict[tuple[str, int], int] = {}

    def fail(self, name: str, nth: int, error: int) -> None:
        self._faults[name, self.calls[name] + nth] = error

    def _call(self, name: str) -> None:
        self.calls[name] += 1
        error = self._faults.get((name, self.calls[name]))
        if error is not None:
            raise OSError(error, os.strerror(error))

    def write_some(self, descriptor: int, data: memoryview, offset: int) -> int:
        self._call("write_some")
        return super().write_some(descriptor, data[: self.most_bytes], offset)

    def allocate(self, descriptor: int, size: int) -> None:
        self._call("allocate")
        super().allocate(descriptor, size)

    def sync_data(self, descriptor: int) -> None:
        self._call("sync_data")
        super().sync_data(descriptor)

    def sync_file(self, descriptor: int) -> None:
        self._call("sync_file")
        super().sync_file(descriptor)

    def sync_directory(self, directory: Path) -> None:
        self._call("sync_directory")
        super().sync_directory(directory)

    def rename(self, source: Path, target: Path) -> None:
        self._call("rename")
        super().rename(source, target)


class MemoryFiles(Files):
    """A directory in memory, only for reading: tests change it one bit at a time."""

    def __init__(self, directory: Path) -> None:
        self.contents = {path.name: path.read_bytes() for path in directory.iterdir()}
        self._open: list[bytes] = []

    def names(self, directory: Path) -> list[str]:
        return list(self.contents)

    def size(self, path: Path) -> int:
        return len(self.contents[path.name])

    def open_to_read(self, path: Path) -> int:
        self._open.append(self.contents[path.name])
        return len(self._open) - 1

    def close(self, descriptor: int) -> None:
        self._open.pop()

    def read(self, path: Path, length: int | None = None) -> bytes:
        return self.contents[path.name][:length]

    def read_at(self, descriptor: int, length: int, offset: int) -> bytes:
        return self._open[descriptor][offset : offset + length]

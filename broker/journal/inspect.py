"""Checks a journal and lists its entries, without a change to it and without decoding records."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tollgate.broker.journal import Entry, JournalDamagedError, JournalError
from tollgate.broker.journal.files import FILES, Files
from tollgate.broker.journal.format import listing, segment_name, snapshot_name
from tollgate.broker.journal.recovery import Replay
from tollgate.broker.journal.segment import SegmentReader
from tollgate.broker.journal.snapshot import verify_snapshot


class FileReport(NamedTuple):
    """Contents of one file: records `first` to `last` of a segment, or covered by a snapshot.

    `used_bytes` of `size_bytes` are sound; `torn_bytes` is a torn write after them, which the next
    start cuts off. `problem` is None unless the file is damaged.
    """

    file: Path
    first: int
    last: int
    used_bytes: int
    size_bytes: int
    torn_bytes: int
    problem: str | None


class Verification(NamedTuple):
    """One report per file, and why a broker would refuse to start, None if it would start."""

    files: list[FileReport]
    refusal: str | None


def verify(directory: Path, files: Files = FILES) -> Verification:
    """Check every file separately, including those that no start would read, then the whole.

    May run beside a broker: an incomplete write is no problem then. Raises OSError.
    """
    is_live = files.is_locked(directory)
    found = listing(files.names(directory))
    reports = [
        _verify_snapshot(files, directory / snapshot_name(sequence), sequence)
        for sequence in found.snapshots
    ]
    for number in found.segments:
        is_last = number == found.segments[-1]
        path = directory / segment_name(number)
        reports.append(_verify_segment(files, path, is_last=is_last, is_live=is_live))
    try:
        for _ in Replay(directory, files, is_live=is_live):
            pass
    except JournalError as error:
        return Verification(reports, str(error))
    return Verification(reports, None)


def dump(directory: Path, files: Files = FILES) -> Iterator[Entry]:
    """Yield what a start would replay; may run beside a broker. Raises as a replay does."""
    yield from Replay(directory, files, is_live=files.is_locked(directory))


def _verify_snapshot(files: Files, path: Path, sequence: int) -> FileReport:
    size = files.size(path)
    try:
        verify_snapshot(path, files)
    except JournalError as error:
        return FileReport(path, 1, sequence, 0, size, 0, _reason(error))
    return FileReport(path, 1, sequence, size, size, 0, None)


def _verify_segment(files: Files, path: Path, *, is_last: bool, is_live: bool) -> FileReport:
    data = files.read(path)
    try:
        reader = SegmentReader(path, data)
    except JournalError as error:
        return FileReport(path, 0, 0, 0, len(data), 0, _reason(error))
    first = reader.sequence + 1
    for _ in reader:
        pass
    torn_bytes, problem = 0, None
    if reader.end < reader.used and not (is_last and is_live):
        torn_bytes, reason = reader.used - reader.end, reader.why_damaged(is_last=is_last)
        if reason is not None:
            torn_bytes, problem = 0, f"at byte {reader.end}: {reason}"
    return FileReport(path, first, reader.sequence, reader.end, len(data), torn_bytes, problem)


def _reason(error: JournalError) -> str:
    if isinstance(error, JournalDamagedError):
        return f"at byte {error.offset}: {error.reason}"
    return str(error)

"""What an operator asks of a journal without changing it: is it sound, and what is in it.

`compaction` and `repair` have what changes it. None of this knows what the records mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from tollgate.broker.journal.errors import JournalDamagedError, JournalError
from tollgate.broker.journal.files import Files
from tollgate.broker.journal.layout import LOCK, listing, segment_name, snapshot_name
from tollgate.broker.journal.recovery import Replay
from tollgate.broker.journal.segment import SegmentReader
from tollgate.broker.journal.snapshot import verify_snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tollgate.broker.journal import Entry

_FILES: Final = Files()


class FileReport(NamedTuple):
    """What one file holds: records `first` to `last` of a segment, those covered by a snapshot.

    `used_bytes` of `size_bytes` are sound; `torn_bytes` is a torn write behind them, which the next
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
    """One report a file, and why a start would be refused, None if it would not be."""

    files: list[FileReport]
    refusal: str | None


def verify(directory: Path, files: Files = _FILES) -> Verification:
    """Check every file by itself, those that no start would read included, then the whole.

    Changes nothing, and may run beside a broker: a write that is under way is no problem then.
    Raises OSError.
    """
    is_live = files.is_locked(directory / LOCK)
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


def dump(directory: Path, files: Files = _FILES) -> Iterator[Entry]:
    """Yield what a start would replay; may run beside a broker. Raises what a replay raises."""
    yield from Replay(directory, files, is_live=files.is_locked(directory / LOCK))


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

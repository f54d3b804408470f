"""Compaction: a snapshot takes the place of closed segments, and what it covers is deleted.

The folding itself belongs to whoever knows what the records mean. `fold` is meant for a process of
its own, next to a broker that goes on appending; the deletion is for the holder of the lock, since
another replay may need the files. Disk use stays within twice the snapshot plus three segments if
each closed segment is folded before the next one is full.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

from tollgate.broker.journal.errors import JournalError
from tollgate.broker.journal.files import Files
from tollgate.broker.journal.layout import listing, segment_name, snapshot_name
from tollgate.broker.journal.recovery import read
from tollgate.broker.journal.segment import read_header
from tollgate.broker.journal.snapshot import verify_snapshot, write_snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from tollgate.broker.journal import Entry
    from tollgate.broker.journal.segment import ClosedSegment

_FILES: Final = Files()


def fold(
    directory: Path,
    closed: ClosedSegment,
    folded: Callable[[Iterator[Entry]], Iterable[bytes]],
    files: Files = _FILES,
) -> list[str]:
    """Write the snapshot of all records up to the end of this closed segment.

    `folded` consumes every entry of the replay and gives the chunks of the snapshot that stands for
    them. Returns the names that may be deleted then, the snapshot having been read back. Raises
    what a replay raises, JournalError if `folded` left entries unread, and OSError; nothing counts
    then.
    """
    replay = read(directory, closed.number, files)

    def chunks() -> Iterator[bytes]:
        yield from folded(iter(replay))
        if (replay.sequence, replay.chain) != (closed.sequence, closed.chain):
            raise JournalError(f"the fold ended at record {replay.sequence} of {closed.sequence}")

    write_snapshot(directory, closed.sequence, closed.chain, chunks(), files)
    return deletable(directory, closed.sequence, files)


def deletable(directory: Path, sequence: int, files: Files = _FILES) -> list[str]:
    """Read the snapshot of this sequence back, and name the files that it makes superfluous.

    Raises JournalDamagedError if the snapshot is not sound.
    """
    verify_snapshot(directory / snapshot_name(sequence), files)
    found = listing(files.names(directory))
    segments = [
        (number, read_header(files, directory / segment_name(number)).sequence)
        for number in found.segments
    ]
    return plan(segments, found.snapshots, sequence)


def plan(segments: Sequence[tuple[int, int]], snapshots: Sequence[int], sequence: int) -> list[str]:
    """Name what a sound snapshot of the records up to `sequence` makes superfluous.

    `segments` are numbers and sequences of first records, ascending: one is covered when the next
    begins no later than right behind the snapshot. `snapshots` are the sequences of all snapshots.
    The last segment is never among the names, nor is this snapshot or a newer one.
    """
    covered = [
        segment_name(number)
        for (number, _), (_, next_first) in pairwise(segments)
        if next_first <= sequence + 1
    ]
    older = [snapshot_name(each) for each in snapshots if each < sequence]
    return older + covered


def apply(directory: Path, names: Iterable[str], files: Files = _FILES) -> None:
    """Delete what `deletable` named; raises OSError.

    A name that is gone already is passed over, as is the last segment and the newest snapshot.
    """
    found = listing(files.names(directory))
    removable = {segment_name(number) for number in found.segments[:-1]}
    removable |= {snapshot_name(sequence) for sequence in found.snapshots[:-1]}
    for name in names:
        if name in removable:
            files.unlink(directory / name)
    files.sync_directory(directory)

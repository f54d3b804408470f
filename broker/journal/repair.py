"""Repair: the journal is cut at the first damage, and everything that is cut off is kept.

Records after the damage are lost to the broker, and may have been acknowledged: a complete backup
is better. No file is deleted; a file that is not used any more is renamed `<name>.damaged-<n>`.
"""

from itertools import count
from pathlib import Path
from typing import NamedTuple

from tollgate.broker.journal import JournalDamagedError, JournalError
from tollgate.broker.journal.files import FILES, Files
from tollgate.broker.journal.format import FILE_HEADER_BYTES, listing, segment_name
from tollgate.broker.journal.recovery import Replay
from tollgate.broker.journal.segment import ClosedSegment, SegmentReader, make_spare, publish


class Repair(NamedTuple):
    """What was done: `kept` are copies of files that were cut, `moved` the new names of others.

    `found` are the damages in order, and `sequence` is that of the last record left.
    """

    found: list[JournalDamagedError]
    kept: list[Path]
    moved: list[Path]
    sequence: int


def repair(directory: Path, files: Files = FILES) -> Repair:
    """Cut the journal at the first damage, so that a broker can start on what comes before it.

    Does nothing to a sound journal. Raises JournalLockedError beside a broker, JournalError if
    nothing would be left, JournalVersionError, and OSError; it may then be called again.
    """
    lock = files.lock(directory)
    try:
        return _Repairer(directory, files).run()
    finally:
        files.unlock(lock)


class _Repairer:
    def __init__(self, directory: Path, files: Files) -> None:
        self._directory = directory
        self._files = files
        self._kept: list[Path] = []
        self._moved: list[Path] = []

    def run(self) -> Repair:
        """Repair one damage after the other until a replay reaches its end."""
        found: list[JournalDamagedError] = []
        while True:
            replay = Replay(self._directory, self._files)
            try:
                for _ in replay:
                    pass
            except JournalDamagedError as damage:
                if replay.sequence == 0:
                    raise JournalError(
                        "no record before the damage is sound, so that a cut would leave nothing:"
                        " restore a backup, or begin anew in another directory."
                        f" The damage: {damage}"
                    ) from damage
                found.append(damage)
                self._mend(replay, damage.file)
            else:
                return Repair(found, self._kept, self._moved, replay.sequence)

    def _mend(self, replay: Replay, file: Path) -> None:
        names = self._files.names(self._directory)
        segments = [self._directory / segment_name(number) for number in listing(names).segments]
        if file == self._directory:
            self._begin_segment(replay)
        elif file not in segments:
            self._move_aside([file])
        elif replay.last is not None and replay.last.path == file:
            self._cut(replay.last)
            self._move_aside([each for each in segments if each > file])
        else:
            # Its header is damaged, or it is not the next segment.
            self._move_aside([each for each in segments if each >= file])

    def _cut(self, reader: SegmentReader) -> None:
        """Keep a copy of the segment, and write zeroes after its last sound record."""
        copy = self._free_name(reader.path)
        self._files.create_whole(copy, [reader.data])
        self._kept.append(copy)
        sound = reader.data[: reader.end]
        self._files.create_whole(reader.path, [sound.ljust(len(reader.data), b"\0")])

    def _move_aside(self, paths: list[Path]) -> None:
        for path in paths:
            target = self._free_name(path)
            self._files.rename(path, target)
            self._moved.append(target)
        self._files.sync_directory(self._directory)

    def _free_name(self, path: Path) -> Path:
        names = set(self._files.names(self._directory))
        place = next(n for n in count(1) if f"{path.name}.damaged-{n}" not in names)
        return path.with_name(f"{path.name}.damaged-{place}")

    def _begin_segment(self, replay: Replay) -> None:
        """Add an empty segment, without room for a record, after a snapshot that has none."""
        numbers = listing(self._files.names(self._directory)).segments
        last = ClosedSegment(max(numbers, default=0), replay.sequence, replay.chain)
        spare = make_spare(self._files, self._directory, FILE_HEADER_BYTES)
        try:
            publish(self._files, self._directory, spare, last)
        finally:
            self._files.close(spare.descriptor)

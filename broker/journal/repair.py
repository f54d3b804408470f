"""Repair: the journal is cut at the first damage, and everything that is cut off is kept.

What is behind the damage is lost to the broker, and may have been acknowledged: a backup that is
whole is better. No file is deleted; what is not used any more is called `<name>.damaged-<n>`.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Final, NamedTuple

from tollgate.broker.journal.errors import JournalDamagedError, JournalError
from tollgate.broker.journal.files import Files
from tollgate.broker.journal.format import FILE_HEADER_BYTES
from tollgate.broker.journal.layout import TEMPORARY, listing, segment_name
from tollgate.broker.journal.lock import take_lock
from tollgate.broker.journal.recovery import Replay
from tollgate.broker.journal.segment import make_spare, publish

if TYPE_CHECKING:
    from pathlib import Path

    from tollgate.broker.journal.segment import SegmentReader

_FILES: Final = Files()


class Repair(NamedTuple):
    """What was done: `kept` are copies of files that were cut, `moved` the new names of others.

    `found` are the damages, first one first, and `sequence` is that of the last record left.
    """

    found: list[JournalDamagedError]
    kept: list[Path]
    moved: list[Path]
    sequence: int


def repair(directory: Path, files: Files = _FILES) -> Repair:
    """Cut the journal at the first damage, so that a broker can start on what is before it.

    Does nothing to a sound journal. Raises JournalLockedError beside a broker, JournalError if
    nothing would be left, JournalVersionError, and OSError; it may then be called again.
    """
    lock = take_lock(files, directory)
    try:
        return _Repairing(directory, files).run()
    finally:
        files.close(lock)


class _Repairing:
    def __init__(self, directory: Path, files: Files) -> None:
        self._directory = directory
        self._files = files
        self._found: list[JournalDamagedError] = []
        self._kept: list[Path] = []
        self._moved: list[Path] = []

    def run(self) -> Repair:
        """Mend one damage after the other until a replay comes to its end."""
        while True:
            replay = Replay(self._directory, self._files)
            try:
                for _ in replay:
                    pass
            except JournalDamagedError as damage:
                if replay.sequence == 0:
                    raise JournalError(
                        "no record is sound before the damage, so that a cut would leave nothing:"
                        " restore a backup, or begin anew in another directory."
                        f" The damage: {damage}"
                    ) from damage
                self._found.append(damage)
                self._mend(replay, damage)
            else:
                return Repair(self._found, self._kept, self._moved, replay.sequence)

    def _mend(self, replay: Replay, damage: JournalDamagedError) -> None:
        file = damage.file
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
            # Its header is damaged, or it is not the one that comes next.
            self._move_aside([each for each in segments if each >= file])

    def _cut(self, reader: SegmentReader) -> None:
        """Keep a copy of the segment, and give it zeroes behind its last sound record."""
        copy = self._free_name(reader.path)
        self._write(copy, reader.data)
        self._kept.append(copy)
        sound = reader.data[: reader.end]
        self._write(reader.path, sound.ljust(len(reader.data), b"\0"))

    def _write(self, path: Path, data: bytes) -> None:
        """Make the file, or put it in the place of one that has the name, all at once."""
        temporary = path.with_name(path.name + TEMPORARY)
        descriptor = self._files.open(temporary, create=True)
        try:
            self._files.write(descriptor, data, 0)
            self._files.sync_file(descriptor)
        finally:
            self._files.close(descriptor)
        self._files.rename(temporary, path)
        self._files.sync_directory(self._directory)

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
        """Give a snapshot that no segment follows an empty one, without room for a record."""
        numbers = listing(self._files.names(self._directory)).segments
        spare = make_spare(self._files, self._directory, FILE_HEADER_BYTES)
        try:
            publish(
                self._files,
                self._directory,
                spare,
                number=max(numbers, default=0) + 1,
                sequence=replay.sequence + 1,
                chain=replay.chain,
            )
        finally:
            self._files.close(spare.descriptor)

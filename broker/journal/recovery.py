"""Reading a data directory from the newest valid snapshot to the last sound record."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tollgate.broker.journal import SNAPSHOT_CHUNK, Entry, JournalDamagedError, JournalError
from tollgate.broker.journal.files import FILES, Files
from tollgate.broker.journal.format import listing, segment_name, snapshot_name
from tollgate.broker.journal.segment import SegmentReader, read_header
from tollgate.broker.journal.snapshot import read_snapshot, verify_snapshot

_PROGRESS_BYTES: Final = 1 << 20


class Observer:
    """Receives what a replay reports. The methods do nothing here; override those you need."""

    def progress(self, done_bytes: int, total_bytes: int) -> None:
        """`done_bytes` of the journal have been read; called about once per MiB."""

    def torn(self, file: Path, offset: int, length: int) -> None:
        """A torn write of `length` bytes is at `offset`; it is no record, and not replayed."""

    def skipped(self, file: Path, reason: str) -> None:
        """This snapshot is damaged; an older one, or the segments alone, replace it."""


def missing(directory: Path, files: Files = FILES) -> str | None:
    """Return what a start on the directory would not find, None if it has all records.

    It reads the names and one header, and leaves damage to a replay. Raises OSError.
    """
    found = listing(files.names(directory))
    covered = found.snapshots[-1] if found.snapshots else 0
    if not found.segments:
        return f"the segment after record {covered}" if covered else None
    first = found.segments[-1]
    while first - 1 in found.segments:
        first -= 1
    try:
        begins = read_header(files, directory / segment_name(first)).sequence
    except (JournalError, FileNotFoundError):
        return None
    return f"records {covered + 1} to {begins - 1}" if begins > covered + 1 else None


class Replay:
    """The entries of a data directory, in order. Iterate over it once.

    With `through`, it reads only the closed segments up to that number, which needs no lock, also
    beside a writer. With `is_live`, a writer may be appending to the last segment, so the journal
    ends there at the first record that is not sound.

    Iteration raises JournalDamagedError or JournalVersionError. After it `sequence` and `chain`
    are those of the last record, and `last` is the last segment, None if there is none.
    """

    def __init__(
        self,
        directory: Path,
        files: Files = FILES,
        *,
        through: int | None = None,
        is_live: bool = False,
        observer: Observer | None = None,
    ) -> None:
        self.sequence = 0
        self.chain = 0
        self.last: SegmentReader | None = None
        self._directory = directory
        self._files = files
        self._through = through
        self._is_live = is_live
        self._observer = observer or Observer()
        self._done_bytes = 0
        self._total_bytes = 0
        self._report_at = _PROGRESS_BYTES
        self._skipped: JournalDamagedError | None = None

    def __iter__(self) -> Iterator[Entry]:
        """Yield the snapshot's chunks, then the records after it."""
        found = listing(self._files.names(self._directory))
        snapshot = self._newest_valid(found.snapshots)
        segments = self._segments_after(found.segments)
        paths = [self._directory / segment_name(number) for number in segments]
        to_read = paths if snapshot is None else [snapshot, *paths]
        self._total_bytes = sum(map(self._files.size, to_read))
        if snapshot is not None:
            yield from self._chunks(snapshot)
        for number, path in zip(segments, paths, strict=True):
            yield from self._records(path, is_last=number == found.segments[-1])
        if found.snapshots and self.sequence < found.snapshots[-1]:
            raise self._not_continued(self._directory, "the records at its end are missing")

    def _newest_valid(self, snapshots: list[int]) -> Path | None:
        for sequence in reversed(snapshots):
            path = self._directory / snapshot_name(sequence)
            try:
                header = verify_snapshot(path, self._files)
            except JournalDamagedError as error:
                self._skipped = self._skipped or error
                self._observer.skipped(path, error.reason)
            else:
                self.sequence, self.chain = header.sequence, header.chain
                return path
        return None

    def _segments_after(self, numbers: list[int]) -> list[int]:
        """Return the numbers of the segments that continue after the snapshot."""
        following: list[int] = []
        for number in reversed(numbers):
            first = self._first_sequence(number)
            if first is not None and first <= self.sequence:
                break
            following.insert(0, number)
            if first == self.sequence + 1:
                through = self._through
                return [each for each in following if through is None or each <= through]
        if following:
            path = self._directory / segment_name(following[0])
            read_header(self._files, path)
            raise self._not_continued(path, f"no segment begins with record {self.sequence + 1}")
        if self.sequence > 0:
            reason = f"the segment that begins with record {self.sequence + 1} is missing"
            raise self._not_continued(self._directory, reason)
        return []

    def _first_sequence(self, number: int) -> int | None:
        """Return it from the header; None if that is damaged, which reading the segment reports."""
        try:
            return read_header(self._files, self._directory / segment_name(number)).sequence
        except JournalDamagedError:
            return None

    def _not_continued(self, file: Path, reason: str) -> JournalDamagedError:
        """Name the newest snapshot as the cause, if it was skipped."""
        error = self._skipped
        if error is None:
            return JournalDamagedError(file, 0, reason)
        return JournalDamagedError(
            error.file, error.offset, f"{error.reason}, and without this snapshot {reason}"
        )

    def _chunks(self, path: Path) -> Iterator[Entry]:
        done_bytes = 0
        for payload in read_snapshot(path, self._files):
            done_bytes += len(payload)
            self._report(done_bytes)
            yield Entry(self.sequence, SNAPSHOT_CHUNK, payload)
        self._done_bytes = self._files.size(path)

    def _records(self, path: Path, *, is_last: bool) -> Iterator[Entry]:
        reader = self._follow(path)
        for entry in reader:
            self._report(self._done_bytes + reader.end)
            yield entry
        self.sequence, self.chain, self.last = reader.sequence, reader.chain, reader
        if reader.end < reader.used and not (is_last and self._is_live):
            reason = reader.why_damaged(is_last=is_last)
            if reason is not None:
                raise JournalDamagedError(path, reader.end, reason)
            self._observer.torn(path, reader.end, reader.used - reader.end)
        self._done_bytes += len(reader.data)
        self._report(self._done_bytes)

    def _report(self, done_bytes: int) -> None:
        if done_bytes >= self._report_at or done_bytes == self._total_bytes:
            self._report_at = done_bytes + _PROGRESS_BYTES
            self._observer.progress(done_bytes, self._total_bytes)

    def _follow(self, path: Path) -> SegmentReader:
        """Open the segment, if it is the next one."""
        reader = SegmentReader(path, self._files.read(path))
        if path.name != segment_name(reader.number):
            raise JournalDamagedError(path, 0, f"it is segment {reader.number}")
        if self.last is not None and reader.number != self.last.number + 1:
            reason = f"segment {self.last.number + 1}, which comes before it, is missing"
            raise JournalDamagedError(path, 0, reason)
        if (reader.sequence, reader.chain) != (self.sequence, self.chain):
            reason = f"it does not follow record {self.sequence}, the last one before it"
            raise JournalDamagedError(path, 0, reason)
        return reader

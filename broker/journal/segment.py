"""One segment file: how it is made, so that it is there whole or not at all, and how it is read."""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from tollgate.broker.journal import RECORD, Entry
from tollgate.broker.journal.errors import JournalDamagedError, JournalVersionError
from tollgate.broker.journal.format import (
    FILE_HEADER_BYTES,
    SEGMENT_MAGIC,
    VERSION,
    FileHeader,
    FormatError,
    decode_file_header,
    decode_head,
    decode_payload,
    encode_file_header,
)
from tollgate.broker.journal.layout import SPARE, listing, segment_name
from tollgate.broker.journal.torn import why_damaged

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tollgate.broker.journal.files import Files


_ZEROES = bytes(1 << 16)


class Spare(NamedTuple):
    """Disk space for the next segment: an open file without a number yet, and its size in bytes."""

    descriptor: int
    size: int


def make_spare(files: Files, directory: Path, size: int) -> Spare:
    """Take `size` bytes of disk, or raise OSError and leave nothing behind."""
    path = directory / SPARE
    descriptor = files.open(path, create=True)
    try:
        files.allocate(descriptor, size)
    except OSError:
        files.close(descriptor)
        files.unlink(path)
        raise
    return Spare(descriptor, size)


class ClosedSegment(NamedTuple):
    """A segment that will not change any more, and the last record before its end."""

    number: int
    sequence: int
    chain: int


def publish(  # noqa: PLR0913 (where to, what, and the three fields of its header)
    files: Files, directory: Path, spare: Spare, *, number: int, sequence: int, chain: int
) -> int:
    """Turn the spare into the segment with this number, and return its seed.

    Its first record will be `sequence`, after one with the checksum `chain`. The header and the
    size are on the disk before the name is, and the name is before this returns.
    """
    header = encode_file_header(SEGMENT_MAGIC, number, sequence, chain)
    files.write(spare.descriptor, header, 0)
    files.sync_file(spare.descriptor)
    files.rename(directory / SPARE, directory / segment_name(number))
    files.sync_directory(directory)
    return decode_file_header(header, SEGMENT_MAGIC).seed


def check_header(path: Path, data: bytes, magic: bytes) -> FileHeader:
    """Read the header of the file; raise JournalDamagedError or JournalVersionError."""
    try:
        header = decode_file_header(data, magic)
    except FormatError as error:
        raise JournalDamagedError(path, 0, str(error)) from None
    if header.version != VERSION:
        raise JournalVersionError(path, header.version, VERSION)
    return header


def read_header(files: Files, path: Path) -> FileHeader:
    """Read a segment's header alone; raise JournalDamagedError or JournalVersionError."""
    descriptor = files.open_to_read(path)
    try:
        return check_header(path, files.read_at(descriptor, FILE_HEADER_BYTES, 0), SEGMENT_MAGIC)
    finally:
        files.close(descriptor)


def closed_segments(files: Files, directory: Path) -> list[ClosedSegment]:
    """List every segment but the last, with what the header of the next one says of its end."""
    closed = []
    for number, following in pairwise(listing(files.names(directory)).segments):
        header = read_header(files, directory / segment_name(following))
        closed.append(ClosedSegment(number, header.sequence - 1, header.chain))
    return closed


class SegmentReader:
    """A segment in memory: iterate over it once, and it stops behind the last sound record.

    `sequence` and `chain` are those of the last record read, `end` the offset behind it. `used` is
    the offset behind the last byte that is not zero: if `end` is less, something else stands there,
    and `why_damaged` judges it. From `unproven` on, no record shows that it has reached the disk.
    """

    def __init__(self, path: Path, data: bytes) -> None:
        header = check_header(path, data, SEGMENT_MAGIC)
        self.path = path
        self.data = data
        self.number = header.number
        self.seed = header.seed
        self.sequence = header.sequence - 1
        self.chain = header.chain
        self.end = FILE_HEADER_BYTES
        self.used = _used_bytes(data)
        self._unsynced: deque[tuple[int, int]] = deque()

    @property
    def unproven(self) -> int:
        """Offset of the first record that may not have reached the disk; `end` if all have."""
        return self._unsynced[0][1] if self._unsynced else self.end

    def __iter__(self) -> Iterator[Entry]:
        """Yield the sound records, in order."""
        data, seed, unsynced = self.data, self.seed, self._unsynced
        while self.end < self.used:
            head = decode_head(data, self.end, seed)
            if head is None or head.kind != RECORD:
                return
            if head.sequence != self.sequence + 1 or head.previous != self.chain:
                return
            payload = decode_payload(data, self.end, head)
            if payload is None:
                return
            while unsynced and unsynced[0][0] <= head.durable:
                unsynced.popleft()
            unsynced.append((head.sequence, self.end))
            self.end += head.size
            self.sequence, self.chain = head.sequence, head.checksum
            yield Entry(head.sequence, RECORD, payload)

    def why_damaged(self, *, is_last: bool) -> str | None:
        """Say why what stands at `end` cannot be a torn record; None if it can, in the last one."""
        reason = why_damaged(self.data, self.end, self.seed, self.sequence + 1, self.chain)
        if reason is None and not is_last:
            return "a write is torn, though a later segment was begun"
        return reason


def _used_bytes(data: bytes) -> int:
    """Return the offset behind the last byte that is not zero, and behind the header anyway."""
    used = len(data)
    while data.endswith(_ZEROES, 0, used):
        used -= len(_ZEROES)
    start = max(0, used - len(_ZEROES))
    return max(FILE_HEADER_BYTES, start + len(data[start:used].rstrip(b"\0")))

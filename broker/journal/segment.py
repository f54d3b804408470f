"""One segment file: how it is created and read, and how a torn write at its end is recognized.

A torn write is possible only at the end of the last segment. A segment is synced to its end before
the next one gets its name, so an error in an earlier segment is damage.

What a power loss leaves. Nothing that was synced changes. Of what was not, each sector of 512 bytes
may hold any state that it went through: in a preallocated file, zeroes from the end of the synced
bytes on, or these and a part of what was appended since, always from the front, never with a hole.
Sectors reach the disk in any order, so later records can be whole where an earlier one is not.
A process that is killed, or a write that fails half-way, leaves a front part and then zeroes.
In either case a torn record misses the end of its part of some sector: there are zeroes instead.

What damage leaves. A flipped bit, a foreign or a stale sector: bytes that are wrong, not missing.

So a record that is not sound counts as torn only if something is missing, which means
 - its last byte, or the last byte of its head, is zero: neither ever is, nor becomes so by one
   flipped bit, since both belong to a mark; or
 - it crosses a sector's end, and its last 64 bytes before that end (or all of them, if fewer) are
   zero: no written record has such a run, nor gets it by one flipped bit (see `format`); or
 - the file ends before the record does, which is how a file system without preallocation, or an
   interrupted copy, shows the same thing.
If the head is not sound the length cannot be trusted, and only the head itself is examined.

Even then it is damage if a sound record further on proves that this one was synced before that one
was written: each record carries the sequence up to which the journal was on the disk.

One case stays undecided: the records of the last sync before the end, with nothing written after
them, in which a whole sector has turned to zeroes. That looks like an incomplete write, and is cut
off as one. One disk and one copy cannot do better.
"""

from collections import deque
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

from tollgate.broker.journal import RECORD, Entry
from tollgate.broker.journal.files import TEMPORARY, Files
from tollgate.broker.journal.format import (
    FILE_HEADER_BYTES,
    HEAD_BYTES,
    OPENING,
    SEGMENT_MAGIC,
    FileHeader,
    decode_file_header,
    decode_head,
    decode_payload,
    encode_file_header,
    listing,
    segment_name,
)

SPARE: Final = "next" + TEMPORARY

_SECTOR_BYTES: Final = 512
_MISSING_BYTES: Final = 64
_ZEROES: Final = bytes(1 << 16)


class Spare(NamedTuple):
    """Disk space for the next segment: an open file without a number yet, and its size in bytes."""

    descriptor: int
    size: int


def make_spare(files: Files, directory: Path, size: int) -> Spare:
    """Allocate `size` bytes of disk, or raise OSError and leave nothing behind."""
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
    """A segment that will not change any more; sequence and checksum of the last record so far."""

    number: int
    sequence: int
    chain: int


def publish(files: Files, directory: Path, spare: Spare, after: ClosedSegment) -> int:
    """Turn the spare into the segment that follows `after`, and return its seed.

    The header and the size are on the disk before the name is, and the name is before this returns.
    """
    number, sequence, chain = after
    header, seed = encode_file_header(
        SEGMENT_MAGIC, number=number + 1, sequence=sequence + 1, chain=chain
    )
    files.write(spare.descriptor, header, 0)
    files.sync_file(spare.descriptor)
    files.rename(directory / SPARE, directory / segment_name(number + 1))
    files.sync_directory(directory)
    return seed


def read_header(files: Files, path: Path) -> FileHeader:
    """Read a segment's header only; raise JournalDamagedError or JournalVersionError."""
    return decode_file_header(path, files.read(path, FILE_HEADER_BYTES), SEGMENT_MAGIC)


def closed_segments(files: Files, directory: Path) -> list[ClosedSegment]:
    """Return every segment but the last; the header of the next one says where each ends."""
    closed = []
    for number, following in pairwise(listing(files.names(directory)).segments):
        header = read_header(files, directory / segment_name(following))
        closed.append(ClosedSegment(number, header.sequence - 1, header.chain))
    return closed


class SegmentReader:
    """A segment in memory. Iterate over it once; iteration stops after the last sound record.

    `sequence` and `chain` are those of the last record read, `end` is the offset after it. `used`
    is the offset after the last byte that is not zero: if `end` is less, something else follows the
    records, and `why_damaged` judges it. `is_current` is that of the file's header.
    """

    def __init__(self, path: Path, data: bytes) -> None:
        header = decode_file_header(path, data, SEGMENT_MAGIC)
        self.path = path
        self.data = data
        self.number = header.number
        self.seed = header.seed
        self.is_current = header.is_current
        self.sequence = header.sequence - 1
        self.chain = header.chain
        self.end = FILE_HEADER_BYTES
        self.used = _used_bytes(data)
        self._unsynced: deque[tuple[int, int]] = deque()

    @property
    def unproven(self) -> int:
        """Offset of the first record that no later one proves to be on the disk; `end` if none."""
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
        """Return why the bytes at `end` are damage; None if they can be a torn write."""
        reason = why_damaged(self.data, self.end, self.seed, self.sequence + 1, self.chain)
        if reason is None and not is_last:
            return "a write is torn, though a later segment was begun"
        return reason


def why_damaged(data: bytes, offset: int, seed: int, sequence: int, chain: int) -> str | None:
    """Return why the bytes at `offset` cannot be a torn record; None if they can.

    `data` is the whole segment, `seed` its seed. There must be no sound record at `offset`, where
    the one with this sequence should be, after one with the checksum `chain`.
    """
    head = decode_head(data, offset, seed)
    if head is not None and (head.sequence, head.previous) != (sequence, chain):
        return f"record {head.sequence} is where record {sequence} should be"
    stop = offset + (HEAD_BYTES if head is None else head.size)
    if stop <= len(data) and not _is_part_missing(data, offset, stop):
        return f"the checksum of record {sequence} does not match"
    proof = _later_proof(data, offset + 1, seed, sequence)
    if proof is not None:
        return f"record {sequence} is gone, though it was synced before record {proof} was written"
    return None


def _is_part_missing(data: bytes, start: int, stop: int) -> bool:
    """Return whether these bytes, which end with a mark, lack the end of their part of a sector."""
    if data[stop - 1] == 0:
        return True
    first_edge = start - start % _SECTOR_BYTES + _SECTOR_BYTES
    return any(
        not any(data[max(start, edge - _MISSING_BYTES) : edge])
        for edge in range(first_edge, stop, _SECTOR_BYTES)
    )


def _later_proof(data: bytes, offset: int, seed: int, sequence: int) -> int | None:
    """Find a record from `offset` on that was written after record `sequence` was synced."""
    while (offset := data.find(OPENING, offset)) >= 0:
        head = decode_head(data, offset, seed)
        if head is not None and head.durable >= sequence:
            return head.sequence
        offset += 1
    return None


def _used_bytes(data: bytes) -> int:
    """Return the offset after the last byte that is not zero, at least the header's size."""
    used = len(data)
    while data.endswith(_ZEROES, 0, used):
        used -= len(_ZEROES)
    start = max(0, used - len(_ZEROES))
    return max(FILE_HEADER_BYTES, start + len(data[start:used].rstrip(b"\0")))

r"""The files of a journal: their names, their headers and their records, as pure functions.

All numbers are little-endian and unsigned. All checksums are CRC32C.

A file begins with a header of 36 bytes. Its size, and where the version and the checksum stand,
are the same in every version, so that an old reader can tell a newer file from a damaged one.

    offset  size
    0       8     magic: "TGJRNL\r\n" for a segment, "TGSNAP\r\n" for a snapshot
    8       4     format version: 2; 1 is read too
    12      8     segment: its number, from 1. Snapshot: 0
    20      8     segment: sequence of its first record. Snapshot: sequence of the last one covered
    28      4     chain: checksum of the last record before this segment, or of the last one that
                  the snapshot covers; 0 where there is none. It ties the files together
    32      4     checksum of bytes 0 to 31; it is also the seed of this file's record checksums,
                  so that no record passes in another file

In formats 1 and 2 all of this is the same. They differ in what the payloads can say, which is the
core's: what knows format 1 alone must refuse format 2. So each file has one format, and a segment
of format 1 is never appended to (`FileHeader.is_current`).

Records follow without gaps. In a segment zeroes follow, since a segment is preallocated.

    offset  size
    0       4     opening mark: F5 FA F6 F9
    4       4     record checksum: of bytes 8 to 39, begun with the file's seed
    8       4     payload checksum: of the stored payload
    12      4     record checksum of the record before this one (chain)
    16      4     length of the stored payload, in bytes
    20      8     sequence: 1 for the first record ever, then one more each (so do chunks)
    28      8     durable: every record up to this sequence was on the disk, synced, when this one
                  was written (snapshot: 0)
    36      1     kind: 1 record, 2 snapshot chunk, 3 snapshot end
    37      3     closing mark: FA F5 FA
    40      n     stored payload: the payload with a byte FF put in after every 16 zeroes in a row
    40 + n  1     end mark: F5

So the record checksum covers length, sequence, kind and the record before, and the payload through
its checksum. The last record of a snapshot has kind 3 and this payload: number of chunks (8 bytes),
bytes of all chunk payloads (8), checksum over all chunk payloads (4).

Stored bytes are encoded so that what a power loss leaves out differs from what was written: the
marks have at least four bits in every byte, and no run of zeroes within a record gets near 64, not
even after one bit has flipped. The module `segment` explains how that is used.
"""

import re
import struct
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from crc32c import crc32c

from tollgate.broker.journal import JournalDamagedError, JournalVersionError

SEGMENT_MAGIC: Final = b"TGJRNL\r\n"
SNAPSHOT_MAGIC: Final = b"TGSNAP\r\n"
VERSION: Final = 2
"""The format that is written; this one and all before it are read."""
OPENING: Final = b"\xf5\xfa\xf6\xf9"
CLOSING: Final = b"\xfa\xf5\xfa"
END: Final = b"\xf5"
SNAPSHOT_END: Final = 3

_SEGMENT = re.compile(r"segment-([0-9]{10})")
_SNAPSHOT = re.compile(r"snapshot-([0-9]{20})")
_FILE_HEADER = struct.Struct("<8sIQQI")
_UNSIGNED = struct.Struct("<I")
_REST = struct.Struct("<IIIQQB3s")
_HEAD = struct.Struct("<IIIIQQB")
_RUN = bytes(16)
_BROKEN_RUN = _RUN + b"\xff"

FILE_HEADER_BYTES: Final = _FILE_HEADER.size + 4
HEAD_BYTES: Final = 40
FRAME_BYTES: Final = HEAD_BYTES + len(END)


class Listing(NamedTuple):
    """Contents of a data directory: segment numbers and snapshot sequences, both ascending."""

    segments: list[int]
    snapshots: list[int]


def segment_name(number: int) -> str:
    """Return the name of the segment with this number."""
    return f"segment-{number:010d}"


def snapshot_name(sequence: int) -> str:
    """Return the name of the snapshot that covers the records up to this sequence."""
    return f"snapshot-{sequence:020d}"


def listing(names: Iterable[str]) -> Listing:
    """Find the segments and snapshots among the names in a directory; ignore other names."""
    names = list(names)
    return Listing(
        sorted(int(found[1]) for name in names if (found := _SEGMENT.fullmatch(name))),
        sorted(int(found[1]) for name in names if (found := _SNAPSHOT.fullmatch(name))),
    )


class FileHeader(NamedTuple):
    """The first bytes of a file; `seed` begins the checksums of its records."""

    number: int
    sequence: int
    chain: int
    seed: int
    version: int

    @property
    def is_current(self) -> bool:
        """Whether the file has the format that is written, so that records may be added to it.

        A reader that knows only the file's own format would misread a record of a newer one.
        """
        return self.version == VERSION


class Head(NamedTuple):
    """A record without its payload. `length` is that of the stored payload, in bytes."""

    checksum: int
    payload_checksum: int
    previous: int
    length: int
    sequence: int
    durable: int
    kind: int

    @property
    def size(self) -> int:
        """Bytes of the whole record."""
        return FRAME_BYTES + self.length


def encode_file_header(
    magic: bytes, *, sequence: int, chain: int, number: int = 0
) -> tuple[bytes, int]:
    """Return the first bytes of a file, and its seed."""
    body = _FILE_HEADER.pack(magic, VERSION, number, sequence, chain)
    seed = crc32c(body)
    return body + _UNSIGNED.pack(seed), seed


def decode_file_header(path: Path, data: bytes, magic: bytes) -> FileHeader:
    """Decode the first bytes of a file; raise JournalDamagedError or JournalVersionError."""
    if len(data) < FILE_HEADER_BYTES:
        raise JournalDamagedError(path, 0, "its header is cut short")
    body = data[: _FILE_HEADER.size]
    (seed,) = _UNSIGNED.unpack_from(data, _FILE_HEADER.size)
    if crc32c(body) != seed:
        raise JournalDamagedError(path, 0, "the checksum of its header does not match")
    found, version, number, sequence, chain = _FILE_HEADER.unpack(body)
    if found != magic:
        raise JournalDamagedError(path, 0, "it is a file of another kind")
    if not 1 <= version <= VERSION:
        raise JournalVersionError(path, version, VERSION)
    return FileHeader(number, sequence, chain, seed, version)


def stored_form(payload: bytes) -> bytes:
    """Break up runs of zeroes in a payload, so that none is longer than 16 bytes."""
    return payload.replace(_RUN, _BROKEN_RUN)


@cache
def worst_stored_bytes(payload_bytes: int, records: int) -> int:
    """Return the most bytes on disk for `records` records with `payload_bytes` bytes in total."""
    return payload_bytes + payload_bytes // len(_RUN) + records * FRAME_BYTES


def encode_head(  # noqa: PLR0913 (a record's fields)
    stored: bytes, *, seed: int, previous: int, sequence: int, durable: int, kind: int
) -> tuple[bytes, int]:
    """Return the head of a record, and the record checksum.

    The stored payload and `END` follow it and complete the record.
    """
    rest = _REST.pack(crc32c(stored), previous, len(stored), sequence, durable, kind, CLOSING)
    checksum = crc32c(rest, seed)
    return OPENING + _UNSIGNED.pack(checksum) + rest, checksum


def decode_head(data: bytes, offset: int, seed: int) -> Head | None:
    """Decode the head of the record at `offset`; None if there is no complete, sound head."""
    if len(data) < offset + HEAD_BYTES or not data.startswith(OPENING, offset):
        return None
    head = Head._make(_HEAD.unpack_from(data, offset + len(OPENING)))
    return head if crc32c(data[offset + 8 : offset + HEAD_BYTES], seed) == head.checksum else None


def decode_payload(data: bytes, offset: int, head: Head) -> bytes | None:
    """Return the payload of the record at `offset`; None if it is not complete and sound."""
    start = offset + HEAD_BYTES
    stored = data[start : start + head.length]
    if crc32c(stored) != head.payload_checksum or not data.startswith(END, start + head.length):
        return None
    return stored.replace(_BROKEN_RUN, _RUN)

r"""The bytes of a file: its header and its records, as pure functions.

All numbers are little-endian and unsigned. All checksums are CRC32C.

A file begins with a header of 36 bytes. Its size, and where the version and the checksum stand,
are the same in every version, so that an old reader can tell a newer file from a damaged one.

    offset  size
    0       8     magic: "TGJRNL\r\n" for a segment, "TGSNAP\r\n" for a snapshot
    8       4     format version: 1
    12      8     segment: its number, from 1. Snapshot: 0
    20      8     segment: sequence of its first record. Snapshot: sequence of the last one covered
    28      4     chain: checksum of the last record before this segment, or of the last one that
                  the snapshot covers; 0 where there is none. It ties the files together
    32      4     checksum of bytes 0 to 31; it is also the seed of this file's record checksums,
                  so that no record passes in another file

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

Stored bytes are made so that what a power loss leaves out can be told from what was written: the
marks have at least four bits in every byte, and no run of zeroes within a record gets near 64, not
even after one bit has flipped. The module `tail` says what that is good for.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from crc32c import crc32c

SEGMENT_MAGIC: Final = b"TGJRNL\r\n"
SNAPSHOT_MAGIC: Final = b"TGSNAP\r\n"
VERSION: Final = 1
OPENING: Final = b"\xf5\xfa\xf6\xf9"
CLOSING: Final = b"\xfa\xf5\xfa"
END: Final = b"\xf5"
SNAPSHOT_END: Final = 3

_FILE_HEADER = struct.Struct("<8sIQQI")
_UNSIGNED = struct.Struct("<I")
_REST = struct.Struct("<IIIQQB3s")
_HEAD = struct.Struct("<IIIIQQB")
_SNAPSHOT_TOTALS = struct.Struct("<QQI")
_RUN = bytes(16)
_BROKEN_RUN = _RUN + b"\xff"

FILE_HEADER_BYTES: Final = _FILE_HEADER.size + 4
HEAD_BYTES: Final = 40
FRAME_BYTES: Final = HEAD_BYTES + len(END)


class FormatError(ValueError):
    """These bytes are not what this module writes."""


class FileHeader(NamedTuple):
    """The first bytes of a file; `seed` begins the checksums of its records."""

    version: int
    number: int
    sequence: int
    chain: int
    seed: int


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


def encode_file_header(magic: bytes, number: int, sequence: int, chain: int) -> bytes:
    """Return the first bytes of a file."""
    body = _FILE_HEADER.pack(magic, VERSION, number, sequence, chain)
    return body + _UNSIGNED.pack(crc32c(body))


def decode_file_header(data: bytes, magic: bytes) -> FileHeader:
    """Read the first bytes of a file, of any version; FormatError if they are not whole."""
    if len(data) < FILE_HEADER_BYTES:
        raise FormatError("its header is cut short")
    body = data[: _FILE_HEADER.size]
    (seed,) = _UNSIGNED.unpack_from(data, _FILE_HEADER.size)
    if crc32c(body) != seed:
        raise FormatError("the checksum of its header does not match")
    found, version, number, sequence, chain = _FILE_HEADER.unpack(body)
    if found != magic:
        raise FormatError("it is a file of another kind")
    return FileHeader(version, number, sequence, chain, seed)


def stored_form(payload: bytes) -> bytes:
    """Break the runs of zeroes in a payload, so that it has none of more than 16 bytes."""
    return payload.replace(_RUN, _BROKEN_RUN)


def worst_stored_bytes(payload_bytes: int, records: int) -> int:
    """Return the most bytes that so many records with so many payload bytes in all can take."""
    return payload_bytes + payload_bytes // len(_RUN) + records * FRAME_BYTES


def encode_head(  # noqa: PLR0913 (a record's fields)
    stored: bytes, *, seed: int, previous: int, sequence: int, durable: int, kind: int
) -> tuple[bytes, int]:
    """Return what stands before a payload in its stored form, and the record checksum.

    The stored payload and `END` complete the record.
    """
    rest = _REST.pack(crc32c(stored), previous, len(stored), sequence, durable, kind, CLOSING)
    checksum = crc32c(rest, seed)
    return OPENING + _UNSIGNED.pack(checksum) + rest, checksum


def decode_head(data: bytes, offset: int, seed: int) -> Head | None:
    """Read the head of the record at `offset`; None if no whole and sound head stands there."""
    if len(data) < offset + HEAD_BYTES or not data.startswith(OPENING, offset):
        return None
    head = Head._make(_HEAD.unpack_from(data, offset + len(OPENING)))
    return head if crc32c(data[offset + 8 : offset + HEAD_BYTES], seed) == head.checksum else None


def decode_payload(data: bytes, offset: int, head: Head) -> bytes | None:
    """Return the payload of the record at `offset`; None if it is not whole and sound."""
    start = offset + HEAD_BYTES
    stored = data[start : start + head.length]
    if crc32c(stored) != head.payload_checksum or not data.startswith(END, start + head.length):
        return None
    return stored.replace(_BROKEN_RUN, _RUN)


def encode_snapshot_totals(chunks: int, payload_bytes: int, checksum: int) -> bytes:
    """Return the payload of a snapshot's last record."""
    return _SNAPSHOT_TOTALS.pack(chunks, payload_bytes, checksum)

"""A snapshot: one file that replaces every record up to a sequence.

It has the header and the records of the module `format`: one record of kind 2 for each chunk,
numbered from 1, and one of kind 3 with the totals, which is the end of the file. The file gets its
name when all of it is on the disk, so a snapshot is never torn: one that cannot be read is damaged.

The sequence that it covers is the last one of a closed segment: the replay continues with the
segment after that one, and the chain in both headers must be the same.
"""

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from crc32c import crc32c

from tollgate.broker.journal import SNAPSHOT_CHUNK, JournalDamagedError
from tollgate.broker.journal.files import FILES, Files
from tollgate.broker.journal.format import (
    END,
    FILE_HEADER_BYTES,
    FRAME_BYTES,
    HEAD_BYTES,
    SNAPSHOT_END,
    SNAPSHOT_MAGIC,
    FileHeader,
    decode_file_header,
    decode_head,
    decode_payload,
    encode_file_header,
    encode_head,
    snapshot_name,
    stored_form,
)

_TOTALS = struct.Struct("<QQI")


class _Totals:
    """The payload of a snapshot's last record, computed while the chunks are written or read."""

    def __init__(self) -> None:
        self.chunks = 0
        self._bytes = 0
        self._checksum = 0

    def add(self, payload: bytes) -> None:
        self.chunks += 1
        self._bytes += len(payload)
        self._checksum = crc32c(payload, self._checksum)

    def encoded(self) -> bytes:
        return _TOTALS.pack(self.chunks, self._bytes, self._checksum)


def write_snapshot(
    directory: Path, sequence: int, chain: int, payloads: Iterable[bytes], files: Files = FILES
) -> Path:
    """Write the snapshot of all records up to `sequence`, the last with the checksum `chain`.

    Each payload becomes a chunk, best of 64 KiB to 1 MiB. When this returns the path, the snapshot
    is complete and on the disk; before that it does not count. Raises OSError, and then leaves
    nothing but a temporary file, which the next start deletes.
    """
    path = directory / snapshot_name(sequence)
    files.create_whole(path, _encoded(sequence, chain, payloads))
    return path


def _encoded(sequence: int, chain: int, payloads: Iterable[bytes]) -> Iterator[bytes]:
    header, seed = encode_file_header(SNAPSHOT_MAGIC, sequence=sequence, chain=chain)
    yield header
    previous, totals = 0, _Totals()

    def record(kind: int, number: int, payload: bytes) -> bytes:
        nonlocal previous
        stored = stored_form(payload)
        head, previous = encode_head(
            stored, seed=seed, previous=previous, sequence=number, durable=0, kind=kind
        )
        return head + stored + END

    for payload in payloads:
        totals.add(payload)
        yield record(SNAPSHOT_CHUNK, totals.chunks, payload)
    yield record(SNAPSHOT_END, totals.chunks + 1, totals.encoded())


def read_snapshot(path: Path, files: Files = FILES) -> Iterator[bytes]:
    """Yield the chunks; raise JournalDamagedError at one that is not sound, or at a wrong end.

    Raises JournalVersionError for a newer format. Chunks yielded before an error must not be used,
    so call `verify_snapshot` first.
    """
    seed = _read_header(files, path).seed
    offset, previous, totals = FILE_HEADER_BYTES, 0, _Totals()
    descriptor = files.open_to_read(path)
    try:
        while True:
            data = files.read_at(descriptor, HEAD_BYTES, offset)
            head = decode_head(data, 0, seed)
            if head is None or (head.sequence, head.previous) != (totals.chunks + 1, previous):
                raise JournalDamagedError(path, offset, f"chunk {totals.chunks + 1} is not there")
            rest = head.length + FRAME_BYTES - HEAD_BYTES
            data += files.read_at(descriptor, rest, offset + HEAD_BYTES)
            payload = decode_payload(data, 0, head)
            if payload is None:
                raise JournalDamagedError(path, offset, f"chunk {head.sequence} is not sound")
            if head.kind != SNAPSHOT_CHUNK:
                break
            previous = head.checksum
            totals.add(payload)
            yield payload
            offset += head.size
    finally:
        files.close(descriptor)
    if head.kind != SNAPSHOT_END or payload != totals.encoded():
        raise JournalDamagedError(path, offset, "its chunks are not those it was written with")
    if files.size(path) != offset + head.size:
        raise JournalDamagedError(path, offset + head.size, "something follows its end")


def verify_snapshot(path: Path, files: Files = FILES) -> FileHeader:
    """Read the whole snapshot and return its header; raises as `read_snapshot` does."""
    for _ in read_snapshot(path, files):
        pass
    return _read_header(files, path)


def _read_header(files: Files, path: Path) -> FileHeader:
    header = decode_file_header(path, files.read(path, FILE_HEADER_BYTES), SNAPSHOT_MAGIC)
    if path.name != snapshot_name(header.sequence):
        raise JournalDamagedError(path, 0, f"it is the snapshot of record {header.sequence}")
    return header

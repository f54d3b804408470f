"""A snapshot: one file that stands for every record up to a sequence.

It has the header and the records of the module `record`: one record of kind 2 for each chunk,
numbered from 1, and one of kind 3 that says how many there were. The file ends there. It gets its
name when all of it is on the disk, so there is no such thing as a torn snapshot: one that does not
read is damaged.

The sequence that it covers is the last one of a closed segment: the replay goes on with the segment
that begins behind it, and the chain in the snapshot's header must be that of the segment's header.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from crc32c import crc32c

from tollgate.broker.journal import SNAPSHOT_CHUNK
from tollgate.broker.journal.errors import JournalDamagedError
from tollgate.broker.journal.files import Files
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
    encode_snapshot_totals,
    stored_form,
)
from tollgate.broker.journal.layout import TEMPORARY, snapshot_name
from tollgate.broker.journal.segment import check_header

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_FILES: Final = Files()


class SnapshotInfo(NamedTuple):
    """What a snapshot covers: the records up to `sequence`, the last with the checksum `chain`."""

    sequence: int
    chain: int
    chunks: int


class _Totals:
    """Counts the chunks of a snapshot as they pass."""

    def __init__(self) -> None:
        self.chunks = 0
        self._bytes = 0
        self._checksum = 0

    def add(self, payload: bytes) -> None:
        self.chunks += 1
        self._bytes += len(payload)
        self._checksum = crc32c(payload, self._checksum)

    def encoded(self) -> bytes:
        return encode_snapshot_totals(self.chunks, self._bytes, self._checksum)


def write_snapshot(
    directory: Path, sequence: int, chain: int, payloads: Iterable[bytes], files: Files = _FILES
) -> Path:
    """Write the snapshot of all records up to `sequence`, the last with the checksum `chain`.

    Each payload becomes a chunk; some 64 KiB to 1 MiB each serve best. The file has its name, and
    both are on the disk, when this returns its path; before that nothing of it counts. Raises
    OSError, and then leaves nothing behind but a temporary file, which the next start removes.
    """
    path = directory / snapshot_name(sequence)
    temporary = path.with_name(path.name + TEMPORARY)
    descriptor = files.open(temporary, create=True)
    try:
        _write_all(
            files, descriptor, encode_file_header(SNAPSHOT_MAGIC, 0, sequence, chain), payloads
        )
        files.sync_file(descriptor)
    finally:
        files.close(descriptor)
    files.rename(temporary, path)
    files.sync_directory(directory)
    return path


def _write_all(files: Files, descriptor: int, header: bytes, payloads: Iterable[bytes]) -> None:
    seed = decode_file_header(header, SNAPSHOT_MAGIC).seed
    files.write(descriptor, header, 0)
    offset, previous, totals = len(header), 0, _Totals()

    def put(kind: int, payload: bytes) -> None:
        nonlocal offset, previous
        number = totals.chunks + (kind == SNAPSHOT_END)
        stored = stored_form(payload)
        head, previous = encode_head(
            stored, seed=seed, previous=previous, sequence=number, durable=0, kind=kind
        )
        framed = head + stored + END
        files.write(descriptor, framed, offset)
        offset += len(framed)

    for payload in payloads:
        totals.add(payload)
        put(SNAPSHOT_CHUNK, payload)
    put(SNAPSHOT_END, totals.encoded())


def read_snapshot(path: Path, files: Files = _FILES) -> Iterator[bytes]:
    """Yield the chunks; raise JournalDamagedError where one is not sound, or at a wrong end.

    Raises JournalVersionError for a newer format. Chunks yielded before an error are not to be
    used, so call `verify_snapshot` first.
    """
    descriptor = files.open_to_read(path)
    try:
        yield from _chunks(files, path, descriptor)
    finally:
        files.close(descriptor)


def _chunks(files: Files, path: Path, descriptor: int) -> Iterator[bytes]:
    seed = _read_header(files, path, descriptor).seed
    offset, previous, totals = FILE_HEADER_BYTES, 0, _Totals()
    while True:
        data = files.read_at(descriptor, HEAD_BYTES, offset)
        head = decode_head(data, 0, seed)
        if head is None or (head.sequence, head.previous) != (totals.chunks + 1, previous):
            raise JournalDamagedError(path, offset, f"chunk {totals.chunks + 1} is not there")
        data += files.read_at(
            descriptor, head.length + FRAME_BYTES - HEAD_BYTES, offset + HEAD_BYTES
        )
        payload = decode_payload(data, 0, head)
        if payload is None:
            raise JournalDamagedError(path, offset, f"chunk {head.sequence} is not sound")
        previous = head.checksum
        if head.kind != SNAPSHOT_CHUNK:
            break
        totals.add(payload)
        yield payload
        offset += head.size
    if head.kind != SNAPSHOT_END or payload != totals.encoded():
        raise JournalDamagedError(path, offset, "its chunks are not those it was written with")
    if files.size(path) != offset + head.size:
        raise JournalDamagedError(path, offset + head.size, "something stands behind its end")


def _read_header(files: Files, path: Path, descriptor: int) -> FileHeader:
    header = check_header(path, files.read_at(descriptor, FILE_HEADER_BYTES, 0), SNAPSHOT_MAGIC)
    if path.name != snapshot_name(header.sequence):
        raise JournalDamagedError(path, 0, f"it is the snapshot of record {header.sequence}")
    return header


def verify_snapshot(path: Path, files: Files = _FILES) -> SnapshotInfo:
    """Read all of the snapshot back and say what it covers; raises as `read_snapshot` does."""
    descriptor = files.open_to_read(path)
    try:
        header = _read_header(files, path, descriptor)
        chunks = sum(1 for _ in _chunks(files, path, descriptor))
    finally:
        files.close(descriptor)
    return SnapshotInfo(header.sequence, header.chain, chunks)

"""Swapped, doubled, stale, missing and foreign files and records are refused, and named."""

from __future__ import annotations

import errno
import shutil
from typing import TYPE_CHECKING

import pytest

from tollgate.broker.journal import (
    JournalDamagedError,
    JournalError,
    JournalFailedError,
)
from tollgate.broker.journal.format import (
    FILE_HEADER_BYTES,
    SEGMENT_MAGIC,
    decode_file_header,
    decode_head,
)
from tollgate.broker.journal.recovery import Observer, Replay

from .helpers import FaultyFiles, numbered, opened, restarted, segments, stored, written

if TYPE_CHECKING:
    from pathlib import Path

RECORDS = numbered(64)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Three segments and some, one record a sync."""
    directory = tmp_path / "data"
    written(directory, [[payload] for payload in RECORDS], segment_bytes=1024)
    assert len(segments(directory)) == 4
    return directory


def records(path: Path) -> list[tuple[int, int]]:
    """Start and size of each record in a segment."""
    data = path.read_bytes()
    seed = decode_file_header(path, data, SEGMENT_MAGIC).seed
    found = []
    offset = FILE_HEADER_BYTES
    while (head := decode_head(data, offset, seed)) is not None:
        found.append((offset, head.size))
        offset += head.size
    return found


def put(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def refusal(directory: Path) -> JournalDamagedError:
    before = {path.name: path.read_bytes() for path in segments(directory)}
    with pytest.raises(JournalDamagedError) as caught:
        restarted(directory)
    assert before == {path.name: path.read_bytes() for path in segments(directory)}
    return caught.value


def test_a_refusal_names_the_file_the_offset_and_what_to_do(directory: Path) -> None:
    path = segments(directory)[1]
    (offset, _) = records(path)[3]
    put(path, offset + 45, b"!")
    damage = refusal(directory)
    assert (damage.file, damage.offset) == (path, offset)
    for part in (str(path), f"byte {offset}", "checksum of record", "tollgate journal repair"):
        assert part in str(damage)


@pytest.mark.parametrize(("one", "other"), [(0, 1), (1, 2), (2, 3)])
def test_swapped_segments(directory: Path, one: int, other: int) -> None:
    first, second = segments(directory)[one], segments(directory)[other]
    second.rename(directory / "aside")
    first.rename(second)
    (directory / "aside").rename(first)
    refusal(directory)


def test_a_missing_segment(directory: Path) -> None:
    segments(directory)[1].unlink()
    damage = refusal(directory)
    assert damage.file == segments(directory)[1]
    assert "segment 2, which comes before it, is missing" in damage.reason


def test_a_missing_first_segment(directory: Path) -> None:
    segments(directory)[0].unlink()
    assert "no segment begins with record 1" in refusal(directory).reason


def test_a_doubled_segment(directory: Path) -> None:
    shutil.copy(segments(directory)[-1], directory / "segment-0000000005")
    assert "it is segment 4" in refusal(directory).reason


def test_a_segment_of_another_journal(directory: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    written(other, [[payload.upper()] for payload in RECORDS], segment_bytes=1024)
    shutil.copy(segments(other)[2], segments(directory)[2])
    assert "does not follow record" in refusal(directory).reason


def test_a_stale_segment(directory: Path, tmp_path: Path) -> None:
    """An older state of a closed segment, as a restored backup may have it."""
    older = tmp_path / "older"
    written(older, [[payload] for payload in RECORDS[:25]], segment_bytes=1024)
    shutil.copy(segments(older)[1], segments(directory)[1])
    assert "does not follow record 25" in refusal(directory).reason


def test_a_doubled_record(directory: Path) -> None:
    path = segments(directory)[-1]
    (start, size), (next_start, _) = records(path)[2:4]
    data = path.read_bytes()
    put(path, next_start, data[start : start + size] + data[next_start:-size])
    assert refusal(directory).offset == next_start


def test_a_missing_record(directory: Path) -> None:
    path = segments(directory)[-1]
    start, size = records(path)[3]
    data = path.read_bytes()
    put(path, start, data[start + size :] + bytes(size))
    damage = refusal(directory)
    assert damage.offset == start
    assert "is where record" in damage.reason


def test_swapped_records(directory: Path) -> None:
    path = segments(directory)[-1]
    (start, size), (next_start, next_size) = records(path)[3:5]
    data = path.read_bytes()
    put(path, start, data[next_start : next_start + next_size] + data[start : start + size])
    assert refusal(directory).offset == start


def test_a_stale_record(directory: Path, tmp_path: Path) -> None:
    """A record of the same length and sequence from another journal replaces it."""
    other = tmp_path / "other"
    written(other, [[payload.upper()] for payload in RECORDS], segment_bytes=1024)
    start, size = records(segments(other)[0])[2]
    put(segments(directory)[0], start, segments(other)[0].read_bytes()[start : start + size])
    assert refusal(directory).offset == start


def test_records_after_a_hole_of_zeroes(directory: Path) -> None:
    """Several synced records have turned to zeroes, and later ones are left."""
    path = segments(directory)[-1]
    start, _ = records(path)[0]
    last_start, _ = records(path)[-1]
    put(path, start, bytes(last_start - start))
    assert "was synced before record" in refusal(directory).reason


def test_a_torn_write_in_a_closed_segment(directory: Path) -> None:
    path = segments(directory)[0]
    start, size = records(path)[-1]
    put(path, start, bytes(size - 1))
    assert refusal(directory).file == path
    put(path, start, bytes(size))
    assert "does not follow record" in refusal(directory).reason


class Noting(Observer):
    def __init__(self) -> None:
        self.notes: list[tuple[str, int, int]] = []

    def torn(self, file: Path, offset: int, length: int) -> None:
        self.notes.append((file.name, offset, length))


def tear(path: Path) -> tuple[int, int]:
    """Remove the end of the last record, and write something after it."""
    start, size = records(path)[-1]
    put(path, start + 45, bytes(size - 45))
    put(path, start + size, b"\xee" * 10)
    return start, size + 10


def test_a_torn_write_is_cut_off_reported_and_zeroed(directory: Path) -> None:
    path = segments(directory)[-1]
    start, length = tear(path)
    observer = Noting()
    journal = opened(directory, observer=observer)
    assert observer.notes == [(path.name, start, length)]
    assert not any(path.read_bytes()[start:])
    journal.append([b"after"])
    journal.close()
    assert restarted(directory) == [*RECORDS[:-1], b"after"]


def test_a_torn_write_is_seen_again_if_zeroing_it_failed(directory: Path) -> None:
    """After the failed sync the zeroes are in memory and not on the disk."""
    path = segments(directory)[-1]
    start, length = tear(path)
    files = FaultyFiles()
    files.fail("sync_data", 1, errno.EIO)
    with pytest.raises(JournalFailedError):
        opened(directory, files=files)
    observer = Noting()
    assert [entry.payload for entry in Replay(directory, observer=observer)] == RECORDS[:-1]
    assert observer.notes == [(path.name, start, length)]


def test_a_refused_journal_is_not_written_to(directory: Path) -> None:
    put(segments(directory)[0], 80, b"!")
    with pytest.raises(JournalError):
        stored(directory)
    refusal(directory)
    refusal(directory)

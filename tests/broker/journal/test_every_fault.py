"""A journal of 100 records in several segments: every bit flipped, and cut to every length.

The outcome is the exact prefix or a refusal, never a wrong state; and as all records were synced,
a flipped bit in one of them never looks like a torn write. `make test` flips one bit of each byte,
and cuts closed segments to every eighth length. The journal began in format 1, or is of format 1
throughout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tollgate.broker.journal import JournalError
from tollgate.broker.journal.file import FileJournal
from tollgate.broker.journal.snapshot import read_snapshot, verify_snapshot, write_snapshot

from .helpers import (
    FULL,
    MemoryFiles,
    knowing_format,
    numbered,
    restarted,
    segments,
    stored,
    written,
)

if TYPE_CHECKING:
    from pathlib import Path

RECORDS = numbered(100)


@pytest.fixture(scope="module", params=[40])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the journal; so many of its records are of format 1."""
    directory = tmp_path_factory.mktemp("journal")
    batches = [RECORDS[start : start + 4] for start in range(0, 100, 4)]
    old = request.param // 4
    with knowing_format(1):
        written(directory, batches[:old], segment_bytes=1500)
    written(directory, batches[old:], segment_bytes=1500)
    assert len(segments(directory)) >= 4
    return directory


to_its_end = pytest.mark.parametrize("directory", [40, 100], indirect=True)
"""Also with a last segment of format 1."""


def places(bit: int, size: int) -> range:
    """Return the bytes in which to flip this bit."""
    return range(size) if FULL else range(bit, size, 8)


def outcome(directory: Path, files: MemoryFiles) -> list[bytes] | None:
    """Return what a start finds, None if it refuses."""
    try:
        return stored(directory, files)
    except JournalError:
        return None


@pytest.mark.parametrize("bit", range(8))
def test_every_flipped_bit(directory: Path, bit: int) -> None:
    files = MemoryFiles(directory)
    assert outcome(directory, files) == RECORDS
    for path in segments(directory):
        whole = files.contents[path.name]
        written_bytes = len(whole.rstrip(b"\0"))
        flipped = bytearray(whole)
        for place in places(bit, len(whole)):
            flipped[place] ^= 1 << bit
            files.contents[path.name] = bytes(flipped)
            found = outcome(directory, files)
            flipped[place] ^= 1 << bit
            if place < written_bytes:
                assert found is None, (path.name, place)
            else:
                assert found in (None, RECORDS), (path.name, place)
        files.contents[path.name] = whole


@to_its_end
def test_every_truncation(directory: Path) -> None:
    files = MemoryFiles(directory)
    last = segments(directory)[-1]
    for path in segments(directory):
        whole = files.contents[path.name]
        written_bytes = len(whole.rstrip(b"\0"))
        for length in range(0, len(whole), 1 if FULL or path == last else 8):
            files.contents[path.name] = whole[:length]
            found = outcome(directory, files)
            if length >= written_bytes:
                assert found == RECORDS
            elif path != last or length < 36:
                assert found is None, (path.name, length)
            else:
                assert found is not None
                assert found == RECORDS[: len(found)] != RECORDS
        files.contents[path.name] = whole


@to_its_end
def test_every_truncation_in_real_files_and_appends_after_it(
    tmp_path: Path, directory: Path
) -> None:
    """The same in real files, with a complete start, appends and a second start."""
    *earlier, last = segments(directory)
    whole = last.read_bytes()
    for length in range(36, len(whole.rstrip(b"\0")) + 1, 5 if FULL else 17):
        copy = tmp_path / str(length)
        copy.mkdir()
        for path in earlier:
            (copy / path.name).hardlink_to(path)
        (copy / last.name).write_bytes(whole[:length])
        journal = FileJournal(copy, "never", 1500)
        found = [entry.payload for entry in journal.replay()]
        assert found == RECORDS[: len(found)]
        journal.append([b"after"])
        journal.close()
        assert restarted(copy) == [*found, b"after"]


def test_every_zeroed_sector_that_was_synced(tmp_path: Path) -> None:
    """Except two sectors at the end: after the last sync nothing proves that they were written."""
    written(tmp_path, [[bytes([65 + n]) * 150] for n in range(20)], segment_bytes=8192)
    files = MemoryFiles(tmp_path)
    (path,) = segments(tmp_path)
    whole = files.contents[path.name]
    end = len(whole.rstrip(b"\0"))
    for start in range(0, end - 1024, 512):
        files.contents[path.name] = whole[:start] + bytes(512) + whole[start + 512 :]
        assert outcome(tmp_path, files) is None, start


@pytest.mark.parametrize("bit", range(8))
def test_every_flipped_bit_and_truncation_of_a_snapshot(tmp_path: Path, bit: int) -> None:
    path = write_snapshot(tmp_path, 41, 7, [b"chunk one", b"", bytes(200), b"chunk four"])
    files = MemoryFiles(tmp_path)
    whole = files.contents[path.name]
    assert len(list(read_snapshot(path, files))) == 4
    for place in places(bit, len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << bit
        for damaged in (bytes(flipped), whole[:place], whole + b"\0" * (place + 1)):
            files.contents[path.name] = damaged
            with pytest.raises(JournalError):
                verify_snapshot(path, files)

"""Journals of every format stay readable, from files written once and kept.

A directory may hold files of both formats: what a tollgate of format 1 left, and what was added.
"""

from __future__ import annotations

import errno
import shutil
from contextlib import closing
from pathlib import Path

import pytest
from crc32c import crc32c

from tollgate.broker.compaction import compact, delete
from tollgate.broker.journal import (
    RECORD,
    SNAPSHOT_CHUNK,
    JournalDamagedError,
    JournalVersionError,
)
from tollgate.broker.journal.backup import backup
from tollgate.broker.journal.format import VERSION
from tollgate.broker.journal.inspect import dump, verify
from tollgate.broker.journal.repair import repair

from .helpers import (
    FaultyFiles,
    knowing_format,
    numbered,
    opened,
    restarted,
    segments,
    stored,
    written,
)

DATA = Path(__file__).parent / "data"

ENTRIES = [
    (2, SNAPSHOT_CHUNK, b"first"),
    (2, SNAPSHOT_CHUNK, b""),
    (3, RECORD, bytes(range(256))),
    (4, RECORD, bytes(100)),
    (5, RECORD, "Übertrag \N{SNOWMAN}".encode()),
    (6, RECORD, b"x" * 700),
    (7, RECORD, b"y" * 300),
    (8, RECORD, b"last"),
]
PAYLOADS = [payload for _, _, payload in ENTRIES]

every_format = pytest.mark.parametrize("kept", ["format-1", "format-2"])


def version_of(path: Path) -> int:
    return int.from_bytes(path.read_bytes()[8:12], "little")


def versions(directory: Path) -> list[int]:
    """Return the format of each snapshot and then of each segment."""
    return [version_of(path) for path in [*sorted(directory.glob("snap*")), *segments(directory)]]


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "lock"}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Return a copy of a directory in format 1: a snapshot, two segments, and a torn write."""
    shutil.copytree(DATA / "format-1", tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def mixed(old: Path) -> Path:
    """Return that directory continued: two segments of format 2 with three records each."""
    for payloads in (numbered(6)[:3], numbered(6)[3:]):
        with closing(opened(old)) as journal:
            journal.append(payloads)
            journal.close_segment()
    assert versions(old) == [1, 1, 1, 2, 2, 2]
    return old


@every_format
def test_every_format_is_read_exactly(kept: str) -> None:
    assert list(dump(DATA / kept)) == ENTRIES
    reports, refusal = verify(DATA / kept)
    assert refusal is None
    assert [(report.file.name, report.first, report.last) for report in reports] == [
        ("snapshot-00000000000000000002", 1, 2),
        ("segment-0000000002", 3, 6),
        ("segment-0000000003", 7, 8),
    ]
    assert reports[-1].torn_bytes == 241


@every_format
def test_every_format_is_started_on_and_continued(tmp_path: Path, kept: str) -> None:
    directory = tmp_path / "data"
    shutil.copytree(DATA / kept, directory)
    assert restarted(directory) == PAYLOADS
    written(directory, [[b"after"], [b"that"]])
    assert stored(directory) == [*PAYLOADS, b"after", b"that"]
    written(directory, [[b"once more"]])
    assert restarted(directory) == [*PAYLOADS, b"after", b"that", b"once more"]


def test_every_format_up_to_this_one_is_kept() -> None:
    assert {path.name for path in DATA.iterdir()} == {
        f"format-{version}" for version in range(1, VERSION + 1)
    }


@every_format
def test_kept_files_have_the_format_they_are_named_for(kept: str) -> None:
    assert versions(DATA / kept) == [int(kept[-1])] * 3


# --- after an upgrade -----------------------------------------------------------------------------


def test_a_segment_of_format_1_gets_no_record(old: Path) -> None:
    before = contents(old)
    written(old, [[b"after"], [b"that"]])
    after = contents(old)
    torn = before.pop("segment-0000000003")
    cut = after.pop("segment-0000000003")
    assert torn.startswith(cut.rstrip(b"\0"))
    assert after.pop("segment-0000000004")[8] == 2
    assert after == before


def test_a_start_alone_leaves_a_directory_of_format_1(old: Path) -> None:
    restarted(old)
    assert versions(old) == [1, 1, 1]
    with knowing_format(1):
        assert restarted(old) == PAYLOADS


def test_a_tollgate_of_format_1_refuses_what_was_added(old: Path) -> None:
    written(old, [[b"after"]])
    before = contents(old)
    with knowing_format(1), pytest.raises(JournalVersionError, match="segment-0000000004") as fault:
        restarted(old)
    assert "has journal format 2" in str(fault.value)
    assert "formats up to 1" in str(fault.value)
    assert contents(old) == before


def test_a_compacted_directory_is_refused_by_format_1(tmp_path: Path) -> None:
    """The closed segments were of format 1, and no record was added: the snapshot tells."""
    with knowing_format(1):
        written(tmp_path, [[b"x" * 1000] for _ in range(5)])
    assert len(segments(tmp_path)) > 2
    compacted(tmp_path)
    assert versions(tmp_path) == [2, 1]
    assert restarted(tmp_path) == [b"x" * 1000] * 5
    with knowing_format(1), pytest.raises(JournalVersionError, match="snapshot-"):
        restarted(tmp_path)


def test_a_batch_has_room_after_a_segment_of_format_1(old: Path) -> None:
    with closing(opened(old)) as journal:
        assert journal.room(100)
        assert (old / "next.tmp").stat().st_size == 2048
        journal.append([b"x" * 100])
        journal.sync()
        assert journal.durable == 9
    assert version_of(old / "segment-0000000004") == 2


def test_without_room_a_directory_stays_in_format_1(old: Path) -> None:
    files = FaultyFiles()
    with closing(opened(old, files=files)) as journal:
        files.fail("allocate", 1, errno.ENOSPC)
        assert not journal.room(100)
        assert journal.look() is None
    with knowing_format(1):
        assert restarted(old) == PAYLOADS


def test_an_empty_segment_of_format_1_is_left_empty(tmp_path: Path) -> None:
    with knowing_format(1), closing(opened(tmp_path)) as journal:
        journal.append([b"one"])
        journal.close_segment()
    written(tmp_path, [[b"two"]])
    assert versions(tmp_path) == [1, 1, 2]
    assert restarted(tmp_path) == [b"one", b"two"]
    compacted(tmp_path)
    assert restarted(tmp_path) == [b"one", b"two"]
    assert versions(tmp_path) == [2, 2]


# --- a directory with files of both formats -------------------------------------------------------


def compacted(directory: Path) -> None:
    """Replace the closed segments by a snapshot of the records themselves."""
    with closing(opened(directory)) as journal:
        closed = journal.closed_segments()[-1]
        names = compact(directory, closed, lambda entries: [entry.payload for entry in entries])
        delete(directory, names)


def test_a_mixed_directory_is_read_and_verified(mixed: Path) -> None:
    expected = [*ENTRIES, *((9 + n, RECORD, each) for n, each in enumerate(numbered(6)))]
    assert list(dump(mixed)) == expected
    reports, refusal = verify(mixed)
    assert refusal is None
    assert [report.problem for report in reports] == [None] * 6
    assert reports[2].torn_bytes == 0


def test_a_mixed_directory_is_compacted_to_format_2(mixed: Path) -> None:
    compacted(mixed)
    assert versions(mixed) == [2, 2]
    assert restarted(mixed) == [*PAYLOADS, *numbered(6)]


def test_a_mixed_directory_is_backed_up_and_continued(mixed: Path, tmp_path: Path) -> None:
    target = tmp_path / "backup"
    assert backup(mixed, target, stored) == [*PAYLOADS, *numbered(6)]
    assert versions(target) == versions(mixed)
    written(target, [[b"after"]])
    assert restarted(target) == [*PAYLOADS, *numbered(6), b"after"]


@pytest.mark.parametrize(
    ("name", "left"),
    [("segment-0000000003", PAYLOADS[:7]), ("segment-0000000004", PAYLOADS)],
)
def test_a_mixed_directory_is_repaired(mixed: Path, name: str, left: list[bytes]) -> None:
    data = bytearray((mixed / name).read_bytes())
    place = data.find(b"last" if name.endswith("3") else b"payload 1")
    data[place] ^= 1
    (mixed / name).write_bytes(data)
    with pytest.raises(JournalDamagedError):
        restarted(mixed)
    assert [damage.file.name for damage in repair(mixed).found] == [name]
    assert restarted(mixed) == left
    written(mixed, [[b"after"]])
    assert restarted(mixed) == [*left, b"after"]
    assert versions(mixed)[-1] == 2


@pytest.mark.parametrize("lost", [1, 2, 3, 4])
def test_a_mixed_directory_without_one_segment_is_refused(mixed: Path, lost: int) -> None:
    segments(mixed)[lost - 1].unlink()
    with pytest.raises(JournalDamagedError):
        restarted(mixed)


# --- a format of the future -----------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["segment-*4", "segment-*2", "snapshot-*"])
def test_a_newer_format_is_refused_and_left_alone(
    mixed: Path, tmp_path: Path, pattern: str
) -> None:
    """In any file that a start reads: by a start, a check, a repair and a backup."""
    (path,) = mixed.glob(pattern)
    _rewritten(path, VERSION + 1)
    before = contents(mixed)
    said = "has journal format 3, and this tollgate reads formats up to 2"
    for act in (restarted, repair, lambda each: backup(each, tmp_path / "copy", stored)):
        with pytest.raises(JournalVersionError, match=f"{path.name} {said}"):
            act(mixed)
    found = verify(mixed)
    assert said in str(found.refusal)
    assert [report.file.name for report in found.files if report.problem] == [path.name]
    assert contents(mixed) == before


def test_a_format_without_a_number_is_refused(mixed: Path) -> None:
    _rewritten(segments(mixed)[-1], 0)
    with pytest.raises(JournalVersionError, match="format 0"):
        restarted(mixed)


def _rewritten(path: Path, version: int) -> None:
    """Put this format into the file's header, with the checksum that belongs to it."""
    data = path.read_bytes()
    header = data[:8] + version.to_bytes(4, "little") + data[12:32]
    path.write_bytes(header + crc32c(header).to_bytes(4, "little") + data[36:])

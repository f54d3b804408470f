"""Verify and dump change nothing; repair cuts at the first damage and keeps what it cuts."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tollgate.broker.compaction import compact, delete
from tollgate.broker.journal import (
    JournalDamagedError,
    JournalError,
    JournalLockedError,
)
from tollgate.broker.journal.inspect import dump, verify
from tollgate.broker.journal.repair import repair

from .helpers import numbered, opened, restarted, segments, written
from .power_loss import unchanged

if TYPE_CHECKING:
    from pathlib import Path

RECORDS = numbered(64)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Four segments."""
    directory = tmp_path / "data"
    written(directory, [[payload] for payload in RECORDS], segment_bytes=1024)
    assert len(segments(directory)) == 4
    return directory


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "lock"}


def damage(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


def test_verify_reports_each_file_of_a_sound_journal(directory: Path) -> None:
    before = contents(directory)
    reports, refusal = verify(directory)
    assert refusal is None
    assert [report.file for report in reports] == segments(directory)
    assert reports[0].first == 1
    assert reports[-1].last == 64
    for report, following in pairwise(reports):
        assert report.last + 1 == following.first
    for report in reports:
        assert report.problem is None
        assert (report.size_bytes, report.torn_bytes) == (1024, 0)
        assert report.used_bytes == len(report.file.read_bytes().rstrip(b"\0"))
    assert contents(directory) == before


def test_verify_finds_every_damaged_file_and_predicts_a_start(directory: Path) -> None:
    paths = segments(directory)
    damage(paths[1], 300)
    damage(paths[2], 20)
    reports, refusal = verify(directory)
    assert [report.problem is None for report in reports] == [True, False, False, True]
    assert "checksum of record" in str(reports[1].problem)
    assert "checksum of its header" in str(reports[2].problem)
    assert "tollgate journal repair" in str(refusal)


def test_verify_tells_a_torn_write_from_damage(directory: Path) -> None:
    path = segments(directory)[-1]
    data = path.read_bytes()
    end = len(data.rstrip(b"\0"))
    path.write_bytes(data[: end - 3] + bytes(len(data) - end + 3))
    *_, report = verify(directory).files
    assert (report.problem, report.last) == (None, 63)
    assert report.torn_bytes == end - 3 - report.used_bytes > 40
    assert verify(directory).refusal is None


def test_verify_and_dump_beside_a_broker_that_is_writing(directory: Path) -> None:
    journal = opened(directory)
    path = segments(directory)[-1]
    end = len(path.read_bytes().rstrip(b"\0"))
    with path.open("r+b") as file:
        file.seek(end)
        file.write(b"half of a record, and of a kind that no power loss leaves")
    assert [entry.payload for entry in dump(directory)] == RECORDS
    assert verify(directory).refusal is None
    assert verify(directory).files[-1].problem is None
    journal.close()
    assert verify(directory).refusal is not None
    with pytest.raises(JournalDamagedError):
        list(dump(directory))


def test_verify_a_snapshot(directory: Path) -> None:
    journal = opened(directory)
    closed = journal.closed_segments()[-1]
    compact(directory, closed, unchanged)
    journal.close()
    report = verify(directory).files[0]
    assert (report.first, report.last, report.problem) == (1, closed.sequence, None)
    damage(report.file, 100)
    reports, refusal = verify(directory)
    assert reports[0].problem is not None
    assert refusal is None  # All the segments are there.


def test_repair_does_nothing_to_a_sound_journal(directory: Path) -> None:
    before = contents(directory)
    assert repair(directory) == ([], [], [], 64)
    assert contents(directory) == before


def test_repair_is_refused_beside_a_broker(directory: Path) -> None:
    journal = opened(directory)
    with pytest.raises(JournalLockedError):
        repair(directory)
    journal.close()


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_repair_cuts_a_damaged_segment_and_moves_later_ones(directory: Path, place: int) -> None:
    path = segments(directory)[place]
    damage(path, 300)
    before = contents(directory)
    done = repair(directory)
    assert [found.file for found in done.found] == [path]
    assert done.kept == [path.with_name(path.name + ".damaged-1")]
    assert [moved.name for moved in done.moved] == [
        f"segment-{number:010d}.damaged-1" for number in range(place + 2, 5)
    ]
    after = contents(directory)
    assert after[done.kept[0].name] == before[path.name]
    for moved in done.moved:
        assert after[moved.name] == before[moved.name.removesuffix(".damaged-1")]
    assert 0 < done.sequence < 64
    assert verify(directory).refusal is None
    written(directory, [[b"after"]])
    assert restarted(directory) == [*RECORDS[: done.sequence], b"after"]


def test_repair_sets_a_segment_with_a_damaged_header_aside(directory: Path) -> None:
    path = segments(directory)[2]
    damage(path, 9)
    done = repair(directory)
    assert done.kept == []
    assert len(done.moved) == 2
    assert restarted(directory) == RECORDS[: done.sequence]


def test_repair_of_a_journal_with_a_hole(directory: Path) -> None:
    segments(directory)[1].rename(directory / "elsewhere")
    done = repair(directory)
    assert [moved.name for moved in done.moved] == [
        "segment-0000000003.damaged-1",
        "segment-0000000004.damaged-1",
    ]
    assert restarted(directory) == RECORDS[: done.sequence]


def test_repair_twice_overwrites_no_copy(directory: Path) -> None:
    path = segments(directory)[0]
    damage(path, 500)
    first = repair(directory)
    written(directory, [[b"again"]])
    damage(path, 300)
    second = repair(directory)
    assert second.kept[0].name == f"{path.name}.damaged-2"
    assert second.moved == []
    assert 0 < second.sequence < first.sequence
    assert restarted(directory) == RECORDS[: second.sequence]


def test_repair_refuses_to_leave_nothing(directory: Path) -> None:
    damage(segments(directory)[0], 60)
    before = contents(directory)
    with pytest.raises(JournalError, match="a cut would leave nothing: restore a backup"):
        repair(directory)
    assert contents(directory) == before


def compacted(directory: Path, closed: int) -> None:
    journal = opened(directory)
    delete(directory, compact(directory, journal.closed_segments()[closed], unchanged))
    journal.close()


def test_repair_refuses_when_the_only_snapshot_is_gone(directory: Path) -> None:
    compacted(directory, -1)
    damage(next(directory.glob("snapshot-*")), 100)
    with pytest.raises(JournalError, match="restore a backup"):
        repair(directory)


def test_repair_keeps_a_snapshot_without_later_segments(directory: Path) -> None:
    compacted(directory, 1)
    for path in segments(directory):
        damage(path, 9)
    done = repair(directory)
    assert len(done.moved) == 2
    written(directory, [[b"after"]])
    assert restarted(directory) == [*RECORDS[: done.sequence], b"after"]


def test_repair_goes_back_to_an_older_snapshot(directory: Path) -> None:
    compacted(directory, 0)
    older = next(directory.glob("snapshot-*")).read_bytes()
    name = next(directory.glob("snapshot-*")).name
    compacted(directory, -1)
    newer = next(directory.glob("snapshot-*"))
    damage(newer, 100)
    (directory / name).write_bytes(older)
    with pytest.raises(JournalDamagedError) as caught:
        restarted(directory)
    assert caught.value.file == newer
    done = repair(directory)
    assert f"{newer.name}.damaged-1" in {moved.name for moved in done.moved}
    written(directory, [[b"after"]])
    assert restarted(directory) == [*RECORDS[: done.sequence], b"after"]

"""Journals of every format stay readable, from files written once and kept."""

from __future__ import annotations

import shutil
from pathlib import Path

from tollgate.broker.journal import RECORD, SNAPSHOT_CHUNK
from tollgate.broker.journal.format import VERSION
from tollgate.broker.journal.inspect import dump, verify

from .helpers import restarted, stored, written

DATA = Path(__file__).parent / "data"

FORMAT_1 = [
    (2, SNAPSHOT_CHUNK, b"first"),
    (2, SNAPSHOT_CHUNK, b""),
    (3, RECORD, bytes(range(256))),
    (4, RECORD, bytes(100)),
    (5, RECORD, "Übertrag \N{SNOWMAN}".encode()),
    (6, RECORD, b"x" * 700),
    (7, RECORD, b"y" * 300),
    (8, RECORD, b"last"),
]


def test_format_1_is_read_exactly() -> None:
    assert list(dump(DATA / "format-1")) == FORMAT_1
    reports, refusal = verify(DATA / "format-1")
    assert refusal is None
    assert [(report.file.name, report.first, report.last) for report in reports] == [
        ("snapshot-00000000000000000002", 1, 2),
        ("segment-0000000002", 3, 6),
        ("segment-0000000003", 7, 8),
    ]
    assert reports[-1].torn_bytes == 241


def test_format_1_is_started_on_and_continued(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    shutil.copytree(DATA / "format-1", directory)
    payloads = [payload for _, _, payload in FORMAT_1]
    assert restarted(directory) == payloads
    written(directory, [[b"after"]])
    assert stored(directory) == [*payloads, b"after"]


def test_every_format_up_to_this_one_is_kept() -> None:
    assert {path.name for path in DATA.iterdir()} == {
        f"format-{version}" for version in range(1, VERSION + 1)
    }

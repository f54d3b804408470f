"""Journals of earlier trees stay readable: jobs, leases, sessions, deadlines.

`data/said.json` is what the tree that wrote format 1 said about each of them, see
`make_old_journals`. Today's core is asked the same.
"""

import json
import shutil
from datetime import datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.broker.core.make_old_journals import said
from tollgate.broker.compaction import compact_directory, delete
from tollgate.broker.core.replay import replay
from tollgate.broker.core.state import State
from tollgate.broker.journal.file import FileJournal

DATA = Path(__file__).parent / "data"
THEN = json.loads((DATA / "said.json").read_text(encoding="utf-8"))
KEPT = ["format-1", "journal-1", "compacted-1", "journal-1 compacted today"]

every_journal = pytest.mark.parametrize("name", KEPT)


@cache
def now(name: str) -> Any:
    """Return what this core says about a journal; "compacted today" folds it first."""
    kept, _, compacted = name.partition(" ")
    with TemporaryDirectory() as place:
        directory = Path(place) / "data"
        shutil.copytree(DATA / kept, directory)
        if compacted:
            fold(directory)
        facts = then(name)
        frames = [bytes.fromhex(frame) for frame, _ in facts["repeats"]]
        return said(directory, datetime.fromisoformat(facts["wall"]), frames)


def then(name: str) -> Any:
    """Return what the old tree said: the same of the journal and of its compacted form."""
    return THEN["format-1" if name == "format-1" else "journal-1"]


def fold(directory: Path) -> None:
    """Put the whole journal into a snapshot, as `tollgate journal compact` does."""
    journal = FileJournal(directory)
    replay(journal.replay(), State())
    journal.close_segment()
    delete(directory, compact_directory(directory))
    journal.close()


@every_journal
def test_an_old_journal_has_the_same_jobs(name: str) -> None:
    assert [job["job_id"] for job in now(name)["jobs"]] == [
        job["job_id"] for job in then(name)["jobs"]
    ]
    for job, before in zip(now(name)["jobs"], then(name)["jobs"], strict=True):
        assert job == before
    assert now(name)["payment"] == then(name)["payment"]


@every_journal
@pytest.mark.parametrize("fact", ["counts", "standing", "claims", "session", "last"])
def test_an_old_journal_means_the_same(name: str, fact: str) -> None:
    """Counts, leases, what is claimed and under which tokens, the next session, the newest job."""
    assert now(name)[fact] == then(name)[fact]


@every_journal
def test_old_requests_are_answered_as_before(name: str) -> None:
    for (_, answer), (_, before) in zip(now(name)["repeats"], then(name)["repeats"], strict=True):
        assert answer == before


@every_journal
def test_an_old_journal_goes_on_in_time_as_before(name: str) -> None:
    """Leases lapse, deadlines pass, and finished jobs are removed."""
    assert now(name)["later"] == then(name)["later"]

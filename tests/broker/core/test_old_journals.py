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
from tests.core import job_id
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


def as_then(now: Any, then: Any) -> Any:
    """Return what is said now without the fields that were added since."""
    if isinstance(now, dict) and isinstance(then, dict):
        return {
            key: as_then(value, then.get(key)) for key, value in now.items() if key not in ADDED
        }
    if isinstance(now, list) and isinstance(then, list) and len(now) == len(then):
        return [as_then(*pair) for pair in zip(now, then, strict=True)]
    return now


ADDED = {"attempts", "inputs", "as_of", "by_settlement"}


@every_journal
@pytest.mark.parametrize("fact", ["jobs", "payment", "counts", "standing", "session", "last"])
def test_an_old_journal_means_the_same(name: str, fact: str) -> None:
    """The jobs and their order, the counts, which leases stand, and the next session."""
    assert as_then(now(name)[fact], then(name)[fact]) == then(name)[fact]


@every_journal
def test_old_requests_are_answered_as_before(name: str) -> None:
    assert as_then(now(name)["repeats"], then(name)["repeats"]) == then(name)["repeats"]


@every_journal
def test_an_old_journal_goes_on_in_time_as_before(name: str) -> None:
    """Leases lapse, deadlines pass, and finished jobs are removed."""
    assert now(name)["later"] == then(name)["later"]


ENTERED_FIRST = {
    "format-1": [4],
    "journal-1": [19, 21, 20],
    "compacted-1": [19, 20, 21],
    "journal-1 compacted today": [19, 21, 20],
}
"""Running jobs never leased: in the order in which they became running, and those of an old
snapshot in order of creation, as its tree granted them."""
FREED_LAST = {"format-1": [3], "journal-1": [12, 2]}
"""Running jobs that were released, and the one that was answered last. They come behind today."""


@every_journal
def test_an_old_journal_is_claimed_in_order_of_freeing(name: str) -> None:
    """And under the same tokens as before; the other statuses in the same order, too."""
    claims, before = now(name)["claims"], then(name)["claims"]
    freed = FREED_LAST.get(name, FREED_LAST["journal-1"])
    expected = [job_id(number) for number in [*ENTERED_FIRST[name], *freed]]
    assert [granted for granted, _ in claims["running"]] == expected
    assert sorted(expected) == sorted(granted for granted, _ in before["running"])
    assert [token for _, token in claims["running"]] == [token for _, token in before["running"]]
    assert claims["awaiting_payment"] == before["awaiting_payment"]
    assert claims["awaiting_input"] == before["awaiting_input"]


def jobs_of(name: str) -> dict[str, Any]:
    return {job["job_id"]: job for job in now(name)["jobs"]}


@every_journal
def test_lapses_of_an_old_journal_are_attempts(name: str) -> None:
    attempts = {each: job["attempts"] for each, job in jobs_of(name).items() if job.get("attempts")}
    expected = {"format-1": {1: 1}, "compacted-1": {6: 1}}.get(name, {1: 2, 6: 1})
    assert attempts == {job_id(number): count for number, count in expected.items()}


@every_journal
def test_questions_of_an_old_journal_are_rounds(name: str) -> None:
    """All of them; of a job in an old snapshot the last one, which is all that it has."""
    rounds = {
        each: [asked["version"] for asked in job["inputs"]]
        for each, job in jobs_of(name).items()
        if "inputs" in job
    }
    expected = {
        "format-1": {1: [3]},
        "compacted-1": {1: [5], 2: [5], 3: [3]},
    }.get(name, {1: [3, 5], 2: [3, 5], 3: [3]})
    assert rounds == {job_id(number): versions for number, versions in expected.items()}

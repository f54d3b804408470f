"""The audit itself: it finds every planted fault, and accepts a correct job."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.audit import Audit, Case
from tests.chaos.harness import Figures
from tests.chaos.notes import BEGUN, FAULT, FINISHED, LEFT, Note
from tests.chaos.scripts import End, Fault, Script
from tests.chaos.workers import PLACES, Life, Workers
from tollgate import Job, JobStatus
from tollgate.client.results import History
from tollgate.domain.results import HistoryEntry

START = datetime(2026, 1, 1, tzinfo=UTC)
SCRIPT = Script(number=7, queue="alpha", end=End.RESULT, faults=(Fault.RAISE,))
REASON = "ScriptedError: fault 0 of job 7"


def entry(at: float, what: str, **fields: Any) -> HistoryEntry:
    return HistoryEntry(START + timedelta(seconds=at), what, **fields)


def note(
    at: float, what: str, run: str, attempt: int, detail: str = "", *, worker: str = "w"
) -> Note:
    return Note(START.timestamp() + at, what, "id", run, worker, 5, attempt, detail)


class Told:
    """A correct job: its first call raises, its second one returns."""

    def __init__(self) -> None:
        self.entries = [
            entry(0, "created"),
            entry(1, "claimed", client="w"),
            entry(2, "released", client="w", attempt=1, reason=REASON),
            entry(3, "claimed", client="w", attempt=2),
            entry(4, "moved", to="completed", client="w"),
        ]
        self.notes = [
            note(1.1, BEGUN, "aa", 1),
            note(1.2, FAULT, "aa", 1, Fault.RAISE),
            note(3.1, BEGUN, "bb", 2),
            note(3.2, FINISHED, "bb", 2),
        ]
        self.job: dict[str, Any] = {"attempts": 1, "result": "job 7: : bb"}
        self.log = f"job id: try 1 of 10: {REASON}"
        self.stopped: list[tuple[float, float]] = []
        """When the first worker was frozen."""
        self.standstills: list[tuple[float, float]] = []
        self.children_killed: dict[int, tuple[str, float]] = {}
        self.broker_away: list[tuple[float, float]] = []

    def ends_unnoted(self, reason: str, after_s: float) -> "Told":
        """Let the first call end before its handler has written anything."""
        self.entries[2] = entry(1 + after_s, "released", client="w", attempt=1, reason=reason)
        self.entries[3:] = [
            entry(8, "claimed", client="w", attempt=2),
            entry(9, "moved", to="completed", client="w"),
        ]
        self.notes = [note(8.1, BEGUN, "bb", 2), note(8.2, FINISHED, "bb", 2)]
        self.job["updated_at"] = START + timedelta(seconds=9)
        self.log = f"job id: try 1 of 10: {reason}"
        return self

    def lapses(self, *, is_moved: bool = True) -> "Told":
        """Let the lease of the last call lapse after its result; another worker has the job."""
        self.entries[-1] = entry(5, "lapsed", reason="w", attempt=2)
        self.entries.append(entry(5.1, "claimed", client="other", attempt=3))
        self.notes.append(note(5.2, BEGUN, "cc", 3, worker="other"))
        if is_moved:
            self.notes.append(note(6, FINISHED, "cc", 3, worker="other"))
            self.entries.append(entry(6, "moved", to="completed", client="other"))
        else:
            self.entries.append(entry(6, "moved", to="completed", client="w"))
        self.job |= {
            "attempts": 2,
            "result": "job 7: : cc",
            "updated_at": START + timedelta(seconds=6),
        }
        return self


@pytest.fixture
def audited(tmp_path: Path) -> Callable[[Told], dict[str, int]]:
    def check(told: Told) -> dict[str, int]:
        figures = Figures(
            broker_away=told.broker_away,
            standstills=told.standstills,
            children_killed=told.children_killed,
        )
        audit = Audit(Workers(tmp_path, "ipc:///nowhere", 1_000, 1), figures)
        log = tmp_path / "w.log"
        log.write_text(told.log)
        nobody: Any = None
        audit.lives = {
            "w": Life("w", PLACES[0], nobody, log, told.stopped),
            "other": Life("other", PLACES[0], nobody, log),
        }
        audit._logs = {"w": told.log}
        fields: dict[str, Any] = {
            "job_id": "id", "status": JobStatus.COMPLETED, "input_hash": "0" * 64, "version": 3,
            "blockchain_identifier": "", "created_at": START,
            "updated_at": START + timedelta(seconds=4),
        }  # fmt: skip
        history = History("id", told.entries, 0, None, "")
        Case(audit, SCRIPT, Job(**{**fields, **told.job}), history, told.notes).check()
        return dict(audit.wrong)

    return check


def test_a_correct_job_is_accepted(audited: Callable[[Told], dict[str, int]]) -> None:
    assert audited(Told()) == {}


def without_a_result(told: Told) -> None:
    told.job["result"] = "job 7: : cc"


def called_after_its_end(told: Told) -> None:
    told.notes.append(note(4.5, BEGUN, "cc", 2))


def called_without_a_claim(told: Told) -> None:
    del told.entries[1]


def called_twice(told: Told) -> None:
    told.notes.append(note(3.5, BEGUN, "cc", 2))


def counted_wrong(told: Told) -> None:
    told.job["attempts"] = 2


def failed_without_a_cause(told: Told) -> None:
    del told.notes[1]


def not_logged(told: Told) -> None:
    told.log = ""


def another_end(told: Told) -> None:
    told.job |= {"status": JobStatus.FAILED, "result": None, "error": "who knows"}


def not_ended(told: Told) -> None:
    told.job |= {"status": JobStatus.RUNNING, "result": None}


def ended_twice(told: Told) -> None:
    told.entries.append(told.entries[-1])


@pytest.mark.parametrize(
    ("plant", "kind"),
    [
        (without_a_result, "result lost"),
        (called_after_its_end, "called after its end"),
        (called_without_a_claim, "called without a claim"),
        (called_twice, "called twice for a claim"),
        (counted_wrong, "tries counted wrong"),
        (failed_without_a_cause, "a try failed without a cause"),
        (not_logged, "the log does not say why"),
        (another_end, "another end"),
        (not_ended, "not ended"),
        (ended_twice, "ended more than once"),
    ],
)
def test_a_planted_fault_is_found(
    audited: Callable[[Told], dict[str, int]], plant: Callable[[Told], None], kind: str
) -> None:
    told = Told()
    plant(told)
    assert kind in audited(told)


@pytest.mark.parametrize("what", ["stopped", "standstills", "broker_away"])
def test_a_lapse_excuses_a_result_if_no_touch_was_possible(
    audited: Callable[[Told], dict[str, int]], what: str
) -> None:
    told = Told().lapses()
    getattr(told, what).append((START.timestamp() + 3.5, START.timestamp() + 4.7))
    assert audited(told) == {}


def test_a_lapse_is_a_fault_if_touches_were_possible(
    audited: Callable[[Told], dict[str, int]],
) -> None:
    told = Told().lapses()
    told.broker_away.append((START.timestamp() + 3.5, START.timestamp() + 4.2))
    assert audited(told) == {"a lease lapsed though its worker lived": 1, "result lost": 1}


def test_a_lapse_is_no_excuse_if_nobody_else_moved_the_job(
    audited: Callable[[Told], dict[str, int]],
) -> None:
    told = Told().lapses(is_moved=False)
    told.stopped.append((START.timestamp() + 3.5, START.timestamp() + 4.9))
    assert "result lost" in audited(told)


def test_a_lapse_of_a_lease_that_was_not_heard_of_is_no_fault(
    audited: Callable[[Told], dict[str, int]],
) -> None:
    """Another handler blocks the loop: nothing of this job has begun there."""
    told = Told().lapses()
    told.notes = [each for each in told.notes if each.run != "bb"]
    told.notes.insert(2, note(1.3, LEFT, "aa", 1))
    assert audited(told) == {}


KILLED, LATE = "the handler's process was ended by SIGKILL", "TimeoutError: it took longer than 5 s"


@pytest.mark.parametrize("at", [0.9, 1.2, 1.6])
@pytest.mark.parametrize("worker", ["w", "other"])
def test_a_child_that_is_killed_before_a_note_is_a_cause(
    audited: Callable[[Told], dict[str, int]], at: float, worker: str
) -> None:
    told = Told().ends_unnoted(KILLED, 0.5)
    told.children_killed[6] = worker, START.timestamp() + at
    is_cause = worker == "w" and at == 1.2
    assert audited(told) == ({} if is_cause else {"a try failed without a cause": 1})


@pytest.mark.parametrize("still_s", [0.0, 1.0, 4.0])
def test_a_late_call_without_a_note_needs_a_standstill(
    audited: Callable[[Told], dict[str, int]], still_s: float
) -> None:
    told = Told().ends_unnoted(LATE, 5)
    told.standstills.append((START.timestamp() + 1, START.timestamp() + 1 + still_s))
    assert audited(told) == ({} if still_s > 2.5 else {"a try failed without a cause": 1})


def test_a_killed_child_explains_one_call(tmp_path: Path) -> None:
    audit = Audit(
        Workers(tmp_path, "ipc:///nowhere", 1_000, 3), Figures(children_killed={6: ("w", 5.0)})
    )
    assert [audit.take_killed_child_of("w", 4, 6) for _ in range(2)] == [True, False]

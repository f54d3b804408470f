"""`python -m tests.torture` in short, and what it would report if something were wrong."""

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.core import HASH, job_id
from tests.crash.audit import Audit
from tests.sizes import sample
from tests.torture.audit import Account, audited
from tests.torture.clocks import Clock
from tests.torture.faults import EVERYONE, faults
from tests.torture.harness import Plan, Run
from tests.torture.operations import Operation, OperationLog, Outcome, read
from tests.torture.processes import Ending, Process
from tollgate.broker.core.events import AnyEvent, JobAnnotated, JobCreated, NewRest
from tollgate.broker.core.records import Record, encode_records
from tollgate.broker.journal.file import FileJournal

SECONDS = sample(12, 60)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_nothing_is_lost_under_random_faults(short_dir: Path) -> None:
    told: list[str] = []
    home, kept = short_dir / "h", short_dir / "kept"
    home.mkdir()
    run = Run(Plan(home, SECONDS, seed=5, every_s=0.4, keep=kept), told.append)
    account = run.run()
    assert account.examples == []
    assert account.outcomes["acknowledged"] > 100
    assert account.answers > 20
    assert run.ends > len(EVERYONE)
    assert told == [*map(str, faults(5, SECONDS, 0.4))]
    again = audited(kept / "disk/archive", kept / "disk/data", [*kept.glob("*.operations")])
    assert again.outcomes == account.outcomes
    assert again.applied == account.applied


def test_a_seed_stands_for_a_sequence_of_faults() -> None:
    first = [*faults(1, 600, 0.6)]
    assert first == [*faults(1, 600, 0.6)]
    assert first[:20] != [*faults(2, 600, 0.6)][:20]
    assert {fault.target for fault in first} == {*EVERYONE}
    assert [fault.at_s for fault in first] == sorted(fault.at_s for fault in first)


def acknowledged(tag: str, outcome: Outcome = Outcome.ACKNOWLEDGED) -> list[Operation]:
    begun = Operation(tag, "create", Outcome.BEGUN, 1.0, is_tagged=True)
    return [begun, Operation(tag, "create", outcome, 2.0, is_tagged=True)]


@pytest.mark.parametrize(
    ("outcome", "stored", "wrong"),
    [
        (Outcome.ACKNOWLEDGED, 1, {}),
        (Outcome.ACKNOWLEDGED, 0, {"lost": 1}),
        (Outcome.ACKNOWLEDGED, 2, {"applied twice": 1}),
        (Outcome.UNKNOWN, 0, {}),
        (Outcome.UNKNOWN, 1, {}),
        (Outcome.NOT_DONE, 1, {"applied, though refused": 1}),
        (Outcome.REFUSED, 0, {}),
    ],
)
def test_operations_are_compared_with_the_journal(
    tmp_path: Path, outcome: Outcome, stored: int, wrong: dict[str, int]
) -> None:
    tag, at = "op-1.1-1;", datetime(2026, 1, 1, tzinfo=UTC)
    events: list[AnyEvent] = [
        JobCreated(job_id(1), at, HASH, rest=NewRest(meta="other")),
        *[JobAnnotated(job_id(1), f"said by {tag}")] * stored,
    ]
    journal = FileJournal(tmp_path / "data")
    assert [*journal.replay()] == []
    journal.append(encode_records([Record([event], at=at) for event in events]))
    journal.close()
    log = OperationLog(tmp_path / "log")
    for operation in acknowledged(tag, outcome):
        log.write(operation)
    account = Account(Audit())
    account.read_journal(tmp_path / "data")
    account.check(tmp_path / "log")
    assert account.wrong == wrong


def test_a_line_that_a_kill_has_cut_is_left_out(tmp_path: Path) -> None:
    log = OperationLog(tmp_path / "log")
    for operation in acknowledged("op-1.1-1;"):
        log.write(operation)
    whole = (tmp_path / "log").read_bytes()
    (tmp_path / "log").write_bytes(whole[:-3])
    assert [operation.outcome for operation in read(tmp_path / "log")] == [Outcome.BEGUN]


def process(home: Path, program: str) -> Process:
    (home / "program.py").write_text(program)
    return Process("worker-1", home, lambda _: ["program"], stops="stopped", path=home)


SAYS = "import sys; print({!r}, file=sys.stderr); sys.exit({})"


@pytest.mark.parametrize(
    ("words", "code", "is_right"), [("no room", 1, True), ("", 1, False), ("no room", 2, False)]
)
def test_an_end_needs_a_reason_and_a_code(
    tmp_path: Path, words: str, code: int, is_right: bool
) -> None:
    one = process(tmp_path, SAYS.format(words, code))
    one.start()
    one.allow(Ending(1, "no room"))
    one.wait()
    assert (one.wrong == []) is is_right


def test_clocks_can_be_set_while_a_program_runs(tmp_path: Path) -> None:
    one = process(tmp_path, "import sys, time; print(time.time(), file=sys.stderr); sys.exit(3)")
    one.clock.offset_s = -5_000
    one.start()
    one.allow(Ending(3))
    one.wait()
    assert one.wrong == []
    said = float((tmp_path / "worker-1.1.log").read_text())
    assert said == pytest.approx(time.time() - 5_000, abs=60)
    assert Clock(tmp_path / "worker-1.clock").offset_s == -5_000

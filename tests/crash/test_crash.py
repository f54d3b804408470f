"""The short forms of `python -m tests.crash`: a broker dies, or leaves, and nothing is lost."""

from pathlib import Path

import pytest

from tests.crash.harness import Ordeal, Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]


def test_what_was_acknowledged_outlives_kill_9_and_happens_once(short_dir: Path) -> None:
    run = Run(Ordeal(short_dir, ends=5, producers=4, seed=7))
    audit = run.run()
    assert audit.examples == []
    assert run.ends == 5
    assert len(audit.effects) > 300
    assert audit.figures["repeats answered alike"] > 100


def test_who_asks_it_to_leave_gets_every_reply_first(short_dir: Path) -> None:
    run = Run(Ordeal(short_dir, ends=3, term=True, producers=4, seed=8))
    audit = run.run()
    assert audit.examples == []
    assert run.exit_codes == [0] * 4
    assert len(audit.effects) > 300
    assert audit.figures["replies not delivered"] == 0


def test_kill_9_amid_compaction_loses_nothing(short_dir: Path) -> None:
    options = ("--segment-bytes", str(64 * 1024))
    run = Run(
        Ordeal(
            short_dir,
            ends=2,
            in_fold=True,
            deleted=2,
            producers=4,
            seed=9,
            input_bytes=6_000,
            options=options,
        )
    )
    audit = run.run()
    assert audit.examples == []
    assert run.archive.snapshots > 0
    assert run.archive.deleted() > 0

"""`python -m tests.crash` in short: a broker is killed or stopped, and nothing is lost."""

from pathlib import Path
from typing import get_args

import pytest

from tests.crash.counters import Counters
from tests.crash.harness import Run, Scenario
from tests.crash.producers import Plan, Producer
from tests.sizes import sample
from tollgate.broker.core.events import AnyEvent, JobPruned, SessionEvicted

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]
PRODUCERS = sample(3, 4)


def test_kill_9_loses_nothing_and_repeats_nothing(short_dir: Path) -> None:
    ends = sample(3, 5)
    run = Run(Scenario(short_dir, ends=ends, commands=3_000, producers=PRODUCERS, seed=7))
    audit = run.run()
    assert audit.examples == []
    assert run.ends == ends
    assert len(audit.effects) > 300
    assert audit.figures["repeats answered alike"] > 100
    assert run.claimed > 100
    never = {JobPruned, SessionEvicted}
    assert {*audit.kinds} == {*get_args(AnyEvent)} - never


def test_sigterm_delivers_every_reply_first(short_dir: Path) -> None:
    ends = sample(2, 3)
    run = Run(Scenario(short_dir, ends=ends, term=True, producers=PRODUCERS, seed=8))
    audit = run.run()
    assert audit.examples == []
    assert run.exit_codes == [0] * (ends + 2)  # two more for the look at the end
    assert len(audit.effects) > 300
    assert audit.figures["replies not delivered"] == 0


def test_a_producer_that_begins_late_is_not_waited_for(short_dir: Path) -> None:
    counters = Counters(short_dir / "counters", producers=1)
    counters.life = 2
    assert not counters.have_all_left()
    producer = Producer(
        Plan(
            url=f"ipc://{short_dir}/b.sock", counters=str(short_dir / "counters"),
            log=str(short_dir / "log"), number=0, producers=1, seed=1, commands=1, batch=1,
            moves=False,
        )
    )  # fmt: skip
    assert counters.have_all_left()
    producer._finish()


def test_kill_9_during_compaction_loses_nothing(short_dir: Path) -> None:
    options = ("--segment-bytes", str(64 * 1024))
    run = Run(
        Scenario(
            short_dir,
            ends=sample(1, 2),
            in_snapshot=True,
            deleted=sample(1, 2),
            producers=PRODUCERS,
            seed=9,
            input_bytes=6_000,
            options=options,
        )
    )
    audit = run.run()
    assert audit.examples == []
    assert run.archive.snapshots > 0
    assert run.archive.deleted() > 0

"""`python -m tests.chaos` in short: things are killed while jobs go wrong, and nothing is lost."""

from pathlib import Path

import pytest

from tests.chaos.harness import Run, Scenario
from tests.sizes import sample

pytestmark = [pytest.mark.slow, pytest.mark.timeout(sample(180, 600))]


def test_jobs_end_as_scripted_whatever_is_killed(short_dir: Path) -> None:
    jobs, kills = sample(40, 200), sample(8, 30)
    run = Run(Scenario(short_dir, jobs=jobs, kills=kills, seed=3, lease_ms=sample(900, 1_500)))
    audit = run.run()
    assert not audit.examples, "\n".join(audit.examples)
    assert sum(run.figures.acts.values()) == kills
    assert sum(audit.seen[end] for end in ("completed", "failed", "on hold")) == jobs
    assert audit.seen["calls"] > jobs

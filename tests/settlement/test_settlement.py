"""A sample of the long run: `make settlement` has 200 jobs and 60 kills."""

from pathlib import Path

import pytest

from tests.settlement.harness import Run, Scenario


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_every_hash_is_accepted_once(short_dir: Path) -> None:
    outcome = Run(Scenario(short_dir, jobs=12, kills=5, seed=3, seconds=120)).run()
    assert not outcome.wrong
    assert outcome.confirmed == 12

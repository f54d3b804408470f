"""A sample of the long run: `make settlement` has 200 jobs and 60 kills."""

from pathlib import Path

import pytest

from tests.settlement.harness import Run, Scenario
from tests.sizes import sample


@pytest.mark.slow
@pytest.mark.timeout(sample(180, 600))
def test_every_hash_is_accepted_once(short_dir: Path) -> None:
    jobs, kills = sample((12, 5), (200, 60))
    scenario = Scenario(short_dir, jobs=jobs, kills=kills, seed=3, seconds=sample(120, 500))
    outcome = Run(scenario).run()
    assert not outcome.wrong
    assert outcome.confirmed == jobs


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_hash_sent_before_its_result_is_found(short_dir: Path) -> None:
    scenario = Scenario(
        short_dir, jobs=1, kills=0, fault_share=0, chain_failures=0, handler="early", seconds=60
    )
    outcome = Run(scenario).run()
    kinds = {fault.split(": ")[1] for fault in outcome.wrong}
    assert kinds == {"not confirmed", "foreign", "not on chain"}

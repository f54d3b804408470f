"""A sample of the long run: `make hiring` has 200 jobs and 30 kills."""

from pathlib import Path

import pytest

from tests.hiring.harness import HiringRun
from tests.settlement.harness import Scenario
from tests.sizes import sample


@pytest.mark.slow
@pytest.mark.timeout(sample(120, 600))
def test_every_hire_is_one_job_with_its_own_result(short_dir: Path) -> None:
    jobs, kills = sample((12, 4), (200, 30))
    share = sample(0.05, 0.2)
    scenario = Scenario(short_dir, jobs=jobs, kills=kills, seed=9, fault_share=share)
    scenario.seconds = sample(100, 500)
    run = HiringRun(scenario)
    run.counts = sample({"gateway": 2, "watcher": 1, "worker": 2}, run.counts)
    outcome = run.run()
    assert not outcome.wrong
    assert outcome.confirmed == jobs
    assert outcome.told > jobs
    assert set(outcome.kills) >= {"gateway", "worker", "broker"}


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_result_of_another_buyer_is_found(short_dir: Path) -> None:
    scenario = Scenario(
        short_dir, jobs=1, kills=0, fault_share=0, chain_failures=0, handler="of_another"
    )
    scenario.seconds = 60
    run = HiringRun(scenario)
    run.counts = {"gateway": 1, "watcher": 1, "worker": 1}
    outcome = run.run()
    assert {fault.split(": ")[1] for fault in outcome.wrong} == {"wrong result"}

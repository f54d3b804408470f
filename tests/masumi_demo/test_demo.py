"""The demonstration runs, and its pictures say what became of each deal."""

import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from tests.masumi_demo.buyers import MIX, Deal, Kind
from tests.masumi_demo.screen import picture, summary
from tollgate import Job
from tollgate.domain.results import Settlement
from tollgate.domain.settlement import SettlementState
from tollgate.domain.status import JobStatus
from tollgate.testing import Broker

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_the_demonstration_runs_to_its_end() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.masumi_demo", "--jobs", str(len(MIX)), "--seed", "2"],
        cwd=ROOT, capture_output=True, text=True, timeout=140, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "9 jobs completed, 9 hashes verified on chain, 3 not charged" in done.stdout
    assert "nothing is wrong" in done.stdout


def test_a_wrong_deal_is_shown_and_summed_up() -> None:
    with Broker() as broker, broker.connect() as client:
        job: Job = client.create("ab" * 32)
    settlement = Settlement(SettlementState.MANUAL, job.created_at)
    job = job.model_copy(update={"status": JobStatus.COMPLETED, "settlement": settlement})
    deal = Deal(1, Kind.PAYS, job, "FundsLocked", wrong=["another hash"], is_over=True)
    console = Console(width=100, record=True, quiet=False, file=None)
    with console.capture() as shown:
        console.print(picture([deal], 3))
    for text in ("open", "done", "for a person", "FundsLocked", "wrong", "3 faults"):
        assert text in shown.get()
    assert "  1: another hash" in summary([deal], 3, 1.0)

"""The demonstration runs, and its pictures say what became of each deal."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.masumi_demo.__main__ import main
from tests.masumi_demo.buyers import MIX, Deal, Kind
from tests.masumi_demo.screen import COLUMNS, picture, summary
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
    assert "8 jobs completed, 8 hashes verified on chain, 4 without a result" in done.stdout
    assert "nothing is wrong" in done.stdout


def test_a_wrong_deal_is_shown_and_summed_up() -> None:
    with Broker() as broker, broker.connect() as client:
        job: Job = client.create("ab" * 32)
    settlement = Settlement(SettlementState.MANUAL, job.created_at)
    job = job.model_copy(update={"status": JobStatus.COMPLETED, "settlement": settlement})
    deal = Deal(1, Kind.PAYS, job, "FundsLocked", wrong=["another hash"], is_over=True)
    console = Console(width=100, record=True, quiet=False, file=None)
    with console.capture() as shown:
        console.print(picture([deal], 3, ["an event"], 30))
    for text in ("open", "done", "for a person", "FundsLocked", "wrong", "an event", "faults 3"):
        assert text in shown.get()
    assert "  1: another hash" in summary([deal], 3, 1.0)


@pytest.mark.parametrize("height", [24, 40])
def test_the_picture_fits_and_open_deals_come_first(height: int) -> None:
    with Broker() as broker, broker.connect() as client:
        job: Job = client.create("ab" * 32)
    deals = [
        Deal(number, MIX[number % len(MIX)], is_over=number > 3, on_chain="FundsOrDatumInvalid")
        for number in range(1, 101)
    ]
    deals[0].on_chain, deals[0].job = "Disputed", job
    console = Console(width=80, height=height, file=None)
    with console.capture() as shown:
        console.print(picture(deals, 0, ["x" * 200] * 3, height))
    lines = shown.get().splitlines()
    assert len(lines) < height
    assert f"{job.job_id[:8]} " in shown.get()
    assert "Disputed" in shown.get()
    assert lines[-1].startswith("100 hired")
    assert lines[-1].endswith("faults 0")
    assert lines[2].split() == [name for name, _ in COLUMNS]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_of_it(number: signal.Signals, tmp_path_factory: Any) -> None:
    place = tmp_path_factory.mktemp("d")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.masumi_demo"],
        cwd=ROOT, env={**os.environ, "TMPDIR": str(place)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    assert "hired" in process.stderr.readline()
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "Traceback" not in said
    assert "Task was" not in said
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("option", ["--jobs=0", "--jobs=-3", "--faults=2", "--faults=nan"])
def test_options_without_a_meaning_are_refused(option: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([option])

"""The same seed and clock give the same bytes: in this process again, and in another one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.million import digest
from tests.sizes import sample
from tollgate.broker.core import engine

STEPS = sample(10_000, 50_000)


@pytest.mark.slow
def test_one_seed_gives_the_same_bytes_in_two_processes() -> None:
    here = digest(STEPS, 7)
    there = subprocess.run(
        [sys.executable, "-m", "tests.million", str(STEPS), "7"],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONHASHSEED": "12345"},
    )
    assert there.stdout.strip() == here


@pytest.mark.parametrize("runs", [1, 3])
def test_steps_in_a_message_change_no_byte(runs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = digest(2_000, 7)
    monkeypatch.setattr(engine, "RUNS_MAX", runs)
    assert digest(2_000, 7) == whole


@pytest.mark.slow
def test_a_snapshot_in_the_middle_changes_no_byte() -> None:
    assert digest(STEPS, 7, restarts=True) == digest(STEPS, 7)


def test_another_seed_gives_other_bytes() -> None:
    assert len({digest(2_000, seed) for seed in (1, 2, 3)}) == 3

"""What is wrong with a broker's command line is said in one line that says what to do."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.brokers import PATIENCE_S, ROOT


def complaint(module: str, *arguments: str) -> tuple[int, str]:
    """Run the module, which must not start; return its exit code and what it said last."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "module", ["tollgate.broker", "tollgate.broker.admin.journal", "tollgate.worker"]
)
def test_an_option_that_does_not_exist(module: str) -> None:
    code, line = complaint(module, "--nosuch")
    assert code == 2
    assert "--nosuch" in line
    assert line.startswith("tollgate ")


def test_a_data_directory_that_cannot_be_used(tmp_path: Path, short_dir: Path) -> None:
    (tmp_path / "file").write_text("")
    bind = f"ipc://{short_dir / 'b.sock'}"
    code, line = complaint("tollgate.broker", "--data-dir", str(tmp_path / "file"), "--bind", bind)
    assert code == 1
    assert "choose another with --data-dir" in line


@pytest.mark.parametrize(
    ("text", "reason"), [("jbos = 1", "there is no such setting"), ("jobs = ", "Invalid value")]
)
def test_a_configuration_file_with_a_mistake(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "broker.toml").write_text(text)
    code, line = complaint("tollgate.broker", "--config", str(tmp_path / "broker.toml"))
    assert code == 2
    assert reason in line
    assert "broker.toml" in line

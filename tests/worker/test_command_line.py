"""What the worker's command line refuses, in one line each and with exit code 2."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from tollgate.worker.__main__ import main

PAID = "--simulate-payments"


@pytest.fixture(autouse=True)
def streams_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the streams and the log of pytest's own process alone."""
    monkeypatch.setattr("tollgate.worker.__main__.configure", lambda *_: None)
    monkeypatch.setattr("tollgate.worker.__main__.protect_stdout", lambda: None)


def test_help_has_an_example_and_every_default() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    assert "tollgate worker --handler my_service:answer" in result.output
    assert "tollgate.worker.example_handler:describe" in result.output
    assert "4 no slot is left" in result.output


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--handler", "missing:function"], "there is no module missing"),
        (["--handler", "function"], "not of the form module:function"),
        ([PAID, "--refused-share", "0.7", "--never-share", "0.7"], "add up to more than 1"),
        ([PAID, "--pay-delay-ms-min", "9", "--pay-delay-ms-max", "8"], "9 to 8 ms is not a range"),
        (["--seed", "1"], "--seed is for --simulate-payments, which is not given"),
        (["--refused-share", "0"], "--refused-share is for --simulate-payments"),
        (["--never-share", "0"], "--never-share is for --simulate-payments"),
        (["--pay-delay-ms-min", "50"], "--pay-delay-ms-min is for --simulate-payments"),
        (["--pay-delay-ms-max", "500"], "--pay-delay-ms-max is for --simulate-payments"),
        (["--payments-max", "64"], "--payments-max is for --simulate-payments"),
        (["--unpaid-max", "64"], "--unpaid-max is for --simulate-payments"),
        (["--only", "payments"], "simulate"),
        (["--only", "nothing"], "--only"),
        (["--lease-ms", "99"], "--lease-ms"),
        (["--concurrency", "0"], "--concurrency"),
        (["--max-attempts", "0"], "--max-attempts"),
        (["--backoff-s", "soon"], "'soon' is no number of seconds, and no list such as 1,10,60"),
        (["--backoff-s", "1,,2"], "--backoff-s"),
        (["--backoff-s", "-1"], "--backoff-s"),
        (["--backoff-s", "nan"], "--backoff-s"),
        (["--on-exhausted", "retry"], "--on-exhausted"),
        (["--timeout-s", "0"], "--timeout-s"),
        (["--stop-grace-s", "-1"], "--stop-grace-s"),
        (["--isolation", "greenlet"], "--isolation"),
        (["--recycle-jobs", "5"], "isolation"),
        (["--recycle-memory-mb", "5"], "isolation"),
        (["--queue", "a queue"], "queue"),
        (["--queue", "*", "--queue", "a"], "queue"),
        (["--name", "a name"], "name"),
        (["--endpoint", "/run/broker.sock"], "ipc:///path"),
        (["--log-level", "chatty"], "--log-level"),
        (["--log-format", "xml"], "--log-format"),
    ],
)
def test_wrong_usage(
    options: list[str], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, options)
    assert result.exit_code == 2
    assert complaint in result.output.splitlines()[-1]


def test_kills_while_it_loads_are_no_wrong_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A supervisor starts it again, which it does not after exit code 2."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tollgate.worker.isolation.executor.PAUSE_S_MIN", 0.01)
    (tmp_path / "killed.py").write_text("import os; os.kill(os.getpid(), 9)")
    options = ["--handler", "killed:answer", "--isolation", "process"]
    result = CliRunner().invoke(main, [*options, "--endpoint", f"ipc://{tmp_path}/b"])
    assert result.exit_code == 1

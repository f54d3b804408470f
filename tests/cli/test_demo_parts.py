"""The parts of the demonstration that need no processes, or fail to get them."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import Result
from rich.cells import cell_len
from rich.console import Console

from tollgate.cli import demo as command
from tollgate.client.sync import Client
from tollgate.demo import plan, processes, run
from tollgate.demo.plan import StartJob, load_inputs, plan_jobs
from tollgate.demo.processes import ProcessError, Processes, Signals
from tollgate.demo.progress import Progress, gist, percentile, reason
from tollgate.demo.run import Run
from tollgate.demo.screen import HEIGHT, WIDTH_MIN, Screen, line, picture
from tollgate.demo.summary import Summary, report, sum_up
from tollgate.demo.svg import Still
from tollgate.domain.hashing import input_hash
from tollgate.domain.models import Job
from tollgate.domain.status import JobStatus

NOW = datetime(2026, 1, 1, tzinfo=UTC)
IDS = [f"{number:08x}-0000-4000-8000-000000000000" for number in range(4)]
HEBREW_AND_CHINESE = '{"words": 3, "script": "cjk", "normalised": "你好 שלום x"}'


def job(number: int, status: JobStatus, **fields: Any) -> Job:
    """Return a job that took a second more than its number."""
    given: dict[str, Any] = {
        "input": '{"a":1.0}',
        "identifier_from_purchaser": "abc",
        "input_hash": input_hash("abc", {"a": 1.0}),
        **fields,
    }
    return Job(
        job_id=IDS[number],
        status=status,
        blockchain_identifier="b",
        created_at=NOW,
        updated_at=NOW + timedelta(seconds=number + 1),
        version=2,
        **given,
    )


@pytest.fixture
def progress() -> Progress:
    progress = Progress(jobs=4, seed=7, workers=2, phase="running", elapsed_s=3.0, created=4)
    progress.by_status = {"awaiting_payment": 0, "running": 1, "completed": 2, "failed": 1}
    progress.round_trips_ms = [0.5, 12.3, 1_200.0]
    progress.add_ended(job(0, JobStatus.COMPLETED, result=HEBREW_AND_CHINESE))
    progress.add_ended(job(1, JobStatus.COMPLETED, result="what a\nuser's handler says"))
    progress.add_ended(job(2, JobStatus.FAILED, error="payment refused"))
    return progress


def lines_of(renderable: Any, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(renderable)
    return cast("io.StringIO", console.file).getvalue().splitlines()


@pytest.mark.parametrize("width", [WIDTH_MIN, 80, 81, 82, 120])
def test_picture_fits_and_keeps_its_height(progress: Progress, width: int) -> None:
    start = Progress(jobs=4, seed=7, workers=2)
    done = Progress(jobs=4, seed=7, workers=2, phase="done", created=4, elapsed_s=9.0)
    for state in (start, progress, done):
        lines = lines_of(picture(state, width), width)
        assert len(lines) < HEIGHT
        assert max(map(cell_len, lines)) <= width
        assert len(lines) == len(lines_of(picture(start, width), width))
    text = "\n".join(lines_of(picture(progress, width), width))
    assert "3 words, cjk: 你好 שלום x" in text
    assert "1 payment refused" in text
    assert "the broker answers in 12 ms, p99 1.20 s" in text


def test_rate_is_recent_and_at_the_end_over_all(progress: Progress) -> None:
    assert progress.rate() == 1.5
    progress.elapsed_s = 6.0
    assert progress.rate() == 0.0
    progress.phase = "done"
    assert progress.rate() == 0.5


def test_reasons_are_the_same_for_many_jobs() -> None:
    assert reason("payment refused") == "payment refused"
    assert reason("not paid by pay_by_time") == "not paid in time"
    assert reason("the job has\nno input") == "handler: the job has no input"


def test_gist_of_results_of_other_handlers() -> None:
    assert gist(job(0, JobStatus.COMPLETED, result="[1]")) == "[1]"
    assert gist(job(0, JobStatus.FAILED, error="why")) == "why"
    assert gist(job(0, JobStatus.RUNNING)) == ""


def test_percentiles_are_measured_values() -> None:
    values = list(range(1, 101))
    assert [percentile(values, percent) for percent in (50, 90, 99)] == [50, 90, 99]
    assert percentile([3.0], 50) == 3.0
    assert percentile([], 99) == 0.0


def test_plain_line(progress: Progress) -> None:
    assert line(Progress(jobs=4, seed=7, workers=2)) == (
        "starting a broker and 2 workers; payments are simulated"
    )
    assert line(progress).startswith("  3.0 s  created 4/4  awaiting_payment 0  running 1")


def test_plain_lines_have_a_pause(progress: Progress, capsys: pytest.CaptureFixture[str]) -> None:
    with Screen(Console(file=io.StringIO())) as screen:
        for elapsed_s in (0.0, 0.1, 1.9, 2.0, 2.1):
            progress.elapsed_s = elapsed_s
            screen.show(progress)
    assert [line.split()[0] for line in capsys.readouterr().err.splitlines()] == ["0.0", "2.0"]


def summary_of(progress: Progress, *jobs: Job) -> Summary:
    return sum_up(IDS[: len(jobs)], jobs, progress)


def test_summary_of_a_good_run(progress: Progress) -> None:
    summary = summary_of(
        progress,
        job(0, JobStatus.COMPLETED, result="x"),
        job(1, JobStatus.FAILED, error="payment refused"),
        job(2, JobStatus.FAILED, error="odd"),
    )
    assert summary.ok
    assert (summary.completed, summary.failed, summary.not_ended) == (1, 2, 0)
    assert summary.failures == {"payment refused": 1, "handler: odd": 1}
    assert summary.creation_to_end_ms == {"p50": 2_000, "p90": 3_000, "p99": 3_000}
    text = "\n".join(lines_of(report(summary), 80))
    assert "All jobs ended: 3 in 3.0 s." in text
    assert "1  handler: odd" in text
    assert "1 of 1 right" in text


def test_summary_without_a_completed_job(progress: Progress) -> None:
    summary = summary_of(progress, job(0, JobStatus.FAILED, error="payment refused"))
    assert summary.ok
    assert summary.hashes.sample is None
    assert "0 of 0 right" in "\n".join(lines_of(report(summary), 80))


def test_summary_reports_wrong_hashes_and_open_jobs(progress: Progress) -> None:
    summary = summary_of(
        progress,
        job(0, JobStatus.COMPLETED, result="x", input='{"a":2}'),
        job(1, JobStatus.COMPLETED, result="x", identifier_from_purchaser=None),
        job(2, JobStatus.RUNNING),
    )
    assert not summary.ok
    assert summary.hashes.wrong == IDS[:2]
    assert summary.not_ended == 1
    text = "\n".join(lines_of(report(summary), 80))
    assert "1 of 3 jobs did not end and the hash of 2 jobs is wrong, after 3.0 s." in text
    assert f"wrong: {IDS[0]}" in text
    assert "0 of 2 right" in text


def test_fingerprint_covers_ids_statuses_and_results(progress: Progress) -> None:
    done, failed = job(0, JobStatus.COMPLETED, result="x"), job(1, JobStatus.FAILED, error="e")
    same = summary_of(progress, done, failed).hashes.fingerprint
    assert summary_of(progress, done, failed).hashes.fingerprint == same
    other = job(0, JobStatus.COMPLETED, result="y")
    assert summary_of(progress, other, failed).hashes.fingerprint != same


def test_svg_is_one_frame_with_room_for_wide_text(progress: Progress, tmp_path: Path) -> None:
    still = Still()
    progress.created = 2
    still.look(progress)
    progress.created = 3
    still.look(progress)
    progress.created = 4
    still.look(progress)
    summary = summary_of(progress, job(0, JobStatus.COMPLETED, result="x"))
    still.save(tmp_path / "a.svg", summary)
    drawing = (tmp_path / "a.svg").read_text()
    assert "3\xa0of\xa04\xa0jobs\xa0created" in drawing
    cell = 20 * 0.61
    assert f'textLength="{4 * cell:g}"' in drawing.partition(">你好<")[0].rpartition("<text")[2]


def test_plan_repeats_with_the_same_seed() -> None:
    start_jobs = load_inputs()
    assert len(start_jobs) >= 240
    everything = plan_jobs(start_jobs, None, 1)
    assert len(everything) == len(start_jobs)
    assert everything == plan_jobs(start_jobs, None, 1)
    assert everything[0].job_id != plan_jobs(start_jobs, 1, 2)[0].job_id
    assert all(planned.job_id[14] == "4" for planned in everything)
    again = plan_jobs(start_jobs[:2], 5, 1)
    assert [planned.start_job for planned in again[2:4]] == start_jobs[:2]
    assert everything[-1].due_s < plan.CREATING_S


def test_input_keeps_its_hash_as_text() -> None:
    start_job = StartJob("abc", {"é": [1.5, "日本"]})
    assert start_job.text == '{"é":[1.5,"日本"]}'
    assert start_job.hash == input_hash("abc", {"é": [1.5, "日本"]})


def test_inputs_in_the_package_come_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "inputs.jsonl").write_text(
        '{"identifier_from_purchaser": "abc", "input_data": {"a": 1}}\n'
    )
    monkeypatch.setattr(plan, "files", lambda _: tmp_path)
    assert load_inputs() == [StartJob("abc", {"a": 1})]


def fail_after(number: int) -> None:
    signal.raise_signal(number)
    raise ZeroDivisionError


def test_signal_is_delayed_while_held() -> None:
    with Signals() as signals:
        with pytest.raises(KeyboardInterrupt), signals.held():
            signal.raise_signal(signal.SIGINT)
        assert signals.came == signal.SIGINT
        for number, code in ((signal.SIGTERM, "143"), (signal.SIGHUP, "129")):
            with pytest.raises(SystemExit, match=code):
                signal.raise_signal(number)
        with pytest.raises(ZeroDivisionError), signals.held():
            fail_after(signal.SIGTERM)


def test_ignored_signals_stay_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_broker_that_cannot_start_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "BROKER_OPTIONS", ("--no-such-option",))
    with Signals() as signals, Processes(signals) as started:
        directory = started.directory
        with pytest.raises(ProcessError, match="the broker ended with exit code 2; its last line"):
            started.start(1)
    assert not directory.exists()


def test_broker_that_does_not_listen_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "START_TIMEOUT_S", 0.0)
    with (
        Signals() as signals,
        Processes(signals) as started,
        pytest.raises(ProcessError, match=r"did not listen within 0 s; its last line: \(none\)"),
    ):
        started.start(1)


def test_process_that_ignores_sigterm_is_killed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(processes, "STOP_TIMEOUT_S", 0.1)
    deaf = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(flush=True)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        process.stdout.readline()
    with Signals() as signals, Processes(signals) as started:
        child = object.__new__(processes.Child)
        child.process = process
        started._children.append(child)
    assert process.returncode == -signal.SIGKILL


def test_long_temporary_directory_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with Signals() as signals, Processes(signals) as started:
        assert len(os.fsencode(started.endpoint)) < 107
        assert started.directory.stat().st_mode & 0o777 == 0o700
    assert list(long.iterdir()) == []


class Standing:
    """Processes that never end."""

    def check(self) -> None:
        """Find nothing wrong."""


def test_run_ends_in_time_even_if_its_jobs_do_not(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, progress: Progress
) -> None:
    monkeypatch.setattr(run, "TIME_LIMIT_S", 0.3)
    planned = plan_jobs([StartJob("abc", {"a": 1})], 2, 99)
    with Client(endpoint) as client:
        shown: list[str] = []
        producer = Run(client, planned, cast("Processes", Standing()), progress)
        producer.go(lambda progress: shown.append(progress.phase))
        summary = sum_up([job.job_id for job in planned], client.list(), progress)
    assert shown[-1] == "done"
    assert not summary.ok
    assert summary.not_ended == 2


def test_bad_summary_is_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, invoke: Callable[..., Result], progress: Progress
) -> None:
    bad = summary_of(progress, job(0, JobStatus.RUNNING))
    monkeypatch.setattr(command, "_run", lambda *_: bad)
    result = invoke("demo", "--json")
    assert result.exit_code == 1
    assert result.stderr.startswith("tollgate: some jobs did not end or have a wrong hash")


@pytest.mark.parametrize(
    ("child", "sign", "code", "message"),
    [
        (0, signal.SIGSTOP, 3, "no broker"),
        (0, signal.SIGKILL, 1, "the broker ended by SIGKILL; its last line: "),
        (1, signal.SIGKILL, 1, "the worker 1 ended by SIGKILL; its last line: "),
    ],
)
def test_failing_process_is_named(  # noqa: PLR0917 - a row of the table
    monkeypatch: pytest.MonkeyPatch,
    invoke: Callable[..., Result],
    child: int,
    sign: signal.Signals,
    code: int,
    message: str,
) -> None:
    monkeypatch.setattr(command, "ANSWER_TIMEOUT_S", 0.2)
    monkeypatch.setattr(processes, "STOP_TIMEOUT_S", 0.2)
    start = Processes.start

    def start_and_signal(self: Processes, seed: int) -> None:
        start(self, seed)
        victim = self._children[child].process
        victim.send_signal(sign)
        if sign == signal.SIGKILL:
            os.waitid(os.P_PID, victim.pid, os.WEXITED | os.WNOWAIT)
        else:
            os.waitid(os.P_PID, victim.pid, os.WSTOPPED | os.WNOWAIT)

    monkeypatch.setattr(Processes, "start", start_and_signal)
    result = invoke("demo", "--jobs", "1")
    assert result.exit_code == code
    assert message in result.stderr

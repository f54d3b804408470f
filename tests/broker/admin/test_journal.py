"""`tollgate journal` on real data directories, sound and damaged."""

import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.brokers import PATIENCE_S, ROOT, running_broker
from tests.core import HASH, Driver, job_of
from tollgate.broker.admin.journal import main
from tollgate.broker.core.records import encode_records
from tollgate.broker.core.replay import replay
from tollgate.broker.core.state import State
from tollgate.broker.journal.file import FileJournal
from tollgate.client.sync import Client
from tollgate.domain.commands import Create, Hello, Transition
from tollgate.domain.status import JobStatus

JOBS = 30


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return a directory with thirty jobs in several segments, one of them running."""
    driver = Driver()
    driver.ask(Hello(open_session=True))
    for _ in range(JOBS):
        (created,) = driver.ask(Create(input_hash=HASH, input="ä"))
    job = job_of(created)
    driver.ask(Transition(job_id=job.job_id, target=JobStatus.RUNNING))
    journal = FileJournal(tmp_path / "data", segment_bytes=1_024)
    replay(journal.replay(), State())
    for record in driver.records:
        journal.append(encode_records([record]))
        journal.sync()
    journal.close()
    return tmp_path / "data"


def damage(directory: Path, segment: int) -> None:
    path = directory / f"segment-{segment:010d}"
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)


def test_verify_lists_all_files_and_predicts_a_start(directory: Path) -> None:
    result = run("verify", "--data-dir", directory)
    assert result.exit_code == 0
    *files, verdict = result.stdout.splitlines()
    assert [line.split()[0] for line in files] == sorted(
        path.name for path in directory.iterdir() if path.name.startswith("segment")
    )
    assert len(files) > 2
    assert verdict == f"a broker would start: {JOBS + 2} records, {JOBS} jobs"


def test_verify_names_the_damage_and_what_to_do(directory: Path) -> None:
    damage(directory, 2)
    result = run("verify", "--data-dir", directory)
    assert result.exit_code == 1
    assert "segment-0000000002" in result.stderr
    assert "tollgate journal repair" in result.stderr
    assert "Traceback" not in result.output


def test_dump_prints_each_record_as_json(directory: Path) -> None:
    lines = run("dump", "--data-dir", directory).stdout.splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["sequence"] for record in records] == list(range(1, JOBS + 3))
    assert records[0]["events"][0]["event"] == "SessionOpened"
    assert records[1]["events"][0]["input"] == "ä"
    assert records[-1]["events"][0]["target"] == "running"


def test_compact_leaves_one_snapshot_with_the_same_jobs(directory: Path) -> None:
    result = run("compact", "--data-dir", directory)
    assert result.exit_code == 0
    assert "segment-0000000001" in result.stdout
    names = sorted(path.name for path in directory.iterdir() if path.name != "lock")
    assert [name.split("-")[0] for name in names] == ["segment", "snapshot"]
    assert run("verify", "--data-dir", directory).stdout.endswith(f"0 records, {JOBS} jobs\n")
    dumped = run("dump", "--data-dir", directory).stdout
    assert '"kind": "snapshot"' in dumped
    jobs = [line for line in map(json.loads, dumped.splitlines()) if "job_id" in line]
    assert len(jobs) == JOBS
    (history,) = [job["history"] for job in jobs if "history" in job]
    assert [(entry["what"], entry["to"], entry["by"]) for entry in history] == [
        ("moved", "running", "uid:1000")
    ]


def test_repair_cuts_at_the_damage_and_keeps_what_it_cuts(directory: Path) -> None:
    damage(directory, 2)
    asked = CliRunner().invoke(main, ["repair", "--data-dir", str(directory)], input="n\n")
    assert asked.exit_code == 1
    assert run("verify", "--data-dir", directory).exit_code == 1
    result = run("repair", "--data-dir", directory, "--yes")
    assert result.exit_code == 0
    assert "cut: segment-0000000002" in result.stdout
    assert any("damaged" in path.name for path in directory.iterdir())
    assert run("verify", "--data-dir", directory).exit_code == 0


def test_repair_leaves_a_sound_journal_alone(directory: Path) -> None:
    assert run("repair", "--data-dir", directory, "--yes").stdout == "sound\n"


def test_backup_is_verified_and_can_be_verified_again(directory: Path, tmp_path: Path) -> None:
    result = run("backup", "--data-dir", directory, tmp_path / "copy")
    assert result.exit_code == 0
    assert result.stdout == f"{tmp_path / 'copy'}: {JOBS} jobs, up to record {JOBS + 2}\n"
    assert run("verify", "--data-dir", tmp_path / "copy").exit_code == 0
    assert run("dump", "--data-dir", tmp_path / "copy").stdout == (
        run("dump", "--data-dir", directory).stdout
    )


def test_backup_refuses_in_one_line(directory: Path, tmp_path: Path) -> None:
    damage(directory, 2)
    for target in (tmp_path / "copy", directory, directory / "copy"):
        result = run("backup", "--data-dir", directory, target)
        assert result.exit_code == 1
        assert len(result.stderr.splitlines()) == 1
        assert result.stdout == ""
    assert not (tmp_path / "copy").exists()


def test_backups_of_a_busy_broker_hold_what_was_acknowledged(short_dir: Path) -> None:
    data, copies = short_dir / "data", 3
    with running_broker(short_dir, data_dir=data, segment_bytes=65_536) as broker:
        done = threading.Event()
        acknowledged = 0

        def create() -> None:
            nonlocal acknowledged
            with Client(broker.endpoint, timeout_s=PATIENCE_S) as client:
                while not done.is_set():
                    client.create_many([{"input_hash": HASH, "input": "x" * 1_000}] * 20)
                    acknowledged += 20

        with Client(broker.endpoint, timeout_s=PATIENCE_S) as client:
            client.create(HASH)
        thread = threading.Thread(target=create)
        thread.start()
        try:
            for number in range(copies):
                before = acknowledged
                result = run("backup", "--data-dir", data, short_dir / f"copy-{number}")
                assert result.exit_code == 0, result.stderr
                (jobs,) = re.findall(r": (\d+) jobs", result.stdout)
                assert int(jobs) >= before
        finally:
            done.set()
            thread.join()
        assert acknowledged > 0
        assert run("verify", "--data-dir", short_dir / "copy-0").exit_code == 0


@pytest.mark.parametrize("command", ["verify", "dump", "compact", "repair", "backup"])
@pytest.mark.parametrize("place", ["empty", "missing", "notes"])
def test_a_directory_without_a_journal_is_refused(tmp_path: Path, command: str, place: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "lock").touch()
    before = sorted(tmp_path.rglob("*"))
    more = {"backup": [str(tmp_path / "copy")], "repair": ["--yes"]}.get(command, [])
    result = run(command, "--data-dir", tmp_path / place, *more)
    assert result.exit_code == 2
    last = result.stderr.splitlines()[-1]
    assert "does not exist" in last or "there is no journal in" in last
    assert sorted(tmp_path.rglob("*")) == before


def test_a_directory_in_use_is_refused_in_one_line(directory: Path) -> None:
    journal = FileJournal(directory)
    try:
        result = run("compact", "--data-dir", directory)
    finally:
        journal.close()
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert "in use" in result.stderr


def test_compaction_works_where_nice_is_forbidden(directory: Path) -> None:
    # As under a service manager that forbids it: a compaction that fails is tried again for ever.
    forbid = (
        "import os, runpy, sys\n"
        "def nice(_): raise PermissionError(1, 'forbidden')\n"
        "os.nice = nice\n"
        "runpy.run_module('tollgate.broker.compaction', run_name='__main__', alter_sys=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", forbid, directory],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        replaced = json.loads(child.stdout.read() or "null")
        assert child.wait(PATIENCE_S) == 0
    assert replaced

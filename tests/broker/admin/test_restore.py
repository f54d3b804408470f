"""`tollgate journal restore`: what was before means nothing in the restored log."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.broker.journal.helpers import knowing_format, segments
from tests.broker.journal.test_old_formats import contents
from tests.brokers import PATIENCE_S, ROOT, running_broker
from tests.core import (
    ADMIN,
    AWAITING_INPUT,
    AWAITING_PAYMENT,
    COMPLETED,
    HASH,
    PEER,
    RUNNING,
    Driver,
    claim,
    create,
    job_id,
    make_engine,
    move,
    pipeline_of,
)
from tollgate.broker.admin import journal as program
from tollgate.broker.core.batch import Arrival
from tollgate.broker.core.records import encode_records
from tollgate.broker.core.replay import replay
from tollgate.broker.core.state import RESTORE_GAP, State
from tollgate.broker.journal.file import FileJournal
from tollgate.client.sync import Client
from tollgate.domain.commands import Claim, Hello, Hold, List, Release, Touch
from tollgate.domain.exceptions import LeaseLostError
from tollgate.domain.messages import Refused, encode_request
from tollgate.domain.results import HelloResult, JobsResult
from tollgate.domain.settlement import SettlementState

from .test_journal import run

if TYPE_CHECKING:
    from tollgate.domain.commands import AnyCommand

KEPT = Path(__file__).parents[1] / "core" / "data"


class Past(Driver):
    """A core with a session and two running jobs, of which one is leased."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[bytes] = []
        self.ask(Hello(open_session=True))
        self.ask_in(1, create(), create())
        self.ask_in(1, move(job_id(1), RUNNING), move(job_id(2), RUNNING))
        self.ask_in(1, claim(lease_ms=60_000))

    def ask_in(self, session: int, *commands: AnyCommand) -> None:
        """Send commands in a session, and keep the frame."""
        self.frames.append(encode_request(self.request(*commands, session=session)))
        self.run(Arrival(PEER, [self.frames[-1]], ADMIN))

    def token(self, number: int) -> int:
        """Return the token of the lease on a job, 0 if there is none."""
        lease = self.engine.context.state.jobs.require(job_id(number)).lease
        return 0 if lease is None else lease.token

    def write(self, directory: Path) -> None:
        with closing(FileJournal(directory, segment_bytes=1_024)) as journal:
            replay(journal.replay(), State())
            journal.append(encode_records(self.records))
            journal.sync()


def started(directory: Path) -> Driver:
    """Start a core on the journal in the directory."""
    state, driver = State(), Driver()
    with closing(FileJournal(directory)) as journal:
        replay(journal.replay(), state)
    driver.pipeline = pipeline_of(make_engine(state))
    driver.wall = state.at
    driver.pipeline.deadlines.start(driver.now)
    return driver


@pytest.fixture
def past() -> Past:
    return Past()


@pytest.fixture
def backup(past: Past, tmp_path: Path) -> Path:
    """Return a backup of it, as it is at first."""
    past.write(tmp_path / "data")
    assert run("backup", "--data-dir", tmp_path / "data", tmp_path / "backup").exit_code == 0
    return tmp_path / "backup"


def restored(backup: Path, target: Path) -> str:
    result = run("restore", backup, "--data-dir", target)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_a_restore_says_what_it_did(backup: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    said = restored(backup, new)
    assert said == f"{new}: 2 jobs, up to record 4; leases and sessions ended\n"
    assert run("verify", "--data-dir", new).stdout.endswith("5 records, 2 jobs\n")
    dumped = [json.loads(line) for line in run("dump", "--data-dir", new).stdout.splitlines()]
    (event,) = dumped[-1]["events"]
    assert (event["event"], event["is_restore"]) == ("LogBegan", True)
    assert len(bytes.fromhex(event["log_id"])) == 16
    assert dumped[-1]["by"].startswith("uid:")
    assert dumped[-1]["at"] > dumped[-2]["at"]


def test_nothing_of_before_means_anything(past: Past, backup: Path, tmp_path: Path) -> None:
    """Neither what is in the backup, nor what happened after it in the log that was lost."""
    past.ask(Release(job_id=job_id(1), lease=1))
    past.ask_in(1, claim(limit=2))
    past.ask(Hello(open_session=True))
    past.ask_in(2, create())
    assert past.engine.context.state.leases.last_token == 3
    restored(backup, tmp_path / "new")
    driver = started(tmp_path / "new")
    for token in range(1, 6):
        for number in (1, 2):
            for command in (
                Touch(job_id=job_id(number), lease=token, lease_ms=1_000),
                Release(job_id=job_id(number), lease=token),
                move(job_id(number), COMPLETED, lease=token),
            ):
                assert driver.error(command).code == "lease_lost"
    for frame in past.frames:
        ((_, answer),) = driver.run(Arrival(PEER, [frame], ADMIN))
        assert isinstance(answer, Refused)
        assert answer.error.code == "session_evicted"
    tokens = [grant.lease for grant in driver.grants_of(claim(limit=9))]
    assert min(tokens) > RESTORE_GAP
    assert len({*tokens}) == 2
    (hello,) = driver.ask(Hello(open_session=True))
    assert isinstance(hello, HelloResult)
    assert (hello.session or 0) > RESTORE_GAP


def test_a_log_is_restored_twice(backup: Path, tmp_path: Path) -> None:
    """No number comes twice, though both restores are of the same backup or of each other."""
    ids, tokens, sessions = set(), set(), set()
    sources = (backup, backup, tmp_path / "new-0", tmp_path / "new-0", tmp_path / "new-2")
    for number, source in enumerate(sources):
        restored(source, tmp_path / f"new-{number}")
        driver = started(tmp_path / f"new-{number}")
        (grant,) = driver.grants_of(claim())
        (hello,) = driver.ask(Hello(open_session=True))
        assert isinstance(hello, HelloResult)
        tokens.add(grant.lease)
        sessions.add(hello.session)
        ids.add(driver.engine.context.state.log_id)
    assert len(ids) == len(tokens) == len(sessions) == len(sources)


@pytest.mark.parametrize("kept", ["format-1", "journal-1", "compacted-1"])
def test_a_backup_of_format_1_is_restored(kept: str, tmp_path: Path) -> None:
    """All running jobs are free, but for one of which the deadline has passed since."""
    restored(KEPT / kept, tmp_path / "new")
    driver = started(tmp_path / "new")
    granted = driver.grants_of(claim(limit=100))
    assert len(granted) == {"format-1": 3}.get(kept, 7)
    assert min(grant.lease for grant in granted) > RESTORE_GAP


@pytest.mark.parametrize("compacted", [False, True])
def test_every_kind_of_lease_ends(tmp_path: Path, compacted: bool) -> None:
    """On work, a question, a settlement and a payment; what is on hold or delayed stays so."""
    past = Past()
    in_time = datetime(2100, 1, 1, tzinfo=UTC)
    past.ask(create(), create(settle=True), create(), create(), create(pay_by_time=in_time))
    past.ask(*[move(job_id(number), RUNNING) for number in (3, 4, 5, 6)])
    past.ask(move(job_id(4), COMPLETED))
    settlement = Claim(settlement=SettlementState.WANTED, lease_ms=9_000, wait_ms=0, limit=1)
    past.ask(settlement, claim(AWAITING_PAYMENT), claim(limit=9, lease_ms=9_000))
    asks = move(job_id(2), AWAITING_INPUT, lease=past.token(2), keep_lease=True)
    past.ask(asks, Hold(job_id=job_id(5)))
    past.ask(Release(job_id=job_id(6), lease=past.token(6), delay_ms=5_000))
    assert [number for number in range(1, 8) if not past.token(number)] == [6]
    past.write(tmp_path / "data")
    if compacted:
        assert run("compact", "--data-dir", tmp_path / "data").exit_code == 0
    restored(tmp_path / "data", tmp_path / "new")
    driver = started(tmp_path / "new")
    listed = driver.ask(List(limit=100, lease=True))[0]
    assert isinstance(listed, JobsResult)
    assert [job.lease for job in listed.jobs] == [None] * 7
    assert [job.on_hold for job in listed.jobs] == [False] * 4 + [True, False, False]
    granted = [
        [grant.job.job_id for grant in driver.grants_of(command)]
        for command in (claim(limit=9), settlement, claim(AWAITING_INPUT), claim(AWAITING_PAYMENT))
    ]
    # The delay ended long ago: the journal was written by a clock of the past.
    assert granted == [[job_id(n) for n in numbers] for numbers in ([6, 1, 3], [4], [2], [7])]


def test_a_worker_and_a_client_go_on_after_a_restore(short_dir: Path) -> None:
    """The broker is away meanwhile; a job that was created after the backup is lost."""
    data, copy, new = short_dir / "data", short_dir / "copy", short_dir / "new"
    with running_broker(short_dir, data_dir=data) as broker, Client(broker.endpoint) as client:
        kept = client.create(HASH)
        client.transition(kept.job_id, RUNNING)
        (old,) = client.claim(RUNNING, lease_ms=600_000)
        assert run("backup", "--data-dir", data, copy).exit_code == 0
        client.create(HASH)
        broker.stop()
        restored(copy, new)
        with running_broker(short_dir, data_dir=new):
            with pytest.raises(LeaseLostError):
                client.transition(kept.job_id, COMPLETED, lease=old.token)
            assert [job.job_id for job in client.list()] == [kept.job_id]
            (again,) = client.claim(RUNNING)
            assert again.token > RESTORE_GAP
            client.transition(kept.job_id, COMPLETED, lease=again.token)


# --- refusals -------------------------------------------------------------------------------------


def refused(*arguments: str | Path) -> str:
    """Run it, and return its complaint of one line."""
    result = run("restore", *arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line


def test_a_restore_refuses_in_one_line(backup: Path, tmp_path: Path) -> None:
    new, before = tmp_path / "new", contents(backup)
    assert "overwrites nothing" in refused(backup, "--data-dir", tmp_path / "data")
    (tmp_path / "notes").mkdir()
    assert "is no backup" in refused(tmp_path / "notes", "--data-dir", new)
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    assert "chmod go-w" in refused(backup, "--data-dir", open_to_all)
    with closing(FileJournal(tmp_path / "data")):
        assert "in use by a broker" in refused(tmp_path / "data", "--data-dir", new)
    with knowing_format(1):
        assert "has journal format 2" in refused(backup, "--data-dir", new)
    damaged = bytearray(before["segment-0000000001"])
    damaged[60] ^= 1
    segments(backup)[0].write_bytes(damaged)
    assert "is damaged: segment-0000000001 at byte" in refused(backup, "--data-dir", new)
    assert not new.exists()


def test_wrong_usage_of_restore(backup: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for source, target in (("missing", "new"), ("file", "new"), (backup.name, "file")):
        result = run("restore", tmp_path / source, "--data-dir", tmp_path / target)
        assert result.exit_code == 2
    assert run("restore", "--data-dir", tmp_path / "new").exit_code == 2
    assert not (tmp_path / "new").exists()


def test_records_that_contradict_each_other_are_not_restored(past: Past, tmp_path: Path) -> None:
    past.records.append(past.records[1])
    past.write(tmp_path / "data")
    complaint = refused(tmp_path / "data", "--data-dir", tmp_path / "new")
    assert "entry 5 of the journal cannot be applied" in complaint
    assert not (tmp_path / "new").exists()


def test_a_restore_without_room_leaves_nothing(past: Past, tmp_path: Path) -> None:
    """With a limit of 1 KiB on the size of files, which the system reports like a full disk."""
    past.ask(create(input="x" * 2_000))
    past.write(tmp_path / "data")
    command = 'ulimit -f 1; exec "$0" -m tollgate.broker.admin.journal restore data --data-dir new'
    # The limit would cut the files of compiled modules, too.
    env = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        ["/bin/sh", "-c", command, sys.executable], cwd=tmp_path, timeout=PATIENCE_S,
        env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "there is no room for the backup in new: it takes" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_a_terminal_sees_how_far_it_is(
    backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run("restore", backup, "--data-dir", tmp_path / "quiet")
    assert result.stderr == ""
    monkeypatch.setattr(program, "stderr_is_terminal", lambda: True)
    result = run("restore", backup, "--data-dir", tmp_path / "new")
    assert "verifying" in result.stderr
    assert result.stdout.startswith(f"{tmp_path / 'new'}: 2 jobs")

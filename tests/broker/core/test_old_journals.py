"""Journals of earlier versions stay readable: jobs, leases, sessions, deadlines.

`python -m tests.broker.core.test_old_journals` writes the one of the current version, for the next
release to keep. The files of a released version are never written again.
"""

import shutil
from pathlib import Path

from tests.core import ADMIN, HASH, PEER, Driver, job_id
from tollgate.broker.compaction import compact_directory
from tollgate.broker.core.batch import Arrival
from tollgate.broker.core.records import encode_records
from tollgate.broker.core.replay import replay
from tollgate.broker.core.snapshot import snapshot_chunks
from tollgate.broker.core.state import State
from tollgate.broker.journal.file import FileJournal
from tollgate.domain.commands import Cancel, Claim, Create, Hello, ProvideInput, Release, Transition
from tollgate.domain.messages import encode_request
from tollgate.domain.status import JobStatus

KEPT = Path(__file__).parent / "data" / "format-1"


def live() -> Driver:
    """Return a broker's core after something of every kind has happened to it."""
    driver = Driver(keep_finished_ms=3_600_000, lapses=2)
    driver.ask(Hello(open_session=True))
    session = driver.engine.context.state.requests.last_session
    for _ in range(6):
        driver.ask(Create(input_hash=HASH, input="ä", identifier_from_purchaser="aa"))
    driver.ask(Create(input_hash=HASH, blockchain_identifier="payment"))
    for number in range(1, 5):
        driver.ask(Transition(job_id=job_id(number), target=JobStatus.RUNNING))
    asks = Transition(job_id=job_id(1), target=JobStatus.AWAITING_INPUT, input_schema="{}")
    driver.ask(asks)
    driver.ask(ProvideInput(job_id=job_id(1), input="more", expected_version=3))
    driver.ask(Transition(job_id=job_id(2), target=JobStatus.COMPLETED, result="done"))
    driver.ask(Cancel(job_id=job_id(5)))
    driver.pass_ms(3_600_000)  # the finished ones are forgotten
    driver.ask(Claim(status=JobStatus.RUNNING, lease_ms=100, wait_ms=0, limit=1))
    driver.pass_ms(100)
    driver.ask(Claim(status=JobStatus.RUNNING, lease_ms=1_000, wait_ms=0, limit=2))
    driver.ask(Release(job_id=job_id(3), lease=3))
    remembered = driver.request(
        Create(input_hash=HASH),
        Transition(job_id=job_id(4), target=JobStatus.AWAITING_PAYMENT),
        session=session,
    )
    driver.run(Arrival(PEER, [encode_request(remembered)], ADMIN))
    return driver


def write(directory: Path) -> None:
    """Write the journal of `live`: a snapshot of its first part, and a segment of the rest."""
    shutil.rmtree(directory, ignore_errors=True)
    records = live().records
    journal = FileJournal(directory, segment_bytes=4_096)
    replay(journal.replay(), State())
    for place, record in enumerate(records):
        if place == len(records) // 2:
            journal.close_segment()
        journal.append(encode_records([record]))
    journal.sync()
    compact_directory(directory)
    journal.close()
    (directory / "segment-0000000001").unlink()
    (directory / "lock").unlink()


def test_an_old_journal_is_read_as_it_was_written(tmp_path: Path) -> None:
    shutil.copytree(KEPT, tmp_path / "data")
    journal = FileJournal(tmp_path / "data")
    state = State()
    replay(journal.replay(), state)
    journal.close()
    now = live().engine.context.state
    assert list(snapshot_chunks(state)) == list(snapshot_chunks(now))


if __name__ == "__main__":
    write(KEPT)

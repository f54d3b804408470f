"""Journals that released versions have written stay readable: jobs, leases, sessions and all.

`python -m tests.broker.core.test_old_journals` writes the one of the current version, for the next
release to keep. The files of a released version are never written again.
"""

import shutil
from pathlib import Path

import pytest

from tests.core import ADMIN, HASH, PEER, Driver, job_id
from tollgate.broker.compact import fold_directory
from tollgate.broker.core.pipeline import Arrival
from tollgate.broker.core.principal import Principal
from tollgate.broker.core.records import encode_records
from tollgate.broker.core.replay import replay
from tollgate.broker.core.roles import Role
from tollgate.broker.core.snapshot import image
from tollgate.broker.core.state import State
from tollgate.broker.journal.file import FileJournal
from tollgate.domain.commands import Cancel, Claim, Create, Hello, ProvideInput, Release, Transition
from tollgate.domain.exceptions import SessionEvictedError
from tollgate.domain.messages import encode_request
from tollgate.domain.status import JobStatus

KEPT = Path(__file__).parent / "data" / "journal-0.1"


def live() -> Driver:
    """Return a broker's core after something of every kind has happened to it."""
    driver = Driver(keep_finished_ms=3_600_000, lapses=2)
    driver.ask(Hello(open_session=True))
    session = driver.engine._desk.state.ledger.last_session
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
    fold_directory(directory)
    journal.close()
    (directory / "segment-0000000001").unlink()
    (directory / "lock").unlink()


def test_the_journal_of_0_1_is_what_it_was(tmp_path: Path) -> None:
    shutil.copytree(KEPT, tmp_path / "data")
    journal = FileJournal(tmp_path / "data")
    state = State()
    replay(journal.replay(), state)
    journal.close()
    now = live().engine._desk.state
    for _, session in now.ledger.sessions():
        session.owner = ""  # 0.1 did not write it down
    for _, session in (*state.ledger.sessions(), *now.ledger.sessions()):
        for seq, (_, outcomes) in session.outcomes.items():
            session.outcomes[seq] = 0, outcomes  # the digest was another one, a number
    assert list(image(state)) == list(image(now))


def test_a_session_of_0_1_is_gone_on_with_by_an_admin_alone(tmp_path: Path) -> None:
    shutil.copytree(KEPT, tmp_path / "data")
    journal = FileJournal(tmp_path / "data")
    state = State()
    replay(journal.replay(), state)
    journal.close()
    ((number, session),) = state.ledger.sessions()
    state.ledger.recall(number, session.acked + 1, 0, b"", ADMIN)
    with pytest.raises(SessionEvictedError):
        state.ledger.recall(number, session.acked + 1, 0, b"", Principal("key:bob", Role.PRODUCER))


if __name__ == "__main__":
    write(KEPT)

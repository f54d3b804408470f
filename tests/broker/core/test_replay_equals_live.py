"""A replay builds what lives: after every step, through any snapshot, and after a restore."""

from itertools import pairwise

import pytest

from tests.broker.core.pair import Pair, Script, Step
from tests.broker.core.restarts import (
    entries,
    live_chunks,
    live_state,
    replayed,
    replayed_chunks,
    restart,
)
from tests.broker.core.scripts import written
from tests.core import ADMIN, OTHER, RUNNING, Driver, claim, create, move, running
from tests.sizes import sample
from tollgate.broker.core.batch import Arrival
from tollgate.broker.core.events import LeaseGranted, LogBegan, SessionOpened
from tollgate.broker.core.records import Record
from tollgate.broker.core.replay import replay
from tollgate.broker.core.snapshot import snapshot_chunks
from tollgate.broker.core.state import State
from tollgate.domain.commands import Hello
from tollgate.domain.messages import Refused, encode_request
from tollgate.domain.results import HelloResult

SEEDS = range(20_000, 20_000 + sample(4, 60))
RESTORE_GAP = 2**32


class Watched(Pair):
    """Notes after each step how many records there are, and what the state is then."""

    def __init__(self) -> None:
        self.states: dict[int, list[bytes]] = {}
        super().__init__()

    def do(self, step: Step) -> None:
        super().do(step)
        if self.driver.records:
            self.states[len(self.driver.records)] = live_chunks(self.driver)


def watched(seed: int, steps: int = 60) -> Watched:
    pair = Watched()
    written(seed, pair, steps, Script())
    return pair


@pytest.mark.parametrize("seed", SEEDS)
def test_a_replay_is_what_lived_after_every_step(seed: int) -> None:
    pair, state, done = watched(seed), State(), 0
    for number, chunks in sorted(pair.states.items()):
        replay(entries(pair.driver.records[done:number], done + 1), state)
        assert list(snapshot_chunks(state)) == chunks, f"after {number} records"
        done = number


@pytest.mark.parametrize("seed", SEEDS)
def test_a_replay_goes_through_a_snapshot_after_any_step(seed: int) -> None:
    pair = watched(seed)
    records = pair.driver.records
    for number in sorted(pair.states)[:: sample(9, 1)]:
        assert replayed_chunks(records, number) == pair.states[len(records)], number


def test_no_token_and_no_session_number_comes_twice() -> None:
    """The restarts and restores of the scripts are among the records."""
    granted = 0
    for seed in SEEDS:
        events = [event for record in watched(seed, 150).driver.records for event in record.events]
        tokens = [event.lease for event in events if isinstance(event, LeaseGranted)]
        sessions = [event.session for event in events if isinstance(event, SessionOpened)]
        for numbers in (tokens, sessions):
            assert all(one < other for one, other in pairwise(numbers)), seed
        granted += len(tokens)
    assert granted > len(SEEDS)


def restored(driver: Driver, number: int) -> Driver:
    """Return a broker that was started from a backup of the first `number` records."""
    backup = Driver()
    backup.wall, backup.mono_ms = driver.wall, driver.mono_ms
    backup.records = [
        *driver.records[:number],
        Record([LogBegan("restored", is_restore=True)], at=driver.records[number - 1].at),
    ]
    restart(backup)
    return backup


def test_a_restore_gives_no_number_again() -> None:
    driver = Driver()
    for _ in range(4):
        running(driver)
    driver.ask(Hello(open_session=True))
    number = len(driver.records)
    lost = [driver.grants_of(claim())[0].lease for _ in range(4)]
    (hello,) = driver.ask(Hello(open_session=True))
    assert isinstance(hello, HelloResult)
    backup = restored(driver, number)

    tokens = [backup.grants_of(claim())[0].lease for _ in range(4)]
    (again,) = backup.ask(Hello(open_session=True))

    assert isinstance(again, HelloResult)
    assert not {*tokens} & {*lost}
    assert min(tokens) > RESTORE_GAP
    assert again.session is not None
    assert again.session > RESTORE_GAP
    assert replayed_chunks(backup.records) == live_chunks(backup)


def test_a_restore_ends_all_leases_and_sessions() -> None:
    driver = Driver()
    driver.ask(Hello(open_session=True))
    jobs = [running(driver).job_id for _ in range(2)]
    (grant,) = driver.grants_of(claim(lease_ms=60_000))
    backup = restored(driver, len(driver.records))

    error = backup.error(move(grant.job, RUNNING, lease=grant.lease))
    assert error.code == "lease_lost"
    assert [each.job.job_id for each in backup.grants_of(claim(limit=9))] == [jobs[1], jobs[0]]
    frame = encode_request(backup.request(create(), session=1))
    ((_, refused),) = backup.run(Arrival(OTHER, [frame], ADMIN))
    assert isinstance(refused, Refused)
    assert refused.error.code == "session_evicted"


def test_a_restore_keeps_what_is_ready_in_order() -> None:
    driver = Driver()
    for queue in ("a", "b", "a"):
        running(driver, queue=queue)
    backup = restored(driver, len(driver.records))
    assert live_state(backup).log_id == "restored"
    assert list(snapshot_chunks(replayed(backup.records))) == live_chunks(backup)

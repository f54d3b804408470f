"""Replay equals live after commands of any kind: the state, and what claims would get then."""

from datetime import timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.broker.core.any_commands import messages
from tests.broker.core.restarts import live_state, replayed, restart
from tests.core import EPOCH, HOUR, PEER, Driver, claim, create, job_id, move, status_of
from tests.sizes import sample
from tollgate.broker.core.batch import Arrival
from tollgate.broker.core.snapshot import snapshot_chunks
from tollgate.broker.core.state import State
from tollgate.broker.repository.queues import CLAIMED
from tollgate.domain.commands import AnyCommand, Hello
from tollgate.domain.messages import encode_request
from tollgate.domain.status import AWAITING_INPUT, COMPLETED, FAILED, RUNNING

times = st.lists(st.tuples(messages, st.integers(0, 80)), min_size=1, max_size=10)


def lived(lot: list[tuple[list[AnyCommand], int]]) -> Driver:
    """Return a core that has decided messages, with time between them."""
    driver = Driver(keep_finished_ms=100, payment_grace_ms=0, lapses=2, queues=3)
    driver.ask(Hello(open_session=True))
    driver.ask(*[create(settle=True) for _ in range(4)])
    driver.ask(*[move(job_id(number), RUNNING) for number in (1, 2, 3)], move(job_id(3), COMPLETED))
    driver.grants_of(claim(lease_ms=100))
    for commands, span_ms in lot:
        driver.pass_ms(span_ms)
        frame = encode_request(driver.request(*commands, session=1))
        driver.run(Arrival(PEER, [frame], driver.principal))
    return driver


def claimable(state: State, driver: Driver) -> list[list[int]]:
    """Return what claims of everything would get, now and later."""
    queues = state.jobs.queues
    found = []
    for later in (timedelta(0), timedelta(milliseconds=50), timedelta(days=1)):
        for claimed in CLAIMED:
            taken = queues.take(claimed, ["*"], 99, driver.wall + later)
            queues.put_back(claimed, taken)
            found.append([slot.index for slot in taken])
    return found


@settings(max_examples=sample(120, 1_000), suppress_health_check=[HealthCheck.too_slow])
@given(times, st.integers(0, 60))
def test_replay_equals_live_after_any_commands(
    lot: list[tuple[list[AnyCommand], int]], middle: int
) -> None:
    driver = lived(lot)
    live = live_state(driver)
    live.at = driver.records[-1].at or live.at  # reads move it on
    chunks, jobs = list(snapshot_chunks(live)), live.jobs
    assert jobs.leased == sum(slot.lease is not None for slot in jobs.slots())
    given = claimable(live, driver)
    assert all(len({*each}) == len(each) for each in given), "no job is granted twice"
    for state in (
        replayed(driver.records),
        replayed(driver.records, min(middle, len(driver.records))),
    ):
        assert list(snapshot_chunks(state)) == chunks
        assert claimable(state, driver) == given
        assert set(state.jobs.queues.by_name) == set(jobs.queues.by_name)
        assert state.jobs.leased == jobs.leased
        assert state.jobs.texts.total_bytes == jobs.texts.total_bytes


def test_a_deadline_holds_after_a_restart_in_a_run_of_moves() -> None:
    driver = Driver()
    job = driver.job(create(job_id=job_id(77), submit_result_time=EPOCH + HOUR))
    driver.ask(move(job, RUNNING), move(job, AWAITING_INPUT))  # one record with both moves
    restart(driver)
    driver.pass_ms(3_600_000)
    assert status_of(driver, job) is FAILED

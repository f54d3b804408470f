"""A repeated request takes effect once: the session's window, eviction and retention."""

import tracemalloc
from collections.abc import Iterable
from datetime import timedelta

import pytest

from tests.core import (
    ADMIN,
    EPOCH,
    HASH,
    OTHER,
    PEER,
    Driver,
    error_of_result,
    job_id,
    job_of,
    leases_of,
    make_engine,
    pipeline_of,
)
from tests.crash.test_replay import replayed
from tollgate.broker.core.batch import Arrival
from tollgate.broker.core.deadlines import REMOVED_MAX
from tollgate.broker.core.events import SessionEvicted
from tollgate.broker.core.feed import CHUNK_BYTES, Feed
from tollgate.broker.core.limits import Limits
from tollgate.broker.core.records import Record, encode_records
from tollgate.broker.core.request_log import RECENT_MAX
from tollgate.broker.core.state import State
from tollgate.domain.commands import (
    AnyCommand,
    Claim,
    Count,
    Create,
    Get,
    Hello,
    Release,
    StopWaiting,
    Transition,
)
from tollgate.domain.messages import Refused, Reply, Request, encode_request
from tollgate.domain.results import AnyResult, ErrorResult, HelloResult, JobResult, OkResult
from tollgate.domain.status import JobStatus

WINDOW = 64


def opened(driver: Driver) -> int:
    result = driver.ask(Hello(open_session=True))[0]
    assert isinstance(result, HelloResult)
    assert result.session is not None
    return result.session


def send(
    driver: Driver,
    session: int,
    seq: int,
    *commands: AnyCommand,
    acked: int = 0,
    peer: bytes = PEER,
) -> list[tuple[bytes, Reply | Refused]]:
    request = Request(1, session, seq, acked, list(commands))
    return driver.run(Arrival(peer, [encode_request(request)], ADMIN))


def results(
    driver: Driver, session: int, seq: int, *commands: AnyCommand, acked: int = 0
) -> list[AnyResult]:
    (_, answer), *others = send(driver, session, seq, *commands, acked=acked)
    assert isinstance(answer, Reply), answer
    assert (answer.seq, others) == (seq, [])
    return answer.results


def refusal(
    driver: Driver, session: int, seq: int, *commands: AnyCommand, acked: int = 0
) -> ErrorResult:
    records = len(driver.records)
    (_, answer), *others = send(driver, session, seq, *commands, acked=acked)
    assert isinstance(answer, Refused), answer
    assert (answer.seq, others, len(driver.records)) == (seq, [], records)
    return answer.error


def known(state: State) -> list[int]:
    return [number for number, _ in state.requests.sessions()]


def evicted(records: Iterable[Record]) -> list[int]:
    return [
        event.session
        for record in records
        for event in record.events
        if isinstance(event, SessionEvicted)
    ]


def create(number: int) -> Create:
    return Create(input_hash=HASH, job_id=job_id(number))


def failing(number: int) -> Transition:
    return Transition(job_id=job_id(number), target=JobStatus.FAILED)


def claiming(wait_ms: int = 0) -> Claim:
    return Claim(status=JobStatus.AWAITING_PAYMENT, lease_ms=9_000, wait_ms=wait_ms, limit=1)


def test_a_repeated_request_takes_effect_once() -> None:
    driver = Driver()
    session = opened(driver)
    commands: list[AnyCommand] = [
        Create(input_hash=HASH),
        failing(1),
        failing(1),
        failing(9),
        Count(),
    ]
    first = results(driver, session, 1, *commands)
    records = len(driver.records)
    driver.pass_ms(1_000)
    again = results(driver, session, 1, *commands)
    assert len(driver.records) == records
    assert job_of(again[0]).version == job_of(first[0]).version == 1
    assert job_of(again[1]).updated_at == job_of(first[1]).updated_at
    for place, code in ((2, "illegal_transition"), (3, "job_not_found")):
        one, other = first[place], again[place]
        assert isinstance(one, ErrorResult)
        assert isinstance(other, ErrorResult)
        assert one.code == other.code == code
        assert (one.job_id, one.status, one.version) == (other.job_id, other.status, other.version)


def test_a_read_in_a_repeated_request_is_decided_again() -> None:
    driver = Driver()
    session = opened(driver)
    read = Get(job_id=job_id(1))
    results(driver, session, 1, create(1), read)
    results(driver, session, 2, failing(1))
    created, now = results(driver, session, 1, create(1), read)
    assert job_of(created).status is JobStatus.AWAITING_PAYMENT
    assert job_of(now).status is JobStatus.FAILED


def test_a_session_never_opened_is_evicted() -> None:
    driver = Driver()
    session = opened(driver)
    assert refusal(driver, session + 1, 1, create(1)).code == "session_evicted"
    assert driver.ask(Count())[0].total == 0  # type: ignore[union-attr]


def test_the_window_is_the_64_requests_after_acked() -> None:
    driver = Driver()
    session = opened(driver)
    refused = refusal(driver, session, WINDOW + 1, create(1))
    assert (refused.code, refused.limit, refused.retryable) == ("overloaded", WINDOW, True)
    results(driver, session, WINDOW, create(1))
    results(driver, session, 1, create(2))
    results(driver, session, WINDOW + 1, create(3), acked=1)
    assert refusal(driver, session, 1, create(2)).code == "stale_request"
    assert refusal(driver, session, WINDOW + 2, create(4), acked=1).code == "overloaded"


def test_stop_waiting_needs_no_room_in_the_window() -> None:
    driver = Driver()
    session, stop = opened(driver), StopWaiting(seqs=[1])
    assert send(driver, session, 1, claiming(wait_ms=60_000)) == []
    assert refusal(driver, session, 2 * WINDOW, Count()).code == "overloaded"
    assert refusal(driver, session, 2 * WINDOW, stop, create(1)).code == "overloaded"
    records = len(driver.records)
    (_, claim), (_, stopped) = send(driver, session, 2 * WINDOW, stop)
    assert (claim.seq, stopped.seq, len(driver.records)) == (1, 2 * WINDOW, records)
    assert isinstance(claim, Reply)
    assert leases_of(claim.results[0]) == []
    results(driver, session, WINDOW, create(1))  # the window has not moved


def test_a_request_that_acknowledges_itself_is_stale() -> None:
    driver = Driver()
    session = opened(driver)
    assert refusal(driver, session, 3, create(1), acked=3).code == "stale_request"
    assert refusal(driver, session, 0, create(1)).code == "stale_request"


def test_acked_never_goes_back() -> None:
    driver = Driver()
    session = opened(driver)
    results(driver, session, 3, create(1), acked=2)
    assert refusal(driver, session, 2, create(2)).code == "stale_request"


def test_only_the_latest_requests_keep_their_events() -> None:
    driver = Driver()
    sessions = [opened(driver) for _ in range(2)]
    ledger = driver.engine.context.state.requests
    first = []
    for number in range(1, 81):
        session, seq = sessions[number % 2], (number + 1) // 2
        first += results(driver, session, seq, create(number), failing(number), failing(number))
    assert len(ledger._recent) == RECENT_MAX
    again = []
    for number in range(1, 81):
        session, seq = sessions[number % 2], (number + 1) // 2
        again += results(driver, session, seq, create(number), failing(number), failing(number))
    assert not ledger._recent
    for one, other in zip(first, again, strict=True):
        if isinstance(one, JobResult):
            assert one.job.version == job_of(other).version
        else:
            assert error_of_result(one).code == error_of_result(other).code
    assert ledger.outcomes == 240
    results(driver, sessions[0], 41, acked=40)
    assert ledger.outcomes == 120


def test_eviction_removes_recent_outcomes_too() -> None:
    driver = Driver()
    session = opened(driver)
    results(driver, session, 1, create(1), failing(1))
    ledger = driver.engine.context.state.requests
    ledger.evict(session)
    assert (ledger.outcomes, len(ledger._recent), known(driver.engine.context.state)) == (0, 0, [])


def test_acknowledged_outcomes_are_removed() -> None:
    driver = Driver()
    session = opened(driver)
    for seq in (1, 2, 3):
        results(driver, session, seq, create(seq))
    assert driver.engine.context.state.requests.outcomes == 3
    assert results(driver, session, 4, acked=2) == []
    assert driver.engine.context.state.requests.outcomes == 1
    assert replayed(driver.records).requests.outcomes == 1
    assert refusal(driver, session, 2, create(2)).code == "stale_request"
    assert results(driver, session, 3, create(3))


def test_an_empty_request_is_not_logged_without_a_new_acked() -> None:
    driver = Driver()
    session = opened(driver)
    records = len(driver.records)
    assert results(driver, session, 1) == []
    assert len(driver.records) == records


def test_another_request_with_the_same_seq_is_refused() -> None:
    driver = Driver()
    session = opened(driver)
    results(driver, session, 1, create(1))
    for other in ([create(2)], [create(1), create(2)], [failing(1)], []):
        assert refusal(driver, session, 1, *other).code == "request_conflict"


def test_another_request_with_a_parked_seq_is_refused() -> None:
    driver = Driver()
    session = opened(driver)
    assert send(driver, session, 1, claiming(5_000)) == []
    for other in (create(1), claiming(4_000), claiming()):
        assert refusal(driver, session, 1, other).code == "request_conflict"
    (to, answer), _ = send(driver, session, 2, create(1))[::-1]
    assert isinstance(answer, Reply)
    assert (to, answer.seq) == (PEER, 1)
    assert len(leases_of(answer.results[0])) == 1


def test_the_leases_of_a_parked_claim_are_remembered() -> None:
    driver = Driver()
    session = opened(driver)
    assert send(driver, session, 1, claiming(5_000)) == []
    assert send(driver, session, 1, claiming(5_000), peer=OTHER) == []
    driver.ask(create(1))
    peers = [peer for peer, answer in driver.inbox if answer.seq == 1 and peer == OTHER]
    assert peers == [OTHER]  # a repeat replaces the first as the one to be answered
    granted = leases_of(driver.result_of(1, OTHER))
    driver.pass_ms(1)
    again = leases_of(results(driver, session, 1, claiming(5_000))[0])
    assert [grant.lease for grant in again] == [grant.lease for grant in granted] == [1]


def test_a_repeated_claim_shows_only_leases_that_stand() -> None:
    driver = Driver()
    session = opened(driver)
    driver.ask(create(1), create(2))
    claim = Claim(status=JobStatus.AWAITING_PAYMENT, lease_ms=9_000, wait_ms=0, limit=2)
    assert len(leases_of(results(driver, session, 1, claim)[0])) == 2
    assert results(driver, session, 2, Release(job_id=job_id(1), lease=1)) == [OkResult()]
    again = leases_of(results(driver, session, 1, claim)[0])
    assert [(grant.job.job_id, grant.lease) for grant in again] == [(job_id(2), 2)]
    assert results(driver, session, 2, Release(job_id=job_id(1), lease=1)) == [OkResult()]


def test_a_parked_claim_of_an_evicted_session_gets_no_lease() -> None:
    driver = Driver(sessions=1)
    session = opened(driver)
    assert send(driver, session, 1, claiming(5_000)) == []
    opened(driver)
    driver.ask(create(1))
    result = driver.result_of(1)
    assert isinstance(result, ErrorResult)
    assert result.code == "session_evicted"
    assert len(driver.grants_of(claiming())) == 1


def test_too_many_sessions_evict_the_least_recently_used() -> None:
    driver = Driver(sessions=3)
    sessions = [opened(driver) for _ in range(3)]
    results(driver, sessions[0], 1, create(1))
    results(driver, sessions[1], 1, Count())  # reads are not in the log
    newest = opened(driver)
    assert evicted(driver.records) == [sessions[1]]
    assert known(replayed(driver.records)) == [sessions[2], sessions[0], newest]
    assert refusal(driver, sessions[1], 1, create(2)).code == "session_evicted"
    assert results(driver, sessions[0], 1, create(1))


def test_a_session_that_opens_others_is_not_evicted_for_them() -> None:
    driver = Driver(sessions=2)
    session = opened(driver)
    opened(driver)
    results(driver, session, 1, create(1), Hello(open_session=True), Hello(open_session=True))
    assert session in known(driver.engine.context.state)
    assert known(replayed(driver.records)) == known(driver.engine.context.state)


@pytest.mark.parametrize("wait_ms", [0, 5_000])
def test_too_many_outcomes_evict_the_least_recently_used(wait_ms: int) -> None:
    driver = Driver(outcomes=6)
    sessions = [opened(driver) for _ in range(3)]
    for seq in (1, 2):
        for session in reversed(sessions):
            results(driver, session, seq, create(10 * session + seq))
    ledger = driver.engine.context.state.requests
    assert ledger.outcomes == 6
    results(driver, sessions[0], 3, claiming(wait_ms))
    assert evicted(driver.records) == [sessions[2]]
    # A claim counts as one outcome, and each lease as one more.
    assert ledger.outcomes == replayed(driver.records).requests.outcomes == 6
    assert known(replayed(driver.records)) == [sessions[1], sessions[0]]


def test_the_only_session_keeps_its_window_above_the_limit() -> None:
    driver = Driver(outcomes=4)
    session = opened(driver)
    for seq in range(1, 9):
        results(driver, session, seq, create(seq))
    for seq in range(1, 9):
        assert job_of(results(driver, session, seq, create(seq))[0]).job_id == job_id(seq)
    assert evicted(driver.records) == []


def test_a_full_disk_refuses_writes_and_answers_reads() -> None:
    driver = Driver()
    session = opened(driver)
    results(driver, session, 1, create(1))
    records = len(driver.records)
    driver.writable = False
    full, read, hello = results(
        driver, session, 2, create(2), Get(job_id=job_id(1)), Hello(open_session=True)
    )
    assert isinstance(read, JobResult)
    for refused in (full, hello):
        assert isinstance(refused, ErrorResult)
        assert (refused.code, refused.retryable) == ("storage_full", True)
    claim = results(driver, session, 3, claiming(5_000))[0]
    assert isinstance(claim, ErrorResult)
    assert job_of(results(driver, session, 1, create(1))[0]).job_id == job_id(1)
    assert results(driver, session, 4, acked=1) == []
    driver.pass_ms(40 * 86_400_000)  # deadlines wait for room, too
    assert len(driver.records) == records
    driver.writable = True
    made = results(driver, session, 2, create(2), Get(job_id=job_id(1)), Hello(open_session=True))
    assert job_of(made[0]).version == 1
    assert job_of(made[1]).status is JobStatus.FAILED
    assert isinstance(made[2], HelloResult)


def test_a_repeat_about_a_pruned_job_does_not_find_it() -> None:
    driver = Driver(max_finished=0)
    session = opened(driver)
    results(driver, session, 1, create(1), failing(1))
    driver.pass_ms(1)
    gone = results(driver, session, 1, create(1), failing(1))
    assert [each.code for each in gone if isinstance(each, ErrorResult)] == ["job_not_found"] * 2
    assert job_of(results(driver, session, 2, create(1))[0]).version == 1  # the id is free again


def test_finished_jobs_are_kept_for_their_time() -> None:
    driver = Driver(keep_finished_ms=100_000)
    driver.ask(create(1), create(2), failing(1))
    driver.pass_ms(99_999)
    assert driver.job(Get(job_id=job_id(1))).version == 2
    driver.pass_ms(1)
    assert driver.error(Get(job_id=job_id(1))).code == "job_not_found"
    assert driver.job(Get(job_id=job_id(2))).version == 1


def test_finished_jobs_over_the_limit_go_a_few_at_a_time() -> None:
    driver = Driver(max_finished=10)
    for batch in range(3):
        numbers = range(1_000 * batch, 1_000 * batch + 1_000)
        driver.ask(*[create(number) for number in numbers][:500])
        driver.ask(*[create(number) for number in numbers][500:])
    state = driver.engine.context.state
    for number in range(2_500):
        state.jobs.update_status(job_id(number), JobStatus.FAILED, at=EPOCH)
    driver.ask(create(9_999))  # deadlines are checked only when a message arrives
    before = len(driver.records)
    driver.run()
    assert len(driver.records[before].events) == REMOVED_MAX
    assert state.jobs.finished.count == 2_500 - REMOVED_MAX
    for _ in range(2_500 // REMOVED_MAX):
        driver.run()
    assert state.jobs.finished.count == 10
    assert not driver.pipeline.deadlines.is_due(driver.now)


def test_a_removed_job_leaves_no_text_in_memory() -> None:
    driver = Driver(max_finished=0)
    state = driver.engine.context.state
    state.feed = Feed(bytes_max=CHUNK_BYTES)  # it holds the texts of so many
    state.known = state.feed.known
    driver.ask(create(9_999))  # so that its queue lives on
    tracemalloc.start()
    try:
        for number in range(100):
            text = f"{number}".ljust(10_000)
            driver.ask(Create(input_hash=HASH, job_id=job_id(number), input=text), failing(number))
            driver.pass_ms(1)
            driver.records.clear()
            driver.inbox.clear()
        assert driver.engine.context.state.jobs.count() == 1
        assert tracemalloc.get_traced_memory()[0] < 500_000
    finally:
        tracemalloc.stop()


def test_a_clock_set_long_after_the_start_prunes_nothing() -> None:
    """Nothing was due in between, but the clocks are compared after each batch."""
    driver = Driver()
    driver.ask(create(1), failing(1))
    state = replayed(driver.records)
    later = Driver()
    later.pipeline = pipeline_of(make_engine(state))
    later.pipeline.deadlines.start(later.now)
    for _ in range(10):
        later.mono_ms += 1_000
        later.wall += timedelta(seconds=1)
        later.ask(Count())
    later.set_wall(later.wall + timedelta(days=400))
    assert state.jobs.count() == 1
    later.pass_ms(Limits().keep_finished_ms - 1)
    assert state.jobs.count() == 1
    later.pass_ms(1)
    assert state.jobs.count() == 0


@pytest.mark.parametrize("step_s", [-3_600, 3_600])
def test_nothing_is_pruned_early_after_a_clock_jump(step_s: int) -> None:
    driver = Driver(keep_finished_ms=9_000)
    driver.ask(create(1), failing(1))
    driver.set_wall(driver.wall + timedelta(seconds=step_s))
    assert driver.job(Get(job_id=job_id(1))).version == 2
    driver.pass_ms(8_999)
    assert driver.job(Get(job_id=job_id(1))).version == 2
    driver.pass_ms(1_001)  # a clock that was set back goes a tenth slower
    assert driver.error(Get(job_id=job_id(1))).code == "job_not_found"


def test_a_clock_set_back_and_forth_moves_no_job_back() -> None:
    driver = Driver()
    driver.ask(create(1))
    driver.set_wall(EPOCH - timedelta(days=3))
    moved = driver.job(Transition(job_id=job_id(1), target=JobStatus.RUNNING))
    assert moved.updated_at == EPOCH
    driver.set_wall(EPOCH + timedelta(days=3))
    driver.ask(Transition(job_id=job_id(1), target=JobStatus.COMPLETED, result="done"))
    driver.ask(create(2))
    driver.set_wall(EPOCH + timedelta(days=30, minutes=6))
    assert driver.job(Get(job_id=job_id(2))).status is JobStatus.FAILED
    driver.set_wall(EPOCH)
    assert driver.job(Get(job_id=job_id(2))).status is JobStatus.FAILED
    assert driver.job(Get(job_id=job_id(1))).updated_at == EPOCH + timedelta(days=3)
    state = replayed(driver.records)
    assert state.jobs.get(job_id(2)) == driver.engine.context.state.jobs.get(job_id(2))


def test_the_same_steps_make_the_same_bytes() -> None:
    written = []
    for _ in range(2):
        driver = Driver()
        session = opened(driver)
        results(driver, session, 1, Create(input_hash=HASH), claiming())
        driver.pass_ms(9_000)
        written.append(encode_records(driver.records))
    assert written[0] == written[1]

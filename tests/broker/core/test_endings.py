"""Parked commands that end together are answered in pieces, and each of them once."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core import (
    ADMIN,
    OTHER,
    PEER,
    Driver,
    claim,
    create,
    error_of_result,
    job_of,
    leases_of,
    move,
    wait,
)
from tests.core import job_id as numbered
from tollgate.broker.core import context, waiters
from tollgate.broker.core.batch import Arrival
from tollgate.broker.core.events import LogBegan
from tollgate.broker.core.roles import Principal, Role
from tollgate.broker.core.state import State
from tollgate.domain.commands import (
    AnyCommand,
    Cancel,
    Claim,
    Events,
    Get,
    Hello,
    PauseQueue,
    ResumeQueue,
    StopWaiting,
    Wait,
)
from tollgate.domain.messages import Reply, Request, encode_request
from tollgate.domain.results import EventsResult, HelloResult, LeasesResult, OkResult
from tollgate.domain.status import COMPLETED, FAILED, RUNNING

A_PIECE = 3
"""So many waits of one job end in a batch."""
MANY = 10
WORKER = Principal("key:worker", frozenset({Role.WORKER}), key="k")
CLAIM = Claim(status=RUNNING, lease_ms=1_000, wait_ms=60_000, limit=1)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a batch end, or serve, three commands that are found under one job or queue."""
    monkeypatch.setattr(
        context, "ENDS_MAX", A_PIECE * (waiters.END_COST + waiters.JOB_COST + waiters.LOOK_COST)
    )
    monkeypatch.setattr(context, "SERVED_MAX", A_PIECE * (waiters.END_COST + 1))


def arrival(
    driver: Driver, *commands: AnyCommand, peer: bytes = PEER, principal: Principal = ADMIN
) -> Arrival:
    return Arrival(peer, [encode_request(driver.request(*commands))], principal)


def park(driver: Driver, command: AnyCommand, principal: Principal = ADMIN) -> int:
    assert driver.run(arrival(driver, command, principal=principal)) == []
    return driver.seq


def pieces(driver: Driver) -> list[list[int | None]]:
    """Run batches until nothing is left; return the numbers that each of them has answered."""
    answered = []
    while driver.pipeline.is_behind():
        answered.append([answer.seq for _, answer in driver.run()])
        assert len(answered) < 100
    return answered


def answers(driver: Driver) -> Counter[tuple[bytes, int | None]]:
    return Counter((peer, answer.seq) for peer, answer in driver.inbox)


def test_waits_that_end_together_are_answered_in_pieces() -> None:
    driver = Driver()
    job = driver.job(create())
    seqs = [park(driver, wait(job.job_id)) for _ in range(MANY)]
    driver.inbox.clear()
    first = [answer.seq for _, answer in driver.run(arrival(driver, Cancel(job_id=job.job_id)))]
    got = [first[1:], *pieces(driver)]
    assert first[0] == driver.seq
    assert [len(piece) for piece in got] == [3, 3, 3, 1]
    assert [seq for piece in got for seq in piece] == seqs
    assert {job_of(driver.result_of(seq)).status for seq in seqs} == {FAILED}


def test_messages_are_decided_between_the_pieces() -> None:
    driver = Driver()
    job = driver.job(create())
    for _ in range(MANY):
        park(driver, wait(job.job_id))
    driver.run(arrival(driver, Cancel(job_id=job.job_id)))
    (reply,) = [
        answer
        for peer, answer in driver.run(arrival(driver, Get(job_id=job.job_id), peer=OTHER))
        if peer == OTHER
    ]
    assert isinstance(reply, Reply)
    assert driver.pipeline.is_behind(), "waits are left"


def test_a_wait_of_many_jobs_takes_as_much_as_many_waits() -> None:
    driver = Driver()
    ids = [driver.job(create()).job_id for _ in range(100)]
    for _ in range(4):
        park(driver, wait(*ids))
    driver.inbox.clear()
    driver.run(arrival(driver, Cancel(job_id=ids[7])))
    assert [len(piece) for piece in pieces(driver)] == [1, 1, 1]


def test_a_wait_shows_the_first_job_that_ended_it() -> None:
    driver = Driver()
    one, two = driver.job(create()), driver.job(create())
    seqs = [park(driver, wait(one.job_id, two.job_id)) for _ in range(MANY)]
    driver.run(arrival(driver, Cancel(job_id=one.job_id), Cancel(job_id=two.job_id)))
    pieces(driver)
    assert {job_of(driver.result_of(seq)).job_id for seq in seqs} == {one.job_id}
    assert set(answers(driver).values()) == {1}


def test_a_wait_shows_the_job_as_it_was_when_it_ended() -> None:
    driver = Driver()
    job = driver.job(create())
    seqs = [park(driver, wait(job.job_id, statuses=[RUNNING])) for _ in range(MANY)]
    driver.run(arrival(driver, move(job, RUNNING)))
    driver.run(arrival(driver, move(job, COMPLETED)))
    pieces(driver)
    assert {job_of(driver.result_of(seq)).status for seq in seqs} == {RUNNING}


def test_waits_for_another_status_stay_parked() -> None:
    driver = Driver()
    job = driver.job(create())
    ends = [park(driver, wait(job.job_id)) for _ in range(MANY)]
    moves = park(driver, wait(job.job_id, statuses=[RUNNING]))
    driver.ask(move(job, RUNNING))
    pieces(driver)
    assert job_of(driver.result_of(moves)).status is RUNNING
    assert all(driver.answer_to(seq) is None for seq in ends)
    driver.ask(move(job, COMPLETED))
    pieces(driver)
    assert {job_of(driver.result_of(seq)).status for seq in ends} == {COMPLETED}


def test_an_ended_wait_does_not_time_out() -> None:
    driver = Driver()
    job = driver.job(create())
    seqs = [park(driver, wait(job.job_id)) for _ in range(MANY)]
    driver.run(arrival(driver, Cancel(job_id=job.job_id)))
    driver.pass_ms(2_000)
    pieces(driver)
    assert {job_of(driver.result_of(seq)).status for seq in seqs} == {FAILED}
    assert set(answers(driver).values()) == {1}


def test_others_time_out_behind_the_pieces() -> None:
    driver = Driver()
    job, other = driver.job(create()), driver.job(create())
    for _ in range(MANY):
        park(driver, wait(job.job_id))
    late = park(driver, wait(other.job_id))
    driver.run(arrival(driver, Cancel(job_id=job.job_id)))
    driver.pass_ms(2_000)
    pieces(driver)
    driver.run()
    assert error_of_result(driver.result_of(late)).code == "wait_timeout"


def test_an_ended_wait_that_is_stopped_shows_the_job() -> None:
    driver = Driver()
    job = driver.job(create())
    seqs = [park(driver, wait(job.job_id)) for _ in range(MANY)]
    driver.run(arrival(driver, Cancel(job_id=job.job_id)))
    driver.run(arrival(driver, StopWaiting(seqs=seqs)))
    stop = driver.seq
    pieces(driver)
    assert {job_of(driver.result_of(seq)).status for seq in seqs} == {FAILED}
    assert set(answers(driver).values()) <= {1}
    driver.run(arrival(driver, StopWaiting(seqs=seqs)))
    assert isinstance(driver.result_of(stop) or driver.result_of(driver.seq), OkResult)


def test_a_wait_that_ends_and_is_stopped_in_one_message() -> None:
    driver = Driver()
    job = driver.job(create())
    seqs = [park(driver, wait(job.job_id)) for _ in range(2)]
    driver.run(arrival(driver, Cancel(job_id=job.job_id), StopWaiting(seqs=seqs)))
    pieces(driver)
    assert {job_of(driver.result_of(seq)).status for seq in seqs} == {FAILED}
    assert set(answers(driver).values()) == {1}


def test_a_wait_that_was_replaced_is_not_answered() -> None:
    driver = Driver()
    job, other = driver.job(create()), driver.job(create())
    seqs = [park(driver, wait(job.job_id)) for _ in range(MANY)]
    driver.run(arrival(driver, Cancel(job_id=job.job_id)))
    replaced = Request(1, 0, seqs[-1], 0, [wait(other.job_id)])
    driver.run(Arrival(PEER, [encode_request(replaced)], ADMIN))
    pieces(driver)
    assert driver.answer_to(seqs[-1]) is None
    driver.ask(Cancel(job_id=other.job_id))
    assert job_of(driver.result_of(seqs[-1])).job_id == other.job_id


def test_a_repeat_of_an_ended_wait_is_answered_once() -> None:
    driver = Driver()
    (hello,) = driver.ask(Hello(open_session=True))
    assert isinstance(hello, HelloResult)
    job = driver.job(create())
    for _ in range(MANY):
        park(driver, wait(job.job_id))
    request = encode_request(driver.request(wait(job.job_id), session=hello.session or 0))
    seq = driver.seq
    driver.run(Arrival(PEER, [request], ADMIN))
    driver.run(arrival(driver, Cancel(job_id=job.job_id)))
    driver.run(Arrival(OTHER, [request], ADMIN))
    pieces(driver)
    assert answers(driver)[PEER, seq] + answers(driver)[OTHER, seq] == 1


def test_stopped_commands_are_answered_before_the_stop() -> None:
    driver = Driver()
    seqs = [park(driver, claim(wait_ms=60_000)) for _ in range(MANY)]
    stop = driver.request(StopWaiting(seqs=[*seqs, 999]))
    message = Arrival(PEER, [encode_request(stop)], ADMIN)
    driver.inbox.clear()
    batches = 0
    while driver.answer_to(stop.seq) is None:
        driver.take(driver.pipeline.run([message], driver.now))
        batches += 1
    assert [answer.seq for _, answer in driver.inbox] == [*seqs, stop.seq]
    assert batches == 3
    assert isinstance(driver.result_of(stop.seq), OkResult)
    assert not driver.engine.context.waiters.parked


def test_parked_claims_come_before_later_ones() -> None:
    driver = Driver()
    ids = [driver.job(create()).job_id for _ in range(MANY)]
    driver.ask(*[move(job_id, RUNNING) for job_id in ids], PauseQueue(queue="default"))
    seqs = [park(driver, claim(wait_ms=60_000)) for _ in range(MANY)]
    later = arrival(driver, claim(), peer=OTHER)
    left = [arrival(driver, ResumeQueue(queue="default")), later]
    batches = 0
    while left:
        output = driver.pipeline.run(left, driver.now)
        driver.take(output)
        left = left[output.taken :]
        batches += 1
        assert len([reply for reply in output.replies if reply.grants]) <= A_PIECE
    assert batches > MANY // A_PIECE
    granted = [leases_of(driver.result_of(seq))[0].job.job_id for seq in seqs]
    assert granted == ids
    assert leases_of(driver.result_of(driver.seq - 1, OTHER)) == []


def test_other_messages_pass_the_claims_that_are_owed() -> None:
    driver = Driver()
    ids = [driver.job(create()).job_id for _ in range(MANY)]
    driver.ask(*[move(job_id, RUNNING) for job_id in ids], PauseQueue(queue="default"))
    for _ in range(MANY):
        park(driver, claim(wait_ms=60_000))
    answered = driver.run(
        arrival(driver, ResumeQueue(queue="default")),
        arrival(driver, Get(job_id=ids[0]), peer=OTHER),
    )
    assert [peer for peer, _ in answered].count(OTHER) == 1
    assert driver.pipeline.is_behind()


# --- a key that is taken away -----------------------------------------------------------------


def expelled(driver: Driver) -> None:
    driver.take(driver.pipeline.expel(WORKER))


def test_the_commands_of_a_lost_key_end_in_pieces() -> None:
    driver = Driver()
    own = [park(driver, claim(wait_ms=60_000), WORKER) for _ in range(MANY)]
    others = park(driver, claim(wait_ms=60_000))
    driver.run()  # the budget of a batch is there
    expelled(driver)
    pieces(driver)
    assert {error_of_result(driver.result_of(seq)).code for seq in own} == {"not_authorized"}
    assert driver.answer_to(others) is None
    assert set(answers(driver).values()) == {1}


def test_a_lost_key_gets_no_job_between_the_pieces() -> None:
    driver = Driver()
    own = [park(driver, CLAIM, WORKER) for _ in range(MANY)]
    others = park(driver, CLAIM)
    driver.run()
    expelled(driver)
    job = driver.job(create(), move(numbered(1), RUNNING))
    pieces(driver)
    assert {error_of_result(driver.result_of(seq)).code for seq in own} == {"not_authorized"}
    (grant,) = leases_of(driver.result_of(others))
    assert grant.job.job_id == job.job_id


def test_a_lost_key_reads_no_event_between_the_pieces() -> None:
    driver = Driver()
    for _ in range(MANY):
        park(driver, claim(wait_ms=60_000), WORKER)
    reader = park(driver, Events(wait_ms=60_000), WORKER)
    other = park(driver, Events(wait_ms=60_000))
    driver.run()
    expelled(driver)
    driver.job(create())
    driver.pass_ms(20)
    pieces(driver)
    driver.pass_ms(20)
    assert error_of_result(driver.result_of(reader)).code == "not_authorized"
    assert isinstance(driver.result_of(other), EventsResult)


def test_what_is_parked_after_the_loss_stays() -> None:
    driver = Driver()
    for _ in range(MANY):
        park(driver, claim(wait_ms=60_000), WORKER)
    driver.run()
    expelled(driver)
    driver.run(arrival(driver, claim(wait_ms=60_000), principal=WORKER))  # the key is back
    again = driver.seq
    assert driver.pipeline.is_behind(), "others are left"
    driver.ask(create(), move(numbered(1), RUNNING))
    pieces(driver)
    assert isinstance(driver.result_of(again), LeasesResult)


def test_a_broker_that_leaves_answers_all_in_pieces() -> None:
    driver = Driver()
    seqs = [park(driver, claim(wait_ms=60_000)) for _ in range(MANY)]
    driver.run()
    first = driver.take(driver.pipeline.drain())
    got = [len(first), *map(len, pieces(driver))]
    assert got == [4, 4, 2]  # a queue costs less than a job
    assert {error_of_result(driver.result_of(seq)).code for seq in seqs} == {"draining"}


# --- all of it, beside a broker that answers at once -------------------------------------------

JOBS = 4
ACTS = st.one_of(
    st.tuples(st.just("wait"), st.sets(st.integers(0, JOBS - 1), min_size=1), st.booleans()),
    st.tuples(st.just("move"), st.integers(0, JOBS - 1), st.sampled_from([RUNNING, COMPLETED])),
    st.tuples(st.just("stop"), st.sets(st.integers(JOBS, 40), min_size=1), st.just(None)),
    st.tuples(st.just("time"), st.integers(1, 700), st.just(None)),
)


def played(acts: list[tuple[str, object, object]]) -> tuple[Driver, list[object]]:
    """Return a broker that has seen this, and every answer, in the order of requests."""
    driver = Driver()
    ids = [driver.job(create()).job_id for _ in range(JOBS)]
    for kind, what, more in acts:
        if kind == "time":
            assert isinstance(what, int)
            driver.pass_ms(what)
            continue
        command: AnyCommand
        if kind == "wait":
            assert isinstance(what, set)
            statuses = [RUNNING] if more else None
            command = Wait(job_ids=[ids[n] for n in what], timeout_ms=1_000, statuses=statuses)
        elif kind == "stop":
            assert isinstance(what, set)
            command = StopWaiting(seqs=sorted(what))
        else:
            command = move(ids[what], more)  # type: ignore[call-overload, arg-type]
        message = arrival(driver, command)
        while not (output := driver.pipeline.run([message], driver.now)).taken:
            driver.take(output)
        driver.take(output)
    driver.pass_ms(2_000)
    pieces(driver)
    while driver.engine.context.waiters.parked:
        driver.run()
    return driver, sorted((answer.seq or 0, repr(answer)) for _, answer in driver.inbox)  # type: ignore[return-value]


@settings(deadline=None, max_examples=60)
@given(st.lists(ACTS, max_size=40))
def test_pieces_change_no_answer(acts: list[tuple[str, object, object]]) -> None:
    driver, in_pieces = played(acts)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(context, "ENDS_MAX", 100_000)
        _, at_once = played(acts)
    assert in_pieces == at_once
    assert set(answers(driver).values()) <= {1}
    assert not driver.engine.context.waiters._waits
    assert not driver.engine.context.waiters.endings


def test_a_broker_killed_between_the_pieces_knows_the_job() -> None:
    driver = Driver()
    job = driver.job(create())
    for _ in range(MANY):
        park(driver, wait(job.job_id))
    driver.run(arrival(driver, Cancel(job_id=job.job_id)))
    assert driver.pipeline.is_behind()
    state = State()
    for record in driver.records:
        state.apply(record, 0)
    assert state.jobs.get(job.job_id).status is FAILED
    assert LogBegan not in {type(event) for record in driver.records for event in record.events}

"""Parked waits and claims: what ends them, in which order, and how many there may be."""

from datetime import timedelta

from tests.core import (
    ADMIN,
    AWAITING_INPUT,
    AWAITING_PAYMENT,
    BATCH_REPLY_BYTES,
    COMPLETED,
    EPOCH,
    FAILED,
    GRACE_MS,
    HOUR,
    OTHER,
    PEER,
    RUNNING,
    Driver,
    at,
    claim,
    create,
    error_of_result,
    job_of,
    leases_of,
    move,
    running,
    wait,
)
from tollgate.broker.core.batch import Arrival
from tollgate.domain.commands import (
    AnyCommand,
    Cancel,
    Claim,
    Hello,
    List,
    Release,
    StopWaiting,
    Wait,
)
from tollgate.domain.messages import Reply, encode_request
from tollgate.domain.results import (
    HelloResult,
    LeasesResult,
)


def test_a_repeat_does_not_restart_the_time_of_a_claim() -> None:
    driver = Driver()
    (hello,) = driver.ask(Hello(open_session=True))
    assert isinstance(hello, HelloResult)
    waiting = Claim(status=RUNNING, lease_ms=1_000, wait_ms=1_000, limit=1)
    frame = encode_request(driver.request(waiting, session=hello.session or 0))
    driver.run(Arrival(PEER, [frame], ADMIN))
    driver.pass_ms(600)
    driver.run(Arrival(PEER, [frame], ADMIN))
    driver.inbox.clear()
    driver.pass_ms(400)
    ((_, answer),) = driver.inbox
    assert isinstance(answer, Reply)
    assert answer.results == [LeasesResult([])]


def test_a_repeat_that_gets_a_job_leaves_no_claim() -> None:
    driver = Driver()
    (hello,) = driver.ask(Hello(open_session=True))
    assert isinstance(hello, HelloResult)
    ids = [job_of(result).job_id for result in driver.ask(*[create()] * 1_000)]
    frame = encode_request(driver.request(claim(wait_ms=60_000), session=hello.session or 0))
    waiting = Arrival(OTHER, [frame], ADMIN)
    driver.run(waiting)
    reads, moves = [List(limit=1_000)] * 2, [move(job_id, RUNNING) for job_id in ids[:2]]
    messages = [encode_request(driver.request(*each)) for each in (reads, moves)]
    # The reads leave too little of the scan budget for parked claims, and enough for messages.
    driver.run(*[Arrival(PEER, [each], ADMIN) for each in messages], waiting)
    while driver.pipeline.is_behind():
        driver.run()
    assert [to for to, _ in driver.inbox].count(OTHER) == 1
    assert driver.engine.context.state.jobs.leased == 1


def test_a_wait_for_a_status_already_reached_ends_at_once() -> None:
    driver = Driver()
    failed, unpaid = at(driver, FAILED), at(driver, AWAITING_PAYMENT)
    done = at(driver, COMPLETED)
    assert driver.job(wait(unpaid.job_id, done.job_id, failed.job_id)) == done
    assert driver.job(wait(unpaid.job_id, statuses=[AWAITING_PAYMENT])) == unpaid
    assert driver.job(wait(failed.job_id, statuses=[RUNNING])) == failed


def test_a_wait_ends_in_the_batch_that_ends_it() -> None:
    driver = Driver()
    job = driver.job(create())
    seq = driver.post(wait(job.job_id, timeout_ms=1_000), peer=OTHER)
    running_seq = driver.post(wait(job.job_id, statuses=[RUNNING]), peer=OTHER)
    assert driver.answer_to(seq, OTHER) is None
    arrivals = [
        Arrival(PEER, [encode_request(driver.request(command))], ADMIN)
        for command in (move(job, RUNNING), move(job, COMPLETED, result="r"))
    ]
    answers = driver.run(*arrivals)
    assert [to for to, _ in answers] == [PEER, OTHER, PEER, OTHER]
    assert job_of(driver.result_of(running_seq, OTHER)).status is RUNNING
    assert job_of(driver.result_of(seq, OTHER)).result == "r"
    assert len(driver.engine.context.waiters.parked) == 0


def test_a_wait_is_answered_once() -> None:
    driver = Driver()
    first, second = driver.job(create()), driver.job(create())
    seq = driver.post(wait(first.job_id, second.job_id, first.job_id), peer=OTHER)
    driver.ask(move(first, FAILED), move(second, FAILED))
    driver.pass_ms(10_000)
    answers = [answer for to, answer in driver.inbox if to == OTHER]
    assert len(answers) == 1
    assert job_of(driver.result_of(seq, OTHER)).job_id == first.job_id


def test_a_wait_ends_in_time() -> None:
    driver = Driver()
    job = driver.job(create())
    assert driver.error(wait(job.job_id, timeout_ms=0)).code == "wait_timeout"
    seq = driver.post(wait(job.job_id, timeout_ms=100))
    driver.pass_ms(99)
    assert driver.answer_to(seq) is None
    driver.pass_ms(1)
    error = error_of_result(driver.result_of(seq))
    assert (error.code, error.retryable) == ("wait_timeout", True)
    claim_seq = driver.post(claim(wait_ms=100))
    driver.pass_ms(100)
    assert leases_of(driver.result_of(claim_seq)) == []


def test_a_wait_ends_when_a_deadline_moves_the_job() -> None:
    driver = Driver()
    job = driver.job(create(pay_by_time=EPOCH + HOUR))
    seq = driver.post(wait(job.job_id, timeout_ms=3_600_000))
    driver.set_wall(EPOCH + HOUR + timedelta(milliseconds=GRACE_MS))
    assert job_of(driver.result_of(seq)).status is FAILED


def test_waits_with_and_without_session_end_together() -> None:
    """Their keys in the timers' heap must have an order."""
    driver = Driver()
    job = driver.job(create())
    (hello,) = driver.ask(Hello(open_session=True))
    assert isinstance(hello, HelloResult)
    for session in (0, hello.session or 0, 0, hello.session or 0):
        request = driver.request(wait(job.job_id, timeout_ms=100), session=session)
        driver.run(Arrival(PEER, [encode_request(request)], ADMIN))
    assert len(driver.engine.context.waiters.parked) == 4
    driver.pass_ms(100)
    assert len(driver.engine.context.waiters.parked) == 0


def test_parked_claims_are_served_in_order_of_parking() -> None:
    driver = Driver()
    unpaid = [driver.job(create()) for _ in range(4)]
    seqs = [driver.post(claim(wait_ms=1_000, limit=limit), peer=OTHER) for limit in (1, 2, 5)]
    answers = driver.ask(*(move(job, RUNNING) for job in reversed(unpaid)))
    assert len(answers) == 4
    got = [[grant.job.job_id for grant in leases_of(driver.result_of(seq, OTHER))] for seq in seqs]
    ids = [job.job_id for job in reversed(unpaid)]  # first ready, first served
    assert got == [ids[:1], ids[1:3], ids[3:]]


def test_a_released_or_lapsed_job_goes_to_a_parked_claim() -> None:
    driver = Driver()
    job = running(driver)
    (grant,) = driver.grants_of(claim(lease_ms=500))
    first = driver.post(claim(wait_ms=10_000, lease_ms=500))
    second = driver.post(claim(wait_ms=10_000, lease_ms=500))
    driver.ask(Release(job_id=job.job_id, lease=grant.lease))
    assert [g.lease for g in leases_of(driver.result_of(first))] == [2]
    driver.pass_ms(500)
    assert [g.lease for g in leases_of(driver.result_of(second))] == [3]


def test_a_parked_claim_shows_the_job_as_granted() -> None:
    driver = Driver()
    seq = driver.post(claim(wait_ms=1_000))
    running(driver)
    (grant,) = leases_of(driver.result_of(seq))
    assert (grant.job.status, grant.job.version) == (RUNNING, 2)


def test_waits_and_claims_have_limits() -> None:
    driver = Driver(parked=2, watched=3)
    ids = [driver.job(create()).job_id for _ in range(3)]
    driver.post(wait(*ids))
    error = driver.refused(wait(ids[0]))
    assert (error.code, error.retryable, error.limit) == ("overloaded", True, 3)
    driver.post(claim(wait_ms=100))
    for command in (wait(ids[0]), claim(wait_ms=100)):
        error = driver.refused(command)
        assert (error.code, error.retryable, error.limit) == ("overloaded", True, 2)
    assert driver.job(wait(ids[0], statuses=[AWAITING_PAYMENT])).job_id == ids[0]
    assert driver.error(wait(ids[0], timeout_ms=0)).code == "wait_timeout"
    assert driver.grants_of(claim()) == []
    driver.pass_ms(1_000)  # both are over
    driver.post(wait(ids[0], timeout_ms=5))
    assert len(driver.engine.context.waiters.parked) == 1


def test_a_repeated_wait_is_answered_on_its_last_connection() -> None:
    driver = Driver()
    job = driver.job(create())
    (hello,) = driver.ask(Hello(open_session=True))
    assert isinstance(hello, HelloResult)
    request = encode_request(driver.request(wait(job.job_id), session=hello.session or 0))
    assert driver.run(Arrival(PEER, [request], ADMIN)) == []
    assert driver.run(Arrival(OTHER, [request], ADMIN)) == []
    answers = driver.run(
        Arrival(PEER, [encode_request(driver.request(Cancel(job_id=job.job_id)))], ADMIN)
    )
    assert [to for to, _ in answers] == [PEER, OTHER]


def test_draining_answers_all_parked_commands() -> None:
    driver = Driver()
    job = driver.job(create())
    seqs = [driver.post(wait(job.job_id)), driver.post(claim(wait_ms=100))]
    driver.drain()
    for seq in seqs:
        error = error_of_result(driver.result_of(seq))
        assert (error.code, error.retryable) == ("draining", True)
    assert driver.refused(create()).code == "draining"
    driver.pass_ms(10_000)
    assert len(driver.inbox) == 4


def test_a_wait_shows_the_job_as_it_entered_the_status() -> None:
    driver = Driver()
    job = driver.job(create())
    waiting = Wait(job_ids=[job.job_id], statuses=[RUNNING], timeout_ms=9)
    seq = driver.post(waiting, peer=OTHER)
    driver.ask(move(job, RUNNING), move(job, COMPLETED, result="r"))
    shown = job_of(driver.result_of(seq, OTHER))
    assert (shown.status, shown.version, shown.result) == (RUNNING, 2, None)


def test_waits_that_end_beside_a_stop_fill_no_batch() -> None:
    driver, text = Driver(), "x" * 60_000
    job = running(driver, input=text)
    for _ in range(300):
        driver.post(wait(job.job_id), peer=OTHER)
    stopped = driver.post(claim(AWAITING_INPUT, wait_ms=1_000))
    commands: list[AnyCommand] = [StopWaiting(seqs=[stopped]), move(job, COMPLETED)]
    frame = encode_request(driver.request(*commands))
    output = driver.pipeline.run([Arrival(PEER, [frame], ADMIN)], driver.now)
    size = sum(len(reply.frame) for reply in output.replies)
    assert BATCH_REPLY_BYTES / 2 < size < BATCH_REPLY_BYTES + 2 * len(text)
    driver.take(output)
    assert [answer.seq for to, answer in driver.inbox if to == PEER][-2:] == [stopped, driver.seq]
    while driver.pipeline.is_behind():
        driver.run()
    assert [to for to, _ in driver.inbox].count(OTHER) == 300


def test_a_parked_claim_of_an_evicted_session_gets_no_lease() -> None:
    driver = Driver(sessions=1)
    (hello,) = driver.ask(Hello(open_session=True))
    assert isinstance(hello, HelloResult)
    request = driver.request(claim(wait_ms=1_000), session=hello.session or 0)
    driver.run(Arrival(OTHER, [encode_request(request)], ADMIN))
    driver.ask(Hello(open_session=True))  # evicts the first
    job = running(driver)
    assert error_of_result(driver.result_of(request.seq, OTHER)).code == "session_evicted"
    assert [grant.job.job_id for grant in driver.grants_of(claim())] == [job.job_id]

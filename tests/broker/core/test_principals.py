"""What belongs to a principal: records, sessions, parked commands, and a share of each limit."""

import msgspec

from tests.core import ADMIN, HASH, OTHER, PEER, Driver, job_id
from tollgate.broker.core.batch import Arrival
from tollgate.broker.core.roles import Principal, Role
from tollgate.domain.commands import Claim, Create, Hello, Transition, Wait
from tollgate.domain.messages import Refused, Reply, Request, encode_request
from tollgate.domain.results import ErrorResult, HelloResult, JobResult, LeasesResult
from tollgate.domain.status import JobStatus

ALICE = Principal("key:alice", frozenset({Role.PRODUCER}))
BOB = Principal("key:bob", frozenset({Role.PRODUCER}))
WORKER = Principal("key:w", frozenset({Role.WORKER}), "old")
"""By the key that it had first,"""
ROTATED = msgspec.structs.replace(WORKER, key="new")
"""and by its new one."""


def test_a_record_keeps_the_principal() -> None:
    driver = Driver(pay_within_ms=1_000, payment_grace_ms=0)
    driver.principal = ALICE
    driver.ask(Create(input_hash=HASH))
    driver.principal = WORKER
    driver.post(Claim(status=JobStatus.RUNNING, lease_ms=9_000, wait_ms=9_000, limit=1))
    driver.principal = ADMIN
    driver.ask(Transition(job_id=job_id(1), target=JobStatus.RUNNING))  # and the claim is served
    driver.principal = ALICE
    driver.ask(Create(input_hash=HASH))
    driver.pass_ms(1_001)  # it was not paid in time
    assert [(record.by, type(record.events[0]).__name__) for record in driver.records] == [
        ("key:alice", "JobCreated"),
        ("uid:1000", "JobTransitioned"),
        ("key:w", "LeaseGranted"),
        ("key:alice", "JobCreated"),
        ("", "JobTransitioned"),
    ]


def open_session(driver: Driver) -> int:
    (hello,) = driver.ask(Hello(open_session=True))
    assert isinstance(hello, HelloResult)
    assert hello.session
    return hello.session


def send(driver: Driver, who: Principal, request: Request) -> Reply | Refused:
    ((_, answer),) = driver.run(Arrival(PEER, [encode_request(request)], who))
    return answer


def test_a_session_belongs_to_its_principal() -> None:
    driver = Driver()
    driver.principal = ALICE
    session = open_session(driver)
    request = Request(1, session, 7, 0, [Create(input_hash=HASH, input="secret")])
    assert isinstance(send(driver, ALICE, request), Reply)
    stolen = send(driver, BOB, request)
    never_given = send(driver, BOB, Request(1, session + 1, 7, 0, request.commands))
    assert isinstance(stolen, Refused)
    assert isinstance(never_given, Refused)
    assert stolen.error.code == never_given.error.code == "session_evicted"
    for_bob = stolen.error.message.replace(str(session), "N")
    assert for_bob == never_given.error.message.replace(str(session + 1), "N")
    again = send(driver, ALICE, request)  # nor has it forgotten anything for it
    assert isinstance(again, Reply)
    assert isinstance(again.results[0], JobResult)


def test_a_repeat_after_losing_the_role_is_refused() -> None:
    driver = Driver()
    driver.principal = ALICE
    session = open_session(driver)
    request = Request(1, session, 7, 0, [Create(input_hash=HASH, input="secret")])
    send(driver, ALICE, request)
    answer = send(driver, Principal(ALICE.name), request)
    assert isinstance(answer, Reply)
    assert isinstance(answer.results[0], ErrorResult)
    assert answer.results[0].code == "not_authorized"


def test_parked_commands_end_when_the_role_is_taken_away() -> None:
    driver = Driver()
    driver.ask(Create(input_hash=HASH))
    driver.principal = WORKER
    claim = driver.post(Claim(status=JobStatus.RUNNING, lease_ms=9, wait_ms=9, limit=1), peer=OTHER)
    wait = driver.post(Wait(job_ids=[job_id(1)], timeout_ms=9), peer=OTHER)
    driver.principal = ALICE
    kept = driver.post(Wait(job_ids=[job_id(1)], timeout_ms=9))
    driver.take(driver.pipeline.expel(WORKER))
    for seq in (claim, wait):
        result = driver.result_of(seq, OTHER)
        assert isinstance(result, ErrorResult)
        assert result.code == "not_authorized"
    assert driver.result_of(kept) is None
    driver.principal = ADMIN
    driver.ask(Transition(job_id=job_id(1), target=JobStatus.RUNNING))
    assert not any(driver.grants)


def test_the_owner_of_most_sessions_loses_one() -> None:
    driver = Driver(sessions=4)
    driver.principal = ALICE
    kept = open_session(driver)
    driver.principal = BOB
    for _ in range(20):
        open_session(driver)
    answer = send(driver, ALICE, Request(1, kept, 1, 0, [Create(input_hash=HASH)]))
    assert isinstance(answer, Reply)
    assert len(driver.engine.context.state.requests) == 4


def test_the_owner_of_most_outcomes_loses_a_session() -> None:
    driver = Driver(outcomes=64)
    driver.principal = ALICE
    kept = open_session(driver)
    send(driver, ALICE, Request(1, kept, 1, 0, [Create(input_hash=HASH)]))
    driver.principal = BOB
    for _ in range(8):
        session = open_session(driver)
        for seq in range(1, 20):
            send(driver, BOB, Request(1, session, seq, 0, [Create(input_hash=HASH)]))
    again = send(driver, ALICE, Request(1, kept, 1, 0, [Create(input_hash=HASH)]))
    assert isinstance(again, Reply)
    assert isinstance(again.results[0], JobResult)
    assert again.results[0].job.job_id == job_id(1)


def test_a_session_goes_on_with_a_rotated_key() -> None:
    driver = Driver()
    driver.ask(Create(input_hash=HASH))
    driver.ask(Transition(job_id=job_id(1), target=JobStatus.RUNNING))
    driver.principal = WORKER
    session = open_session(driver)
    claim = Claim(status=JobStatus.RUNNING, lease_ms=9_000, wait_ms=0, limit=1)
    first = send(driver, WORKER, Request(1, session, 7, 0, [claim]))
    again = send(driver, ROTATED, Request(1, session, 7, 0, [claim]))
    assert isinstance(first, Reply)
    assert isinstance(again, Reply)
    assert isinstance(first.results[0], LeasesResult)
    assert again.results == first.results
    done = Transition(job_id=job_id(1), target=JobStatus.COMPLETED, result="x", lease=1)
    ended = send(driver, ROTATED, Request(1, session, 8, 7, [done]))
    assert isinstance(ended, Reply)
    assert isinstance(ended.results[0], JobResult)


def test_an_ended_key_takes_its_own_parked_commands_alone() -> None:
    driver = Driver()
    claim = Claim(status=JobStatus.RUNNING, lease_ms=9_000, wait_ms=9_000, limit=1)
    driver.principal = WORKER
    session = open_session(driver)
    driver.run(Arrival(OTHER, [encode_request(Request(1, session, 1, 0, [claim]))], WORKER))
    driver.run(Arrival(OTHER, [encode_request(Request(1, session, 2, 0, [claim]))], WORKER))
    # The second one is asked again with the new key: then it is no longer the old one's.
    driver.run(Arrival(PEER, [encode_request(Request(1, session, 2, 0, [claim]))], ROTATED))
    answers = driver.take(driver.pipeline.expel(WORKER))
    assert [(peer, answer.seq) for peer, answer in answers] == [(OTHER, 1)]
    assert isinstance(answers[0][1], Reply)
    assert isinstance(answers[0][1].results[0], ErrorResult)
    assert answers[0][1].results[0].code == "not_authorized"
    driver.principal = ADMIN
    driver.ask(Create(input_hash=HASH))
    driver.ask(Transition(job_id=job_id(1), target=JobStatus.RUNNING))
    granted = driver.answer_to(2)
    assert isinstance(granted, Reply)
    assert isinstance(granted.results[0], LeasesResult)
    assert granted.results[0].leases

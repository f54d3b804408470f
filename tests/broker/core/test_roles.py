"""What a peer may do by its role, and what its principal shares with no other."""

import pytest

from tests.core import ADMIN, HASH, OTHER, PEER, Driver, job_id
from tollgate.broker.core.batch import Arrival
from tollgate.broker.core.roles import Principal, Role
from tollgate.domain.commands import (
    AnyCommand,
    Cancel,
    Claim,
    Count,
    Create,
    Get,
    Hello,
    List,
    ProvideInput,
    Release,
    Touch,
    Transition,
    Wait,
)
from tollgate.domain.messages import Refused, Reply, Request, encode_request
from tollgate.domain.results import ErrorResult, HelloResult, JobResult
from tollgate.domain.status import JobStatus

READS = {"hello", "get", "count", "list", "wait"}
ALLOWED: dict[Role | None, set[str]] = {
    None: set(),
    Role.OBSERVER: READS,
    Role.PRODUCER: READS | {"create", "provide_input", "cancel"},
    Role.WORKER: READS | {"claim", "touch", "release", "transition"},
    Role.ADMIN: READS
    | {"create", "provide_input", "cancel", "claim", "touch", "release", "transition"},
}
ALICE = Principal("key:alice", Role.PRODUCER)
BOB = Principal("key:bob", Role.PRODUCER)


def command_named(name: str, job: str) -> AnyCommand:
    commands: dict[str, AnyCommand] = {
        "hello": Hello(),
        "create": Create(input_hash=HASH),
        "get": Get(job_id=job),
        "transition": Transition(job_id=job, target=JobStatus.RUNNING),
        "provide_input": ProvideInput(job_id=job, input="x", expected_version=1),
        "cancel": Cancel(job_id=job),
        "count": Count(),
        "list": List(limit=1),
        "wait": Wait(job_ids=[job], timeout_ms=0),
        "claim": Claim(status=JobStatus.AWAITING_PAYMENT, lease_ms=9, wait_ms=0, limit=1),
        "touch": Touch(job_id=job, lease=1, lease_ms=9),
        "release": Release(job_id=job, lease=1),
    }
    return commands[name]


def test_the_table_has_every_command() -> None:
    assert {kind.__struct_config__.tag for kind in AnyCommand.__args__} == ALLOWED[Role.ADMIN]


@pytest.mark.parametrize("role", ALLOWED, ids=str)
@pytest.mark.parametrize("name", sorted(ALLOWED[Role.ADMIN]))
def test_a_role_may_send_its_commands_and_no_others(role: Role | None, name: str) -> None:
    driver = Driver()
    driver.ask(Create(input_hash=HASH))
    records = len(driver.records)
    driver.principal = Principal("key:somebody", role)
    (result,) = driver.ask(command_named(name, job_id(1)))
    refused = isinstance(result, ErrorResult) and result.code == "not_authorized"
    assert refused is (name not in ALLOWED[role])
    if refused:
        assert len(driver.records) == records


@pytest.mark.parametrize("name", sorted(ALLOWED[Role.ADMIN] - {"hello", "count", "list", "claim"}))
def test_not_authorized_does_not_tell_if_a_job_exists(name: str) -> None:
    driver = Driver(text_bytes=64)
    driver.ask(Create(input_hash=HASH))
    driver.principal = Principal("key:nobody", None)
    (of_one,) = driver.ask(command_named(name, job_id(1)))
    (of_none,) = driver.ask(command_named(name, job_id(2)))
    assert of_one == of_none
    (of_a_long_one,) = driver.ask(Create(input_hash=HASH, input="x" * 65))
    assert isinstance(of_a_long_one, ErrorResult)
    assert of_a_long_one.code == "not_authorized"


def test_not_authorized_names_the_role_needed() -> None:
    driver = Driver()
    driver.principal = Principal("key:eve", Role.OBSERVER)
    (refused,) = driver.ask(Cancel(job_id=job_id(1)))
    assert isinstance(refused, ErrorResult)
    assert refused.message == "cancel takes the role producer or admin; this peer has observer"


def test_hello_tells_a_peer_its_role() -> None:
    driver = Driver()
    driver.principal = Principal("key:w", Role.WORKER)
    (hello,) = driver.ask(Hello())
    assert isinstance(hello, HelloResult)
    assert hello.role == "worker"


def test_a_record_keeps_the_principal() -> None:
    driver = Driver(pay_within_ms=1_000, payment_grace_ms=0)
    driver.principal = ALICE
    driver.ask(Create(input_hash=HASH))
    driver.principal = Principal("key:w", Role.WORKER)
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
    answer = send(driver, Principal(ALICE.name, None), request)
    assert isinstance(answer, Reply)
    assert isinstance(answer.results[0], ErrorResult)
    assert answer.results[0].code == "not_authorized"


def test_parked_commands_end_when_the_role_is_taken_away() -> None:
    driver = Driver()
    driver.ask(Create(input_hash=HASH))
    driver.principal = Principal("key:w", Role.WORKER)
    claim = driver.post(Claim(status=JobStatus.RUNNING, lease_ms=9, wait_ms=9, limit=1), peer=OTHER)
    wait = driver.post(Wait(job_ids=[job_id(1)], timeout_ms=9), peer=OTHER)
    driver.principal = ALICE
    kept = driver.post(Wait(job_ids=[job_id(1)], timeout_ms=9))
    driver.take(driver.pipeline.expel("key:w"))
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

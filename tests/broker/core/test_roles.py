"""What each role, and each set of two roles, may do: every command, every move, every claim.

A sample of it is tried over sockets: on tcp in tests/broker/access, on ipc in
tests/broker/transport.
"""

from collections.abc import Iterator

import pytest

from tests.broker.core.role_tables import (
    ALLOWED,
    CLAIMED,
    CLOSED,
    CONFIRMED,
    MANUAL,
    PENDING,
    SETS,
    SETTLED,
    SUBMITTED,
    WANTED,
    Roles,
    allowed,
    claimed,
    code_of,
    command_for,
    command_named,
    expected_of_move,
)
from tests.core import (
    ADMIN,
    AWAITING_INPUT,
    AWAITING_PAYMENT,
    COMPLETED,
    FAILED,
    HASH,
    RUNNING,
    Driver,
    at,
    create,
    error_of_result,
    job_id,
    leases_of,
    move,
)
from tollgate.broker.core.roles import Principal, Role
from tollgate.domain.commands import (
    AnyCommand,
    Cancel,
    Claim,
    Create,
    Get,
    Hello,
    Release,
    Settle,
    Transition,
)
from tollgate.domain.results import AnyResult, ErrorResult, HelloResult, JobFields, JobResult
from tollgate.domain.settlement import SettlementState
from tollgate.domain.status import JobStatus

every_set = pytest.mark.parametrize("roles", SETS, ids=lambda roles: "+".join(sorted(roles)) or "-")


def as_peer(driver: Driver, roles: Roles, *commands: AnyCommand) -> list[AnyResult]:
    """Have a peer with these roles send commands, and return their results."""
    driver.principal = Principal("key:somebody", roles)
    try:
        return driver.ask(*commands)
    finally:
        driver.principal = ADMIN


# --- commands -------------------------------------------------------------------------------------


def test_the_tables_have_every_command_and_role() -> None:
    assert {kind.__struct_config__.tag for kind in AnyCommand.__args__} == ALLOWED[Role.ADMIN]
    assert ALLOWED.keys() == CLAIMED.keys() == set(Role)
    assert len(SETS) == 1 + 5 + 10


@every_set
def test_roles_may_send_their_commands_and_no_others(roles: Roles) -> None:
    driver = Driver()
    job, unpaid = at(driver, RUNNING), at(driver, AWAITING_PAYMENT)
    for name in sorted(ALLOWED[Role.ADMIN]):
        records = len(driver.records)
        command = command_for(name, job.job_id, unpaid.job_id, roles)
        (result,) = as_peer(driver, roles, command)
        refused = code_of(result) == "not_authorized"
        assert refused is (name not in allowed(roles)), name
        if refused:
            assert len(driver.records) == records


@every_set
def test_not_authorized_does_not_tell_if_a_job_exists(roles: Roles) -> None:
    driver = Driver(text_bytes=64)
    job = at(driver, RUNNING)
    for name in ALLOWED[Role.ADMIN] - allowed(roles):
        of_one = as_peer(driver, roles, command_named(name, job.job_id))
        assert of_one == as_peer(driver, roles, command_named(name, job_id(2)))
    if Role.ADMIN not in roles:
        forced = (Transition(job_id=each, target=FAILED, expected_version=2, force=True)
                  for each in (job.job_id, job_id(2)))  # fmt: skip
        of_one, of_none = (as_peer(driver, roles, command) for command in forced)
        assert of_one == of_none
        assert code_of(of_one[0]) == "not_authorized"
    if "create" not in allowed(roles):
        (of_a_long_one,) = as_peer(driver, roles, Create(input_hash=HASH, input="x" * 65))
        assert code_of(of_a_long_one) == "not_authorized"


def test_not_authorized_names_the_roles_needed() -> None:
    driver = Driver()
    observer, both = frozenset({Role.OBSERVER}), frozenset({Role.PAYMENTS, Role.OBSERVER})
    (refused,) = as_peer(driver, observer, Cancel(job_id=job_id(1)))
    message = error_of_result(refused).message
    assert message == "cancel takes the role producer or admin; this peer has observer"
    (refused,) = as_peer(driver, both, Cancel(job_id=job_id(1)))
    assert error_of_result(refused).message.endswith("this peer has observer,payments")
    (refused,) = as_peer(driver, frozenset(), Hello())
    assert error_of_result(refused).message.endswith("this peer has none")


@every_set
def test_hello_tells_a_peer_its_roles(roles: Roles) -> None:
    if not roles:  # it may not even ask
        return
    (hello,) = as_peer(Driver(), roles, Hello())
    assert isinstance(hello, HelloResult)
    assert hello.roles == [role.value for role in Role if role in roles]
    assert hello.role == ",".join(hello.roles)


# --- moves and claims -----------------------------------------------------------------------------


def moves() -> Iterator[tuple[JobStatus, JobStatus]]:
    yield from ((source, target) for source in JobStatus for target in JobStatus)


@every_set
def test_roles_may_make_their_moves_and_no_others(roles: Roles) -> None:
    driver = Driver()
    for source, target in moves():
        job = at(driver, source)
        (result,) = as_peer(driver, roles, move(job, target))
        code = expected_of_move(roles, source, target)
        assert code_of(result) == code, (source, target)
        now = driver.job(Get(job_id=job.job_id))
        assert (now.status, now.version - job.version) == ((source, 0) if code else (target, 1))


@every_set
def test_moves_in_one_message_are_judged_alone(roles: Roles) -> None:
    driver = Driver()
    every = list(moves())
    jobs = [at(driver, source) for source, _ in every]
    commands = [move(job, target) for job, (_, target) in zip(jobs, every, strict=True)]
    results = as_peer(driver, roles, *commands)
    expected = [expected_of_move(roles, *each) for each in every]
    assert [code_of(result) for result in results] == expected


@every_set
def test_roles_may_force_only_as_admin(roles: Roles) -> None:
    driver = Driver()
    for source, target in moves():
        job = at(driver, source)
        if source not in {COMPLETED, FAILED}:
            claim = Claim(status=source, lease_ms=9_000, wait_ms=0, limit=1, job_ids=[job.job_id])
            assert leases_of(driver.ask(claim)[0])
        command = move(job, target, force=True, expected_version=job.version)
        (result,) = as_peer(driver, roles, command)
        code = "not_authorized"
        if Role.ADMIN in roles:
            code = expected_of_move(roles, source, target) or ""
        assert (code_of(result) or "") == code, (source, target)


@every_set
def test_roles_may_claim_their_jobs_and_no_others(roles: Roles) -> None:
    driver = Driver()
    states: dict[JobStatus | SettlementState, JobFields] = {
        status: at(driver, status) for status in (RUNNING, AWAITING_INPUT, AWAITING_PAYMENT)
    }
    states |= {state: settling(driver, state) for state in (WANTED, SUBMITTED)}
    for state, job in states.items():
        status = state if isinstance(state, JobStatus) else None
        settlement = None if isinstance(state, JobStatus) else state
        claim = Claim(lease_ms=9_000, wait_ms=0, limit=9, status=status, settlement=settlement)
        (result,) = as_peer(driver, roles, claim)
        if state in claimed(roles):
            assert job.job_id in {each.job.job_id for each in leases_of(result)}
        else:
            assert code_of(result) == "not_authorized"
        waiting = Claim(lease_ms=9, wait_ms=9, limit=1, status=status, settlement=settlement)
        if state not in claimed(roles):  # nor does it wait for one
            assert code_of(as_peer(driver, roles, waiting)[0]) == "not_authorized"


# --- settlements ----------------------------------------------------------------------------------


def settling(driver: Driver, state: SettlementState) -> JobFields:
    """Return a job whose settlement is in a state."""
    job = driver.job(create(settle=True))
    if state is PENDING:
        return job
    job = driver.job(move(job, FAILED if state is CLOSED else RUNNING))
    if state is CLOSED:
        return job
    job = driver.job(move(job, COMPLETED))
    path = {WANTED: [], CONFIRMED: [SUBMITTED, CONFIRMED]}.get(state, [state])
    for to in path:
        job = driver.job(Settle(job_id=job.job_id, to=to))
    return job


@every_set
def test_roles_may_settle_as_the_table_says(roles: Roles) -> None:
    driver = Driver()
    for state in SettlementState:
        for to in (None, *SettlementState):
            job = settling(driver, state)
            assert job.settlement is not None
            assert job.settlement.state is state
            (result,) = as_peer(driver, roles, Settle(job_id=job.job_id, to=to, reason="because"))
            assert code_of(result) == expected_of_settle(roles, state, to), (state, to)
            now = driver.job(Get(job_id=job.job_id)).settlement
            assert now is not None
            assert now.state is (state if isinstance(result, ErrorResult) else to or state)


def expected_of_settle(
    roles: Roles, state: SettlementState, to: SettlementState | None
) -> str | None:
    if "settle" not in allowed(roles):
        return "not_authorized"
    if to is None:
        return None
    if state is MANUAL and Role.ADMIN not in roles:
        return "not_authorized"
    return None if (state, to) in SETTLED else "illegal_transition"


# --- the order of refusals ------------------------------------------------------------------------


@every_set
def test_a_move_is_refused_in_the_documented_order(roles: Roles) -> None:
    driver = Driver()
    for source in (AWAITING_PAYMENT, RUNNING, AWAITING_INPUT):
        job = at(driver, source)
        claim = Claim(status=source, lease_ms=9_000, wait_ms=0, limit=1, job_ids=[job.job_id])
        (grant,) = leases_of(driver.ask(claim)[0])
        wrong = job.version + 1
        commands = {  # each has the faults of all below it, too; no job goes where it is
            "job_not_found": move(job_id(9_999), source, lease=9_999, expected_version=wrong),
            "version_conflict": move(job, source, lease=9_999, expected_version=wrong),
            "lease_lost": move(job, source, lease=9_999, expected_version=job.version),
            "lease_held": move(job, source, expected_version=job.version),
            "illegal_transition": move(job, source, lease=grant.lease),
        }
        for code, command in commands.items():
            (result,) = as_peer(driver, roles, command)
            expected = code
            if "transition" not in allowed(roles) or (
                code == "illegal_transition" and source not in claimed(roles)
            ):
                expected = "not_authorized"
            assert code_of(result) == expected, (source, code)


@every_set
def test_a_settle_is_refused_in_the_documented_order(roles: Roles) -> None:
    driver = Driver()
    claim = Claim(settlement=WANTED, lease_ms=9_000, wait_ms=0, limit=1)
    job = settling(driver, WANTED)
    (grant,) = leases_of(driver.ask(claim)[0])
    manual = settling(driver, MANUAL)
    commands = [
        ("job_not_found", Settle(job_id=job_id(9_999), to=CLOSED, lease=9_999)),
        ("lease_lost", Settle(job_id=job.job_id, to=CLOSED, lease=9_999)),
        ("lease_held", Settle(job_id=job.job_id, to=CLOSED)),
        ("illegal_transition", Settle(job_id=job.job_id, to=CLOSED, lease=grant.lease)),
        ("lease_lost", Settle(job_id=manual.job_id, to=CLOSED, lease=9_999)),
        ("not_authorized", Settle(job_id=manual.job_id, to=CLOSED)),
    ]
    for code, command in commands:
        (result,) = as_peer(driver, roles, command)
        expected = code if "settle" in allowed(roles) else "not_authorized"
        if Role.ADMIN in roles and code == "not_authorized":
            expected = "illegal_transition"
        assert code_of(result) == expected


def test_a_release_with_hold_takes_a_role_that_holds() -> None:
    driver = Driver()
    job = at(driver, AWAITING_PAYMENT)
    claim = Claim(status=AWAITING_PAYMENT, lease_ms=9_000, wait_ms=0, limit=1)
    (grant,) = leases_of(driver.ask(claim)[0])
    payments = frozenset({Role.PAYMENTS})
    for each in (job.job_id, job_id(9)):  # before any look-up
        (result,) = as_peer(driver, payments, Release(job_id=each, lease=grant.lease, hold=True))
        assert code_of(result) == "not_authorized"
    both = payments | {Role.WORKER}
    (result,) = as_peer(driver, both, Release(job_id=job.job_id, lease=grant.lease, hold=True))
    assert code_of(result) is None
    assert isinstance(driver.ask(Get(job_id=job.job_id))[0], JobResult)
    assert driver.job(Get(job_id=job.job_id)).on_hold

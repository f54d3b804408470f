"""What one peer can cost the others: each bound is reached, and none is exceeded."""

import zlib
from collections import Counter
from datetime import timedelta

import msgspec

from tests.broker.core.restarts import replayed
from tests.core import (
    EPOCH,
    HASH,
    PEER,
    Driver,
    error_of_result,
    job_id,
    make_engine,
)
from tollgate.broker.core.batch import Arrival
from tollgate.broker.core.pipeline import Pipeline
from tollgate.broker.core.roles import Principal, Role
from tollgate.broker.core.timers import Instant
from tollgate.broker.repository.job import SHORT_HISTORY
from tollgate.broker.repository.listing import GATHER_COST, SCAN_JOBS_MAX
from tollgate.domain.commands import (
    AnyCommand,
    Cancel,
    Claim,
    Create,
    Get,
    Hello,
    List,
    Release,
    Transition,
    Wait,
)
from tollgate.domain.messages import Refused, Reply, Request, decode_answer, encode_request
from tollgate.domain.results import (
    HelloResult,
    JobsResult,
)
from tollgate.domain.settlement import SettlementState
from tollgate.domain.status import JobStatus

OBSERVER = Principal("key:observer", frozenset({Role.OBSERVER}))


def session_of(driver: Driver) -> int:
    hello = driver.ask(Hello(open_session=True))[0]
    assert isinstance(hello, HelloResult)
    assert hello.session is not None
    return hello.session


def send(driver: Driver, request: Request, peer: bytes = PEER) -> Reply | Refused:
    [(_, answer)] = driver.run(Arrival(peer, [encode_request(request)], driver.principal))
    return answer


def refusal_code(answer: Reply | Refused) -> str:
    assert isinstance(answer, Refused), answer
    return answer.error.code


# --- what a request is known by -------------------------------------------------------------------


def with_crc(target: int, places: int = 48) -> str:
    """Return a job id, so that a list of one `cancel` of it has this CRC-32.

    CRC-32 is linear: the effect of each letter is known, and those are chosen that add up.
    """

    def encoded(letters: list[str]) -> bytes:
        return commands_bytes([Cancel(job_id="".join(letters))])

    letters = ["a"] * places
    base = zlib.crc32(encoded(letters))
    basis: dict[int, tuple[int, int]] = {}
    for place in range(places):
        effect = zlib.crc32(encoded([*letters[:place], "b", *letters[place + 1 :]])) ^ base
        chosen = 1 << place
        while effect and effect.bit_length() in basis:
            more, others = basis[effect.bit_length()]
            effect, chosen = effect ^ more, chosen ^ others
        if effect:
            basis[effect.bit_length()] = effect, chosen
    wanted, chosen = target ^ base, 0
    while wanted:
        effect, others = basis[wanted.bit_length()]
        wanted, chosen = wanted ^ effect, chosen ^ others
    return "".join("b" if chosen >> place & 1 else "a" for place in range(places))


def commands_bytes(commands: list[Cancel | Create]) -> bytes:
    return msgspec.msgpack.encode(commands)


def test_a_forged_crc_does_not_pass_for_the_first_request() -> None:
    driver = Driver()
    session = session_of(driver)
    create = Create(input_hash=HASH)
    send(driver, Request(1, session, 1, 0, [create]))
    crc = zlib.crc32(commands_bytes([create]))
    cancel = Cancel(job_id=with_crc(crc))
    assert zlib.crc32(commands_bytes([cancel])) == crc
    forged = Request(1, session, 1, 0, [cancel])
    assert refusal_code(send(driver, forged)) == "request_conflict"
    assert driver.engine.context.state.jobs.count() == 1


def test_two_waits_under_one_seq_are_two_requests() -> None:
    driver = Driver()
    session = session_of(driver)
    job = driver.job(Create(input_hash=HASH)).job_id
    first, second = (Wait(job_ids=[job], timeout_ms=ms) for ms in (1_000, 2_000))
    assert driver.run(Arrival(PEER, [encode_request(Request(1, session, 1, 0, [first]))],
                              driver.principal)) == []  # fmt: skip
    assert refusal_code(send(driver, Request(1, session, 1, 0, [second]))) == "request_conflict"
    assert len(driver.engine.context.waiters.parked) == 1


# --- what one message can cost --------------------------------------------------------------------


def test_lists_of_a_batch_share_the_scan_budget() -> None:
    driver = Driver()
    state = driver.engine.context.state
    for _ in range(SCAN_JOBS_MAX + 1_000):
        state.jobs.create(HASH, at=EPOCH)
    rare = List(settlement=SettlementState.PENDING, limit=1)  # of which there is no index
    many = [rare] * 1_000
    pages = driver.ask(*many)
    assert driver.engine.context.scans_left == 1 - len(many)  # one job each, once all is spent
    assert all(isinstance(page, JobsResult) and page.next is not None for page in pages)
    rest = pages[-1]
    assert isinstance(rest, JobsResult)
    again = driver.ask(List(settlement=SettlementState.PENDING, limit=1, after=rest.next))[0]
    assert isinstance(again, JobsResult)  # the next batch looks at as many as any
    assert int(again.next or 0) >= SCAN_JOBS_MAX


def test_gathered_pages_share_the_scan_budget_too() -> None:
    driver = Driver()
    for _ in range(SCAN_JOBS_MAX):
        driver.engine.context.state.jobs.create(HASH, at=EPOCH)
    many = [List(status=JobStatus.AWAITING_PAYMENT, limit=1)] * 1_000
    pages = driver.ask(*many)
    spent = SCAN_JOBS_MAX - driver.engine.context.scans_left
    assert spent <= SCAN_JOBS_MAX + SCAN_JOBS_MAX // GATHER_COST + len(many)
    assert all(isinstance(page, JobsResult) and len(page.jobs) == 1 for page in pages)


def test_a_batch_ends_when_the_scan_budget_is_spent() -> None:
    driver = Driver()
    for _ in range(SCAN_JOBS_MAX + 1):
        driver.engine.context.state.jobs.create(HASH, at=EPOCH)
    frames = [
        encode_request(Request(1, 0, seq, 0, [List(settlement=SettlementState.PENDING, limit=1)]))
        for seq in range(1, 4)
    ]
    batch = [Arrival(PEER, [frame], driver.principal) for frame in frames]
    assert driver.pipeline.run(batch, driver.now).taken == 1


def test_parked_commands_are_answered_a_batch_at_a_time() -> None:
    pipeline = Pipeline(make_engine(), Counter(), batch_reply_bytes=100_000)
    now, admin = Instant(EPOCH, 0), Principal("uid:0", frozenset({Role.ADMIN}))

    def run(*commands: Create | Wait | Transition, seq: int = 1) -> list[Reply | Refused]:
        frame = encode_request(Request(1, 0, seq, 0, [*commands]))
        batch = [Arrival(PEER, [frame], admin)] if commands else []
        replies = pipeline.run(batch, now).replies
        return [decode_answer(reply.frame) for reply in replies]

    create = encode_request(Request(1, 0, 1, 0, [Create(input_hash=HASH, input="x" * 50_000)]))
    pipeline.run([Arrival(PEER, [create], admin)], now)
    for seq in range(2, 12):
        assert run(Wait(job_ids=[job_id(1)], timeout_ms=9), seq=seq) == []
    answered = run(Transition(job_id=job_id(1), target=JobStatus.FAILED), seq=12)
    sizes = [len(answered)]
    while pipeline.is_behind():
        answered += (more := run())
        sizes.append(len(more))
    assert max(sizes) <= 3
    assert sorted(answer.seq or 0 for answer in answered) == list(range(2, 13))


def test_claims_left_by_a_full_batch_are_served_later() -> None:
    engine = make_engine()
    pipeline = Pipeline(engine, Counter(), batch_reply_bytes=60_000)
    now, admin = Instant(EPOCH, 0), Principal("uid:0", frozenset({Role.ADMIN}))

    def run(seq: int, *commands: AnyCommand, peer: bytes = PEER) -> int:
        frame = encode_request(Request(1, 0, seq, 0, [*commands]))
        return len(pipeline.run([Arrival(peer, [frame], admin)], now).replies)

    claim = Claim(status=JobStatus.AWAITING_PAYMENT, lease_ms=9_999, wait_ms=9_999, limit=1)
    for seq in range(4):
        assert run(seq, claim, peer=bytes([seq])) == 0
    text = "x" * 50_000
    served = run(9, *[Create(input_hash=HASH, input=text) for _ in range(4)])
    assert pipeline.is_behind()
    pipeline.expel(Principal("key:somebody"))
    served += len(pipeline.run([], now, writable=False).replies)
    while pipeline.is_behind():
        served += len(pipeline.run([], now).replies)
    assert served == 1 + 4
    assert not engine.context.waiters.parked


def test_each_lease_of_a_claim_counts_as_an_outcome() -> None:
    driver = Driver(outcomes=50)
    session, other = session_of(driver), session_of(driver)
    driver.ask(*[Create(input_hash=HASH) for _ in range(60)])
    send(driver, Request(1, other, 1, 0, [Create(input_hash=HASH)]))
    ledger = driver.engine.context.state.requests
    claim = Claim(status=JobStatus.AWAITING_PAYMENT, lease_ms=9, wait_ms=0, limit=20)
    send(driver, Request(1, session, 1, 0, [claim]))
    assert ledger.outcomes == 1 + 1 + 20
    send(driver, Request(1, session, 2, 1, []))
    assert ledger.outcomes == 1
    big = Claim(status=JobStatus.AWAITING_PAYMENT, lease_ms=9, wait_ms=0, limit=60)
    send(driver, Request(1, session, 3, 1, [big]))
    assert not ledger.knows(other)  # it had to make room


def test_a_repeat_that_has_grown_too_long_shows_no_texts() -> None:
    driver = Driver(reply_bytes=400_000)
    job = driver.job(Create(input_hash=HASH)).job_id
    session = session_of(driver)
    steps = [JobStatus.RUNNING, JobStatus.AWAITING_INPUT] * 15
    request = Request(1, session, 1, 0, [Transition(job_id=job, target=step) for step in steps])
    first = send(driver, request)
    driver.ask(Transition(job_id=job, target=JobStatus.RUNNING))
    schema = Transition(job_id=job, target=JobStatus.AWAITING_INPUT, input_schema="y" * 60_000)
    driver.ask(schema)
    frame = encode_request(request)
    [reply] = driver.pipeline.run([Arrival(PEER, [frame], driver.principal)], driver.now).replies
    assert len(reply.frame) <= 400_000
    again = decode_answer(reply.frame)
    assert isinstance(first, Reply)
    assert isinstance(again, Reply)
    assert again.results == first.results


# --- roles ----------------------------------------------------------------------------------------


def test_not_authorized_is_not_recorded() -> None:
    driver = Driver()
    driver.principal = OBSERVER
    session = session_of(driver)
    records = len(driver.records)
    creates = [Create(input_hash=HASH) for _ in range(10)]
    answer = send(driver, Request(1, session, 1, 0, [*creates]))
    assert isinstance(answer, Reply)
    assert {error_of_result(result).code for result in answer.results} == {"not_authorized"}
    assert len(driver.records) == records
    assert driver.engine.context.state.requests.outcomes == 0


def test_a_peer_without_a_role_parks_nothing() -> None:
    driver = Driver()
    driver.principal = Principal("key:alice")
    claim = Claim(status=JobStatus.RUNNING, lease_ms=9, wait_ms=9, limit=1)
    assert error_of_result(driver.ask(claim)[0]).code == "not_authorized"
    assert len(driver.engine.context.waiters.parked) == 0


# --- what is stored -------------------------------------------------------------------------------


def test_no_job_is_created_above_stored_bytes() -> None:
    driver = Driver(stored_bytes=1_000, keep_finished_ms=1_000)
    first = driver.job(Create(input_hash=HASH, input="ä" * 499)).job_id
    driver.ask(Create(input_hash=HASH))  # without a text, it takes nothing
    other = driver.job(Create(input_hash=HASH, input="xx", job_id=job_id(99))).job_id
    error = driver.error(Create(input_hash=HASH))
    assert (error.code, error.limit, error.retryable) == ("repository_full", 1_000, True)
    assert driver.job(Create(input_hash=HASH, input="xx", job_id=other)).job_id == other
    # Those that are there go on, whatever their results take.
    driver.ask(Transition(job_id=first, target=JobStatus.RUNNING))
    driver.ask(Transition(job_id=first, target=JobStatus.COMPLETED, result="r" * 500))
    assert driver.engine.context.state.jobs.texts.total_bytes == 998 + 2 + 500
    driver.set_wall(EPOCH + timedelta(seconds=1))
    driver.pass_ms(120_000)
    assert driver.error(Get(job_id=first)).code == "job_not_found"
    assert driver.engine.context.state.jobs.texts.total_bytes == 2
    assert driver.job(Create(input_hash=HASH)).job_id


def test_the_reasons_in_histories_count_as_stored_bytes() -> None:
    driver = Driver(stored_bytes=10_000, keep_finished_ms=1_000)
    job = driver.job(Create(input_hash=HASH))
    driver.ask(Transition(job_id=job.job_id, target=JobStatus.RUNNING))
    texts = driver.engine.context.state.jobs.texts
    assert texts.total_bytes == 0
    for _ in range(100):
        (grant,) = driver.grants_of(Claim(status=JobStatus.RUNNING, lease_ms=9, wait_ms=0, limit=1))
        driver.ask(Release(job_id=job.job_id, lease=grant.lease, reason="ü" * 200))
    (slot,) = driver.engine.context.state.jobs.slots()
    assert texts.total_bytes == len(slot.history or b"") - SHORT_HISTORY > 10_000
    assert replayed(driver.records).jobs.texts.total_bytes == texts.total_bytes
    assert replayed(driver.records, 50).jobs.texts.total_bytes == texts.total_bytes
    assert driver.error(Create(input_hash=HASH)).code == "repository_full"
    driver.ask(Transition(job_id=job.job_id, target=JobStatus.FAILED))
    driver.set_wall(EPOCH + timedelta(seconds=1))
    driver.pass_ms(120_000)
    assert texts.total_bytes == 0

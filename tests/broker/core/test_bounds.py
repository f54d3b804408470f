"""The room reserved on the disk for a batch is never less than what the batch writes."""

from datetime import datetime, timedelta

import pytest

from tests.core import ADMIN, BATCH_REPLY_BYTES, EPOCH, HASH, PEER, Driver, job_id
from tollgate.broker.core import context
from tollgate.broker.core.batch import RECORDS_MAX, Arrival
from tollgate.broker.core.events import AnyEvent, JobCreated, JobTransitioned, SessionOpened
from tollgate.broker.core.limits import (
    DUE_BYTES_MAX,
    DUE_MAX,
    EVENT_BYTES_MAX,
    GRANT_BYTES_MAX,
    RECORD_BYTES_MAX,
    SHOWN_BYTES_MIN,
    Limits,
    batch_records_max,
)
from tollgate.broker.core.records import Record, RefusedOutcome, encode_records
from tollgate.domain.commands import Claim, Create, Hello, Transition
from tollgate.domain.messages import encode_request, encode_result
from tollgate.domain.results import Grant, JobFields, LeasesResult
from tollgate.domain.status import JobStatus

CLAIM = Claim(status=JobStatus.AWAITING_PAYMENT, lease_ms=86_400_000, wait_ms=0, limit=1_000)
SESSION = 1


def size_of(records: list[Record]) -> int:
    return sum(map(len, encode_records(records)))


def with_session(**limits: int) -> Driver:
    driver = Driver(**limits)
    driver.ask(Hello(open_session=True))
    assert driver.engine.context.state.requests.last_session == SESSION
    return driver


def test_grants_fit_in_what_their_replies_reserve() -> None:
    limits = Limits(reply_bytes=256 * 1024)
    driver = with_session(reply_bytes=limits.reply_bytes)
    for _ in range(4):
        driver.ask(*[Create(input_hash=HASH)] * 300)
    request = driver.request(*[CLAIM] * 12, session=SESSION)

    output = driver.pipeline.run([Arrival(PEER, [encode_request(request)], ADMIN)], driver.now)

    grants = sum(len(reply.grants) for reply in output.replies)
    assert grants > limits.reply_bytes // 512, "the reply is not as full as it can be"
    reserved = limits.reply_bytes // SHOWN_BYTES_MIN * GRANT_BYTES_MAX
    assert size_of(output.records) <= reserved + 12 * EVENT_BYTES_MAX + RECORD_BYTES_MAX


def test_a_shown_lease_takes_its_least_of_a_reply() -> None:
    job = JobFields(job_id(1), JobStatus.RUNNING, HASH, "x", EPOCH, EPOCH, version=1)
    one, two = (len(encode_result(LeasesResult([Grant(job, 1)] * number))) for number in (1, 2))

    assert two - one >= SHOWN_BYTES_MIN


def test_commands_fit_in_their_frame_and_their_events() -> None:
    driver = with_session()
    text = "ü" * 20
    late = EPOCH + timedelta(days=3_000)
    creates = [
        Create(
            input_hash=HASH, input=text, identifier_from_purchaser=text,
            blockchain_identifier=f"{text}{number}", pay_by_time=late, submit_result_time=late,
        )
        for number in range(600)
    ]  # fmt: skip
    moves = [
        Transition(job_id=job_id(number), target=JobStatus.FAILED, error=text)
        for number in range(1, 601)
    ]
    for commands in (creates, moves):
        frame = encode_request(driver.request(*commands, session=SESSION))
        output = driver.pipeline.run([Arrival(PEER, [frame], ADMIN)], driver.now)
        assert sum(len(record.events) for record in output.records) == 600
        most = 2 * len(frame) + 600 * EVENT_BYTES_MAX + RECORD_BYTES_MAX
        assert size_of(output.records) <= most


def test_deadlines_that_are_due_fit_in_their_share() -> None:
    driver = with_session(lapses=1, keep_finished_ms=1, max_finished=0)
    late = EPOCH + timedelta(days=3_000)
    driver.ask(*[Create(input_hash=HASH, submit_result_time=late)] * DUE_MAX)
    ids = [job_id(number + 1) for number in range(DUE_MAX)]
    driver.ask(*[Transition(job_id=each, target=JobStatus.RUNNING) for each in ids])
    lost = [(grant.job.job_id, grant.lease) for grant in driver.grants_of(CLAIM)]
    assert not lost
    claim = Claim(status=JobStatus.RUNNING, lease_ms=5, wait_ms=0, limit=1_000)
    for _ in range(4):
        driver.grants_of(claim)
    leased = driver.engine.context.state.jobs.leased
    assert leased == DUE_MAX
    driver.mono_ms += 5  # each lease lapses, and its job fails and is removed

    output = driver.pipeline.run([], driver.now)

    assert driver.engine.context.state.jobs.count() == 0
    assert size_of(output.records) <= DUE_MAX * DUE_BYTES_MAX


def test_undelivered_grants_are_granted_again_in_bounds() -> None:
    driver = with_session()
    driver.ask(*[Create(input_hash=HASH)] * 500)
    leases = driver.grants_of(CLAIM)
    waits = Claim(status=CLAIM.status, lease_ms=CLAIM.lease_ms, wait_ms=1_000, limit=1)
    batch = [
        Arrival(PEER, [encode_request(driver.request(waits, session=SESSION))], ADMIN)
        for _ in range(50)
    ]
    driver.run(*batch)
    lost = [(grant.job.job_id, grant.lease) for grant in leases]

    output = driver.pipeline.run([], driver.now, lost)

    assert len(output.records) == 1 + len(batch)
    shown = sum(len(reply.frame) for reply in output.replies)
    reserved = shown // SHOWN_BYTES_MIN * GRANT_BYTES_MAX + len(batch) * RECORD_BYTES_MAX
    assert size_of(output.records) <= len(lost) * DUE_BYTES_MAX + reserved


def test_a_batch_ends_at_its_limit_of_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "SERVED_MAX", 2**30)  # otherwise the claims' own budget ends it
    driver = with_session()
    number = RECORDS_MAX + 104
    for _ in range(0, number, 500):
        driver.ask(*[Create(input_hash=HASH)] * 500)
    leased = [grant for _ in range(0, number, 1_000) for grant in driver.grants_of(CLAIM)]
    waits = Claim(status=CLAIM.status, lease_ms=CLAIM.lease_ms, wait_ms=1_000, limit=1)
    for place in range(number):
        frame = encode_request(driver.request(waits))
        driver.run(Arrival(b"%d" % (place // 500), [frame], ADMIN))
    lost = [(grant.job.job_id, grant.lease) for grant in leased]

    outputs = [driver.pipeline.run([], driver.now, lost), driver.pipeline.run([], driver.now)]

    assert len(outputs[0].records) == RECORDS_MAX
    assert sum(len(output.replies) for output in outputs) == number


def test_the_reservation_covers_all_parts_of_a_batch() -> None:
    limits = Limits()
    size, number = batch_records_max(
        limits, batch_messages=256, batch_bytes=4_096, batch_reply_bytes=BATCH_REPLY_BYTES
    )
    replies = BATCH_REPLY_BYTES + limits.reply_bytes
    parts = (
        DUE_MAX * DUE_BYTES_MAX,
        2 * (4_096 + limits.request_bytes),
        (256 + limits.commands) * EVENT_BYTES_MAX,
        replies // SHOWN_BYTES_MIN * GRANT_BYTES_MAX,
        number * RECORD_BYTES_MAX,
    )
    assert size >= sum(parts)
    assert number > RECORDS_MAX
    assert size < 16 * 1024 * 1024


def test_the_reservation_covers_a_batch_of_two_sockets() -> None:
    limits = Limits()
    one, two = (
        batch_records_max(
            limits,
            batch_messages=256, batch_bytes=4_096, batch_reply_bytes=BATCH_REPLY_BYTES,
            sockets=sockets,
        )[0]
        for sockets in (1, 2)
    )  # fmt: skip
    assert two - one >= 2 * (4_096 + limits.request_bytes) + limits.commands * EVENT_BYTES_MAX


def test_an_event_and_its_outcome_fit_without_their_texts() -> None:
    last = 2**53 - 1
    late = datetime.max.replace(tzinfo=EPOCH.tzinfo)
    events: list[AnyEvent] = [
        JobCreated(job_id(last), late, HASH, pay_by_time=late, submit_result_time=late),
        JobTransitioned(job_id(last), last, JobStatus.AWAITING_INPUT, late),
        SessionOpened(last, "key:" + "n" * 64),
    ]
    refused = RefusedOutcome(
        "blockchain_conflict", job_id(last), "awaiting_payment", "awaiting_input", last, last
    )
    for event in events:
        one, two = (size_of([Record([event] * n, outcomes=[refused] * n)]) for n in (1, 2))
        assert two - one <= EVENT_BYTES_MAX

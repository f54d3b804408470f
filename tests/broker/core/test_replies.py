"""What fits in a reply: none is over its limit, and what was executed is always told."""

from datetime import datetime
from typing import Any

import msgspec
import pytest

from tests.core import (
    ADMIN,
    AWAITING_INPUT,
    AWAITING_PAYMENT,
    COMPLETED,
    EPOCH,
    HASH,
    PEER,
    RUNNING,
    Driver,
    claim,
    create,
    error_of_result,
    job_id,
    job_of,
    move,
    running,
)
from tests.sizes import sample
from tollgate.broker.core.batch import Arrival
from tollgate.broker.core.limits import job_bytes_max, result_bytes_max
from tollgate.broker.core.records import without_texts
from tollgate.domain.commands import (
    AnyCommand,
    Cancel,
    Count,
    Get,
    Hello,
    List,
    ProvideInput,
)
from tollgate.domain.messages import Reply, encode_request
from tollgate.domain.results import (
    ErrorResult,
    Grant,
    HelloResult,
    InputRound,
    JobFields,
    JobResult,
    LeasesResult,
    Progress,
    Settlement,
)
from tollgate.domain.settlement import SettlementState


def test_commands_beyond_a_full_reply_are_not_executed() -> None:
    driver = Driver(reply_bytes=400_000, text_bytes=60_000, request_bytes=10**9)
    jobs = [running(driver) for _ in range(20)]
    results = driver.ask(*(move(job, COMPLETED, result="x" * 50_000) for job in jobs), Count())
    done = [result for result in results if type(result).__name__ == "JobResult"]
    full = [error_of_result(result) for result in results[len(done) :]]
    assert 5 <= len(done) <= 8
    assert {error.code for error in full} == {"reply_full"}
    assert all(error.retryable for error in full)
    statuses = [driver.job(Get(job_id=job.job_id)).status for job in jobs]
    assert statuses == [COMPLETED] * len(done) + [RUNNING] * (20 - len(done))


def small(driver: Driver) -> JobFields:
    return driver.job(create(job_id=job_id(50), input="x"))


BIG: dict[str, Any] = {"input": "x" * 60_000, "blockchain_identifier": "pay"}


@pytest.mark.parametrize(
    "command",
    [
        Get(job_id=job_id(51)),
        Get(blockchain_identifier="pay"),
        create(job_id=job_id(51)),
        create(input="x" * 60_000),
        create(input="x" * 60_001),
        move(job_id(51), RUNNING),
        Cancel(job_id=job_id(51)),
        List(limit=1_000),
        claim(AWAITING_PAYMENT, limit=1_000),
    ],
    ids=lambda command: type(command).__name__,
)
@pytest.mark.parametrize("reply_bytes", sample([335_000], [330_000, 335_000, 400_000]))
def test_no_reply_grows_over_its_limit(reply_bytes: int, command: AnyCommand) -> None:
    """Clients size their buffers by it."""
    driver = Driver(reply_bytes=reply_bytes, text_bytes=60_000, request_bytes=10**9)
    driver.job(create(job_id=job_id(51), **BIG))
    commands = [command, *[Get(job_id=job_id(51))] * 20, command, *[command] * 900]
    one_then_many = [Get(job_id=job_id(51))] * 5 + [command] * 995
    for batch in (commands, commands[1:], one_then_many, [command] * 25):
        request = encode_request(driver.request(*batch))
        outcome = driver.pipeline.run([Arrival(PEER, [request], ADMIN)], driver.now)
        (reply,) = outcome.replies
        assert len(reply.frame) <= reply_bytes
        (answer,) = driver.take(outcome)
        assert isinstance(answer[1], Reply)
        assert len(answer[1].results) == len(batch)


@pytest.mark.parametrize("count", [62, 63, 64])
def test_questions_count_twice_in_the_room_of_a_reply(count: int) -> None:
    driver = Driver()
    jobs = [running(driver, input="x" * 60_000) for _ in range(count)]
    question = "s" * (235_000 // count)
    moves = [move(job, AWAITING_INPUT, input_schema=question) for job in jobs]
    assert len(frame_of(driver, *moves)) <= driver.engine.limits.reply_bytes


@pytest.mark.parametrize("is_answer", [False, True])
def test_a_question_counts_twice_in_the_room_that_is_left(is_answer: bool) -> None:
    driver = Driver()
    jobs = [running(driver, input="x" * 65_000) for _ in range(63)]
    last, text = running(driver), "s" * 65_000
    command: AnyCommand = move(last, AWAITING_INPUT, input_schema=text)
    if is_answer:
        driver.job(move(last, AWAITING_INPUT))
        command = ProvideInput(job_id=last.job_id, input=text, expected_version=3)
    gets = [Get(job_id=job.job_id) for job in jobs]
    assert len(frame_of(driver, *gets, command)) <= driver.engine.limits.reply_bytes


def frame_of(driver: Driver, *commands: AnyCommand) -> bytes:
    """Send commands in one message, and return the reply as it goes out."""
    frame = encode_request(driver.request(*commands))
    (reply,) = driver.pipeline.run([Arrival(PEER, [frame], ADMIN)], driver.now).replies
    return reply.frame


def test_no_repeated_reply_grows_over_its_limit() -> None:
    """The jobs that a request created may have grown since."""
    driver = Driver(reply_bytes=600_000, text_bytes=60_000, request_bytes=10**9)
    (hello,) = driver.ask(Hello(open_session=True))
    assert isinstance(hello, HelloResult)
    batch = [create(input="x" * 60_000)] * 9
    frame = encode_request(driver.request(*batch, session=hello.session or 0))
    first = driver.pipeline.run([Arrival(PEER, [frame], ADMIN)], driver.now)
    assert b"reply_full" not in first.replies[0].frame
    for number in range(1, 10):
        asks = move(job_id(number), AWAITING_INPUT, input_schema="y" * 60_000)
        driver.ask(move(job_id(number), RUNNING), asks)
    again = driver.pipeline.run([Arrival(PEER, [frame], ADMIN)], driver.now)
    assert again.replies[0].frame == first.replies[0].frame  # not a byte more
    assert driver.engine.context.state.jobs.count() == 9


def test_a_repeat_shows_the_rounds_of_input_that_there_were() -> None:
    driver = Driver()
    (hello,) = driver.ask(Hello(open_session=True))
    assert isinstance(hello, HelloResult)
    steps = [AWAITING_INPUT, RUNNING] * 2
    moves = [move(job_id(1), step) for step in [RUNNING, *steps]]
    frame = encode_request(driver.request(create(), *moves, session=hello.session or 0))
    arrival = Arrival(PEER, [frame], ADMIN)
    (first,) = driver.pipeline.run([arrival], driver.now).replies
    (again,) = driver.pipeline.run([arrival], driver.now).replies
    assert again.frame == first.frame
    shown = job_of(driver.ask(Get(job_id=job_id(1)))[0])
    assert [each.version for each in shown.inputs or ()] == [3, 5]
    asks = move(job_id(1), AWAITING_INPUT, input_schema="more")
    asked = encode_request(driver.request(asks, session=hello.session or 0))
    driver.run(Arrival(PEER, [asked], ADMIN))
    given = ProvideInput(job_id=job_id(1), input="x", input_hash=HASH, expected_version=7)
    assert (driver.job(given).inputs or [])[-1].hash == HASH
    ((_, answer),) = driver.run(Arrival(PEER, [asked], ADMIN))
    assert isinstance(answer, Reply)
    assert [(each.version, each.hash) for each in job_of(answer.results[0]).inputs or ()] == [
        (3, None), (5, None), (7, None),
    ]  # fmt: skip


def test_a_grant_without_its_texts_has_no_parts_either() -> None:
    """There may be a thousand in a reply, each with parts that it did not have before."""
    driver = Driver()
    job = driver.job(create(input="x", settle=True))
    grown = msgspec.structs.replace(
        job,
        result="x" * 900,
        meta="x" * 900,
        inputs=[InputRound(number, hash=HASH) for number in range(32)],
        progress=Progress("x" * 900),
        settlement=Settlement(SettlementState.WANTED, EPOCH, HASH, "x" * 900, "x" * 900),
    )
    bare = msgspec.msgpack.encode(without_texts(LeasesResult([Grant(grown, 1)])))
    assert len(bare) <= len(msgspec.msgpack.encode(JobResult(job))) + 100  # a hash, and no text


def test_a_repeat_never_refuses_an_executed_command_for_room() -> None:
    """A repeat shows its reads as they are now; they must not crowd out what happened."""
    driver = Driver(reply_bytes=600_000, text_bytes=60_000, request_bytes=10**9)
    (hello,) = driver.ask(Hello(open_session=True))
    assert isinstance(hello, HelloResult)
    for _ in range(12):
        driver.ask(create())
    reads = [Get(job_id=job_id(number)) for number in range(1, 13)]
    frame = encode_request(
        driver.request(*reads, create(input="x" * 60_000), session=hello.session or 0)
    )
    (_, first), *_ = driver.run(Arrival(PEER, [frame], ADMIN))
    for number in range(1, 13):
        driver.ask(move(job_id(number), RUNNING))
        driver.ask(move(job_id(number), COMPLETED, result="z" * 60_000))
    outcome = driver.pipeline.run([Arrival(PEER, [frame], ADMIN)], driver.now)
    assert len(outcome.replies[0].frame) <= 600_000
    ((_, again),) = driver.take(outcome)
    assert isinstance(first, Reply)
    assert isinstance(again, Reply)
    assert again.results[-1] == first.results[-1]
    full = again.results[-2]
    assert isinstance(full, ErrorResult)
    assert full.code == "reply_full"
    assert driver.engine.context.state.jobs.count() == 13


def test_a_claim_takes_the_jobs_that_fit_in_the_reply() -> None:
    driver = Driver(reply_bytes=400_000)
    ids = [driver.job(create(input="x" * 60_000)).job_id for _ in range(10)]
    grants = driver.grants_of(claim(AWAITING_PAYMENT, limit=10))
    taken = [grant.job.job_id for grant in grants]
    assert 3 <= len(taken) < 10
    assert taken == ids[: len(taken)]
    rest = driver.grants_of(claim(AWAITING_PAYMENT, limit=10))
    assert rest[0].job.job_id == ids[len(taken)]


def test_the_bounds_on_results_hold() -> None:
    """The size that is checked against the room left is never less than what is written."""
    driver = Driver()
    text = "\x00😀" * 12_000
    job = driver.job(
        create(
            input=text,
            identifier_from_purchaser="é" * 128,
            blockchain_identifier="ü" * 2_048,
            pay_by_time=datetime.max.replace(tzinfo=EPOCH.tzinfo),
            submit_result_time=EPOCH,
        )
    )
    stored = driver.engine.context.state.jobs.require(job.job_id)
    assert len(msgspec.msgpack.encode(job)) <= job_bytes_max(stored)
    assert job_bytes_max(stored) <= result_bytes_max(driver.engine.limits)
    for result in driver.ask(Hello(), Count()):
        assert len(msgspec.msgpack.encode(result)) <= 1_024


def test_a_job_above_lowered_limits_stops_no_claim() -> None:
    """It was stored when more was allowed."""
    driver = Driver(text_bytes=300_000, request_bytes=10**9)
    job = driver.job(create(input="x" * 300_000))
    other = Driver(text_bytes=1_000, inputs_bytes=1_000, reply_bytes=250_000)
    state = driver.engine.context.state
    other.engine.context.state = state
    seq = other.post(claim(wait_ms=1_000))
    other.ask(create())
    other.post(move(job, RUNNING))
    assert error_of_result(other.result_of(seq)).code == "reply_full"
    assert state.jobs.get(job.job_id).status is RUNNING

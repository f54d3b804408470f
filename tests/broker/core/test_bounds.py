"""What is reserved on the disk for a batch is never less than what it writes."""

from tests.core import ADMIN, EPOCH, HASH, PEER, Driver, job_id
from tollgate.broker.core.bounds import SHOWN_BYTES_MIN, records_max
from tollgate.broker.core.limits import Limits
from tollgate.broker.core.pipeline import Arrival
from tollgate.broker.core.records import Record, encode_records
from tollgate.broker.repository.job import StoredJob
from tollgate.domain.commands import Claim, Create, Hello
from tollgate.domain.messages import encode_request, encode_result
from tollgate.domain.results import Grant, LeasesResult
from tollgate.domain.status import JobStatus

CLAIM = Claim(status=JobStatus.AWAITING_PAYMENT, lease_ms=86_400_000, wait_ms=0, limit=1_000)


def size_of(records: list[Record]) -> int:
    return sum(map(len, encode_records(records)))


def test_a_message_of_claims_writes_no_more_than_is_reserved_for_it() -> None:
    limits = Limits(reply_bytes=256 * 1024)
    driver = Driver(reply_bytes=limits.reply_bytes)
    for _ in range(4):
        driver.ask(*[Create(input_hash=HASH)] * 300)
    driver.ask(Hello(open_session=True))
    request = driver.request(*[CLAIM] * 12, session=1)
    arrival = Arrival(PEER, [encode_request(request)], ADMIN)

    outcome = driver.pipeline.run([arrival], driver.now)

    grants = sum(len(reply.grants) for reply in outcome.replies)
    assert grants > limits.reply_bytes // 512, "the reply is not as full as it can be"
    reserved, _ = records_max([arrival.frames], 0, 0, limits)
    for_nothing, _ = records_max([], 0, 0, limits)
    assert size_of(outcome.records) <= reserved - for_nothing


def test_a_lease_that_is_shown_takes_no_less_of_a_reply_than_is_reckoned_with() -> None:
    job = StoredJob(job_id(1), JobStatus.RUNNING, HASH, "x", EPOCH, EPOCH, version=1)
    one, two = (
        len(encode_result(LeasesResult([Grant(job, 1)] * number)))  # type: ignore[arg-type]
        for number in (1, 2)
    )

    assert two - one >= SHOWN_BYTES_MIN


def test_leases_that_are_given_back_and_granted_anew_have_room() -> None:
    driver = Driver()
    driver.ask(*[Create(input_hash=HASH)] * 500)
    leases = driver.grants_of(CLAIM)
    driver.ask(Hello(open_session=True))
    waits = Claim(status=CLAIM.status, lease_ms=CLAIM.lease_ms, wait_ms=1_000, limit=1)
    batch = [
        Arrival(PEER, [encode_request(driver.request(waits, session=1))], ADMIN) for _ in range(50)
    ]
    driver.run(*batch)
    lost = [(grant.job.job_id, grant.lease) for grant in leases]

    reserved, number = driver.pipeline.records_max([], len(lost))
    outcome = driver.pipeline.run([], driver.now, lost)

    for_nothing, _ = driver.pipeline.records_max([])
    assert size_of(outcome.records) <= reserved - for_nothing
    assert len(outcome.records) == 1 + len(batch) <= number

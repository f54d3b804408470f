"""What the audit of a journal takes for a fault, and what not."""

from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest

from tests.core import ADMIN, HASH, PEER, Driver, job_id, leases_of
from tests.crash.audit import Audit
from tests.crash.summaries import Seen, extras_in
from tollgate.broker.core.batch import Arrival
from tollgate.broker.core.records import Record, encode_records
from tollgate.broker.core.roles import Principal, Role
from tollgate.broker.journal import RECORD, Entry
from tollgate.domain.commands import Claim, Create, Get, Hello, RequestStop, Transition
from tollgate.domain.messages import Reply, Request, encode_request
from tollgate.domain.models import JobStatus
from tollgate.domain.results import AnyResult, HelloResult

RUNNING = JobStatus.RUNNING
OTHER = Principal("uid:7", frozenset({Role.WORKER}))


def audited(records: Iterable[Record], *, has_workers: bool = False) -> Audit:
    audit = Audit(has_workers=has_workers)
    payloads = enumerate(encode_records([*records]), 1)
    list(audit._checked(Entry(number, RECORD, payload) for number, payload in payloads))
    return audit


def run_jobs(driver: Driver, *numbers: int) -> None:
    driver.ask(*[Create(input_hash=HASH, job_id=job_id(number)) for number in numbers])
    driver.ask(*[Transition(job_id=job_id(number), target=RUNNING) for number in numbers])


def claim(*numbers: int, lease_ms: int = 60_000) -> Claim:
    ids = [job_id(number) for number in numbers] or None
    return Claim(lease_ms=lease_ms, wait_ms=0, limit=1, status=RUNNING, job_ids=ids)


@pytest.mark.parametrize(
    ("has_workers", "claimed_by", "is_lapsed", "faults"),
    [
        (True, ADMIN, True, 0),
        (False, ADMIN, True, 1),
        (True, OTHER, True, 1),
        (True, ADMIN, False, 1),
    ],
)
def test_only_a_worker_takes_its_lapsed_job_again(
    has_workers: bool, claimed_by: Principal, is_lapsed: bool, faults: int
) -> None:
    driver = Driver()
    run_jobs(driver, 1, 2)
    (grant,) = driver.grants_of(claim(lease_ms=1_000))
    if is_lapsed:
        driver.pass_ms(1_000)  # the first job stands behind the second one now
    else:
        back = Transition(job_id=grant.job.job_id, target=JobStatus.AWAITING_INPUT)
        driver.ask(msgspec.structs.replace(back, lease=grant.lease, input_schema="{}"))
        driver.ask(Transition(job_id=grant.job.job_id, target=RUNNING))
    driver.principal = claimed_by
    assert driver.grants_of(claim(1))
    assert audited(driver.records, has_workers=has_workers).wrong["order"] == faults


def test_an_answer_without_an_effect_is_older_than_the_record(tmp_path: Path) -> None:
    """An empty claim has no record. A repeat of it is decided like any claim, and makes one."""
    driver = Driver()
    (hello,) = driver.ask(Hello(open_session=True))
    assert isinstance(hello, HelloResult)
    assert hello.session is not None
    request = Request(1, hello.session, 1, 0, [claim(), Get(job_id=job_id(1))])

    def sent() -> list[AnyResult]:
        ((_, answer),) = driver.run(Arrival(PEER, [encode_request(request)], ADMIN))
        assert isinstance(answer, Reply)
        return answer.results

    driver.ask(Create(input_hash=HASH, job_id=job_id(1)))
    first = sent()
    driver.ask(RequestStop(job_id=job_id(1)))
    run_jobs(driver, 2)
    repeated = sent()
    assert [leases_of(results[0]) for results in (first, repeated)] != [[], []]
    audit = audited(driver.records)
    for results, has_effect, lost in ((first, False, 0), (repeated, True, 0), (first, True, 1)):
        seen = Seen(request.session, request.seq, extras_in(results), has_effect)
        (tmp_path / "seen").write_bytes(msgspec.json.encode(seen) + b"\n")
        audit.wrong.clear()
        audit.seen(tmp_path / "seen")
        assert audit.wrong["lost"] == lost

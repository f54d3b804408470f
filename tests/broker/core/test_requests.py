"""Requests that are refused as a whole, for the first reason in the order of TG/1."""

import msgspec
import pytest

from tests.core import (
    ADMIN,
    COMPLETED,
    EPOCH,
    HASH,
    HOUR,
    PEER,
    RUNNING,
    Driver,
    claim,
    create,
    job_id,
    move,
)
from tollgate.broker.core.batch import Arrival
from tollgate.domain.commands import (
    Count,
    Get,
)
from tollgate.domain.messages import Refused, Reply, Request, encode_request
from tollgate.domain.results import (
    LeasesResult,
)


def refuse(driver: Driver, *frames: bytes) -> Refused:
    before = driver.engine.context.state.jobs.count()
    ((_, answer),) = driver.run(Arrival(PEER, list(frames), ADMIN))
    assert isinstance(answer, Refused)
    assert driver.engine.context.state.jobs.count() == before
    return answer


def pack(**changes: object) -> bytes:
    fields = {"v": 1, "session": 0, "seq": 3, "acked": 0, "commands": [], **changes}
    return msgspec.msgpack.encode(fields)


CREATE = {"type": "create", "input_hash": HASH}


PAST = EPOCH - HOUR


WAIT = {"type": "wait", "job_ids": [job_id(1)], "timeout_ms": 9}


def test_requests_are_refused_for_the_first_reason() -> None:
    driver = Driver(request_bytes=1_000, commands=3)
    long = {**CREATE, "input": "x" * 2_000}
    wrong = {**CREATE, "colour": 1}
    reasons: list[tuple[str, dict[str, object]]] = [
        ("unsupported_version", {"v": 2, "commands": [wrong, long] * 4, "valid_until": PAST}),
        ("malformed", {"commands": [wrong, long] * 4, "valid_until": PAST}),
        ("too_large", {"commands": [long], "valid_until": PAST}),
        ("too_large", {"commands": [CREATE] * 4, "valid_until": PAST}),
        ("expired", {"commands": [CREATE], "valid_until": PAST, "session": 99}),
        ("session_evicted", {"commands": [CREATE], "session": 99}),
    ]
    for code, changes in reasons:
        answer = refuse(driver, pack(**changes))
        assert (answer.seq, answer.error.code) == (3, code)
    driver.drain()
    for code, changes in reasons:
        assert refuse(driver, pack(**changes)).error.code == code
    assert refuse(driver, pack(commands=[CREATE])).error.code == "draining"
    assert refuse(driver, pack()).error.code == "draining"


@pytest.mark.parametrize(
    ("frames", "seq"),
    [
        ([b""], None),
        ([b"\xc1"], None),
        ([b"GET / HTTP/1.1"], None),
        ([pack(), pack()], None),
        ([b"", pack()], None),
        ([pack() + b"x"], None),
        ([pack(commands=[WAIT, CREATE])], 3),
        ([pack(commands=[{"type": "fly"}])], 3),
        ([pack(commands=[CREATE, {**CREATE, "input_hash": "0" * 63}])], 3),
        ([pack(seq=2**53)], None),
        ([pack(valid_until=msgspec.msgpack.Ext(-1, b"\x00" * 4 + (2**40).to_bytes(8, "big")))], 3),
    ],
    ids=str,
)
def test_malformed_requests_are_refused(frames: list[bytes], seq: int | None) -> None:
    answer = refuse(Driver(), *frames)
    assert (answer.error.code, answer.error.retryable, answer.seq) == ("malformed", False, seq)


def test_too_large_requests_are_told_the_limit() -> None:
    driver = Driver(request_bytes=500, commands=2)
    assert refuse(driver, pack(commands=[CREATE] * 3)).error.limit == 2
    assert refuse(driver, pack(commands=[{**CREATE, "input": "x" * 500}])).error.limit == 500
    frame = pack(commands=[{**CREATE, "input": ""}])
    padding = 500 - len(frame) - 2
    ((_, answer),) = driver.run(
        Arrival(PEER, [pack(commands=[{**CREATE, "input": "x" * padding}])], ADMIN)
    )
    assert isinstance(answer, Reply)


def test_a_request_is_valid_until_its_last_moment() -> None:
    driver = Driver()
    ((_, answer),) = driver.run(Arrival(PEER, [pack(valid_until=EPOCH)], ADMIN))
    assert answer == Reply(1, 3, [])
    driver.pass_ms(1)
    assert refuse(driver, pack(valid_until=EPOCH)).error.code == "expired"


def test_results_are_in_the_order_of_the_commands() -> None:
    driver = Driver()
    results = driver.ask(
        create(), Get(job_id=job_id(1)), move(job_id(1), COMPLETED), move(job_id(1), RUNNING),
        Get(job_id=job_id(2)), Count(),
    )  # fmt: skip
    assert [getattr(result, "code", type(result).__name__) for result in results] == [
        "JobResult", "JobResult", "illegal_transition", "JobResult", "job_not_found", "CountResult",
    ]  # fmt: skip


def test_requests_packed_by_hand_equal_encoded_ones() -> None:
    """Encoding by hand gives the bytes that the client's encoder gives."""
    driver = Driver()
    by_hand = pack(seq=1, commands=[CREATE])
    assert encode_request(Request(1, 0, 1, 0, [create()])) == by_hand
    assert isinstance(driver.ask(claim())[0], LeasesResult)

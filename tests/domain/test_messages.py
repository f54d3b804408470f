"""TG/1 as bytes: what is accepted and refused, and that replies equal the encoder's."""

import struct
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core import EPOCH, HASH
from tollgate.domain.commands import (
    AnyCommand,
    Claim,
    Count,
    Create,
    Get,
    Hello,
    Release,
    Touch,
    Transition,
    Wait,
)
from tollgate.domain.exceptions import (
    MalformedError,
    Refusal,
    ReplyFullError,
    StorageFullError,
    TooLargeError,
    UnsupportedVersionError,
)
from tollgate.domain.messages import (
    REFUSAL_BYTES,
    Refused,
    Reply,
    Request,
    begin_reply,
    decode_answer,
    decode_request,
    encode_command,
    encode_refused,
    encode_request,
    encode_result,
    read_envelope,
)
from tollgate.domain.results import CountResult, ErrorResult, OkResult, error_of
from tollgate.domain.status import JobStatus

JOB = "11111111-2222-4333-8444-555555555555"
TOO_BIG = 2**53
ARRAY_OF_4_294_967_295 = b"\xdd\xff\xff\xff\xff"
MAP_OF_4_294_967_295 = b"\xdf\xff\xff\xff\xff"
TEXT_OF_4_294_967_295 = b"\xdb\xff\xff\xff\xff"

COMMANDS: list[dict[str, Any]] = [
    {"type": "hello"},
    {"type": "hello", "open_session": True},
    {"type": "create", "input_hash": HASH},
    {
        "type": "create",
        "input_hash": HASH,
        "input": "{}",
        "identifier_from_purchaser": "aa",
        "job_id": JOB,
        "blockchain_identifier": "bc",
        "pay_by_time": EPOCH,
        "submit_result_time": EPOCH,
    },
    {"type": "get", "job_id": JOB},
    {"type": "get", "blockchain_identifier": "bc"},
    {"type": "transition", "job_id": JOB, "target": "running", "expected_version": 1, "lease": 1},
    {"type": "transition", "job_id": JOB, "target": "completed", "result": "r"},
    {"type": "transition", "job_id": JOB, "target": "failed", "error": "e"},
    {"type": "transition", "job_id": JOB, "target": "awaiting_input", "input_schema": "s"},
    {"type": "provide_input", "job_id": JOB, "input": "i", "expected_version": 3},
    {"type": "cancel", "job_id": JOB},
    {"type": "cancel", "job_id": JOB, "expected_version": 1},
    {"type": "count"},
    {"type": "count", "status": "failed"},
    {"type": "list", "limit": 1},
    {"type": "list", "limit": 1_000, "after": "7", "status": "running"},
    {"type": "wait", "job_ids": [JOB], "timeout_ms": 0},
    {"type": "wait", "job_ids": [JOB] * 1_000, "timeout_ms": 1, "statuses": ["running"]},
    {"type": "claim", "status": "running", "lease_ms": 1, "wait_ms": 0, "limit": 1},
    {"type": "touch", "job_id": JOB, "lease": 1, "lease_ms": 1},
    {"type": "release", "job_id": JOB, "lease": 1},
]


def message(*commands: object, **changes: object) -> dict[str, object]:
    return {"v": 1, "session": 0, "seq": 7, "acked": 0, "commands": list(commands), **changes}


def pack(value: object) -> bytes:
    return msgspec.msgpack.encode(value)


def taken(*commands: object, **changes: object) -> Request:
    return decode_request(pack(message(*commands, **changes)))


def assert_malformed(frame: bytes) -> None:
    with pytest.raises(MalformedError):
        decode_request(frame)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c["type"])
def test_a_command_is_decoded_as_encoded(command: dict[str, Any]) -> None:
    request = taken(command)
    assert encode_request(request) == encode_request(decode_request(encode_request(request)))
    read = msgspec.msgpack.decode(encode_command(request.commands[0]))
    given_values = msgspec.msgpack.decode(pack(command))
    defaults = {"open_session": False}
    assert {**defaults, **read} == {**defaults, **given_values}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c["type"])
def test_an_unknown_field_is_refused(command: dict[str, Any]) -> None:
    assert_malformed(pack(message({**command, "colour": 1})))


OPTIONAL = {
    "hello": {"open_session"},
    "create": {
        "input", "identifier_from_purchaser", "job_id", "blockchain_identifier", "pay_by_time",
        "submit_result_time",
    },
    "transition": {"result", "error", "input_schema", "expected_version", "lease"},
    "cancel": {"expected_version"},
    "count": {"status"},
    "list": {"status", "after"},
    "wait": {"statuses"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("command", "name"), [(command, name) for command in COMMANDS for name in command]
)
def test_only_optional_fields_may_be_missing(command: dict[str, Any], name: str) -> None:
    without = {key: value for key, value in command.items() if key != name}
    if name in OPTIONAL.get(command["type"], ()):
        taken(without)
    else:
        assert_malformed(pack(message(without)))


@pytest.mark.parametrize("wrong", [object, 1.5, float("nan"), b"bytes", [[]], {"a": 1}], ids=repr)
@pytest.mark.parametrize(
    ("command", "name"), [(command, name) for command in COMMANDS for name in command]
)
def test_a_field_of_a_wrong_type_is_refused(
    command: dict[str, Any], name: str, wrong: object
) -> None:
    value = msgspec.msgpack.Ext(5, b"x") if wrong is object else wrong
    assert_malformed(pack(message({**command, name: value})))


def test_an_unknown_field_of_the_message_is_refused() -> None:
    taken()
    assert_malformed(pack(message(colour=1)))


@pytest.mark.parametrize("name", ["v", "session", "seq", "acked", "commands"])
def test_a_message_needs_all_its_fields(name: str) -> None:
    fields = message()
    del fields[name]
    assert_malformed(pack(fields))


@pytest.mark.parametrize("name", ["session", "seq", "acked"])
@pytest.mark.parametrize("wrong", [-1, TOO_BIG, 2**64 - 1, 1.0, float("nan"), "1", None, True])
def test_numbers_are_whole_and_below_2_to_the_53(name: str, wrong: object) -> None:
    assert_malformed(pack(message(**{name: wrong})))
    assert getattr(taken(**{name: TOO_BIG - 1}), name) == TOO_BIG - 1


@pytest.mark.parametrize(
    "command",
    [
        {"type": "create", "input_hash": HASH[:-1]},
        {"type": "create", "input_hash": HASH + "0"},
        {"type": "create", "input_hash": HASH.upper()},
        {"type": "create", "input_hash": HASH[:-1] + "g"},
        {"type": "create", "input_hash": HASH + "\n"},
        {"type": "create", "input_hash": HASH[:-1] + "٣"},
        {"type": "create", "input_hash": HASH, "job_id": "abc"},
        {"type": "create", "input_hash": HASH, "job_id": JOB.upper().replace("1", "A")},
        {"type": "create", "input_hash": HASH, "job_id": JOB + "\n"},
        {"type": "create", "input_hash": HASH, "blockchain_identifier": ""},
        {"type": "create", "input_hash": HASH, "blockchain_identifier": "a\x00b"},
        {"type": "create", "input_hash": HASH, "identifier_from_purchaser": ""},
        {"type": "create", "input_hash": HASH, "pay_by_time": 1_700_000_000},
        {"type": "create", "input_hash": HASH, "pay_by_time": "tomorrow"},
        {"type": "create", "input_hash": HASH, "pay_by_time": "2026-01-01T00:00:00"},
        {"type": "create", "input_hash": HASH, "pay_by_time": "0001-01-01T00:00:00+05:00"},
        {"type": "create", "input_hash": HASH, "submit_result_time": "9999-12-31T23:00:00-05:00"},
        {"type": "get"},
        {"type": "get", "job_id": JOB, "blockchain_identifier": "bc"},
        {"type": "get", "job_id": ""},
        {"type": "get", "job_id": "x" * 65},
        {"type": "transition", "job_id": JOB, "target": "paid"},
        {"type": "transition", "job_id": JOB, "target": "RUNNING"},
        {"type": "transition", "job_id": JOB, "target": "running", "result": "r"},
        {"type": "transition", "job_id": JOB, "target": "completed", "error": "e"},
        {"type": "transition", "job_id": JOB, "target": "failed", "input_schema": "s"},
        {"type": "transition", "job_id": JOB, "target": "running", "expected_version": 0},
        {"type": "transition", "job_id": JOB, "target": "running", "expected_version": TOO_BIG},
        {"type": "transition", "job_id": JOB, "target": "running", "lease": -1},
        {"type": "list", "limit": 0},
        {"type": "list", "limit": 1_001},
        {"type": "list", "limit": 1, "after": ""},
        {"type": "list", "limit": 1, "after": "-1"},
        {"type": "list", "limit": 1, "after": "1" * 16},
        {"type": "wait", "job_ids": [], "timeout_ms": 1},
        {"type": "wait", "job_ids": [JOB] * 1_001, "timeout_ms": 1},
        {"type": "wait", "job_ids": [JOB], "timeout_ms": 3_600_001},
        {"type": "wait", "job_ids": [JOB], "timeout_ms": -1},
        {"type": "claim", "status": "completed", "lease_ms": 1, "wait_ms": 0, "limit": 1},
        {"type": "claim", "status": "failed", "lease_ms": 1, "wait_ms": 0, "limit": 1},
        {"type": "claim", "status": "running", "lease_ms": 0, "wait_ms": 0, "limit": 1},
        {"type": "claim", "status": "running", "lease_ms": 86_400_001, "wait_ms": 0, "limit": 1},
        {"type": "claim", "status": "running", "lease_ms": 1, "wait_ms": 0, "limit": 0},
        {"type": "destroy"},
        {"type": 1},
        {},
        "count",
        None,
    ],
    ids=str,
)
def test_a_value_out_of_its_range_is_refused(command: object) -> None:
    assert_malformed(pack(message(command)))


@pytest.mark.parametrize("seconds", [253_402_300_800, -62_135_596_801, 2**62, -(2**62)], ids=str)
@pytest.mark.parametrize("where", ["valid_until", "pay_by_time", "submit_result_time"])
def test_a_time_after_year_9999_is_refused(where: str, seconds: int) -> None:
    time = msgspec.msgpack.Ext(-1, struct.pack(">Iq", 0, seconds))
    if where == "valid_until":
        assert_malformed(pack(message(valid_until=time)))
    else:
        assert_malformed(pack(message({"type": "create", "input_hash": HASH, where: time})))


def test_a_time_that_rounds_to_year_10000_is_refused() -> None:
    time = msgspec.msgpack.Ext(-1, struct.pack(">Iq", 999_999_999, 253_402_300_799))
    assert_malformed(pack(message(valid_until=time)))


@pytest.mark.parametrize(
    "time", [datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC), datetime(1, 1, 1, tzinfo=UTC)]
)
def test_the_first_and_last_times_are_accepted(time: datetime) -> None:
    assert taken(valid_until=time).valid_until == time


def test_times_are_converted_to_utc() -> None:
    east = datetime(2026, 1, 1, 5, tzinfo=timezone(timedelta(hours=5)))
    create = Create(input_hash=HASH, pay_by_time=east, submit_result_time=east)
    request = Request(1, 0, 1, 0, [create], east)
    for time in (create.pay_by_time, create.submit_result_time, request.valid_until):
        assert time == EPOCH
        assert time is not None
        assert time.tzinfo is UTC
    command = taken({"type": "create", "input_hash": HASH, "pay_by_time": east}).commands[0]
    assert isinstance(command, Create)
    assert command.pay_by_time is not None
    assert command.pay_by_time.tzinfo is UTC
    with pytest.raises(ValueError, match="aware"):
        Create(input_hash=HASH, pay_by_time=east.replace(tzinfo=None))


WAIT = {"type": "wait", "job_ids": [JOB], "timeout_ms": 1}
PARKING_CLAIM = {"type": "claim", "status": "running", "lease_ms": 1, "wait_ms": 1, "limit": 1}
CLAIM = {**PARKING_CLAIM, "wait_ms": 0}


@pytest.mark.parametrize("park", [WAIT, {**WAIT, "timeout_ms": 0}, PARKING_CLAIM])
@pytest.mark.parametrize("other", [WAIT, PARKING_CLAIM, CLAIM, {"type": "count"}])
def test_commands_that_wait_stand_alone(park: object, other: object) -> None:
    taken(park)
    assert_malformed(pack(message(park, other)))
    assert_malformed(pack(message(other, other, park)))


def test_a_claim_that_does_not_wait_may_stand_among_others() -> None:
    assert len(taken(CLAIM, CLAIM, {"type": "count"}).commands) == 3


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c["type"])
def test_a_truncated_request_is_refused(command: dict[str, Any]) -> None:
    frame = pack(message({**command, "job_ids": [JOB]} if "job_ids" in command else command))
    for length in range(len(frame)):
        assert_malformed(frame[:length])


@pytest.mark.parametrize("junk", [b"\x00", b"\xc0", b"\x80", b"\xff" * 9])
def test_trailing_bytes_are_refused(junk: bytes) -> None:
    assert_malformed(pack(message()) + junk)


def empty(name: str) -> bytes:
    """Return a request that ends before the value of its last field, `name`."""
    fields = {key: value for key, value in message().items() if key != name}
    return bytes([0x80 + len(fields) + 1]) + pack(fields)[1:] + pack(name)


@pytest.mark.parametrize(
    "bomb",
    [
        ARRAY_OF_4_294_967_295,
        MAP_OF_4_294_967_295,
        TEXT_OF_4_294_967_295,
        b"\xdd\x00\xff\xff\xff" + b"\xc0" * 100,
        b"\x91" * 100_000,
        b"\x91" * 100_000 + b"\xc0",
        b"\x81\xa1a" * 100_000 + b"\xc0",
        b"\x91\x82\xa4type\xa4wait\xa7job_ids" + ARRAY_OF_4_294_967_295,
    ],
    ids=lambda bomb: bomb[:6].hex(),
)
@pytest.mark.parametrize("name", ["v", "commands", "valid_until", "colour"])
def test_a_decompression_bomb_is_refused(name: str, bomb: bytes) -> None:
    assert_malformed(empty(name) + bomb)
    assert_malformed(bomb)


def test_invalid_utf_8_is_refused_with_the_request_seq() -> None:
    frame = pack(message({"type": "get", "job_id": "QQQQ"})).replace(b"QQQQ", b"\xff\xfe\xfd\xfc")
    assert_malformed(frame)
    assert read_envelope(frame) == (1, 7)
    lone_surrogate = pack(message({"type": "get", "job_id": "QQQ"})).replace(
        b"QQQ", b"\xed\xa0\x80"
    )
    assert_malformed(lone_surrogate)


@pytest.mark.parametrize(
    ("frame", "envelope"),
    [
        (b"", (None, None)),
        (b"\xc1", (None, None)),
        (b"hello", (None, None)),
        (pack([1, 2]), (None, None)),
        (pack({}), (None, None)),
        (pack({"v": 1}), (1, None)),
        (pack({"seq": 9, "x": [1, {"y": 2}]}), (None, 9)),
        (pack({"v": 2, "seq": 3, "commands": "soon"}), (2, 3)),
        (pack({"v": "1", "seq": "3"}), (None, None)),
        (pack({"v": True, "seq": 3.0}), (None, None)),
        (pack({"v": -1, "seq": -1}), (None, None)),
        (pack({"v": TOO_BIG, "seq": TOO_BIG}), (None, None)),
        (pack({"v": 1, "seq": 1}) + b"\x00", (None, None)),
    ],
)
def test_the_envelope_is_read_leniently(
    frame: bytes, envelope: tuple[int | None, int | None]
) -> None:
    assert read_envelope(frame) == envelope


@pytest.mark.parametrize("version", [0, 2, 3, TOO_BIG - 1])
@pytest.mark.parametrize(
    "fields",
    [
        message(),
        message(colour=1),
        message({"type": "unheard_of"}),
        {"seq": 1},
        {},
        message(WAIT, WAIT),
    ],
    ids=str,
)
def test_another_version_is_refused_first(version: int, fields: dict[str, object]) -> None:
    with pytest.raises(UnsupportedVersionError, match=str(version)):
        decode_request(pack({**fields, "v": version}))


RESULTS: list[Any] = [
    OkResult(),
    ErrorResult("job_not_found", "no job", retryable=False, job_id="x"),
    CountResult(1, {"running": 1}, {"running": EPOCH}),
]


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 1_000, 65_535])
def test_a_reply_in_parts_has_the_encoders_bytes(count: int) -> None:
    results = [RESULTS[place % len(RESULTS)] for place in range(count)]
    for seq in (0, 127, TOO_BIG - 1):
        frame = begin_reply(seq, count) + b"".join(map(encode_result, results))
        assert frame == msgspec.msgpack.encode(Reply(1, seq, results))
        if count == 16:
            assert decode_answer(frame) == Reply(1, seq, results)


@pytest.mark.parametrize(
    "refusal",
    [
        ReplyFullError("the result would not fit in this reply"),
        TooLargeError("identifier_from_purchaser holds more than 99999999 bytes", limit=99_999_999),
        StorageFullError("the disk has no room for what this command would change"),
    ],
)
def test_a_refusal_fits_in_its_reserved_bytes(refusal: Refusal) -> None:
    assert len(msgspec.msgpack.encode(error_of(refusal))) <= REFUSAL_BYTES


def test_a_refused_answer_is_decoded_as_encoded() -> None:
    refusal = MalformedError("what?")
    for seq in (None, 0, TOO_BIG - 1):
        assert decode_answer(encode_refused(seq, refusal)) == Refused(1, seq, error_of(refusal))


def test_a_client_ignores_unknown_fields() -> None:
    reply = {
        "type": "reply", "v": 1, "seq": 1, "mood": "good",
        "results": [{"type": "ok", "mood": "good"}],
    }  # fmt: skip
    assert decode_answer(pack(reply)) == Reply(1, 1, [OkResult()])


@pytest.mark.parametrize(
    "frame", [b"", b"\xc1", pack([]), pack({"type": "reply"}), pack({"type": "song", "v": 1})]
)
def test_a_client_refuses_invalid_answers(frame: bytes) -> None:
    with pytest.raises(MalformedError):
        decode_answer(frame)


commands = st.one_of(
    st.builds(Hello, open_session=st.booleans()),
    st.builds(Create, input_hash=st.just(HASH), input=st.none() | st.text(max_size=9)),
    st.builds(Get, job_id=st.text(min_size=1, max_size=64)),
    st.builds(Count, status=st.none() | st.sampled_from(JobStatus)),
    st.builds(
        Transition,
        job_id=st.just(JOB),
        target=st.just(JobStatus.RUNNING),
        lease=st.none() | st.integers(0, TOO_BIG - 1),
    ),
    st.builds(
        Touch, job_id=st.just(JOB), lease=st.integers(0, 99), lease_ms=st.integers(1, 86_400_000)
    ),
    st.builds(Release, job_id=st.just(JOB), lease=st.integers(0, TOO_BIG - 1)),
)


@given(st.lists(commands, max_size=20), st.integers(0, TOO_BIG - 1))
def test_requests_are_decoded_as_encoded(sent: list[AnyCommand], seq: int) -> None:
    request = Request(1, 0, seq, 0, sent)
    assert decode_request(encode_request(request)) == request


@given(st.binary(max_size=60))
def test_no_bytes_crash_the_decoders(frame: bytes) -> None:
    for decode in (decode_request, decode_answer):
        try:
            decode(frame)
        except (MalformedError, UnsupportedVersionError):
            continue
    read_envelope(frame)


@given(st.data())
def test_no_changed_byte_crashes_the_decoder(data: st.DataObject) -> None:
    frame = bytearray(pack(message(COMMANDS[3], COMMANDS[6], valid_until=EPOCH)))
    for place in data.draw(st.lists(st.integers(0, len(frame) - 1), min_size=1, max_size=4)):
        frame[place] = data.draw(st.integers(0, 255))
    try:
        decode_request(bytes(frame))
    except (MalformedError, UnsupportedVersionError):
        read_envelope(bytes(frame))


def test_only_waits_and_waiting_claims_park() -> None:
    assert Wait(job_ids=[JOB], timeout_ms=0).parks
    for wait_ms in (0, 1):
        claim = Claim(status=JobStatus.RUNNING, lease_ms=1, wait_ms=wait_ms, limit=1)
        assert claim.parks == (wait_ms > 0)
    assert not Count().parks


def test_a_wait_ends_in_its_statuses_or_a_final_one() -> None:
    final = {JobStatus.COMPLETED, JobStatus.FAILED}
    assert Wait(job_ids=[JOB], timeout_ms=0).awaited == final
    assert Wait(job_ids=[JOB], timeout_ms=0, statuses=[]).awaited == final
    running = Wait(job_ids=[JOB], timeout_ms=0, statuses=[JobStatus.RUNNING])
    assert running.awaited == final | {JobStatus.RUNNING}


def test_a_short_hash_with_a_long_id_is_refused() -> None:
    with pytest.raises(ValueError, match="input_hash is not 64"):
        Create(input_hash=HASH[4:], job_id="0000" + JOB)

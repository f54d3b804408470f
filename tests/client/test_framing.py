"""Payloads are as large as the limits allow, and every command keeps its place."""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollgate.client.framing import PENDING, Framer, Payload, payload_of
from tollgate.domain.commands import AnyCommand, Claim, Count, Create, Get, Wait
from tollgate.domain.exceptions import MalformedError, TollgateError, TooLargeError
from tollgate.domain.messages import (
    REQUEST_ENVELOPE_BYTES_MAX,
    Request,
    decode_request,
    encode_command,
    encode_frame,
    encode_request,
)
from tollgate.domain.status import JobStatus

from .peers import HASH, WALL, job_id

LONGEST = (2**53 - 1, 2**53 - 1, 2**53 - 1)
LAST = datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC)
WAIT = Wait(job_ids=["a"], timeout_ms=1)
PARKED_CLAIM = Claim(status=JobStatus.RUNNING, lease_ms=1, wait_ms=1, limit=1)
CLAIM = Claim(status=JobStatus.RUNNING, lease_ms=1, wait_ms=0, limit=1)


def payloads(
    *commands: AnyCommand | TollgateError, commands_max: int = 1_000, bytes_max: int = 262_144
) -> tuple[list[Payload], list[object]]:
    framer = Framer(iter(commands), commands_max, bytes_max)
    made = []
    while (payload := framer.next()) is not None:
        made.append(payload)
    assert framer.exhausted
    return made, framer.values


@pytest.mark.parametrize("count", [1, 15, 16, 1_000])
def test_a_joined_frame_is_what_the_encoder_makes(count: int) -> None:
    commands: list[AnyCommand] = [Get(job_id=str(number)) for number in range(count)]
    encoded = [encode_command(command) for command in commands]
    expected = Request(v=1, session=5, seq=6, acked=7, commands=commands, valid_until=WALL)

    frame = encode_frame(5, 6, 7, count, encoded, WALL)

    assert frame == encode_request(expected)
    assert decode_request(frame) == expected


@given(st.lists(st.integers(0, 300), max_size=60), st.integers(1, 20), st.integers(500, 2_000))
def test_payloads_are_as_large_as_the_limits_allow(
    sizes: list[int], commands_max: int, bytes_max: int
) -> None:
    commands = [Create(input_hash=HASH, input="x" * size) for size in sizes]
    made, values = payloads(*commands, commands_max=commands_max, bytes_max=bytes_max)

    assert [slot for payload in made for slot in payload.slots] == [*range(len(sizes))]
    assert values == [PENDING] * len(sizes)
    for payload in made:
        assert len(payload.commands) <= commands_max
        frame = encode_frame(*LONGEST, len(payload.commands), payload.pieces, LAST)
        assert len(frame) <= bytes_max
    for payload, following in pairwise(made):
        fuller = [*map(encode_command, [*payload.commands, following.commands[0]])]
        room = bytes_max - REQUEST_ENVELOPE_BYTES_MAX
        assert len(fuller) > commands_max or sum(map(len, fuller)) > room


def test_one_byte_too_many_is_refused() -> None:
    command = Create(input_hash=HASH, input="x" * 500)
    just_enough = len(encode_command(command)) + REQUEST_ENVELOPE_BYTES_MAX

    made, _ = payloads(command, bytes_max=just_enough)
    assert len(made) == 1
    made, values = payloads(Count(), command, Count(), bytes_max=just_enough - 1)

    assert [payload.slots for payload in made] == [[0, 2]]
    (_, error, _) = values
    assert isinstance(error, TooLargeError)
    assert error.limit == just_enough - 1


def test_commands_that_may_park_are_sent_alone() -> None:
    made, _ = payloads(Count(), WAIT, WAIT, CLAIM, Count(), PARKED_CLAIM, Count())
    assert [payload.slots for payload in made] == [[0], [1], [2], [3, 4], [5], [6]]


@pytest.mark.parametrize(
    "command",
    [
        Create(input_hash=HASH, input="\ud800"),
        Create(input_hash=HASH, input=object()),  # type: ignore[arg-type]
        Claim(status=JobStatus.RUNNING, lease_ms=2**70, wait_ms=0, limit=1),
    ],
    ids=["surrogate", "object", "integer"],
)
def test_an_unencodable_command_is_refused(command: AnyCommand) -> None:
    made, values = payloads(command, Count())
    assert [payload.slots for payload in made] == [[1]]
    assert isinstance(values[0], MalformedError)


def test_an_invalid_command_does_not_affect_others() -> None:
    commands: list[AnyCommand | TollgateError] = [Get(job_id=str(number)) for number in range(500)]
    commands[250] = Create(input_hash=HASH, input="\ud800")
    commands[251] = refusal = MalformedError("a bad row")

    made, values = payloads(*commands, commands_max=400)

    assert [len(payload.commands) for payload in made] == [400, 98]
    assert [slot for payload in made for slot in payload.slots] == [*range(250), *range(252, 500)]
    assert isinstance(values[250], MalformedError)
    assert values[251] is refusal
    for payload in made:
        frame = encode_frame(0, 1, 0, len(payload.commands), payload.pieces, WALL)
        assert decode_request(frame).commands == payload.commands


def test_large_commands_are_not_all_taken_at_once() -> None:
    taken: list[int] = []

    def commands() -> Iterator[AnyCommand]:
        for number in range(10_000):
            taken.append(number)
            yield Create(input_hash=HASH, input="x" * 10_000)

    framer = Framer(commands(), 1_000, 262_144)
    slots = [slot for _ in range(10) for slot in (framer.next() or Payload()).slots]

    assert slots == [*range(250)]
    assert len(taken) == 300
    assert framer.held == 50


def test_a_payload_takes_no_more_than_fits() -> None:
    commands = iter([Get(job_id=str(number)) for number in range(20)])
    framer = Framer(commands, 7, 262_144)
    payload = framer.next()
    assert payload is not None
    assert len(payload.commands) == 7
    assert next(commands) == Get(job_id="7")


def test_an_exception_of_the_iterator_passes() -> None:
    def commands() -> object:
        yield Count()
        raise LookupError("the rows are gone")

    framer = Framer(commands(), 1_000, 262_144)  # type: ignore[arg-type]
    with pytest.raises(LookupError, match="the rows are gone"):
        framer.next()


@pytest.mark.parametrize(
    ("command", "repeatable"),
    [
        (Count(), True),
        (Create(input_hash=HASH), False),
        (Create(input_hash=HASH, job_id=job_id(1)), True),
        (CLAIM, False),
    ],
)
def test_which_payloads_are_repeatable(command: AnyCommand, repeatable: bool) -> None:
    ((payload,), _) = payloads(Count(), command)
    assert payload.repeatable is repeatable


def described(payload: Payload | None) -> list[object]:
    """Return the contents of a payload, to compare two."""
    if payload is None:
        return []
    whole = b"".join(payload.pieces)
    parts = [payload.slots, payload.commands, payload.kinds, whole]
    return [*parts, payload.changes, payload.parks, payload.repeatable]


@pytest.mark.parametrize(
    "command",
    [
        Get(job_id="a"),
        Count(),
        Create(input_hash=HASH),
        Create(input_hash=HASH, job_id=job_id(1)),
        WAIT,
        CLAIM,
        PARKED_CLAIM,
        Create(input_hash=HASH, input="x" * 1_000),
        Create(input_hash=HASH, input="\ud800"),
    ],
    ids=lambda command: repr(command)[:40],
)
@pytest.mark.parametrize("bytes_max", [600, 262_144])
def test_payload_of_one_equals_that_of_a_framer(command: AnyCommand, bytes_max: int) -> None:
    alone, framer = payload_of(command, bytes_max), Framer([command], 1_000, bytes_max)
    payload = framer.next()
    assert framer.exhausted
    if isinstance(alone, TollgateError):
        assert payload is None
        assert [*map(repr, framer.values)] == [repr(alone)]
    else:
        assert framer.values == [PENDING]
        assert described(payload) == described(alone)

"""MIP-004's hashes: published vectors, properties, and values without a hash."""

import hashlib
import json
import math
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollgate.domain.exceptions import ArgumentError
from tollgate.domain.hashing import (
    JsonValue,
    UnhashableInputError,
    input_hash,
    output_hash,
    output_hash_as_deployed,
)

PURCHASER = "aabbccddeeff0011"
LARGEST_INTEGER = 2**53 - 1

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.integers(-LARGEST_INTEGER, LARGEST_INTEGER) | st.floats(
    allow_nan=False, allow_infinity=False
)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=15,
)


@pytest.mark.parametrize(
    ("input_data", "expected"),
    [
        (
            {"prompt": "Cardano payments"},
            "25f3afe66b39b0582711c9faf53930c7b6a6feffd10294750ec77be47fd63080",
        ),
        ({"a": 1.0}, "cc4551ee1dab061c489e8f6c3eb3a531e8b7003d9c6f89807463f723e19fb6f7"),
        ({}, "59e08c108addc5e1667e34f85c90bb4ff98c410701bfb6088a4deb86b3273ca9"),
    ],
)
def test_input_vectors(input_data: JsonValue, expected: str) -> None:
    assert input_hash(PURCHASER, input_data) == expected


def test_output_vectors() -> None:
    output = "Line 1\nLine 2"
    raw = "6fa3bfa69364318f78619b87652c725d705c90f18f8bdcb5d7041c17b73ea57a"
    deployed = "85ba9cdbfafd6984e7a57a04c2e0fe378f48b998e327aa851b4e5459b990fb19"
    assert output_hash(PURCHASER, output) == raw
    assert output_hash_as_deployed(PURCHASER, output) == deployed


@pytest.mark.parametrize(
    ("input_data", "canonical"),
    [
        (1e-6, "0.000001"),
        (1e-7, "1e-7"),
        (-0.0, "0"),
        (1e21, "1e+21"),
        (LARGEST_INTEGER, "9007199254740991"),
        (
            {"\N{HEBREW LETTER DALET WITH DAGESH}": 1, "\N{GRINNING FACE}": 2},
            '{"\N{GRINNING FACE}":2,"\N{HEBREW LETTER DALET WITH DAGESH}":1}',  # by UTF-16
        ),
        ("\u20ac$\u000f\nA'\"\\/", '"\u20ac$\\u000f\\nA\'\\"\\\\/"'),
        ([True, None, "é"], '[true,null,"é"]'),
    ],
)
def test_the_payload_is_canonical_json(input_data: JsonValue, canonical: str) -> None:
    preimage = f"{PURCHASER};{canonical}".encode()
    assert input_hash(PURCHASER, input_data) == hashlib.sha256(preimage).hexdigest()


@given(text, json_values)
def test_a_hash_is_64_lowercase_hexadecimal_digits(purchaser: str, value: JsonValue) -> None:
    for digest in (
        input_hash(purchaser, value),
        output_hash(purchaser, str(value)),
        output_hash_as_deployed(purchaser, str(value)),
    ):
        assert len(digest) == 64
        assert set(digest) <= set("0123456789abcdef")


@given(st.dictionaries(text, json_values, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_keys_is_irrelevant(mapping: dict[str, JsonValue], random: Random) -> None:
    shuffled = list(mapping.items())
    random.shuffle(shuffled)
    assert input_hash(PURCHASER, dict(shuffled)) == input_hash(PURCHASER, mapping)


@given(json_values, json_values)
def test_different_inputs_have_different_hashes(one: JsonValue, other: JsonValue) -> None:
    # JSON has one kind of number: 1 and 1.0 are the same input; True and 1 are not.
    same = _comparable(one) == _comparable(other)
    assert (input_hash(PURCHASER, one) == input_hash(PURCHASER, other)) is same


@given(json_values)
def test_json_keeps_the_hash_of_an_input(value: JsonValue) -> None:
    assert input_hash(PURCHASER, json.loads(json.dumps(value))) == input_hash(PURCHASER, value)


@given(text, text)
def test_different_outputs_have_different_hashes(one: str, other: str) -> None:
    for function in (output_hash, output_hash_as_deployed):
        assert (function(PURCHASER, one) == function(PURCHASER, other)) is (one == other)


@given(text, text)
def test_the_purchaser_is_part_of_the_hash(one: str, other: str) -> None:
    assert (input_hash(one, {}) == input_hash(other, {})) is (one == other)


@given(text)
def test_output_hashes_agree_if_json_escapes_nothing(output: str) -> None:
    escapes_nothing = all(character >= " " and character not in '"\\' for character in output)
    agree = output_hash(PURCHASER, output) == output_hash_as_deployed(PURCHASER, output)
    assert agree is escapes_nothing


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (math.nan, "nan is not representable"),
        ({"deep": [math.inf]}, "inf is not representable"),
        (LARGEST_INTEGER + 1, "exceeds safe integer domain"),
        (-LARGEST_INTEGER - 1, "exceeds safe integer domain"),
        pytest.param(10**5000, "cannot represent", id="too long to be shown in a message"),
        ({1: "one"}, "keys must be strings"),
        ({"a": 1, None: 2}, "keys must be strings"),
        ("\ud83d", "non-UTF-8"),
        ({"\udc00": 1}, "lone surrogate"),
        (b"bytes", "unsupported type"),
        ({"set": {1}}, "unsupported type"),
    ],
)
def test_values_outside_rfc_8785_are_refused(value: JsonValue, reason: str) -> None:
    with pytest.raises(UnhashableInputError, match=reason):
        input_hash(PURCHASER, value)


def test_a_too_deep_input_is_refused() -> None:
    nested: JsonValue = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(UnhashableInputError, match="too deeply"):
        input_hash(PURCHASER, nested)


@pytest.mark.parametrize("function", [output_hash, output_hash_as_deployed])
def test_a_lone_surrogate_is_refused_in_an_output(function: Callable[[str, str], str]) -> None:
    with pytest.raises(UnhashableInputError, match="lone surrogate at character 2"):
        function(PURCHASER, "ab\ud800")


def test_a_lone_surrogate_is_refused_in_an_identifier() -> None:
    with pytest.raises(UnhashableInputError, match="lone surrogate at character 0"):
        input_hash("\ud800", {})


def _comparable(value: JsonValue) -> object:
    """Return a form in which two values are equal if they are the same JSON."""
    if isinstance(value, bool) or value is None:
        return ("literal", value)
    if isinstance(value, int | float):
        return ("number", float(value))  # below 2**53 nothing is lost
    if isinstance(value, dict):
        return {key: _comparable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_comparable(inner) for inner in value]
    return value


@pytest.mark.parametrize("function", [output_hash, output_hash_as_deployed])
@pytest.mark.parametrize("output", [None, b"x", {"a": 1}], ids=repr)
def test_an_output_that_is_no_text_is_refused(
    function: Callable[[str, Any], str], output: object
) -> None:
    with pytest.raises(ArgumentError, match="output must be a text"):
        function(PURCHASER, output)


@pytest.mark.parametrize("identifier", [None, b"x", 7], ids=repr)
def test_an_identifier_that_is_no_text_is_refused(identifier: Any) -> None:
    for function in (input_hash, output_hash, output_hash_as_deployed):
        with pytest.raises(ArgumentError, match="identifier_from_purchaser must be a text"):
            function(identifier, "x")


def test_a_type_that_json_lacks_is_named_plainly() -> None:
    with pytest.raises(ArgumentError, match=r"unsupported type: bytes$"):
        input_hash(PURCHASER, {"a": b"x"})

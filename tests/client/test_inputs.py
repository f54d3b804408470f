"""An input is what was meant: what seems to be a mistake is refused, or has to be said."""

import json
import sys
from typing import Any

import pytest

from tollgate.client import commands as calls
from tollgate.client.inputs import NESTING_MAX, hash_of_input
from tollgate.client.rows import creates
from tollgate.domain.exceptions import ArgumentError, MalformedError
from tollgate.domain.hashing import input_hash

DEEP = "[" * NESTING_MAX + "]" * NESTING_MAX

# Python 3.13 names the comma, earlier ones what stands behind it.
TRAILING_COMMA = f"at character {8 if sys.version_info >= (3, 13) else 9}"
MISTAKES = [
    ("", "is empty"),
    (" \n", "only white space"),
    ("\ufeff", "is empty"),
    ("{", "begins like JSON"),
    ('{"a": 1,}', TRAILING_COMMA),
    ("{'a': 1}", "begins like JSON"),
    ("'{\"a\": 1}'", "begins like JSON"),
    ("[1, 2", "begins like JSON"),
    ('"open', "begins like JSON"),
    ('{"a": 1} {"a": 2}', "Extra data"),
    ('\u00a0{"a": 1}', "white space"),
    ('{"score": NaN}', "JSON has no NaN"),
    ("[Infinity]", "JSON has no Infinity"),
    ('{"a": -Infinity}', "JSON has no -Infinity"),
    ('{"a": 1, "a": 2}', "the key 'a' is there twice"),
    ('{"a": ' + "1" * 5_000 + "}", "too many digits"),
    ("NaN", "the number NaN"),
    ("-Infinity", "the number -Infinity"),
    ("inf", "the number inf"),
    ("1" * 5_000, "the number 111"),
    ("007", "the number 007"),
    ("+5", "the number"),
    (".5", "the number"),
    ("1_000", "the number"),
    (" text", "white space"),
    ("text\n", "white space"),
    ('{\0"\0a\0', "NUL"),
    ("t\0e\0x\0t\0", "NUL"),
    ("\xef\xbb\xbf{}", "byte order mark"),
    ("\xff\xfe{}", "byte order mark"),
    ("\ufffe{}", "byte order mark"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "reason"), MISTAKES, ids=lambda value: ascii(value)[:20])
def test_a_mistake_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ArgumentError, match=r"create: input .*as_text=True \(--text\)") as caught:
        calls.create(input=text)
    assert reason in str(caught.value)
    assert isinstance(caught.value, MalformedError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("text", [text for text, _ in MISTAKES], ids=lambda text: ascii(text)[:20])
def test_a_mistake_said_to_be_text_is_taken_as_it_is(text: str) -> None:
    command = calls.create(input=text, as_text=True)
    assert command.input == text
    assert command.input_hash == input_hash("", text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (' {"b": 1, "a": [1.5]}\r\n', {"a": [1.5], "b": 1}),
        ("null", None),
        ("-0.5e3", -500),
        ("NaN and more", "NaN and more"),
        ("Infinity War", "Infinity War"),
        ("12 monkeys", "12 monkeys"),
        ("2026-11-28", "2026-11-28"),
        ("two\nlines", "two\nlines"),
        ("a { b", "a { b"),
        (f"{'[' * 600}".join(("a", "b")), "a" + "[" * 600 + "b"),
        (json.dumps("[" * 600), "[" * 600),
        ("9" * 5_000 + " is long", "9" * 5_000 + " is long"),
        (DEEP, json.loads(DEEP)),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_clear_is_taken(text: str, value: Any) -> None:
    command = calls.create(input=text)
    assert command.input == text
    assert command.input_hash == input_hash("", value)


def test_a_byte_order_mark_counts_for_nothing() -> None:
    for text in ('{"a": 1}', "text"):
        marked, plain = calls.create(input=f"\ufeff{text}"), calls.create(input=text)
        assert (marked.input, marked.input_hash) == (plain.input, plain.input_hash)


@pytest.mark.parametrize(
    "text",
    [
        f"[{DEEP}]",
        '{"a":' * (NESTING_MAX + 1) + "1" + "}" * (NESTING_MAX + 1),
        "[" * 100_000,
        "[" * 3_000 + "]" * 3_000,
    ],
    ids=len,
)
def test_deep_nesting_is_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match="nested more than 500 levels"):
        calls.create(input=text)


def test_json_said_to_be_text_has_the_hash_of_a_string() -> None:
    assert hash_of_input("5", None, as_text=True) == input_hash("", "5")
    assert hash_of_input("5", None) == input_hash("", 5)


def test_a_lone_surrogate_is_named_where_it_is() -> None:
    with pytest.raises(ArgumentError, match=r"create: input is not valid Unicode.* character 3"):
        calls.create(input="ab\ud800")
    with pytest.raises(ArgumentError, match="identifier_from_purchaser is not valid Unicode"):
        calls.create(input="text", identifier_from_purchaser="\ud800")


def test_rows_and_batches_take_as_text() -> None:
    taken, refused = creates([{"input": "{", "as_text": True}, {"input": "{"}])
    assert not isinstance(taken, ArgumentError)
    assert isinstance(refused, ArgumentError)

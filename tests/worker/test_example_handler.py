"""The default handler on texts in several scripts, and on inputs that are hardly any."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.worker.script import make_job
from tollgate.worker.example_handler import describe
from tollgate.worker.outcome import TEXT_BYTES


@pytest.fixture
def described() -> Callable[[str | None], dict[str, Any]]:
    def run(text: str | None) -> dict[str, Any]:
        description: dict[str, Any] = json.loads(describe(make_job(input=text)))
        return description

    return run


Described = Callable[[str | None], dict[str, Any]]


def test_plain_text(described: Described) -> None:
    assert described("Well, well. Don't panic!") == {
        "characters": 24,
        "words": 4,
        "sentences": 2,
        "most_frequent": [["well", 2], ["don't", 1], ["panic", 1]],
        "script": "latin",
        "normalised": "well, well. don't panic!",
        "reversed": "!cinap t'nod .llew ,llew",
    }


@pytest.mark.parametrize(
    "document",
    [
        {"input_data": {"text": "one two", "count": 3, "more": ["three", None]}},
        {"input_data": [{"key": "a", "value": "one two"}, {"key": "b", "value": ["three"]}]},
        {"first": "one two", "second": {"third": "three"}},
        ["one two", ["three"]],
        "one two\nthree",
    ],
)
def test_the_texts_of_a_json_input_count_in_their_order(
    described: Described, document: object
) -> None:
    description = described(json.dumps(document))
    assert (description["words"], description["normalised"]) == (3, "one two three")


@pytest.mark.parametrize(
    ("text", "script", "words", "sentences"),
    [
        ("Привет, мир! Как дела?", "cyrillic", 4, 2),
        ("नमस्ते दुनिया। आप कैसे हैं?", "devanagari", 5, 2),
        ("東京は大きい。", "cjk", 6, 1),
        ("ひらがな", "hiragana", 4, 1),
        ("مرحبا بالعالم؟ نعم", "arabic", 3, 2),
        ("12 34", None, 2, 1),
        ("🙂 !?", None, 0, 0),
    ],
)
def test_scripts(
    described: Described, text: str, script: str | None, words: int, sentences: int
) -> None:
    description = described(text)
    assert description["script"] == script
    assert (description["words"], description["sentences"]) == (words, sentences)


def test_marks_stay_with_their_letters_when_reversed(described: Described) -> None:
    assert described("दुनिया")["reversed"] == "यानिदु"


def test_an_empty_text_is_described_too(described: Described) -> None:
    assert described("")["characters"] == 0


def test_a_job_without_an_input_is_a_failure(described: Described) -> None:
    with pytest.raises(ValueError, match="no input"):
        described(None)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 60_000,  # JSON deeper than a parser goes
        "9" * 60_000,  # a number longer than Python reads
        "ﷺ" * 20_000,  # grows to 18 times its length when normalised
        "ŉ" * 30_000,  # one word, which grows when casefolded
        '"\\ud800"',  # half of a surrogate pair
        "\x00\x1b[2J",
    ],
)
def test_no_input_makes_a_result_that_cannot_be_kept(text: str) -> None:
    result = describe(make_job(input=text)).encode()
    assert len(result) < TEXT_BYTES
    assert result == describe(make_job(input=text)).encode()

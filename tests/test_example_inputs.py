"""The example inputs are MIP-003 `start_job` bodies: valid, hashable, varied, and not all ASCII."""

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

from tollgate.domain.hashing import input_hash

LINES = (Path(__file__).parent.parent / "examples" / "inputs.jsonl").read_text().splitlines()
BODIES: list[dict[str, Any]] = [json.loads(line) for line in LINES]


def pairs(body: dict[str, Any]) -> dict[str, Any]:
    """Return the input data as one mapping, whichever of its two forms it has."""
    data = body["input_data"]
    return data if isinstance(data, dict) else {pair["key"]: pair["value"] for pair in data}


def scripts(text: str) -> set[str]:
    """Return the scripts in a text, by the first word of each letter's name in Unicode."""
    letters = filter(str.isalpha, text)
    return {unicodedata.name(letter, "?").split()[0] for letter in letters}


def test_there_are_many_and_no_two_alike() -> None:
    assert len(BODIES) >= 240
    hashes = {input_hash("aabbccddeeff0011", pairs(body)) for body in BODIES}
    assert len(hashes) == len(BODIES)
    assert len({body["identifier_from_purchaser"] for body in BODIES}) == len(BODIES)


def test_each_is_a_start_job_body_that_can_be_hashed() -> None:
    for body in BODIES:
        identifier, data = body["identifier_from_purchaser"], body["input_data"]
        assert set(body) == {"identifier_from_purchaser", "input_data"}
        assert re.fullmatch("[0-9a-f]{14,26}", identifier)
        if isinstance(data, list):
            assert all(set(pair) == {"key", "value"} for pair in data)
            assert len({pair["key"] for pair in data}) == len(data)
        assert pairs(body)
        assert re.fullmatch("[0-9a-f]{64}", input_hash(identifier, data))


def test_they_are_varied() -> None:
    assert len({pairs(body)["task"] for body in BODIES}) >= 30
    shapes = {frozenset(pairs(body)) for body in BODIES}
    assert len(shapes) >= 100
    as_list = sum(isinstance(body["input_data"], list) for body in BODIES)
    assert 60 <= as_list <= len(BODIES) - 60
    sizes = sorted(len(line.encode()) for line in LINES)
    assert sizes[0] < 200
    assert 3_000 < sizes[-1] < 64 * 1024
    kinds = {type(value) for body in BODIES for value in pairs(body).values()}
    assert kinds == {str, int, float, bool, list, dict, type(None)}


def test_they_are_not_all_ascii() -> None:
    assert sum(not line.isascii() for line in LINES) >= 80
    found = scripts("".join(LINES))
    assert found >= {
        *("LATIN", "GREEK", "CYRILLIC", "HEBREW", "ARABIC", "DEVANAGARI", "BENGALI", "TAMIL"),
        *("THAI", "GEORGIAN", "ARMENIAN", "ETHIOPIC", "HANGUL", "HIRAGANA", "KATAKANA", "CJK"),
    }
    assert any("\N{ZERO WIDTH JOINER}" in line for line in LINES)  # an emoji of several code points
    assert any(ord(character) > 0xFFFF for line in LINES for character in line)  # beyond the BMP

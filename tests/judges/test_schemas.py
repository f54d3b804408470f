"""The validator that Masumi publishes takes every input schema that we serve, and keeps all of it.

It is npm's masumi-schema-validator-component. Where it judges what an author wrote otherwise than
we do, the difference stands here, with its reason.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.judges.random_schemas import KINDS, broken, fields_of, plain, schema
from tollgate.gateway.input_schema.schema import InputSchema, SchemaError

HERE = Path(__file__).parent
SEED = 20_260_201
pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or not (HERE / "node_modules").exists(),
    reason="Node.js and its packages are not installed: run npm ci in tests/judges",
)

KNOWN_HERE = {"string": "text", "multiselect": "option"}
"""Kinds that the validator does not know, and the kind it knows that takes the same. MIP-003's own
examples have `string`; the callers of sokosumi know both."""

LAXER = {
    r"id: is the id of an earlier field too": "it looks at one field after the other",
    r"validations: no value fits": "it compares no limits; attachment 01 asks for possible ones",
    r"value: .* is no number": "any text is a limit for it, and its form reads a 0",
    r"value: .* is no whole number": "so is a length that is a fraction or below 0",
    r"value: .* is not an? ": "so is a limit of a date that is no date",
    r"value: must be a text such as 'image": "it takes an empty `accept`; sokosumi does not",
    r"value: must be 'true' or 'false'": "it takes any text there, and reads it as true",
    r"values: has 'a' twice": "it compares no values; sokosumi's callers refuse them",
    r"(min|step): must be a number": "any text is one for it",
    r"default: ": "it does not look whether a default fits its field",
    r"valid.*: .*('hidden'|'none'|is no validation|is missing|an object)":
        "it drops the validations of `hidden` and `none` unread",
    r"at most \d+": "it has no limits",
}  # fmt: skip
"""What we refuse and the validator takes: a line of our error, and the reason."""

WIDER: dict[str, dict[str, Any]] = {
    "a limit as a number": {"type": "text", "validations": [{"validation": "min", "value": 3}]},
    "nulls": {"type": "text", "data": {"description": None}},
    "a file without its only format": {"type": "file"},
    "a range without data": {"type": "range"},
    "the other spelling": {
        "type": "tel", "validations": [{"validation": "format", "value": "tel_pattern"}]
    },
    "nonempty, which changes nothing": {
        "type": "email", "validations": [{"validation": "format", "value": "nonempty"}]
    },
}  # fmt: skip
"""What we take, and the validator refuses unless we serve it in another way."""


def judge(schemas: Sequence[object]) -> list[dict[str, Any]]:
    lines = "".join(json.dumps(each) + "\n" for each in schemas)
    node = shutil.which("node") or "node"
    done = subprocess.run(
        [node, "schemas.js"], cwd=HERE, input=lines, capture_output=True, text=True, timeout=50,
        check=True,
    )  # fmt: skip
    verdicts = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(verdicts) == len(schemas)
    return verdicts


def as_it_knows(told: dict[str, Any]) -> dict[str, Any]:
    """The validator knows no groups, and 22 kinds: show it all fields in one list."""
    fields = [dict(each) for each in fields_of(told)]
    for each in fields:
        if each.get("type") in KNOWN_HERE:
            each["type"] = KNOWN_HERE[each["type"]]
    return {"input_data": fields}


def problems(told: dict[str, Any]) -> list[str]:
    try:
        InputSchema.parse(told)
    except SchemaError as error:
        return [str(each) for each in error.problems]
    return []


def test_it_takes_what_we_serve_and_keeps_all_of_it() -> None:
    random = Random(SEED)
    told = [schema(random) for _ in range(300)]
    served = [as_it_knows(InputSchema.parse(each).served()) for each in told]
    seen = {each["type"] for one in told for each in fields_of(one)}
    assert seen == set(KINDS)
    for shown, verdict in zip(served, judge(served), strict=True):
        assert verdict["valid"], (shown, verdict["message"])
        assert verdict["fields"] == shown["input_data"]


def test_what_it_takes_and_we_refuse_has_a_reason() -> None:
    told = broken()
    refused, laxer, used = 0, 0, set()
    for each, verdict in zip(told, judge([as_it_knows(each) for each in told]), strict=True):
        ours = problems(each)
        refused += bool(ours)
        if verdict["valid"]:
            laxer += bool(ours)
            for line in ours:
                found = {part for part in LAXER if re.search(part, line)}
                assert found, (each, line)
                used |= found
    assert used == set(LAXER), "a difference is gone: strike it from the list"
    assert refused > 600
    assert laxer < refused / 3


@pytest.mark.parametrize("why", WIDER)
def test_what_it_refuses_and_we_take_is_served_as_it_takes_it(why: str) -> None:
    told = {"input_data": [{"id": "f", "name": "Field", **WIDER[why]}]}
    served = InputSchema.parse(told).served()
    assert [each["valid"] for each in judge([told, served])] == [False, True]


@pytest.mark.parametrize("kind", KNOWN_HERE)
def test_a_kind_that_it_does_not_know(kind: str) -> None:
    served = InputSchema.parse({"input_data": [plain(kind)]}).served()
    assert [each["valid"] for each in judge([served, as_it_knows(served)])] == [False, True]


def test_groups_are_nothing_that_it_knows() -> None:
    group = {"id": "g", "title": "A group", "input_data": [plain("text")]}
    served = InputSchema.parse({"input_groups": [group]}).served()
    assert [each["valid"] for each in judge([served, as_it_knows(served)])] == [False, True]


def test_it_takes_the_plain_field_of_every_kind() -> None:
    served = [InputSchema.parse({"input_data": [plain(kind)]}).served() for kind in KINDS]
    assert all(each["valid"] for each in judge([as_it_knows(each) for each in served]))

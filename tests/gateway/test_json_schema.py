"""The JSON Schema of an agent's input: all that it accepts is good, and most that is good fits."""

import re
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.gateway.field_values import BAD, DATA, GOOD
from tests.judges.random_schemas import KINDS, schema
from tollgate.gateway.input_schema.fields import is_text
from tollgate.gateway.input_schema.formats import MOMENTS
from tollgate.gateway.input_schema.json_schema import json_schema
from tollgate.gateway.input_schema.schema import InputSchema

jsonschema = pytest.importorskip("jsonschema")  # check-jsonschema, a tool of ours, brings it


def ecmascript_pattern(_: Any, pattern: str, value: Any, __: Any) -> Iterator[Any]:
    """JSON Schema reads patterns as ECMAScript does: there, "$" is not before a last newline."""
    if isinstance(value, str) and not re.search(re.sub(r"\$(?=\)|$)", r"\\Z", pattern), value):
        yield jsonschema.ValidationError(f"{value!r} does not match {pattern}")


Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator, {"pattern": ecmascript_pattern}
)


def one_field(kind: str, *limits: tuple[str, Any], **data: Any) -> InputSchema:
    validations = [{"validation": name, "value": value} for name, value in limits]
    told = {"id": "f", "type": kind, "name": "Field", "data": {**DATA.get(kind, {}), **data}}
    return InputSchema.parse({"input_data": [{**told, "validations": validations}]})


def accepts(told: InputSchema, value: Any) -> bool:
    return bool(Validator(json_schema(told)).is_valid({"f": value}))


def is_json(value: Any) -> bool:
    """JSON has no halves of characters, no NaN and no bytes, and the validator prints numbers."""
    if isinstance(value, int | float):
        return -1e308 < value < 1e308
    if isinstance(value, str):
        return is_text(value)
    return bool(value != b"")


ANY_VALUE = st.sampled_from(
    [each for values in (*GOOD.values(), *BAD.values()) for each in values if is_json(each)]
)


def moment(kind: str) -> st.SearchStrategy[str]:
    return st.from_regex(
        MOMENTS[kind].pattern, fullmatch=True, alphabet=st.characters(codec="ascii")
    )


VALUE = (
    ANY_VALUE
    | st.none()
    | st.booleans()
    | st.integers(-3, 300)
    | st.floats()
    | st.integers(0, 200).map(lambda steps: steps / 2)
    | st.text(max_size=4)
    | st.integers(295, 305).map("x".__mul__)
    | st.sampled_from(["a", "b", "c", "A", "secret"])
    | st.lists(st.sampled_from(["a", "b", "c", 0, 1, 2, 3, -1, 1.0, True]), max_size=4)
    | st.lists(st.sampled_from(["https://a", "https://b/c", "a"]), max_size=4)
    | st.one_of([moment(kind) for kind in MOMENTS])
)


@given(st.integers(0, 10_000), st.data())
def test_what_it_accepts_is_good_input(seed: int, data: st.DataObject) -> None:
    told = InputSchema.parse(schema(Random(seed)))
    values = {one.id: data.draw(VALUE) for one in told.fields if data.draw(st.integers(0, 9))}
    said = json_schema(told)
    validator = Validator(said)
    good = {key: each for key, each in values.items() if validator_of(said, key).is_valid(each)}
    assert not set(good) & set(told.check(values))
    if validator.is_valid(values):
        assert told.check(values) == {}


def validator_of(said: dict[str, Any], key: str) -> Any:
    return Validator(said["properties"][key])


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_a_json_schema(kind: str) -> None:
    for limits in ((), (("optional", "true"),)):
        Validator.check_schema(json_schema(one_field(kind, *limits)))


MIXED = [0, "blue"]


@pytest.mark.parametrize("kind", KINDS)
def test_it_takes_every_good_value_of_a_plain_field(kind: str) -> None:
    plain, optional = one_field(kind), one_field(kind, ("optional", "true"))
    refused = [value for value in GOOD[kind] if not accepts(plain, value)]
    assert refused == ([MIXED] if kind == "option" else [])
    assert all(accepts(optional, value) for value in [*GOOD[kind], None, ""] if value != MIXED)


@pytest.mark.parametrize("kind", KINDS)
def test_it_takes_no_bad_value_of_a_plain_field(kind: str) -> None:
    plain = one_field(kind)
    taken = [value for value in BAD[kind] if is_json(value) and accepts(plain, value)]
    assert not taken


def test_every_field_is_named_and_no_other_is_taken() -> None:
    fields = [
        {"id": kind, "type": kind, "name": kind.title(), "data": DATA.get(kind)} for kind in KINDS
    ]
    told = InputSchema.parse({"input_data": fields})
    said = json_schema(told)
    assert list(said["properties"]) == list(KINDS)
    assert said["required"] == [kind for kind in KINDS if kind not in {"none", "hidden"}]
    good = {kind: GOOD[kind][0] for kind in KINDS}
    assert Validator(said).is_valid(good)
    assert not Validator(said).is_valid({**good, "other": 1})
    for kind in said["required"]:
        assert not Validator(said).is_valid({**good, kind: None})
        del good[kind]
        assert not Validator(said).is_valid(good)
        good[kind] = GOOD[kind][0]


def test_an_agent_without_input() -> None:
    assert json_schema(InputSchema.parse({"input_data": []})) == {
        "type": "object", "properties": {}, "additionalProperties": False,
    }  # fmt: skip


def test_what_people_read_of_a_field() -> None:
    said = json_schema(one_field("number", description="How many", default="5"))["properties"]["f"]
    assert said["title"] == "Field"
    assert said["description"] == "How many"
    assert said["default"] == 5
    assert json_schema(one_field("date"))["properties"]["f"]["format"] == "date"
    assert json_schema(one_field("password"))["properties"]["f"]["format"] == "password"
    assert json_schema(one_field("time"))["properties"]["f"]["examples"] == ["23:59"]


def test_lengths() -> None:
    told = one_field("text", ("min", 2), ("max", 3))
    assert [accepts(told, "é" * length) for length in range(5)] == [False, False, True, True, False]
    assert accepts(one_field("text", ("min", 0)), "")
    assert not accepts(one_field("text", ("min", 0), ("format", "nonempty")), "")


def test_numbers_and_steps() -> None:
    told = one_field("number", ("min", 1), ("max", 3), ("format", "integer"))
    assert [accepts(told, each) for each in (0, 1, 2.0, 2.5, 3, 4)] == [
        False, True, True, False, True, False,
    ]  # fmt: skip
    told = one_field("range", min=0, max=20, step=5)
    assert [each for each in range(-5, 30) if accepts(told, each)] == [0, 5, 10, 15, 20]
    assert json_schema(told)["properties"]["f"]["multipleOf"] == 5
    told = one_field("range", min=1, max=12, step=5)
    assert [each for each in range(-5, 30) if accepts(told, each)] == [1, 6, 11]
    told = one_field("range", min=0.1, max="0.7", step="0.2")
    assert json_schema(told)["properties"]["f"]["enum"] == [0.1, 0.3, 0.5, 0.7]
    told = one_field("range", step="0.5")
    assert len(json_schema(told)["properties"]["f"]["enum"]) == 1_000
    assert accepts(told, 499.5)


@pytest.mark.parametrize("step", ["0.12345678901234567890", "1e-20"])
def test_steps_that_no_number_tells_apart_are_not_listed(step: str) -> None:
    told = one_field("range", min=1, max=3, step=step)
    listed = json_schema(told)["properties"]["f"]["enum"]
    assert listed == sorted(set(listed))
    assert all(told.check({"f": each}) == {} for each in listed)


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [
        ("date", "2019-12-09", "2024-02-29"),
        ("datetime-local", "2019-12-09T10:09", "2024-02-29T23:00:30.5"),
        ("time", "09:09", "17:30"),
        ("time", "09:09:30.5", "17:30:10"),
        ("month", "2019-09", "2024-10"),
        ("week", "2019-W09", "2020-W53"),
    ],
)
@given(data=st.data())
def test_limits_of_moments(kind: str, low: str, high: str, data: st.DataObject) -> None:
    told = one_field(kind, ("min", low), ("max", high))
    near = st.sampled_from([low, high]).flatmap(
        lambda limit: st.tuples(st.integers(0, len(limit) - 1), st.sampled_from("0123456789")).map(
            lambda change: limit[: change[0]] + change[1] + limit[change[0] + 1 :]
        )
    )
    longer = st.tuples(st.sampled_from([low, high]), st.sampled_from(["", ":00", ":01", ".1", "1"]))
    value = data.draw(near | longer.map("".join) | moment(kind))
    is_good = told.check({"f": value}) == {}
    assert accepts(told, value) <= is_good
    if len(value) == len(low) == len(high):
        assert accepts(told, value) == is_good


def test_a_moment_told_more_exactly_than_its_limit() -> None:
    told = one_field("time", ("max", "17:30"))
    assert [accepts(told, each) for each in ("17:30", "17:30:01", "17:29:59")] == [
        True, False, True,
    ]  # fmt: skip
    told = one_field("time", ("min", "17:30"))
    assert accepts(told, "17:30:00")


def test_how_many_are_chosen() -> None:
    told = one_field("option", ("min", 2), ("max", 2))
    for good in (["red", "green"], [0, 2], [1.0, 2]):
        assert accepts(told, good)
    for bad in ("red", 0, ["red"], [0, 0], [0, 0.0], ["red", "red"], [0, 1, 2], []):
        assert not accepts(told, bad)
    assert accepts(one_field("option", ("min", 2), ("optional", "true")), [])
    assert accepts(one_field("option", ("min", 0)), [])
    assert not accepts(one_field("file", ("min", 2)), "https://a")
    assert accepts(one_field("file", ("min", 2)), ["https://a", "https://a"])

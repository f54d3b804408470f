"""Input schemas: which are read, what is wrong with the others, and what callers see of them."""

import hashlib
import json
from typing import Any

import pytest

from tollgate.gateway.input_schema.fields import KINDS, NUMBER_MAX, TEXT_MAX, VALUES_MAX
from tollgate.gateway.input_schema.schema import FIELDS_MAX, InputSchema, SchemaError

ATTACHMENT = (
    "text", "textarea", "number", "boolean", "option", "none", "email", "password", "tel", "url",
    "date", "datetime-local", "time", "month", "week", "color", "range", "file", "hidden", "search",
    "checkbox", "radio",
)  # fmt: skip
VALUES = {"values": ["a", "b", "c"]}
NEEDED: dict[str, Any] = {
    "option": VALUES,
    "multiselect": VALUES,
    "radio": VALUES,
    "hidden": {"value": "v"},
}


def field(kind: str = "text", identifier: str = "f", **more: Any) -> dict[str, Any]:
    data = {"data": NEEDED[kind]} if kind in NEEDED else {}
    return {"id": identifier, "type": kind, "name": "A field", **data, **more}


def limits(*pairs: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"validation": name, "value": value} for name, value in pairs]


def parse(*fields: Any) -> InputSchema:
    return InputSchema.parse({"input_data": list(fields)})


def problems(told: Any) -> list[tuple[tuple[str | int, ...], str]]:
    with pytest.raises(SchemaError) as caught:
        InputSchema.parse(told)
    return [(each.path, each.message) for each in caught.value.problems]


def problem(*fields: Any) -> tuple[tuple[str | int, ...], str]:
    """Return the only problem of a schema of these fields, without the "input_data" before it."""
    found = problems({"input_data": list(fields)})
    assert len(found) == 1, found
    path, message = found[0]
    assert path[0] == "input_data"
    return path[1:], message


def served(**told: Any) -> dict[str, Any]:
    return parse(field(**told)).served()["input_data"][0]  # type: ignore[no-any-return]


# --- kinds ----------------------------------------------------------------------------------------


def test_the_kinds_are_those_of_mip_003_and_two_more() -> None:
    assert set(KINDS) == {*ATTACHMENT, "string", "multiselect"}
    assert len(ATTACHMENT) == 22


@pytest.mark.parametrize("kind", KINDS)
def test_a_plain_field_of_each_kind_is_read(kind: str) -> None:
    one = parse(field(kind)).fields[0]
    assert (one.id, one.type, one.name, one.is_optional) == ("f", kind, "A field", False)


def test_an_unknown_kind_is_told_with_the_one_that_was_meant() -> None:
    told = [field(identifier=f"f{index}") for index in range(3)] + [field("texr", "g")]
    assert problems({"input_data": told}) == [
        (("input_data", 3, "type"), "'texr' is no kind of field; did you mean 'text'?")
    ]
    assert problem(field("Zahl")) == ((0, "type"), "'Zahl' is no kind of field")


# --- the frame ------------------------------------------------------------------------------------


@pytest.mark.parametrize("told", [{}, {"input_data": [], "input_groups": []}, {"input_data": None}])
def test_exactly_one_of_data_and_groups(told: dict[str, Any]) -> None:
    assert problems(told) == [((), "must have exactly one of 'input_data' and 'input_groups'")]


@pytest.mark.parametrize("told", [None, [], "text", 7])
def test_what_is_no_object_is_no_schema(told: Any) -> None:
    assert problems(told) == [((), "must be an object")]


def test_a_null_counts_as_absent() -> None:
    assert InputSchema.parse({"input_data": [], "input_groups": None}).served() == {
        "input_data": []
    }
    nulls = field(data=None, validations=None)
    assert parse(nulls).served() == parse(field()).served()


def test_fields_in_groups_keep_their_order() -> None:
    groups: list[dict[str, Any]] = [
        {"id": "g", "title": "First", "input_data": [field(identifier="a"), field(identifier="b")]},
        {"id": "h", "title": "Second", "input_data": [field(identifier="c")], "unknown": 1},
    ]
    schema = InputSchema.parse({"input_groups": groups})
    assert [one.id for one in schema.fields] == ["a", "b", "c"]
    assert schema.groups is not None
    assert [(group.id, group.title) for group in schema.groups] == [("g", "First"), ("h", "Second")]
    del groups[1]["unknown"]
    assert schema.served() == {"input_groups": groups}


def test_all_problems_of_groups_are_told() -> None:
    groups = [
        7,
        {"id": "", "title": None, "input_data": []},
        {"id": "g", "title": "G", "input_data": [field(identifier="a")]},
        {"id": "g", "title": "G", "input_data": [field(identifier="a")]},
        {"id": "h", "title": "G"},
    ]
    assert problems({"input_groups": groups}) == [
        (("input_groups", 0), "must be an object"),
        (("input_groups", 1, "id"), "must not be empty"),
        (("input_groups", 1, "title"), "is missing"),
        (("input_groups", 1, "input_data"), "must have at least one field"),
        (("input_groups", 3, "id"), "is the id of an earlier group too"),
        (("input_groups", 3, "input_data", 0, "id"), "is the id of an earlier field too"),
        (("input_groups", 4, "input_data"), "must be a list of fields"),
    ]
    none: Any
    for none in ([], {}, "text"):
        assert problems({"input_groups": none})[0][0] == ("input_groups",)


def test_all_problems_of_fields_are_told_in_order() -> None:
    told = [
        {},
        7,
        field(identifier="", name=""),
        field(identifier="a", type="texr"),
        field(identifier="a", validations=limits(("mim", 3), ("format", "emial"), ("min", "x"))),
    ]
    assert problems({"input_data": told}) == [
        (("input_data", 0, "id"), "is missing"),
        (("input_data", 0, "name"), "is missing"),
        (("input_data", 0, "type"), "is missing"),
        (("input_data", 1), "must be an object"),
        (("input_data", 2, "id"), "must not be empty"),
        (("input_data", 2, "name"), "must not be empty"),
        (("input_data", 3, "type"), "'texr' is no kind of field; did you mean 'text'?"),
        (("input_data", 4, "id"), "is the id of an earlier field too"),
        (
            ("input_data", 4, "validations", 0, "validation"),
            "'mim' is no validation; did you mean 'min'?",
        ),
        (
            ("input_data", 4, "validations", 1, "value"),
            "'emial' is no format; did you mean 'email'?",
        ),
        (("input_data", 4, "validations", 2, "value"), "'x' is no number"),
    ]


def test_the_error_says_each_problem_on_its_place() -> None:
    with pytest.raises(SchemaError) as caught:
        parse(field("texr", name=""))
    assert str(caught.value) == (
        "input_data[0].name: must not be empty; "
        "input_data[0].type: 'texr' is no kind of field; did you mean 'text'?"
    )
    assert isinstance(caught.value, ValueError)


# --- data -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["option", "radio", "multiselect"])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        (None, "must be a list of texts, with at least one"),
        ([], "must be a list of texts, with at least one"),
        ("abc", "must be a list of texts, with at least one"),
        ({"a": 1}, "must be a list of texts, with at least one"),
        (["a", ""], "must be texts of 1 to 10000 characters"),
        (["a", 1], "must be texts of 1 to 10000 characters"),
        (["a", "\ud800"], "must be texts of 1 to 10000 characters"),
        (["a", "b", "a"], "has 'a' twice"),
    ],
)
def test_a_choice_needs_values(kind: str, values: Any, message: str) -> None:
    assert problem(field(kind, data={"values": values})) == ((0, "data", "values"), message)


@pytest.mark.parametrize("value", [None, "", 7, True, ["v"], "\ud800"])
def test_a_hidden_field_needs_its_value(value: Any) -> None:
    found = problem(field("hidden", data={"value": value}))
    assert found == ((0, "data", "value"), "must be a text of 1 to 10000 characters")


def test_a_file_is_an_url_and_no_other_format_is_known() -> None:
    assert served(kind="file")["data"] == {"outputFormat": "url"}
    message = "must be 'url': MIP-003 knows no other"
    other: Any
    for other in ("base64", 7, ["url"], {}):
        found = problem(field("file", data={"outputFormat": other}))
        assert found == ((0, "data", "outputFormat"), message)


@pytest.mark.parametrize(
    ("data", "at"),
    [
        ({"min": "low"}, "min"),
        ({"max": True}, "max"),
        ({"max": float("inf")}, "max"),
        ({"max": float("nan")}, "max"),
        ({"min": 10**400}, "min"),
        ({"step": 0}, "step"),
        ({"step": "-1"}, "step"),
        ({"description": 7}, "description"),
    ],
)
def test_a_range_with_wrong_data(data: dict[str, Any], at: str) -> None:
    path, message = problem(field("range", data=data))
    assert path == (0, "data", at)
    assert message.startswith("must be a ")


@pytest.mark.parametrize(
    ("kind", "default", "is_good"),
    [
        ("text", "a", True), ("text", 7, False), ("number", 5, True), ("number", "5.5", True),
        ("number", "five", False), ("number", True, False), ("boolean", False, True),
        ("boolean", "false", False), ("checkbox", True, True), ("radio", "b", True),
        ("radio", "d", False), ("radio", 1, False), ("color", "#1a73e8", True),
        ("color", "red", False), ("date", "2024-02-29", True), ("date", "2023-02-29", False),
        ("email", "ada@example.com", True), ("email", "ada", False), ("range", "5", True),
        ("range", [], False),
    ],
)  # fmt: skip
def test_a_default_fits_its_field(kind: str, default: Any, is_good: bool) -> None:
    one = field(kind, data={**NEEDED.get(kind, {}), "default": default})
    if is_good:
        assert parse(one).served()["input_data"][0]["data"]["default"] == default
    else:
        assert problem(one)[0] == (0, "data", "default")


def test_a_default_keeps_the_limits_of_its_field() -> None:
    one = field("number", data={"default": 3}, validations=limits(("max", 2)))
    assert problem(one) == ((0, "data", "default"), "must be at most 2, not 3")


# --- validations ----------------------------------------------------------------------------------

TAKES = {
    "min": set(KINDS) - {"boolean", "checkbox", "color", "hidden", "none"},
    "max": set(KINDS) - {"boolean", "checkbox", "color", "hidden", "none"},
    "accept": {"file"},
    "optional": set(KINDS),
}
MOMENT = {
    "date": "2024-02-29", "datetime-local": "2024-02-29T10:00", "time": "10:00",
    "month": "2024-02", "week": "2020-W53",
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TAKES)
def test_each_kind_takes_its_validations(kind: str, name: str) -> None:
    value = {"accept": ".pdf", "optional": None}.get(name, MOMENT.get(kind, "1"))
    if kind == "email":
        value = value and "6"
    if kind in {"url", "tel"}:
        value = value and "9"
    one = field(kind, validations=limits((name, value)))
    if kind in TAKES[name]:
        assert parse(one).fields[0].is_optional is (name == "optional")
    else:
        found = problem(one)
        assert found[0] == (0, "validations", 0, "validation")
        assert found[1] == f"'{name}' does not fit a field of kind '{kind}'"


FORMATS = {
    "nonempty": {"text", "string", "textarea", "search", "password", "email", "url", "tel"},
    "email": {"text", "string", "email"},
    "url": {"text", "string", "url"},
    "tel-pattern": {"tel"},
    "tel_pattern": {"tel"},
    "integer": {"number"},
    "number": {"number"},
}


@pytest.mark.parametrize("kind", sorted({*ATTACHMENT, "string"} & set().union(*FORMATS.values())))
@pytest.mark.parametrize("name", FORMATS)
def test_each_kind_takes_its_formats(kind: str, name: str) -> None:
    one = field(kind, validations=limits(("format", name)))
    if kind in FORMATS[name]:
        assert parse(one).fields[0].formats == {name}
    else:
        assert problem(one) == (
            (0, "validations", 0, "value"), f"'{name}' does not fit a field of kind '{kind}'",
        )  # fmt: skip


@pytest.mark.parametrize("kind", ["text", "option", "file", "password"])
@pytest.mark.parametrize("value", ["three", "", None, True, -1, "-1", 1.5, "1.5", [], {}, 1e400])
def test_a_length_is_a_whole_number(kind: str, value: Any) -> None:
    assert problem(field(kind, validations=limits(("max", value))))[0][-1] == "value"


@pytest.mark.parametrize("value", [1, 1.0, "1", "1.0", "1e0"])
def test_a_limit_may_be_a_number_or_a_text(value: Any) -> None:
    one = parse(field(validations=limits(("min", value)))).fields[0]
    assert one.least == 1
    assert one.served()["validations"] == limits(("min", "1"))


@pytest.mark.parametrize(
    ("value", "read"),
    [("-3", -3), (-3.5, -3.5), ("0.1", 0.1), ("1e3", 1000), (NUMBER_MAX, NUMBER_MAX), ("-0", 0)],
)
def test_a_number_may_be_limited_by_any_number(value: Any, read: float) -> None:
    assert parse(field("number", validations=limits(("max", value)))).fields[0].most == read


@pytest.mark.parametrize(
    "value",
    [
        "", " 1", "0x10", "1_000", "NaN", "inf", "1e999", "\u0663", False, float("nan"),
        float("inf"), NUMBER_MAX + 1, pytest.param("1" * 5000, id="long"),
        pytest.param(10**5000, id="huge"),
    ],
)  # fmt: skip
def test_a_limit_that_is_no_number(value: Any) -> None:
    path, message = problem(field("number", validations=limits(("max", value))))
    assert path == (0, "validations", 0, "value")
    assert message.endswith("is no number")
    assert len(message) < 90


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("date", "2023-02-29"), ("date", "2024-1-1"), ("date", 0), ("date", "2024-02"),
        ("datetime-local", "2024-02-29"), ("datetime-local", "2024-02-29T10:00Z"),
        ("time", "24:00"), ("time", "9:00"), ("time", 540), ("month", "2024-13"),
        ("week", "2024-W53"), ("week", "2024-W00"),
    ],
)  # fmt: skip
def test_a_limit_of_a_moment_is_such_a_moment(kind: str, value: Any) -> None:
    path, message = problem(field(kind, validations=limits(("min", value))))
    assert path == (0, "validations", 0, "value")
    assert " is not a" in message


@pytest.mark.parametrize(
    ("kind", "validations"),
    [
        ("text", limits(("min", 3), ("max", 2))),
        ("text", limits(("max", 0))),
        ("text", limits(("format", "email"), ("max", 2))),
        ("text", limits(("format", "email"), ("format", "url"))),
        ("text", limits(("format", "nonempty"), ("min", 0), ("max", 0))),
        ("email", limits(("max", 4))),
        ("email", limits(("min", 255))),
        ("url", limits(("max", 7))),
        ("number", limits(("min", 1), ("max", 0.5))),
        ("number", limits(("min", 1.2), ("max", 1.8), ("format", "integer"))),
        ("date", limits(("min", "2024-03-01"), ("max", "2024-02-29"))),
        ("time", limits(("min", "10:00:01"), ("max", "10:00"))),
        ("option", limits(("min", 4))),
        ("option", limits(("max", 0))),
        ("radio", limits(("min", 2))),
        ("file", limits(("min", 2), ("max", 1))),
        ("file", limits(("min", VALUES_MAX + 1))),
    ],
)
def test_validations_that_no_value_fits(kind: str, validations: Any) -> None:
    path, message = problem(field(kind, validations=validations))
    assert path == (0, "validations")
    assert message.startswith("no value fits")


@pytest.mark.parametrize(
    ("kind", "validations"),
    [
        ("text", limits(("min", 2), ("max", 2))),
        ("text", limits(("min", 0), ("max", 0))),
        ("email", limits(("max", 5))),
        ("email", limits(("min", 254))),
        ("number", limits(("min", 1.2), ("max", 2), ("format", "integer"))),
        ("date", limits(("min", "2024-02-29"), ("max", "2024-02-29"))),
        ("time", limits(("min", "10:00:00"), ("max", "10:00"))),
        ("option", limits(("min", 3), ("max", 9))),
        ("radio", limits(("min", 1), ("max", 1))),
        ("file", limits(("min", VALUES_MAX))),
    ],
)
def test_validations_that_one_value_fits(kind: str, validations: Any) -> None:
    parse(field(kind, validations=validations))  # raises nothing


def test_a_range_without_a_step_between_its_limits() -> None:
    data = {"min": 0, "step": 5}
    parse(field("range", data={**data, "max": 5}, validations=limits(("min", 1))))  # raises nothing
    one = field("range", data={**data, "max": 4}, validations=limits(("min", 1)))
    assert problem(one)[1] == "no value fits between min 1 and max 4"


def test_of_several_limits_all_hold() -> None:
    told = limits(("min", "5"), ("min", 10), ("max", 30), ("max", "20"))
    one = parse(field(validations=told)).fields[0]
    assert (one.least, one.most) == (10, 20)
    assert len(one.served()["validations"]) == 4
    one = parse(field("range", data={"min": 1, "max": "9"}, validations=limits(("min", 2)))).fields[
        0
    ]
    assert (one.least, one.most) == (2, 9)


@pytest.mark.parametrize("value", [None, True, "true", "True"])
def test_optional_fields(value: Any) -> None:
    one = parse(field(validations=limits(("optional", value)))).fields[0]
    assert one.is_optional
    assert one.served()["validations"] == limits(("optional", "true"))
    assert parse(field(validations=[{"validation": "optional"}])).fields[0].is_optional


@pytest.mark.parametrize("value", [False, "false"])
def test_optional_that_is_false_is_not_served(value: Any) -> None:
    one = parse(field(validations=limits(("optional", value)))).fields[0]
    assert not one.is_optional
    assert "validations" not in one.served()


@pytest.mark.parametrize("value", ["", "yes", 0, 1, []])
def test_optional_with_another_value(value: Any) -> None:
    path, message = problem(field(validations=limits(("optional", value))))
    assert path == (0, "validations", 0, "value")
    assert message == "must be 'true' or 'false', or be left out"


@pytest.mark.parametrize("told", ["optional", {"min": 1}, 7])
def test_validations_are_a_list(told: Any) -> None:
    assert problem(field(validations=told))[0] == (0, "validations")


@pytest.mark.parametrize("told", ["optional", None, 7, []])
def test_a_validation_is_an_object(told: Any) -> None:
    assert problem(field(validations=[told]))[0] == (0, "validations", 0)


@pytest.mark.parametrize("value", ["", None, 7, "x" * (TEXT_MAX + 1)])
def test_accept_is_a_text(value: Any) -> None:
    assert problem(field("file", validations=limits(("accept", value))))[0][-1] == "value"


# --- bounds ---------------------------------------------------------------------------------------


def test_a_schema_has_at_most_200_fields() -> None:
    most = [field(identifier=f"f{index}") for index in range(FIELDS_MAX)]
    assert len(parse(*most).fields) == 200
    assert problem(*most, field()) == ((), "must be at most 200 fields in all, not 201")
    group = {"title": "G", "input_data": most[:150]}
    groups = [{"id": "g", **group}, {"id": "h", **group}]
    assert (("input_groups", 1, "input_data"), "must be at most 200 fields in all, not 300") in (
        problems({"input_groups": groups})
    )
    empty = [{"id": f"g{index}", "title": "G"} for index in range(FIELDS_MAX + 1)]
    assert problems({"input_groups": empty}) == [
        (("input_groups",), "must be at most 200 groups, not 201")
    ]


def test_a_field_has_at_most_1000_values() -> None:
    most = [str(index) for index in range(VALUES_MAX)]
    assert parse(field("option", data={"values": most})).fields[0].values == tuple(most)
    found = problem(field("option", data={"values": [*most, "more"]}))
    assert found == ((0, "data", "values"), "must be at most 1000 values, not 1001")


def test_a_field_has_at_most_20_validations() -> None:
    parse(field(validations=limits(*[("min", 1)] * 20)))  # raises nothing
    assert problem(field(validations=limits(*[("min", 1)] * 21)))[1] == "must be at most 20, not 21"


@pytest.mark.parametrize("key", ["id", "name"])
def test_a_text_of_a_schema_is_bounded_and_unicode(key: str) -> None:
    parse({**field(), key: "é" * TEXT_MAX})  # raises nothing
    assert problem({**field(), key: "x" * (TEXT_MAX + 1)})[1] == (
        "must have at most 10000 characters"
    )
    assert problem({**field(), key: "\ud800"})[1] == "must be a text"
    assert problem({**field(), key: 7})[1] == "must be a text"
    assert problem(field(data={"description": "x" * (TEXT_MAX + 1)}))[0][-1] == "description"


def test_a_long_word_is_neither_repeated_nor_looked_up() -> None:
    path, message = problem(field("x" * TEXT_MAX))
    assert path == (0, "type")
    assert len(message) < 100


def test_deep_nesting_in_unknown_keys_is_not_looked_at() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert parse(field(unknown=deep, data={"unknown": deep})).served() == parse(field()).served()
    assert problem(field(data={"description": deep}))[0] == (0, "data", "description")
    assert problem(field("option", data={"values": [deep]}))[0] == (0, "data", "values")
    assert problem(field(validations=limits(("min", deep))))[1] == "a list is no number"


# --- what is served -------------------------------------------------------------------------------


def test_unknown_keys_and_nulls_are_dropped() -> None:
    told = {
        "input_data": [
            {
                "id": "f", "type": "text", "name": "Field", "required": True,
                "data": {"description": None, "placeholder": "here", "color": "red", "default": ""},
                "validations": [{"validation": "min", "value": 3, "message": "too short"}],
            }
        ],
        "title": "Mine",
    }  # fmt: skip
    assert InputSchema.parse(told).served() == {
        "input_data": [
            {
                "id": "f", "type": "text", "name": "Field", "data": {"placeholder": "here"},
                "validations": [{"validation": "min", "value": "3"}],
            }
        ]
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["checkbox", "range", "file", "option", "radio", "multiselect"])
def test_kinds_that_callers_refuse_without_data_have_some(kind: str) -> None:
    assert "data" in served(kind=kind)
    assert "data" not in served(kind="text", data={})


def test_formats_that_change_nothing_are_not_served() -> None:
    for kind, name in (("tel", "tel-pattern"), ("tel", "tel_pattern"), ("email", "nonempty")):
        assert "validations" not in served(kind=kind, validations=limits(("format", name)))
    for kind in ("hidden", "none"):
        assert "validations" not in served(kind=kind, validations=limits(("optional", True)))


def test_what_is_served_is_read_as_itself() -> None:
    told = [field(kind, kind, validations=[{"validation": "optional"}]) for kind in KINDS] + [
        field("number", "n", data={"default": 1.5}, validations=limits(("min", -1.5), ("max", 9)))
    ]
    shown = parse(*told).served()
    assert InputSchema.parse(shown).served() == shown
    assert InputSchema.parse(json.loads(json.dumps(shown))).hash() == parse(*told).hash()


# --- hashes ---------------------------------------------------------------------------------------


def sha256(document: str) -> str:
    return hashlib.sha256(document.encode()).hexdigest()


def test_the_hash_is_that_of_the_canonical_json() -> None:
    schema = parse(field(validations=limits(("min", 3)), unknown=1))
    text = (
        '{"input_data":[{"id":"f","name":"A field","type":"text",'
        '"validations":[{"validation":"min","value":"3"}]}]}'
    )
    assert schema.hash() == sha256(text)
    assert schema.hash() in schema.hashes()


def test_callers_hash_what_they_read_of_a_schema() -> None:
    """They read numbers, some drop defaults, and some hash the list alone."""
    schema = parse(
        field(data={"default": "a"}, validations=limits(("min", 1), ("optional", None))),
        field(
            "range",
            "r",
            data={"min": -4, "step": "2"},
            validations=limits(("min", -4), ("max", "-0.5")),
        ),
    )
    rest = (
        '"id":"f","name":"A field","type":"text","validations":[{"validation":"min","value":1},'
        '{"validation":"optional","value":"true"}]},{"data":{"step":2},"id":"r","name":"A field",'
        '"type":"range","validations":[{"validation":"min","value":"-4"},'
        '{"validation":"max","value":"-0.5"}]}]'
    )
    without = '[{"data":{},' + rest
    with_default = '[{"data":{"default":"a"},' + rest
    for inner in (without, with_default):
        assert sha256(inner) in schema.hashes()
        assert sha256('{"input_data":' + inner + "}") in schema.hashes()
    assert len(schema.hashes()) == 6


def test_callers_hash_groups_too() -> None:
    group = {"id": "g", "title": "G", "input_data": [field(validations=limits(("min", 3)))]}
    schema = InputSchema.parse({"input_groups": [group]})
    inner = (
        '[{"id":"g","input_data":[{"id":"f","name":"A field","type":"text",'
        '"validations":[{"validation":"min","value":3}]}],"title":"G"}]'
    )
    assert {sha256(inner), sha256('{"input_groups":' + inner + "}")} <= schema.hashes()


def test_other_schemas_have_other_hashes() -> None:
    one, other = (
        parse(field(validations=limits(("min", 3)))),
        parse(field(validations=limits(("min", 4)))),
    )
    assert not one.hashes() & other.hashes()

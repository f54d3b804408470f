"""Values of a job's input: good ones, bad ones and boundaries of every kind of field."""

import sys
from datetime import date, timedelta
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from tests.gateway.field_values import BAD, DATA, GOOD, HUGE, TEXTS
from tollgate.gateway.input_schema import formats
from tollgate.gateway.input_schema.fields import KINDS, NUMBER_MAX, VALUES_MAX, display
from tollgate.gateway.input_schema.schema import UNKNOWN_MAX, InputSchema


def schema(kind: str, *limits: tuple[str, Any], **data: Any) -> InputSchema:
    told = {
        "id": "f",
        "type": kind,
        "name": "Field",
        "data": {**DATA.get(kind, {}), **data},
        "validations": [{"validation": name, "value": value} for name, value in limits],
    }
    return InputSchema.parse({"input_data": [told]})


def wrong(kind: str, value: Any, *limits: tuple[str, Any], **data: Any) -> str:
    """Return what is wrong with a value of the only field, "" if it is good."""
    found = schema(kind, *limits, **data).check({"f": value})
    assert set(found) <= {"f"}
    return found.get("f", "")


def cases(values: dict[str, tuple[Any, ...]]) -> list[Any]:
    return [
        pytest.param(kind, value, id=f"{kind}-{index}")
        for kind, each in values.items()
        for index, value in enumerate(each)
    ]


def test_every_kind_has_good_and_bad_values() -> None:
    assert set(GOOD) == set(BAD) == set(KINDS)


@pytest.mark.parametrize(("kind", "value"), cases(GOOD))
def test_good_values(kind: str, value: Any) -> None:
    assert wrong(kind, value) == ""
    rfc8785.dumps(value)  # what is accepted can be hashed


@pytest.mark.parametrize(("kind", "value"), cases(BAD))
def test_bad_values(kind: str, value: Any) -> None:
    found = wrong(kind, value)
    assert found
    assert len(found) < 300
    found.encode()  # an answer can carry it


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_value(kind: str) -> None:
    found = schema(kind).check({})
    assert found == ({} if kind in {"none", "hidden"} else {"f": "is missing"})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [None, ""])
def test_an_optional_value_may_be_left_out(kind: str, value: Any) -> None:
    one = schema(kind, ("optional", "true"))
    assert one.check({}) == {}
    assert one.check({"f": value}) == {}


@pytest.mark.parametrize("kind", ["option", "multiselect", "radio", "file"])
def test_an_optional_list_may_be_empty(kind: str) -> None:
    assert wrong(kind, [], ("optional", "true")) == ""
    assert wrong(kind, [], ("optional", "false")) != ""


@pytest.mark.parametrize(("kind", "value"), cases(BAD))
def test_an_optional_value_that_is_given_must_fit(kind: str, value: Any) -> None:
    empty: list[Any] = [None, ""]
    if kind in {"option", "multiselect", "radio", "file"}:
        empty.append([])
    if value not in empty:
        assert wrong(kind, value, ("optional", "true"))


# --- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TEXTS)
def test_the_length_of_a_text_is_in_characters(kind: str) -> None:
    limits = (("min", 3), ("max", 4))
    assert wrong(kind, "ab", *limits) == "must be at least 3 characters, not 2"
    assert wrong(kind, "abc", *limits) == ""
    assert wrong(kind, "\U0001f600" * 4, *limits) == ""
    assert wrong(kind, "abcde", *limits) == "must be at most 4 characters, not 5"


def test_an_empty_text_needs_a_minimum_of_0() -> None:
    assert wrong("text", "") == "must not be empty"
    assert wrong("text", "", ("min", 0)) == ""
    assert wrong("text", "", ("min", 0), ("format", "nonempty")) == "must not be empty"
    assert wrong("option", [], ("min", 0)) == ""
    assert wrong("file", [], ("min", 0)) == ""


def test_formats_of_a_text() -> None:
    assert wrong("text", "ada", ("format", "email")) == (
        "must be an email address such as ada@example.com"
    )
    assert wrong("text", "ada@example.com", ("format", "email")) == ""
    assert wrong("string", "https://a", ("format", "url")) == ""
    assert wrong("string", "a", ("format", "url"), ("min", 3)) == (
        "must be a web address (http or https, no user name in it) such as "
        "https://example.com/a.pdf; must be at least 3 characters, not 1"
    )


@pytest.mark.parametrize("kind", ["number", "range"])
def test_limits_of_a_number_are_inclusive(kind: str) -> None:
    limits = (("min", "0.1"), ("max", "10"))
    assert wrong(kind, 0.1, *limits) == wrong(kind, 10, *limits) == wrong(kind, 10.0, *limits) == ""
    assert wrong(kind, 0.09, *limits) == "must be at least 0.1, not 0.09"
    assert wrong(kind, 10.1, *limits) == "must be at most 10, not 10.1"
    assert wrong(kind, -1, ("max", -2)) == "must be at most -2, not -1"


def test_a_whole_number_may_be_written_with_a_point() -> None:
    for good in (2, 2.0, -0.0, -5, NUMBER_MAX):
        assert wrong("number", good, ("format", "integer")) == ""
    assert wrong("number", 2.5, ("format", "integer")) == "must be a whole number, not 2.5"
    assert wrong("number", 1e400, ("format", "integer")) == "must be a finite number"
    assert wrong("number", 2.5) == ""


def test_steps_of_a_range_begin_at_its_minimum() -> None:
    data = {"min": 1, "max": "2", "step": "0.1"}
    good = [1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0, 2]
    assert all(wrong("range", value, **data) == "" for value in good)
    assert wrong("range", 1.25, **data) == "must be a step of 0.1 from 1 on"
    assert wrong("range", 2.1, **data) == "must be at most 2, not 2.1"
    assert wrong("range", 7, ("min", 2), step=5) == wrong("range", -5, step=5) == ""
    assert wrong("range", 8, ("min", 2), step=5) == "must be a step of 5 from 2 on"
    assert wrong("range", 5e-324, step=1) == "must be a step of 1 from 0 on"


@pytest.mark.parametrize(
    ("kind", "limit", "before", "after"),
    [
        ("date", "2024-02-29", "2024-02-28", "2024-03-01"),
        ("date", "2024-02-29", "0001-12-31", "2025-01-01"),
        (
            "datetime-local",
            "2024-02-29T10:00",
            "2024-02-29T09:59:59.999",
            "2024-02-29T10:00:00.001",
        ),
        ("time", "10:00", "09:59:59", "10:00:01"),
        ("time", "10:00:30.5", "10:00:30.49", "10:00:30.51"),
        ("month", "2024-02", "2024-01", "2024-03"),
        ("week", "2020-W53", "2020-W52", "2021-W01"),
    ],
)
def test_limits_of_a_moment_are_inclusive(kind: str, limit: str, before: str, after: str) -> None:
    assert wrong(kind, limit, ("min", limit), ("max", limit)) == ""
    assert wrong(kind, before, ("min", limit)) == f"must not be before {limit}"
    assert wrong(kind, after, ("max", limit)) == f"must not be after {limit}"
    assert wrong(kind, after, ("min", limit)) == wrong(kind, before, ("max", limit)) == ""


def test_a_moment_with_more_digits_is_the_same_moment() -> None:
    for same in ("10:00", "10:00:00", "10:00:00.0", "10:00:00.000"):
        assert wrong("time", same, ("min", "10:00:00"), ("max", "10:00")) == ""


@pytest.mark.parametrize("kind", ["option", "multiselect"])
def test_how_many_values_are_chosen(kind: str) -> None:
    limits = (("min", 2), ("max", 2))
    assert wrong(kind, "red", *limits) == "at least 2 values must be chosen, not 1"
    assert wrong(kind, [0], *limits) == "at least 2 values must be chosen, not 1"
    assert wrong(kind, ["red", 1], *limits) == ""
    assert wrong(kind, [0, 1, 2], *limits) == "at most 2 values may be chosen, not 3"


def test_a_choice_names_the_value_that_is_none() -> None:
    message = "'yellow' is none of the values, and no position of one"
    assert wrong("option", ["red", "yellow"]) == wrong("radio", "yellow") == message
    assert wrong("option", 3) == "3 is none of the values, and no position of one"
    assert wrong("option", [0, "red"]) == "must not have a value twice"
    assert wrong("radio", [0, 1]) == "at most 1 value may be chosen, not 2"


def test_a_value_that_looks_like_a_position_is_a_value() -> None:
    assert wrong("option", "2", values=["2", "1", "0"]) == ""
    assert wrong("option", ["2", 0], values=["2", "1", "0"]) == "must not have a value twice"


def test_long_lists_are_not_looked_through() -> None:
    assert wrong("option", ["red"] * (VALUES_MAX + 1)) == "must be at most 1000 values"
    assert wrong("file", ["https://a"] * (VALUES_MAX + 1)) == "must be at most 1000 files"
    assert wrong("file", ["https://a"] * VALUES_MAX) == ""


def test_how_many_files_are_given() -> None:
    limits = (("min", 2), ("max", 2))
    files = ["https://a/1", "https://a/2"]
    assert wrong("file", files, *limits) == ""
    assert wrong("file", files[0], *limits) == "at least 2 files must be given, not 1"
    assert wrong("file", [*files, files[0]], *limits) == "at most 2 files may be given, not 3"


# --- the whole ------------------------------------------------------------------------------------


def test_all_that_is_wrong_is_told() -> None:
    fields = [
        {"id": "prompt", "type": "text", "name": "Prompt"},
        {"id": "age", "type": "number", "name": "Age"},
        {"id": "mail", "type": "email", "name": "Mail"},
        {"id": "good", "type": "text", "name": "Good"},
    ]
    found = InputSchema.parse({"input_data": fields}).check(
        {"promptt": "a", "age": "7", "mail": None, "good": "yes", "zzz": 1}
    )
    assert found == {
        "prompt": "is missing",
        "age": "must be a number, not a text",
        "mail": "is missing",
        "promptt": "is no field of this schema; did you mean 'prompt'?",
        "zzz": "is no field of this schema",
    }


def test_unknown_fields_are_told_up_to_a_limit() -> None:
    values = {"f": "a"} | {f"x{index}" * 1_000: 1 for index in range(10_000)}
    found = schema("text").check(values)
    assert len(found) == UNKNOWN_MAX
    assert max(len(key) for key in found) == 100
    assert list(schema("text").check({"f": "a", "\ud800": 1})) == ["\\ud800"]


def test_a_long_name_is_compared_with_no_other() -> None:
    field = {"id": "a" * 150, "type": "text", "name": "Field"}
    found = InputSchema.parse({"input_data": [field]}).check({"a" * 149 + "b": 1})
    assert found["a" * 100] == "is no field of this schema"


def test_an_empty_schema_takes_no_values() -> None:
    empty = InputSchema.parse({"input_data": []})
    assert empty.check({}) == {}
    assert empty.check({"f": 1}) == {"f": "is no field of this schema"}


def test_fields_in_groups_are_checked() -> None:
    field = {"id": "f", "type": "text", "name": "Field"}
    groups = [{"id": "g", "title": "G", "input_data": [field]}]
    assert InputSchema.parse({"input_groups": groups}).check({}) == {"f": "is missing"}


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.sampled_from(
        [10**400, -(10**400), 1e308, "2024-02-29", "10:00", "https://a", "#1a73e8", "red"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(KINDS)), JSON, st.booleans())
def test_no_value_raises_and_what_is_good_can_be_hashed(
    kind: str, value: Any, is_optional: bool
) -> None:
    found = wrong(kind, value, ("optional", is_optional))
    found.encode()
    if not found:
        rfc8785.dumps(value)


def test_a_deep_value_is_no_trouble() -> None:
    deep: Any = []
    for _ in range(sys.getrecursionlimit() * 10):
        deep = [deep]
    for kind in sorted(set(KINDS)):
        assert wrong(kind, deep)
        assert wrong(kind, {"a": deep})


def test_messages_show_values_short_and_printable() -> None:
    assert display("x" * 1_000) == "'" + "x" * 60 + "...'"
    assert display("a\n\ud800\u202eb") == "'a???b'"
    assert display(HUGE) == "so large a number"
    assert (display(True), display(None), display(1.5)) == ("true", "null", "1.5")
    assert (display([1]), display({})) == ("a list", "an object")


# --- forms of text --------------------------------------------------------------------------------


def test_every_date_of_400_years_and_no_other_fits() -> None:
    day, dates = date(1899, 12, 31), set()
    while day.year < 2300:
        dates.add(day.isoformat())
        day += timedelta(days=1)
    near = (f"{year}-{month:02}-{day:02}" for year in range(1900, 2300) for month in range(14)
            for day in range(33))  # fmt: skip
    assert all((each in dates) == formats.DATE.fits(each) for each in near)
    assert [year for year in range(10_000) if formats.DATE.fits(f"{year:04}-02-29")] == [
        year for year in range(1, 10_000) if (year % 4 == 0 and year % 100 != 0) or year % 400 == 0
    ]


def test_week_53_is_in_the_years_that_have_it() -> None:
    def is_long(year: int) -> bool:
        try:
            date.fromisocalendar(year, 53, 1)
        except ValueError:
            return False
        return True

    assert [year for year in range(10_000) if formats.WEEK.fits(f"{year:04}-W53")] == [
        year for year in range(1, 10_000) if is_long(year)
    ]


FORMS = [each for each in vars(formats).values() if isinstance(each, formats.TextFormat)]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.title)
def test_a_form_knows_its_shortest_and_longest(form: formats.TextFormat) -> None:
    assert form.fits(form.example)
    kinds = [kind for kind, each in KINDS.items() if each.form is form]
    lengths = {len(value) for kind in kinds for value in GOOD[kind]}
    assert {form.shortest} <= lengths
    assert max(lengths) <= form.longest


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.title)
def test_a_text_is_measured_before_it_is_matched(form: formats.TextFormat) -> None:
    """The expression alone would take the first: only its length is too great."""
    if form.longest > 1_000:
        assert not form.fits("https://a/" + "x" * form.longest)
    for unit in ("a", "0", ".", "-", "a@", "a.", "0 ", "(", "http://", "https://a/"):
        for end in ("", "!", "\n"):
            assert not form.fits(unit * 200_000 + end)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.title)
@pytest.mark.timeout(20)
def test_no_text_makes_an_expression_slow(form: formats.TextFormat) -> None:
    """Each of these is as long as the form allows; one that backtracks would take years."""
    for start in ("", "a@", "http://", "+", "#", "2024-", "a@a.", "http://a:"):
        for unit in ("a", "0", ".", "-", " ", "a.", "a-", "0 ", "0-", "(", ")0", ":", "a@a."):
            text = (start + unit * form.longest)[: form.longest - 1]
            for end in ("!", "\n", "\u0000", "@"):
                form.fits(text + end)

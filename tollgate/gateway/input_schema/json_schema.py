"""The input of a job as JSON Schema (draft 2020-12), for the OpenAPI 3.1 document of an agent.

What the JSON Schema accepts, `InputSchema.check` accepts. The other way round it is as wide as JSON
Schema can say. `check` alone accepts: lists that mix values and positions; moments that are told
more or less exactly than a limit that they equal, or nearly; and ranges whose steps are fractions,
or do not begin at a multiple of the step, beyond the first 1,000 steps.
"""

from collections.abc import Callable
from fractions import Fraction
from typing import Any, Final, TypeAlias

from tollgate.gateway.input_schema.fields import NUMBER_MAX, Family, Field, exact, number_of
from tollgate.gateway.input_schema.formats import MOMENTS, URL
from tollgate.gateway.input_schema.schema import InputSchema

Schema: TypeAlias = dict[str, Any]

_LISTED: Final = 1_000
_FORMAT_NAMES: Final = {MOMENTS["date"].pattern: "date"}
"""What readers of JSON Schema call a form. `email` and `uri` are narrower than ours: people type
addresses with letters of their own alphabet."""


def json_schema(schema: InputSchema) -> Schema:
    """Return the JSON Schema of an object that holds a value for each field."""
    required = [one.id for one in schema.fields if _is_needed(one)]
    return {
        "type": "object",
        "properties": {one.id: _property(one) for one in schema.fields},
        **({"required": required} if required else {}),
        "additionalProperties": False,
    }


def _is_needed(one: Field) -> bool:
    return not one.is_optional and one.kind.family not in {"none", "hidden"}


def _property(one: Field) -> Schema:
    value = _BY_FAMILY[one.kind.family](one)
    if one.is_optional and one.kind.family != "none":
        left_out: list[Schema] = [{"enum": [None, ""]}]
        if one.kind.family in {"choice", "file"}:
            left_out.append({"type": "array", "maxItems": 0})
        value = {"anyOf": [value, *left_out]}
    described: Schema = {"title": one.name}
    for key in ("description", "default"):
        if key in one.data:
            described[key] = one.data[key]
    if one.kind.family == "number" and "default" in described:
        described["default"] = number_of(described["default"])  # forms write it as a text too
    return described | value


def _text(one: Field) -> Schema:
    said: Schema = {"type": "string"}
    if one.shortest:
        said["minLength"] = one.shortest
    if one.longest is not None:
        said["maxLength"] = one.longest
    for form in one.forms:
        if form.pattern in _FORMAT_NAMES:
            said["format"] = _FORMAT_NAMES[form.pattern]
        said["pattern"] = _whole(form.pattern)  # fields with two different forms are refused
    if one.type == "password":
        said["format"] = "password"
    return said


def _whole(pattern: str) -> str:
    return f"^(?:{pattern})$"


def _number(one: Field) -> Schema:
    low = one.least if isinstance(one.least, int | float) else -NUMBER_MAX
    high = one.most if isinstance(one.most, int | float) else NUMBER_MAX
    said: Schema = {
        "type": "integer" if "integer" in one.formats else "number",
        "minimum": low,
        "maximum": high,
    }
    if one.step is None:
        return said
    if one.step.denominator == 1 and (one.step_base / one.step).denominator == 1:
        return said | {"type": "integer", "multipleOf": one.step.numerator}
    return {"enum": list(_steps(one, one.step, exact(low), exact(high)))}


def _steps(one: Field, step: Fraction, low: Fraction, high: Fraction) -> list[int | float]:
    """Return the first values of a range. One without a minimum begins at the base of its steps."""
    first = one.next_fitting(max(low, one.step_base) if one.step_base <= high else low)
    count = min(_LISTED, (high - first) // step + 1)
    values = (first + step * index for index in range(count))
    listed = [each.numerator if each.denominator == 1 else float(each) for each in values]
    # A step below what a float can tell gives floats that are no steps.
    real = [each for each in listed if ((exact(each) - one.step_base) / step).denominator == 1]
    return list(dict.fromkeys(real))


def _flag(_: Field) -> Schema:
    return {"type": "boolean"}


def _moment(one: Field) -> Schema:
    form = MOMENTS[one.type]
    said = _text(one)
    limits = []
    if isinstance(one.least, str):
        limits.append(_not_before(one.least))
    if isinstance(one.most, str):
        limits.append(_not_after(one.most))
    if limits:
        said["allOf"] = [{"pattern": each} for each in limits]
    return said | {"examples": [form.example]} if not limits else said


def _not_before(limit: str) -> str:
    """Return an expression for moments of one kind from `limit` on.

    Their texts sort as they do, so one is later if it has a higher character at the first place
    where they differ.
    """
    return f"^(?:{'|'.join([*_differing(limit, higher=True), _literal(limit)])})"


def _not_after(limit: str) -> str:
    return f"^(?:{'|'.join([*_differing(limit, higher=False), _literal(limit) + '$'])})"


def _differing(limit: str, *, higher: bool) -> list[str]:
    found = []
    for index, each in enumerate(limit):
        if each.isdigit() and each != ("9" if higher else "0"):
            others = f"[{int(each) + 1}-9]" if higher else f"[0-{int(each) - 1}]"
            found.append(_literal(limit[:index]) + others)
    return found


def _literal(text: str) -> str:
    return text.replace(".", "[.]")  # the only character of a moment that an expression reads


def _choice(one: Field) -> Schema:
    low, high = one.shortest, one.longest
    single: list[Schema] = [
        {"enum": list(one.values)},
        {"type": "integer", "minimum": 0, "maximum": len(one.values) - 1},
    ]
    amount = {"type": "array", "uniqueItems": True, "minItems": low, "maxItems": high}
    several = [{**amount, "items": each} for each in single]
    return {"anyOf": [*(single if low <= 1 else ()), *several]}


def _file(one: Field) -> Schema:
    low, high = one.shortest, one.longest
    address: Schema = {
        "type": "string",
        "minLength": URL.shortest,
        "maxLength": URL.longest,
        "pattern": _whole(URL.pattern),
    }
    several = {"type": "array", "items": address, "minItems": low, "maxItems": high}
    return {"anyOf": [address, several]} if low <= 1 else several


def _hidden(one: Field) -> Schema:
    return {"enum": [one.data["value"], None]}


def _none(_: Field) -> Schema:
    return {"enum": [None, ""]}


_BY_FAMILY: Final[dict[Family, Callable[[Field], Schema]]] = {
    "text": _text,
    "number": _number,
    "flag": _flag,
    "moment": _moment,
    "choice": _choice,
    "file": _file,
    "hidden": _hidden,
    "none": _none,
}
